//! What changes nothing: answered at once, from durable state.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use weft_wire::limits::{BODY_BYTES_MAX, FIND_NAMES_MAX};
use weft_wire::meta::{
    DirEntry, FoundName, Inline, MetaReply, MetaRequest, StatFs, push_dir_entry,
};
use weft_wire::units::to_usize;
use weft_wire::{Ino, Status};

use crate::apply::check_xattr_name;
use crate::name;
use crate::record::{Entry, Inode, Tail, entry_key, split_entry_key, xattr_key};
use crate::store::{Name, Store};

/// Bytes of a `Dir` reply that are not entries, generously.
const DIR_REPLY_BYTES: u32 = 64;
/// Bytes of an entry besides its name, with attributes, generously.
const ENTRY_BYTES: usize = 160;
/// Names one `FindNames` looks at: a few milliseconds.
const FIND_SCAN_MAX: u32 = 8192;
/// What an inode with one name takes in the database, about.
const INODE_ROW_BYTES: u64 = 512;

impl Store {
    /// Answers a request that only reads. Opens are the volume's affair.
    pub(crate) fn read(&self, request: &MetaRequest<'_>) -> Result<MetaReply, Status> {
        match request {
            MetaRequest::Lookup { parent, name } => self.lookup(*parent, name),
            MetaRequest::GetAttr { ino } => Ok(MetaReply::Attr(self.known_inode(*ino)?.attr)),
            MetaRequest::GetData { ino } => {
                let inode = self.known_inode(*ino)?;
                Ok(MetaReply::Data(inode.attr, self.inline_of(&inode)?))
            }
            MetaRequest::ReadLink { ino } => match self.known_inode(*ino)?.tail {
                Tail::Symlink(target) => Ok(MetaReply::Bytes(target)),
                _ => Err(Status::Invalid),
            },
            MetaRequest::ReadDir { ino, cookie, bytes_max, plus } => {
                self.read_dir(*ino, *cookie, *bytes_max, *plus)
            }
            MetaRequest::GetXattr { ino, name } => self.get_xattr(*ino, name),
            MetaRequest::ListXattr { ino } => self.list_xattr(*ino),
            MetaRequest::StatFs => self.stat_fs(),
            MetaRequest::GetLayout { ino } => match self.known_inode(*ino)?.tail {
                Tail::File(layout, _) => Ok(MetaReply::Layout(layout)),
                Tail::Directory { policy, .. } => Ok(MetaReply::Policy(policy)),
                _ => Err(Status::Invalid),
            },
            MetaRequest::FindNames { inos, directory, cookie } => {
                self.find_names(inos, *directory, *cookie)
            }
            _ => Err(Status::Protocol),
        }
    }

    /// The data of a file, if it is in the inode.
    pub(crate) fn inline_of(&self, inode: &Inode) -> Result<Option<Inline>, Status> {
        let Some(bytes_max) = inode.inline_max() else { return Ok(None) };
        Ok(Some(Inline { bytes_max, data: Some(self.data(inode.attr.ino)?) }))
    }

    /// Looks at a bounded number of names: whoever wants them all asks again.
    fn find_names(&self, inos: &[Ino], directory: Ino, cookie: u64) -> Result<MetaReply, Status> {
        let wanted: BTreeSet<Ino> = inos.iter().copied().collect();
        let (mut names, mut seen, mut next) = (Vec::new(), 0, None);
        self.scan(Name::Entries, &entry_key(directory, cookie), &mut |key, value| {
            let Some(place) = split_entry_key(key) else { return ControlFlow::Continue(()) };
            if seen == FIND_SCAN_MAX || names.len() == FIND_NAMES_MAX {
                next = Some(place);
                return ControlFlow::Break(());
            }
            seen += 1;
            // An entry that cannot be read names nothing: `weft fs check` tells of it.
            if let Some(entry) = Entry::decode(value).filter(|entry| wanted.contains(&entry.ino)) {
                let name = entry.name.to_vec();
                names.push(FoundName { ino: entry.ino, directory: place.0, name });
            }
            ControlFlow::Continue(())
        })?;
        Ok(MetaReply::Names(names, next))
    }

    fn lookup(&self, parent: Ino, name: &[u8]) -> Result<MetaReply, Status> {
        let directory = self.directory(parent)?;
        let ino = match (name, directory.tail) {
            (b"..", Tail::Directory { parent, .. }) => parent,
            _ => {
                name::check(name)?;
                self.find_entry(parent, name)?.ok_or(Status::NotFound)?.ino
            }
        };
        match self.inode(ino)? {
            Some(inode) => Ok(MetaReply::Entry(inode.attr)),
            // The parent of a directory that is removed but open may be gone; otherwise a name leads nowhere.
            None if name == b".." => Err(Status::Stale),
            None => Err(Status::Damaged),
        }
    }

    fn read_dir(
        &self,
        ino: Ino,
        cookie: u64,
        bytes_max: u32,
        plus: bool,
    ) -> Result<MetaReply, Status> {
        self.directory(ino)?;
        let room = to_usize(u64::from(bytes_max.min(BODY_BYTES_MAX - DIR_REPLY_BYTES)));
        let (mut list, mut last, mut damaged) = (Vec::new(), true, false);
        let from = entry_key(ino, cookie.saturating_add(1));
        self.scan(Name::Entries, &from, &mut |key, value| {
            let Some((parent, cookie)) = split_entry_key(key).filter(|(parent, _)| *parent == ino)
            else {
                return ControlFlow::Break(());
            };
            let Some(entry) = Entry::decode(value) else {
                damaged = true;
                return ControlFlow::Break(());
            };
            debug_assert_eq!(parent, ino);
            if !list.is_empty() && list.len() + entry.name.len() + ENTRY_BYTES > room {
                last = false;
                return ControlFlow::Break(());
            }
            // An inode that cannot be read leaves its name readable: the lookup of it says what is wrong.
            let attr =
                if plus { self.inode(entry.ino).ok().flatten().map(|i| i.attr) } else { None };
            let Entry { ino, kind, name } = entry;
            push_dir_entry(&mut list, &DirEntry { ino, cookie, kind, name, attr });
            ControlFlow::Continue(())
        })?;
        // What lies before a damaged entry is handed out first, then the damage is answered.
        match damaged {
            true if list.is_empty() => Err(Status::Damaged),
            true => Ok(MetaReply::Dir(list, false)),
            false => Ok(MetaReply::Dir(list, last)),
        }
    }

    fn get_xattr(&self, ino: Ino, name: &[u8]) -> Result<MetaReply, Status> {
        check_xattr_name(name)?;
        if self.known_inode(ino)?.xattr_count == 0 {
            return Err(Status::NoData);
        }
        self.xattr(ino, name)?.map(MetaReply::Bytes).ok_or(Status::NoData)
    }

    /// The value of an attribute.
    pub(crate) fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Option<Vec<u8>>, Status> {
        match self.get(Name::Xattrs, &xattr_key(ino, name))?.map(<[u8]>::split_first) {
            Some(Some((1, value))) => Ok(Some(value.to_vec())),
            Some(_) => Err(Status::Damaged),
            None => Ok(None),
        }
    }

    fn list_xattr(&self, ino: Ino) -> Result<MetaReply, Status> {
        let inode = self.known_inode(ino)?;
        Ok(MetaReply::Bytes(if inode.xattr_count == 0 {
            Vec::new()
        } else {
            self.xattr_list(&inode)?
        }))
    }

    fn xattr_list(&self, inode: &Inode) -> Result<Vec<u8>, Status> {
        let mut list = Vec::new();
        let prefix = xattr_key(inode.attr.ino, b"");
        self.scan(Name::Xattrs, &prefix, &mut |key, _| match key.strip_prefix(&prefix[..]) {
            Some(name) => {
                list.extend_from_slice(name);
                list.push(0);
                ControlFlow::Continue(())
            }
            None => ControlFlow::Break(()),
        })?;
        Ok(list)
    }

    fn stat_fs(&self) -> Result<MetaReply, Status> {
        let inodes = self.row_count(Name::Inodes)?;
        let inodes_free = self.rows_free(INODE_ROW_BYTES);
        Ok(MetaReply::StatFs(StatFs { total_bytes: 0, free_bytes: 0, inodes, inodes_free }))
    }
}
