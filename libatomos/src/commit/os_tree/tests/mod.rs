//! Small trees to try the rules on.
//!
//! `rules` has every rule on a tree that it is about, `laws` what holds for all trees, made up or real; `unpacking` has
//! both for what is unpacked.

mod laws;
mod rules;
mod unpacking;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;
use crate::cancel::Cancel;
use crate::commit::ScanOptions;
use crate::fs::Dir;

/// What any root file system has.
const BASE: [&str; 14] = [
    "bin -> usr/bin",
    "sbin -> usr/sbin",
    "lib -> usr/lib",
    "usr/bin/sh",
    "usr/sbin/init",
    "usr/lib/os-release",
    "usr/lib/modules/6.1/modules.dep",
    "etc/passwd",
    "boot/vmlinuz-6.1",
    "boot/initrd.img-6.1",
    "home/",
    "root/.profile",
    "var/lib/",
    "tmp/",
];

/// Makes files (with their path as content), directories (`a/`) and links (`a -> b`).
fn make(root: &Path, items: &[&str]) {
    for item in items {
        let (path, target) = item
            .split_once(" -> ")
            .map_or((*item, None), |(path, target)| (path, Some(target)));
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match target {
            Some(target) => symlink(target, &path).unwrap(),
            None if item.ends_with('/') => fs::create_dir_all(&path).unwrap(),
            None => fs::write(&path, item).unwrap(),
        }
    }
}

fn scan(root: &Path) -> SourceTree {
    SourceTree::scan(
        Dir::open_ambient(root).unwrap(),
        &ScanOptions::default(),
        &Cancel::new(),
    )
    .unwrap()
}

/// Returns every path of the tree: `a/` for a directory, `a -> b` for a link, `a = content` for a file.
fn list(tree: &SourceTree) -> Vec<String> {
    let mut lines = Vec::new();
    let mut stack = vec![(0, String::new())];
    while let Some((dir, path)) = stack.pop() {
        for child in tree.children(dir) {
            let node = tree.node(*child);
            let path = format!("{path}{}", String::from_utf8_lossy(&node.name));
            lines.push(match &node.kind {
                SourceKind::Dir { .. } => {
                    stack.push((*child, format!("{path}/")));
                    format!("{path}/")
                }
                SourceKind::Symlink(target) => format!("{path} -> {}", String::from_utf8_lossy(target)),
                _ => {
                    let bytes = tree.read(*child, 1 << 20).unwrap().unwrap_or_default();
                    format!("{path} = {}", String::from_utf8_lossy(&bytes))
                }
            });
        }
    }
    lines.sort();
    lines
}

struct Shaped {
    tree: SourceTree,
    report: OsTreeReport,
    _base: tempfile::TempDir,
}

impl Shaped {
    fn has(&self, line: &str) -> bool {
        list(&self.tree).iter().any(|other| other == line)
    }

    #[track_caller]
    fn assert_has(&self, lines: &[&str]) {
        for line in lines {
            assert!(self.has(line), "{line} is not in {:#?}", list(&self.tree));
        }
    }

    fn has_path(&self, path: &str) -> bool {
        self.tree.find(path).is_some()
    }

    fn dropped(&self) -> BTreeMap<&str, DropReason> {
        self.report
            .dropped
            .iter()
            .flat_map(|group| group.paths.iter().map(|path| (path.as_str(), group.reason)))
            .collect()
    }

    fn mode(&self, path: &str) -> u32 {
        self.tree.node(self.tree.find(path).unwrap()).metadata.mode
    }

    fn snippet(&self) -> String {
        let node = self.tree.find(tmpfiles::SNIPPET).unwrap();
        String::from_utf8(self.tree.read(node, 1 << 20).unwrap().unwrap()).unwrap()
    }
}

fn try_shape(items: &[&str], options: &OsTreeOptions) -> Result<Shaped, CommitError> {
    let base = tempfile::tempdir().unwrap();
    make(base.path(), items);
    let mut tree = scan(base.path());
    let report = arrange(&mut tree, options, None, &Cancel::new())?;
    Ok(Shaped {
        tree,
        report,
        _base: base,
    })
}

/// Shapes the base with some more in it.
fn shape(items: &[&str]) -> Shaped {
    try_shape(&[&BASE, items].concat(), &OsTreeOptions::default()).unwrap()
}

fn failure(items: &[&str], options: &OsTreeOptions) -> OsTreeError {
    match try_shape(items, options).map(|shaped| list(&shaped.tree)) {
        Err(CommitError::OsTree(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn with_kernel(kernel: KernelChoice) -> OsTreeOptions {
    OsTreeOptions {
        kernel,
        ..OsTreeOptions::default()
    }
}
