//! Copies from chunk to chunk over real stores, and what comes between their read and their write.

use weft_server_core::Message;
use weft_wire::data::{ChunkCopy, ChunkListReply, ChunkRange, CopyReply, DataRequest, Known};
use weft_wire::{ChunkId, ChunkIndex, Ino, Kind, SessionId, ShardId, Status, TargetId};

use crate::rig::{Node, write};

const BLOCK: usize = 4096;
const FROM: Ino = Ino(8);
const TO: Ino = Ino(9);

fn chunk(ino: Ino) -> ChunkId {
    ChunkId { ino, index: ChunkIndex(0) }
}

fn range(ino: Ino, offset: u32, bytes: u32) -> ChunkRange {
    ChunkRange { chunk: chunk(ino), offset, bytes }
}

/// Bytes no stretch of which is found twice.
fn pattern(seed: u8, bytes: usize) -> Vec<u8> {
    let mixed = |at: usize| {
        let at = u64::try_from(at).unwrap().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (at ^ (at >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_be_bytes()[0]
    };
    (0..bytes).map(|at| seed ^ mixed(at)).collect()
}

/// Bytes of target 0's chunk from there, to target 1's.
fn copy(from: u32, to: u32, bytes: u32, known: Known) -> (TargetId, DataRequest) {
    let to = range(TO, to, bytes);
    let request =
        ChunkCopy { to, source: TargetId(0), from: chunk(FROM), from_offset: from, known };
    (TargetId(1), DataRequest::Copy(request))
}

fn send(node: &mut Node, (target, request): (TargetId, DataRequest)) -> u64 {
    let mut body = Vec::new();
    request.encode(target, &mut body);
    node.send(request.kind(), body, None)
}

fn answer(node: &mut Node, request: (TargetId, DataRequest)) -> Result<CopyReply, Status> {
    let id = send(node, request);
    match node.answers.remove(&id).unwrap() {
        (Status::Ok, body, _) => Ok(CopyReply::decode(&body).unwrap()),
        (status, ..) => Err(status),
    }
}

/// The destination's bytes as a client reads them.
fn found(node: &mut Node, bytes: u32) -> Vec<u8> {
    let (status, mut found) = node.read(1, &DataRequest::Read(range(TO, 0, bytes)), None);
    assert_eq!(status, Status::Ok);
    found.resize(usize::try_from(bytes).unwrap(), 0);
    found
}

fn written_blocks(node: &mut Node, target: u16, ino: Ino) -> u32 {
    let mut body = Vec::new();
    DataRequest::ChunkList(ino, ChunkIndex(0)).encode(TargetId(target), &mut body);
    let id = node.send(Kind::ChunkList, body, None);
    let (_, body, _) = node.answers.remove(&id).unwrap();
    ChunkListReply::decode(&body).unwrap().chunks.iter().map(|chunk| chunk.blocks_written).sum()
}

/// A node whose source has five blocks, a hole of ten, and one more block.
fn with_source() -> (Node, Vec<u8>, Known) {
    let mut node = Node::new();
    node.start(&[]);
    let known = node.hello().known();
    let mut source = pattern(1, 5 * BLOCK);
    assert_eq!(node.data(0, &write(FROM, 0, &source), Some(&source)), Status::Ok);
    let last = pattern(2, BLOCK);
    let DataRequest::Write(_, sums) = write(FROM, 0, &last) else { unreachable!() };
    let place = range(FROM, u32::try_from(15 * BLOCK).unwrap(), 4096);
    assert_eq!(node.data(0, &DataRequest::Write(place, sums), Some(&last)), Status::Ok);
    source.resize(15 * BLOCK, 0);
    source.extend_from_slice(&last);
    (node, source, known)
}

#[test]
fn what_is_copied_is_as_the_source_and_a_hole_stays_one() {
    let (mut node, source, known) = with_source();
    assert_eq!(answer(&mut node, copy(0, 0, 65_536, known)), Ok(CopyReply::Copied(6)));
    assert!(found(&mut node, 65_536) == source);
    assert_eq!(written_blocks(&mut node, 1, TO), 6, "the hole takes no space");

    // At other places in their blocks, over what is there: of the hole only what lies in blocks with data is written.
    let before = pattern(9, 16 * BLOCK);
    assert_eq!(node.data(1, &write(TO, 0, &before), Some(&before)), Status::Ok);
    let reply = answer(&mut node, copy(100, 4_500, 15 * 4096 + 200, known));
    let mut right = before;
    right.resize(4_500 + 15 * BLOCK + 200, 0);
    right[4_500..4_500 + 15 * BLOCK + 200].copy_from_slice(&source[100..15 * BLOCK + 300]);
    right.resize(17 * BLOCK, 0);
    assert!(found(&mut node, 17 * 4096) == right);
    let Ok(CopyReply::Copied(added)) = reply else { panic!("{reply:?}") };
    let written = written_blocks(&mut node, 1, TO);
    assert_eq!(i64::from(written), 16 + added);
    assert!(written < 9, "{written} blocks are written");
}

#[test]
fn a_source_that_is_damaged_or_not_known_any_more_is_not_copied() {
    let (mut node, _, known) = with_source();
    let before = pattern(9, 4 * BLOCK);
    assert_eq!(node.data(1, &write(TO, 0, &before), Some(&before)), Status::Ok);
    let other = Known { epoch: known.epoch + 1, boot: known.boot + 1 };
    assert_eq!(answer(&mut node, copy(0, 0, 8192, other)), Ok(CopyReply::Unknown));
    let restarted = Known { epoch: known.epoch + 1, ..known };
    let (to, from) = (0, 0);
    node.damage(0, &pattern(1, 5 * BLOCK)[4 * BLOCK..4 * BLOCK + 64]);
    assert_eq!(answer(&mut node, copy(from + 16_000, to, 1000, restarted)), Err(Status::Damaged));
    assert!(found(&mut node, 16_384) == before);
    assert_eq!(answer(&mut node, copy(0, 0, 4096, restarted)), Ok(CopyReply::Copied(0)));
    let (target, DataRequest::Copy(elsewhere)) = copy(0, 0, 4096, known) else { unreachable!() };
    let elsewhere = DataRequest::Copy(ChunkCopy { source: TargetId(77), ..elsewhere });
    assert_eq!(answer(&mut node, (target, elsewhere)), Err(Status::NotSupported));
}

/// Whoever went on without the session may have written there since.
#[test]
fn a_session_that_is_fenced_off_between_read_and_write_writes_nothing() {
    for fence in [true, false] {
        let (mut node, source, known) = with_source();
        let before = pattern(9, 4 * BLOCK);
        assert_eq!(node.data(1, &write(TO, 0, &before), Some(&before)), Status::Ok);
        node.reads_hang = true;
        let id = send(&mut node, copy(0, 0, 8192, known));
        assert!(!node.answers.contains_key(&id), "the source is being read");
        if fence {
            let (from, session) = (ShardId(0), SessionId([node.client; 16]));
            node.tell(Message::Fence { from, session, number: 1 });
        } else {
            node.cut_off(std::time::Duration::ZERO);
        }
        node.reads_go_on();
        node.hello();
        assert!(found(&mut node, 16_384) == before, "fence {fence}");
        assert!(!node.answers.contains_key(&id));
        assert_eq!(answer(&mut node, copy(0, 0, 8192, known)), Ok(CopyReply::Copied(0)));
        assert!(found(&mut node, 16_384)[..8192] == source[..8192]);
    }
}
