//! Pinned, page-aligned memory, registered once with the ring.
