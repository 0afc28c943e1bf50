//! Account files as lines: those that are records with a key, and all others, which are kept as they are.

use std::collections::{BTreeSet, HashSet};

use serde::{Deserialize, Serialize};

/// Which account file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccountFile {
    /// Accounts.
    Passwd,
    /// Their passwords.
    Shadow,
    /// Groups.
    Group,
    /// Their passwords and administrators.
    Gshadow,
    /// Ranges of user ids that an account may use in containers.
    Subuid,
    /// Ranges of group ids.
    Subgid,
}

impl AccountFile {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Passwd,
        Self::Shadow,
        Self::Group,
        Self::Gshadow,
        Self::Subuid,
        Self::Subgid,
    ];

    /// Returns the name in `/etc`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passwd => "passwd",
            Self::Shadow => "shadow",
            Self::Group => "group",
            Self::Gshadow => "gshadow",
            Self::Subuid => "subuid",
            Self::Subgid => "subgid",
        }
    }

    /// Returns how many fields a record has.
    const fn fields(self) -> usize {
        match self {
            Self::Passwd => 7,
            Self::Shadow => 9,
            Self::Group | Self::Gshadow => 4,
            Self::Subuid | Self::Subgid => 3,
        }
    }

    /// Returns the fields that are numbers and must be for the line to mean anything.
    const fn numbers(self) -> &'static [usize] {
        match self {
            Self::Passwd => &[2, 3],
            Self::Group => &[2],
            Self::Shadow | Self::Gshadow => &[],
            Self::Subuid | Self::Subgid => &[1, 2],
        }
    }

    /// Returns the fields after the key, in groups that are merged as one, with a name for messages.
    pub(super) const fn units(self) -> &'static [Unit] {
        match self {
            Self::Passwd => {
                const {
                    &[
                        Unit::whole("password", &[1]),
                        // A user id with another's group id would be an account that neither side made.
                        Unit::whole("ids", &[2, 3]),
                        Unit::whole("gecos", &[4]),
                        Unit::whole("home", &[5]),
                        Unit::whole("shell", &[6]),
                    ]
                }
            }
            Self::Shadow => {
                const {
                    &[
                        // A day alone is when the image was built, and takes nobody's password away.
                        Unit::dated("password", &[1, 2]),
                        Unit::whole("min-age", &[3]),
                        Unit::whole("max-age", &[4]),
                        Unit::whole("warning", &[5]),
                        Unit::whole("inactivity", &[6]),
                        Unit::whole("expiry", &[7]),
                        Unit::whole("reserved", &[8]),
                    ]
                }
            }
            Self::Group => {
                const {
                    &[
                        Unit::whole("password", &[1]),
                        Unit::whole("gid", &[2]),
                        Unit::set("members", &[3]),
                    ]
                }
            }
            Self::Gshadow => {
                const {
                    &[
                        Unit::whole("password", &[1]),
                        Unit::set("administrators", &[2]),
                        Unit::set("members", &[3]),
                    ]
                }
            }
            Self::Subuid | Self::Subgid => &[],
        }
    }
}

/// Fields of a record that are merged as one.
pub(super) struct Unit {
    pub name: &'static str,
    pub fields: &'static [usize],
    /// Names with commas between them, merged as a set.
    pub is_set: bool,
    /// What comes after the first field says when that was changed, and is no change by itself where the new default alone has another.
    pub is_dated: bool,
}

impl Unit {
    const fn whole(name: &'static str, fields: &'static [usize]) -> Self {
        Self {
            name,
            fields,
            is_set: false,
            is_dated: false,
        }
    }

    const fn dated(name: &'static str, fields: &'static [usize]) -> Self {
        Self {
            name,
            fields,
            is_set: false,
            is_dated: true,
        }
    }

    const fn set(name: &'static str, fields: &'static [usize]) -> Self {
        Self {
            name,
            fields,
            is_set: true,
            is_dated: false,
        }
    }
}

/// A line of an account file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// A record, the first with its key.
    Record { key: &'a [u8], line: &'a [u8] },
    /// A comment, an NIS entry, a second record with a key, garbage: kept to the byte.
    Other(&'a [u8]),
}

impl<'a> Line<'a> {
    pub const fn bytes(self) -> &'a [u8] {
        match self {
            Self::Record { line, .. } | Self::Other(line) => line,
        }
    }
}

/// Splits a file into its lines. A line is a record if its key is new, its fields are as many as they should be, and
/// those that must be numbers are. A range of ids is its own key.
pub(super) fn parse(file: AccountFile, bytes: &[u8]) -> Vec<Line<'_>> {
    let mut seen = HashSet::new();
    crate::etc_merge::lines::split(bytes)
        .into_iter()
        .map(|line| match key_of(file, line) {
            Some(key) if seen.insert(key) => Line::Record { key, line },
            _ => Line::Other(line),
        })
        .collect()
}

/// Returns the key of a line that is a well-formed record, be it the first with its key or not.
pub(super) fn key_of(file: AccountFile, line: &[u8]) -> Option<&[u8]> {
    let fields = fields(line);
    let key = *fields.first()?;
    let is_name = !key.is_empty() && !matches!(key[0], b'#' | b'+' | b'-') && !key.contains(&0);
    let well_formed = fields.len() == file.fields()
        && file
            .numbers()
            .iter()
            .all(|field| number(fields[*field]).is_some());
    match file {
        _ if !is_name || !well_formed => None,
        AccountFile::Subuid | AccountFile::Subgid => Some(line),
        _ => Some(key),
    }
}

pub(super) fn fields(line: &[u8]) -> Vec<&[u8]> {
    line.split(|byte| *byte == b':').collect()
}

/// Parses an id: decimal digits, at most `u32::MAX`.
pub(super) fn number(field: &[u8]) -> Option<u32> {
    if field.is_empty() || !field.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Returns a record with the fields `indexes` of another, where both have them.
pub(super) fn with_fields_of(line: &[u8], other: &[u8], indexes: &[usize]) -> Vec<u8> {
    let (mut merged, other) = (fields(line), fields(other));
    for index in indexes {
        if let (Some(field), Some(value)) = (merged.get_mut(*index), other.get(*index)) {
            *field = value;
        }
    }
    merged.join(&b':')
}

/// Returns field `index` of a record as a number.
pub(super) fn number_at(line: &[u8], index: usize) -> Option<u32> {
    number(fields(line).get(index)?)
}

/// Merges the versions of one record; appends the names of units that both sides changed, where mine stays.
pub(super) fn merge_record(
    file: AccountFile,
    base: Option<&[u8]>,
    mine: &[u8],
    theirs: &[u8],
    conflicts: &mut Vec<&'static str>,
) -> Vec<u8> {
    if mine == theirs || base == Some(theirs) {
        return mine.to_vec();
    }
    if base == Some(mine) {
        return theirs.to_vec();
    }
    let base = base.map(fields);
    let (my, their) = (fields(mine), fields(theirs));
    let mut merged: Vec<Vec<u8>> = my.iter().map(|field| field.to_vec()).collect();
    for unit in file.units() {
        let pick = |fields: &[&[u8]]| -> Vec<Vec<u8>> {
            unit.fields.iter().map(|index| fields[*index].to_vec()).collect()
        };
        let (base, mine, theirs) = (base.as_deref().map(pick), pick(&my), pick(&their));
        let is_kept_there = match &base {
            Some(base) if unit.is_dated && *base != mine => base.first() == theirs.first(),
            base => base.as_ref() == Some(&theirs),
        };
        let value = if mine == theirs || is_kept_there {
            mine
        } else if base.as_ref() == Some(&mine) {
            theirs
        } else if unit.is_set {
            vec![merge_set(
                base.as_ref().map(|base| &base[0][..]),
                &mine[0],
                &theirs[0],
            )]
        } else {
            conflicts.push(unit.name);
            mine
        };
        for (index, field) in unit.fields.iter().zip(value) {
            merged[*index] = field;
        }
    }
    merged.join(&b':')
}

/// Merges lists of names as sets: mine's order, then theirs' new ones; what one side took away goes.
fn merge_set(base: Option<&[u8]>, mine: &[u8], theirs: &[u8]) -> Vec<u8> {
    let names = |list: &'_ [u8]| -> Vec<Vec<u8>> {
        list.split(|byte| *byte == b',')
            .filter(|name| !name.is_empty())
            .map(<[u8]>::to_vec)
            .collect()
    };
    let base: BTreeSet<_> = base.map(names).unwrap_or_default().into_iter().collect();
    let (my, their) = (names(mine), names(theirs));
    let kept = my
        .iter()
        .filter(|name| their.contains(name) || !base.contains(*name));
    let added = their
        .iter()
        .filter(|name| !my.contains(name) && !base.contains(*name));
    kept.chain(added).cloned().collect::<Vec<_>>().join(&b',')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_record_is_kept_as_a_line() {
        let lines = parse(
            AccountFile::Passwd,
            b"root:x:0:0:root:/root:/bin/sh\n# note\n+::::::\nbad:x:0\nroot:x:1:1:::\nneg:x:-1:0:::\n\n\xff:x:5:5:::\n",
        );
        let records: Vec<_> = lines
            .iter()
            .filter_map(|line| match line {
                Line::Record { key, .. } => Some(*key),
                Line::Other(_) => None,
            })
            .collect();
        assert_eq!(records, [&b"root"[..], b"\xff"]);
        assert_eq!(lines.len(), 8);
    }

    #[test]
    fn a_rebuilt_image_s_day_does_not_contend_with_a_password_that_was_set_here() {
        let mut conflicts = Vec::new();
        let mut merge = |mine: &[u8], theirs: &[u8]| {
            let base = b"root:*:19700:0:99999:7:::";
            merge_record(AccountFile::Shadow, Some(base), mine, theirs, &mut conflicts)
        };
        let rebuilt = b"root:*:19707:0:99999:7:::";
        let set = b"root:$6$:19710:0:99999:7:::";
        assert_eq!(merge(set, rebuilt), set);
        // Nothing was changed here.
        assert_eq!(merge(b"root:*:19700:0:99999:7:::", rebuilt), rebuilt);
        // Both set one.
        assert_eq!(merge(set, b"root:$y$:19707:0:99999:7:::"), set);
        assert_eq!(conflicts, ["password"]);
    }

    #[test]
    fn fields_merge_by_unit() {
        let mut conflicts = Vec::new();
        let merged = merge_record(
            AccountFile::Passwd,
            Some(b"a:x:5:5:A:/a:/bin/sh"),
            b"a:x:5:5:A:/a:/bin/zsh",
            b"a:x:5:5:Mr A:/a:/bin/sh",
            &mut conflicts,
        );
        assert_eq!(merged, b"a:x:5:5:Mr A:/a:/bin/zsh");
        assert!(conflicts.is_empty());
        let merged = merge_record(
            AccountFile::Passwd,
            Some(b"a:x:5:5:::"),
            b"a:x:6:5:::",
            b"a:x:5:7:::",
            &mut conflicts,
        );
        assert_eq!(
            merged, b"a:x:6:5:::",
            "a uid of mine with a gid of theirs is nobody's"
        );
        assert_eq!(conflicts, ["ids"]);
    }

    #[test]
    fn members_merge_as_sets() {
        let merged = merge_record(
            AccountFile::Group,
            Some(b"g:x:5:a,b,c"),
            b"g:x:5:c,b,d",
            b"g:x:5:a,c,e",
            &mut Vec::new(),
        );
        assert_eq!(merged, b"g:x:5:c,d,e");
    }
}
