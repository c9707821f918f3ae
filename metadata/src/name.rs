//! Names: which are allowed, and where a directory keeps them.
//!
//! The cookie of an entry is 63 bits: 55 bits of a keyed hash of the name and 8 bits that tell names apart whose
//! hash agrees. It depends on the name alone (and on which colliding names were there when it was made), so it
//! stays while other entries come and go, and a listing resumes after it.

use siphasher::sip::SipHasher24;
use std::hash::Hasher;
use weft_wire::Status;
use weft_wire::limits::NAME_BYTES_MAX;

const HASH_MASK: u64 = 0x7fff_ffff_ffff_ff00;
/// The smallest cookie of an entry: those below are free for a client's `.` and `..`.
pub const COOKIE_MIN: u64 = 0x100;

/// A name that may be made, removed or moved.
pub(crate) fn check(name: &[u8]) -> Result<(), Status> {
    if name.len() > NAME_BYTES_MAX {
        return Err(Status::NameTooLong);
    }
    if matches!(name, b"" | b"." | b"..") || name.iter().any(|b| matches!(b, b'/' | 0)) {
        return Err(Status::Invalid);
    }
    Ok(())
}

/// The first of the 256 cookies `name` can have.
pub(crate) fn cookie_base(seed: &[u8; 16], name: &[u8]) -> u64 {
    let mut hasher = SipHasher24::new_with_key(seed);
    hasher.write(name);
    (hasher.finish() & HASH_MASK).max(COOKIE_MIN)
}
