use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use weft_iobuf::Pool;
use weft_wire::header::{HEADER_BYTES, Header};
use weft_wire::lease::Recall;
use weft_wire::session::{FEATURE_LEASES, FENCE_ENDED, Hello, Welcome};
use weft_wire::{ClusterId, Kind, LeaseBits, SessionId, ShardId, Status};

use super::*;
use crate::stream::Frame;

const CLUSTER: ClusterId = ClusterId([7; 16]);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn config() -> LinkConfig {
    let cluster = ClusterId::default();
    let session = SessionId([1; 16]);
    let (shard, leases) = (ShardId(3), true);
    LinkConfig { cluster, session, shard, leases, reply_timeout: Duration::from_secs(15) }
}

fn welcome(epoch: u64, credits: u32) -> Welcome {
    Welcome {
        version: 1,
        features: 0,
        cluster: CLUSTER,
        shard_count: 4,
        epoch,
        credits,
        payload_bytes_max: 10_000,
        boot: 0,
        slot_count: 0,
        lease_ms: 0,
        fence: 0,
    }
}

fn reply_to(head: &[u8], status: Status, body: Vec<u8>) -> Frame {
    let header = Header::decode(head).unwrap().reply(status, &body, 0);
    Frame { header, body, payload: None }
}

fn ask(tag: u64) -> Request {
    let body = tag.to_le_bytes().to_vec();
    let (kind, lease) = (Kind::GetAttr, LeaseBits::READ);
    Request { tag, kind, lease, body, payload: None, deadline: None }
}

/// The heads of all `Send`s up to now; other outputs must not be there.
fn sends(link: &mut Link) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| link.poll())
        .map(|output| match output {
            LinkOutput::Send { head, .. } => head,
            other => panic!("only sends expected, not {other:?}"),
        })
        .collect()
}

fn tag_of(head: &[u8]) -> u64 {
    u64::from_le_bytes(head[HEADER_BYTES..].try_into().unwrap())
}

fn tags(heads: &[Vec<u8>]) -> Vec<u64> {
    heads.iter().map(|head| tag_of(head)).collect()
}

/// Connects and answers the hello; the `Up` is taken.
fn bring_up(link: &mut Link, welcome: Welcome, now: Duration) -> bool {
    link.connected(now);
    let hello = sends(link).pop().expect("the hello");
    let seen = Hello::decode(&hello[HEADER_BYTES..]).unwrap();
    assert_eq!((seen.session, seen.shard), (SessionId([1; 16]), ShardId(3)));
    let mut body = Vec::new();
    welcome.encode(&mut body);
    link.frame(reply_to(&hello, Status::Ok, body), now);
    match link.poll() {
        Some(LinkOutput::Up { data_lost, again, .. }) => {
            if again && !data_lost {
                link.resume(now);
            }
            data_lost
        }
        other => panic!("up expected, not {other:?}"),
    }
}

fn started(credits: u32) -> Link {
    let mut link = Link::new(config());
    link.start(ms(0));
    assert!(matches!(link.poll(), Some(LinkOutput::Connect { local: true })));
    assert!(!bring_up(&mut link, welcome(1, credits), ms(0)));
    link
}

/// Waits out the pause and expects the next attempt.
fn reconnecting(link: &mut Link) -> Duration {
    let at = link.next_timer().expect("a pause");
    link.tick(at);
    assert!(matches!(link.poll(), Some(LinkOutput::Connect { local: true })));
    at
}

#[test]
fn requests_beyond_the_credits_wait_in_order() {
    let mut link = started(3);
    (1..=4).for_each(|tag| link.submit(ask(tag), ms(1)));
    let first = sends(&mut link);
    assert_eq!(tags(&first), [1, 2], "one credit of three is kept for a ping");
    link.frame(reply_to(&first[1], Status::NotFound, vec![]), ms(2));
    let reply = link.poll();
    assert!(matches!(reply, Some(LinkOutput::Reply { tag: 2, status: Status::NotFound, .. })));
    assert_eq!(tags(&sends(&mut link)), [3]);
}

/// What the flight recorder is told of a request: when it was given to the link, sent (the last time) and how often.
#[test]
fn an_answer_tells_the_way_of_its_request() {
    let mut link = Link::new(config());
    link.number_from(1 << 40);
    link.start(ms(0));
    assert!(matches!(link.poll(), Some(LinkOutput::Connect { local: true })));
    bring_up(&mut link, welcome(1, 3), ms(0));
    (1..=3).for_each(|tag| link.submit(ask(tag), ms(1)));
    let first = sends(&mut link);
    link.frame(reply_to(&first[0], Status::Ok, vec![]), ms(5));
    link.frame(reply_to(&first[1], Status::Busy, vec![]), ms(6));
    let Some(LinkOutput::Reply { tag: 1, trip: Some(trip), .. }) = link.poll() else { panic!() };
    assert_eq!((trip.request_id, trip.asked_at, trip.sent_at), (1 << 40, ms(1), ms(1)));
    assert_eq!((trip.send_count, trip.body), (1, 1u64.to_le_bytes().to_vec()));
    link.tick(ms(500));
    for head in sends(&mut link) {
        link.frame(reply_to(&head, Status::Ok, vec![]), ms(501));
    }
    let trips: Vec<Trip> = std::iter::from_fn(|| link.poll())
        .filter_map(|output| match output {
            LinkOutput::Reply { trip, .. } => trip,
            _ => None,
        })
        .collect();
    let of = |at: usize| (trips[at].asked_at, trips[at].sent_at, trips[at].send_count);
    assert_eq!((of(0), of(1)), ((ms(1), ms(5), 1), (ms(1), ms(500), 2)), "{trips:?}");
}

#[test]
fn payload_in_flight_is_bounded_but_a_long_one_passes_alone() {
    let pool = Pool::new(1 << 20, 1 << 20).unwrap();
    let mut link = started(9);
    let write = |tag: u64, bytes: usize| {
        let payload = Some((pool.alloc(bytes).unwrap().share(), 0..bytes));
        Request { payload, kind: Kind::Write, ..ask(tag) }
    };
    for (tag, bytes) in [(1, 6000), (2, 4000), (3, 1), (4, 20_000)] {
        link.submit(write(tag, bytes), ms(1));
    }
    let first = sends(&mut link);
    assert_eq!(tags(&first), [1, 2]);
    link.frame(reply_to(&first[0], Status::Ok, vec![]), ms(2));
    assert!(matches!(link.poll(), Some(LinkOutput::Reply { tag: 1, .. })));
    let second = sends(&mut link);
    assert_eq!(tags(&second), [3]);
    link.frame(reply_to(&first[1], Status::Ok, vec![]), ms(2));
    link.frame(reply_to(&second[0], Status::Ok, vec![]), ms(2));
    let outputs: Vec<_> = std::iter::from_fn(|| link.poll()).collect();
    assert!(
        matches!(&outputs[2], LinkOutput::Send { head, payload: Some(_) } if tag_of(head) == 4)
    );
}

#[test]
fn a_lost_connection_is_made_again_and_everything_replayed_in_order() {
    let mut link = started(9);
    (1..=3).for_each(|tag| link.submit(ask(tag), ms(1)));
    let first = sends(&mut link);
    link.frame(reply_to(&first[1], Status::Ok, vec![]), ms(1));
    assert!(matches!(link.poll(), Some(LinkOutput::Reply { tag: 2, .. })));
    link.disconnected(ms(5));
    link.submit(ask(4), ms(6));
    assert_eq!(link.next_timer(), Some(ms(25)), "a first pause of 20 ms");
    let at = reconnecting(&mut link);
    link.connect_failed(at);
    assert_eq!(link.next_timer(), Some(at + ms(40)), "twice as long");
    let at = reconnecting(&mut link);
    assert!(!bring_up(&mut link, welcome(1, 9), at));
    assert_eq!(tags(&sends(&mut link)), [1, 3, 4]);
}

/// The server would make a change of a session that ended once more.
#[test]
fn changes_that_were_sent_are_given_up_when_the_session_ended() {
    let fenced = |(epoch, fence)| Welcome { features: FEATURE_LEASES, fence, ..welcome(epoch, 9) };
    let ended = FENCE_ENDED;
    for (before, after, given_up) in [
        ((1, 0), (1, 1), false),
        ((1, 1), (1, ended + 1), true),
        ((1, ended), (1, ended + 1), false),
        ((1, ended), (2, 0), false),
        ((1, ended), (2, ended), false),
        ((1, 1), (2, ended), true),
        ((1, ended), (2, 2 * ended), true),
    ] {
        let mut link = Link::new(config());
        link.start(ms(0));
        assert!(matches!(link.poll(), Some(LinkOutput::Connect { local: true })));
        bring_up(&mut link, fenced(before), ms(0));
        link.resume(ms(0));
        link.submit(Request { kind: Kind::Unlink, ..ask(1) }, ms(1));
        link.submit(ask(2), ms(1));
        assert_eq!(tags(&sends(&mut link)), [1, 2]);
        link.disconnected(ms(2));
        link.submit(Request { kind: Kind::Unlink, ..ask(3) }, ms(3));
        let at = reconnecting(&mut link);
        bring_up(&mut link, fenced(after), at);
        link.resume(at);
        if given_up {
            let unsure = link.poll();
            let io = matches!(unsure, Some(LinkOutput::Reply { tag: 1, status: Status::Io, .. }));
            assert!(io, "{unsure:?}");
            assert_eq!(tags(&sends(&mut link)), [2, 3]);
        } else {
            assert_eq!(tags(&sends(&mut link)), [1, 2, 3]);
        }
    }
}

#[test]
fn a_new_epoch_holds_the_link_until_resumed() {
    let mut link = started(9);
    link.submit(ask(1), ms(1));
    assert_eq!(sends(&mut link).len(), 1);
    link.disconnected(ms(2));
    let at = reconnecting(&mut link);
    assert!(bring_up(&mut link, welcome(2, 9), at), "the epoch is new");
    link.submit(ask(2), at);
    link.submit_first(ask(50), at);
    let first = sends(&mut link);
    assert_eq!(tags(&first), [50]);
    assert_eq!(Header::decode(&first[0]).unwrap().epoch, 2);
    link.disconnected(at);
    let at = reconnecting(&mut link);
    assert!(bring_up(&mut link, welcome(3, 9), at));
    let again = sends(&mut link);
    assert_eq!(tags(&again), [50], "still held over another restart");
    link.frame(reply_to(&again[0], Status::Ok, vec![]), at);
    assert!(matches!(link.poll(), Some(LinkOutput::Reply { tag: 50, .. })));
    link.resume(at);
    assert_eq!(tags(&sends(&mut link)), [1, 2]);
}

#[test]
fn busy_is_retried_after_growing_pauses_and_never_seen() {
    let mut link = started(9);
    link.submit(ask(1), ms(0));
    let mut now = ms(0);
    for pause in [5, 10, 20, 40, 80, 160, 200, 200] {
        let heads = sends(&mut link);
        assert_eq!(tags(&heads), [1]);
        link.frame(reply_to(&heads[0], Status::Busy, vec![]), now);
        assert!(link.poll().is_none());
        link.tick(now + ms(pause) - Duration::from_nanos(1));
        assert!(link.poll().is_none());
        now += ms(pause);
        assert_eq!(link.next_timer(), Some(now));
        link.tick(now);
    }
}

#[test]
fn silence_brings_a_ping_and_then_a_new_connection() {
    let mut link = started(9);
    assert_eq!(link.next_timer(), None, "nothing in flight, nothing to wait for");
    link.submit(ask(1), ms(1000));
    assert_eq!(sends(&mut link).len(), 1);
    assert_eq!(link.next_timer(), Some(ms(6000)));
    link.tick(ms(6000));
    let ping = sends(&mut link);
    assert_eq!(Header::decode(&ping[0]).unwrap().kind, Kind::Ping);
    link.frame(reply_to(&ping[0], Status::Ok, vec![]), ms(6001));
    assert_eq!(link.next_timer(), Some(ms(11_001)), "the answer buys time");
    link.tick(ms(11_001));
    assert_eq!(sends(&mut link).len(), 1);
    link.tick(ms(21_001));
    assert!(matches!(link.poll(), Some(LinkOutput::Close)));
    let at = reconnecting(&mut link);
    bring_up(&mut link, welcome(1, 9), at);
    assert_eq!(tags(&sends(&mut link)), [1]);
}

#[test]
fn a_connection_that_never_answers_the_hello_is_given_up() {
    let mut link = Link::new(config());
    link.start(ms(0));
    assert!(matches!(link.poll(), Some(LinkOutput::Connect { local: true })));
    link.connected(ms(10));
    assert_eq!(sends(&mut link).len(), 1);
    link.tick(ms(15_010));
    assert!(matches!(link.poll(), Some(LinkOutput::Close)));
}

#[test]
fn a_server_that_goes_away_is_a_lost_connection() {
    let mut link = started(9);
    link.submit(ask(1), ms(0));
    let first = sends(&mut link);
    link.frame(reply_to(&first[0], Status::Unavailable, vec![]), ms(1));
    assert!(matches!(link.poll(), Some(LinkOutput::Close)));
    let at = reconnecting(&mut link);
    bring_up(&mut link, welcome(1, 9), at);
    assert_eq!(tags(&sends(&mut link)), [1]);
}

#[test]
fn a_refused_hello_is_final() {
    let mut link = Link::new(config());
    link.start(ms(0));
    link.submit(ask(1), ms(0));
    link.connected(ms(0));
    assert!(matches!(link.poll(), Some(LinkOutput::Connect { local: true })));
    let hello = sends(&mut link);
    link.frame(reply_to(&hello[0], Status::WrongCluster, vec![]), ms(1));
    link.submit(ask(2), ms(2));
    let outputs: Vec<_> = std::iter::from_fn(|| link.poll()).collect();
    assert!(matches!(outputs[0], LinkOutput::Close));
    assert!(matches!(outputs[1], LinkOutput::Refused { status: Status::WrongCluster }));
    for (output, expected) in outputs[2..].iter().zip([1, 2]) {
        let LinkOutput::Reply { tag, status, .. } = output else { panic!("{output:?}") };
        assert_eq!((*tag, *status), (expected, Status::WrongCluster));
    }
    assert_eq!(link.next_timer(), None);
}

/// Greets, and is told something else than welcome.
fn refuse(link: &mut Link, status: Status, now: Duration) {
    let hello = sends(link);
    link.frame(reply_to(&hello[0], status, vec![]), now);
}

#[test]
fn who_is_refused_by_the_local_way_goes_to_the_address_at_once() {
    let all = [Status::WrongCluster, Status::Version, Status::WrongShard, Status::NotPermitted];
    for status in all {
        let mut link = Link::new(config());
        link.start(ms(0));
        link.submit(ask(1), ms(0));
        assert!(matches!(link.poll(), Some(LinkOutput::Connect { local: true })));
        link.connected_locally(ms(1));
        refuse(&mut link, status, ms(1));
        assert!(matches!(link.poll(), Some(LinkOutput::Close)));
        assert!(matches!(link.poll(), Some(LinkOutput::Connect { local: false })));
        // Nobody there yet: the local way is not tried in between.
        link.connect_failed(ms(2));
        let at = link.next_timer().expect("a pause");
        link.tick(at);
        assert!(matches!(link.poll(), Some(LinkOutput::Connect { local: false })));
        assert!(!bring_up(&mut link, welcome(1, 9), at));
        assert_eq!(tags(&sends(&mut link)), [1], "what was asked is asked there");
        // Whoever has the name then may be another one.
        link.disconnected(at);
        reconnecting(&mut link);
    }
}

#[test]
fn another_cluster_by_the_local_way_is_no_refusal_and_at_the_address_it_is() {
    let mut link = started(9);
    link.disconnected(ms(1));
    reconnecting(&mut link);
    link.connected_locally(ms(30));
    let hello = sends(&mut link);
    let mut body = Vec::new();
    Welcome { cluster: ClusterId([8; 16]), ..welcome(1, 9) }.encode(&mut body);
    link.frame(reply_to(&hello[0], Status::Ok, body), ms(30));
    assert!(matches!(link.poll(), Some(LinkOutput::Close)));
    assert!(matches!(link.poll(), Some(LinkOutput::Connect { local: false })));
    link.connected(ms(31));
    refuse(&mut link, Status::WrongCluster, ms(31));
    assert!(matches!(link.poll(), Some(LinkOutput::Close)));
    assert!(matches!(link.poll(), Some(LinkOutput::Refused { status: Status::WrongCluster })));
}

#[test]
fn another_cluster_behind_the_same_address_is_refused() {
    let mut link = started(9);
    link.disconnected(ms(1));
    reconnecting(&mut link);
    link.connected(ms(30));
    let hello = sends(&mut link);
    let mut body = Vec::new();
    Welcome { cluster: ClusterId([8; 16]), ..welcome(1, 9) }.encode(&mut body);
    link.frame(reply_to(&hello[0], Status::Ok, body), ms(30));
    assert!(matches!(link.poll(), Some(LinkOutput::Close)));
    assert!(matches!(link.poll(), Some(LinkOutput::Refused { status: Status::WrongCluster })));
}

#[test]
fn cancelled_requests_give_their_credit_back_when_answered() {
    let mut link = started(2);
    (1..=3).for_each(|tag| link.submit(ask(tag), ms(0)));
    let first = sends(&mut link);
    assert_eq!(tags(&first), [1]);
    assert!(!link.withdraw(1));
    assert_eq!(link.cancel(1), Cancelled::Sent);
    assert!(link.withdraw(2));
    assert_eq!(link.cancel(2), Cancelled::Unknown);
    assert!(link.poll().is_none());
    link.frame(reply_to(&first[0], Status::Ok, vec![]), ms(1));
    assert_eq!(tags(&sends(&mut link)), [3]);
}

#[test]
fn goodbye_is_said_and_then_the_connection_closed() {
    let mut link = started(9);
    link.leave(ms(1));
    let goodbye = sends(&mut link);
    assert_eq!(Header::decode(&goodbye[0]).unwrap().kind, Kind::Goodbye);
    assert!(!link.is_gone());
    link.frame(reply_to(&goodbye[0], Status::Ok, vec![]), ms(2));
    assert!(matches!(link.poll(), Some(LinkOutput::Close)));
    assert!(link.is_gone() && link.next_timer().is_none());
    let mut link = started(9);
    link.leave(ms(1));
    assert_eq!(sends(&mut link).len(), 1);
    link.tick(ms(1001));
    assert!(matches!(link.poll(), Some(LinkOutput::Close)), "nobody answers");
    assert!(link.is_gone());
    let mut link = started(9);
    link.disconnected(ms(1));
    link.leave(ms(2));
    assert!(link.poll().is_none() && link.is_gone());
}

#[test]
fn an_answer_to_nothing_ends_the_connection() {
    let mut link = started(9);
    link.submit(ask(1), ms(0));
    let first = sends(&mut link);
    let mut stray = reply_to(&first[0], Status::Ok, vec![]);
    stray.header.request_id += 1;
    link.frame(stray, ms(1));
    assert!(matches!(link.poll(), Some(LinkOutput::Close)));
}

fn leasing(epoch: u64) -> Welcome {
    Welcome { features: FEATURE_LEASES, lease_ms: 3000, ..welcome(epoch, 9) }
}

#[test]
fn a_recall_is_answered_once_and_on_its_own_connection() {
    let mut link = Link::new(config());
    link.start(ms(0));
    link.poll();
    bring_up(&mut link, leasing(1), ms(0));
    let wanted = Recall { inodes: vec![(weft_wire::Ino(5), weft_wire::LeaseMode::Read)] };
    let mut body = Vec::new();
    wanted.encode(&mut body);
    let recall = || {
        let header = Header::request(Kind::Recall, 77, &body, 0);
        Frame { header, body: body.clone(), payload: None }
    };
    link.frame(recall(), ms(1));
    let Some(LinkOutput::Recall { id: 77, recall: seen }) = link.poll() else { panic!() };
    assert_eq!(seen, wanted);
    link.returned(77);
    link.returned(77);
    let answers = sends(&mut link);
    let header = Header::decode(&answers[0]).unwrap();
    assert_eq!((answers.len(), header.reply, header.request_id), (1, true, 77));
    link.frame(recall(), ms(2));
    link.poll();
    link.disconnected(ms(3));
    let at = reconnecting(&mut link);
    bring_up(&mut link, leasing(1), at);
    link.returned(77);
    assert!(sends(&mut link).is_empty(), "the server asks again on the new connection");
    link.frame(Frame { body: vec![1], ..recall() }, at);
    assert!(matches!(link.poll(), Some(LinkOutput::Close)), "that is no recall");
}

#[test]
fn leases_count_from_what_was_sent_and_are_renewed_at_a_third() {
    let mut link = started(9);
    link.submit(ask(1), ms(1));
    let first = sends(&mut link);
    assert_eq!(Header::decode(&first[0]).unwrap().lease, LeaseBits::NONE, "this server has none");
    assert_eq!(link.leases_until(), ms(0));
    let mut link = Link::new(config());
    link.start(ms(0));
    link.poll();
    bring_up(&mut link, leasing(1), ms(10));
    assert_eq!(link.leases_until(), ms(2710), "nine tenths from the hello on");
    link.submit(ask(1), ms(500));
    let first = sends(&mut link);
    assert_eq!(Header::decode(&first[0]).unwrap().lease, LeaseBits::READ);
    link.frame(reply_to(&first[0], Status::Ok, vec![]), ms(900));
    link.poll();
    assert_eq!(link.leases_until(), ms(3200), "from when it was asked, not answered");
    assert_eq!(link.next_timer(), Some(ms(1500)));
    link.tick(ms(1500));
    let ping = sends(&mut link);
    assert_eq!(Header::decode(&ping[0]).unwrap().kind, Kind::Ping);
    link.tick(ms(1600));
    assert!(sends(&mut link).is_empty(), "one ping at a time");
    assert_eq!(link.leases_until(), ms(3200), "a ping without an answer renews nothing");
    link.frame(reply_to(&ping[0], Status::Ok, vec![]), ms(1700));
    assert_eq!(link.leases_until(), ms(4200));
}

#[derive(Clone, Debug)]
enum Step {
    Submit,
    Answer(usize, bool),
    Disconnect { new_epoch: bool },
    Cancel(u64),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Submit),
        4 => (0usize..8, prop::bool::weighted(0.2)).prop_map(|(at, busy)| Step::Answer(at, busy)),
        1 => any::<bool>().prop_map(|new_epoch| Step::Disconnect { new_epoch }),
        1 => (0u64..100).prop_map(Step::Cancel),
        3 => (0u64..300).prop_map(Step::Wait),
    ]
}

/// A server that answers in any order, is busy, and goes away: drives a link and checks its promises.
struct Peer {
    link: Link,
    now: Duration,
    epoch: u64,
    credits: u32,
    in_flight: Vec<Vec<u8>>,
    /// By tag: how often answered, how often cancelled.
    ends: BTreeMap<u64, u32>,
    cancelled: BTreeMap<u64, Cancelled>,
}

impl Peer {
    fn drain(&mut self) {
        while let Some(output) = self.link.poll() {
            match output {
                LinkOutput::Connect { .. } => {
                    self.link.connected(self.now);
                    self.in_flight.clear();
                }
                LinkOutput::Send { head, .. } => self.sent(head),
                LinkOutput::Reply { tag, status, .. } => {
                    assert_eq!(status, Status::Ok);
                    assert!(!self.cancelled.contains_key(&tag), "cancelled means no reply");
                    *self.ends.entry(tag).or_default() += 1;
                }
                LinkOutput::Up { again: true, .. } => self.link.resume(self.now),
                LinkOutput::Up { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn sent(&mut self, head: Vec<u8>) {
        let header = Header::decode(&head).unwrap();
        if header.kind == Kind::Hello {
            let mut body = Vec::new();
            welcome(self.epoch, self.credits).encode(&mut body);
            return self.link.frame(reply_to(&head, Status::Ok, body), self.now);
        }
        if header.kind == Kind::GetAttr {
            let tag = tag_of(&head);
            assert!(!self.ends.contains_key(&tag), "answered, and sent again");
            let cancelled = self.cancelled.get(&tag);
            assert_eq!(cancelled, None, "cancelled, and sent afterwards");
        }
        self.in_flight.push(head);
        assert!(self.in_flight.len() <= usize::try_from(self.credits).unwrap());
    }

    fn step(&mut self, step: Step, next_tag: &mut u64) {
        match step {
            Step::Submit => {
                self.link.submit(ask(*next_tag), self.now);
                *next_tag += 1;
            }
            Step::Answer(at, busy) if at < self.in_flight.len() => {
                let status = if busy { Status::Busy } else { Status::Ok };
                let head = self.in_flight.remove(at);
                self.link.frame(reply_to(&head, status, vec![]), self.now);
            }
            Step::Answer(..) => {}
            Step::Disconnect { new_epoch } => {
                self.epoch += u64::from(new_epoch);
                self.link.disconnected(self.now);
            }
            Step::Cancel(tag) => {
                if tag < *next_tag {
                    match self.link.cancel(tag) {
                        Cancelled::Unknown => {}
                        how => assert_eq!(self.cancelled.insert(tag, how), None),
                    }
                }
            }
            Step::Wait(wait_ms) => {
                self.now += ms(wait_ms);
                self.link.tick(self.now);
            }
        }
        self.drain();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn every_request_is_answered_once(steps in prop::collection::vec(step(), 1..200), credits in 1u32..6) {
        let mut peer = Peer {
            link: Link::new(config()),
            now: ms(0),
            epoch: 1,
            credits,
            in_flight: vec![],
            ends: BTreeMap::new(),
            cancelled: BTreeMap::new(),
        };
        peer.link.start(ms(0));
        let mut next_tag = 0;
        steps.into_iter().for_each(|step| peer.step(step, &mut next_tag));
        for _ in 0..2000 {
            peer.step(Step::Answer(0, false), &mut next_tag);
            peer.step(Step::Wait(50), &mut next_tag);
        }
        for tag in 0..next_tag {
            let expected = u32::from(!peer.cancelled.contains_key(&tag));
            prop_assert_eq!(peer.ends.get(&tag).copied().unwrap_or(0), expected, "request {}", tag);
        }
    }
}
