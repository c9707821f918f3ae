//! What a supervisor waits for: signals, its client-core's words and end, and time.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
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
    /// Time passed.
    Nothing,
}

/// The signals, as bytes in a pipe each.
#[derive(Debug)]
pub(super) struct Events {
    signals: [(&'static str, UnixStream); 2],
}

impl Events {
    pub(super) fn new() -> io::Result<Events> {
        Ok(Events { signals: [("SIGINT", pipe_of(SIGINT)?), ("SIGTERM", pipe_of(SIGTERM)?)] })
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
