//! mount.weft: the kernel's FUSE protocol and the client's event loop.

fn main() {}
