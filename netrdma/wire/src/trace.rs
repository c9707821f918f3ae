//! What a shard remembers of the requests that it answered lately: the times of each step, by the shard's own clock.
//!
//! A request is known by its session and its id, as in the frame's header; so what a client remembers of it and what the
//! shard does are about the same request, and their clocks can be joined.

use crate::codec::{Reader, WireError, Writer};
use crate::header::Kind;
use crate::ids::{SessionId, TargetId};
use crate::status::Status;
use crate::units::to_u32;

/// Requests that one `Trace` may ask for.
pub const TRACE_IDS_MAX: usize = 4_096;
/// Requests that one reply tells of: some ids are told more than once (a session's client was started anew).
pub const TRACE_SPANS_MAX: usize = 4_096;
/// Bytes of a [`Span`] in a message.
pub const SPAN_BYTES: usize = 59;

const _: () = assert!(TRACE_SPANS_MAX * SPAN_BYTES + 64 < crate::limits::BODY_BYTES_MAX as usize);
const _: () = assert!(TRACE_IDS_MAX * 8 + 64 < crate::limits::BODY_BYTES_MAX as usize);

/// Asks what a shard remembers of a session's requests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TraceQuery {
    /// Whose.
    pub session: SessionId,
    /// Which, at most [`TRACE_IDS_MAX`].
    pub ids: Vec<u64>,
}

/// Times of one request, in nanoseconds of the shard's clock; 0 where a step did not happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// The request's id.
    pub request_id: u64,
    /// What it asked.
    pub kind: Kind,
    /// How it ended.
    pub status: Status,
    /// The target it was about, when it was about one.
    pub target: Option<TargetId>,
    /// Bytes of payload that came with it or left with the reply.
    pub bytes: u32,
    /// Its frame was whole.
    pub received: u64,
    /// Nothing was in its way any more: leases of others were given back.
    pub admitted: u64,
    /// Work for it was first given to a device (a target's, or the log's).
    pub device_began: u64,
    /// Such work was last over.
    pub device_ended: u64,
    /// The reply was given to the connection.
    pub replied: u64,
}

/// The answer to a [`TraceQuery`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TraceReply {
    /// The shard's clock now.
    pub now: u64,
    /// When the oldest request that the recorder still holds was answered: of older ones only the slowest are known.
    /// 0 when it holds none.
    pub oldest: u64,
    /// Those found, newest first.
    pub spans: Vec<Span>,
}

impl TraceQuery {
    /// Appends the body.
    pub fn encode(&self, body: &mut Vec<u8>) {
        let out = &mut Writer::new(body);
        out.raw(&self.session.0).u32(to_u32(self.ids.len()));
        for id in &self.ids {
            out.u64(*id);
        }
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Any [`WireErrorKind`](crate::codec::WireErrorKind).
    pub fn decode(body: &[u8]) -> Result<TraceQuery, WireError> {
        let mut from = Reader::new(body, "trace query");
        let session = SessionId(from.uuid()?);
        let count = from.count(TRACE_IDS_MAX)?;
        let ids = (0..count).map(|_| from.u64()).collect::<Result<Vec<_>, _>>()?;
        from.end()?;
        Ok(TraceQuery { session, ids })
    }
}

impl TraceReply {
    /// Appends the body.
    pub fn encode(&self, body: &mut Vec<u8>) {
        let out = &mut Writer::new(body);
        out.u64(self.now).u64(self.oldest).u32(to_u32(self.spans.len()));
        for span in &self.spans {
            span.encode(out);
        }
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Any [`WireErrorKind`](crate::codec::WireErrorKind).
    pub fn decode(body: &[u8]) -> Result<TraceReply, WireError> {
        let mut from = Reader::new(body, "trace reply");
        let (now, oldest) = (from.u64()?, from.u64()?);
        let count = from.count(TRACE_SPANS_MAX)?;
        let spans = (0..count).map(|_| Span::decode(&mut from)).collect::<Result<Vec<_>, _>>()?;
        from.end()?;
        Ok(TraceReply { now, oldest, spans })
    }
}

impl Span {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u64(self.request_id).u16(self.kind.code()).u16(self.status.code());
        out.bool(self.target.is_some()).u16(self.target.unwrap_or_default().0).u32(self.bytes);
        for time in
            [self.received, self.admitted, self.device_began, self.device_ended, self.replied]
        {
            out.u64(time);
        }
    }

    fn decode(from: &mut Reader<'_>) -> Result<Span, WireError> {
        let request_id = from.u64()?;
        let (kind, status) = (Kind::from_code(from.u16()?)?, Status::from_code(from.u16()?)?);
        let (has_target, target) = (from.bool()?, TargetId(from.u16()?));
        let bytes = from.u32()?;
        Ok(Span {
            request_id,
            kind,
            status,
            target: has_target.then_some(target),
            bytes,
            received: from.u64()?,
            admitted: from.u64()?,
            device_began: from.u64()?,
            device_ended: from.u64()?,
            replied: from.u64()?,
        })
    }
}
