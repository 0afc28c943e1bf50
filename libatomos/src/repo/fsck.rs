//! Verifying a repository: every digest, every reference, every inode variant.
//!
//! An `Err` means that something could not be looked at; what was looked at and is bad is a [`Finding`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::fmt;

use rayon::prelude::*;
use serde::Serialize;

use crate::cancel::Cancel;
use crate::digest::{BlobId, CommitId, Digest, DirTreeId};
use crate::format::{Commit, DirTree, Node, limits};
use crate::fs::{Dir, FileKind, FsError, hash_file};
use crate::progress::{Phase, PhaseGuard, Progress, Unit};

use super::object::{SELINUX, inode_metadata};
use super::traverse::{Ancestry, parse_variant_bits, variant_bits};
use super::{ObjectKind, PartialCommits, Repo, RepoError, RepoMode, parse_object_name};

/// How to verify.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct FsckOptions {
    /// Threads to hash with; all processors where `None`.
    pub threads: Option<usize>,
}

/// What is wrong with an object. The names are stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "problem", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Problem {
    /// Something refers to it, and it is not there.
    Missing,
    /// Its bytes have another digest than its name.
    WrongDigest {
        /// The digest of the bytes.
        found: Digest,
    },
    /// Its bytes are not an encoding of its kind.
    Malformed {
        /// Which rule they break.
        reason: String,
    },
    /// An entry says another size than the blob has.
    WrongSize {
        /// What the entry says.
        recorded: u64,
        /// What the blob has.
        found: u64,
    },
    /// The inode under a variant's name has other metadata than the name says.
    WrongInode {
        /// The variant's name.
        variant: String,
    },
    /// A file of a tree has no inode with its metadata, so a checkout must copy it.
    MissingVariant {
        /// The variant's name.
        variant: String,
    },
    /// It cannot be read.
    Unreadable {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "is missing"),
            Self::WrongDigest { found } => write!(f, "is damaged: its bytes have the digest {found}"),
            Self::Malformed { reason } => write!(f, "is malformed: {reason}"),
            Self::WrongSize { recorded, found } => {
                write!(f, "has {found} bytes, and a tree records {recorded}")
            }
            Self::WrongInode { variant } => {
                write!(
                    f,
                    "has an inode variant {variant} whose owner, mode, time or attributes were changed"
                )
            }
            Self::MissingVariant { variant } => write!(f, "lacks the inode variant {variant}"),
            Self::Unreadable { reason } => write!(f, "cannot be read: {reason}"),
        }
    }
}

/// Where a bad object is used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ObjectUse {
    /// The ref, deployment or mount.
    pub root: String,
    /// The commit.
    pub commit: CommitId,
    /// The path in its tree; `/` for the commit and its root.
    pub path: String,
}

/// A bad object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// The kind of object.
    pub kind: ObjectKind,
    /// Its name.
    pub digest: Digest,
    /// What is wrong.
    #[serde(flatten)]
    pub problem: Problem,
    /// Where it is used: the first few places.
    pub used_by: Vec<ObjectUse>,
}

/// What verifying found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FsckReport {
    /// Commits verified.
    pub commits: u64,
    /// Dirtrees verified.
    pub dirtrees: u64,
    /// Blobs verified.
    pub blobs: u64,
    /// Inode variants verified beside the blobs' own.
    pub variants: u64,
    /// Bytes hashed.
    pub bytes: u64,
    /// Files in the store that no writer of ours has named. They do no harm.
    pub strangers: u64,
    /// Commits of which only some paths were pulled. What they lack is no damage, unless a ref names them.
    #[serde(skip_serializing_if = "PartialCommits::is_empty")]
    pub partial: PartialCommits,
    /// Every bad object.
    pub findings: Vec<Finding>,
}

impl FsckReport {
    /// Returns whether everything is whole.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Uses listed per bad object.
const MAX_USES: usize = 8;

/// An object's file.
struct Stored {
    digest: Digest,
    variant: Option<String>,
    size: u64,
}

#[derive(Default)]
struct Seen {
    commits: HashMap<CommitId, Commit>,
    dirtrees: HashMap<DirTreeId, DirTreeFacts>,
    blobs: HashMap<BlobId, u64>,
    variants: HashSet<(BlobId, [u8; 16])>,
}

/// What must be remembered of a dirtree: what it refers to.
struct DirTreeFacts {
    subtrees: Vec<DirTreeId>,
    files: Vec<(BlobId, u64, [u8; 16])>,
}

impl Repo {
    /// Verifies every object and every reference. Takes the shared lock.
    pub fn fsck(
        &self,
        options: &FsckOptions,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<FsckReport, RepoError> {
        let _lock = self.lock_shared()?;
        let mut report = FsckReport::default();
        let shards = self.list_all(&mut report)?;
        let total = shards
            .iter()
            .flat_map(|(_, _, list)| list)
            .map(|stored| stored.size)
            .sum();
        let phase = PhaseGuard::begin(progress, Phase::Verify, Some(total), Unit::Bytes);
        let checked: Vec<ShardResult> = crate::parallel::pool(options.threads).install(|| {
            shards
                .into_par_iter()
                .map(|(kind, dir, list)| self.check_shard(kind, &dir, list, &phase, cancel))
                .collect::<Result<_, RepoError>>()
        })?;
        drop(phase);
        let mut seen = Seen::default();
        for shard in checked {
            report.commits += shard.seen.commits.len() as u64;
            report.dirtrees += shard.seen.dirtrees.len() as u64;
            report.blobs += shard.seen.blobs.len() as u64;
            report.variants += shard.variants;
            report.bytes += shard.bytes;
            report.findings.extend(shard.findings);
            seen.commits.extend(shard.seen.commits);
            seen.dirtrees.extend(shard.seen.dirtrees);
            seen.blobs.extend(shard.seen.blobs);
            seen.variants.extend(shard.seen.variants);
        }
        report.partial = self.partial_commits()?;
        report
            .partial
            .retain(|commit, _| seen.commits.contains_key(commit));
        self.check_references(&seen, &mut report)?;
        if !report.findings.is_empty() {
            self.find_uses(&seen, &mut report)?;
        }
        report
            .findings
            .sort_by_key(|finding| (finding.kind, finding.digest));
        Ok(report)
    }

    fn list_all(&self, report: &mut FsckReport) -> Result<Vec<(ObjectKind, Dir, Vec<Stored>)>, RepoError> {
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
        phase: &PhaseGuard<'_>,
        cancel: &Cancel,
    ) -> Result<ShardResult, RepoError> {
        let mut result = ShardResult::default();
        for stored in list {
            cancel.check()?;
            let outcome = match kind {
                ObjectKind::Blob => self.check_blob(dir, &stored, &mut result),
                ObjectKind::DirTree => check_dirtree(dir, &stored, &mut result),
                ObjectKind::Commit => check_commit(dir, &stored, &mut result),
            };
            match outcome {
                Ok(None) => {}
                Ok(Some(problem)) => result.finding(kind, stored.digest, problem),
                // One bad sector must not hide the rest.
                Err(CheckError::Fs(error)) => {
                    let reason = format!("{error}: {}", error.source);
                    result.finding(kind, stored.digest, Problem::Unreadable { reason });
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
        result: &mut ShardResult,
    ) -> Result<Option<Problem>, CheckError> {
        let name = file_name(stored);
        let file = dir.open_file(&name)?;
        let (found, size) =
            hash_file(&file).map_err(|error| FsError::new("read", dir.path().join(&name), error))?;
        if found.digest() != &stored.digest {
            return Ok(Some(Problem::WrongDigest {
                found: *found.digest(),
            }));
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

    /// Checks what refs and roots lead to. What nothing leads to may lack anything: a pruner or a transaction that
    /// was interrupted has left it, and the next one takes it away or completes it.
    fn check_references(&self, seen: &Seen, report: &mut FsckReport) -> Result<(), RepoError> {
        let mut missing: HashSet<(ObjectKind, Digest)> = HashSet::new();
        let damaged: HashSet<_> = report
            .findings
            .iter()
            .map(|finding| (finding.kind, finding.digest))
            .collect();
        let mut problems: BTreeMap<(ObjectKind, Digest), Problem> = BTreeMap::new();
        let mut sizes_and_variants = Vec::new();
        let mut need = |kind: ObjectKind, digest: &Digest, present: bool| {
            if !present && !damaged.contains(&(kind, *digest)) && missing.insert((kind, *digest)) {
                problems.insert((kind, *digest), Problem::Missing);
            }
        };
        let mut trees: Vec<DirTreeId> = Vec::new();
        let mut visited = HashSet::new();
        for (commit, ancestry) in self.kept_commits()? {
            let mut next = Some(commit);
            need(
                ObjectKind::Commit,
                commit.digest(),
                seen.commits.contains_key(&commit),
            );
            let mut is_tip = true;
            while let Some((id, commit)) = next
                .filter(|id| visited.insert((*id, is_tip)))
                .and_then(|id| Some((id, seen.commits.get(&id)?)))
            {
                // A ref's commit is whole; one of its ancestors may have come for a part of it.
                if is_tip || !report.partial.contains_key(&id) {
                    trees.push(commit.root);
                }
                is_tip = false;
                next = commit.parent.filter(|_| ancestry == Ancestry::Follow);
            }
        }
        for (_, record) in self.list_roots()? {
            for blob in &record.blobs {
                need(ObjectKind::Blob, blob.digest(), seen.blobs.contains_key(blob));
            }
        }
        let mut visited = HashSet::new();
        let mut files = Vec::new();
        while let Some(tree) = trees.pop() {
            if !visited.insert(tree) {
                continue;
            }
            let facts = seen.dirtrees.get(&tree);
            need(ObjectKind::DirTree, tree.digest(), facts.is_some());
            if let Some(facts) = facts {
                trees.extend(&facts.subtrees);
                files.push(&facts.files);
            }
        }
        for (blob, size, bits) in files.into_iter().flatten() {
            let Some(found) = seen.blobs.get(blob) else {
                need(ObjectKind::Blob, blob.digest(), false);
                continue;
            };
            if found != size {
                sizes_and_variants.push((
                    *blob,
                    Problem::WrongSize {
                        recorded: *size,
                        found: *found,
                    },
                ));
            } else if self.mode() == RepoMode::Bare && *size > 0 && !seen.variants.contains(&(*blob, *bits)) {
                let variant = format!("{:032x}", u128::from_le_bytes(*bits));
                sizes_and_variants.push((*blob, Problem::MissingVariant { variant }));
            }
        }
        for (blob, problem) in sizes_and_variants {
            problems
                .entry((ObjectKind::Blob, *blob.digest()))
                .or_insert(problem);
        }
        report
            .findings
            .extend(problems.into_iter().map(|((kind, digest), problem)| Finding {
                kind,
                digest,
                problem,
                used_by: Vec::new(),
            }));
        Ok(())
    }

    fn kept_commits(&self) -> Result<Vec<(CommitId, Ancestry)>, RepoError> {
        let refs = self.refs()?;
        let mut kept: Vec<_> = refs.values().map(|commit| (*commit, Ancestry::Follow)).collect();
        for (_, record) in self.list_roots()? {
            kept.extend(record.commits.iter().map(|commit| (*commit, Ancestry::Stop)));
        }
        Ok(kept)
    }

    fn rooted_commits(&self) -> Result<Vec<(String, CommitId)>, RepoError> {
        let mut roots: Vec<_> = self
            .refs()?
            .into_iter()
            .map(|(name, commit)| (format!("ref {name}"), commit))
            .collect();
        for (name, record) in self.list_roots()? {
            roots.extend(record.commits.iter().map(|commit| (name.to_string(), *commit)));
        }
        Ok(roots)
    }

    /// Walks from every root to the bad objects. Only done when there are some.
    fn find_uses(&self, seen: &Seen, report: &mut FsckReport) -> Result<(), RepoError> {
        let mut uses: HashMap<(ObjectKind, Digest), Vec<ObjectUse>> = report
            .findings
            .iter()
            .map(|finding| ((finding.kind, finding.digest), Vec::new()))
            .collect();
        for (root, first) in self.rooted_commits()? {
            let mut visited = HashSet::new();
            let mut next = Some(first);
            while let Some(commit) = next.filter(|commit| visited.insert(*commit)) {
                let mut note = |kind: ObjectKind, digest: &Digest, path: &str| {
                    if let Some(list) = uses.get_mut(&(kind, *digest))
                        && list.len() < MAX_USES
                    {
                        list.push(ObjectUse {
                            root: root.clone(),
                            commit,
                            path: path.to_owned(),
                        });
                    }
                };
                note(ObjectKind::Commit, commit.digest(), "/");
                let Some(object) = seen.commits.get(&commit) else {
                    break;
                };
                let mut stack = vec![(object.root, String::from("/"))];
                let mut trees = HashSet::new();
                while let Some((tree, path)) = stack.pop() {
                    note(ObjectKind::DirTree, tree.digest(), &path);
                    if !trees.insert(tree) || !seen.dirtrees.contains_key(&tree) {
                        continue;
                    }
                    for entry in self.load_dirtree(&tree)?.entries() {
                        let child = format!("{path}{}", String::from_utf8_lossy(&entry.name));
                        match &entry.node {
                            Node::Dir { tree } => stack.push((*tree, child + "/")),
                            Node::File { blob, .. } => note(ObjectKind::Blob, blob.digest(), &child),
                            _ => {}
                        }
                    }
                }
                next = object.parent;
            }
        }
        for finding in &mut report.findings {
            finding.used_by = uses.remove(&(finding.kind, finding.digest)).unwrap_or_default();
        }
        Ok(())
    }
}

#[derive(Default)]
struct ShardResult {
    seen: Seen,
    variants: u64,
    bytes: u64,
    findings: Vec<Finding>,
}

impl ShardResult {
    fn finding(&mut self, kind: ObjectKind, digest: Digest, problem: Problem) {
        self.findings.push(Finding {
            kind,
            digest,
            problem,
            used_by: Vec::new(),
        });
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
    result.seen.dirtrees.insert(DirTreeId::new(stored.digest), facts);
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
