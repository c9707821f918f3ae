//! What a person is told when something did not work: what, on what, why, and what to do next.

use std::fmt;

use serde_json::{Value, json};
use weft_server_core::config::ConfigError;

/// A command that failed. It carries text because a person reads it and nothing branches on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AdminError {
    /// What was tried, and on what.
    pub(crate) what: String,
    /// Why it did not work.
    pub(crate) why: String,
    /// What to do next; may be empty.
    pub(crate) next: String,
}

impl AdminError {
    pub(crate) fn new(
        what: impl Into<String>,
        why: impl fmt::Display,
        next: impl Into<String>,
    ) -> AdminError {
        AdminError { what: what.into(), why: why.to_string(), next: next.into() }
    }

    pub(crate) fn config(file: &std::path::Path, error: &ConfigError) -> AdminError {
        let next = "correct the file; `weft gen` prints a whole one";
        AdminError::new(format!("config {}", file.display()), error, next)
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({ "error": { "what": self.what, "why": self.why, "next": self.next } })
    }
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)?;
        if !self.next.is_empty() {
            write!(f, "\n  next: {}", self.next)?;
        }
        Ok(())
    }
}

impl std::error::Error for AdminError {}
