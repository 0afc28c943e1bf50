//! Trees that are no single directory: archives, images, commits, and several of them over one another.
//!
//! [`commit_sources`] lays each [`Source`] over those before it, in memory, and commits what comes out as [`commit`] commits a
//! directory. The bytes of an archive's members go straight into the transaction, so memory does not grow with them. A source is
//! hostile until it is read: its names cannot lead anywhere but into the tree, and an error says which member is bad.

mod attributes;
#[cfg(feature = "testing")]
pub(crate) mod hostile;
mod oci;
mod overlay;
mod stat_override;
mod tar;

use std::fmt;
use std::io::Read;
use std::path::PathBuf;

use crate::archive::TarError;
use crate::cancel::{Cancel, Cancelled};
use crate::commit::{
    CommitError, CommitOptions, CommitReport, Content, SourceKind, arrange_and_commit, commit, scan,
};
use crate::digest::{BlobId, CommitId};
use crate::error::ErrorKind;
use crate::format::Node;
use crate::fs::{Dir, FsError};
use crate::oci::{Layout, OciError, Platform};
use crate::progress::{Phase, PhaseGuard, Progress, Unit};
use crate::repo::{BlobFiles, LooseError, Repo, RepoError, Scratch, Transaction};

use overlay::{Overlay, Paths, Place, dir};
pub use stat_override::StatOverride;

/// Where a tree, or a layer of it, comes from.
#[non_exhaustive]
pub enum Source {
    /// A directory.
    Dir(Dir),
    /// A tar archive, compressed or not.
    Tar {
        /// What it is called, for messages.
        name: PathBuf,
        /// Its bytes. One that can keep a reader waiting fails, with whatever error, when the commit is cancelled.
        stream: Box<dyn Read + Send>,
    },
    /// The tree of a commit of the same repository.
    Commit(CommitId),
    /// An image.
    Oci {
        /// Where it is.
        layout: Layout,
        /// Its name there; the only one where `None`.
        name: Option<String>,
        /// Which machines it is for, where there are several; this one where `None`.
        platform: Option<Platform>,
    },
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir(dir) => f.debug_tuple("Dir").field(&dir.path()).finish(),
            Self::Tar { name, .. } => f.debug_tuple("Tar").field(name).finish(),
            Self::Commit(id) => f.debug_tuple("Commit").field(id).finish(),
            Self::Oci { layout, name, .. } => f.debug_tuple("Oci").field(layout).field(name).finish(),
        }
    }
}

/// How to commit sources.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct SourceOptions {
    /// How to commit what comes out.
    pub commit: CommitOptions,
    /// Modes that are changed before that.
    pub overrides: Vec<StatOverride>,
}

/// Why sources were not committed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// There is nothing to commit.
    #[error("no source was given")]
    NoSource,
    /// The files of these sources are not to be had.
    #[error("only the files of a directory can be adopted, alone and with the modes that they have")]
    Adopt,
    /// An archive is damaged, or not acceptable.
    #[error("cannot take {}", name.display())]
    Archive {
        /// What it is called.
        name: PathBuf,
        /// Why.
        source: TarError,
    },
    /// A layer does not fit over the others.
    #[error("cannot lay {name} over the other sources: {rule}")]
    Layer {
        /// The source.
        name: String,
        /// What is wrong.
        rule: String,
    },
    /// A mode is to be changed of something that is not there.
    #[error("cannot change the mode of {path}: {rule}")]
    Override {
        /// Which.
        path: String,
        /// What is wrong.
        rule: &'static str,
    },
    /// A line of a list of modes is not understood.
    #[error("line {line} is not understood: {rule}")]
    OverrideLine {
        /// The line's number, from 1.
        line: usize,
        /// What is wrong.
        rule: &'static str,
    },
    /// An image cannot be read.
    #[error(transparent)]
    Oci(#[from] OciError),
    /// The commit failed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// An archive is damaged, or not acceptable.
    #[error(transparent)]
    Tar(#[from] TarError),
}

impl From<RepoError> for SourceError {
    fn from(error: RepoError) -> Self {
        Self::Commit(error.into())
    }
}

impl From<FsError> for SourceError {
    fn from(error: FsError) -> Self {
        Self::Commit(error.into())
    }
}

impl From<Cancelled> for SourceError {
    fn from(cancelled: Cancelled) -> Self {
        Self::Commit(cancelled.into())
    }
}

impl SourceError {
    /// Returns the coarse kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Archive { source, .. } | Self::Tar(source) => tar_kind(source),
            Self::Override { .. } => ErrorKind::NotFound,
            Self::NoSource | Self::Adopt | Self::Layer { .. } | Self::OverrideLine { .. } => {
                ErrorKind::Invalid
            }
            Self::Oci(error) => error.kind(),
            Self::Commit(error) => error.kind(),
        }
    }

    /// Says which archive it was.
    fn in_archive(self, name: &std::path::Path) -> Self {
        match self {
            Self::Tar(source) => Self::Archive {
                name: name.to_owned(),
                source,
            },
            other => other,
        }
    }
}

/// Says that an archive could not be begun.
fn archive_error(name: &std::path::Path, source: std::io::Error) -> SourceError {
    let source = TarError::Read {
        member: None,
        offset: 0,
        source,
    };
    SourceError::Tar(source).in_archive(name)
}

fn tar_kind(error: &TarError) -> ErrorKind {
    use std::io::ErrorKind as Io;
    match error {
        TarError::Read { source, .. }
            if !matches!(
                source.kind(),
                Io::InvalidData | Io::InvalidInput | Io::UnexpectedEof | Io::Unsupported | Io::Other
            ) =>
        {
            ErrorKind::Io
        }
        _ => ErrorKind::Invalid,
    }
}

/// What reading a source takes.
struct Reading<'a> {
    transaction: &'a Transaction<'a>,
    files: &'a BlobFiles,
    cancel: &'a Cancel,
}

impl Reading<'_> {
    /// Stages the bytes of a file.
    fn keep(
        &self,
        bytes: &mut dyn Read,
        scratch: &mut Scratch,
        phase: &PhaseGuard<'_>,
    ) -> Result<BlobId, LooseError> {
        self.cancel.check().map_err(RepoError::from)?;
        let (blob, size) = self
            .transaction
            .stage_loose(self.files, bytes, scratch, self.cancel)?;
        phase.advance(size);
        Ok(blob)
    }
}

/// Commits what `sources` make, each laid over those before it.
///
/// A directory over a directory adds to it and gives it its owner, mode, time and attributes; anything else replaces what has its
/// name. Archives may have whiteouts, which remove what the sources before have. Directories that an archive does
/// not name are root's, with mode 0755, and of 1970.
///
/// Takes the shared lock. The visible step is that of [`commit`].
pub fn commit_sources(
    repo: &Repo,
    mut sources: Vec<Source>,
    options: &SourceOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<CommitReport, SourceError> {
    // A directory alone is listed and read by many threads, and nothing has to be kept in between.
    let alone = options.overrides.is_empty() && matches!(sources.as_slice(), [Source::Dir(_)]);
    if alone && let Some(Source::Dir(source)) = sources.pop() {
        return Ok(commit(repo, source, &options.commit, progress, cancel)?);
    }
    if sources.is_empty() {
        return Err(SourceError::NoSource);
    }
    if options.commit.adopt {
        return Err(SourceError::Adopt);
    }
    let pool = crate::parallel::pool(options.commit.threads);
    let transaction = repo.begin()?;
    let files = transaction.blob_files()?;
    let mut overlay = Overlay::new();
    let mut scratch = Scratch::new();
    let reading = Reading {
        transaction: &transaction,
        files: &files,
        cancel,
    };
    for source in sources {
        overlay.begin_layer();
        let layer = |name: String| move |rule| SourceError::Layer { name, rule };
        match source {
            Source::Dir(source) => {
                let name = source.path().display().to_string();
                let tree = scan(&pool, source, &options.commit, progress, cancel)?;
                overlay.merge(tree).map_err(layer(name))?;
            }
            Source::Tar { name, stream } => {
                let phase = PhaseGuard::begin(progress, Phase::Read, None, Unit::Bytes);
                let mut keep = |bytes: &mut dyn Read| reading.keep(bytes, &mut scratch, &phase);
                tar::apply(&mut overlay, stream, Paths::Strict, &mut keep).map_err(|error| {
                    // A stream that was given up is not damaged.
                    match cancel.check() {
                        Err(cancelled) => cancelled.into(),
                        Ok(()) => error.in_archive(&name),
                    }
                })?;
            }
            Source::Commit(id) => merge_commit(&mut overlay, &id, &reading)?,
            Source::Oci {
                layout,
                name,
                platform,
            } => {
                let image = layout.image(name.as_deref(), platform.as_ref())?;
                let phase = PhaseGuard::begin(progress, Phase::Read, None, Unit::Bytes);
                let mut keep = |bytes: &mut dyn Read| reading.keep(bytes, &mut scratch, &phase);
                oci::apply(&mut overlay, &layout, &image, &mut keep)?;
            }
        }
    }
    drop(scratch);
    stat_override::apply(&mut overlay, &options.overrides)?;
    let mut tree = overlay.finish();
    tree.set_blobs(files);
    Ok(arrange_and_commit(
        &pool,
        repo,
        Some(transaction),
        tree,
        &options.commit,
        progress,
        cancel,
    )?)
}

/// Lays the tree of a commit over what there is.
fn merge_commit(overlay: &mut Overlay, id: &CommitId, reading: &Reading<'_>) -> Result<(), SourceError> {
    let repo = reading.transaction.repo();
    let layer = |rule| SourceError::Layer {
        name: id.to_string(),
        rule,
    };
    let commit = repo.load_commit(id)?;
    overlay
        .put(Place::Root, commit.root_metadata, dir())
        .map_err(layer)?;
    let mut stack = vec![(0, commit.root)];
    while let Some((parent, tree)) = stack.pop() {
        reading.cancel.check()?;
        for entry in repo.load_dirtree(&tree)?.into_entries() {
            let kind = match &entry.node {
                Node::File { size, blob, .. } => SourceKind::File {
                    size: *size,
                    content: Content::Stored(*blob),
                },
                Node::Dir { .. } => dir(),
                Node::Symlink { target } => SourceKind::Symlink(target.as_slice().into()),
                Node::Char { major, minor } => SourceKind::Char(*major, *minor),
                Node::Block { major, minor } => SourceKind::Block(*major, *minor),
                Node::Fifo => SourceKind::Fifo,
            };
            let place = Place::Entry {
                parent,
                name: entry.name.into(),
            };
            let node = overlay.put(place, entry.metadata, kind).map_err(layer)?;
            if let Node::Dir { tree } = entry.node {
                stack.push((node, tree));
            }
        }
    }
    Ok(())
}
