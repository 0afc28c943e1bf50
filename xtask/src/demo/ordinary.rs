//! Running the demo as an ordinary user although root asked for it.
//!
//! This program and atomos are copied to a directory that `nobody` may enter, the trees are bound into it in a mount
//! namespace of the run's own (the checkout may lie below a directory that only root can enter), and this
//! program is started again there without any of root's rights.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use anyhow::{Context, Result};

use super::{DemoArgs, remove};
use crate::debian::{self, Availability};
use crate::process::run;

/// The user and the group `nobody`.
const NOBODY: u32 = 65534;

/// Binds the trees read-only, gives root's rights up, becomes the program. `$1` trees, `$2` their place, `$3` the user.
const ENTER: &str = r#"
trees=$1 place=$2 user=$3; shift 3
if [ -d "$trees" ]; then
    mount --bind "$trees" "$place"
    mount -o remount,bind,ro "$place"
fi
exec setpriv --reuid "$user" --regid "$user" --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all -- "$@"
"#;

pub(super) fn run_as_nobody(args: &DemoArgs, atomos: &Path) -> Result<()> {
    let options = debian::Options::kept_in(args.trees.as_deref());
    // Only root can make the trees; the user then finds them made.
    if let Availability::Answers(archive) = debian::find_archive(&options.release)? {
        debian::ensure_trees(&options, &archive)?;
    }
    // Not below the checkout, and on a disk: a temporary filesystem may be too small for some gigabytes.
    let place = tempfile::Builder::new()
        .prefix("atomos-demo-")
        .tempdir_in("/var/tmp")
        .context("cannot make a directory in /var/tmp")?
        .keep();
    let result = prepare_and_run(args, atomos, &place, &options.trees);
    if args.keep {
        return result;
    }
    result.and(remove(&place))
}

fn prepare_and_run(args: &DemoArgs, atomos: &Path, place: &Path, trees: &Path) -> Result<()> {
    open_to_all(place)?;
    let this = std::env::current_exe().context("cannot find this program")?;
    for (from, name) in [(this.as_path(), "xtask"), (atomos, "atomos")] {
        let copy = place.join(name);
        std::fs::copy(from, &copy).with_context(|| format!("cannot copy {}", from.display()))?;
        open_to_all(&copy)?;
    }
    for name in ["trees", "work"] {
        let directory = place.join(name);
        std::fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        open_to_all(&directory)?;
    }
    chown(place.join("work"), Some(NOBODY), Some(NOBODY)).context("cannot give the directory away")?;
    let mut command = std::process::Command::new("unshare");
    command.args([
        "--mount",
        "--propagation",
        "private",
        "--",
        "sh",
        "-euc",
        ENTER,
        "enter",
    ]);
    command
        .arg(trees.canonicalize().unwrap_or_else(|_| trees.to_owned()))
        .arg(place.join("trees"));
    command
        .arg(NOBODY.to_string())
        .arg(place.join("xtask"))
        .args(["demo", "--as-user", "--atomos"]);
    command
        .arg(place.join("atomos"))
        .arg("--trees")
        .arg(place.join("trees"));
    command.arg("--work").arg(place.join("work"));
    if args.keep {
        command.arg("--keep");
    }
    run(command.current_dir(place).env("HOME", place.join("work")))
}

fn open_to_all(path: &Path) -> Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}
