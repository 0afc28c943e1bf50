//! A directory that looks like a published site.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A name such as a digest has.
pub const DIGEST: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

pub struct Site {
    dir: TempDir,
}

impl Site {
    pub fn new() -> Self {
        let site = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        site.write("atomos.json", r#"{"format":1}"#);
        site.write("refs/os/13", "a record");
        site.write(&format!("refs/packs/{DIGEST}"), "another record");
        site.write("keys/1", "a key set");
        site.write(&format!("releases/{DIGEST}"), "a release");
        site.write(&format!("packs/{DIGEST}"), pack());
        site.write("packs/empty", "");
        site.write(".publish/lock", "");
        site
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }
}

/// Bytes that differ from their neighbours, more than fit into any buffer of the server.
pub fn pack() -> Vec<u8> {
    (0..200_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

pub fn pack_target() -> String {
    format!("/packs/{DIGEST}")
}
