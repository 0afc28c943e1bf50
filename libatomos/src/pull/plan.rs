//! What to ask for: a pure function from what is missing, what there is, and what a request costs.
//!
//! Time is requests and bytes are what really changed, so a plan weighs both: a request is worth as many bytes as the
//! connection carries in a round trip. Frames that lie near each other become one range, even if a few unwanted bytes
//! lie between. All sizes are from signed data, so the plan is exact before the first byte of a blob is asked for.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use crate::digest::BlobId;
use crate::site::{Artifact, BlobList, FileRef, Frame, Index, PatchFrame, blob_frames, image_frames};

/// What a plan goes by.
#[derive(Debug, Clone)]
pub(super) struct PlanOptions {
    /// Bytes that a request is worth.
    pub(super) request_cost: u64,
    /// Requests for blobs that one manifest may take, where that is possible.
    pub(super) max_requests: usize,
    /// Connections: a large range is cut so that each has something to do.
    pub(super) jobs: usize,
}

/// One frame of a range, and what to do with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// Where it lies in the file.
    pub(super) range: Range<u64>,
    pub(super) content: Content,
}

/// What a frame holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// Blobs, or a part of one, as they are.
    Plain(Frame),
    /// A window of a blob, as a difference from a base.
    Window { blob: u32, base: BlobId, index: u32 },
    /// Streams of several blobs; with the base of each that has one. `None` in front is one that is not wanted, or
    /// whose base is not here.
    Group(Vec<GroupMember>),
}

/// One stream of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GroupMember {
    pub(super) blob: u32,
    pub(super) stream_len: u64,
    pub(super) use_it: bool,
    pub(super) base: Option<BlobId>,
}

/// One range of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlannedRequest {
    pub(super) kind: Artifact,
    pub(super) file: FileRef,
    /// Sorted, and not overlapping.
    pub(super) pieces: Vec<Piece>,
}

impl PlannedRequest {
    pub(super) fn range(&self) -> Range<u64> {
        let first = self.pieces.first().map_or(0, |piece| piece.range.start);
        first..self.pieces.last().map_or(0, |piece| piece.range.end)
    }
}

/// What will be asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) requests: Vec<PlannedRequest>,
    /// Bytes that all requests bring.
    pub(super) bytes: u64,
    /// Bytes that patches save against whole blobs.
    pub(super) saved: u64,
    /// Blobs that are made by patches.
    pub(super) patched: u64,
}

impl Plan {
    /// Returns the bytes of the frames alone, by which progress is counted: what lies between them comes along in a range, and
    /// does not where it is asked for in another way.
    pub(super) fn frame_bytes(&self) -> u64 {
        let pieces = self.requests.iter().flat_map(|request| &request.pieces);
        pieces
            .map(|piece| piece.range.end - piece.range.start)
            .fold(0, u64::saturating_add)
    }
}

/// What is missing and what is not to be tried.
pub(super) struct Needs<'a> {
    pub(super) blobs: &'a BlobList,
    pub(super) index: &'a Index,
    /// Indices of the missing blobs, ascending.
    pub(super) missing: &'a [u32],
    /// Blobs that are here, by the first bytes of their digests.
    pub(super) bases: &'a HashMap<[u8; 8], BlobId>,
    /// How many bytes of large blobs need not come.
    pub(super) begun: &'a HashMap<u32, u64>,
    /// What was tried in vain.
    pub(super) avoid: &'a HashMap<BlobId, HashSet<Artifact>>,
}

/// How a blob will come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Pack(usize),
    Prefix(usize),
    Group(usize),
}

impl Needs<'_> {
    fn avoided(&self, blob: u32, kind: Artifact) -> bool {
        let id = &self.blobs.blobs()[blob as usize].id;
        self.avoid.get(id).is_some_and(|kinds| kinds.contains(&kind))
    }

    /// Whether a frame is part of what an interrupted pull left. The last part of a blob never is: with it the blob is verified.
    fn has_begun(&self, frame: &Frame) -> bool {
        match frame {
            Frame::Segment { blob, bytes } => self.has_part(*blob, bytes.end),
            Frame::Blobs(_) => false,
        }
    }

    fn has_part(&self, blob: u32, end: u64) -> bool {
        end < self.blobs.size(blob) && self.begun.get(&blob).is_some_and(|begun| end <= *begun)
    }

    /// Returns the plan, or the first blob that nothing is left to make of.
    pub(super) fn plan(&self, options: &PlanOptions) -> Result<Plan, u32> {
        let by_parts = self.by_parts(options);
        let by_image = self.by_image(options);
        let cost = |plan: &Plan| plan.bytes + plan.requests.len() as u64 * options.request_cost;
        match (by_parts, by_image) {
            (Ok(parts), Some(image)) if cost(&image) < cost(&parts) => Ok(image),
            (Ok(parts), _) => Ok(parts),
            (Err(_), Some(image)) => Ok(image),
            (Err(blob), None) => Err(blob),
        }
    }

    fn by_image(&self, options: &PlanOptions) -> Option<Plan> {
        let (file, lens) = self.index.image.as_ref()?;
        if self
            .missing
            .iter()
            .any(|blob| self.avoided(*blob, Artifact::Image))
        {
            return None;
        }
        let missing: HashSet<u32> = self.missing.iter().copied().collect();
        let mut pieces = Vec::new();
        let mut offset = 0;
        for (frame, len) in image_frames(self.blobs).into_iter().zip(lens) {
            if frame.blobs().any(|blob| missing.contains(&blob)) && !self.has_begun(&frame) {
                pieces.push(Piece {
                    range: offset..offset + len,
                    content: Content::Plain(frame),
                });
            }
            offset += len;
        }
        let files = BTreeMap::from([((Artifact::Image as u8, 0u32), (Artifact::Image, *file, pieces))]);
        Some(assemble(files, options))
    }

    fn by_parts(&self, options: &PlanOptions) -> Result<Plan, u32> {
        let places: HashMap<u32, usize> = self
            .index
            .places
            .iter()
            .enumerate()
            .map(|(at, place)| (place.blob, at))
            .collect();
        let missing: HashSet<u32> = self.missing.iter().copied().collect();
        let mut ways: HashMap<u32, (Way, u64)> = HashMap::new();
        for blob in &missing {
            if let Some(place) = places.get(blob).filter(|_| !self.avoided(*blob, Artifact::Pack)) {
                ways.insert(*blob, (Way::Pack(*place), self.index.places[*place].len()));
            }
        }
        let pack_cost = ways.clone();
        let usable = |blob: u32| missing.contains(&blob) && !self.avoided(blob, Artifact::Patch);
        for (at, patch) in self.index.patches.iter().enumerate() {
            if let PatchFrame::Prefix { blob, base, .. } = patch
                && usable(*blob)
                && self.bases.contains_key(base)
            {
                let cost = patch.len();
                if ways.get(blob).is_none_or(|(_, other)| cost < *other) {
                    ways.insert(*blob, (Way::Prefix(at), cost));
                }
            }
        }
        for (at, patch) in self.index.patches.iter().enumerate() {
            let PatchFrame::Group { targets, len, .. } = patch else {
                continue;
            };
            let members: Vec<u32> = targets
                .iter()
                .filter(|target| {
                    usable(target.blob) && target.base.is_none_or(|base| self.bases.contains_key(&base))
                })
                .map(|target| target.blob)
                .collect();
            // A group comes whole: what its members would cost otherwise must be more. One with no other way decides.
            let otherwise = members
                .iter()
                .map(|blob| ways.get(blob).map_or(u64::MAX, |(_, cost)| *cost))
                .fold(0, u64::saturating_add);
            if otherwise > *len {
                for blob in members {
                    ways.insert(blob, (Way::Group(at), 0));
                }
            }
        }
        if let Some(blob) = self.missing.iter().find(|blob| !ways.contains_key(blob)) {
            return Err(*blob);
        }
        let mut plan = assemble(self.files(&ways), options);
        let (mut whole, mut patched, mut groups) = (0, 0, HashSet::new());
        for (blob, (way, cost)) in &ways {
            let patch_cost = match way {
                Way::Pack(_) => continue,
                Way::Prefix(_) => *cost,
                Way::Group(at) if groups.insert(*at) => self.index.patches[*at].len(),
                Way::Group(_) => 0,
            };
            plan.patched += 1;
            patched += patch_cost;
            whole += pack_cost.get(blob).map_or(0, |(_, cost)| *cost);
        }
        plan.saved = whole.saturating_sub(patched);
        Ok(plan)
    }

    /// Collects the frames of each file.
    fn files(&self, ways: &HashMap<u32, (Way, u64)>) -> Files {
        let mut files = Files::new();
        let mut groups = HashSet::new();
        for (blob, (way, _)) in ways {
            match way {
                Way::Pack(at) => {
                    let place = &self.index.places[*at];
                    let pieces = file(&mut files, Artifact::Pack, place.pack, &self.index.packs);
                    let mut offset = place.offset;
                    for (frame, len) in blob_frames(*blob, self.blobs.size(*blob)).zip(&place.frames) {
                        if !self.has_begun(&frame) {
                            pieces.push(Piece {
                                range: offset..offset + len,
                                content: Content::Plain(frame),
                            });
                        }
                        offset += len;
                    }
                }
                Way::Prefix(at) => {
                    if let PatchFrame::Prefix {
                        file: number,
                        offset,
                        windows,
                        base,
                        ..
                    } = &self.index.patches[*at]
                    {
                        let base = self.bases[base];
                        let pieces = file(&mut files, Artifact::Patch, *number, &self.index.patch_files);
                        let mut offset = *offset;
                        for (index, len) in windows.iter().enumerate() {
                            let end = (index as u64 + 1) * crate::patch::WINDOW;
                            if !self.has_part(*blob, end) {
                                pieces.push(Piece {
                                    range: offset..offset + len,
                                    content: Content::Window {
                                        blob: *blob,
                                        base,
                                        index: index as u32,
                                    },
                                });
                            }
                            offset += len;
                        }
                    }
                }
                Way::Group(at) if groups.insert(*at) => {
                    if let PatchFrame::Group {
                        file: number,
                        offset,
                        len,
                        targets,
                    } = &self.index.patches[*at]
                    {
                        let members = targets
                            .iter()
                            .map(|target| GroupMember {
                                blob: target.blob,
                                stream_len: target.stream_len,
                                use_it: ways
                                    .get(&target.blob)
                                    .is_some_and(|(way, _)| *way == Way::Group(*at)),
                                base: target.base.and_then(|base| self.bases.get(&base).copied()),
                            })
                            .collect();
                        file(&mut files, Artifact::Patch, *number, &self.index.patch_files).push(Piece {
                            range: *offset..offset + len,
                            content: Content::Group(members),
                        });
                    }
                }
                Way::Group(_) => {}
            }
        }
        files
    }
}

type Files = BTreeMap<(u8, u32), (Artifact, FileRef, Vec<Piece>)>;

fn file<'f>(files: &'f mut Files, kind: Artifact, number: u32, list: &[FileRef]) -> &'f mut Vec<Piece> {
    let entry = files
        .entry((kind as u8, number))
        .or_insert_with(|| (kind, list[number as usize], Vec::new()));
    &mut entry.2
}

/// The least and the most that a gap between wanted frames may be to be asked for along with them.
const GAP: Range<u64> = 16 * 1024..1024 * 1024;

/// Bytes that are worth a connection of their own.
const SHARE: u64 = 8 * 1024 * 1024;

/// Makes ranges of frames.
fn assemble(mut files: Files, options: &PlanOptions) -> Plan {
    for (_, _, pieces) in files.values_mut() {
        pieces.sort_by_key(|piece| piece.range.start);
        // Two places of a hostile index may lie over each other; whoever comes second gets a range of its own.
    }
    let mut gap = options.request_cost.clamp(GAP.start, GAP.end);
    let requests = loop {
        let requests: Vec<PlannedRequest> = files
            .values()
            .flat_map(|(kind, file, pieces)| coalesce(*kind, *file, pieces, gap))
            .collect();
        if requests.len() <= options.max_requests.max(files.len()) || gap > 1 << 40 {
            break requests;
        }
        gap *= 2;
    };
    let total: u64 = requests
        .iter()
        .map(|request| request.range().end - request.range().start)
        .sum();
    // Every connection is to have something to do, and no more requests than that are made for it: what is there anyhow counts.
    let enough = options.jobs.max(requests.len());
    let mut share = (total / options.jobs.max(1) as u64).max(SHARE);
    let requests = loop {
        let parts: Vec<PlannedRequest> = requests
            .iter()
            .cloned()
            .flat_map(|request| split(request, share))
            .collect();
        if parts.len() <= enough || share > total {
            break parts;
        }
        share = share.saturating_add(share / 8);
    };
    let bytes = requests
        .iter()
        .map(|request| request.range().end - request.range().start)
        .sum();
    Plan {
        requests,
        bytes,
        saved: 0,
        patched: 0,
    }
}

fn coalesce(kind: Artifact, file: FileRef, pieces: &[Piece], gap: u64) -> Vec<PlannedRequest> {
    let mut requests: Vec<PlannedRequest> = Vec::new();
    for piece in pieces {
        if let Some(last) = requests.last_mut() {
            let end = last.range().end;
            if piece.range.start >= end && piece.range.start - end <= gap {
                last.pieces.push(piece.clone());
                continue;
            }
        }
        requests.push(PlannedRequest {
            kind,
            file,
            pieces: vec![piece.clone()],
        });
    }
    requests
}

/// Returns the blob that a piece is only a part of.
pub(super) fn part_of(piece: &Piece) -> Option<u32> {
    match &piece.content {
        Content::Plain(Frame::Segment { blob, .. }) | Content::Window { blob, .. } => Some(*blob),
        _ => None,
    }
}

/// Cuts a request into some of about `share` bytes, never within a blob.
fn split(request: PlannedRequest, share: u64) -> Vec<PlannedRequest> {
    let mut parts: Vec<PlannedRequest> = Vec::new();
    for piece in request.pieces {
        let same_blob = |last: &PlannedRequest| {
            part_of(&piece).is_some()
                && last
                    .pieces
                    .last()
                    .is_some_and(|last| part_of(last) == part_of(&piece))
        };
        match parts.last_mut() {
            Some(last) if last.range().end - last.range().start < share || same_blob(last) => {
                last.pieces.push(piece);
            }
            _ => parts.push(PlannedRequest {
                kind: request.kind,
                file: request.file,
                pieces: vec![piece],
            }),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    /// A file of `count` frames of a megabyte each, side by side.
    fn frames(name: &str, count: u64) -> (Artifact, FileRef, Vec<Piece>) {
        const LEN: u64 = 1 << 20;
        let file = FileRef {
            digest: Digest::of(name.as_bytes()),
            size: count * LEN,
        };
        let pieces = (0..count).map(|at| Piece {
            range: at * LEN..(at + 1) * LEN,
            content: Content::Plain(Frame::Blobs(at as u32..at as u32 + 1)),
        });
        (Artifact::Pack, file, pieces.collect())
    }

    #[test]
    fn what_is_split_for_the_connections_makes_no_more_requests_than_there_are_of_these() {
        let options = PlanOptions {
            request_cost: 64 * 1024,
            max_requests: 64,
            jobs: 4,
        };
        for (large, small) in [(50, 7), (57, 1), (200, 3), (16, 16), (9, 0), (3, 2)] {
            let files = [frames("large", large), frames("small", small)];
            let files: Files = (0..).zip(files).map(|(at, file)| ((0, at), file)).collect();
            let plan = assemble(files, &options);
            assert!(
                plan.requests.len() <= 4,
                "{large} and {small}: {}",
                plan.requests.len()
            );
            assert_eq!(plan.bytes, (large + small) << 20);
            let most = plan
                .requests
                .iter()
                .map(|request| request.pieces.len() as u64)
                .max();
            assert!(
                most <= Some((large + small).div_ceil(2).max(9)),
                "{large} and {small}: {most:?}"
            );
        }
    }
}
