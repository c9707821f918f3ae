//! A directory of 50,000 names, listed page by page while names come and go.

use super::*;
use crate::change::Change;
use crate::record::{Entry, entry_key};
use crate::store::{Name, Rows};
use std::collections::BTreeSet;
use weft_wire::meta::FileKind;

const ENTRY_COUNT: u64 = 50_000;

/// Submits changes with a slot each, so that they share batches.
fn fill(rig: &mut Rig, requests: &[MetaRequest<'_>], round: u64) {
    for group in requests.chunks(200) {
        let ops: Vec<u64> = group
            .iter()
            .zip(0u16..)
            .map(|(request, slot)| {
                rig.sequence += 1;
                let caller = Caller { uid: 0, gid: 0, slot, sequence: rig.sequence + round };
                rig.submit_as(ALICE, caller, request)
            })
            .collect();
        rig.settle();
        for op in ops {
            assert_eq!(rig.replies.remove(&op).unwrap().0, Status::Ok);
        }
    }
}

#[test]
fn a_listing_has_each_name_that_stays_once() {
    let mut rig = Rig::with(VolumeParams { checkpoint_commands_max: 10_000, ..params() });
    let dir = rig.make(Ino::ROOT, b"big", DIR).unwrap();
    let names: Vec<String> = (0..ENTRY_COUNT).map(|n| format!("stays-{n}")).collect();
    let makes: Vec<_> = names.iter().map(|n| make(dir, n.as_bytes(), FILE)).collect();
    fill(&mut rig, &makes, 0);
    assert_eq!(rig.attr(dir).unwrap().size, ENTRY_COUNT);

    let (mut seen, mut cookie, mut round) = (BTreeMap::<Vec<u8>, u64>::new(), 0, 0u64);
    loop {
        let bytes_max = 64 << 10;
        let read =
            MetaRequest::ReadDir { ino: dir, cookie, bytes_max, plus: round.is_multiple_of(2) };
        let Ok(MetaReply::Dir(list, last)) = rig.ask(&read) else { panic!() };
        assert!(list.len() <= 64 << 10);
        for entry in MetaReply::dir_entries(&list) {
            let entry = entry.unwrap();
            assert!(entry.cookie > cookie && entry.cookie >= crate::COOKIE_MIN);
            assert!(entry.cookie < 1 << 63);
            assert_eq!(entry.attr.is_some(), round.is_multiple_of(2));
            cookie = entry.cookie;
            *seen.entry(entry.name.to_vec()).or_default() += 1;
        }
        if last {
            break;
        }
        let comes: Vec<String> = (0..20).map(|n| format!("comes-{round}-{n}")).collect();
        let makes: Vec<_> = comes.iter().map(|n| make(dir, n.as_bytes(), FILE)).collect();
        fill(&mut rig, &makes, 0);
        let goes = |n: &String| format!("comes-{}-{}", round.saturating_sub(1), &n[n.len() - 1..]);
        if round > 0 {
            let gone: BTreeSet<String> = comes.iter().map(goes).collect();
            let unlinks: Vec<_> = gone
                .iter()
                .map(|n| MetaRequest::Unlink { parent: dir, name: n.as_bytes() })
                .collect();
            fill(&mut rig, &unlinks, 0);
        }
        round += 1;
    }
    assert!(round > 30, "{round} pages");
    for name in &names {
        assert_eq!(seen.get(name.as_bytes()), Some(&1), "{name}");
    }
    assert!(seen.values().all(|count| *count == 1));
    rig.assert_sound();
}

/// Writes an entry at `cookie` of the root, past all checks.
fn plant(rig: &mut Rig, cookie: u64, name: &[u8]) {
    let store = rig.volume().store_mut();
    let entry = Entry { ino: Ino(1000), kind: FileKind::Regular, name };
    let mut rows = Rows::new();
    let key = (Name::Entries, entry_key(Ino::ROOT, cookie).to_vec());
    rows.insert(key, Some(entry.encode()));
    let bytes = store.check_rows(&rows).unwrap();
    store.write_rows(&rows, bytes).unwrap();
}

#[test]
fn names_whose_hash_agrees_live_side_by_side() {
    let mut rig = Rig::new();
    // No two names collide by chance: others are planted where "x" belongs.
    let base = crate::name::cookie_base(&rig.volume().store().hash_seed, b"x");
    for n in 0u64..=253 {
        plant(&mut rig, base + n, n.to_string().as_bytes());
    }
    let ino = rig.make(Ino::ROOT, b"x", FILE).unwrap();
    let found = rig.volume().store().find_entry(Ino::ROOT, b"x").unwrap().unwrap();
    assert_eq!(
        (found.ino, found.key),
        (ino, entry_key(Ino::ROOT, base + 254)),
        "the first free place"
    );
    let strange = rig.volume().store().find_entry(Ino::ROOT, b"7").unwrap();
    assert_eq!(strange, None, "looked for where its own hash leads");
    let volume = rig.volume();
    let mut change = Change::new(volume.store(), volume.state(), volume.id());
    assert_eq!(change.add_entry(Ino::ROOT, b"x", Ino(9), FileKind::Regular), Ok(()));
    assert_eq!(
        change.add_entry(Ino::ROOT, b"x", Ino(9), FileKind::Regular),
        Err(Status::NoSpace),
        "all 256 places are taken, the last by this very change"
    );
    drop(change);
    plant(&mut rig, base + 255, b"last");
    rig.done(&MetaRequest::Unlink { parent: Ino::ROOT, name: b"x" }).unwrap();
    assert!(rig.make(Ino::ROOT, b"x", FILE).is_ok(), "a place that was given back");
}
