//! What stands in the way of a commit, an import or an export, and the next command to try.

use libatomos::commit::{CommitError, OsTreeError};
use libatomos::export::ExportError;
use libatomos::import::ImportError;
use libatomos::oci::OciError;
use libatomos::ostree::OstreeError;
use libatomos::source::SourceError;

use super::store::hint_for_composefs;
use super::{CliError, shown};

impl From<CommitError> for CliError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Repo(error) => error.into(),
            CommitError::Fs(error) => error.into(),
            error => {
                let hint = hint_for_commit(&error);
                Self::new(error.kind(), error, hint)
            }
        }
    }
}

impl From<ExportError> for CliError {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::Repo(error) => error.into(),
            ExportError::Fs(error) => error.into(),
            ExportError::Oci(error) => error.into(),
            ExportError::Whiteout { .. } => {
                let hint = "a tar archive can have such names: `atomos export REV -o FILE`".to_owned();
                Self::new(error.kind(), error, Some(hint))
            }
            error => Self::new(error.kind(), error, None),
        }
    }
}

impl From<OstreeError> for CliError {
    fn from(error: OstreeError) -> Self {
        match error {
            OstreeError::Fs(error) => error.into(),
            error => {
                let hint = match &error {
                    OstreeError::RefNotFound { path, .. } => {
                        Some(format!("`ostree refs --repo={}` lists the refs", shown(path)))
                    }
                    OstreeError::Missing { .. } | OstreeError::Damaged { .. } => Some(
                        "`ostree fsck` looks through the repository; pull the ref there again".to_owned(),
                    ),
                    _ => None,
                };
                Self::new(error.kind(), error, hint)
            }
        }
    }
}

impl From<ImportError> for CliError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Ostree(error) => error.into(),
            ImportError::Repo(error) => error.into(),
            error => {
                let hint = match &error {
                    ImportError::Diverged { .. } => Some(
                        "import under another name: --as REF; or give the ref here another name first: `atomos refs --create NEW=REF`, `atomos refs --delete REF`"
                            .to_owned(),
                    ),
                    _ => None,
                };
                Self::new(error.kind(), error, hint)
            }
        }
    }
}

impl From<OciError> for CliError {
    fn from(error: OciError) -> Self {
        match error {
            OciError::Fs(error) => error.into(),
            error => {
                let hint = match &error {
                    OciError::NotFound { found, .. } => match found.is_empty() {
                        true => Some("the layout has no images".to_owned()),
                        false => Some(format!("it has: {}", found.join(", "))),
                    },
                    OciError::Ambiguous { .. } => Some("name one: LAYOUT:NAME".to_owned()),
                    OciError::Blob { .. } => Some("copy the image again".to_owned()),
                    OciError::Lock(error) => super::store::hint_for_lock(error),
                    _ => None,
                };
                Self::new(error.kind(), error, hint)
            }
        }
    }
}

impl From<SourceError> for CliError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Commit(error) => error.into(),
            SourceError::Oci(error) => error.into(),
            error => {
                let hint = hint_for_source(&error);
                Self::new(error.kind(), error, hint)
            }
        }
    }
}

fn hint_for_commit(error: &CommitError) -> Option<String> {
    Some(match error {
        CommitError::SpecialFile { .. } => {
            "remove it, or leave such files out with --skip-special".to_owned()
        }
        CommitError::Remainder { root, commit } => {
            format!("`atomos show {commit}` shows it; remove what is left: rm -r {}", shown(root))
        }
        CommitError::NothingToAdopt { .. } => {
            "if an interrupted command has made the commit, it is all done: see atomos log REF; an empty tree needs no --adopt"
                .to_owned()
        }
        CommitError::RepositoryInside { .. } => {
            "move the repository out of the tree, or commit without --adopt, which copies".to_owned()
        }
        CommitError::MountedInside { mounted, .. } => {
            format!("unmount {} first", shown(mounted))
        }
        CommitError::SourceLeft { root, .. } => {
            format!("do not commit it again; remove it: rm -r {}", shown(root))
        }
        CommitError::SourceChanged { .. } => {
            "stop what writes to the tree, then run the command again".to_owned()
        }
        CommitError::NotSealable { .. } => "commit it with --os, or with --verity alone".to_owned(),
        CommitError::Composefs(error) => return hint_for_composefs(error),
        CommitError::OsTree(OsTreeError::NoKernel { .. }) => {
            "install a kernel package in the tree, or pass --allow-no-kernel".to_owned()
        }
        CommitError::OsTree(OsTreeError::KernelNotFound { .. }) => {
            "without --kernel, the newest is taken".to_owned()
        }
        CommitError::OsTree(_) => "change the tree, or commit it as it is, without --os".to_owned(),
        _ => return None,
    })
}

fn hint_for_source(error: &SourceError) -> Option<String> {
    Some(match error {
        SourceError::Archive { name, .. } if name.is_file() => {
            format!(
                "`tar -tvf {}` lists what another program makes of it",
                shown(name)
            )
        }
        SourceError::Adopt => "leave --adopt out".to_owned(),
        SourceError::Override { .. } => "remove its line from the list of modes".to_owned(),
        _ => return None,
    })
}
