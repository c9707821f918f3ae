//! The mount's own end: the device, which way requests will come, and INIT.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use weft_client_core::keep::KEEP_BYTES;
use weft_client_core::{Keep, KeepMemory};
use weft_iobuf::{Mapped, Pool};
use weft_ring::{Ring, RingConfig};

use super::Mount;
use super::forget::{self, Forgetter};
use crate::abi::flags::init::HAS_RESEND;
use crate::clock;
use crate::negotiate::Negotiated;
use crate::options::{Options, TransportKind};
use crate::reply::{self, ReplyHead};
use crate::request::Unique;
use crate::transport::offer::{self, NoOffer};
use crate::transport::{Classic, ClassicConfig, Reply, Transport as _, Uring, UringConfig};

/// The protocol's version from which on the kernel forgets all names when told to.
const MINOR_EPOCH: u32 = 44;
/// What the transport's operations carry in the ring: this and above. No link's id is so large.
pub(super) const TRANSPORT_TOKENS: u64 = (u32::MAX as u64) << 32;

/// The ring of the loop, wide enough for the queues when there shall be some, and how they are laid out.
pub(super) fn ring(options: &Options) -> Result<(Ring, Option<UringConfig>), String> {
    // `auto` is classic: what came over the ring cannot be asked for again (`doc/takeover.md`).
    let (ring, queues) = if options.transport == TransportKind::Uring {
        let (ring, queues) = wide_ring(options).map_err(|why| format!("transport=uring: {why}"))?;
        (ring, Some(queues))
    } else {
        (Ring::new(ring_config(options)).map_err(|error| error.to_string())?, None)
    };
    if ring_config(options).idle_poll && !ring.has_idle_poll() {
        let why = "/dev/cpu_dma_latency cannot be opened: idle cores halt";
        match options.idle_poll {
            Some(_) => tracing::warn!("idle_poll=on: {why}"),
            None => tracing::info!("idle_poll=auto: {why}"),
        }
    }
    Ok((ring, queues))
}

fn ring_config(options: &Options) -> RingConfig {
    RingConfig {
        spin_us_max: options.spin_us,
        idle_poll: options.idle_poll.unwrap_or_else(weft_ring::idle_poll_pays),
        ..RingConfig::serving()
    }
}

fn wide_ring(options: &Options) -> Result<(Ring, UringConfig), NoOffer> {
    let offer = offer::ask()?;
    if offer.switched_on {
        tracing::info!("switched FUSE over io_uring on: {} is Y now", offer::SWITCH);
    }
    let queues = UringConfig {
        first_token: TRANSPORT_TOKENS + 1,
        queue_count: offer.queue_count,
        depth: options.queue_depth,
        max_write_bytes: options.max_write_bytes(),
    };
    let queues = queues.fitted();
    let config = ring_config(options);
    let ops_max = config.ops_max + queues.entry_count() + queues.held_max();
    let ring = Ring::new(RingConfig { sqe128: true, ops_max, ..config })
        .map_err(|error| NoOffer::Ring(error.to_string()))?;
    Ok((ring, queues))
}

/// The pool and the tables in the memory that outlives this process.
pub(super) fn memory(kept: &OwnedFd, max_write_bytes: u32) -> Result<(Pool, Keep), String> {
    let file = kept.as_fd();
    let mapped = Mapped::new(file, KEEP_BYTES).map_err(|error| error.to_string())?;
    let keep = Keep::open(KeepMemory::Mapped(mapped)).map_err(|error| error.to_string())?;
    let behind = weft_wire::units::to_u64(KEEP_BYTES);
    let class_bytes = pool_class_bytes(max_write_bytes);
    let pool = Pool::over_file(file, behind, super::POOL_BYTES, class_bytes);
    Ok((pool.map_err(|error| error.to_string())?, keep))
}

fn pool_class_bytes(max_write_bytes: u32) -> usize {
    Classic::slot_bytes(max_write_bytes).next_power_of_two().max(8 << 20)
}

/// How much memory a client-core's file holds. Pages that were never written take none.
pub(crate) fn kept_bytes(max_write_bytes: u32) -> u64 {
    let pool = Pool::rounded_bytes(super::POOL_BYTES, pool_class_bytes(max_write_bytes));
    weft_wire::units::to_u64(KEEP_BYTES + pool)
}

impl Mount {
    /// Takes the device of the new mount, and serves until INIT is answered. The way requests come.
    pub(super) fn open_device(
        &mut self,
        options: &Options,
        device: OwnedFd,
    ) -> Result<&'static str, String> {
        let copy = device.try_clone().map_err(|error| format!("/dev/fuse: {error}"))?;
        self.forgetter = Some(Forgetter::start(copy, &self.ring)?);
        let config =
            ClassicConfig { token: TRANSPORT_TOKENS, max_write_bytes: options.max_write_bytes() };
        let classic = Classic::new(&mut self.ring, device, self.pool.clone(), config)
            .map_err(|error| error.to_string())?;
        self.transport = Some(match self.queues {
            Some(queues) => {
                let uring = Uring::new(classic, self.pool.clone(), &queues);
                Box::new(uring.map_err(|error| format!("no memory for the queues: {error}"))?)
            }
            None => Box::new(classic),
        });
        while !self.serving {
            self.turn()?;
            if self.unmounted {
                return Err("the kernel gave the mount up before it was served".to_owned());
            }
        }
        // What the kernel thinks of the queues it says at once.
        self.wait(Duration::ZERO)?;
        let transport = self.transport_name(options)?;
        tracing::info!(mount_point = %options.mount_point.display(), transport, "serving");
        Ok(transport)
    }

    /// Takes the device of a mount that a client-core before this one served, and has the kernel ask again. The way
    /// requests come.
    pub(super) fn take_device(&mut self, device: OwnedFd) -> Result<&'static str, String> {
        let copy = device.try_clone().map_err(|error| format!("/dev/fuse: {error}"))?;
        // What INIT said is not known; and what the one before let the kernel know by name is asked anew.
        self.core.set_kernel_forgets_names(forget::forgets_names(&copy));
        self.forgetter = Some(Forgetter::start(copy, &self.ring)?);
        let config =
            ClassicConfig { token: TRANSPORT_TOKENS, max_write_bytes: self.limits.max_write_bytes };
        let mut classic = Classic::new(&mut self.ring, device, self.pool.clone(), config)
            .map_err(|error| error.to_string())?;
        let notification = Reply::notification(classic.spare(), reply::resend());
        classic.reply(&mut self.ring, notification);
        self.transport = Some(Box::new(classic));
        (self.serving, self.resumable, self.asked_again) = (true, true, true);
        let now = clock::mono();
        self.core.set_clock(now, clock::wall());
        self.core.start(now);
        tracing::info!("taking over");
        Ok("classic")
    }

    /// Nothing more has come: if the kernel was told to ask again, all that has come, too.
    pub(super) fn all_came(&mut self) {
        if !self.asked_again || self.transport.as_ref().is_none_or(|way| way.has_more()) {
            return;
        }
        self.asked_again = false;
        self.core.all_asked_again(clock::mono());
    }

    /// The way requests will come.
    fn transport_name(&self, options: &Options) -> Result<&'static str, String> {
        let transport = self.transport.as_ref().expect("just made");
        match transport.state() {
            Ok(name) => Ok(name),
            Err(errno) if options.transport == TransportKind::Uring => Err(format!(
                "transport=uring: the kernel refused the queues ({errno}); `dmesg` may say why; \
                 transport=classic works without"
            )),
            Err(errno) => {
                tracing::warn!(%errno, "the kernel refused the queues: requests come the classic way");
                Ok("classic")
            }
        }
    }

    pub(super) fn answer_init(&mut self, unique: Unique, kernel_flags: u64, answer: &Negotiated) {
        match answer {
            Negotiated::Agreed(out, features) => {
                tracing::info!(
                    minor = features.minor,
                    max_write = features.max_write_bytes,
                    "init"
                );
                self.core.set_kernel_forgets_names(features.minor >= MINOR_EPOCH);
                self.send(&ReplyHead::init(unique, out), |_| {});
                let over_io_uring = features.has(crate::abi::flags::init::OVER_IO_URING);
                if let Some(transport) = &mut self.transport {
                    transport.agreed(&mut self.ring, over_io_uring);
                }
                self.resumable = self.queues.is_none() && kernel_flags & HAS_RESEND != 0;
                self.serving = true;
            }
            Negotiated::TryAgain(out) => self.send(&ReplyHead::init(unique, out), |_| {}),
            Negotiated::TooOld => self.send(&ReplyHead::error(unique, Errno::PROTO), |_| {}),
        }
    }
}
