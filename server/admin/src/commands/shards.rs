//! The shards of a cluster, as its map has them, and a connection to each that is asked for.

use std::collections::BTreeMap;

use weft_wire::meta::{Inline, MetaReply, MetaRequest};
use weft_wire::session::{ClusterMap, FEATURE_INLINE, Place};
use weft_wire::{Ino, ShardId, TargetId, VolumeId};

use crate::client::{ClientError, Connection, Session};
use crate::error::AdminError;

/// A cluster that was asked for its map.
#[derive(Debug)]
pub(crate) struct Shards {
    session: Session,
    server: String,
    /// What there is and where.
    pub(crate) map: ClusterMap,
    /// By node and shard.
    open: BTreeMap<(u16, u16), Connection>,
}

impl Shards {
    /// Connects to shard 0 of `server` and gets the map.
    ///
    /// # Errors
    /// Any error of the client.
    pub(crate) fn open(server: &str, session: &Session) -> Result<Shards, ClientError> {
        let mut first = Connection::open(server, session, ShardId(0))?;
        let map = first.cluster_map()?;
        Ok(Shards::with_map(server, session, map, first))
    }

    /// From a connection to shard 0 and its map.
    pub(crate) fn with_map(
        server: &str,
        session: &Session,
        map: ClusterMap,
        first: Connection,
    ) -> Shards {
        // The node asked is the one without an address; with several nodes it may be the one named so.
        let node = map
            .nodes
            .iter()
            .position(|node| node.address.is_empty() || node.address == server)
            .and_then(|index| u16::try_from(index).ok());
        let open = node.map(|node| ((node, 0), first)).into_iter().collect();
        Shards { session: *session, server: server.to_owned(), map, open }
    }

    /// Every shard of every node: node index, node name, place.
    pub(crate) fn places(&self) -> Vec<(String, Place)> {
        let mut places = Vec::new();
        for (index, node) in self.map.nodes.iter().enumerate() {
            let Ok(index) = u16::try_from(index) else { break };
            let place = |shard| Place { node: index, shard: ShardId(shard) };
            places.extend((0..node.shard_count).map(|shard| (node.name.clone(), place(shard))));
        }
        places
    }

    /// Whether there is a connection to a shard already.
    pub(crate) fn is_open(&self, place: Place) -> bool {
        self.open.contains_key(&(place.node, place.shard.0))
    }

    /// A connection to a shard, made when there is none.
    ///
    /// # Errors
    /// Any error of the client.
    pub(crate) fn at(&mut self, place: Place) -> Result<&mut Connection, ClientError> {
        let key = (place.node, place.shard.0);
        if !self.open.contains_key(&key) {
            let node = self.map.nodes.get(usize::from(place.node));
            let address = node.map_or("", |node| node.address.as_str());
            let address = if address.is_empty() { &self.server } else { address };
            let connection = Connection::open(address, &self.session, place.shard)?;
            self.open.insert(key, connection);
        }
        Ok(self.open.get_mut(&key).expect("inserted above"))
    }

    /// A connection that failed is in an unknown state: the next request makes a new one.
    pub(crate) fn forget(&mut self, place: Place) {
        self.open.remove(&(place.node, place.shard.0));
    }

    /// Where a target is.
    pub(crate) fn place_of_target(&self, target: TargetId) -> Option<Place> {
        self.map.targets.iter().find(|(id, _)| *id == target).map(|(_, place)| *place)
    }

    /// One request to the volume that has `ino`.
    ///
    /// # Errors
    /// No such volume in the map, or any error of the client.
    pub(crate) fn meta(
        &mut self,
        ino: Ino,
        request: &MetaRequest<'_>,
    ) -> Result<MetaReply, AdminError> {
        let place = self.place_of_volume(ino.volume())?;
        Ok(self.at(place)?.meta(request)?)
    }

    /// Whether the server that has `ino` knows of data in inodes. One that does not would hang up when asked for it.
    ///
    /// # Errors
    /// Those of [`Shards::meta`].
    pub(crate) fn knows_inline(&mut self, ino: Ino) -> Result<bool, AdminError> {
        let place = self.place_of_volume(ino.volume())?;
        Ok(self.at(place)?.welcome().features & FEATURE_INLINE != 0)
    }

    /// The data of a file that is in its inode.
    ///
    /// # Errors
    /// Those of [`Shards::meta`].
    pub(crate) fn inline_of(&mut self, ino: Ino) -> Result<Option<Inline>, AdminError> {
        if !self.knows_inline(ino)? {
            return Ok(None);
        }
        match self.meta(ino, &MetaRequest::GetData { ino })? {
            MetaReply::Data(_, inline) => Ok(inline),
            _ => Err(self.misfit("data")),
        }
    }

    /// Where a volume is.
    ///
    /// # Errors
    /// The map has no such volume.
    pub(crate) fn place_of_volume(&self, volume: VolumeId) -> Result<Place, AdminError> {
        let found = self.map.volumes.iter().find(|(id, _)| *id == volume);
        found.map(|(_, place)| *place).ok_or_else(|| {
            let why = format!("the cluster map has no metadata volume {volume}");
            let next = "see the server's log: a node may have started without its volume";
            AdminError::new(format!("ask the metadata of {}", self.server), why, next)
        })
    }

    /// The error of an answer that does not fit its request.
    pub(crate) fn misfit(&self, what: &str) -> AdminError {
        let why = format!("the {what} that came back is no answer to what was asked");
        let next = "are this command and the server of the same version (weft node status)?";
        AdminError::new(format!("ask the metadata of {}", self.server), why, next)
    }

    /// Ends the session on every shard it was on.
    pub(crate) fn close(self) {
        for (_, connection) in self.open {
            connection.goodbye();
        }
    }
}
