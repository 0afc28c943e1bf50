//! The decoders of a repository's own files, as functions of bytes.

use std::path::Path;

use crate::repo::{Aliases, Config, Refs, RootRecord};

/// Reads the bytes of `config`.
pub fn config(bytes: &[u8]) -> Result<Config, String> {
    Config::parse(Path::new("repo"), bytes).map_err(|error| error.to_string())
}

/// Returns the bytes that a writer gives `config`.
#[must_use]
pub fn encode_config(config: &Config) -> Vec<u8> {
    config.to_text().into_bytes()
}

/// Reads the bytes of `refs`.
pub fn refs(bytes: &[u8]) -> Result<Refs, String> {
    crate::repo::parse_refs(bytes)
}

/// Returns the bytes that a writer gives `refs`.
#[must_use]
pub fn encode_refs(refs: &Refs) -> Vec<u8> {
    crate::repo::format_refs(refs)
}

/// Reads the bytes of `aliases`.
pub fn aliases(bytes: &[u8]) -> Result<Aliases, String> {
    crate::repo::parse_aliases(bytes)
}

/// Returns the bytes that a writer gives `aliases`.
#[must_use]
pub fn encode_aliases(aliases: &Aliases) -> Vec<u8> {
    crate::repo::format_aliases(aliases)
}

/// Reads the bytes of a stat cache, without its checksum, which would be in the way.
///
/// # Panics
///
/// If what is believed is not written as it was read.
pub fn check_stat_cache(bytes: &[u8]) {
    crate::commit::stat_cache::check_bytes(bytes);
}

/// Returns caches, as [`check_stat_cache`] takes them.
#[must_use]
pub fn stat_cache_seeds() -> Vec<Vec<u8>> {
    vec![crate::commit::stat_cache::seed()]
}

/// Reads the bytes of a file in `roots/`.
pub fn root_record(bytes: &[u8]) -> Result<RootRecord, String> {
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

/// Reads bytes as each kind of OSTree's objects, or imports a repository of which they are a part: the first byte says which, and of what mode
/// the repository is. What leads to the part has its checksum, so that none is in the way.
///
/// # Panics
///
/// If an object has a value that it cannot have, or what was imported is not whole.
pub fn check_ostree(bytes: &[u8]) {
    super::imports::check(bytes);
}

/// Reads an image layout: as many documents as the first byte says, the index before the rest, each with a zero behind it; and a layer. Where a
/// document says `@@`, it gets the digest of the next one, and so on, so that no digest is in the way.
///
/// # Panics
///
/// If an image comes out of them whose layers are not named by digests, or lead out of the tree.
pub fn check_layout(bytes: &[u8]) {
    super::images::check(bytes);
}

/// Returns layouts, as [`check_layout`] takes them.
#[must_use]
pub fn layout_seeds() -> Vec<Vec<u8>> {
    super::images::seeds()
}

/// What stands before a file of an archive, in the inputs of [`check_ostree`].
pub const OSTREE_FILE: u8 = super::imports::FILE;

/// Returns parts of OSTree's repositories, as [`check_ostree`] takes them.
#[must_use]
pub fn ostree_seeds() -> Vec<Vec<u8>> {
    super::imports::seeds()
}

/// Gives every block that looks like a header the checksum that it should have.
#[must_use]
pub fn with_checksums(archive: &[u8]) -> Vec<u8> {
    super::archives::with_checksums(archive)
}

/// Returns archives with everything that a reader of them knows, each after the byte that says how its paths are taken: an odd one
/// says that links are followed, as in images.
#[must_use]
pub fn archive_seeds() -> Vec<Vec<u8>> {
    super::archives::seeds()
}

/// Reads an archive as two layers, the second over the first.
///
/// # Panics
///
/// If a path comes out of it that could lead out of the tree.
pub fn check_archive(bytes: &[u8], rooted: bool) {
    if let Ok(paths) = crate::source::hostile::read_archive(bytes, rooted) {
        check_paths(paths);
    }
}

/// Fails if a path could lead out of the tree, or stands there twice.
pub(super) fn check_paths(paths: Vec<Vec<u8>>) {
    let mut seen = std::collections::HashSet::new();
    for path in paths {
        let parts = path.split(|byte| *byte == b'/').skip(1);
        for part in parts {
            assert!(!part.is_empty() && part != b"." && part != b"..");
            assert!(part.len() <= crate::format::limits::MAX_NAME && !part.contains(&0));
        }
        assert!(seen.insert(path), "a name stands twice in a directory");
    }
}
