//! The file names of our entries.
//!
//! ```text
//! atomos-<N>-<stateroot>-<commit12>.<serial>[+<left>[-<done>]].conf
//! ```
//!
//! N comes first because a loader may have nothing but the name to sort by; see [`super::order`]. The last part is
//! the counter of systemd's *Automatic Boot Assessment*, which the loader changes by renaming the file, so two names
//! that differ in it alone are the same entry: [`EntryName::key`] leaves it out.

use std::fmt;
use std::str::FromStr;

use crate::names::StaterootName;

/// Bytes in an entry's file name. A file system takes 255; the temporary name that a new file has first is longer by
/// five, and the loader may lengthen a counter.
pub const MAX_ENTRY_NAME: usize = 244;

const PREFIX: &str = "atomos-";
const SUFFIX: &str = ".conf";
const SHORT_COMMIT: usize = 12;

/// How often an entry may still be tried, as the loader counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tries {
    /// Attempts left; at 0 the entry is bad.
    pub left: u32,
    /// Attempts made, where the name says it.
    pub done: Option<u32>,
}

/// The file name of one of our entries, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EntryName {
    /// The entry's number: the highest is booted. Never used twice.
    pub n: u64,
    /// The deployment's stateroot.
    pub stateroot: StaterootName,
    /// The first 12 digits of the deployment's commit.
    pub commit: String,
    /// What distinguishes deployments of the same commit.
    pub serial: u32,
    /// The boot counter, while there is one.
    pub tries: Option<Tries>,
}

/// Why a file name is not that of one of our entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the file name is not of the form atomos-<N>-<stateroot>-<commit>.<serial>[+<left>[-<done>]].conf")]
pub struct NotOurs;

impl EntryName {
    /// Returns the name without the boot counter and without `.conf`: what stays the same for the entry's whole life.
    #[must_use]
    pub fn key(&self) -> String {
        format!(
            "{PREFIX}{}-{}-{}.{}",
            self.n, self.stateroot, self.commit, self.serial
        )
    }

    /// Returns whether both name the same entry, whatever the loader has counted.
    #[must_use]
    pub fn is_same_entry(&self, other: &Self) -> bool {
        self.n == other.n
            && self.stateroot == other.stateroot
            && self.commit == other.commit
            && self.serial == other.serial
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key())?;
        if let Some(tries) = &self.tries {
            write!(f, "+{}", tries.left)?;
            if let Some(done) = tries.done {
                write!(f, "-{done}")?;
            }
        }
        f.write_str(SUFFIX)
    }
}

impl FromStr for EntryName {
    type Err = NotOurs;

    /// Takes the name apart, from both ends: a stateroot may itself have dashes, pluses and dots.
    fn from_str(name: &str) -> Result<Self, NotOurs> {
        Self::parse(name).ok_or(NotOurs)
    }
}

impl EntryName {
    fn parse(name: &str) -> Option<Self> {
        if name.len() > MAX_ENTRY_NAME {
            return None;
        }
        let rest = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
        let (n, rest) = rest.split_once('-')?;
        let n = number(n)?;
        // `commit.serial` has no plus, so a counter is whatever follows the last one after it.
        let (rest, tail) = rest.rsplit_once('.')?;
        let (serial, tries) = match tail.split_once('+') {
            None => (tail, None),
            Some((serial, counter)) => (serial, Some(parse_tries(counter)?)),
        };
        let (stateroot, commit) = rest.rsplit_once('-')?;
        let hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if commit.len() != SHORT_COMMIT || !commit.bytes().all(hexadecimal) {
            return None;
        }
        Some(Self {
            n,
            stateroot: stateroot.parse().ok()?,
            commit: commit.to_owned(),
            serial: u32::try_from(number(serial)?).ok()?,
            tries,
        })
    }
}

/// A decimal number in its one spelling. Counters are the loader's and may be padded; N and serial are ours.
fn number(text: &str) -> Option<u64> {
    let canonical = text == "0" || !text.starts_with('0');
    if !canonical || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn parse_tries(text: &str) -> Option<Tries> {
    let count = |text: &str| {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        text.parse().ok()
    };
    Some(match text.split_once('-') {
        None => Tries {
            left: count(text)?,
            done: None,
        },
        Some((left, done)) => Tries {
            left: count(left)?,
            done: Some(count(done)?),
        },
    })
}

/// Returns the boot counter in any entry's file name, ours or not: the specification's `+left[-done]` right before
/// the suffix.
#[must_use]
pub fn tries_of(file_name: &str) -> Option<Tries> {
    let (_, counter) = file_name.strip_suffix(SUFFIX)?.rsplit_once('+')?;
    parse_tries(counter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_of_ours_are_taken_apart() {
        let name: EntryName = "atomos-12-my-os+3-0123456789ab.7+2-1.conf".parse().unwrap();
        assert_eq!(
            name,
            EntryName {
                n: 12,
                stateroot: "my-os+3".parse().unwrap(),
                commit: "0123456789ab".into(),
                serial: 7,
                tries: Some(Tries {
                    left: 2,
                    done: Some(1)
                }),
            }
        );
        assert_eq!(name.key(), "atomos-12-my-os+3-0123456789ab.7");
        let good: EntryName = "atomos-12-my-os+3-0123456789ab.7.conf".parse().unwrap();
        assert!(good.is_same_entry(&name));
        assert_eq!(good.tries, None);
    }

    #[test]
    fn names_of_others_are_not_ours() {
        for name in [
            "",
            ".conf",
            "atomos.conf",
            "atomos-1.conf",
            "atomos-1-os.conf",
            "atomos-1-os-0123456789ab.conf",
            "atomos-x-os-0123456789ab.0.conf",
            "atomos--os-0123456789ab.0.conf",
            "atomos-01-os-0123456789ab.0.conf",
            "atomos-1-os-0123456789ab.00.conf",
            "atomos-1-os-0123456789AB.0.conf",
            "atomos-1-os-0123456789a.0.conf",
            "atomos-1--0123456789ab.0.conf",
            "atomos-1-.os-0123456789ab.0.conf",
            "atomos-1-os-0123456789ab.0+.conf",
            "atomos-1-os-0123456789ab.0+3-.conf",
            "atomos-1-os-0123456789ab.0+3+2.conf",
            "atomos-1-os-0123456789ab.0+-1.conf",
            "atomos-1-os-0123456789ab.0.conf.bak",
            ".atomos-1-os-0123456789ab.0.conf.new",
            "atomos-18446744073709551616-os-0123456789ab.0.conf",
            "atomos-1-os-0123456789ab.4294967296.conf",
            "6a9857a393724b7a981ebb5b8495b9ea-3.8.0-2.fc19.x86_64.conf",
            "ostree-2-debian.conf",
        ] {
            assert_eq!(name.parse::<EntryName>(), Err(NotOurs), "{name}");
        }
        let long = format!("atomos-1-{}-0123456789ab.0.conf", "x".repeat(230));
        assert!(long.parse::<EntryName>().is_err());
    }

    #[test]
    fn counters_are_found_in_any_name() {
        let tries = |name| tries_of(name).map(|tries| (tries.left, tries.done));
        assert_eq!(tries("fedora-6.1+3.conf"), Some((3, None)));
        assert_eq!(tries("fedora-6.1+0-3.conf"), Some((0, Some(3))));
        assert_eq!(tries("fedora-6.1+b2.conf"), None);
        assert_eq!(tries("fedora-6.1.conf"), None);
        assert_eq!(tries("fedora-6.1+3.conf.bak"), None);
    }

    proptest! {
        #[test]
        fn what_is_formatted_parses_to_the_same(
            n: u64, serial: u32, commit in "[0-9a-f]{12}", stateroot in "[a-z0-9_+][a-z0-9._+-]{0,40}",
            tries in proptest::option::of((any::<u32>(), proptest::option::of(any::<u32>()))),
        ) {
            let name = EntryName {
                n, serial, commit, stateroot: stateroot.parse().unwrap(),
                tries: tries.map(|(left, done)| Tries { left, done }),
            };
            prop_assert_eq!(name.to_string().parse::<EntryName>(), Ok(name));
        }

        #[test]
        fn what_parses_has_one_spelling(name in "atomos-[0-9]{1,3}-[a-z+.-]{1,6}-[0-9a-f]{12}\\.[0-9]{1,2}(\\+[0-9](-[0-9])?)?\\.conf") {
            if let Ok(parsed) = name.parse::<EntryName>() {
                prop_assert_eq!(parsed.to_string(), name);
            }
        }

        #[test]
        fn no_name_panics(name in "\\PC{0,60}") {
            let _ = name.parse::<EntryName>();
            let _ = tries_of(&name);
        }
    }
}
