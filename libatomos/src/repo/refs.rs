//! Refs: names of commits.
//!
//! All refs are lines of one file, `<digest> <name>`, sorted by name. Replacing that file is the visible step of every
//! transaction: however many refs it moves, a reader sees all of them moved or none.
//!
//! The first line says how many there are: what a disk has lost must not be taken for no refs, or a pruner would
//! remove everything.

use std::collections::BTreeMap;

use crate::digest::CommitId;
use crate::format::limits;
use crate::fs::{FileLock, LockMode};
use crate::names::RefName;

use super::layout::{REFS, REFS_LOCK};
use super::{Repo, RepoError};

/// Every ref of a repository.
pub type Refs = BTreeMap<RefName, CommitId>;

/// A change of one ref.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefUpdate {
    /// The ref.
    pub name: RefName,
    /// What it must be now; `None` inside for absent. The outer `None` accepts anything.
    pub expected: Option<Option<CommitId>>,
    /// What it is to be; `None` removes it.
    pub new: Option<CommitId>,
}

impl Repo {
    /// Returns every ref.
    pub fn refs(&self) -> Result<Refs, RepoError> {
        let bytes = self.dir().read_optional(REFS, limits::MAX_REFS)?;
        let refs = bytes.map_or_else(|| Err("it is not there".to_owned()), |bytes| parse(&bytes));
        refs.map_err(|reason| RepoError::State {
            path: self.dir().path().join(REFS),
            reason,
        })
    }

    /// Returns the commit that the ref names, or `None` where there is no such ref. An alias names what it points at.
    pub fn ref_optional(&self, name: &RefName) -> Result<Option<CommitId>, RepoError> {
        let refs = self.refs()?;
        if let Some(commit) = refs.get(name) {
            return Ok(Some(*commit));
        }
        let aliases = self.aliases()?;
        let found = super::aliases::follow(&refs, &aliases, name)?;
        Ok(found.and_then(|name| refs.get(name)).copied())
    }

    /// Applies every update or none. Durable on return. Takes the refs' lock.
    ///
    /// # Errors
    /// Among others [`RepoError::PartialCommit`] where a ref would name a commit of which only a part is here: what a ref leads to exists.
    pub fn update_refs(&self, updates: &[RefUpdate]) -> Result<(), RepoError> {
        for update in updates {
            if let Some(commit) = &update.new
                && update.expected != Some(update.new)
            {
                self.check_is_here(commit, b"")?;
            }
        }
        self.move_refs(updates)
    }

    /// As [`update_refs`](Self::update_refs), for a transaction that has made the commits whole: the list of partial ones may not know it
    /// yet.
    pub(super) fn move_refs(&self, updates: &[RefUpdate]) -> Result<(), RepoError> {
        self.check_writable()?;
        let _lock = FileLock::acquire(
            self.dir(),
            REFS_LOCK,
            // Nobody but a writer takes it.
            0o600,
            "the refs",
            LockMode::Exclusive,
            self.lock_timeout,
            |holders| self.lock_notice.waiting("the refs", holders),
        )?;
        let mut refs = self.refs()?;
        let aliases = self.aliases_beside(&refs, updates.iter().map(|update| &update.name))?;
        for update in updates {
            if let Some(target) = aliases.get(&update.name) {
                return Err(RepoError::IsAlias {
                    name: update.name.clone(),
                    target: target.clone(),
                });
            }
            let found = refs.get(&update.name).copied();
            if let Some(expected) = update.expected
                && expected != found
            {
                return Err(RepoError::RefMoved {
                    name: update.name.clone(),
                    expected,
                    found,
                });
            }
            match update.new {
                None => {
                    refs.remove(&update.name);
                }
                Some(commit) => {
                    if let Some(other) = refs
                        .keys()
                        .chain(aliases.keys())
                        .find(|other| other.collides_with(&update.name))
                    {
                        return Err(RepoError::RefCollision {
                            name: update.name.clone(),
                            other: other.clone(),
                        });
                    }
                    refs.insert(update.name.clone(), commit);
                }
            }
        }
        crate::failpoint::hit("refs.write")?;
        self.dir().write_atomic(REFS, &format(&refs), 0o644)?;
        crate::failpoint::hit("refs.sync")?;
        self.dir().sync_fs()?;
        Ok(())
    }
}

/// Returns the bytes of `refs`.
pub(crate) fn format(refs: &Refs) -> Vec<u8> {
    let mut text = String::with_capacity(refs.len() * 100 + 16);
    text.push_str(&format!("refs {}\n", refs.len()));
    for (name, commit) in refs {
        text.push_str(&format!("{commit} {name}\n"));
    }
    text.into_bytes()
}

/// Reads the bytes of `refs`; anything but what a writer would have written is refused.
pub(crate) fn parse(bytes: &[u8]) -> Result<Refs, String> {
    let (count, lines) =
        count_line(bytes).ok_or_else(|| "its first line does not say how many refs there are".to_owned())?;
    let refs = parse_lines(lines, 2, |digest| {
        digest.parse().map_err(|error| format!("{error}"))
    })?;
    if refs.len() != count {
        return Err(format!(
            "it has {} refs, and says that there are {count}",
            refs.len()
        ));
    }
    Ok(refs)
}

/// Splits off the first line of `refs`.
fn count_line(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let digits = std::str::from_utf8(&bytes[..end]).ok()?.strip_prefix("refs ")?;
    let count: usize = digits.parse().ok()?;
    (count.to_string() == digits).then_some((count, &bytes[end + 1..]))
}

/// Reads lines of a value, a space and a name, sorted by name, no name within another. The first of them is line `number`.
pub(super) fn parse_lines<V>(
    bytes: &[u8],
    number: usize,
    value: impl Fn(&str) -> Result<V, String>,
) -> Result<BTreeMap<RefName, V>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    if !text.is_empty() && !text.ends_with('\n') {
        return Err("its last line is cut short".to_owned());
    }
    let mut lines = BTreeMap::new();
    for (index, line) in text.split_terminator('\n').enumerate() {
        let invalid = |reason: String| format!("line {}: {reason}", index + number);
        let (first, name) = line
            .split_once(' ')
            .ok_or_else(|| invalid("there is no space".to_owned()))?;
        let first = value(first).map_err(invalid)?;
        let name: RefName = name.parse().map_err(|error| invalid(format!("{error}")))?;
        if lines.last_key_value().is_some_and(|(last, _)| *last >= name) {
            return Err(invalid("the names are not sorted".to_owned()));
        }
        // A shorter name sorts first, so the ones that this could lie within are there already.
        let within = |(at, _)| {
            name.as_str()[..at]
                .parse()
                .is_ok_and(|outer: RefName| lines.contains_key(&outer))
        };
        if name.as_str().match_indices('/').any(within) {
            return Err(invalid(format!("{name} would have to be a file and a directory")));
        }
        lines.insert(name, first);
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn refs_round_trip() {
        let commit = CommitId::new(Digest::of(b"x"));
        let refs: Refs = ["a", "b/c", "origin:os"]
            .iter()
            .map(|name| (name.parse().unwrap(), commit))
            .collect();
        assert_eq!(parse(&format(&refs)).unwrap(), refs);
    }

    #[test]
    fn damaged_refs_are_refused_with_the_line() {
        let good = String::from_utf8(format(
            &[("a".parse().unwrap(), CommitId::new(Digest::of(b"x")))].into(),
        ))
        .unwrap();
        let line = good.strip_prefix("refs 1\n").unwrap();
        assert!(parse(b"refs 0\n").unwrap().is_empty());
        for bad in [
            good.trim_end().to_owned(),
            good.replace(" a", " ../a"),
            good.replace('\n', "\r\n"),
            format!("refs 2\n{line}{}", line.replace(" a", " a/b")),
            format!("refs 2\n{line}{line}"),
            // Nothing, or less than there was.
            String::new(),
            "refs 1\n".to_owned(),
            good.replace("refs 1", "refs 2"),
            good.replace("refs 1", "refs 0"),
            good.replace("refs 1", "refs 01"),
            good.replace("refs 1", "refs +1"),
            line.to_owned(),
            "x\n".to_owned(),
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(
            parse(format!("refs 2\n{line}zz b\n").as_bytes())
                .unwrap_err()
                .starts_with("line 3")
        );
    }
}
