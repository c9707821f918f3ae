//! mount.weft: the kernel's FUSE protocol and the client's event loop.
//!
//! Purpose: everything between the Linux kernel and the client core. `abi` is the kernel's
//! interface, `request` and `reply` translate it, `transport` moves requests and replies over the
//! ring, `kernel_mount` makes the mount, `supervise` holds it while the processes that `serve` it come and go,
//! `options` and `daemonize` are the command line and the background. What a file is and where its bytes are is the client core's business.
//!
//! Invariants: bytes from the kernel never panic; a request that wants a reply gets exactly one.

pub mod abi;
mod clock;
pub mod daemonize;
pub mod kernel_mount;
pub mod negotiate;
pub mod options;
pub mod reply;
pub mod request;
pub mod serve;
pub mod supervise;
pub mod transport;
