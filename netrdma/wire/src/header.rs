//! The 64-byte header before every body and payload.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::blocks::crc32c;
use crate::codec::{WireError, WireErrorKind};
use crate::lease::LeaseBits;
use crate::limits::{BODY_BYTES_MAX, PAYLOAD_BYTES_MAX};
use crate::status::Status;
use crate::units::{to_u32, to_usize};

/// Length of a header, in bytes.
pub const HEADER_BYTES: usize = 64;
/// "WEFT" as bytes on the wire.
pub const MAGIC: u32 = u32::from_le_bytes(*b"WEFT");
/// The version this build writes.
pub const VERSION: u16 = 1;
/// The oldest version this build reads.
pub const VERSION_MIN: u16 = 1;
/// Flag: the frame answers the request with the same id.
pub const FLAG_REPLY: u16 = 1;
/// Every flag there is: the reply's and the lease bits.
pub const FLAGS_KNOWN: u16 = 0b111_1111;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        /// What a frame asks for or answers. 0 is never valid; numbers are never reused.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        #[repr(u16)]
        pub enum Kind {
            $($(#[$doc])* $name = $code,)*
        }

        impl Kind {
            /// Every kind there is.
            pub const ALL: &'static [Kind] = &[$(Kind::$name,)*];

            /// The wire's number.
            pub const fn code(self) -> u16 {
                match self { $(Kind::$name => $code,)* }
            }

            /// The kind with this number.
            ///
            /// # Errors
            /// `Value` for an unknown one.
            pub const fn from_code(code: u16) -> Result<Kind, WireError> {
                match code {
                    $($code => Ok(Kind::$name),)*
                    _ => Err(WireError::new(WireErrorKind::Value, "kind")),
                }
            }
        }
    };
}

impl Kind {
    /// Whether the server keeps the answer, and gives it again when the request comes again.
    #[must_use]
    pub const fn is_told_again(self) -> bool {
        matches!(
            self,
            Kind::SetAttr
                | Kind::Make
                | Kind::Unlink
                | Kind::Rmdir
                | Kind::Rename
                | Kind::Link
                | Kind::SetXattr
                | Kind::RemoveXattr
                | Kind::Wrote
                | Kind::WriteData
                | Kind::MoveData
                | Kind::SetLayout
        )
    }
}

kinds! {
    /// First frame of a connection: version, features, cluster, session, shard.
    Hello = 0x0001;
    /// Comes back with its body.
    Ping = 0x0002;
    /// The session ends: everything it holds is given back.
    Goodbye = 0x0003;
    /// Nodes, shards, targets and volumes of the cluster.
    ClusterMap = 0x0004;
    /// Space, use and counters of a shard's targets.
    TargetList = 0x0005;

    /// From the server: leases are wanted back.
    Recall = 0x0020;
    /// After a restart of the server: files with writes that it has not got.
    Reclaim = 0x0021;

    /// State, scrub and count of damaged blocks of a shard's targets.
    TargetHealth = 0x0010;
    /// Start or stop the scrub of a target.
    Scrub = 0x0011;
    /// Damaged blocks of a target.
    DamageList = 0x0012;
    /// Counters and histograms of a shard, as Prometheus has them.
    Metrics = 0x0013;
    /// When requests of a session were received, admitted, carried out and answered.
    Trace = 0x0014;
    /// Name to inode.
    Lookup = 0x0100;
    /// Attributes of an inode.
    GetAttr = 0x0101;
    /// Change attributes.
    SetAttr = 0x0102;
    /// Target of a symbolic link.
    ReadLink = 0x0103;
    /// Make a file, directory, symbolic link or special file; or open-or-create.
    Make = 0x0104;
    /// Remove a name of something that is not a directory.
    Unlink = 0x0105;
    /// Remove an empty directory.
    Rmdir = 0x0106;
    /// Move a name.
    Rename = 0x0107;
    /// Another name for an inode.
    Link = 0x0108;
    /// Open an inode: it stays until released, even when unlinked.
    Open = 0x0109;
    /// Give opens back.
    Release = 0x010a;
    /// A page of a directory.
    ReadDir = 0x010b;
    /// Value of an extended attribute.
    GetXattr = 0x010c;
    /// Set an extended attribute.
    SetXattr = 0x010d;
    /// Names of the extended attributes.
    ListXattr = 0x010e;
    /// Remove an extended attribute.
    RemoveXattr = 0x010f;
    /// Space and inodes of the file system.
    StatFs = 0x0110;
    /// Data was written: the file is at least this long, and so old.
    Wrote = 0x0111;
    /// Layout of a file, or policy of a directory.
    GetLayout = 0x0112;
    /// Set the layout policy of a directory.
    SetLayout = 0x0113;
    /// After a reconnect: these inodes are still open.
    Reopen = 0x0114;
    /// Attributes of a file, and its data if that is in the inode.
    GetData = 0x0115;
    /// Bytes into a file whose data is in the inode.
    WriteData = 0x0116;
    /// A file's data moves from the inode to its targets.
    MoveData = 0x0117;

    /// Inode to names: one stretch of all names there are.
    FindNames = 0x0120;
    /// Blocks of a chunk.
    Read = 0x0200;
    /// Bytes into a chunk.
    Write = 0x0201;
    /// Make everything written to a file on this target durable.
    Sync = 0x0202;
    /// Cut or remove a file's chunks on this target.
    Truncate = 0x0203;
    /// Which chunks of a file are here.
    ChunkList = 0x0204;
    /// Give blocks of a chunk out ahead, make written bytes zeros, or give blocks back.
    Zero = 0x0205;
    /// The next data, or the next hole, of a file on a target.
    Seek = 0x0206;
    /// Bytes of a chunk go to another, which may be of another file, at another target of the same node.
    Copy = 0x0207;
    /// Take a target's device into use up to the length it has now.
    Grow = 0x0210;

    /// Take, change or give up a lock.
    Lock = 0x0300;
    /// What is in the way of a lock?
    LockTest = 0x0301;
    /// A lock that waits is not wanted any more.
    LockCancel = 0x0302;
    /// After a reconnect: these locks are held.
    LockClaim = 0x0303;
    /// Answered when locks that waited are decided.
    LockEvents = 0x0304;
}

impl Kind {
    /// Whether the metadata answers it.
    pub const fn is_metadata(self) -> bool {
        self.code() >> 8 == 1
    }

    /// Whether a target answers it.
    pub const fn is_data(self) -> bool {
        self.code() >> 8 == 2
    }

    /// Whether the table of locks answers it, at the shard of the file's volume.
    pub const fn is_lock(self) -> bool {
        self.code() >> 8 == 3
    }
}

/// The header as it stands in memory on its way in or out. See `doc/format.md` for the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// Whether it answers a request.
    pub reply: bool,
    /// How the request ended; `Ok` in requests.
    pub status: Status,
    /// Leases wanted, or granted with the reply.
    pub lease: LeaseBits,
    /// Chosen by the requester, returned in the reply, in every log line about the request.
    pub request_id: u64,
    /// The server's boot epoch as the sender knows it; 0 before the hello is answered.
    pub epoch: u64,
    /// Requests: milliseconds the requester will still wait, 0 for no limit. Replies: 0.
    pub deadline_ms: u32,
    /// Replies: how many more requests the connection may have in flight again (the credit used comes back).
    pub credits: u32,
    /// The shard meant or answering.
    pub shard: u16,
    /// Bytes of the body after the header.
    pub body_bytes: u32,
    /// Bytes of the payload after the body.
    pub payload_bytes: u32,
    /// CRC32C of the body.
    pub body_checksum: u32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawHeader {
    checksum: U32,
    magic: U32,
    version: U16,
    kind: U16,
    flags: U16,
    status: U16,
    request_id: U64,
    epoch: U64,
    body_checksum: U32,
    body_bytes: U32,
    payload_bytes: U32,
    credits: U32,
    deadline_ms: U32,
    shard: U16,
    reserved: [u8; 10],
}

const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES);

impl Header {
    /// A request of `kind` with this body and payload length.
    pub fn request(kind: Kind, request_id: u64, body: &[u8], payload_bytes: u32) -> Header {
        Header {
            kind,
            reply: false,
            status: Status::Ok,
            lease: LeaseBits::NONE,
            request_id,
            epoch: 0,
            deadline_ms: 0,
            credits: 0,
            shard: 0,
            body_bytes: to_u32(body.len()),
            payload_bytes,
            body_checksum: crc32c(body),
        }
    }

    /// The answer to this request: same kind and id, one credit back.
    pub fn reply(&self, status: Status, body: &[u8], payload_bytes: u32) -> Header {
        let base = Header::request(self.kind, self.request_id, body, payload_bytes);
        Header { reply: true, status, epoch: self.epoch, credits: 1, shard: self.shard, ..base }
    }

    /// The 64 bytes, checksum included.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut raw = RawHeader {
            checksum: U32::new(0),
            magic: U32::new(MAGIC),
            version: U16::new(VERSION),
            kind: U16::new(self.kind.code()),
            flags: U16::new(if self.reply { FLAG_REPLY } else { 0 } | self.lease.flags()),
            status: U16::new(self.status.code()),
            request_id: U64::new(self.request_id),
            epoch: U64::new(self.epoch),
            body_checksum: U32::new(self.body_checksum),
            body_bytes: U32::new(self.body_bytes),
            payload_bytes: U32::new(self.payload_bytes),
            credits: U32::new(self.credits),
            deadline_ms: U32::new(self.deadline_ms),
            shard: U16::new(self.shard),
            reserved: [0; 10],
        };
        raw.checksum = U32::new(crc32c(&raw.as_bytes()[4..]));
        let mut out = [0u8; HEADER_BYTES];
        out.copy_from_slice(raw.as_bytes());
        out
    }

    /// Reads a header. Nothing in it is used before its checksum agrees.
    ///
    /// # Errors
    /// `Short` for fewer than 64 bytes, `Magic`, `Checksum`, `Version`, `Value` (unknown kind, flag or status,
    /// reserved bytes not zero) or `TooLong` (lengths over [`BODY_BYTES_MAX`], [`PAYLOAD_BYTES_MAX`]).
    pub fn decode(bytes: &[u8]) -> Result<Header, WireError> {
        let fail = |kind| Err(WireError::new(kind, "frame header"));
        let Ok((raw, _)) = RawHeader::read_from_prefix(bytes) else {
            return fail(WireErrorKind::Short);
        };
        if raw.magic.get() != MAGIC {
            return fail(WireErrorKind::Magic);
        }
        if raw.checksum.get() != crc32c(&raw.as_bytes()[4..]) {
            return fail(WireErrorKind::Checksum);
        }
        if !(VERSION_MIN..=VERSION).contains(&raw.version.get()) {
            return fail(WireErrorKind::Version);
        }
        if raw.flags.get() & !FLAGS_KNOWN != 0 || raw.reserved != [0; 10] {
            return fail(WireErrorKind::Value);
        }
        if raw.body_bytes.get() > BODY_BYTES_MAX || raw.payload_bytes.get() > PAYLOAD_BYTES_MAX {
            return fail(WireErrorKind::TooLong);
        }
        Ok(Header {
            kind: Kind::from_code(raw.kind.get())?,
            reply: raw.flags.get() & FLAG_REPLY != 0,
            status: Status::from_code(raw.status.get())?,
            lease: LeaseBits::from_flags(raw.flags.get()),
            request_id: raw.request_id.get(),
            epoch: raw.epoch.get(),
            deadline_ms: raw.deadline_ms.get(),
            credits: raw.credits.get(),
            shard: raw.shard.get(),
            body_bytes: raw.body_bytes.get(),
            payload_bytes: raw.payload_bytes.get(),
            body_checksum: raw.body_checksum.get(),
        })
    }

    /// Checks a body against the header's checksum.
    ///
    /// # Errors
    /// `Checksum`.
    pub fn check_body(&self, body: &[u8]) -> Result<(), WireError> {
        if to_u32(body.len()) != self.body_bytes || crc32c(body) != self.body_checksum {
            return Err(WireError::new(WireErrorKind::Checksum, "frame body"));
        }
        Ok(())
    }

    /// Bytes of the whole frame: header, body, payload.
    pub fn frame_bytes(&self) -> usize {
        HEADER_BYTES
            + to_usize(u64::from(self.body_bytes))
            + to_usize(u64::from(self.payload_bytes))
    }
}

/// Appends a frame without payload (header and body) to `out`.
pub fn push_frame(out: &mut Vec<u8>, header: &Header, body: &[u8]) {
    debug_assert_eq!(header.body_bytes, to_u32(body.len()), "the header was made for this body");
    out.extend_from_slice(&header.encode());
    out.extend_from_slice(body);
}
