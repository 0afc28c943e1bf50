//! What a person said of a remote: `remotes/<name>.toml` in the repository, which does not roll back as `/etc` does.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::names::{InvalidName, RefName, check as check_name};
use crate::repo::{Repo, RepoError};
use crate::sign::{KeySetDraft, PublicKey, TrustedKeys};
use crate::transport::without_secrets;

use super::state::{digest_of, lock};
use super::{REMOTES, RemoteError, RemoteState, check};

/// Bytes in a remote's configuration.
const MAX_CONFIG: usize = 256 * 1024;

/// The name of a remote: letters, digits and `. _ - +`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RemoteName(String);

impl RemoteName {
    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name under which the remote's `reference` is kept here, `remote:ref`.
    pub fn local_ref(&self, reference: &RefName) -> Result<RefName, InvalidName> {
        format!("{}:{reference}", self.0).parse()
    }
}

impl FromStr for RemoteName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        check_name("remote", text, false)?;
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for RemoteName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<RemoteName> for String {
    fn from(name: RemoteName) -> Self {
        name.0
    }
}

impl fmt::Display for RemoteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How to reach a site, and whom to believe. Keys that this program does not know are errors: a misspelt one must not
/// be taken for silence.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[non_exhaustive]
pub struct RemoteConfig {
    /// The site and its mirrors, in the order in which they are asked: http, https or file URLs, or absolute paths.
    pub urls: Vec<String>,
    /// Public keys, as PEM or lines of ssh-keygen. Any of them signs.
    pub keys: Vec<String>,
    /// A key set, as it is published: the sets after it are followed from there, and those before it do not matter.
    /// Instead of `keys`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_set: Option<String>,
    /// Believe whatever comes. There are no keys then.
    pub no_verify: bool,
    /// What this machine is: a version that is for certain machines only must name one of these.
    pub compatible: Vec<String>,
    /// A file of certificate authorities in PEM, besides the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// A file with this machine's certificate in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<PathBuf>,
    /// A file with the certificate's key in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key: Option<PathBuf>,
    /// `http://[user:password@]host:port`, or `none`, whatever the environment says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// The user, with `password-file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A file that holds the user's password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// A file that holds a bearer token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// A command (for `sh -c`) that prints a bearer token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_command: Option<String>,
    /// A file as curl and ftp read it, with a user and a password for each host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netrc_file: Option<PathBuf>,
    /// Seconds to connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<u64>,
    /// Seconds without a byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stall_timeout: Option<u64>,
    /// Seconds for one request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_timeout: Option<u64>,
    /// How often a mirror that fails is asked again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// Connections at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jobs: Option<usize>,
    /// Bytes per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_rate: Option<u64>,
    /// Headers to send with every request to the site's own host.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

impl fmt::Debug for RemoteConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A proxy's URL and headers may be secret.
        f.debug_struct("RemoteConfig")
            .field("urls", &self.urls)
            .field("keys", &self.keys)
            .field("no_verify", &self.no_verify)
            .finish_non_exhaustive()
    }
}

impl RemoteConfig {
    /// Refuses what cannot work, and what would say less than it seems to.
    pub fn check(&self) -> Result<(), String> {
        check::all(self)
    }

    /// Returns the configuration as it may be shown to anybody.
    #[must_use]
    pub fn without_secrets(&self) -> Self {
        let mut config = self.clone();
        config.proxy = self.proxy.as_deref().map(without_secrets);
        for value in config.headers.values_mut() {
            "(not shown)".clone_into(value);
        }
        config
    }

    /// Returns the keys, or the key set, that a person gave; `None` with `no-verify`.
    pub fn pinned_keys(&self) -> Result<Option<TrustedKeys>, String> {
        if self.no_verify {
            return Ok(None);
        }
        if let Some(text) = &self.key_set {
            let draft = KeySetDraft::decode(text.as_bytes()).map_err(|error| error.to_string())?;
            // A person vouches for it, as for a key, so its signatures add nothing.
            return Ok(Some(TrustedKeys::given(draft.set().clone())));
        }
        let keys = self
            .keys
            .iter()
            .map(|text| PublicKey::parse(text))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| error.to_string())?;
        TrustedKeys::pinned(keys)
            .map(Some)
            .map_err(|error| error.to_string())
    }

    /// Returns the keys of `name`, whose configuration this is, as [`RemoteConfig::pinned_keys`] does.
    pub(crate) fn pinned(&self, repo: &Repo, name: &RemoteName) -> Result<Option<TrustedKeys>, RemoteError> {
        self.pinned_keys().map_err(|reason| RemoteError::Config {
            path: repo.dir().path().join(REMOTES).join(format!("{name}.toml")),
            reason,
        })
    }

    /// Reads the text of a configuration.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let message = error.message().replace('\n', "; ");
            match error.span() {
                Some(span) => format!("{}: {message}", place_of(text, span.start)),
                None => message,
            }
        })?;
        config.check()?;
        Ok(config)
    }

    /// Returns the text of a configuration.
    pub fn to_text(&self) -> Result<String, String> {
        self.check()?;
        toml::to_string(self).map_err(|error| error.to_string())
    }

    /// Reads the configuration of `name`.
    pub fn load(repo: &Repo, name: &RemoteName) -> Result<Self, RemoteError> {
        let file = format!("{REMOTES}/{name}.toml");
        let bytes = match repo.dir().open_dir_optional(REMOTES).map_err(RepoError::from)? {
            Some(dir) => dir
                .read_optional(format!("{name}.toml"), MAX_CONFIG)
                .map_err(RepoError::from)?,
            None => None,
        };
        let bytes = bytes.ok_or_else(|| RemoteError::NotFound {
            name: name.clone(),
            repo: repo.dir().path().to_owned(),
        })?;
        let invalid = |reason| RemoteError::Config {
            path: repo.dir().path().join(&file),
            reason,
        };
        let text = String::from_utf8(bytes).map_err(|_| invalid("it is not UTF-8".to_owned()))?;
        Self::parse(&text).map_err(invalid)
    }

    /// Writes the configuration of a remote that does not exist yet. Durable on return.
    pub fn create(&self, repo: &Repo, name: &RemoteName) -> Result<(), RemoteError> {
        repo.check_writable()?;
        let _lock = lock(repo)?;
        let dir = repo.dir().open_dir(REMOTES).map_err(RepoError::from)?;
        if dir.exists(format!("{name}.toml")).map_err(RepoError::from)? {
            return Err(RemoteError::Exists { name: name.clone() });
        }
        // What another remote of that name has seen says nothing of this one.
        RemoteState::forget_in(&dir, name)?;
        self.save(repo, name)
    }

    /// Writes the configuration of `name` in one step, whether there is one or not. Where the keys are others than those that
    /// were given, what was seen is forgotten. Returns whether something was. Durable on return.
    pub fn replace(&self, repo: &Repo, name: &RemoteName) -> Result<bool, RemoteError> {
        repo.check_writable()?;
        let _lock = lock(repo)?;
        let pinned = self.pinned(repo, name)?;
        let is_same = match Self::load(repo, name).and_then(|old| old.pinned(repo, name)) {
            Ok(old) => old.as_ref().map(digest_of) == pinned.as_ref().map(digest_of),
            // One that cannot be read is replaced, too.
            Err(RemoteError::NotFound { .. } | RemoteError::Config { .. }) => false,
            Err(error) => return Err(error),
        };
        self.save(repo, name)?;
        if is_same {
            return Ok(false);
        }
        // A pull that finds it here still, after an interruption, sees that it is other keys'.
        let dir = repo.dir().open_dir(REMOTES).map_err(RepoError::from)?;
        RemoteState::forget_in(&dir, name)
    }

    /// Writes the configuration of `name`, readable by its owner alone: headers may be secret. Durable on return.
    pub fn save(&self, repo: &Repo, name: &RemoteName) -> Result<(), RemoteError> {
        repo.check_writable()?;
        let text = self.to_text().map_err(|reason| RemoteError::Config {
            path: repo.dir().path().join(REMOTES).join(format!("{name}.toml")),
            reason,
        })?;
        let dir = repo.dir().ensure_dir(REMOTES, 0o755).map_err(RepoError::from)?;
        dir.write_atomic(format!("{name}.toml"), text.as_bytes(), 0o600)
            .map_err(RepoError::from)?;
        dir.sync_fs().map_err(RepoError::from)?;
        Ok(())
    }

    /// Returns the names of all remotes, sorted.
    pub fn list(repo: &Repo) -> Result<Vec<RemoteName>, RemoteError> {
        let Some(dir) = repo.dir().open_dir_optional(REMOTES).map_err(RepoError::from)? else {
            return Ok(Vec::new());
        };
        let mut names: Vec<RemoteName> = dir
            .entries()
            .map_err(RepoError::from)?
            .iter()
            .filter_map(|entry| entry.name.to_str()?.strip_suffix(".toml")?.parse().ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// Forgets `name`, and what was seen of it. What was pulled from it stays. Durable on return.
    pub fn remove(repo: &Repo, name: &RemoteName) -> Result<(), RemoteError> {
        repo.check_writable()?;
        let not_found = || RemoteError::NotFound {
            name: name.clone(),
            repo: repo.dir().path().to_owned(),
        };
        let file = format!("{name}.toml");
        let dir = repo
            .dir()
            .open_dir_optional(REMOTES)
            .map_err(RepoError::from)?
            .ok_or_else(not_found)?;
        let _lock = lock(repo)?;
        if !dir.exists(&file).map_err(RepoError::from)? {
            return Err(not_found());
        }
        // First what was seen: a later remote of that name must not inherit its keys if this is interrupted.
        RemoteState::forget_in(&dir, name)?;
        dir.remove_file_optional(&file).map_err(RepoError::from)?;
        dir.sync_fs().map_err(RepoError::from)?;
        Ok(())
    }
}

/// Says where `offset` is: at which key, or in which line. The line itself may hold a secret.
fn place_of(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or_default();
    let line = before.rfind('\n').map_or(0, |at| at + 1);
    let key = text[line..].lines().next().and_then(|line| line.split_once('='));
    let key = key.map_or("", |(key, _)| key.trim());
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !key.is_empty() && key.chars().all(plain) {
        return format!("`{key}`");
    }
    format!("line {}", before.matches('\n').count() + 1)
}
