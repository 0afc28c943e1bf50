//! Type #1 entries of the Boot Loader Specification (<https://uapi-group.org/specifications/specs/boot_loader_specification/>).
//!
//! A text file of `key value` lines. Reading is lenient where the loaders are (unknown keys, comments, odd spacing)
//! and bounded; writing is strict: no value that we write can begin a line of its own, whatever is in a title.
//!
//! The order of lines is kept, unknown keys included, so that reading and writing an entry changes nothing in it.

use std::fmt;

use crate::error::ErrorKind;

/// Bytes in an entry that is read. A real one has some hundred; the longest part is the kernel's command line.
pub const MAX_ENTRY: usize = 64 * 1024;

/// Lines in an entry that is read.
pub const MAX_LINES: usize = 1024;

/// Why bytes are not an entry, or a value cannot stand in one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BlsError {
    /// More than a loader should have to read.
    #[error("a boot entry has more than {MAX_ENTRY} bytes or {MAX_LINES} lines")]
    TooLarge,
    /// The specification says UTF-8.
    #[error("a boot entry is not UTF-8 text")]
    NotText,
    /// The value would end its line, or be an empty one, which makes GRUB stop reading.
    #[error("{value:?} cannot stand in a boot entry as its {key}")]
    BadValue {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
}

impl BlsError {
    /// Returns the coarse kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::TooLarge | Self::NotText => ErrorKind::Corrupt,
            Self::BadValue { .. } => ErrorKind::Invalid,
        }
    }
}

/// A boot entry: keys and values in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlsEntry {
    lines: Vec<(String, String)>,
}

impl BlsEntry {
    /// Returns an entry without lines.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads an entry. Comments are not kept; a line that has a key alone counts as absent, as it does for the loaders.
    pub fn parse(bytes: &[u8]) -> Result<Self, BlsError> {
        if bytes.len() > MAX_ENTRY {
            return Err(BlsError::TooLarge);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| BlsError::NotText)?;
        let mut lines = Vec::new();
        for (index, line) in text.split('\n').enumerate() {
            if index >= MAX_LINES {
                return Err(BlsError::TooLarge);
            }
            let line = line.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\0');
            if line.starts_with('#') {
                continue;
            }
            if let Some((key, value)) = line.split_once([' ', '\t']) {
                let value = value.trim_start_matches([' ', '\t']);
                // Bytes that were never written, read back after a power cut, are no key.
                if is_key(key) && !value.contains(char::is_control) {
                    lines.push((key.to_owned(), value.to_owned()));
                }
            }
        }
        Ok(Self { lines })
    }

    /// Returns the lines in order.
    pub fn lines(&self) -> impl Iterator<Item = (&str, &str)> {
        self.lines
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Returns the first value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.get_all(key).next()
    }

    /// Returns all values of `key`, in order.
    pub fn get_all<'a>(&'a self, key: &str) -> impl Iterator<Item = &'a str> {
        self.lines()
            .filter(move |(found, _)| *found == key)
            .map(|(_, value)| value)
    }

    /// Adds a line.
    ///
    /// # Errors
    /// When the value is empty, has white space at an end, or any control character.
    pub fn push(&mut self, key: &str, value: &str) -> Result<(), BlsError> {
        if !is_key(key) || value.is_empty() || value.trim() != value || value.contains(char::is_control) {
            return Err(BlsError::BadValue {
                key: key.to_owned(),
                value: value.to_owned(),
            });
        }
        self.lines.push((key.to_owned(), value.to_owned()));
        Ok(())
    }

    /// Returns the title for people.
    #[must_use]
    pub fn title(&self) -> Option<&str> {
        self.get("title")
    }

    /// Returns the version that sorts it among entries of the same sort key.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.get("version")
    }

    /// Returns the sort key.
    #[must_use]
    pub fn sort_key(&self) -> Option<&str> {
        self.get("sort-key")
    }

    /// Returns the machine id.
    #[must_use]
    pub fn machine_id(&self) -> Option<&str> {
        self.get("machine-id")
    }

    /// Returns the kernel's path, from the root of the file system that the entry is on. An entry without one, and
    /// without an EFI program, is not offered by any loader.
    #[must_use]
    pub fn linux(&self) -> Option<&str> {
        self.get("linux")
    }

    /// Returns the initramfs images, in the order in which they are unpacked.
    pub fn initrds(&self) -> impl Iterator<Item = &str> {
        self.get_all("initrd")
    }

    /// Returns the kernel arguments of all `options` lines, in order.
    #[must_use]
    pub fn options(&self) -> String {
        self.get_all("options").collect::<Vec<_>>().join(" ")
    }

    /// Returns whether a loader would offer it.
    #[must_use]
    pub fn is_bootable(&self) -> bool {
        ["linux", "efi", "uki", "uki-url"]
            .iter()
            .any(|key| self.get(key).is_some())
    }
}

impl fmt::Display for BlsEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines()
            .try_for_each(|(key, value)| writeln!(f, "{key} {value}"))
    }
}

fn is_key(key: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    !key.is_empty() && key.bytes().all(allowed)
}

/// Makes one line of any text, for a title: control characters become spaces, and those at the ends go.
#[must_use]
pub fn one_line(text: &str) -> String {
    let spaced: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(200)
        .collect();
    spaced.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_specifications_example_is_read() {
        let entry = BlsEntry::parse(
            b"# /boot/loader/entries/6a98-3.8.0-2.fc19.x86_64.conf
title        Fedora 19 (Rawhide)
sort-key     fedora
machine-id   6a9857a393724b7a981ebb5b8495b9ea
version      3.8.0-2.fc19.x86_64
options      root=UUID=6d3376e4-fc93-4509-95ec-a21d68011da2 quiet
options      more
architecture x64
linux        /6a98/3.8.0-2.fc19.x86_64/linux
initrd       /6a98/microcode
initrd\t/6a98/3.8.0-2.fc19.x86_64/initrd
grub_users   $grub_users
",
        )
        .unwrap();
        assert_eq!(entry.title(), Some("Fedora 19 (Rawhide)"));
        assert_eq!(entry.sort_key(), Some("fedora"));
        assert_eq!(entry.machine_id(), Some("6a9857a393724b7a981ebb5b8495b9ea"));
        assert_eq!(entry.version(), Some("3.8.0-2.fc19.x86_64"));
        assert_eq!(
            entry.options(),
            "root=UUID=6d3376e4-fc93-4509-95ec-a21d68011da2 quiet more"
        );
        assert_eq!(entry.linux(), Some("/6a98/3.8.0-2.fc19.x86_64/linux"));
        assert_eq!(
            entry.initrds().collect::<Vec<_>>(),
            ["/6a98/microcode", "/6a98/3.8.0-2.fc19.x86_64/initrd"]
        );
        assert_eq!(entry.get("grub_users"), Some("$grub_users"));
        assert!(entry.is_bootable());
    }

    #[test]
    fn an_unfinished_entry_is_not_bootable() {
        let entry = BlsEntry::parse(b"title x\n#inux /atomos/os-1/vmlinuz\noptions quiet\n").unwrap();
        assert!(!entry.is_bootable());
        let entry = BlsEntry::parse(b"title x\nlinux\noptions\n\0\0\0\0").unwrap();
        assert!(!entry.is_bootable());
        assert_eq!(entry.options(), "");
    }

    #[test]
    fn no_value_can_begin_a_line_of_its_own() {
        let mut entry = BlsEntry::new();
        for value in ["a\nlinux /evil", "a\r", "", " a", "a ", "a\0b", "\u{85}"] {
            assert!(entry.push("title", value).is_err(), "{value:?}");
        }
        assert!(entry.push("ti tle", "a").is_err());
        assert!(entry.push("#title", "a").is_err());
        assert_eq!(one_line(" a\nlinux /evil\t"), "a linux /evil");
        assert_eq!(one_line("\n\n"), "");
    }

    #[test]
    fn what_is_too_large_or_not_text_is_refused() {
        assert_eq!(BlsEntry::parse(&vec![b'\n'; MAX_LINES]), Err(BlsError::TooLarge));
        assert_eq!(
            BlsEntry::parse(&vec![b'x'; MAX_ENTRY + 1]),
            Err(BlsError::TooLarge)
        );
        assert_eq!(BlsEntry::parse(b"title \xff"), Err(BlsError::NotText));
    }

    proptest! {
        #[test]
        fn what_is_pushed_reads_back(lines in proptest::collection::vec(("[a-z][a-z-]{0,9}", "\\PC{1,30}"), 0..8)) {
            let mut entry = BlsEntry::new();
            for (key, value) in &lines {
                let _ = entry.push(key, value);
            }
            prop_assert_eq!(BlsEntry::parse(entry.to_string().as_bytes()).unwrap(), entry);
        }

        #[test]
        fn what_parses_prints_and_parses_to_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(entry) = BlsEntry::parse(&bytes) {
                prop_assert_eq!(BlsEntry::parse(entry.to_string().as_bytes()).unwrap(), entry);
            }
        }

        #[test]
        fn any_title_becomes_one_line(title in "[\\PC\\n\\r\\t\\x00]{0,60}") {
            let line = one_line(&title);
            prop_assert!(line.is_empty() || BlsEntry::new().push("title", &line).is_ok());
        }
    }
}
