//! Keeping a tree in few packs.
//!
//! Every release adds a pack of what is new in it, so after a thousand releases a tree would be scattered over hundreds.
//! When there are more than a few, the smaller ones' live frames are copied, as they are, into one. Packs are merged
//! so that each is at least twice all smaller ones together; a frame is then copied at most about log2(releases)
//! times, and the number of packs grows as slowly.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;

use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::fs::FsError;
use crate::site::{Artifact, FileRef, Place};

use super::PublishError;
use super::pack::Output;
use super::site_writer::SiteWriter;

/// As many packs as nobody minds.
const FEW: usize = 8;

/// A blob's place, with the pack itself.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) pack: FileRef,
    pub(super) offset: u64,
    pub(super) frames: Vec<u64>,
}

impl Known {
    pub(super) fn len(&self) -> u64 {
        self.frames.iter().sum()
    }

    pub(super) fn of(place: &Place, packs: &[FileRef]) -> Self {
        Self {
            pack: packs[place.pack as usize],
            offset: place.offset,
            frames: place.frames.clone(),
        }
    }
}

/// Returns which packs to merge: `live` has the bytes that the tree uses of each.
fn choose(live: &BTreeMap<Digest, u64>) -> Vec<Digest> {
    if live.len() <= FEW {
        return Vec::new();
    }
    let mut ascending: Vec<(u64, Digest)> = live.iter().map(|(digest, bytes)| (*bytes, *digest)).collect();
    ascending.sort_unstable();
    let mut below = 0;
    let mut last = None;
    for (index, (bytes, _)) in ascending.iter().enumerate() {
        if index > 0 && *bytes < 2 * below {
            last = Some(index);
        }
        below += bytes;
    }
    match last {
        Some(last) => ascending[..=last].iter().map(|(_, digest)| *digest).collect(),
        None => Vec::new(),
    }
}

/// Merges packs where there are too many. `places` are those of the tree's blobs that are not new, in blob order; they
/// are changed to where the frames lie then. Returns how many bytes were copied.
pub(super) fn consolidate(
    places: &mut [Known],
    writer: &SiteWriter,
    cancel: &Cancel,
) -> Result<u64, PublishError> {
    let mut live = BTreeMap::new();
    for place in places.iter() {
        *live.entry(place.pack.digest).or_insert(0) += place.len();
    }
    let chosen = choose(&live);
    if chosen.is_empty() {
        return Ok(0);
    }
    let mut files = BTreeMap::new();
    for digest in &chosen {
        files.insert(*digest, writer.site.open_artifact(Artifact::Pack, digest)?);
    }
    let mut output = Output::create(writer)?;
    let mut moved = Vec::new();
    for (index, place) in places.iter().enumerate() {
        let Some(file) = files.get(&place.pack.digest) else {
            continue;
        };
        cancel.check()?;
        moved.push((index, output.size()));
        let mut offset = place.offset;
        for len in &place.frames {
            let mut frame = vec![0; *len as usize];
            let name = Artifact::Pack.path(&place.pack.digest);
            file.read_exact_at(&mut frame, offset)
                .map_err(|error| FsError::new("read", name, error))?;
            output.write(&frame)?;
            offset += len;
        }
    }
    let pack = output.finish(Artifact::Pack, writer)?;
    for (index, offset) in moved {
        places[index].pack = pack;
        places[index].offset = offset;
    }
    Ok(pack.size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_stay_few_and_little_is_copied() {
        let mut live = BTreeMap::from([(Digest::of(b"first"), 1_000_000u64)]);
        let (mut copied, mut added, mut most) = (0, 0, 0);
        for release in 0..1000u64 {
            let new = 500 + release * 7919 % 1000;
            added += new;
            live.insert(Digest::of(&release.to_le_bytes()), new);
            let chosen = choose(&live);
            let merged: u64 = chosen.iter().map(|digest| live.remove(digest).unwrap()).sum();
            if merged > 0 {
                copied += merged;
                live.insert(Digest::of(&merged.to_le_bytes()), merged);
            }
            most = most.max(live.len());
        }
        assert!(most <= 16, "{most} packs");
        assert!(copied < added * 12, "{copied} bytes copied for {added} new ones");
    }
}
