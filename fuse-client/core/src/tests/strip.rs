//! What writes past the kernel's cache take away of a file.

use weft_wire::meta::SetAttr;
use weft_wire::{Ino, Kind, LeaseMode};

use super::world::{World, config};
use super::write;
use crate::op::{FsOp, FsReply, Handle, OpenFlags, Strips};

const ALL: Strips = Strips { capabilities: true, set_ids: true };
const CAPABILITIES: &[u8] = b"security.capability";

impl World {
    /// A write that takes `strips` away; how many questions and changes it took.
    fn write_past(&mut self, handle: Handle, strips: Strips, append: bool) -> (u64, u64) {
        let counts = |world: &World| {
            let changes = world.count(Kind::SetAttr) + world.count(Kind::RemoveXattr);
            (world.count(Kind::GetXattr), changes)
        };
        let before = counts(self);
        let FsOp::Write { data, .. } = write(&self.pool, handle, 0, b"data", true) else {
            unreachable!()
        };
        let (offset, direct) = (0, !append);
        let op = FsOp::Write { handle, offset, data, direct, append, strips };
        assert!(matches!(self.run(op), Ok(FsReply::Written(4))));
        let after = counts(self);
        (after.0 - before.0, after.1 - before.1)
    }

    fn chmod(&mut self, ino: Ino, mode: u32) {
        let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
        assert!(self.run(FsOp::SetAttr { ino, set, handle: None }).is_ok());
        self.step_until(|world| world.core.is_clean());
        self.forgotten.clear();
    }

    /// Another mount did it, and gave its lease back.
    fn chmod_elsewhere(&mut self, ino: Ino, mode: u32) {
        let attr = &mut self.fake.inodes.get_mut(&ino).unwrap().attr;
        (attr.mode, attr.version) = (0o100_000 | mode, attr.version + 1);
        self.forgotten.clear();
    }

    fn mode(&self, ino: Ino) -> u32 {
        self.fake.inodes[&ino].attr.mode & 0o7777
    }
}

#[test]
fn setuid_goes_before_the_write_and_the_usual_write_asks_nothing() {
    let mut world = World::ready(config(), 40);
    let (ino, handle) = world.create(b"a");
    assert_eq!(world.write_past(handle, ALL, false), (0, 0), "made here");
    for append in [false, true] {
        world.chmod(ino, 0o6775);
        assert_eq!(world.write_past(handle, ALL, append), (0, 1));
        assert_eq!(world.mode(ino), 0o775);
        assert_eq!(world.forgotten, [(vec![ino], false)], "the kernel would go by the old mode");
        assert_eq!(world.attr(ino).mode, 0o100_775);
        assert_eq!(world.write_past(handle, ALL, append), (0, 0));
    }
    world.chmod(ino, 0o6775);
    let privileged = Strips { set_ids: false, ..ALL };
    assert_eq!((world.write_past(handle, privileged, false), world.mode(ino)), ((0, 0), 0o6775));
    world.chmod(ino, 0o2764);
    assert_eq!((world.write_past(handle, ALL, false), world.mode(ino)), ((0, 0), 0o2764));
}

#[test]
fn what_another_mount_gave_the_file_after_it_was_opened_goes_too() {
    let mut world = World::ready(config(), 41);
    let (ino, _) = world.create(b"a");
    let handle = world.open(ino, OpenFlags { append: true, ..OpenFlags::default() }).handle;
    assert_eq!(world.write_past(handle, ALL, true), (0, 0));
    world.recall(vec![(ino, LeaseMode::None)]);
    world.chmod_elsewhere(ino, 0o4755);
    let xattrs = &mut world.fake.inodes.get_mut(&ino).unwrap().xattrs;
    xattrs.insert(CAPABILITIES.to_vec(), b"cap".to_vec());
    assert_eq!(world.write_past(handle, ALL, true), (1, 2));
    assert_eq!((world.mode(ino), world.fake.inodes[&ino].xattrs.len()), (0o755, 0));
    assert_eq!(world.write_past(handle, ALL, true), (1, 0), "asked for once more");
    assert_eq!(world.write_past(handle, ALL, true), (0, 0));
}

#[test]
fn among_several_writers_the_mode_is_looked_at_when_the_write_was_told() {
    let mut world = World::ready(config(), 42);
    let (ino, handle) = world.create(b"a");
    world.recall(vec![(ino, LeaseMode::None)]);
    world.fake.shared = true;
    assert_eq!(world.write_past(handle, ALL, false), (1, 0), "capabilities, once for the lease");
    assert_eq!(world.write_past(handle, ALL, false), (0, 0));
    world.chmod_elsewhere(ino, 0o6755);
    assert_eq!(world.write_past(handle, ALL, false), (0, 1));
    assert_eq!(world.mode(ino), 0o755);
    assert_eq!(world.forgotten, [(vec![ino], false)]);
    assert_eq!(world.write_past(handle, ALL, false), (0, 0));
}
