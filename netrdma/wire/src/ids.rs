//! The names of things: plain integers with a type each, so that one cannot stand where another is meant.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id!(
    /// Inode number. The top 16 bits are the volume that owns it; 0 is no inode; never reused.
    Ino(u64)
);
id!(
    /// One storage device of the cluster. Given at format, unique in the cluster.
    TargetId(u16)
);
id!(
    /// One pinned thread of one node, counted from 0.
    ShardId(u16)
);
id!(
    /// One partition of the metadata.
    VolumeId(u16)
);
id!(
    /// Index of a chunk in its file: file offset divided by the layout's chunk length.
    ChunkIndex(u64)
);

impl Ino {
    /// The root directory: inode 1 of volume 0.
    pub const ROOT: Ino = Ino(1);
    /// Bits of an inode number below the volume.
    pub const COUNTER_BITS: u32 = 48;

    /// The volume whose log and database hold this inode.
    pub const fn volume(self) -> VolumeId {
        let bytes = self.0.to_le_bytes();
        VolumeId(u16::from_le_bytes([bytes[6], bytes[7]]))
    }

    /// The inode number `counter` of `volume`; `None` when the counter does not fit 48 bits.
    pub const fn new(volume: VolumeId, counter: u64) -> Option<Ino> {
        if counter >> Self::COUNTER_BITS != 0 {
            return None;
        }
        Some(Ino((volume.0 as u64) << Self::COUNTER_BITS | counter))
    }
}

/// One chunk of one file: the piece of a file on one target.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChunkId {
    /// The file.
    pub ino: Ino,
    /// Which chunk of it.
    pub index: ChunkIndex,
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.ino, self.index)
    }
}

macro_rules! uuid {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for (at, byte) in self.0.iter().enumerate() {
                    if matches!(at, 4 | 6 | 8 | 10) {
                        f.write_str("-")?;
                    }
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = NotAUuid;

            fn from_str(text: &str) -> Result<Self, NotAUuid> {
                parse_uuid(text).map($name).ok_or(NotAUuid)
            }
        }
    };
}

uuid!(
    /// The cluster: one namespace. All zero means "any" in a hello and is never a cluster's own id.
    ClusterId
);
uuid!(
    /// A client's registered presence, chosen at random by the client and kept over reconnects.
    SessionId
);

/// The text is not a UUID: 32 hexadecimal digits, dashes optional.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a UUID: 32 hexadecimal digits are expected, such as 0d9c0f6e-1d3b-4a53-9a9e-2f1f6f5a3c11"
)]
pub struct NotAUuid;

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let mut out = [0u8; 16];
    let mut digits = 0usize;
    for c in text.chars().filter(|c| *c != '-') {
        let value = u8::try_from(c.to_digit(16)?).ok()?;
        let byte = out.get_mut(digits / 2)?;
        *byte = *byte << 4 | value;
        digits += 1;
    }
    (digits == 32).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_number_carries_its_volume() {
        let ino = Ino::new(VolumeId(7), 99).expect("fits");
        assert_eq!(ino.volume(), VolumeId(7));
        assert_eq!(ino.0 & 0xffff_ffff_ffff, 99);
        assert_eq!(Ino::new(VolumeId(0), 1 << 48), None);
        assert_eq!(Ino::ROOT.volume(), VolumeId(0));
    }

    #[test]
    fn uuids_print_and_parse() {
        let id = ClusterId([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 255]);
        assert_eq!(id.to_string(), "01020304-0506-0708-090a-0b0c0d0e0fff");
        assert_eq!(id.to_string().parse::<ClusterId>(), Ok(id));
        for bad in [
            "",
            "01",
            "xx020304-0506-0708-090a-0b0c0d0e0fff",
            "01020304-0506-0708-090a-0b0c0d0e0fff0",
        ] {
            assert_eq!(bad.parse::<ClusterId>(), Err(NotAUuid), "{bad:?}");
        }
    }
}
