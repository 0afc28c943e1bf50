//! Names that people choose: of refs and stateroots. Checked once, when they are made.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::format::limits;

/// Which rule a name breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {kind} name: {rule}")]
pub struct InvalidName {
    kind: &'static str,
    text: String,
    rule: &'static str,
}

pub(crate) fn check(kind: &'static str, text: &str, slashes: bool) -> Result<(), InvalidName> {
    let fail = |rule| {
        Err(InvalidName {
            kind,
            text: text.chars().take(80).collect(),
            rule,
        })
    };
    if text.is_empty() {
        return fail("it is empty");
    }
    if text.len() > limits::MAX_REF_NAME {
        return fail("it has more than 200 bytes");
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-+".contains(c) || (slashes && c == '/');
    if !text.chars().all(allowed) {
        return fail(if slashes {
            "only letters, digits and . _ - + / may stand in it"
        } else {
            "only letters, digits and . _ - + may stand in it"
        });
    }
    if text
        .split('/')
        .any(|part| part.is_empty() || part.starts_with(['.', '-']))
    {
        return fail("a part between slashes is empty, or starts with a dot or a dash");
    }
    Ok(())
}

/// The name of a ref: parts of letters, digits and `. _ - +`, with slashes between them, 200 bytes at most. It may
/// be `remote:name` for what was pulled from a remote.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RefName(String);

impl RefName {
    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether one of the two would have to be a file and a directory at once, as `os` and `os/x`.
    #[must_use]
    pub fn collides_with(&self, other: &Self) -> bool {
        let beneath = |outer: &str, inner: &str| {
            inner
                .strip_prefix(outer)
                .is_some_and(|rest| rest.starts_with('/'))
        };
        beneath(&self.0, &other.0) || beneath(&other.0, &self.0)
    }
}

impl FromStr for RefName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        match text.split_once(':') {
            Some((remote, name)) => {
                check("remote", remote, false)?;
                check("ref", name, true)?;
            }
            None => check("ref", text, true)?,
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for RefName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<RefName> for String {
    fn from(name: RefName) -> Self {
        name.0
    }
}

impl fmt::Display for RefName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Bytes in a stateroot's name: with a digest it must fit into a file name and a kernel argument.
const MAX_STATEROOT: usize = 100;

/// The name of a stateroot: letters, digits and `. _ - +`, 100 bytes at most.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StaterootName(String);

impl StaterootName {
    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for StaterootName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        check("stateroot", text, false)?;
        if text.len() > MAX_STATEROOT {
            let rule = "it has more than 100 bytes";
            return Err(InvalidName {
                kind: "stateroot",
                text: text.chars().take(80).collect(),
                rule,
            });
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for StaterootName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<StaterootName> for String {
    fn from(name: StaterootName) -> Self {
        name.0
    }
}

impl fmt::Display for StaterootName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_directory_are_refused() {
        for text in [
            "", "/", "a//b", "/a", "a/", "..", "a/../b", ".hidden", "a b", "a\n", "-x", "a:b:c", ":a", "a:",
        ] {
            assert!(text.parse::<RefName>().is_err(), "{text:?}");
        }
        for text in ["os", "debian/13/amd64", "origin:os/stable", "a.b_c-d+e"] {
            assert!(text.parse::<RefName>().is_ok(), "{text:?}");
        }
        assert!("a/b".parse::<StaterootName>().is_err());
        assert!("default".parse::<StaterootName>().is_ok());
    }

    #[test]
    fn a_ref_cannot_be_a_file_and_a_directory() {
        let name = |text: &str| text.parse::<RefName>().unwrap();
        assert!(name("os").collides_with(&name("os/x")));
        assert!(name("os/x").collides_with(&name("os")));
        assert!(!name("os").collides_with(&name("os2/x")));
        assert!(!name("os").collides_with(&name("os")));
    }
}
