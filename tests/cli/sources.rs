//! Sources that are no single directory, and the ways out.

use std::process::{Command, Stdio};

use crate::common::{EPOCH, Scratch, has_tool};

fn root_of(scratch: &Scratch, reference: &str) -> String {
    scratch
        .atomos(&["rev-parse", &format!("{reference}^{{tree}}")])
        .ok()
}

#[test]
fn an_export_is_committed_as_the_same_tree_from_a_file_a_pipe_and_an_image() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    let wanted = root_of(&scratch, "os");
    scratch.atomos(&["export", "os", "-o", "os.tar"]).code(0);
    scratch
        .atomos(&["export", "os", "--compress", "zstd", "-o", "os.tar.zst"])
        .code(0);
    for file in ["os.tar", "os.tar.zst"] {
        scratch.atomos(&["commit", "-b", "again", "--tar", file]).code(0);
        assert_eq!(root_of(&scratch, "again"), wanted, "{file}");
    }
    // Nothing but the archive is on stdout, and nothing but the digest is there after a commit.
    let piped = scratch.command(&["export", "os"]).output().unwrap();
    assert_eq!(piped.stdout, std::fs::read(scratch.path("os.tar")).unwrap());
    let mut command = scratch.command(&["commit", "-b", "piped", "--tar", "-"]);
    command.stdin(Stdio::from(std::fs::File::open(scratch.path("os.tar")).unwrap()));
    let run = scratch.run(&mut command).code(0);
    assert_eq!(run.out.trim_end().len(), 64);
    assert_eq!(root_of(&scratch, "piped"), wanted);

    let manifest = scratch
        .atomos(&["export", "os", "--oci", "layout:one", "--platform", "linux/arm64"])
        .ok();
    assert!(manifest.starts_with("sha256:"), "{manifest}");
    scratch
        .atomos(&["commit", "-b", "image", "--oci", "layout:one"])
        .code(0);
    assert_eq!(root_of(&scratch, "image"), wanted);
    let run = scratch
        .atomos(&["commit", "-b", "image", "--oci", "layout:two"])
        .code(3);
    assert!(run.err.contains("hint: it has: one"), "{}", run.err);
}

#[test]
fn sources_are_laid_over_one_another_in_the_order_of_the_command_line() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    scratch.write("over/etc/motd", "over\n");
    scratch.write("last/etc/motd", "last\n");
    let motd = |args: &[&str]| {
        let fixed = ["commit", "-b", "mixed", "--owner", "0:0", "--mtime", "zero"];
        scratch.atomos(&[&fixed[..], args].concat()).code(0);
        scratch.atomos(&["cat", "mixed", "/etc/motd"]).ok()
    };
    assert_eq!(motd(&["--tree", "ref=os", "over", "last"]), "last\n");
    assert_eq!(motd(&["last", "--tree", "ref=os", "over"]), "over\n");
    assert_eq!(
        motd(&["over", "--tree", "dir=last", "--tree", "ref=os"]),
        "hello\n"
    );
    scratch.write("modes", "=04755 /usr/bin/sh\n");
    motd(&["--tree", "ref=os", "--statoverride", "modes"]);
    let listing = scratch.atomos(&["ls", "-l", "mixed", "/usr/bin"]).ok();
    assert!(listing.contains("rws"), "{listing}");
    scratch.write("modes", "4755 /usr/bin/sh\n");
    let run = scratch
        .atomos(&["commit", "--statoverride", "modes", "tree"])
        .code(5);
    assert!(
        run.err.contains("line 1") && run.err.contains("04755"),
        "{}",
        run.err
    );
    scratch.atomos(&["commit", "--tree", "zip=x"]).code(2);
    scratch
        .atomos(&["commit", "--tar", "-", "--tree", "tar=-"])
        .code(2);
    scratch.atomos(&["commit"]).code(2);
}

#[test]
fn a_bad_member_is_named_and_nothing_is_committed() {
    let scratch = Scratch::new();
    scratch.tree();
    if !has_tool("tar", "an archive with a bad member") {
        return;
    }
    let tar = Command::new("tar")
        .args(["-C", scratch.path("").to_str().unwrap(), "-cf"])
        .arg(scratch.path("bad.tar"))
        .args(["--transform", "s,^tree/etc/motd,../escaped,", "-P", "tree"])
        .status();
    assert!(tar.unwrap().success());
    let run = scratch
        .atomos(&["commit", "-b", "bad", "--tar", "bad.tar"])
        .code(5);
    assert!(run.err.contains("../escaped") && run.out.is_empty(), "{run:?}");
    scratch.atomos(&["rev-parse", "bad"]).code(3);
    assert!(!scratch.path("escaped").exists());
}

#[test]
fn what_is_no_ostree_repository_is_said_to_be_none() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    let run = scratch.atomos(&["import", "--ostree", "repo", "os"]).code(5);
    assert!(
        run.err
            .starts_with("error: cannot read repo as an OSTree repository"),
        "{}",
        run.err
    );
}

#[test]
fn history_of_ostree_is_imported() {
    if !has_tool("ostree", "importing from OSTree") {
        return;
    }
    let scratch = Scratch::new();
    scratch.tree();
    let ostree = |words: &[&str]| {
        let status = Command::new("ostree")
            .current_dir(scratch.path(""))
            .args(words)
            .stdout(Stdio::null())
            .status();
        assert!(status.unwrap().success(), "{words:?}");
    };
    ostree(&["init", "--repo=old", "--mode=archive"]);
    let time = format!("--timestamp=@{EPOCH}");
    for subject in ["one", "two"] {
        ostree(&[
            "commit",
            "--repo=old",
            "-b",
            "os/stable",
            "-s",
            subject,
            &time,
            "--canonical-permissions",
            "tree",
        ]);
    }
    let report = scratch
        .atomos(&["import", "--json", "--ostree", "old", "os/stable"])
        .json();
    assert_eq!(report["refs"][0]["imported"], 2);
    let log = scratch.atomos(&["log", "os/stable"]).ok();
    assert!(log.contains("one") && log.contains("two"), "{log}");
    scratch.atomos(&["fsck"]).code(0);
    let run = scratch.atomos(&["import", "--ostree", "old", "none"]).code(3);
    assert!(run.err.contains("hint: `ostree refs --repo=old`"), "{}", run.err);
}

#[test]
fn an_image_s_name_may_have_colons_and_may_not_be_empty() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    let name = "layout:docker.io/library/debian:12";
    scratch.atomos(&["export", "os", "--oci", name]).code(0);
    assert!(scratch.path("layout/oci-layout").exists());
    scratch
        .atomos(&["export", "os", "--oci", "layout:debian:13"])
        .code(0);
    scratch.atomos(&["commit", "-b", "image", "--oci", name]).code(0);
    assert_eq!(root_of(&scratch, "image"), root_of(&scratch, "os"));
    for words in [
        &["export", "os", "--oci", "layout2:"][..],
        &["commit", "-b", "image", "--oci", ":x"],
    ] {
        let run = scratch.atomos(words).code(2);
        assert!(run.err.contains("is no LAYOUT:NAME"), "{}", run.err);
    }
}

#[test]
fn an_archive_that_nobody_takes_to_the_end_is_an_error() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.write("tree/large", vec![7u8; 4 << 20]);
    scratch.commit("first");
    for compress in ["none", "gzip", "zstd"] {
        let mut command = scratch.command(&["export", "os", "--compress", compress]);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        command.stdout(writer);
        let run = scratch.run(&mut command).code(1);
        assert!(run.err.contains("cannot write the archive"), "{}", run.err);
    }
}

#[test]
fn an_image_that_cannot_be_made_leaves_no_layout() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    scratch.write("tree/.wh.gone", "");
    let refused = scratch.commit("second");
    std::fs::create_dir(scratch.path("empty")).unwrap();
    for layout in ["layout", "empty"] {
        let run = scratch.atomos(&["export", &refused, "--oci", layout]).code(11);
        assert!(run.err.contains(".wh.gone"), "{}", run.err);
    }
    assert!(!scratch.path("layout").exists());
    assert_eq!(std::fs::read_dir(scratch.path("empty")).unwrap().count(), 0);
    scratch.atomos(&["export", "os^", "--oci", "layout"]).code(0);
    scratch.atomos(&["export", &refused, "--oci", "layout"]).code(11);
    scratch
        .atomos(&["commit", "-b", "image", "--oci", "layout"])
        .code(0);
}
