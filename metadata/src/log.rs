//! The log: batches of commands, as bytes, and how they are read back.
//!
//! The file has two areas of equal length. The batches since the beginning of checkpoint `g` are in area `g % 2`, from its
//! start, without gaps, each at a multiple of 4 KiB. While checkpoint `g + 1` is written the database on the disk is that
//! of `g`, so a replay takes the batches of `g` and then those of `g + 1`. A few appends are under way at a time and end in
//! any order, so whole batches behind one that is not whole prove nothing by themselves. But each says up to where the log
//! was durable when it was sent: a batch below that *was* whole and is damaged now, which is an error and not the end of
//! the log.

use weft_wire::blocks::crc32c;
use weft_wire::meta::Time;
use weft_wire::units::{to_u32, to_u64, to_usize};
use weft_wire::{Kind as WireKind, SessionId};
use zerocopy::byteorder::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{Kind, MetaError};
use crate::limits::{COMMAND_DIRTY_BYTES, LOG_BLOCK_BYTES};
use crate::planted::{self, Bug};
use crate::record::{FORMAT, Identity};

/// Of batches. In those of 1 nothing says what was durable: each was sent after the one before it was.
pub(crate) const LOG_FORMAT: u16 = 2;
/// "WLOG" as bytes.
pub(crate) const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"WLOG");
/// A session ended: its slots go.
pub(crate) const SESSION_END: u16 = 0xff01;
/// The body of [`SESSION_END`] when its client was away for too long; after a goodbye there is none.
pub(crate) const SESSION_EXPIRED: [u8; 1] = [1];
/// The targets are done with these works.
pub(crate) const WORKS_DONE: u16 = 0xff02;
/// Nobody has these inodes without a name open.
pub(crate) const DROP_ORPHANS: u16 = 0xff03;
/// Files were read: inode, seconds and nanoseconds of each.
pub(crate) const WERE_READ: u16 = 0xff04;
/// Others go on without a session; the body says which way: [`crate::Fence`].
pub(crate) const FENCE: u16 = 0xff05;

/// The log as it is read when a volume is opened: a file of [`log_bytes`], all zero at first.
pub trait LogDevice {
    /// Length in bytes.
    ///
    /// # Errors
    /// What the device says.
    fn len_bytes(&mut self) -> std::io::Result<u64>;
    /// Fills `buffer` with the bytes at `offset`. Both are multiples of 4096.
    ///
    /// # Errors
    /// What the device says.
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()>;
}

impl LogDevice for std::fs::File {
    fn len_bytes(&mut self) -> std::io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buffer, offset)
    }
}

/// How long the log file must be for areas of `segment_bytes`.
pub const fn log_bytes(segment_bytes: u32) -> u64 {
    segment_bytes as u64 * 2
}

/// One change of the volume's state. The log is a list of these.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Command {
    pub(crate) sequence: u64,
    pub(crate) session: SessionId,
    pub(crate) now: Time,
    /// A wire kind's code, or one of the internal ones above.
    pub(crate) kind: u16,
    pub(crate) body: Vec<u8>,
}

impl Command {
    /// The client request it carries, if it is one.
    pub(crate) fn wire_kind(&self) -> Option<WireKind> {
        WireKind::from_code(self.kind).ok()
    }

    /// Bytes in the log.
    pub(crate) fn log_bytes(&self) -> usize {
        size_of::<RawCommand>() + self.body.len()
    }

    /// How much it changes, in units of [`crate::limits::COMMAND_DIRTY_BYTES`].
    pub(crate) fn change_count(&self) -> u64 {
        let body_bytes = to_u64(self.body.len());
        match self.kind {
            DROP_ORPHANS | WORKS_DONE | WERE_READ => body_bytes / 8,
            _ => 1 + body_bytes / COMMAND_DIRTY_BYTES,
        }
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct RawBatch {
    /// CRC32C of the rest of this header.
    pub(crate) checksum: U32,
    pub(crate) magic: U32,
    pub(crate) format: U16,
    pub(crate) reserved: [u8; 2],
    pub(crate) command_count: U32,
    pub(crate) nonce: U64,
    pub(crate) generation: U64,
    pub(crate) first_sequence: U64,
    pub(crate) body_bytes: U32,
    /// CRC32C of the `body_bytes` after this header.
    pub(crate) body_checksum: U32,
    /// All commands below this number were durable when the batch was sent.
    pub(crate) durable_below: U64,
    pub(crate) reserved_tail: [u8; 8],
}
pub(crate) const BATCH_HEADER_BYTES: usize = 64;
const _: () = assert!(size_of::<RawBatch>() == BATCH_HEADER_BYTES);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct RawCommand {
    pub(crate) sequence: U64,
    pub(crate) seconds: I64,
    pub(crate) nanos: U32,
    pub(crate) kind: U16,
    pub(crate) reserved: [u8; 2],
    pub(crate) session: [u8; 16],
    pub(crate) body_bytes: U32,
    pub(crate) reserved_tail: [u8; 4],
}
const _: () = assert!(size_of::<RawCommand>() == 48);

/// The batch as it goes to the log: a multiple of 4096 bytes long. All commands below `durable_below` are durable.
pub(crate) fn encode_batch(
    identity: &Identity,
    generation: u64,
    durable_below: u64,
    commands: &[Command],
) -> Vec<u8> {
    let mut out = vec![0; BATCH_HEADER_BYTES];
    for command in commands {
        let raw = RawCommand {
            sequence: U64::new(command.sequence),
            seconds: I64::new(command.now.seconds),
            nanos: U32::new(command.now.nanos),
            kind: U16::new(command.kind),
            reserved: [0; 2],
            session: command.session.0,
            body_bytes: U32::new(to_u32(command.body.len())),
            reserved_tail: [0; 4],
        };
        out.extend_from_slice(raw.as_bytes());
        out.extend_from_slice(&command.body);
    }
    let body = &out[BATCH_HEADER_BYTES..];
    let mut raw = RawBatch {
        checksum: U32::new(0),
        magic: U32::new(BATCH_MAGIC),
        format: U16::new(LOG_FORMAT),
        reserved: [0; 2],
        command_count: U32::new(to_u32(commands.len())),
        nonce: U64::new(identity.log_nonce),
        generation: U64::new(generation),
        first_sequence: U64::new(commands.first().map_or(0, |c| c.sequence)),
        body_bytes: U32::new(to_u32(body.len())),
        body_checksum: U32::new(crc32c(body)),
        durable_below: U64::new(durable_below),
        reserved_tail: [0; 8],
    };
    raw.checksum = U32::new(crc32c(&raw.as_bytes()[4..]));
    out[..BATCH_HEADER_BYTES].copy_from_slice(raw.as_bytes());
    out.resize(padded(out.len()), 0);
    out
}

/// `bytes` rounded up to whole log blocks.
pub(crate) fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(to_usize(u64::from(LOG_BLOCK_BYTES)))
}

/// The header of a batch of this volume, of whatever generation.
fn decode_header(identity: &Identity, block: &[u8]) -> Option<RawBatch> {
    let (raw, _) = RawBatch::read_from_prefix(block).ok()?;
    let ours = raw.magic.get() == BATCH_MAGIC
        && raw.checksum.get() == crc32c(&raw.as_bytes()[4..])
        && raw.nonce.get() == identity.log_nonce;
    ours.then_some(raw)
}

fn decode_commands(raw: &RawBatch, mut bytes: &[u8]) -> Option<Vec<Command>> {
    let mut commands = Vec::new();
    for index in 0..u64::from(raw.command_count.get()) {
        let (head, rest) = RawCommand::read_from_prefix(bytes).ok()?;
        let (body, rest) = rest.split_at_checked(to_usize(u64::from(head.body_bytes.get())))?;
        let sequence = head.sequence.get();
        let nanos = head.nanos.get();
        if sequence != raw.first_sequence.get().checked_add(index)? || nanos >= 1_000_000_000 {
            return None;
        }
        commands.push(Command {
            sequence,
            session: SessionId(head.session),
            now: Time { seconds: head.seconds.get(), nanos },
            kind: head.kind.get(),
            body: body.to_vec(),
        });
        bytes = rest;
    }
    bytes.is_empty().then_some(commands)
}

/// The commands of an encoded batch, for tests that look at what is logged.
#[cfg(test)]
pub(crate) fn parse_batch(bytes: &[u8]) -> Vec<Command> {
    let (raw, rest) = RawBatch::read_from_prefix(bytes).expect("a batch has a header");
    let body = &rest[..to_usize(u64::from(raw.body_bytes.get()))];
    assert_eq!(crc32c(body), raw.body_checksum.get());
    decode_commands(&raw, body).expect("what was just encoded can be decoded")
}

/// Reads the batches since a checkpoint back, in order: those of its generation, and those of the next.
pub(crate) struct Replay<'a> {
    log: &'a mut dyn LogDevice,
    identity: Identity,
    generation: u64,
    /// It is that of the checkpoint that was under way; there is none after it.
    is_last: bool,
    /// Where the area begins in the file.
    start: u64,
    /// Offset of the next batch in the area.
    at: u32,
    next_sequence: u64,
}

impl<'a> Replay<'a> {
    pub(crate) fn new(
        log: &'a mut dyn LogDevice,
        identity: &Identity,
        generation: u64,
        next_sequence: u64,
    ) -> Result<Replay<'a>, MetaError> {
        let len_bytes = log.len_bytes().map_err(|e| io_error(0, &e))?;
        if len_bytes < log_bytes(identity.segment_bytes) {
            return Err(MetaError::at(Kind::LogShort, "open", len_bytes));
        }
        let start = area_start(identity, generation);
        let mut replay = Replay {
            log,
            identity: *identity,
            generation,
            is_last: false,
            start,
            at: 0,
            next_sequence,
        };
        replay.check_database_is_newest()?;
        Ok(replay)
    }

    /// A batch is only written after the checkpoint before the one it names is durable.
    fn check_database_is_newest(&mut self) -> Result<(), MetaError> {
        for area in [0, 1] {
            let offset = area_start(&self.identity, area);
            let block = self.read_block(offset)?;
            let header = decode_header(&self.identity, &block);
            if header.is_some_and(|raw| raw.generation.get() > self.generation + 1) {
                return Err(MetaError::at(Kind::LogNewer, "open", offset));
            }
        }
        Ok(())
    }

    fn read_block(&mut self, offset: u64) -> Result<Vec<u8>, MetaError> {
        let mut buffer = vec![0; to_usize(u64::from(LOG_BLOCK_BYTES))];
        self.log.read_at(offset, &mut buffer).map_err(|e| io_error(offset, &e))?;
        Ok(buffer)
    }

    /// The header at `at`, if it is one of this generation.
    fn header(&mut self, at: u32) -> Result<Option<RawBatch>, MetaError> {
        let block = self.read_block(self.start + u64::from(at))?;
        let header = decode_header(&self.identity, &block);
        Ok(header.filter(|raw| raw.generation.get() == self.generation))
    }

    /// The next batch's commands; `None` at the end of the log.
    ///
    /// # Errors
    /// `LogDamaged` when the batch is not whole though a later one says that it was durable; `LogIo`; `Version`.
    pub(crate) fn next_batch(&mut self) -> Result<Option<Vec<Command>>, MetaError> {
        loop {
            if self.at < self.identity.segment_bytes {
                if let Some((raw, commands)) = self.whole_batch()? {
                    let body_bytes = to_usize(u64::from(raw.body_bytes.get()));
                    self.at += to_u32(padded(BATCH_HEADER_BYTES + body_bytes));
                    self.next_sequence += to_u64(commands.len());
                    return Ok(Some(commands));
                }
                if !planted::is(Bug::EndAtDamage) {
                    self.check_was_not_durable()?;
                }
            }
            if self.is_last {
                return Ok(None);
            }
            self.is_last = true;
            self.generation += 1;
            self.start = area_start(&self.identity, self.generation);
            self.at = 0;
        }
    }

    fn whole_batch(&mut self) -> Result<Option<(RawBatch, Vec<Command>)>, MetaError> {
        let Some(raw) = self.header(self.at)? else { return Ok(None) };
        if !(FORMAT..=LOG_FORMAT).contains(&raw.format.get()) {
            return Err(MetaError::at(Kind::Version, "open", u64::from(raw.format.get())));
        }
        let body_bytes = to_usize(u64::from(raw.body_bytes.get()));
        let whole = padded(BATCH_HEADER_BYTES.saturating_add(body_bytes));
        let room = to_usize(u64::from(self.identity.segment_bytes - self.at));
        if raw.first_sequence.get() != self.next_sequence || whole > room {
            return Ok(None);
        }
        let bytes = self.read(self.at, to_u32(whole))?;
        let body = &bytes[BATCH_HEADER_BYTES..BATCH_HEADER_BYTES + body_bytes];
        if crc32c(body) != raw.body_checksum.get() {
            return Ok(None);
        }
        Ok(decode_commands(&raw, body).filter(|c| !c.is_empty()).map(|commands| (raw, commands)))
    }

    /// The batch at `at` is not whole. A later header of this generation may say that it was once.
    fn check_was_not_durable(&mut self) -> Result<(), MetaError> {
        for at in
            (self.at..self.identity.segment_bytes).step_by(to_usize(u64::from(LOG_BLOCK_BYTES)))
        {
            let Some(raw) = self.header(at)? else { continue };
            let durable_below = match raw.format.get() {
                FORMAT => raw.first_sequence.get(),
                _ => raw.durable_below.get(),
            };
            if durable_below > self.next_sequence {
                return Err(MetaError::at(
                    Kind::LogDamaged,
                    "open",
                    self.start + u64::from(self.at),
                ));
            }
        }
        Ok(())
    }

    fn read(&mut self, at: u32, bytes: u32) -> Result<Vec<u8>, MetaError> {
        let mut buffer = vec![0; to_usize(u64::from(bytes))];
        let offset = self.start + u64::from(at);
        self.log.read_at(offset, &mut buffer).map_err(|e| io_error(offset, &e))?;
        Ok(buffer)
    }
}

/// Where in the file the area of `generation` begins.
pub(crate) fn area_start(identity: &Identity, generation: u64) -> u64 {
    generation % 2 * u64::from(identity.segment_bytes)
}

fn io_error(offset: u64, _error: &std::io::Error) -> MetaError {
    MetaError::at(Kind::LogIo, "read the log", offset)
}
