//! How often programs asked what of a mount, and how long it took: for `weft top`, kept beside the records so that it
//! goes on over a takeover and can be read while the client-core works.

use std::time::Duration;

use weft_wire::buckets::{BUCKETS, bucket_of};
use weft_wire::units::to_u64;

use super::table;

/// What is counted, in the order of the memory. A name is added at the end, or the version changes.
pub(crate) const OP_NAMES: [&str; 30] = [
    "lookup",
    "getattr",
    "setattr",
    "readlink",
    "make",
    "create",
    "tmpfile",
    "open",
    "read",
    "write",
    "flush",
    "fsync",
    "lock",
    "getlk",
    "release",
    "opendir",
    "readdir",
    "unlink",
    "rmdir",
    "rename",
    "link",
    "statfs",
    "getxattr",
    "setxattr",
    "listxattr",
    "removexattr",
    "fallocate",
    "lseek",
    "copy",
    "other",
];

/// Of each: one count for each bucket, then those answered without a request to a server, then bytes.
const NUMBERS: usize = BUCKETS + 3;
/// Bytes of all counts.
pub(crate) const BYTES: usize = OP_NAMES.len() * NUMBERS * 8;

/// What a mount counted of one kind of operation since it was mounted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpCounts {
    /// Of which operation.
    pub name: &'static str,
    /// How many took how long: [`weft_wire::buckets`].
    pub buckets: [u64; BUCKETS + 1],
    /// Those that needed no request to a server.
    pub unasked: u64,
    /// Bytes read or written.
    pub bytes: u64,
}

/// The names of all.
pub fn op_names() -> impl Iterator<Item = &'static str> {
    OP_NAMES.into_iter()
}

/// The place of a name; what is not named is `other`.
pub(crate) fn place(name: &str) -> usize {
    OP_NAMES.iter().position(|known| *known == name).unwrap_or(OP_NAMES.len() - 1)
}

/// Counts an operation that ended.
pub(crate) fn count(
    memory: &mut [u8],
    at: usize,
    place: usize,
    took: Duration,
    asked: bool,
    bytes: u64,
) {
    let base = at + place * NUMBERS * 8;
    let mut add = |number: usize, more: u64| {
        let at = base + 8 * number;
        let sum = table::number(memory, at).wrapping_add(more);
        table::put_number(memory, at, sum);
    };
    add(bucket_of(took.as_secs_f64() * 1e6), 1);
    if !asked {
        add(BUCKETS + 1, 1);
    }
    if bytes > 0 {
        add(BUCKETS + 2, bytes);
    }
}

/// The counts in a client-core's memory, as `read` gives bytes of it.
///
/// # Errors
/// What `read` fails with.
pub fn read_counts<E>(
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
) -> Result<Vec<OpCounts>, E> {
    let mut all = vec![0; BYTES];
    read(to_u64(super::COUNTS_AT), &mut all)?;
    let of = |(place, name): (usize, &&'static str)| {
        let number = |index: usize| table::number(&all, 8 * (place * NUMBERS + index));
        OpCounts {
            name,
            buckets: std::array::from_fn(number),
            unasked: number(BUCKETS + 1),
            bytes: number(BUCKETS + 2),
        }
    };
    Ok(OP_NAMES.iter().enumerate().map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_read_back() {
        let mut memory = vec![0; super::super::KEEP_BYTES];
        let (read, lookup) = (place("read"), place("lookup"));
        count(&mut memory, super::super::COUNTS_AT, read, Duration::from_micros(3), true, 4096);
        count(&mut memory, super::super::COUNTS_AT, read, Duration::from_secs(60), false, 0);
        count(&mut memory, super::super::COUNTS_AT, lookup, Duration::ZERO, false, 0);
        let from = |at: u64, bytes: &mut [u8]| -> Result<(), ()> {
            let at = weft_wire::units::to_usize(at);
            bytes.copy_from_slice(&memory[at..at + bytes.len()]);
            Ok(())
        };
        let counts = read_counts(from).expect("memory can be read");
        let of = |name: &str| counts.iter().find(|counts| counts.name == name).expect("named");
        let read = of("read");
        assert_eq!((read.unasked, read.bytes), (1, 4096));
        assert_eq!((read.buckets[3], read.buckets[BUCKETS]), (1, 1));
        assert_eq!(read.buckets.iter().sum::<u64>(), 2);
        assert_eq!((of("lookup").unasked, of("lookup").buckets[0]), (1, 1));
        assert!(of("other").buckets.iter().all(|count| *count == 0));
    }

    #[test]
    fn every_name_has_its_own_place() {
        for (index, name) in OP_NAMES.iter().enumerate() {
            assert_eq!(place(name), index);
        }
        assert_eq!(place("never heard of"), OP_NAMES.len() - 1);
    }
}
