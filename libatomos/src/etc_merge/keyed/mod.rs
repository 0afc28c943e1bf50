//! Merging accounts: `passwd`, `shadow`, `group`, `gshadow`, `subuid`, `subgid`.
//!
//! These six are one database. Both the person (`useradd`) and the new version (a package's system user) append to
//! all of them, so as plain files they conflict at the first upgrade, and each by itself may end up at odds with the
//! others. Here records merge by key, field by field, members of groups as sets, in the order they have here with new
//! ones at the end; then the files are made to agree with each other (`reconcile`). A line that is no record is kept
//! to the byte.
//!
//! What is here wins, and every case in which it did is reported. Two accounts never come to have one id silently:
//! theirs is withheld, and so is one whose primary group would be somebody else's here.
//!
//! Conflicts name keys and fields, never values: the values are passwords.

mod lock;
mod reconcile;
mod renumber;
mod table;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::{Deserialize, Serialize};

use crate::fs::FsError;

use super::MergeInput;
use super::path::{EtcPath, escape};
use super::planner::{Text, read_text};

pub use lock::AccountsLock;
pub(super) use lock::LOCK_FILE;
pub use renumber::Renumbered;
pub(super) use renumber::renumbered;
pub use table::AccountFile;
use table::{Line, key_of, merge_record, parse};

/// A record that both sides changed in ways that exclude each other. Keys are escaped as paths are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "conflict", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum KeyedConflict {
    /// Both changed the same fields. Mine stay.
    Fields {
        /// The account or group.
        key: String,
        /// Which fields.
        fields: Vec<String>,
    },
    /// Deleted here and changed in the new default. It stays deleted.
    DeletedHere {
        /// The account, group or range.
        key: String,
    },
    /// Changed here, or needed by what is here, and not in the new default any more. Mine stays.
    DeletedThere {
        /// The account, group or range.
        key: String,
    },
    /// The new default gives an id to one that belongs to another here. Theirs is withheld, or keeps the id that it
    /// had.
    SameId {
        /// The uid or gid.
        id: u32,
        /// Whose it is here.
        mine: String,
        /// Whose it is in the new default.
        theirs: String,
    },
    /// The new default gives one id to several. They are as it has them.
    SharedId {
        /// The uid or gid.
        id: u32,
        /// Whose it is.
        keys: Vec<String>,
    },
    /// The primary group of an account would be another than is meant. In `passwd`: an account of the new default is withheld, and one
    /// that is here keeps its ids. In `group`: the primary group of an account made here keeps its id.
    PrimaryGroup {
        /// The account.
        key: String,
        /// The group's id.
        gid: u32,
    },
    /// A range of the new default is withheld: it overlaps one that is here.
    Range {
        /// The line that is here.
        mine: String,
        /// The line that is withheld.
        theirs: String,
    },
}

/// A merged file.
#[derive(Debug)]
pub(super) struct KeyedFile {
    pub bytes: Vec<u8>,
    pub conflicts: Vec<KeyedConflict>,
}

/// Bytes in an account file: some 200,000 accounts. A larger one is merged as any other file.
const MAX_FILE: usize = 16 * 1024 * 1024;

/// The three versions of one file.
#[derive(Debug, Default, Clone)]
pub(super) struct Versions {
    pub base: Vec<u8>,
    pub mine: Vec<u8>,
    pub theirs: Vec<u8>,
}

/// Merges the account files of the three directories; has those whose merge is not simply one side.
pub(super) fn merge_files(input: &MergeInput<'_>) -> Result<BTreeMap<&'static str, KeyedFile>, FsError> {
    let mut versions = BTreeMap::new();
    for file in AccountFile::ALL {
        let path = EtcPath::root().join(file.name().as_bytes());
        if input.policies.find(&path).is_some() {
            continue;
        }
        let base = match read_text(input.base, &path, MAX_FILE)? {
            Text::Bytes(bytes) => bytes,
            Text::NoFile => Vec::new(),
            Text::TooLarge => continue,
        };
        if let (Text::Bytes(mine), Text::Bytes(theirs)) = (
            read_text(input.mine, &path, MAX_FILE)?,
            read_text(input.theirs, &path, MAX_FILE)?,
        ) {
            versions.insert(file, Versions { base, mine, theirs });
        }
    }
    Ok(merge_versions(&versions)
        .into_iter()
        .map(|(file, merged)| (file.name(), merged))
        .collect())
}

/// Returns the merged bytes of the file at `path`, if it is one that is merged.
pub(super) fn merged_file(input: &MergeInput<'_>, path: &EtcPath) -> Result<Option<Vec<u8>>, FsError> {
    let mut files = merge_files(input)?;
    let name = std::str::from_utf8(path.as_bytes()).unwrap_or_default();
    Ok(files.remove(name).map(|file| file.bytes))
}

/// The pure part of [`merge_files`].
pub(super) fn merge_versions(versions: &BTreeMap<AccountFile, Versions>) -> BTreeMap<AccountFile, KeyedFile> {
    let any = |differ: fn(&Versions) -> bool| versions.values().any(differ);
    if !any(|v| v.mine != v.base) || !any(|v| v.theirs != v.base) || !any(|v| v.mine != v.theirs) {
        return BTreeMap::new();
    }
    let mut found = Found::default();
    let mut tables: BTreeMap<_, _> = versions
        .iter()
        .map(|(file, versions)| (*file, Table::merge(*file, versions, &mut found)))
        .collect();
    reconcile::reconcile(&mut tables, &mut found);
    tables
        .into_iter()
        .filter_map(|(file, table)| {
            let versions = &versions[&file];
            let conflicts: Vec<_> = found.0.remove(&file).unwrap_or_default().into_iter().collect();
            let bytes = table.into_bytes(versions);
            let one_side = versions.mine == versions.theirs && bytes == versions.mine
                || bytes == versions.theirs && versions.mine == versions.base
                || bytes == versions.mine && versions.theirs == versions.base;
            (!one_side || !conflicts.is_empty()).then_some((file, KeyedFile { bytes, conflicts }))
        })
        .collect()
}

/// Conflicts by file, each once.
#[derive(Default)]
struct Found(BTreeMap<AccountFile, BTreeSet<KeyedConflict>>);

impl Found {
    fn add(&mut self, file: AccountFile, conflict: KeyedConflict) {
        self.0.entry(file).or_default().insert(conflict);
    }
}

type Records<'v> = BTreeMap<&'v [u8], &'v [u8]>;

/// One file while it is merged: the records by key, of each side and of the result.
struct Table<'v> {
    file: AccountFile,
    base: Records<'v>,
    mine: Records<'v>,
    theirs: Records<'v>,
    result: BTreeMap<&'v [u8], Vec<u8>>,
}

fn records(file: AccountFile, bytes: &[u8]) -> Records<'_> {
    parse(file, bytes)
        .into_iter()
        .filter_map(|line| match line {
            Line::Record { key, line } => Some((key, line)),
            Line::Other(_) => None,
        })
        .collect()
}

impl<'v> Table<'v> {
    fn merge(file: AccountFile, versions: &'v Versions, found: &mut Found) -> Self {
        let mut table = Self {
            file,
            base: records(file, &versions.base),
            mine: records(file, &versions.mine),
            theirs: records(file, &versions.theirs),
            result: BTreeMap::new(),
        };
        let keys: BTreeSet<_> = table.mine.keys().chain(table.theirs.keys()).copied().collect();
        // A second record that was added here would take the place of the first.
        let doubled: BTreeSet<_> = parse(file, &versions.mine)
            .iter()
            .filter_map(|line| match line {
                Line::Other(line) => key_of(file, line),
                Line::Record { .. } => None,
            })
            .collect();
        for key in keys {
            let base = table.base.get(key).copied();
            let merged = match (table.mine.get(key), table.theirs.get(key)) {
                (Some(mine), Some(theirs)) => {
                    let mut fields = Vec::new();
                    let merged = merge_record(file, base, mine, theirs, &mut fields);
                    if !fields.is_empty() {
                        found.add(
                            file,
                            KeyedConflict::Fields {
                                key: escape(key),
                                fields: fields.into_iter().map(str::to_owned).collect(),
                            },
                        );
                    }
                    Some(merged)
                }
                (Some(mine), None) if base == Some(mine) && !doubled.contains(key) => None,
                (Some(mine), None) => {
                    if base.is_some() {
                        found.add(file, KeyedConflict::DeletedThere { key: escape(key) });
                    }
                    Some(mine.to_vec())
                }
                (None, Some(theirs)) if base.is_none() => Some(theirs.to_vec()),
                (None, Some(theirs)) => {
                    if base != Some(theirs) {
                        found.add(file, KeyedConflict::DeletedHere { key: escape(key) });
                    }
                    None
                }
                (None, None) => None,
            };
            if let Some(merged) = merged {
                table.result.insert(key, merged);
            }
        }
        table
    }

    /// Returns whether a line that is no record stays none: a second record with a key would become the first if the
    /// first is withheld.
    fn stands_second(&self, line: &[u8]) -> bool {
        key_of(self.file, line).is_none_or(|key| self.result.contains_key(key))
    }

    /// Puts the result in order: that of mine, or of theirs if nothing was changed here, then what the other side has
    /// more, before entries that include NIS, which take all that comes after them.
    fn into_bytes(self, versions: &Versions) -> Vec<u8> {
        let first_is_mine = versions.mine != versions.base;
        let (first, second) = if first_is_mine {
            (&versions.mine, &versions.theirs)
        } else {
            (&versions.theirs, &versions.mine)
        };
        let lines_of = |bytes: &'_ [u8]| -> HashSet<Vec<u8>> {
            super::lines::split(bytes)
                .into_iter()
                .map(<[u8]>::to_vec)
                .collect()
        };
        let (old, here, there) = (lines_of(&versions.base), lines_of(first), lines_of(second));
        let is_blank = |line: &[u8]| line.iter().all(u8::is_ascii_whitespace);

        let mut emitted = BTreeSet::new();
        let mut lines: Vec<&[u8]> = Vec::new();
        let first_lines = parse(self.file, first);
        for line in &first_lines {
            match line {
                Line::Record { key, .. } => {
                    if let Some(record) = self.result.get(key) {
                        emitted.insert(*key);
                        lines.push(record);
                    }
                }
                Line::Other(line) => {
                    let taken_away = old.contains(*line) && !there.contains(*line) && !is_blank(line);
                    if !taken_away && (first_is_mine || self.stands_second(line)) {
                        lines.push(line);
                    }
                }
            }
        }
        let (mut added, mut others): (Vec<&[u8]>, Vec<&[u8]>) = (Vec::new(), Vec::new());
        for line in parse(self.file, second) {
            match line {
                Line::Record { key, .. } => {
                    if let Some(record) = self.result.get(key)
                        && emitted.insert(key)
                    {
                        added.push(record);
                    }
                }
                Line::Other(line) => {
                    let is_new = !is_blank(line) && !old.contains(line) && !here.contains(line);
                    if is_new && (!first_is_mine || self.stands_second(line)) {
                        others.push(line);
                    }
                }
            }
        }
        if added.is_empty()
            && others.is_empty()
            && first_lines
                .iter()
                .map(|line| line.bytes())
                .eq(lines.iter().copied())
        {
            return first.clone();
        }
        let nis = lines
            .iter()
            .position(|line| line.starts_with(b"+") || line.starts_with(b"-"))
            .unwrap_or(lines.len());
        lines.splice(nis..nis, added);
        lines.extend(others);
        super::lines::join(&lines)
    }
}

#[cfg(test)]
mod tests;
