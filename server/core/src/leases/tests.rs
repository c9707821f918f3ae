use weft_wire::units::to_u64;

use super::*;

const A: SessionId = SessionId([1; 16]);
const B: SessionId = SessionId([2; 16]);
const C: SessionId = SessionId([3; 16]);
const FILE: Ino = Ino(7);
const NOW: Duration = Duration::from_secs(100);

fn table() -> Leases {
    Leases::new(100 * LEASE_BYTES)
}

/// Everything that is asked back is given back; what that was.
fn give_back(leases: &mut Leases) -> Vec<(SessionId, Ino, LeaseMode)> {
    let mut all = Vec::new();
    for (id, session, inodes) in leases.take_recalls(NOW) {
        all.extend(inodes.iter().map(|(ino, keep)| (session, *ino, *keep)));
        assert!(leases.returned(session, id));
        assert!(!leases.returned(session, id), "once");
    }
    all
}

#[test]
fn readers_share_and_a_change_waits_for_the_others() {
    let mut leases = table();
    assert_eq!(leases.grant(A, FILE, Want::Read, NOW), LeaseMode::Read);
    assert_eq!(leases.grant(B, FILE, Want::Read, NOW), LeaseMode::Read);
    assert!(leases.may(C, FILE, Need::Look, NOW), "readers are in nobody's way who looks");
    assert!(!leases.may(A, FILE, Need::Change, NOW));
    assert_eq!(give_back(&mut leases), [(B, FILE, LeaseMode::None)], "its own lease stays");
    assert!(leases.may(A, FILE, Need::Change, NOW));
    assert_eq!((leases.count(), leases.count_of(A), leases.count_of(B)), (1, 1, 0));
}

#[test]
fn nothing_is_granted_while_somebody_changes_or_waits_to() {
    let mut leases = table();
    for waits in [false, true] {
        leases.enter(FILE, waits);
        assert_eq!(leases.grant(A, FILE, Want::Read, NOW), LeaseMode::None);
        leases.leave(FILE, waits);
    }
    assert_eq!(leases.grant(A, FILE, Want::Read, NOW), LeaseMode::Read);
    leases.enter(FILE, false);
    assert!(!leases.may(A, FILE, Need::Own, NOW), "a writer begins after the change");
}

#[test]
fn a_look_leaves_the_writer_its_cache() {
    let mut leases = table();
    assert_eq!(leases.grant(A, FILE, Want::Write, NOW), LeaseMode::Write);
    assert!(leases.is_written(B, FILE) && !leases.is_written(A, FILE));
    assert!(!leases.may(B, FILE, Need::Look, NOW));
    assert!(!leases.may(B, FILE, Need::Look, NOW), "asked once");
    assert_eq!(give_back(&mut leases), [(A, FILE, LeaseMode::Read)]);
    assert!(leases.may(B, FILE, Need::Look, NOW));
    assert_eq!(leases.grant(B, FILE, Want::Read, NOW), LeaseMode::Read);
    assert_eq!(leases.grant(A, FILE, Want::Write, NOW), LeaseMode::Read, "not alone any more");
}

#[test]
fn two_writers_share_for_a_while_and_appending_is_alone() {
    let mut leases = table();
    let own = Want::Own(Need::Own);
    assert!(leases.may(A, FILE, Need::Own, NOW));
    assert_eq!(leases.grant(A, FILE, own, NOW), LeaseMode::Write);
    assert!(!leases.may(B, FILE, Need::Own, NOW));
    assert_eq!(give_back(&mut leases), [(A, FILE, LeaseMode::None)]);
    for session in [B, A] {
        assert!(leases.may(session, FILE, Need::Own, NOW));
        assert_eq!(leases.grant(session, FILE, own, NOW), LeaseMode::Through);
    }
    assert!(leases.may(C, FILE, Need::Look, NOW), "served, not granted");
    assert_eq!(leases.grant(C, FILE, Want::Read, NOW), LeaseMode::None);
    assert!(leases.may(A, FILE, Need::Told, NOW), "both tell what they wrote");
    let later = NOW + SHARED_TIME;
    assert!(!leases.may(C, FILE, Need::Look, later), "the writers had their time");
    let nothing = LeaseMode::None;
    assert_eq!(give_back(&mut leases), [(A, FILE, nothing), (B, FILE, nothing)]);
    assert_eq!(leases.grant(C, FILE, Want::Read, later), LeaseMode::Read);
    assert!(!leases.may(A, FILE, Need::Alone, later));
    assert_eq!(give_back(&mut leases), [(C, FILE, nothing)]);
    assert_eq!(leases.grant(A, FILE, Want::Own(Need::Alone), later), LeaseMode::Write);
    assert!(!leases.may(B, FILE, Need::Alone, later));
    assert_eq!(give_back(&mut leases), [(A, FILE, nothing)]);
    assert_eq!(leases.grant(B, FILE, Want::Own(Need::Alone), later), LeaseMode::Write);
}

#[test]
fn what_is_on_its_way_back_is_not_given_anew() {
    let mut leases = table();
    leases.grant(A, FILE, Want::Read, NOW);
    assert!(!leases.may(B, FILE, Need::Change, NOW));
    assert_eq!(leases.grant(A, FILE, Want::Read, NOW), LeaseMode::None);
    assert!(!leases.may(A, FILE, Need::Own, NOW), "its return would be taken for this one's");
    let (id, ..) = leases.take_recalls(NOW)[0].clone();
    assert!(!leases.returned(B, id), "not B's");
    assert_eq!(leases.recalls_of(A).len(), 1, "asked again on a new connection");
    leases.end(A);
    assert!(leases.recalls_of(A).is_empty() && leases.count() == 0 && !leases.others_hold(B));
    assert!(leases.may(B, FILE, Need::Change, NOW));
}

#[test]
fn a_full_table_grants_nothing_and_makes_room() {
    let mut leases = table();
    for ino in 1..=100 {
        assert_eq!(leases.grant(A, Ino(ino), Want::Read, NOW), LeaseMode::Read);
    }
    assert_eq!(leases.grant(A, Ino(101), Want::Read, NOW), LeaseMode::None);
    assert_eq!(leases.grant(B, Ino(101), Want::Own(Need::Own), NOW), LeaseMode::Write, "few");
    leases.tick(NOW);
    let back = give_back(&mut leases);
    assert_eq!((back.len(), back[0]), (12, (A, Ino(1), LeaseMode::None)));
    assert!(leases.awaited().is_empty(), "nobody waits for it");
    leases.tick(NOW);
    leases.tick(NOW);
    assert_eq!(give_back(&mut leases)[0].1, Ino(13), "where it left off");
    assert!(leases.count() < 88);
    leases.tick(NOW);
    assert!(give_back(&mut leases).is_empty());
}

/// Whatever happens: one writer, or readers, or sharers.
#[test]
fn random_sessions_never_conflict() {
    let mut random = 1u64;
    let mut below = move |end: u64| {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % end
    };
    let mut leases = table();
    let mut sent: Vec<(u64, SessionId)> = Vec::new();
    for step in 0..200_000u64 {
        let now = NOW + Duration::from_millis(step * 10);
        let session = [A, B, C][to_usize(below(3))];
        let ino = Ino(1 + below(3));
        match below(10) {
            0..=2 if leases.may(session, ino, Need::Look, now) => {
                leases.grant(session, ino, Want::Read, now);
            }
            3 if leases.may(session, ino, Need::Look, now) => {
                leases.grant(session, ino, Want::Write, now);
            }
            4 | 5 if leases.may(session, ino, Need::Own, now) => {
                let mode = leases.grant(session, ino, Want::Own(Need::Own), now);
                assert!(matches!(mode, LeaseMode::Write | LeaseMode::Through), "{mode:?}");
            }
            6 if leases.may(session, ino, Need::Alone, now) => {
                let mode = leases.grant(session, ino, Want::Own(Need::Alone), now);
                assert_eq!(mode, LeaseMode::Write);
            }
            7 if leases.may(session, ino, Need::Change, now) => {
                let others = leases.entries.get(&ino).map_or(0, |e| e.others(session).count());
                assert_eq!(others, 0, "a change is alone");
            }
            8 if below(20) == 0 => {
                leases.end(session);
                sent.retain(|(_, of)| *of != session);
            }
            _ => {}
        }
        sent.extend(leases.take_recalls(now).into_iter().map(|(id, session, _)| (id, session)));
        if below(2) == 0 && !sent.is_empty() {
            let count = to_u64(sent.len());
            let (id, session) = sent.remove(to_usize(below(count)));
            assert!(leases.returned(session, id));
        }
        check(&leases);
    }
}

fn check(leases: &Leases) {
    let mut count = 0;
    for (ino, entry) in &leases.entries {
        let modes: BTreeSet<LeaseMode> = entry.holders.iter().map(|holder| holder.mode).collect();
        count += entry.holders.len();
        assert_eq!(modes.len(), 1, "{ino}: {entry:?}");
        assert!(!modes.contains(&LeaseMode::Write) || entry.holders.len() == 1, "{entry:?}");
        assert!(!modes.contains(&LeaseMode::None));
        for holder in &entry.holders {
            assert!(leases.held_by[&holder.session].contains(ino));
        }
    }
    assert_eq!(count, leases.count());
    assert_eq!(count, leases.held_by.values().map(BTreeSet::len).sum::<usize>());
}
