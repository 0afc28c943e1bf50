//! History from elsewhere: commits of an OSTree repository, with their parents, texts and times.
//!
//! Every commit becomes one of ours that says which it was, in its metadata as `ostree.commit`. It depends on that and on nothing
//! else, so whoever imports the same commit has the same one, and a second import takes only what is new. OSTree keeps no
//! modification times; what it checks out is of 1970, and so is what is imported.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::cancel::{Cancel, Cancelled};
use crate::digest::{BlobId, CommitId, DirTreeId};
use crate::error::ErrorKind;
use crate::format::{Commit, DirTree, Entry, FormatError, Metadata, MetadataValue, Node, limits};
use crate::names::RefName;
use crate::ostree::{Checksum, OstreeCommit, OstreeDirMeta, OstreeError, OstreeRepo};
use crate::progress::{Phase, PhaseGuard, Progress, Unit};
use crate::repo::{
    BlobFiles, LooseError, RefUpdate, Repo, RepoError, Scratch, Transaction, TransactionStats,
};

/// The key of a commit's metadata that says which commit of OSTree it was.
pub const ORIGIN: &str = "ostree.commit";

/// A ref to import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportRef {
    /// What it is called there: `NAME`, or `REMOTE:NAME`.
    pub source: String,
    /// What it will be called here.
    pub target: RefName,
}

/// How to import.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ImportOptions {
    /// Commits to take of each ref, the newest first; all where `None`.
    pub depth: Option<usize>,
}

/// What was imported of a ref.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct ImportedRef {
    /// The ref here.
    pub reference: RefName,
    /// What it names now.
    pub commit: CommitId,
    /// What it names in the OSTree repository.
    pub origin: String,
    /// Commits that are new.
    pub imported: usize,
    /// Whether history goes on there, and was not asked for or is not there.
    pub truncated: bool,
}

/// What was imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct ImportReport {
    /// Each ref.
    pub refs: Vec<ImportedRef>,
    /// What was written.
    #[serde(flatten)]
    pub stats: TransactionStats,
}

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The OSTree repository cannot be read.
    #[error(transparent)]
    Ostree(#[from] OstreeError),
    /// Something in it cannot be kept here.
    #[error("cannot import {path} of the OSTree commit {commit}")]
    Entry {
        /// The path in the tree.
        path: String,
        /// The commit.
        commit: String,
        /// Why.
        source: FormatError,
    },
    /// The tree is nested deeper than any path that the kernel accepts.
    #[error("the OSTree commit {commit} is nested more than 2048 directories deep")]
    TooDeep {
        /// The commit.
        commit: String,
    },
    /// The ref here has a history of its own.
    #[error("{reference} names a commit that the history of the OSTree commit {origin} does not lead to")]
    Diverged {
        /// The ref.
        reference: RefName,
        /// What was to be imported.
        origin: String,
    },
    /// The repository failed.
    #[error(transparent)]
    Repo(#[from] RepoError),
}

impl From<Cancelled> for ImportError {
    fn from(cancelled: Cancelled) -> Self {
        Self::Repo(cancelled.into())
    }
}

impl ImportError {
    /// Returns the coarse kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Ostree(error) => error.kind(),
            Self::Entry { .. } | Self::TooDeep { .. } => ErrorKind::Invalid,
            Self::Diverged { .. } => ErrorKind::Conflict,
            Self::Repo(error) => error.kind(),
        }
    }
}

/// Imports refs of an OSTree repository with their history, as far as it is there.
///
/// Every object is verified before anything of it is kept. Takes the shared lock. The visible step is the replacement of `refs`, by which
/// all refs move at once.
pub fn import_ostree(
    repo: &Repo,
    source: &OstreeRepo,
    refs: &[ImportRef],
    options: &ImportOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<ImportReport, ImportError> {
    let transaction = repo.begin()?;
    let mut import = Import {
        source,
        transaction: &transaction,
        files: transaction.blob_files()?,
        scratch: Scratch::new(),
        commits: HashMap::new(),
        parents: HashMap::new(),
        trees: HashMap::new(),
        blobs: HashMap::new(),
        phase: PhaseGuard::begin(progress, Phase::Pull, None, Unit::Bytes),
        cancel,
    };
    let mut imported = Vec::new();
    for wanted in refs {
        imported.push(import.reference(wanted, options)?);
    }
    drop(import);
    let _phase = PhaseGuard::begin(progress, Phase::Sync, None, Unit::Items);
    let stats = transaction.commit()?;
    Ok(ImportReport {
        refs: imported,
        stats,
    })
}

struct Import<'a> {
    source: &'a OstreeRepo,
    transaction: &'a Transaction<'a>,
    files: BlobFiles,
    scratch: Scratch,
    /// What was imported, now or earlier.
    commits: HashMap<Checksum, CommitId>,
    /// The parents of those that were imported now.
    parents: HashMap<CommitId, Option<CommitId>>,
    trees: HashMap<Checksum, DirTreeId>,
    blobs: HashMap<Checksum, (Metadata, Node)>,
    phase: PhaseGuard<'a>,
    cancel: &'a Cancel,
}

/// A directory that is being put together.
struct Open {
    id: Checksum,
    /// The name and the metadata that it has in the one above.
    name: Vec<u8>,
    metadata: Metadata,
    entries: Vec<Entry>,
    /// Directories that are still to be read.
    dirs: Vec<(Vec<u8>, Checksum, Checksum)>,
}

impl Import<'_> {
    fn reference(&mut self, wanted: &ImportRef, options: &ImportOptions) -> Result<ImportedRef, ImportError> {
        let tip = self.source.resolve(&wanted.source)?;
        self.transaction.repo().check_can_move(&wanted.target)?;
        let current = self.transaction.repo().ref_optional(&wanted.target)?;
        let known = self.know(current)?;
        // From the newest to the first that is here, or is not there.
        let mut chain = Vec::new();
        let mut next = Some(tip);
        let mut truncated = false;
        while let Some(id) = next
            && !self.commits.contains_key(&id)
        {
            self.cancel.check()?;
            let is_tip = chain.is_empty();
            let enough = options.depth.is_some_and(|depth| chain.len() >= depth.max(1));
            if !is_tip && (enough || !self.source.has_whole_commit(&id)?) {
                truncated = true;
                break;
            }
            let commit = self.source.commit(&id)?;
            next = commit.parent;
            chain.push((id, commit));
        }
        // History that was not cut must lead to what the ref names here, or the ref would forget commits. That one or an earlier import of
        // it is not enough: the ref may have gone on since, by itself or by what has been taken back there.
        let reached = next.and_then(|id| self.commits.get(&id).copied());
        let keeps = match (current, reached) {
            (None, _) => true,
            (Some(current), Some(reached)) => self.descends(reached, current)?,
            (Some(_), None) => truncated && known,
        };
        if !keeps {
            return Err(ImportError::Diverged {
                reference: wanted.target.clone(),
                origin: tip.to_string(),
            });
        }
        let imported = chain.len();
        let mut parent = reached;
        for (id, commit) in chain.into_iter().rev() {
            let ours = self.commit(&id, &commit, parent)?;
            self.commits.insert(id, ours);
            self.parents.insert(ours, parent);
            parent = Some(ours);
        }
        let commit = self.commits[&tip];
        self.transaction.set_ref(RefUpdate {
            name: wanted.target.clone(),
            expected: Some(current),
            new: Some(commit),
        });
        Ok(ImportedRef {
            reference: wanted.target.clone(),
            commit,
            origin: tip.to_string(),
            imported,
            truncated,
        })
    }

    /// Returns whether the history of `commit` has `ancestor`, or is that. It may be of this very run, whose commits cannot be loaded yet.
    fn descends(&self, commit: CommitId, ancestor: CommitId) -> Result<bool, ImportError> {
        let mut next = Some(commit);
        while let Some(id) = next {
            if id == ancestor {
                return Ok(true);
            }
            next = match self.parents.get(&id) {
                Some(parent) => *parent,
                None => match self.transaction.repo().load_commit(&id) {
                    Ok(commit) => commit.parent,
                    // Pruned history.
                    Err(RepoError::ObjectMissing { .. }) => None,
                    Err(error) => return Err(error.into()),
                },
            };
        }
        Ok(false)
    }

    /// Learns which commits were imported before; returns whether the one that a ref names is among them.
    fn know(&mut self, current: Option<CommitId>) -> Result<bool, ImportError> {
        let repo = self.transaction.repo();
        let mut known = false;
        let mut next = current;
        while let Some(id) = next {
            let commit = match repo.load_commit(&id) {
                Ok(commit) => commit,
                // Pruned history.
                Err(RepoError::ObjectMissing { .. }) if Some(id) != current => break,
                Err(error) => return Err(error.into()),
            };
            if let Some(MetadataValue::Text(origin)) = commit.metadata.get(ORIGIN)
                && let Some(origin) = Checksum::parse(origin)
            {
                known |= Some(id) == current;
                self.commits.entry(origin).or_insert(id);
            }
            next = commit.parent;
        }
        Ok(known)
    }

    fn commit(
        &mut self,
        id: &Checksum,
        commit: &OstreeCommit,
        parent: Option<CommitId>,
    ) -> Result<CommitId, ImportError> {
        let root_metadata = self.directory(&commit.meta)?;
        let root = self.tree(id, &commit.tree)?;
        let (subject, body) = texts(commit);
        let version = commit.version.as_deref().map(String::from_utf8_lossy);
        let version = version.filter(|version| is_line(version)).unwrap_or_default();
        Ok(self.transaction.store_commit(&Commit {
            root,
            root_metadata,
            parent,
            time: commit.time,
            subject,
            body,
            version: version.into_owned(),
            metadata: BTreeMap::from([(ORIGIN.to_owned(), MetadataValue::Text(id.to_string()))]),
        })?)
    }

    /// Imports a tree, from its leaves up.
    fn tree(&mut self, commit: &Checksum, root: &Checksum) -> Result<DirTreeId, ImportError> {
        if let Some(known) = self.trees.get(root) {
            return Ok(*known);
        }
        let mut stack = vec![self.open(Vec::new(), Metadata::with_mode(0), root)?];
        loop {
            self.cancel.check()?;
            let open = stack.last_mut().expect("the root is there until it is done");
            if let Some((name, tree, meta)) = open.dirs.pop() {
                let metadata = self.directory(&meta)?;
                if let Some(known) = self.trees.get(&tree) {
                    let node = Node::Dir { tree: *known };
                    open.entries.push(Entry { name, metadata, node });
                    continue;
                }
                if stack.len() > limits::MAX_DEPTH {
                    return Err(ImportError::TooDeep {
                        commit: commit.to_string(),
                    });
                }
                let opened = self.open(name, metadata, &tree)?;
                stack.push(opened);
                continue;
            }
            let done = stack.pop().expect("it was there a moment ago");
            let path = |name: &[u8]| {
                let parts = stack.iter().skip(1).map(|open| open.name.as_slice());
                let parts: Vec<&[u8]> = parts.chain([name]).collect();
                format!("/{}", parts.join(&b'/').escape_ascii())
            };
            let tree = DirTree::new(done.entries).map_err(|source| ImportError::Entry {
                path: path(&done.name),
                commit: commit.to_string(),
                source,
            })?;
            let id = self.transaction.store_dirtree(&tree)?;
            self.trees.insert(done.id, id);
            let Some(above) = stack.last_mut() else {
                return Ok(id);
            };
            above.entries.push(Entry {
                name: done.name,
                metadata: done.metadata,
                node: Node::Dir { tree: id },
            });
        }
    }

    /// Reads a directory's metadata.
    fn directory(&self, id: &Checksum) -> Result<Metadata, ImportError> {
        let OstreeDirMeta(mut metadata) = self.source.dirmeta(id)?;
        crate::fs::drop_transient(&mut metadata.xattrs);
        Ok(metadata)
    }

    /// Reads a directory and imports its files.
    fn open(&mut self, name: Vec<u8>, metadata: Metadata, id: &Checksum) -> Result<Open, ImportError> {
        let tree = self.source.dirtree(id)?;
        let mut entries = Vec::with_capacity(tree.files.len() + tree.dirs.len());
        for (name, file) in tree.files {
            self.cancel.check()?;
            let (metadata, node) = self.file(&file)?;
            entries.push(Entry { name, metadata, node });
        }
        Ok(Open {
            id: *id,
            name,
            metadata,
            entries,
            dirs: tree.dirs,
        })
    }

    fn file(&mut self, id: &Checksum) -> Result<(Metadata, Node), ImportError> {
        if let Some(known) = self.blobs.get(id) {
            return Ok(known.clone());
        }
        let (file, mut metadata, mut content) = self.source.file(id)?;
        crate::fs::drop_transient(&mut metadata.xattrs);
        let node = match file.link() {
            Some(target) => {
                content.finish()?;
                Node::Symlink {
                    target: target.to_vec(),
                }
            }
            None => {
                let staged =
                    self.transaction
                        .stage_loose(&self.files, &mut content, &mut self.scratch, self.cancel);
                let (blob, size) = staged.map_err(|error| match error {
                    LooseError::Read(error) => ImportError::Ostree(OstreeError::Damaged {
                        object: format!("{id}.file"),
                        rule: format!("it cannot be read: {error}"),
                    }),
                    LooseError::Store(error) => error.into(),
                })?;
                content.finish()?;
                self.store(&blob, size, &metadata)?;
                Node::File {
                    size,
                    blob,
                    verity: None,
                }
            }
        };
        self.blobs.insert(*id, (metadata.clone(), node.clone()));
        Ok((metadata, node))
    }

    fn store(&self, blob: &BlobId, size: u64, metadata: &Metadata) -> Result<(), ImportError> {
        self.transaction.store_loose(&self.files, blob, size, metadata)?;
        self.phase.advance(size);
        Ok(())
    }
}

fn is_line(text: &str) -> bool {
    text.len() <= limits::MAX_COMMIT_LINE && !text.contains(['\n', '\0'])
}

/// Returns subject and body. A subject that is no line here begins the body.
fn texts(commit: &OstreeCommit) -> (String, String) {
    let subject = String::from_utf8_lossy(&commit.subject);
    let body = String::from_utf8_lossy(&commit.body);
    if is_line(&subject) {
        return (subject.into_owned(), body.into_owned());
    }
    let first = subject.lines().next().unwrap_or_default();
    let mut end = first.len().min(limits::MAX_COMMIT_LINE);
    while !first.is_char_boundary(end) {
        end -= 1;
    }
    (first[..end].to_owned(), format!("{subject}\n\n{body}"))
}
