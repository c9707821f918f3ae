//! Open files, striping, retries and caches of one mount; no FUSE, no I/O.
