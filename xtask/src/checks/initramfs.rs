//! The hooks for initramfs generators, used by the generators of a real Debian: what they put into an image, what that
//! costs, and that they keep out of a system that is none of ours.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Outcome;
use crate::debian::{self, Archive, Availability, namespaced};
use crate::process::{Logged, capture, run};
use crate::workspace::cargo;

/// What a tree has that both generators run in. `dracut-core` is dracut without its claim to be the machine's generator.
const PACKAGES: &str =
    "linux-image-amd64,initramfs-tools,dracut-core,systemd-sysv,udev,kmod,zstd,cpio,e2fsprogs";

/// By how much an initramfs may grow, in bytes.
const MAX_GROWTH: u64 = 2 * 1000 * 1000;

/// The static program's target.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Makes four images in the tree `$1`, of which nothing stays: with the hooks of `$2`, without and with the program `$3`.
/// Few drivers, which make no difference but of time. What is looked at goes to `$4`.
const MAKE: &str = r#"
tree=$1 hooks=$2 program=$3 out=$4
mkdir -p "$out/upper" "$out/work" "$out/root"
mount -t tmpfs tmpfs "$out/upper"
mkdir "$out/upper/upper" "$out/upper/work"
mount -t overlay overlay -o "lowerdir=$tree,upperdir=$out/upper/upper,workdir=$out/upper/work" "$out/root"
root=$out/root
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
for directory in tmp run var/tmp; do mount -t tmpfs tmpfs "$root/$directory"; done
mkdir "$root/tmp/out"
mount --bind "$out" "$root/tmp/out"
inside() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 "$@"; }
kernel=$(ls "$root/usr/lib/modules")
images() {
    inside dracut --quiet --no-hostonly --no-hostonly-cmdline --drivers ext4 --kver "$kernel" "/tmp/out/dracut-$1.img"
    inside mkinitramfs -o "/tmp/out/tools-$1.img" "$kernel"
    inside lsinitrd "/tmp/out/dracut-$1.img" >"$out/dracut-$1.list"
    inside lsinitramfs "/tmp/out/tools-$1.img" >"$out/tools-$1.list"
}
cp -r "$hooks/dracut/50atomos" "$root/usr/lib/dracut/modules.d/"
cp -rT "$hooks/initramfs-tools/hooks" "$root/usr/share/initramfs-tools/hooks"
cp -rT "$hooks/initramfs-tools/scripts" "$root/usr/share/initramfs-tools/scripts"
echo 'MODULES=list' >"$root/etc/initramfs-tools/conf.d/test"
images without
install -D -m 755 "$program" "$root/usr/lib/atomos/atomos-prepare-root"
images with
# The program runs with nothing but the image around it.
for kind in dracut tools; do
    inside unmkinitramfs "/tmp/out/$kind-with.img" "/tmp/$kind"
    image=$root/tmp/$kind
    [ ! -d "$image/main" ] || image=$image/main
    cmp "$program" "$image/usr/lib/atomos/atomos-prepare-root"
    env -i PATH=/usr/sbin:/usr/bin chroot "$image" /usr/lib/atomos/atomos-prepare-root 2>"$out/$kind.said" || true
done
cat "$root/tmp/tools/scripts/local-bottom/ORDER" "$root/tmp/tools/main/scripts/local-bottom/ORDER" 2>/dev/null >"$out/order" || true
"#;

/// Runs the check, where the archive answers.
pub(super) fn check(root: &Path) -> Result<Outcome> {
    let archive = match debian::find_archive(&debian::Options::default().release)? {
        Availability::Answers(archive) => archive,
        Availability::Unavailable(why) => return Ok(Outcome::Skipped(why)),
    };
    let directory = root.join("target/xtask/initramfs");
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let tree = ensure_tree(&directory, &archive)?;
    let program = build_program(root)?;
    let work = tempfile::Builder::new()
        .prefix("images-")
        .tempdir_in(&directory)
        .context("cannot make a temporary directory")?;
    let log = Logged::create(&directory.join("images.log"))?;
    log.run(
        namespaced()
            .args(["sh", "-euc", MAKE, "images"])
            .arg(&tree)
            .arg(root.join("bootloader-hooks"))
            .arg(&program)
            .arg(work.path()),
    )?;
    look(work.path(), &program)?;
    Ok(Outcome::Passed)
}

/// Returns the tree, made now unless an earlier run has.
fn ensure_tree(directory: &Path, archive: &Archive) -> Result<PathBuf> {
    let (tree, key) = (directory.join("tree"), directory.join("tree.key"));
    let wanted = format!("{} {PACKAGES}\n", archive.release);
    if tree.is_dir() && std::fs::read_to_string(&key).is_ok_and(|found| found == wanted) {
        return Ok(tree);
    }
    run(Command::new("rm")
        .args(["-rf", "--one-file-system", "--"])
        .args([&tree, &key]))?;
    let log = Logged::create(&directory.join("tree.log"))?;
    log.run(
        namespaced()
            .args(["debootstrap", "--variant=minbase"])
            .arg(format!("--include={PACKAGES}"))
            .arg(format!("--keyring={}", archive.keyring.display()))
            .args([&archive.release])
            .arg(&tree)
            .arg(&archive.uri),
    )?;
    std::fs::write(&key, wanted).with_context(|| format!("cannot write {}", key.display()))?;
    Ok(tree)
}

/// Builds the program as it is put into images: static, and small.
fn build_program(root: &Path) -> Result<PathBuf> {
    let words = [
        "build",
        "--quiet",
        "--locked",
        "--package",
        "atomos-prepare-root",
        "--profile",
        "prepare-root",
        "--target",
        TARGET,
    ];
    run(cargo(root, &words).env("RUSTFLAGS", "-C target-feature=+crt-static"))?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
    Ok(target.join(TARGET).join("prepare-root/atomos-prepare-root"))
}

fn look(work: &Path, program: &Path) -> Result<()> {
    let read = |name: &str| {
        let path = work.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let size = |path: &Path| {
        let metadata =
            std::fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
        anyhow::Ok(metadata.len())
    };
    let needed: [(&str, &[&str]); 2] = [
        (
            "dracut",
            &[
                "usr/lib/atomos/atomos-prepare-root",
                "usr/lib/systemd/system/atomos-prepare-root.service",
                "usr/lib/systemd/system/initrd-root-fs.target.wants/atomos-prepare-root.service",
                "/overlay.ko",
                "/erofs.ko",
            ],
        ),
        (
            "tools",
            &[
                "usr/lib/atomos/atomos-prepare-root",
                "scripts/local-bottom/atomos",
                "scripts/nfs-bottom/atomos",
                "/overlay.ko",
                "/erofs.ko",
            ],
        ),
    ];
    for (kind, files) in needed {
        let list = read(&format!("{kind}-with.list"))?;
        for file in files {
            ensure!(list.contains(file), "the image of {kind} has no {file}");
        }
        let without = read(&format!("{kind}-without.list"))?;
        let ours = without.lines().find(|line| line.contains("atomos-prepare-root"));
        ensure!(
            ours.is_none(),
            "the image of an ordinary system has {ours:?} ({kind})"
        );
        let said = read(&format!("{kind}.said"))?;
        ensure!(
            said.contains("usage: atomos-prepare-root MOUNTPOINT"),
            "the program does not run in the image of {kind}: {said}"
        );
        let [before, after] =
            ["without", "with"].map(|which| size(&work.join(format!("{kind}-{which}.img"))));
        let growth = after?.saturating_sub(before?);
        eprintln!("    {kind}: the image grows by {growth} bytes");
        ensure!(
            growth > 0 && growth <= MAX_GROWTH,
            "the image of {kind} grows by {growth} bytes"
        );
    }
    ensure!(
        read("order")?.contains("/scripts/local-bottom/atomos"),
        "initramfs-tools would not run the script"
    );
    let library = capture(Command::new("file").arg("--brief").arg(program)).unwrap_or_default();
    ensure!(
        library.is_empty() || library.contains("static"),
        "the program is not static: {library}"
    );
    eprintln!("    the program has {} bytes", size(program)?);
    Ok(())
}
