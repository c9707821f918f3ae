//! Requests about locks, at the shard of the volume: see [`crate::locks`].

use weft_net::Frame;
use weft_wire::limits::LIST_COUNT_MAX;
use weft_wire::locks::{
    LockCancel, LockCancelReply, LockClaim, LockClaimReply, LockEventsReply, LockReply,
    LockRequest, LockTest, LockTestReply,
};
use weft_wire::units::to_u32;
use weft_wire::{Header, Kind, SessionId, Status, WireError};

use super::Shard;
use crate::action::ConnId;

impl Shard {
    pub(super) fn lock_request(&mut self, conn: ConnId, session: SessionId, frame: &Frame) {
        let header = frame.header;
        if self.volume.is_none() {
            return self.answer(conn, &header, Status::WrongShard, &[], Vec::new());
        }
        if header.kind == Kind::LockEvents {
            let before = self.lock_listeners.insert(session, (conn, header));
            if let Some((conn, header)) = before {
                self.answer_events(conn, &header, Vec::new());
            }
            return self.tell_lock_events();
        }
        let mut body = Vec::new();
        match self.serve_lock(session, header.kind, &frame.body, &mut body) {
            Ok(Ok(())) => self.answer(conn, &header, Status::Ok, &body, Vec::new()),
            Ok(Err(Status::Busy)) => self.busy(conn, &header),
            Ok(Err(status)) => self.answer(conn, &header, status, &[], Vec::new()),
            Err(_) => self.break_off(conn, "a request about locks that cannot be read"),
        }
        self.tell_lock_events();
    }

    fn serve_lock(
        &mut self,
        session: SessionId,
        kind: Kind,
        request: &[u8],
        body: &mut Vec<u8>,
    ) -> Result<Result<(), Status>, WireError> {
        let (now, locks) = (self.now.mono, &mut self.locks);
        match kind {
            Kind::Lock => match locks.lock(session, &LockRequest::decode(request)?, now) {
                Ok(queued) => LockReply { queued }.encode(body),
                Err(status) => return Ok(Err(status)),
            },
            Kind::LockTest => match locks.test(session, &LockTest::decode(request)?) {
                Ok(conflict) => LockTestReply { conflict }.encode(body),
                Err(status) => return Ok(Err(status)),
            },
            Kind::LockCancel => {
                let withdrawn = locks.cancel(session, LockCancel::decode(request)?.ticket, now);
                LockCancelReply { withdrawn }.encode(body);
            }
            _ => {
                let claim = LockClaim::decode(request)?;
                self.claim_locks(session, &claim).encode(body);
            }
        }
        Ok(Ok(()))
    }

    fn claim_locks(&mut self, session: SessionId, claim: &LockClaim) -> LockClaimReply {
        let mut refused = Vec::new();
        for (index, lock) in claim.locks.iter().enumerate() {
            if !self.locks.claim(session, lock) {
                tracing::warn!(%session, ino = lock.ino.0, "a lock it held is not its any more");
                refused.push(to_u32(index));
            }
        }
        if claim.last {
            self.locks.claimed_all(session, self.now.mono);
        }
        LockClaimReply { refused }
    }

    /// Answers the sessions that listen and have something to hear.
    pub(super) fn tell_lock_events(&mut self) {
        for session in self.locks.sessions_with_events() {
            if let Some((conn, header)) = self.lock_listeners.remove(&session) {
                let events = self.locks.take_events(session, LIST_COUNT_MAX);
                self.answer_events(conn, &header, events);
            }
        }
    }

    fn answer_events(&mut self, conn: ConnId, header: &Header, events: Vec<(u64, Status)>) {
        let mut body = Vec::new();
        LockEventsReply { events }.encode(&mut body);
        self.answer(conn, header, Status::Ok, &body, Vec::new());
    }

    /// The session has a new connection, on which it asks again for what it waits for.
    pub(super) fn forget_lock_listener(&mut self, session: SessionId) {
        self.lock_listeners.remove(&session);
        self.locks.forget_events(session);
    }

    pub(super) fn end_locks(&mut self, session: SessionId) {
        self.lock_listeners.remove(&session);
        self.locks.end_session(session, self.now.mono);
        self.tell_lock_events();
    }

    pub(super) fn tick_locks(&mut self) {
        self.locks.tick(self.now.mono);
        self.tell_lock_events();
    }
}
