//! What goes wrong: connections cut, clients gone, the server killed, stopped or without power, also while it starts.

use std::time::Duration;

use weft_metadata::Volume;
use weft_store::Store;

use super::check::{check_root, check_shared, compare, dump};
use super::net::{ConnKey, Way};
use super::node::clocks;
use super::shared::{NAME_PREFIX, SharedFile};
use super::{End, Event, TICK, TIME_MAX, World};

impl World {
    /// Something goes wrong, or an operator sets right what did.
    pub(super) fn fault(&mut self) {
        if !self.calm {
            let mut next = self.plan.fault_interval.mul_f64(0.2 + self.chance_fraction() * 1.6);
            if self.now > TIME_MAX / 2 {
                next *= 20; // Some plans leave hardly any time in between to do anything.
            }
            self.later(next, Event::Fault);
            self.choose_fault();
        }
    }

    fn chance_fraction(&mut self) -> f64 {
        f64::from(self.random.below_u32(1000)) / 1000.0
    }

    fn choose_fault(&mut self) {
        if self.ailing && self.node.process.is_some() && self.random.chance(30) {
            return self.end_soon(End::Kill);
        }
        let plan = &self.plan;
        let (cuts, kills, power) = (plan.cuts, plan.kills, plan.power_losses);
        let (stops, vanishes, partitions) = (plan.stops, plan.vanishes, plan.partitions);
        let all = (cuts + kills + power + stops + vanishes + partitions).max(100);
        let mut at = self.random.below(all);
        let mut within = |share: u64| {
            let hit = at < share;
            at = at.wrapping_sub(if hit { 0 } else { share });
            hit
        };
        if within(cuts) {
            self.cut_some();
        } else if within(kills) {
            self.end_soon(End::Kill);
        } else if within(power) {
            self.end_soon(End::Power);
        } else if within(stops) {
            self.telling.step(self.now, || "the server is told to stop".to_owned());
            self.stop_server();
        } else if within(vanishes) {
            self.vanish();
        } else if within(partitions) {
            self.cut_off();
        }
    }

    /// The server ends a few steps from now: between any two things it does.
    pub(super) fn end_soon(&mut self, end: End) {
        if self.node.process.is_some() && self.end_after.is_none() {
            self.end_after = Some((self.random.below_u32(40), end));
        }
    }

    /// Counts a step of the server; whether it ended with this one.
    pub(super) fn counts_down(&mut self) -> bool {
        if self.is_stopped() {
            self.telling.step(self.now, || "the server has stopped".to_owned());
            self.look_at_leases();
            self.node.process = None;
            self.server_is_gone();
            return true;
        }
        let Some((left, end)) = self.end_after else { return false };
        if left > 0 {
            self.end_after = Some((left - 1, end));
            return false;
        }
        self.end_after = None;
        self.crash(end);
        true
    }

    pub(super) fn crash(&mut self, end: End) {
        self.telling.step(self.now, || format!("the server ends: {end:?}"));
        self.tally.crashes += 1;
        self.look_at_leases();
        if end == End::Kill && self.node.may_be_flushing() {
            self.shared.iter_mut().for_each(SharedFile::flush_unheard);
        }
        match end {
            End::Kill if self.node.kill() => self.data_is_lost(),
            End::Kill => {}
            End::Power => self.power_loss(),
        }
        self.server_is_gone();
    }

    fn power_loss(&mut self) {
        self.node.power_loss();
        self.data_is_lost();
    }

    /// Of what was not synced anything may be gone; clients write it again when the server was started again.
    pub(super) fn data_is_lost(&mut self) {
        for client in &mut self.clients {
            let alive = client.alive;
            client.programs.iter_mut().for_each(|program| program.power_lost(alive));
        }
        self.shared.iter_mut().for_each(SharedFile::power_lost);
    }

    /// Its connections break; it is started again.
    fn server_is_gone(&mut self) {
        let keys: Vec<ConnKey> = self.conns.keys().copied().collect();
        for key in keys {
            let conn = self.conns.get_mut(&key).expect("just listed");
            (conn.to_server.over, conn.to_server.reader) = (true, None);
            let pipe = &mut conn.to_client;
            pipe.ends = true;
            let kept = self.random.index(pipe.bytes.len() + 1);
            pipe.bytes.truncate(kept);
            self.schedule(key, Way::ToClient);
            self.forget_conn(key);
        }
        let pause = self.pause();
        self.later(pause, Event::Start);
    }

    /// Some connections break: bytes on their way are lost, and the ends hear of it at different times.
    fn cut_some(&mut self) {
        let keys: Vec<ConnKey> = self.conns.keys().copied().collect();
        for key in keys {
            if self.random.chance(60) {
                continue;
            }
            self.telling.step(self.now, || format!("connection {key} is cut"));
            for way in [Way::ToServer, Way::ToClient] {
                let Some(conn) = self.conns.get_mut(&key) else { continue };
                let pipe = conn.pipe(way);
                pipe.ends = true;
                let kept = self.random.index(pipe.bytes.len() + 1);
                pipe.bytes.truncate(kept);
                // Heard of late: the other end may have another connection by then.
                pipe.scheduled = true;
                let micros = self.random.pick(&[500, 5_000, 2_000_000]);
                self.soon(micros, Event::Deliver(key, way));
            }
        }
    }

    /// Nothing comes through between a client and the server for a time. The server hears of it or does not; what was
    /// under way comes late, where the connection is there still.
    fn cut_off(&mut self) {
        let client = self.random.index(self.clients.len());
        let state = &mut self.clients[client];
        if !state.alive || state.away_until.is_some_and(|until| self.now < until) {
            return;
        }
        let time = Duration::from_millis(self.random.pick(&[1_000, 4_000, 9_000, 14_000]));
        self.telling.step(self.now, || format!("client {client} is cut off for {time:?}"));
        (state.away_until, state.was_away) = (Some(self.now + time), true);
        let mine =
            |(key, conn): (&ConnKey, &super::net::Conn)| (conn.client == client).then_some(*key);
        let keys: Vec<ConnKey> = self.conns.iter().filter_map(mine).collect();
        for key in keys {
            if self.random.chance(50) {
                self.end_of(key, Way::ToServer);
            }
        }
    }

    /// A client's machine is gone for good.
    fn vanish(&mut self) {
        let client = self.random.index(self.clients.len());
        let alive = self.clients.iter().filter(|client| client.alive).count();
        if !self.clients[client].alive || alive < 2 {
            return;
        }
        self.telling.step(self.now, || format!("client {client} is gone"));
        let state = &mut self.clients[client];
        state.alive = false;
        state.programs.iter_mut().for_each(super::program::Program::vanish);
        state.sharer.iter_mut().for_each(super::sharer::Sharer::vanish);
        self.shared.iter_mut().for_each(|file| file.vanished(client));
        let state = &mut self.clients[client];
        let links = std::mem::take(&mut state.links);
        for key in links.into_values() {
            if let Some(conn) = self.conns.get_mut(&key) {
                let kept = self.random.index(conn.to_server.bytes.len() + 1);
                conn.to_server.bytes.truncate(kept);
            }
            self.client_closes(key);
        }
    }

    /// Starts the server, unless it crashes again meanwhile.
    pub(super) fn start_server(&mut self) {
        if self.node.process.is_some() {
            return;
        }
        self.try_log_rot();
        if !self.calm && self.node.epoch > 0 && self.random.chance(25) {
            self.lose_power_in_recovery();
        }
        let (stores, mut volume) = match self.open_all() {
            Some(opened) => opened,
            None => {
                self.telling.step(self.now, || "power is lost during recovery".to_owned());
                self.tally.crashes += 1;
                self.power_loss();
                let pause = self.pause();
                return self.later(pause, Event::Start);
            }
        };
        self.verify(&mut volume);
        self.ailing = false;
        let now = clocks(self.now);
        self.node.start(&self.plan, stores, volume, now);
        let epoch = self.node.epoch;
        self.telling.step(self.now, || format!("the server is started, epoch {epoch}"));
        self.look_at_leases();
        for shard in 0..usize::from(self.plan.shards) {
            self.soon(300, Event::Turn(epoch, shard));
        }
        self.later(TICK, Event::Tick(epoch));
        self.wake_programs();
    }

    fn lose_power_in_recovery(&mut self) {
        let calls = self.random.pick(&[0, 3, 10, 40]);
        let calls = self.random.below_u32(calls + 1);
        let disks = self.node.targets.len() + 1;
        let chosen = self.random.index(disks);
        match chosen < disks - 1 {
            true => self.node.targets[chosen].power_fails_after(calls),
            false => self.node.log.power_fails_after(calls),
        }
    }

    /// Opens every store and the volume, in any order; `None` when the power fails meanwhile.
    fn open_all(&mut self) -> Option<(Vec<Store>, Volume)> {
        let first = self.random.chance(50);
        let mut volume = if first { Some(self.open_volume()?) } else { None };
        let mut stores = Vec::new();
        for index in 0..self.node.targets.len() {
            match self.node.open_store(index, &self.plan) {
                Ok(store) => stores.push(store),
                Err(error) if error.kind == weft_store::Kind::Device => return None,
                Err(error) => panic!("target {index} does not open: {error}"),
            }
        }
        if volume.is_none() {
            volume = Some(self.open_volume()?);
        }
        for disk in &mut self.node.targets {
            disk.power_fails_after(u32::MAX);
        }
        self.node.log.power_fails_after(u32::MAX);
        volume.map(|volume| (stores, volume))
    }

    fn open_volume(&mut self) -> Option<Volume> {
        match self.node.open_volume(&self.plan) {
            Ok(volume) => Some(volume),
            Err(error) if error.kind == weft_metadata::Kind::LogIo => None,
            Err(error) => panic!("the volume does not open: {error}"),
        }
    }

    /// The volume is whole, and what every program was promised.
    pub(super) fn verify(&mut self, volume: &mut Volume) {
        let report = weft_metadata::check(volume);
        assert!(report.is_sound(), "the volume is not sound: {report:?}");
        let dump = dump(volume).unwrap_or_else(|why| panic!("the volume cannot be read: {why}"));
        let mut prefixes = Vec::new();
        for (number, client) in self.clients.iter_mut().enumerate() {
            for program in &mut client.programs {
                let compared =
                    program.verify(|tree, files, prefix| compare(tree, files, prefix, &dump));
                compared.unwrap_or_else(|why| panic!("client {number}: {why}"));
                let keeps_open = client.alive && !client.was_away && client.core.fence_count() == 0;
                for ino in program.orphans().into_iter().filter(|_| keeps_open) {
                    let request = weft_wire::meta::MetaRequest::GetAttr { ino };
                    let there = super::check::ask(volume, &request);
                    assert!(there.is_ok(), "inode {ino} is gone, and it was open: {there:?}");
                }
                prefixes.push(program.prefix.clone());
            }
        }
        if !self.shared.is_empty() {
            prefixes.push(NAME_PREFIX.as_bytes().to_vec());
        }
        check_shared(&dump, &self.shared);
        check_root(&dump, &prefixes);
    }

    /// Runs for so long.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }
}
