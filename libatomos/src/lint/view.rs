//! The little that checks look at, whatever the tree comes from.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;

use crate::cancel::Cancel;
use crate::commit::{CommitError, SourceKind, SourceTree};
use crate::digest::{BlobId, DirTreeId};
use crate::format;
use crate::fs::FsError;
use crate::repo::{RepoError, TreeSource, check_depth, merge_equal};
use crate::unpack::{INITRAMFS, MODULES, initramfs};

use super::{SYSTEM_CONF, prepare_root};

/// What an entry is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File { size: u64 },
    Dir { children: Vec<u32> },
    Symlink { target: Box<[u8]> },
    Device,
    Fifo,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: Box<[u8]>,
    pub(super) mode: u32,
    pub(super) kind: Kind,
}

/// A tree; node 0 is the root.
#[derive(Debug)]
pub(super) struct View {
    nodes: Vec<Node>,
    /// Initramfs files of which some bytes are compressed, and how many.
    pub(super) initramfs: Vec<(String, u64)>,
    /// Small files that are read, by path.
    pub(super) texts: BTreeMap<String, Vec<u8>>,
}

/// Bytes that are read of a small file.
const MAX_TEXT: u64 = 64 * 1024;

/// Entries that are looked at. A few dirtrees that name each other's children many times over unfold into any number
/// of paths; the largest of real systems has two million.
const MAX_NODES: u64 = 20_000_000;

/// Links that are followed on the way to one file, as the kernel does.
const MAX_LINKS: usize = 40;

/// Counts the entries before there is a node for any.
fn check_size(trees: &dyn TreeSource, root: &DirTreeId, cancel: &Cancel) -> Result<(), RepoError> {
    let mut level = vec![(*root, 1u64)];
    let (mut entries, mut depth) = (0u64, 0);
    while !level.is_empty() {
        check_depth(depth, "")?;
        let mut next = Vec::new();
        for (id, count) in &level {
            cancel.check()?;
            let tree = trees.dirtree(id)?;
            let more = (tree.entries().len() as u64).saturating_mul(*count);
            entries = entries.saturating_add(more);
            next.extend(tree.entries().iter().filter_map(|entry| match &entry.node {
                format::Node::Dir { tree } => Some((*tree, *count)),
                _ => None,
            }));
        }
        if entries > MAX_NODES {
            return Err(RepoError::PathInTree {
                rev: root.to_string(),
                path: "/".to_owned(),
                reason: "it unfolds into more than 20 million files",
            });
        }
        merge_equal(&mut next);
        level = next;
        depth += 1;
    }
    Ok(())
}

impl View {
    fn empty() -> Self {
        Self {
            nodes: vec![Node {
                name: Box::default(),
                mode: 0o755,
                kind: Kind::Dir { children: Vec::new() },
            }],
            initramfs: Vec::new(),
            texts: BTreeMap::new(),
        }
    }

    fn push(&mut self, parent: u32, node: Node) -> u32 {
        let index = self.nodes.len() as u32;
        self.nodes.push(node);
        if let Kind::Dir { children } = &mut self.nodes[parent as usize].kind {
            children.push(index);
        }
        index
    }

    pub(super) fn of_source(tree: &SourceTree) -> Result<Self, CommitError> {
        let mut view = Self::empty();
        let mut stack = vec![(0, 0)];
        while let Some((from, to)) = stack.pop() {
            let mut children = tree.children(from).to_vec();
            children.sort_unstable_by(|a, b| tree.node(*a).name.cmp(&tree.node(*b).name));
            for child in children {
                let node = tree.node(child);
                let kind = match &node.kind {
                    SourceKind::File { size, .. } => Kind::File { size: *size },
                    SourceKind::Dir { .. } => Kind::Dir { children: Vec::new() },
                    SourceKind::Symlink(target) => Kind::Symlink {
                        target: target.clone(),
                    },
                    SourceKind::Char(..) | SourceKind::Block(..) => Kind::Device,
                    SourceKind::Fifo => Kind::Fifo,
                };
                let is_dir = matches!(kind, Kind::Dir { .. });
                let index = view.push(
                    to,
                    Node {
                        name: node.name.clone(),
                        mode: node.metadata.mode,
                        kind,
                    },
                );
                if is_dir {
                    stack.push((child, index));
                }
            }
        }
        let open = |path: &str| match tree.find(path) {
            Some(node) => tree.open_content(node),
            None => Ok(None),
        };
        view.measure_initramfs(open)?;
        view.read_texts(open)?;
        Ok(view)
    }

    pub(super) fn of_dirtrees(
        trees: &dyn TreeSource,
        root: &DirTreeId,
        cancel: &Cancel,
    ) -> Result<Self, RepoError> {
        check_size(trees, root, cancel)?;
        let mut view = Self::empty();
        let mut blobs = HashMap::new();
        let mut stack = vec![(*root, 0, 0)];
        while let Some((id, to, depth)) = stack.pop() {
            cancel.check()?;
            check_depth(depth, "")?;
            for entry in trees.dirtree(&id)?.into_entries() {
                let kind = match &entry.node {
                    format::Node::File { size, .. } => Kind::File { size: *size },
                    format::Node::Dir { .. } => Kind::Dir { children: Vec::new() },
                    format::Node::Symlink { target } => Kind::Symlink {
                        target: target.as_slice().into(),
                    },
                    format::Node::Char { .. } | format::Node::Block { .. } => Kind::Device,
                    format::Node::Fifo => Kind::Fifo,
                };
                let is_read = entry.name.ends_with(b".conf")
                    || INITRAMFS.iter().any(|name| name.as_bytes() == entry.name);
                let index = view.push(
                    to,
                    Node {
                        name: entry.name.into(),
                        mode: entry.metadata.mode,
                        kind,
                    },
                );
                match entry.node {
                    format::Node::Dir { tree } => stack.push((tree, index, depth + 1)),
                    format::Node::File { blob, .. } if is_read => {
                        blobs.insert(index, blob);
                    }
                    _ => {}
                }
            }
        }
        let found: HashMap<String, BlobId> = view
            .find_initramfs()
            .into_iter()
            .chain(view.find_texts())
            .filter_map(|path| Some((path.clone(), *blobs.get(&view.file(&path)?)?)))
            .collect();
        let open = |path: &str| match found.get(path) {
            Some(blob) => trees.open_blob_optional(blob),
            None => Ok(None),
        };
        view.measure_initramfs(open)?;
        view.read_texts(open)?;
        Ok(view)
    }

    /// Returns the paths of what is called as an initramfs is, beside the modules of any kernel.
    fn find_initramfs(&self) -> Vec<String> {
        let modules = self.dir(MODULES);
        let versions = modules.map_or(&[][..], |modules| self.children(modules));
        versions
            .iter()
            .filter_map(|version| std::str::from_utf8(&self.node(*version).name).ok())
            .flat_map(|version| INITRAMFS.map(|name| format!("{MODULES}/{version}/{name}")))
            .filter(|path| self.file(path).is_some())
            .collect()
    }

    /// Returns the paths of the small files that are read.
    fn find_texts(&self) -> Vec<String> {
        let mut paths = vec![prepare_root::PATH.to_owned()];
        for base in ["etc", "usr/etc", "usr/lib"] {
            let path = format!("{base}{SYSTEM_CONF}");
            let more = self.dir(&format!("{path}.d"));
            let names = more.map_or(&[][..], |dir| self.children(dir)).iter();
            let names = names.filter_map(|child| std::str::from_utf8(&self.node(*child).name).ok());
            paths.extend(names.map(|name| format!("{path}.d/{name}")));
            paths.push(path);
        }
        paths.retain(|path| self.file(path).is_some());
        paths
    }

    fn read_texts<E: From<FsError>>(
        &mut self,
        open: impl Fn(&str) -> Result<Option<File>, E>,
    ) -> Result<(), E> {
        for path in self.find_texts() {
            let Some(file) = open(&path)? else { continue };
            let mut bytes = Vec::new();
            file.take(MAX_TEXT + 1)
                .read_to_end(&mut bytes)
                .map_err(|error| FsError::new("read", &path, error))?;
            self.texts.insert(path, bytes);
        }
        Ok(())
    }

    fn measure_initramfs<E: From<FsError>>(
        &mut self,
        open: impl Fn(&str) -> Result<Option<File>, E>,
    ) -> Result<(), E> {
        for path in self.find_initramfs() {
            let Some(file) = open(&path)? else { continue };
            let bytes = file
                .metadata()
                .and_then(|metadata| initramfs::compressed_bytes(&file, metadata.len()))
                .map_err(|error| FsError::new("read", &path, error))?;
            if bytes > 0 {
                self.initramfs.push((path, bytes));
            }
        }
        Ok(())
    }

    pub(super) fn node(&self, index: u32) -> &Node {
        &self.nodes[index as usize]
    }

    pub(super) fn children(&self, index: u32) -> &[u32] {
        match &self.node(index).kind {
            Kind::Dir { children } => children,
            _ => &[],
        }
    }

    fn child(&self, parent: u32, name: &[u8]) -> Option<u32> {
        // Sorted by name, by both constructors.
        let children = self.children(parent);
        let at = children
            .binary_search_by(|child| (*self.node(*child).name).cmp(name))
            .ok()?;
        Some(children[at])
    }

    /// Returns the node at `path`. Links are not followed.
    pub(super) fn find(&self, path: &str) -> Option<u32> {
        path.split('/')
            .filter(|part| !part.is_empty())
            .try_fold(0, |parent, part| self.child(parent, part.as_bytes()))
    }

    /// Returns the node at `path` if it is a directory.
    pub(super) fn dir(&self, path: &str) -> Option<u32> {
        self.find(path)
            .filter(|node| matches!(self.node(*node).kind, Kind::Dir { .. }))
    }

    /// Returns the node at `path` if it is a regular file.
    pub(super) fn file(&self, path: &str) -> Option<u32> {
        self.find(path)
            .filter(|node| matches!(self.node(*node).kind, Kind::File { .. }))
    }

    /// Returns whether there is a directory at `path` with something in it.
    pub(super) fn has_entries(&self, path: &str) -> bool {
        self.dir(path).is_some_and(|dir| !self.children(dir).is_empty())
    }

    /// Follows `path` as the running system would, links included; `/etc` is what is made from `/usr/etc`.
    pub(super) fn resolve(&self, path: &str) -> Option<u32> {
        let split = |path: &[u8]| -> Vec<Vec<u8>> {
            path.split(|byte| *byte == b'/')
                .filter(|part| !part.is_empty() && *part != b".")
                .map(<[u8]>::to_vec)
                .rev()
                .collect()
        };
        // What is left to walk, the next part last; and the directories walked.
        let mut parts = split(path.as_bytes());
        let mut walked: Vec<u32> = vec![0];
        let mut links = 0;
        while let Some(part) = parts.pop() {
            let here = *walked.last().expect("the root is never popped");
            if part == b".." {
                if walked.len() > 1 {
                    walked.pop();
                }
                continue;
            }
            let next = match self.child(here, &part) {
                None if here == 0 && part == b"etc" => self.find("usr/etc")?,
                next => next?,
            };
            if let Kind::Symlink { target } = &self.node(next).kind {
                links += 1;
                if links > MAX_LINKS {
                    return None;
                }
                if target.first() == Some(&b'/') {
                    walked.truncate(1);
                }
                parts.extend(split(target));
            } else {
                walked.push(next);
            }
        }
        walked.last().copied()
    }

    /// Calls `visit` with every entry beneath `top` and its path, which begins with `path`; in order of the paths'
    /// parts.
    pub(super) fn walk(&self, top: u32, path: &str, mut visit: impl FnMut(&[u8], &Node)) {
        let mut stack = vec![(top, path.as_bytes().to_vec())];
        while let Some((node, path)) = stack.pop() {
            if node != top {
                visit(&path, self.node(node));
            }
            for child in self.children(node).iter().rev() {
                let mut below = path.clone();
                if !below.is_empty() {
                    below.push(b'/');
                }
                below.extend_from_slice(&self.node(*child).name);
                stack.push((*child, below));
            }
        }
    }
}
