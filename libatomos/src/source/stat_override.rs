//! Modes that a list changes: for builds by users who cannot make setuid files of root's.

use crate::commit::ModeChange;
use crate::format::limits;

use super::SourceError;
use super::overlay::{Overlay, Paths};

/// A change of one file's mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatOverride {
    /// The path in the tree.
    pub path: Vec<u8>,
    /// What becomes of its mode.
    pub change: ModeChange,
}

impl StatOverride {
    /// Reads a list as `ostree commit --statoverride` takes it: a line for each file, `MODE PATH`. The bits of `+MODE` and of `MODE`
    /// are added, `=MODE` replaces. A number is decimal, or octal if it begins with a 0. Empty lines and what begins
    /// with `#` are left out.
    pub fn parse_list(text: &[u8]) -> Result<Vec<Self>, SourceError> {
        let mut list = Vec::new();
        for (at, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii_start();
            if line.is_empty() || line[0] == b'#' {
                continue;
            }
            list.push(Self::parse(line).map_err(|rule| SourceError::OverrideLine { line: at + 1, rule })?);
        }
        Ok(list)
    }

    fn parse(line: &[u8]) -> Result<Self, &'static str> {
        let space = line
            .iter()
            .position(|byte| *byte == b' ')
            .ok_or("it is a mode, a space and a path")?;
        let (mode, path) = (&line[..space], &line[space + 1..]);
        let (sign, digits) = match mode.split_first() {
            Some((sign @ (b'+' | b'='), digits)) => (*sign, digits),
            _ => (b'+', mode),
        };
        let digits = std::str::from_utf8(digits).map_err(|_| "its mode is no number")?;
        if !digits.bytes().all(|digit| digit.is_ascii_digit()) || digits.is_empty() {
            return Err("its mode is no number");
        }
        let mode = match digits.strip_prefix('0') {
            Some(octal) if !octal.is_empty() => u32::from_str_radix(octal, 8),
            _ => digits.parse(),
        }
        .map_err(|_| "its mode is no number")?;
        if mode & !limits::MODE_MASK != 0 {
            return Err("its mode is above 4095; an octal one begins with a 0, as 04755");
        }
        Ok(Self {
            path: path.to_vec(),
            change: match sign {
                b'=' => ModeChange::Set(mode),
                _ => ModeChange::Add(mode),
            },
        })
    }
}

/// Changes modes in a tree. One that changes nothing is a mistake in the list.
pub(super) fn apply(overlay: &mut Overlay, list: &[StatOverride]) -> Result<(), SourceError> {
    for item in list {
        let wrong = |rule| SourceError::Override {
            path: item.path.escape_ascii().to_string(),
            rule,
        };
        let node = overlay
            .find(&item.path, Paths::Rooted)
            .map_err(|_| wrong("the path cannot be in a tree"))?
            .ok_or_else(|| wrong("it is not in the tree"))?;
        if matches!(
            overlay.tree().node(node).kind,
            crate::commit::SourceKind::Symlink(_)
        ) {
            return Err(wrong("it is a symbolic link, which has no mode of its own"));
        }
        overlay.tree().change_mode(node, item.change);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_modes_that_add_and_that_replace() {
        let list = StatOverride::parse_list(b"# setuid\n+2048 /usr/bin/su\n\n=0755 /a b\n04000 c\n").unwrap();
        let item = |path: &[u8], change| StatOverride {
            path: path.to_vec(),
            change,
        };
        assert_eq!(
            list,
            [
                item(b"/usr/bin/su", ModeChange::Add(0o4000)),
                item(b"/a b", ModeChange::Set(0o755)),
                item(b"c", ModeChange::Add(0o4000)),
            ]
        );
        for bad in ["4755 /x", "755", "+ /x", "+x /y", "-1 /x", "0o755 /x", "=08 /x"] {
            StatOverride::parse_list(bad.as_bytes()).unwrap_err();
        }
    }
}
