//! The header `Range`: one range of bytes, or none.

use std::ops::Range;

/// What a `Range` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The whole file: there is no range, or none that is served.
    Whole,
    /// These bytes, at least one.
    Part(Range<u64>),
    /// Bytes that the file does not have.
    Nothing,
}

/// Reads a `Range` header for a file of `size` bytes.
///
/// Several ranges are answered with the whole file, as RFC 9110 allows and as `max_ranges 1` makes nginx do: nobody who
/// wants a file of a site needs them.
pub(crate) fn wanted(header: &str, size: u64) -> Wanted {
    let Some(set) = strip_unit(header) else {
        return Wanted::Whole;
    };
    if set.contains(',') || set.trim().is_empty() {
        return Wanted::Whole;
    }
    let Some((first, last)) = set.trim().split_once('-') else {
        return Wanted::Nothing;
    };
    let range = match (number(first), number(last)) {
        // The last so many bytes.
        (None, Some(count)) if first.trim().is_empty() => size.saturating_sub(count)..size,
        (Some(first), None) if last.trim().is_empty() => first..size,
        (Some(first), Some(last)) => first..last.saturating_add(1).min(size),
        _ => return Wanted::Nothing,
    };
    if range.start < range.end {
        Wanted::Part(range)
    } else if range.start == 0 && size == 0 {
        // An empty file is all that there is of it.
        Wanted::Whole
    } else {
        Wanted::Nothing
    }
}

fn strip_unit(header: &str) -> Option<&str> {
    let (unit, set) = header.split_once('=')?;
    unit.trim().eq_ignore_ascii_case("bytes").then_some(set)
}

fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    // A number too large for a file is a number all the same.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::{Wanted, wanted};

    #[test]
    fn a_range_is_cut_to_the_file() {
        for (header, range) in [
            ("bytes=0-0", 0..1),
            ("bytes=2-5", 2..6),
            ("Bytes = 2-5", 2..6),
            ("bytes=2-", 2..10),
            ("bytes=-3", 7..10),
            ("bytes=-30", 0..10),
            ("bytes=9-99999999999999999999999", 9..10),
            ("bytes=0-18446744073709551615", 0..10),
        ] {
            assert_eq!(wanted(header, 10), Wanted::Part(range), "{header}");
        }
    }

    #[test]
    fn what_the_file_does_not_have_is_nothing() {
        for header in [
            "bytes=10-",
            "bytes=10-11",
            "bytes=5-4",
            "bytes=-0",
            "bytes=x-4",
            "bytes=-",
            "bytes=+1-2",
            "bytes=99999999999999999999999-",
        ] {
            assert_eq!(wanted(header, 10), Wanted::Nothing, "{header}");
        }
    }

    #[test]
    fn other_units_and_several_ranges_are_the_whole_file() {
        for header in ["items=0-1", "bytes", "bytes=", "bytes=0-1,4-5", ""] {
            assert_eq!(wanted(header, 10), Wanted::Whole, "{header}");
        }
        assert_eq!(wanted("bytes=0-0", 0), Wanted::Whole);
    }
}
