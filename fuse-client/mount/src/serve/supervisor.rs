//! The client-core's end of its supervisor: what it is told to do, and what it tells.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use weft_wire::SessionId;

use crate::supervise::PROTOCOL;
use crate::supervise::channel::{Channel, Message};

/// The connection.
#[derive(Debug)]
pub(super) struct SupervisorLink {
    channel: Channel,
}

/// What a client-core is started for.
#[derive(Debug)]
pub(super) struct Order {
    /// The mount's session.
    pub(super) session: SessionId,
    /// The device of the mount, when there is one already: a client-core before this one died.
    pub(super) device: Option<OwnedFd>,
    /// What the kernel was promised then.
    pub(super) max_write_bytes: Option<u32>,
    /// The memory that outlives client-cores.
    pub(super) keep: OwnedFd,
}

impl SupervisorLink {
    pub(super) fn new(channel: Channel) -> SupervisorLink {
        SupervisorLink { channel }
    }

    /// Says that this process is there; what it is to do.
    pub(super) fn hello(&self) -> Result<Order, String> {
        self.send(&format!("hello {PROTOCOL} {}", weft_client_core::keep::VERSION))?;
        let message = self.recv()?;
        let misunderstood = || format!("the supervisor says `{}`: mount again", message.text);
        let mut words = message.text.split(' ');
        let word = words.next().ok_or_else(misunderstood)?;
        let session = words.next().and_then(parse_session).ok_or_else(misunderstood)?;
        let max_write_bytes = words.next().and_then(|text| text.parse().ok());
        let mut fds = message.fds.into_iter();
        let (keep, device) = (fds.next().ok_or("the supervisor keeps nothing")?, fds.next());
        match (word, &device) {
            ("start", None) | ("take", Some(_)) => {
                Ok(Order { session, device, max_write_bytes, keep })
            }
            _ => Err(format!("the supervisor says `{}`: mount again", message.text)),
        }
    }

    /// The servers answer: the supervisor mounts. The device.
    pub(super) fn mounted(&self) -> Result<OwnedFd, String> {
        self.send("connected")?;
        let message = self.recv()?;
        let device = message.fds.into_iter().next().filter(|_| message.text == "mounted");
        device.ok_or_else(|| format!("the supervisor did not mount: {}", message.text))
    }

    /// Requests are taken, by this way.
    pub(super) fn serving(
        &self,
        transport: &str,
        resumable: bool,
        max_write_bytes: u32,
    ) -> Result<(), String> {
        let resumable = if resumable { "resumable" } else { "-" };
        self.send(&format!("serving {transport} {resumable} {max_write_bytes}"))
    }

    /// From here on the supervisor is heard by a thread. Whether it is gone.
    pub(super) fn listen(&self, retiring: Arc<AtomicBool>) -> Result<Arc<AtomicBool>, String> {
        let orphaned = Arc::new(AtomicBool::new(false));
        let (told, channel) = (Arc::clone(&orphaned), self.channel.try_clone());
        let channel =
            channel.map_err(|error| format!("the supervisor cannot be heard: {error}"))?;
        std::thread::Builder::new()
            .name("supervisor".to_owned())
            .spawn(move || {
                while let Ok(Some(message)) = channel.recv() {
                    match message.text.as_str() {
                        "retire" => retiring.store(true, Ordering::Relaxed),
                        text => tracing::warn!(text, "the supervisor says what means nothing here"),
                    }
                }
                tracing::warn!("the supervisor is gone: nobody will take over from this process");
                told.store(true, Ordering::Relaxed);
            })
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(orphaned)
    }

    /// The mount is over.
    pub(super) fn unmounted(&self) {
        self.last_word("unmounted");
    }

    /// Everything is left to a successor.
    pub(super) fn retired(&self) {
        self.last_word("retired");
    }

    /// This client-core cannot go on.
    pub(super) fn failed(&self, reason: &str) {
        self.last_word(&format!("failed {reason}"));
    }

    fn last_word(&self, text: &str) {
        if let Err(reason) = self.send(text) {
            tracing::debug!(reason, text, "nobody hears it");
        }
    }

    fn send(&self, text: &str) -> Result<(), String> {
        let sent = self.channel.send(text, &[]);
        sent.map_err(|error| format!("the supervisor does not hear: {error}"))
    }

    fn recv(&self) -> Result<Message, String> {
        let message = self.channel.recv();
        let message =
            message.map_err(|error| format!("the supervisor cannot be heard: {error}"))?;
        message.ok_or_else(|| "the supervisor is gone".to_owned())
    }
}

fn parse_session(hex: &str) -> Option<SessionId> {
    let mut session = [0; 16];
    if hex.len() != 2 * session.len() {
        return None;
    }
    for (at, byte) in session.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(SessionId(session))
}
