//! Extended attributes.

use weft_wire::limits::{XATTR_LIST_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX};
use weft_wire::meta::{
    Attr, Caller, FileKind, MetaReply, Time, XATTR_CLEAR_SETGID, XATTR_KEEP_SETGID,
};
use weft_wire::units::{to_u32, to_usize};
use weft_wire::{Ino, Status};

use super::Done;
use crate::acl::{self, Acl};
use crate::change::Change;
use crate::record::xattr_key;
use crate::store::Name;

const SET_GID: u32 = 0o2000;
const CREATE: u32 = 1;
const REPLACE: u32 = 2;
const NAMESPACES: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system."];

/// A name an attribute can have.
pub(crate) fn check_name(name: &[u8]) -> Result<(), Status> {
    if name.len() > XATTR_NAME_BYTES_MAX || name.is_empty() {
        return Err(Status::Range);
    }
    let Some(space) = NAMESPACES.iter().find(|space| name.starts_with(space)) else {
        return Err(Status::NotSupported);
    };
    if name.starts_with(b"system.posix_acl_") && name != acl::ACCESS && name != acl::DEFAULT {
        return Err(Status::NotSupported);
    }
    if name.len() == space.len() || name.contains(&0) {
        return Err(Status::Invalid);
    }
    Ok(())
}

impl Change<'_> {
    pub(super) fn set_xattr(
        &mut self,
        caller: &Caller,
        ino: Ino,
        (name, value): (&[u8], &[u8]),
        flags: u32,
        now: Time,
    ) -> Result<Done, Status> {
        check_name(name)?;
        if value.len() > XATTR_VALUE_BYTES_MAX {
            return Err(Status::ArgumentTooBig);
        }
        let is_acl = name == acl::ACCESS || name == acl::DEFAULT;
        let of_acl = if is_acl { XATTR_KEEP_SETGID | XATTR_CLEAR_SETGID } else { 0 };
        if flags & !(CREATE | REPLACE | of_acl) != 0 {
            return Err(Status::Invalid);
        }
        if is_acl {
            return self.set_acl(caller, ino, (name, value), flags, now);
        }
        let exists = self.store.xattr(ino, name)?.is_some();
        self.touch(ino, now)?;
        match exists {
            true if flags & CREATE != 0 => return Err(Status::Exists),
            false if flags & REPLACE != 0 => return Err(Status::NoData),
            _ => self.put_xattr(ino, name, value)?,
        }
        Ok(MetaReply::Done.into())
    }

    /// An ACL is not kept when it has no entries, or says no more than the mode.
    fn set_acl(
        &mut self,
        caller: &Caller,
        ino: Ino,
        (name, value): (&[u8], &[u8]),
        flags: u32,
        now: Time,
    ) -> Result<Done, Status> {
        let new = Acl::decode(value)?;
        let attr = &mut self.touch(ino, now)?.attr;
        let kept = match new {
            Some(_) if name == acl::DEFAULT && attr.kind() != FileKind::Directory => {
                return Err(Status::Access);
            }
            Some(mut acl) if name == acl::ACCESS => {
                attr.mode = acl.mode(attr.mode);
                if !keeps_set_gid(caller, attr, flags) {
                    attr.mode &= !SET_GID;
                }
                Some(acl).filter(|acl| !acl.is_mode())
            }
            other => other,
        };
        match kept {
            Some(acl) => self.put_xattr(ino, name, &acl.encode())?,
            None if self.store.xattr(ino, name)?.is_some() => self.drop_xattr(ino, name)?,
            None => {}
        }
        Ok(MetaReply::Done.into())
    }

    /// The access ACL follows a chmod.
    pub(super) fn chmod_acl(&mut self, ino: Ino, mode: u32) -> Result<(), Status> {
        if self.store.known_inode(ino)?.xattr_count == 0 {
            return Ok(());
        }
        let Some(value) = self.store.xattr(ino, acl::ACCESS)? else { return Ok(()) };
        let mut acl = Acl::decode(&value)?.ok_or(Status::Damaged)?;
        acl.change_mode(mode);
        self.put_xattr(ino, acl::ACCESS, &acl.encode())
    }

    /// Sets an attribute, new or not.
    pub(super) fn put_xattr(&mut self, ino: Ino, name: &[u8], value: &[u8]) -> Result<(), Status> {
        if self.store.xattr(ino, name)?.is_none() {
            let inode = self.inode_mut(ino)?;
            let list_bytes = inode.xattr_list_bytes.saturating_add(to_u32(name.len() + 1));
            if to_usize(u64::from(list_bytes)) > XATTR_LIST_BYTES_MAX {
                return Err(Status::NoSpace);
            }
            inode.xattr_list_bytes = list_bytes;
            inode.xattr_count = inode.xattr_count.checked_add(1).ok_or(Status::Damaged)?;
        }
        // A first byte keeps the value from being empty and says how to read it.
        let mut stored = vec![1];
        stored.extend_from_slice(value);
        self.put(Name::Xattrs, xattr_key(ino, name), stored);
        Ok(())
    }

    /// Removes an attribute that is there.
    fn drop_xattr(&mut self, ino: Ino, name: &[u8]) -> Result<(), Status> {
        let inode = self.inode_mut(ino)?;
        let name_bytes = to_u32(name.len() + 1);
        inode.xattr_count = inode.xattr_count.checked_sub(1).ok_or(Status::Damaged)?;
        inode.xattr_list_bytes =
            inode.xattr_list_bytes.checked_sub(name_bytes).ok_or(Status::Damaged)?;
        self.remove(Name::Xattrs, xattr_key(ino, name));
        Ok(())
    }

    pub(super) fn remove_xattr(
        &mut self,
        ino: Ino,
        name: &[u8],
        now: Time,
    ) -> Result<Done, Status> {
        check_name(name)?;
        let exists = self.store.xattr(ino, name)?.is_some();
        self.touch(ino, now)?;
        if !exists {
            return Err(Status::NoData);
        }
        self.drop_xattr(ino, name)?;
        Ok(MetaReply::Done.into())
    }
}

/// As with chmod: the setgid bit stays for who is in the file's group, or may do anything. All groups of the caller are
/// known where the call was made; a client that says nothing is older than that.
fn keeps_set_gid(caller: &Caller, attr: &Attr, flags: u32) -> bool {
    match (flags & XATTR_KEEP_SETGID != 0, flags & XATTR_CLEAR_SETGID != 0) {
        (_, true) => false,
        (true, false) => true,
        (false, false) => caller.uid == 0 || caller.gid == attr.gid,
    }
}
