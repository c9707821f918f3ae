//! The oracle itself: what it must not let pass, and what it must.

use super::*;

fn fill(file: &mut SharedFile, client: usize, cells: Range<u64>, now: &mut Moment) -> usize {
    let number = file.begin(client, Kind::Fill, cells, (*now, false));
    file.answered(number, *now + 1);
    *now += 2;
    number
}

fn read_of(file: &mut SharedFile, number: usize, now: Moment, unheard: bool) -> bool {
    let (cells, bytes) = (file.writes[number].cells.clone(), file.bytes_of(number));
    file.check(&cells, &bytes, (now, unheard)).is_ok()
}

#[test]
fn a_read_finds_the_last_write_that_was_over_or_one_under_way() {
    let (mut file, mut now) = (SharedFile::new(0, false), 1);
    let first = fill(&mut file, 0, 0..8, &mut now);
    let under_way = file.begin(1, Kind::Fill, 0..8, (now, false));
    assert!(read_of(&mut file, first, now + 1, false));
    assert!(read_of(&mut file, under_way, now + 1, false));
    now += 2;
    let last = fill(&mut file, 2, 0..8, &mut now);
    assert!(!read_of(&mut file, first, now, false), "it was over before the last began");
    assert!(read_of(&mut file, first, now - 1, false), "a read that began before");
    assert!(read_of(&mut file, under_way, now, false));
    assert!(read_of(&mut file, last, now, false));
    let zeros = file.check(&(0..8), &[0; 8 * CELL_BYTES], (now, false));
    assert!(zeros.is_err());
    let short = file.check(&(0..8), &[], (now, false));
    assert!(short.is_err());
}

#[test]
fn what_a_power_loss_took_may_be_old_until_an_fsync() {
    let (mut file, mut now) = (SharedFile::new(0, false), 1);
    let first = fill(&mut file, 0, 0..8, &mut now);
    file.synced(0, now, now + 1);
    now += 2;
    let last = fill(&mut file, 1, 0..8, &mut now);
    assert!(!read_of(&mut file, first, now, false));
    file.power_lost();
    assert!(read_of(&mut file, first, now, false) && read_of(&mut file, last, now, false));
    let hole = vec![0; 8 * CELL_BYTES];
    assert!(file.check(&(0..8), &hole, (now, false)).is_err(), "the first was durable");
    file.synced(1, now, now + 1);
    assert!(!read_of(&mut file, first, now + 2, false), "it was said to be durable after all");
    // Of one that was closed nobody says so.
    now += 2;
    let closed = fill(&mut file, 0, 0..8, &mut now);
    file.closed(0);
    file.power_lost();
    file.synced(0, now, now + 1);
    assert!(read_of(&mut file, last, now + 2, false));
    assert!(read_of(&mut file, closed, now + 2, false));
}

#[test]
fn a_fence_takes_what_is_not_at_the_servers() {
    let (mut file, mut now) = (SharedFile::new(0, false), 1);
    let first = fill(&mut file, 0, 0..8, &mut now);
    file.synced(0, now, now + 1);
    now += 2;
    file.fenced(0);
    let hole = vec![0; 8 * CELL_BYTES];
    assert!(file.check(&(0..8), &hole, (now, false)).is_err(), "it was synced");
    let second = fill(&mut file, 0, 0..8, &mut now);
    file.fenced(0);
    assert!(read_of(&mut file, first, now, false) && read_of(&mut file, second, now, false));
    // A late one is not let in over what came after it.
    fill(&mut file, 1, 0..8, &mut now);
    assert!(!read_of(&mut file, second, now, false));
}

#[test]
fn the_length_follows_writes_and_cuts() {
    let (mut file, mut now) = (SharedFile::new(0, false), 1);
    fill(&mut file, 0, 0..10, &mut now);
    assert!(file.check_length(10..=10, (now, false)).is_ok());
    assert!(file.check_length(9..=9, (now, false)).is_err());
    assert!(file.check_length(11..=11, (now, false)).is_err());
    let cut = file.begin(1, Kind::Cut, 4..u64::MAX, (now, false));
    assert!(file.check_length(4..=4, (now + 1, false)).is_ok());
    assert!(file.check_length(10..=10, (now + 1, false)).is_ok());
    file.answered(cut, now + 2);
    assert!(file.check_length(10..=10, (now + 3, false)).is_err());
    assert!(file.check_length(10..=10, (now + 3, true)).is_err(), "a cut is durable");
    // A write that may fail unheard of may not have made it longer.
    now += 4;
    fill(&mut file, 0, 0..20, &mut now);
    assert!(file.check_length(4..=4, (now, true)).is_ok());
    assert!(file.check_length(4..=4, (now, false)).is_err());
}

#[test]
fn an_append_is_found_once_and_whole() {
    let mut file = SharedFile::new(0, true);
    for at in 0..3 {
        let number = file.begin(0, Kind::Append, 0..2, (2 * at, false));
        file.answered(number, 2 * at + 1);
    }
    let all: Vec<u8> = (0..3).flat_map(|number| file.bytes_of(number)).collect();
    let cell = |at: usize| all[at * CELL_BYTES..(at + 1) * CELL_BYTES].to_vec();
    let check = |file: &SharedFile, cells: &[usize]| {
        let bytes: Vec<u8> = cells.iter().flat_map(|at| cell(*at)).collect();
        file.clone().check(&(0..APPENDED_CELLS_MAX), &bytes, (9, false)).is_ok()
    };
    assert!(check(&file, &[0, 1, 2, 3, 4, 5]));
    assert!(!check(&file, &[0, 1, 2, 3, 4]), "half of the last is missing");
    assert!(!check(&file, &[0, 1, 4, 5]), "one is missing");
    assert!(!check(&file, &[2, 3, 0, 1, 4, 5]), "they were over one after the other");
    assert!(!check(&file, &[0, 1, 2, 3, 4, 5, 2, 3]), "one is there twice");
    file.error_told(0);
    assert!(check(&file, &[0, 1, 4, 5]), "any may have failed");
    assert!(!check(&file, &[0, 1, 0, 1]), "and none is there twice");
}
