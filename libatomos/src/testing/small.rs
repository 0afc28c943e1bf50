//! Plain trees from a seed.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Makes a tree of `files` files in a few directories, of a few hundred bytes to some kilobytes, the same for the
/// same seed. Every tenth has the bytes of its neighbour, and every twentieth is empty.
pub fn small_tree(root: &Path, seed: u64, files: usize) {
    std::fs::create_dir_all(root).unwrap();
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut last = Vec::new();
    for index in 0..files {
        let directory = root.join(format!("d{}/e{}", index % 5, index % 3));
        std::fs::create_dir_all(&directory).unwrap();
        let bytes = match index {
            _ if index % 20 == 7 => Vec::new(),
            _ if index % 10 == 3 => last.clone(),
            _ => random_bytes(&mut state),
        };
        let path = directory.join(format!("file-{index}"));
        write(&path, &bytes);
        set_time(&path, 1_600_000_000 + index as i64);
        last = bytes;
    }
    if !root.join("link").is_symlink() {
        std::os::unix::fs::symlink("d0/e0", root.join("link")).unwrap();
    }
    set_times_of_directories(root);
}

/// Changes a tree of [`small_tree`] into its next version: the bytes of every fifth file become others.
pub fn touch_up(root: &Path, seed: u64, files: usize) {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    for index in (0..files).step_by(5) {
        let path = root.join(format!("d{}/e{}/file-{index}", index % 5, index % 3));
        // Written anew: the file may be a link of a store's.
        let _ = std::fs::remove_file(&path);
        write(&path, &random_bytes(&mut state));
        set_time(&path, 1_650_000_000 + seed as i64);
    }
    set_times_of_directories(root);
}

/// Writes a file whose mode does not depend on the umask.
fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
}

/// xorshift64*, which is enough to be different and the same everywhere.
fn next(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_F491_4F6C_DD1D)
}

fn random_bytes(state: &mut u64) -> Vec<u8> {
    let len = 200 + next(state) % 6000;
    (0..len).map(|_| next(state) as u8).collect()
}

fn set_time(path: &Path, mtime: i64) {
    rustix::fs::utimensat(
        rustix::fs::CWD,
        path,
        &crate::fs::mtime_only(mtime),
        rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
    )
    .unwrap();
}

fn set_times_of_directories(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            set_times_of_directories(&entry.path());
        } else if entry.file_type().unwrap().is_symlink() {
            set_time(&entry.path(), 1_600_000_000);
        }
    }
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    set_time(dir, 1_600_000_000);
}
