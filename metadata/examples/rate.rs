//! Changes a second of one volume on this machine's disk, without a network: `cargo run --release -p weft-metadata
//! --example rate [directory]`. Each batch is one synced write, as in the daemon, but without io_uring.

#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use weft_metadata::{Action, FormatParams, Incoming, Volume, VolumeParams};
use weft_wire::meta::{Caller, MakeHow, MetaRequest, NO_SLOT, Time};
use weft_wire::{ClusterId, Ino, SessionId, TargetId};

const CHANGE_COUNT: u64 = 100_000;
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
    let base = std::env::args().nth(1).unwrap_or_else(|| "/tmp".to_owned());
    for in_flight in [1, 16, 128] {
        let dir = std::path::Path::new(&base).join(format!("weft-rate-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let result = measure(&dir, in_flight);
        std::fs::remove_dir_all(&dir)?;
        result?;
    }
    Ok(())
}

fn measure(dir: &std::path::Path, in_flight: u16) -> Result<(), Failed> {
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
    let params = VolumeParams::new(cluster, vec![TargetId(0), TargetId(1)]);
    let (mut volume, _) = Volume::open(dir, &params, &mut log)?;
    volume.grace_over();
    let count = CHANGE_COUNT.min(2_000 * u64::from(in_flight));
    let names: Vec<String> = (0..count).map(|n| format!("file.mdtest.{n}")).collect();
    let of = |request: fn(&[u8]) -> MetaRequest<'_>| -> Vec<MetaRequest<'_>> {
        names.iter().map(|name| request(name.as_bytes())).collect()
    };
    let makes = of(|name| MetaRequest::Make { parent: Ino::ROOT, name, how: HOW, target: b"" });
    let looks = of(|name| MetaRequest::Lookup { parent: Ino::ROOT, name });
    let unlinks = of(|name| MetaRequest::Unlink { parent: Ino::ROOT, name });
    let mut sequence = 0;
    for (what, requests) in [("make", makes), ("lookup", looks), ("unlink", unlinks)] {
        let time = run(&mut volume, &log, &requests, in_flight, &mut sequence)?;
        let rate = f64::from(u32::try_from(count)?) / time.as_secs_f64();
        println!("{what:7} {in_flight:4} in flight: {rate:9.0} a second");
    }
    Ok(())
}

fn run(
    volume: &mut Volume,
    log: &File,
    requests: &[MetaRequest<'_>],
    in_flight: u16,
    sequence: &mut u64,
) -> Result<Duration, Failed> {
    let begun = Instant::now();
    let mut out = Vec::new();
    for group in requests.chunks(usize::from(in_flight)) {
        *sequence += 1;
        for (request, slot) in group.iter().zip(0..) {
            let slot = if request.is_mutation() { slot } else { NO_SLOT };
            let caller = Caller { uid: 0, gid: 0, slot, sequence: *sequence };
            let mut body = Vec::new();
            request.encode(&caller, &mut body);
            let incoming =
                Incoming { op: 0, session: SessionId([1; 16]), caller, request, body: &body };
            volume.request(&incoming, Time::default(), &mut out);
        }
        volume.flush_log(&mut out);
        while let Some(action) = out.pop() {
            match action {
                Action::AppendLog { io, offset, bytes } => {
                    log.write_all_at(&bytes, offset)?;
                    log.sync_data()?;
                    volume.log_done(io, Ok(()), &mut out);
                }
                Action::Work(work) => volume.work_done(work.id, 0),
                Action::Reply { status, .. } => assert_eq!(status.errno(), 0, "{status}"),
                Action::Fenced { .. } | Action::Expired { .. } | Action::Stopped => {}
            }
        }
    }
    Ok(begun.elapsed())
}
