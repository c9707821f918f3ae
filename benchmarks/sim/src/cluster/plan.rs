//! What a seed is made of: sizes, and what goes wrong how often.

use std::time::Duration;

use crate::random::Random;

/// Drawn from the seed, once.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) shards: u16,
    pub(super) targets: u16,
    pub(super) target_bytes: usize,
    pub(super) clients: usize,
    pub(super) programs: usize,
    pub(super) operations: u32,
    pub(super) credits: u32,
    pub(super) checkpoint_commands: u32,
    pub(super) checkpoint_interval: Duration,
    pub(super) session_timeout: Duration,
    pub(super) lease_time: Duration,
    pub(super) grace: Duration,
    /// Shares of what goes wrong; nothing does where all are 0.
    pub(super) cuts: u64,
    pub(super) kills: u64,
    pub(super) power_losses: u64,
    pub(super) stops: u64,
    pub(super) vanishes: u64,
    /// A client is cut off for longer than leases, at times for longer than sessions last; then it comes back.
    pub(super) partitions: u64,
    /// Time between two of these, about.
    pub(super) fault_interval: Duration,
    /// Writes of the log that fail, in ten thousand.
    pub(super) log_errors: u32,
    /// Writes and reads of targets that fail, in ten thousand.
    pub(super) disk_errors: u32,
    /// Flushes of targets that fail, in ten thousand.
    pub(super) flush_errors: u32,
    /// Files that all clients write; in most seeds none.
    pub(super) shared_files: usize,
    /// Who is fenced off comes back soon, to a server that was started meanwhile.
    pub(super) restarts_unheard: bool,
    /// Programs copy from file to file.
    pub(super) copies: bool,
    /// The targets are so small that they are full now and then.
    pub(super) full: bool,
}

impl Plan {
    pub(super) fn draw(random: &mut Random) -> Plan {
        let millis = Duration::from_millis;
        let full = random.chance(20);
        let targets = 1 + random.below(3);
        Plan {
            shards: 1 + u16::try_from(random.below(3)).expect("small"),
            targets: u16::try_from(targets).expect("small"),
            target_bytes: if full { 8 << 20 } else { 12 << 20 },
            clients: 1 + random.index(3),
            programs: 1 + random.index(3),
            operations: 20 + random.below_u32(80),
            credits: random.pick(&[1, 2, 4, 16, 64]),
            checkpoint_commands: random.pick(&[3, 10, 50, 1000]),
            checkpoint_interval: millis(random.pick(&[50, 300, 2000])),
            session_timeout: millis(8000),
            lease_time: millis(600),
            grace: millis(3000),
            cuts: random.pick(&[0, 10, 40]),
            kills: random.pick(&[0, 10, 10]),
            power_losses: random.pick(&[0, 10, 20]),
            stops: random.pick(&[0, 0, 5]),
            vanishes: random.pick(&[0, 0, 4]),
            partitions: 0,
            fault_interval: millis(random.pick(&[60, 150, 400, 1500])),
            log_errors: random.pick(&[0, 0, 0, 50, 2500]),
            disk_errors: random.pick(&[0, 0, 0, 0, 20, 100]),
            flush_errors: 0,
            shared_files: 0,
            restarts_unheard: false,
            copies: false,
            full,
        }
    }

    /// In one seed of five two to four clients write the same files. What they do is drawn apart, and the number of the
    /// seed decides: the others stay what they are.
    pub(super) fn sharing(self, seed: u64) -> Plan {
        if seed % 5 != 3 {
            return self;
        }
        let mut random = Random::new(!seed.rotate_left(32));
        let (clients, programs) = (2 + random.index(3), 1);
        Plan { shared_files: 1 + random.index(3), clients, programs, ..self }
    }

    /// In two seeds of seven programs have the servers copy; the others stay what they are.
    pub(super) fn copying(self, seed: u64) -> Plan {
        Plan { copies: matches!(seed % 7, 1 | 3), ..self }
    }

    /// In one seed of eight clients are cut off.
    pub(super) fn parting(self, seed: u64) -> Plan {
        if seed % 8 == 3 { Plan { partitions: 20, ..self } } else { self }
    }

    /// In one of two seeds with shared files, the even ones, clients are cut off as well, and the server is often killed
    /// before who was fenced off has heard of it.
    pub(super) fn forgetting(self, seed: u64) -> Plan {
        if self.shared_files == 0 || !seed.is_multiple_of(2) {
            return self;
        }
        // Long enough apart that others go on in between.
        let fault_interval = self.fault_interval.max(Duration::from_millis(400));
        let kills = self.kills.min(10);
        Plan { restarts_unheard: true, partitions: 30, kills, fault_interval, ..self }
    }

    /// Flushes fail too: there are far fewer of them than writes. In some seeds nothing else does, and the server is
    /// killed often, so that what a failed flush took is all that can be missing.
    pub(super) fn losing_flushes(self, seed: u64) -> Plan {
        if self.disk_errors > 0 || !seed.is_multiple_of(4) {
            return Plan { flush_errors: 5 * self.disk_errors, ..self };
        }
        Plan { flush_errors: 1500, kills: 40, power_losses: 0, log_errors: 0, ..self }
    }
}
