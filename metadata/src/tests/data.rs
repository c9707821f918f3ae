//! Data in the inode: one behaviour each.

use super::*;
use crate::limits::{MEMORY_BYTES_MIN, SLOT_BYTES};
use crate::record::{Identity, number_key};
use crate::store::Name;
use crate::{Kind, ProblemKind};
use weft_wire::layout::LayoutPolicy;
use weft_wire::meta::{Attr, DataPlace, DataWrite, Inline, MoveStep, RENAME_EXCHANGE, TimeSet};
use weft_wire::units::to_u64;

const ROOT: Ino = Ino::ROOT;
const VOLUME_KEY: &[u8] = b"volume";
const AT: Time = Time { seconds: 500, nanos: 1 };

fn how(open: bool) -> MakeHow {
    MakeHow { mode: FILE, umask: 0, rdev: 0, exclusive: true, open, inline: true, fresh: false }
}

fn small(name: &[u8]) -> MetaRequest<'_> {
    MetaRequest::Make { parent: ROOT, name, how: how(false), target: b"" }
}

fn make_small(rig: &mut Rig, name: &[u8]) -> Ino {
    match rig.ask(&small(name)) {
        Ok(MetaReply::Made(attr, true, Some(DataPlace { inline: Some(inline), .. }))) => {
            assert_eq!(inline, told(b""));
            attr.ino
        }
        other => panic!("{other:?}"),
    }
}

fn told(data: &[u8]) -> Inline {
    Inline { bytes_max: 4096, data: Some(data.to_vec()) }
}

fn write(rig: &mut Rig, ino: Ino, offset: u32, bytes: &[u8]) -> Result<Attr, Status> {
    match rig.ask(&MetaRequest::WriteData(DataWrite::new(ino, offset, bytes, AT)))? {
        MetaReply::Attr(attr) => Ok(attr),
        other => panic!("{other:?}"),
    }
}

fn step(rig: &mut Rig, ino: Ino, step: MoveStep) -> Result<Option<Inline>, Status> {
    data_of(rig, &MetaRequest::MoveData { ino, step })
}

fn data_of(rig: &mut Rig, request: &MetaRequest<'_>) -> Result<Option<Inline>, Status> {
    match rig.ask(request)? {
        MetaReply::Data(attr, inline) => {
            let ino = attr.ino;
            assert_eq!(Ok(attr), rig.attr(ino), "attributes as they are");
            Ok(inline)
        }
        other => panic!("{other:?}"),
    }
}

/// The data, `None` when it is at the targets.
fn data(rig: &mut Rig, ino: Ino) -> Option<Vec<u8>> {
    data_of(rig, &MetaRequest::GetData { ino }).unwrap().map(|inline| inline.data.unwrap())
}

/// Sends a change and does what it takes, but for the works.
fn logged(rig: &mut Rig, request: &MetaRequest<'_>) -> Status {
    let op = rig.submit(request);
    rig.flush();
    rig.complete();
    rig.replies.remove(&op).map_or(Status::Busy, |(status, _)| status)
}

#[test]
fn bytes_are_written_anywhere_in_it_and_gaps_are_zeros() {
    let mut rig = Rig::new();
    let f = make_small(&mut rig, b"f");
    let empty = rig.attr(f).unwrap();
    assert_eq!((empty.size, empty.blocks), (0, 0));
    let attr = write(&mut rig, f, 10, b"hello").unwrap();
    assert_eq!((attr.size, attr.blocks), (15, 1));
    assert_eq!((attr.mtime, attr.ctime, attr.atime), (AT, AT, empty.atime));
    assert_eq!(attr.version, empty.version + 1);
    assert_eq!(data(&mut rig, f).unwrap(), b"\0\0\0\0\0\0\0\0\0\0hello");
    let earlier = DataWrite::new(f, 0, b"0123456789AB", Time { seconds: 1, nanos: 0 });
    let Ok(MetaReply::Attr(attr)) = rig.ask(&MetaRequest::WriteData(earlier)) else { panic!() };
    assert_eq!((attr.size, attr.mtime, attr.ctime), (15, AT, AT));
    assert_eq!(data(&mut rig, f).unwrap(), b"0123456789ABllo");
    let last = write(&mut rig, f, 4095, b"z").unwrap();
    assert_eq!(last.size, 4096);
    assert_eq!(write(&mut rig, f, 4095, b"zz"), Err(Status::TooBig));
    assert_eq!(write(&mut rig, f, u32::MAX, b"z"), Err(Status::TooBig));
    assert_eq!(write(&mut rig, f, 0, b"").unwrap(), last, "a change of nothing");
    let mut expected = b"0123456789ABllo".to_vec();
    expected.resize(4095, 0);
    expected.push(b'z');
    assert_eq!(data(&mut rig, f).unwrap(), expected);
    rig.assert_sound();
    rig.crash(|_, _| ()).unwrap();
    assert_eq!((data(&mut rig, f).unwrap(), rig.attr(f)), (expected.clone(), Ok(last)));
    rig.volume().checkpoint().unwrap();
    rig.crash(|_, _| ()).unwrap();
    assert_eq!((data(&mut rig, f).unwrap(), rig.attr(f)), (expected, Ok(last)));
    rig.assert_sound();
}

fn make_fresh(rig: &mut Rig, name: &[u8]) -> Ino {
    let how = MakeHow { fresh: true, ..how(true) };
    let target: &[u8] = b"";
    match rig.ask(&MetaRequest::Make { parent: ROOT, name, how, target }) {
        Ok(MetaReply::Made(attr, true, _)) => attr.ino,
        other => panic!("{other:?}"),
    }
}

fn brought(ino: Ino) -> MetaRequest<'static> {
    MetaRequest::Wrote { ino, size_min: 9000, mtime: AT, blocks_added: 3, at_targets: true }
}

/// The works that removing it leaves the targets.
fn removed(rig: &mut Rig, ino: Ino, name: &[u8]) -> usize {
    let before = rig.works.len();
    assert_eq!(logged(rig, &MetaRequest::Unlink { parent: ROOT, name }), Status::Ok);
    let released = MetaRequest::Release { ino, count: 1, atime: None };
    assert_eq!(logged(rig, &released), Status::Ok);
    rig.volume().tick(Duration::ZERO);
    rig.flush();
    rig.complete();
    rig.works.len() - before
}

#[test]
fn whoever_made_a_file_may_begin_at_its_targets() {
    let mut rig = Rig::new();
    let f = make_fresh(&mut rig, b"f");
    assert_eq!(data(&mut rig, f), Some(vec![]), "to others it is empty");
    rig.done(&brought(f)).unwrap();
    assert_eq!(data(&mut rig, f), None, "the targets count");
    let attr = rig.attr(f).unwrap();
    assert_eq!((attr.size, attr.blocks), (9000, 3));
    rig.done(&brought(f)).unwrap();
    assert_eq!(rig.attr(f).unwrap().blocks, 6, "the same once more tells of more");
    rig.assert_sound();
    assert_eq!(removed(&mut rig, f, b"f"), 1);
}

#[test]
fn a_fresh_file_that_is_removed_may_have_left_something_at_the_targets() {
    let mut rig = Rig::new();
    let f = make_fresh(&mut rig, b"f");
    assert_eq!(removed(&mut rig, f, b"f"), 1);
    rig.assert_sound();
}

#[test]
fn what_its_maker_writes_small_is_in_the_inode_alone() {
    for untouched in [true, false] {
        let mut rig = Rig::new();
        let f = make_fresh(&mut rig, b"f");
        let bytes = DataWrite { untouched, ..DataWrite::new(f, 0, b"small", AT) };
        rig.done(&MetaRequest::WriteData(bytes)).unwrap();
        assert_eq!(data(&mut rig, f), Some(b"small".to_vec()));
        assert_eq!(rig.done(&brought(f)), Err(Status::Invalid), "that is over");
        assert_eq!(data(&mut rig, f), Some(b"small".to_vec()));
        rig.assert_sound();
        assert_eq!(removed(&mut rig, f, b"f"), usize::from(!untouched), "who made it may be gone");
    }
}

/// What a vanished maker left must not be seen in holes.
#[test]
fn who_moves_a_file_that_somebody_began_to_has_its_targets_emptied_first() {
    let mut rig = Rig::new();
    let f = make_fresh(&mut rig, b"f");
    assert_eq!(step(&mut rig, f, MoveStep::End), Err(Status::Invalid));
    assert_eq!(
        logged(&mut rig, &MetaRequest::MoveData { ino: f, step: MoveStep::Begin }),
        Status::Busy
    );
    let works = rig.volume().pending_works().unwrap();
    assert_eq!(works.len(), 1, "the answer waits for it");
    assert_eq!(works[0].remove_from, weft_wire::ChunkIndex(0));
    assert_eq!(data(&mut rig, f), None);
}

#[test]
fn only_what_is_opened_is_fresh() {
    let mut rig = Rig::new();
    let how = MakeHow { fresh: true, ..how(false) };
    let wanted = MetaRequest::Make { parent: ROOT, name: b"f", how, target: b"" };
    let Ok(MetaReply::Made(attr, true, _)) = rig.ask(&wanted) else { panic!() };
    let f = attr.ino;
    assert_eq!(rig.done(&brought(f)), Err(Status::Invalid));
}

#[test]
fn what_is_damaged_on_its_way_changes_nothing() {
    let mut rig = Rig::new();
    let f = make_small(&mut rig, b"f");
    let before = write(&mut rig, f, 0, b"good").unwrap();
    let bad = DataWrite { bytes: b"baad", ..DataWrite::new(f, 0, b"good", AT) };
    assert_eq!(rig.done(&MetaRequest::WriteData(bad)), Err(Status::Io));
    assert_eq!((rig.attr(f), data(&mut rig, f)), (Ok(before), Some(b"good".to_vec())));
}

#[test]
fn only_files_whose_data_is_in_the_inode_are_written_so() {
    let mut rig = Rig::new();
    let striped = rig.make(ROOT, b"striped", FILE).unwrap();
    let pipe = rig.make(ROOT, b"pipe", 0o010_600).unwrap();
    for ino in [striped, pipe, ROOT] {
        let before = rig.attr(ino);
        assert_eq!(write(&mut rig, ino, 0, b"x"), Err(Status::Invalid));
        assert_eq!(rig.attr(ino), before);
        assert_eq!(data(&mut rig, ino), None);
    }
    assert_eq!(write(&mut rig, Ino(77), 0, b"x"), Err(Status::Stale));
    for way in [MoveStep::Stay, MoveStep::Begin, MoveStep::End] {
        assert_eq!(step(&mut rig, striped, way), Ok(None), "it is there");
        assert_eq!(step(&mut rig, ROOT, way), Err(Status::Invalid));
        assert_eq!(step(&mut rig, Ino(77), way), Err(Status::Stale));
    }
    let wrote = MetaRequest::Wrote {
        ino: striped,
        size_min: 9,
        mtime: AT,
        blocks_added: 3,
        at_targets: false,
    };
    rig.done(&wrote).unwrap();
    assert_eq!(rig.attr(striped).unwrap().blocks, 3);
}

/// A client that knows nothing of data in inodes would read nothing and write where it does not count.
#[test]
fn who_does_not_understand_gets_none_of_it() {
    let mut rig = Rig::new();
    let f = make_small(&mut rig, b"f");
    assert_eq!(rig.ask(&MetaRequest::Open { ino: f, inline: false }), Err(Status::NotSupported));
    assert_eq!(rig.volume().counters().open_count, 0);
    for open in [false, true] {
        let how = MakeHow { exclusive: false, inline: false, ..how(open) };
        let found = MetaRequest::Make { parent: ROOT, name: b"f", how, target: b"" };
        assert_eq!(rig.ask(&found), Err(Status::NotSupported), "it is there");
        let how = MakeHow { inline: true, ..how };
        let found = MetaRequest::Make { parent: ROOT, name: b"f", how, target: b"" };
        let Ok(MetaReply::Made(_, false, Some(place))) = rig.ask(&found) else { panic!() };
        assert_eq!(place.inline, Some(Inline { bytes_max: 4096, data: None }), "not told");
        let name: &[u8] = if open { b"new" } else { b"other" };
        let how = MakeHow { inline: false, ..how };
        let new = MetaRequest::Make { parent: ROOT, name, how, target: b"" };
        let Ok(MetaReply::Made(attr, true, Some(place))) = rig.ask(&new) else { panic!() };
        assert_eq!((place.inline, data(&mut rig, attr.ino)), (None, None));
    }
    write(&mut rig, f, 0, b"data").unwrap();
    let Ok(MetaReply::Opened(_, Some(place))) =
        rig.ask(&MetaRequest::Open { ino: f, inline: true })
    else {
        panic!()
    };
    assert_eq!((place.inline, place.layout.targets().len()), (Some(told(b"data")), 3));
    // Once it is at its targets anybody may.
    step(&mut rig, f, MoveStep::Begin).unwrap();
    assert_eq!(rig.ask(&MetaRequest::Open { ino: f, inline: false }), Err(Status::NotSupported));
    step(&mut rig, f, MoveStep::End).unwrap();
    rig.ask(&MetaRequest::Open { ino: f, inline: false }).unwrap();
}

#[test]
fn the_directory_says_how_much_fits() {
    let mut rig = Rig::new();
    let policy = |inline_bytes| LayoutPolicy { inline_bytes, ..LayoutPolicy::default() };
    let set = |inline_bytes| MetaRequest::SetLayout { ino: ROOT, policy: policy(inline_bytes) };
    rig.done(&set(0)).unwrap();
    let Ok(MetaReply::Made(_, true, Some(place))) = rig.ask(&small(b"none")) else { panic!() };
    assert_eq!(place.inline, None);
    rig.done(&set(100)).unwrap();
    let Ok(MetaReply::Made(attr, true, Some(place))) = rig.ask(&small(b"few")) else { panic!() };
    assert_eq!(place.inline, Some(Inline { bytes_max: 100, data: Some(Vec::new()) }));
    rig.done(&set(4096)).unwrap();
    assert_eq!(write(&mut rig, attr.ino, 50, &[1; 51]), Err(Status::TooBig), "as it was made");
    assert_eq!(write(&mut rig, attr.ino, 50, &[1; 50]).unwrap().size, 100);
    let wanted = MetaRequest::Make { parent: ROOT, name: b"", how: how(true), target: b"" };
    let Ok(MetaReply::Made(attr, true, Some(place))) = rig.ask(&wanted) else { panic!() };
    assert_eq!(place.inline, Some(told(b"")), "also one without a name");
    write(&mut rig, attr.ino, 0, b"x").unwrap();
    rig.done(&MetaRequest::Link { ino: attr.ino, parent: ROOT, name: b"named" }).unwrap();
    assert_eq!(data(&mut rig, attr.ino).unwrap(), b"x");
    let how = MakeHow { mode: 0o010_600, ..how(false) };
    let pipe = MetaRequest::Make { parent: ROOT, name: b"pipe", how, target: b"" };
    assert!(matches!(rig.ask(&pipe), Ok(MetaReply::Made(_, true, None))));
    rig.assert_sound();
}

#[test]
fn a_cut_needs_no_target() {
    let mut rig = Rig::new();
    let f = make_small(&mut rig, b"f");
    write(&mut rig, f, 0, &[7; 3000]).unwrap();
    let next_work = rig.volume().state().next_work;
    for (size, bytes, blocks) in [(9000, 3000, 1), (10, 10, 1), (20, 10, 1), (0, 0, 0), (5, 0, 0)] {
        rig.now.seconds += 1;
        assert_eq!(logged(&mut rig, &resize(f, size)), Status::Ok);
        let attr = rig.attr(f).unwrap();
        assert_eq!((attr.size, attr.blocks, attr.mtime), (size, blocks, rig.now));
        assert_eq!(data(&mut rig, f).unwrap(), vec![7; bytes], "what was cut off stays away");
        rig.assert_sound();
    }
    assert_eq!(rig.volume().state().next_work, next_work);
    assert_eq!(rig.volume().layout_of(f), None, "no target is asked whether it is there");
    // Two at once in one request: the mode and the length.
    write(&mut rig, f, 0, b"abc").unwrap();
    let (mode, mtime) = (Some(0o600), Some(TimeSet::To(Time::default())));
    let set = SetAttr { mode, mtime, size: Some(1), ..SetAttr::default() };
    let Ok(MetaReply::Attr(attr)) = rig.ask(&MetaRequest::SetAttr { ino: f, set }) else {
        panic!()
    };
    assert_eq!((attr.mode, attr.size, attr.mtime), (0o100_600, 1, Time::default()));
    assert_eq!(data(&mut rig, f).unwrap(), b"a");
    rig.assert_sound();
}

#[test]
fn it_goes_with_its_file_and_needs_no_target() {
    let mut rig = Rig::new();
    let (f, g) = (make_small(&mut rig, b"f"), make_small(&mut rig, b"g"));
    write(&mut rig, f, 0, b"of f").unwrap();
    write(&mut rig, g, 0, b"of g").unwrap();
    let next_work = rig.volume().state().next_work;
    let (parent, new_parent) = (ROOT, ROOT);
    let rename =
        |name, new_name, flags| MetaRequest::Rename { parent, name, new_parent, new_name, flags };
    rig.done(&rename(b"f", b"g", RENAME_EXCHANGE)).unwrap();
    rig.done(&MetaRequest::Link { ino: f, parent, name: b"h" }).unwrap();
    assert_eq!(data(&mut rig, f).unwrap(), b"of f");
    rig.ask(&MetaRequest::Open { ino: g, inline: true }).unwrap();
    // `f` is called g and h, `g` is called f.
    rig.done(&rename(b"g", b"f", 0)).unwrap();
    assert_eq!(rig.attr(g).unwrap().nlink, 0);
    write(&mut rig, g, 4, b", open").unwrap();
    assert_eq!(data(&mut rig, g).unwrap(), b"of g, open");
    assert_eq!(rig.assert_sound().orphan_count, 1);
    let live = rig.volume().store().live_bytes;
    rig.done(&MetaRequest::Release { ino: g, count: 1, atime: None }).unwrap();
    assert_eq!(rig.attr(g), Err(Status::Stale));
    assert_eq!(rig.volume().store().get(Name::Data, &number_key(g.0)), Ok(None));
    assert!(rig.volume().store().live_bytes < live);
    for name in [&b"f"[..], b"h"] {
        assert_eq!(logged(&mut rig, &MetaRequest::Unlink { parent, name }), Status::Ok);
    }
    rig.settle();
    assert_eq!(rig.volume().store().row_count(Name::Data), Ok(0));
    assert_eq!(rig.volume().state().next_work, next_work, "targets have nothing of it");
    rig.assert_sound();
}

#[test]
fn an_empty_file_is_at_its_targets_at_once() {
    let mut rig = Rig::new();
    let f = make_small(&mut rig, b"f");
    rig.done(&resize(f, 100)).unwrap();
    let before = rig.attr(f).unwrap();
    assert_eq!(step(&mut rig, f, MoveStep::Stay), Ok(Some(told(b""))));
    assert_eq!(step(&mut rig, f, MoveStep::End), Err(Status::Invalid), "not begun");
    assert_eq!(rig.attr(f), Ok(before));
    for _ in 0..2 {
        assert_eq!(step(&mut rig, f, MoveStep::Begin), Ok(None));
        let attr = rig.attr(f).unwrap();
        assert_eq!((attr.size, attr.blocks, attr.mtime), (100, 0, before.mtime));
    }
    assert_eq!(step(&mut rig, f, MoveStep::End), Ok(None));
    assert_eq!(rig.attr(f).unwrap().blocks, 0, "nothing was written");
    assert_eq!(write(&mut rig, f, 0, b"x"), Err(Status::Invalid));
    assert_eq!(logged(&mut rig, &resize(f, 1)), Status::Busy, "waits for the targets");
    rig.settle();
    rig.assert_sound();
}

#[test]
fn data_moves_to_the_targets_for_ever() {
    let mut rig = Rig::new();
    let f = make_small(&mut rig, b"f");
    let old = Time { seconds: -9, nanos: 0 };
    write(&mut rig, f, 0, b"data").unwrap();
    let set = SetAttr { mtime: Some(TimeSet::To(old)), ..SetAttr::default() };
    rig.done(&MetaRequest::SetAttr { ino: f, set }).unwrap();
    for _ in 0..2 {
        assert_eq!(step(&mut rig, f, MoveStep::Begin), Ok(Some(told(b"data"))));
        assert_eq!(step(&mut rig, f, MoveStep::Stay), Ok(Some(told(b"data"))));
        rig.crash(|_, _| ()).unwrap();
        rig.volume().grace_over();
    }
    assert_eq!(data(&mut rig, f).unwrap(), b"data", "the inode counts");
    for _ in 0..2 {
        assert_eq!(step(&mut rig, f, MoveStep::End), Ok(None));
        assert_eq!(step(&mut rig, f, MoveStep::Begin), Ok(None));
        assert_eq!(step(&mut rig, f, MoveStep::Stay), Ok(None));
        let attr = rig.attr(f).unwrap();
        assert_eq!((attr.size, attr.blocks, attr.mtime), (4, 1, old), "it was read and written");
        assert_eq!(rig.volume().store().row_count(Name::Data), Ok(0));
        assert!(rig.volume().layout_of(f).is_some());
        rig.crash(|_, _| ()).unwrap();
        rig.volume().grace_over();
    }
    rig.assert_sound();
}

/// What a client brought to the targets is not what counts when somebody else wrote meanwhile, or the file was cut.
#[test]
fn a_move_ends_only_with_the_data_it_began_with() {
    let mut rig = Rig::new();
    let f = make_small(&mut rig, b"f");
    write(&mut rig, f, 0, b"first").unwrap();
    step(&mut rig, f, MoveStep::Begin).unwrap();
    write(&mut rig, f, 0, b"other").unwrap();
    assert_eq!(step(&mut rig, f, MoveStep::End), Err(Status::Invalid));
    assert_eq!(step(&mut rig, f, MoveStep::Begin), Ok(Some(told(b"other"))));
    rig.done(&resize(f, 9)).unwrap();
    assert_eq!(data(&mut rig, f).unwrap(), b"other", "zeros follow: the same block");
    rig.done(&resize(f, 0)).unwrap();
    assert_eq!(step(&mut rig, f, MoveStep::End), Err(Status::Invalid));
    // Nothing is left, but the targets may have some of what was.
    assert_eq!(step(&mut rig, f, MoveStep::Begin), Ok(Some(told(b""))));
    rig.assert_sound();
    assert_eq!(step(&mut rig, f, MoveStep::End), Ok(None));
    assert_eq!(rig.attr(f).unwrap().blocks, 1);
    rig.assert_sound();
}

#[test]
fn what_may_be_at_the_targets_is_removed_with_the_file() {
    let mut rig = Rig::new();
    for changed in [false, true] {
        let f = make_small(&mut rig, b"f");
        write(&mut rig, f, 0, b"data").unwrap();
        step(&mut rig, f, MoveStep::Begin).unwrap();
        if changed {
            rig.done(&resize(f, 0)).unwrap();
        }
        assert_eq!(logged(&mut rig, &MetaRequest::Unlink { parent: ROOT, name: b"f" }), Status::Ok);
        rig.volume().tick(Duration::ZERO);
        rig.flush();
        rig.complete();
        let works: Vec<_> = rig.works.iter().map(|work| (work.ino, work.remove_from.0)).collect();
        assert_eq!(works, [(f, 0)]);
        assert_eq!(rig.volume().store().row_count(Name::Data), Ok(0));
        rig.settle();
        rig.assert_sound();
    }
}

/// Blocks are counted by whoever has the data: its row, then the targets.
#[test]
fn what_targets_say_of_blocks_counts_once_they_have_the_data() {
    let mut rig = Rig::new();
    let f = make_small(&mut rig, b"f");
    write(&mut rig, f, 0, b"data").unwrap();
    let wrote = MetaRequest::Wrote {
        ino: f,
        size_min: 6000,
        mtime: AT,
        blocks_added: 1,
        at_targets: false,
    };
    for way in [MoveStep::Stay, MoveStep::Begin] {
        step(&mut rig, f, way).unwrap();
        rig.done(&wrote).unwrap();
        let attr = rig.attr(f).unwrap();
        assert_eq!((attr.blocks, attr.size, attr.mtime), (1, 6000, AT));
        rig.assert_sound();
    }
    step(&mut rig, f, MoveStep::End).unwrap();
    rig.done(&wrote).unwrap();
    assert_eq!(rig.attr(f).unwrap().blocks, 2);
}

/// Else a session's outcomes would take ten times the memory they are given, and rows that a checkpoint finds no room
/// for.
#[test]
fn a_move_tells_the_data_each_time_and_keeps_none_of_it() {
    let mut rig = Rig::with(VolumeParams { memory_bytes_max: MEMORY_BYTES_MIN, ..params() });
    let f = make_small(&mut rig, b"f");
    write(&mut rig, f, 0, &[5; 4096]).unwrap();
    let begin = MetaRequest::MoveData { ino: f, step: MoveStep::Begin };
    let caller = |slot| Caller { uid: 0, gid: 0, slot, sequence: 1 << 40 };
    let before = rig.volume().slots().memory_bytes();
    let whole = Some(told(&[5; 4096]));
    for slot in 1..100 {
        let first = rig.submit_as(ALICE, caller(slot), &begin);
        let joined = rig.submit_as(ALICE, caller(slot), &begin);
        rig.settle();
        let again = rig.submit_as(ALICE, caller(slot), &begin);
        for op in [first, joined, again] {
            let reply = rig.answer(op, &begin);
            assert!(matches!(reply, Ok(MetaReply::Data(_, inline)) if inline == whole));
        }
    }
    let kept = rig.volume().slots().memory_bytes() - before;
    assert!(kept < 99 * (SLOT_BYTES + 200), "{kept}");
    // After a crash it tells where the data is then.
    step(&mut rig, f, MoveStep::End).unwrap();
    rig.crash(|_, _| ()).unwrap();
    let again = rig.submit_as(ALICE, caller(7), &begin);
    assert!(matches!(rig.answer(again, &begin), Ok(MetaReply::Data(_, None))));
    rig.volume().grace_over();
    rig.done(&MetaRequest::Unlink { parent: ROOT, name: b"f" }).unwrap();
    let again = rig.submit_as(ALICE, caller(7), &begin);
    let gone = rig.answer(again, &begin);
    let untold = Some(Inline { bytes_max: 4096, data: None });
    assert!(matches!(gone, Ok(MetaReply::Data(_, inline)) if inline == untold), "as it was");
}

#[test]
fn when_it_was_read_is_told_with_it() {
    let mut rig = Rig::new();
    let f = make_small(&mut rig, b"f");
    rig.ask(&MetaRequest::Open { ino: f, inline: true }).unwrap();
    let atime = Time { seconds: 900, nanos: 0 };
    let op = rig.submit(&MetaRequest::Release { ino: f, count: 1, atime: Some(atime) });
    assert_eq!(rig.replies[&op].0, Status::Ok);
    let get = MetaRequest::GetData { ino: f };
    let op = rig.submit(&get);
    let told = rig.answer(op, &get);
    assert!(matches!(told, Ok(MetaReply::Data(attr, _)) if attr.atime == atime), "{told:?}");
}

/// Builds before it read nothing but format 1, and must not take files whose data is in the inode for empty ones.
#[test]
fn a_volume_of_an_earlier_format_is_opened_and_is_of_this_one_then() {
    let mut rig = Rig::new();
    let old = rig.make(ROOT, b"old", FILE).unwrap();
    let format_of = |rig: &mut Rig| {
        let row = rig.volume().store().get(Name::Meta, VOLUME_KEY).unwrap().unwrap();
        assert!(Identity::decode(row).is_some_and(|identity| identity.is_ok()));
        u16::from_le_bytes([row[8], row[9]])
    };
    let set_format = |rig: &mut Rig, format: u8| {
        let row = rig.volume().store().get(Name::Meta, VOLUME_KEY).unwrap().unwrap();
        let mut row = row.to_vec();
        row[8] = format;
        rig.volume().store_mut().write(Name::Meta, VOLUME_KEY, Some(&row)).unwrap();
        rig.volume().checkpoint().unwrap();
    };
    assert_eq!(format_of(&mut rig), 3);
    for (earlier, name) in [(1, b"one"), (2, b"two")] {
        set_format(&mut rig, earlier);
        assert_eq!(format_of(&mut rig), u16::from(earlier));
        rig.make(ROOT, name, FILE).unwrap();
        assert_eq!(rig.open().unwrap().replayed_commands, 1, "what is in the log");
        assert_eq!(format_of(&mut rig), 3);
        rig.open().unwrap();
        assert_eq!(format_of(&mut rig), 3, "for good");
    }
    assert_eq!((data(&mut rig, old), rig.attr(old).map(|attr| attr.nlink)), (None, Ok(1)));
    let new = make_small(&mut rig, b"new");
    write(&mut rig, new, 0, b"data").unwrap();
    rig.assert_sound();
    // What such a build says of it: of a format after its own.
    set_format(&mut rig, 4);
    let error = rig.open().unwrap_err();
    assert_eq!((error.kind, error.detail), (Kind::Version, 4));
}

#[test]
fn the_checker_knows_what_holds() {
    let mut rig = Rig::new();
    let f = make_small(&mut rig, b"f");
    write(&mut rig, f, 0, b"data").unwrap();
    let empty = make_small(&mut rig, b"empty");
    let striped = rig.make(ROOT, b"striped", FILE).unwrap();
    rig.assert_sound();
    let row = rig.volume().store().get(Name::Data, &number_key(f.0)).unwrap().map(<[u8]>::to_vec);
    let mut problems = |ino: Ino, bytes: Option<&[u8]>, undo: Option<&[u8]>| {
        let key = number_key(ino.0);
        rig.volume().store_mut().write(Name::Data, &key, bytes).unwrap();
        let found = check(rig.volume()).problems;
        rig.volume().store_mut().write(Name::Data, &key, undo).unwrap();
        rig.assert_sound();
        found.iter().map(|found| (found.kind, found.ino, found.other)).collect::<Vec<_>>()
    };
    let wrong = |ino, bytes| vec![(ProblemKind::InodeData, ino, bytes)];
    assert_eq!(problems(f, Some(b"longer"), row.as_deref()), wrong(f, 6), "than the file");
    assert_eq!(problems(f, Some(b""), row.as_deref()), wrong(f, 0), "no empty rows");
    assert_eq!(problems(f, None, row.as_deref()), wrong(f, 0), "it has a block");
    assert_eq!(problems(striped, Some(b"x"), None), wrong(striped, 1), "at its targets");
    assert_eq!(problems(ROOT, Some(b"x"), None), wrong(ROOT, 1), "no file");
    assert_eq!(problems(Ino(99), Some(b"x"), None), wrong(Ino(99), 1), "not there");
    assert_eq!(problems(f, Some(b"abc"), row.as_deref()), [], "zeros follow");
    rig.done(&resize(empty, 5000)).unwrap();
    let mut blockless = |bytes: &[u8]| {
        let key = number_key(empty.0);
        rig.volume().store_mut().write(Name::Data, &key, Some(bytes)).unwrap();
        let found = check(rig.volume()).problems;
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].kind, found[0].other), (ProblemKind::InodeData, to_u64(bytes.len())));
    };
    blockless(b"x");
    blockless(&[1; 4097]);
}
