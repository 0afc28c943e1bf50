//! What must be true of every plan, and of every frame that is taken. For tests and fuzzing; see `testing::laws`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a law is checked by panicking where it is broken"
)]

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::compress::Compressor;
use crate::digest::{BlobId, Digest};
use crate::format::Metadata;
use crate::parallel::Budget;
use crate::repo::Repo;
use crate::site::{
    Artifact, BlobList, Frame, Index, Manifest, NOT_IN_TREE, PatchFrame, blob_frames, image_frames, limits,
};

use super::plan::{Content, GroupMember, Needs, Plan, PlanOptions};
use super::receive::{Assembly, BUDGET, FrameError, Receiver};

/// Plans for many a client with the index, which may be any that was decoded.
pub(crate) fn plans(blobs: &BlobList, index: &Index) {
    let bases = bases_of(index);
    let none = HashMap::new();
    let all: Vec<u32> = (0..blobs.len()).collect();
    let some: Vec<u32> = all.iter().copied().filter(|blob| blob % 3 == 1).collect();
    let mut first = HashMap::<_, HashSet<_>>::new();
    for blob in blobs.blobs().iter().step_by(2) {
        first.entry(blob.id).or_default().insert(Artifact::Pack);
    }
    for (missing, bases, avoid, cost) in [
        (&all, &none, HashMap::new(), 0),
        (&all, &bases, HashMap::new(), 1 << 20),
        (&some, &bases, HashMap::new(), 0),
        (&all, &bases, first, 1 << 16),
    ] {
        let needs = Needs {
            blobs,
            index,
            missing,
            bases,
            begun: &HashMap::new(),
            avoid: &avoid,
        };
        let options = PlanOptions {
            request_cost: cost,
            max_requests: 4,
            jobs: 3,
        };
        match needs.plan(&options) {
            Ok(plan) => keeps_its_promises(&needs, &plan),
            Err(blob) => assert!(
                missing.contains(&blob),
                "what is not missing cannot be the reason"
            ),
        }
    }
}

/// Every base that a patch names, as if it were here.
fn bases_of(index: &Index) -> HashMap<[u8; 8], BlobId> {
    let named = |patch: &PatchFrame| match patch {
        PatchFrame::Prefix { base, .. } => vec![*base],
        PatchFrame::Group { targets, .. } => targets.iter().filter_map(|target| target.base).collect(),
    };
    let named = index.patches.iter().flat_map(named);
    named.map(|base| (base, BlobId::new(Digest::of(&base)))).collect()
}

/// A plan brings every blob that is missing, whole, from within the files, and as many bytes as it says.
fn keeps_its_promises(needs: &Needs<'_>, plan: &Plan) {
    let mut bytes = 0;
    let mut made: HashMap<u32, u64> = HashMap::new();
    for request in &plan.requests {
        let range = request.range();
        assert!(range.start < range.end && range.end <= request.file.size);
        bytes += range.end - range.start;
        let mut end = 0;
        for piece in &request.pieces {
            assert!(piece.range.start >= end && piece.range.start < piece.range.end);
            end = piece.range.end;
            match &piece.content {
                Content::Plain(frame) => {
                    assert!(frame.raw_len(needs.blobs) <= limits::WHOLE_BLOB + limits::GROUP);
                    for blob in frame.blobs() {
                        let len = match frame {
                            Frame::Segment { bytes, .. } => bytes.end - bytes.start,
                            Frame::Blobs(_) => needs.blobs.size(blob),
                        };
                        *made.entry(blob).or_default() += len;
                    }
                }
                Content::Window { blob, index, .. } => {
                    let window = crate::patch::window(needs.blobs.size(*blob), 0, *index);
                    *made.entry(*blob).or_default() += window.target.end - window.target.start;
                }
                Content::Group(members) => {
                    let streams: u64 = members.iter().map(|member| member.stream_len).sum();
                    assert!(streams <= limits::MAX_STREAMS);
                    for blob in members
                        .iter()
                        .filter(|member| member.use_it)
                        .map(|member| member.blob)
                    {
                        made.insert(blob, needs.blobs.size(blob));
                    }
                }
            }
        }
    }
    assert_eq!(bytes, plan.bytes);
    for blob in needs.missing {
        let made = made.get(blob).copied().unwrap_or(0);
        assert_eq!(made, needs.blobs.size(*blob), "blob {blob} comes whole, once");
    }
}

/// Every frame of a release, with its bytes.
pub(crate) struct Frames {
    contents: Vec<(Content, Vec<u8>)>,
}

impl std::fmt::Debug for Frames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frames").finish_non_exhaustive()
    }
}

impl Frames {
    /// Collects the frames of a manifest that a client with `repo` might ask for.
    pub(crate) fn of(repo: &Repo, manifest: &Manifest, file: &dyn Fn(&str) -> std::sync::Arc<[u8]>) -> Self {
        let mut bases = HashMap::new();
        repo.for_each_blob(&mut |id| {
            let mut prefix = [0; 8];
            prefix.copy_from_slice(&id.digest().as_bytes()[..8]);
            bases.insert(prefix, id);
        })
        .unwrap();
        let (blobs, index) = (&manifest.blobs, &manifest.index);
        let mut contents = Vec::new();
        let mut add = |kind: Artifact, digest: &Digest, offset: &mut u64, len: u64, content| {
            let bytes = file(&kind.path(digest));
            contents.push((
                content,
                bytes[*offset as usize..(*offset + len) as usize].to_vec(),
            ));
            *offset += len;
        };
        for place in &index.places {
            let mut offset = place.offset;
            for (frame, len) in blob_frames(place.blob, blobs.size(place.blob)).zip(&place.frames) {
                let pack = &index.packs[place.pack as usize].digest;
                add(Artifact::Pack, pack, &mut offset, *len, Content::Plain(frame));
            }
        }
        if let Some((image, lens)) = &index.image {
            let mut offset = 0;
            for (frame, len) in image_frames(blobs).into_iter().zip(lens) {
                add(
                    Artifact::Image,
                    &image.digest,
                    &mut offset,
                    *len,
                    Content::Plain(frame),
                );
            }
        }
        for patch in &index.patches {
            let digest = &index.patch_files[patch.file() as usize].digest;
            let mut offset = patch.offset();
            match patch {
                PatchFrame::Prefix {
                    windows, blob, base, ..
                } => {
                    let Some(base) = bases.get(base) else { continue };
                    for (number, len) in windows.iter().enumerate() {
                        let content = Content::Window {
                            blob: *blob,
                            base: *base,
                            index: number as u32,
                        };
                        add(Artifact::Patch, digest, &mut offset, *len, content);
                    }
                }
                PatchFrame::Group { len, targets, .. } => {
                    let members = targets
                        .iter()
                        .map(|target| GroupMember {
                            blob: target.blob,
                            stream_len: target.stream_len,
                            use_it: target.blob != NOT_IN_TREE
                                && target.base.is_none_or(|base| bases.contains_key(&base)),
                            base: target.base.and_then(|base| bases.get(&base).copied()),
                        })
                        .collect();
                    add(
                        Artifact::Patch,
                        digest,
                        &mut offset,
                        *len,
                        Content::Group(members),
                    );
                }
            }
        }
        Self { contents }
    }

    /// Returns the frames' bytes.
    pub(crate) fn bytes(&self) -> impl Iterator<Item = &[u8]> {
        self.contents.iter().map(|(_, bytes)| bytes.as_slice())
    }

    /// Returns the frames that hold streams, and how many bytes of them.
    pub(crate) fn groups(&self) -> BTreeMap<usize, u64> {
        let streams = |content: &Content| match content {
            Content::Group(members) => Some(members.iter().map(|member| member.stream_len).sum()),
            _ => None,
        };
        let numbered = self.contents.iter().enumerate();
        numbered
            .filter_map(|(number, (content, _))| Some((number, streams(content)?)))
            .collect()
    }

    /// Takes `bytes` for the frame `number`. They are what they should be, or they are refused and say which blob; nothing
    /// else goes wrong.
    pub(crate) fn take(&self, repo: &Repo, blobs: &BlobList, number: usize, bytes: &[u8]) {
        let (content, real) = &self.contents[number % self.contents.len()];
        let everything: HashMap<u32, Vec<Metadata>> = (0..blobs.len())
            .map(|blob| (blob, vec![Metadata::with_mode(0o644)]))
            .collect();
        let transaction = repo.begin().unwrap();
        let receiver = Receiver {
            repo,
            transaction: &transaction,
            blobs,
            wanted: &everything,
            begun: &HashMap::new(),
            budget: &Budget::new(BUDGET),
        };
        match receiver.take(bytes, content, &mut Assembly::default()) {
            Ok(()) => {}
            Err(FrameError::Bad { blob, .. }) => {
                assert!(blobs.index_of(&BlobId::new(blob)).is_some());
                let later = match content {
                    Content::Plain(Frame::Segment { bytes, .. }) => bytes.start > 0,
                    Content::Window { index, .. } => *index > 0,
                    _ => false,
                };
                assert!(later || bytes != real, "the real frame is refused");
            }
            Err(FrameError::Stale { blob }) => panic!("nothing of {blob} was begun"),
            Err(FrameError::Failed(error)) => panic!("this machine is blamed for a frame: {error}"),
        }
    }

    /// Compresses streams that stand for those of frame `number`.
    pub(crate) fn compress(raw: &[u8]) -> Vec<u8> {
        Compressor::new(1).compress(raw).unwrap()
    }
}
