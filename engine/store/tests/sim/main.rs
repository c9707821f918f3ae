//! The store over a simulated disk: directed faults. Seeded operations and crashes: `benchmarks/sim`.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic where its tests would")]

mod checkpoint;
mod disk;
mod faults;
mod remove;
mod rig;
mod scrub;
mod space;
