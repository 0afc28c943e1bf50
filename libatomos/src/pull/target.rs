//! What a pull is to bring about: a tree, and what of it is missing here.

use std::collections::HashMap;

use crate::digest::BlobId;
use crate::format::Node;
use crate::repo::TreeSource;
use crate::site::Manifest;

use super::PullError;
use super::need::Need;

/// A tree that is to be here, and what of it is not.
pub(super) struct Target {
    pub(super) manifest: Manifest,
    pub(super) need: Need,
    /// With what is needed here, nothing of the tree is missing.
    pub(super) is_whole: bool,
}

/// Returns the bytes of the smallest kernel in the tree, with its initramfs, if no kernel of the tree is here: so much at least
/// will be new in `/boot`.
pub(super) fn new_kernel(target: &Target) -> Result<u64, PullError> {
    let tree = &target.manifest.tree;
    let mut dir = tree.dirtree(&tree.commit.root)?;
    for part in ["usr", "lib", "modules"] {
        match dir.get(part.as_bytes()).map(|entry| &entry.node) {
            Some(Node::Dir { tree: id }) => dir = tree.dirtree(id)?,
            _ => return Ok(0),
        }
    }
    let mut smallest = None;
    for entry in dir.entries() {
        let Node::Dir { tree: id } = &entry.node else {
            continue;
        };
        let version = tree.dirtree(id)?;
        let (mut bytes, mut is_new) = (0u64, false);
        for name in ["vmlinuz", "initramfs.img"] {
            if let Some(Node::File { size, blob, .. }) = version.get(name.as_bytes()).map(|entry| &entry.node)
            {
                bytes = u64::saturating_add(bytes, *size);
                let index = target.manifest.blobs.index_of(blob);
                is_new |= index.is_some_and(|index| target.need.blobs.contains_key(&index));
            }
        }
        if bytes > 0 && !is_new {
            return Ok(0);
        }
        if bytes > 0 {
            smallest = Some(smallest.map_or(bytes, |least: u64| least.min(bytes)));
        }
    }
    Ok(smallest.unwrap_or(0))
}

/// What several releases need comes once, with the first of them.
pub(super) fn share(targets: &mut [Target]) {
    let mut first: HashMap<BlobId, (usize, u32)> = HashMap::new();
    for at in 0..targets.len() {
        for index in targets[at].need.missing() {
            let id = targets[at].manifest.blobs.blobs()[index as usize].id;
            let Some((earlier, there)) = first.get(&id).copied() else {
                first.insert(id, (at, index));
                continue;
            };
            let inodes = targets[at].need.blobs.remove(&index).unwrap_or_default();
            let into = targets[earlier].need.blobs.entry(there).or_default();
            for inode in inodes {
                if !into.contains(&inode) {
                    into.push(inode);
                }
            }
        }
    }
}
