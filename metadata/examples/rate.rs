//! Changes a second of one volume on this machine's disk, and how long its thread stands still, without a network:
//! `cargo run --release -p weft-metadata --example rate [directory] [changes] [MiB] [here]`. Each batch is one synced
//! write, as in the daemon, but without io_uring. Checkpoints are written by a thread, as there; with `here` they are
//! written by the volume's own, which is what they cost without one.

#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock, and has a thread")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use weft_metadata::{
    Action, Checkpoint, CheckpointWritten, FormatParams, Incoming, Volume, VolumeParams,
};
use weft_wire::meta::{Caller, MakeHow, MetaRequest, NO_SLOT, Time};
use weft_wire::{ClusterId, Ino, SessionId, TargetId};

const CHANGE_COUNT: u64 = 100_000;
const MEMORY_MIB: u64 = 64;
const HOW: MakeHow = MakeHow {
    mode: 0o100_644,
    umask: 0,
    rdev: 0,
    exclusive: true,
    open: false,
    inline: false,
    fresh: false,
};

type Failed = Box<dyn std::error::Error>;

fn main() -> Result<(), Failed> {
    let mut args = std::env::args().skip(1);
    let base = args.next().unwrap_or_else(|| "/tmp".to_owned());
    let count = args.next().map_or(Ok(CHANGE_COUNT), |count| count.parse())?;
    let mib = args.next().map_or(Ok(MEMORY_MIB), |mib| mib.parse::<u64>())?;
    let here = args.next().is_some_and(|how| how == "here");
    for in_flight in [1, 16, 128] {
        let dir = std::path::Path::new(&base).join(format!("weft-rate-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let result = measure(&dir, in_flight, count, mib << 20, here);
        std::fs::remove_dir_all(&dir)?;
        result?;
    }
    Ok(())
}

/// A volume, its log, and who writes its checkpoints.
struct Node {
    volume: Volume,
    log: File,
    jobs: Sender<Checkpoint>,
    written: Receiver<CheckpointWritten>,
    here: bool,
    checkpoint_count: u64,
    /// How long the volume's thread was in the volume, each time.
    turns: Vec<Duration>,
    sequence: u64,
}

fn measure(
    dir: &std::path::Path,
    in_flight: u16,
    change_count: u64,
    memory_bytes_max: u64,
    here: bool,
) -> Result<(), Failed> {
    let cluster = ClusterId([1; 16]);
    Volume::format(dir, &FormatParams::new(cluster, Time::default(), [7; 24]))?;
    let mut log = File::options()
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .open(dir.join("log"))?;
    let zeros = vec![0; 1 << 20];
    for at in (0..Volume::log_plan(dir)?).step_by(zeros.len()) {
        log.write_all_at(&zeros, at)?;
    }
    log.sync_all()?;
    let targets = vec![TargetId(0), TargetId(1)];
    let params = VolumeParams { memory_bytes_max, ..VolumeParams::new(cluster, targets) };
    let (mut volume, _) = Volume::open(dir, &params, &mut log)?;
    volume.grace_over();
    let count = change_count.min(2_000 * u64::from(in_flight)).max(change_count / 10);
    let names: Vec<String> = (0..count).map(|n| format!("file.mdtest.{n}")).collect();
    let of = |request: fn(&[u8]) -> MetaRequest<'_>| -> Vec<MetaRequest<'_>> {
        names.iter().map(|name| request(name.as_bytes())).collect()
    };
    let makes = of(|name| MetaRequest::Make { parent: Ino::ROOT, name, how: HOW, target: b"" });
    let looks = of(|name| MetaRequest::Lookup { parent: Ino::ROOT, name });
    let unlinks = of(|name| MetaRequest::Unlink { parent: Ino::ROOT, name });
    let (jobs, inbox) = channel::<Checkpoint>();
    let (ends, written) = channel();
    std::thread::spawn(move || inbox.iter().all(|job| ends.send(job.write()).is_ok()));
    let (turns, sequence, checkpoint_count) = (Vec::new(), 0, 0);
    let mut node = Node { volume, log, jobs, written, here, checkpoint_count, turns, sequence };
    for (what, requests) in [("make", makes), ("lookup", looks), ("unlink", unlinks)] {
        node.turns.clear();
        node.checkpoint_count = 0;
        let begun = Instant::now();
        let mut waits = node.run(&requests, in_flight)?;
        let rate = f64::from(u32::try_from(count)?) / begun.elapsed().as_secs_f64();
        println!(
            "{what:7} {in_flight:4} in flight: {rate:9.0} a second, {:4} checkpoints; answers {}; turns {}",
            node.checkpoint_count,
            percentiles(&mut waits),
            percentiles(&mut node.turns),
        );
    }
    Ok(())
}

/// p50/p99/p99.9/longest, in milliseconds.
fn percentiles(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |thousandth: usize| times[(times.len() - 1) * thousandth / 1000].as_secs_f64() * 1e3;
    format!("{:.3}/{:.3}/{:.3}/{:.3} ms", at(500), at(990), at(999), at(1000))
}

impl Node {
    /// How long each group of requests waited for its answers.
    fn run(
        &mut self,
        requests: &[MetaRequest<'_>],
        in_flight: u16,
    ) -> Result<Vec<Duration>, Failed> {
        let mut waits = Vec::new();
        for group in requests.chunks(usize::from(in_flight)) {
            let begun = Instant::now();
            self.sequence += 1;
            let mut answers = group.len();
            self.turn(|volume, out, sequence| {
                for (request, slot) in group.iter().zip(0..) {
                    let slot = if request.is_mutation() { slot } else { NO_SLOT };
                    let caller = Caller { uid: 0, gid: 0, slot, sequence };
                    let mut body = Vec::new();
                    request.encode(&caller, &mut body);
                    let session = SessionId([1; 16]);
                    let incoming = Incoming { op: 0, session, caller, request, body: &body };
                    volume.request(&incoming, Time::default(), out);
                }
            })
            .into_iter()
            .try_for_each(|action| self.act(action, &mut answers))?;
            while answers > 0 {
                let actions = match self.written.try_recv() {
                    Ok(end) => {
                        self.turn(|volume, out, _| volume.checkpoint_written(end, out));
                        continue;
                    }
                    Err(_) => self.turn(|volume, out, _| volume.flush_log(out)),
                };
                if actions.is_empty() {
                    let end = self.written.recv()?;
                    self.turn(|volume, out, _| volume.checkpoint_written(end, out));
                }
                actions.into_iter().try_for_each(|action| self.act(action, &mut answers))?;
            }
            waits.push(begun.elapsed());
        }
        Ok(waits)
    }

    fn turn(&mut self, act: impl FnOnce(&mut Volume, &mut Vec<Action>, u64)) -> Vec<Action> {
        let begun = Instant::now();
        let mut out = Vec::new();
        act(&mut self.volume, &mut out, self.sequence);
        self.turns.push(begun.elapsed());
        out
    }

    fn act(&mut self, action: Action, answers: &mut usize) -> Result<(), Failed> {
        match action {
            Action::AppendLog { io, offset, bytes } => {
                self.log.write_all_at(&bytes, offset)?;
                self.log.sync_data()?;
                let actions = self.turn(|volume, out, _| volume.log_done(io, Ok(()), out));
                actions.into_iter().try_for_each(|action| self.act(action, answers))?;
            }
            Action::WriteCheckpoint(checkpoint) if self.here => {
                self.checkpoint_count += 1;
                self.turn(|volume, out, _| volume.checkpoint_written(checkpoint.write(), out));
            }
            Action::WriteCheckpoint(checkpoint) => {
                self.checkpoint_count += 1;
                self.jobs.send(checkpoint)?;
            }
            Action::Work(work) => self.volume.work_done(work.id, 0),
            Action::Reply { status, .. } => {
                assert_eq!(status.errno(), 0, "{status}");
                *answers -= 1;
            }
            Action::Fenced { .. } | Action::Expired { .. } | Action::Stopped => {}
        }
        Ok(())
    }
}
