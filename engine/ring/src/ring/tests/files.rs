use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use rustix::fs::FallocateFlags;

use super::*;
use crate::send_data::SendData;

/// O_DIRECT needs a disk: the temporary folder may be memory. The build's folder is on one.
fn temporary() -> tempfile::TempDir {
    tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap()
}

fn open(folder: &tempfile::TempDir, flags: i32) -> File {
    let path = folder.path().join("file");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).custom_flags(flags);
    options.open(path).unwrap()
}

fn assert_pattern(slot: &BufSlot, range: Range<usize>, seed: usize) {
    let bytes = &slot.as_slice()[range];
    assert!(bytes.iter().enumerate().all(|(index, &byte)| byte == pattern(index, seed)));
}

#[test]
fn fixed_buffers_and_o_direct_write_and_read_back() {
    // Small enough to be pinned by anyone: 8 MiB is the usual limit.
    let pool = Pool::new(4 * MIB, 2 * MIB).unwrap();
    let (mut ring, folder) = (ring(), temporary());
    assert_eq!(ring.register_pool(&pool).unwrap(), Registration::Fixed);
    assert!(ring.has_fixed_buffers());
    let file = ring.register_file(open(&folder, libc::O_DIRECT).into()).unwrap();
    let buf = patterned(&pool, 2 * MIB, 1);
    let written =
        run(&mut ring, Op::Write { file, offset: 8192, buf: buf.share(), range: 4096..2 * MIB });
    assert_eq!(written.result, Ok(2 * 1048576 - 4096));
    let synced = run(&mut ring, Op::Fsync { file, datasync: true });
    assert_eq!(synced.result, Ok(0));
    let mut buf = pool.alloc(2 * MIB).unwrap();
    buf.as_mut_slice().fill(0xff);
    let read = run(&mut ring, Op::Read { file, offset: 4096, buf, range: 0..2 * MIB });
    assert_eq!(read.result, Ok(2 * 1048576));
    let Op::Read { buf, .. } = read.op else { panic!("the operation comes back") };
    assert!(buf.as_slice()[..4096].iter().all(|&byte| byte == 0), "a hole");
    assert!((4096..2 * MIB).all(|index| buf.as_slice()[index] == pattern(index, 1)));
}

#[test]
fn a_pool_that_is_not_registered_works_the_same() {
    let (mut ring, other, folder) = (ring(), pool(), temporary());
    ring.register_pool(&Pool::new(MIB, 4096).unwrap()).unwrap();
    assert_eq!(ring.register_pool(&other).unwrap_err().kind, Kind::PoolTwice);
    let file = ring.register_file(open(&folder, libc::O_DIRECT).into()).unwrap();
    let buf = patterned(&other, MIB, 2);
    let written = run(&mut ring, Op::Write { file, offset: 0, buf: buf.share(), range: 0..MIB });
    assert_eq!(written.result, Ok(1048576));
    let buf = other.alloc(MIB).unwrap();
    let read = run(&mut ring, Op::Read { file, offset: 0, buf, range: 0..MIB });
    let Op::Read { buf, .. } = read.op else { panic!("the operation comes back") };
    assert_pattern(&buf, 0..MIB, 2);
}

#[test]
fn a_device_gets_no_more_at_once_than_was_said() {
    let (mut ring, pool, folder) = (ring(), pool(), temporary());
    let fd = open(&folder, libc::O_DIRECT).into();
    let file = ring.register_in_parts(fd, 384 << 10).unwrap();
    let buf = patterned(&pool, MIB, 3);
    let written = run(&mut ring, Op::Write { file, offset: 4096, buf: buf.share(), range: 0..MIB });
    assert_eq!(written.result, Ok(1048576));
    assert_eq!(ring.stats().continued_count, 2, "384, 384 and 256 KiB");
    let buf = pool.alloc(MIB).unwrap();
    let read = run(&mut ring, Op::Read { file, offset: 4096, buf, range: 0..MIB });
    assert_eq!(read.result, Ok(1048576));
    assert_eq!(ring.stats().continued_count, 4);
    let Op::Read { buf, .. } = read.op else { panic!("the operation comes back") };
    assert_pattern(&buf, 0..MIB, 3);
    // The place keeps nothing of it for the next file.
    ring.unregister_file(file).unwrap();
    let file = ring.register_file(open(&folder, libc::O_DIRECT).into()).unwrap();
    let read = run(&mut ring, Op::Read { file, offset: 4096, buf, range: 0..MIB });
    assert_eq!((read.result, ring.stats().continued_count), (Ok(1048576), 4));
}

#[test]
fn a_read_over_the_end_of_the_file_gives_what_there_is() {
    for flags in [0, libc::O_DIRECT] {
        let (mut ring, pool, folder) = (ring(), pool(), temporary());
        ring.register_pool(&pool).unwrap();
        let file = open(&folder, flags);
        file.set_len(5000).unwrap();
        let file = ring.register_file(file.into()).unwrap();
        for (offset, expected) in [(0, 5000), (4096, 904), (8192, 0)] {
            let buf = pool.alloc(65536).unwrap();
            let read = run(&mut ring, Op::Read { file, offset, buf, range: 0..65536 });
            assert_eq!(read.result, Ok(expected), "flags {flags:o}, offset {offset}");
        }
    }
}

#[test]
fn an_unaligned_o_direct_transfer_is_an_error() {
    let (mut ring, pool, folder) = (ring(), pool(), temporary());
    let file = ring.register_file(open(&folder, libc::O_DIRECT).into()).unwrap();
    let buf = pool.alloc(4096).unwrap();
    let write = run(&mut ring, Op::Write { file, offset: 7, buf: buf.share(), range: 0..4096 });
    assert_eq!(write.result, Err(Errno::INVAL));
}

#[test]
fn records_are_appended_and_synced() {
    let (mut ring, folder) = (ring(), temporary());
    let check = open(&folder, 0);
    let file = ring.register_file(open(&folder, 0).into()).unwrap();
    let op = Op::WriteVec { file, offset: 0, data: b"first".to_vec(), dsync: false };
    assert_eq!(run(&mut ring, op).result, Ok(5));
    let op = Op::WriteVec { file, offset: 5, data: b"second".to_vec(), dsync: true };
    let written = run(&mut ring, op);
    assert_eq!(written.result, Ok(6));
    assert!(matches!(written.op, Op::WriteVec { data, .. } if data == b"second"));
    let mut content = [0; 11];
    check.read_exact_at(&mut content, 0).unwrap();
    assert_eq!(&content, b"firstsecond");
}

#[test]
fn space_is_allocated() {
    let (mut ring, folder) = (ring(), temporary());
    let check = open(&folder, 0);
    let file = ring.register_file(open(&folder, 0).into()).unwrap();
    let mode = FallocateFlags::empty();
    let done = run(&mut ring, Op::Fallocate { file, mode, offset: 4096, bytes: 8192 });
    assert_eq!(done.result, Ok(0));
    assert_eq!(check.metadata().unwrap().len(), 12288);
}

#[test]
fn streams_are_one_call_each() {
    let (mut ring, pool) = (ring(), pool());
    let (read_end, write_end) = rustix::pipe::pipe().unwrap();
    let read_end = ring.register_file(read_end).unwrap();
    let write_end = ring.register_file(write_end).unwrap();
    let buf = pool.alloc(4096).unwrap();
    let reading = Op::ReadStream { file: read_end, buf, range: 100..4096 };
    let reading = ring.submit(1, reading).unwrap();
    assert_quiet(&mut ring);
    let mut data = SendData::new();
    data.push_bytes(b"head");
    data.push_vec(b"body".to_vec());
    ring.submit(2, Op::WriteStream { file: write_end, data }).unwrap();
    let mut both = [next(&mut ring), next(&mut ring)];
    both.sort_by_key(|completion| completion.token);
    let [read, written] = both;
    assert_eq!((read.id, read.result), (reading, Ok(8)), "short, and not continued");
    assert_eq!(written.result, Ok(8));
    let Op::ReadStream { buf, .. } = read.op else { panic!("the operation comes back") };
    assert_eq!(&buf.as_slice()[100..108], b"headbody");
}

#[test]
fn many_operations_at_once_all_complete_once() {
    // More than the submission queue holds, so that some go while others are queued.
    let config = RingConfig { sq_entries: 4, ops_max: 64, files_max: 1, ..RingConfig::default() };
    let (mut ring, pool, folder) = (Ring::new(config).unwrap(), pool(), temporary());
    ring.register_pool(&pool).unwrap();
    let file = ring.register_file(open(&folder, libc::O_DIRECT).into()).unwrap();
    for index in 0..64 {
        let buf = patterned(&pool, 4096, index);
        let offset = u64::try_from(index * 4096).unwrap();
        let write = Op::Write { file, offset, buf: buf.share(), range: 0..4096 };
        ring.submit(u64::try_from(index).unwrap(), write).unwrap();
    }
    let mut tokens: Vec<_> = (0..64)
        .map(|_| {
            let completion = next(&mut ring);
            assert_eq!(completion.result, Ok(4096));
            completion.token
        })
        .collect();
    tokens.sort_unstable();
    assert_eq!(tokens, (0..64).collect::<Vec<_>>());
    assert_eq!(ring.in_flight(), 0);
    assert_eq!(pool.free_bytes(), pool.capacity_bytes(), "every slot came back");
    for index in 0..64 {
        let buf = pool.alloc(4096).unwrap();
        let offset = u64::try_from(index * 4096).unwrap();
        let read = run(&mut ring, Op::Read { file, offset, buf, range: 0..4096 });
        let Op::Read { buf, .. } = read.op else { panic!("the operation comes back") };
        assert_pattern(&buf, 0..4096, index);
    }
}
