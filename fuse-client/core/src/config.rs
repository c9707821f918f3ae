//! What a mount is told when it starts.

use std::time::Duration;

use weft_wire::{ClusterId, SessionId};

use crate::limits;

/// What an operation does when no server answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnTimeout {
    /// It waits; a signal ends it.
    Wait,
    /// It ends with EIO after this long.
    Eio(Duration),
}

/// The settings of one mount.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// How long the kernel may answer attributes from its cache.
    pub attr_ttl: Duration,
    /// How long the kernel may answer names from its cache.
    pub entry_ttl: Duration,
    /// The kernel drops all names at once when told to: without that it must not keep any.
    pub kernel_forgets_names: bool,
    /// Bytes written but not yet at the targets, all files together.
    pub dirty_bytes_max: usize,
    /// Bytes written but not yet at the targets, one file.
    pub dirty_file_bytes_max: usize,
    /// Bytes kept until they are durable at the targets; see `limits::UNSYNCED_BYTES_DEFAULT`.
    pub unsynced_bytes_max: usize,
    /// Bytes of a copy_file_range from which on the servers copy; see `limits::COPY_BYTES_MIN_DEFAULT`.
    pub copy_bytes_min: u64,
    /// What an operation does when no server answers.
    pub on_timeout: OnTimeout,
    /// The cluster that is meant; `None` takes whichever the address belongs to.
    pub cluster: Option<ClusterId>,
    /// This mount's session: random, kept as long as the mount lives.
    pub session: SessionId,
    /// After so much silence with requests in flight a connection counts as lost.
    pub reply_timeout: Duration,
    /// Keep when files were read, as `relatime` says.
    pub atime: bool,
}

impl ClientConfig {
    /// The defaults for a mount with this session.
    #[must_use]
    pub fn new(session: SessionId) -> ClientConfig {
        ClientConfig {
            attr_ttl: limits::TTL_DEFAULT,
            entry_ttl: limits::TTL_DEFAULT,
            kernel_forgets_names: true,
            dirty_bytes_max: limits::DIRTY_BYTES_DEFAULT,
            dirty_file_bytes_max: limits::DIRTY_FILE_BYTES_DEFAULT,
            unsynced_bytes_max: limits::UNSYNCED_BYTES_DEFAULT,
            copy_bytes_min: limits::COPY_BYTES_MIN_DEFAULT,
            on_timeout: OnTimeout::Wait,
            cluster: None,
            session,
            reply_timeout: limits::REPLY_TIMEOUT_DEFAULT,
            atime: true,
        }
    }
}
