use std::io::{Read, Write};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::CapabilitySet;

use super::*;
use crate::limits::OPS_MAX;
use crate::send_data::SendData;

fn recv(file: FileId, pool: &Pool) -> Op {
    Op::Recv { file, buf: pool.alloc(4096).unwrap(), range: 0..4096, all: true }
}

#[test]
fn settings_out_of_range_are_errors() {
    let bad = [
        RingConfig { sq_entries: 0, ..RingConfig::default() },
        RingConfig { ops_max: 0, ..RingConfig::default() },
        RingConfig { ops_max: OPS_MAX + 1, ..RingConfig::default() },
        RingConfig { files_max: 0, ..RingConfig::default() },
        RingConfig { spin_us_max: 1_000_000, ..RingConfig::default() },
    ];
    for config in bad {
        assert_eq!(Ring::new(config).unwrap_err().kind, Kind::Config);
    }
}

#[test]
fn refusals_say_where_to_look() {
    let denied = RingError::setup("io_uring_setup", Errno::PERM.into());
    assert_eq!(denied.kind, Kind::Forbidden);
    assert!(denied.to_string().contains("kernel.io_uring_disabled"));
    let missing = RingError::setup("io_uring_setup", Errno::NOSYS.into());
    assert_eq!(missing.kind, Kind::Missing);
    let old = RingError::setup("io_uring_setup", Errno::INVAL.into());
    assert_eq!(old.kind, Kind::TooOld);
    assert!(old.to_string().contains("6.1"));
}

#[test]
fn a_cancelled_receive_gives_its_slot_back() {
    let (mut ring, pool) = (ring(), pool());
    let (file, _peer) = connection(&mut ring);
    let id = ring.submit(1, recv(file, &pool)).unwrap();
    assert_quiet(&mut ring);
    ring.cancel(id);
    ring.cancel(id);
    let completion = next(&mut ring);
    assert_eq!((completion.id, completion.result), (id, Err(Errno::CANCELED)));
    assert!(matches!(completion.op, Op::Recv { .. }));
    drop(completion);
    assert_eq!(pool.free_bytes(), pool.capacity_bytes());
    ring.cancel(id);
    assert_quiet(&mut ring);
}

#[test]
fn a_cancellation_right_behind_its_operation_is_not_lost() {
    let (mut ring, pool) = (ring(), pool());
    let (file, _peer) = connection(&mut ring);
    let id = ring.submit(1, recv(file, &pool)).unwrap();
    ring.cancel(id);
    assert_eq!(next(&mut ring).result, Err(Errno::CANCELED));
}

#[test]
fn a_cancelled_send_that_is_stuck_ends() {
    let (mut ring, pool) = (ring(), pool());
    let (file, _peer) = connection(&mut ring);
    let mut data = SendData::new();
    data.push_slot(pool.alloc(8 * MIB).unwrap(), 0..8 * MIB).unwrap();
    let id = ring.submit(1, Op::Send { file, data }).unwrap();
    assert_quiet(&mut ring);
    ring.cancel(id);
    // The kernel may report what it had sent; the ring does not pass a part off as the whole.
    assert_eq!(next(&mut ring).result, Err(Errno::CANCELED));
}

#[test]
fn dropping_the_ring_ends_what_is_in_flight_and_returns_memory_and_files() {
    let pool = pool();
    let mut peer = {
        let mut ring = ring();
        ring.register_pool(&pool).unwrap();
        let (file, peer) = connection(&mut ring);
        ring.submit(1, recv(file, &pool)).unwrap();
        ring.submit(2, Op::Timeout { duration: Duration::from_secs(3600) }).unwrap();
        assert_quiet(&mut ring);
        ring.submit(3, recv(file, &pool)).unwrap(); // never waited for
        assert_eq!(ring.in_flight(), 3);
        peer
    };
    assert_eq!(pool.free_bytes(), pool.capacity_bytes(), "nothing was leaked");
    assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0, "the socket is closed");
}

#[test]
fn what_the_kernel_does_not_let_go_of_is_leaked_not_freed() {
    let pool = pool();
    {
        let config = RingConfig { drain_ms_max: 0, ..RingConfig::default() };
        let mut ring = Ring::new(config).unwrap();
        let (file, _peer) = connection(&mut ring);
        ring.submit(1, recv(file, &pool)).unwrap();
        assert_quiet(&mut ring);
    }
    assert_eq!(pool.free_bytes(), pool.capacity_bytes() - 4096, "the slot is gone for good");
}

#[test]
fn rejected_operations_come_back_whole() {
    let config = RingConfig { ops_max: 2, files_max: 1, ..RingConfig::default() };
    let (mut ring, pool) = (Ring::new(config).unwrap(), pool());
    let (file, _peer) = connection(&mut ring);
    for token in 0..2 {
        ring.submit(token, recv(file, &pool)).unwrap();
    }
    let rejected = ring.submit(2, recv(file, &pool)).unwrap_err();
    assert_eq!(rejected.reason, Reject::Full);
    let Op::Recv { buf, .. } = rejected.op else { panic!("the operation comes back") };
    let op = Op::Recv { file, buf, range: 0..4097, all: false };
    assert_eq!(ring.submit(2, op).unwrap_err().reason, Reject::Range);
    let nowhere = FileId { index: 0, generation: 77 };
    assert_eq!(ring.submit(2, recv(nowhere, &pool)).unwrap_err().reason, Reject::File);
    let beyond = FileId { index: 9999, generation: 0 };
    assert_eq!(ring.submit(2, recv(beyond, &pool)).unwrap_err().reason, Reject::File);
    assert_eq!(ring.in_flight(), 2);
}

#[test]
fn the_file_table_has_an_end_and_places_are_reused() {
    let config = RingConfig { files_max: 1, ..RingConfig::default() };
    let mut ring = Ring::new(config).unwrap();
    for _ in 0..3 {
        let (file, mut peer) = connection(&mut ring);
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(ring.register_file(other.into()).unwrap_err().kind, Kind::FilesFull);
        ring.unregister_file(file).unwrap();
        assert_eq!(ring.unregister_file(file).unwrap_err().kind, Kind::BadFile);
        assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0, "closed at once: nothing was in flight");
    }
}

#[test]
fn an_unregistered_file_closes_after_its_last_operation() {
    let (mut ring, pool) = (ring(), pool());
    let (file, mut peer) = connection(&mut ring);
    ring.submit(1, recv(file, &pool)).unwrap();
    assert_quiet(&mut ring);
    ring.unregister_file(file).unwrap();
    assert_eq!(ring.submit(2, recv(file, &pool)).unwrap_err().reason, Reject::File);
    peer.write_all(&[1; 4096]).unwrap();
    assert_eq!(next(&mut ring).result, Ok(4096), "the operation in flight is left alone");
    assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn closing_cancels_and_completes_last() {
    let (mut ring, pool) = (ring(), pool());
    let (file, mut peer) = connection(&mut ring);
    let (other, _other_peer) = connection(&mut ring);
    ring.submit(1, recv(file, &pool)).unwrap();
    ring.submit(2, recv(file, &pool)).unwrap();
    let bystander = ring.submit(3, recv(other, &pool)).unwrap();
    assert_quiet(&mut ring);
    let close = ring.submit(4, Op::Close { file }).unwrap();
    ring.cancel(close);
    let ended = [next(&mut ring), next(&mut ring), next(&mut ring)];
    for receive in &ended[..2] {
        assert_eq!(receive.result, Err(Errno::CANCELED));
    }
    assert_eq!((ended[2].id, ended[2].result), (close, Ok(0)));
    assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(ring.in_flight(), 1, "another file's operations go on");
    ring.cancel(bystander);
    assert_eq!(next(&mut ring).id, bystander);
    let (idle, _peer) = connection(&mut ring);
    assert_eq!(run(&mut ring, Op::Close { file: idle }).result, Ok(0));
}

#[test]
fn a_timeout_takes_its_time_and_can_be_cancelled() {
    let mut ring = ring();
    let start = clock::now();
    let duration = Duration::from_millis(20);
    assert_eq!(run(&mut ring, Op::Timeout { duration }).result, Ok(0));
    assert!(clock::now() - start >= duration);
    let duration = Duration::from_secs(3600);
    let id = ring.submit(1, Op::Timeout { duration }).unwrap();
    ring.cancel(id);
    assert_eq!(next(&mut ring).result, Err(Errno::CANCELED));
}

#[test]
fn waiting_ends_with_its_time_and_a_zero_wait_at_once() {
    for (spin_us_max, idle_poll) in [(0, false), (100, false), (0, true), (100, true)] {
        let config = RingConfig { spin_us_max, idle_poll, ..RingConfig::default() };
        let mut ring = Ring::new(config).unwrap();
        ring.wait(Some(Duration::from_micros(20))).unwrap(); // short, so that the next one polls
        let start = clock::now();
        ring.wait(Some(Duration::from_millis(20))).unwrap();
        assert!(clock::now() - start >= Duration::from_millis(19));
        let sleeps = ring.stats().sleep_count;
        ring.wait(Some(Duration::ZERO)).unwrap();
        assert_eq!(ring.stats().sleep_count, sleeps);
        assert!(ring.next_completion().is_none());
    }
}

#[test]
fn a_batch_is_one_system_call() {
    let (mut ring, pool) = (ring(), pool());
    let (file, mut peer) = connection(&mut ring);
    let before = ring.stats();
    for token in 0..8 {
        ring.submit(token, recv(file, &pool)).unwrap();
    }
    assert_eq!(ring.stats().enter_count, before.enter_count, "nothing before the wait");
    assert_quiet(&mut ring);
    assert_eq!(ring.stats().enter_count, before.enter_count + 1);
    peer.write_all(&[1; 8 * 4096]).unwrap();
    for _ in 0..8 {
        assert_eq!(next(&mut ring).result, Ok(4096));
    }
}

#[test]
fn a_pool_that_may_not_be_pinned_works_unregistered() {
    // As a user without CAP_IPC_LOCK and with the usual limit. The capability is the thread's; the
    // limit is the whole process's, but binds nobody else who has the capability.
    let limit = getrlimit(Resource::Memlock);
    let current = limit.current.unwrap_or(u64::MAX).min(8 << 20);
    setrlimit(Resource::Memlock, Rlimit { current: Some(current), ..limit }).unwrap();
    let unprivileged = || {
        let mut capabilities = rustix::thread::capabilities(None).unwrap();
        capabilities.effective.remove(CapabilitySet::IPC_LOCK);
        rustix::thread::set_capabilities(None, capabilities).unwrap();
        let (mut ring, pool) = (ring(), pool());
        assert_eq!(ring.register_pool(&pool).unwrap(), Registration::Plain(Errno::NOMEM));
        assert!(!ring.has_fixed_buffers());
        let file = ring.register_file(tempfile::tempfile().unwrap().into()).unwrap();
        let buf = patterned(&pool, 4096, 3).share();
        let write = Op::Write { file, offset: 0, buf, range: 0..4096 };
        assert_eq!(run(&mut ring, write).result, Ok(4096));
    };
    std::thread::scope(|scope| scope.spawn(unprivileged).join().unwrap());
}

/// Timeouts of the ring end every sleep, whatever it waits for: these are sockets.
#[test]
fn a_sleep_gathers_completions_and_not_for_ever() {
    let mut ring = ring();
    let pool = Pool::new(1 << 20, 64 << 10).unwrap();
    let mut peers = Vec::new();
    for token in 0..3 {
        let (mine, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let file = ring.register_file(mine.into()).unwrap();
        ring.submit(token, recv(file, &pool)).unwrap();
        peers.push(theirs);
    }
    let sleeps = ring.stats().sleep_count;
    let mut ended = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| peers.iter_mut().for_each(|peer| peer.write_all(&[1; 4096]).unwrap()));
        while ended < 3 {
            ring.wait_for(3 - ended, PATIENCE, Some(PATIENCE)).unwrap();
            ended += std::iter::from_fn(|| ring.next_completion()).count();
        }
    });
    if ring.queue.params().is_feature_min_timeout() {
        assert!(ring.stats().sleep_count - sleeps <= 1, "one sleep for all of them");
    }

    let (mine, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let file = ring.register_file(mine.into()).unwrap();
    ring.submit(3, recv(file, &pool)).unwrap();
    let slow = ring.submit(4, Op::Timeout { duration: Duration::from_secs(3600) }).unwrap();
    theirs.write_all(&[1; 4096]).unwrap();
    let mut first = None;
    while first.is_none() {
        ring.wait_for(2, Duration::from_millis(1), Some(PATIENCE)).unwrap();
        first = ring.next_completion();
    }
    assert_eq!(first.map(|completion| completion.token), Some(3), "one is enough after a while");
    ring.cancel(slow);
    assert_eq!(next(&mut ring).token, 4);
}

/// Which waits are spun in is learnt from waits of the same kind.
#[test]
fn waits_for_what_is_under_way_and_for_wishes_are_told_apart() {
    let config = RingConfig { spin_us_max: crate::limits::SPIN_US_MAX, ..RingConfig::default() };
    let mut ring = Ring::new(config).unwrap();
    let deadline = clock::now() + PATIENCE;
    let never = Duration::MAX;
    assert_eq!(ring.spin.budget(Until::Done, never), Duration::ZERO);
    // On a busy machine a sleep of 20 us may take longer than any spin.
    while ring.spin.budget(Until::Done, never).is_zero() {
        assert!(clock::now() < deadline, "no short wait made it spin");
        ring.wait_under_way(Some(Duration::from_micros(20))).unwrap();
    }
    assert_eq!(ring.spin.budget(Until::Asked, never), Duration::ZERO);
    while ring.spin.budget(Until::Asked, never).is_zero() {
        assert!(clock::now() < deadline, "no short wait made it spin");
        ring.wait(Some(Duration::from_micros(20))).unwrap();
    }
    let before = ring.stats().sleep_count;
    while ring.stats().sleep_count == before {
        assert!(clock::now() < deadline, "it never sleeps again");
        ring.wait(Some(Duration::from_millis(2))).unwrap();
    }
}

/// Idle cores poll for a moment of a long wait, and halt for the rest of it; a message ends it in either part.
#[test]
fn a_wait_that_outlasts_idle_polling_is_one_wait() {
    let mut ring = Ring::new(RingConfig { idle_poll: true, ..RingConfig::default() }).unwrap();
    if !ring.awake.is_on() {
        return eprintln!("skipped: /dev/cpu_dma_latency cannot be opened here");
    }
    let deadline = clock::now() + PATIENCE;
    while ring.stats().idle_poll_count == 0 {
        assert!(clock::now() < deadline, "no short wait made cores poll");
        ring.wait_under_way(Some(Duration::from_micros(20))).unwrap();
    }
    for pause_ms in [1, 5, 20] {
        let pause = Duration::from_millis(pause_ms);
        let bell = ring.bell();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let ended = run(
                    &mut Ring::new(RingConfig::default()).unwrap(),
                    Op::Timeout { duration: pause },
                );
                assert_eq!(ended.result, Ok(0));
                bell.ring();
            });
            let (start, sleeps) = (clock::now(), ring.stats().sleep_count);
            ring.wait_under_way(Some(PATIENCE)).unwrap();
            let waited = clock::now() - start;
            assert!(waited < PATIENCE, "the bell was not heard");
            assert!(waited >= pause / 2, "{waited:?} of {pause:?}");
            assert_eq!(ring.stats().sleep_count, sleeps + 1);
            let still = ring.awake.left(clock::now()).is_some();
            assert!(!still || pause_ms == 1, "cores poll after {waited:?}");
            assert!(ring.next_completion().is_none(), "the bell is no completion");
        });
    }
}
