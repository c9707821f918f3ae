//! Connections and sessions: the hello, the one connection a session has, and its end.

use std::collections::VecDeque;
use std::time::Duration;

use weft_net::Frame;
use weft_wire::header::{VERSION, VERSION_MIN};
use weft_wire::session::{
    FEATURE_ACL_SETGID, FEATURE_COPY, FEATURE_CTIME, FEATURE_FENCES, FEATURE_FRESH, FEATURE_INLINE,
    FEATURE_LEASES, FEATURE_PARENTS, FEATURE_SYNC_ALL, FEATURE_TRACE, Hello, Welcome,
};
use weft_wire::units::{to_u32, to_u64};
use weft_wire::{ClusterId, Header, Kind, SessionId, Status};

use super::Shard;
use crate::action::{Action, ConnId, Now};

/// What this server can do beyond the version.
const FEATURES: u64 = FEATURE_LEASES
    | FEATURE_PARENTS
    | FEATURE_SYNC_ALL
    | FEATURE_TRACE
    | FEATURE_INLINE
    | FEATURE_ACL_SETGID
    | FEATURE_FENCES
    | FEATURE_FRESH
    | FEATURE_COPY
    | FEATURE_CTIME;

#[derive(Debug, Default)]
pub(super) struct Conn {
    pub(super) session: Option<SessionId>,
    /// Requests that came and are not answered, with their times, oldest first.
    in_flight: VecDeque<(u64, Duration)>,
    /// Of these, how many wait for leases.
    pub(super) held: u32,
    /// Last sign of life.
    pub(super) heard: Duration,
}

impl Conn {
    /// Requests that came and are not answered.
    pub(super) fn in_flight(&self) -> u32 {
        to_u32(self.in_flight.len())
    }

    /// A request came.
    pub(super) fn begin(&mut self, request: u64, now: Duration) {
        self.in_flight.push_back((request, now));
    }

    /// A request is answered. Gives when it came.
    pub(super) fn end(&mut self, request: u64) -> Option<Duration> {
        // Answers come nearly in the order of the requests.
        let place = self.in_flight.iter().position(|(id, _)| *id == request)?;
        self.in_flight.remove(place).map(|(_, began)| began)
    }
}

impl Shard {
    /// A connection was accepted or handed over.
    pub fn opened(&mut self, conn: ConnId) {
        self.conns.insert(conn, Conn::default());
    }

    /// The connection is gone; the peer may come back.
    pub fn closed(&mut self, conn: ConnId, now: Now) {
        self.now = now;
        let Some(state) = self.conns.remove(&conn) else { return };
        self.conn_gone(conn, state.session, state.heard);
        let Some(session) = state.session else { return };
        if self.sessions.get(&session) == Some(&Ok(conn)) {
            self.sessions.insert(session, Err(now.mono));
        }
    }

    /// How many connections there are.
    pub fn conn_count(&self) -> usize {
        self.conns.len()
    }

    /// The peer broke the rules: say so in the log and hang up. Its requests in flight are served and not answered.
    pub(super) fn break_off(&mut self, conn: ConnId, why: &'static str) {
        tracing::warn!(conn = conn.0, shard = self.id.0, why, "closing a connection");
        let state = self.conns.remove(&conn).unwrap_or_default();
        self.conn_gone(conn, state.session, state.heard);
        if let Some(session) = state.session
            && self.sessions.get(&session) == Some(&Ok(conn))
        {
            self.sessions.insert(session, Err(self.now.mono));
        }
        self.out.push(Action::Close { conn });
    }

    pub(super) fn hello(&mut self, conn: ConnId, frame: Frame) {
        if frame.header.kind != Kind::Hello {
            return self.break_off(conn, "its first frame is not a hello");
        }
        let Ok(hello) = Hello::decode(&frame.body) else {
            return self.break_off(conn, "its hello cannot be read");
        };
        if let Err(status) = self.check_hello(&hello) {
            return self.refuse(conn, &frame.header, status);
        }
        if hello.shard != self.id {
            self.conns.remove(&conn);
            return self.out.push(Action::HandOver { conn, shard: hello.shard, hello: frame });
        }
        let before = self.sessions.insert(hello.session, Ok(conn));
        self.forget_lock_listener(hello.session);
        if let Some(Ok(old)) = before
            && old != conn
        {
            tracing::info!(session = %hello.session, "session came back on a new connection");
            let state = self.conns.remove(&old).unwrap_or_default();
            self.conn_gone(old, state.session, state.heard);
            self.out.push(Action::Close { conn: old });
        }
        let Some(state) = self.conns.get_mut(&conn) else { return };
        state.session = Some(hello.session);
        tracing::debug!(conn = conn.0, session = %hello.session, shard = self.id.0, "hello");
        self.welcome(conn, &frame.header, &hello);
        self.recall_again(conn, hello.session);
    }

    fn check_hello(&self, hello: &Hello) -> Result<(), Status> {
        if hello.versions.0 > VERSION || hello.versions.1 < VERSION_MIN {
            return Err(Status::Version);
        }
        if hello.cluster != ClusterId::default() && hello.cluster != self.cluster {
            return Err(Status::WrongCluster);
        }
        if hello.shard.0 >= self.shard_count() {
            return Err(Status::WrongShard);
        }
        // One that replaces its session's old connection takes that one's place.
        let comes_back = matches!(self.sessions.get(&hello.session), Some(Ok(_)));
        if !comes_back && to_u64(self.conns.len()) > u64::from(self.memory.conns_max) {
            return Err(Status::Busy);
        }
        Ok(())
    }

    fn welcome(&mut self, conn: ConnId, request: &Header, hello: &Hello) {
        let welcome = Welcome {
            version: VERSION,
            features: hello.features & FEATURES,
            cluster: self.cluster,
            shard_count: self.shard_count(),
            epoch: self.epoch,
            boot: self.boot,
            credits: self.credits,
            payload_bytes_max: self.payload_bytes_max,
            slot_count: match &self.volume {
                Some(_) => weft_wire::limits::SLOTS_MAX,
                None => 0,
            },
            lease_ms: self.leases.time_ms(),
            fence: self.fences.welcome(hello),
        };
        let mut body = Vec::new();
        welcome.encode(&mut body);
        self.out.push(Action::OpenUp { conn });
        self.answer(conn, request, Status::Ok, &body, Vec::new());
    }

    fn refuse(&mut self, conn: ConnId, request: &Header, status: Status) {
        tracing::warn!(conn = conn.0, %status, "refused a hello");
        self.answer(conn, request, status, &[], Vec::new());
        self.conns.remove(&conn);
        self.out.push(Action::Close { conn });
    }

    pub(super) fn goodbye(&mut self, conn: ConnId, header: &Header, session: SessionId) {
        self.answer(conn, header, Status::Ok, &[], Vec::new());
        self.conns.remove(&conn);
        self.conn_gone(conn, None, Duration::ZERO);
        self.sessions.remove(&session);
        self.end_session(session, false);
        self.end_leases(session);
        self.out.push(Action::Close { conn });
    }

    /// Ends the sessions that have had no connection for too long.
    pub(super) fn expire_sessions(&mut self) {
        let (now, timeout) = (self.now, self.session_timeout);
        let expired: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, state)| state.is_err_and(|lost| now.mono.saturating_sub(lost) > timeout))
            .map(|(session, _)| *session)
            .collect();
        for session in expired {
            tracing::info!(%session, "session expired");
            self.sessions.remove(&session);
            // One that changed nothing lost no outcome: its client may send everything again.
            let changed = self.end_session(session, true);
            if self.volume.is_some() {
                self.fence_ended(session, changed);
            }
        }
    }

    pub(super) fn shard_count(&self) -> u16 {
        self.map.nodes.first().map_or(1, |node| node.shard_count)
    }
}
