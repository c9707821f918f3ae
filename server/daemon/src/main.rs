//! The Weft storage and metadata server.

fn main() {}
