//! Writing an image.
//!
//! Twice the tree is walked in one order: the first time everything gets its place, the second time it is written, for a directory
//! is written before what is in it, and says where that lies. What is kept from the first walk is eight bytes for an entry.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::cancel::Cancel;
use crate::digest::DirTreeId;
use crate::format::Metadata;
use crate::fs::{FsError, hash_file, hash_file_and_verity};
use crate::repo::TreeSource;

use super::erofs::{
    BLOCK, Dirent, FIRST_INODE, HOLE, Inode, Kind, Layout, ONE_CHUNK, SLOT, Space, Spot, Super, encode_block,
};
use super::walk::{Content, Described, Loaded, Step, Walk, kind, names};
use super::{ComposefsError, ImageReport};

/// The most entries of an image. A tree may name one directory often, so that a small store has trees without an end.
const MAX_ENTRIES: usize = 1 << 22;

/// The most blocks: 16 GiB of nothing but metadata.
const MAX_BLOCKS: u64 = 1 << 22;

/// What is written at once.
const BUFFER: usize = 256 * 1024;

/// Writes the image of a tree to a file, which is empty, once `room` has agreed to so many bytes. Nothing is synced.
pub(crate) fn write_image(
    source: &dyn TreeSource,
    root: DirTreeId,
    metadata: &Metadata,
    file: &File,
    room: &(dyn Fn(u64) -> Result<(), ComposefsError> + Sync),
    cancel: &Cancel,
) -> Result<ImageReport, ComposefsError> {
    crate::parallel::pool(None).install(|| write(source, root, metadata, file, room, cancel))
}

fn write(
    source: &dyn TreeSource,
    root: DirTreeId,
    metadata: &Metadata,
    file: &File,
    room: &dyn Fn(u64) -> Result<(), ComposefsError>,
    cancel: &Cancel,
) -> Result<ImageReport, ComposefsError> {
    let mut walk = Walk::new(source, cancel);
    let mut places = Vec::new();
    let mut space = Space::new();
    let mut has_all_verity = true;
    walk.run(root, metadata, &mut |step| {
        match step {
            Step::Inode(index, inode) => {
                debug_assert_eq!(index, places.len());
                has_all_verity &= !matches!(
                    inode.content,
                    Content::Stored {
                        has_verity: false,
                        ..
                    }
                );
                let spot = space.place(inode.head(), inode.data_len());
                let slot = u32::try_from(spot.start / SLOT as u64).ok();
                let slot = slot.filter(|_| index < MAX_ENTRIES && space.all_blocks() <= MAX_BLOCKS);
                let slot = slot.ok_or(ComposefsError::TooLarge)?;
                places.push(Placed { slot, first: 0 });
            }
            Step::Children(of, first) => places[of].first = first as u32,
        }
        Ok(())
    })?;
    let total = space.all_blocks();
    room(total * BLOCK as u64)?;
    let mut writer = Writer {
        places: &places,
        space: Space::new(),
        first_block: space.first_block(),
        inodes: Positioned::new(file, FIRST_INODE),
        data: Positioned::new(file, space.first_block() * BLOCK as u64),
        scratch: Vec::new(),
    };
    walk.run(root, metadata, &mut |step| match step {
        Step::Inode(index, inode) => writer.inode(index, &inode).map_err(ComposefsError::from),
        Step::Children(..) => Ok(()),
    })?;
    writer.inodes.flush()?;
    writer.data.flush()?;
    let fail = |error| ComposefsError::from(FsError::new("write", "an image", error));
    file.set_len(total * BLOCK as u64).map_err(fail)?;
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&root.digest().as_bytes()[..16]);
    let head = Super {
        inodes: places.len() as u64,
        blocks: total as u32,
        uuid,
    };
    // Last: before, it is no image.
    file.write_all_at(&head.encode(), 0).map_err(fail)?;
    // Without the files' digests, that of the image says little.
    let (digest, bytes, verity) = match has_all_verity {
        true => hash_file_and_verity(file).map(|(digest, bytes, verity)| (digest, bytes, Some(verity))),
        false => hash_file(file).map(|(digest, bytes)| (digest, bytes, None)),
    }
    .map_err(|error| FsError::new("read", "an image", error))?;
    Ok(ImageReport {
        inodes: head.inodes,
        bytes,
        digest: *digest.digest(),
        verity,
    })
}

/// Where an entry is.
struct Placed {
    slot: u32,
    /// The first of its own entries, of a directory.
    first: u32,
}

/// Writes from one place on.
struct Positioned<'f> {
    file: &'f File,
    /// Where the buffer goes.
    position: u64,
    buffer: Vec<u8>,
}

impl<'f> Positioned<'f> {
    const fn new(file: &'f File, position: u64) -> Self {
        Self {
            file,
            position,
            buffer: Vec::new(),
        }
    }

    /// Goes on at `position`; nothing is written between.
    fn skip_to(&mut self, position: u64) -> Result<(), FsError> {
        let gap = (position - self.position) as usize - self.buffer.len();
        self.buffer.resize(self.buffer.len() + gap, 0);
        self.flush_if(BUFFER)
    }

    fn flush_if(&mut self, least: usize) -> Result<(), FsError> {
        if self.buffer.len() < least {
            return Ok(());
        }
        self.file
            .write_all_at(&self.buffer, self.position)
            .map_err(|error| FsError::new("write", "an image", error))?;
        self.position += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn flush(&mut self) -> Result<(), FsError> {
        self.flush_if(0)
    }
}

struct Writer<'p> {
    places: &'p [Placed],
    space: Space,
    first_block: u64,
    inodes: Positioned<'p>,
    data: Positioned<'p>,
    scratch: Vec<u8>,
}

impl Writer<'_> {
    fn inode(&mut self, index: usize, inode: &Described<'_>) -> Result<(), FsError> {
        let spot = self.space.place(inode.head(), inode.data_len());
        let (layout, size, place) = match inode.content {
            Content::Stored { size, .. } => (Layout::Chunked, size, ONE_CHUNK),
            Content::Nothing => (Layout::Plain, 0, 0),
            Content::Device(device) => (Layout::Plain, 0, device),
            Content::Symlink(_) | Content::Dir(_) => {
                let block = self.first_block + spot.block;
                (spot.layout, inode.data_len() as u64, block as u32)
            }
        };
        let links = match inode.content {
            Content::Dir(dir) => 2 + dir.dirs,
            _ => 1,
        };
        self.inodes.skip_to(spot.start)?;
        let number = Inode {
            kind: inode.kind,
            layout,
            xattrs: inode.xattrs.len(),
            mode: inode.metadata.mode,
            size,
            place,
            number: index as u32 + 1,
            uid: inode.metadata.uid,
            gid: inode.metadata.gid,
            mtime: inode.metadata.mtime,
            links,
        };
        number.encode(&mut self.inodes.buffer);
        self.inodes.buffer.extend_from_slice(inode.xattrs);
        match &inode.content {
            Content::Stored { .. } => self.inodes.buffer.extend_from_slice(&HOLE),
            Content::Symlink(target) => self.put(target, spot, true)?,
            Content::Dir(dir) => self.directory(index, inode.parent, dir, spot)?,
            Content::Nothing | Content::Device(_) => {}
        }
        Ok(())
    }

    fn directory(&mut self, index: usize, parent: usize, dir: &Loaded, spot: Spot) -> Result<(), FsError> {
        let (places, first) = (self.places, self.places[index].first as usize);
        let (tree, ends) = (&dir.tree, &dir.ends);
        let entries: Vec<Dirent<'_>> = names(tree)
            .map(|(name, entry)| {
                let (inode, kind) = match entry {
                    Some(at) => (first + at, kind(&tree.entries()[at].node)),
                    None if name == b"." => (index, Kind::Dir),
                    None => (parent, Kind::Dir),
                };
                Dirent {
                    name,
                    kind,
                    inode: u64::from(places[inode].slot),
                }
            })
            .collect();
        let mut from = 0;
        let mut block = std::mem::take(&mut self.scratch);
        for (number, end) in ends.iter().enumerate() {
            block.clear();
            encode_block(&entries[from..*end], &mut block);
            self.put(&block, spot, number + 1 == ends.len())?;
            from = *end;
        }
        self.scratch = block;
        Ok(())
    }

    /// Writes data of an inode: whole blocks, and at the end what is less.
    fn put(&mut self, bytes: &[u8], spot: Spot, is_last: bool) -> Result<(), FsError> {
        if is_last && spot.layout == Layout::Inline {
            self.inodes.buffer.extend_from_slice(bytes);
            return self.inodes.flush_if(BUFFER);
        }
        self.data.buffer.extend_from_slice(bytes);
        let whole = self.data.buffer.len().next_multiple_of(BLOCK);
        self.data.buffer.resize(whole, 0);
        self.data.flush_if(BUFFER)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::digest::{BlobId, Digest};
    use crate::format::{DirTree, Entry, Node};
    use crate::repo::RepoError;
    use crate::verity::VerityDigest;

    use super::super::RootTree;

    struct Trees(HashMap<DirTreeId, DirTree>);

    impl TreeSource for Trees {
        fn dirtree(&self, id: &DirTreeId) -> Result<DirTree, RepoError> {
            Ok(self.0[id].clone())
        }
    }

    impl Trees {
        fn add(&mut self, entries: Vec<Entry>) -> DirTreeId {
            let tree = DirTree::new(entries).unwrap();
            let (id, _) = tree.encode().unwrap();
            self.0.insert(id, tree);
            id
        }
    }

    fn entry(name: &str, mode: u32, node: Node) -> Entry {
        let mut metadata = Metadata::with_mode(mode);
        metadata.mtime = 1_700_000_000;
        metadata.gid = mode & 7;
        if mode == 0o755 {
            metadata.xattrs.insert(b"user.comment".to_vec(), b"x".to_vec());
        }
        Entry {
            name: name.as_bytes().to_vec(),
            metadata,
            node,
        }
    }

    fn file(bytes: &[u8], verity: bool) -> Node {
        Node::File {
            size: bytes.len() as u64,
            blob: BlobId::new(Digest::of(bytes)),
            verity: (verity && !bytes.is_empty()).then(|| *VerityDigest::of(bytes).as_bytes()),
        }
    }

    fn image(verity: bool) -> ImageReport {
        let mut trees = Trees(HashMap::new());
        let names =
            (0..300).map(|n| entry(&format!("a name that is long {n:03}"), 0o644, file(b"x", verity)));
        let many = trees.add(names.collect());
        let target = vec![b't'; 300];
        let usr = trees.add(vec![
            entry("many", 0o755, Node::Dir { tree: many }),
            entry("file", 0o4755, file(b"hello\n", verity)),
            entry("empty", 0o600, file(b"", verity)),
            entry("link", 0o777, Node::Symlink { target }),
            entry("fifo", 0o622, Node::Fifo),
            entry("char", 0o666, Node::Char { major: 1, minor: 3 }),
        ]);
        let root = trees.add(vec![entry("usr", 0o755, Node::Dir { tree: usr })]);
        let tree = RootTree::new(&trees, root).unwrap();
        let out = tempfile::tempfile().unwrap();
        let metadata = Metadata::with_mode(0o755);
        write_image(&tree, tree.root(), &metadata, &out, &|_| Ok(()), &Cancel::new()).unwrap()
    }

    /// Seals have been made of such images: another way of writing them is another format.
    #[test]
    fn the_image_of_a_tree_is_the_same_for_ever() {
        let verity = image(true).verity.unwrap().to_string();
        assert_eq!(
            verity,
            "b57255300fd1e8d0cc5a9408cfd31c764ef1e6a122841b88f3dd37e35e5d3b57"
        );
        assert_eq!(image(false).verity, None);
        assert_ne!(image(false).digest, image(true).digest);
    }
}
