//! Where links lead, as the running system would follow them.

use std::collections::HashMap;

use super::super::{SourceKind, SourceTree};

/// Links that are followed on the way to one file, as the kernel does.
const MAX_LINKS: usize = 40;

/// A tree's directories, ready to look names up in; valid as long as no node is moved or renamed.
pub(super) struct Places<'t> {
    tree: &'t SourceTree,
    /// The directory that each node is an entry of; the root is its own. Only of what can be reached.
    parents: HashMap<u32, u32>,
    /// The entries of each directory, sorted by name.
    entries: HashMap<u32, Vec<u32>>,
}

impl<'t> Places<'t> {
    pub(super) fn new(tree: &'t SourceTree) -> Self {
        let mut parents = HashMap::from([(0, 0)]);
        let mut entries = HashMap::new();
        let mut stack = vec![0];
        while let Some(dir) = stack.pop() {
            let mut children = tree.children(dir).to_vec();
            children.sort_unstable_by(|a, b| tree.node(*a).name.cmp(&tree.node(*b).name));
            for child in &children {
                parents.insert(*child, dir);
                if matches!(tree.node(*child).kind, SourceKind::Dir { .. }) {
                    stack.push(*child);
                }
            }
            entries.insert(dir, children);
        }
        Self {
            tree,
            parents,
            entries,
        }
    }

    /// Returns the directory that a node is in.
    pub(super) fn parent(&self, node: u32) -> u32 {
        self.parents[&node]
    }

    /// Returns every link of the tree, in no order.
    pub(super) fn links(&self) -> impl Iterator<Item = u32> {
        let is_link = |node: &u32| matches!(self.tree.node(*node).kind, SourceKind::Symlink(_));
        self.parents.keys().copied().filter(is_link)
    }

    pub(super) fn child(&self, dir: u32, name: &[u8]) -> Option<u32> {
        let entries = self.entries.get(&dir)?;
        let at = entries
            .binary_search_by(|child| (*self.tree.node(*child).name).cmp(name))
            .ok()?;
        Some(entries[at])
    }

    /// Returns a node's path from the root.
    pub(super) fn path(&self, mut node: u32) -> Vec<u8> {
        let mut names: Vec<&[u8]> = Vec::new();
        while node != 0 {
            names.push(&self.tree.node(node).name);
            node = self.parents[&node];
        }
        names.reverse();
        names.join(&b'/')
    }

    /// Returns what a link names, which may be a link; directories on the way are walked through whatever links they
    /// are reached by.
    pub(super) fn step(&self, link: u32) -> Option<u32> {
        let SourceKind::Symlink(target) = &self.tree.node(link).kind else {
            return None;
        };
        let parts = |path: &'t [u8]| {
            let parts = path.split(|byte| *byte == b'/');
            parts.filter(|part| !part.is_empty() && *part != b".").rev()
        };
        let start = |path: &[u8], from| if path.first() == Some(&b'/') { 0 } else { from };
        // A name that ends in a slash is a directory's.
        if target.last() == Some(&b'/') {
            return None;
        }
        let mut here = start(target, self.parent(link));
        let mut left: Vec<&[u8]> = parts(target).collect();
        let mut followed = 0;
        while let Some(part) = left.pop() {
            if part == b".." {
                here = self.parent(here);
                continue;
            }
            let next = match self.child(here, part) {
                // The running system's /etc is made of /usr/etc.
                None if here == 0 && part == b"etc" => self.child(self.child(0, b"usr")?, b"etc")?,
                next => next?,
            };
            if left.is_empty() {
                return Some(next);
            }
            match &self.tree.node(next).kind {
                SourceKind::Dir { .. } => here = next,
                SourceKind::Symlink(target) => {
                    followed += 1;
                    if followed > MAX_LINKS {
                        return None;
                    }
                    here = start(target, here);
                    left.extend(parts(target));
                }
                _ => return None,
            }
        }
        None
    }

    /// Returns what a link leads to in the end, which is no link.
    pub(super) fn end(&self, link: u32) -> Option<u32> {
        let mut node = link;
        for _ in 0..MAX_LINKS {
            node = self.step(node)?;
            if !matches!(self.tree.node(node).kind, SourceKind::Symlink(_)) {
                return Some(node);
            }
        }
        None
    }
}
