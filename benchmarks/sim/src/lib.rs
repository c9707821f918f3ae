//! The simulator: the cores over simulated disks, in one thread, under virtual time and one seed.
//!
//! A *world* is one core or several, with the disks they work on, an oracle that knows what may be
//! answered, and chance. Playing a seed makes a world, lets clients, faults and crashes work on it,
//! and panics when an answer is wrong. Everything is drawn from the seed, so a seed replays exactly.
//!
//! - [`store_world`]: the chunk store of one target.
//! - [`cluster`]: a node with its volume and stores, and clients, joined by a simulated network.
//! - [`disk`], [`random`]: what worlds are made of.
//! - [`runner`]: many seeds on all cores.
//!
//! It simulates no LMDB: an index is a real environment, in memory where there is some. Its promise
//! (after a crash it is as of its last synced commit or a later one) is checked apart.

pub mod cluster;
pub mod disk;
pub mod random;
pub mod runner;
pub mod store_world;
