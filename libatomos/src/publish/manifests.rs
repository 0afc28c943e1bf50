//! The manifests of a release: one for everybody, and small ones for those who have an earlier release.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::digest::{CommitId, Digest};
use crate::repo::{ObjectKind, Repo};
use crate::site::{
    Artifact, Base, BlobList, FileRef, HistoryEntry, Index, Manifest, PatchFrame, Place, RelativeManifest,
    TreeTable,
};

use super::PublishError;
use super::consolidate::Known;
use super::site_writer::SiteWriter;

/// Releases back from the new one that get a manifest of their own: each costs some hundred kilobytes on the server and
/// saves a client at that release most of a megabyte.
const RELATIVE: [usize; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32];

/// Returns an index whose packs are numbered in the order of their first use.
pub(super) fn number(
    places: impl IntoIterator<Item = (u32, Known)>,
    patches: &[(FileRef, PatchFrame)],
    image: Option<(FileRef, Vec<u64>)>,
) -> Index {
    let mut index = Index {
        image,
        ..Index::default()
    };
    let mut packs: HashMap<Digest, u32> = HashMap::new();
    for (blob, known) in places {
        let pack = *packs.entry(known.pack.digest).or_insert_with(|| {
            index.packs.push(known.pack);
            index.packs.len() as u32 - 1
        });
        index.places.push(Place {
            blob,
            pack,
            offset: known.offset,
            frames: known.frames,
        });
    }
    let mut by_file: BTreeMap<Digest, u32> = BTreeMap::new();
    for (file, frame) in patches {
        let number = *by_file.entry(file.digest).or_insert_with(|| {
            index.patch_files.push(*file);
            index.patch_files.len() as u32 - 1
        });
        let mut frame = frame.clone();
        match &mut frame {
            PatchFrame::Prefix { file, .. } | PatchFrame::Group { file, .. } => *file = number,
        }
        index.patches.push(frame);
    }
    index
}

/// Writes the relative manifests. A base that the repository has lost is left out: nobody can compute its table.
#[expect(clippy::too_many_arguments, reason = "a release is what all of this makes")]
pub(super) fn write_relative(
    repo: &Repo,
    commit: &CommitId,
    table: &[u8],
    blobs: &BlobList,
    places: &[Known],
    patches: &[(FileRef, PatchFrame)],
    history: &[HistoryEntry],
    level: i32,
    writer: &SiteWriter,
) -> Result<(Vec<RelativeManifest>, u64), PublishError> {
    let mut manifests = Vec::new();
    let mut bytes_written = 0;
    let mut done = HashSet::from([*commit]);
    for back in RELATIVE {
        let Some(entry) = history.get(back - 1) else { break };
        if !done.insert(entry.commit) || !repo.has_object(ObjectKind::Commit, entry.commit.digest())? {
            continue;
        }
        let base_commit = repo.load_commit(&entry.commit)?;
        let base_table = TreeTable::encode(repo, &entry.commit)?;
        let base_blobs = BlobList::of_tree(repo, &base_commit.root)?;
        let lacking = (0..blobs.len())
            .filter(|index| base_blobs.index_of(&blobs.blobs()[*index as usize].id).is_none())
            .map(|index| (index, places[index as usize].clone()));
        let prefixes: HashSet<[u8; 8]> = base_blobs.blobs().iter().map(|blob| prefix(&blob.id)).collect();
        let useful: Vec<_> = patches
            .iter()
            .filter(|(_, frame)| is_useful(frame, blobs, &base_blobs, &prefixes))
            .cloned()
            .collect();
        let index = number(lacking, &useful, None);
        let base = Base {
            commit: entry.commit,
            table: &base_table,
        };
        let bytes = Manifest::encode(commit, table, &index, Some(base), level)?;
        bytes_written += bytes.len() as u64;
        manifests.push(RelativeManifest {
            base: entry.commit,
            file: writer.add_bytes(Artifact::Manifest, &bytes)?,
        });
    }
    Ok((manifests, bytes_written))
}

/// Returns the bytes of a blob's digest by which patches name it.
pub(super) fn prefix(id: &crate::digest::BlobId) -> [u8; 8] {
    let mut prefix = [0; 8];
    prefix.copy_from_slice(&id.digest().as_bytes()[..8]);
    prefix
}

/// Whether a frame makes something that the base lacks from something that it has.
fn is_useful(frame: &PatchFrame, blobs: &BlobList, base: &BlobList, prefixes: &HashSet<[u8; 8]>) -> bool {
    let lacks = |blob: u32| {
        let listed = blobs.blobs().get(blob as usize);
        listed.is_some_and(|listed| base.index_of(&listed.id).is_none())
    };
    match frame {
        PatchFrame::Prefix { blob, base, .. } => lacks(*blob) && prefixes.contains(base),
        PatchFrame::Group { targets, .. } => targets
            .iter()
            .any(|target| lacks(target.blob) && target.base.is_none_or(|base| prefixes.contains(&base))),
    }
}
