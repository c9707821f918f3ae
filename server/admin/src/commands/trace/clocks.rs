//! Joins two clocks by requests that both ends saw.
//!
//! A server has a request only after it was sent, and its answer arrives only after it was given: each request bounds
//! what the server's clock is ahead of the client's from both sides, as in NTP. Of many requests the bounds are close
//! together. The clocks may run at slightly different rates, so a request bounds less, the longer ago it was.

/// One clock gains on the other at most so much: parts in a million. Clocks that NTP keeps stay below it.
const DRIFT_PPM: i128 = 100;

/// One request seen from both ends, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pair {
    /// By the client's clock.
    pub(super) sent: u64,
    pub(super) answered: u64,
    /// By the server's.
    pub(super) received: u64,
    pub(super) replied: u64,
}

/// What the server's clock is ahead, at some time of the client's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Joined {
    offset: i128,
    /// The truth is no further away than this, in nanoseconds.
    pub(super) uncertainty: u64,
    /// From how many requests.
    pub(super) pairs: usize,
}

impl Pair {
    /// Least and greatest offset, as far as they hold at `at` of the client's clock.
    fn bounds(&self, at: u64) -> (i128, i128) {
        let far = |time: u64| i128::from(time.abs_diff(at)) * DRIFT_PPM / 1_000_000;
        let least = i128::from(self.replied) - i128::from(self.answered) - far(self.answered);
        let greatest = i128::from(self.received) - i128::from(self.sent) + far(self.sent);
        (least, greatest)
    }
}

impl Joined {
    /// A time of the server as the client's clock had it; 0 before that clock began.
    pub(super) fn to_client(self, server: u64) -> u64 {
        let time = i128::from(server) - self.offset;
        u64::try_from(time.max(0)).unwrap_or(u64::MAX)
    }

    /// Whether these may be the ends of one request, as far as the clocks are known.
    pub(super) fn fits(self, pair: &Pair) -> bool {
        let (received, replied) = (self.to_client(pair.received), self.to_client(pair.replied));
        received.saturating_add(self.uncertainty) >= pair.sent
            && replied <= pair.answered.saturating_add(self.uncertainty)
            && received <= replied
    }
}

/// What the server's clock is ahead of the client's when that shows `at`; `None` without a request that says so. One that
/// contradicts those nearer to `at` says nothing.
pub(super) fn join(pairs: &[Pair], at: u64) -> Option<Joined> {
    let mut nearest: Vec<&Pair> = pairs.iter().collect();
    nearest.sort_by_key(|pair| pair.sent.abs_diff(at));
    let mut found: Option<(i128, i128)> = None;
    let mut count = 0;
    for pair in nearest {
        let (least, greatest) = pair.bounds(at);
        let (low, high) = found.unwrap_or((i128::MIN, i128::MAX));
        let (low, high) = (low.max(least), high.min(greatest));
        if low <= high {
            (found, count) = (Some((low, high)), count + 1);
        }
    }
    let (low, high) = found?;
    let uncertainty = u64::try_from((high - low + 1) / 2).unwrap_or(u64::MAX);
    Some(Joined { offset: low + (high - low) / 2, uncertainty, pairs: count })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The server's clock: so far ahead, and so much faster.
    #[derive(Clone, Copy, Debug)]
    struct Server {
        ahead: i128,
        ppm: i128,
    }

    impl Server {
        fn shows(self, client: u64) -> u64 {
            let client = i128::from(client);
            let time = client + self.ahead + client * self.ppm / 1_000_000;
            u64::try_from(time).expect("the clocks of the test are positive")
        }

        fn sees(self, sent: u64, there: u64, served: u64, back: u64) -> Pair {
            let (received, replied) = (sent + there, sent + there + served);
            Pair {
                sent,
                answered: replied + back,
                received: self.shows(received),
                replied: self.shows(replied),
            }
        }
    }

    #[test]
    fn one_request_bounds_the_offset_by_its_way() {
        let server = Server { ahead: 1_000_000_000, ppm: 0 };
        let pair = server.sees(5_000_000, 30_000, 100_000, 10_000);
        let joined = join(&[pair], 5_000_000).expect("one is enough");
        assert!((20_000..20_020).contains(&joined.uncertainty), "{joined:?}");
        let received = joined.to_client(pair.received);
        assert!(received.abs_diff(5_030_000) <= joined.uncertainty);
        assert!(joined.fits(&pair));
        assert!(!joined.fits(&Pair { sent: 9_000_000, answered: 9_100_000, ..pair }));
        assert_eq!(join(&[], 7), None);
    }

    #[test]
    fn a_request_that_contradicts_those_nearer_says_nothing() {
        let server = Server { ahead: 0, ppm: 0 };
        let good = server.sees(1_000_000, 1_000, 1_000, 1_000);
        // As after a restart, when the clock began again.
        let other = Pair { received: 50, replied: 60, ..server.sees(2_000_000, 1, 1, 1) };
        let joined = join(&[other, good], 1_000_000).expect("the nearer one");
        assert_eq!(
            (joined.pairs, joined.to_client(good.received).abs_diff(1_001_000) <= 1_000),
            (1, true)
        );
    }

    #[test]
    fn times_that_no_clock_shows_are_no_panic() {
        let mad = Pair { sent: 0, answered: u64::MAX, received: u64::MAX, replied: 0 };
        let joined = join(&[mad, Pair { sent: u64::MAX, ..mad }], 3).expect("it bounds something");
        joined.to_client(u64::MAX);
        joined.to_client(0);
        joined.fits(&mad);
    }

    proptest! {
        /// Whatever the clocks show and the network does, the truth is within what is said.
        #[test]
        fn the_truth_is_within_the_uncertainty(
            ahead in -900_000_000_000i128..4_000_000_000_000_000,
            ppm in -99i128..=99,
            trips in prop::collection::vec(
                (0u64..100_000_000_000, 0u64..3_000_000, 0u64..9_000_000, 0u64..3_000_000), 1..60),
            at in 0u64..100_000_000_000,
        ) {
            let start = 1_000_000_000_000;
            let server = Server { ahead, ppm };
            let sees = |(sent, there, served, back): (u64, u64, u64, u64)| {
                server.sees(start + sent, there, served, back)
            };
            let pairs: Vec<Pair> = trips.iter().copied().map(sees).collect();
            let at = start + at;
            let joined = join(&pairs, at).expect("there is one");
            prop_assert_eq!(joined.pairs, pairs.len(), "none contradicts another");
            let error = joined.to_client(server.shows(at)).abs_diff(at);
            prop_assert!(error <= joined.uncertainty + 1, "{} > {:?}", error, joined);
            let best = trips.iter().map(|(sent, there, served, back)| {
                let far = (start + sent).abs_diff(at) + there + served + back;
                (there + back) / 2 + far / 5_000 + 2
            });
            prop_assert!(joined.uncertainty <= best.min().expect("one"), "{:?}", joined);
        }
    }
}
