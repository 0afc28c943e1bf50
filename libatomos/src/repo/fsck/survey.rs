//! Reading every object.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;

use rayon::prelude::*;

use crate::cancel::Cancel;
use crate::digest::{BlobId, CommitId, Digest, DirTreeId};
use crate::format::{Commit, DirTree, Node, limits};
use crate::fs::{Dir, FileKind, FsError, hash_file, hash_file_and_verity};
use crate::progress::{Phase, PhaseGuard, Progress, Unit};

use super::super::object::inode_metadata;
use super::super::traverse::{parse_variant_bits, variant_bits};
use super::super::{ObjectKind, Repo, RepoError, RepoMode, parse_object_name};
use super::{Finding, FsckOptions, FsckReport, Problem};
use crate::fs::SELINUX;
use crate::verity::VerityDigest;

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

/// An object's file.
struct Stored {
    digest: Digest,
    variant: Option<String>,
    size: u64,
}

/// The objects of one directory of the store.
type Shard = (ObjectKind, Dir, Vec<Stored>);

/// What is whole.
#[derive(Default)]
pub(in crate::repo) struct Seen {
    pub(in crate::repo) commits: HashMap<CommitId, Commit>,
    pub(in crate::repo) dirtrees: HashMap<DirTreeId, DirTreeFacts>,
    /// With their sizes.
    pub(in crate::repo) blobs: HashMap<BlobId, u64>,
    /// Inodes, by the 128 bits of their variants' names.
    pub(in crate::repo) variants: HashSet<(BlobId, [u8; 16])>,
    /// Dirtrees that record another fs-verity digest than a blob of theirs has.
    pub(in crate::repo) wrong_verity: HashMap<DirTreeId, Problem>,
}

/// The fs-verity digests that dirtrees record of a blob.
type Recorded = HashMap<BlobId, Vec<(VerityDigest, DirTreeId)>>;

impl Seen {
    /// Returns whether everything of a commit's tree is here.
    pub(in crate::repo) fn is_complete(&self, commit: &CommitId, mode: RepoMode) -> bool {
        let Some(commit) = self.commits.get(commit) else {
            return false;
        };
        let (mut trees, mut met) = (vec![commit.root], HashSet::new());
        while let Some(tree) = trees.pop() {
            if !met.insert(tree) {
                continue;
            }
            let Some(facts) = self.dirtrees.get(&tree) else {
                return false;
            };
            let whole = facts.files.iter().all(|(blob, size, bits)| {
                let has_inode = || mode == RepoMode::BareUser || self.variants.contains(&(*blob, *bits));
                self.blobs.get(blob) == Some(size) && (*size == 0 || has_inode())
            });
            if !whole {
                return false;
            }
            trees.extend(&facts.subtrees);
        }
        true
    }
}

/// What must be remembered of a dirtree: what it refers to.
pub(in crate::repo) struct DirTreeFacts {
    pub(in crate::repo) subtrees: Vec<DirTreeId>,
    pub(in crate::repo) files: Vec<(BlobId, u64, [u8; 16])>,
}

/// Returns what a dirtree refers to.
pub(in crate::repo) fn dirtree_facts(tree: &DirTree) -> Result<DirTreeFacts, RepoError> {
    let mut facts = DirTreeFacts {
        subtrees: Vec::new(),
        files: Vec::new(),
    };
    for entry in tree.entries() {
        match &entry.node {
            Node::Dir { tree } => facts.subtrees.push(*tree),
            Node::File { blob, size, .. } => facts.files.push((*blob, *size, variant_bits(&entry.metadata)?)),
            _ => {}
        }
    }
    Ok(facts)
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
        let shards = self.list_all(&mut report)?;
        let total = shards
            .iter()
            .flat_map(|(_, _, list)| list)
            .map(|stored| stored.size)
            .sum();
        let phase = PhaseGuard::begin(progress, Phase::Verify, Some(total), Unit::Bytes);
        let pool = crate::parallel::pool(options.threads);
        let check = |shards: Vec<Shard>, recorded: &Recorded| {
            pool.install(|| {
                shards
                    .into_par_iter()
                    .map(|(kind, dir, list)| self.check_shard(kind, &dir, list, recorded, &phase, cancel))
                    .collect::<Result<Vec<ShardResult>, RepoError>>()
            })
        };
        // What dirtrees record of blobs is compared while these are read.
        let (blobs, others): (Vec<Shard>, Vec<Shard>) = shards
            .into_iter()
            .partition(|(kind, ..)| *kind == ObjectKind::Blob);
        let mut checked = check(others, &Recorded::new())?;
        let mut recorded = Recorded::new();
        for (blob, verity, tree) in checked.iter_mut().flat_map(|shard| shard.recorded.drain(..)) {
            recorded.entry(blob).or_default().push((verity, tree));
        }
        checked.extend(check(blobs, &recorded)?);
        drop(recorded);
        drop(phase);
        let (mut seen, mut bad) = (Seen::default(), Vec::new());
        for shard in checked {
            report.commits += shard.seen.commits.len() as u64;
            report.dirtrees += shard.seen.dirtrees.len() as u64;
            report.blobs += shard.seen.blobs.len() as u64;
            report.variants += shard.variants;
            report.bytes += shard.bytes;
            bad.extend(shard.bad);
            seen.commits.extend(shard.seen.commits);
            seen.dirtrees.extend(shard.seen.dirtrees);
            seen.blobs.extend(shard.seen.blobs);
            seen.variants.extend(shard.seen.variants);
            seen.wrong_verity.extend(shard.seen.wrong_verity);
        }
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
        let stored = Stored {
            digest: *digest,
            variant: variant.map(str::to_owned),
            size: 0,
        };
        let shard = &digest.to_hex()[..2];
        let Some(dir) = self.kind_dir(kind).open_dir_optional(shard)? else {
            return Ok(FileState::Absent);
        };
        if !dir.exists(file_name(&stored))? {
            return Ok(FileState::Absent);
        }
        match self.check_file(kind, &dir, &stored, &Recorded::new(), &mut ShardResult::default()) {
            Ok(None) => Ok(FileState::Whole),
            Ok(Some(_)) | Err(CheckError::Fs(_)) => Ok(FileState::Bad),
            Err(CheckError::Repo(error)) => Err(error),
        }
    }

    fn check_file(
        &self,
        kind: ObjectKind,
        dir: &Dir,
        stored: &Stored,
        recorded: &Recorded,
        result: &mut ShardResult,
    ) -> Result<Option<Problem>, CheckError> {
        match kind {
            ObjectKind::Blob => self.check_blob(dir, stored, recorded, result),
            ObjectKind::DirTree => check_dirtree(dir, stored, result),
            ObjectKind::Commit => check_commit(dir, stored, result),
        }
    }

    fn list_all(&self, report: &mut FsckReport) -> Result<Vec<Shard>, RepoError> {
        let mut shards = Vec::new();
        for kind in ObjectKind::ALL {
            for entry in self.kind_dir(kind).entries()? {
                let Some(dir) = self.open_shard(kind, &entry.name)? else {
                    report.strangers += 1;
                    continue;
                };
                let shard = entry.name.to_string_lossy().into_owned();
                let mut list = Vec::new();
                for entry in dir.entries()? {
                    let parsed = entry
                        .name
                        .to_str()
                        .and_then(|name| parse_object_name(&shard, name));
                    match (parsed, dir.stat(&entry.name)?) {
                        (Some((digest, variant)), stat) if stat.kind == FileKind::File => {
                            list.push(Stored {
                                digest,
                                variant,
                                size: stat.size,
                            });
                        }
                        _ => report.strangers += 1,
                    }
                }
                shards.push((kind, dir, list));
            }
        }
        Ok(shards)
    }

    fn check_shard(
        &self,
        kind: ObjectKind,
        dir: &Dir,
        list: Vec<Stored>,
        recorded: &Recorded,
        phase: &PhaseGuard<'_>,
        cancel: &Cancel,
    ) -> Result<ShardResult, RepoError> {
        let mut result = ShardResult::default();
        for stored in list {
            cancel.check()?;
            match self.check_file(kind, dir, &stored, recorded, &mut result) {
                Ok(None) => {}
                Ok(Some(problem)) => result.bad(kind, &stored, problem),
                // One bad sector must not hide the rest.
                Err(CheckError::Fs(error)) => {
                    let reason = format!("{error}: {}", error.source);
                    result.bad(kind, &stored, Problem::Unreadable { reason });
                }
                Err(CheckError::Repo(error)) => return Err(error),
            }
            result.bytes += stored.size;
            phase.advance(stored.size);
        }
        Ok(result)
    }

    fn check_blob(
        &self,
        dir: &Dir,
        stored: &Stored,
        recorded: &Recorded,
        result: &mut ShardResult,
    ) -> Result<Option<Problem>, CheckError> {
        let name = file_name(stored);
        let file = dir.open_file(&name)?;
        let recorded = recorded
            .get(&BlobId::new(stored.digest))
            .filter(|_| stored.variant.is_none());
        let (found, size, verity) = match recorded {
            None => hash_file(&file).map(|(found, size)| (found, size, None)),
            Some(_) => hash_file_and_verity(&file).map(|(found, size, verity)| (found, size, Some(verity))),
        }
        .map_err(|error| FsError::new("read", dir.path().join(&name), error))?;
        if found.digest() != &stored.digest {
            return Ok(Some(Problem::WrongDigest {
                found: *found.digest(),
            }));
        }
        for (recorded, tree) in recorded.into_iter().flatten() {
            if let Some(verity) = verity.filter(|verity| verity != recorded) {
                let problem = Problem::WrongVerity {
                    blob: found,
                    recorded: *recorded,
                    found: verity,
                };
                result.seen.wrong_verity.insert(*tree, problem);
            }
        }
        if stored.variant.is_none() {
            result.seen.blobs.insert(found, size);
        } else {
            result.variants += 1;
        }
        if self.mode() == RepoMode::BareUser {
            return Ok(None);
        }
        let mut metadata = inode_metadata(dir, OsStr::new(&name), &dir.stat(&name)?)?;
        let labelled = variant_bits(&metadata)?;
        metadata.xattrs.remove(SELINUX);
        let plain = variant_bits(&metadata)?;
        if let Some(variant) = &stored.variant
            && ![labelled, plain].contains(&parse_variant_bits(variant))
        {
            return Ok(Some(Problem::WrongInode {
                variant: variant.clone(),
            }));
        }
        result.seen.variants.extend([(found, labelled), (found, plain)]);
        Ok(None)
    }
}

#[derive(Default)]
struct ShardResult {
    seen: Seen,
    variants: u64,
    bytes: u64,
    bad: Vec<BadFile>,
    /// What dirtrees record.
    recorded: Vec<(BlobId, VerityDigest, DirTreeId)>,
}

impl ShardResult {
    fn bad(&mut self, kind: ObjectKind, stored: &Stored, problem: Problem) {
        self.bad.push(BadFile {
            kind,
            digest: stored.digest,
            variant: stored.variant.clone(),
            problem,
        });
    }
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

fn file_name(stored: &Stored) -> String {
    let mut name = stored.digest.to_hex().split_off(2);
    if let Some(variant) = &stored.variant {
        name.push('.');
        name.push_str(variant);
    }
    name
}

fn read_encoded(dir: &Dir, stored: &Stored, limit: usize) -> Result<Result<Vec<u8>, Problem>, CheckError> {
    let bytes = dir.read(file_name(stored), limit)?;
    let found = Digest::of(&bytes);
    Ok(if found == stored.digest {
        Ok(bytes)
    } else {
        Err(Problem::WrongDigest { found })
    })
}

fn check_dirtree(
    dir: &Dir,
    stored: &Stored,
    result: &mut ShardResult,
) -> Result<Option<Problem>, CheckError> {
    let bytes = match read_encoded(dir, stored, limits::MAX_DIRTREE)? {
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
    let (facts, id) = (dirtree_facts(&tree)?, DirTreeId::new(stored.digest));
    for entry in tree.entries() {
        if let Node::File {
            blob,
            verity: Some(verity),
            ..
        } = &entry.node
        {
            result
                .recorded
                .push((*blob, VerityDigest::from_bytes(*verity), id));
        }
    }
    result.seen.dirtrees.insert(id, facts);
    Ok(None)
}

fn check_commit(dir: &Dir, stored: &Stored, result: &mut ShardResult) -> Result<Option<Problem>, CheckError> {
    let bytes = match read_encoded(dir, stored, limits::MAX_COMMIT)? {
        Ok(bytes) => bytes,
        Err(problem) => return Ok(Some(problem)),
    };
    match Commit::decode(&bytes) {
        Ok(commit) => {
            result.seen.commits.insert(CommitId::new(stored.digest), commit);
            Ok(None)
        }
        Err(error) => Ok(Some(Problem::Malformed {
            reason: error.to_string(),
        })),
    }
}
