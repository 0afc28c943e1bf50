//! OSTree repositories of which a part is spoiled, for [`super::decode`].
//!
//! What leads to the part is made anew, with its checksum: whoever made the repository is the attacker.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::cancel::Cancel;
use crate::fs::Dir;
use crate::import::{ImportOptions, ImportRef, import_ostree};
use crate::ostree::{Checksum, OstreeRepo, hostile};
use crate::progress::NoProgress;

use super::TestRepo;

/// Which part is spoiled: the first byte of an input, together with the repository's mode in its upper half.
const CONFIG: u8 = 1;
const REF: u8 = 2;
const COMMIT: u8 = 3;
const TREE: u8 = 4;
const META: u8 = 5;
/// A file as it lies there: in an archive its header and its bytes, with `bare-user` the length of what is in its attribute (a byte), that,
/// and its bytes.
pub(super) const FILE: u8 = 6;
const PARTS: u8 = 7;

const MODES: [&str; 4] = ["archive-z2", "bare", "bare-user", "bare-user-only"];

/// The attribute with what a repository of the mode `bare-user` says of a file.
const ATTRIBUTE: &str = "user.ostreemeta";

/// See [`super::decode::check_ostree`].
pub(super) fn check(bytes: &[u8]) {
    let Some((first, bytes)) = bytes.split_first() else {
        return;
    };
    let (mode, part) = (usize::from(first >> 4) % MODES.len(), first & 0xf);
    match part {
        CONFIG..PARTS => import(mode, part, bytes),
        _ => hostile::check_object(bytes),
    }
}

/// Imports a repository with a spoiled part. It fails, or what comes of it is whole.
fn import(mode: usize, part: u8, bytes: &[u8]) {
    let repo = TestRepo::new();
    let place = repo.scratch().join("ostree");
    let source = Source::new(&place, mode);
    source.fill(part, bytes);
    let reference = "imported".parse().unwrap();
    let imported = OstreeRepo::open(Dir::open_ambient(&place).unwrap()).map(|source| {
        let wanted = ImportRef {
            source: "main".to_owned(),
            target: "imported".parse().unwrap(),
        };
        import_ostree(
            repo.repo(),
            &source,
            &[wanted],
            &ImportOptions::default(),
            &NoProgress,
            &Cancel::new(),
        )
    });
    let found = repo.repo().ref_optional(&reference).unwrap();
    match imported {
        Ok(Ok(report)) => assert_eq!(found, Some(report.refs[0].commit)),
        _ => assert_eq!(found, None, "what failed moves no ref"),
    }
    repo.assert_clean();
}

/// A repository of OSTree's that is being made.
struct Source<'a> {
    place: &'a Path,
    mode: usize,
}

impl<'a> Source<'a> {
    fn new(place: &'a Path, mode: usize) -> Self {
        for dir in ["objects", "refs/heads"] {
            std::fs::create_dir_all(place.join(dir)).unwrap();
        }
        let source = Self { place, mode };
        source.write("config", &config(mode));
        source
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        std::fs::write(self.place.join(path), bytes).unwrap();
    }

    /// Writes everything, with `bytes` in the place of a part.
    fn fill(&self, part: u8, bytes: &[u8]) {
        let or = |this: u8, good: Vec<u8>| if this == part { bytes.to_vec() } else { good };
        let file = self.file(&or(FILE, file(self.mode)));
        let link = self.link();
        let meta = self.object("dirmeta", &or(META, hostile::meta(0o040_755)));
        let empty = self.object("dirtree", &hostile::tree(&[], &[]));
        let tree = self.object("dirtree", &or(TREE, tree(file, link, empty, meta)));
        let first = self.object("commit", &hostile::commit(None, "first", &tree, &meta));
        let commit = hostile::commit(Some(first), "second", &tree, &meta);
        let commit = self.object("commit", &or(COMMIT, commit));
        self.write("refs/heads/main", &or(REF, format!("{commit}\n").into_bytes()));
        if part == CONFIG {
            self.write("config", bytes);
        }
    }

    fn path_of(&self, id: &Checksum, kind: &str) -> PathBuf {
        let hex = id.to_string();
        let shard = self.place.join("objects").join(&hex[..2]);
        std::fs::create_dir_all(&shard).unwrap();
        shard.join(format!("{}.{kind}", &hex[2..]))
    }

    fn object(&self, kind: &str, bytes: &[u8]) -> Checksum {
        let id = hostile::checksum(bytes);
        std::fs::write(self.path_of(&id, kind), bytes).unwrap();
        id
    }

    /// Keeps a file, whatever is in it, under the checksum that it has, if it has one.
    fn file(&self, bytes: &[u8]) -> Checksum {
        let id = hostile::checksum(b"not known yet");
        let path = self.path_of(&id, self.kind());
        let meta = match MODES[self.mode] {
            "bare-user" => bytes
                .split_first()
                .and_then(|(len, rest)| rest.split_at_checked((*len).into())),
            _ => None,
        };
        std::fs::write(&path, meta.map_or(bytes, |(_, content)| content)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        if let Some((meta, _)) = meta {
            set_attribute(&path, meta);
        }
        self.renamed(id)
    }

    fn link(&self) -> Checksum {
        let id = hostile::checksum(b"not known yet");
        let path = self.path_of(&id, self.kind());
        let mode = 0o120_777;
        match MODES[self.mode] {
            "archive-z2" => {
                let header = hostile::archived(mode, b"f", 0);
                std::fs::write(path, header).unwrap();
            }
            "bare-user" => {
                std::fs::write(&path, b"f\0").unwrap();
                set_attribute(&path, &hostile::meta(mode));
            }
            _ => std::os::unix::fs::symlink("f", path).unwrap(),
        }
        self.renamed(id)
    }

    fn kind(&self) -> &'static str {
        match self.mode {
            0 => "filez",
            _ => "file",
        }
    }

    /// Gives a file its name, where its owner, mode, attributes and bytes can be read. Otherwise it keeps what it has, and is refused.
    fn renamed(&self, id: Checksum) -> Checksum {
        let read = || {
            let repo = OstreeRepo::open(Dir::open_ambient(self.place).ok()?).ok()?;
            let (_, _, mut content) = repo.file(&id).ok()?;
            std::io::copy(&mut content.by_ref(), &mut std::io::sink()).ok()?;
            Some(content.checksum())
        };
        let Some(found) = read() else {
            return id;
        };
        let kind = self.kind();
        std::fs::rename(self.path_of(&id, kind), self.path_of(&found, kind)).unwrap();
        found
    }
}

fn set_attribute(path: &Path, value: &[u8]) {
    rustix::fs::setxattr(path, ATTRIBUTE, value, rustix::fs::XattrFlags::empty()).unwrap();
}

fn config(mode: usize) -> Vec<u8> {
    format!(
        "# OSTree\n[core]\nrepo_version=1\nmode={}\n\n[remote \"a\"]\nurl=b\n",
        MODES[mode]
    )
    .into_bytes()
}

fn tree(file: Checksum, link: Checksum, dir: Checksum, meta: Checksum) -> Vec<u8> {
    hostile::tree(
        &[("f", file), ("g", file), ("l", link)],
        &[("d", dir, meta), ("e", dir, meta)],
    )
}

/// Returns a file as a repository of the mode keeps it.
fn file(mode: usize) -> Vec<u8> {
    let bytes = b"some bytes";
    match MODES[mode] {
        "archive-z2" => {
            let mut out = hostile::archived(0o100_755, b"", bytes.len() as u64);
            let mut encoder = flate2::write::DeflateEncoder::new(&mut out, flate2::Compression::best());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap();
            out
        }
        "bare-user" => {
            let meta = hostile::meta(0o100_755);
            [&[meta.len() as u8], &meta[..], bytes].concat()
        }
        _ => bytes.to_vec(),
    }
}

/// See [`super::decode::ostree_seeds`].
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let place = tempfile::tempdir_in(super::memory_dir()).unwrap();
    let mut seeds = Vec::new();
    for (mode, name) in MODES.iter().enumerate() {
        let place = place.path().join(name);
        let source = Source::new(&place, mode);
        let file_id = source.file(&file(mode));
        let meta = hostile::meta(0o040_755);
        let meta_id = hostile::checksum(&meta);
        let empty = hostile::checksum(&hostile::tree(&[], &[]));
        let tree = tree(file_id, source.link(), empty, meta_id);
        let tree_id = hostile::checksum(&tree);
        let first = hostile::commit(None, "first", &tree_id, &meta_id);
        let commit = hostile::commit(Some(hostile::checksum(&first)), "a\nsubject", &tree_id, &meta_id);
        let good = hostile::commit(Some(hostile::checksum(&first)), "second", &tree_id, &meta_id);
        let line = format!("{}\n", hostile::checksum(&good)).into_bytes();
        let parts = [
            (CONFIG, config(mode)),
            (REF, line),
            (COMMIT, commit.clone()),
            (TREE, tree.clone()),
            (META, meta.clone()),
            (FILE, file(mode)),
        ];
        seeds.extend(
            parts
                .into_iter()
                .map(|(part, bytes)| [&[part | (mode as u8) << 4], &bytes[..]].concat()),
        );
        if mode == 0 {
            let header = hostile::archived_header(0o120_777, b"target", 0);
            let raw = [commit, tree, meta, header];
            seeds.extend(raw.iter().map(|bytes| [&[0], &bytes[..]].concat()));
        }
    }
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_spoiled_is_imported_from_a_repository_of_every_mode() {
        for (mode, name) in MODES.iter().enumerate() {
            let repo = TestRepo::new();
            let place = repo.scratch().join("ostree");
            Source::new(&place, mode).fill(0, b"");
            let wanted = ImportRef {
                source: "main".to_owned(),
                target: "imported".parse().unwrap(),
            };
            let source = OstreeRepo::open(Dir::open_ambient(&place).unwrap()).unwrap();
            let report = import_ostree(
                repo.repo(),
                &source,
                &[wanted],
                &ImportOptions::default(),
                &NoProgress,
                &Cancel::new(),
            )
            .unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(report.refs[0].imported, 2, "{name}");
            repo.assert_clean();
        }
        for seed in seeds() {
            check(&seed);
        }
    }

    /// The mask of its list has an id, which the kernel leaves out: the inode was not the one that was imported.
    #[test]
    fn an_access_control_list_that_the_kernel_keeps_otherwise_leaves_the_repository_whole() {
        check(
            b"\x06\0\0\0l\0\0\0\0\0\0\0\0\0\0\0\x0a\0\0\0\0\0\0\0\0\0\0\x81\xa4\0\0\0\0\0system.posix_acl_access\0\
            \x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\xe8\x03\0\0\x04\0\x04\0\xff\xff\xff\xff\x10\0\x04\
            \0\xf7\xff\xff\xff \0\x04\0\xff\xff\xff\xff\x18user.a=b\0x\x09EP\x19+\xce\xcfM\0\0\0\0\0\0\0\0\0\0\0\
            \0\0\0\0\0\0\0\0\0\0UH\xaa,I-\x06\0",
        );
    }
}
