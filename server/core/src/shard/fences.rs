//! How sessions are fenced off that do not give back what others wait for, and what is known of that after a restart.
//!
//! **Others go on only when the volume has it durably that they do.** The server is started again at any moment, and
//! must refuse then what it would have refused before: `doc/leases.md`. While the volume's log cannot be written they go on
//! all the same, or nothing could be read any more; the word waits in front of everybody's changes there, so none of these
//! is acknowledged before it.

use std::collections::{BTreeMap, BTreeSet};

use weft_metadata::{Action as VolumeAction, Fence, Health};
use weft_wire::lease::Reclaimed;
use weft_wire::session::{FEATURE_FENCES, FENCE_ENDED, Hello};
use weft_wire::{SessionId, ShardId};

use super::Shard;
use crate::action::Message;
use crate::planted::{self, Bug};

/// Fenced sessions that are remembered.
const FENCES_MAX: usize = 16 << 10;

/// A session that others did not wait for after the start.
#[derive(Clone, Copy, Debug, Default)]
struct Late {
    /// It has said what it has to write.
    came: bool,
    /// Some of that was refused: until it is known to have heard of it, it counts as late.
    refused: bool,
    /// The volume was told that it is back.
    back: bool,
}

/// What a shard knows of fences.
#[derive(Debug, Default)]
pub(super) struct FenceState {
    /// What each session is told of how often it was fenced off.
    numbers: BTreeMap<SessionId, u32>,
    /// These as of the start, for clients that count from there.
    before: BTreeMap<SessionId, u32>,
    /// Sessions whose fence, or whose end, is on its way to the volume's log.
    logging: BTreeSet<SessionId>,
    ending: BTreeSet<SessionId>,
    /// Sessions being fenced off, and the shards that have not said so.
    under_way: BTreeMap<SessionId, BTreeSet<ShardId>>,
    /// Sessions that had not come back when others went on.
    late: BTreeMap<SessionId, Late>,
}

impl FenceState {
    fn number(&self, session: SessionId) -> u32 {
        self.numbers.get(&session).copied().unwrap_or(0)
    }

    /// What a welcome says. A client that does not know that the numbers outlive the server takes those of before for news.
    pub(super) fn welcome(&self, hello: &Hello) -> u32 {
        let number = self.number(hello.session);
        let before = self.before.get(&hello.session).map_or(0, |before| before % FENCE_ENDED);
        match hello.features & FEATURE_FENCES {
            0 => number.saturating_sub(before),
            _ => number,
        }
    }

    fn remember(&mut self, session: SessionId, number: u32) {
        if self.numbers.len() >= FENCES_MAX && !self.numbers.contains_key(&session) {
            self.numbers.pop_first();
        }
        self.numbers.insert(session, number);
    }

    /// Whether the session came back after others had gone on, or has not yet.
    pub(super) fn is_late(&self, session: SessionId) -> bool {
        self.late.contains_key(&session)
    }
}

impl Shard {
    /// The server was started: who was fenced off before must be told, by every shard.
    pub(super) fn take_fences(&mut self) {
        let Some(volume) = &self.volume else { return };
        let mut fences: Vec<(SessionId, u32)> = volume.fences().collect();
        if planted::is(Bug::LetLateIn) {
            fences.iter_mut().for_each(|(_, number)| *number -= *number % FENCE_ENDED);
        }
        if !fences.is_empty() {
            self.send_to_all(&Message::KnownFences { fences });
        }
    }

    /// Before this shard has a connection.
    pub(super) fn know_fences(&mut self, fences: &[(SessionId, u32)]) {
        for (session, number) in fences.iter().take(FENCES_MAX) {
            self.fences.remember(*session, *number);
            self.fences.before.insert(*session, *number);
        }
    }

    /// Whether what is said to the volume will be durable.
    fn can_log(&self) -> bool {
        self.volume.as_ref().is_some_and(|volume| volume.health() == Health::Good)
    }

    /// Fences a session off: what it still has to write is refused everywhere before anybody goes on without it.
    pub(super) fn fence(&mut self, session: SessionId) {
        let fences = &mut self.fences;
        let known = fences.under_way.contains_key(&session) || fences.ending.contains(&session);
        if known || !fences.logging.insert(session) {
            return;
        }
        tracing::warn!(%session, "a client does not give leases back: it is fenced off");
        self.with_volume(|volume, _| volume.fence(session, Fence::Off));
    }

    /// The same for a session that expired: outcomes of its changes went with it, and its client must not send again what
    /// was sent before. `logged`: the volume says when it has that. One that the volume did not know held nothing.
    pub(super) fn fence_ended(&mut self, session: SessionId, logged: bool) {
        let known = self.volume.as_ref().is_some_and(|volume| volume.knows(session));
        match logged || known {
            true => drop(self.fences.ending.insert(session)),
            false => self.end_leases(session),
        }
    }

    /// A session is over.
    pub(super) fn forget_late(&mut self, session: SessionId) {
        self.fences.late.remove(&session);
    }

    /// After a start others go on without these.
    pub(super) fn go_on_without(&mut self, sessions: &BTreeSet<SessionId>) {
        for session in sessions {
            self.fences.late.insert(*session, Late::default());
            self.with_volume(|volume, _| volume.fence(*session, Fence::Late));
        }
    }

    /// The volume has durably that others go on without a session.
    pub(super) fn fence_logged(&mut self, action: &VolumeAction) {
        match *action {
            VolumeAction::Fenced { session, what: Fence::Off, number } => {
                let waited_for = self.fences.logging.remove(&session);
                self.fence_logged_as(waited_for, session, (number, 1));
            }
            VolumeAction::Fenced { session, what: Fence::Late, .. } => self.late_is_logged(session),
            VolumeAction::Expired { session, number } => {
                let waited_for = self.fences.ending.remove(&session);
                self.fence_logged_as(waited_for, session, (number, FENCE_ENDED));
            }
            _ => {}
        }
    }

    /// Not waited for any more: it happened without the log.
    fn fence_logged_as(
        &mut self,
        waited_for: bool,
        session: SessionId,
        (number, step): (u32, u32),
    ) {
        if waited_for {
            let next = self.fences.number(session).saturating_add(step);
            self.fence_by(session, number.max(next));
        }
    }

    /// Time passes: what the volume cannot log is not waited for.
    pub(super) fn tick_fences(&mut self) {
        if self.stopping || self.can_log() {
            return;
        }
        for session in std::mem::take(&mut self.fences.logging) {
            self.fence_by(session, self.fences.number(session).saturating_add(1));
        }
        for session in std::mem::take(&mut self.fences.ending) {
            self.fence_by(session, self.fences.number(session).saturating_add(FENCE_ENDED));
        }
        self.all_late_are_logged();
    }

    fn fence_by(&mut self, session: SessionId, number: u32) {
        let shards: BTreeSet<ShardId> = (0..self.shard_count()).map(ShardId).collect();
        self.fences.under_way.insert(session, shards);
        self.send_to_all(&Message::Fence { from: self.id, session, number });
    }

    /// A shard with a volume fences a session off: its connection ends, and what it says on the next one is new.
    pub(super) fn fence_here(&mut self, from: ShardId, session: SessionId, number: u32) {
        self.fences.remember(session, number);
        if let Some(Ok(conn)) = self.sessions.get(&session).copied() {
            self.break_off(conn, "its session is fenced off");
        }
        self.send_to_shard(from, Message::Fenced { from: self.id, session });
    }

    pub(super) fn fenced(&mut self, from: ShardId, session: SessionId) {
        let Some(missing) = self.fences.under_way.get_mut(&session) else { return };
        missing.remove(&from);
        if missing.is_empty() {
            self.fences.under_way.remove(&session);
            self.end_leases(session);
        }
    }

    /// A late session has said what it has to write, or a part of it (`more`).
    pub(super) fn late_reclaimed(&mut self, session: SessionId, reply: &Reclaimed, more: bool) {
        let Some(late) = self.fences.late.get_mut(&session) else { return };
        late.refused |= !reply.refused.is_empty();
        late.came |= !more;
        if late.came && !late.refused {
            self.late_is_back(session);
        }
    }

    /// A session asks something that no client asks before it has the answer to what it had to write.
    pub(super) fn late_goes_on(&mut self, session: SessionId) {
        if self.fences.late.get(&session).is_some_and(|late| late.came) {
            self.late_is_back(session);
            self.fences.late.remove(&session);
        }
    }

    fn late_is_back(&mut self, session: SessionId) {
        let late = self.fences.late.get_mut(&session).expect("looked at by the caller");
        if !std::mem::replace(&mut late.back, true) {
            self.with_volume(|volume, _| volume.fence(session, Fence::Back));
        }
    }

    /// How often a session was fenced off, as it is told; for tests.
    #[must_use]
    pub fn fence_of(&self, session: SessionId) -> u32 {
        self.fences.number(session)
    }
}
