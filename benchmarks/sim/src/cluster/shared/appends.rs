//! The oracle of a file that is only appended to: each append lands once, at one place, whole.
//!
//! Once an append was found somewhere it is found there and nowhere else. One that stands (see [`super`]) is whole, and
//! behind those that ended before it began. Zeros, and parts of appends, are right only where one is unsure: it may be
//! lost while the length that it made is told, and others follow behind it.

use weft_wire::units::{to_u64, to_usize};

use super::{Moment, SharedFile, tell};

impl SharedFile {
    /// Compares what a read of the whole file found.
    pub(super) fn check_appends(
        &mut self,
        words: &[u64],
        began: Moment,
        unheard: bool,
    ) -> Result<(), String> {
        let mut found = vec![0; self.writes.len()];
        let unsure = self.writes.iter().any(|write| !self.stood(write, began, unheard));
        for (cell, word) in (0..).zip(words) {
            if self.known(cell, *word)?.is_none() {
                if !unsure {
                    return Err(format!("cell {cell} is zeros between appends"));
                }
                continue;
            }
            let (number, part) = (to_usize(*word >> 32) - 1, *word & 0xffff_ffff);
            let write = &mut self.writes[number];
            let place = cell.checked_sub(part).filter(|_| write.cells.contains(&part));
            let Some(place) = place else {
                return Err(format!("cell {cell} has {}, which nobody wrote there", tell(*word)));
            };
            if *write.place.get_or_insert(place) != place {
                return Err(format!(
                    "cell {cell} has {}, whose place is {:?}",
                    tell(*word),
                    write.place
                ));
            }
            found[number] += 1;
        }
        self.check_whole(&found, began, unheard)
    }

    fn check_whole(&self, found: &[u64], began: Moment, unheard: bool) -> Result<(), String> {
        let all = || self.writes.iter().zip(found).enumerate();
        let stood = || all().filter(|(_, (write, _))| self.stood(write, began, unheard));
        for (number, (write, found)) in stood() {
            if *found != to_u64(write.cells.clone().count()) {
                return Err(format!("append {number} has {found} cells there: {write:?}"));
            }
            for (earlier, (other, _)) in stood() {
                if other.ended_before(write.began) && other.place > write.place {
                    return Err(format!(
                        "append {number} is before {earlier}, which was over then"
                    ));
                }
            }
        }
        Ok(())
    }
}
