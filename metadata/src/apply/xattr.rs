//! Extended attributes.

use weft_wire::limits::{XATTR_LIST_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX};
use weft_wire::meta::{MetaReply, Time};
use weft_wire::units::{to_u32, to_usize};
use weft_wire::{Ino, Status};

use super::Done;
use crate::change::Change;
use crate::record::xattr_key;
use crate::store::Name;

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
    if name.starts_with(b"system.posix_acl_") {
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
        ino: Ino,
        name: &[u8],
        value: &[u8],
        flags: u32,
        now: Time,
    ) -> Result<Done, Status> {
        check_name(name)?;
        if value.len() > XATTR_VALUE_BYTES_MAX {
            return Err(Status::ArgumentTooBig);
        }
        if flags & !(CREATE | REPLACE) != 0 {
            return Err(Status::Invalid);
        }
        let key = xattr_key(ino, name);
        let exists = self.store.get(Name::Xattrs, &key)?.is_some();
        let inode = self.touch(ino, now)?;
        match exists {
            true if flags & CREATE != 0 => return Err(Status::Exists),
            false if flags & REPLACE != 0 => return Err(Status::NoData),
            true => {}
            false => {
                let list_bytes = inode.xattr_list_bytes.saturating_add(to_u32(name.len() + 1));
                if to_usize(u64::from(list_bytes)) > XATTR_LIST_BYTES_MAX {
                    return Err(Status::NoSpace);
                }
                inode.xattr_list_bytes = list_bytes;
                inode.xattr_count = inode.xattr_count.checked_add(1).ok_or(Status::Damaged)?;
            }
        }
        // A first byte keeps the value from being empty and says how to read it.
        let mut stored = vec![1];
        stored.extend_from_slice(value);
        self.put(Name::Xattrs, key, stored);
        Ok(MetaReply::Done.into())
    }

    pub(super) fn remove_xattr(
        &mut self,
        ino: Ino,
        name: &[u8],
        now: Time,
    ) -> Result<Done, Status> {
        check_name(name)?;
        let key = xattr_key(ino, name);
        let exists = self.store.get(Name::Xattrs, &key)?.is_some();
        let inode = self.touch(ino, now)?;
        if !exists {
            return Err(Status::NoData);
        }
        let name_bytes = to_u32(name.len() + 1);
        inode.xattr_count = inode.xattr_count.checked_sub(1).ok_or(Status::Damaged)?;
        inode.xattr_list_bytes =
            inode.xattr_list_bytes.checked_sub(name_bytes).ok_or(Status::Damaged)?;
        self.remove(Name::Xattrs, key);
        Ok(MetaReply::Done.into())
    }
}
