//! Writing a tree as an archive.

use std::io::{self, Read, Write};

use flate2::{Compression, GzBuilder};

use crate::archive::{Member, MemberKind, TarWriter};
use crate::cancel::Cancel;
use crate::digest::{BlobId, CommitId, DirTreeId};
use crate::format::{Entry, Metadata, Node};
use crate::progress::{Phase, PhaseGuard, Progress, Unit};
use crate::repo::{ObjectKind, Repo, RepoError};

use super::{ExportCompression, ExportError, ExportReport};

/// What is read at once.
const PIECE: usize = 256 * 1024;

/// The levels that the programs of these names have by themselves.
const GZIP_LEVEL: Compression = Compression::new(6);
const ZSTD_LEVEL: i32 = 3;

/// What begins so is a whiteout to who reads images.
const WHITEOUT: &[u8] = b".wh.";

/// Writes the tree of a commit to `out` as a tar archive.
///
/// Takes the shared lock. What was written when it fails is no whole archive, and lacks its end.
pub fn export_tar(
    repo: &Repo,
    commit: &CommitId,
    compression: ExportCompression,
    out: impl Write,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<ExportReport, ExportError> {
    let _shared = repo.lock_shared()?;
    let mut out = Compressor::new(out, compression).map_err(ExportError::Write)?;
    let report = write_tree(repo, commit, Whiteouts::Marked, &mut out, progress, cancel)?;
    out.finish().map_err(ExportError::Write)?;
    Ok(report)
}

/// What becomes of names that look like whiteouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whiteouts {
    /// They are marked as meaning themselves, which `commit --tar` knows.
    Marked,
    /// They are an error.
    Refused,
}

/// Compresses what is written.
pub(super) enum Compressor<W: Write> {
    None(io::BufWriter<W>),
    Gzip(Box<flate2::write::GzEncoder<W>>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Compressor<W> {
    pub(super) fn new(out: W, compression: ExportCompression) -> io::Result<Self> {
        Ok(match compression {
            ExportCompression::None => Self::None(io::BufWriter::with_capacity(PIECE, out)),
            // No name, no time, and the mark of no particular system.
            ExportCompression::Gzip => Self::Gzip(Box::new(
                GzBuilder::new().operating_system(255).write(out, GZIP_LEVEL),
            )),
            ExportCompression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(out, ZSTD_LEVEL)?;
                encoder.include_checksum(true)?;
                Self::Zstd(encoder)
            }
        })
    }

    pub(super) fn finish(self) -> io::Result<W> {
        let mut out = match self {
            Self::None(out) => out.into_inner().map_err(io::IntoInnerError::into_error)?,
            Self::Gzip(encoder) => encoder.finish()?,
            Self::Zstd(encoder) => encoder.finish()?,
        };
        out.flush()?;
        Ok(out)
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(out) => out.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        // A flush in the middle would change what comes out.
        Ok(())
    }
}

/// Writes the tree without compression, its end included.
pub(super) fn write_tree(
    repo: &Repo,
    id: &CommitId,
    whiteouts: Whiteouts,
    out: &mut dyn Write,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<ExportReport, ExportError> {
    let commit = repo.load_commit(id)?;
    repo.check_is_here(id, b"")?;
    let mut export = Export {
        repo,
        whiteouts,
        writer: TarWriter::new(out),
        buffer: vec![0; PIECE],
        phase: PhaseGuard::begin(progress, Phase::Export, None, Unit::Bytes),
        cancel,
        report: ExportReport {
            commit: *id,
            root: commit.root,
            entries: 0,
            files: 0,
            bytes: 0,
        },
    };
    export.tree(&commit.root, commit.root_metadata)?;
    export.writer.finish().map_err(ExportError::Write)?;
    Ok(export.report)
}

struct Export<'a> {
    repo: &'a Repo,
    whiteouts: Whiteouts,
    writer: TarWriter<&'a mut dyn Write>,
    buffer: Vec<u8>,
    phase: PhaseGuard<'a>,
    cancel: &'a Cancel,
    report: ExportReport,
}

/// A directory whose entries are being written.
struct Open {
    entries: std::vec::IntoIter<Entry>,
    /// Bytes of the path before the directory's entries.
    prefix: usize,
}

impl Export<'_> {
    fn tree(&mut self, root: &DirTreeId, metadata: Metadata) -> Result<(), ExportError> {
        self.member(b"./", metadata, MemberKind::Dir)?;
        let mut path = Vec::new();
        let mut stack = vec![self.open(root, 0)?];
        while let Some(open) = stack.last_mut() {
            path.truncate(open.prefix);
            let Some(entry) = open.entries.next() else {
                stack.pop();
                continue;
            };
            self.cancel.check()?;
            path.extend_from_slice(&entry.name);
            self.report.entries += 1;
            match entry.node {
                Node::Dir { tree } => {
                    path.push(b'/');
                    self.member(&path, entry.metadata, MemberKind::Dir)?;
                    stack.push(self.open(&tree, path.len())?);
                }
                Node::File { size, blob, .. } => {
                    self.member(&path, entry.metadata, MemberKind::File { size })?;
                    self.bytes(&blob, size)?;
                }
                Node::Symlink { target } => {
                    self.member(&path, entry.metadata, MemberKind::Symlink(target))?;
                }
                Node::Char { major, minor } => {
                    self.member(&path, entry.metadata, MemberKind::Char(major, minor))?;
                }
                Node::Block { major, minor } => {
                    self.member(&path, entry.metadata, MemberKind::Block(major, minor))?;
                }
                Node::Fifo => self.member(&path, entry.metadata, MemberKind::Fifo)?,
            }
        }
        Ok(())
    }

    fn open(&self, tree: &DirTreeId, prefix: usize) -> Result<Open, ExportError> {
        Ok(Open {
            entries: self.repo.load_dirtree(tree)?.into_entries().into_iter(),
            prefix,
        })
    }

    fn member(&mut self, path: &[u8], metadata: Metadata, kind: MemberKind) -> Result<(), ExportError> {
        let trimmed = path.strip_suffix(b"/").unwrap_or(path);
        let name = trimmed.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let literal = name.starts_with(WHITEOUT);
        if literal && self.whiteouts == Whiteouts::Refused {
            return Err(ExportError::Whiteout {
                path: path.escape_ascii().to_string(),
            });
        }
        let member = Member {
            path: path.to_vec(),
            metadata,
            kind,
            literal,
        };
        self.writer
            .write_member(&member)
            .map_err(|source| ExportError::Entry {
                path: path.escape_ascii().to_string(),
                source,
            })
    }

    fn bytes(&mut self, blob: &BlobId, size: u64) -> Result<(), ExportError> {
        let damaged = |reason| RepoError::ObjectDamaged {
            kind: ObjectKind::Blob,
            digest: *blob.digest(),
            reason,
        };
        // One byte more shows that a file has grown, and never gets into the archive.
        let mut file = self.repo.open_blob(blob)?.take(size + 1);
        let mut hasher = blake3::Hasher::new();
        let mut left = size;
        loop {
            let len = match file.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(damaged(format!("it cannot be read: {error}")).into()),
            };
            let Some(after) = left.checked_sub(len as u64) else {
                return Err(damaged(format!("it has more than {size} bytes")).into());
            };
            left = after;
            self.cancel.check()?;
            hasher.update(&self.buffer[..len]);
            self.writer
                .write_data(&self.buffer[..len])
                .map_err(ExportError::Write)?;
            self.phase.advance(len as u64);
        }
        let found = BlobId::new(hasher.finalize().into());
        if left > 0 || found != *blob {
            return Err(damaged(format!("its bytes have the digest {found}")).into());
        }
        self.writer.end_file(size).map_err(ExportError::Write)?;
        self.report.files += 1;
        self.report.bytes += size;
        Ok(())
    }
}
