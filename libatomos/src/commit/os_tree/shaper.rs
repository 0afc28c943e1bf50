//! The tree with the report beside it: every change goes through here, so that none is forgotten.

use crate::format::Metadata;

use super::super::{Content, SourceKind, SourceNode, SourceTree};
use super::report::{DropReason, Dropped, Generated, Linked, Moved, OsTreeReport, OsTreeWarning, Unpacked};
use super::{KernelReport, OsTreeError};

/// What to do when a name is taken that something is moved to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// Give up.
    Fail,
    /// Drop what is there.
    Replace,
}

pub(super) struct Shaper<'a> {
    pub(super) tree: &'a mut SourceTree,
    report: OsTreeReport,
}

impl<'a> Shaper<'a> {
    pub(super) fn new(tree: &'a mut SourceTree) -> Self {
        Self {
            tree,
            report: OsTreeReport::default(),
        }
    }

    pub(super) fn into_report(mut self) -> OsTreeReport {
        for dropped in &mut self.report.dropped {
            dropped.paths.sort_unstable();
        }
        self.report
            .dropped
            .sort_by(|a, b| (&a.beneath, a.reason).cmp(&(&b.beneath, b.reason)));
        self.report
    }

    pub(super) fn kind(&self, path: &str) -> Option<&SourceKind> {
        Some(&self.tree.node(self.tree.find(path)?).kind)
    }

    /// Returns the node at `path` if it is a directory.
    pub(super) fn dir(&self, path: &str) -> Option<u32> {
        self.tree.find(path).filter(|node| self.is_dir(*node))
    }

    pub(super) fn is_dir(&self, node: u32) -> bool {
        matches!(self.tree.node(node).kind, SourceKind::Dir { .. })
    }

    pub(super) fn is_file(&self, node: u32) -> bool {
        matches!(self.tree.node(node).kind, SourceKind::File { .. })
    }

    pub(super) fn is_empty(&self, dir: u32) -> bool {
        self.tree.children(dir).is_empty()
    }

    /// Returns names and nodes of a directory's entries, sorted by name: the order of a directory must not show in
    /// anything that is derived from it.
    pub(super) fn entries(&self, dir: u32) -> Vec<(Box<[u8]>, u32)> {
        let mut entries: Vec<_> = self
            .tree
            .children(dir)
            .iter()
            .map(|child| (self.tree.node(*child).name.clone(), *child))
            .collect();
        entries.sort_unstable();
        entries
    }

    /// Returns the regular files at and beneath a node, and the bytes in them.
    pub(super) fn size(&self, node: u32) -> (u64, u64) {
        let (mut files, mut bytes) = (0, 0);
        let mut stack = vec![node];
        while let Some(node) = stack.pop() {
            match &self.tree.node(node).kind {
                SourceKind::File { size, .. } => {
                    files += 1;
                    bytes += size;
                }
                SourceKind::Dir { children } => stack.extend(children),
                _ => {}
            }
        }
        (files, bytes)
    }

    pub(super) fn warn(&mut self, warning: OsTreeWarning) {
        self.report.warnings.push(warning);
    }

    pub(super) fn note_unpacked(&mut self, unpacked: Unpacked) {
        self.report.unpacked.push(unpacked);
    }

    pub(super) fn set_kernel(&mut self, kernel: KernelReport) {
        self.report.kernel = Some(kernel);
    }

    pub(super) fn note_moved(&mut self, node: u32, from: &str, to: &str) {
        let (files, bytes) = self.size(node);
        self.report.moved.push(Moved {
            from: from.to_owned(),
            to: to.to_owned(),
            files,
            bytes,
        });
    }

    pub(super) fn note_linked(&mut self, path: &str, target: &[u8]) {
        self.report.linked.push(Linked {
            path: path.to_owned(),
            target: lossy(target),
        });
    }

    pub(super) fn note_generated(&mut self, path: &str, what: impl Into<String>) {
        self.report.generated.push(Generated {
            path: path.to_owned(),
            what: what.into(),
        });
    }

    pub(super) fn in_the_way(&self, path: &str, wanted: &'static str) -> OsTreeError {
        let found = match self.kind(path) {
            Some(SourceKind::File { .. }) => "file",
            Some(SourceKind::Dir { .. }) => "directory",
            Some(SourceKind::Symlink(_)) => "symbolic link",
            Some(SourceKind::Char(..) | SourceKind::Block(..)) => "device",
            Some(SourceKind::Fifo) => "fifo",
            None => "missing name",
        };
        OsTreeError::InTheWay {
            path: path.to_owned(),
            found,
            wanted,
        }
    }

    /// Returns the directory at `path`; makes it, and says so, where it is missing. Its parents must not be anything
    /// but directories.
    pub(super) fn make_dir(&mut self, path: &str, mode: u32) -> Result<u32, OsTreeError> {
        match self.tree.find(path) {
            Some(node) if self.is_dir(node) => Ok(node),
            Some(_) => Err(self.in_the_way(path, "directory")),
            None => {
                let node = self.ensure_dir(path)?;
                self.tree.node_mut(node).metadata.mode = mode;
                self.note_generated(path, "empty directory");
                Ok(node)
            }
        }
    }

    /// Returns the directory at `path`, made with its parents where it is missing, without a word: something will be
    /// moved into it, and that is said.
    pub(super) fn ensure_dir(&mut self, path: &str) -> Result<u32, OsTreeError> {
        let mut end = 0;
        while end < path.len() {
            end = path[end..].find('/').map_or(path.len(), |at| end + at);
            let part = &path[..end];
            if self.kind(part).is_some() && self.dir(part).is_none() {
                return Err(self.in_the_way(part, "directory"));
            }
            end += 1;
        }
        Ok(self
            .tree
            .ensure_dir(path)
            .expect("every part that exists is a directory"))
    }

    pub(super) fn set_mode(&mut self, node: u32, path: &str, mode: u32) {
        if self.tree.node(node).metadata.mode != mode {
            self.tree.node_mut(node).metadata.mode = mode;
            self.note_generated(path, format!("mode {mode:04o}"));
        }
    }

    /// Makes a link at `path`, where nothing is. Its parent exists.
    pub(super) fn make_link(&mut self, path: &str, target: &str) {
        let (parent, name) = split(path);
        let parent = self.dir(parent).expect("the parent of a link is a directory");
        self.tree.insert(
            parent,
            SourceNode {
                name: name.as_bytes().into(),
                metadata: Metadata::with_mode(0o777),
                kind: SourceKind::Symlink(target.as_bytes().into()),
            },
        );
        self.note_linked(path, target.as_bytes());
    }

    /// Writes a file, root's and 0644, with the oldest of times: what is made up has no time of its own, and the
    /// same tree must give the same file.
    pub(super) fn make_file(&mut self, path: &str, bytes: Vec<u8>, what: &str) -> Result<(), OsTreeError> {
        let (parent, name) = split(path);
        let parent = self.ensure_dir(parent)?;
        if self.tree.child(parent, name.as_bytes()).is_some() {
            self.drop_path(path, parent_of(path), DropReason::Replaced);
        }
        self.tree.insert(
            parent,
            SourceNode {
                name: name.as_bytes().into(),
                metadata: Metadata::with_mode(0o644),
                kind: SourceKind::File {
                    size: bytes.len() as u64,
                    content: Content::Bytes(bytes.into()),
                },
            },
        );
        self.note_generated(path, what);
        Ok(())
    }

    /// Takes the node at `path` out of the tree and gives it the name `name`.
    pub(super) fn take(&mut self, path: &str, name: &str) -> Option<u32> {
        let (parent, old_name) = split(path);
        let parent = self.tree.find(parent)?;
        let node = self.tree.detach(parent, old_name.as_bytes())?;
        self.tree.rename(node, name.as_bytes().into());
        Some(node)
    }

    /// Puts a node that was taken out into the directory `parent`. Directories of one name become one, with the
    /// metadata of the one that arrives. `from` and `to` are the node's paths, old and new.
    pub(super) fn put(
        &mut self,
        node: u32,
        parent: u32,
        from: &[u8],
        to: &[u8],
        taken: Taken,
    ) -> Result<(), OsTreeError> {
        // A stack, and no recursion: the depth of the tree is its builder's choice.
        let mut stack = vec![(node, parent, from.to_vec(), to.to_vec())];
        while let Some((node, parent, from, to)) = stack.pop() {
            let name = self.tree.node(node).name.clone();
            let Some(there) = self.tree.child(parent, &name) else {
                self.tree.attach(parent, node);
                continue;
            };
            if self.is_dir(node) && self.is_dir(there) {
                self.tree.node_mut(there).metadata = self.tree.node(node).metadata.clone();
                for (name, child) in self.entries(node) {
                    stack.push((child, there, join(&from, &name), join(&to, &name)));
                }
                continue;
            }
            match taken {
                Taken::Fail => {
                    return Err(OsTreeError::Clash {
                        path: lossy(&from),
                        other: lossy(&to),
                    });
                }
                Taken::Replace => {
                    self.tree.detach(parent, &name);
                    let beneath = lossy(&to[..to.len() - name.len() - 1]);
                    self.note_dropped(there, &to, &beneath, DropReason::Replaced);
                    self.tree.attach(parent, node);
                }
            }
        }
        Ok(())
    }

    /// Leaves out what is at `path`; the report has it under `beneath`.
    pub(super) fn drop_path(&mut self, path: &str, beneath: &str, reason: DropReason) {
        let (parent, name) = split(path);
        if let Some(parent) = self.tree.find(parent) {
            self.drop_child(parent, name.as_bytes(), path.as_bytes(), beneath, reason);
        }
    }

    /// Leaves out the entry `name` of `parent`, whose path is `path`.
    pub(super) fn drop_child(
        &mut self,
        parent: u32,
        name: &[u8],
        path: &[u8],
        beneath: &str,
        reason: DropReason,
    ) {
        if let Some(node) = self.tree.detach(parent, name) {
            self.note_dropped(node, path, beneath, reason);
        }
    }

    /// Leaves out everything in the directory at `path`, not the directory.
    pub(super) fn drop_contents(&mut self, path: &str, reason: DropReason) {
        let Some(dir) = self.dir(path) else { return };
        for (name, _) in self.entries(dir) {
            self.drop_child(dir, &name, &join(path.as_bytes(), &name), path, reason);
        }
    }

    fn note_dropped(&mut self, node: u32, path: &[u8], beneath: &str, reason: DropReason) {
        let (_, bytes) = self.size(node);
        let mut paths = Vec::new();
        let mut stack = vec![(node, path.to_vec())];
        while let Some((node, path)) = stack.pop() {
            paths.push(lossy(&path));
            for child in self.tree.children(node) {
                stack.push((*child, join(&path, &self.tree.node(*child).name)));
            }
        }
        let groups = &mut self.report.dropped;
        let group = groups
            .iter_mut()
            .find(|group| group.beneath == beneath && group.reason == reason);
        match group {
            Some(group) => {
                group.paths.extend(paths);
                group.bytes += bytes;
            }
            None => groups.push(Dropped {
                beneath: beneath.to_owned(),
                reason,
                paths,
                bytes,
            }),
        }
    }
}

/// Splits a path into its parent, empty for the root, and its name.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

pub(super) fn parent_of(path: &str) -> &str {
    split(path).0
}

pub(super) fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut joined = path.to_vec();
    if !joined.is_empty() {
        joined.push(b'/');
    }
    joined.extend_from_slice(name);
    joined
}

pub(super) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
