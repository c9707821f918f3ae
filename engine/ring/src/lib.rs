//! io_uring: owned operations in, completions out.
