//! What a tree and the kernel command line may ask for.
//!
//! A tree says it in `/usr/lib/atomos/prepare-root.conf`, one `key = value` on a line, `#` before a comment:
//!
//! | key | values, the default first |
//! |---|---|
//! | `etc` | `persistent`, `transient`: changes in `/etc` are forgotten at the next boot |
//! | `root` | `read-only`, `transient`: all of `/` can be written to, and forgets at the next boot |
//! | `composefs` | `off`, `wanted`, `required`, `verified`: mount the deployment's image rather than its files |
//! | `watchdog` | `off`, or the seconds after which the hardware restarts a machine that hangs |
//!
//! The kernel argument `atomos.<key>=<value>` overrides the file. What is not understood is said and passed over, for a
//! machine that boots can be repaired; but a word about `composefs` asks for protection, and to boot without it would
//! be the wrong guess.

use std::fmt;

use crate::error::{Error, Result};
use crate::log::{Level, say};

/// Where the file lies in a deployment.
pub(crate) const PATH: [&str; 4] = ["usr", "lib", "atomos", "prepare-root.conf"];

/// Bytes in the file. The one with every key and a comment on each has one thousand.
pub(crate) const MAX_LEN: u64 = 64 * 1024;

/// The longest that a watchdog may wait, in seconds. Hardware has its own limit, which is mostly less.
const WATCHDOG_MAX: u32 = 24 * 60 * 60;

/// What becomes of changes in `/etc`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Etc {
    #[default]
    Persistent,
    Transient,
}

/// Whether the rest of `/` can be written to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Root {
    #[default]
    ReadOnly,
    Transient,
}

/// Whether the root is the deployment's composefs image.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Composefs {
    #[default]
    Off,
    Wanted,
    Required,
    /// And a key of the initramfs must have sealed it.
    Verified,
}

/// Everything that was asked for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Options {
    pub(crate) etc: Etc,
    pub(crate) root: Root,
    pub(crate) composefs: Composefs,
    /// Seconds.
    pub(crate) watchdog: Option<u32>,
}

/// Why a setting was not taken.
#[derive(Debug, Eq, PartialEq)]
enum Fault {
    /// The line has no `=`.
    NoValue,
    UnknownKey(String),
    BadValue {
        key: &'static str,
        value: String,
        expected: &'static str,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::NoValue => f.write_str("it is not KEY = VALUE"),
            Fault::UnknownKey(key) => write!(f, "there is no key {}", key.escape_debug()),
            Fault::BadValue { key, value, expected } => {
                write!(f, "{key} cannot be {}: it is {expected}", value.escape_debug())
            }
        }
    }
}

/// Returns what is asked for of an image, without a word to anybody.
pub(crate) fn composefs(file: Option<&[u8]>, arguments: &[(String, String)]) -> Result<Composefs> {
    let (options, faults) = Options::read(file, arguments);
    refuse_doubt(&faults)?;
    Ok(options.composefs)
}

/// What is wrong, and where.
type Faults = Vec<(String, Fault)>;

/// A word about the image that is not understood may ask for protection.
fn refuse_doubt(faults: &Faults) -> Result<()> {
    for (place, fault) in faults {
        if matches!(fault, Fault::BadValue { key: COMPOSEFS, .. }) {
            return Err(Error::new(format!("{place}: {fault}")));
        }
    }
    Ok(())
}

impl Options {
    /// Takes the settings of the file and then of the kernel command line, and says what of them it could not.
    fn read(file: Option<&[u8]>, arguments: &[(String, String)]) -> (Self, Faults) {
        let mut options = Options::default();
        let mut faults = Vec::new();
        let text = String::from_utf8_lossy(file.unwrap_or_default());
        for (number, line) in text.lines().enumerate() {
            if let Err(fault) = options.take_line(line) {
                faults.push((format!("{}:{}", PATH.join("/"), number + 1), fault));
            }
        }
        for (key, value) in arguments {
            if let Err(fault) = options.take(key, value) {
                faults.push(("the kernel command line".to_owned(), fault));
            }
        }
        (options, faults)
    }

    /// Takes the settings of the file and then of the kernel command line.
    pub(crate) fn gather(file: Option<&[u8]>, arguments: &[(String, String)]) -> Result<Self> {
        let (options, faults) = Self::read(file, arguments);
        refuse_doubt(&faults)?;
        for (place, fault) in faults.iter().take(FAULTS_SHOWN) {
            say(Level::Warning, &format!("{place} is passed over: {fault}"));
        }
        if let Some(more) = faults.len().checked_sub(FAULTS_SHOWN).filter(|more| *more > 0) {
            say(Level::Warning, &format!("{more} more settings are passed over"));
        }
        Ok(options)
    }

    fn take_line(&mut self, line: &str) -> std::result::Result<(), Fault> {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            return Ok(());
        }
        let (key, value) = line.split_once('=').ok_or(Fault::NoValue)?;
        self.take(key.trim_end(), value.trim_start())
    }

    fn take(&mut self, key: &str, value: &str) -> std::result::Result<(), Fault> {
        let bad = |key, expected| {
            Err(Fault::BadValue {
                key,
                value: value.to_owned(),
                expected,
            })
        };
        match (key, value) {
            ("etc", "persistent") => self.etc = Etc::Persistent,
            ("etc", "transient") => self.etc = Etc::Transient,
            ("etc", _) => return bad("etc", "persistent or transient"),
            ("root", "read-only") => self.root = Root::ReadOnly,
            ("root", "transient") => self.root = Root::Transient,
            ("root", _) => return bad("root", "read-only or transient"),
            ("composefs", "off") => self.composefs = Composefs::Off,
            ("composefs", "wanted") => self.composefs = Composefs::Wanted,
            ("composefs", "required") => self.composefs = Composefs::Required,
            ("composefs", "verified") => self.composefs = Composefs::Verified,
            ("composefs", _) => return bad(COMPOSEFS, "off, wanted, required or verified"),
            ("watchdog", "off") => self.watchdog = None,
            ("watchdog", value) => match value.parse() {
                Ok(seconds @ 1..=WATCHDOG_MAX) => self.watchdog = Some(seconds),
                _ => return bad("watchdog", "off, or a number of seconds up to 86400"),
            },
            // For the running system: which of a deployment's two entries was booted.
            ("entry", _) => {}
            (key, _) => return Err(Fault::UnknownKey(key.to_owned())),
        }
        Ok(())
    }
}

/// The key that is not passed over.
const COMPOSEFS: &str = "composefs";

/// A console is slow, and one such line says enough.
const FAULTS_SHOWN: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(file: &str, arguments: &[(&str, &str)]) -> Result<Options> {
        let arguments: Vec<_> = arguments
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        Options::gather(Some(file.as_bytes()), &arguments)
    }

    #[test]
    fn without_a_word_nothing_is_unusual() {
        let nothing = Options::gather(None, &[]).unwrap();
        assert_eq!(nothing, Options::default());
        assert_eq!(gather("", &[]).unwrap(), nothing);
        assert_eq!((nothing.etc, nothing.root), (Etc::Persistent, Root::ReadOnly));
        assert_eq!((nothing.composefs, nothing.watchdog), (Composefs::Off, None));
    }

    #[test]
    fn the_command_line_overrides_the_file_and_the_last_word_counts() {
        let file = "etc=transient\n root =  transient # comment\n#etc = persistent\n\nwatchdog = 60\n";
        let of_file = gather(file, &[]).unwrap();
        assert_eq!((of_file.etc, of_file.root), (Etc::Transient, Root::Transient));
        assert_eq!(of_file.watchdog, Some(60));
        let both = gather(
            file,
            &[
                ("etc", "persistent"),
                ("watchdog", "off"),
                ("composefs", "required"),
                ("composefs", "wanted"),
            ],
        )
        .unwrap();
        assert_eq!((both.etc, both.root), (Etc::Persistent, Root::Transient));
        assert_eq!((both.composefs, both.watchdog), (Composefs::Wanted, None));
    }

    #[test]
    fn what_is_not_understood_is_passed_over_and_the_rest_counts() {
        let file = "nonsense\nunknown = 1\netc = Transient\nroot =\nwatchdog = 0\nwatchdog=86401\nwatchdog=-1\n= x\n\
                    \u{0}\u{7}\netc = transient";
        let options = gather(file, &[("debug", "1"), ("root", "rw")]).unwrap();
        assert_eq!(
            options,
            Options {
                etc: Etc::Transient,
                ..Options::default()
            }
        );
        Options::gather(Some(&[0xff, b'=', 0xfe, b'\n']), &[]).unwrap();
    }

    #[test]
    fn a_word_about_protection_is_never_passed_over() {
        let error = gather("\ncomposefs = requird\n", &[]).unwrap_err().to_string();
        assert_eq!(
            error,
            "usr/lib/atomos/prepare-root.conf:2: composefs cannot be requird: it is off, wanted, required or verified"
        );
        let error = gather("", &[("composefs", "")]).unwrap_err().to_string();
        assert!(
            error.starts_with("the kernel command line: composefs cannot be"),
            "{error}"
        );
    }

    /// The file that is shipped as an example names every key with its default, and then every other value.
    #[test]
    fn the_example_says_what_is_understood() {
        let example = include_str!("../../bootloader-hooks/prepare-root.conf");
        let mut keys = 0;
        for line in example.lines() {
            let Some(setting) = line
                .strip_prefix('#')
                .filter(|line| !line.starts_with([' ', '#']))
            else {
                continue;
            };
            let (key, values) = setting.split_once(" = ").unwrap();
            let values: Vec<_> = values.split(" | ").collect();
            let mut options = Options::default();
            options.take(key, values[0]).unwrap();
            assert_eq!(options, Options::default(), "{key}: the first is the default");
            for value in &values[1..] {
                let value = value.strip_prefix("SECONDS").map_or(*value, |_| "60");
                options.take(key, value).unwrap();
                assert_ne!(options, Options::default(), "{key} = {value}");
            }
            keys += 1;
        }
        assert_eq!(keys, 4);
    }
}
