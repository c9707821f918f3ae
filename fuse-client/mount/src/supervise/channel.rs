//! What supervisor and client-core say to each other: short texts, with descriptors, over a pair of sockets.
//!
//! The client-core has its end as its standard input: nothing needs to be inherited by number. A message is whole or
//! not there (SOCK_SEQPACKET), and the end of the other process is the end of the messages.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// The longest text.
pub const TEXT_BYTES_MAX: usize = 8192;
/// Most descriptors with one text.
const FDS_MAX: usize = 4;

/// One end.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
}

/// What came.
#[derive(Debug)]
pub struct Message {
    /// The text.
    pub text: String,
    /// Descriptors that came with it.
    pub fds: Vec<OwnedFd>,
}

impl Channel {
    /// Both ends.
    ///
    /// # Errors
    /// The system has no sockets left.
    pub fn pair() -> io::Result<(Channel, Channel)> {
        let flags = SocketFlags::CLOEXEC;
        let (one, other) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Channel { socket: one }, Channel { socket: other }))
    }

    /// The end that this process was started with.
    ///
    /// # Errors
    /// There is none: it was not started by a supervisor.
    pub fn take_from_stdin() -> io::Result<Channel> {
        let socket = io::stdin().as_fd().try_clone_to_owned()?;
        rustix::net::sockopt::socket_type(&socket)?;
        rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
        Ok(Channel { socket })
    }

    /// The socket, to be a process's standard input.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.socket
    }

    /// Another handle on this end.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn try_clone(&self) -> io::Result<Channel> {
        Ok(Channel { socket: self.socket.try_clone()? })
    }

    /// Sends a text and descriptors.
    ///
    /// # Errors
    /// The other end is gone.
    pub fn send(&self, text: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        assert!(fds.len() <= FDS_MAX, "a message has room for its descriptors");
        // Only reasons for people can be too long; what is cut in a character is shown as a question mark.
        let text = &text.as_bytes()[..text.len().min(TEXT_BYTES_MAX)];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            let pushed = ancillary.push(SendAncillaryMessage::ScmRights(fds));
            assert!(pushed, "there is room for this many");
        }
        let parts = [IoSlice::new(text)];
        loop {
            let sent =
                rustix::net::sendmsg(&self.socket, &parts, &mut ancillary, SendFlags::NOSIGNAL);
            match sent {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The same, for so long at most.
    ///
    /// # Errors
    /// Nothing came, or the socket does not work.
    pub fn recv_within(&self, patience: Duration) -> io::Result<Option<Message>> {
        let patience = Timespec::try_from(patience).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&patience))? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => self.recv(),
        }
    }

    /// Waits for a message; `None` when the other end is gone.
    ///
    /// # Errors
    /// The socket does not work.
    pub fn recv(&self) -> io::Result<Option<Message>> {
        let mut text = vec![0; TEXT_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let bytes = loop {
            let mut parts = [IoSliceMut::new(&mut text)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            match rustix::net::recvmsg(&self.socket, &mut parts, &mut ancillary, flags) {
                Ok(message) => break message.bytes,
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        };
        if bytes == 0 {
            return Ok(None);
        }
        let mut fds = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        text.truncate(bytes);
        Ok(Some(Message { text: String::from_utf8_lossy(&text).into_owned(), fds }))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_descriptors_come_through_and_the_end_is_seen() {
        let (one, other) = Channel::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        one.send("start", &[file.as_fd(), one.as_fd()]).unwrap();
        one.send("x", &[]).unwrap();
        let message = other.recv().unwrap().unwrap();
        assert_eq!((message.text.as_str(), message.fds.len()), ("start", 2));
        let got = rustix::fs::fstat(&message.fds[0]).unwrap();
        assert_eq!(got.st_ino, rustix::fs::fstat(&file).unwrap().st_ino);
        assert_eq!(other.recv().unwrap().unwrap().text, "x");
        drop((one, message));
        assert!(other.recv().unwrap().is_none());
    }
}
