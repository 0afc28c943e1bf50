//! Digests of trees, taken from outside: the program's own word is what is tested.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result};
use blake3::{Hash, Hasher};

/// Hashes files once for each inode: deployments share them.
#[derive(Debug, Default)]
pub struct Digests {
    files: HashMap<(u64, u64), Hash>,
}

impl Digests {
    /// Returns the digest of a file's bytes.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn file(&mut self, path: &Path) -> Result<Hash> {
        let metadata = path
            .symlink_metadata()
            .with_context(|| format!("cannot look at {}", path.display()))?;
        let key = (metadata.dev(), metadata.ino());
        if let Some(hash) = self.files.get(&key) {
            return Ok(*hash);
        }
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let hash = blake3::hash(&bytes);
        self.files.insert(key, hash);
        Ok(hash)
    }

    /// Returns the digest of a directory: names, types, modes, owners, bytes and links of all beneath it, without what is
    /// called one of `without` at its top.
    ///
    /// # Errors
    /// If anything cannot be read.
    pub fn tree(&mut self, root: &Path, without: &[&str]) -> Result<Hash> {
        let mut hasher = Hasher::new();
        self.walk(root, without, &mut hasher)?;
        Ok(hasher.finalize())
    }

    fn walk(&mut self, directory: &Path, without: &[&str], hasher: &mut Hasher) -> Result<()> {
        let fail = || format!("cannot list {}", directory.display());
        let mut names = Vec::new();
        for entry in std::fs::read_dir(directory).with_context(fail)? {
            names.push(entry.with_context(fail)?.file_name());
        }
        names.sort();
        for name in names {
            if without.iter().any(|other| name == *other) {
                continue;
            }
            let path = directory.join(&name);
            let metadata = path
                .symlink_metadata()
                .with_context(|| format!("cannot look at {}", path.display()))?;
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
            for number in [metadata.permissions().mode(), metadata.uid(), metadata.gid()] {
                hasher.update(&number.to_le_bytes());
            }
            if metadata.is_dir() {
                self.walk(&path, &[], hasher)?;
                hasher.update(b"/");
            } else if metadata.is_symlink() {
                hasher.update(std::fs::read_link(&path)?.as_os_str().as_bytes());
            } else if metadata.is_file() {
                hasher.update(self.file(&path)?.as_bytes());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_changes_the_digest() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path();
        let digest = || Digests::default().tree(root, &["without"]).unwrap();
        let mut seen = vec![digest()];
        let mut changed = |what: &str| {
            let now = digest();
            assert!(!seen.contains(&now), "{what}");
            seen.push(now);
        };
        std::fs::create_dir(root.join("a")).unwrap();
        changed("a directory");
        std::fs::write(root.join("a/b"), "").unwrap();
        changed("an empty file");
        std::fs::write(root.join("a/b"), "x").unwrap();
        changed("bytes");
        std::fs::set_permissions(root.join("a/b"), std::fs::Permissions::from_mode(0o600)).unwrap();
        changed("a mode");
        std::fs::rename(root.join("a/b"), root.join("b")).unwrap();
        changed("a place");
        std::os::unix::fs::symlink("x", root.join("c")).unwrap();
        changed("a link");
        let before = digest();
        std::fs::write(root.join("without"), "x").unwrap();
        assert_eq!(digest(), before);
    }
}
