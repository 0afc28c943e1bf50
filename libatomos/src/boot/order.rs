//! In which order loaders show entries, and hence which one they boot.
//!
//! There is no one rule. What is implemented here, each from its specification:
//!
//! | loader | looks at | rule |
//! |---|---|---|
//! | systemd-boot | fields, then the file name | bad entries last; `sort-key` and `machine-id` ascending, `version` and file name descending, as the [Boot Loader Specification] says under *Sorting*, versions by the [Version Format Specification] |
//! | GRUB with Fedora's `blscfg` | the file name alone | cut into name, version and release at its last two dashes, each compared as rpm compares versions, descending |
//! | GRUB 2.14 and later | the file name alone | GNU's file version order (that of `sort -V`), descending |
//!
//! Our names begin with `atomos-<N>-`. Whatever a stateroot is called, however many dashes or pluses it has and
//! whatever the counter says, the first thing in which two names can differ is N, as a number, and that is so in all
//! three rules: the entry with the highest N is first. The `sort-key` is the same for all of ours and `version`
//! begins with N, so that the fields say the same as the names.
//!
//! The functions return [`Ordering::Less`] where the first argument is shown first.
//!
//! [Boot Loader Specification]: https://uapi-group.org/specifications/specs/boot_loader_specification/#sorting
//! [Version Format Specification]: https://uapi-group.org/specifications/specs/version_format_specification/

use std::cmp::Ordering;

use super::name::{Tries, tries_of};

/// What systemd-boot sorts an entry by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SortFields<'a> {
    /// The file name, with its suffix.
    pub file_name: &'a str,
    /// The `sort-key`.
    pub sort_key: Option<&'a str>,
    /// The `machine-id`.
    pub machine_id: Option<&'a str>,
    /// The `version`.
    pub version: Option<&'a str>,
}

/// Compares as systemd-boot does.
#[must_use]
pub fn systemd_boot(a: SortFields<'_>, b: SortFields<'_>) -> Ordering {
    let (tries_a, tries_b) = (tries_of(a.file_name), tries_of(b.file_name));
    let is_bad = |tries: Option<Tries>| tries.is_some_and(|tries| tries.left == 0);
    is_bad(tries_a)
        .cmp(&is_bad(tries_b))
        .then_with(|| a.sort_key.is_none().cmp(&b.sort_key.is_none()))
        .then_with(|| {
            if a.sort_key.is_none() {
                return Ordering::Equal;
            }
            a.sort_key
                .cmp(&b.sort_key)
                // An unset field counts as an empty one.
                .then_with(|| {
                    a.machine_id
                        .unwrap_or_default()
                        .cmp(b.machine_id.unwrap_or_default())
                })
                .then_with(|| uapi_version(b.version.unwrap_or_default(), a.version.unwrap_or_default()))
        })
        .then_with(|| uapi_version(without_counter(b.file_name), without_counter(a.file_name)))
        .then_with(|| match (tries_a, tries_b) {
            (Some(a), Some(b)) => b
                .left
                .cmp(&a.left)
                .then(a.done.unwrap_or(0).cmp(&b.done.unwrap_or(0))),
            _ => Ordering::Equal,
        })
}

fn without_counter(file_name: &str) -> &str {
    let stem = file_name.strip_suffix(".conf").unwrap_or(file_name);
    match tries_of(file_name) {
        Some(_) => stem.rsplit_once('+').map_or(stem, |(id, _)| id),
        None => stem,
    }
}

/// Compares as GRUB's `blscfg` does in Fedora and its relatives.
#[must_use]
pub fn grub_blscfg(a: &str, b: &str) -> Ordering {
    let (a, b) = (name_version_release(a), name_version_release(b));
    rpm_version(b.0, a.0)
        .then_with(|| rpm_version(b.1, a.1))
        .then_with(|| rpm_version(b.2, a.2))
}

/// Cuts a file name at its last two dashes; with one dash there is no release, with none no version either.
fn name_version_release(file_name: &str) -> (&str, &str, &str) {
    let stem = file_name.strip_suffix(".conf").unwrap_or(file_name);
    match stem.rsplit_once('-') {
        None => (stem, "", ""),
        Some((rest, last)) => match rest.rsplit_once('-') {
            None => (rest, last, ""),
            Some((name, version)) => (name, version, last),
        },
    }
}

/// Compares as GRUB does from version 2.14 on.
#[must_use]
pub fn grub(a: &str, b: &str) -> Ordering {
    gnu_file_version(b, a)
}

/// Compares two versions as the Version Format Specification says; greater is newer.
///
/// In three places its text and systemd's `strverscmp_improved`, which it describes, disagree. To systemd `~` is
/// older than an end (`1~rc < 1`), as rpm has it; `^` is older than anything but an end or a `-` (`1^2 < 1.1`); and no
/// number is older than the number 0. What the loader does is done here.
#[must_use]
pub fn uapi_version(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        let means_something = |byte: &u8| byte.is_ascii_alphanumeric() || b"-.~^".contains(byte);
        a = skip_until(a, means_something);
        b = skip_until(b, means_something);
        // A pre-release is older than what has ended; a suffix of any other kind is newer.
        match (a.first() == Some(&b'~'), b.first() == Some(&b'~')) {
            (true, true) => (a, b) = (&a[1..], &b[1..]),
            (true, false) => return Ordering::Less,
            (false, true) => return Ordering::Greater,
            (false, false) => {}
        }
        if a.is_empty() || b.is_empty() {
            return b.is_empty().cmp(&a.is_empty());
        }
        for separator in *b"-^." {
            match (a.first() == Some(&separator), b.first() == Some(&separator)) {
                (true, true) => (a, b) = (&a[1..], &b[1..]),
                (true, false) => return Ordering::Less,
                (false, true) => return Ordering::Greater,
                (false, false) => {}
            }
        }
        let starts_with_digit = |text: &[u8]| text.first().is_some_and(u8::is_ascii_digit);
        let by_number = starts_with_digit(a) || starts_with_digit(b);
        let belongs: fn(&u8) -> bool = if by_number {
            u8::is_ascii_digit
        } else {
            u8::is_ascii_alphabetic
        };
        let (part_a, rest_a) = take_while(a, belongs);
        let (part_b, rest_b) = take_while(b, belongs);
        let order = match (part_a.is_empty(), part_b.is_empty()) {
            (false, false) if by_number => number(part_a, part_b),
            (false, false) => part_a.cmp(part_b),
            (no_a, no_b) => no_b.cmp(&no_a),
        };
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
}

/// Compares two versions as rpm does, with the `+` that GRUB's copy knows; greater is newer.
#[must_use]
pub fn rpm_version(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    while !a.is_empty() || !b.is_empty() {
        let means_something = |byte: &u8| byte.is_ascii_alphanumeric() || b"~+".contains(byte);
        a = skip_until(a, means_something);
        b = skip_until(b, means_something);
        match (a.first(), b.first()) {
            (Some(b'~'), Some(b'~')) | (Some(b'+'), Some(b'+')) => {
                (a, b) = (&a[1..], &b[1..]);
                continue;
            }
            (Some(b'~'), _) | (None, Some(b'+')) => return Ordering::Less,
            (_, Some(b'~')) | (Some(b'+'), None) => return Ordering::Greater,
            (Some(b'+'), _) => return Ordering::Less,
            (_, Some(b'+')) => return Ordering::Greater,
            (None, _) | (_, None) => break,
            (Some(_), Some(_)) => {}
        }
        let by_number = a[0].is_ascii_digit();
        let belongs: fn(&u8) -> bool = if by_number {
            u8::is_ascii_digit
        } else {
            u8::is_ascii_alphabetic
        };
        let (part_a, rest_a) = take_while(a, belongs);
        let (part_b, rest_b) = take_while(b, belongs);
        // Of a number and a word the number is newer.
        let order = match (part_b.is_empty(), by_number) {
            (true, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            (false, true) => number(part_a, part_b),
            (false, false) => part_a.cmp(part_b),
        };
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
    // Equal so far: whichever has something left is newer.
    a.is_empty().cmp(&b.is_empty()).reverse()
}

/// Compares two file names in GNU's file version order; greater is newer.
#[must_use]
pub fn gnu_file_version(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    // Names with a leading dot come before all others, "." and ".." before those.
    let class = |name: &[u8]| match name {
        b"" => 0,
        b"." => 1,
        b".." => 2,
        [b'.', ..] => 3,
        _ => 4,
    };
    class(a)
        .cmp(&class(b))
        .then_with(|| debian_like(without_file_suffixes(a), without_file_suffixes(b)))
        .then_with(|| debian_like(a, b))
        .then_with(|| a.cmp(b))
}

/// Takes suffixes such as `.tar.gz` off: a dot, a letter or `~`, then letters, digits and `~`.
fn without_file_suffixes(name: &[u8]) -> &[u8] {
    let mut end = name.len();
    loop {
        let tail = name[..end]
            .iter()
            .rev()
            .take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'~')
            .count();
        let start = end - tail;
        let begins_well = tail > 0 && (name[start].is_ascii_alphabetic() || name[start] == b'~');
        if begins_well && start >= 2 && name[start - 1] == b'.' {
            end = start - 1;
        } else {
            return &name[..end];
        }
    }
}

/// Debian's rule: words and numbers in turn; `~` before the end, the end before letters, letters before the rest.
fn debian_like(mut a: &[u8], mut b: &[u8]) -> Ordering {
    let rank = |text: &[u8]| match text.first() {
        Some(b'~') => -2,
        None => -1,
        Some(byte) if byte.is_ascii_digit() => 0,
        Some(byte) if byte.is_ascii_alphabetic() => i32::from(*byte),
        Some(byte) => i32::from(*byte) + 256,
    };
    let in_word = |text: &[u8]| text.first().is_some_and(|byte| !byte.is_ascii_digit());
    while !a.is_empty() || !b.is_empty() {
        while in_word(a) || in_word(b) {
            let order = rank(a).cmp(&rank(b));
            if order != Ordering::Equal {
                return order;
            }
            (a, b) = (&a[1..], &b[1..]);
        }
        let (part_a, rest_a) = take_while(a, u8::is_ascii_digit);
        let (part_b, rest_b) = take_while(b, u8::is_ascii_digit);
        let order = number(part_a, part_b);
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
    Ordering::Equal
}

/// Compares digits as a number of any length.
fn number(a: &[u8], b: &[u8]) -> Ordering {
    let (a, b) = (
        skip_until(a, |byte| *byte != b'0'),
        skip_until(b, |byte| *byte != b'0'),
    );
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

fn skip_until(text: &[u8], wanted: impl Fn(&u8) -> bool) -> &[u8] {
    &text[text.iter().position(wanted).unwrap_or(text.len())..]
}

fn take_while(text: &[u8], wanted: impl Fn(&u8) -> bool) -> (&[u8], &[u8]) {
    text.split_at(text.iter().position(|byte| !wanted(byte)).unwrap_or(text.len()))
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
