//! Running programs inside a tree that is being built.
//!
//! Each run has mount and process namespaces of its own. The mounts that package scripts need
//! (`/proc`, a `/dev` of five nodes, the resolver's configuration, a shared package cache) therefore end with the run,
//! whatever ends it, also a `kill -9`; nothing is left below the tree that a later `rm -rf` could follow into the
//! machine's own `/dev`; and a daemon that a script starts after all dies with the run.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::Logged;

/// Mounts, then becomes the program. `$1` tree, `$2` package cache, `$3` apt configuration, the rest is the program.
/// The `/dev` that the tree holds stays untouched below the tmpfs.
const ENTER: &str = r#"
tree=$1 cache=$2 apt_conf=$3; shift 3
mount -t proc proc "$tree/proc"
mount -t tmpfs -o mode=755 tmpfs "$tree/dev"
for node in null zero full random urandom; do
    : > "$tree/dev/$node"
    mount --bind "/dev/$node" "$tree/dev/$node"
done
mkdir "$tree/dev/pts" "$tree/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$tree/dev/pts"
ln -s pts/ptmx "$tree/dev/ptmx"
ln -s /proc/self/fd "$tree/dev/fd"
mount -t tmpfs -o mode=1777 tmpfs "$tree/tmp"
mount -t tmpfs -o mode=755 tmpfs "$tree/run"
cp "$apt_conf" "$tree/tmp/apt.conf"
mount --bind "$cache" "$tree/var/cache/apt/archives"
if [ -e /etc/resolv.conf ]; then mount --bind "$(readlink -f /etc/resolv.conf)" "$tree/etc/resolv.conf"; fi
exec chroot "$tree" "$@"
"#;

/// A tree in which programs can be run.
#[derive(Debug)]
pub struct Jail<'a> {
    tree: &'a Path,
    package_cache: PathBuf,
    apt_conf: PathBuf,
    log: &'a Logged,
}

impl<'a> Jail<'a> {
    /// Prepares to run programs in `tree`. Packages that apt downloads are kept in `package_cache`; `apt_conf`
    /// is given to it as further configuration.
    ///
    /// # Errors
    /// If the cache's directory or the resolver's configuration, over which the machine's own is mounted, cannot be made.
    pub fn new(tree: &'a Path, package_cache: &Path, apt_conf: &Path, log: &'a Logged) -> Result<Self> {
        std::fs::create_dir_all(package_cache.join("partial"))
            .with_context(|| format!("cannot make {}", package_cache.display()))?;
        let resolver = tree.join("etc/resolv.conf");
        std::fs::write(&resolver, "").with_context(|| format!("cannot write {}", resolver.display()))?;
        Ok(Self {
            tree,
            package_cache: package_cache.to_owned(),
            apt_conf: apt_conf.to_owned(),
            log,
        })
    }

    /// Runs a program inside the tree, with its output in the log.
    ///
    /// # Errors
    /// If it fails; the message then shows the end of the log.
    pub fn run(&self, words: &[&str]) -> Result<()> {
        self.log.run(
            namespaced()
                .args(["sh", "-euc", ENTER, "enter"])
                .arg(self.tree)
                .arg(&self.package_cache)
                .arg(&self.apt_conf)
                .args(words)
                .env_clear()
                .env(
                    "PATH",
                    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                )
                .env("HOME", "/root")
                .env("LC_ALL", "C.UTF-8")
                .env("DEBIAN_FRONTEND", "noninteractive")
                .env("APT_CONFIG", "/tmp/apt.conf")
                // Read by initramfs-tools' hook of kernel packages: the initramfs is generated once, at the end.
                .env("INITRD", "No"),
        )
    }
}

/// A command that runs its arguments with mounts and processes of its own.
pub fn namespaced() -> Command {
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "--propagation",
        "private",
        "--pid",
        "--fork",
        "--kill-child",
        "--",
    ]);
    command
}
