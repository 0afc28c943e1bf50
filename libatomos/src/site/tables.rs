//! The section INDEX of a manifest: where blobs lie in packs, which patches make them, the frames of the image.
//!
//! Everything is in columns, which compress better than rows. Lengths of frames are all that cannot be computed.

use crate::digest::Digest;
use crate::format::{Cursor, FormatError};
use crate::patch;

use super::limits::{MAX_FRAME, MAX_STREAMS, SEGMENT, WHOLE_BLOB};
use super::segments::{blob_frames, image_frames};
use super::varint::{read, read_count, read_signed, write, write_signed};
use super::{Artifact, BlobList, FileRef};

/// Where a blob lies: consecutive frames of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The blob's index.
    pub blob: u32,
    /// The pack, as an index into [`Index::packs`].
    pub pack: u32,
    /// Where its first frame begins.
    pub offset: u64,
    /// The lengths of its frames, one or, for a large blob, one for each segment.
    pub frames: Vec<u64>,
}

impl Place {
    /// Returns the bytes of all frames.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.frames.iter().sum()
    }

    /// Returns whether there are none; no valid place is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

/// Stands for a blob that a group makes, and that is not in this tree.
pub const NOT_IN_TREE: u32 = u32::MAX;

/// One blob that a group of patches makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatchTarget {
    /// The blob's index, or [`NOT_IN_TREE`].
    pub blob: u32,
    /// The first eight bytes of the base's digest; `None` for a blob that is in the group as it is.
    pub base: Option<[u8; 8]>,
    /// Bytes of its stream in the group.
    pub stream_len: u64,
}

/// Where and what a patch is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PatchFrame {
    /// One blob by consecutive frames, one for each window, each with a window of the base as prefix.
    Prefix {
        /// The file, as an index into [`Index::patch_files`].
        file: u32,
        /// Where the first frame begins.
        offset: u64,
        /// The frames' lengths.
        windows: Vec<u64>,
        /// The blob's index.
        blob: u32,
        /// The first eight bytes of the base's digest.
        base: [u8; 8],
    },
    /// Several blobs by one frame of concatenated streams.
    Group {
        /// The file, as an index into [`Index::patch_files`].
        file: u32,
        /// Where the frame begins.
        offset: u64,
        /// Its length.
        len: u64,
        /// What it holds, in order.
        targets: Vec<PatchTarget>,
    },
}

impl PatchFrame {
    /// Returns the file's index.
    #[must_use]
    pub const fn file(&self) -> u32 {
        match self {
            Self::Prefix { file, .. } | Self::Group { file, .. } => *file,
        }
    }

    /// Returns where the frame begins.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        match self {
            Self::Prefix { offset, .. } | Self::Group { offset, .. } => *offset,
        }
    }

    /// Returns its bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Prefix { windows, .. } => windows.iter().sum(),
            Self::Group { len, .. } => *len,
        }
    }

    /// Returns whether it has no bytes; no valid frame has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Everything that a client can ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    /// The packs.
    pub packs: Vec<FileRef>,
    /// Where blobs lie, by ascending index. A whole manifest has every blob.
    pub places: Vec<Place>,
    /// The files of patches.
    pub patch_files: Vec<FileRef>,
    /// The patches, by file and offset.
    pub patches: Vec<PatchFrame>,
    /// The image, and the lengths of the frames that [`image_frames`] lists.
    pub image: Option<(FileRef, Vec<u64>)>,
}

fn files(files: &[FileRef], out: &mut Vec<u8>) {
    write(files.len() as u64, out);
    for file in files {
        out.extend_from_slice(file.digest.as_bytes());
        write(file.size, out);
    }
}

fn read_files(cursor: &mut Cursor<'_>) -> Result<Vec<FileRef>, FormatError> {
    let count = read_count(cursor, 33, "the number of files")?;
    (0..count)
        .map(|_| {
            Ok(FileRef {
                digest: cursor.digest("a file's digest")?,
                size: read(cursor, "a file's size")?,
            })
        })
        .collect()
}

/// Offsets are told as the distance from where the last frame of the same file ended: mostly nothing.
struct Offsets(Vec<u64>);

impl Offsets {
    fn write(&mut self, file: u32, offset: u64, len: u64, out: &mut Vec<u8>) {
        let end = &mut self.0[file as usize];
        write_signed(offset.wrapping_sub(*end) as i64, out);
        *end = offset.wrapping_add(len);
    }

    /// A frame must lie within its file.
    fn check(
        &mut self,
        cursor: &Cursor<'_>,
        file: u32,
        offset: u64,
        len: u64,
        size: u64,
    ) -> Result<(), FormatError> {
        let end = offset.checked_add(len).filter(|end| len > 0 && *end <= size);
        match end {
            Some(end) => {
                self.0[file as usize] = end;
                Ok(())
            }
            None => Err(FormatError::Invalid {
                field: "a frame",
                offset: cursor.offset(),
                rule: "lies within its file",
            }),
        }
    }
}

impl Index {
    /// Returns every file that it leads to.
    pub fn files(&self) -> impl Iterator<Item = (Artifact, FileRef)> + '_ {
        let packs = self.packs.iter().map(|file| (Artifact::Pack, *file));
        let patches = self.patch_files.iter().map(|file| (Artifact::Patch, *file));
        let image = self.image.iter().map(|(file, _)| (Artifact::Image, *file));
        packs.chain(patches).chain(image)
    }

    /// Returns the bytes of the section. `blobs` is the tree's list.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_places(&mut out);
        self.encode_patches(&mut out);
        match &self.image {
            None => out.push(0),
            Some((file, frames)) => {
                out.push(1);
                files(&[*file], &mut out);
                for len in frames {
                    write(*len, &mut out);
                }
            }
        }
        out
    }

    fn encode_places(&self, out: &mut Vec<u8>) {
        files(&self.packs, out);
        write(self.places.len() as u64, out);
        let mut next = 0;
        for place in &self.places {
            write(u64::from(place.blob - next), out);
            next = place.blob + 1;
        }
        for place in &self.places {
            write(u64::from(place.pack), out);
        }
        let mut offsets = Offsets(vec![0; self.packs.len()]);
        for place in &self.places {
            offsets.write(place.pack, place.offset, place.len(), out);
        }
        for len in self.places.iter().flat_map(|place| &place.frames) {
            write(*len, out);
        }
    }

    fn encode_patches(&self, out: &mut Vec<u8>) {
        files(&self.patch_files, out);
        write(self.patches.len() as u64, out);
        for patch in &self.patches {
            write(u64::from(patch.file()), out);
        }
        for patch in &self.patches {
            // 0 is a patch by prefix; a group is told by how many blobs it makes.
            match patch {
                PatchFrame::Prefix { .. } => write(0, out),
                PatchFrame::Group { targets, .. } => write(targets.len() as u64, out),
            }
        }
        let mut offsets = Offsets(vec![0; self.patch_files.len()]);
        for patch in &self.patches {
            offsets.write(patch.file(), patch.offset(), patch.len(), out);
        }
        let mut next = 0i64;
        let mut target = |blob: u32, out: &mut Vec<u8>| {
            write_signed(i64::from(blob) - next, out);
            next = i64::from(blob) + 1;
        };
        for patch in &self.patches {
            match patch {
                PatchFrame::Prefix { blob, .. } => target(*blob, out),
                PatchFrame::Group { targets, .. } => {
                    targets.iter().for_each(|one| target(one.blob, out));
                }
            }
        }
        for patch in &self.patches {
            match patch {
                PatchFrame::Prefix { windows, .. } => {
                    write(windows.len() as u64, out);
                    windows.iter().for_each(|len| write(*len, out));
                }
                PatchFrame::Group { len, targets, .. } => {
                    write(*len, out);
                    for one in targets {
                        write(one.stream_len << 1 | u64::from(one.base.is_some()), out);
                    }
                }
            }
        }
        for patch in &self.patches {
            match patch {
                PatchFrame::Prefix { base, .. } => out.extend_from_slice(base),
                PatchFrame::Group { targets, .. } => {
                    for base in targets.iter().filter_map(|one| one.base) {
                        out.extend_from_slice(&base);
                    }
                }
            }
        }
    }

    /// Reads the section of the tree that has `blobs`; refuses indices, frames and counts that cannot be.
    pub fn decode(bytes: &[u8], blobs: &BlobList) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(bytes);
        let mut index = Self::default();
        index.decode_places(&mut cursor, blobs)?;
        index.decode_patches(&mut cursor, blobs)?;
        let offset = cursor.offset();
        index.image = match cursor.u8("whether there is an image")? {
            0 => None,
            1 => Some(decode_image(&mut cursor, blobs)?),
            _ => {
                return Err(FormatError::Invalid {
                    field: "whether there is an image",
                    offset,
                    rule: "is 0 or 1",
                });
            }
        };
        cursor.finish()?;
        Ok(index)
    }

    fn decode_places(&mut self, cursor: &mut Cursor<'_>, blobs: &BlobList) -> Result<(), FormatError> {
        self.packs = read_files(cursor)?;
        let count = read_count(cursor, 4, "the number of places")?;
        let mut next = 0u64;
        let mut indices = Vec::with_capacity(count);
        for _ in 0..count {
            let blob = next.saturating_add(read(cursor, "a blob's index")?);
            indices.push(blob_index(cursor, blob, blobs)?);
            next = blob + 1;
        }
        let packs = (0..count)
            .map(|_| file_index(cursor, self.packs.len()))
            .collect::<Result<Vec<_>, _>>()?;
        // Lengths come after the offsets that build on them, so the distances are kept for a moment.
        let distances = (0..count)
            .map(|_| read_signed(cursor, "an offset"))
            .collect::<Result<Vec<_>, _>>()?;
        let mut offsets = Offsets(vec![0; self.packs.len()]);
        for ((blob, pack), distance) in indices.into_iter().zip(packs).zip(distances) {
            let frames = blob_frames(blob, blobs.size(blob))
                .map(|_| frame_len(cursor))
                .collect::<Result<Vec<_>, _>>()?;
            let offset = offsets.0[pack as usize].wrapping_add(distance as u64);
            let size = self.packs[pack as usize].size;
            offsets.check(cursor, pack, offset, frames.iter().sum(), size)?;
            self.places.push(Place {
                blob,
                pack,
                offset,
                frames,
            });
        }
        Ok(())
    }

    fn decode_patches(&mut self, cursor: &mut Cursor<'_>, blobs: &BlobList) -> Result<(), FormatError> {
        self.patch_files = read_files(cursor)?;
        let count = read_count(cursor, 6, "the number of patches")?;
        let files = (0..count)
            .map(|_| file_index(cursor, self.patch_files.len()))
            .collect::<Result<Vec<_>, _>>()?;
        // Each target takes at least two bytes of what follows: its index and its length.
        let mut left = cursor.remaining() / 2;
        let mut members = Vec::with_capacity(count);
        for _ in 0..count {
            let offset = cursor.offset();
            let many = read(cursor, "the number of targets")?;
            let many = usize::try_from(many).ok().filter(|many| *many <= left);
            let many = many.ok_or(FormatError::Truncated {
                field: "the number of targets",
                offset,
            })?;
            left -= many;
            members.push(many);
        }
        let distances = (0..count)
            .map(|_| read_signed(cursor, "an offset"))
            .collect::<Result<Vec<_>, _>>()?;
        let total: usize = members.iter().map(|many| (*many).max(1)).sum();
        let mut targets = Vec::with_capacity(total.min(cursor.remaining()));
        let mut next = 0i64;
        for many in &members {
            for _ in 0..(*many).max(1) {
                let blob = next.wrapping_add(read_signed(cursor, "a blob's index")?);
                targets.push(if *many > 0 && blob == i64::from(NOT_IN_TREE) {
                    NOT_IN_TREE
                } else {
                    blob_index(cursor, blob as u64, blobs)?
                });
                next = blob.wrapping_add(1);
            }
        }
        let mut targets = targets.into_iter();
        let mut take = || targets.next().expect("there is one for each member");
        let mut offsets = Offsets(vec![0; self.patch_files.len()]);
        for ((file, many), distance) in files.into_iter().zip(members).zip(distances) {
            let offset = offsets.0[file as usize].wrapping_add(distance as u64);
            let patch = if many == 0 {
                decode_prefix(cursor, file, offset, take(), blobs)?
            } else {
                let len = frame_len(cursor)?;
                let mut left = MAX_STREAMS;
                let targets = (0..many)
                    .map(|_| decode_target(cursor, take(), blobs, &mut left))
                    .collect::<Result<Vec<_>, _>>()?;
                PatchFrame::Group {
                    file,
                    offset,
                    len,
                    targets,
                }
            };
            let size = self.patch_files[file as usize].size;
            offsets.check(cursor, file, offset, patch.len(), size)?;
            self.patches.push(patch);
        }
        for patch in &mut self.patches {
            match patch {
                PatchFrame::Prefix { base, .. } => *base = read_base(cursor)?,
                PatchFrame::Group { targets, .. } => {
                    for base in targets.iter_mut().filter_map(|one| one.base.as_mut()) {
                        *base = read_base(cursor)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns the packs that `places` name, as what an error can name.
    #[must_use]
    pub fn pack_digest(&self, place: &Place) -> &Digest {
        &self.packs[place.pack as usize].digest
    }
}

fn decode_image(cursor: &mut Cursor<'_>, blobs: &BlobList) -> Result<(FileRef, Vec<u64>), FormatError> {
    let offset = cursor.offset();
    let invalid = |rule| FormatError::Invalid {
        field: "the image",
        offset,
        rule,
    };
    let [file] = read_files(cursor)?[..] else {
        return Err(invalid("is one file"));
    };
    // Sizes are what a tree says: frames are listed only if there can be so many lengths.
    let segments = |size: u64| if size > WHOLE_BLOB { size / SEGMENT } else { 0 };
    let least = blobs
        .blobs()
        .iter()
        .fold(0, |sum, blob| u64::saturating_add(sum, segments(blob.size)));
    if least > cursor.remaining() as u64 {
        return Err(FormatError::Truncated {
            field: "the frames of the image",
            offset,
        });
    }
    let frames = image_frames(blobs)
        .iter()
        .map(|_| frame_len(cursor))
        .collect::<Result<Vec<_>, _>>()?;
    // No overflow: each is at most 16 MiB.
    if frames.iter().sum::<u64>() != file.size {
        return Err(invalid("is as long as its frames"));
    }
    Ok((file, frames))
}

fn decode_prefix(
    cursor: &mut Cursor<'_>,
    file: u32,
    offset: u64,
    blob: u32,
    blobs: &BlobList,
) -> Result<PatchFrame, FormatError> {
    let at = cursor.offset();
    let count = read_count(cursor, 1, "the number of windows")?;
    if count as u64 != patch::windows(blobs.size(blob)) {
        // With fewer the blob would never be whole, and nothing would say so.
        return Err(FormatError::Invalid {
            field: "the number of windows",
            offset: at,
            rule: "is one for every 8 MiB of the blob",
        });
    }
    let windows = (0..count)
        .map(|_| frame_len(cursor))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(PatchFrame::Prefix {
        file,
        offset,
        windows,
        blob,
        base: [0; 8],
    })
}

/// `left` is what the streams of the group may still have: a client holds all of them in memory.
fn decode_target(
    cursor: &mut Cursor<'_>,
    blob: u32,
    blobs: &BlobList,
    left: &mut u64,
) -> Result<PatchTarget, FormatError> {
    let offset = cursor.offset();
    let word = read(cursor, "a stream's length")?;
    let target = PatchTarget {
        blob,
        base: (word & 1 == 1).then_some([0; 8]),
        stream_len: word >> 1,
    };
    let invalid = |rule| FormatError::Invalid {
        field: "a stream's length",
        offset,
        rule,
    };
    let plain = target.base.is_none() && blob != NOT_IN_TREE;
    if plain && target.stream_len != blobs.size(blob) {
        return Err(invalid("is the blob's size where there is no base"));
    }
    *left = left
        .checked_sub(target.stream_len)
        .ok_or_else(|| invalid("is at most 16 MiB with all others of the group"))?;
    Ok(target)
}

fn read_base(cursor: &mut Cursor<'_>) -> Result<[u8; 8], FormatError> {
    let mut base = [0; 8];
    base.copy_from_slice(cursor.bytes(8, "a base's digest")?);
    Ok(base)
}

fn blob_index(cursor: &Cursor<'_>, index: u64, blobs: &BlobList) -> Result<u32, FormatError> {
    u32::try_from(index)
        .ok()
        .filter(|index| *index < blobs.len())
        .ok_or(FormatError::Invalid {
            field: "a blob's index",
            offset: cursor.offset(),
            rule: "is that of a blob of the tree",
        })
}

fn file_index(cursor: &mut Cursor<'_>, files: usize) -> Result<u32, FormatError> {
    let offset = cursor.offset();
    let index = read(cursor, "a file's index")?;
    u32::try_from(index)
        .ok()
        .filter(|index| (*index as usize) < files)
        .ok_or(FormatError::Invalid {
            field: "a file's index",
            offset,
            rule: "is that of a file in the list",
        })
}

fn frame_len(cursor: &mut Cursor<'_>) -> Result<u64, FormatError> {
    let offset = cursor.offset();
    match read(cursor, "a frame's length")? {
        len @ 1..=MAX_FRAME => Ok(len),
        _ => Err(FormatError::Invalid {
            field: "a frame's length",
            offset,
            rule: "is 1 byte to 16 MiB",
        }),
    }
}
