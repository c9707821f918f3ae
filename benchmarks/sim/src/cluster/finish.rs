//! The end: everything comes to rest, every file is read by another client, and no space is lost.

use std::collections::BTreeMap;
use std::time::Duration;

use weft_client_core::{FsOp, FsReply, Handle, OpId, OpenFlags};
use weft_metadata::Volume;
use weft_wire::meta::FileKind;
use weft_wire::units::to_u64;
use weft_wire::{ChunkIndex, Ino};

use super::client::Client;
use super::data::FileData;
use super::program::{Program, gather};
use super::sharer::Sharer;
use super::{End, World};

impl World {
    /// Brings everything to rest and looks at what is left.
    pub(super) fn finish(&mut self) {
        self.calm = true;
        self.end_after = None;
        self.clients.iter_mut().for_each(|client| client.away_until = None);
        self.set_disk_faults();
        if self.ailing && self.node.process.is_some() {
            self.crash(End::Kill);
        }
        self.run_until("started", World::is_started);
        for client in self.clients.iter_mut().filter(|client| client.alive) {
            client.programs.iter_mut().for_each(Program::close);
            client.sharer.iter_mut().for_each(Sharer::close);
        }
        self.wake_programs();
        self.run_until("closed", |world| {
            let mut alive = world.clients.iter().filter(|client| client.alive);
            alive.all(|client| {
                client.programs.iter().all(Program::is_closed)
                    && client.sharer.iter().all(Sharer::is_closed)
            })
        });
        self.pass(self.plan.session_timeout + self.plan.grace + Duration::from_secs(10));
        let unheard = self.excuses.unheard_of_any();
        for client in self.clients.iter_mut().filter(|client| client.alive && !unheard) {
            if client.core.fence_count() == 0 && !client.was_without_leases {
                client.programs.iter_mut().for_each(Program::rested);
            }
        }
        // What vanished clients had sent has happened by now, or never will: seen when the server starts again.
        self.stop_server();
        self.run_until("stopped", |world| world.node.process.is_none());
        self.run_until("started", World::is_started);
        self.read_everything();
        self.leave();
        self.stop_server();
        self.run_until("stopped", |world| world.node.process.is_none());
        self.check_space();
    }

    fn is_started(&self) -> bool {
        self.node.process.as_ref().is_some_and(|process| !process.stopping)
    }

    fn run_until(&mut self, what: &str, over: impl Fn(&World) -> bool) {
        let end = self.now + Duration::from_secs(200);
        while !over(self) {
            self.step();
            assert!(self.now < end, "not {what} after 200 s: {}", self.tell_waiting());
        }
    }

    /// Every client says goodbye.
    fn leave(&mut self) {
        let now = self.now;
        for client in 0..self.clients.len() {
            self.with_core(client, |core| core.goodbye(now));
        }
        self.pass(Duration::from_secs(3));
    }

    /// Another client reads every file that has a name.
    fn read_everything(&mut self) {
        let mut plan = self.plan.clone();
        plan.programs = 0;
        let number = self.clients.len();
        let reader = Client::new(number, &plan, self.now, &mut self.random);
        self.clients.push(reader);
        let now = self.now;
        self.with_core(number, |core| core.start(now));
        self.run_until("ready", |world| world.clients[number].ready);
        let mut files: Vec<(Ino, FileData)> = Vec::new();
        for program in self.clients.iter().flat_map(|client| &client.programs) {
            let tree = program.seen_tree();
            for id in tree.named() {
                let node = tree.node(id);
                if node.kind == FileKind::Regular && node.ino != Ino(0) {
                    let file = program.files.get(&id).cloned().unwrap_or_default();
                    files.push((node.ino, file));
                }
            }
        }
        for (ino, file) in files {
            self.read_file(number, ino, &file);
        }
        self.read_shared(number);
    }

    pub(super) fn open_to_read(&mut self, client: usize, ino: Ino) -> Handle {
        let flags = OpenFlags::default();
        match self.ask(client, FsOp::Open { ino, flags }) {
            Ok(FsReply::Opened(opened)) => opened.handle,
            other => panic!("inode {ino} cannot be opened: {other:?}"),
        }
    }

    fn read_file(&mut self, client: usize, ino: Ino, file: &FileData) {
        let handle = self.open_to_read(client, ino);
        let mut offset = 0;
        while offset <= file.longest() {
            let asked = 64 << 10;
            let ask = FsOp::Read { handle, offset: to_u64(offset), bytes: asked, into: None };
            let asked = usize::try_from(asked).expect("fits");
            match self.ask(client, ask) {
                Ok(FsReply::Data(pieces)) => {
                    let found = gather(&pieces);
                    let checked = file.check(offset, asked, &found, false);
                    checked.unwrap_or_else(|why| panic!("inode {ino}: {why}"));
                }
                Err(5) if self.excuses.disk_errors => {}
                Err(5) if file.may_be_damaged(offset, asked) => {}
                other => panic!("inode {ino} at {offset}: {other:?}"),
            }
            offset += asked;
        }
        let closed = self.ask(client, FsOp::Release { handle });
        assert!(matches!(closed, Ok(FsReply::Done)), "{closed:?}");
    }

    /// Asks and waits for the answer.
    pub(super) fn ask(&mut self, client: usize, ask: FsOp) -> Result<FsReply, i32> {
        let op: OpId = self.clients[client].next_op();
        let now = self.now;
        let caller = weft_client_core::Caller::default();
        self.clients[client].waiting = Some(op);
        self.with_core(client, |core| core.op(op, caller, ask, now));
        self.run_until("answered", |world| world.clients[client].waited.is_some());
        self.clients[client].waited.take().expect("just seen")
    }

    /// No orphan, no work, and no chunk without a file.
    fn check_space(&mut self) {
        let mut volume = self.node.open_volume(&self.plan).expect("it stopped in order");
        self.verify(&mut volume);
        let counters = volume.counters();
        assert_eq!(counters.orphan_count, 0, "orphans are left");
        assert_eq!(counters.work_count, 0, "works are left");
        let live = self.live_files(&mut volume);
        for index in 0..self.node.targets.len() {
            let store = self.node.open_store(index, &self.plan).expect("it stopped in order");
            let mut owned = 0;
            for ino in live.keys() {
                let list = store.chunk_list(*ino, ChunkIndex(0)).expect("the index can be read");
                owned += to_u64(list.chunks.len());
            }
            let there = store.space().chunk_count;
            let last = live.keys().next_back().map_or(0, |ino| ino.0) + 1000;
            let chunks = |ino: &u64| {
                let list = store.chunk_list(Ino(*ino), ChunkIndex(0));
                !list.expect("the index can be read").chunks.is_empty()
            };
            let of_nobody = (1..last).filter(|ino| !live.contains_key(&Ino(*ino)));
            let of_nobody: Vec<u64> = of_nobody.filter(chunks).collect();
            assert_eq!(
                there, owned,
                "target {index}: chunks of no file: space is lost: {of_nobody:?}"
            );
        }
    }

    fn live_files(&self, volume: &mut Volume) -> BTreeMap<Ino, ()> {
        let dump = super::check::dump(volume).expect("verified above");
        dump.keys().map(|ino| (*ino, ())).collect()
    }
}
