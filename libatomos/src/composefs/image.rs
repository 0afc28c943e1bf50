//! From dirtrees to an image.
//!
//! Twice the tree is walked in one order: the first time everything gets its place, the second time it is written, for a directory
//! is written before what is in it, and says where that lies. What is kept from the first walk is eight bytes for an entry.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::cancel::Cancel;
use crate::digest::{Digest, DirTreeId};
use crate::format::{DirTree, Entry, Metadata, Node, limits};
use crate::fs::{Dir, FsError, hash_file};
use crate::repo::{Located, Repo, RepoError, Room, TreeSource, object_path, random_hex};

use super::ComposefsError;
use super::erofs::{
    BLOCK, CHUNK, Dirent, FIRST_INODE, HOLE, INODE, Inode, Kind, Layout, ONE_CHUNK, SLOT, Space, Spot, Super,
    Xattrs, blocks, device, encode_block,
};

/// The most entries of an image. A tree may name one directory often, so that a small store has trees without an end.
const MAX_ENTRIES: usize = 1 << 22;

/// The most blocks: 16 GiB of nothing but metadata.
const MAX_BLOCKS: u64 = 1 << 22;

/// Bytes of dirtrees that are kept from the first walk for the second.
const MAX_KEPT: usize = 48 << 20;

/// Dirtrees that are loaded at once.
const AT_ONCE: usize = 16;

/// What is written at once.
const BUFFER: usize = 256 * 1024;

/// An image that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageReport {
    /// Inodes in it.
    pub inodes: u64,
    /// Bytes of it.
    pub bytes: u64,
    /// The digest of its bytes. The same tree has the same.
    pub digest: Digest,
}

/// An image without a name, in the repository's file system. It goes when nobody has it open or mounted.
#[derive(Debug)]
pub struct Image {
    pub(super) file: File,
    /// Bytes of it.
    pub bytes: u64,
    /// The digest of its bytes.
    pub digest: Digest,
}

impl Image {
    /// Makes an image of what `rev` names, or of the directory `subpath` in it. Nothing of it is durable.
    ///
    /// # Errors
    /// If the tree has something that no image can have, or an object is missing.
    pub fn make(repo: &Repo, rev: &str, subpath: &[u8], cancel: &Cancel) -> Result<Self, ComposefsError> {
        let _lock = repo.lock_shared()?;
        let file = repo.dir().create_unnamed(0o600)?;
        let report = write_revision(repo, rev, subpath, &file, &repo.room()?, cancel)?;
        Ok(Self {
            file,
            bytes: report.bytes,
            digest: report.digest,
        })
    }

    /// Takes one that nobody else can write to, as it is.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn of_file(file: File, path: &Path) -> Result<Self, ComposefsError> {
        let (digest, bytes) = hash_file(&file).map_err(|error| FsError::new("read", path, error))?;
        Ok(Self {
            file,
            bytes,
            digest: *digest.digest(),
        })
    }

    /// Takes one that was made as a file. It is copied: whoever owns the file may change it while it is mounted.
    ///
    /// # Errors
    /// If there is none, or no room for it. What is in it is the kernel's to read.
    pub fn open(repo: &Repo, path: &Path) -> Result<Self, ComposefsError> {
        let name = path.file_name().ok_or_else(|| ComposefsError::NoName {
            path: path.to_owned(),
        })?;
        let fail = |error| FsError::new("read", path, error);
        let mut from = parent(path)?.open_file(name)?;
        repo.check_room(from.metadata().map_err(fail)?.len())?;
        let file = repo.dir().create_unnamed(0o600)?;
        std::io::copy(&mut from, &mut &file).map_err(fail)?;
        let (digest, bytes) = hash_file(&file).map_err(fail)?;
        Ok(Self {
            file,
            bytes,
            digest: *digest.digest(),
        })
    }
}

fn parent(path: &Path) -> Result<Dir, FsError> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => Dir::open_ambient(parent),
        _ => Dir::open_ambient("."),
    }
}

fn write_revision(
    repo: &Repo,
    rev: &str,
    subpath: &[u8],
    file: &File,
    room: &Room,
    cancel: &Cancel,
) -> Result<ImageReport, ComposefsError> {
    let (root, metadata) = repo.resolve_tree(rev)?;
    let (root, metadata) = match repo.locate(rev, root, metadata, subpath)? {
        // A dirtree does not know its own directory's metadata.
        Located::Root(root, metadata) => (root, metadata.unwrap_or_else(|| Metadata::with_mode(0o755))),
        Located::Entry(Entry {
            node: Node::Dir { tree },
            metadata,
            ..
        }) => (tree, metadata),
        Located::Entry(_) => {
            return Err(ComposefsError::NotInImages {
                path: Path::new(OsStr::from_bytes(subpath)).to_owned(),
                reason: "an image is made of a directory",
            });
        }
    };
    let take = |bytes| Ok(room.take(bytes)?);
    write_image(repo, root, &metadata, file, &take, cancel).map_err(|error| match error {
        ComposefsError::Repo(error) => repo.explain_missing(repo.resolve_commit(rev).ok(), error).into(),
        error => error,
    })
}

/// Makes an image of what `rev` names, or of the directory `subpath` in it, as the file `destination`, which must not exist. It is
/// there when it is complete. Nothing is synced.
///
/// # Errors
/// As of [`Image::make`]; and where there is something.
pub fn image(
    repo: &Repo,
    rev: &str,
    subpath: &[u8],
    destination: &Path,
    cancel: &Cancel,
) -> Result<ImageReport, ComposefsError> {
    let name = destination.file_name().ok_or_else(|| ComposefsError::NoName {
        path: destination.to_owned(),
    })?;
    let parent = parent(destination)?;
    let exists = || ComposefsError::Exists {
        path: destination.to_owned(),
    };
    if parent.exists(name)? {
        return Err(exists());
    }
    let _lock = repo.lock_shared()?;
    let temporary = format!(".atomos-image-{}", random_hex(8)?);
    let file = parent.create_file(&temporary, 0o644)?;
    let room = repo.room_beside(&parent)?;
    let made = write_revision(repo, rev, subpath, &file, &room, cancel).and_then(|report| {
        match parent.rename_new(&temporary, &parent, name) {
            Err(error) if error.is_already_exists() => Err(exists()),
            Err(error) => Err(error.into()),
            Ok(()) => Ok(report),
        }
    });
    if made.is_err() {
        // The first error is the one to tell.
        drop(parent.remove_file_optional(&temporary));
    }
    made
}

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
    walk.run(root, metadata, &mut |step| {
        match step {
            Step::Inode(index, inode) => {
                debug_assert_eq!(index, places.len());
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
    let (digest, bytes) = hash_file(file).map_err(|error| FsError::new("read", "an image", error))?;
    Ok(ImageReport {
        inodes: head.inodes,
        bytes,
        digest: *digest.digest(),
    })
}

/// Where an entry is.
struct Placed {
    slot: u32,
    /// The first of its own entries, of a directory.
    first: u32,
}

/// What a walk meets.
enum Step<'a> {
    /// An inode, by its number. What is in one directory has numbers that follow one another.
    Inode(usize, Described<'a>),
    /// What is in the directory of the first number begins with the second.
    Children(usize, usize),
}

/// An inode.
struct Described<'a> {
    metadata: &'a Metadata,
    kind: Kind,
    xattrs: Xattrs,
    content: Content<'a>,
    parent: usize,
}

enum Content<'a> {
    /// A file whose bytes are in the store.
    Stored(u64),
    /// A file, empty; a fifo.
    Nothing,
    Device(u32),
    Symlink(&'a [u8]),
    Dir(&'a Loaded),
}

impl Described<'_> {
    /// Bytes of everything but data.
    fn head(&self) -> usize {
        let chunk = match self.content {
            Content::Stored(_) => CHUNK,
            _ => 0,
        };
        INODE + self.xattrs.bytes().len() + chunk
    }

    fn data_len(&self) -> usize {
        match &self.content {
            Content::Symlink(target) => target.len(),
            Content::Dir(dir) => (dir.ends.len() - 1) * BLOCK + dir.last,
            _ => 0,
        }
    }
}

const fn kind(node: &Node) -> Kind {
    match node {
        Node::File { .. } => Kind::File,
        Node::Dir { .. } => Kind::Dir,
        Node::Symlink { .. } => Kind::Symlink,
        Node::Char { .. } => Kind::Char,
        Node::Block { .. } => Kind::Block,
        Node::Fifo => Kind::Fifo,
    }
}

/// The names in a directory, in order, with the number of each entry; `.` and `..` have none.
fn names(tree: &DirTree) -> impl Iterator<Item = (&[u8], Option<usize>)> {
    let dots: [&[u8]; 2] = [b".", b".."];
    let before = dots.map(|dot| {
        let before = tree
            .entries()
            .partition_point(|entry| entry.name.as_slice() < dot);
        (before, dot)
    });
    (0..=tree.entries().len()).flat_map(move |index| {
        let dots = before
            .into_iter()
            .filter(move |(at, _)| *at == index)
            .map(|(_, dot)| (dot, None));
        let entry = tree.entries().get(index);
        dots.chain(entry.map(|entry| (entry.name.as_slice(), Some(index))))
    })
}

/// A dirtree, and how a directory of it lies in blocks.
struct Loaded {
    tree: DirTree,
    /// How many entries are before the end of each block, `.` and `..` among them.
    ends: Vec<usize>,
    /// Bytes of the last block.
    last: usize,
    /// How many directories are in it.
    dirs: u32,
}

impl Loaded {
    fn new(tree: DirTree) -> Self {
        let (ends, last) = blocks(names(&tree).map(|(name, _)| name));
        let is_dir = |entry: &&Entry| matches!(entry.node, Node::Dir { .. });
        let dirs = tree.entries().iter().filter(is_dir).count() as u32;
        Self {
            tree,
            ends,
            last,
            dirs,
        }
    }
}

/// Walks a tree: each directory's entries, then what is in the first directory of them, and so on.
struct Walk<'a> {
    source: &'a dyn TreeSource,
    cancel: &'a Cancel,
    kept: HashMap<DirTreeId, Arc<Loaded>>,
    kept_bytes: usize,
}

/// A name, and the directory that it is in.
struct Place {
    parent: Option<Rc<Self>>,
    name: Vec<u8>,
    depth: usize,
}

impl Place {
    fn path(&self) -> PathBuf {
        let mut names = vec![self.name.as_slice()];
        let mut next = self.parent.as_ref();
        while let Some(place) = next {
            names.push(&place.name);
            next = place.parent.as_ref();
        }
        names.iter().rev().map(|name| OsStr::from_bytes(name)).collect()
    }
}

/// About how many bytes a dirtree takes in memory.
fn bytes_of(tree: &DirTree) -> usize {
    let of = |entry: &Entry| {
        let xattrs = entry.metadata.xattrs.iter();
        let xattrs: usize = xattrs.map(|(name, value)| 48 + name.len() + value.len()).sum();
        let target = match &entry.node {
            Node::Symlink { target } => target.len(),
            _ => 0,
        };
        size_of::<Entry>() + entry.name.len() + xattrs + target
    };
    tree.entries().iter().map(of).sum()
}

impl<'a> Walk<'a> {
    fn new(source: &'a dyn TreeSource, cancel: &'a Cancel) -> Self {
        Self {
            source,
            cancel,
            kept: HashMap::new(),
            kept_bytes: 0,
        }
    }

    fn run(
        &mut self,
        root: DirTreeId,
        metadata: &Metadata,
        each: &mut dyn FnMut(Step<'_>) -> Result<(), ComposefsError>,
    ) -> Result<(), ComposefsError> {
        let node = Node::Dir { tree: root };
        let tree = self.load(&root)?;
        let described = describe(metadata, &node, Some(&tree), 0)
            .map_err(|reason| not_in_images(Path::new("/"), reason))?;
        each(Step::Inode(0, described))?;
        drop(tree);
        let mut next = 1;
        let top = Rc::new(Place {
            parent: None,
            name: b"/".to_vec(),
            depth: 0,
        });
        let mut stack = vec![(0, root, top)];
        while let Some((of, id, place)) = stack.pop() {
            self.cancel.check()?;
            if place.depth > limits::MAX_DEPTH {
                return Err(not_in_images(
                    &place.path(),
                    "it is nested more than 2048 directories deep",
                ));
            }
            each(Step::Children(of, next))?;
            let dir = self.load(&id)?;
            self.load_ahead(&dir.tree)?;
            let begin = stack.len();
            for entry in dir.tree.entries() {
                let tree = match &entry.node {
                    Node::Dir { tree } => Some(self.load(tree)?),
                    _ => None,
                };
                let here = || Place {
                    parent: Some(Rc::clone(&place)),
                    name: entry.name.clone(),
                    depth: place.depth + 1,
                };
                let described = describe(&entry.metadata, &entry.node, tree.as_deref(), of)
                    .map_err(|reason| not_in_images(&here().path(), reason))?;
                each(Step::Inode(next, described))?;
                if let Node::Dir { tree } = entry.node {
                    stack.push((next, tree, Rc::new(here())));
                }
                next += 1;
            }
            stack[begin..].reverse();
        }
        Ok(())
    }

    fn load(&mut self, id: &DirTreeId) -> Result<Arc<Loaded>, RepoError> {
        if let Some(tree) = self.kept.get(id) {
            return Ok(Arc::clone(tree));
        }
        let tree = Arc::new(Loaded::new(self.source.dirtree(id)?));
        self.keep(*id, &tree);
        Ok(tree)
    }

    fn keep(&mut self, id: DirTreeId, tree: &Arc<Loaded>) {
        let bytes = bytes_of(&tree.tree);
        if self.kept_bytes + bytes <= MAX_KEPT {
            self.kept_bytes += bytes;
            self.kept.insert(id, Arc::clone(tree));
        }
    }

    /// Loads what is in a directory on all processors, as long as there is room to keep it.
    fn load_ahead(&mut self, dir: &DirTree) -> Result<(), RepoError> {
        let mut missing: Vec<DirTreeId> = dir
            .entries()
            .iter()
            .filter_map(|entry| match entry.node {
                Node::Dir { tree } if !self.kept.contains_key(&tree) => Some(tree),
                _ => None,
            })
            .collect();
        missing.sort_unstable();
        missing.dedup();
        if missing.len() < 2 {
            return Ok(());
        }
        for some in missing.chunks(AT_ONCE) {
            if self.kept_bytes >= MAX_KEPT / 2 {
                return Ok(());
            }
            let source = self.source;
            let load = |id: &DirTreeId| source.dirtree(id).map(|tree| (*id, Arc::new(Loaded::new(tree))));
            let trees: Vec<_> = some.par_iter().map(load).collect::<Result<_, _>>()?;
            for (id, tree) in trees {
                self.keep(id, &tree);
            }
        }
        Ok(())
    }
}

fn not_in_images(path: &Path, reason: &'static str) -> ComposefsError {
    ComposefsError::NotInImages {
        path: path.to_owned(),
        reason,
    }
}

/// What overlays keep for themselves.
const OVERLAY: &[u8] = b"trusted.overlay.";

fn describe<'a>(
    metadata: &'a Metadata,
    node: &'a Node,
    dir: Option<&'a Loaded>,
    parent: usize,
) -> Result<Described<'a>, &'static str> {
    let mut xattrs = Xattrs::default();
    for (name, value) in metadata.xattrs.iter() {
        // An overlay takes the one level of it away again that is added here.
        let escaped;
        let name = match name.strip_prefix(OVERLAY) {
            None => name,
            Some(rest) => {
                escaped = [OVERLAY, b"overlay.", rest].concat();
                escaped.as_slice()
            }
        };
        if !xattrs.push(name, value) {
            return Err("it has an extended attribute that EROFS does not have, or one that is too long");
        }
    }
    let content = match node {
        Node::File { size: 0, .. } | Node::Fifo => Content::Nothing,
        Node::File { size, blob, .. } => {
            let place = format!("/{}", object_path(blob.digest()));
            let pushed = xattrs.push(b"trusted.overlay.metacopy", b"")
                && xattrs.push(b"trusted.overlay.redirect", place.as_bytes());
            if !pushed {
                return Err("its extended attributes are too long");
            }
            Content::Stored(*size)
        }
        Node::Symlink { target } => Content::Symlink(target),
        Node::Char { major: 0, minor: 0 } => {
            return Err("an overlay takes the device 0:0 for a file that was removed");
        }
        Node::Char { major, minor } | Node::Block { major, minor } => {
            Content::Device(device(*major, *minor).ok_or("its device's number is too large")?)
        }
        Node::Dir { .. } => Content::Dir(dir.ok_or("it is a directory without entries")?),
    };
    Ok(Described {
        metadata,
        kind: kind(node),
        xattrs,
        content,
        parent,
    })
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
            Content::Stored(size) => (Layout::Chunked, size, ONE_CHUNK),
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
            xattrs: inode.xattrs.bytes().len(),
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
        self.inodes.buffer.extend_from_slice(inode.xattrs.bytes());
        match &inode.content {
            Content::Stored(_) => self.inodes.buffer.extend_from_slice(&HOLE),
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
