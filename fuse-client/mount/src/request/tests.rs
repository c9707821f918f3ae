use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::*;
use crate::abi::flags::{self, fattr};
use crate::abi::input::*;
use crate::abi::opcode;

fn raw(code: u32, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let header = InHeader {
        len: u32::try_from(size_of::<InHeader>() + body.len()).unwrap(),
        opcode: code,
        unique: 77,
        nodeid: 5,
        uid: 1000,
        gid: 100,
        pid: 4242,
        ..InHeader::default()
    };
    [header.as_bytes(), &body].concat()
}

fn decode(code: u32, body: &[&[u8]]) -> Operation<'static> {
    let bytes = Box::leak(raw(code, body).into_boxed_slice());
    Request::decode(bytes).unwrap().op
}

fn kind(bytes: &[u8]) -> Kind {
    Request::decode(bytes).unwrap_err().kind
}

/// One well-formed request of every operation.
fn corpus() -> Vec<Vec<u8>> {
    let h8 = [1u8; 8];
    let write = WriteIn { fh: 3, offset: 4096, size: 5, ..WriteIn::default() };
    let setx = SetxattrIn { size: 3, flags: 1 };
    let ioctl = IoctlIn { in_size: 4, ..IoctlIn::default() };
    let lk = LkIn { lk: FileLock { start: 1, end: 9, kind: 1, pid: 3 }, ..LkIn::default() };
    let init = InitIn { major: 7, minor: 45, max_readahead: 131_072, flags: 1 << 30 };
    let forget = [BatchForgetIn { count: 2, dummy: 0 }.as_bytes(), &[7u8; 32]].concat();
    let zero = [0u8; 96];
    vec![
        raw(opcode::INIT, &[init.as_bytes(), InitInExt::default().as_bytes()]),
        raw(opcode::DESTROY, &[]),
        raw(opcode::LOOKUP, &[b"a\0"]),
        raw(opcode::FORGET, &[&h8]),
        raw(opcode::BATCH_FORGET, &[&forget]),
        raw(opcode::GETATTR, &[&zero[..16]]),
        raw(opcode::SETATTR, &[&zero[..88]]),
        raw(opcode::READLINK, &[]),
        raw(opcode::SYMLINK, &[b"n\0../t/x\0"]),
        raw(opcode::MKNOD, &[&zero[..16], b"n\0"]),
        raw(opcode::MKDIR, &[&h8, b"n\0"]),
        raw(opcode::UNLINK, &[b"n\0"]),
        raw(opcode::RMDIR, &[b"n\0"]),
        raw(opcode::RENAME, &[&h8, b"n\0m\0"]),
        raw(opcode::RENAME2, &[&zero[..16], b"n\0m\0"]),
        raw(opcode::LINK, &[&h8, b"n\0"]),
        raw(opcode::OPEN, &[&h8]),
        raw(opcode::CREATE, &[&zero[..16], b"n\0"]),
        raw(opcode::TMPFILE, &[&zero[..16], b"/\0"]),
        raw(opcode::READ, &[&zero[..40]]),
        raw(opcode::WRITE, &[write.as_bytes(), b"hello"]),
        raw(opcode::STATFS, &[]),
        raw(opcode::RELEASE, &[&zero[..24]]),
        raw(opcode::FSYNC, &[&zero[..16]]),
        raw(opcode::SETXATTR, &[setx.as_bytes(), b"user.a\0val"]),
        raw(
            opcode::SETXATTR,
            &[setx.as_bytes(), SetxattrInExt::default().as_bytes(), b"user.a\0val"],
        ),
        raw(opcode::GETXATTR, &[&h8, b"user.a\0"]),
        raw(opcode::LISTXATTR, &[&h8]),
        raw(opcode::REMOVEXATTR, &[b"user.a\0"]),
        raw(opcode::FLUSH, &[&zero[..24]]),
        raw(opcode::OPENDIR, &[&h8]),
        raw(opcode::READDIR, &[&zero[..40]]),
        raw(opcode::READDIRPLUS, &[&zero[..40]]),
        raw(opcode::RELEASEDIR, &[&zero[..24]]),
        raw(opcode::FSYNCDIR, &[&zero[..16]]),
        raw(opcode::GETLK, &[lk.as_bytes()]),
        raw(opcode::SETLK, &[lk.as_bytes()]),
        raw(opcode::SETLKW, &[lk.as_bytes()]),
        raw(opcode::ACCESS, &[&h8]),
        raw(opcode::INTERRUPT, &[&h8]),
        raw(opcode::BMAP, &[&zero[..16]]),
        raw(opcode::IOCTL, &[ioctl.as_bytes(), b"data"]),
        raw(opcode::POLL, &[&zero[..24]]),
        raw(opcode::FALLOCATE, &[&zero[..32]]),
        raw(opcode::LSEEK, &[&zero[..24]]),
        raw(opcode::COPY_FILE_RANGE, &[&zero[..56]]),
        raw(opcode::COPY_FILE_RANGE_64, &[&zero[..56]]),
        raw(opcode::SYNCFS, &[&zero[..8]]),
        raw(opcode::STATX, &[&zero[..24]]),
    ]
}

#[test]
fn every_operation_decodes_and_none_is_unknown() {
    for bytes in corpus() {
        let request = Request::decode(&bytes).unwrap();
        assert!(!matches!(request.op, Operation::Unknown { .. }), "{request:?}");
        assert_eq!((request.unique, request.node), (Unique(77), NodeId(5)));
        assert_eq!((request.uid, request.gid, request.pid), (1000, 100, 4242));
    }
}

#[test]
fn every_cut_request_with_arguments_is_an_error() {
    for bytes in corpus() {
        for len in size_of::<InHeader>()..bytes.len() {
            let mut cut = bytes[..len].to_vec();
            assert_eq!(kind(&cut), Kind::Length, "the header says more than was read");
            cut[..4].copy_from_slice(&u32::try_from(len).unwrap().to_ne_bytes());
            let tmpfile = bytes[4] == 51 && len >= 56; // its name is not looked at
            let result = Request::decode(&cut);
            assert!(result.is_err() || tmpfile, "opcode {} cut to {len}: {result:?}", bytes[4]);
        }
    }
    assert_eq!(Request::decode(&[0; 39]).unwrap_err().unique, None);
}

#[test]
fn write_data_is_a_range_of_the_whole_buffer() {
    let flags = flags::WRITE_CACHE | flags::WRITE_LOCKOWNER | flags::WRITE_KILL_SUIDGID;
    let write = WriteIn {
        fh: 3,
        offset: 4096,
        size: 5,
        write_flags: flags,
        lock_owner: 9,
        flags: 0o2001,
        padding: 0,
    };
    let bytes = raw(opcode::WRITE, &[write.as_bytes(), b"hello"]);
    let Operation::Write(decoded) = Request::decode(&bytes).unwrap().op else { panic!() };
    assert_eq!(&bytes[decoded.data.clone()], b"hello");
    assert_eq!(
        decoded,
        Write {
            fh: FileHandle(3),
            offset: 4096,
            data: 80..85,
            from_cache: true,
            kill_suidgid: true,
            lock_owner: Some(LockOwner(9)),
            file_flags: 0o2001,
        }
    );
    let long = raw(opcode::WRITE, &[write.as_bytes(), b"hello!"]);
    assert_eq!(kind(&long), Kind::Length);
}

#[test]
fn a_setxattr_is_read_with_both_heads() {
    let (head, name, value) = (SetxattrIn { size: 3, flags: 2 }, &b"user.a"[..], &b"v\0w"[..]);
    let set = |kill_setgid| Operation::Setxattr { name, value, flags: 2, kill_setgid };
    let tail = &b"user.a\0v\0w"[..];
    assert_eq!(decode(opcode::SETXATTR, &[head.as_bytes(), tail]), set(None));
    for kill in [false, true] {
        let ext = SetxattrInExt { setxattr_flags: u32::from(kill), padding: 0 };
        let bytes = [head.as_bytes(), ext.as_bytes()];
        assert_eq!(decode(opcode::SETXATTR, &[bytes[0], bytes[1], tail]), set(Some(kill)));
        let header = header(&raw(opcode::SETXATTR, &[])).unwrap();
        let op_in = &[&bytes.concat()[..], &[0xff; 112]].concat();
        let args = Args::Split { op_in, payload: b"user.a\0v\0w and room" };
        assert_eq!(Request::decode_args(&header, args).unwrap().op, set(Some(kill)));
    }
    let unknown = SetxattrInExt { setxattr_flags: 2, padding: 0 };
    let bytes = raw(opcode::SETXATTR, &[head.as_bytes(), unknown.as_bytes(), tail]);
    assert_eq!(kind(&bytes), Kind::Value);
}

#[test]
fn a_split_request_decodes_like_a_whole_one() {
    let whole = raw(opcode::MKDIR, &[MkdirIn { mode: 0o755, umask: 0o22 }.as_bytes(), b"dir\0"]);
    let head = header(&whole).unwrap();
    let mut op_in = [0u8; 128];
    op_in[..8].copy_from_slice(&whole[40..48]);
    let args = Args::Split { op_in: &op_in, payload: b"dir\0" };
    assert_eq!(Request::decode_args(&head, args).unwrap(), Request::decode(&whole).unwrap());

    let write = WriteIn { size: 5, ..WriteIn::default() };
    let head = header(&raw(opcode::WRITE, &[])).unwrap();
    let args = Args::Split { op_in: write.as_bytes(), payload: b"hello and room" };
    let Operation::Write(write) = Request::decode_args(&head, args).unwrap().op else { panic!() };
    assert_eq!(write.data, 0..5);
}

#[test]
fn setattr_takes_only_what_is_valid() {
    let mut raw_in = SetattrIn {
        valid: fattr::SIZE | fattr::FH | fattr::ATIME_NOW | fattr::ATIME | fattr::MTIME,
        fh: 8,
        size: 100,
        mtime: u64::MAX, // one second before 1970
        mtimensec: 5,
        mode: 0o777,
        uid: 1,
        lock_owner: 6,
        ..SetattrIn::default()
    };
    let expected = Setattr {
        fh: Some(FileHandle(8)),
        len_bytes: Some(100),
        atime: Some(SetTime::Now),
        mtime: Some(SetTime::At(KernelTime { seconds: -1, nanoseconds: 5 })),
        ..Setattr::default()
    };
    assert_eq!(decode(opcode::SETATTR, &[raw_in.as_bytes()]), Operation::Setattr(expected));

    raw_in.valid = fattr::MODE
        | fattr::UID
        | fattr::GID
        | fattr::CTIME
        | fattr::KILL_SUIDGID
        | fattr::LOCKOWNER
        | fattr::MTIME_NOW;
    let expected = Setattr {
        mode: Some(0o777),
        uid: Some(1),
        gid: Some(0),
        mtime: Some(SetTime::Now),
        ctime: Some(KernelTime { seconds: 0, nanoseconds: 0 }),
        lock_owner: Some(LockOwner(6)),
        kill_suidgid: true,
        ..Setattr::default()
    };
    assert_eq!(decode(opcode::SETATTR, &[raw_in.as_bytes()]), Operation::Setattr(expected));

    raw_in.valid = fattr::MTIME;
    raw_in.mtimensec = 1_000_000_000;
    assert_eq!(kind(&raw(opcode::SETATTR, &[raw_in.as_bytes()])), Kind::Value);
}

#[test]
fn names_are_checked() {
    for bad in [&b"\0"[..], b"a/b\0", b"no-nul", b""] {
        assert_eq!(kind(&raw(opcode::LOOKUP, &[bad])), Kind::Name, "{bad:?}");
    }
    assert_eq!(decode(opcode::LOOKUP, &[b"..\0"]), Operation::Lookup { name: b".." });
    assert_eq!(
        decode(opcode::SYMLINK, &[b"link\0/a/b\0"]),
        Operation::Symlink { name: b"link", target: b"/a/b" }
    );
    let rename = Rename2In { newdir: 9, flags: 2, padding: 0 };
    assert_eq!(
        decode(opcode::RENAME2, &[rename.as_bytes(), b"a\0b\0"]),
        Operation::Rename { name: b"a", new_parent: NodeId(9), new_name: b"b", flags: 2 }
    );
    assert_eq!(kind(&raw(opcode::RENAME2, &[rename.as_bytes(), b"a\0"])), Kind::Name);
}

#[test]
fn init_takes_the_upper_flags_only_when_the_kernel_sends_them() {
    let mut init = InitIn { major: 7, minor: 38, max_readahead: 4096, flags: 1 };
    let old = Init { major: 7, minor: 38, max_readahead_bytes: 4096, flags: 1 };
    assert_eq!(decode(opcode::INIT, &[init.as_bytes()]), Operation::Init(old));
    init.flags |= 1 << 30;
    let ext = InitInExt { flags2: 1 << 9, unused: [0; 11] };
    let new = Init { flags: 1 | 1 << 30 | 1 << 41, ..old };
    assert_eq!(decode(opcode::INIT, &[init.as_bytes(), ext.as_bytes()]), Operation::Init(new));
    assert_eq!(kind(&raw(opcode::INIT, &[init.as_bytes()])), Kind::Short);
}

#[test]
fn batch_forget_lists_all_or_fails() {
    let items = [ForgetOne { nodeid: 2, nlookup: 1 }, ForgetOne { nodeid: 3, nlookup: 4 }];
    let head = BatchForgetIn { count: 2, dummy: 0 };
    let Operation::BatchForget(list) =
        decode(opcode::BATCH_FORGET, &[head.as_bytes(), items.as_bytes()])
    else {
        panic!()
    };
    assert_eq!(list.count(), 2);
    assert_eq!(list.iter().collect::<Vec<_>>(), [(NodeId(2), 1), (NodeId(3), 4)]);
    let head = BatchForgetIn { count: u32::MAX, dummy: 0 };
    let bytes = raw(opcode::BATCH_FORGET, &[head.as_bytes(), items.as_bytes()]);
    assert_eq!(kind(&bytes), Kind::Short);
}

#[test]
fn options_of_read_release_and_lock() {
    let read =
        ReadIn { fh: 1, offset: 2, size: 3, read_flags: 2, lock_owner: 4, flags: 5, padding: 0 };
    let expected = Read {
        fh: FileHandle(1),
        offset: 2,
        len_bytes: 3,
        file_flags: 5,
        lock_owner: Some(LockOwner(4)),
    };
    assert_eq!(decode(opcode::READ, &[read.as_bytes()]), Operation::Read(expected));
    let release = ReleaseIn { fh: 1, flags: 2, release_flags: 2, lock_owner: 3 };
    let expected = Release {
        fh: FileHandle(1),
        file_flags: 2,
        flush: false,
        flock_unlock: true,
        lock_owner: LockOwner(3),
    };
    assert_eq!(decode(opcode::RELEASE, &[release.as_bytes()]), Operation::Release(expected));
    let backwards = LkIn { lk: FileLock { start: 9, end: 1, kind: 0, pid: 0 }, ..LkIn::default() };
    assert_eq!(kind(&raw(opcode::SETLK, &[backwards.as_bytes()])), Kind::Value);
}

#[test]
fn extensions_behind_the_arguments_are_left_out() {
    let mut bytes =
        raw(opcode::WRITE, &[WriteIn { size: 2, ..WriteIn::default() }.as_bytes(), b"ab"]);
    bytes.extend_from_slice(&[0; 16]);
    bytes[0] += 16;
    bytes[36] = 2; // total_extlen, in units of 8 bytes
    let Operation::Write(write) = Request::decode(&bytes).unwrap().op else { panic!() };
    assert_eq!(&bytes[write.data], b"ab");
    bytes[37] = 1;
    assert_eq!(kind(&bytes), Kind::Length);
}

#[test]
fn unknown_opcodes_are_named() {
    assert_eq!(decode(9999, &[b"junk"]), Operation::Unknown { opcode: 9999 });
    assert_eq!(decode(opcode::SETUPMAPPING, &[]), Operation::Unknown { opcode: 48 });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    /// Any bytes, and any request with some bytes changed, give a request or an error; what is
    /// given lies within the buffer.
    #[test]
    fn no_input_panics(
        pick in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        fix_len in any::<bool>(),
        noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let corpus = corpus();
        let mut bytes = corpus[pick.index(corpus.len())].clone();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len() * 2 + 1));
        if fix_len && bytes.len() >= 4 {
            let len = u32::try_from(bytes.len()).unwrap();
            bytes[..4].copy_from_slice(&len.to_ne_bytes());
        }
        for input in [bytes, noise] {
            if let Ok(Request { op: Operation::Write(write), .. }) = Request::decode(&input) {
                prop_assert_eq!(write.data.end, input.len());
            }
            if let Ok(Request { op: Operation::BatchForget(list), .. }) = Request::decode(&input) {
                prop_assert_eq!(list.iter().count(), list.count());
            }
        }
    }
}
