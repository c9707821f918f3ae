//! The kernel's side is played here: what it writes into an entry, and what it would read out of it.

use proptest::prelude::*;
use weft_iobuf::Pool;

use super::*;
use crate::abi::input::{ReadIn, WriteIn};
use crate::abi::opcode;
use crate::reply::ReplyHead;
use crate::request::{Args, Operation, Request};

const PAYLOAD_BYTES: usize = 8192;
const OLD: u8 = 0xaa;

fn new_entry() -> Box<Command> {
    let pool = Pool::new(1 << 20, 1 << 20).unwrap();
    let (mut header, mut payload) = (pool.alloc(4096).unwrap(), pool.alloc(PAYLOAD_BYTES).unwrap());
    header.as_mut_slice().fill(OLD);
    payload.as_mut_slice().fill(OLD);
    register(3, header, payload, PAYLOAD_BYTES)
}

/// As the kernel puts a request in.
fn put(command: &mut Command, header: &InHeader, op_in: &[u8], payload: &[u8], payload_sz: u32) {
    let mut whole = ReqHeader::default();
    whole.in_out.as_mut_bytes()[..size_of::<InHeader>()].copy_from_slice(header.as_bytes());
    whole.op_in.as_mut_bytes()[..op_in.len()].copy_from_slice(op_in);
    whole.ent = EntInOut { commit_id: header.unique, payload_sz, ..EntInOut::default() };
    header_area(command).copy_from_slice(whole.as_bytes());
    command.parts[PAYLOAD].0.as_mut_slice()[..payload.len()].copy_from_slice(payload);
}

fn area(command: &Command) -> CmdReq {
    CmdReq::read_from_prefix(&command.data).unwrap().0
}

fn replied(command: &Command) -> (OutHeader, EntInOut) {
    let (slot, range) = &command.parts[HEADER];
    let whole = ReqHeader::read_from_bytes(&slot.as_slice()[range.clone()]).unwrap();
    (OutHeader::read_from_prefix(whole.in_out.as_bytes()).unwrap().0, whole.ent)
}

#[test]
fn an_entry_is_registered_with_header_and_payload_for_its_queue() {
    let command = new_entry();
    assert_eq!(command.cmd_op, CMD_REGISTER);
    assert_eq!(area(&command), CmdReq { qid: 3, ..CmdReq::default() });
    let lengths: Vec<usize> = command.parts.iter().map(|(_, range)| range.len()).collect();
    assert_eq!(lengths, [288, PAYLOAD_BYTES]);
}

#[test]
fn a_write_comes_out_with_its_data_and_leaves_with_its_reply() {
    let mut command = new_entry();
    let header = InHeader { opcode: opcode::WRITE, unique: 78, nodeid: 5, ..InHeader::default() };
    let write = WriteIn { fh: 9, offset: 4096, size: 5, ..WriteIn::default() };
    put(&mut command, &header, write.as_bytes(), b"hello", 5);
    let got = received(&command).unwrap();
    assert_eq!((got.header, got.commit_id, got.payload_bytes), (header, 78, 5));
    let data = payload(&command, got.payload_bytes);
    assert_eq!(data, b"hello");
    let args = Args::Split { op_in: got.op_in.as_bytes(), payload: data };
    let request = Request::decode_args(&got.header, args).unwrap();
    let Operation::Write(write) = request.op else { panic!("{request:?}") };
    assert_eq!((write.offset, write.data), (4096, 0..5));

    let mut reply = SendData::new();
    reply.push_bytes(ReplyHead::write(Unique(78), 5).as_bytes());
    commit(&mut command, 3, 78, Outgoing::new(reply, None).0);
    assert_eq!(command.cmd_op, CMD_COMMIT_AND_FETCH);
    assert_eq!(area(&command), CmdReq { qid: 3, commit_id: 78, ..CmdReq::default() });
    let (out, about) = replied(&command);
    assert_eq!((out.len, out.error, out.unique), (24, 0, 78));
    assert_eq!((about.commit_id, about.payload_sz), (78, 8));
    assert_eq!(payload(&command, 9), [5, 0, 0, 0, 0, 0, 0, 0, OLD]);
}

#[test]
fn a_payload_length_beyond_the_room_is_an_error_with_its_unique() {
    let mut command = new_entry();
    let header = InHeader { opcode: opcode::LOOKUP, unique: 6, ..InHeader::default() };
    let too_long = u32::try_from(PAYLOAD_BYTES).unwrap() + 1;
    put(&mut command, &header, &[], b"x\0", too_long);
    let error = received(&command).unwrap_err();
    assert_eq!((error.opcode, error.unique), (opcode::LOOKUP, Some(Unique(6))));
    put(&mut command, &header, &[], b"x\0", too_long - 1);
    received(&command).unwrap();
}

#[test]
fn a_reply_that_does_not_fit_becomes_an_error_and_one_that_just_fits_does_not() {
    for (extra, error) in [(0, 0), (1, -Errno::IO.raw_os_error())] {
        let mut command = new_entry();
        let bytes = PAYLOAD_BYTES + extra;
        let mut reply = SendData::new();
        reply.push_bytes(ReplyHead::data(Unique(4), bytes.try_into().unwrap()).as_bytes());
        reply.push_vec(vec![7; bytes]);
        commit(&mut command, 3, 4, Outgoing::new(reply, None).0);
        let (out, about) = replied(&command);
        assert_eq!((out.error, out.unique), (error, 4));
        let expected = if error == 0 { PAYLOAD_BYTES } else { 0 };
        assert_eq!(usize::try_from(about.payload_sz).unwrap(), expected);
    }
}

proptest! {
    /// Whatever the kernel put in: no panic, and a reply can always be made for it.
    #[test]
    fn any_bytes_of_an_entry_are_a_request_or_an_error(
        header in proptest::collection::vec(any::<u8>(), 288),
        code in 0u32..60,
        payload_sz in prop_oneof![0u32..64, any::<u32>()],
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut command = new_entry();
        header_area(&mut command).copy_from_slice(&header);
        header_area(&mut command)[4..8].copy_from_slice(&code.to_ne_bytes());
        header_area(&mut command)[272..276].copy_from_slice(&payload_sz.to_ne_bytes());
        command.parts[PAYLOAD].0.as_mut_slice()[..bytes.len()].copy_from_slice(&bytes);
        if let Ok(got) = received(&command) {
            let data = payload(&command, got.payload_bytes);
            let args = Args::Split { op_in: got.op_in.as_bytes(), payload: data };
            if let Ok(Request { op: Operation::Write(write), .. }) =
                Request::decode_args(&got.header, args)
            {
                prop_assert!(write.data.end <= data.len());
            }
            let mut reply = SendData::new();
            reply.push_bytes(ReplyHead::error(Unique(got.header.unique), Errno::NOSYS).as_bytes());
            commit(&mut command, 3, got.commit_id, Outgoing::new(reply, None).0);
            prop_assert_eq!(replied(&command).0.error, -Errno::NOSYS.raw_os_error());
        }
    }

    /// However a reply is cut into parts, the kernel finds its header apart and the rest together.
    #[test]
    fn parts_of_a_reply_arrive_in_order(
        rest in proptest::collection::vec(any::<u8>(), 0..300),
        cuts in proptest::collection::vec(0usize..300, 0..6),
    ) {
        let head = ReplyHead::data(Unique(9), rest.len().try_into().unwrap());
        let mut reply = SendData::new();
        reply.push_bytes(head.as_bytes());
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(rest.len())).collect();
        cuts.extend([0, rest.len()]);
        cuts.sort_unstable();
        for pair in cuts.windows(2) {
            reply.push_vec(rest[pair[0]..pair[1]].to_vec());
        }
        let mut command = new_entry();
        commit(&mut command, 3, 9, Outgoing::new(reply, None).0);
        prop_assert_eq!(usize::try_from(replied(&command).1.payload_sz).unwrap(), rest.len());
        prop_assert_eq!(payload(&command, rest.len()), &rest[..]);
    }
}

#[test]
fn a_read_is_decoded_from_the_struct_apart() {
    let mut command = new_entry();
    let header = InHeader { opcode: opcode::READ, unique: 2, ..InHeader::default() };
    let read = ReadIn { fh: 1, offset: 8192, size: 4096, ..ReadIn::default() };
    put(&mut command, &header, read.as_bytes(), &[], 0);
    let got = received(&command).unwrap();
    let args = Args::Split { op_in: got.op_in.as_bytes(), payload: payload(&command, 0) };
    let request = Request::decode_args(&got.header, args).unwrap();
    let Operation::Read(read) = request.op else { panic!("{request:?}") };
    assert_eq!((read.offset, read.len_bytes), (8192, 4096));
}

/// A reply of `bytes` whose payload is the lent part, cut in two, with `between` put in front of the second half.
fn reply_from(mut part: BufSlot, between: &[u8]) -> SendData {
    part.as_mut_slice()[..100].fill(1);
    let second = part.split_off(60);
    let mut reply = SendData::new();
    let bytes = u32::try_from(100 + between.len()).unwrap();
    reply.push_bytes(ReplyHead::data(Unique(5), bytes).as_bytes());
    reply.push_shared(part.share(), 0..60).unwrap();
    reply.push_bytes(between);
    reply.push_shared(second.share(), 0..40).unwrap();
    reply
}

#[test]
fn what_lies_in_a_lent_payload_is_not_copied_and_the_payload_comes_back() {
    let mut command = new_entry();
    let address = command.parts[PAYLOAD].0.as_ptr().addr();
    let (lent, part) = lend(&mut command);
    let (outgoing, spare) = Outgoing::new(reply_from(part, b""), Some(&lent));
    assert!(matches!(outgoing.payload, Placed::Already(100)));
    let lent = lent.give_back(&mut command).unwrap_err();
    drop(spare);
    lent.give_back(&mut command).unwrap();
    assert_eq!(command.parts[PAYLOAD].0.as_ptr().addr(), address);
    assert!(commit(&mut command, 3, 5, outgoing).is_none());
    assert_eq!((replied(&command).0.unique, replied(&command).1.payload_sz), (5, 100));
    assert_eq!(payload(&command, 101), [[1; 100].as_slice(), &[OLD]].concat());
}

#[test]
fn what_lies_elsewhere_in_a_lent_payload_is_moved_to_its_place() {
    let mut command = new_entry();
    let (lent, part) = lend(&mut command);
    let (outgoing, spare) = Outgoing::new(reply_from(part, b"zz"), Some(&lent));
    drop(spare);
    lent.give_back(&mut command).unwrap();
    commit(&mut command, 3, 5, outgoing);
    assert_eq!(replied(&command).1.payload_sz, 102);
    let expected = [[1; 60].as_slice(), b"zz", &[1; 40], &[OLD]].concat();
    assert_eq!(payload(&command, 103), expected);
}

#[test]
fn an_error_for_a_lent_payload_carries_nothing() {
    let mut command = new_entry();
    let (lent, part) = lend(&mut command);
    let mut reply = SendData::new();
    reply.push_bytes(ReplyHead::error(Unique(5), Errno::IO).as_bytes());
    let (outgoing, _) = Outgoing::new(reply, Some(&lent));
    let lent = lent.give_back(&mut command).unwrap_err();
    drop(part);
    lent.give_back(&mut command).unwrap();
    commit(&mut command, 3, 5, outgoing);
    assert_eq!(replied(&command).0.error, -Errno::IO.raw_os_error());
    assert_eq!(replied(&command).1.payload_sz, 0);
}
