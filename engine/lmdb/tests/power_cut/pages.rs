//! An independent walk over a data file: every page of the newest snapshot has its sum, is used
//! once, and is not free; together with the free ones they are all pages there are.

use std::collections::BTreeSet;
use twox_hash::XxHash3_64;

const PAGE: usize = 4096;
const HEADER: usize = 24;
const SUM: usize = 8;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const OVERFLOW: u16 = 0x04;
const BIG: u16 = 0x01;
const TABLE: u16 = 0x02;
const NO_ROOT: u64 = u64::MAX;

struct Walk<'a> {
    file: &'a [u8],
    used: BTreeSet<u64>,
    free: BTreeSet<u64>,
    /// The transaction of the snapshot: no page is newer.
    txn: u64,
}

/// Says what is wrong, if anything.
pub(crate) fn check(file: &[u8]) -> Result<(), String> {
    if file.len() < 2 * PAGE {
        return Err(format!("{} bytes are no environment", file.len()));
    }
    let txn_of = |index: usize| u64_at(file, index * PAGE + 152);
    let newest = usize::from(txn_of(1)? > txn_of(0)?);
    let meta = &file[newest * PAGE..];
    if XxHash3_64::oneshot(&meta[..160]) != u64_at(meta, 160)? {
        return Err(format!("meta page {newest}: wrong sum"));
    }
    let mut walk =
        Walk { file, used: BTreeSet::from([0, 1]), free: BTreeSet::new(), txn: u64_at(meta, 152)? };
    for (table_at, is_free_list) in [(48, true), (96, false)] {
        walk.tree(u64_at(meta, table_at + 40)?, is_free_list)?;
    }
    let all = u64_at(meta, 144)? + 1;
    if let Some(both) = walk.used.intersection(&walk.free).next() {
        return Err(format!("page {both} is in use and free"));
    }
    let counted = (walk.used.len() + walk.free.len()) as u64;
    match walk.used.union(&walk.free).max() {
        Some(last) if *last >= all => Err(format!("page {last} of {all}")),
        _ if counted != all => Err(format!("{counted} pages in use or free, of {all}")),
        _ => Ok(()),
    }
}

impl<'a> Walk<'a> {
    /// A page or run in use, its sum checked.
    fn take(&mut self, page: u64, count: u64) -> Result<&'a [u8], String> {
        let start = page as usize * PAGE;
        let bytes = self
            .file
            .get(start..start + count as usize * PAGE)
            .ok_or(format!("page {page} lies behind the end"))?;
        let sum_at = bytes.len() - SUM;
        if XxHash3_64::oneshot(&bytes[..sum_at]) != u64_at(bytes, sum_at)? {
            return Err(format!("page {page}: wrong sum"));
        }
        if u64_at(bytes, 0)? != page || u64_at(bytes, 8)? > self.txn {
            return Err(format!("page {page} is another's or of a later transaction"));
        }
        for page in page..page + count {
            if !self.used.insert(page) {
                return Err(format!("page {page} is used twice"));
            }
        }
        Ok(bytes)
    }

    fn tree(&mut self, root: u64, is_free_list: bool) -> Result<(), String> {
        if root == NO_ROOT {
            return Ok(());
        }
        let page = self.take(root, 1)?;
        let flags = u16_at(page, 18)?;
        for slot in 0..usize::from(u16_at(page, 20)?) / 2 {
            let node_at = HEADER + usize::from(u16_at(page, HEADER + 2 * slot)?);
            let node = page.get(node_at..).ok_or("an entry outside its page")?;
            if flags & BRANCH != 0 {
                let child = u64_at(node, 0)? & 0xFFFF_FFFF_FFFF;
                self.tree(child, is_free_list)?;
            } else if flags & LEAF != 0 {
                self.leaf(node, is_free_list)?;
            } else {
                return Err(format!("page {root} is neither branch nor leaf"));
            }
        }
        Ok(())
    }

    fn leaf(&mut self, node: &'a [u8], is_free_list: bool) -> Result<(), String> {
        let flags = u16_at(node, 4)?;
        let data_at = 8 + usize::from(u16_at(node, 6)?).next_multiple_of(2);
        let data = node.get(data_at..).ok_or("a value outside its page")?;
        let mut value = data;
        if flags & BIG != 0 {
            let run = self.take(u64_at(data, 0)?, u64_at(data, 16)?)?;
            if u16_at(run, 18)? & OVERFLOW == 0 {
                return Err("a run that is none".to_owned());
            }
            value = &run[HEADER..];
        }
        if flags & TABLE != 0 {
            return self.tree(u64_at(value, 40)?, false);
        }
        if !is_free_list {
            return Ok(());
        }
        let count = u64_at(value, 0)? as usize;
        let end = count.saturating_mul(8).saturating_add(8);
        let list = value.get(8..end).ok_or("a free list that is none")?;
        for at in (0..list.len()).step_by(8) {
            let page = u64_at(list, at)?;
            if !self.free.insert(page) {
                return Err(format!("page {page} is free twice"));
            }
        }
        Ok(())
    }
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, String> {
    let number = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    number.map(|bytes| u64::from_ne_bytes(*bytes)).ok_or("a page of another kind".to_owned())
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, String> {
    let number = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    number.map(|bytes| u16::from_ne_bytes(*bytes)).ok_or("a page of another kind".to_owned())
}
