//! Which entry the loader will take, and whether somebody has told it otherwise.
//!
//! What is first in a loader's order is what it boots, unless an entry is pinned: by `default` in `loader.conf`, by the
//! EFI variables that `bootctl set-default` and `set-oneshot` write, or by `saved_entry` and `next_entry` in GRUB's
//! environment block. Nothing of that is ours to change. It is looked at, so that a person who upgraded and still boots
//! the old system can be told why.

use std::cmp::Ordering;
use std::fmt;

use serde::Serialize;

use crate::fs::Dir;

use super::boot_dir::FoundEntry;
use super::menu::{sort_fields, wants_counts, wants_menu};
use super::name::{EntryName, tries_of};
use super::order::{grub, grub_blscfg, systemd_boot};
use super::{BootDir, BootError};

/// Bytes of a loader's settings that are read.
const MAX_SETTINGS: usize = 64 * 1024;

/// The vendor of systemd-boot's EFI variables, as the Boot Loader Interface has it.
const LOADER_VENDOR: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// A way to read entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Loader {
    /// systemd-boot.
    SystemdBoot,
    /// GRUB with the `blscfg` of Fedora and its relatives.
    GrubBlscfg,
    /// GRUB from 2.14 on.
    Grub,
    /// GRUB with the menu that we write.
    GrubMenu,
}

impl fmt::Display for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SystemdBoot => "systemd-boot",
            Self::GrubBlscfg => "GRUB (blscfg)",
            Self::Grub => "GRUB (2.14 and later)",
            Self::GrubMenu => "GRUB (atomos.cfg)",
        })
    }
}

/// Where an entry is pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PinSource {
    /// `default` in `/boot/loader/loader.conf`.
    LoaderConf,
    /// The EFI variable `LoaderEntryDefault` (`bootctl set-default`).
    EfiDefault,
    /// The EFI variable `LoaderEntryOneShot` (`bootctl set-oneshot`): the next boot alone.
    EfiOneShot,
    /// `saved_entry` in GRUB's environment block.
    GrubSaved,
    /// `next_entry` in GRUB's environment block (`grub-reboot`): the next boot alone.
    GrubNext,
}

impl fmt::Display for PinSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LoaderConf => "default in loader/loader.conf",
            Self::EfiDefault => "the EFI variable LoaderEntryDefault",
            Self::EfiOneShot => "the EFI variable LoaderEntryOneShot",
            Self::GrubSaved => "saved_entry in grubenv",
            Self::GrubNext => "next_entry in grubenv",
        })
    }
}

/// An entry that is pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pin {
    /// Where.
    pub source: PinSource,
    /// How: a name, or a pattern of names.
    pub pattern: String,
    /// The entry that it makes the loader take; none where it fits nothing, and so does nothing.
    pub takes: Option<String>,
}

/// What a loader takes where nothing is pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FirstEntry {
    /// The loader.
    pub loader: Loader,
    /// The file name of the entry.
    pub file_name: String,
}

/// What will be booted, as far as the files tell.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct LoaderForecast {
    /// The entry of ours that should be booted: the highest number that is not bad.
    pub ours: Option<String>,
    /// What each loader that seems to be in use takes by its order.
    pub first: Vec<FirstEntry>,
    /// What is pinned.
    pub pins: Vec<Pin>,
}

impl LoaderForecast {
    /// Returns the pins that make a loader take something else than [`LoaderForecast::ours`].
    pub fn contrary_pins(&self) -> impl Iterator<Item = &Pin> {
        self.pins
            .iter()
            .filter(|pin| pin.takes.is_some() && pin.takes != self.ours)
    }

    /// Returns the loaders whose first entry is another than [`LoaderForecast::ours`], because somebody else's sorts
    /// before it.
    pub fn contrary_first(&self) -> impl Iterator<Item = &FirstEntry> {
        self.first
            .iter()
            .filter(|first| Some(&first.file_name) != self.ours.as_ref())
    }
}

/// Looks at entries and settings. `efivars` is `/sys/firmware/efi/efivars`, where there is one.
pub fn forecast(boot: &BootDir, efivars: Option<&Dir>) -> Result<LoaderForecast, BootError> {
    let mut entries: Vec<FoundEntry> = boot.list_entries()?;
    entries.retain(|found| found.entry.as_ref().is_ok_and(|entry| entry.is_bootable()));
    entries.sort_by(by_systemd_boot);
    let left = boot.tries_left_of(&entries)?;
    let is_bad = |name: &EntryName| name.tries.is_some() && left.get(&name.n) == Some(&0);
    let ours = entries
        .iter()
        .filter_map(|found| Some((found.name.as_ref()?, &found.file_name)))
        .max_by_key(|(name, _)| (!is_bad(name), name.n))
        .map(|(_, file_name)| file_name.clone());

    let mut first = Vec::new();
    let mut loaders = loaders_in_use(boot)?;
    // Which of several it might be says nothing about whether it counts; and our script beside GRUB's own entries does.
    let may_count = loaders.is_empty() || wants_counts(boot)?;
    if loaders.is_empty() {
        loaders.extend([Loader::SystemdBoot, Loader::GrubBlscfg, Loader::Grub]);
    }
    let has_good = entries
        .iter()
        .any(|found| found.name.as_ref().is_some_and(|name| !is_bad(name)));
    for loader in loaders {
        let order: &dyn Fn(&&FoundEntry, &&FoundEntry) -> Ordering = match loader {
            Loader::SystemdBoot | Loader::GrubMenu => &|a, b| by_systemd_boot(a, b),
            Loader::GrubBlscfg => &|a, b| grub_blscfg(&a.file_name, &b.file_name),
            Loader::Grub => &|a, b| grub(&a.file_name, &b.file_name),
        };
        // Our menu has our entries alone, and passes over one that GRUB has counted down itself.
        let counts = (loader == Loader::GrubMenu || may_count) && has_good;
        let listed = entries.iter().filter(|found| {
            let is_listed = loader != Loader::GrubMenu || found.name.is_some();
            is_listed && !(counts && found.name.as_ref().is_some_and(is_bad))
        });
        if let Some(found) = listed.min_by(order) {
            first.push(FirstEntry {
                loader,
                file_name: found.file_name.clone(),
            });
        }
    }
    let mut pins = Vec::new();
    for (source, pattern) in read_pins(boot, efivars)? {
        let is_grub = matches!(source, PinSource::GrubSaved | PinSource::GrubNext);
        let fits = |found: &&FoundEntry| {
            let stem = found.file_name.strip_suffix(".conf").unwrap_or(&found.file_name);
            let id = match tries_of(&found.file_name) {
                Some(_) => stem.rsplit_once('+').map_or(stem, |(id, _)| id),
                None => stem,
            };
            if is_grub {
                pattern == stem || pattern == id
            } else {
                let pattern = pattern.to_ascii_lowercase();
                let id = id.to_ascii_lowercase();
                glob(pattern.as_bytes(), format!("{id}.conf").as_bytes())
                    || glob(pattern.as_bytes(), id.as_bytes())
            }
        };
        let takes = entries.iter().find(fits).map(|found| found.file_name.clone());
        pins.push(Pin {
            source,
            pattern,
            takes,
        });
    }
    Ok(LoaderForecast { ours, first, pins })
}

fn by_systemd_boot(a: &FoundEntry, b: &FoundEntry) -> Ordering {
    match (&a.entry, &b.entry) {
        (Ok(entry_a), Ok(entry_b)) => systemd_boot(sort_fields(a, entry_a), sort_fields(b, entry_b)),
        (a, b) => a.is_err().cmp(&b.is_err()),
    }
}

/// Which loaders left traces in `/boot`; none where it may be any that reads entries by itself.
fn loaders_in_use(boot: &BootDir) -> Result<Vec<Loader>, BootError> {
    let exists = |names: &[&str]| -> Result<bool, BootError> {
        for name in names {
            if boot.dir().exists(name)? {
                return Ok(true);
            }
        }
        Ok(false)
    };
    let mut loaders = Vec::new();
    if exists(&["loader/loader.conf", "loader/random-seed", "EFI/systemd"])? {
        loaders.push(Loader::SystemdBoot);
    }
    if exists(&["grub2"])? {
        loaders.extend([Loader::GrubBlscfg, Loader::Grub]);
    }
    if wants_menu(boot)? {
        loaders.push(Loader::GrubMenu);
    }
    Ok(loaders)
}

/// In the order in which they take effect.
fn read_pins(boot: &BootDir, efivars: Option<&Dir>) -> Result<Vec<(PinSource, String)>, BootError> {
    let mut pins = Vec::new();
    if let Some(efivars) = efivars {
        for (source, variable) in [
            (PinSource::EfiOneShot, "LoaderEntryOneShot"),
            (PinSource::EfiDefault, "LoaderEntryDefault"),
        ] {
            let bytes = efivars.read_optional(format!("{variable}-{LOADER_VENDOR}"), MAX_SETTINGS)?;
            pins.extend(
                bytes
                    .and_then(|bytes| efi_text(&bytes))
                    .map(|text| (source, text)),
            );
        }
    }
    if let Some(text) = read_text(boot.dir(), "loader/loader.conf")? {
        let default = text
            .lines()
            .filter_map(|line| line.trim().split_once([' ', '\t']))
            .filter(|(key, _)| *key == "default")
            .map(|(_, value)| value.trim().to_owned())
            .next_back();
        pins.extend(default.map(|pattern| (PinSource::LoaderConf, pattern)));
    }
    for place in ["grub/grubenv", "grub2/grubenv"] {
        let Some(text) = read_text(boot.dir(), place)? else {
            continue;
        };
        for (source, key) in [
            (PinSource::GrubNext, "next_entry="),
            (PinSource::GrubSaved, "saved_entry="),
        ] {
            let value = text.lines().find_map(|line| line.strip_prefix(key));
            pins.extend(
                value
                    .filter(|value| !value.is_empty())
                    .map(|value| (source, value.to_owned())),
            );
        }
    }
    Ok(pins)
}

fn read_text(dir: &Dir, name: &str) -> Result<Option<String>, BootError> {
    let bytes = dir.read_optional(name, MAX_SETTINGS)?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// An EFI variable as the kernel shows it: four bytes of attributes, then UTF-16 with a final NUL.
fn efi_text(bytes: &[u8]) -> Option<String> {
    let units = bytes
        .get(4..)?
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .take_while(|unit| *unit != 0);
    let text: String = char::decode_utf16(units)
        .map(|c| c.unwrap_or('\u{fffd}'))
        .collect();
    (!text.is_empty()).then_some(text)
}

/// Matches as systemd-boot does: `*`, `?`, `[a-z]`, `\` before a character. Never takes more than the product of both
/// lengths.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut after_star = None;
    loop {
        if p < pattern.len() && pattern[p] == b'*' {
            p += 1;
            after_star = Some((p, t));
            continue;
        }
        let step = match text.get(t) {
            None => (p == pattern.len()).then_some(0),
            Some(byte) => match_one(&pattern[p..], *byte),
        };
        match (step, after_star) {
            (Some(0), _) => return true,
            (Some(len), _) => (p, t) = (p + len, t + 1),
            // The last star takes one more.
            (None, Some((star_p, star_t))) if star_t < text.len() => {
                after_star = Some((star_p, star_t + 1));
                (p, t) = (star_p, star_t + 1);
            }
            (None, _) => return false,
        }
    }
}

/// Returns how many bytes of the pattern match the byte.
fn match_one(pattern: &[u8], byte: u8) -> Option<usize> {
    match *pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'\\', escaped, ..] => (escaped == byte).then_some(2),
        [b'[', ref rest @ ..] => {
            // A bracket right after the opening one is one of the set.
            let end = 1 + rest.get(1..)?.iter().position(|byte| *byte == b']')?;
            let mut set = &rest[..end];
            let mut found = false;
            while let [first, tail @ ..] = set {
                match tail {
                    [b'-', last, tail @ ..] => {
                        found |= (*first..=*last).contains(&byte);
                        set = tail;
                    }
                    _ => {
                        found |= *first == byte;
                        set = tail;
                    }
                }
            }
            found.then_some(end + 2)
        }
        [plain, ..] => (plain == byte).then_some(1),
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A test arranges by path what the library then sees by descriptor.
mod tests {
    use super::*;
    use crate::boot::BootOptions;
    use proptest::prelude::*;
    use std::fs;

    const OLD: &str = "atomos-1-os-000000000000.0.conf";
    const NEW: &str = "atomos-2-os-111111111111.0+3.conf";

    fn boot(files: &[(&str, &str)]) -> (tempfile::TempDir, BootDir) {
        let scratch = tempfile::tempdir().unwrap();
        for (n, name) in [(1, OLD), (2, NEW)] {
            let text = format!("title t\nversion {n}\nsort-key atomos\nlinux /atomos/x/vmlinuz\n");
            write(scratch.path(), &format!("loader/entries/{name}"), text.as_bytes());
        }
        for (name, content) in files {
            write(scratch.path(), name, content.as_bytes());
        }
        let dir = Dir::open_ambient(scratch.path()).unwrap();
        (scratch, BootDir::new(dir, BootOptions::default()).unwrap())
    }

    fn write(root: &std::path::Path, name: &str, content: &[u8]) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn pins_of(files: &[(&str, &str)]) -> (Vec<PinSource>, Vec<PinSource>) {
        let (_scratch, boot) = boot(files);
        let forecast = forecast(&boot, None).unwrap();
        assert_eq!(forecast.ours.as_deref(), Some(NEW));
        let all = forecast.pins.iter().map(|pin| pin.source).collect();
        (all, forecast.contrary_pins().map(|pin| pin.source).collect())
    }

    #[test]
    fn the_newest_is_first_for_every_loader_and_a_bad_one_is_not() {
        let (scratch, boot) = boot(&[]);
        let now = forecast(&boot, None).unwrap();
        assert_eq!((now.ours.as_deref(), now.first.len()), (Some(NEW), 3));
        assert_eq!(now.contrary_first().count() + now.contrary_pins().count(), 0);
        let entries = scratch.path().join("loader/entries");
        fs::rename(entries.join(NEW), entries.join(NEW.replace("+3", "+0-3"))).unwrap();
        write(scratch.path(), "loader/loader.conf", b"timeout 3\n");
        let later = forecast(&boot, None).unwrap();
        assert_eq!(later.ours.as_deref(), Some(OLD));
        assert_eq!(
            later.first,
            [FirstEntry {
                loader: Loader::SystemdBoot,
                file_name: OLD.into()
            }]
        );
    }

    #[test]
    fn a_failed_entry_is_told_of_where_the_loader_takes_it_all_the_same() {
        let (scratch, boot) = boot(&[]);
        let entries = scratch.path().join("loader/entries");
        fs::rename(entries.join(NEW), entries.join(NEW.replace("+3", "+0-3"))).unwrap();
        let contrary = || -> Vec<Loader> {
            let forecast = forecast(&boot, None).unwrap();
            assert_eq!(forecast.ours.as_deref(), Some(OLD));
            forecast.contrary_first().map(|first| first.loader).collect()
        };
        assert_eq!(contrary(), [], "nobody knows which loader it is");
        write(scratch.path(), "grub2/grub.cfg", b"");
        assert_eq!(contrary(), [Loader::GrubBlscfg, Loader::Grub]);
        write(scratch.path(), "grub2/atomos-count.cfg", b"");
        assert_eq!(contrary(), []);
    }

    #[test]
    fn an_entry_of_somebody_else_that_sorts_first_is_told() {
        let foreign = "title Arch\nsort-key arch\nversion 1\nlinux /vmlinuz-linux\n";
        let (_scratch, boot) = boot(&[("loader/entries/zzz.conf", foreign), ("grub2/grub.cfg", "")]);
        let forecast = forecast(&boot, None).unwrap();
        assert_eq!(forecast.ours.as_deref(), Some(NEW));
        let contrary: Vec<_> = forecast.contrary_first().map(|first| first.loader).collect();
        assert_eq!(contrary, [Loader::GrubBlscfg, Loader::Grub]);
    }

    #[test]
    fn pins_are_found_and_those_that_take_something_else_are_told() {
        use PinSource::{GrubNext, GrubSaved, LoaderConf};
        assert_eq!(pins_of(&[]), (vec![], vec![]));
        let conf = |default: &str| format!("timeout 3\n#default x\ndefault {default}\n");
        let loader_conf = |default: &str| pins_of(&[("loader/loader.conf", &conf(default))]);
        assert_eq!(
            loader_conf("atomos-*"),
            (vec![LoaderConf], vec![]),
            "it takes the newest"
        );
        assert_eq!(loader_conf("ATOMOS-2-*.conf"), (vec![LoaderConf], vec![]));
        assert_eq!(loader_conf(OLD), (vec![LoaderConf], vec![LoaderConf]));
        assert_eq!(loader_conf("atomos-1*"), (vec![LoaderConf], vec![LoaderConf]));
        assert_eq!(
            loader_conf("@saved"),
            (vec![LoaderConf], vec![]),
            "it fits no file"
        );
        let env = "# GRUB Environment Block\nsaved_entry=atomos-1-os-000000000000.0\nnext_entry=\n####";
        assert_eq!(
            pins_of(&[("grub2/grubenv", env)]),
            (vec![GrubSaved], vec![GrubSaved])
        );
        let env = "# GRUB Environment Block\nnext_entry=atomos-2-os-111111111111.0\n####";
        assert_eq!(pins_of(&[("grub/grubenv", env)]), (vec![GrubNext], vec![]));
    }

    #[test]
    fn efi_variables_are_read_and_whatever_else_is_in_them_does_no_harm() {
        let (_scratch, boot) = boot(&[]);
        let efivars = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(efivars.path()).unwrap();
        let mut bytes = vec![7, 0, 0, 0];
        bytes.extend(OLD.encode_utf16().chain([0]).flat_map(u16::to_le_bytes));
        write(
            efivars.path(),
            &format!("LoaderEntryDefault-{LOADER_VENDOR}"),
            &bytes,
        );
        write(
            efivars.path(),
            &format!("LoaderEntryOneShot-{LOADER_VENDOR}"),
            &[1, 2, 3],
        );
        let forecast = forecast(&boot, Some(&dir)).unwrap();
        assert_eq!(
            forecast.pins,
            [Pin {
                source: PinSource::EfiDefault,
                pattern: OLD.into(),
                takes: Some(OLD.into())
            }]
        );
        assert_eq!(efi_text(&[0, 0, 0, 0, 0, 0xd8]).as_deref(), Some("\u{fffd}"));
    }

    #[test]
    fn patterns_match_as_in_a_table() {
        for (pattern, text, fits) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("a*c", "abc", true),
            ("a*c", "abcd", false),
            ("a*b*c", "aXbXbYc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[a-c]x", "dx", false),
            ("[]]", "]", true),
            ("[a", "[a", false),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a\\", "a\\", true),
        ] {
            assert_eq!(
                glob(pattern.as_bytes(), text.as_bytes()),
                fits,
                "{pattern} {text}"
            );
        }
    }

    proptest! {
        #[test]
        fn stars_match_what_they_stand_for(parts in proptest::collection::vec("[ab]{0,3}", 1..5), between in "[abc]{0,3}") {
            let text = parts.join(&between);
            prop_assert!(glob(parts.join("*").as_bytes(), text.as_bytes()));
            prop_assert_eq!(glob(text.as_bytes(), text.as_bytes()), true);
            let longer = format!("{text}a");
            prop_assert!(!glob(text.as_bytes(), longer.as_bytes()));
        }

        #[test]
        fn no_pattern_panics(pattern in "[a*?\\[\\]\\\\-]{0,12}", text in "[a\\]-]{0,12}") {
            let _ = glob(pattern.as_bytes(), text.as_bytes());
        }
    }
}
