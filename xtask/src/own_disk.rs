//! Starting this program again on a filesystem of its own.
//!
//! Gigabytes are written and thrown away by the demo and the benchmarks. On a new ext4 in a file they behave alike
//! everywhere, whatever the age and the options of the machine's own filesystem, and are thrown away by removing that file: on a
//! filesystem that discards blocks at once, removing 100,000 files has taken seven minutes.
//!
//! The mounts are in a namespace of the run's own and end with it, whatever ends it. The trees are bound into it read-only: the
//! checkout may lie below a directory that an ordinary user cannot enter.

use std::ffi::OsStr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{has_program, run};

/// The user and the group `nobody`.
pub const NOBODY: u32 = 65534;

/// Mounts, perhaps gives root's rights up, becomes the program. The loop device is let go of at once: it
/// lives as long as the mount. `$1` the place, `$2` the trees, `$3` the user or nothing.
const ENTER: &str = r#"
place=$1 trees=$2 user=$3; shift 3
if [ -e "$place/image" ]; then
    device=$(losetup --find --show "$place/image")
    mount -t ext4 "$device" "$place/disk" || { losetup --detach "$device"; exit 1; }
    losetup --detach "$device"
fi
mkdir "$place/disk/work"
if [ -d "$trees" ]; then
    mount --bind "$trees" "$place/trees"
    mount -o remount,bind,ro "$place/trees"
fi
if [ -z "$user" ]; then exec "$@"; fi
chown "$user:$user" "$place/disk/work"
exec setpriv --reuid "$user" --regid "$user" --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all -- "$@"
"#;

/// How to start it again.
#[derive(Debug)]
pub struct Again<'a> {
    /// What the place is named after.
    pub name: &'a str,
    /// The atomos that it is given.
    pub atomos: &'a Path,
    /// The trees that it is given; they need not exist.
    pub trees: &'a Path,
    /// The user that it runs as, if not root.
    pub user: Option<u32>,
    /// The size of the filesystem. Only what is written takes space.
    pub gibibytes: u32,
    /// How many files it can have. Tables of them are written at once.
    pub inodes: u32,
}

/// Whether a filesystem of its own can be had.
#[must_use]
pub fn is_possible() -> bool {
    let programs = ["mkfs.ext4", "losetup", "mount", "unshare"];
    crate::process::is_root()
        && programs.iter().all(|name| has_program(name))
        && Path::new("/dev/loop-control").exists()
}

impl Again<'_> {
    /// Runs it with `words`, then `--atomos`, `--trees` and `--work`, and removes everything afterwards. Without loop
    /// devices it works in a directory.
    ///
    /// # Errors
    /// If it fails, or the place cannot be made or removed.
    pub fn run(&self, words: &[&OsStr]) -> Result<()> {
        // On a disk: `/tmp` may be a filesystem in memory, too small for some gigabytes.
        let place = tempfile::Builder::new()
            .prefix(&format!("atomos-{}-", self.name))
            .tempdir_in("/var/tmp")
            .context("cannot make a directory in /var/tmp")?
            .keep();
        let result = self
            .prepare(&place)
            .and_then(|program| self.enter(&place, &program, words));
        let removed = run(Command::new("rm")
            .args(["-rf", "--one-file-system", "--"])
            .arg(&place));
        result.and(removed)
    }

    /// Puts everything there and returns the program to start.
    fn prepare(&self, place: &Path) -> Result<PathBuf> {
        open_to_all(place)?;
        let this = std::env::current_exe().context("cannot find this program")?;
        let program = place.join("xtask");
        for (from, to) in [(this.as_path(), &program), (self.atomos, &place.join("atomos"))] {
            std::fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
            open_to_all(to)?;
        }
        for name in ["trees", "disk"] {
            let directory = place.join(name);
            std::fs::create_dir(&directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
            open_to_all(&directory)?;
        }
        if is_possible() {
            let image = place.join("image");
            // A disk that is larger than what it lies on becomes read-only when that is full.
            let below = rustix::fs::statvfs(place).context("cannot look at the file system of /var/tmp")?;
            let free = ((below.f_bavail * below.f_frsize) >> 30).saturating_sub(1);
            run(Command::new("truncate")
                .arg(format!("--size={}G", u64::from(self.gibibytes).min(free)))
                .arg(&image))?;
            // Not lazily: the kernel would go on initialising it while the times are taken.
            run(Command::new("mkfs.ext4")
                .args(["-q", "-F", "-m", "0", "-N", &self.inodes.to_string()])
                .args(["-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"])
                .arg(&image))?;
        } else if self.user.is_some() {
            chown(place.join("disk"), self.user, self.user).context("cannot give a directory away")?;
        }
        Ok(program)
    }

    fn enter(&self, place: &Path, program: &Path, words: &[&OsStr]) -> Result<()> {
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--propagation",
            "private",
            "--",
            "sh",
            "-euc",
            ENTER,
            "own-disk",
        ]);
        command.arg(place);
        command.arg(
            self.trees
                .canonicalize()
                .unwrap_or_else(|_| self.trees.to_owned()),
        );
        command.arg(self.user.map_or_else(String::new, |user| user.to_string()));
        command.arg(program).args(words);
        command.arg("--atomos").arg(place.join("atomos"));
        command.arg("--trees").arg(place.join("trees"));
        let work = place.join("disk/work");
        command.arg("--work").arg(&work);
        run(command.current_dir(place).env("HOME", &work))
    }
}

fn open_to_all(path: &Path) -> Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}
