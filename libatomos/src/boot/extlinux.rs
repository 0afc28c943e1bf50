//! What U-Boot reads: `extlinux.conf`.
//!
//! Nothing here writes it. A hook (`bootloader-hooks/extlinux`) asks for the text and puts it where the board's U-Boot looks;
//! it is derived from the entries, as they are derived from the truth.

use std::fmt::Write;

use super::bls::BlsEntry;
use super::name::EntryName;
use super::{BootDir, BootError};

/// Which entry is the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ExtlinuxDefault {
    /// The one to boot: the newest that is not bad.
    #[default]
    Newest,
    /// The one to take when that one has failed: the newest below it that is not on trial, or else that is not bad.
    Alternative,
}

/// Returns a configuration with all our entries that can be booted, the default first. Empty where there are none.
///
/// Values are to the end of a line there, and none of an entry's has a line of its own.
pub fn extlinux_conf(boot: &BootDir, default: ExtlinuxDefault) -> Result<String, BootError> {
    let found = boot.list_entries()?;
    let left = boot.tries_left_of(&found)?;
    let mut entries: Vec<(&EntryName, &BlsEntry)> = found
        .iter()
        .filter_map(|found| Some((found.name.as_ref()?, found.entry.as_ref().ok()?)))
        .filter(|(_, entry)| entry.linux().is_some())
        .collect();
    let is_bad = |name: &EntryName| left.get(&name.n) == Some(&0);
    entries.sort_by_key(|(name, _)| (is_bad(name), std::cmp::Reverse(name.n)));
    if default == ExtlinuxDefault::Alternative && entries.len() > 1 {
        let sound = |(name, _): &(&EntryName, &BlsEntry)| !left.contains_key(&name.n);
        let not_bad = |(name, _): &(&EntryName, &BlsEntry)| !is_bad(name);
        let others = &entries[1..];
        let other = others
            .iter()
            .position(sound)
            .or_else(|| others.iter().position(not_bad));
        // What has failed is no way back from anything: U-Boot would take it for ever.
        if let Some(other) = other {
            entries[..=other + 1].rotate_right(1);
        }
    }
    let mut text = String::new();
    let mut line = |key: &str, value: &str| {
        writeln!(text, "{key} {value}").expect("a string takes what is written to it");
    };
    for (position, (name, entry)) in entries.iter().enumerate() {
        let label = name.key();
        if position == 0 {
            line("default", &label);
        }
        line("label", &label);
        line("  menu label", entry.title().unwrap_or(&label));
        line("  linux", entry.linux().unwrap_or_default());
        for initrd in entry.initrds() {
            line("  initrd", initrd);
        }
        for (key, theirs) in [("devicetree", "fdt"), ("fdtdir", "fdtdir")] {
            if let Some(path) = entry.get(key) {
                line(&format!("  {theirs}"), path);
            }
        }
        line("  append", &entry.options());
    }
    Ok(text)
}
