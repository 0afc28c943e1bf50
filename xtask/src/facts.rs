//! What is true of a tree or of a repository's directory, found out without atomos.
//!
//! The demo and the benchmarks promise that a second version adds *exactly* the blobs that changed and the dirtrees on
//! their paths. Asking the library would only show that it agrees with itself, so the trees are walked and hashed here, and
//! the repository's directories are listed as any file manager would.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};

/// A digest's bytes.
type Digest = [u8; 32];

/// What a tree consists of, each thing once.
#[derive(Debug, Default)]
pub struct TreeFacts {
    /// The digests of all files' bytes.
    pub contents: BTreeSet<Digest>,
    /// One fingerprint for each different directory: of its entries with all that is recorded of them.
    pub directories: BTreeSet<Digest>,
    /// Regular files.
    pub files: u64,
    /// The fingerprint of the whole.
    pub root: Digest,
}

/// Walks and hashes a tree.
///
/// # Errors
/// If something in it cannot be read.
pub fn tree_facts(tree: &Path) -> Result<TreeFacts> {
    let mut facts = TreeFacts::default();
    facts.root = directory(tree, &mut facts)?;
    Ok(facts)
}

fn directory(path: &Path, facts: &mut TreeFacts) -> Result<Digest> {
    let names = entry_names(path)?;
    let mut hasher = blake3::Hasher::new();
    for name in &names {
        let path = path.join(name);
        field(&mut hasher, name.as_bytes());
        entry(&path, &mut hasher, facts)
            .with_context(|| format!("cannot take the fingerprint of {}", path.display()))?;
    }
    let fingerprint = *hasher.finalize().as_bytes();
    facts.directories.insert(fingerprint);
    Ok(fingerprint)
}

fn entry(path: &Path, hasher: &mut blake3::Hasher, facts: &mut TreeFacts) -> Result<()> {
    let metadata = path.symlink_metadata()?;
    for number in [
        u64::from(metadata.mode()),
        u64::from(metadata.uid()),
        u64::from(metadata.gid()),
        metadata.mtime().cast_unsigned(),
        metadata.rdev(),
    ] {
        hasher.update(&number.to_le_bytes());
    }
    for (name, value) in xattrs(path)? {
        field(hasher, &name);
        field(hasher, &value);
    }
    if metadata.is_symlink() {
        field(hasher, std::fs::read_link(path)?.as_os_str().as_bytes());
    } else if metadata.is_dir() {
        field(hasher, &directory(path, facts)?);
    } else if metadata.is_file() {
        let digest = hash_file(path)?;
        facts.files += 1;
        facts.contents.insert(digest);
        field(hasher, &digest);
    }
    Ok(())
}

fn field(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

/// The BLAKE3 digest of a file's bytes.
///
/// # Errors
/// If it cannot be read.
pub fn hash_file(path: &Path) -> Result<Digest> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hasher = blake3::Hasher::new();
    hasher
        .update_reader(file)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(*hasher.finalize().as_bytes())
}

/// The names in a directory, sorted.
///
/// # Errors
/// If it cannot be listed.
pub fn entry_names(path: &Path) -> Result<Vec<std::ffi::OsString>> {
    let list = || -> std::io::Result<Vec<std::ffi::OsString>> {
        std::fs::read_dir(path)?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect()
    };
    let mut names = list().with_context(|| format!("cannot list {}", path.display()))?;
    names.sort();
    Ok(names)
}

/// The extended attributes of a file itself, sorted by name.
fn xattrs(path: &Path) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut list = vec![0_u8; 1 << 16];
    let length = match rustix::fs::llistxattr(path, &mut list) {
        Ok(length) => length,
        // The filesystem has none.
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error.into()),
    };
    let mut found = Vec::new();
    for name in list[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = vec![0_u8; 1 << 16];
        let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value)?;
        value.truncate(length);
        found.push((name.to_owned(), value));
    }
    found.sort();
    Ok(found)
}

/// What lies in a repository, by the names of its files.
#[derive(Debug, Default)]
pub struct StoreFacts {
    /// Digests of blobs.
    pub blobs: BTreeSet<String>,
    /// Further inodes of blobs, with another owner, mode, time or attributes.
    pub variants: BTreeSet<String>,
    /// Digests of dirtrees.
    pub dirtrees: BTreeSet<String>,
    /// Digests of commits.
    pub commits: BTreeSet<String>,
}

/// Lists the objects of a repository.
///
/// # Errors
/// If a directory of it cannot be listed.
pub fn store_facts(repo: &Path) -> Result<StoreFacts> {
    let mut facts = StoreFacts::default();
    for name in sharded(&repo.join("objects"))? {
        if name.contains('.') {
            facts.variants.insert(name)
        } else {
            facts.blobs.insert(name)
        };
    }
    facts.dirtrees = sharded(&repo.join("dirtrees"))?;
    facts.commits = sharded(&repo.join("commits"))?;
    Ok(facts)
}

/// `ab/cdef…` as `abcdef…`.
fn sharded(directory: &Path) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for shard in entry_names(directory)? {
        for name in entry_names(&directory.join(&shard))? {
            names.insert(format!("{}{}", shard.to_string_lossy(), name.to_string_lossy()));
        }
    }
    Ok(names)
}

/// What a second version of a tree adds to the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Additions {
    /// Digests of the blobs.
    pub blobs: BTreeSet<String>,
    /// How many dirtrees.
    pub dirtrees: usize,
}

/// What `new` must add to a store that has `old`.
#[must_use]
pub fn expected_additions(old: &TreeFacts, new: &TreeFacts) -> Additions {
    let hex = |digest: &Digest| blake3::Hash::from_bytes(*digest).to_hex().to_string();
    Additions {
        blobs: new.contents.difference(&old.contents).map(hex).collect(),
        dirtrees: new.directories.difference(&old.directories).count(),
    }
}

/// What a store has more than it had.
#[must_use]
pub fn actual_additions(old: &StoreFacts, new: &StoreFacts) -> Additions {
    Additions {
        blobs: new.blobs.difference(&old.blobs).cloned().collect(),
        dirtrees: new.dirtrees.difference(&old.dirtrees).count(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_changed_file_adds_its_blob_and_the_directories_above_it() {
        let scratch = tempfile::tempdir().unwrap();
        for name in ["old", "new"] {
            let tree = scratch.path().join(name);
            fs::create_dir_all(tree.join("a/b")).unwrap();
            fs::create_dir_all(tree.join("c")).unwrap();
            fs::write(tree.join("a/b/f"), name).unwrap();
            fs::write(tree.join("c/f"), "same").unwrap();
            let status = std::process::Command::new("find")
                .arg(&tree)
                .args(["-depth", "-exec", "touch", "-h", "-d", "@1000000000", "{}", "+"])
                .status()
                .unwrap();
            assert!(status.success());
        }
        let old = tree_facts(&scratch.path().join("old")).unwrap();
        let new = tree_facts(&scratch.path().join("new")).unwrap();
        let added = expected_additions(&old, &new);
        assert_eq!(added.blobs, [blake3::hash(b"new").to_hex().to_string()].into());
        // The root, `a` and `a/b`, not `c`.
        assert_eq!((added.dirtrees, new.directories.len(), new.files), (3, 4, 2));
        assert_eq!(expected_additions(&new, &new).dirtrees, 0);
    }

    #[test]
    fn a_mode_counts_for_the_directory_and_adds_no_blob() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("f"), "x").unwrap();
        let old = tree_facts(scratch.path()).unwrap();
        fs::set_permissions(scratch.path().join("f"), fs::Permissions::from_mode(0o600)).unwrap();
        let added = expected_additions(&old, &tree_facts(scratch.path()).unwrap());
        assert_eq!((added.blobs.len(), added.dirtrees), (0, 1));
    }

    #[test]
    fn a_store_is_listed_by_kind() {
        let repo = tempfile::tempdir().unwrap();
        for path in ["objects/ab/cd", "objects/ab/cd.ef", "dirtrees/01/23"] {
            let path = repo.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        fs::create_dir(repo.path().join("commits")).unwrap();
        let facts = store_facts(repo.path()).unwrap();
        assert_eq!(facts.blobs, ["abcd".to_owned()].into());
        assert_eq!(facts.variants, ["abcd.ef".to_owned()].into());
        assert_eq!(facts.dirtrees, ["0123".to_owned()].into());
        assert!(facts.commits.is_empty());
    }
}
