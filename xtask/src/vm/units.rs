//! The units of a test's tree: the project's own, the agent's, and none that only cost time.

use std::ffi::OsStr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::run;

/// Where units are, in a tree.
const UNITS: &str = "usr/lib/systemd/system";
const MASKED_UNITS: &str = include_str!("guest/masked-units.txt");

/// Installs what `bootloader-hooks/systemd` has, as its README says, and enables what its preset does.
///
/// # Errors
/// If there is something that nobody knows a place for, or it cannot be copied or enabled.
pub fn install_hooks(hooks: &Path, tree: &Path) -> Result<()> {
    let mut presets = Vec::new();
    for entry in std::fs::read_dir(hooks).with_context(|| format!("cannot list {}", hooks.display()))? {
        let path = entry
            .with_context(|| format!("cannot list {}", hooks.display()))?
            .path();
        let Some(place) = place_of(&path)? else { continue };
        let directory = tree.join(place);
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        run(Command::new("cp").arg("-dr").arg(&path).arg(&directory))?;
        if path.extension() == Some(OsStr::new("preset")) {
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            presets.extend(
                text.lines()
                    .filter_map(|line| Some(line.strip_prefix("enable ")?.to_owned())),
            );
        }
    }
    if presets.is_empty() {
        return Ok(());
    }
    run(Command::new("chroot")
        .arg(tree)
        .args(["systemctl", "--quiet", "preset", "--"])
        .args(presets))
}

/// Where a file of `bootloader-hooks/systemd` belongs; `None` for what does not belong into a tree.
fn place_of(path: &Path) -> Result<Option<&'static str>> {
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    Ok(match extension {
        "md" => None,
        "service" | "timer" | "target" | "path" | "mount" | "automount" | "socket" | "d" | "wants"
        | "requires" => Some(UNITS),
        "preset" => Some("usr/lib/systemd/system-preset"),
        "conf" => Some("usr/lib/systemd/system.conf.d"),
        _ => bail!("nobody knows where {} belongs in a tree", path.display()),
    })
}

/// Does what `systemctl` would do inside the tree: what only costs time is masked, the agent is started.
///
/// # Errors
/// If a link cannot be made.
pub fn configure(tree: &Path) -> Result<()> {
    let units = tree.join("etc/systemd/system");
    let generators = tree.join("etc/systemd/system-generators");
    let wants = units.join("multi-user.target.wants");
    for directory in [&generators, &wants] {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let names = MASKED_UNITS
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::split_whitespace);
    for name in names {
        link("/dev/null", units.join(name))?;
    }
    // It would look for a vsock, and load three drivers to find none.
    link("/dev/null", generators.join("systemd-ssh-generator"))?;
    link(
        "/usr/lib/systemd/system/multi-user.target",
        units.join("default.target"),
    )?;
    link(
        "/usr/lib/systemd/system/atomos-vm-test.service",
        wants.join("atomos-vm-test.service"),
    )
}

fn link(target: &str, path: PathBuf) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    symlink(target, &path).with_context(|| format!("cannot link {}", path.display()))
}

/// What this adds to every tree, besides the hooks.
pub const fn ingredients() -> &'static str {
    MASKED_UNITS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hook_for_systemd_has_a_place_in_a_tree() {
        let hooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bootloader-hooks/systemd");
        let mut placed = 0;
        for entry in std::fs::read_dir(hooks).unwrap() {
            placed += usize::from(place_of(&entry.unwrap().path()).unwrap().is_some());
        }
        assert!(placed > 0);
        assert_eq!(place_of(Path::new("README.md")).unwrap(), None);
        assert!(place_of(Path::new("surprise")).is_err());
    }
}
