//! How names, sizes and times look.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Returns a name of any bytes as one line that no terminal obeys: control characters, and bytes that are not UTF-8,
/// become `\n`, `\x1b`; a backslash becomes two, so the original can be read back.
pub fn escape_bytes(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                c => push_escaped(&mut text, c),
            }
        }
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").expect("a string takes all");
        }
    }
    text
}

/// Returns a path with [`escape_bytes`].
pub fn escape_path(path: &Path) -> String {
    escape_bytes(path.as_os_str().as_bytes())
}

/// Returns a path as a word of a command that is there to be copied into a shell: as it is where that can be, else quoted. What no
/// terminal is to get is in the quotes of bash, zsh and ksh.
pub fn shell_word(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+,:@%=".contains(byte);
    if !bytes.is_empty() && bytes.iter().all(is_plain) {
        return escape_bytes(bytes);
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if escape_text(text) == text => format!("'{}'", text.replace('\'', "'\\''")),
        _ => {
            let mut word = "$'".to_owned();
            for byte in bytes {
                match is_plain(byte) {
                    true => word.push(char::from(*byte)),
                    false => write!(word, "\\x{byte:02x}").expect("a string takes all"),
                }
            }
            word.push('\'');
            word
        }
    }
}

/// Returns a message with its control characters escaped; backslashes stay.
pub fn escape_text(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        push_escaped(&mut escaped, c);
    }
    escaped
}

fn push_escaped(text: &mut String, c: char) {
    match c {
        '\n' => text.push_str("\\n"),
        '\t' => text.push_str("\\t"),
        '\r' => text.push_str("\\r"),
        c if c.is_ascii_control() => {
            write!(text, "\\x{:02x}", c as u32).expect("a string takes all");
        }
        c if c.is_control() || reorders(c) => {
            write!(text, "\\u{{{:x}}}", c as u32).expect("a string takes all");
        }
        c => text.push(c),
    }
}

/// Characters that make the rest of a line read in another order, so that a name looks like another one.
const fn reorders(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns a number with its digits in groups of three: `22,704`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns a number of things: `1 file`, `22,704 files`.
pub fn count(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(number), if number == 1 { one } else { many })
}

/// Returns a size for people, in powers of 1000: `987.2 MB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return count(bytes, "byte", "bytes");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    // What would be shown as 1000.0 is 1.0 of the next unit.
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Returns a time in seconds since 1970 as `2024-01-31 12:34:56 UTC`.
pub fn time(seconds: i64) -> String {
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let rest = seconds.rem_euclid(86_400);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

/// Returns the day `days` after 1970-01-01 in the proleptic Gregorian calendar. Years begin in March, so that the leap
/// day is the last of its year (<https://howardhinnant.github.io/date_algorithms.html>, `civil_from_days`).
fn civil(days: i64) -> (i128, i64, i64) {
    // An i64 of seconds has fewer days than can overflow here.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = i128::from(year_of_era) + i128::from(era) * 400 + i128::from(month <= 2);
    (year, month, day)
}

/// Returns kind and permissions as `ls -l` shows them.
pub fn mode(letter: char, mode: u32) -> String {
    let mut text = String::with_capacity(10);
    text.push(letter);
    for (shift, special, lower, upper) in [
        (6, 0o4000, 's', 'S'),
        (3, 0o2000, 's', 'S'),
        (0, 0o1000, 't', 'T'),
    ] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => lower,
            (true, false) => upper,
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_talk_to_the_terminal() {
        assert_eq!(escape_bytes(b"plain name"), "plain name");
        assert_eq!(escape_bytes("grün".as_bytes()), "grün");
        assert_eq!(escape_bytes(b"a\x1b[31mb\n"), "a\\x1b[31mb\\n");
        assert_eq!(escape_bytes(b"\xff\\"), "\\xff\\\\");
        assert_eq!(
            escape_bytes("\u{9b}31m\u{202e}".as_bytes()),
            "\\u{9b}31m\\u{202e}"
        );
    }

    #[test]
    fn a_path_in_a_command_is_one_word() {
        use std::ffi::OsStr;
        for (bytes, word) in [
            (&b"/mnt/debian-13.1"[..], "/mnt/debian-13.1"),
            (b"", "''"),
            (b"/mnt/a b", "'/mnt/a b'"),
            (b"/it's \\ $x", "'/it'\\''s \\ $x'"),
            ("/gr\u{fc}n".as_bytes(), "'/gr\u{fc}n'"),
            (b"/\x1b[31m\n", "$'/\\x1b\\x5b31m\\x0a'"),
            (b"/\xff'1", "$'/\\xff\\x271'"),
        ] {
            let path = Path::new(OsStr::from_bytes(bytes));
            assert_eq!(shell_word(path), word);
            let script = format!("printf %s {word}");
            match std::process::Command::new("bash").args(["-c", &script]).output() {
                Ok(output) => assert_eq!(output.stdout, bytes, "{word}"),
                Err(error) => eprintln!("skipped in part: bash: {error}"),
            }
        }
    }

    #[test]
    fn sizes_round_to_the_unit_they_show() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (999, "999 bytes"),
            (1000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (987_200_000, "987.2 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn digits_are_grouped_from_the_right() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn times_are_civil() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (-1, "1969-12-31 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_709_210_096, "2024-02-29 12:34:56 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(time(seconds), text);
        }
        for extreme in [i64::MIN, i64::MAX] {
            assert!(time(extreme).ends_with(" UTC"));
        }
    }

    #[test]
    fn modes_look_as_ls_shows_them() {
        assert_eq!(mode('d', 0o755), "drwxr-xr-x");
        assert_eq!(mode('-', 0o4755), "-rwsr-xr-x");
        assert_eq!(mode('-', 0o2644), "-rw-r-Sr--");
        assert_eq!(mode('d', 0o1777), "drwxrwxrwt");
        assert_eq!(mode('d', 0o1776), "drwxrwxrwT");
    }
}
