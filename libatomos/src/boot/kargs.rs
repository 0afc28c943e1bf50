//! Kernel arguments: an ordered multimap that keeps every argument exactly as it was written.
//!
//! The kernel splits its command line at white space, except between double quotes, which may stand anywhere in an
//! argument (`a="b c"` and `"a=b c"` are the same to it). Keys may repeat (`console=tty0 console=ttyS0`), and their
//! order means something. What follows a lone `--` goes to init. So the text of each argument is kept, quotes
//! included, and only looked into where a key or a value is asked for.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::ErrorKind;

/// Bytes in a command line: what x86 and arm64 take (`COMMAND_LINE_SIZE`, 2048), less what a loader puts in front of it
/// (GRUB its `BOOT_IMAGE=`, systemd-boot each `initrd=`). The kernel cuts a longer one without a word, and `atomos=`,
/// without which nothing boots, stands near its end.
pub const MAX_COMMAND_LINE: usize = 2048 - 256;

/// What ends the kernel's own arguments.
const INIT_SEPARATOR: &str = "--";

/// Why a command line, or a change of one, is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KargsError {
    /// A quote is not closed.
    #[error("the kernel argument {text:?} has an opening quote without a closing one")]
    UnterminatedQuote {
        /// From the start of that argument.
        text: String,
    },
    /// A character would end a line of the boot entry, or the command line itself.
    #[error("the kernel arguments {text:?} have a control character")]
    ControlCharacter {
        /// The arguments.
        text: String,
    },
    /// The kernel would cut it.
    #[error("the kernel arguments have {len} bytes, more than the {MAX_COMMAND_LINE} that a kernel takes")]
    TooLong {
        /// How long they are.
        len: usize,
    },
    /// None or several arguments where one is asked for.
    #[error("{text:?} is not one kernel argument; a value with spaces takes quotes, as in key=\"a b\"")]
    NotOne {
        /// What was given.
        text: String,
    },
    /// Nothing to replace with.
    #[error("{text:?} does not say what to replace: write KEY=NEW, or KEY=OLD=NEW")]
    NotAReplacement {
        /// What was given.
        text: String,
    },
    /// No argument has that key, or that key and value.
    #[error("there is no kernel argument {text}")]
    NotFound {
        /// What was looked for.
        text: String,
    },
    /// Several arguments have that key.
    #[error("the kernel argument {key} is there more than once ({}): say which, as in {key}=VALUE", found.join(" "))]
    Ambiguous {
        /// The key.
        key: String,
        /// The arguments that have it.
        found: Vec<String>,
    },
}

impl KargsError {
    /// Returns the coarse kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            _ => ErrorKind::Invalid,
        }
    }
}

/// Kernel arguments in order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KernelArgs {
    args: Vec<String>,
    /// What follows `--`, and the `--` itself, where there is one.
    init: Vec<String>,
}

impl KernelArgs {
    /// Returns no arguments.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.args.is_empty() && self.init.is_empty()
    }

    /// Returns the arguments as they were written, those for init and the `--` before them included.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.args.iter().chain(&self.init).map(String::as_str)
    }

    /// Returns the value of the last argument with `key`, without quotes; an argument without `=` has the value "".
    /// The last one wins, as it does for most of the kernel's own.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Cow<'_, str>> {
        self.get_all(key).last()
    }

    /// Returns the values of all arguments with `key`, in order, without quotes.
    pub fn get_all(&self, key: &str) -> impl Iterator<Item = Cow<'_, str>> {
        self.args
            .iter()
            .filter(move |arg| key_of(arg) == key)
            .map(|arg| value_of(arg).unwrap_or_default())
    }

    /// Adds one argument at the end, before a `--`.
    pub fn append(&mut self, arg: &str) -> Result<(), KargsError> {
        let one = one_argument(arg)?;
        self.check_room(one.len())?;
        self.args.push(one);
        Ok(())
    }

    /// Adds one argument at the end unless it is there; returns whether it was added.
    pub fn append_if_missing(&mut self, arg: &str) -> Result<bool, KargsError> {
        let one = one_argument(arg)?;
        if self.args.iter().any(|present| same(present, &one)) {
            return Ok(false);
        }
        self.append(&one).map(|()| true)
    }

    /// Removes the argument `spec`, a key or `key=value`. Of several equal ones the last goes.
    ///
    /// # Errors
    /// When there is none, or when a key alone names several.
    pub fn delete(&mut self, spec: &str) -> Result<(), KargsError> {
        let index = if spec.contains('=') {
            self.args.iter().rposition(|arg| same(arg, spec))
        } else {
            self.sole_with_key(spec)?
        };
        let index = index.ok_or_else(|| not_found(spec))?;
        self.args.remove(index);
        Ok(())
    }

    /// Removes every argument with `key`; returns how many there were.
    pub fn delete_all(&mut self, key: &str) -> usize {
        let before = self.args.len();
        self.args.retain(|arg| key_of(arg) != key);
        before - self.args.len()
    }

    /// Replaces a value in its place: `KEY=OLD=NEW`, or `KEY=NEW` where the key is there once.
    ///
    /// Values may have `=` in them: `root=UUID=1=UUID=2` finds the old value by looking. `root=UUID=2` is taken as
    /// KEY=NEW only where the value that is there has a `=` too, because otherwise a mistyped OLD would become part
    /// of the new value.
    ///
    /// # Errors
    /// When nothing fits, or more than one thing does.
    pub fn replace(&mut self, spec: &str) -> Result<(), KargsError> {
        let malformed = || KargsError::NotAReplacement {
            text: spec.to_owned(),
        };
        let (key, rest) = spec.split_once('=').ok_or_else(malformed)?;
        if key.is_empty() {
            return Err(malformed());
        }
        let candidates: Vec<(usize, &str)> = self
            .args
            .iter()
            .enumerate()
            .filter(|(_, arg)| key_of(arg) == key)
            .filter_map(|(index, arg)| {
                let old = value_of(arg)?;
                let new = strip_value(rest, arg, &old)?;
                Some((index, new))
            })
            .collect();
        let (index, new) = match candidates.as_slice() {
            [one] => *one,
            [] => {
                let index = self.sole_with_key(key)?.ok_or_else(|| not_found(key))?;
                let old = value_of(&self.args[index]).unwrap_or_default();
                if rest.contains('=') && !old.contains('=') {
                    return Err(not_found(spec));
                }
                (index, rest)
            }
            // Equal arguments: any of them will do, and the last is the one that counts.
            [.., last] if candidates.iter().all(|(_, new)| *new == last.1) => *last,
            _ => return Err(self.ambiguous(key)),
        };
        let replacement = one_argument(&format!("{key}={new}"))?;
        self.check_room(replacement.len())?;
        self.args[index] = replacement;
        Ok(())
    }

    fn sole_with_key(&self, key: &str) -> Result<Option<usize>, KargsError> {
        let mut found = (0..self.args.len()).filter(|index| key_of(&self.args[*index]) == key);
        let first = found.next();
        match found.next() {
            None => Ok(first),
            Some(_) => Err(self.ambiguous(key)),
        }
    }

    fn ambiguous(&self, key: &str) -> KargsError {
        KargsError::Ambiguous {
            key: key.to_owned(),
            found: self
                .args
                .iter()
                .filter(|arg| key_of(arg) == key)
                .cloned()
                .collect(),
        }
    }

    fn check_room(&self, more: usize) -> Result<(), KargsError> {
        let len = self.iter().map(|arg| arg.len() + 1).sum::<usize>() + more;
        if len > MAX_COMMAND_LINE {
            return Err(KargsError::TooLong { len });
        }
        Ok(())
    }
}

fn not_found(text: &str) -> KargsError {
    KargsError::NotFound {
        text: text.to_owned(),
    }
}

fn without_quotes(text: &str) -> Cow<'_, str> {
    if text.contains('"') {
        text.replace('"', "").into()
    } else {
        text.into()
    }
}

/// An argument's key, as the kernel sees it.
fn key_of(arg: &str) -> Cow<'_, str> {
    without_quotes(arg.split_once('=').map_or(arg, |(key, _)| key))
}

/// An argument's value without quotes, where it has a `=`.
fn value_of(arg: &str) -> Option<Cow<'_, str>> {
    arg.split_once('=').map(|(_, value)| without_quotes(value))
}

fn same(a: &str, b: &str) -> bool {
    without_quotes(a) == without_quotes(b)
}

/// Takes the old value and a `=` off the front of `OLD=NEW`; the old one may be written with its quotes or without.
fn strip_value<'a>(rest: &'a str, arg: &str, old: &str) -> Option<&'a str> {
    let raw = arg.split_once('=').map(|(_, value)| value)?;
    [raw, old]
        .into_iter()
        .find_map(|old| rest.strip_prefix(old)?.strip_prefix('='))
}

fn one_argument(text: &str) -> Result<String, KargsError> {
    let mut args = split(text)?;
    match (args.pop(), args.pop()) {
        (Some(one), None) if one != INIT_SEPARATOR => Ok(one),
        _ => Err(KargsError::NotOne {
            text: text.to_owned(),
        }),
    }
}

/// Splits as the kernel's `next_arg` does.
fn split(text: &str) -> Result<Vec<String>, KargsError> {
    let mut args = Vec::new();
    let mut current = String::new();
    let mut in_quotes = false;
    for c in text.chars() {
        if c.is_ascii_whitespace() && !in_quotes {
            if !current.is_empty() {
                args.push(std::mem::take(&mut current));
            }
            continue;
        }
        if c.is_control() {
            return Err(KargsError::ControlCharacter {
                text: text.to_owned(),
            });
        }
        in_quotes ^= c == '"';
        current.push(c);
    }
    if in_quotes {
        return Err(KargsError::UnterminatedQuote { text: current });
    }
    if !current.is_empty() {
        args.push(current);
    }
    Ok(args)
}

impl FromStr for KernelArgs {
    type Err = KargsError;

    fn from_str(text: &str) -> Result<Self, KargsError> {
        if text.len() > MAX_COMMAND_LINE {
            return Err(KargsError::TooLong { len: text.len() });
        }
        let mut args = split(text)?;
        let init = match args.iter().position(|arg| arg == INIT_SEPARATOR) {
            Some(index) => args.split_off(index),
            None => Vec::new(),
        };
        Ok(Self { args, init })
    }
}

impl fmt::Display for KernelArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, arg) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            f.write_str(arg)?;
        }
        Ok(())
    }
}

impl TryFrom<String> for KernelArgs {
    type Error = KargsError;

    fn try_from(text: String) -> Result<Self, KargsError> {
        text.parse()
    }
}

impl From<KernelArgs> for String {
    fn from(args: KernelArgs) -> Self {
        args.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn args(text: &str) -> KernelArgs {
        text.parse().unwrap()
    }

    #[test]
    fn quotes_and_what_follows_the_separator_are_kept_as_they_were() {
        for text in [
            "",
            "quiet",
            "root=UUID=1234 ro console=tty0 console=ttyS0,115200",
            r#"a="b c" "d=e f" g"h i"j"#,
            "quiet -- single --verbose",
            "--",
            "empty= x",
        ] {
            assert_eq!(args(text).to_string(), text);
        }
        assert_eq!(args("  a \t b\n").to_string(), "a b");
    }

    #[test]
    fn values_are_read_without_quotes_and_the_last_one_counts() {
        let args = args(r#"a="b c" console=tty0 console=ttyS0 quiet "d=e f" -- a=init"#);
        assert_eq!(args.get("a").as_deref(), Some("b c"));
        assert_eq!(args.get("console").as_deref(), Some("ttyS0"));
        assert_eq!(args.get("quiet").as_deref(), Some(""));
        assert_eq!(args.get("d").as_deref(), Some("e f"));
        assert_eq!(args.get("absent"), None);
        assert_eq!(args.get_all("console").collect::<Vec<_>>(), ["tty0", "ttyS0"]);
    }

    #[test]
    fn what_no_kernel_would_take_is_refused() {
        assert!(matches!(
            r#"a="b"#.parse::<KernelArgs>(),
            Err(KargsError::UnterminatedQuote { .. })
        ));
        assert!(matches!(
            "a=\"b\nlinux /evil\"".parse::<KernelArgs>(),
            Err(KargsError::ControlCharacter { .. })
        ));
        assert!(matches!(
            "a\0b".parse::<KernelArgs>(),
            Err(KargsError::ControlCharacter { .. })
        ));
        assert!(
            "x".repeat(2048).parse::<KernelArgs>().is_err(),
            "x86 would cut it"
        );
        let long = "x".repeat(MAX_COMMAND_LINE + 1);
        assert!(matches!(
            long.parse::<KernelArgs>(),
            Err(KargsError::TooLong { .. })
        ));
        let mut full = args(&"x".repeat(MAX_COMMAND_LINE - 2));
        assert!(matches!(full.append("yy"), Err(KargsError::TooLong { .. })));
    }

    #[test]
    fn changes_do_what_the_table_says() {
        type Change = fn(&mut KernelArgs) -> Result<(), KargsError>;
        let table: &[(&str, Change, &str)] = &[
            ("a", |k| k.append("b=1"), "a b=1"),
            ("a -- init", |k| k.append("b"), "a b -- init"),
            ("a", |k| k.append(r#"b="x y""#), r#"a b="x y""#),
            ("a", |k| k.append_if_missing("a").map(drop), "a"),
            (r#"a="b""#, |k| k.append_if_missing("a=b").map(drop), r#"a="b""#),
            ("a=1", |k| k.append_if_missing("a=2").map(drop), "a=1 a=2"),
            ("a b c", |k| k.delete("b"), "a c"),
            ("a=1 b a=2", |k| k.delete("a=1"), "b a=2"),
            (r#"a="x y" b"#, |k| k.delete("a=x y"), "b"),
            ("a a=1", |k| k.delete("a=1"), "a"),
            ("a=1 b a=1", |k| k.delete("a=1"), "a=1 b"),
            ("a=1 b", |k| k.replace("a=2"), "a=2 b"),
            ("a=1 a=2", |k| k.replace("a=1=3"), "a=3 a=2"),
            (
                "root=UUID=1 x",
                |k| k.replace("root=UUID=1=UUID=2"),
                "root=UUID=2 x",
            ),
            ("root=UUID=1 x", |k| k.replace("root=UUID=2"), "root=UUID=2 x"),
            ("root=/dev/a", |k| k.replace("root=/dev/a=UUID=2"), "root=UUID=2"),
            (r#"a="x y""#, |k| k.replace("a=x y=z"), "a=z"),
            ("a", |k| k.replace("a=1"), "a=1"),
        ];
        for (before, change, after) in table {
            let mut kargs = args(before);
            change(&mut kargs).unwrap();
            assert_eq!(kargs.to_string(), *after, "from {before:?}");
        }
    }

    #[test]
    fn changes_that_mean_nothing_or_two_things_are_refused_and_change_nothing() {
        type Change = fn(&mut KernelArgs) -> Result<(), KargsError>;
        type Expected = fn(&KargsError) -> bool;
        let table: &[(&str, Change, Expected)] = &[
            (
                "a",
                |k| k.delete("b"),
                |e| matches!(e, KargsError::NotFound { .. }),
            ),
            (
                "a=1",
                |k| k.delete("a=2"),
                |e| matches!(e, KargsError::NotFound { .. }),
            ),
            (
                "a=1 a=2",
                |k| k.delete("a"),
                |e| matches!(e, KargsError::Ambiguous { found, .. } if found.len() == 2),
            ),
            (
                "x -- a",
                |k| k.delete("a"),
                |e| matches!(e, KargsError::NotFound { .. }),
            ),
            (
                "a=1 a=2",
                |k| k.replace("a=3"),
                |e| matches!(e, KargsError::Ambiguous { .. }),
            ),
            (
                "a=1",
                |k| k.replace("a=2=3"),
                |e| matches!(e, KargsError::NotFound { .. }),
            ),
            (
                "a=1",
                |k| k.replace("b=2"),
                |e| matches!(e, KargsError::NotFound { .. }),
            ),
            (
                "a=1",
                |k| k.replace("a"),
                |e| matches!(e, KargsError::NotAReplacement { .. }),
            ),
            (
                "a=1",
                |k| k.replace("=a"),
                |e| matches!(e, KargsError::NotAReplacement { .. }),
            ),
            (
                "a=b a=b=c",
                |k| k.replace("a=b=c=d"),
                |e| matches!(e, KargsError::Ambiguous { .. }),
            ),
            (
                "a",
                |k| k.append("b c"),
                |e| matches!(e, KargsError::NotOne { .. }),
            ),
            (
                "a",
                |k| k.append("--"),
                |e| matches!(e, KargsError::NotOne { .. }),
            ),
            ("a", |k| k.append(""), |e| matches!(e, KargsError::NotOne { .. })),
        ];
        for (before, change, expected) in table {
            let mut kargs = args(before);
            let error = change(&mut kargs).unwrap_err();
            assert!(expected(&error), "{before:?} gave {error:?}");
            assert_eq!(kargs.to_string(), *before);
        }
    }

    proptest! {
        #[test]
        fn what_parses_prints_and_parses_to_the_same(text in r#"([a-z=." ]|--){0,40}"#) {
            if let Ok(kargs) = text.parse::<KernelArgs>() {
                let printed = kargs.to_string();
                prop_assert_eq!(printed.parse::<KernelArgs>().unwrap(), kargs);
                let spaces = |text: &str| text.split_ascii_whitespace().collect::<String>();
                prop_assert_eq!(spaces(&printed), spaces(&text), "nothing is lost but space between arguments");
            }
        }

        #[test]
        fn an_appended_argument_can_be_read_and_deleted_again(before in "[a-m]{1,5}( [a-m]{1,3}=[a-z]{0,4}){0,5}", value in "[a-z =,]{0,10}") {
            let original: KernelArgs = before.parse().unwrap();
            let mut kargs = original.clone();
            kargs.append(&format!("key=\"{value}\"")).unwrap();
            prop_assert_eq!(kargs.get("key").unwrap(), value.as_str());
            kargs.delete(&format!("key={value}")).unwrap();
            prop_assert_eq!(kargs, original);
        }
    }
}
