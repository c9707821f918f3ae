//! Messages to the kernel that no request asked for: written like replies, with `unique` 0.
//!
//! The kernel answers such a write with ENOENT when it does not know the inode or name, which is
//! fine: there was nothing to invalidate. Never send one while a request on the same inode is held
//! back by the sender: `inval_entry` waits for the directory's lock.

use zerocopy::IntoBytes;

use crate::abi::output::{NotifyInvalEntryOut, NotifyInvalInodeOut, OutHeader};
use crate::abi::{flags, opcode};
use crate::request::NodeId;

/// Drops the cached attributes of `node` and its cached data from `offset` on, `len_bytes` long;
/// length 0 is to the end. A negative offset drops the attributes only.
#[must_use]
pub fn inval_inode(node: NodeId, offset: i64, len_bytes: i64) -> Vec<u8> {
    let out = NotifyInvalInodeOut { ino: node.0, off: offset, len: len_bytes };
    message(opcode::NOTIFY_INVAL_INODE, out.as_bytes(), &[])
}

/// Drops all cached names at once, without waiting for anything (Linux 6.16).
#[must_use]
pub fn inc_epoch() -> Vec<u8> {
    message(opcode::NOTIFY_INC_EPOCH, &[], &[])
}

/// Drops the cached name `name` of the directory `parent`; with `expire_only` it is looked up anew
/// at next use, and mounts below stay.
#[must_use]
pub fn inval_entry(parent: NodeId, name: &[u8], expire_only: bool) -> Vec<u8> {
    let namelen = u32::try_from(name.len()).expect("names are at most 255 bytes");
    let flags = if expire_only { flags::EXPIRE_ONLY } else { 0 };
    let out = NotifyInvalEntryOut { parent: parent.0, namelen, flags };
    message(opcode::NOTIFY_INVAL_ENTRY, out.as_bytes(), &[name, b"\0"])
}

/// Has the kernel ask again whatever was read and not answered (Linux 6.9).
#[must_use]
pub fn resend() -> Vec<u8> {
    message(opcode::NOTIFY_RESEND, &[], &[])
}

fn message(code: i32, fixed: &[u8], tail: &[&[u8]]) -> Vec<u8> {
    let tail = tail.concat();
    let len_bytes = size_of::<OutHeader>() + fixed.len() + tail.len();
    let len = u32::try_from(len_bytes).expect("a notification is a struct and a name");
    let header = OutHeader { len, error: code, unique: 0 };
    [header.as_bytes(), fixed, &tail].concat()
}
