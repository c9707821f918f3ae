//! The wire's bytes against its documentation, and its parsers against any bytes.

mod format;
mod fuzz;
mod samples;
