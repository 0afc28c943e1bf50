//! Replacing what is damaged or missing, from whatever has it whole.
//!
//! The store is read as [`Repo::fsck`] reads it. What is bad is asked for: of the repository's own other inodes first,
//! then of each source in order. A source is not trusted: what it gives is hashed while it is staged, and counts only
//! if the digest is the object's name. A directory that was restored may lead to more that is missing, so this goes on
//! until nothing more is found.
//!
//! Then everything that was staged is synced, the exclusive lock is taken, and each good file is renamed over the bad
//! one: at no moment is there less under a name than before. What nobody has goes into `damaged/`, so that the next
//! pull or commit that brings the object does not take the damaged bytes for it. `repo-format.md` has the order.

mod install;
mod source;
mod stage;

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use crate::cancel::Cancel;
use crate::digest::{BlobId, CommitId, Digest, DirTreeId};
use crate::format::{DirTree, Metadata};
use crate::fs::Dir;
use crate::progress::{Event, Progress};

use super::fsck::{BadFile, Seen, Survey};
use super::traverse::variant_bits;
use super::{Finding, FsckOptions, FsckReport, ObjectKind, ObjectUse, Problem, Repo, RepoError, fsck};

pub use source::{Aborted, Candidate, RepairSource, RepoSource, SourceError, Take, WantedObject};
use stage::Stage;

/// How to repair.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct RepairOptions {
    /// Threads to read and hash with, as [`FsckOptions`] has them.
    pub threads: Option<usize>,
    /// Find out what could be repaired, and change nothing.
    pub dry_run: bool,
    /// Directories that may have files in common with the store, by the names to report them under: deployments.
    pub checkouts: Vec<(String, Dir)>,
}

/// A file of a checkout that is the inode of a damaged object. It stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SharedFile {
    /// The deployment.
    pub checkout: String,
    /// The path in it.
    pub path: String,
}

/// An object that is whole again, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RepairedObject {
    /// The kind of object.
    pub kind: ObjectKind,
    /// Its name.
    pub digest: Digest,
    /// Which source had it.
    pub from: String,
    /// Files that were written for it.
    pub files: u64,
    /// Files of deployments that are the damaged inode still.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shared: Vec<SharedFile>,
    /// Names that the damaged inodes have outside of the store, those of `shared` among them.
    pub other_names: u64,
}

/// What became of one source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SourceReport {
    /// The source, as it was given.
    pub name: String,
    /// Objects that it gave.
    pub given: u64,
    /// Why it could not be asked, or not to the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What repairing found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RepairReport {
    /// Whether nothing was changed because only a report was asked for.
    pub dry_run: bool,
    /// What was found, as `fsck` reports it. Its `files` are as they were: there is nowhere to take them from.
    #[serde(flatten)]
    pub found: FsckReport,
    /// What is whole again.
    pub repaired: Vec<RepairedObject>,
    /// What is not: each with the refs and paths that need it.
    pub lost: Vec<Finding>,
    /// Damaged files that were moved into `damaged/`, because nobody has the object or nothing needs that inode.
    pub set_aside: u64,
    /// The sources that were asked.
    pub sources: Vec<SourceReport>,
}

impl RepairReport {
    /// Returns whether everything is whole now.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.lost.is_empty() && self.found.files.is_empty() && (!self.dry_run || self.found.is_clean())
    }
}

/// Paths that a source is told of, for each object.
const MAX_PATHS: usize = 64;

/// How the repository itself is called where it is the source.
const OWN: &str = "another inode of this repository";

type Object = (ObjectKind, Digest);

/// What is known of an object that is asked for.
#[derive(Debug, Default)]
struct Need {
    /// What blobs must be there as, by the bits of the variant's name.
    inodes: BTreeMap<[u8; 16], Metadata>,
    size: Option<u64>,
    paths: Vec<Vec<u8>>,
    uses: Vec<ObjectUse>,
    commits: Vec<CommitId>,
}

/// An object that is whole again.
struct Restored {
    from: String,
    paths: Vec<Vec<u8>>,
}

/// A repair that is under way.
struct Repair<'r> {
    repo: &'r Repo,
    seen: Seen,
    bad: Vec<BadFile>,
    stage: Stage<'r>,
    /// Dirtrees that were restored, and are not in the store yet.
    trees: HashMap<DirTreeId, DirTree>,
    /// What is whole again, and who had it.
    restored: BTreeMap<Object, Restored>,
    /// What every source was asked for, and in how many places it was known to be used.
    asked: HashMap<Object, usize>,
}

impl Repo {
    /// Verifies everything, and replaces what is bad by good copies from `sources`, which are asked in order.
    ///
    /// Takes the shared lock, and the exclusive one while it replaces. Durable on return. Each replacement is one
    /// rename. A source that fails is reported, and the others are asked.
    pub fn repair(
        &self,
        sources: &mut [Box<dyn RepairSource + '_>],
        options: &RepairOptions,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<RepairReport, RepoError> {
        self.check_writable()?;
        let lock = self.lock_shared()?;
        let fsck_options = FsckOptions {
            threads: options.threads,
        };
        let Survey { seen, report, bad } = self.survey(&fsck_options, progress, cancel)?;
        let partial = report.partial.clone();
        let mut report = RepairReport {
            dry_run: options.dry_run,
            found: report,
            sources: sources
                .iter()
                .map(|source| SourceReport {
                    name: source.name(),
                    given: 0,
                    error: None,
                })
                .collect(),
            ..RepairReport::default()
        };
        let mut repair = Repair {
            repo: self,
            seen,
            bad,
            stage: Stage::new(self, options.dry_run),
            trees: HashMap::new(),
            restored: BTreeMap::new(),
            asked: HashMap::new(),
        };
        let mut first = true;
        loop {
            let damaged = repair.damaged();
            let load = |id: &DirTreeId| load_staged(self, &repair.trees, id);
            let mut findings =
                self.check_references(&repair.seen, &partial, &damaged, &load, &fsck_options)?;
            if first {
                report.found.findings.extend(findings.iter().cloned());
            } else {
                // What lies beneath a directory that was restored was not known before.
                let known: HashSet<Object> = report.found.findings.iter().map(object_of).collect();
                let new = findings.iter().filter(|one| !known.contains(&object_of(one)));
                report.found.findings.extend(new.cloned());
            }
            first = false;
            findings.extend(repair.bad_findings());
            let needs = repair.needs(&findings)?;
            for finding in &mut report.found.findings {
                if let Some(need) = needs
                    .get(&object_of(finding))
                    .filter(|_| finding.used_by.is_empty())
                {
                    finding.used_by.clone_from(&need.uses);
                }
            }
            let curable = findings.iter().filter(|one| one.problem.is_curable());
            let wanted: Vec<Object> = curable.map(object_of).collect();
            if repair.round(wanted, &needs, sources, &mut report, progress, cancel)? {
                continue;
            }
            for finding in &mut findings {
                if let Some(need) = needs.get(&object_of(finding)) {
                    finding.used_by.clone_from(&need.uses);
                }
            }
            report.lost = findings;
            break;
        }
        fsck::sort(&mut report.found.findings);
        report.found.files = self.check_files();
        fsck::sort(&mut report.lost);
        repair.finish(lock, options, &partial, &mut report)?;
        Ok(report)
    }
}

/// Gives a dirtree that was restored, or one of the store.
fn load_staged(
    repo: &Repo,
    trees: &HashMap<DirTreeId, DirTree>,
    id: &DirTreeId,
) -> Result<DirTree, RepoError> {
    match trees.get(id) {
        Some(tree) => Ok(tree.clone()),
        None => repo.load_dirtree(id),
    }
}

fn object_of(finding: &Finding) -> Object {
    (finding.kind, finding.digest)
}

impl Repair<'_> {
    /// Bad files whose object is not whole again.
    fn damaged(&self) -> HashSet<Object> {
        let bad = self.bad.iter().map(BadFile::object);
        bad.filter(|object| !self.restored.contains_key(object)).collect()
    }

    fn bad_findings(&self) -> Vec<Finding> {
        let bad = self.bad.iter();
        bad.filter(|bad| !self.restored.contains_key(&bad.object()))
            .map(Finding::of)
            .collect()
    }

    /// Finds out where everything that is bad is used, and as what.
    fn needs(&self, findings: &[Finding]) -> Result<HashMap<Object, Need>, RepoError> {
        let mut needs: HashMap<Object, Need> = findings
            .iter()
            .map(|finding| (object_of(finding), Need::default()))
            .collect();
        if needs.is_empty() {
            return Ok(needs);
        }
        let mut failed = None;
        let load = |id: &DirTreeId| load_staged(self.repo, &self.trees, id);
        self.repo.walk_uses(&self.seen, &load, &mut |one| {
            let Some(need) = needs.get_mut(&(one.kind, one.digest)) else {
                return;
            };
            if need.uses.len() < fsck::MAX_USES {
                need.uses.push(one.to_object_use());
            }
            if need.commits.len() < MAX_PATHS && !need.commits.contains(&one.commit) {
                need.commits.push(one.commit);
            }
            if need.paths.len() < MAX_PATHS && !need.paths.iter().any(|path| path == one.path) {
                need.paths.push(one.path.to_vec());
            }
            if let Some((size, metadata)) = one.file {
                need.size = Some(size);
                match variant_bits(metadata) {
                    Ok(bits) => drop(need.inodes.entry(bits).or_insert_with(|| metadata.clone())),
                    Err(error) => failed = Some(error),
                }
            }
        })?;
        failed.map_or(Ok(needs), Err)
    }

    /// Asks everybody for what was not asked for yet. Returns whether something is whole that was not.
    ///
    /// Blobs come last: where they are used, and as what, is known when every directory is there.
    fn round(
        &mut self,
        wanted: Vec<Object>,
        needs: &HashMap<Object, Need>,
        sources: &mut [Box<dyn RepairSource + '_>],
        report: &mut RepairReport,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<bool, RepoError> {
        let (blobs, others): (Vec<Object>, _) = wanted
            .into_iter()
            .partition(|(kind, _)| *kind == ObjectKind::Blob);
        Ok(self.ask(others, needs, sources, report, progress, cancel)?
            || self.ask(blobs, needs, sources, report, progress, cancel)?)
    }

    fn ask(
        &mut self,
        mut wanted: Vec<Object>,
        needs: &HashMap<Object, Need>,
        sources: &mut [Box<dyn RepairSource + '_>],
        report: &mut RepairReport,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<bool, RepoError> {
        // A directory that was restored may say where something lies that was asked for in vain.
        wanted.retain(|object| {
            let places = needs[object].paths.len() + needs[object].commits.len();
            self.asked
                .insert(*object, places)
                .is_none_or(|before| before < places)
        });
        wanted.sort_unstable();
        wanted.dedup();
        let mut done: HashSet<Object> = HashSet::new();
        for object in wanted.iter().filter(|(kind, _)| *kind == ObjectKind::Blob) {
            cancel.check()?;
            if self.take_own(object, &needs[object])? {
                done.insert(*object);
            }
        }
        for (index, source) in sources.iter_mut().enumerate() {
            let missing: Vec<Object> = wanted
                .iter()
                .filter(|object| !done.contains(object))
                .copied()
                .collect();
            if missing.is_empty() {
                break;
            }
            let asked: Vec<WantedObject> = missing
                .iter()
                .map(|object| WantedObject::of(object, &needs[object]))
                .collect();
            let name = source.name();
            let mut failure = None;
            let mut given = 0;
            let mut take = |at: usize, candidate: Candidate| -> Result<bool, Aborted> {
                let object = missing[at];
                if done.contains(&object) {
                    return Ok(true);
                }
                let taken = cancel
                    .check()
                    .map_err(RepoError::from)
                    .and_then(|()| self.take(&object, &needs[&object], &candidate, &name));
                match taken {
                    Ok(true) => {
                        given += 1;
                        done.insert(object);
                        Ok(true)
                    }
                    Ok(false) => Ok(false),
                    Err(error) => {
                        failure = Some(error);
                        Err(Aborted(()))
                    }
                }
            };
            let offered = source.offer(&asked, &mut take, cancel);
            report.sources[index].given += given;
            if let Some(error) = failure {
                return Err(error);
            }
            if let Err(SourceError::Failed(reason)) = offered {
                cancel.check()?;
                let text = format!("{name} could not be asked: {reason}");
                progress.report(Event::Warning { text: &text });
                report.sources[index].error = Some(reason);
            }
        }
        Ok(!done.is_empty())
    }

    /// Any inode of the blob has its bytes, whatever its owner and mode.
    fn take_own(&mut self, object: &Object, need: &Need) -> Result<bool, RepoError> {
        if object.1 == Digest::of(b"") {
            return self.take(object, need, &Candidate::Bytes(Vec::new()), OWN);
        }
        for candidate in self.repo.own_files(&object.1)? {
            if self.take(object, need, &candidate, OWN)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes what a source has, if it is the object.
    fn take(
        &mut self,
        object: &Object,
        need: &Need,
        candidate: &Candidate,
        from: &str,
    ) -> Result<bool, RepoError> {
        let (kind, digest) = *object;
        let good = match kind {
            ObjectKind::Blob => self.take_blob(&digest, need, candidate)?,
            ObjectKind::DirTree => match self.stage.encoded(kind, &digest, candidate)? {
                Some(bytes) => match DirTree::decode(&bytes) {
                    Ok(tree) => {
                        let id = DirTreeId::new(digest);
                        self.seen.dirtrees.insert(id);
                        self.trees.insert(id, tree);
                        true
                    }
                    Err(_) => false,
                },
                None => false,
            },
            ObjectKind::Commit => match self.stage.encoded(kind, &digest, candidate)? {
                Some(bytes) => match crate::format::Commit::decode(&bytes) {
                    Ok(commit) => {
                        self.seen.commits.insert(CommitId::new(digest), commit);
                        true
                    }
                    Err(_) => false,
                },
                None => false,
            },
        };
        if good {
            let (from, paths) = (from.to_owned(), need.paths.clone());
            self.restored.insert(*object, Restored { from, paths });
        }
        Ok(good)
    }

    fn take_blob(&mut self, digest: &Digest, need: &Need, candidate: &Candidate) -> Result<bool, RepoError> {
        let id = BlobId::new(*digest);
        let here = self.seen.blob(&id);
        let has_base = here.size().is_some();
        let missing: Vec<([u8; 16], Metadata)> = need
            .inodes
            .iter()
            .filter(|(bits, _)| !here.has_inode(bits))
            .map(|(bits, metadata)| (*bits, metadata.clone()))
            .collect();
        let Some(staged) = self.stage.blob(digest, need, has_base, &missing, candidate)? else {
            return Ok(false);
        };
        // Of an inode that this file system does not keep there is no good copy.
        let is_better = missing.is_empty() || !staged.inodes.is_empty() || staged.has_base != has_base;
        if staged.has_base {
            self.seen.add_blob(id, staged.size);
        }
        for bits in staged.inodes {
            self.seen.add_inode(id, bits);
        }
        Ok(is_better)
    }
}

impl Problem {
    /// Whether another copy of the object could be better: bytes that are what the name says cannot.
    pub(super) fn is_curable(&self) -> bool {
        !matches!(
            self,
            Self::Malformed { .. } | Self::WrongSize { .. } | Self::WrongVerity { .. }
        )
    }
}
