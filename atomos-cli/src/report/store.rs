//! What stands in the way of the store, its checkouts and its images, and the next command to try.

use std::io;

use libatomos::checkout::CheckoutError;
use libatomos::composefs::ComposefsError;
use libatomos::error::ErrorKind;
use libatomos::fs::{FsError, InodePart, LockError};
use libatomos::repair::RepairError;
use libatomos::repo::RepoError;

use super::{Cause, CliError, shown};
use crate::exit_code::Failure;

impl From<RepoError> for CliError {
    fn from(error: RepoError) -> Self {
        Self {
            failure: Failure::Kind(error.kind()),
            hint: hint_for_repo(&error),
            cause: Cause::Repo(Box::new(error)),
        }
    }
}

impl From<CheckoutError> for CliError {
    fn from(error: CheckoutError) -> Self {
        match error {
            CheckoutError::Repo(error) => error.into(),
            CheckoutError::Fs(error) => error.into(),
            error => {
                let hint = hint_for_checkout(&error);
                Self::new(error.kind(), error, hint)
            }
        }
    }
}

impl From<ComposefsError> for CliError {
    fn from(error: ComposefsError) -> Self {
        match error {
            ComposefsError::Repo(error) => error.into(),
            ComposefsError::Fs(error) => error.into(),
            error => {
                let hint = hint_for_composefs(&error);
                Self::new(error.kind(), error, hint)
            }
        }
    }
}

impl From<FsError> for CliError {
    fn from(error: FsError) -> Self {
        let hint = hint_for_fs(&error);
        Self::new(error.kind(), error, hint)
    }
}

impl From<RepairError> for CliError {
    fn from(error: RepairError) -> Self {
        match error {
            RepairError::Repo(error) => error.into(),
            RepairError::Remote(error) => error.into(),
            RepairError::Pull(error) => (*error).into(),
            RepairError::Fs(error) => error.into(),
            error => Self::new(
                error.kind(),
                error,
                Some("`atomos remote list` lists the remotes".to_owned()),
            ),
        }
    }
}

fn hint_for_repo(error: &RepoError) -> Option<String> {
    Some(match error {
        RepoError::NotARepository { path, .. } => {
            format!(
                "`atomos init --repo {}` makes a repository in an empty directory",
                shown(path)
            )
        }
        RepoError::Occupied { .. } => {
            "choose an empty directory with --repo DIR, or another --mode".to_owned()
        }
        RepoError::TakesRoot { .. } => "run it as root, or use --mode bare-user".to_owned(),
        RepoError::Config { path, .. } => format!("look at {}", shown(path)),
        RepoError::Aliases { path, .. } => {
            let repo = path.parent().unwrap_or(path);
            format!(
                "mend it, a line `REF NAME` for each alias, sorted by name; or have none any more with `rm {}`, and make them again with `atomos refs --repo {} --alias NAME=REF`",
                shown(path),
                shown(repo)
            )
        }
        RepoError::UnsupportedRepository { .. } => {
            "use the version of atomos that wrote it, or a newer one".to_owned()
        }
        RepoError::RefNotFound { repo, .. } | RepoError::RevNotFound { repo, .. } => {
            format!("`atomos refs --repo {}` lists the refs", shown(repo))
        }
        RepoError::AmbiguousPrefix { .. } => "give more digits of the digest".to_owned(),
        RepoError::State { path, .. } if path.file_name().is_some_and(|name| name == "refs") => {
            let (file, dir) = (shown(path), path.parent().map(shown).unwrap_or_default());
            format!(
                "put a good copy of {file} in its place; where its lines are whole, make the first one `refs N`, N being how many follow; without any, `echo refs 0 > {file}` begins without refs: then pull again, or name the commits of {dir}/commits with `atomos refs --create NAME=COMMIT`, before anything is pruned"
            )
        }
        RepoError::State { path, .. } => {
            format!("nothing reads it as it is: put a good copy of {} in its place, or move it away and `atomos reset` the refs that it had", shown(path))
        }
        RepoError::ParentNotHere { commit, .. } => format!("`atomos log {}` shows the history that is here", commit.short()),
        RepoError::NoParent { commit } => format!("`atomos log {}` shows the history", commit.short()),
        RepoError::PathInTree { rev, .. } => format!("`atomos ls -R {rev}` lists the tree"),
        RepoError::RefExists { name, .. }
        | RepoError::RefMoved {
            name, expected: None, ..
        } => format!("look at it with `atomos log {name}`; `atomos refs --force --create {name}=REV` moves it"),
        RepoError::RefMoved { name, .. } => {
            format!("look at it with `atomos log {name}`, then run the command again")
        }
        RepoError::IsAlias { name, target } => format!(
            "name {target} itself; or `atomos refs --delete {name}` removes the alias, and `atomos refs --force --alias {name}=REF` points it elsewhere"
        ),
        RepoError::AliasLoop { name } => format!("`atomos refs --delete {name}` removes the alias"),
        RepoError::RefCollision { other, .. } => {
            format!("choose another name, or remove the other ref with `atomos refs --delete {other}`")
        }
        RepoError::PartialCommit { .. } => {
            "`atomos pull REMOTE REF` without --subpath brings the rest; `atomos checkout --subpath PATH` takes what is here".to_owned()
        }
        RepoError::ObjectMissing { .. } | RepoError::ObjectDamaged { .. } => {
            "`atomos fsck` tells which refs and paths it belongs to, `atomos fsck --repair --from SOURCE` brings it back"
                .to_owned()
        }
        RepoError::NotKept(not_kept) if not_kept.part == InodePart::Time => "`atomos commit --mtime zero` records no times; a repository of mode bare-user keeps any: `atomos init --mode bare-user`"
            .to_owned(),
        RepoError::NotKept(_) => {
            "a repository of mode bare-user keeps it: `atomos init --mode bare-user`".to_owned()
        }
        RepoError::NoRoom { .. } => {
            "`atomos prune --dry-run` and `atomos cleanup --dry-run` say what they would free, `atomos stats` what each ref takes; `atomos undeploy` and `atomos refs --delete` let go of more; `atomos config min-free-space` says what is to stay free"
                .to_owned()
        }
        RepoError::WrongMode { needed, .. } => {
            format!("`atomos init --mode {needed}` makes such a repository")
        }
        RepoError::Lock(error) => return hint_for_lock(error),
        RepoError::Cancelled(_) => "run the command again: what was stored so far is taken up".to_owned(),
        RepoError::Fs(error) => return hint_for_fs(error),
        _ => return None,
    })
}

pub(super) fn hint_for_lock(error: &LockError) -> Option<String> {
    match error {
        LockError::Fs(error) => hint_for_fs(error),
        _ => Some("wait until it is done, or wait longer with --lock-timeout SECONDS".to_owned()),
    }
}

fn hint_for_checkout(error: &CheckoutError) -> Option<String> {
    Some(match error {
        CheckoutError::InRepository { .. } => "name a place outside of it".to_owned(),
        CheckoutError::DestinationExists { path } => {
            format!(
                "choose another destination, or remove it first: rm -r {}",
                shown(path)
            )
        }
        CheckoutError::NoName { .. } => "name a directory that does not exist yet".to_owned(),
        CheckoutError::LinkMode { .. } => "use --link auto, or --link copy".to_owned(),
        CheckoutError::NotOurs { .. } => {
            "move these out of the way, or check out to a new directory; nothing was changed".to_owned()
        }
        CheckoutError::NotRecorded { path } => format!(
            "say what it is a checkout of: atomos checkout --update=FROM REV {}",
            shown(path)
        ),
        CheckoutError::Interrupted { .. } => {
            "repeat that update, or update to what it was before; then this one".to_owned()
        }
        CheckoutError::Busy { .. } => "wait until it is done".to_owned(),
        _ => return None,
    })
}

pub(super) fn hint_for_composefs(error: &ComposefsError) -> Option<String> {
    Some(match error {
        ComposefsError::NotInImages { .. } | ComposefsError::TooLarge => {
            "check it out instead: atomos checkout REV DIR".to_owned()
        }
        ComposefsError::Exists { path } => {
            format!("choose another name, or remove it first: rm {}", shown(path))
        }
        ComposefsError::NoName { .. } => "name a file".to_owned(),
        ComposefsError::Kernel { .. } => "check it out instead: atomos checkout REV DIR".to_owned(),
        ComposefsError::NotVerifiable { .. } => {
            "`atomos commit --verity` records digests, and a deploy with `composefs = verified` gives files fs-verity: docs/composefs.md; without --verify, nothing is compared"
                .to_owned()
        }
        ComposefsError::NotMounted { .. } => "`findmnt -t overlay` lists what is mounted".to_owned(),
        _ => return None,
    })
}

fn hint_for_fs(error: &FsError) -> Option<String> {
    match error.kind() {
        ErrorKind::NoSpace => {
            Some("`atomos prune` removes what no ref leads to; then run the command again".to_owned())
        }
        ErrorKind::Denied if error.source.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            Some("the file system is mounted read-only; `findmnt -T PATH` says which".to_owned())
        }
        ErrorKind::Denied if !rustix::process::geteuid().is_root() => {
            Some("run it as root, or use a repository of your own: `atomos init --mode bare-user`".to_owned())
        }
        _ => None,
    }
}
