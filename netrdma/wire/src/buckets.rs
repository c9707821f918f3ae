//! How times are sorted into buckets, so that servers, clients and what reads both say the same.

/// Two buckets for each power of two of microseconds, up to 12.6 s: 1, 1.5, 2, 3, 4, 6 and so on; one more for the
/// rest.
pub const BUCKETS: usize = 48;

/// The bucket of so many microseconds: the first whose bound is not below.
pub fn bucket_of(micros: f64) -> usize {
    if micros <= 1.0 || micros.is_nan() {
        return 0;
    }
    // Exponent and the first bit of the fraction count half powers of two; a bound belongs to the bucket below.
    let place = |value: f64| value.to_bits() >> 51;
    let below = f64::from_bits(micros.to_bits() - 1);
    let steps = place(below) - place(1.0) + 1;
    usize::try_from(steps).map_or(BUCKETS, |steps| steps.min(BUCKETS))
}

/// The largest value of a bucket, in microseconds; of the last none.
pub fn bound_micros(bucket: usize) -> f64 {
    if bucket >= BUCKETS {
        return f64::INFINITY;
    }
    let power = f64::from(1_u32 << (bucket / 2));
    if bucket.is_multiple_of(2) { power } else { power * 1.5 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_bucket_whose_bound_is_not_below() {
        for (micros, bound) in [
            (0.0, 1.0),
            (1.0, 1.0),
            (1.01, 1.5),
            (1.5, 1.5),
            (1.6, 2.0),
            (2.0, 2.0),
            (900.0, 1024.0),
            (-1.0, 1.0),
        ] {
            assert_eq!(bound_micros(bucket_of(micros)), bound, "{micros}");
        }
        assert_eq!(bucket_of(bound_micros(BUCKETS - 1)), BUCKETS - 1);
        assert_eq!(bucket_of(1e12), BUCKETS);
        assert_eq!(bucket_of(f64::INFINITY), BUCKETS);
        assert_eq!(bucket_of(f64::NAN), 0);
        assert!((1..=BUCKETS).all(|bucket| bound_micros(bucket - 1) < bound_micros(bucket)));
    }
}
