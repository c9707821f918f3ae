use std::ops::Range;
use std::time::Duration;

use weft_iobuf::{BufSlot, Pool};

use super::*;
use crate::op::FileId;

const FILE: FileId = FileId { index: 0, generation: 0 };

fn slot() -> BufSlot {
    Pool::new(1 << 20, 1 << 20).unwrap().alloc(8192).unwrap()
}

fn read(range: Range<usize>) -> Op {
    Op::Read { file: FILE, offset: 0, buf: slot(), range }
}

fn in_flight(op: Op) -> InFlight {
    let total_bytes = total_bytes(&op).unwrap();
    InFlight { token: 0, op, done_bytes: 0, total_bytes, command_bytes: None, cancelled: false }
}

fn negated(errno: Errno) -> i32 {
    -errno.raw_os_error()
}

#[test]
fn a_short_read_goes_on_until_the_end_of_the_file() {
    let mut entry = in_flight(read(0..8192));
    assert_eq!(step(&mut entry, 4096), Verdict::Again);
    assert_eq!(step(&mut entry, 0), Verdict::Done(Ok(4096)));
    let mut entry = in_flight(read(0..8192));
    assert_eq!(step(&mut entry, 5000), Verdict::Again);
    assert_eq!(step(&mut entry, negated(Errno::INVAL)), Verdict::Done(Ok(5000)));
}

#[test]
fn a_refused_argument_is_an_error_where_no_end_of_file_explains_it() {
    let mut entry = in_flight(read(0..8192));
    assert_eq!(step(&mut entry, negated(Errno::INVAL)), Verdict::Done(Err(Errno::INVAL)));
    let mut entry = in_flight(read(0..8192));
    assert_eq!(step(&mut entry, 512), Verdict::Again);
    assert_eq!(step(&mut entry, negated(Errno::INVAL)), Verdict::Done(Err(Errno::INVAL)));
    let op = Op::Write { file: FILE, offset: 0, buf: slot().share(), range: 0..8192 };
    let mut entry = in_flight(op);
    assert_eq!(step(&mut entry, 5000), Verdict::Again);
    assert_eq!(step(&mut entry, negated(Errno::INVAL)), Verdict::Done(Err(Errno::INVAL)));
}

#[test]
fn an_output_that_moves_nothing_is_an_error_not_a_loop() {
    let op = Op::WriteVec { file: FILE, offset: 0, data: vec![1; 10], dsync: false };
    let mut entry = in_flight(op);
    assert_eq!(step(&mut entry, 4), Verdict::Again);
    assert_eq!(step(&mut entry, 0), Verdict::Done(Err(Errno::IO)));
    let mut entry = in_flight(Op::Send { file: FILE, data: SendData::new() });
    assert_eq!(step(&mut entry, 0), Verdict::Done(Ok(0)));
}

#[test]
fn interruption_restarts_unless_cancelled() {
    let mut entry = in_flight(read(0..8192));
    assert_eq!(step(&mut entry, negated(Errno::INTR)), Verdict::Again);
    entry.cancelled = true;
    let over = Verdict::Done(Err(Errno::CANCELED));
    assert_eq!(step(&mut entry, negated(Errno::INTR)), over);
    assert_eq!(step(&mut entry, 4096), over, "cancelled between two rounds");
    assert_eq!(step(&mut entry, 4096), Verdict::Done(Ok(8192)), "all of it is all of it");
}

#[test]
fn single_operations_take_any_result() {
    let mut entry = in_flight(Op::ReadStream { file: FILE, buf: slot(), range: 0..8192 });
    assert_eq!(step(&mut entry, 80), Verdict::Done(Ok(80)));
    let mut entry = in_flight(Op::Timeout { duration: Duration::ZERO });
    assert_eq!(step(&mut entry, negated(Errno::TIME)), Verdict::Done(Ok(0)));
    assert_eq!(step(&mut entry, negated(Errno::CANCELED)), Verdict::Done(Err(Errno::CANCELED)));
}

#[test]
fn bad_ranges_are_rejected() {
    #[expect(clippy::reversed_empty_ranges, reason = "the very thing to be refused")]
    for range in [0..8193, 9000..9001, 2..1] {
        assert_eq!(total_bytes(&read(range.clone())), Err(Reject::Range));
        let recv = Op::Recv { file: FILE, buf: slot(), range, all: false };
        assert_eq!(total_bytes(&recv), Err(Reject::Range));
    }
    assert_eq!(total_bytes(&read(5..5)), Ok(0));
    let empty = Op::Recv { file: FILE, buf: slot(), range: 5..5, all: false };
    assert_eq!(total_bytes(&empty), Err(Reject::Range), "0 would look like the end");
    let no_room = Op::RecvVec { file: FILE, buf: Vec::new() };
    assert_eq!(total_bytes(&no_room), Err(Reject::Range));
    for offset in [u64::MAX, u64::MAX - 4096, i64::MAX.unsigned_abs() - 4096] {
        let far = Op::Read { file: FILE, offset, buf: slot(), range: 0..8192 };
        assert_eq!(total_bytes(&far), Err(Reject::Range));
    }
    let mut data = SendData::new();
    for _ in 0..=SEND_PARTS_MAX {
        data.push_vec(vec![0]);
    }
    assert_eq!(total_bytes(&Op::Send { file: FILE, data }), Err(Reject::Parts));
}
