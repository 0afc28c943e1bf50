use proptest::prelude::*;

use super::*;
use crate::digest::{BlobId, CommitId, DirTreeId};
use crate::format::{Commit, DirTree, Entry, Metadata, Node};
use crate::repo::{Repo, RepoMode, Transaction};

fn entry(name: &str, mode: u32, node: Node) -> Entry {
    Entry {
        name: name.into(),
        metadata: Metadata::with_mode(mode),
        node,
    }
}

fn file(name: &str, content: u64, size: u64) -> Entry {
    entry(
        name,
        0o644,
        Node::File {
            size,
            blob: BlobId::new(Digest::of(&content.to_le_bytes())),
            verity: None,
        },
    )
}

fn tree(transaction: &Transaction<'_>, entries: Vec<Entry>) -> DirTreeId {
    transaction
        .store_dirtree(&DirTree::new(entries).unwrap())
        .unwrap()
}

fn dir(name: &str, tree: DirTreeId) -> Entry {
    entry(name, 0o755, Node::Dir { tree })
}

/// Commits a tree of `files` (name, content, size), with a directory that occurs twice and one large blob.
fn commit(repo: &Repo, files: &[(u64, u64)]) -> CommitId {
    let transaction = repo.begin().unwrap();
    let inner = tree(
        &transaction,
        files
            .iter()
            .enumerate()
            .map(|(number, (content, size))| file(&format!("f{number}"), *content, *size))
            .collect(),
    );
    let large = tree(&transaction, vec![file("vmlinuz", 1_000_000, 9 * 1024 * 1024)]);
    let root = tree(
        &transaction,
        vec![
            dir("a", inner),
            dir("b", large),
            dir("z", inner),
            file("aa", 2_000_000, 5),
            entry(
                "link",
                0o777,
                Node::Symlink {
                    target: b"a".to_vec(),
                },
            ),
        ],
    );
    let id = transaction
        .store_commit(&Commit {
            root,
            root_metadata: Metadata::with_mode(0o755),
            parent: None,
            time: 7,
            subject: String::new(),
            body: String::new(),
            version: "1".to_owned(),
            metadata: Default::default(),
        })
        .unwrap();
    transaction.commit().unwrap();
    id
}

/// An index of a tree: one pack with all blobs, some patches, an image.
fn index_of(blobs: &BlobList) -> Index {
    let mut offset = 3;
    let places: Vec<Place> = (0..blobs.len())
        .map(|blob| {
            let frames: Vec<u64> = blob_frames(blob, blobs.size(blob)).map(|_| 100).collect();
            let place = Place {
                blob,
                pack: 0,
                offset,
                frames,
            };
            offset += place.len();
            place
        })
        .collect();
    let image: Vec<u64> = image_frames(blobs).iter().map(|_| 10).collect();
    let named = |size| FileRef {
        digest: Digest::of(b"x"),
        size,
    };
    Index {
        packs: vec![named(offset)],
        places,
        patch_files: vec![named(300)],
        patches: vec![
            PatchFrame::Prefix {
                file: 0,
                offset: 0,
                windows: vec![50, 60],
                blob: blobs.len() - 1,
                base: [7; 8],
            },
            PatchFrame::Group {
                file: 0,
                offset: 200,
                len: 100,
                targets: vec![
                    PatchTarget {
                        blob: 0,
                        base: None,
                        stream_len: blobs.size(0),
                    },
                    PatchTarget {
                        blob: 1,
                        base: Some([9; 8]),
                        stream_len: 77,
                    },
                ],
            },
        ],
        image: Some((named(10 * image.len() as u64), image)),
    }
}

struct Fixture {
    _scratch: tempfile::TempDir,
    repo: Repo,
}

fn fixture() -> Fixture {
    let scratch = tempfile::tempdir().unwrap();
    let repo = Repo::init(&scratch.path().join("repo"), RepoMode::BareUser).unwrap();
    Fixture {
        _scratch: scratch,
        repo,
    }
}

#[test]
fn blobs_are_listed_once_in_path_order_and_large_ones_are_cut() {
    let fixture = fixture();
    let id = commit(
        &fixture.repo,
        &[(3, 30), (1, 10), (3, 30), (4, 5_000_000), (5, 1)],
    );
    let root = fixture.repo.load_commit(&id).unwrap().root;
    let blobs = BlobList::of_tree(&fixture.repo, &root).unwrap();
    let sizes: Vec<u64> = blobs.blobs().iter().map(|blob| blob.size).collect();
    // a/f0, a/f1, a/f3, a/f4, aa, b/vmlinuz
    assert_eq!(sizes, [30, 10, 5_000_000, 1, 5, 9 * 1024 * 1024]);
    assert_eq!((blobs.files(), blobs.dirtrees()), (7, 3));
    let frames = image_frames(&blobs);
    assert_eq!(
        frames,
        [
            Frame::Blobs(0..3),
            Frame::Blobs(3..5),
            Frame::Segment {
                blob: 5,
                bytes: 0..4 << 20
            },
            Frame::Segment {
                blob: 5,
                bytes: 4 << 20..8 << 20
            },
            Frame::Segment {
                blob: 5,
                bytes: 8 << 20..9 << 20
            },
        ]
    );
    let total: u64 = frames.iter().map(|frame| frame.raw_len(&blobs)).sum();
    assert_eq!(total, blobs.bytes());
}

#[test]
fn a_blob_of_two_sizes_is_refused() {
    let fixture = fixture();
    let id = commit(&fixture.repo, &[(3, 30), (3, 31)]);
    let root = fixture.repo.load_commit(&id).unwrap().root;
    let error = BlobList::of_tree(&fixture.repo, &root).unwrap_err();
    assert!(error.to_string().contains("31 bytes"), "{error}");
}

#[test]
fn manifests_come_back_whole_and_relative() {
    let fixture = fixture();
    let old = commit(&fixture.repo, &[(1, 10), (2, 20)]);
    let new = commit(&fixture.repo, &[(1, 10), (2, 20), (3, 30)]);
    let table = TreeTable::encode(&fixture.repo, &new).unwrap();
    let base_table = TreeTable::encode(&fixture.repo, &old).unwrap();
    let root = fixture.repo.load_commit(&new).unwrap().root;
    let blobs = BlobList::of_tree(&fixture.repo, &root).unwrap();
    let index = index_of(&blobs);
    let whole = Manifest::encode(&new, &table, &index, None, 3).unwrap();
    let read = Manifest::decode(&whole, &new, &[]).unwrap();
    assert_eq!((read.base, &read.index), (None, &index));
    assert_eq!(read.tree.commit, fixture.repo.load_commit(&new).unwrap());
    assert_eq!(read.tree.trees().count() as u64, blobs.dirtrees());
    assert_eq!(read.blobs.blobs(), blobs.blobs());

    let mut some = index.clone();
    some.places.drain(..2);
    let base = Base {
        commit: old,
        table: &base_table,
    };
    let relative = Manifest::encode(&new, &table, &some, Some(base), 3).unwrap();
    assert_eq!(Manifest::head(&relative).unwrap().base, Some(old));
    let read = Manifest::decode(&relative, &new, &base_table).unwrap();
    assert_eq!(read.index, some);
    assert!(Manifest::decode(&relative, &new, &table).is_err());
    assert!(matches!(
        Manifest::decode(&whole, &old, &[]),
        Err(SiteError::OtherTree { .. })
    ));
    // A whole manifest without all places would leave a client without a way.
    let partial = Manifest::encode(&new, &table, &some, None, 3).unwrap();
    assert!(Manifest::decode(&partial, &new, &[]).is_err());
}

#[test]
fn a_table_of_another_tree_or_with_more_is_refused() {
    let fixture = fixture();
    let old = commit(&fixture.repo, &[(1, 10)]);
    let new = commit(&fixture.repo, &[(1, 10), (2, 20)]);
    let table = TreeTable::encode(&fixture.repo, &new).unwrap();
    assert!(TreeTable::decode(&table, &old).is_err());
    for index in 0..table.len() {
        let mut bytes = table.clone();
        bytes[index] ^= 0x10;
        assert!(TreeTable::decode(&bytes, &new).is_err(), "byte {index}");
        assert!(
            TreeTable::decode(&table[..index], &new).is_err(),
            "cut at {index}"
        );
    }
    let mut longer = table;
    longer.push(0);
    assert!(TreeTable::decode(&longer, &new).is_err());
}

#[test]
fn frames_outside_of_their_files_are_refused() {
    let fixture = fixture();
    let id = commit(&fixture.repo, &[(1, 10), (2, 20)]);
    let root = fixture.repo.load_commit(&id).unwrap().root;
    let blobs = BlobList::of_tree(&fixture.repo, &root).unwrap();
    let good = index_of(&blobs);
    assert_eq!(Index::decode(&good.encode(), &blobs).unwrap(), good);
    let refused = |change: &dyn Fn(&mut Index)| {
        let mut bad = good.clone();
        change(&mut bad);
        Index::decode(&bad.encode(), &blobs).unwrap_err();
    };
    refused(&|index| index.places[0].offset = u64::MAX - 10);
    refused(&|index| index.places[1].offset = index.packs[0].size - 99);
    refused(&|index| index.packs[0].size -= 1);
    refused(&|index| index.places[0].frames[0] = 0);
    refused(&|index| index.places[0].frames[0] = limits::MAX_FRAME + 1);
    refused(&|index| index.places.last_mut().unwrap().blob = 100);
    refused(&|index| index.patch_files[0].size = 299);
    refused(&|index| index.image = index.image.take().map(|(file, _)| (file, vec![1])));
    refused(&|index| {
        if let PatchFrame::Group { targets, .. } = &mut index.patches[1] {
            targets[0].stream_len += 1;
        }
    });
    refused(&|index| {
        if let PatchFrame::Prefix { blob, .. } = &mut index.patches[0] {
            *blob = 99;
        }
    });
}

#[test]
fn a_patch_in_windows_makes_all_of_its_blob_or_is_refused() {
    let fixture = fixture();
    let id = commit(&fixture.repo, &[(1, 10)]);
    let root = fixture.repo.load_commit(&id).unwrap().root;
    let blobs = BlobList::of_tree(&fixture.repo, &root).unwrap();
    for windows in [vec![110], vec![50, 60, 1], vec![50, 30, 20, 10]] {
        let mut bad = index_of(&blobs);
        if let PatchFrame::Prefix { windows: own, .. } = &mut bad.patches[0] {
            *own = windows;
        }
        let error = Index::decode(&bad.encode(), &blobs).unwrap_err();
        assert!(error.to_string().contains("windows"), "{error}");
    }
}

#[test]
fn a_group_has_no_more_streams_than_a_client_holds_in_memory() {
    let fixture = fixture();
    let id = commit(&fixture.repo, &[(1, 10), (2, 20)]);
    let root = fixture.repo.load_commit(&id).unwrap().root;
    let blobs = BlobList::of_tree(&fixture.repo, &root).unwrap();
    let with = |lens: [u64; 3]| {
        let mut index = index_of(&blobs);
        if let PatchFrame::Group { targets, .. } = &mut index.patches[1] {
            *targets = lens
                .iter()
                .zip([1, NOT_IN_TREE, 1])
                .map(|(stream_len, blob)| PatchTarget {
                    blob,
                    base: Some([9; 8]),
                    stream_len: *stream_len,
                })
                .collect();
        }
        Index::decode(&index.encode(), &blobs)
    };
    let most = limits::MAX_STREAMS;
    with([most - 2, 1, 1]).unwrap();
    for lens in [
        [most, 1, 0],
        [1, most, 1],
        [u64::MAX >> 1, 1, 1],
        [most / 2, most / 2, 1],
    ] {
        with(lens).unwrap_err();
    }
}

#[test]
fn an_image_of_blobs_larger_than_any_disk_is_refused_without_listing_its_frames() {
    let fixture = fixture();
    for size in [1 << 40, 1 << 62, u64::MAX] {
        let id = commit(&fixture.repo, &[(1, 10), (2, size), (3, size)]);
        let root = fixture.repo.load_commit(&id).unwrap().root;
        let blobs = BlobList::of_tree(&fixture.repo, &root).unwrap();
        assert!(blobs.bytes() >= size);
        let image = FileRef {
            digest: Digest::of(b"x"),
            size: 3,
        };
        let index = Index {
            image: Some((image, vec![1, 1, 1])),
            ..Index::default()
        };
        Index::decode(&index.encode(), &blobs).unwrap_err();
        // The last segment of the largest blob ends where the blob does.
        let start = size / limits::SEGMENT;
        let last = blob_frames(0, size).nth(usize::try_from(start.min(1000)).unwrap());
        assert!(last.is_none_or(|frame| frame.raw_len(&blobs) <= limits::SEGMENT));
    }
}

#[test]
fn a_release_names_no_manifest_that_is_larger_than_manifests_are() {
    let file = |size| format!("{{\"digest\":\"{}\",\"size\":{size}}}", Digest::of(b"x").to_hex());
    let release = |whole, relative| {
        let digest = Digest::of(b"x").to_hex();
        let text = format!(
            "{{\"repository\":\"r\",\"ref\":\"os\",\"number\":2,\"time\":1,\"commit\":\"{digest}\",\"root\":\"{digest}\",\
             \"version\":\"1\",\"subject\":\"\",\"totals\":{{\"files\":1,\"blobs\":1,\"bytes\":1,\"dirtrees\":1}},\
             \"manifest\":{},\"manifests\":[{{\"base\":\"{digest}\",\"file\":{}}}]}}",
            file(whole),
            file(relative)
        );
        Release::from_payload(text.as_bytes())
    };
    let most = limits::MAX_MANIFEST as u64;
    release(most, most).unwrap();
    for (whole, relative) in [(most + 1, 1), (1, most + 1), (u64::MAX, 1)] {
        let error = release(whole, relative).unwrap_err();
        assert!(error.to_string().contains("256 MiB"), "{error}");
    }
}

proptest! {
    #[test]
    fn what_the_index_decoder_accepts_has_one_encoding(flips in prop::collection::vec((0usize..4096, 0u8..=255), 0..4)) {
        let fixture = fixture();
        let id = commit(&fixture.repo, &[(1, 10), (2, 20)]);
        let root = fixture.repo.load_commit(&id).unwrap().root;
        let blobs = BlobList::of_tree(&fixture.repo, &root).unwrap();
        let mut bytes = index_of(&blobs).encode();
        for (at, value) in flips {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        if let Ok(index) = Index::decode(&bytes, &blobs) {
            prop_assert_eq!(index.encode(), bytes);
        }
    }
}

#[test]
fn a_manifest_bomb_is_refused() {
    let fixture = fixture();
    let id = commit(&fixture.repo, &[(1, 10)]);
    let table = TreeTable::encode(&fixture.repo, &id).unwrap();
    let good = Manifest::encode(&id, &table, &Index::default(), None, 3).unwrap();
    // The length that the section says, and then what the frame says.
    let mut bad = good.clone();
    bad[41..49].copy_from_slice(&(1u64 << 40).to_le_bytes());
    assert!(Manifest::decode(&bad, &id, &[]).is_err());
    let mut bad = good[..41].to_vec();
    let bomb = crate::compress::Compressor::new(19)
        .compress(&vec![0; 100_000_000])
        .unwrap();
    bad.extend_from_slice(&1000u64.to_le_bytes());
    bad.extend_from_slice(&(bomb.len() as u64).to_le_bytes());
    bad.extend_from_slice(&bomb);
    let error = Manifest::decode(&bad, &id, &[]).unwrap_err();
    assert!(matches!(error, SiteError::Section { .. }), "{error}");
}

#[test]
fn a_number_in_an_extension_is_written_as_it_was_signed() {
    // The publisher who withdraws a version writes the rest of the record anew.
    let digest = Digest::of(b"x").to_hex();
    let mut state = 1u64;
    for _ in 0..500 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let number = f64::from_bits(state);
        if !number.is_finite() {
            continue;
        }
        let text = format!(
            "{{\"repository\":\"r\",\"ref\":\"os\",\"keys\":0,\"sequence\":1,\"time\":1,\"expires\":2,\"release\":\"{digest}\",\
             \"release-size\":1,\"number\":1,\"commit\":\"{digest}\",\"version\":\"\",\"extensions\":{{\"x\":{number:e}}}}}"
        );
        let record = Record::from_payload(text.as_bytes()).unwrap();
        assert_eq!(record.extensions["x"].as_f64(), Some(number));
        assert_eq!(Record::from_payload(&record.to_payload()).unwrap(), record);
    }
}
