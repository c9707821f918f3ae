//! The mount's own end: the device, which way requests will come, and INIT.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use weft_ring::{Ring, RingConfig};

use super::Mount;
use crate::negotiate::Negotiated;
use crate::options::{Options, TransportKind};
use crate::reply::ReplyHead;
use crate::request::Unique;
use crate::transport::offer::{self, NoOffer};
use crate::transport::{Classic, ClassicConfig, Uring, UringConfig};

/// What the transport's operations carry in the ring: this and above. No link's id is so large.
pub(super) const TRANSPORT_TOKENS: u64 = (u32::MAX as u64) << 32;

/// The ring of the loop, wide enough for the queues when there shall be some, and how they are laid out.
pub(super) fn ring(options: &Options) -> Result<(Ring, Option<UringConfig>), String> {
    if options.transport != TransportKind::Classic {
        match wide_ring(options) {
            Ok((ring, queues)) => return Ok((ring, Some(queues))),
            Err(reason) if options.transport == TransportKind::Uring => {
                return Err(format!("transport=uring: {reason}"));
            }
            Err(reason) => tracing::info!(%reason, "requests come the classic way"),
        }
    }
    let ring = Ring::new(RingConfig::default()).map_err(|error| error.to_string())?;
    Ok((ring, None))
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
    let config = RingConfig::default();
    let ops_max = config.ops_max + queues.entry_count();
    let ring = Ring::new(RingConfig { sqe128: true, ops_max, ..config })
        .map_err(|error| NoOffer::Ring(error.to_string()))?;
    Ok((ring, queues))
}

impl Mount {
    /// Takes the device of the new mount, and serves until INIT is answered. The way requests come.
    pub(super) fn open_device(
        &mut self,
        options: &Options,
        device: OwnedFd,
    ) -> Result<&'static str, String> {
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

    pub(super) fn answer_init(&mut self, unique: Unique, answer: &Negotiated) {
        match answer {
            Negotiated::Agreed(out, features) => {
                tracing::info!(
                    minor = features.minor,
                    max_write = features.max_write_bytes,
                    "init"
                );
                self.send(&ReplyHead::init(unique, out), |_| {});
                let over_io_uring = features.has(crate::abi::flags::init::OVER_IO_URING);
                if let Some(transport) = &mut self.transport {
                    transport.agreed(&mut self.ring, over_io_uring);
                }
                self.serving = true;
            }
            Negotiated::TryAgain(out) => self.send(&ReplyHead::init(unique, out), |_| {}),
            Negotiated::TooOld => self.send(&ReplyHead::error(unique, Errno::PROTO), |_| {}),
        }
    }
}
