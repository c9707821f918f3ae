//! The data file's two meta pages, checked before LMDB maps the file: LMDB trusts them.
//!
//! Layout (little-endian hosts; LMDB files are not portable across byte orders):
//! page header `pgno u64, txnid u64, pad u16, flags u16, lower u16, upper u16`, then
//! `magic u32, version u32, address u64, map_bytes u64, 2 x table (48 bytes), last_page u64,
//! txnid u64, sum u64`, where `sum` covers everything before it.

use crate::error::{Error, Kind};
use crate::{PAGE_BYTES, sum};
use std::fs::File;
use std::os::unix::fs::FileExt;

const META_COUNT: u64 = 2;
const MAGIC_AT: usize = 24;
const VERSION_AT: usize = 28;
const PAGE_BYTES_AT: usize = 48;
const LAST_PAGE_AT: usize = 144;
const TXN_AT: usize = 152;
const SUM_AT: usize = 160;
const META_BYTES: usize = 168;

const MAGIC: u32 = 0xBEEF_C0DE;
const VERSION: u32 = 0x5746_0001;

const OP: &str = "open";

struct Meta {
    txn: u64,
    last_page: u64,
}

/// Refuses a file that LMDB must not map: bad meta pages, or shorter than they say.
///
/// Both meta pages must be good. The older one alone would do after a torn commit, but it sits
/// in one sector, which disks write whole; a bad one is damage, and going back to the older
/// snapshot would silently lose a commit that was acknowledged.
pub(crate) fn check(file: &File) -> Result<(), Error> {
    let file_bytes = file.metadata().map_err(|e| Error::io(OP, &e))?.len();
    let metas = [read(file, 0)?, read(file, 1)?];
    let damaged = Err(Error::new(Kind::Damaged, OP));
    if metas[0].txn.abs_diff(metas[1].txn) > 1 {
        return damaged;
    }
    let page_count = metas.iter().map(|m| m.last_page).max().unwrap_or(0).checked_add(1);
    match page_count.and_then(|count| count.checked_mul(u64::from(PAGE_BYTES))) {
        Some(need_bytes) if need_bytes <= file_bytes => Ok(()),
        _ => damaged,
    }
}

fn read(file: &File, index: u64) -> Result<Meta, Error> {
    let mut page = [0_u8; META_BYTES];
    let damaged = Err(Error::new(Kind::Damaged, OP));
    match file.read_exact_at(&mut page, index * u64::from(PAGE_BYTES)) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return damaged,
        // The medium gave the page up.
        Err(e) if e.raw_os_error() == Some(libc::EIO) => return damaged,
        Err(e) => return Err(Error::io(OP, &e)),
    }
    let txn = u64_at(&page, TXN_AT);
    let good = u64_at(&page, SUM_AT) == sum::of(&page[..SUM_AT])
        && u64_at(&page, 0) == index
        && u32_at(&page, MAGIC_AT) == MAGIC
        && u32_at(&page, VERSION_AT) == VERSION
        && u32_at(&page, PAGE_BYTES_AT) == PAGE_BYTES
        && u64_at(&page, LAST_PAGE_AT) >= META_COUNT - 1
        && (txn == 0 || txn % META_COUNT == index);
    if good { Ok(Meta { txn, last_page: u64_at(&page, LAST_PAGE_AT) }) } else { damaged }
}

fn u64_at(page: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(page[at..at + 8].try_into().expect("the slice is 8 bytes long"))
}

fn u32_at(page: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(page[at..at + 4].try_into().expect("the slice is 4 bytes long"))
}
