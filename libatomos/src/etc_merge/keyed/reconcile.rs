//! Making the merged account files agree with each other.
//!
//! Each step keeps what is here and takes from theirs; a record that was withheld is not added again, and one that
//! was restored from mine is not withheld, so the steps come to an end.

use std::collections::{BTreeMap, BTreeSet};

use crate::etc_merge::path::escape;

use super::table::{AccountFile, fields, number, number_at, with_fields_of};
use super::{Found, KeyedConflict, Table};

type Tables<'v> = BTreeMap<AccountFile, Table<'v>>;

/// The field of an id in `passwd` and `group`.
const ID: usize = 2;
/// The field of the primary group in `passwd`.
const PRIMARY_GROUP: usize = 3;

pub(super) fn reconcile(tables: &mut Tables<'_>, found: &mut Found) {
    loop {
        let mut changed = false;
        for file in [AccountFile::Group, AccountFile::Passwd] {
            if let Some(table) = tables.get_mut(&file) {
                changed |= same_ids(table, found);
            }
        }
        changed |= kept_group_ids(tables, found);
        changed |= primary_groups(tables, found);
        changed |= pairs(tables, found, AccountFile::Passwd, AccountFile::Shadow);
        changed |= pairs(tables, found, AccountFile::Group, AccountFile::Gshadow);
        if !changed {
            break;
        }
    }
    for file in [AccountFile::Subuid, AccountFile::Subgid] {
        if let Some(table) = tables.get_mut(&file) {
            ranges(table, found);
        }
    }
}

/// Withholds what would share an id with somebody here.
fn same_ids<'v>(table: &mut Table<'v>, found: &mut Found) -> bool {
    let mut by_id: BTreeMap<u32, Vec<&'v [u8]>> = BTreeMap::new();
    for (key, line) in &table.result {
        if let Some(id) = number_at(line, ID) {
            by_id.entry(id).or_default().push(key);
        }
    }
    let has = |records: &super::Records<'_>, key: &[u8], id: u32| {
        records.get(key).and_then(|line| number_at(line, ID)) == Some(id)
    };
    let mut changed = false;
    for (id, keys) in by_id.into_iter().filter(|(_, keys)| keys.len() > 1) {
        let (mine, theirs): (Vec<_>, Vec<_>) =
            keys.iter().copied().partition(|key| has(&table.mine, key, id));
        for their_key in &theirs {
            // Upstream gives the id to several, and did not take it from anybody here.
            let shared = mine.iter().all(|key| has(&table.theirs, key, id));
            if shared {
                found.add(
                    table.file,
                    KeyedConflict::SharedId {
                        id,
                        keys: keys.iter().map(|key| escape(key)).collect(),
                    },
                );
                continue;
            }
            found.add(
                table.file,
                KeyedConflict::SameId {
                    id,
                    mine: escape(mine.first().copied().unwrap_or_default()),
                    theirs: escape(their_key),
                },
            );
            match table.mine.get(their_key) {
                Some(line) => table.result.insert(their_key, line.to_vec()),
                None => table.result.remove(their_key),
            };
            changed = true;
        }
    }
    changed
}

fn by_id<'v>(records: &super::Records<'v>) -> BTreeMap<u32, &'v [u8]> {
    records
        .iter()
        .filter_map(|(key, line)| Some((number_at(line, ID)?, *key)))
        .collect()
}

/// Keeps the ids of groups that are the primary ones of accounts made here, which know them by that id alone, and those of accounts whose
/// new primary group did not get the id that the new default has for it.
fn kept_group_ids<'v>(tables: &mut Tables<'v>, found: &mut Found) -> bool {
    let Some(mut groups) = tables.remove(&AccountFile::Group) else {
        return false;
    };
    let mut changed = false;
    if let Some(accounts) = tables.get_mut(&AccountFile::Passwd) {
        let (my_groups, their_groups) = (by_id(&groups.mine), by_id(&groups.theirs));
        let gid_in = |records: &super::Records<'_>, key: &[u8]| {
            records.get(key).and_then(|line| number_at(line, PRIMARY_GROUP))
        };
        for (key, line) in &mut accounts.result {
            let (Some(gid), Some(mine)) = (number_at(line, PRIMARY_GROUP), accounts.mine.get(key)) else {
                continue;
            };
            let conflict = KeyedConflict::PrimaryGroup {
                key: escape(key),
                gid,
            };
            if !accounts.theirs.contains_key(key) {
                if let Some(group) = my_groups.get(&gid)
                    && let Some(line) = groups.mine.get(group)
                    && let Some(merged) = groups.result.get_mut(group)
                    && number_at(merged, ID) != Some(gid)
                {
                    *merged = with_fields_of(merged, line, &[ID]);
                    found.add(AccountFile::Group, conflict);
                    changed = true;
                }
            } else if gid_in(&accounts.mine, key) != Some(gid)
                && gid_in(&accounts.theirs, key) == Some(gid)
                && let Some(group) = their_groups.get(&gid)
                && let merged = groups.result.get(group)
                && merged.and_then(|merged| number_at(merged, ID)) != Some(gid)
            {
                *line = with_fields_of(line, mine, &[ID, PRIMARY_GROUP]);
                found.add(AccountFile::Passwd, conflict);
                changed = true;
            }
        }
    }
    tables.insert(AccountFile::Group, groups);
    changed
}

/// Withholds accounts of theirs whose primary group is another here, and keeps the groups that accounts of mine have.
fn primary_groups(tables: &mut Tables<'_>, found: &mut Found) -> bool {
    let Some(mut groups) = tables.remove(&AccountFile::Group) else {
        return false;
    };
    let mut changed = false;
    if let Some(accounts) = tables.get_mut(&AccountFile::Passwd) {
        let (my_groups, their_groups) = (by_id(&groups.mine), by_id(&groups.theirs));
        let mut here: BTreeSet<(u32, &[u8])> = groups
            .result
            .iter()
            .filter_map(|(key, line)| Some((number_at(line, ID)?, *key)))
            .collect();
        let mut withheld = Vec::new();
        for (key, line) in &accounts.result {
            let Some(gid) = number_at(line, PRIMARY_GROUP) else {
                continue;
            };
            let taken = here
                .range((gid, &[][..])..)
                .next()
                .is_some_and(|(id, _)| *id == gid);
            if !accounts.mine.contains_key(key) {
                if let Some(group) = their_groups.get(&gid)
                    && taken
                    && !here.contains(&(gid, group))
                {
                    withheld.push((*key, gid));
                }
            } else if !accounts.theirs.contains_key(key)
                && !taken
                && let Some(group) = my_groups.get(&gid)
                && let Some((group, line)) = groups.mine.get_key_value(group)
                && !groups.result.contains_key(group)
            {
                found.add(
                    AccountFile::Group,
                    KeyedConflict::DeletedThere { key: escape(group) },
                );
                groups.result.insert(group, line.to_vec());
                here.insert((gid, group));
                changed = true;
            }
        }
        for (key, gid) in withheld {
            found.add(
                AccountFile::Passwd,
                KeyedConflict::PrimaryGroup {
                    key: escape(key),
                    gid,
                },
            );
            accounts.result.remove(key);
            changed = true;
        }
    }
    tables.insert(AccountFile::Group, groups);
    changed
}

/// Keeps what is in both files of a pair in both or in neither.
fn pairs(tables: &mut Tables<'_>, found: &mut Found, first: AccountFile, second: AccountFile) -> bool {
    // Without its pair a file stands by itself.
    if !tables.contains_key(&second) {
        return false;
    }
    let (Some(mut names), Some(secrets)) = (tables.remove(&first), tables.get_mut(&second)) else {
        return false;
    };
    let mut changed = false;
    let keys: BTreeSet<_> = names
        .result
        .keys()
        .chain(secrets.result.keys())
        .copied()
        .collect();
    for key in keys {
        let here = names.mine.contains_key(key);
        match (names.result.contains_key(key), secrets.result.contains_key(key)) {
            (true, false) => {
                let side = if here { &secrets.mine } else { &secrets.theirs };
                if let Some((key, line)) = side.get_key_value(key) {
                    secrets.result.insert(key, line.to_vec());
                    changed = true;
                }
            }
            (false, true) => {
                let (mine, base) = (secrets.mine.get(key), secrets.base.get(key));
                if let Some((name, line)) = names.mine.get_key_value(key) {
                    // Gone from the new default; but somebody here changed its password.
                    if mine.is_some() && mine != base {
                        found.add(first, KeyedConflict::DeletedThere { key: escape(key) });
                        names.result.insert(name, line.to_vec());
                        changed = true;
                    }
                } else if mine.is_none() && names.theirs.contains_key(key) {
                    secrets.result.remove(key);
                    changed = true;
                }
            }
            _ => {}
        }
    }
    tables.insert(first, names);
    changed
}

/// Withholds ranges of theirs that overlap one of mine.
fn ranges(table: &mut Table<'_>, found: &mut Found) {
    let range = |line: &[u8]| -> Option<(u64, u64)> {
        let fields = fields(line);
        let start = u64::from(number(fields.get(1)?)?);
        Some((start, start + u64::from(number(fields.get(2)?)?)))
    };
    let (mine, theirs): (Vec<&[u8]>, Vec<&[u8]>) =
        table.result.keys().partition(|key| table.mine.contains_key(*key));
    for new in theirs {
        let Some((start, end)) = range(new) else {
            continue;
        };
        let overlaps = mine.iter().find(|line| {
            range(line).is_some_and(|(mine_start, mine_end)| start < mine_end && mine_start < end)
        });
        if let Some(line) = overlaps {
            found.add(
                table.file,
                KeyedConflict::Range {
                    mine: escape(line),
                    theirs: escape(new),
                },
            );
            table.result.remove(new);
        }
    }
}
