//! Page-aligned memory that is mapped once, registered once, and handed out in owned slots; and parts of files as memory.
//!
//! # Problem
//! A shard moves file data between sockets and O_DIRECT devices. Registered ("fixed") buffers on
//! huge pages cut the CPU of a 1 MiB O_DIRECT read from 57 us to 16-18 us (FACTS.md), but the
//! kernel registers a few large ranges cheaply and many small ones badly. So: one arena per shard,
//! registered whole, cut up in user space.
//!
//! # Shape
//! [`Pool`] owns one anonymous mapping and a buddy allocator over it; [`BufSlot`] is one block of
//! it, owned by exactly one holder (our code, the ring, or the NIC); [`SharedSlot`] is a read-only
//! share of a slot, for a payload that is sent and also kept for a replay; [`LentSlot`] is one whose memory others
//! fill, part by part, and that comes back whole. [`FileMap`] is a part of a file that is stored to without system calls.
//!
//! # Invariants
//! - A block, or a part of a lent one, belongs to at most one [`BufSlot`]; dropping the slot is the only way back.
//! - The mapping lives as long as any pool handle, slot or share.
//! - A block never crosses a region boundary, so each slot has one registration index.
//! - The arena is zeroed once, by `mmap`. A new slot holds whatever its last holder left there.
//!
//! # What it does not do
//! It does no I/O, registers nothing (the ring does), and is not `Send`: one pool, one thread.
#![allow(
    unsafe_code,
    reason = "owns the arena's mapping: raw memory becomes slices here and nowhere else; and maps of files"
)]

mod arena;
mod buddy;
mod error;
mod file_map;
mod heap;
mod limits;
mod mapped;
mod pool;
mod sigbus;
mod slot;

pub use error::{IobufError, Kind};
pub use file_map::FileMap;
pub use heap::trim_heap;
pub use limits::{
    ARENA_BYTES_MAX, CLASS_BYTES_DEFAULT, CLASS_BYTES_MIN, FILE_MAPS_MAX, REGION_BYTES_MAX,
};
pub use mapped::Mapped;
pub use pool::{Pool, Region};
pub use slot::{BufSlot, LentSlot, SharedSlot};
