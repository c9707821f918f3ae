//! Sizes as people write and read them: binary units.

use weft_wire::limits::INLINE_BYTES_MAX;
use weft_wire::units::to_u64;

const UNITS: [(&str, u32); 6] =
    [("EiB", 60), ("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];

/// `1.5 GiB`, `512 B`.
pub(crate) fn human_bytes(bytes: u64) -> String {
    let Some((unit, shift)) = UNITS.into_iter().find(|(_, shift)| bytes >> shift != 0) else {
        return format!("{bytes} B");
    };
    let whole = bytes >> shift;
    let rest = u128::from(bytes - (whole << shift));
    let tenths = (rest * 10) >> shift;
    if tenths == 0 { format!("{whole} {unit}") } else { format!("{whole}.{tenths} {unit}") }
}

/// `42%`, rounded up so that 100% means full and 0% means nothing.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    let percent = (u128::from(part) * 100).div_ceil(u128::from(whole));
    format!("{percent}%")
}

/// How much of a file is kept with the names: a size that fits.
///
/// # Errors
/// A text that says what is allowed.
pub(crate) fn parse_inline(text: &str) -> Result<u16, String> {
    let bytes = parse_bytes(text)?;
    let fits = |bytes: &u16| usize::from(*bytes) <= INLINE_BYTES_MAX;
    u16::try_from(bytes).ok().filter(fits).ok_or_else(|| {
        let most = human_bytes(to_u64(INLINE_BYTES_MAX));
        format!("{} is too much to be kept with the names; at most {most}", human_bytes(bytes))
    })
}

/// Reads `4GiB`, `1.5 TiB`, `64k`, `4096`. Units are binary: K, KB and KiB are all 1024.
///
/// # Errors
/// A text that says what is allowed.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!("`{text}` is not a size: a number with B, KiB, MiB, GiB, TiB or PiB, such as 4GiB")
    };
    let trimmed = text.trim();
    let unit_at = trimmed.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(unit_at);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        unit => {
            let known = |name: &str| {
                let name = name.to_ascii_lowercase();
                unit == name || *unit == name[..1] || unit == format!("{}b", &name[..1])
            };
            UNITS.into_iter().find(|(name, _)| known(name)).ok_or_else(wrong)?.1
        }
    };
    let (whole, fraction) = number.trim().split_once('.').unwrap_or((number.trim(), "0"));
    let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit());
    if !all_digits(whole) || !all_digits(fraction) || fraction.len() > 9 {
        return Err(wrong());
    }
    let whole: u128 = whole.parse().map_err(|_| wrong())?;
    let numerator: u128 = fraction.parse().map_err(|_| wrong())?;
    let denominator = 10u128.pow(u32::try_from(fraction.len()).map_err(|_| wrong())?);
    let bytes =
        whole.checked_mul(1 << shift).ok_or_else(wrong)? + (numerator << shift) / denominator;
    u64::try_from(bytes).map_err(|_| format!("`{text}` is too much: the most is 15.9 EiB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_print_in_binary_units() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            ((3 << 30) / 2, "1.5 GiB"),
            (4 << 30, "4 GiB"),
            ((1 << 40) - 1, "1023.9 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(human_bytes(bytes), text);
        }
    }

    #[test]
    fn what_is_kept_with_the_names_is_a_block_at_most() {
        for (text, bytes) in [("0", 0), ("100", 100), ("4KiB", 4096)] {
            assert_eq!(parse_inline(text), Ok(bytes));
        }
        for text in ["4097", "64KiB", "1TiB"] {
            let error = parse_inline(text).expect_err("refused");
            assert!(error.contains("at most 4 KiB"), "{error}");
        }
        assert!(parse_inline("some").is_err());
    }

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("4096B", 4096),
            ("4k", 4096),
            ("4KiB", 4096),
            ("4 kb", 4096),
            ("1.5GiB", 3 << 29),
            ("4GiB", 4 << 30),
            (" 2 TiB ", 2 << 40),
            ("15EiB", 15 << 60),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in
            ["", "GiB", "4Gi", "-1", "1e3", "4 GiBs", "1..5k", ".5k", "5.", "16EiB", "1.k", "०"]
        {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        assert!(parse_bytes(&"9".repeat(60)).is_err());
        assert!(parse_bytes(&format!("{}EiB", "9".repeat(36))).is_err());
    }

    #[test]
    fn shares_are_rounded_up() {
        assert_eq!(percent(0, 10), "0%");
        assert_eq!(percent(1, 1000), "1%");
        assert_eq!(percent(999, 1000), "100%");
        assert_eq!(percent(u64::MAX, u64::MAX), "100%");
        assert_eq!(percent(0, 0), "-");
    }
}
