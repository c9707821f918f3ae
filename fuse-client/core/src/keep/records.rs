//! The records of a [`Keep`](super::Keep): what of each thing a successor needs.
//!
//! Encoded as messages are, little-endian, one field after the other.

use weft_wire::codec::{Reader, WireError, Writer};
use weft_wire::limits::TEXT_BYTES_MAX;
use weft_wire::locks::ClaimedLock;
use weft_wire::meta::{Attr, Time};
use weft_wire::session::Welcome;
use weft_wire::{Ino, Kind, Layout, ShardId, VolumeId};

/// States of a write's record.
pub(crate) mod write_state {
    /// The targets have not acknowledged it.
    pub(crate) const NEW: u64 = 1;
    /// They have, and have not made it durable.
    pub(crate) const ACKNOWLEDGED: u64 = 2;
    /// They had, and were restarted since: it is written again.
    pub(crate) const AGAIN: u64 = 3;
}

/// What an operation is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpState {
    /// Nobody can tell: no client-core serves.
    Unknown,
    /// Not begun: what it needs is not there yet.
    Waiting,
    /// A server was asked.
    InProgress,
    /// The servers answered; the program has not heard yet.
    Serviced,
    /// The client-core that did it died: it is being asked again.
    Purged,
    /// Its time was up, or a signal ended it; what was asked is not heard any more.
    GivenUp,
}

impl OpState {
    const ALL: [OpState; 6] = [
        OpState::Unknown,
        OpState::Waiting,
        OpState::InProgress,
        OpState::Serviced,
        OpState::Purged,
        OpState::GivenUp,
    ];

    /// As people read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            OpState::Unknown => "unknown",
            OpState::Waiting => "waiting",
            OpState::InProgress => "in progress",
            OpState::Serviced => "serviced",
            OpState::Purged => "purged",
            OpState::GivenUp => "given up",
        }
    }

    fn code(self) -> u8 {
        let at = OpState::ALL.iter().position(|state| *state == self);
        u8::try_from(at.unwrap_or(0)).expect("six states")
    }
}

/// An operation of a program in progress.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpRecord {
    /// The kernel's number of it.
    pub op: u64,
    /// What is asked: the operation's name.
    pub what: String,
    /// The inode it is about; 0 when it is about none.
    pub ino: Ino,
    /// Who asks.
    pub pid: u32,
    /// Where it is.
    pub state: OpState,
    /// Since when it is asked, by the machine's monotonic clock, in milliseconds.
    pub since_ms: u64,
    /// Since when it is in this state.
    pub state_since_ms: u64,
    /// What it waits for, for a person; empty when nothing keeps it.
    pub waits_for: String,
    /// The handle or the open that it makes must be given back when nobody ever hears of it.
    pub(crate) opens: bool,
}

/// Longest text of what an operation waits for.
pub(crate) const WAITS_FOR_BYTES_MAX: usize = 56;

impl OpRecord {
    /// What can be told of it while no client-core serves: what the last one wrote down says nothing of now, and whether its
    /// answer reached the kernel nobody knows.
    #[must_use]
    pub fn without_core(self) -> OpRecord {
        OpRecord { state: OpState::Unknown, waits_for: "a client-core".to_owned(), ..self }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(120);
        let out = &mut Writer::new(&mut body);
        out.u64(self.op).u64(self.ino.0).u64(self.since_ms).u32(self.pid);
        out.u8(self.state.code()).bool(self.opens);
        out.bytes(self.what.as_bytes());
        let end = self.waits_for.len().min(WAITS_FOR_BYTES_MAX);
        out.bytes(&self.waits_for.as_bytes()[..end]);
        out.u64(self.state_since_ms);
        body
    }

    pub(crate) fn decode(content: &[u8]) -> Option<OpRecord> {
        fn read(from: &mut Reader<'_>) -> Result<OpRecord, WireError> {
            let (op, ino, since_ms, pid) =
                (from.u64()?, Ino(from.u64()?), from.u64()?, from.u32()?);
            let state = OpState::ALL.get(usize::from(from.u8()?)).copied();
            let opens = from.bool()?;
            let mut text =
                || from.bytes(120).map(|text| String::from_utf8_lossy(text).into_owned());
            let (what, waits_for) = (text()?, text()?);
            let state = state.unwrap_or(OpState::Unknown);
            // Not in records of client-cores before this one.
            let state_since_ms = from.u64().unwrap_or(since_ms);
            Ok(OpRecord { op, what, ino, pid, state, since_ms, state_since_ms, waits_for, opens })
        }
        read(&mut Reader::new(content, "operation's record")).ok()
    }
}

/// An open file or directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HandleRecord {
    pub(crate) handle: u64,
    pub(crate) ino: Ino,
    pub(crate) dir: bool,
    pub(crate) errors_seen: u64,
    /// The operation that made it.
    pub(crate) made_by: u64,
}

impl HandleRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(40);
        let out = &mut Writer::new(&mut body);
        out.u64(self.handle).u64(self.ino.0).u64(self.errors_seen).u64(self.made_by);
        out.bool(self.dir);
        body
    }

    pub(crate) fn decode(content: &[u8]) -> Option<HandleRecord> {
        fn read(from: &mut Reader<'_>) -> Result<HandleRecord, WireError> {
            let (handle, ino) = (from.u64()?, Ino(from.u64()?));
            let (errors_seen, made_by) = (from.u64()?, from.u64()?);
            Ok(HandleRecord { handle, ino, dir: from.bool()?, errors_seen, made_by })
        }
        read(&mut Reader::new(content, "handle's record")).ok()
    }
}

/// A file that is open, or has something to write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FileRecord {
    pub(crate) attr: Attr,
    pub(crate) layout: Option<Layout>,
    /// The data is in the inode, of which so many bytes fit.
    pub(crate) inline_max: Option<u16>,
    /// It is at the targets, and to the volume it is in the inode, as above.
    pub(crate) begun_max: Option<u16>,
    pub(crate) server_opens: u32,
    pub(crate) writer: (u32, u32),
    pub(crate) local_end: u64,
    pub(crate) local_mtime: Option<Time>,
    pub(crate) acked_end: u64,
    /// The volume has not been told of everything.
    pub(crate) untold: bool,
    /// Something was acknowledged that is not durable, and not kept.
    pub(crate) let_go: bool,
    /// Blocks the volume has not been told of.
    pub(crate) blocks: i64,
    pub(crate) error_count: u64,
    pub(crate) errno: u32,
}

impl FileRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(256);
        let out = &mut Writer::new(&mut body);
        self.attr.encode(out);
        out.bool(self.layout.is_some());
        if let Some(layout) = &self.layout {
            layout.encode(out);
        }
        out.bool(self.inline_max.is_some()).u16(self.inline_max.unwrap_or(0));
        out.bool(self.begun_max.is_some()).u16(self.begun_max.unwrap_or(0));
        out.u32(self.server_opens).u32(self.writer.0).u32(self.writer.1);
        out.u64(self.local_end).bool(self.local_mtime.is_some());
        let mtime = self.local_mtime.unwrap_or_default();
        out.i64(mtime.seconds).u32(mtime.nanos);
        out.u64(self.acked_end)
            .bool(self.untold)
            .bool(self.let_go)
            .i64(self.blocks)
            .u64(self.error_count)
            .u32(self.errno);
        body
    }

    pub(crate) fn decode(content: &[u8]) -> Option<FileRecord> {
        fn read(from: &mut Reader<'_>) -> Result<FileRecord, WireError> {
            let attr = Attr::decode(from)?;
            let layout = if from.bool()? { Some(Layout::decode(from)?) } else { None };
            let (inline, inline_max) = (from.bool()?, from.u16()?);
            let (begun, begun_max) = (from.bool()?, from.u16()?);
            let (server_opens, writer) = (from.u32()?, (from.u32()?, from.u32()?));
            let (local_end, has_mtime) = (from.u64()?, from.bool()?);
            let mtime = Time { seconds: from.i64()?, nanos: from.u32()? };
            Ok(FileRecord {
                attr,
                layout,
                inline_max: inline.then_some(inline_max),
                begun_max: begun.then_some(begun_max),
                server_opens,
                writer,
                local_end,
                local_mtime: has_mtime.then_some(mtime),
                acked_end: from.u64()?,
                untold: from.bool()?,
                let_go: from.bool()?,
                blocks: from.i64()?,
                error_count: from.u64()?,
                errno: from.u32()?,
            })
        }
        read(&mut Reader::new(content, "file's record")).ok()
    }
}

/// Bytes that were answered and are not durable: where in the file, and where in the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct WriteRecord {
    /// Grows with each one: of two that overlap, the later counts.
    pub(crate) order: u64,
    pub(crate) ino: Ino,
    /// In the file.
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    /// The slot: where it begins in the pool, and its length.
    pub(crate) slot: (u64, u64),
    /// Where in the slot the bytes begin.
    pub(crate) start: u64,
    pub(crate) memory_bytes: u64,
}

impl WriteRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(64);
        let out = &mut Writer::new(&mut body);
        out.u64(self.order).u64(self.ino.0).u64(self.offset).u64(self.bytes);
        out.u64(self.slot.0).u64(self.slot.1).u64(self.start).u64(self.memory_bytes);
        body
    }

    pub(crate) fn decode(content: &[u8]) -> Option<WriteRecord> {
        fn read(from: &mut Reader<'_>) -> Result<WriteRecord, WireError> {
            Ok(WriteRecord {
                order: from.u64()?,
                ino: Ino(from.u64()?),
                offset: from.u64()?,
                bytes: from.u64()?,
                slot: (from.u64()?, from.u64()?),
                start: from.u64()?,
                memory_bytes: from.u64()?,
            })
        }
        read(&mut Reader::new(content, "write's record")).ok()
    }
}

/// Bytes that an owner has locked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LockRecord {
    pub(crate) lock: ClaimedLock,
    /// Through which it was taken.
    pub(crate) handle: u64,
}

impl LockRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(48);
        let out = &mut Writer::new(&mut body);
        out.u64(self.handle);
        self.lock.encode(out);
        body
    }

    pub(crate) fn decode(content: &[u8]) -> Option<LockRecord> {
        let mut from = Reader::new(content, "lock's record");
        let handle = from.u64().ok()?;
        Some(LockRecord { lock: ClaimedLock::decode(&mut from).ok()?, handle })
    }
}

/// What a server said when it was met last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LinkRecord {
    pub(crate) address: String,
    pub(crate) shard: ShardId,
    pub(crate) welcome: Welcome,
}

impl LinkRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        Writer::new(&mut body).bytes(self.address.as_bytes()).u16(self.shard.0);
        self.welcome.encode(&mut body);
        body
    }

    pub(crate) fn decode(content: &[u8]) -> Option<LinkRecord> {
        let mut from = Reader::new(content, "link's record");
        let address = String::from_utf8(from.bytes(TEXT_BYTES_MAX).ok()?.to_vec()).ok()?;
        let shard = ShardId(from.u16().ok()?);
        let welcome = Welcome::decode(from.rest()).ok()?;
        Some(LinkRecord { address, shard, welcome })
    }
}

/// A change of a volume that may have been sent and whose end has not been told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Change {
    pub(crate) order: u64,
    pub(crate) volume: VolumeId,
    pub(crate) slot: u16,
    pub(crate) sequence: u64,
    /// The operation that waits for it; 0 when none does.
    pub(crate) op: u64,
    pub(crate) kind: Kind,
    /// The request, slot and number in it.
    pub(crate) body: Vec<u8>,
}

impl Change {
    /// Bytes before the body.
    pub(crate) const HEAD_BYTES: usize = 64;

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(Change::HEAD_BYTES + self.body.len());
        let out = &mut Writer::new(&mut body);
        out.u64(self.order).u16(self.volume.0).u16(self.slot).u64(self.sequence).u64(self.op);
        out.u16(self.kind.code()).raw(&self.body);
        body
    }

    pub(crate) fn decode(content: &[u8]) -> Option<Change> {
        fn read(from: &mut Reader<'_>) -> Result<Change, WireError> {
            Ok(Change {
                order: from.u64()?,
                volume: VolumeId(from.u16()?),
                slot: from.u16()?,
                sequence: from.u64()?,
                op: from.u64()?,
                kind: Kind::from_code(from.u16()?)?,
                body: from.rest().to_vec(),
            })
        }
        read(&mut Reader::new(content, "change's record")).ok()
    }
}
