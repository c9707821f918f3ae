//! What a supervisor waits for: signals, its client-core's words and end, and time.

use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::channel::{Channel, Message};
use crate::clock;

/// What happened.
#[derive(Debug)]
pub(super) enum Event {
    Message(Message),
    /// The client-core closed its end: it is dead, or will be.
    CoreGone,
    /// SIGINT or SIGTERM, by name.
    Signal(&'static str),
    /// Somebody came by the socket.
    Asked(UnixStream),
    /// Time passed.
    Nothing,
}

/// The signals, as bytes in a pipe each.
#[derive(Debug)]
pub(super) struct Events {
    signals: [(&'static str, UnixStream); 2],
    /// Where people ask.
    listener: Option<UnixListener>,
}

impl Events {
    pub(super) fn new() -> io::Result<Events> {
        let signals = [("SIGINT", pipe_of(SIGINT)?), ("SIGTERM", pipe_of(SIGTERM)?)];
        Ok(Events { signals, listener: None })
    }

    /// Hears who comes by a socket at `path`, for the owner of this process alone.
    pub(super) fn listen(&mut self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        self.listener = Some(listener);
        Ok(())
    }

    /// Waits until something happens, or `until`.
    pub(super) fn next(
        &mut self,
        channel: Option<&Channel>,
        until: Option<Duration>,
    ) -> io::Result<Event> {
        let patience = until.map(|at| at.saturating_sub(clock::mono()));
        let patience = patience.map(Timespec::try_from).transpose();
        let patience = patience.map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut fds: Vec<PollFd<'_>> =
            self.signals.iter().map(|(_, pipe)| PollFd::new(pipe, PollFlags::IN)).collect();
        fds.extend(self.listener.iter().map(|listener| PollFd::new(listener, PollFlags::IN)));
        fds.extend(channel.map(|channel| PollFd::from_borrowed_fd(channel.as_fd(), PollFlags::IN)));
        match rustix::event::poll(&mut fds, patience.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Event::Nothing),
            Err(errno) => return Err(errno.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        for (at, (name, pipe)) in self.signals.iter_mut().enumerate() {
            if ready[at] {
                pipe.read_exact(&mut [0])?;
                return Ok(Event::Signal(name));
            }
        }
        if let Some(listener) = self.listener.as_ref().filter(|_| ready[self.signals.len()]) {
            match listener.accept() {
                Ok((stream, _)) => return Ok(Event::Asked(stream)),
                Err(error) => tracing::debug!(%error, "somebody came and went"),
            }
        }
        match channel.filter(|_| ready.last() == Some(&true)) {
            Some(channel) => Ok(channel.recv()?.map_or(Event::CoreGone, Event::Message)),
            None => Ok(Event::Nothing),
        }
    }
}

fn pipe_of(signal: i32) -> io::Result<UnixStream> {
    let (reader, writer) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(signal, writer)?;
    Ok(reader)
}
