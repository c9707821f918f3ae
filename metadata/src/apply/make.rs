//! Making inodes.

use weft_wire::layout::LayoutPolicy;
use weft_wire::limits::SYMLINK_BYTES_MAX;
use weft_wire::meta::{Attr, Caller, DataPlace, FileKind, Inline, MakeHow, MetaReply, Time};
use weft_wire::units::to_u64;
use weft_wire::{Ino, Status};

use super::Done;
use crate::acl::{self, Acl};
use crate::change::{Change, DirDelta};
use crate::name;
use crate::record::{DataAt, Inode, Tail};
use crate::store::Found;

const PERMISSION_BITS: u32 = 0o7777;
const SET_GID: u32 = 0o2000;

/// A `Make` request.
pub(super) struct Wanted<'a> {
    pub(super) caller: &'a Caller,
    pub(super) parent: Ino,
    pub(super) name: &'a [u8],
    pub(super) how: &'a MakeHow,
    pub(super) target: &'a [u8],
}

impl Change<'_> {
    pub(super) fn make(&mut self, wanted: &Wanted<'_>, now: Time) -> Result<Done, Status> {
        let kind = FileKind::from_mode(wanted.how.mode).ok_or(Status::Invalid)?;
        check_wanted(kind, wanted)?;
        let parent = self.live_directory(wanted.parent)?;
        if wanted.name.is_empty() {
            return self.make_tmpfile(&parent, wanted, now);
        }
        if let Some(found) = self.find(wanted.parent, wanted.name)? {
            return self.make_existing(kind, wanted.how, found);
        }
        let ino = self.next_ino()?;
        let inode = self.new_inode(ino, kind, &parent, wanted, now)?;
        let is_directory = inode.is_directory();
        let place = place_of(&inode, Some(Vec::new()));
        self.add_inode(inode);
        let attr = self.inherit(ino, &parent, wanted.how)?;
        let reply = MetaReply::Made(attr, true, place);
        self.add_entry(wanted.parent, wanted.name, ino, kind)?;
        let delta = DirDelta { entries: 1, links: i32::from(is_directory) };
        self.touch_directory(wanted.parent, now, delta)?;
        Ok(Done { opened: opened(wanted.how, ino), ..reply.into() })
    }

    fn make_tmpfile(
        &mut self,
        parent: &Inode,
        wanted: &Wanted<'_>,
        now: Time,
    ) -> Result<Done, Status> {
        let ino = self.next_ino()?;
        let mut inode = self.new_inode(ino, FileKind::Regular, parent, wanted, now)?;
        inode.attr.nlink = 0;
        let place = place_of(&inode, Some(Vec::new()));
        self.add_tmpfile(inode);
        let attr = self.inherit(ino, parent, wanted.how)?;
        Ok(Done { opened: ino, ..MetaReply::Made(attr, true, place).into() })
    }

    /// What a new inode has of its directory's default ACL, or of the umask.
    fn inherit(&mut self, ino: Ino, parent: &Inode, how: &MakeHow) -> Result<Attr, Status> {
        let attr = self.inode_mut(ino)?.attr;
        if attr.kind() == FileKind::Symlink {
            return Ok(attr);
        }
        let default = match parent.xattr_count {
            0 => None,
            _ => self.store.xattr(parent.attr.ino, acl::DEFAULT)?,
        };
        let Some(value) = default else {
            let inode = self.inode_mut(ino)?;
            inode.attr.mode &= !(how.umask & 0o777);
            return Ok(inode.attr);
        };
        let mut acl = Acl::decode(&value)?.ok_or(Status::Damaged)?;
        if attr.kind() == FileKind::Directory {
            self.put_xattr(ino, acl::DEFAULT, &value)?;
        }
        self.inode_mut(ino)?.attr.mode = acl.inherit(attr.mode);
        if !acl.is_mode() {
            self.put_xattr(ino, acl::ACCESS, &acl.encode())?;
        }
        Ok(self.inode_mut(ino)?.attr)
    }

    fn make_existing(&self, kind: FileKind, how: &MakeHow, found: Found) -> Result<Done, Status> {
        match (how.exclusive, kind, found.kind) {
            (false, FileKind::Regular, FileKind::Regular) => {
                let inode = self.store.inode(found.ino)?.ok_or(Status::Damaged)?;
                // Whoever does not understand where the data is could not read this reply either.
                if !how.inline && inode.inline_max().is_some() {
                    return Err(Status::NotSupported);
                }
                // The outcome is kept with the session: without the data, which whoever reads it asks for.
                let reply = MetaReply::Made(inode.attr, false, place_of(&inode, None));
                Ok(Done { opened: opened(how, found.ino), ..reply.into() })
            }
            (false, FileKind::Regular, FileKind::Directory) => Err(Status::IsDirectory),
            _ => Err(Status::Exists),
        }
    }

    fn new_inode(
        &self,
        ino: Ino,
        kind: FileKind,
        parent: &Inode,
        wanted: &Wanted<'_>,
        now: Time,
    ) -> Result<Inode, Status> {
        let Tail::Directory { policy, .. } = parent.tail else { return Err(Status::NotDirectory) };
        let inherits = parent.attr.mode & SET_GID != 0;
        let mut mode = kind.mode_bits() | wanted.how.mode & PERMISSION_BITS;
        let (mut nlink, mut size, mut rdev) = (1, 0, 0);
        let tail = match kind {
            FileKind::Regular => {
                let at = match policy.inline_bytes {
                    bytes_max @ 1.. if wanted.how.inline => match wanted.how {
                        MakeHow { fresh: true, open: true, .. } => DataAt::Fresh { bytes_max },
                        _ => DataAt::Inode { bytes_max },
                    },
                    _ => DataAt::Targets,
                };
                Tail::File(self.layout(ino, policy)?, at)
            }
            FileKind::Directory => {
                nlink = 2;
                mode |= if inherits { SET_GID } else { 0 };
                Tail::Directory { parent: wanted.parent, policy }
            }
            FileKind::Symlink => {
                size = to_u64(wanted.target.len());
                Tail::Symlink(wanted.target.to_vec())
            }
            FileKind::CharDevice | FileKind::BlockDevice => {
                rdev = wanted.how.rdev;
                Tail::Special
            }
            FileKind::Fifo | FileKind::Socket => Tail::Special,
        };
        let gid = if inherits { parent.attr.gid } else { wanted.caller.gid };
        let attr = Attr {
            ino,
            mode,
            nlink,
            uid: wanted.caller.uid,
            gid,
            rdev,
            size,
            blocks: 0,
            version: 1,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
        };
        Ok(Inode { attr, blocks: 0, xattr_count: 0, xattr_list_bytes: 0, tail })
    }
}

fn check_wanted(kind: FileKind, wanted: &Wanted<'_>) -> Result<(), Status> {
    let tmpfile = wanted.name.is_empty();
    if tmpfile && !(wanted.how.open && kind == FileKind::Regular) {
        return Err(Status::Invalid);
    }
    if !tmpfile {
        name::check(wanted.name)?;
    }
    match kind {
        FileKind::Symlink if wanted.target.is_empty() => return Err(Status::NotFound),
        FileKind::Symlink if wanted.target.len() > SYMLINK_BYTES_MAX => {
            return Err(Status::NameTooLong);
        }
        FileKind::Symlink if wanted.target.contains(&0) => return Err(Status::Invalid),
        FileKind::Symlink => {}
        _ if !wanted.target.is_empty() => return Err(Status::Invalid),
        _ => {}
    }
    if wanted.how.open && kind != FileKind::Regular {
        return Err(Status::Invalid);
    }
    Ok(())
}

/// Where the data of a file is, and the data if that is in the inode and told.
fn place_of(inode: &Inode, data: Option<Vec<u8>>) -> Option<DataPlace> {
    let layout = inode.layout()?.clone();
    let inline = |bytes_max| Inline { bytes_max, data };
    Some(DataPlace { layout, inline: inode.inline_max().map(inline) })
}

fn opened(how: &MakeHow, ino: Ino) -> Ino {
    if how.open { ino } else { Ino(0) }
}

/// What a rename with WHITEOUT leaves.
pub(super) fn whiteout_inode(ino: Ino, caller: &Caller, now: Time) -> Inode {
    let attr = Attr {
        ino,
        mode: FileKind::CharDevice.mode_bits(),
        nlink: 1,
        uid: caller.uid,
        gid: caller.gid,
        rdev: 0,
        size: 0,
        blocks: 0,
        version: 1,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
    };
    Inode { attr, blocks: 0, xattr_count: 0, xattr_list_bytes: 0, tail: Tail::Special }
}

/// The root directory at format.
pub(crate) fn root_inode(ino: Ino, mode: u32, uid: u32, gid: u32, now: Time) -> Inode {
    let attr = Attr {
        ino,
        mode: FileKind::Directory.mode_bits() | mode & PERMISSION_BITS,
        nlink: 2,
        uid,
        gid,
        rdev: 0,
        size: 0,
        blocks: 0,
        version: 1,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
    };
    let tail = Tail::Directory { parent: ino, policy: LayoutPolicy::default() };
    Inode { attr, blocks: 0, xattr_count: 0, xattr_list_bytes: 0, tail }
}
