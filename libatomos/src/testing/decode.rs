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

/// Reads bytes as each kind of OSTree's objects.
///
/// # Panics
///
/// If one of them has a value that it cannot have.
pub fn check_ostree(bytes: &[u8]) {
    crate::ostree::check_object(bytes);
}

/// Reads the documents of a layout: an index, a manifest and a configuration, with a zero between them. Where a document says
/// `@@`, it gets the digest of the next one, so that no digest is in the way.
///
/// # Panics
///
/// If an image comes out of them whose layers are not named by digests.
pub fn check_layout(bytes: &[u8]) {
    crate::oci::check_documents(bytes);
}

/// Returns documents of a layout, as [`check_layout`] takes them.
#[must_use]
pub fn layout_seeds() -> Vec<Vec<u8>> {
    let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{manifest}","digest":"@@","size":0,"annotations":{{"org.opencontainers.image.ref.name":"a"}},"platform":{{"os":"linux","architecture":"amd64","variant":"v1"}}}}]}}"#
    );
    let layer = format!(
        r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar+zstd","digest":"sha256:{hex}","size":0}}"#
    );
    let body = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"@@","size":0}},"layers":[{layer}]}}"#
    );
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Labels":{{"a":"b"}}}},"rootfs":{{"type":"layers","diff_ids":["sha256:{hex}"]}}}}"#
    );
    vec![[index, body, config].join("\0").into_bytes()]
}

/// Returns objects of OSTree: a commit, a directory, a directory's metadata, a file's header in an archive.
#[must_use]
pub fn ostree_seeds() -> Vec<Vec<u8>> {
    crate::ostree::seeds()
}

/// Gives every block that looks like a header the checksum that it should have.
#[must_use]
pub fn with_checksums(archive: &[u8]) -> Vec<u8> {
    let mut archive = archive.to_vec();
    for block in archive.chunks_exact_mut(512) {
        if block[257..].starts_with(b"ustar") {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    archive
}

/// Returns archives with everything that a reader of them knows.
#[must_use]
pub fn archive_seeds() -> Vec<Vec<u8>> {
    use crate::archive::{Member, MemberKind, TarWriter};
    use crate::format::Metadata;
    let long = "n".repeat(150);
    let mut metadata = Metadata::with_mode(0o4755);
    metadata.mtime = -1;
    metadata.uid = 3_000_000;
    metadata.xattrs.insert(b"user.a".to_vec(), b"x=y".to_vec());
    metadata.xattrs.insert(b"user.b=c".to_vec(), vec![0, 1]);
    let bytes = b"some bytes";
    let size = bytes.len() as u64;
    let kinds = [
        ("./", MemberKind::Dir),
        ("dir/file", MemberKind::File { size }),
        ("dir/hard", MemberKind::HardLink(b"dir/file".to_vec())),
        ("link", MemberKind::Symlink(long.clone().into_bytes())),
        ("link2", MemberKind::Symlink(b"/dir".to_vec())),
        ("link2/in", MemberKind::Fifo),
        (long.as_str(), MemberKind::File { size }),
        ("c", MemberKind::Char(1, 3)),
        ("b", MemberKind::Block(8, 1)),
        ("dir/.wh.file", MemberKind::File { size: 0 }),
        ("dir/.wh..wh..opq", MemberKind::File { size: 0 }),
    ];
    let mut writer = TarWriter::new(Vec::new());
    for (path, kind) in kinds {
        let size = match kind {
            MemberKind::File { size } => size,
            _ => 0,
        };
        let member = Member {
            path: path.as_bytes().to_vec(),
            metadata: metadata.clone(),
            kind,
            literal: path.len() > 100,
        };
        writer.write_member(&member).expect("memory takes it");
        writer
            .write_data(&bytes[..size as usize])
            .expect("memory takes it");
        writer.end_file(size).expect("memory takes it");
    }
    let archive = writer.finish().expect("memory takes it");
    vec![[&[0], &archive[..]].concat(), [&[1], &archive[..]].concat()]
}

/// Reads an archive as two layers, the second over the first.
///
/// # Panics
///
/// If a path comes out of it that could lead out of the tree.
pub fn check_archive(bytes: &[u8], rooted: bool) {
    let Ok(paths) = crate::source::read_archive_for_test(bytes, rooted) else {
        return;
    };
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
