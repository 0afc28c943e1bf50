//! A whole pull from a site of which one part was replaced.
//!
//! The publisher is the attacker here: whatever leads to the replaced part names its new digest, and everything is signed. So
//! all that stands between the bytes and the client's store is what the parsers refuse and what the blobs' digests say. A
//! server without keys is covered, too: it can replace packs, images and patches under their old names.

use std::collections::{BTreeMap, HashMap};
use std::io::Cursor;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use crate::cancel::Cancel;
use crate::digest::{Digest, DirTreeId};
use crate::format::{DirTree, Node};
use crate::progress::NoProgress;
use crate::pull::{PullOptions, Selector, Session, Wanted};
use crate::repo::{FsckOptions, Repo, RepoError, TreeSource};
use crate::sign::Envelope;
use crate::site::{
    Artifact, Base, BlobList, FileRef, Index, Manifest, Place, RECORD_TYPE, RELEASE_TYPE, Record, Release,
    TreeTable, blob_frames, record_path,
};
use crate::transport::{Request, Response, Status, Transport, TransportError, TransportErrorKind};

use super::files::Files;
use super::world::{World, reference, remote, session};

/// Which part of the site is replaced: the first byte of an input.
const RECORD: u8 = 0;
const RELEASE: u8 = 1;
const TREE: u8 = 2;
const INDEX: u8 = 3;
const RELATIVE_INDEX: u8 = 4;
const MANIFEST: u8 = 5;
const RELATIVE: u8 = 6;
/// From here on: packs, images and patches, in the order of their paths.
const CONTENT: u8 = 7;

fn contents(files: &Files) -> impl Iterator<Item = (&String, &Arc<[u8]>)> {
    let kinds = ["packs/", "images/", "patches/"];
    let all = files.all.iter();
    all.filter(move |(path, _)| kinds.iter().any(|kind| path.starts_with(kind)))
}

pub(super) fn seeds(files: &Files) -> Vec<Vec<u8>> {
    let lying = lying_table(files);
    let parts = [
        (RECORD, &files.records[0].0[..]),
        (RELEASE, &files.releases[0].0[..]),
        (TREE, &files.table[..]),
        (TREE, &lying),
        (INDEX, &files.index[..]),
        (RELATIVE_INDEX, &files.relative_index[..]),
        (MANIFEST, &files.manifest[..]),
        (RELATIVE, &files.relative[..]),
    ];
    let contents = contents(files)
        .zip(CONTENT..)
        .map(|((_, bytes), which)| (which, &bytes[..]));
    let parts = parts.into_iter().chain(contents);
    parts.map(|(which, bytes)| [&[which], bytes].concat()).collect()
}

pub(super) fn pull(world: &World, files: &Files, bytes: &[u8]) {
    let Some((which, part)) = bytes.split_first() else {
        return;
    };
    let Some(site) = replace(world, files, *which, part) else {
        return;
    };
    let served = site.get(&record_path(&reference())).map(|bytes| bytes.to_vec());
    let to = tempfile::tempdir_in(world.scratch()).unwrap();
    let path = to.path().join("client");
    copy(&world.scratch().join("client"), &path);
    let repo = Repo::open(&path).unwrap();
    let name = remote().local_ref(&reference()).unwrap();
    let before = repo.ref_optional(&name).unwrap();
    let (progress, cancel) = (NoProgress, Cancel::new());
    let mirrors: Vec<Box<dyn Transport>> = vec![Box::new(MemorySite(site))];
    let mut talk = Session::open_with(&repo, &remote(), mirrors, &session(), &progress, &cancel).unwrap();
    let wanted = [Wanted {
        reference: reference(),
        selector: Selector::Newest,
    }];
    let pulled = talk.pull(&wanted, &PullOptions::default());
    drop(talk);
    let after = repo.ref_optional(&name).unwrap();
    match &pulled {
        Ok(report) => {
            assert_eq!(after, Some(report.refs[0].commit));
            let envelope = Envelope::decode(&served.expect("without a record nothing is pulled")).unwrap();
            let record = Record::from_payload(envelope.unverified_payload()).unwrap();
            assert!(
                after == before || after == Some(record.commit),
                "another commit than was signed"
            );
        }
        Err(_) => assert_eq!(after, before, "the ref moves with a whole tree, or not at all"),
    }
    let report = repo.fsck(&FsckOptions::default(), &progress, &cancel).unwrap();
    assert!(report.is_clean(), "{pulled:?} left {:?}", report.findings);
}

/// Returns the site with one part replaced and all that leads to it made anew; `None` if nobody could make it.
fn replace(world: &World, files: &Files, which: u8, part: &[u8]) -> Option<BTreeMap<String, Arc<[u8]>>> {
    let mut site = files.all.clone();
    let (mut record, mut release) = (files.record.clone(), files.release.clone());
    // A later one than any that the client has seen.
    record.sequence += 10;
    let mut add = |kind: Artifact, bytes: Vec<u8>| {
        let digest = Digest::of(&bytes);
        let size = bytes.len() as u64;
        site.insert(kind.path(&digest), bytes.into());
        FileRef { digest, size }
    };
    let mut signed_release = None;
    let mut signed_record = None;
    match which {
        RECORD => signed_record = Some(part.to_vec()),
        RELEASE => signed_release = Some(part.to_vec()),
        TREE => {
            let (tree, table) = grown(part)?;
            let blobs = BlobList::of_tree(&tree, &tree.commit.root).ok()?;
            let index = placed(files, &blobs)?;
            let id = tree.commit.encode().ok()?.0;
            let manifest = Manifest::encode(&id, &table, &index, None, 1).ok()?;
            (release.commit, release.root) = (id, tree.commit.root);
            release.manifest = add(Artifact::Manifest, manifest);
            release.manifests.clear();
        }
        INDEX => {
            let manifest = with_index(files, part, false)?;
            release.manifest = add(Artifact::Manifest, manifest);
            release.manifests.clear();
        }
        RELATIVE_INDEX => {
            let manifest = with_index(files, part, true)?;
            let file = add(Artifact::Manifest, manifest);
            release.manifests.retain(|one| one.base == world.base);
            release.manifests[0].file = file;
        }
        MANIFEST => {
            release.manifest = add(Artifact::Manifest, part.to_vec());
            release.manifests.clear();
        }
        RELATIVE => {
            let file = add(Artifact::Manifest, part.to_vec());
            release.manifests.retain(|one| one.base == world.base);
            release.manifests[0].file = file;
        }
        _ => {
            let path = contents(files).nth(usize::from(which - CONTENT))?.0.clone();
            site.insert(path, part.into());
            return Some(site);
        }
    }
    let payload = signed_release.unwrap_or_else(|| release.to_payload());
    if let Ok(release) = Release::from_payload(&payload) {
        (record.commit, record.number) = (release.commit, release.number);
        (record.compatible, record.min_from) = (release.compatible, release.min_from);
    }
    let envelope = Envelope::sign(RELEASE_TYPE, payload, &[&world.key]).ok()?;
    let file = add(Artifact::Release, envelope.encode());
    (record.release, record.release_size) = (file.digest, file.size);
    let payload = signed_record.unwrap_or_else(|| record.to_payload());
    let envelope = Envelope::sign(RECORD_TYPE, payload, &[&world.key]).ok()?;
    site.insert(record_path(&reference()), envelope.encode().into());
    Some(site)
}

/// Returns the newest release's manifest with another section INDEX, which the encoder would not write.
fn with_index(files: &Files, index: &[u8], relative: bool) -> Option<Vec<u8>> {
    let base = relative.then_some(Base {
        commit: files.release.manifests.first()?.base,
        table: &files.base_table,
    });
    let whole = Manifest::encode(&files.record.commit, &files.table, &Index::default(), base, 1).ok()?;
    // The section is the last thing in a manifest: its length, its frame's length, its frame.
    let empty = crate::compress::Compressor::new(1)
        .compress(&Index::default().encode())
        .ok()?;
    let mut bytes = whole[..whole.len() - empty.len() - 16].to_vec();
    let frame = crate::compress::Compressor::new(1).compress(index).ok()?;
    bytes.extend_from_slice(&(index.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&(frame.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&frame);
    Some(bytes)
}

/// Dirtrees by their true digests.
#[derive(Default)]
struct Trees(HashMap<DirTreeId, DirTree>);

impl TreeSource for Trees {
    fn dirtree(&self, id: &DirTreeId) -> Result<DirTree, RepoError> {
        self.0.get(id).cloned().ok_or(RepoError::ObjectMissing {
            kind: crate::repo::ObjectKind::DirTree,
            digest: *id.digest(),
        })
    }
}

/// Reads a table whose digests do not match, and makes them match, from the leaves up.
fn grown(table: &[u8]) -> Option<(TreeTable, Vec<u8>)> {
    let wild = TreeTable::decode_unverified(table).ok()?;
    let mut trees = Trees::default();
    let mut done = HashMap::new();
    let root = grow(&wild, &wild.commit.root, &|_| {}, &mut done, &mut trees)?;
    let mut commit = wild.commit.clone();
    commit.root = root;
    let bytes = TreeTable::encode_from(&trees, &commit).ok()?;
    let id = commit.encode().ok()?.0;
    Some((TreeTable::decode(&bytes, &id).unwrap(), bytes))
}

/// The newest release's tree, but for the size of a blob that the client has.
fn lying_table(files: &Files) -> Vec<u8> {
    let wild = TreeTable::decode_unverified(&files.table).unwrap();
    let base = TreeTable::decode_unverified(&files.base_table).unwrap();
    let here = BlobList::of_tree(&base, &base.commit.root).unwrap();
    let kept = here
        .blobs()
        .iter()
        .find(|blob| files.blobs.index_of(&blob.id).is_some());
    let kept = kept.expect("the releases have files in common").id;
    let alter = |node: &mut Node| match node {
        Node::File { blob, size, .. } if *blob == kept => *size += 8,
        _ => {}
    };
    let mut trees = Trees::default();
    let root = grow(&wild, &wild.commit.root, &alter, &mut HashMap::new(), &mut trees).unwrap();
    let mut commit = wild.commit.clone();
    commit.root = root;
    TreeTable::encode_from(&trees, &commit).unwrap()
}

fn grow(
    wild: &TreeTable,
    id: &DirTreeId,
    alter: &dyn Fn(&mut Node),
    done: &mut HashMap<DirTreeId, Option<DirTreeId>>,
    trees: &mut Trees,
) -> Option<DirTreeId> {
    if let Some(known) = done.get(id) {
        // `None` while it is at work: a directory cannot be in itself.
        return *known;
    }
    done.insert(*id, None);
    let mut entries = wild.dirtree(id).ok()?.into_entries();
    for entry in &mut entries {
        alter(&mut entry.node);
        if let Node::Dir { tree } = &mut entry.node {
            *tree = grow(wild, tree, alter, done, trees)?;
        }
    }
    let tree = DirTree::new(entries).ok()?;
    let true_id = tree.encode().ok()?.0;
    trees.0.insert(true_id, tree);
    done.insert(*id, Some(true_id));
    Some(true_id)
}

/// Returns an index that says of every blob where it is, and of blobs that never were, that they are at the start of a pack.
fn placed(files: &Files, blobs: &BlobList) -> Option<Index> {
    let mut index = files.decoded.index.clone();
    index.patches.clear();
    index.patch_files.clear();
    index.image = None;
    let old = |blob: u32| {
        let known = files.blobs.index_of(&blobs.blobs()[blob as usize].id)?;
        files
            .decoded
            .index
            .places
            .iter()
            .find(|place| place.blob == known)
    };
    index.places.clear();
    for blob in 0..blobs.len() {
        let frames = blob_frames(blob, blobs.size(blob)).take(1000).count();
        let place = match old(blob).filter(|place| place.frames.len() == frames) {
            Some(place) => Place {
                blob,
                ..place.clone()
            },
            None if frames < 100 => Place {
                blob,
                pack: 0,
                offset: 0,
                frames: vec![1; frames],
            },
            None => return None,
        };
        index.places.push(place);
    }
    Some(index)
}

/// Copies a repository. Objects never change, so the large ones are linked.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            copy(&from, &to);
        } else if metadata.size() > 100_000 {
            std::fs::hard_link(from, to).unwrap();
        } else {
            std::fs::copy(from, to).unwrap();
        }
    }
}

/// A site in memory, which answers as a server does.
#[derive(Debug)]
struct MemorySite(BTreeMap<String, Arc<[u8]>>);

impl Transport for MemorySite {
    fn url(&self) -> &str {
        "memory:"
    }

    fn get(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        let url = format!("memory:{}", request.path);
        let fail = |kind| Err(TransportError::new(&url, kind, "it is not so"));
        let Some(file) = self.0.get(request.path) else {
            return fail(TransportErrorKind::NotFound);
        };
        let (status, range) = match &request.range {
            None => (Status::Whole, 0..file.len() as u64),
            Some(range) => (Status::Partial, range.clone()),
        };
        if range.end > file.len() as u64 {
            return fail(TransportErrorKind::Protocol);
        }
        if range.end - range.start > request.max_bytes {
            return fail(TransportErrorKind::TooLarge);
        }
        let bytes = file[range.start as usize..range.end as usize].to_vec();
        Ok(Response {
            status,
            etag: None,
            url,
            content_type: None,
            body: Box::new(Cursor::new(bytes)),
        })
    }
}
