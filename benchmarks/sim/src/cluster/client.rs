//! A client's machine: the real client core, the programs on it, its connections.

use std::collections::BTreeMap;
use std::time::Duration;

use weft_client_core::{ClientConfig, ClientCore, FsReply, LinkId, OpId};
use weft_iobuf::Pool;
use weft_wire::SessionId;

use super::net::ConnKey;
use super::node::wall;
use super::plan::Plan;
use super::program::Program;
use super::sharer::Sharer;
use crate::random::Random;

const POOL_BYTES: usize = 16 << 20;
const SLOT_BYTES_MAX: usize = 1 << 20;
/// Silence after which a client gives a connection up.
const REPLY_TIMEOUT: Duration = Duration::from_secs(3);

/// The session of a client.
pub(super) fn session(number: usize) -> SessionId {
    let mut id = [1; 16];
    id[0] = u8::try_from(number).expect("few clients");
    SessionId(id)
}

/// See the module.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) core: ClientCore,
    pub(super) pool: Pool,
    pub(super) programs: Vec<Program>,
    /// What it does with shared files, where there are some.
    pub(super) sharer: Option<Sharer>,
    /// The connection of each link, as far as the client knows.
    pub(super) links: BTreeMap<LinkId, ConnKey>,
    /// Which program asked.
    pub(super) asked: BTreeMap<OpId, usize>,
    next_op: u64,
    pub(super) ready: bool,
    pub(super) alive: bool,
    /// Cut off from the server.
    pub(super) away_until: Option<Duration>,
    /// Was cut off once: what it had open may be gone.
    pub(super) was_away: bool,
    /// Its leases ran out once.
    pub(super) was_without_leases: bool,
    /// How often the server has fenced it off.
    pub(super) fence_number: u32,
    /// It may not know of it until then.
    pub(super) blind_until: Duration,
    /// The timer that is set.
    pub(super) timer: Option<Duration>,
    /// The operation that the simulation itself waits for, and its answer.
    pub(super) waiting: Option<OpId>,
    pub(super) waited: Option<Result<FsReply, i32>>,
}

impl Client {
    pub(super) fn new(number: usize, plan: &Plan, now: Duration, random: &mut Random) -> Client {
        let base = ClientConfig::new(session(number));
        let config = ClientConfig { reply_timeout: REPLY_TIMEOUT, copy_bytes_min: 1, ..base };
        let pool = Pool::new(POOL_BYTES, SLOT_BYTES_MAX).expect("memory");
        let mut core = ClientCore::new(config, pool.clone(), "node:1");
        core.set_clock(now, wall(now));
        let program = |at| Program::new(number * 10 + at, plan, random.fork());
        let programs = (0..plan.programs).map(program).collect();
        Client {
            core,
            pool,
            programs,
            sharer: None,
            links: BTreeMap::new(),
            asked: BTreeMap::new(),
            next_op: 1,
            ready: false,
            alive: true,
            away_until: None,
            was_away: false,
            was_without_leases: false,
            fence_number: 0,
            blind_until: Duration::ZERO,
            timer: None,
            waiting: None,
            waited: None,
        }
    }

    /// Has done all it wanted to.
    pub(super) fn is_done(&self) -> bool {
        self.programs.iter().all(Program::is_done) && self.sharer.iter().all(Sharer::is_done)
    }

    pub(super) fn next_op(&mut self) -> OpId {
        self.next_op += 1;
        OpId(self.next_op)
    }
}
