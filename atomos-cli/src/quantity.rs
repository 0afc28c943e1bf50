//! Numbers and times as people write them: `500k`, `1.5M`, `2G`; `30d`, `2024-05-01`.

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

/// Seconds in a day.
const DAY: i64 = 86_400;

/// Reads a point in time, as seconds since 1970: an age before `now` (`90m`, `12h`, `30d`, `4w`, `6months`, `2y`), a date
/// (`2024-05-01`, the beginning of that day in UTC), a date and a time (`2024-05-01T12:30:00Z`), or seconds (`@1714521600`).
pub fn moment(text: &str, now: i64) -> Result<i64, String> {
    let wrong = || {
        format!(
            "{text:?} is no age and no date: 12h, 30d, 4w, 6months, 2y, 2024-05-01 and 2024-05-01T12:30:00Z are some"
        )
    };
    let trimmed = text.trim();
    if let Some(seconds) = trimmed.strip_prefix('@') {
        return seconds.parse().map_err(|_| wrong());
    }
    let digits = trimmed.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    if digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.len() < trimmed.len() {
        let unit = match &trimmed[digits.len()..] {
            "s" => 1,
            "m" | "min" => 60,
            "h" => 3600,
            "d" | "day" | "days" => DAY,
            "w" | "week" | "weeks" => 7 * DAY,
            "month" | "months" => 30 * DAY,
            "y" | "year" | "years" => 365 * DAY,
            _ => return Err(wrong()),
        };
        let number: i64 = digits.parse().map_err(|_| wrong())?;
        return number
            .checked_mul(unit)
            .and_then(|age| now.checked_sub(age))
            .ok_or_else(wrong);
    }
    let (date, time) = match trimmed.split_once('T') {
        Some((date, time)) => (date, time.strip_suffix('Z').ok_or_else(wrong)?),
        None => (trimmed, "00:00:00"),
    };
    let fields = |text: &str, separator: char| -> Option<[i64; 3]> {
        let numbers: Vec<i64> = text
            .split(separator)
            .map(|part| {
                part.bytes()
                    .all(|byte| byte.is_ascii_digit())
                    .then(|| part.parse().ok())?
            })
            .collect::<Option<_>>()?;
        numbers.try_into().ok()
    };
    let [year, month, day] = fields(date, '-').ok_or_else(wrong)?;
    let [hour, minute, second] = fields(time, ':').ok_or_else(wrong)?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let fits = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..61).contains(&second);
    if !fits {
        return Err(wrong());
    }
    // Years that begin with March: a leap day is their last one.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468;
    Ok(days * DAY + hour * 3600 + minute * 60 + second)
}

/// Returns the seconds since 1970 by this machine's clock.
pub fn now() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |elapsed| i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_ages_and_dates() {
        let now = 1_700_000_000;
        for (text, value) in [
            ("0s", now),
            ("90m", now - 5400),
            ("30d", now - 30 * DAY),
            ("4w", now - 28 * DAY),
            ("6months", now - 180 * DAY),
            ("2y", now - 730 * DAY),
            ("1970-01-01", 0),
            ("2024-02-29", 1_709_164_800),
            ("2024-02-29T12:34:56Z", 1_709_210_096),
            ("2000-03-01", 951_868_800),
            ("@17", 17),
        ] {
            assert_eq!(moment(text, now), Ok(value), "{text}");
        }
        for text in [
            "",
            "30",
            "d",
            "-1d",
            "1x",
            "2023-02-29",
            "2024-13-01",
            "2024-1",
            "2024-01-01T12:00",
            "99999999999999999999y",
        ] {
            assert!(moment(text, now).is_err(), "{text}");
        }
    }

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
