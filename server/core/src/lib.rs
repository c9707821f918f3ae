//! What a node does with a frame, a disk completion or a tick; no I/O.
