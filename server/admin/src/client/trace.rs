//! What a shard's flight recorder holds, asked of shards that know the question.

use weft_wire::header::Kind;
use weft_wire::session::FEATURE_TRACE;
use weft_wire::trace::{TraceQuery, TraceReply};

use super::{ClientError, ClientErrorKind, Connection};

impl Connection {
    /// Whether the server knows the question. One that does not would hang up on it.
    pub(crate) fn knows_trace(&self) -> bool {
        self.welcome().features & FEATURE_TRACE != 0
    }

    /// What the shard recorded of a session's requests.
    ///
    /// # Errors
    /// Any [`ClientErrorKind`].
    pub(crate) fn trace(&mut self, query: &TraceQuery) -> Result<TraceReply, ClientError> {
        let op = "get the trace of";
        let mut body = Vec::new();
        query.encode(&mut body);
        let reply = self.call(op, Kind::Trace, &body)?;
        TraceReply::decode(&reply.body).map_err(|e| self.error(op, ClientErrorKind::Garbage(e)))
    }
}
