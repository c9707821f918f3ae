//! How two ends meet: the hello, the map of the cluster, and what a shard says about its targets.

use crate::codec::{Reader, WireError, WireErrorKind, Writer};
use crate::data::Known;
use crate::ids::{ClusterId, SessionId, ShardId, TargetId, VolumeId};
use crate::limits::{LIST_COUNT_MAX, TEXT_BYTES_MAX};
use crate::units::to_u32;

/// The client understands leases: lease bits in headers, `Recall`, and what a welcome says about them.
pub const FEATURE_LEASES: u64 = 1;
/// Replies to changes of names may end with the directories' attributes ([`crate::LeaseBits::PARENTS`]).
pub const FEATURE_PARENTS: u64 = 2;
/// A sync may be of all files at once ([`crate::data::DataRequest::ALL_FILES`]).
pub const FEATURE_SYNC_ALL: u64 = 4;
/// The server answers `Trace`. One that does not say so would hang up on it: an unknown kind is no frame to it.
pub const FEATURE_TRACE: u64 = 8;
/// Data of small files may be in the inode ([`crate::meta::Inline`]). What a client without it makes is not, and it cannot
/// open one that is.
pub const FEATURE_INLINE: u64 = 16;
/// `SetXattr` may say what an ACL does to the setgid bit ([`crate::meta::XATTR_KEEP_SETGID`]).
pub const FEATURE_ACL_SETGID: u64 = 32;
/// What a welcome says of fences ([`Welcome::fence`]) outlives the server's process.
pub const FEATURE_FENCES: u64 = 64;
/// Whoever makes a file may begin to write at its targets without a word ([`crate::meta::MakeHow::fresh`]).
pub const FEATURE_FRESH: u64 = 128;
/// The server copies from chunk to chunk ([`crate::data::DataRequest::Copy`]), among the targets of its node.
pub const FEATURE_COPY: u64 = 256;
/// A `SetAttr` may say when it happened ([`crate::meta::SetAttr::ctime`]).
pub const FEATURE_CTIME: u64 = 512;

/// The first frame of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Oldest and newest version the client speaks.
    pub versions: (u16, u16),
    /// Optional abilities, a bit each ([`FEATURE_LEASES`], [`FEATURE_PARENTS`], [`FEATURE_SYNC_ALL`],
    /// [`FEATURE_TRACE`], [`FEATURE_INLINE`], [`FEATURE_ACL_SETGID`], [`FEATURE_FENCES`], [`FEATURE_FRESH`],
    /// [`FEATURE_COPY`], [`FEATURE_CTIME`]); unknown ones are ignored.
    pub features: u64,
    /// The cluster meant; all zero for any.
    pub cluster: ClusterId,
    /// The client's session, kept over reconnects.
    pub session: SessionId,
    /// The shard this connection is for; the accepting shard hands the socket over.
    pub shard: ShardId,
}

impl Hello {
    /// Appends the body.
    pub fn encode(&self, body: &mut Vec<u8>) {
        let out = &mut Writer::new(body);
        out.u16(self.versions.0).u16(self.versions.1).u64(self.features);
        out.raw(&self.cluster.0).raw(&self.session.0).u16(self.shard.0);
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Any [`WireErrorKind`].
    pub fn decode(body: &[u8]) -> Result<Hello, WireError> {
        let mut from = Reader::new(body, "hello");
        let hello = Hello {
            versions: (from.u16()?, from.u16()?),
            features: from.u64()?,
            cluster: ClusterId(from.uuid()?),
            session: SessionId(from.uuid()?),
            shard: ShardId(from.u16()?),
        };
        from.end()?;
        Ok(hello)
    }
}

/// The server's answer to a hello.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Welcome {
    /// The version both speak from here on.
    pub version: u16,
    /// Abilities both have.
    pub features: u64,
    /// The cluster.
    pub cluster: ClusterId,
    /// Shards of this node.
    pub shard_count: u16,
    /// The server's start, as a number that differs at each start: a client that sees a new one re-registers.
    pub epoch: u64,
    /// While this number stays the same and is not 0, what this shard acknowledged is still there, also after the
    /// server's process died. With another one (the machine was rebooted, a target's flush failed) only what was synced
    /// is sure to be.
    pub boot: u64,
    /// Requests the connection may have in flight.
    pub credits: u32,
    /// Payload bytes of writes the connection may have in flight.
    pub payload_bytes_max: u64,
    /// Slots for metadata changes; 0 when this shard has no volume.
    pub slot_count: u16,
    /// How long leases last after the last sign of life, in milliseconds. Only with [`FEATURE_LEASES`], like the next.
    pub lease_ms: u32,
    /// Grows each time the session was fenced off: it lost its leases, and what it had not written by then must not be
    /// written any more. By [`FENCE_ENDED`] when it had ended, too. Without [`FEATURE_FENCES`] the lower 16 bits count from
    /// the server's start.
    pub fence: u32,
}

/// What a session's end adds to [`Welcome::fence`], over the server's restarts too: outcomes of its changes are
/// forgotten, so one that comes again would be made again.
pub const FENCE_ENDED: u32 = 1 << 16;

impl Welcome {
    /// Which process it is, and what that has not lost.
    #[must_use]
    pub fn known(&self) -> Known {
        Known { epoch: self.epoch, boot: self.boot }
    }

    /// Appends the body.
    pub fn encode(&self, body: &mut Vec<u8>) {
        let out = &mut Writer::new(body);
        out.u16(self.version).u64(self.features).raw(&self.cluster.0).u16(self.shard_count);
        out.u64(self.epoch).u64(self.boot).u32(self.credits).u64(self.payload_bytes_max);
        out.u16(self.slot_count);
        if self.features & FEATURE_LEASES != 0 {
            out.u32(self.lease_ms).u32(self.fence);
        }
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Any [`WireErrorKind`]; `Value` for no credits or no shards.
    pub fn decode(body: &[u8]) -> Result<Welcome, WireError> {
        let mut from = Reader::new(body, "welcome");
        let mut welcome = Welcome {
            version: from.u16()?,
            features: from.u64()?,
            cluster: ClusterId(from.uuid()?),
            shard_count: from.u16()?,
            epoch: from.u64()?,
            boot: from.u64()?,
            credits: from.u32()?,
            payload_bytes_max: from.u64()?,
            slot_count: from.u16()?,
            lease_ms: 0,
            fence: 0,
        };
        if welcome.features & FEATURE_LEASES != 0 {
            (welcome.lease_ms, welcome.fence) = (from.u32()?, from.u32()?);
        }
        if welcome.credits == 0 || welcome.shard_count == 0 {
            return Err(from.error(WireErrorKind::Value));
        }
        from.end()?;
        Ok(welcome)
    }
}

/// Where a target or volume is: a node of the map, and its shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Index into [`ClusterMap::nodes`].
    pub node: u16,
    /// Shard of that node.
    pub shard: ShardId,
}

/// A node of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeEntry {
    /// Its name.
    pub name: String,
    /// `HOST:PORT` to connect to; empty means the address the map was asked at.
    pub address: String,
    /// Its shards.
    pub shard_count: u16,
}

/// What there is and where.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClusterMap {
    /// The nodes.
    pub nodes: Vec<NodeEntry>,
    /// The targets.
    pub targets: Vec<(TargetId, Place)>,
    /// The metadata volumes.
    pub volumes: Vec<(VolumeId, Place)>,
}

impl Place {
    fn encode(self, out: &mut Writer<'_>) {
        out.u16(self.node).u16(self.shard.0);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Place, WireError> {
        Ok(Place { node: from.u16()?, shard: ShardId(from.u16()?) })
    }
}

fn text(from: &mut Reader<'_>) -> Result<String, WireError> {
    let bytes = from.bytes(TEXT_BYTES_MAX)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| from.error(WireErrorKind::Value))
}

impl ClusterMap {
    /// Appends the body.
    pub fn encode(&self, body: &mut Vec<u8>) {
        let out = &mut Writer::new(body);
        out.u32(to_u32(self.nodes.len()));
        for node in &self.nodes {
            out.bytes(node.name.as_bytes()).bytes(node.address.as_bytes()).u16(node.shard_count);
        }
        out.u32(to_u32(self.targets.len()));
        for (target, place) in &self.targets {
            place.encode(out.u16(target.0));
        }
        out.u32(to_u32(self.volumes.len()));
        for (volume, place) in &self.volumes {
            place.encode(out.u16(volume.0));
        }
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Any [`WireErrorKind`]; `Value` when a place names a node that is not in the map.
    pub fn decode(body: &[u8]) -> Result<ClusterMap, WireError> {
        let from = &mut Reader::new(body, "cluster map");
        let mut map = ClusterMap::default();
        for _ in 0..from.count(LIST_COUNT_MAX)? {
            let (name, address) = (text(from)?, text(from)?);
            map.nodes.push(NodeEntry { name, address, shard_count: from.u16()? });
        }
        for _ in 0..from.count(LIST_COUNT_MAX)? {
            map.targets.push((TargetId(from.u16()?), Place::decode(from)?));
        }
        for _ in 0..from.count(LIST_COUNT_MAX)? {
            map.volumes.push((VolumeId(from.u16()?), Place::decode(from)?));
        }
        let places = map.targets.iter().map(|t| t.1).chain(map.volumes.iter().map(|v| v.1));
        for place in places {
            let node = map.nodes.get(usize::from(place.node));
            if node.is_none_or(|node| place.shard.0 >= node.shard_count) {
                return Err(from.error(WireErrorKind::Value));
            }
        }
        from.clone().end()?;
        Ok(map)
    }
}

/// One target as its shard sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetInfo {
    /// The target.
    pub id: TargetId,
    /// Its own UUID, from the superblock.
    pub uuid: [u8; 16],
    /// The shard that owns it.
    pub shard: ShardId,
    /// The device or file.
    pub path: String,
    /// Bytes of the data area.
    pub total_bytes: u64,
    /// Bytes not given out.
    pub free_bytes: u64,
    /// Chunks stored.
    pub chunk_count: u64,
    /// Read and write operations served since start.
    pub op_counts: (u64, u64),
    /// Blocks known to be damaged.
    pub damaged_blocks: u64,
}

/// The targets of a shard.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TargetListReply {
    /// The targets.
    pub targets: Vec<TargetInfo>,
}

impl TargetListReply {
    /// Appends the body.
    pub fn encode(&self, body: &mut Vec<u8>) {
        let out = &mut Writer::new(body);
        out.u32(to_u32(self.targets.len()));
        for target in &self.targets {
            out.u16(target.id.0).raw(&target.uuid).u16(target.shard.0);
            out.bytes(target.path.as_bytes()).u64(target.total_bytes).u64(target.free_bytes);
            out.u64(target.chunk_count).u64(target.op_counts.0).u64(target.op_counts.1);
            out.u64(target.damaged_blocks);
        }
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Any [`WireErrorKind`].
    pub fn decode(body: &[u8]) -> Result<TargetListReply, WireError> {
        let from = &mut Reader::new(body, "target list");
        let count = from.count(LIST_COUNT_MAX)?;
        let mut reply = TargetListReply::default();
        for _ in 0..count {
            reply.targets.push(TargetInfo {
                id: TargetId(from.u16()?),
                uuid: from.uuid()?,
                shard: ShardId(from.u16()?),
                path: text(from)?,
                total_bytes: from.u64()?,
                free_bytes: from.u64()?,
                chunk_count: from.u64()?,
                op_counts: (from.u64()?, from.u64()?),
                damaged_blocks: from.u64()?,
            });
        }
        from.clone().end()?;
        Ok(reply)
    }
}
