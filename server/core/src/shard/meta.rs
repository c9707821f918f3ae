//! Requests to the volume, and what it answers.

use weft_metadata::{Action as VolumeAction, CheckpointWritten, Health, Incoming, Volume};
use weft_net::Frame;
use weft_wire::meta::{MetaReply, MetaRequest, MoveStep, SetAttr};
use weft_wire::units::{to_u64, to_usize};
use weft_wire::{Kind, SessionId, Status};

use super::leases::About;
use super::{Pending, Shard};
use crate::action::{Action, ConnId, Now};

impl Shard {
    pub(super) fn metadata_request(&mut self, conn: ConnId, session: SessionId, frame: &Frame) {
        let header = frame.header;
        if self.volume.is_none() {
            return self.answer(conn, &header, Status::WrongShard, &[], Vec::new());
        }
        let decoded = MetaRequest::decode(header.kind, &frame.body);
        let Ok((_, request)) = decoded else {
            return self.break_off(conn, "a metadata request that cannot be read");
        };
        if !matches!(request, MetaRequest::Reopen { .. }) {
            self.late_goes_on(session);
        }
        let Some(volume) = &self.volume else { unreachable!("looked at above") };
        // A file is cut on all its targets or on none.
        let cut = match &request {
            MetaRequest::SetAttr { ino, set: SetAttr { size: Some(_), .. } } => {
                volume.layout_of(*ino).map(|layout| (*ino, layout))
            }
            MetaRequest::MoveData { ino, step: MoveStep::Begin } => {
                volume.layout_to_empty(*ino).map(|layout| (*ino, layout))
            }
            _ => None,
        };
        if let Some((ino, layout)) = cut
            && let Some(target) = self.offline_of(&layout)
        {
            tracing::warn!(
                ino = ino.0,
                target = target.0,
                "not cut: a target of the file is offline"
            );
            return self.answer(conn, &header, Status::Io, &[], Vec::new());
        }
        if let Some(about) = self.admit_metadata(conn, session, frame, &request) {
            self.carry_out_metadata(conn, session, frame, about);
        }
    }

    /// A request that no lease is in the way of.
    pub(super) fn carry_out_metadata(
        &mut self,
        conn: ConnId,
        session: SessionId,
        frame: &Frame,
        about: About,
    ) {
        let header = frame.header;
        let decoded = MetaRequest::decode(header.kind, &frame.body);
        let (caller, request) = decoded.expect("it was decoded before it was let in");
        let marks = self.marks_of(None);
        let pending = Pending::Meta { conn, session, header, about, marks };
        let op = to_u64(self.pending.insert(pending));
        let volume = self.volume.as_mut().expect("only a shard with a volume lets it in");
        let mut actions = Vec::new();
        let incoming = Incoming { op, session, caller, request: &request, body: &frame.body };
        volume.request(&incoming, self.now.wall, &mut actions);
        self.volume_actions(actions);
    }

    /// A log write of the volume is over.
    pub fn volume_io_done(&mut self, io: u64, result: Result<(), i32>, now: Now) {
        self.now = now;
        self.log_writes.ended(io);
        self.with_volume(|volume, actions| volume.log_done(io, result, actions));
        self.log_writes.forget_ended();
    }

    /// The writing of the volume's checkpoint is over.
    pub fn checkpoint_written(&mut self, written: CheckpointWritten, now: Now) {
        self.now = now;
        self.with_volume(|volume, actions| volume.checkpoint_written(written, actions));
    }

    pub(super) fn flush_volume_log(&mut self) {
        self.with_volume(Volume::flush_log);
    }

    /// Whether the volume logs it.
    pub(super) fn end_session(&mut self, session: SessionId, expired: bool) -> bool {
        let mut logged = false;
        self.with_volume(|volume, _| logged = volume.session_ended(session, expired));
        self.end_locks(session);
        self.forget_late(session);
        logged
    }

    pub(super) fn tick_volume(&mut self) {
        if !self.may_serve() {
            self.wait_for_clients();
        }
        if self.grace_end.is_some_and(|end| self.now.mono >= end) {
            self.grace_end = None;
            self.locks.end_grace();
            self.with_volume(|volume, _| volume.grace_over());
        }
        let now = self.now.mono;
        self.with_volume(|volume, _| volume.tick(now));
        self.retry_works();
    }

    /// Nobody can come back before the server takes connections: until then no time counts against the clients.
    fn wait_for_clients(&mut self) {
        let now = self.now.mono;
        self.grace_end = self.grace_end.map(|_| now + self.grace);
        for state in self.sessions.values_mut() {
            *state = state.map_err(|_| now);
        }
        self.put_returns_off();
    }

    pub(super) fn stop_volume(&mut self) {
        self.with_volume(|volume, _| volume.shutdown());
    }

    pub(super) fn with_volume(&mut self, act: impl FnOnce(&mut Volume, &mut Vec<VolumeAction>)) {
        let Some(volume) = &mut self.volume else { return };
        let mut actions = Vec::new();
        let before = volume.health();
        act(volume, &mut actions);
        if volume.health() != before {
            tell_health(volume.health());
        }
        self.volume_actions(actions);
    }

    fn volume_actions(&mut self, actions: Vec<VolumeAction>) {
        for action in actions {
            match action {
                VolumeAction::Reply { op, status, body } => self.volume_reply(op, status, body),
                VolumeAction::Work(work) => self.start_work(work),
                VolumeAction::Fenced { .. } | VolumeAction::Expired { .. } => {
                    self.fence_logged(&action)
                }
                VolumeAction::Stopped => {
                    self.volume_stopped = true;
                    self.stop_if_done();
                }
                action @ VolumeAction::WriteCheckpoint(_) => self.out.push(Action::Volume(action)),
                VolumeAction::AppendLog { io, .. } => {
                    self.log_writes.began(io, self.now.mono);
                    self.out.push(Action::Volume(action));
                }
            }
        }
    }

    fn volume_reply(&mut self, op: u64, status: Status, mut body: Vec<u8>) {
        let pending = self.pending.try_remove(to_usize(op));
        let Some(Pending::Meta { conn, session, header, about, marks }) = pending else {
            unreachable!("only clients ask the volume, and each is answered once")
        };
        if header.kind == Kind::StatFs && status == Status::Ok {
            body = self.with_space(&body);
        }
        let lease = self.grant(session, &header, &about, status, &mut body);
        self.marks = self.marks_with_log(marks);
        self.answer_granting(conn, &header, status, lease, &body, Vec::new());
    }

    /// The volume knows inodes; the targets know bytes.
    fn with_space(&self, body: &[u8]) -> Vec<u8> {
        let Ok(MetaReply::StatFs(mut fs)) = MetaReply::decode(Kind::StatFs, body) else {
            unreachable!("the volume's own reply")
        };
        fs.total_bytes = self.space.values().map(|space| space.0).sum();
        fs.free_bytes = self.space.values().map(|space| space.1).sum();
        let mut body = Vec::new();
        MetaReply::StatFs(fs).encode(&mut body);
        body
    }
}

fn tell_health(health: Health) {
    match health {
        Health::Good => tracing::info!("the volume's log works again: changes are taken"),
        Health::ReadOnly(error) => tracing::error!(
            %error,
            "the volume takes no changes: its log cannot be written, which is tried again every second; next: look at \
             the device of the state folder"
        ),
        Health::Broken(error) => tracing::error!(
            %error,
            "the volume answers nothing: its database failed; next: look at the device of the state folder, then start \
             the server again"
        ),
    }
}
