//! Medians and spreads of a few rounds. With 3 to 10 samples a standard deviation says little, so the spread is the
//! range.

use serde::Serialize;

/// The middle and the range of some samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// None of no samples, and of samples that are not numbers: those must not look like a figure.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        if samples.is_empty() || samples.iter().any(|s| !s.is_finite()) {
            return None;
        }
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Some(Self { median, min: sorted[0], max: sorted[sorted.len() - 1] })
    }

    /// The spread of `a / b`, round by round: each ratio is of two runs next to each other in time.
    pub(crate) fn of_ratios(a: &[f64], b: &[f64]) -> Option<Self> {
        if a.len() != b.len() {
            return None;
        }
        let ratios: Vec<f64> = a.iter().zip(b).map(|(a, b)| a / b).collect();
        Self::of(&ratios)
    }

    pub(crate) fn holds(&self, value: f64) -> bool {
        self.min <= value && value <= self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_even_and_single() {
        let s = Spread::of(&[3.0, 1.0, 2.0]).expect("three samples");
        assert_eq!((s.median, s.min, s.max), (2.0, 1.0, 3.0));
        let s = Spread::of(&[4.0, 1.0, 2.0, 100.0]).expect("four samples");
        assert_eq!((s.median, s.min, s.max), (3.0, 1.0, 100.0));
        let s = Spread::of(&[7.0]).expect("one sample");
        assert_eq!((s.median, s.min, s.max), (7.0, 7.0, 7.0));
    }

    #[test]
    fn nothing_that_is_no_number() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[1.0, f64::NAN]), None);
        assert_eq!(Spread::of(&[1.0, f64::INFINITY]), None);
    }

    #[test]
    fn ratios_pair_rounds() {
        // The ratio of the medians would be 1; the rounds say otherwise.
        let s = Spread::of_ratios(&[10.0, 20.0, 30.0], &[20.0, 10.0, 15.0]).expect("pairs");
        assert_eq!((s.median, s.min, s.max), (2.0, 0.5, 2.0));
        assert_eq!(Spread::of_ratios(&[1.0], &[1.0, 2.0]), None);
        assert_eq!(Spread::of_ratios(&[1.0], &[0.0]), None);
    }

    #[test]
    fn holds_its_ends() {
        let s = Spread { median: 2.0, min: 1.0, max: 3.0 };
        assert!(s.holds(1.0) && s.holds(3.0) && !s.holds(3.1) && !s.holds(0.9));
    }
}
