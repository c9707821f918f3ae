use std::time::Duration;

use rustix::io::Errno;
use zerocopy::FromBytes;

use super::*;
use crate::abi::output::{Dirent, Direntplus, NotifyInvalEntryOut, NotifyInvalInodeOut};

const U: Unique = Unique(0x1122_3344);

fn parse<T: FromBytes>(head: &ReplyHead) -> T {
    let (header, body) = OutHeader::read_from_prefix(head.as_bytes()).unwrap();
    assert_eq!((header.error, header.unique), (0, U.0));
    assert_eq!(usize::try_from(header.len).unwrap(), head.as_bytes().len());
    T::read_from_bytes(body).unwrap()
}

fn entry() -> Entry {
    Entry {
        node: NodeId(9),
        generation: 2,
        attr: Attr { ino: 9, mode: 0o100_644, size: 5, ..Attr::default() },
        attr_timeout: Duration::from_millis(1500),
        entry_timeout: Duration::from_millis(250),
    }
}

#[test]
fn errors_are_negative_and_bare() {
    let head = ReplyHead::error(U, Errno::NOENT);
    assert_eq!(
        head.as_bytes(),
        [16, 0, 0, 0, 254, 255, 255, 255, 0x44, 0x33, 0x22, 0x11, 0, 0, 0, 0]
    );
    assert_eq!(ReplyHead::empty(U).as_bytes()[..8], [16, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
#[should_panic(expected = "cannot be sent to the kernel")]
fn an_errno_the_kernel_would_refuse_is_our_bug() {
    drop(ReplyHead::error(U, Errno::from_raw_os_error(512)));
}

#[test]
fn timeouts_keep_their_nanoseconds() {
    let out: EntryOut = parse(&ReplyHead::entry(U, &entry()));
    assert_eq!((out.attr_valid, out.attr_valid_nsec), (1, 500_000_000));
    assert_eq!((out.entry_valid, out.entry_valid_nsec), (0, 250_000_000));
    assert_eq!((out.nodeid, out.generation, out.attr.size), (9, 2, 5));
    let out: AttrOut = parse(&ReplyHead::attr(U, &entry().attr, Duration::from_nanos(7)));
    assert_eq!((out.attr_valid, out.attr_valid_nsec, out.attr), (0, 7, entry().attr));
    let stat = Statx { mask: 0x7ff, ino: 3, ..Statx::default() };
    let out: StatxOut = parse(&ReplyHead::statx(U, &stat, Duration::from_millis(2001)));
    assert_eq!((out.attr_valid, out.attr_valid_nsec, out.stat), (2, 1_000_000, stat));
    let out: EntryOut = parse(&ReplyHead::entry(U, &Entry::negative(Duration::from_secs(3))));
    assert_eq!((out.nodeid, out.entry_valid), (0, 3));
}

#[test]
fn fixed_replies_carry_their_values() {
    let out: CreateOut = parse(&ReplyHead::create(U, &entry(), FileHandle(4), 2));
    assert_eq!((out.entry.nodeid, out.open.fh, out.open.open_flags), (9, 4, 2));
    let out: OpenOut = parse(&ReplyHead::open(U, FileHandle(4), 1));
    assert_eq!((out.fh, out.open_flags, out.backing_id), (4, 1, 0));
    assert_eq!(parse::<WriteOut>(&ReplyHead::write(U, 4096)).size, 4096);
    assert_eq!(parse::<LseekOut>(&ReplyHead::lseek(U, 1 << 40)).offset, 1 << 40);
    assert_eq!(parse::<GetxattrOut>(&ReplyHead::xattr_len(U, 12)).size, 12);
    assert_eq!(parse::<CopyFileRangeOut>(&ReplyHead::copied(U, 1 << 33)).bytes_copied, 1 << 33);
    let statfs = Kstatfs { blocks: 10, bsize: 4096, namelen: 255, ..Kstatfs::default() };
    assert_eq!(parse::<Kstatfs>(&ReplyHead::statfs(U, &statfs)), statfs);
    let lock = FileLock { start: 0, end: 9, kind: 1, pid: 5 };
    assert_eq!(parse::<LkOut>(&ReplyHead::lock(U, lock)).lk, lock);
    assert_eq!(parse::<BmapOut>(&ReplyHead::bmap(U, 8)).block, 8);
    assert_eq!(parse::<PollOut>(&ReplyHead::poll(U, 5)).revents, 5);
}

#[test]
fn data_counts_its_payload() {
    let head = ReplyHead::data(U, 1 << 20);
    let header = OutHeader::read_from_bytes(head.as_bytes()).unwrap();
    assert_eq!(header.len, (1 << 20) + 16);
}

#[test]
fn directories_are_packed_up_to_the_length_and_padded() {
    let mut room = [0xffu8; 24 + 8 + 24 + 16 + 8];
    let mut buffer = DirBuffer::new(&mut room);
    let a = DirEntry { ino: 7, next_offset: 1, mode: 0o040_755, name: b"a" };
    let nine = DirEntry { ino: 8, next_offset: 2, mode: 0o100_644, name: b"ninebytes" };
    assert!(buffer.push(&a));
    assert!(buffer.push(&nine));
    assert_eq!(buffer.len_bytes(), 72);
    assert!(!buffer.push(&a), "8 bytes are left");
    assert_eq!(buffer.len_bytes(), 72);
    let (first, rest) = Dirent::read_from_prefix(&room).unwrap();
    assert_eq!(first, Dirent { ino: 7, off: 1, namelen: 1, kind: 4 });
    assert_eq!(rest[..8], *b"a\0\0\0\0\0\0\0");
    let (second, rest) = Dirent::read_from_prefix(&rest[8..]).unwrap();
    assert_eq!(second, Dirent { ino: 8, off: 2, namelen: 9, kind: 8 });
    assert_eq!(rest[..16], *b"ninebytes\0\0\0\0\0\0\0");
    assert_eq!(rest[16..], [0xff; 8]);
}

#[test]
fn readdirplus_entries_carry_the_lookup_or_none() {
    let mut room = [0xffu8; 320];
    let mut buffer = DirBuffer::new(&mut room);
    let dot = DirEntry { ino: 1, next_offset: 1, mode: 0o040_755, name: b"." };
    let file = DirEntry { ino: 9, next_offset: 2, mode: 0o100_644, name: b"file.txt" };
    assert!(buffer.push_plus(&dot, None));
    assert!(buffer.push_plus(&file, Some(&entry())));
    assert!(!buffer.push_plus(&dot, None));
    assert_eq!(buffer.len_bytes(), 320);
    let (first, rest) = Direntplus::read_from_prefix(&room).unwrap();
    assert_eq!(first.entry, EntryOut::default());
    let (second, rest) = Direntplus::read_from_prefix(&rest[8..]).unwrap();
    assert_eq!((second.entry.nodeid, second.dirent.namelen), (9, 8));
    assert_eq!(rest, b"file.txt");
}

#[test]
fn notifications_have_unique_zero_and_their_code() {
    let bytes = inval_inode(NodeId(5), 4096, -1);
    let (header, body) = OutHeader::read_from_prefix(&bytes).unwrap();
    assert_eq!(header, OutHeader { len: 40, error: 2, unique: 0 });
    let out = NotifyInvalInodeOut::read_from_bytes(body).unwrap();
    assert_eq!(out, NotifyInvalInodeOut { ino: 5, off: 4096, len: -1 });
    let bytes = inval_entry(NodeId(1), b"name", true);
    let (header, body) = OutHeader::read_from_prefix(&bytes).unwrap();
    assert_eq!(header, OutHeader { len: 37, error: 3, unique: 0 });
    let (out, name) = NotifyInvalEntryOut::read_from_prefix(body).unwrap();
    assert_eq!(out, NotifyInvalEntryOut { parent: 1, namelen: 4, flags: 1 });
    assert_eq!(name, b"name\0");
}
