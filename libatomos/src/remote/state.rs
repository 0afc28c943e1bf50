//! What this machine has seen of a remote: `remotes/<name>.state` in the repository.
//!
//! It is what tells an old record from a new one, so it must survive restarts and rollbacks of the system. It is written
//! durably before anything that it vouches for is used.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::digest::{CommitId, Digest};
use crate::fs::{Dir, FileLock};
use crate::names::RefName;
use crate::repo::{Repo, RepoError};
use crate::sign::TrustedKeys;

use super::{REMOTES, RemoteConfig, RemoteError, RemoteName};

/// Held while a remote, or what was seen of it, is changed. No remote's file ends like this.
const LOCK: &str = "lock";

/// Bytes in a remembered state.
const MAX_STATE: usize = 16 * 1024 * 1024;

/// Bytes of an ETag that is worth remembering. Servers refuse headers that are too long.
const MAX_ETAG: usize = 256;

/// Seconds for which a server is asked only whether a record has changed. Whoever forged the record's ETag once keeps a
/// machine from newer ones no longer than this.
const MAX_UNFETCHED: i64 = 24 * 3600;

/// What was seen of one ref.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SeenRef {
    /// The newest record, as it was served. It is verified again when it is used.
    pub record: String,
    /// Key set and sequence of that record: what orders records.
    pub order: (u64, u64),
    /// The mirror that the record came from, and how it called it: asks for it only if it has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<(String, String)>,
    /// When the record last came, in seconds since 1970: that it has not changed is not believed for ever.
    #[serde(default)]
    pub fetched: i64,
    /// The numbers of releases that were pulled under this key set, by commit.
    #[serde(default)]
    pub releases: BTreeMap<CommitId, u64>,
}

impl SeenRef {
    /// Notes that the record came at `now`, from `site`, which calls it `etag`.
    pub(crate) fn note_fetched(&mut self, now: i64, site: &str, etag: Option<&str>) {
        self.etag = etag
            .filter(|tag| tag.len() <= MAX_ETAG)
            .map(|tag| (site.to_owned(), tag.to_owned()));
        // Without a tag it comes each time, and that is nothing to write down.
        self.fetched = self.etag.as_ref().map_or(0, |_| now);
    }

    /// Returns the mirror that is to be asked only whether the record has changed, and how it called it. `None` where the
    /// record is to come again.
    pub(crate) fn condition(&self, now: i64) -> Option<(&str, &str)> {
        let is_recent = (0..MAX_UNFETCHED).contains(&now.saturating_sub(self.fetched));
        self.etag
            .as_ref()
            // Of a program that remembered any length.
            .filter(|(_, tag)| is_recent && tag.len() <= MAX_ETAG)
            .map(|(site, tag)| (site.as_str(), tag.as_str()))
    }
}

/// What was seen of a remote.
///
/// What a newer program has written besides is passed over, and not kept: the version that a machine goes back to has to be able to
/// upgrade it again. So whatever is added must be safe to lose.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RemoteState {
    /// The repository's id. Another one's records are refused, whoever signed them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The newest key set of the chain that begins with the keys that a person gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<TrustedKeys>,
    /// Which keys a person had given when the chain began: the digest of the set that they make, whatever their order and
    /// encoding. Files of programs that did not note it have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<Digest>,
    /// The latest time that a believed record of this key set was signed at, in seconds since 1970.
    pub newest_time: i64,
    /// By ref.
    pub refs: BTreeMap<RefName, SeenRef>,
}

impl RemoteState {
    pub(super) fn file_name(name: &RemoteName) -> String {
        format!("{name}.state")
    }

    /// Reads what was seen of `name`; nothing, where there is no file.
    pub fn load(repo: &Repo, name: &RemoteName) -> Result<Self, RemoteError> {
        let Some(dir) = repo.dir().open_dir_optional(REMOTES).map_err(RepoError::from)? else {
            return Ok(Self::default());
        };
        let file = Self::file_name(name);
        let Some(bytes) = dir.read_optional(&file, MAX_STATE).map_err(RepoError::from)? else {
            return Ok(Self::default());
        };
        let damaged = |reason| RemoteError::DamagedState {
            path: dir.path().join(&file),
            reason,
        };
        // An array would do as well, and an empty one would say that nothing was seen.
        if bytes.first() != Some(&b'{') {
            return Err(damaged("it is no JSON object".to_owned()));
        }
        let state: Self = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if let Some(keys) = &state.keys {
            keys.set().check().map_err(|error| damaged(error.to_string()))?;
        }
        Ok(state)
    }

    /// Remembers all of this besides what another process may have written meanwhile: of two, the newer stays, and a lock, exclusive, sees to it
    /// that neither forgets what the other has seen. Returns what is known then. Durable on return.
    ///
    /// # Errors
    /// [`RemoteError::Replaced`] or [`RemoteError::NotFound`] where the remote has other keys by now, or is gone: what was
    /// learnt under keys that a person took back must not be there again. Nothing is written then.
    pub fn remember(&self, repo: &Repo, name: &RemoteName) -> Result<Self, RemoteError> {
        repo.check_writable()?;
        let _lock = lock(repo)?;
        let pinned = self.check_pinned(repo, name)?;
        let before = Self::load(repo, name)?;
        let mut state = before.clone();
        // It may be that of keys that stood in the file before.
        state.begin_with(pinned);
        // It is that of the keys of now, as was looked at.
        state.pinned = self.pinned;
        state.merge(self);
        if state != before {
            state.save(repo, name)?;
        }
        Ok(state)
    }

    /// Returns the keys that a person gives for `name` now, which must be those that this began with.
    pub(crate) fn check_pinned(
        &self,
        repo: &Repo,
        name: &RemoteName,
    ) -> Result<Option<TrustedKeys>, RemoteError> {
        let pinned = RemoteConfig::load(repo, name)?.pinned(repo, name)?;
        if pinned.as_ref().map(digest_of) != self.pinned {
            return Err(RemoteError::Replaced { name: name.clone() });
        }
        Ok(pinned)
    }

    /// Begins anew where `pinned`, the keys that a person gives (`None` with `no-verify`), are not those that this began
    /// with: a key that was taken out counts no more, nor does what it vouched for. Returns whether something that counted
    /// is forgotten. A newer set than the one that was followed to is gone over to, and nothing is forgotten.
    pub fn begin_with(&mut self, pinned: Option<TrustedKeys>) -> bool {
        let Some(pinned) = pinned else {
            let forgets = self.keys.is_some();
            if forgets {
                *self = Self::default();
            }
            return forgets;
        };
        let digest = digest_of(&pinned);
        let Some(keys) = &self.keys else {
            // Nobody vouched for what was seen.
            self.refs.clear();
            self.keys = Some(pinned);
            self.pinned = Some(digest);
            return false;
        };
        if self.pinned == Some(digest) {
            return false;
        }
        // A set says of which repository it is. What was seen of another one is nothing that it could be newer than.
        let given_for = Some(&pinned.set().repository).filter(|id| !id.is_empty());
        let is_elsewhere =
            self.repository.is_some() && given_for.is_some_and(|id| Some(id) != self.repository.as_ref());
        let is_newer = !is_elsewhere && keys.number() < pinned.number();
        // Of a file that does not say what it began with; or a person vouches for the set that the chain had led to.
        let is_same = digest_of(keys) == digest;
        if self.pinned.is_none() && keys.number() > pinned.number() && !is_elsewhere {
            // Nobody noted what this began with. Whoever asks the site has it shown that the chain leads from these keys to the set in
            // use, which counts meanwhile: keys of before it may have been stolen.
            return false;
        }
        if is_newer {
            self.go_over_to(pinned);
        } else if !is_same {
            *self = Self {
                keys: Some(pinned),
                ..Self::default()
            };
        }
        self.pinned = Some(digest);
        !(is_newer || is_same)
    }

    /// Notes that the chain to the set in use was followed from `pinned`.
    pub(crate) fn note_beginning(&mut self, pinned: &TrustedKeys) {
        self.pinned = Some(digest_of(pinned));
    }

    /// Returns whether `before` knew as much: at most when and by which names records came is different.
    pub(crate) fn is_known_to(&self, before: &Self) -> bool {
        let knowledge = |state: &Self| {
            let mut state = state.clone();
            state.pinned = None;
            for seen in state.refs.values_mut() {
                seen.etag = None;
                seen.fetched = 0;
            }
            state
        };
        knowledge(self) == knowledge(before)
    }

    /// Goes over to a key set. What the set before it vouched for beside the order of records is forgotten: whoever stole
    /// its keys may have run the clock and the numbers of releases forward, as the counter. How late it was when the set was
    /// made is what its root keys signed; that is all that is left of a clock that was ahead of it.
    pub fn go_over_to(&mut self, keys: TrustedKeys) {
        if self.keys.as_ref().is_some_and(|old| old.number() < keys.number()) {
            self.newest_time = self.newest_time.min(keys.set().time);
            for seen in self.refs.values_mut() {
                seen.releases.clear();
            }
        }
        self.keys = Some(keys);
    }

    /// Takes over from `other` what is newer there, or as new.
    fn merge(&mut self, other: &Self) {
        if self.repository.is_none() {
            self.repository.clone_from(&other.repository);
        }
        let number = |state: &Self| state.keys.as_ref().map(TrustedKeys::number);
        // What was learnt under the keys of an older set counts no more.
        let is_behind = number(other) < number(self);
        if let Some(keys) = other.keys.clone().filter(|_| !is_behind) {
            self.go_over_to(keys);
        }
        if !is_behind {
            self.newest_time = self.newest_time.max(other.newest_time);
        }
        for (reference, theirs) in &other.refs {
            let mine = self.refs.entry(reference.clone()).or_default();
            if theirs.order >= mine.order {
                mine.record.clone_from(&theirs.record);
                mine.order = theirs.order;
                mine.etag.clone_from(&theirs.etag);
                mine.fetched = theirs.fetched;
            }
            if !is_behind {
                mine.releases
                    .extend(theirs.releases.iter().map(|(commit, number)| (*commit, *number)));
            }
        }
    }

    /// Remembers. Durable on return. [`RemoteState::remember`] is for whoever is not alone.
    pub fn save(&self, repo: &Repo, name: &RemoteName) -> Result<(), RemoteError> {
        let bytes = serde_json::to_vec_pretty(self).expect("the state is text and numbers");
        let dir = repo.dir().ensure_dir(REMOTES, 0o755).map_err(RepoError::from)?;
        dir.write_atomic(Self::file_name(name), &bytes, 0o644)
            .map_err(RepoError::from)?;
        dir.sync_fs().map_err(RepoError::from)?;
        Ok(())
    }

    /// Forgets what was seen of `name`. The next pull believes the keys of the configuration, and any record they signed.
    pub fn forget(repo: &Repo, name: &RemoteName) -> Result<(), RemoteError> {
        let Some(dir) = repo.dir().open_dir_optional(REMOTES).map_err(RepoError::from)? else {
            return Ok(());
        };
        let _lock = lock(repo)?;
        Self::forget_in(&dir, name)?;
        Ok(())
    }

    /// Forgets what was seen of `name`, for whoever has the lock. Returns whether there was something.
    pub(super) fn forget_in(dir: &Dir, name: &RemoteName) -> Result<bool, RemoteError> {
        let removed = dir
            .remove_file_optional(Self::file_name(name))
            .map_err(RepoError::from)?;
        if removed {
            dir.sync_fs().map_err(RepoError::from)?;
        }
        Ok(removed)
    }
}

/// Names a set of keys by what it says.
pub(super) fn digest_of(keys: &TrustedKeys) -> Digest {
    Digest::of(&keys.set().to_payload())
}

/// Held while a remote, or what was seen of it, is changed. Not to be taken twice.
pub(super) fn lock(repo: &Repo) -> Result<FileLock, RemoteError> {
    let dir = repo.dir().ensure_dir(REMOTES, 0o755).map_err(RepoError::from)?;
    Ok(repo.lock_other(&dir, LOCK, "what was seen of remotes")?)
}

/// The file that says which commits came without anybody vouching for them. It outlives the remote.
const UNVERIFIED: &str = "unverified.json";

/// Returns the commits that were pulled with `no-verify` and never again with verification.
pub fn unverified_commits(repo: &Repo) -> Result<BTreeSet<CommitId>, RemoteError> {
    let Some(dir) = repo.dir().open_dir_optional(REMOTES).map_err(RepoError::from)? else {
        return Ok(BTreeSet::new());
    };
    let Some(bytes) = dir
        .read_optional(UNVERIFIED, MAX_STATE)
        .map_err(RepoError::from)?
    else {
        return Ok(BTreeSet::new());
    };
    serde_json::from_slice(&bytes).map_err(|error| RemoteError::DamagedState {
        path: dir.path().join(UNVERIFIED),
        reason: error.to_string(),
    })
}

/// Notes whether `commit` came verified. Durable on return.
pub fn set_verified(repo: &Repo, commit: &CommitId, verified: bool) -> Result<(), RemoteError> {
    if unverified_commits(repo)?.contains(commit) != verified {
        return Ok(());
    }
    let dir = repo.dir().ensure_dir(REMOTES, 0o755).map_err(RepoError::from)?;
    let _lock = lock(repo)?;
    let mut commits = unverified_commits(repo)?;
    let changed = if verified {
        commits.remove(commit)
    } else {
        commits.insert(*commit)
    };
    if changed {
        let bytes = serde_json::to_vec_pretty(&commits).expect("digests are text");
        dir.write_atomic(UNVERIFIED, &bytes, 0o644)
            .map_err(RepoError::from)?;
        dir.sync_fs().map_err(RepoError::from)?;
    }
    Ok(())
}
