//! How two ends talk: frames out of a byte stream, and a client's link to one shard with its credits, deadlines
//! and replay. Cores without I/O: they take bytes, completions and `now`, and say what to send.
//!
//! Not here: what a message means (`weft-wire`), what it does (the two cores), and sockets (the daemons' rings; [`local`]
//! alone opens some).

pub mod budget;
pub mod link;
pub mod local;
pub mod stream;

pub use budget::{Budget, Hold};
pub use stream::{Frame, FrameReader, Next, Recv};
