//! What a reply to a change of names may end with: the attributes that its directories have from then on.

use super::Attr;
use crate::codec::{Reader, WireError, WireErrorKind, Writer};

/// A rename changes two directories.
const PARENTS_MAX: u8 = 2;

/// Appends the directories to a reply's body: their attributes, then how many they are.
pub fn push_parents(body: &mut Vec<u8>, parents: &[Attr]) {
    let count = u8::try_from(parents.len()).expect("one or two directories");
    assert!(count <= PARENTS_MAX, "a request names no more");
    let out = &mut Writer::new(body);
    parents.iter().for_each(|attr| attr.encode(out));
    out.u8(count);
}

/// Takes the directories off a reply's body again.
///
/// # Errors
/// `Short`; `TooLong` for more than two; `Value` as with [`Attr::decode`].
pub fn take_parents(body: &mut Vec<u8>) -> Result<Vec<Attr>, WireError> {
    let error = |kind| WireError::new(kind, "directories of a reply");
    let (count, rest) = body.split_last().ok_or(error(WireErrorKind::Short))?;
    if *count > PARENTS_MAX {
        return Err(error(WireErrorKind::TooLong));
    }
    let start = rest.len().checked_sub(usize::from(*count) * Attr::BYTES);
    let start = start.ok_or(error(WireErrorKind::Short))?;
    let mut from = Reader::new(&rest[start..], "directories of a reply");
    let parents = (0..*count).map(|_| Attr::decode(&mut from)).collect::<Result<_, _>>()?;
    body.truncate(start);
    Ok(parents)
}
