//! Manifests and their sections: binary, so there is one spelling of each value.

use std::collections::HashSet;

use crate::repo::TreeSource;
use crate::site::{
    BlobList, Frame, Index, Manifest, NOT_IN_TREE, PatchFrame, TreeTable, blob_frames, for_each_file,
    image_frames, limits,
};

use super::files::Files;

pub(super) fn manifests(files: &Files) -> Vec<Vec<u8>> {
    vec![files.manifest.to_vec(), files.relative.to_vec()]
}

pub(super) fn tree(bytes: &[u8]) {
    let Ok(table) = TreeTable::decode_unverified(bytes) else {
        return;
    };
    let again = TreeTable::encode_from(&table, &table.commit).unwrap();
    assert!(again == bytes, "a table has one spelling");
    list(&table);
}

/// The list of blobs, where the tree does not contradict itself.
fn list(table: &TreeTable) {
    let root = table.commit.root;
    let Ok(blobs) = BlobList::of_tree(table, &root) else {
        return;
    };
    assert_eq!(blobs.dirtrees(), table.trees().count() as u64);
    let mut seen = HashSet::new();
    for (index, blob) in blobs.blobs().iter().enumerate() {
        assert!(
            blob.size > 0 && seen.insert(blob.id),
            "listed once, and not empty"
        );
        assert_eq!(blobs.index_of(&blob.id), Some(index as u32));
    }
    for_each_file(table, &root, &mut |path, blob, size| {
        let index = blobs.index_of(&blob).expect("every file's blob is listed");
        assert_eq!(blobs.size(index), size);
        for part in path.split(|byte| *byte == b'/') {
            assert!(!part.is_empty() && part != b"." && part != b".." && !part.contains(&0));
        }
    })
    .unwrap();
    for index in 0..blobs.len() {
        let mut next = 0;
        for frame in blob_frames(index, blobs.size(index)).take(100) {
            assert!(frame.raw_len(&blobs) <= limits::WHOLE_BLOB);
            if let Frame::Segment { blob, bytes } = &frame {
                assert_eq!((*blob, bytes.start), (index, next));
                next = bytes.end;
            }
        }
    }
    if blobs.bytes() < 1 << 32 {
        let mut next = 0;
        for frame in image_frames(&blobs) {
            assert!(frame.raw_len(&blobs) <= limits::WHOLE_BLOB + limits::GROUP);
            assert!(frame.blobs().start == next || frame.blobs().start + 1 == next);
            next = frame.blobs().end;
        }
        assert_eq!(next, blobs.len(), "an image has every blob");
    }
    table.dirtree(&root).unwrap();
}

pub(super) fn index(blobs: &BlobList, bytes: &[u8]) {
    let Ok(index) = Index::decode(bytes, blobs) else {
        return;
    };
    assert!(index.encode() == bytes, "an index has one spelling");
    frames_lie_in_files(&index, blobs);
    crate::pull::laws::plans(blobs, &index);
}

fn frames_lie_in_files(index: &Index, blobs: &BlobList) {
    let in_file = |offset: u64, len: u64, size: u64| {
        assert!(len > 0 && offset.checked_add(len).is_some_and(|end| end <= size));
    };
    let mut next = 0;
    for place in &index.places {
        assert!(place.blob >= next, "places ascend");
        next = place.blob + 1;
        in_file(place.offset, place.len(), index.packs[place.pack as usize].size);
        let frames = blob_frames(place.blob, blobs.size(place.blob)).count();
        assert_eq!(place.frames.len(), frames);
        assert!(
            place
                .frames
                .iter()
                .all(|len| (1..=limits::MAX_FRAME).contains(len))
        );
    }
    for patch in &index.patches {
        in_file(
            patch.offset(),
            patch.len(),
            index.patch_files[patch.file() as usize].size,
        );
        match patch {
            PatchFrame::Prefix { blob, windows, .. } => {
                assert_eq!(windows.len() as u64, crate::patch::windows(blobs.size(*blob)));
                assert!(windows.iter().all(|len| (1..=limits::MAX_FRAME).contains(len)));
            }
            PatchFrame::Group { len, targets, .. } => {
                assert!((1..=limits::MAX_FRAME).contains(len) && !targets.is_empty());
                let streams: u64 = targets.iter().map(|target| target.stream_len).sum();
                assert!(streams <= limits::MAX_STREAMS);
                for target in targets.iter().filter(|target| target.blob != NOT_IN_TREE) {
                    assert!(target.base.is_some() || target.stream_len == blobs.size(target.blob));
                }
            }
        }
    }
    if let Some((file, lens)) = &index.image {
        assert_eq!(lens.len(), image_frames(blobs).len());
        assert_eq!(lens.iter().sum::<u64>(), file.size);
    }
}

pub(super) fn manifest(files: &Files, bytes: &[u8]) {
    let head = Manifest::head(bytes);
    let Ok(manifest) = Manifest::decode_unverified(bytes, &files.base_table) else {
        return;
    };
    assert_eq!(head.unwrap().base, manifest.base);
    list(&manifest.tree);
    index(&manifest.blobs, &manifest.index.encode());
    // With the digests in the way it is the real one, or it is refused.
    if let Ok(verified) = Manifest::decode(bytes, &files.record.commit, &files.base_table) {
        let table = TreeTable::encode_from(&verified.tree, &verified.tree.commit).unwrap();
        assert!(table == files.table, "another tree");
        assert_eq!(verified.blobs.blobs(), files.blobs.blobs());
    }
}
