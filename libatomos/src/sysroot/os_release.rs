//! Reading `os-release` (<https://www.freedesktop.org/software/systemd/man/os-release.html>) for what a boot menu shows.

use crate::fs::{Dir, FsError};

/// Bytes of the file that are looked at.
const MAX: usize = 64 * 1024;

/// Returns the value of `PRETTY_NAME` of the operating system in `root`, or `None` where it has none. Some systems have a link there.
pub(super) fn pretty_name(root: &Dir) -> Result<Option<String>, FsError> {
    let bytes = root.read_in_root("usr/lib/os-release", MAX)?;
    Ok(bytes.and_then(|bytes| value(&String::from_utf8_lossy(&bytes), "PRETTY_NAME")))
}

fn value(text: &str, key: &str) -> Option<String> {
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))?;
    let line = line.trim();
    let bare = match line.chars().next() {
        Some(quote @ ('"' | '\'')) => line.strip_prefix(quote)?.split(quote).next()?,
        _ => line,
    };
    let clean: String = bare
        .chars()
        .filter(|c| !c.is_control() && *c != '\\')
        .take(100)
        .collect();
    (!clean.is_empty()).then_some(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lose_their_quotes_and_control_characters() {
        let text = "NAME=Debian\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nX='a b'\n";
        assert_eq!(
            value(text, "PRETTY_NAME").unwrap(),
            "Debian GNU/Linux 13 (trixie)"
        );
        assert_eq!(value(text, "NAME").unwrap(), "Debian");
        assert_eq!(value(text, "X").unwrap(), "a b");
        assert_eq!(value(text, "Y"), None);
        assert_eq!(value("A=\"\x1b[31m\"", "A").unwrap(), "[31m");
    }
}
