//! POSIX ACLs as the kernel stores them in extended attributes, and how they and the mode bits change each other.
//!
//! An access ACL that says no more than the mode is not kept. The permission check itself is the kernel's.

use weft_wire::Status;

/// The ACL of an inode.
pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";
/// What a directory gives to what is made in it.
pub(crate) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const HEAD_BYTES: usize = 4;
const ENTRY_BYTES: usize = 8;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
/// Permission bits of a mode.
const PERMISSIONS: u32 = 0o777;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    tag: u16,
    perm: u16,
    id: u32,
}

/// A valid ACL, in the kernel's order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Acl(Vec<Entry>);

impl Acl {
    /// Reads an attribute's value; `Ok(None)` for one without entries.
    pub(crate) fn decode(value: &[u8]) -> Result<Option<Acl>, Status> {
        let (version, rest) = value.split_first_chunk::<HEAD_BYTES>().ok_or(Status::Invalid)?;
        if u32::from_le_bytes(*version) != VERSION {
            return Err(Status::NotSupported);
        }
        let (raw, tail) = rest.as_chunks::<ENTRY_BYTES>();
        if !tail.is_empty() {
            return Err(Status::Invalid);
        }
        if raw.is_empty() {
            return Ok(None);
        }
        let entry = |raw: &[u8; ENTRY_BYTES]| Entry {
            tag: u16::from_le_bytes([raw[0], raw[1]]),
            perm: u16::from_le_bytes([raw[2], raw[3]]),
            id: u32::from_le_bytes([raw[4], raw[5], raw[6], raw[7]]),
        };
        let acl = Acl(raw.iter().map(entry).collect());
        if acl.is_valid() { Ok(Some(acl)) } else { Err(Status::Invalid) }
    }

    /// The attribute's value.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for Entry { tag, perm, id } in &self.0 {
            out.extend_from_slice(&tag.to_le_bytes());
            out.extend_from_slice(&perm.to_le_bytes());
            out.extend_from_slice(&id.to_le_bytes());
        }
        out
    }

    /// Tags ascend; the three classes are there once; named entries need a mask.
    fn is_valid(&self) -> bool {
        let count = |tag| self.0.iter().filter(|entry| entry.tag == tag).count();
        let known = [USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER];
        let each = |entry: &Entry| known.contains(&entry.tag) && entry.perm <= 7;
        let named = count(USER) + count(GROUP) > 0;
        self.0.iter().all(each)
            && self.0.is_sorted_by_key(|entry| entry.tag)
            && [USER_OBJ, GROUP_OBJ, OTHER].iter().all(|tag| count(*tag) == 1)
            && count(MASK) <= 1
            && (!named || count(MASK) == 1)
    }

    /// Whether it says no more than a mode does.
    pub(crate) fn is_mode(&self) -> bool {
        self.0.len() == 3
    }

    fn perm_mut(&mut self, tag: u16) -> Option<&mut u16> {
        self.0.iter_mut().find(|entry| entry.tag == tag).map(|entry| &mut entry.perm)
    }

    /// The entry that stands for the group bits of a mode.
    fn group_class_mut(&mut self) -> Option<&mut u16> {
        let masked = self.0.iter().any(|entry| entry.tag == MASK);
        self.perm_mut(if masked { MASK } else { GROUP_OBJ })
    }

    /// `mode` with the permission bits that go with this ACL.
    pub(crate) fn mode(&mut self, mode: u32) -> u32 {
        let owner = self.perm_mut(USER_OBJ).map_or(0, |perm| u32::from(*perm));
        let group = self.group_class_mut().map_or(0, |perm| u32::from(*perm));
        let other = self.perm_mut(OTHER).map_or(0, |perm| u32::from(*perm));
        mode & !PERMISSIONS | owner << 6 | group << 3 | other
    }

    /// A chmod.
    pub(crate) fn change_mode(&mut self, mode: u32) {
        self.each_class(|perm, class| *perm = class, mode);
    }

    /// As the access ACL of what is made with `mode` in a directory that has this as its default one; gives the mode.
    pub(crate) fn inherit(&mut self, mode: u32) -> u32 {
        self.each_class(|perm, class| *perm &= class, mode);
        self.mode(mode)
    }

    fn each_class(&mut self, change: impl Fn(&mut u16, u16), mode: u32) {
        let class = |shift: u32| u16::try_from(mode >> shift & 7).expect("three bits");
        self.perm_mut(USER_OBJ).into_iter().for_each(|perm| change(perm, class(6)));
        self.group_class_mut().into_iter().for_each(|perm| change(perm, class(3)));
        self.perm_mut(OTHER).into_iter().for_each(|perm| change(perm, class(0)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Acl {
        Acl(entries
            .iter()
            .map(|(tag, perm, id)| Entry { tag: *tag, perm: *perm, id: *id })
            .collect())
    }

    const NONE: u32 = u32::MAX;

    #[test]
    fn values_come_back_and_bad_ones_do_not() {
        let full = [(1, 7, NONE), (2, 4, 9), (4, 5, NONE), (8, 6, 3), (16, 6, NONE), (32, 1, NONE)];
        let value = acl(&full).encode();
        assert_eq!(Acl::decode(&value), Ok(Some(acl(&full))));
        assert_eq!(Acl::decode(&value[..4]), Ok(None));
        assert_eq!(Acl::decode(&value[..11]), Err(Status::Invalid));
        assert_eq!(Acl::decode(b"\x01\0\0\0"), Err(Status::NotSupported));
        for bad in [
            &full[1..],
            &full[..5],
            &[(1, 7, NONE), (2, 4, 9), (4, 5, NONE), (32, 1, NONE)],
            &[(1, 7, NONE), (4, 8, NONE), (32, 1, NONE)],
            &[(4, 7, NONE), (1, 7, NONE), (32, 1, NONE)],
            &[(1, 7, NONE), (4, 7, NONE), (32, 1, NONE), (64, 1, NONE)],
        ] {
            assert_eq!(Acl::decode(&acl(bad).encode()), Err(Status::Invalid), "{bad:?}");
        }
    }

    #[test]
    fn mode_and_acl_follow_each_other() {
        let mut plain = acl(&[(1, 7, NONE), (4, 5, NONE), (32, 1, NONE)]);
        assert!(plain.is_mode());
        assert_eq!(plain.mode(0o102_000), 0o102_751);
        let mut full = acl(&[(1, 7, NONE), (2, 7, 9), (4, 5, NONE), (16, 6, NONE), (32, 1, NONE)]);
        assert_eq!(full.mode(0), 0o761);
        full.change_mode(0o604);
        assert_eq!(
            full,
            acl(&[(1, 6, NONE), (2, 7, 9), (4, 5, NONE), (16, 0, NONE), (32, 4, NONE)])
        );
        let mut default =
            acl(&[(1, 7, NONE), (2, 7, 9), (4, 7, NONE), (16, 7, NONE), (32, 5, NONE)]);
        assert_eq!(default.inherit(0o100_666), 0o100_664);
        assert_eq!(default.mode(0), 0o664);
    }
}
