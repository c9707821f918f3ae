use super::*;
use crate::mailbox::{Mailbox, SendError, Sender, mailbox};

type Numbered = (usize, u64);

/// Takes `each` numbers of each sender off a mailbox, sleeping in the ring whenever it is empty,
/// and checks each sender's order. A lost wake-up is a wait that lasts its whole time.
fn receive(ring: &mut Ring, inbox: &Mailbox<Numbered>, senders: usize, each: u64) {
    let mut expected = vec![0; senders];
    while expected.iter().any(|&count| count < each) {
        let start = clock::now();
        ring.wait(Some(PATIENCE)).unwrap();
        assert!(clock::now() - start < PATIENCE, "a wake-up was lost at {expected:?}");
        while ring.next_completion().is_some() {}
        while let Some((sender, number)) = inbox.try_recv() {
            assert_eq!(number, expected[sender]);
            expected[sender] += 1;
        }
    }
}

fn send_all(outbox: &Sender<Numbered>, sender: usize, each: u64) {
    for number in 0..each {
        let mut message = (sender, number);
        let start = clock::now();
        while let Err(SendError::Full(back)) = outbox.try_send(message) {
            assert!(clock::now() - start < PATIENCE, "the receiver sleeps on a full mailbox");
            message = back;
            std::thread::yield_now();
        }
        // Yielding lets the receiver empty the mailbox and fall asleep: that is the race.
        if number % 3 == 0 {
            std::thread::yield_now();
        }
    }
}

#[test]
fn two_senders_lose_no_wake_up_in_a_million_messages() {
    let quick = [(0, false, 500_000), (50, false, 50_000), (0, true, 50_000)];
    for (spin_us_max, idle_poll, each) in quick {
        let config = RingConfig { spin_us_max, idle_poll, ..RingConfig::default() };
        let mut ring = Ring::new(config).unwrap();
        let (outbox, inbox) = mailbox(&ring.bell(), 64);
        std::thread::scope(|scope| {
            for sender in 0..2 {
                let outbox = outbox.clone();
                scope.spawn(move || send_all(&outbox, sender, each));
            }
            receive(&mut ring, &inbox, 2, each);
        });
        assert!(inbox.is_empty());
        assert!(ring.stats().sleep_count > 0, "the test never tested");
    }
}

/// Sends back what comes, from a ring of its own.
fn echo(hello: &crossbeam_channel::Sender<Sender<u64>>, back: &Sender<u64>, rounds: u64) {
    let mut ring = ring();
    let (outbox, inbox) = mailbox::<u64>(&ring.bell(), 64);
    hello.send(outbox).unwrap();
    let mut echoed = 0;
    while echoed < rounds {
        let start = clock::now();
        ring.wait(Some(PATIENCE)).unwrap();
        assert!(clock::now() - start < PATIENCE, "a wake-up was lost at {echoed}");
        while ring.next_completion().is_some() {}
        while let Some(number) = inbox.try_recv() {
            back.try_send(number).unwrap();
            echoed += 1;
        }
    }
}

#[test]
fn two_rings_play_messages_back_and_forth() {
    // One message under way makes both sides sleep all the time; 32 make them race.
    for (window, rounds) in [(1, 20_000), (32, 480_000)] {
        let mut here = ring();
        let (to_here, inbox) = mailbox(&here.bell(), 64);
        std::thread::scope(|scope| {
            let (hello, hello_back) = crossbeam_channel::bounded(1);
            scope.spawn(move || echo(&hello, &to_here, rounds));
            let to_there = hello_back.recv().unwrap();
            let (mut sent, mut received) = (0, 0);
            while received < rounds {
                while sent < rounds && sent - received < window {
                    to_there.try_send(sent).unwrap();
                    sent += 1;
                }
                let start = clock::now();
                here.wait(Some(PATIENCE)).unwrap();
                assert!(clock::now() - start < PATIENCE, "lost at {received} of {sent}");
                while here.next_completion().is_some() {}
                while let Some(number) = inbox.try_recv() {
                    assert_eq!(number, received);
                    received += 1;
                }
            }
        });
    }
}

#[test]
fn a_bell_rung_before_the_wait_ends_it() {
    let mut ring = ring();
    ring.bell().ring();
    let start = clock::now();
    ring.wait(Some(PATIENCE)).unwrap();
    assert!(clock::now() - start < PATIENCE);
    assert_eq!(ring.stats().sleep_count, 0);
}

#[test]
fn a_full_mailbox_and_a_gone_one_give_the_message_back() {
    let ring = ring();
    let (outbox, inbox) = mailbox(&ring.bell(), 2);
    outbox.try_send("a").unwrap();
    outbox.try_send("b").unwrap();
    assert_eq!(outbox.try_send("c"), Err(SendError::Full("c")));
    assert_eq!(inbox.len(), 2);
    assert_eq!(inbox.try_recv(), Some("a"));
    outbox.try_send("c").unwrap();
    drop(inbox);
    assert_eq!(outbox.try_send("d"), Err(SendError::Closed("d")));
}
