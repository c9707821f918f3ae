//! Names: unlink, rmdir, link, rename.

use weft_wire::limits::LINKS_MAX;
use weft_wire::meta::{
    Caller, FileKind, MetaReply, RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT, Time,
};
use weft_wire::{Ino, Status};

use super::{Done, make};
use crate::change::{Change, DirDelta};
use crate::name;
use crate::record::Tail;
use crate::store::Found;

/// A directory and a name in it.
type Place<'a> = (Ino, &'a [u8]);

impl Change<'_> {
    pub(super) fn unlink(&mut self, parent: Ino, name: &[u8], now: Time) -> Result<Done, Status> {
        name::check(name)?;
        self.store.directory(parent)?;
        let found = self.find(parent, name)?.ok_or(Status::NotFound)?;
        if found.kind == FileKind::Directory {
            return Err(Status::IsDirectory);
        }
        self.remove_entry(found.key);
        self.touch_directory(parent, now, DirDelta { entries: -1, links: 0 })?;
        self.drop_found(found, now)?;
        Ok(MetaReply::Done.into())
    }

    pub(super) fn rmdir(&mut self, parent: Ino, name: &[u8], now: Time) -> Result<Done, Status> {
        name::check(name)?;
        self.store.directory(parent)?;
        let found = self.find(parent, name)?.ok_or(Status::NotFound)?;
        if found.kind != FileKind::Directory {
            return Err(Status::NotDirectory);
        }
        self.check_empty(found)?;
        self.remove_entry(found.key);
        self.touch_directory(parent, now, DirDelta { entries: -1, links: -1 })?;
        self.drop_found(found, now)?;
        Ok(MetaReply::Done.into())
    }

    pub(super) fn link(
        &mut self,
        ino: Ino,
        parent: Ino,
        name: &[u8],
        now: Time,
    ) -> Result<Done, Status> {
        name::check(name)?;
        self.live_directory(parent)?;
        let inode = self.store.known_inode(ino)?;
        if inode.is_directory() {
            return Err(Status::NotPermitted);
        }
        if self.find(parent, name)?.is_some() {
            return Err(Status::Exists);
        }
        if inode.attr.nlink == 0 {
            self.revive(ino)?;
        }
        if inode.attr.nlink >= LINKS_MAX {
            return Err(Status::TooManyLinks);
        }
        self.add_entry(parent, name, ino, inode.kind())?;
        self.touch_directory(parent, now, DirDelta { entries: 1, links: 0 })?;
        let inode = self.touch(ino, now)?;
        inode.attr.nlink += 1;
        Ok(MetaReply::Entry(inode.attr).into())
    }

    pub(super) fn rename(
        &mut self,
        caller: &Caller,
        from: Place<'_>,
        to: Place<'_>,
        flags: u32,
        now: Time,
    ) -> Result<Done, Status> {
        let both = RENAME_NOREPLACE | RENAME_EXCHANGE;
        let whiteout = flags & RENAME_WHITEOUT != 0;
        let flags = flags & !RENAME_WHITEOUT;
        if flags & !both != 0 || flags & both == both || whiteout && flags & RENAME_EXCHANGE != 0 {
            return Err(Status::Invalid);
        }
        name::check(from.1)?;
        name::check(to.1)?;
        self.store.directory(from.0)?;
        self.live_directory(to.0)?;
        let moved = self.find(from.0, from.1)?.ok_or(Status::NotFound)?;
        let replaced = self.find(to.0, to.1)?;
        if flags & RENAME_NOREPLACE != 0 && replaced.is_some() {
            return Err(Status::Exists);
        }
        if flags & RENAME_EXCHANGE != 0 && replaced.is_none() {
            return Err(Status::NotFound);
        }
        if replaced.is_some_and(|r| r.ino == moved.ino) {
            return Ok(MetaReply::Done.into());
        }
        if moved.kind == FileKind::Directory && self.is_within(to.0, moved.ino)? {
            return Err(Status::Invalid);
        }
        match replaced {
            Some(other) if flags & RENAME_EXCHANGE != 0 => {
                self.exchange((from, moved), (to, other), now)?;
            }
            _ => self.move_name((from, moved), (to, replaced), now)?,
        }
        if whiteout {
            let ino = self.next_ino()?;
            self.add_inode(make::whiteout_inode(ino, caller, now));
            self.set_entry(moved.key, from.1, ino, FileKind::CharDevice);
            self.touch_directory(from.0, now, DirDelta { entries: 1, links: 0 })?;
        }
        Ok(MetaReply::Done.into())
    }

    fn exchange(
        &mut self,
        (from, moved): (Place<'_>, Found),
        (to, other): (Place<'_>, Found),
        now: Time,
    ) -> Result<(), Status> {
        if other.kind == FileKind::Directory && self.is_within(from.0, other.ino)? {
            return Err(Status::Invalid);
        }
        self.set_entry(moved.key, from.1, other.ino, other.kind);
        self.set_entry(other.key, to.1, moved.ino, moved.kind);
        self.settle(moved, to.0, now)?;
        self.settle(other, from.0, now)?;
        let links = links_of(other) - links_of(moved);
        self.touch_both(from.0, to.0, (0, links), (0, -links), now)
    }

    fn move_name(
        &mut self,
        (from, moved): (Place<'_>, Found),
        (to, replaced): (Place<'_>, Option<Found>),
        now: Time,
    ) -> Result<(), Status> {
        if let Some(other) = replaced {
            match (moved.kind == FileKind::Directory, other.kind == FileKind::Directory) {
                (true, false) => return Err(Status::NotDirectory),
                (false, true) => return Err(Status::IsDirectory),
                (true, true) => self.check_empty(other)?,
                (false, false) => {}
            }
        }
        self.remove_entry(moved.key);
        match replaced {
            Some(other) => {
                self.set_entry(other.key, to.1, moved.ino, moved.kind);
                self.drop_found(other, now)?;
            }
            None => self.add_entry(to.0, to.1, moved.ino, moved.kind)?,
        }
        self.settle(moved, to.0, now)?;
        let gained =
            (i64::from(replaced.is_none()), links_of(moved) - replaced.map_or(0, links_of));
        self.touch_both(from.0, to.0, (-1, -links_of(moved)), gained, now)
    }

    /// The inode has its name in `parent` now.
    fn settle(&mut self, found: Found, new_parent: Ino, now: Time) -> Result<(), Status> {
        let inode = self.touch(found.ino, now).map_err(entry_leads_nowhere)?;
        if let Tail::Directory { parent, .. } = &mut inode.tail {
            *parent = new_parent;
        }
        Ok(())
    }

    /// Both directories' names changed; they may be one directory, which then changed once.
    fn touch_both(
        &mut self,
        from: Ino,
        to: Ino,
        lost: (i64, i32),
        gained: (i64, i32),
        now: Time,
    ) -> Result<(), Status> {
        if from == to {
            let delta = DirDelta { entries: lost.0 + gained.0, links: lost.1 + gained.1 };
            return self.touch_directory(from, now, delta);
        }
        self.touch_directory(from, now, DirDelta { entries: lost.0, links: lost.1 })?;
        self.touch_directory(to, now, DirDelta { entries: gained.0, links: gained.1 })
    }

    fn drop_found(&mut self, found: Found, now: Time) -> Result<(), Status> {
        self.drop_link(found.ino, now).map_err(entry_leads_nowhere)
    }

    fn check_empty(&self, found: Found) -> Result<(), Status> {
        let inode = self.store.inode(found.ino)?.ok_or(Status::Damaged)?;
        if inode.attr.size == 0 { Ok(()) } else { Err(Status::NotEmpty) }
    }
}

fn links_of(found: Found) -> i32 {
    i32::from(found.kind == FileKind::Directory)
}

/// An inode that is missing though a name leads to it is damage, not a stale handle.
fn entry_leads_nowhere(status: Status) -> Status {
    if status == Status::Stale { Status::Damaged } else { status }
}
