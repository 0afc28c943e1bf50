//! `atomos install`, and the recipes of `docs/install.md`, run from top to bottom on disk images.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::common::{Scratch, has_tool, is_root, published};

/// Bytes by which systemd-boot is known.
const SYSTEMD_BOOT: &str = "MZ #### LoaderInfo: systemd-boot 257 ####";

/// A small system in `tree`, committed with `--os` to the ref `os`.
fn bench() -> Scratch {
    let scratch = Scratch::new();
    scratch.tree();
    system(&scratch);
    scratch
        .atomos(&["commit", "-b", "os", "--version", "13", "--os", "tree"])
        .code(0);
    scratch
}

/// Makes `tree` a system that can be deployed.
fn system(scratch: &Scratch) {
    scratch.write("tree/boot/vmlinuz-6.1", "kernel");
    scratch.write("tree/boot/initrd.img-6.1", "initramfs");
    scratch.write("tree/usr/lib/modules/6.1/modules.dep", "");
    scratch.write("tree/usr/sbin/init", "init");
    scratch.symlink("usr/sbin", "tree/sbin");
    scratch.write("tree/usr/lib/systemd/boot/efi/systemd-bootx64.efi", SYSTEMD_BOOT);
    std::fs::create_dir_all(scratch.path("target")).unwrap();
}

/// Runs blocks of the page as one script, in mounts of its own; what it leaves mounted or looped is taken away.
fn recipe(scratch: &Scratch, names: &[&str], check: &str) -> Output {
    const CLEAN: &str = "trap 'for loop in $(losetup --noheadings --output NAME --associated disk.img); do \
                         umount --all-targets --quiet --lazy $loop || true; losetup --detach $loop; done' EXIT\n";
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/install.md");
    let page = std::fs::read_to_string(page).unwrap();
    let block = |name: &&str| {
        let start = format!("<!-- install: a test runs this block as {name} -->\n```sh\n");
        page.split(&start)
            .nth(1)
            .unwrap()
            .split("```")
            .next()
            .unwrap()
            .to_owned()
    };
    let script: String = names.iter().map(block).collect();
    let program = Path::new(env!("CARGO_BIN_EXE_atomos")).parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-e", "-u", "-c"])
        .arg(format!("{CLEAN}{script}\n{check}"))
        .current_dir(scratch.path(""))
        .env_clear()
        // How long something takes is the machine\'s affair.
        .env("ATOMOS_PROGRESS", "never")
        .env("PATH", format!("{}:/usr/sbin:/sbin:{path}", program.display()))
        .output()
        .unwrap()
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn can_run_recipes(tools: &[&str]) -> bool {
    let what = "docs/install.md";
    is_root(what) && tools.iter().all(|tool| has_tool(tool, what)) && {
        let looped = Command::new("losetup").arg("--find").output();
        let found = looped.is_ok_and(|output| output.status.success());
        if !found {
            eprintln!("there is no loop device: {what} is not tested");
        }
        found
    }
}

#[test]
fn the_recipe_for_grub_makes_a_disk_with_grub_in_its_first_sectors() {
    if !can_run_recipes(&["sfdisk", "losetup", "mkfs.ext4", "grub-install"]) {
        return;
    }
    let scratch = bench();
    // From the disk itself, as a machine would find it.
    let check = "boot=$(losetup --find --show --offset 1MiB --sizelimit 512MiB --read-only disk.img)
root=$(losetup --find --show --offset 513MiB --read-only disk.img)
e2fsck -fn \"$boot\" >&2; e2fsck -fn \"$root\" >&2
mount -o ro \"$boot\" mnt; cat mnt/loader/entries/*.conf; cat mnt/grub/atomos.cfg; ls mnt/grub/i386-pc/normal.mod
ls mnt/atomos/*; umount mnt
mount -o ro \"$root\" mnt; cat mnt/atomos/deploy/os/deploy/*.0/etc/fstab; ls mnt/atomos; umount mnt
blkid -p -o value -s UUID \"$root\" \"$boot\"; losetup --detach \"$boot\" \"$root\"";
    let output = recipe(&scratch, &["grub"], check);
    let out = succeeded(&output);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("Running grub-install --target=i386-pc"), "{said}");
    let uuids: Vec<&str> = out.lines().rev().take(2).collect();
    assert!(
        out.contains(&format!(
            "options root=UUID={} panic=10 console=tty0 console=ttyS0 atomos.entry=1 atomos=os/",
            uuids[1]
        )),
        "{out}"
    );
    assert!(out.contains("linux /atomos/os-"), "{out}");
    assert!(out.contains("menuentry"), "{out}");
    assert!(
        out.contains(&format!(
            "\nUUID={} /boot ext4 ro,nosuid,nodev,noexec,nofail 0 2\n",
            uuids[0]
        )),
        "{out}"
    );
    assert!(
        out.contains("\nvmlinuz\n") && out.contains("\ninitramfs.img\n"),
        "{out}"
    );
    assert!(!out.contains("installing"), "{out}");
    let disk = std::fs::File::open(scratch.path("disk.img")).unwrap();
    let mut sector = [0; 512];
    disk.read_exact_at(&mut sector, 0).unwrap();
    assert!(
        sector.windows(4).any(|window| window == b"GRUB"),
        "the first sector is GRUB's"
    );
    disk.read_exact_at(&mut sector, 512).unwrap();
    assert_ne!(sector, [0; 512], "and so are those behind it");
}

#[test]
fn the_recipe_for_systemd_boot_makes_a_disk_that_firmware_reads() {
    if !can_run_recipes(&["sfdisk", "losetup", "systemd-repart", "mkfs.vfat", "jq", "mcopy"]) {
        return;
    }
    let scratch = bench();
    let mut ways = vec!["mtools"];
    if std::fs::read_to_string("/proc/filesystems")
        .unwrap()
        .contains("vfat")
    {
        ways.push("fat");
    } else {
        eprintln!("this kernel has no vfat: mounting the EFI system partition is not tested");
    }
    for way in ways {
        let _ = std::fs::remove_file(scratch.path("disk.img"));
        let check = "image=disk.img@@$(partition 0 start)
mtype -i $image ::/EFI/BOOT/BOOTX64.EFI; mdir -b -/ -i $image ::/
mtype -i $image '::/loader/entries/*.conf'
root=$(losetup --find --show --offset \"$(partition 1 start)\" --sizelimit \"$(partition 1 size)\" --read-only disk.img)
mount -o ro \"$root\" mnt; cat mnt/atomos/deploy/os/deploy/*.0/etc/fstab; umount mnt; losetup --detach \"$root\"";
        let out = succeeded(&recipe(&scratch, &["repart", way], check));
        assert!(out.contains(SYSTEMD_BOOT), "{out}");
        for file in [
            "EFI/systemd/systemd-bootx64.efi",
            "loader/loader.conf",
            "/vmlinuz",
            "/initramfs.img",
        ] {
            assert!(out.contains(file), "{file}: {out}");
        }
        assert!(out.contains("linux /atomos/os-"), "{out}");
        assert!(out.contains("options root=UUID="), "{out}");
        let line = out.lines().find(|line| line.contains(" /boot vfat ")).unwrap();
        assert!(
            line.ends_with("ro,nosuid,nodev,noexec,nofail,umask=0077 0 2"),
            "{line}"
        );
    }
}

/// Runs a script in the directory, with mounts of its own.
fn with_mounts(scratch: &Scratch, script: &str) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_atomos")).parent().unwrap();
    Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-e",
            "-u",
            "-c",
            script,
        ])
        .current_dir(scratch.path(""))
        .env(
            "PATH",
            format!("{}:{}", program.display(), std::env::var("PATH").unwrap()),
        )
        .output()
        .unwrap()
}

#[test]
fn each_file_system_is_found_by_its_uuid() {
    for (kind, mkfs) in [("xfs", &["-q"][..]), ("btrfs", &["-q"]), ("ext4", &["-q", "-F"])] {
        if !can_run_recipes(&["losetup", &format!("mkfs.{kind}")]) {
            return;
        }
        let scratch = bench();
        let image = scratch.path("disk.img");
        std::fs::File::create(&image).unwrap().set_len(400 << 20).unwrap();
        let made = Command::new(format!("mkfs.{kind}"))
            .args(mkfs)
            .arg(&image)
            .status()
            .unwrap();
        assert!(made.success());
        let script = "mount -o loop disk.img target
atomos install --to-filesystem target --repo repo os --bootloader none --json
blkid -p -o value -s UUID disk.img; umount target";
        let out = succeeded(&with_mounts(&scratch, script));
        let uuid = out.lines().last().unwrap();
        assert!(out.contains(&format!("\"root=UUID={uuid}\"")), "{kind}: {out}");
    }
}

#[test]
fn a_dry_run_says_what_would_be_done_and_changes_nothing() {
    let scratch = bench();
    let target = scratch.path("target");
    let words = [
        "install",
        "--to-filesystem",
        "target",
        "os",
        "--allow-directory",
        "--karg",
        "root=LABEL=x",
        "--bootloader",
        "grub",
        "--grub-device",
        "/dev/disk",
    ];
    let run = scratch.atomos(&[&words[..], &["--dry-run"]].concat()).code(0);
    assert_eq!(
        run.out,
        "would install  os\n\
         to             [SCRATCH]/target\n\
         stateroot      os\n\
         boot loader    grub\n\
         kargs          panic=10 root=LABEL=x\n\
         would run      grub-install --target=i386-pc --boot-directory=[SCRATCH]/target/boot /dev/disk\n"
    );
    assert_eq!(std::fs::read_dir(&target).unwrap().count(), 0);
    let plan = scratch
        .atomos(&[&words[..], &["--dry-run", "--json"]].concat())
        .json();
    assert_eq!(plan["loader"], "grub");
    assert_eq!(plan["resumes"], false);
}

#[test]
fn what_cannot_be_installed_is_refused_with_a_hint() {
    let scratch = bench();
    let run = scratch
        .atomos(&["install", "--to-filesystem", "target", "os"])
        .code(5);
    assert_eq!(
        run.err,
        "error: cannot install to [SCRATCH]/target: no file system is mounted there\n\
         hint: `atomos install --help` says what has to be mounted, and which options take what is there as it is\n"
    );
    let run = scratch.atomos(&[
        "install",
        "--to-filesystem",
        "target",
        "os",
        "--bootloader",
        "lilo",
    ]);
    assert!(
        run.err.contains("there is no boot loader \"lilo\""),
        "{}",
        run.err
    );
    let run = scratch.atomos(&[
        "install",
        "--to-filesystem",
        "target",
        "os",
        "--site",
        "/nonexistent",
    ]);
    assert!(run.err.contains("a --site needs a --key FILE"), "{}", run.err);
    let run = scratch
        .atomos(&[
            "install",
            "--to-filesystem",
            "target",
            "none",
            "--allow-directory",
            "--bootloader",
            "none",
            "--karg",
            "root=x",
        ])
        .code(3);
    assert!(run.err.contains("none"), "{}", run.err);
}

#[test]
fn a_disk_that_would_not_boot_is_refused_with_the_ways_out() {
    let scratch = bench();
    let words = [
        "install",
        "--to-filesystem",
        "target",
        "os",
        "--allow-directory",
        "--karg",
        "root=x",
    ];
    let run = scratch.atomos(&words).code(5);
    assert_eq!(
        run.err,
        "error: cannot install GRUB to [SCRATCH]/target: no EFI system partition is mounted there, and no disk is named for a BIOS\n\
         hint: name the disk that a BIOS starts with --grub-device DISK; for UEFI, mount the EFI system partition at boot/efi in DIR; \
         --bootloader none installs none, and --grub-config-only is for a GRUB that is there\n"
    );
    assert_eq!(std::fs::read_dir(scratch.path("target")).unwrap().count(), 0);
    let run = scratch
        .atomos(&[&words[..], &["--grub-config-only"]].concat())
        .code(0);
    assert!(
        run.err
            .ends_with(") to [SCRATCH]/target, with grub's configuration alone\n"),
        "{}",
        run.err
    );
    assert!(scratch.path("target/boot/grub/grub.cfg").exists());
}

/// Installs to the directory `target` without a loader.
fn to_directory<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let words = [
        "install",
        "--to-filesystem",
        "target",
        "--allow-directory",
        "--bootloader",
        "none",
        "--karg",
        "root=LABEL=x",
    ];
    [&words[..], more].concat()
}

/// A site whose release of `os` is a system.
fn site() -> Scratch {
    let scratch = published();
    system(&scratch);
    scratch
        .atomos(&["commit", "-b", "os", "--version", "13", "--os", "tree"])
        .code(0);
    scratch.publish(&[]).code(0);
    scratch
}

#[test]
fn a_machine_that_is_installed_from_a_site_follows_it() {
    let scratch = site();
    let url = scratch.path("site");
    let url = url.to_str().unwrap();
    let words = to_directory(&["os", "--site", url, "--key", "key.pub"]);
    let mut command = scratch.command(&words);
    let run = scratch.run(command.env_remove("ATOMOS_REPO")).code(0);
    assert!(run.err.contains("Installed 13 ("), "{}", run.err);
    let warning = "the tree has no /usr/lib/atomos/atomos-prepare-root: ";
    assert!(run.err.contains(warning), "{}", run.err);
    let status = scratch
        .atomos(&["status", "--sysroot", "target", "--json"])
        .json();
    let deployment = &status["deployments"][0];
    assert_eq!(deployment["ref"], "origin:os");
    assert_eq!(deployment["remote"], "origin");
    let check = ["upgrade", "--check", "--sysroot", "target", "--unchanged-exit-77"];
    scratch.atomos(&check).code(77);
}

#[test]
fn a_repository_s_remote_goes_along() {
    let scratch = site();
    scratch.client(&["pull", "origin", "os"]).code(0);
    scratch.client(&to_directory(&["origin:os"])).code(0);
    let show = |repo: &str| {
        scratch
            .atomos(&["remote", "show", "origin", "--repo", repo, "--json"])
            .json()
    };
    assert_eq!(show("target/atomos/repo"), show("client"));
    let check = ["upgrade", "--check", "--sysroot", "target", "--unchanged-exit-77"];
    scratch.atomos(&check).code(77);
}

#[test]
fn a_machine_does_not_follow_somebody_else_under_the_same_name() {
    let scratch = site();
    scratch.client(&["pull", "origin", "os"]).code(0);
    scratch.atomos(&["key", "generate", "evil"]).code(0);
    scratch
        .atomos(&["sysroot", "init", "--sysroot", "target"])
        .code(0);
    let repo = ["--repo", "target/atomos/repo"];
    let add = [
        "remote",
        "add",
        "origin",
        "https://evil.example",
        "--key",
        "evil.pub",
    ];
    scratch.atomos(&[&add[..], &repo].concat()).code(0);
    let run = scratch.client(&to_directory(&["origin:os"])).code(5);
    assert!(run.err.contains("it has another remote origin"), "{}", run.err);
    assert!(
        run.err.contains("`atomos remote remove origin --repo ") && run.err.contains("target/atomos/repo`"),
        "{}",
        run.err
    );
    scratch
        .atomos(&["remote", "remove", "origin", "--repo", "target/atomos/repo"])
        .code(0);
    scratch.client(&to_directory(&["origin:os"])).code(0);
}

#[test]
fn a_mistyped_key_or_address_is_put_right_by_the_right_one() {
    let scratch = site();
    scratch.atomos(&["key", "generate", "other"]).code(0);
    let (right, wrong) = (scratch.path("site"), scratch.path("sight"));
    let run = |site: &std::path::Path, key: &str| {
        let words = to_directory(&["os", "--site", site.to_str().unwrap(), "--key", key]);
        let mut command = scratch.command(&words);
        scratch.run(command.env_remove("ATOMOS_REPO"))
    };
    run(&right, "other.pub").code(7);
    run(&wrong, "key.pub").code(3);
    run(&right, "key.pub").code(0);
}

#[test]
fn a_directory_of_btrfs_that_is_bound_is_no_subvolume() {
    if !can_run_recipes(&["losetup", "mkfs.btrfs"]) {
        return;
    }
    let scratch = bench();
    let image = scratch.path("disk.img");
    std::fs::File::create(&image).unwrap().set_len(400 << 20).unwrap();
    std::fs::File::create(scratch.path("boot.img"))
        .unwrap()
        .set_len(64 << 20)
        .unwrap();
    let script = "mkfs.btrfs -q disk.img; mkfs.ext4 -q -F boot.img; mkdir top; mount -o loop disk.img top
mkdir top/dir; btrfs -q subvolume create top/sub
for what in dir sub; do
    mount --bind top/$what target; mkdir target/boot; mount -o loop boot.img target/boot
    atomos install --to-filesystem target --repo repo os --bootloader none --dry-run --json 2>&1 || echo refused
    umount target/boot; umount target
done; umount top";
    let out = succeeded(&with_mounts(&scratch, script));
    let (dir, sub) = out.split_once("refused\n").unwrap();
    assert!(
        dir.contains("it is \"/dir\" of its file system, and not its root"),
        "{dir}"
    );
    assert!(sub.contains("\"rootflags=subvol=sub\""), "{sub}");
}

#[test]
fn what_is_in_the_target_already_can_be_installed() {
    let scratch = bench();
    scratch
        .atomos(&["sysroot", "init", "--sysroot", "target"])
        .code(0);
    scratch
        .atomos(&["pull", "--repo", "target/atomos/repo", "--from", "repo", "os"])
        .code(0);
    let words = to_directory(&["os"]);
    let mut command = scratch.command(&words);
    scratch.run(command.env_remove("ATOMOS_REPO")).code(0);
    let status = scratch
        .atomos(&["status", "--sysroot", "target", "--json"])
        .json();
    assert_eq!(status["deployments"][0]["version"], "13");
    // Once is enough.
    let run = scratch.atomos(&words).code(5);
    assert!(run.err.contains("it has deployments already"), "{}", run.err);
}

#[test]
fn a_boot_directory_that_another_system_boots_by_is_refused_before_anything() {
    let scratch = bench();
    let install = "install --to-filesystem target os --allow-directory --karg root=LABEL=x --bootloader none";
    let install: Vec<&str> = install.split(' ').collect();
    let entry = "atomos-1-os-0123456789ab.0.conf";
    scratch.write(&format!("target/boot/loader/entries/{entry}"), "title other\n");
    let run = scratch.atomos(&install).code(10);
    assert!(run.err.contains(entry), "{}", run.err);
    assert!(!scratch.path("target/atomos").exists());
    let named = [&install[..], &["--stateroot", "second"]].concat();
    scratch.atomos(&named).code(0);
    assert!(scratch.path("target/boot/loader/entries").join(entry).exists());
}
