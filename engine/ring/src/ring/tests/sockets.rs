use std::io::{Read, Write};
use std::net::SocketAddr;

use rustix::event::PollFlags;
use rustix::net::{AddressFamily, SocketType, sockopt};

use super::*;
use crate::send_data::SendData;

#[test]
fn accept_connect_and_exchange() {
    let mut ring = ring();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let listener = ring.register_file(listener.into()).unwrap();
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    let client = ring.register_file(socket).unwrap();
    ring.submit(1, Op::Accept { listener, multishot: false }).unwrap();
    ring.submit(2, Op::Connect { file: client, addr }).unwrap();
    let mut both = [next(&mut ring), next(&mut ring)];
    both.sort_by_key(|completion| completion.token);
    let [accepted, connected] = both;
    assert_eq!(connected.result, Ok(0));
    let server = ring.register_file(accepted.accepted.unwrap()).unwrap();
    let mut data = SendData::new();
    data.push_bytes(b"hello");
    assert_eq!(run(&mut ring, Op::Send { file: client, data }).result, Ok(5));
    let mut buf = Vec::with_capacity(64);
    buf.extend_from_slice(b"got ");
    let received = run(&mut ring, Op::RecvVec { file: server, buf });
    assert_eq!(received.result, Ok(5));
    assert!(matches!(received.op, Op::RecvVec { buf, .. } if buf == b"got hello"));
}

#[test]
fn one_accept_takes_many_connections() {
    let mut ring = ring();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let listener = ring.register_file(listener.into()).unwrap();
    let id = ring.submit(3, Op::Accept { listener, multishot: true }).unwrap();
    for _ in 0..3 {
        let peer = TcpStream::connect(addr).unwrap();
        let completion = next(&mut ring);
        assert!(completion.more);
        let socket = TcpStream::from(completion.accepted.unwrap());
        assert_eq!(socket.peer_addr().unwrap(), peer.local_addr().unwrap());
    }
    ring.cancel(id);
    let last = next(&mut ring);
    assert_eq!((last.id, last.more, last.result), (id, false, Err(Errno::CANCELED)));
    assert_eq!(ring.in_flight(), 0);
}

#[test]
fn a_refused_connection_is_an_error() {
    let mut ring = ring();
    let addr: SocketAddr = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    let file = ring.register_file(socket).unwrap();
    assert_eq!(run(&mut ring, Op::Connect { file, addr }).result, Err(Errno::CONNREFUSED));
}

#[test]
fn eight_mebibytes_leave_whole_through_a_small_send_buffer() {
    let (mut ring, pool) = (ring(), pool());
    let (file, mut peer) = connection(&mut ring);
    sockopt::set_socket_send_buffer_size(ring.file(file).unwrap(), 128 << 10).unwrap();
    let share = patterned(&pool, 4 * MIB, 5).share();
    let mut data = SendData::new();
    data.push_bytes(b"header-1");
    data.push_shared(share.clone(), 0..4 * MIB).unwrap();
    data.push_bytes(b"header-2");
    data.push_slot(patterned(&pool, 4 * MIB, 9), 0..4 * MIB).unwrap();
    let total = data.len_bytes();
    let received = std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut all = vec![0; total];
            peer.read_exact(&mut all).unwrap();
            all
        });
        let sent = run(&mut ring, Op::Send { file, data });
        assert_eq!(sent.result, Ok(u32::try_from(total).unwrap()));
        let Op::Send { mut data, .. } = sent.op else { panic!("the operation comes back") };
        let mut slots = Vec::new();
        data.clear_into(|slot| slots.push(slot));
        assert_eq!(slots.len(), 1, "the owned slot is back");
        reader.join().unwrap()
    });
    assert_eq!(&received[..8], b"header-1");
    assert!(received[8..8 + 4 * MIB] == share[..4 * MIB], "the share stays with its keeper");
    let tail = &received[8 + 4 * MIB..];
    assert_eq!(&tail[..8], b"header-2");
    assert!(tail[8..].iter().enumerate().all(|(index, &byte)| byte == pattern(index, 9)));
}

#[test]
fn a_receive_of_all_waits_for_all_and_one_of_any_does_not() {
    let (mut ring, pool) = (ring(), pool());
    let (file, mut peer) = connection(&mut ring);
    let buf = pool.alloc(4096).unwrap();
    ring.submit(1, Op::Recv { file, buf, range: 10..20, all: true }).unwrap();
    assert_quiet(&mut ring);
    peer.write_all(b"01234").unwrap();
    assert_quiet(&mut ring);
    peer.write_all(b"56789more").unwrap();
    let all = next(&mut ring);
    assert_eq!(all.result, Ok(10));
    let Op::Recv { buf, .. } = all.op else { panic!("the operation comes back") };
    assert_eq!(&buf.as_slice()[10..20], b"0123456789");
    let any = run(&mut ring, Op::Recv { file, buf, range: 0..4096, all: false });
    assert_eq!(any.result, Ok(4));
}

#[test]
fn the_end_of_the_stream_is_a_short_receive_then_zero() {
    let (mut ring, pool) = (ring(), pool());
    let (file, mut peer) = connection(&mut ring);
    peer.write_all(b"abc").unwrap();
    drop(peer);
    let buf = pool.alloc(4096).unwrap();
    let short = run(&mut ring, Op::Recv { file, buf, range: 0..4096, all: true });
    assert_eq!(short.result, Ok(3));
    let end = run(&mut ring, Op::RecvVec { file, buf: Vec::with_capacity(8) });
    assert_eq!(end.result, Ok(0));
}

#[test]
fn a_reset_connection_fails_receives_and_sends_without_a_signal() {
    let (mut ring, pool) = (ring(), pool());
    let (file, peer) = connection(&mut ring);
    let buf = pool.alloc(4096).unwrap();
    ring.submit(1, Op::Recv { file, buf, range: 0..4096, all: true }).unwrap();
    assert_quiet(&mut ring);
    sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).unwrap();
    drop(peer);
    assert_eq!(next(&mut ring).result, Err(Errno::CONNRESET));
    let mut data = SendData::new();
    data.push_bytes(b"into the void");
    assert_eq!(run(&mut ring, Op::Send { file, data }).result, Err(Errno::PIPE));
}

#[test]
fn shutdown_ends_the_peers_stream() {
    let mut ring = ring();
    let (file, mut peer) = connection(&mut ring);
    let how = rustix::net::Shutdown::Write;
    assert_eq!(run(&mut ring, Op::Shutdown { file, how }).result, Ok(0));
    assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn polling_reports_once_or_each_time() {
    let mut ring = ring();
    let (file, mut peer) = connection(&mut ring);
    let events = PollFlags::IN;
    let bits = u32::from(events.bits());
    let id = ring.submit(1, Op::PollAdd { file, events, multishot: true }).unwrap();
    for _ in 0..2 {
        peer.write_all(b"x").unwrap();
        let ready = next(&mut ring);
        assert!(ready.more);
        assert_eq!(ready.result.unwrap() & bits, bits);
    }
    let once = ring.submit(2, Op::PollAdd { file, events, multishot: false }).unwrap();
    let ready = next(&mut ring);
    assert_eq!((ready.id, ready.more), (once, false));
    ring.cancel(id);
    assert_eq!(next(&mut ring).result, Err(Errno::CANCELED));
}

/// The kernel's `SOCKET_URING_OP_SIOCINQ`: how many bytes wait to be received.
const SIOCINQ: u32 = 0;

fn waiting_bytes(file: FileId) -> Op {
    let command = Command { cmd_op: SIOCINQ, data: [0; COMMAND_BYTES], parts: Vec::new() };
    Op::Command { file, command: Box::new(command) }
}

#[test]
fn a_wide_ring_takes_commands_and_everything_else() {
    let mut ring = Ring::new(RingConfig { sqe128: true, ..RingConfig::default() }).unwrap();
    let (file, mut theirs) = connection(&mut ring);
    theirs.write_all(b"12345").unwrap();
    let mut command = waiting_bytes(file);
    for _ in 0..3 {
        let completion = run(&mut ring, command);
        assert_eq!(completion.result, Ok(5));
        command = completion.op;
    }
    let completion = run(&mut ring, Op::RecvVec { file, buf: Vec::with_capacity(64) });
    assert_eq!(completion.result, Ok(5));
    let Op::RecvVec { buf, .. } = completion.op else { panic!() };
    assert_eq!(buf, b"12345");
    assert_eq!(run(&mut ring, waiting_bytes(file)).result, Ok(0));
    let Op::Command { command, .. } = waiting_bytes(file) else { panic!() };
    let unknown = Op::Command { file, command: Box::new(Command { cmd_op: 77, ..*command }) };
    assert_eq!(run(&mut ring, unknown).result, Err(Errno::OPNOTSUPP));
}

#[test]
fn a_command_needs_a_wide_ring_and_parts_within_their_slots() {
    let mut ring = ring();
    let (file, _theirs) = connection(&mut ring);
    assert_eq!(ring.submit(0, waiting_bytes(file)).unwrap_err().reason, Reject::Narrow);
    let mut ring = Ring::new(RingConfig { sqe128: true, ..RingConfig::default() }).unwrap();
    let (file, _theirs) = connection(&mut ring);
    let Op::Command { mut command, .. } = waiting_bytes(file) else { panic!() };
    command.parts.push((pool().alloc(4096).unwrap(), 0..4097));
    let rejected = ring.submit(0, Op::Command { file, command }).unwrap_err();
    assert_eq!(rejected.reason, Reject::Range);
}
