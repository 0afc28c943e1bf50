use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use crate::common::{Run, Scratch, is_root};

/// A repository in mode `bare` with a place to mount on, which is unmounted at the end.
struct Mounted {
    scratch: Scratch,
}

impl Mounted {
    /// `None` where this machine cannot mount images, after saying so.
    fn new() -> Option<Self> {
        if !is_root("mounting an image") {
            return None;
        }
        let scratch = Scratch::empty();
        scratch.atomos(&["init", "--mode", "bare"]).code(0);
        fs::create_dir(scratch.path("on")).unwrap();
        let mounted = Self { scratch };
        mounted.scratch.write("probe/file", "probe");
        mounted
            .scratch
            .atomos(&["commit", "--ref", "probe", "probe"])
            .code(0);
        let run = mounted.mount("probe");
        if run.err.contains("this kernel") {
            eprintln!("skipped: {}", run.err);
            return None;
        }
        run.code(0);
        mounted.scratch.atomos(&["umount", "on"]).code(0);
        Some(mounted)
    }

    fn mount(&self, rev: &str) -> Run {
        self.scratch.atomos(&["mount", rev, "on"])
    }

    /// The digest of the root directory that a commit of a directory has.
    fn tree_of(&self, name: &str, directory: &str) -> String {
        self.scratch
            .atomos(&["commit", "--no-cache", "--ref", name, directory])
            .code(0);
        self.scratch
            .atomos(&["rev-parse", &format!("{name}^{{tree}}")])
            .ok()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Where it is mounted still, an assertion has failed, and a temporary directory is about to be removed.
        let _ = Command::new("umount")
            .arg("-q")
            .arg(self.scratch.path("on"))
            .status();
    }
}

fn sh(scratch: &Scratch, script: &str) {
    let status = Command::new("sh")
        .args(["-eu", "-c", script])
        .current_dir(scratch.path("tree"))
        .status()
        .unwrap();
    assert!(status.success(), "{script}");
}

#[test]
fn a_repository_is_not_hidden_by_what_it_shows() {
    let Some(mounted) = Mounted::new() else { return };
    for place in ["repo", "."] {
        let run = mounted.scratch.atomos(&["mount", "probe", place]).code(5);
        assert!(
            run.err.contains("the repository that it is of lies there"),
            "{place}: {}",
            run.err
        );
    }
    mounted.scratch.atomos(&["refs"]).code(0);
}

#[test]
fn what_is_mounted_is_what_was_committed_to_the_last_attribute() {
    let Some(mounted) = Mounted::new() else { return };
    let scratch = &mounted.scratch;
    scratch.tree();
    sh(
        scratch,
        r#"
        touch empty; chmod 000 empty
        cp usr/bin/sh setuid; chown 12:34 setuid; chmod 6755 setuid; touch -d @-5 setuid
        mkfifo fifo; mknod null c 1 3; mknod disk b 259 70000; chmod 1777 etc
        ln -s "$(printf %02100d 0)" long-link; ln -s "$(printf %04000d 0)" longest-link; ln -s / short-link
        printf %070000d 0 > large
        setfattr -n user.note -v value etc; setfattr -n user.note -v "$(printf %01500d 0)" usr/bin/sh
        setfattr -n trusted.overlay.opaque -v y usr; setfattr -n trusted.overlay.redirect -v /x etc/motd
        setfattr -n security.capability -v 0sAQAAAgAkAAAAAAAAAAAAAAAAAAA= large
        setfattr -n system.posix_acl_access -v 0sAgAAAAEABgD/////AgAGAAEAAAAEAAQA/////xAABgD/////IAAEAP////8= etc/motd
        mkdir -p deep/a/b/c many none "$(printf %0255d 1)" '-' '!' '.x' '..y'
        for i in $(seq 700); do echo $i > many/$(printf 'name-%0*d' $((i % 200 + 1)) $i); done
        touch -d @1 deep/a
        "#,
    );
    let committed = mounted.tree_of("os", "tree");
    let run = mounted.mount("os").code(0);
    assert!(
        run.err.starts_with(
            "Mounted on on, read-only, until `atomos umount --repo [SCRATCH]/repo [SCRATCH]/on`; the image has "
        ),
        "{}",
        run.err
    );
    assert_eq!(mounted.tree_of("again", "on"), committed);
    // Names are found one by one, too, not only listed.
    for entry in fs::read_dir(scratch.path("tree/many")).unwrap() {
        let name = entry.unwrap().file_name();
        let [here, there] =
            ["tree/many", "on/many"].map(|dir| fs::read(scratch.path(dir).join(&name)).unwrap());
        assert_eq!(here, there);
    }
    assert!(!scratch.path("on/many/name").exists());
    assert_eq!(fs::metadata(scratch.path("on/deep")).unwrap().nlink(), 3);
    let refused = fs::write(scratch.path("on/etc/motd"), "").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    scratch.atomos(&["umount", "on"]).code(0);
    assert_eq!(fs::read_dir(scratch.path("on")).unwrap().count(), 0);
}

#[test]
fn a_commit_stays_while_it_is_mounted() {
    let Some(mounted) = Mounted::new() else { return };
    let scratch = &mounted.scratch;
    scratch.tree();
    scratch.commit("first");
    mounted.mount("os").code(0);
    // The one that is there stays held.
    let run = mounted.mount("probe").code(4);
    assert!(
        run.err.contains("cannot mount an image on on: there is one"),
        "{}",
        run.err
    );
    assert!(
        run.err
            .contains("hint: atomos umount --repo [SCRATCH]/repo [SCRATCH]/on\n"),
        "{}",
        run.err
    );
    let tree = scratch.atomos(&["rev-parse", "probe^{tree}"]).ok();
    mounted.mount(tree.trim()).code(4);
    scratch.atomos(&["refs", "--delete", "os"]).code(0);
    scratch.atomos(&["prune"]).code(0);
    assert_eq!(fs::read(scratch.path("on/etc/motd")).unwrap(), b"hello\n");
    scratch.atomos(&["fsck"]).code(0);
    scratch.atomos(&["umount", "on"]).code(0);
    let roots = || fs::read_dir(scratch.path("repo/roots")).unwrap().count();
    assert_eq!(roots(), 0);
    // What another boot has left is let go of.
    let run = scratch.atomos(&["rev-parse", "probe"]).ok();
    mounted.mount("probe").code(0);
    let name = fs::read_dir(scratch.path("repo/roots"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .file_name();
    let name = name.into_string().unwrap();
    let parts: Vec<&str> = name.split('.').collect();
    let record = format!("{{\"commits\": [\"{}\"]}}", run.trim());
    let other = |machine: &str, boot: &str| {
        let name = format!("mount.{machine}.{boot}.4026531840.0123456789abcdef");
        fs::write(scratch.path("repo/roots").join(&name), &record).unwrap();
        name
    };
    let (earlier, foreign) = (other(parts[1], "0123456789ab"), other("01234567", parts[2]));
    scratch.atomos(&["prune"]).code(0);
    let is_there = |name: &str| scratch.path("repo/roots").join(name).exists();
    assert_eq!(
        (is_there(&name), is_there(&earlier), is_there(&foreign)),
        (true, false, true)
    );
    scratch.atomos(&["umount", "on"]).code(0);
    assert!(!is_there(&name));
}

#[test]
fn a_part_is_mounted_and_what_is_no_mount_is_not_unmounted() {
    let Some(mounted) = Mounted::new() else { return };
    let scratch = &mounted.scratch;
    scratch.tree();
    scratch.commit("first");
    scratch
        .atomos(&["mount", "--subpath", "/usr/lib", "os", "on"])
        .code(0);
    assert_eq!(fs::read(scratch.path("on/os-release")).unwrap(), b"ID=test\n");
    scratch.atomos(&["umount", "on"]).code(0);
    // Whoever owns the objects could put a program of their own in the place of one that is setuid.
    std::os::unix::fs::chown(scratch.path("repo/objects"), Some(1), None).unwrap();
    scratch.atomos(&["mount", "os", "on"]).code(0);
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let place = scratch.path("on");
    let is_ours = |line: &&str| line.split(' ').nth(4) == place.to_str();
    let line = table.lines().find(is_ours).unwrap();
    assert!(line.contains("nosuid,nodev"), "{line}");
    // Another repository has nothing to let go of, and is asked before anything is unmounted.
    let run = scratch.atomos(&["umount", "--repo", "nowhere", "on"]);
    assert_ne!(run.code, 0);
    assert!(scratch.path("on/usr").exists());
    scratch.atomos(&["umount", "on"]).code(0);
    let run = scratch.atomos(&["umount", "on"]);
    assert!(
        run.err.contains("cannot unmount on: no image is mounted there"),
        "{}",
        run.err
    );
    assert_eq!(run.code, 3);
    let run = scratch.atomos(&["mount", "os", "nowhere"]);
    assert!(run.err.contains("nowhere"), "{}", run.err);
    assert_ne!(run.code, 0);
    assert_eq!(fs::read_dir(scratch.path("repo/roots")).unwrap().count(), 0);
}

#[test]
fn an_image_is_a_file_that_can_be_mounted_later() {
    let Some(mounted) = Mounted::new() else { return };
    let scratch = &mounted.scratch;
    scratch.tree();
    scratch.commit("first");
    let report = scratch
        .atomos(&["checkout", "--composefs", "os", "image", "--json"])
        .json();
    scratch.atomos(&["checkout", "--composefs", "os", "same"]).code(0);
    assert_eq!(
        fs::read(scratch.path("image")).unwrap(),
        fs::read(scratch.path("same")).unwrap()
    );
    let metadata = fs::metadata(scratch.path("image")).unwrap();
    assert_eq!(report["bytes"], metadata.len());
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o644);
    let run = scratch.atomos(&["mount", "--image", "image", "on"]).code(0);
    assert!(run.err.contains("is kept only as long as"), "{}", run.err);
    assert_eq!(fs::read(scratch.path("on/etc/motd")).unwrap(), b"hello\n");
    scratch.atomos(&["umount", "on"]).code(0);
}

#[test]
fn what_no_image_can_have_is_named() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    let run = scratch.atomos(&["checkout", "--composefs", "--subpath", "/etc/motd", "os", "image"]);
    assert!(run.err.contains("an image is made of a directory"), "{}", run.err);
    assert!(!scratch.path("image").exists());
    scratch.write("there", "");
    let run = scratch
        .atomos(&["checkout", "--composefs", "os", "there"])
        .code(4);
    assert!(
        run.err.contains("cannot make the image there: it exists"),
        "{}",
        run.err
    );
    if !is_root("making a device") {
        return;
    }
    sh(&scratch, "mknod usr/gone c 0 0");
    scratch
        .atomos(&["init", "--mode", "bare", "--repo", "bare"])
        .code(0);
    scratch
        .atomos(&["commit", "--repo", "bare", "--ref", "os", "tree"])
        .code(0);
    let run = scratch.atomos(&["checkout", "--repo", "bare", "--composefs", "os", "image"]);
    assert!(
        run.err.contains("cannot put /usr/gone into an image"),
        "{}",
        run.err
    );
    assert!(!scratch.path("image").exists());
    let left = fs::read_dir(scratch.path("")).unwrap();
    assert!(
        left.flatten()
            .all(|entry| !entry.file_name().to_string_lossy().contains("image"))
    );
}

#[test]
fn the_command_that_is_printed_unmounts_from_anywhere() {
    let Some(mounted) = Mounted::new() else { return };
    let scratch = &mounted.scratch;
    let place = scratch.path("a place's name");
    fs::create_dir(&place).unwrap();
    fs::rename(scratch.path("repo"), scratch.path("a repository")).unwrap();
    let run = scratch.run(
        scratch
            .command(&["mount", "--repo", "a repository", "probe", "a place's name"])
            .env_remove("ATOMOS_REPO"),
    );
    let run = run.code(0);
    let command = run.err.split('`').nth(1).unwrap();
    assert_eq!(
        command,
        "atomos umount --repo '[SCRATCH]/a repository' '[SCRATCH]/a place'\\''s name'"
    );
    let root = scratch.path("");
    let command = command.replace("[SCRATCH]/", root.to_str().unwrap());
    let command = command.replacen("atomos", env!("CARGO_BIN_EXE_atomos"), 1);
    let status = Command::new("sh")
        .args(["-c", &command])
        .current_dir("/")
        .status();
    assert!(status.unwrap().success(), "{command}");
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
    assert_eq!(
        fs::read_dir(scratch.path("a repository/roots")).unwrap().count(),
        0
    );
}

#[test]
fn files_are_verified_or_nothing_is_mounted() {
    let Some(mounted) = Mounted::new() else { return };
    let scratch = &mounted.scratch;
    let run = scratch.atomos(&["mount", "--verify", "probe", "on"]).code(11);
    assert!(
        run.err
            .contains("its tree does not record the fs-verity digest of each file"),
        "{}",
        run.err
    );
    assert!(run.err.contains("hint: `atomos commit --verity`"), "{}", run.err);
    scratch
        .atomos(&["commit", "--verity", "--ref", "verified", "probe"])
        .code(0);
    // Digests are recorded, and nobody has given the store's files fs-verity.
    let run = scratch.atomos(&["mount", "--verify", "verified", "on"]).code(11);
    assert!(
        run.err.contains("the kernel does not verify 1 of 1 files, blob "),
        "{}",
        run.err
    );
    assert_eq!(fs::read_dir(scratch.path("repo/roots")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(scratch.path("on")).unwrap().count(), 0);
    let report = scratch.atomos(&["mount", "verified", "on", "--json"]).json();
    assert_eq!(report["verified"], false);
    scratch.atomos(&["umount", "on"]).code(0);
    scratch
        .atomos(&["mount", "--verify", "--image", "x", "on"])
        .code(2);
}

#[test]
fn an_image_that_was_made_as_a_file_is_told_by_its_digest_and_another_file_is_refused() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let scratch = &mounted.scratch;
    let made = scratch
        .atomos(&["checkout", "--composefs", "--json", "probe", "image"])
        .json();
    let report = scratch
        .atomos(&["mount", "--json", "--image", "image", "on"])
        .json();
    let whole = fs::read(scratch.path("image")).unwrap();
    assert_eq!(
        report["digest"],
        libatomos::digest::Digest::of(&whole).to_string()
    );
    assert_eq!(report["bytes"], whole.len());
    assert_eq!(made["digest"], report["digest"]);
    scratch.atomos(&["umount", "on"]).code(0);
    scratch.write("half", &whole[..whole.len() / 2]);
    scratch.write("other", "no image at all");
    for name in ["half", "other"] {
        let run = scratch.atomos(&["mount", "--image", name, "on"]).code(5);
        assert!(run.err.contains("it is no composefs image"), "{}", run.err);
    }
}
