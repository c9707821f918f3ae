//! The chunk store of one target: a core without I/O.
