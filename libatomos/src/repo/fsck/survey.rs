//! Reading every object.

use std::fs::File;
use std::path::Path;

use rayon::prelude::*;

use crate::cancel::Cancel;
use crate::digest::{BlobId, CommitId, Digest, DirTreeId};
use crate::format::{Commit, DirTree, Metadata, Node, limits};
use crate::fs::{Dir, FileHasher, FsError, SELINUX, Stat, read_bounded, read_xattrs_of};
use crate::progress::{Phase, PhaseGuard, Progress, Unit};
use crate::verity::VerityDigest;

use super::super::traverse::{VariantBits, parse_variant_bits, variant_name};
use super::super::{ObjectKind, Repo, RepoError, RepoMode};
use super::listing::{FileName, Listing, Stored};
use super::seen::Seen;
use super::{Finding, FsckOptions, FsckReport, Problem};

/// What reading every object has shown. Nothing was followed yet.
pub(in crate::repo) struct Survey {
    pub(in crate::repo) seen: Seen,
    /// Numbers, and a finding for each bad file.
    pub(in crate::repo) report: FsckReport,
    pub(in crate::repo) bad: Vec<BadFile>,
}

/// A file in the store that is not what its name says.
#[derive(Debug, Clone)]
pub(in crate::repo) struct BadFile {
    pub(in crate::repo) kind: ObjectKind,
    pub(in crate::repo) digest: Digest,
    /// The name of the inode variant; `None` for the object's own file.
    pub(in crate::repo) variant: Option<String>,
    pub(in crate::repo) problem: Problem,
}

/// What one file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::repo) enum FileState {
    Absent,
    Whole,
    Bad,
}

impl BadFile {
    pub(in crate::repo) fn object(&self) -> (ObjectKind, Digest) {
        (self.kind, self.digest)
    }
}

/// Files that one thread reads at a time.
const TOGETHER: usize = 64;

/// Bytes after which whoever waits is told of the files that were read.
const TELL: u64 = 1 << 20;

/// What reading some files has shown.
#[derive(Default)]
struct Found {
    commits: Vec<(CommitId, Commit)>,
    dirtrees: Vec<DirTreeId>,
    /// Blobs of which dirtrees record the fs-verity digest; see [`Ids`].
    recorded: Ids,
    /// The fs-verity digests of these.
    verity: Vec<(BlobId, VerityDigest)>,
    /// What else an inode is that is in its [`Stored`].
    others: Vec<(BlobId, [u8; 16])>,
    variants: u64,
    bytes: u64,
    bad: Vec<BadFile>,
}

/// Blobs' names, that may come many times each and are kept about once.
#[derive(Default)]
struct Ids {
    list: Vec<BlobId>,
    /// So many were left when they were last sorted.
    distinct: usize,
}

impl Ids {
    fn append(&mut self, more: &mut Vec<BlobId>) {
        self.list.append(more);
        if self.list.len() > 2 * self.distinct + 1024 {
            self.sort();
        }
    }

    fn sort(&mut self) {
        self.list.sort_unstable();
        self.list.dedup();
        self.distinct = self.list.len();
    }
}

impl Found {
    fn and(mut self, mut more: Self) -> Self {
        self.commits.append(&mut more.commits);
        self.dirtrees.append(&mut more.dirtrees);
        self.recorded.append(&mut more.recorded.list);
        self.verity.append(&mut more.verity);
        self.others.append(&mut more.others);
        self.variants += more.variants;
        self.bytes += more.bytes;
        self.bad.append(&mut more.bad);
        self
    }

    fn bad(&mut self, kind: ObjectKind, stored: &Stored, problem: Problem) {
        self.bad.push(BadFile {
            kind,
            digest: stored.digest,
            variant: stored.variant().map(variant_name),
            problem,
        });
    }
}

/// What a thread has for reading files, one after another.
struct Reader {
    hasher: FileHasher,
    name: FileName,
    bits: VariantBits,
}

impl Reader {
    fn new() -> Self {
        Self {
            hasher: FileHasher::new(),
            name: FileName::default(),
            bits: VariantBits::new(),
        }
    }
}

impl Repo {
    /// Reads every object. The shared lock must be held.
    pub(in crate::repo) fn survey(
        &self,
        options: &FsckOptions,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Survey, RepoError> {
        let mut report = FsckReport::default();
        let pool = crate::parallel::pool(Some(options.threads()));
        let mut listings = Vec::new();
        for kind in ObjectKind::ALL {
            let listing = pool.install(|| self.list_objects(kind))?;
            report.strangers += listing.strangers;
            listings.push(listing);
        }
        // To know how many bytes there are costs a look at each file, a good part of what it costs to read a small one.
        let total = listings.iter().map(|listing| listing.files.len() as u64).sum();
        let phase = PhaseGuard::begin(progress, Phase::Verify, Some(total), Unit::Items);
        let check = |listing: &mut Listing, recorded: &[BlobId]| {
            pool.install(|| self.check_objects(listing, recorded, &phase, cancel))
        };
        // What dirtrees record of blobs has to be known when these are read.
        let mut blobs = listings.remove(0);
        let mut found = Found::default();
        for listing in &mut listings {
            found = found.and(check(listing, &[])?);
        }
        drop(listings);
        let mut recorded = std::mem::take(&mut found.recorded);
        recorded.sort();
        found = found.and(check(&mut blobs, &recorded.list)?);
        drop(recorded);
        drop(phase);
        let mut files = blobs.files;
        pool.install(|| files.par_sort_unstable_by(Stored::order));
        let own = files
            .iter()
            .filter(|stored| !stored.is_variant && stored.has_bytes);
        report.blobs = own.count() as u64;
        report.variants = found.variants;
        report.bytes = found.bytes;
        let mut seen = Seen::default();
        seen.commits.extend(found.commits);
        seen.dirtrees.extend(found.dirtrees);
        report.commits = seen.commits.len() as u64;
        report.dirtrees = seen.dirtrees.len() as u64;
        seen.set_blobs(files, found.others, found.verity);
        let mut bad = found.bad;
        bad.sort_by(|a, b| (a.kind, a.digest, &a.variant).cmp(&(b.kind, b.digest, &b.variant)));
        report.findings = bad.iter().map(Finding::of).collect();
        report.partial = self.partial_commits()?;
        report
            .partial
            .retain(|commit, _| seen.commits.contains_key(commit));
        Ok(Survey { seen, report, bad })
    }

    /// Looks at one file once more.
    pub(in crate::repo) fn look_again(
        &self,
        kind: ObjectKind,
        digest: &Digest,
        variant: Option<&str>,
    ) -> Result<FileState, RepoError> {
        let shard = &digest.to_hex()[..2];
        let Some(dir) = self.kind_dir(kind).open_dir_optional(shard)? else {
            return Ok(FileState::Absent);
        };
        let mut stored = Stored::new(*digest, variant.map(parse_variant_bits), 0);
        if !dir.exists(FileName::default().of(&stored))? {
            return Ok(FileState::Absent);
        }
        let (mut reader, mut found) = (Reader::new(), Found::default());
        match self.check_file(kind, &dir, &mut stored, &[], &mut reader, &mut found) {
            Ok(None) => Ok(FileState::Whole),
            Ok(Some(_)) | Err(CheckError::Fs(_)) => Ok(FileState::Bad),
            Err(CheckError::Repo(error)) => Err(error),
        }
    }

    /// Reads all files of a listing, on the threads of the pool that this is called in. `recorded` is sorted.
    fn check_objects(
        &self,
        listing: &mut Listing,
        recorded: &[BlobId],
        phase: &PhaseGuard<'_>,
        cancel: &Cancel,
    ) -> Result<Found, RepoError> {
        let mut files = std::mem::take(&mut listing.files);
        // Inodes and what is in them lie on the disk in the order of their numbers, more or less; and all threads read near one another.
        files.par_sort_unstable_by_key(|stored| stored.ino);
        let found = files
            .chunks_mut(TOGETHER)
            .par_bridge()
            .map_init(Reader::new, |reader, files| {
                self.check_some(listing, files, recorded, reader, phase, cancel)
            })
            .try_reduce(Found::default, |found, more| Ok(found.and(more)));
        listing.files = files;
        found
    }

    fn check_some(
        &self,
        listing: &Listing,
        files: &mut [Stored],
        recorded: &[BlobId],
        reader: &mut Reader,
        phase: &PhaseGuard<'_>,
        cancel: &Cancel,
    ) -> Result<Found, RepoError> {
        let (mut found, mut told, mut untold) = (Found::default(), 0, 0);
        for stored in files {
            cancel.check()?;
            let dir = listing.shard(&stored.digest);
            match self.check_file(listing.kind, dir, stored, recorded, reader, &mut found) {
                Ok(None) => {}
                Ok(Some(problem)) => found.bad(listing.kind, stored, problem),
                // One bad sector must not hide the rest.
                Err(CheckError::Fs(error)) => {
                    let reason = format!("{error}: {}", error.source);
                    found.bad(listing.kind, stored, Problem::Unreadable { reason });
                }
                Err(CheckError::Repo(error)) => return Err(error),
            }
            untold += 1;
            if found.bytes - told >= TELL {
                told = found.bytes;
                phase.advance(std::mem::take(&mut untold));
            }
        }
        phase.advance(untold);
        Ok(found)
    }

    fn check_file(
        &self,
        kind: ObjectKind,
        dir: &Dir,
        stored: &mut Stored,
        recorded: &[BlobId],
        reader: &mut Reader,
        found: &mut Found,
    ) -> Result<Option<Problem>, CheckError> {
        let Reader { hasher, name, bits } = reader;
        let name = name.of(stored);
        let opened = match dir.open_file(name) {
            Ok(file) => Opened {
                stat: dir.stat_opened(&file, name)?,
                file,
                dir,
                name,
            },
            Err(error) => {
                found.bytes += dir.stat(name).map_or(0, |stat| stat.size);
                return Err(error.into());
            }
        };
        found.bytes += opened.stat.size;
        match kind {
            ObjectKind::Blob => self.check_blob(&opened, stored, recorded, hasher, bits, found),
            ObjectKind::DirTree => check_dirtree(&opened, stored, found),
            ObjectKind::Commit => check_commit(&opened, stored, found),
        }
    }

    fn check_blob(
        &self,
        opened: &Opened<'_>,
        stored: &mut Stored,
        recorded: &[BlobId],
        hasher: &mut FileHasher,
        bits: &mut VariantBits,
        found: &mut Found,
    ) -> Result<Option<Problem>, CheckError> {
        let Opened {
            file,
            stat,
            dir,
            name,
        } = opened;
        let is_recorded = !stored.is_variant && recorded.binary_search(&BlobId::new(stored.digest)).is_ok();
        let (blob, size, verity) = match is_recorded {
            false => hasher
                .hash(file, stat.size)
                .map(|(blob, size)| (blob, size, None)),
            true => (hasher.hash_and_verity(file, stat.size))
                .map(|(blob, size, verity)| (blob, size, Some(verity))),
        }
        .map_err(FsError::at("read", dir.path(), name))?;
        if *blob.digest() != stored.digest {
            return Ok(Some(Problem::WrongDigest {
                found: *blob.digest(),
            }));
        }
        found.verity.extend(verity.map(|verity| (blob, verity)));
        stored.size = size;
        stored.has_bytes = true;
        if stored.is_variant {
            found.variants += 1;
        }
        if self.mode() == RepoMode::BareUser {
            return Ok(None);
        }
        let mut metadata = Metadata {
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            mtime: stat.mtime,
            xattrs: read_xattrs_of(file, dir, name)?,
        };
        let labelled = bits.of(&metadata)?;
        let plain = match metadata.xattrs.remove(SELINUX) {
            Some(_) => bits.of(&metadata)?,
            None => labelled,
        };
        match stored.variant() {
            None => stored.bits = plain,
            Some(bits) if [labelled, plain].contains(&bits) => {}
            Some(bits) => {
                return Ok(Some(Problem::WrongInode {
                    variant: variant_name(bits),
                }));
            }
        }
        stored.has_inode = true;
        if labelled != plain {
            found.others.extend([(blob, labelled), (blob, plain)]);
        }
        Ok(None)
    }
}

/// A file that is being read.
struct Opened<'a> {
    file: File,
    stat: Stat,
    dir: &'a Dir,
    /// In the directory.
    name: &'a Path,
}

impl Finding {
    pub(in crate::repo) fn of(bad: &BadFile) -> Self {
        Self {
            kind: bad.kind,
            digest: bad.digest,
            problem: bad.problem.clone(),
            used_by: Vec::new(),
        }
    }
}

enum CheckError {
    Fs(FsError),
    Repo(RepoError),
}

impl From<FsError> for CheckError {
    fn from(error: FsError) -> Self {
        Self::Fs(error)
    }
}

impl From<RepoError> for CheckError {
    fn from(error: RepoError) -> Self {
        Self::Repo(error)
    }
}

/// Reads a dirtree or a commit.
fn read_encoded(
    opened: &Opened<'_>,
    stored: &Stored,
    limit: usize,
) -> Result<Result<Vec<u8>, Problem>, CheckError> {
    let Opened { file, dir, name, .. } = opened;
    let bytes = read_bounded(file, opened.stat.size, limit).map_err(FsError::at("read", dir.path(), name))?;
    let found = Digest::of(&bytes);
    Ok(if found == stored.digest {
        Ok(bytes)
    } else {
        Err(Problem::WrongDigest { found })
    })
}

fn check_dirtree(
    opened: &Opened<'_>,
    stored: &Stored,
    found: &mut Found,
) -> Result<Option<Problem>, CheckError> {
    let bytes = match read_encoded(opened, stored, limits::MAX_DIRTREE)? {
        Ok(bytes) => bytes,
        Err(problem) => return Ok(Some(problem)),
    };
    let tree = match DirTree::decode(&bytes) {
        Ok(tree) => tree,
        Err(error) => {
            return Ok(Some(Problem::Malformed {
                reason: error.to_string(),
            }));
        }
    };
    let blobs = tree.entries().iter().filter_map(|entry| match &entry.node {
        Node::File { blob, verity, .. } => verity.map(|_| *blob),
        _ => None,
    });
    found.recorded.append(&mut blobs.collect());
    found.dirtrees.push(DirTreeId::new(stored.digest));
    Ok(None)
}

fn check_commit(
    opened: &Opened<'_>,
    stored: &Stored,
    found: &mut Found,
) -> Result<Option<Problem>, CheckError> {
    let bytes = match read_encoded(opened, stored, limits::MAX_COMMIT)? {
        Ok(bytes) => bytes,
        Err(problem) => return Ok(Some(problem)),
    };
    match Commit::decode(&bytes) {
        Ok(commit) => {
            found.commits.push((CommitId::new(stored.digest), commit));
            Ok(None)
        }
        Err(error) => Ok(Some(Problem::Malformed {
            reason: error.to_string(),
        })),
    }
}
