//! What can go wrong with a repository.

use std::path::PathBuf;

use crate::cancel::Cancelled;
use crate::digest::{BlobId, CommitId, Digest, InvalidDigest};
use crate::error::ErrorKind;
use crate::failpoint::Tripped;
use crate::format::{FormatError, Metadata};
use crate::fs::{FsError, InodePart, LockError};
use crate::names::{InvalidName, RefName};

use super::ObjectKind;

/// What a file system does not keep of an inode.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotKept {
    /// The file; its object where nobody knows more.
    pub path: PathBuf,
    /// Its bytes.
    pub blob: BlobId,
    /// What the inode was to have.
    pub metadata: Metadata,
    /// What of that is not kept.
    pub part: InodePart,
    /// What becomes of it.
    pub reason: String,
}

/// A repository operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepoError {
    /// The path does not lead to a repository.
    #[error("{} is not an atomos repository: {reason}", path.display())]
    NotARepository {
        /// The path.
        path: PathBuf,
        /// What is missing or in the way.
        reason: &'static str,
    },
    /// There is something at the path where a repository was to be made.
    #[error("cannot make a repository at {}: {reason}", path.display())]
    Occupied {
        /// The path.
        path: PathBuf,
        /// What is there.
        reason: &'static str,
    },
    /// A repository of true owners was to be made by somebody who may not give files away.
    #[error("cannot make a bare repository at {}: it keeps true owners, and only root can set them", path.display())]
    TakesRoot {
        /// The path.
        path: PathBuf,
    },
    /// The configuration cannot be used.
    #[error("cannot use the configuration {}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Which key or line is wrong, and how.
        reason: String,
    },
    /// A file in which the repository keeps what it has to remember cannot be used.
    #[error("cannot use {}: {reason}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// Which line is wrong, and how.
        reason: String,
    },
    /// The file of aliases cannot be used.
    #[error("cannot use the aliases {}: {reason}", path.display())]
    Aliases {
        /// The file.
        path: PathBuf,
        /// Which line is wrong, and how.
        reason: String,
    },
    /// The repository needs what this program does not have.
    #[error("the repository {} {reason}", path.display())]
    UnsupportedRepository {
        /// The repository.
        path: PathBuf,
        /// What it needs, as the rest of a sentence.
        reason: String,
    },
    /// There is no such ref.
    #[error("there is no ref {name} in {}", repo.display())]
    RefNotFound {
        /// The ref.
        name: RefName,
        /// The repository.
        repo: PathBuf,
    },
    /// A revision names nothing.
    #[error("{rev:?} is no ref, digest or prefix of one in {}", repo.display())]
    RevNotFound {
        /// The revision as it was given.
        rev: String,
        /// The repository.
        repo: PathBuf,
    },
    /// A prefix names several objects.
    #[error("the prefix {prefix} is ambiguous: {} objects start with it ({})", candidates.len(), candidates.join(", "))]
    AmbiguousPrefix {
        /// The prefix.
        prefix: String,
        /// Kind and digest of each.
        candidates: Vec<String>,
    },
    /// A revision asks for the parent of a commit that has none.
    #[error("commit {commit} has no parent")]
    NoParent {
        /// The commit.
        commit: CommitId,
    },
    /// A revision asks for the parent of a commit where the repository has no more of the history.
    #[error(
        "the parent {} of commit {} is not here: it was pruned, or never pulled", parent.short(), commit.short()
    )]
    ParentNotHere {
        /// The commit.
        commit: CommitId,
        /// Its parent.
        parent: CommitId,
    },
    /// A path does not exist in a tree, or is of another kind than needed.
    #[error("{path} in {rev}: {reason}")]
    PathInTree {
        /// The revision or digest.
        rev: String,
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A ref is not what the caller expected; somebody else moved it.
    #[error("ref {name} was to be {}, and is {}", or_absent(expected), or_absent(found))]
    RefMoved {
        /// The ref.
        name: RefName,
        /// What it was expected to be.
        expected: Option<CommitId>,
        /// What it is.
        found: Option<CommitId>,
    },
    /// A ref that was to be made is there.
    #[error("there is a ref {name} already, and it is {found}")]
    RefExists {
        /// The ref.
        name: RefName,
        /// What it is.
        found: CommitId,
    },
    /// What was to be moved is an alias.
    #[error("{name} is an alias of {target}, and is not moved")]
    IsAlias {
        /// The alias.
        name: RefName,
        /// What it points at.
        target: RefName,
    },
    /// Aliases lead nowhere but to each other.
    #[error("the alias {name} leads to itself, or through more aliases than anybody needs")]
    AliasLoop {
        /// The alias.
        name: RefName,
    },
    /// A ref would have to be a file and a directory at once where refs are files.
    #[error("a ref cannot be called {name}: {}", collision(name, other))]
    RefCollision {
        /// The new ref.
        name: RefName,
        /// The one that exists.
        other: RefName,
    },
    /// Something was asked of a commit that is not in the part of it that is here, or takes all of it.
    #[error("only a part of commit {} is here: {}", commit.short(), paths.join(", "))]
    PartialCommit {
        /// The commit.
        commit: CommitId,
        /// What of it was pulled.
        paths: Vec<String>,
        /// What is missing, where that was looked for.
        #[source]
        source: Option<Box<Self>>,
    },
    /// An object that something refers to is not there.
    #[error("{kind} {digest} is missing")]
    ObjectMissing {
        /// The kind of object.
        kind: ObjectKind,
        /// Its name.
        digest: Digest,
    },
    /// An object's bytes are not what its name says.
    #[error("{kind} {digest} is damaged: {reason}")]
    ObjectDamaged {
        /// The kind of object.
        kind: ObjectKind,
        /// Its name.
        digest: Digest,
        /// What is wrong with it.
        reason: String,
    },
    /// The repository's file system does not keep an inode as a tree has it.
    #[error("cannot keep {} in a repository of mode bare: {}", .0.path.display(), .0.reason)]
    NotKept(Box<NotKept>),
    /// A value cannot be encoded.
    #[error("cannot encode {what}")]
    Encode {
        /// The object, for people.
        what: String,
        /// Why.
        #[source]
        source: FormatError,
    },
    /// What is to stay free would not.
    #[error(
        "there is no room beside {}: {needed} bytes more are needed, {available} are free, and {reserved} are to stay free",
        path.display()
    )]
    NoRoom {
        /// The repository.
        path: PathBuf,
        /// What would be written next.
        needed: u64,
        /// What is free.
        available: u64,
        /// What is to stay free, as the repository's configuration says.
        reserved: u64,
    },
    /// A transaction was to be committed although an object of it was not stored.
    #[error("cannot commit the transaction: an object of it was not stored")]
    IncompleteTransaction,
    /// The operation needs root's rights, or another mode.
    #[error("{what} takes a repository of mode {needed}")]
    WrongMode {
        /// The operation.
        what: &'static str,
        /// The mode that can do it.
        needed: super::RepoMode,
    },
    /// A name is not acceptable.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// A text is no digest.
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
    /// A system call failed.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A lock was not had.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The caller asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// A test stopped the operation here.
    #[error(transparent)]
    Failpoint(#[from] Tripped),
}

fn or_absent(commit: &Option<CommitId>) -> String {
    commit
        .as_ref()
        .map_or_else(|| "absent".to_owned(), ToString::to_string)
}

impl RepoError {
    /// Returns the coarse kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotARepository { .. }
            | Self::RefNotFound { .. }
            | Self::RevNotFound { .. }
            | Self::NoParent { .. }
            | Self::ParentNotHere { .. }
            | Self::PartialCommit { .. }
            | Self::PathInTree { .. } => ErrorKind::NotFound,
            Self::Occupied { .. } | Self::RefExists { .. } => ErrorKind::AlreadyExists,
            Self::TakesRoot { .. } => ErrorKind::Denied,
            Self::AmbiguousPrefix { .. }
            | Self::AliasLoop { .. }
            | Self::Config { .. }
            | Self::Encode { .. }
            | Self::Name(_)
            | Self::Digest(_) => ErrorKind::Invalid,
            Self::UnsupportedRepository { .. } | Self::WrongMode { .. } | Self::NotKept(_) => {
                ErrorKind::Unsupported
            }
            Self::RefMoved { .. } | Self::RefCollision { .. } | Self::IsAlias { .. } => ErrorKind::Conflict,
            Self::State { .. }
            | Self::Aliases { .. }
            | Self::ObjectMissing { .. }
            | Self::ObjectDamaged { .. } => ErrorKind::Corrupt,
            Self::Fs(error) => error.kind(),
            Self::Lock(error) => error.kind(),
            Self::NoRoom { .. } => ErrorKind::NoSpace,
            Self::Cancelled(_) => ErrorKind::Cancelled,
            Self::Failpoint(_) | Self::IncompleteTransaction => ErrorKind::Io,
        }
    }
}

fn collision(name: &RefName, other: &RefName) -> String {
    match name == other {
        true => "there is one already".to_owned(),
        false => format!("there is {other}, and one would lie within the other"),
    }
}
