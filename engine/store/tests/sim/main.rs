//! The store over a simulated disk: seeded operations and crashes, directed faults.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic where its tests would")]

mod disk;
mod faults;
mod model;
mod rig;
mod scrub;
mod simulation;
mod space;
