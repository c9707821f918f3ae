//! What a device or file holds, told from a few known bytes: asked before anything is formatted.
//!
//! The table errs towards finding something: a false alarm costs a `--force`, a miss costs somebody's data. What no
//! line knows is still refused when the first bytes are not all zeros.

/// Bytes at the start that are looked at.
pub(crate) const HEAD_BYTES: usize = 1 << 20;
/// Bytes at the end that are looked at.
pub(crate) const TAIL_BYTES: usize = 256 << 10;

/// Where a magic stands.
#[derive(Clone, Copy, Debug)]
enum At {
    /// So many bytes from the start.
    Start(usize),
    /// So many bytes before the end.
    End(usize),
    /// At any multiple of `step` in `from..to`.
    Every { from: usize, to: usize, step: usize },
}

/// One known beginning.
#[derive(Clone, Copy, Debug)]
struct Signature {
    name: &'static str,
    at: At,
    magic: &'static [u8],
}

const fn at_start(name: &'static str, offset: usize, magic: &'static [u8]) -> Signature {
    Signature { name, at: At::Start(offset), magic }
}

const fn at_end(name: &'static str, before_end: usize, magic: &'static [u8]) -> Signature {
    Signature { name, at: At::End(before_end), magic }
}

/// From the surest to the vaguest: the first that fits is named.
const SIGNATURES: &[Signature] = &[
    at_start("a LUKS volume", 0, b"LUKS\xba\xbe"),
    at_start("an XFS file system", 0, b"XFSB"),
    at_start("a btrfs file system", 0x10040, b"_BHRfS_M"),
    at_start("an ext2/3/4 file system", 0x438, b"\x53\xef"),
    at_start("an F2FS file system", 0x400, b"\x10\x20\xf5\xf2"),
    at_start("a bcache or bcachefs device", 0x1018, b"\xc6\x85\x73\xf6"),
    at_start("a JFS file system", 0x8000, b"JFS1"),
    at_start("a ReiserFS file system", 0x10034, b"ReIsEr"),
    at_start("a GFS2 file system", 0x10000, b"\x01\x16\x19\x70"),
    at_start("an OCFS2 file system", 0x2000, b"OCFSV2"),
    at_start("a NILFS2 file system", 0x406, b"\x34\x34"),
    at_start("a Ceph BlueStore device", 0, b"bluestore block device"),
    at_start("a squashfs image", 0, b"hsqs"),
    at_start("an ISO 9660 file system", 0x8001, b"CD001"),
    at_start("an LMDB database", 16, b"\xde\xc0\xef\xbe"),
    Signature {
        name: "an LVM physical volume",
        at: At::Every { from: 0, to: 2048, step: 512 },
        magic: b"LABELONE",
    },
    Signature {
        name: "a ZFS pool member",
        at: At::Every { from: 0x20000, to: 0x40000, step: 1024 },
        magic: b"\x0c\xb1\xba\0\0\0\0\0",
    },
    Signature {
        name: "a ZFS pool member (big-endian)",
        at: At::Every { from: 0x20000, to: 0x40000, step: 1024 },
        magic: b"\0\0\0\0\0\xba\xb1\x0c",
    },
    at_start("a Linux RAID member (1.1)", 0, b"\xfc\x4e\x2b\xa9"),
    at_start("a Linux RAID member (1.2)", 4096, b"\xfc\x4e\x2b\xa9"),
    at_end("a Linux RAID member (1.0)", 8192, b"\xfc\x4e\x2b\xa9"),
    at_end("a Linux RAID member (0.90)", 65536, b"\xfc\x4e\x2b\xa9"),
    at_start("swap space", 4096 - 10, b"SWAPSPACE2"),
    at_start("swap space", 4096 - 10, b"SWAP-SPACE"),
    at_start("swap space (64 KiB pages)", 65536 - 10, b"SWAPSPACE2"),
    at_start("an NTFS file system", 3, b"NTFS    "),
    at_start("an exFAT file system", 3, b"EXFAT   "),
    at_start("a FAT file system", 54, b"FAT1"),
    at_start("a FAT file system", 82, b"FAT32   "),
    at_start("a GPT partition table", 512, b"EFI PART"),
    at_start("a GPT partition table (4 KiB sectors)", 4096, b"EFI PART"),
    at_end("the backup of a GPT partition table", 512, b"EFI PART"),
    at_end("the backup of a GPT partition table", 4096, b"EFI PART"),
    at_start("an MBR partition table or boot sector", 510, b"\x55\xaa"),
];

/// The name of what the first and last bytes of a device show, or `None` for nothing that is known. `head` begins at
/// the start; `tail` ends at the end; each is as long as its constant above or the whole device.
pub(crate) fn recognise(head: &[u8], tail: &[u8]) -> Option<&'static str> {
    SIGNATURES.iter().find(|signature| signature.fits(head, tail)).map(|signature| signature.name)
}

impl Signature {
    fn fits(&self, head: &[u8], tail: &[u8]) -> bool {
        let stands_at = |bytes: &[u8], at: usize| {
            bytes.get(at..).is_some_and(|rest| rest.starts_with(self.magic))
        };
        match self.at {
            At::Start(offset) => stands_at(head, offset),
            At::End(before) => tail.len().checked_sub(before).is_some_and(|at| stands_at(tail, at)),
            At::Every { from, to, step } => (from..to).step_by(step).any(|at| stands_at(head, at)),
        }
    }

    const fn reaches(&self) -> (usize, usize) {
        match self.at {
            At::Start(offset) => (offset + self.magic.len(), 0),
            At::End(before) => (0, before),
            At::Every { to, .. } => (to + self.magic.len(), 0),
        }
    }
}

const _: () = {
    let mut index = 0;
    while index < SIGNATURES.len() {
        let (head, tail) = SIGNATURES[index].reaches();
        assert!(head <= HEAD_BYTES && tail <= TAIL_BYTES && !SIGNATURES[index].magic.is_empty());
        index += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    /// A device of zeros with `magic` put where `signature` looks for it.
    fn device(signature: &Signature) -> Vec<u8> {
        let mut bytes = vec![0u8; 2 << 20];
        let at = match signature.at {
            At::Start(offset) => offset,
            At::End(before) => bytes.len() - before,
            At::Every { to, step, .. } => to - step,
        };
        bytes[at..at + signature.magic.len()].copy_from_slice(signature.magic);
        bytes
    }

    fn seen(bytes: &[u8]) -> Option<&'static str> {
        let head = &bytes[..bytes.len().min(HEAD_BYTES)];
        recognise(head, &bytes[bytes.len().saturating_sub(TAIL_BYTES)..])
    }

    #[test]
    fn every_line_of_the_table_is_found() {
        for signature in SIGNATURES {
            let found = seen(&device(signature)).expect(signature.name);
            let same_start = found.split(' ').next() == signature.name.split(' ').next();
            assert!(found == signature.name || same_start, "{}: {found}", signature.name);
        }
    }

    #[test]
    fn zeros_and_short_devices_are_nothing() {
        assert_eq!(seen(&[]), None);
        assert_eq!(seen(&[0; 5]), None);
        assert_eq!(seen(&vec![0; 3 << 20]), None);
    }

    #[test]
    fn a_magic_in_the_wrong_place_is_nothing() {
        let mut bytes = vec![0u8; 2 << 20];
        bytes[1..5].copy_from_slice(b"XFSB");
        assert_eq!(seen(&bytes), None);
    }

    #[test]
    fn what_real_tools_make_is_found() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("device");
        let made = |program: &str, args: &[&str]| {
            std::fs::write(&path, vec![0u8; 64 << 20]).expect("written");
            let done = std::process::Command::new(program).args(args).arg(&path).output();
            // Which tools a machine has is not this test's business; mke2fs is in every Debian.
            done.ok().filter(|output| output.status.success()).map(|_| {
                let bytes = std::fs::read(&path).expect("read");
                seen(&bytes)
            })
        };
        for (program, args, name) in [
            ("mkfs.ext4", &["-q", "-F"][..], "an ext2/3/4 file system"),
            ("mkswap", &["-q"][..], "swap space"),
            ("mkfs.xfs", &["-q"][..], "an XFS file system"),
        ] {
            if let Some(found) = made(program, args) {
                assert_eq!(found, Some(name), "{program}");
            }
        }
    }
}
