//! The oracle of files that several clients write at once: what a read may find, from which writes were answered, which
//! are under way, and which a power loss or a fence may have taken.
//!
//! A file is cells of 512 bytes, and each write fills whole cells with words that name the write and the place. So a
//! cell is of one write, and a read of it must be of one that counts:
//! - A write *stands* from its answer on, as long as nothing may have taken it. What ended before a write that stands
//!   began is overruled by it: a read that begins later finds it nowhere.
//! - Everything else that began may be found: what is under way, what failed, what stands.
//! - A power loss (or a failed flush) takes the standing of what is not durable, until its writer's fsync brings it
//!   back; for good where the writer is gone or has closed the file. So does an error that the writer was told. A fence
//!   and leases that ran out (both are when a server goes on without a client) do it to what is not at the servers.
//! - Where writes may fail unheard of (full or failing devices), one stands when its writer's fsync has said so: a
//!   flush does not wait for the volume.
//!
//! A truncation is a write of zeros from there on, and the length follows from the same rules. Appends:
//! [`appends`]. That a name, once answered, leads to the same inode is held at each start.
//!
//! What is not judged:
//! - That what two reads find one after the other goes forward, as long as the writes they find are under way or unsure.
//! - fsync of what others wrote: it counts for the own writes only.
//! - Whether a block in which power was lost, or the device failed, reads as EIO or not: until the end either will do.
//! - Reads of a client in the lease time after it was fenced off: it does not know yet.
//! - Two programs of one mount: each client has one operation of a shared file under way at most.

use std::collections::BTreeSet;
use std::ops::Range;

use weft_wire::Ino;
use weft_wire::units::{to_u64, to_usize};

mod appends;
#[cfg(test)]
mod tests;

/// Bytes of a cell: a part of a block, so that each is old or new.
pub(super) const CELL_BYTES: usize = 512;
const CELLS_PER_BLOCK: u64 = 8;
/// Longest shared file.
pub(super) const CELLS_MAX: u64 = 96;
/// Longest file of appends.
pub(super) const APPENDED_CELLS_MAX: u64 = 250;

/// When something began or ended: no two are the same.
pub(super) type Moment = u64;

/// What a write does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Fills its cells, and makes the file so long.
    Fill,
    /// Fills cells at the end of the file; its own are counted from 0.
    Append,
    /// Makes its cells zeros.
    Zero,
    /// Ends the file where its cells begin.
    Cut,
}

/// One write, and what became of it.
#[derive(Clone, Debug)]
pub(super) struct Write {
    client: usize,
    kind: Kind,
    cells: Range<u64>,
    began: Moment,
    ended: Option<Moment>,
    /// It stands since then, if no write fails unheard of; and whatever fails.
    stands: Option<Moment>,
    stands_surely: Option<Moment>,
    at_servers: bool,
    durable: bool,
    /// Its writer was told of an error, or is gone: it never stands.
    failed: bool,
    /// Power was lost, or the leases ran out, before it was safe from that.
    endangered: bool,
    adrift: bool,
    /// Its writer has closed the file since: nobody would write it again.
    closed: bool,
    /// Of an append: where it was found first.
    place: Option<u64>,
}

impl Write {
    fn word(number: usize, cell: u64) -> u64 {
        (to_u64(number) + 1) << 32 | cell
    }

    /// Where it makes the file end at least.
    fn end(&self) -> u64 {
        match self.kind {
            Kind::Fill => self.cells.end,
            Kind::Cut => self.cells.start,
            Kind::Zero | Kind::Append => 0,
        }
    }

    fn ended_before(&self, moment: Moment) -> bool {
        self.ended.is_some_and(|ended| ended < moment)
    }

    fn stand(&mut self, now: Moment, surely: bool) {
        if self.failed || self.endangered || self.adrift {
            return;
        }
        self.stands.get_or_insert(now);
        if surely {
            self.stands_surely.get_or_insert(now);
        }
    }

    fn fall(&mut self) {
        (self.stands, self.stands_surely) = (None, None);
    }

    fn fail(&mut self) {
        self.failed = true;
        self.fall();
    }
}

/// One file.
#[derive(Clone, Debug)]
pub(super) struct SharedFile {
    pub(super) name: Vec<u8>,
    pub(super) appended: bool,
    /// Once a client was told.
    pub(super) ino: Option<Ino>,
    writes: Vec<Write>,
    /// Blocks that may read as EIO.
    damaged: BTreeSet<u64>,
    /// The server was killed in a flush, so that it may say that something was lost.
    flush_unheard: bool,
}

impl SharedFile {
    pub(super) fn new(number: usize, appended: bool) -> SharedFile {
        let name = format!("{NAME_PREFIX}{number}").into_bytes();
        SharedFile {
            name,
            appended,
            ino: None,
            writes: Vec::new(),
            damaged: BTreeSet::new(),
            flush_unheard: false,
        }
    }

    pub(super) fn cells_max(&self) -> u64 {
        if self.appended { APPENDED_CELLS_MAX } else { CELLS_MAX }
    }

    /// How many cells all its appends have.
    pub(super) fn appended_cells(&self) -> u64 {
        self.writes.iter().map(|write| write.cells.end - write.cells.start).sum()
    }

    /// A write begins: its number. `doomed`: its writer is fenced off and may not know.
    pub(super) fn begin(
        &mut self,
        client: usize,
        kind: Kind,
        cells: Range<u64>,
        (now, doomed): (Moment, bool),
    ) -> usize {
        self.writes.push(Write {
            client,
            kind,
            cells,
            began: now,
            ended: None,
            stands: None,
            stands_surely: None,
            at_servers: false,
            durable: false,
            failed: doomed,
            endangered: false,
            adrift: false,
            closed: false,
            place: None,
        });
        self.writes.len() - 1
    }

    /// What a write fills its cells with.
    pub(super) fn bytes_of(&self, number: usize) -> Vec<u8> {
        let cells = self.writes[number].cells.clone();
        let words = cells.flat_map(|cell| [Write::word(number, cell); CELL_BYTES / 8]);
        words.flat_map(u64::to_le_bytes).collect()
    }

    /// A write was answered. What takes data away is durable then.
    pub(super) fn answered(&mut self, number: usize, now: Moment) {
        let write = &mut self.writes[number];
        write.ended = Some(now);
        if matches!(write.kind, Kind::Zero | Kind::Cut) {
            (write.endangered, write.adrift) = (false, false);
            (write.at_servers, write.durable) = (true, true);
        }
        let surely = write.durable;
        write.stand(now, surely);
    }

    /// A write failed.
    pub(super) fn refused(&mut self, number: usize, now: Moment) {
        let write = &mut self.writes[number];
        write.ended = Some(now);
        write.fail();
    }

    /// A client was told of an error of the file: any of its writes may be what failed.
    pub(super) fn error_told(&mut self, client: usize) {
        let own = self.writes.iter_mut().filter(|write| write.client == client && !write.durable);
        own.for_each(Write::fail);
    }

    /// An fsync that began then was answered.
    pub(super) fn synced(&mut self, client: usize, began: Moment, now: Moment) {
        let own = |write: &&mut Write| write.client == client && write.ended_before(began);
        for write in self.writes.iter_mut().filter(own).filter(|write| !write.failed) {
            (write.at_servers, write.adrift) = (true, false);
            (write.durable, write.endangered) = (true, false);
            write.stand(now, true);
        }
    }

    /// A client has closed it.
    pub(super) fn closed(&mut self, client: usize) {
        let own = self.writes.iter_mut().filter(|write| write.client == client);
        own.for_each(|write| write.closed = true);
    }

    /// A client is gone.
    pub(super) fn vanished(&mut self, client: usize) {
        self.error_told(client);
        self.closed(client);
    }

    /// Leases of a client ran out: the servers may have gone on without it.
    pub(super) fn leases_ran_out(&mut self, client: usize) {
        let own = |write: &&mut Write| write.client == client && !write.at_servers;
        for write in self.writes.iter_mut().filter(own) {
            write.adrift = true;
            write.fall();
        }
    }

    /// A client was fenced off.
    pub(super) fn fenced(&mut self, client: usize) {
        let own = |write: &&mut Write| write.client == client && !write.at_servers;
        self.writes.iter_mut().filter(own).for_each(Write::fail);
    }

    /// The targets' machine lost power.
    pub(super) fn power_lost(&mut self) {
        for write in self.writes.iter_mut().filter(|write| !write.durable) {
            let blocks = match write.kind {
                // Anywhere.
                Kind::Append => 0..APPENDED_CELLS_MAX.div_ceil(CELLS_PER_BLOCK),
                _ => {
                    let end = write.cells.end.min(CELLS_MAX);
                    write.cells.start / CELLS_PER_BLOCK..end.div_ceil(CELLS_PER_BLOCK)
                }
            };
            self.damaged.extend(blocks);
            write.endangered = true;
            if write.closed {
                write.failed = true;
            }
            write.fall();
        }
    }

    /// The server was killed in a flush: how it ended is not known, and who would not write again what it may have lost
    /// is told of an error.
    pub(super) fn flush_unheard(&mut self) {
        self.flush_unheard = true;
    }

    /// Whether an error may be told because of what was lost, or may have been.
    pub(super) fn may_tell(&self) -> bool {
        self.flush_unheard || self.may_fail()
    }

    /// Whether its writes may fail because of what a power loss took.
    fn may_fail(&self) -> bool {
        !self.damaged.is_empty()
    }

    /// Whether a read of these cells may fail.
    pub(super) fn may_be_damaged(&self, cells: &Range<u64>) -> bool {
        let blocks = cells.start / CELLS_PER_BLOCK..cells.end.div_ceil(CELLS_PER_BLOCK);
        self.damaged.range(blocks).next().is_some()
    }

    /// Whether a write stood all the time since `moment`. `unheard`: writes may fail unheard of.
    fn stood(&self, write: &Write, moment: Moment, unheard: bool) -> bool {
        let since = if unheard || self.may_fail() { write.stands_surely } else { write.stands };
        since.is_some_and(|since| since < moment)
    }

    /// Compares what a read found that began then and ends now.
    ///
    /// # Errors
    /// A sentence with the first wrong cell.
    pub(super) fn check(
        &mut self,
        asked: &Range<u64>,
        found: &[u8],
        (began, unheard): (Moment, bool),
    ) -> Result<(), String> {
        let words = words(asked.start, found)?;
        if self.appended {
            return self.check_appends(&words, began, unheard);
        }
        let end = asked.start + to_u64(words.len());
        match (end < asked.end, words.is_empty()) {
            (true, true) => self.check_length(0..=asked.start, (began, unheard))?,
            (true, false) => self.check_length(end..=end, (began, unheard))?,
            (false, _) => self.check_length(end..=u64::MAX, (began, unheard))?,
        }
        for (cell, word) in (asked.start..).zip(words) {
            self.check_cell(cell, word, began, unheard)?;
        }
        Ok(())
    }

    fn check_cell(&self, cell: u64, word: u64, began: Moment, unheard: bool) -> Result<(), String> {
        let on_it = || self.writes.iter().filter(|write| write.cells.contains(&cell));
        let standing = on_it().filter(|write| self.stood(write, began, unheard));
        // What ended before this is overruled.
        let Some(last) = standing.max_by_key(|write| write.began) else {
            return self.known(cell, word).map(drop);
        };
        let fine = match self.known(cell, word)? {
            Some(found) => !found.ended_before(last.began),
            None => on_it().any(|write| {
                let zeros = matches!(write.kind, Kind::Zero | Kind::Cut);
                zeros && !write.ended_before(last.began)
            }),
        };
        match fine {
            true => Ok(()),
            false => Err(format!("cell {cell} has {}, and {last:?} overrules that", tell(word))),
        }
    }

    /// The write that a word names; none where it is zero.
    fn known(&self, cell: u64, word: u64) -> Result<Option<&Write>, String> {
        if word == 0 {
            return Ok(None);
        }
        let number = to_usize(word >> 32).checked_sub(1);
        let write = number.and_then(|number| self.writes.get(number));
        match write {
            Some(write) if self.appended || word & 0xffff_ffff == cell => Ok(Some(write)),
            _ => Err(format!("cell {cell} has {}, which nobody wrote there", tell(word))),
        }
    }

    /// Compares a length, which is one of these, in cells.
    ///
    /// # Errors
    /// A sentence with the lengths that are right.
    pub(super) fn check_length(
        &self,
        found: std::ops::RangeInclusive<u64>,
        (began, unheard): (Moment, bool),
    ) -> Result<(), String> {
        let cuts = || self.writes.iter().filter(|write| write.kind == Kind::Cut);
        let stood = |write: &&Write| self.stood(write, began, unheard);
        let least = self.writes.iter().filter(stood).map(|write| {
            let cuts = cuts().filter(|cut| !cut.ended_before(write.began));
            cuts.map(Write::end).fold(write.end(), u64::min)
        });
        let most = self.writes.iter().map(|write| {
            let cuts = cuts().filter(|cut| write.ended_before(cut.began)).filter(stood);
            cuts.map(Write::end).fold(write.end(), u64::min)
        });
        let (least, most) = (least.max().unwrap_or(0), most.max().unwrap_or(0));
        match *found.start() <= most && *found.end() >= least {
            true => Ok(()),
            false => Err(format!("{found:?} cells long, where {least} to {most} are right")),
        }
    }
}

/// What the names of all shared files begin with.
pub(super) const NAME_PREFIX: &str = "shared-";

/// One word for each cell: all of a cell's are the same.
fn words(first: u64, found: &[u8]) -> Result<Vec<u64>, String> {
    let mut words = Vec::new();
    for (cell, bytes) in (first..).zip(found.chunks(CELL_BYTES)) {
        let (all, rest) = bytes.as_chunks::<8>();
        let whole = rest.is_empty() && all.len() == CELL_BYTES / 8;
        let word = all.first().copied().map_or(0, u64::from_le_bytes);
        if !whole || all.iter().any(|other| u64::from_le_bytes(*other) != word) {
            return Err(format!(
                "cell {cell} is torn: {} bytes, first {}",
                bytes.len(),
                tell(word)
            ));
        }
        words.push(word);
    }
    Ok(words)
}

fn tell(word: u64) -> String {
    match (word >> 32).checked_sub(1) {
        None => format!("word {word}"),
        Some(write) => format!("write {write} (cell {})", word & 0xffff_ffff),
    }
}
