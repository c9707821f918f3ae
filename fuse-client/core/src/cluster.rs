//! Who is where: the first connection, the map, a link for each shard, and what is due when a server came back.

use std::collections::BTreeSet;

use weft_net::link::{Link, LinkConfig, Request};
use weft_wire::meta::{MetaReply, MetaRequest};
use weft_wire::session::{ClusterMap, Place, Welcome};
use weft_wire::{Ino, Kind, LeaseBits, LeaseMode, ShardId, Status, TargetId, VolumeId};

use crate::core::{ClientCore, at, link_id};
use crate::keep::records::write_state;
use crate::limits::{REOPEN_COUNT, REQUESTS_OF_A_CORE_LOG2};
use crate::op::{Caller, LinkId, OpId, Output};
use crate::state::{Answer, Call, OpKind, Purpose, errno};
use crate::volume::{Volume, encode};

impl ClientCore {
    /// Connects to shard 0 of the server we were given, and asks for the map.
    pub(crate) fn start_bootstrap(&mut self) {
        let link = self.new_link(self.address.clone(), ShardId(0));
        let tag = self.next_tag();
        let call = Call {
            link,
            kind: Kind::ClusterMap,
            volume: None,
            purpose: Purpose::Map,
            changes: None,
        };
        let body = Vec::new();
        let request = Request {
            tag,
            kind: Kind::ClusterMap,
            body,
            payload: None,
            deadline: None,
            lease: LeaseBits::NONE,
        };
        // Before anything that is open is told, where there was a client-core before this one.
        let first = self.legacy.is_some();
        self.call(call, request, first);
    }

    fn new_link(&mut self, address: String, shard: ShardId) -> LinkId {
        let config = LinkConfig {
            cluster: self.config.cluster.unwrap_or_default(),
            session: self.config.session,
            leases: true,
            shard,
            reply_timeout: self.config.reply_timeout,
        };
        let mut link = Link::new(config);
        let kept = self.kept_links.get(&(address.clone(), shard)).map(|(_, welcome)| *welcome);
        if let Some(welcome) = kept {
            link.was_up(welcome);
        }
        // What the servers recorded of the client-core before this one is not taken for ours.
        link.number_from(self.core_number.saturating_sub(1) << REQUESTS_OF_A_CORE_LOG2);
        link.start(self.now);
        if let Some(keep) = &mut self.keep {
            keep.trace_link(self.links.len(), shard, &address);
        }
        self.links.push(link);
        self.link_addresses.push(address);
        let id = link_id(self.links.len() - 1);
        self.epochs.extend(kept.map(|welcome| (id, welcome.epoch)));
        self.touch_link(id);
        id
    }

    pub(crate) fn map_came(&mut self, answer: &Answer) {
        let map = ClusterMap::decode(&answer.body).ok().filter(|_| answer.status == Status::Ok);
        let address = self.address.clone();
        let Some(map) = map else {
            let why = answer.status;
            return self.fail(format!(
                "the server at {address} gave no map of its cluster ({why}); see its log"
            ));
        };
        if map.volumes.iter().all(|(volume, _)| *volume != Ino::ROOT.volume()) {
            return self.fail(format!(
                "the cluster of {address} has no metadata volume 0; format one with weft-server"
            ));
        }
        // A shard keeps one connection of a session. The one we came by is kept if the map calls its node by the
        // address we know; otherwise the map's own address for that node replaces it.
        let mut known: Vec<(String, ShardId, LinkId)> = vec![(address, ShardId(0), LinkId(0))];
        for (target, place) in &map.targets {
            let link = self.link_to(&map, *place, &mut known);
            self.targets.insert(*target, link);
        }
        for (volume, place) in &map.volumes {
            let link = self.link_to(&map, *place, &mut known);
            self.volumes.insert(*volume, Volume::new(link));
        }
        let volume_links = self.volumes.values().map(|volume| volume.link);
        if !self.targets.values().copied().chain(volume_links).any(|link| link == LinkId(0)) {
            self.links[0].hang_up();
            self.touch_link(LinkId(0));
        }
        if let Some(welcome) = self.links[0].welcome() {
            let count = welcome.slot_count;
            let own = self.volumes.values_mut().filter(|volume| volume.link == LinkId(0));
            own.for_each(|volume| volume.set_slot_count(count));
        }
        self.take_up();
        let request = MetaRequest::GetAttr { ino: Ino::ROOT };
        self.meta_call(Ino::ROOT, Caller::default(), &request, Purpose::RootStat);
    }

    fn link_to(
        &mut self,
        map: &ClusterMap,
        place: Place,
        known: &mut Vec<(String, ShardId, LinkId)>,
    ) -> LinkId {
        let node = &map.nodes[usize::from(place.node)];
        let address = if node.address.is_empty() { &self.address } else { &node.address }.clone();
        let same = |(other, shard, _): &&(String, ShardId, LinkId)| {
            *other == address && *shard == place.shard
        };
        if let Some((.., link)) = known.iter().find(same) {
            return *link;
        }
        let link = self.new_link(address.clone(), place.shard);
        known.push((address, place.shard, link));
        link
    }

    pub(crate) fn root_came(&mut self, answer: &Answer) {
        let attr = MetaReply::decode(Kind::GetAttr, &answer.body);
        match (answer.status, attr) {
            (Status::Ok, Ok(_)) => {
                self.ready = true;
                self.make_known();
                self.push(Output::Ready);
                if let Some(keep) = &mut self.keep {
                    keep.set_ready();
                }
                self.begin_early();
            }
            (status, _) => {
                let address = &self.address;
                self.fail(format!(
                    "the root directory of the cluster of {address} cannot be read ({status}); \
                     see the log of the node with volume 0"
                ));
            }
        }
    }

    pub(crate) fn link_up(
        &mut self,
        link: LinkId,
        welcome: &Welcome,
        again: bool,
        data_lost: bool,
    ) {
        if self.put_off_link_up(link, welcome, data_lost) {
            return;
        }
        let of_link = |(id, volume): (&VolumeId, &Volume)| (volume.link == link).then_some(*id);
        let volumes: Vec<VolumeId> = self.volumes.iter().filter_map(of_link).collect();
        for id in &volumes {
            let volume = self.volumes.get_mut(id).expect("just listed");
            volume.set_slot_count(welcome.slot_count);
            self.send_queued(*id);
        }
        let before = self.epochs.insert(link, welcome.epoch);
        let restarted = before.is_some_and(|before| before != welcome.epoch);
        self.look_at_fence(link, welcome, restarted);
        if !again {
            self.keep_welcome(link);
            return self.links[at(link)].resume(self.now);
        }
        tracing::info!(link = link.0, epoch = welcome.epoch, data_lost, "connected again");
        volumes.iter().for_each(|id| self.cancel_reopening(*id));
        self.sync_lingering_again(link);
        self.return_to(link, restarted);
        if data_lost {
            self.rewrite_lost(link);
        }
        // After what may have to be written again was marked so.
        self.keep_welcome(link);
        // Also for the same server: it may have ended the session, or counted what will be replayed.
        for id in &volumes {
            self.reopen(*id);
            self.ask_for_locks_again(*id);
        }
        if !volumes.is_empty() {
            return; // The last answer to these has it go on.
        }
        // What others may have written since is not written over before the volume said that it is ours.
        let returns = |v: &Volume| v.must_return || !self.links[at(v.link)].is_up();
        if restarted && self.volumes.values().any(returns) {
            self.held_links.insert(link);
        } else {
            self.resume(link);
        }
    }

    /// What was told on the connection before was not heard, or is not remembered.
    fn cancel_reopening(&mut self, id: VolumeId) {
        let volume = self.volumes.get_mut(&id).expect("known");
        let link = volume.link;
        for tag in std::mem::take(&mut volume.reopening) {
            self.links[at(link)].cancel(tag);
            self.calls.remove(&tag);
            self.forget_claim(tag);
        }
    }

    /// Tells a volume what is open and locked here, before what is unanswered is replayed.
    fn reopen(&mut self, id: VolumeId) {
        self.volumes.get_mut(&id).expect("known").has_changed = false;
        let link = self.volumes[&id].link;
        let claims = self.claim_locks(id);
        self.volumes.get_mut(&id).expect("known").reopening.extend(claims);
        let mut opens = self.volumes[&id].releasing.clone();
        for (ino, file) in self.files.iter().filter(|(ino, _)| ino.volume() == id) {
            if file.server_opens > 0 {
                *opens.entry(*ino).or_default() += file.server_opens;
            }
        }
        self.stray_opens(id).into_iter().for_each(|ino| {
            opens.entry(ino).or_insert(0);
        });
        let opens: Vec<(Ino, u32)> = opens.into_iter().collect();
        for some in opens.chunks(REOPEN_COUNT) {
            let request = MetaRequest::Reopen { opens: some.to_vec() };
            let asked = (request.kind(), encode(Caller::default(), &request));
            let tag = self.ask_server(link, asked, Purpose::Reopen(id), true);
            self.volumes.get_mut(&id).expect("known").reopening.insert(tag);
        }
    }

    /// An answer to a `Reopen`. Inodes that are gone answer `Stale` from here on by themselves. What was being written to
    /// them must not get to the targets any more: nobody would ever remove it. What is read of them is not there any
    /// more either, which a target does not tell from a hole.
    pub(crate) fn reopen_answered(&mut self, id: VolumeId, tag: u64, answer: &Answer) {
        if let Ok(MetaReply::Reopened(gone)) = answer.meta(Kind::Reopen) {
            for ino in gone {
                tracing::warn!(%ino, "was removed while this mount was away, and is open here");
                self.drop_written(ino);
                self.drop_zeros(|of| of == ino, Status::Stale);
                self.cache.lower(ino, LeaseMode::None);
                self.read_anew(|of| of == ino);
            }
        }
        self.reopened(id, tag);
    }

    /// What a volume is told first was answered.
    pub(crate) fn reopened(&mut self, id: VolumeId, tag: u64) {
        let volume = self.volumes.get_mut(&id).expect("volumes stay");
        volume.reopening.remove(&tag);
        let link = volume.link;
        let peers = self.volumes.values().filter(|volume| volume.link == link);
        if peers.into_iter().all(|volume| volume.reopening.is_empty()) {
            self.resume(link);
        }
    }

    /// A link goes on, and with it those that waited for a volume.
    fn resume(&mut self, link: LinkId) {
        for link in std::mem::take(&mut self.held_links).into_iter().chain([link]) {
            self.links[at(link)].resume(self.now);
            self.touch_link(link);
        }
    }

    /// The machine behind `link` was restarted: what it had acknowledged and not made durable is written again, in
    /// order with what it had not acknowledged. The link is still held.
    fn rewrite_lost(&mut self, link: LinkId) {
        let targets: BTreeSet<TargetId> =
            self.targets.iter().filter(|(_, l)| **l == link).map(|(target, _)| *target).collect();
        let lost = |target: TargetId| targets.contains(&target);
        let syncs: Vec<u64> = self
            .calls
            .iter()
            .filter(|(_, c)| c.link == link && matches!(c.purpose, Purpose::Sync { .. }))
            .map(|(tag, _)| *tag)
            .collect();
        let mut cancelled = syncs;
        self.rejoin_lost(lost);
        let (mut again, mut closed) = (Vec::new(), Vec::new());
        for (ino, file) in &mut self.files {
            let (kept, incomplete) = file.unsynced.take_lost(lost);
            self.unsynced_bytes -=
                kept.values().map(crate::writes::Unsynced::bytes_of).sum::<usize>();
            if incomplete {
                tracing::warn!(%ino, "data acknowledged before a server's restart may be lost");
                file.fail(errno::EIO);
            }
            again.extend(kept.values().filter_map(|write| write.kept.clone()));
            closed.extend((!kept.is_empty() && file.server_opens == 0).then_some(*ino));
            cancelled.extend(file.writes.rewrite(lost, kept));
            self.touched.insert(*ino);
        }
        closed.into_iter().for_each(|ino| self.ask_whether_there(ino));
        self.move_again(link);
        for kept in again {
            self.set_write_state(Some(&kept), write_state::AGAIN);
        }
        for tag in cancelled {
            self.links[at(link)].cancel(tag);
            self.calls.remove(&tag);
        }
        let of_link = self.calls.values().filter(|call| call.link == link);
        let reads: BTreeSet<OpId> = of_link
            .filter(|call| matches!(call.purpose, Purpose::Read { .. }))
            .filter_map(|call| call.purpose.op())
            .collect();
        reads.into_iter().for_each(|op| self.read_again(op));
        self.look_at_sources_again();
        let allocations = self.ops.iter().filter(|(_, op)| matches!(op.kind, OpKind::Allocate(_)));
        let allocations: Vec<OpId> = allocations.map(|(id, _)| *id).collect();
        allocations.into_iter().for_each(|op| self.allocate_again(op));
    }
}
