//! The servers' part of a trace: what each shard recorded of the mount's requests, on the client's clock.

use std::collections::BTreeMap;
use std::time::Duration;

use weft_client_core::keep::trace::{RequestSpan, Trace};
use weft_wire::trace::{Span, TraceQuery};
use weft_wire::{ClusterId, ShardId};

use super::clocks::{self, Joined, Pair};
use crate::client::{Connection, Session};
use crate::clock;

/// Requests asked about beside those shown, so that the clocks are joined by many.
const FOR_CLOCKS: usize = 2_000;
/// Requests of one question.
const IDS_AT_ONCE: usize = 2_000;
const _: () = assert!(IDS_AT_ONCE <= weft_wire::trace::TRACE_IDS_MAX);

/// What one shard said.
pub(super) struct Server {
    pub(super) shard: ShardId,
    pub(super) address: String,
    /// Why it said nothing.
    pub(super) error: Option<String>,
    /// By request id.
    spans: BTreeMap<u64, Vec<Span>>,
    pairs: Vec<Pair>,
    /// The oldest request it has, by its own clock.
    oldest: u64,
}

/// A request at its server, by the client's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct AtServer {
    pub(super) received: u64,
    pub(super) admitted: Option<u64>,
    pub(super) device: Option<(u64, u64)>,
    pub(super) replied: u64,
    pub(super) uncertainty: u64,
}

/// By link.
pub(super) type Servers = BTreeMap<u16, Server>;

/// Asks the shards that were asked what is shown.
pub(super) fn ask(trace: &Trace, shown: &[RequestSpan], timeout: Duration) -> Servers {
    let mut servers = Servers::new();
    let mut links: Vec<u16> = shown.iter().map(|request| request.link).collect();
    links.sort_unstable();
    links.dedup();
    for link in links {
        let known = trace.links.get(usize::from(link)).cloned();
        let (shard, address) = known.unwrap_or_default();
        let of_link = |requests: &[RequestSpan]| -> Vec<RequestSpan> {
            requests.iter().filter(|request| request.link == link).copied().collect()
        };
        let (own, all) = (of_link(shown), of_link(&trace.requests));
        let mut server = Server {
            shard,
            address,
            error: None,
            spans: BTreeMap::new(),
            pairs: Vec::new(),
            oldest: 0,
        };
        if let Err(why) = server.ask(trace, &own, &all, timeout) {
            server.error = Some(why);
        }
        servers.insert(link, server);
    }
    servers
}

impl Server {
    fn ask(
        &mut self,
        trace: &Trace,
        own: &[RequestSpan],
        all: &[RequestSpan],
        timeout: Duration,
    ) -> Result<(), String> {
        if self.address.is_empty() {
            return Err("the mount has more servers than its recorder names".to_owned());
        }
        let session = Session::new(ClusterId::default(), timeout);
        let open = Connection::open(&self.address, &session, self.shard);
        let mut connection = open.map_err(|error| error.to_string())?;
        if !connection.knows_trace() {
            connection.goodbye();
            return Err(format!("the server {} does not know trace: upgrade it", self.address));
        }
        let for_clocks = all.iter().rev().take(FOR_CLOCKS);
        let mut ids: Vec<u64> = own.iter().chain(for_clocks).map(|span| span.request_id).collect();
        ids.sort_unstable();
        ids.dedup();
        for ids in ids.chunks(IDS_AT_ONCE) {
            let query = TraceQuery { session: trace.session, ids: ids.to_vec() };
            let sent = clock::machine_nanos();
            let reply = connection.trace(&query).map_err(|error| error.to_string())?;
            // This question bounds the clocks, too: the mount's is this machine's.
            let answered = clock::machine_nanos();
            self.pairs.push(Pair { sent, answered, received: reply.now, replied: reply.now });
            self.oldest = reply.oldest;
            for span in reply.spans {
                self.spans.entry(span.request_id).or_default().push(span);
            }
        }
        connection.goodbye();
        let pairs = self.pairs_of(own.iter().chain(all));
        self.pairs.extend(pairs);
        Ok(())
    }

    /// Requests that are known at both ends and cannot be taken for another: a client that was started anew counts anew.
    fn pairs_of<'a>(&self, requests: impl Iterator<Item = &'a RequestSpan>) -> Vec<Pair> {
        let mut by_id: BTreeMap<u64, Option<&RequestSpan>> = BTreeMap::new();
        for request in requests {
            let seen = by_id.entry(request.request_id).or_insert(Some(request));
            if *seen != Some(request) {
                *seen = None;
            }
        }
        let once = by_id.into_values().flatten().filter(|request| request.send_count == 1);
        once.filter_map(|request| match self.spans.get(&request.request_id)?.as_slice() {
            [span] if Some(span.kind) == request.kind => Some(pair(request, span)),
            _ => None,
        })
        .collect()
    }

    /// How the clocks stand when the client's shows `at`.
    pub(super) fn clocks(&self, at: u64) -> Option<Joined> {
        clocks::join(&self.pairs, at)
    }

    /// The request at this server, or why that is not known.
    pub(super) fn find(&self, request: &RequestSpan) -> Result<AtServer, String> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        let spans = self.spans.get(&request.request_id).map_or(&[][..], Vec::as_slice);
        let of_kind = spans.iter().filter(|span| Some(span.kind) == request.kind);
        // Sent more than once it was answered more than once (`Busy`): the last answer counts.
        let clocks = self.clocks(request.sent);
        let fitting = of_kind.filter_map(|span| {
            let clocks = clocks?;
            clocks.fits(&pair(request, span)).then_some((span, clocks))
        });
        match fitting.max_by_key(|(span, _)| span.replied) {
            Some((span, clocks)) => Ok(at_server(request, span, clocks)),
            None => Err(self.why_unknown(request, clocks)),
        }
    }

    fn why_unknown(&self, request: &RequestSpan, clocks: Option<Joined>) -> String {
        let oldest = clocks.map(|clocks| clocks.to_client(self.oldest));
        match oldest {
            Some(oldest) if request.answered >= oldest => {
                format!("shard {} knows nothing of it: it was started anew since", self.shard)
            }
            _ => format!("older than the recorder of shard {} holds", self.shard),
        }
    }
}

fn pair(request: &RequestSpan, span: &Span) -> Pair {
    let RequestSpan { sent, answered, .. } = *request;
    Pair { sent, answered, received: span.received, replied: span.replied }
}

/// The clocks are known up to the uncertainty; that the server had the request between its being sent and its answer is
/// certain.
fn at_server(request: &RequestSpan, span: &Span, clocks: Joined) -> AtServer {
    let within = |time: u64| {
        let end = request.answered.max(request.sent);
        clocks.to_client(time).clamp(request.sent, end)
    };
    let happened = |time: u64| (time != 0).then(|| within(time));
    AtServer {
        received: within(span.received),
        admitted: happened(span.admitted),
        device: happened(span.device_began).zip(happened(span.device_ended)),
        replied: within(span.replied),
        uncertainty: clocks.uncertainty,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Manner, serve};
    use weft_wire::{ChunkIndex, Ino, Kind, Status};

    fn request(id: u64, sent: u64) -> RequestSpan {
        RequestSpan {
            op: 1,
            request_id: id,
            kind: Some(Kind::Write),
            status: Some(Status::Ok),
            link: 0,
            target: None,
            ino: Ino(1),
            chunk: ChunkIndex(0),
            offset: 0,
            bytes: 0,
            send_count: 1,
            asked: sent - 1_000,
            sent,
            answered: sent + 100_000,
        }
    }

    fn span(request: &RequestSpan, ahead: u64) -> Span {
        Span {
            request_id: request.request_id,
            kind: Kind::Write,
            status: Status::Ok,
            target: None,
            bytes: 0,
            received: request.sent + ahead + 20_000,
            admitted: request.sent + ahead + 21_000,
            device_began: 0,
            device_ended: 0,
            replied: request.sent + ahead + 80_000,
        }
    }

    fn server(requests: &[RequestSpan], spans: &[Span]) -> Server {
        let mut server = Server {
            shard: ShardId(3),
            address: "h:1".to_owned(),
            error: None,
            spans: BTreeMap::new(),
            pairs: Vec::new(),
            oldest: spans.iter().map(|span| span.replied).min().unwrap_or(0),
        };
        spans.iter().for_each(|span| server.spans.entry(span.request_id).or_default().push(*span));
        server.pairs = server.pairs_of(requests.iter());
        server
    }

    #[test]
    fn a_request_is_found_at_its_server_and_on_the_clients_clock() {
        let requests = [request(7, 1_000_000), request(8, 3_000_000)];
        let spans = requests.map(|request| span(&request, 1 << 50));
        let server = server(&requests, &spans);
        let found = server.find(&requests[0]).expect("known");
        assert!(found.received.abs_diff(1_020_000) <= found.uncertainty, "{found:?}");
        assert!(found.received <= found.admitted.expect("it was") && found.device.is_none());
        assert!(found.uncertainty <= 20_500, "{found:?}");
    }

    /// A client-core that was started anew counts its requests from the start again.
    #[test]
    fn of_two_requests_with_one_id_each_gets_its_own() {
        let (before, after) = (request(7, 1_000_000), request(7, 9_000_000));
        let other = request(9, 5_000_000);
        let spans = [before, after, other].map(|request| span(&request, 500));
        let server = server(&[before, after, other], &spans);
        assert_eq!(server.pairs.len(), 1, "only the one that cannot be another");
        for request in [before, after] {
            let found = server.find(&request).expect("known");
            assert!((request.sent..=request.answered).contains(&found.received));
        }
    }

    fn asked(address: &str) -> Server {
        let requests = vec![request(7, 1_000_000)];
        let links = vec![(ShardId(0), address.to_owned())];
        let trace = Trace { links, requests: requests.clone(), ..Trace::default() };
        let servers = ask(&trace, &requests, Duration::from_secs(5));
        servers.into_values().next().expect("one link")
    }

    /// An older server takes the question for garbage and hangs up: it is not asked.
    #[test]
    fn servers_that_do_not_know_trace_or_answer_nonsense_or_are_away_are_named() {
        let (older, _) = serve(Manner::Good);
        let server = asked(&older);
        let why = server.find(&request(7, 1_000_000)).expect_err("nothing known");
        assert!(why.contains("does not know trace: upgrade it"), "{why}");
        let (bad, _) = serve(Manner::BadTrace);
        let why = asked(&bad).error.expect("nonsense");
        assert!(why.contains("what came back is no answer"), "{why}");
        let why = asked("127.0.0.1:1").error.expect("away");
        assert!(why.contains("no connection"), "{why}");
        assert!(asked("").error.is_some());
    }

    #[test]
    fn what_is_not_known_is_said() {
        let (old, new, lost) =
            (request(1, 1_000_000), request(2, 9_000_000), request(3, 9_500_000));
        let mut server = server(&[old, new, lost], &[span(&new, 0)]);
        assert!(
            server.find(&old).expect_err("gone").contains("older than the recorder of shard 3")
        );
        assert!(server.find(&lost).expect_err("gone").contains("started anew"));
        server.error = Some("no connection".to_owned());
        assert_eq!(server.find(&new).expect_err("away"), "no connection");
    }
}
