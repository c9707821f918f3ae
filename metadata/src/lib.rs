//! The namespace: a deterministic state machine over LMDB, and its log.
