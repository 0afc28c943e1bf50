//! Aliases: refs that name another ref.
//!
//! They are lines of the file `aliases`, `<target> <name>`, sorted by name. An alias is followed when a revision is resolved, and is never
//! moved: whoever wants another version moves what it points at, and whoever wants it to point elsewhere says so.

use std::collections::BTreeMap;

use crate::format::limits;
use crate::names::RefName;

use super::layout::{ALIASES, REFS_LOCK};
use super::refs::parse_lines;
use super::{Refs, Repo, RepoError};

/// Every alias, and the ref that it points at.
pub type Aliases = BTreeMap<RefName, RefName>;

/// Aliases that are followed one after another.
const MAX_CHAIN: usize = 32;

impl Repo {
    /// Returns every alias.
    pub fn aliases(&self) -> Result<Aliases, RepoError> {
        let bytes = self
            .dir()
            .read_optional(ALIASES, limits::MAX_REFS)?
            .unwrap_or_default();
        parse(&bytes).map_err(|reason| RepoError::Aliases {
            path: self.dir().path().join(ALIASES),
            reason,
        })
    }

    /// Returns every alias, for whoever changes the refs `names`, of which `refs` are those that exist. Aliases that cannot be read
    /// are none where all of `names` exist.
    ///
    /// A ref that exists is no alias, and no alias lies within it or around it: whoever makes the one looks for the other, under one lock.
    /// And where a revision is read, refs are looked at first. So no alias can come to mean something else because a ref that exists
    /// is moved, or is removed: it leads nowhere then, as it does when they can be read. A name that is new may be an alias's,
    /// which it would hide, and what is read under it would silently be another commit.
    pub(super) fn aliases_beside<'n>(
        &self,
        refs: &Refs,
        mut names: impl Iterator<Item = &'n RefName>,
    ) -> Result<Aliases, RepoError> {
        match self.aliases() {
            Err(_) if names.all(|name| refs.contains_key(name)) => Ok(Aliases::new()),
            other => other,
        }
    }

    /// Returns the ref that `name` is in the end: itself, or what the alias leads to.
    ///
    /// # Errors
    /// [`RepoError::AliasLoop`].
    pub fn resolve_alias(&self, name: &RefName) -> Result<RefName, RepoError> {
        let refs = self.refs()?;
        let aliases = self.aliases_beside(&refs, std::iter::once(name))?;
        Ok(follow(&refs, &aliases, name)?.unwrap_or(name).clone())
    }

    /// Fails where `name` is an alias, or would lie within another name or around it: before work is done whose end would be to
    /// move it.
    pub(crate) fn check_can_move(&self, name: &RefName) -> Result<(), RepoError> {
        let refs = self.refs()?;
        let mut aliases = self.aliases_beside(&refs, std::iter::once(name))?;
        if let Some(target) = aliases.remove(name) {
            return Err(RepoError::IsAlias {
                name: name.clone(),
                target,
            });
        }
        let mut taken = refs.keys().chain(aliases.keys());
        match taken.find(|other| other.collides_with(name)) {
            None => Ok(()),
            Some(other) => Err(RepoError::RefCollision {
                name: name.clone(),
                other: other.clone(),
            }),
        }
    }

    /// Makes `name` an alias of `target`, a ref or an alias that exists; or, where there is none, removes the alias. Durable on return. Takes
    /// the refs' lock.
    pub fn set_alias(&self, name: &RefName, target: Option<&RefName>) -> Result<(), RepoError> {
        self.check_writable()?;
        let _lock = self.lock_other(self.dir(), REFS_LOCK, "the refs")?;
        let (refs, mut aliases) = (self.refs()?, self.aliases()?);
        match target {
            None => {
                if aliases.remove(name).is_none() {
                    return Err(RepoError::RefNotFound {
                        name: name.clone(),
                        repo: self.dir().path().to_owned(),
                    });
                }
            }
            Some(target) => {
                let mut taken = refs.keys().chain(aliases.keys().filter(|other| *other != name));
                if let Some(other) = taken.find(|other| *other == name || other.collides_with(name)) {
                    return Err(RepoError::RefCollision {
                        name: name.clone(),
                        other: other.clone(),
                    });
                }
                aliases.insert(name.clone(), target.clone());
                if follow(&refs, &aliases, name)?.is_none() {
                    return Err(RepoError::RefNotFound {
                        name: target.clone(),
                        repo: self.dir().path().to_owned(),
                    });
                }
            }
        }
        crate::failpoint::hit("aliases.write")?;
        self.dir().write_atomic(ALIASES, &format(&aliases), 0o644)?;
        crate::failpoint::hit("aliases.sync")?;
        self.dir().sync_fs()?;
        Ok(())
    }
}

/// Returns the ref that `name` is in the end: itself, or what the alias leads to; `None` where that does not exist.
pub(super) fn follow<'a>(
    refs: &Refs,
    aliases: &'a Aliases,
    name: &'a RefName,
) -> Result<Option<&'a RefName>, RepoError> {
    let mut at = name;
    for _ in 0..=MAX_CHAIN {
        if refs.contains_key(at) {
            return Ok(Some(at));
        }
        match aliases.get(at) {
            Some(next) => at = next,
            None => return Ok(None),
        }
    }
    Err(RepoError::AliasLoop { name: name.clone() })
}

pub(crate) fn format(aliases: &Aliases) -> Vec<u8> {
    let lines = aliases.iter().map(|(name, target)| format!("{target} {name}\n"));
    lines.collect::<String>().into_bytes()
}

/// Reads the bytes of `aliases`; anything but what a writer would have written is refused.
pub(crate) fn parse(bytes: &[u8]) -> Result<Aliases, String> {
    parse_lines(bytes, 1, |target| {
        target.parse().map_err(|error| format!("{error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{CommitId, Digest};

    fn name(text: &str) -> RefName {
        text.parse().unwrap()
    }

    #[test]
    fn aliases_round_trip_and_damage_is_refused() {
        let aliases: Aliases = [
            (name("latest"), name("stable")),
            (name("stable"), name("debian/13")),
        ]
        .into();
        let bytes = format(&aliases);
        assert_eq!(parse(&bytes).unwrap(), aliases);
        let text = String::from_utf8(bytes).unwrap();
        for bad in [
            text.trim_end().to_owned(),
            format!("{text}{text}"),
            "one\n".to_owned(),
            "a ../b\n".to_owned(),
            "x a\nx a/b\n".to_owned(),
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn aliases_are_followed_and_loops_are_named() {
        let refs: Refs = [(name("debian/13"), CommitId::new(Digest::of(b"x")))].into();
        let mut aliases: Aliases = [
            (name("latest"), name("stable")),
            (name("stable"), name("debian/13")),
            (name("gone"), name("debian/12")),
        ]
        .into();
        assert_eq!(
            follow(&refs, &aliases, &name("latest")).unwrap(),
            Some(&name("debian/13"))
        );
        assert_eq!(follow(&refs, &aliases, &name("gone")).unwrap(), None);
        aliases.insert(name("stable"), name("latest"));
        assert!(matches!(
            follow(&refs, &aliases, &name("latest")),
            Err(RepoError::AliasLoop { .. })
        ));
    }
}
