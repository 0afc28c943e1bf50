//! Numbers as people write them: `500k`, `1.5M`, `2G`.

/// Reads a number of bytes. `k`, `M`, `G`, `T` are powers of 1000, `Ki`, `Mi`, `Gi`, `Ti` of 1024; a `B` may follow.
pub fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no number of bytes: 500k, 1.5M and 2GiB are some");
    let trimmed = text.trim().trim_end_matches(['b', 'B']);
    let digits = trimmed.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &trimmed[digits.len()..] {
        "" => 1.0,
        "k" | "K" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" | "ki" => 1024.0,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        _ => return Err(wrong()),
    };
    let number: f64 = digits.trim().parse().map_err(|_| wrong())?;
    let value = number * factor;
    // Beyond 2^53 a float has gaps, and nobody means such a number.
    if !(0.0..9e15).contains(&value) {
        return Err(wrong());
    }
    Ok(value.round() as u64)
}

/// Reads a number of bytes that is not nothing.
pub fn rate(text: &str) -> Result<u64, String> {
    match bytes(text.trim_end_matches("/s"))? {
        0 => Err("nothing would ever come".to_owned()),
        rate => Ok(rate),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_people_write_them() {
        for (text, value) in [
            ("0", 0),
            ("512", 512),
            ("500k", 500_000),
            ("1.5M", 1_500_000),
            ("2GiB", 2 << 30),
            ("3 MB", 3_000_000),
        ] {
            assert_eq!(bytes(text), Ok(value), "{text}");
        }
        for text in ["", "k", "-1", "1x", "1e99", "NaN"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        assert!(rate("0").is_err());
        assert_eq!(rate("1M/s"), Ok(1_000_000));
    }
}
