//! Trees that no store has, made from one that it has: what a deployment whose root is an image has as files beside it.
//!
//! Whoever administers a deployment reads files of it: the defaults of `/etc`, the kernel, what the tree says of retention and health
//! checks. A deployment whose root is an image has these, the *skeleton*, and nothing else. It has deliberately none of the directories that
//! a root file system needs, `dev` and `proc` and the like: whatever takes it for one stops at once.

use std::collections::HashMap;

use crate::boot::KERNEL_NAMES;
use crate::digest::DirTreeId;
use crate::format::{DirTree, Entry, FormatError, Node};
use crate::repo::{RepoError, TreeSource};

use super::decide::USR_ETC;
use super::install::SYSTEMD_BOOT;

/// What a skeleton has, whole, beside the kernel.
const WHOLE: [&str; 6] = [
    USR_ETC,
    crate::os_var::FACTORY_VAR,
    "usr/lib/os-release",
    // What that is a link to, on some systems.
    "usr/lib/os.release.d",
    // Health checks, policies, and `atomos-prepare-root`, which the kernel can start from there.
    "usr/lib/atomos",
    // `install` takes the loader from there.
    SYSTEMD_BOOT,
];

/// Where kernels are, `*` for any name.
const KERNELS: &str = "usr/lib/modules/*";

/// A tree some of whose directories are in no store.
pub(super) struct DerivedTree<'a> {
    below: &'a dyn TreeSource,
    derived: HashMap<DirTreeId, DirTree>,
    /// The tree's root.
    pub root: DirTreeId,
}

impl TreeSource for DerivedTree<'_> {
    fn dirtree(&self, id: &DirTreeId) -> Result<DirTree, RepoError> {
        match self.derived.get(id) {
            Some(tree) => Ok(tree.clone()),
            None => self.below.dirtree(id),
        }
    }
}

impl<'a> DerivedTree<'a> {
    /// What of the tree of `root` a deployment has as files beside its image.
    pub fn skeleton(below: &'a dyn TreeSource, root: DirTreeId) -> Result<Self, RepoError> {
        let kernels = KERNEL_NAMES.map(|name| format!("{KERNELS}/{name}"));
        let wanted: Vec<&str> = WHOLE
            .into_iter()
            .chain(kernels.iter().map(String::as_str))
            .collect();
        let mut tree = Self::of(below, root);
        let entries = tree.select(root, &wanted)?;
        tree.root = tree.add(entries)?;
        Ok(tree)
    }

    fn of(below: &'a dyn TreeSource, root: DirTreeId) -> Self {
        Self {
            below,
            derived: HashMap::new(),
            root,
        }
    }

    fn add(&mut self, entries: Vec<Entry>) -> Result<DirTreeId, RepoError> {
        let encode = |source: FormatError| RepoError::Encode {
            what: "a directory".to_owned(),
            source,
        };
        let tree = DirTree::new(entries).map_err(encode)?;
        let (id, _) = tree.encode().map_err(encode)?;
        self.derived.insert(id, tree);
        Ok(id)
    }

    /// Returns the entries that `wanted` names, and the directories that lead to them. As deep as the paths, whatever the tree is.
    fn select(&mut self, dir: DirTreeId, wanted: &[&str]) -> Result<Vec<Entry>, RepoError> {
        let mut selected = Vec::new();
        for mut entry in self.below.dirtree(&dir)?.into_entries() {
            let below: Vec<Option<&str>> = wanted
                .iter()
                .filter_map(|path| after(path, &entry.name))
                .collect();
            if below.contains(&None) {
                selected.push(entry);
                continue;
            }
            let below: Vec<&str> = below.into_iter().flatten().collect();
            let Node::Dir { tree } = entry.node else { continue };
            if below.is_empty() {
                continue;
            }
            let inner = self.select(tree, &below)?;
            if !inner.is_empty() {
                let tree = self.add(inner)?;
                entry.node = Node::Dir { tree };
                selected.push(entry);
            }
        }
        Ok(selected)
    }
}

/// What of `path` follows its first name, if that one is `name`.
fn after<'p>(path: &'p str, name: &[u8]) -> Option<Option<&'p str>> {
    let (first, rest) = match path.split_once('/') {
        Some((first, rest)) => (first, Some(rest)),
        None => (path, None),
    };
    (first == "*" || first.as_bytes() == name).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::BlobId;
    use crate::format::Metadata;

    struct Store(HashMap<DirTreeId, DirTree>);

    impl TreeSource for Store {
        fn dirtree(&self, id: &DirTreeId) -> Result<DirTree, RepoError> {
            Ok(self.0[id].clone())
        }
    }

    impl Store {
        /// Makes a tree of files, each of which holds its own path.
        fn of(paths: &[&str]) -> (Self, DirTreeId) {
            let mut store = Self(HashMap::new());
            let root = store.put("", paths);
            (store, root)
        }

        fn put(&mut self, above: &str, paths: &[&str]) -> DirTreeId {
            let mut names: Vec<&str> = paths.iter().map(|path| path.split('/').next().unwrap()).collect();
            names.dedup();
            let entries = names.into_iter().map(|name| {
                let below: Vec<&str> = paths
                    .iter()
                    .filter_map(|path| path.strip_prefix(name)?.strip_prefix('/'))
                    .collect();
                let path = format!("{above}/{name}");
                let node = match below.is_empty() {
                    true => Node::File {
                        size: path.len() as u64,
                        blob: BlobId::new(crate::digest::Digest::of(path.as_bytes())),
                        verity: None,
                    },
                    false => Node::Dir {
                        tree: self.put(&path, &below),
                    },
                };
                Entry {
                    name: name.as_bytes().to_vec(),
                    metadata: Metadata::with_mode(0o644),
                    node,
                }
            });
            let tree = DirTree::new(entries.collect()).unwrap();
            let (id, _) = tree.encode().unwrap();
            self.0.insert(id, tree);
            id
        }
    }

    fn paths(tree: &dyn TreeSource, root: DirTreeId, above: &str, out: &mut Vec<String>) {
        for entry in tree.dirtree(&root).unwrap().entries() {
            let path = format!("{above}{}", String::from_utf8_lossy(&entry.name));
            match entry.node {
                Node::Dir { tree: below } => {
                    out.push(format!("{path}/"));
                    paths(tree, below, &format!("{path}/"), out);
                }
                _ => out.push(path),
            }
        }
    }

    #[test]
    fn a_skeleton_has_what_is_administered_and_nothing_else() {
        let (store, root) = Store::of(&[
            "bin",
            "dev/null",
            "usr/bin/sh",
            "usr/etc/fstab",
            "usr/etc/ssh/sshd_config",
            "usr/lib/atomos/health.d/network",
            "usr/lib/libc.so",
            "usr/lib/modules/6.1/dtb/board.dtb",
            "usr/lib/modules/6.1/initramfs.img",
            "usr/lib/modules/6.1/kernel/fs.ko",
            "usr/lib/modules/6.1/vmlinuz",
            "usr/lib/modules/other/kernel/fs.ko",
            "usr/lib/os-release",
            "usr/lib/os.release.d",
            "usr/lib/systemd/systemd",
            "usr/share/doc/bash",
            "usr/share/factory/var/lib/dpkg",
        ]);
        let skeleton = DerivedTree::skeleton(&store, root).unwrap();
        let mut found = Vec::new();
        paths(&skeleton, skeleton.root, "", &mut found);
        assert_eq!(
            found,
            [
                "usr/",
                "usr/etc/",
                "usr/etc/fstab",
                "usr/etc/ssh/",
                "usr/etc/ssh/sshd_config",
                "usr/lib/",
                "usr/lib/atomos/",
                "usr/lib/atomos/health.d/",
                "usr/lib/atomos/health.d/network",
                "usr/lib/modules/",
                "usr/lib/modules/6.1/",
                "usr/lib/modules/6.1/dtb/",
                "usr/lib/modules/6.1/dtb/board.dtb",
                "usr/lib/modules/6.1/initramfs.img",
                "usr/lib/modules/6.1/vmlinuz",
                "usr/lib/os-release",
                "usr/lib/os.release.d",
                "usr/share/",
                "usr/share/factory/",
                "usr/share/factory/var/",
                "usr/share/factory/var/lib/",
                "usr/share/factory/var/lib/dpkg",
            ]
        );
        assert_ne!(skeleton.root, root);
    }
}
