//! Ids, units, frames, messages, stripe arithmetic; no I/O.
