//! `--verify`: every byte that was written is there, whichever way data goes, and after opening again.

use super::{CHUNK_BYTES, Place, StoreArgs, path_name};
use crate::error::{Error, Result};
use std::time::Duration;
use weft_store::{Outcome, ReadPiece};
use weft_target::Runner;
use weft_wire::blocks::{BLOCK_LEN, crc32c};
use weft_wire::data::ChunkRange;
use weft_wire::{ChunkId, ChunkIndex, Ino};

const CHUNK_COUNT_MAX: u64 = 64;
const INO: Ino = Ino(3);
const PATIENCE: Duration = Duration::from_secs(30);
/// Pieces overwritten in each chunk: first byte and length; within blocks, across them, whole ones.
const PIECES: [(u32, u32); 4] =
    [(0, 4096), (65_536, 131_072), (300_001, 5_000), (1_040_384, 8_192)];

/// What a chunk must hold: each byte from its place and the last write over it.
fn content(chunk: u64, overwritten: bool) -> Vec<u8> {
    let byte = |at: u64, seed: u64| {
        u8::try_from((at / 4096 * 31 + at * 7 + chunk * 13 + seed) % 251).expect("below 251")
    };
    let mut bytes: Vec<u8> = (0..CHUNK_BYTES).map(|at| byte(at, 0)).collect();
    if overwritten {
        for (number, (start, len)) in (1u64..).zip(PIECES) {
            for at in start..start + len {
                bytes[usize::try_from(at).expect("in a chunk")] = byte(u64::from(at), number * 50);
            }
        }
    }
    bytes
}

/// True when all is right; otherwise an error says what is not.
pub(super) fn run(args: &StoreArgs, place: &mut Place) -> Result<bool> {
    let chunk_count = (args.data / CHUNK_BYTES).min(CHUNK_COUNT_MAX);
    place.format()?;
    let (mut runner, _) = place.open()?;
    let way = path_name(runner.data_path());
    if let Some(expected) = args.expect_path.as_deref().filter(|expected| *expected != way) {
        return Err(Error::wrong("verify", format!("data goes {way}, not {expected}")));
    }
    for chunk in 0..chunk_count {
        put(&mut runner, chunk, 0, &content(chunk, false))?;
    }
    sync(&mut runner)?;
    compare(&mut runner, chunk_count, false)?;
    for chunk in 0..chunk_count {
        let whole = content(chunk, true);
        for (start, len) in PIECES {
            let at = usize::try_from(start).expect("in a chunk");
            let piece = &whole[at..at + usize::try_from(len).expect("in a chunk")];
            put(&mut runner, chunk, start, piece)?;
        }
    }
    sync(&mut runner)?;
    compare(&mut runner, chunk_count, true)?;
    runner.shutdown().map_err(|error| Error::program("end", error.to_string()))?;
    let (mut runner, _) = place.open()?;
    compare(&mut runner, chunk_count, true)?;
    let errors = runner.store().counters().io_errors;
    runner.shutdown().map_err(|error| Error::program("end", error.to_string()))?;
    println!(
        "verify: {chunk_count} chunks, data path {way}, every byte right, {errors} I/O errors"
    );
    Ok(errors == 0)
}

fn chunk_range(chunk: u64, offset: u32, bytes: u32) -> ChunkRange {
    ChunkRange { chunk: ChunkId { ino: INO, index: ChunkIndex(chunk) }, offset, bytes }
}

fn answer(runner: &mut Runner) -> Result<Outcome> {
    loop {
        if let Some(reply) = runner.next_reply() {
            return reply.result.map_err(|status| Error::wrong("store", format!("{status:?}")));
        }
        runner.turn(PATIENCE).map_err(|error| Error::program("turn", error.to_string()))?;
    }
}

fn put(runner: &mut Runner, chunk: u64, offset: u32, bytes: &[u8]) -> Result<()> {
    let skew = usize::try_from(offset).expect("in a chunk") % BLOCK_LEN;
    let slot = runner.pool().alloc((skew + bytes.len()).next_multiple_of(BLOCK_LEN));
    let mut slot = slot.ok_or_else(|| Error::wrong("verify", "no buffer"))?;
    slot.as_mut_slice()[skew..skew + bytes.len()].copy_from_slice(bytes);
    let len = u32::try_from(bytes.len()).expect("a chunk at most");
    let range = chunk_range(chunk, offset, len);
    let sums = weft_wire::blocks::pieces(offset, len);
    let mut at = 0;
    let sums = sums.map(|piece| {
        let end = at + usize::try_from(piece.bytes).expect("a block at most");
        let sum = crc32c(&bytes[at..end]);
        at = end;
        sum
    });
    let sums = sums.collect();
    runner.with_store(|store, pool, out| store.write(0, range, sums, slot, pool, out));
    match answer(runner)? {
        Outcome::Written { .. } => Ok(()),
        other => Err(Error::wrong("write", format!("{other:?}"))),
    }
}

fn sync(runner: &mut Runner) -> Result<()> {
    runner.with_store(|store, _, out| store.sync(0, INO, out));
    match answer(runner)? {
        Outcome::Synced => Ok(()),
        other => Err(Error::wrong("sync", format!("{other:?}"))),
    }
}

fn compare(runner: &mut Runner, chunk_count: u64, overwritten: bool) -> Result<()> {
    for chunk in 0..chunk_count {
        let range = chunk_range(chunk, 0, u32::try_from(CHUNK_BYTES).expect("1 MiB"));
        runner.with_store(|store, pool, out| store.read(0, range, pool, out));
        let Outcome::Read { pieces, .. } = answer(runner)? else {
            return Err(Error::wrong("read", "no data"));
        };
        let mut found = Vec::new();
        for piece in &pieces {
            let len = usize::try_from(piece.bytes()).expect("a chunk at most");
            match piece {
                ReadPiece::Data { slot, .. } => found.extend_from_slice(&slot.as_slice()[..len]),
                ReadPiece::Zeros { .. } => found.resize(found.len() + len, 0),
            }
        }
        let wanted = content(chunk, overwritten);
        if found != wanted {
            let at = found.iter().zip(&wanted).position(|(a, b)| a != b);
            return Err(Error::wrong("verify", format!("chunk {chunk} differs at byte {at:?}")));
        }
    }
    Ok(())
}
