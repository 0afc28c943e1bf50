//! Archives and images as a fuzzer gives them: read as layers over an empty tree, of which the names are what can do harm.

use std::io::Read;

use crate::digest::{BlobId, Digest};
use crate::oci::{Image, Layout};
use crate::repo::LooseError;

use super::overlay::{Overlay, Paths};
use super::{SourceError, oci, tar};

/// A few bytes can claim to be a hole of terabytes, and reading that takes time and proves nothing.
const MOST: u64 = 1 << 20;

fn keep(bytes: &mut dyn Read) -> Result<BlobId, LooseError> {
    let mut kept = Vec::new();
    bytes
        .take(MOST)
        .read_to_end(&mut kept)
        .map_err(LooseError::Read)?;
    Ok(BlobId::new(Digest::of(&kept)))
}

/// Reads an archive as two layers, the second over the first; returns the paths of the tree.
pub(crate) fn read_archive(bytes: &[u8], rooted: bool) -> Result<Vec<Vec<u8>>, SourceError> {
    let mut overlay = Overlay::new();
    let paths = if rooted { Paths::Rooted } else { Paths::Strict };
    for _ in 0..2 {
        overlay.begin_layer();
        tar::apply(&mut overlay, bytes, paths, &mut keep)?;
    }
    Ok(paths_of(overlay))
}

/// Reads the layers of an image; returns the paths of the tree.
pub(crate) fn read_image(layout: &Layout, image: &Image) -> Result<Vec<Vec<u8>>, SourceError> {
    let mut overlay = Overlay::new();
    oci::apply(&mut overlay, layout, image, &mut keep)?;
    Ok(paths_of(overlay))
}

fn paths_of(overlay: Overlay) -> Vec<Vec<u8>> {
    let tree = overlay.finish();
    let mut found = Vec::new();
    let mut stack = vec![(0, Vec::new())];
    while let Some((node, path)) = stack.pop() {
        for child in tree.children(node) {
            let path = [&path, &b"/"[..], &tree.node(*child).name].concat();
            found.push(path.clone());
            stack.push((*child, path));
        }
    }
    found
}
