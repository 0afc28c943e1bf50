use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;

use libatomos::testing::is_root_or_skip;

use crate::common::{EPOCH, Scratch};

/// The tree of `Scratch::tree`, with `--owner 0:0 --mtime zero`, whoever commits it and when.
const TREE: &str = "68810083add9d8c22749ab2bf4bb43759aeae82f8dcd432703e8407f8a531a9f";
/// Its first commit, with the subject `first`, at `EPOCH`.
const FIRST: &str = "b601bf7de87780a847e2a853c09125765b6e0cc51bb6126157f277904a96a6fa";

#[test]
fn the_digest_stands_alone_on_stdout_and_a_summary_on_stderr() {
    let scratch = Scratch::new();
    scratch.tree();
    let run = scratch
        .atomos(&[
            "commit", "-b", "os", "-s", "first", "--owner", "0:0", "--mtime", "zero", "tree",
        ])
        .code(0);
    assert_eq!(run.out, format!("{FIRST}\n"));
    assert_eq!(
        run.err,
        format!(
            "Committed {}: 3 files, 17 bytes; 3 new blobs, 17 bytes\n",
            &FIRST[..12]
        )
    );
    assert_eq!(
        scratch.atomos(&["rev-parse", "os^{tree}"]).ok(),
        format!("{TREE}\n")
    );
}

#[test]
fn only_what_changed_is_stored() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    scratch.write("tree/etc/motd", "good morning\n");
    let report = scratch
        .atomos(&[
            "commit", "--json", "-b", "os", "--owner", "0:0", "--mtime", "zero", "tree",
        ])
        .json();
    assert_eq!(report["outcome"], "created");
    assert_eq!(report["files"], 3);
    assert_eq!(report["stats"]["blobs-added"], 1);
    assert_eq!(report["stats"]["bytes-added"], 13);
    // `etc` and the root.
    assert_eq!(report["stats"]["dirtrees-added"], 2);
}

#[test]
fn an_unchanged_tree_can_be_skipped() {
    let scratch = Scratch::new();
    scratch.tree();
    let first = scratch.commit("first");
    let skip = |more: &[&str]| {
        let mut args = vec![
            "commit",
            "-b",
            "os",
            "--owner",
            "0:0",
            "--mtime",
            "zero",
            "--skip-if-unchanged",
        ];
        args.extend(more);
        args.push("tree");
        scratch.atomos(&args)
    };
    let run = skip(&[]).code(0);
    assert_eq!(run.out, format!("{first}\n"));
    assert_eq!(
        run.err,
        format!(
            "Unchanged: the tree (3 files, 17 bytes) is that of {}\n",
            &first[..12]
        )
    );
    assert_eq!(skip(&["--unchanged-exit-77"]).code(77).out, format!("{first}\n"));
    // A ref that is new names the tree's commit all the same.
    let new = [
        "commit", "-b", "new", "--parent", "os", "--owner", "0:0", "--mtime", "zero",
    ];
    let run = scratch
        .atomos(&[&new[..], &["--skip-if-unchanged", "tree"]].concat())
        .code(0);
    assert_eq!(run.out, format!("{first}\n"));
    assert_eq!(scratch.atomos(&["rev-parse", "new"]).ok(), format!("{first}\n"));
    scratch.write("tree/new", "");
    assert_ne!(skip(&["--unchanged-exit-77"]).code(0).out, format!("{first}\n"));
}

#[test]
fn a_subject_of_two_lines_is_refused_before_anything_is_read() {
    let scratch = Scratch::new();
    scratch.tree();
    let run = scratch
        .atomos(&["commit", "-b", "os", "-s", "two\nlines", "tree"])
        .code(2);
    assert!(run.err.contains("--body"), "{}", run.err);
}

#[test]
fn parent_and_message_are_recorded() {
    let scratch = Scratch::new();
    scratch.tree();
    let first = scratch.commit("first");
    let second = scratch
        .atomos(&[
            "commit",
            "-b",
            "os",
            "--subject",
            "second",
            "--body",
            "more",
            "--version",
            "2",
            "tree",
        ])
        .ok();
    let shown = scratch.atomos(&["show", "--json", "os"]).json();
    assert_eq!(shown["commit"], second.trim_end());
    assert_eq!(shown["parent"], first.as_str());
    assert_eq!(shown["time"].to_string(), EPOCH);
    assert_eq!(
        [&shown["subject"], &shown["body"], &shown["version"]],
        ["second", "more", "2"]
    );
    scratch
        .atomos(&["commit", "-b", "os", "--parent", "none", "tree"])
        .code(0);
    assert!(
        scratch
            .atomos(&["show", "--json", "os"])
            .json()
            .get("parent")
            .is_none()
    );
    scratch
        .atomos(&["commit", "-b", "other", "--parent", &first[..8], "tree"])
        .code(0);
    assert_eq!(scratch.atomos(&["rev-parse", "other^"]).ok().trim_end(), first);
}

#[test]
fn times_follow_the_policy_and_the_epoch() {
    let scratch = Scratch::new();
    scratch.write("tree/file", "x");
    let mtime = |policy: &str| {
        scratch
            .atomos(&["commit", "-b", "os", "--mtime", policy, "tree"])
            .code(0);
        scratch.atomos(&["ls", "--json", "os"]).json()[0]["mtime"]
            .as_i64()
            .unwrap()
    };
    // The file is younger than the epoch.
    assert_eq!(mtime("keep").to_string(), EPOCH);
    assert_eq!(mtime("zero"), 0);
    assert_eq!(mtime("parent"), 0);
}

#[test]
fn a_malformed_epoch_is_not_ignored() {
    let scratch = Scratch::new();
    scratch.tree();
    let run = scratch
        .run(
            scratch
                .command(&["commit", "-b", "os", "tree"])
                .env("SOURCE_DATE_EPOCH", "today"),
        )
        .code(2);
    assert!(
        run.err.starts_with(
            "error: SOURCE_DATE_EPOCH is \"today\", and not a number of seconds since 1970\nhint: "
        ),
        "{}",
        run.err
    );
    assert_eq!(scratch.atomos(&["refs"]).ok(), "");
}

#[test]
fn a_socket_is_refused_by_name_or_left_out() {
    let scratch = Scratch::new();
    scratch.tree();
    let _listener = UnixListener::bind(scratch.path("tree/socket")).unwrap();
    let run = scratch.atomos(&["commit", "-b", "os", "tree"]).code(5);
    assert_eq!(
        run.err,
        "error: cannot commit tree/socket: it is a socket, which only a running program can make\n\
         hint: remove it, or leave such files out with --skip-special\n"
    );
    let run = scratch
        .atomos(&["commit", "-b", "os", "--skip-special", "tree"])
        .code(0);
    assert!(run.err.starts_with("warning: left out socket\n"), "{}", run.err);
}

#[test]
fn what_is_mounted_in_a_tree_is_left_out_and_told_of() {
    let scratch = Scratch::new();
    scratch.tree();
    let (tree, other) = (scratch.path("tree"), scratch.path("other"));
    std::fs::create_dir_all(tree.join("proc")).unwrap();
    std::fs::create_dir(&other).unwrap();
    std::fs::write(tree.join("hosts"), "the tree's").unwrap();
    std::fs::write(other.join("hosts"), "the machine's").unwrap();
    let run = |program: &str, args: &[&std::path::Path]| {
        let status = std::process::Command::new(program).args(args).status();
        status.is_ok_and(|status| status.success())
    };
    let bind = |what: &str, on: &str| run("mount", &["--bind".as_ref(), &other.join(what), &tree.join(on)]);
    if !is_root_or_skip("mounting in a tree") || !bind("", "proc") {
        return;
    }
    let is_file_bound = bind("hosts", "hosts");
    let committed = scratch.atomos(&["commit", "-b", "os", "tree"]);
    let json = scratch.atomos(&["--json", "commit", "-b", "os", "tree"]);
    assert!(run("umount", &[&tree.join("proc")]) && is_file_bound && run("umount", &[&tree.join("hosts")]));
    assert!(
        committed.code(0).err.starts_with(
            "warning: left out hosts\n\
             warning: left out what is mounted on proc: the tree has an empty directory there, with the owner and mode of what is mounted\n"
        )
    );
    let report: serde_json::Value = serde_json::from_str(&json.code(0).out).unwrap();
    assert_eq!(report["skipped"], serde_json::json!(["hosts", "proc"]));
    assert_eq!(report["mounted-directories"], serde_json::json!(["proc"]));
    assert!(!scratch.atomos(&["ls", "os"]).code(0).out.contains("hosts"));
}

#[test]
fn a_source_that_is_not_there_is_named() {
    let scratch = Scratch::new();
    let run = scratch.atomos(&["commit", "-b", "os", "nowhere"]).code(3);
    assert!(run.err.contains("nowhere"), "{}", run.err);
    assert!(
        run.err.contains("caused by: No such file or directory"),
        "{}",
        run.err
    );
}

#[test]
fn an_owner_is_two_numbers() {
    let scratch = Scratch::new();
    let run = scratch
        .atomos(&["commit", "-b", "os", "--owner", "root", "tree"])
        .code(2);
    assert!(run.err.contains("an owner is two numbers, as 0:0"), "{}", run.err);
}

/// A root file system with a compressed document, a link to it, and a kernel with a compressed module.
fn compressed_tree(scratch: &Scratch) {
    for path in [
        "usr/bin/true",
        "etc/passwd",
        "boot/vmlinuz-6.1",
        "boot/initrd.img-6.1",
    ] {
        scratch.write(&format!("tree/{path}"), path);
    }
    scratch.write("tree/usr/lib/modules/6.1/modules.dep", "kernel/a.ko.gz:\n");
    scratch.write("tree/usr/share/doc/a/changelog", "what changed\n");
    scratch.write("tree/usr/lib/modules/6.1/kernel/a.ko", "a module\n");
    for path in ["usr/share/doc/a/changelog", "usr/lib/modules/6.1/kernel/a.ko"] {
        let gzip = std::process::Command::new("gzip")
            .arg("-n")
            .arg(scratch.path("tree").join(path))
            .status();
        assert!(gzip.unwrap().success());
    }
    std::os::unix::fs::symlink("changelog.gz", scratch.path("tree/usr/share/doc/a/NEWS.gz")).unwrap();
}

#[test]
fn compression_is_warned_of_and_ends_on_request() {
    let scratch = Scratch::new();
    compressed_tree(&scratch);
    let commit = |more: &[&str]| {
        let mut args = vec!["commit", "-b", "os", "--os", "--owner", "0:0", "--mtime", "zero"];
        args.extend(more);
        args.push("tree");
        scratch.atomos(&args)
    };
    let run = commit(&[]).code(0);
    for what in ["compressed modules: 1 file", "compressed documents: 1 file"] {
        assert!(run.err.contains(&format!("warning: {what}, ")), "{}", run.err);
    }
    assert!(run.err.contains("(an estimate)"), "{}", run.err);
    let found = |run: serde_json::Value| -> Vec<String> {
        let findings = run["findings"].as_array().unwrap().clone();
        let costly = findings
            .iter()
            .filter(|finding| finding["cost"]["bytes"].is_u64());
        costly
            .map(|finding| finding["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        found(serde_json::from_str(&scratch.atomos(&["lint", "--json", "os"]).out).unwrap()),
        ["compressed-modules", "compressed-documents"]
    );

    let run = commit(&["--unpack", "docs"]).code(0);
    assert!(run.err.contains("warning: compressed modules"), "{}", run.err);
    assert!(!run.err.contains("warning: compressed documents"), "{}", run.err);
    assert!(run.err.contains("  unpacked documents: 1 file, "), "{}", run.err);
    assert_eq!(
        scratch.atomos(&["cat", "os", "usr/share/doc/a/changelog"]).ok(),
        "what changed\n"
    );

    let first = commit(&["--unpack", "modules,docs"]).ok();
    let again = commit(&["--unpack", "docs", "--unpack", "modules"]).ok();
    let tree = |commit: &str| {
        scratch
            .atomos(&["rev-parse", &format!("{}^{{tree}}", commit.trim_end())])
            .ok()
    };
    assert_eq!(tree(&first), tree(&again), "the same tree each time");
    assert_eq!(
        scratch
            .atomos(&["cat", "os", "usr/lib/modules/6.1/modules.dep"])
            .ok(),
        "kernel/a.ko:\n"
    );
    assert_eq!(
        scratch
            .atomos(&["cat", "os", "usr/lib/modules/6.1/kernel/a.ko"])
            .ok(),
        "a module\n"
    );
    let listed = scratch.atomos(&["ls", "-R", "os", "usr/share/doc"]).ok();
    assert!(listed.contains("/NEWS\n") && !listed.contains(".gz"), "{listed}");
    // The directory itself is as it was.
    assert!(scratch.path("tree/usr/share/doc/a/changelog.gz").is_file());
}

#[test]
fn a_damaged_module_is_named_and_nothing_is_committed() {
    let scratch = Scratch::new();
    compressed_tree(&scratch);
    let path = scratch.path("tree/usr/lib/modules/6.1/kernel/a.ko.gz");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
    let run = scratch
        .atomos(&["commit", "-b", "os", "--os", "--unpack", "modules", "tree"])
        .code(5);
    assert!(
        run.err
            .contains("error: cannot unpack tree/usr/lib/modules/6.1/kernel/a.ko.gz"),
        "{}",
        run.err
    );
    assert_eq!(scratch.atomos(&["refs"]).ok(), "");
}

#[test]
fn what_to_unpack_is_one_of_two_and_belongs_to_os() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch
        .atomos(&["commit", "-b", "os", "--unpack", "docs", "tree"])
        .code(2);
    scratch
        .atomos(&["commit", "-b", "os", "--os", "--unpack", "kernel", "tree"])
        .code(2);
}

#[test]
fn a_tree_that_is_adopted_is_consumed() {
    let scratch = Scratch::new();
    scratch.tree();
    let kept = scratch.commit("first");
    let adopted = scratch
        .atomos(&[
            "commit", "--adopt", "-b", "os", "--owner", "0:0", "--mtime", "zero", "tree",
        ])
        .ok();
    assert_eq!(fs::read_dir(scratch.path("tree")).unwrap().count(), 0);
    let root = |commit: &str| {
        scratch
            .atomos(&["rev-parse", &format!("{}^{{tree}}", commit.trim())])
            .ok()
    };
    assert_eq!(root(&kept), root(&adopted));
    scratch.atomos(&["fsck"]).code(0);
}

#[test]
fn a_commit_that_distrusts_the_cache_is_the_same() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    let tree = |options: &[&str]| {
        let words = [&["commit", "-b", "os", "--mtime", "zero"], options, &["tree"]].concat();
        let commit = scratch.atomos(&words).ok();
        scratch
            .atomos(&["rev-parse", &format!("{}^{{tree}}", commit.trim())])
            .ok()
    };
    assert_eq!(tree(&["--no-cache"]), tree(&[]));
}

#[test]
fn a_repository_does_not_go_with_the_tree_that_is_adopted() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.write("precious", "precious");
    scratch.commit("first");
    for tree in [".", "repo", "repo/objects", "repo/../repo"] {
        let run = scratch.atomos(&["commit", "--adopt", "-b", "a", tree]).code(5);
        assert!(run.err.contains("would go with them"), "{tree}: {}", run.err);
        assert!(
            run.err.contains("hint: move the repository"),
            "{tree}: {}",
            run.err
        );
    }
    assert!(scratch.path("precious").exists() && scratch.path("tree/bin/sh").exists());
    scratch.atomos(&["fsck"]).code(0);
    // A copy of it harms nobody, and is rarely meant.
    let run = scratch.atomos(&["commit", "-b", "a", "."]).code(0);
    assert!(
        run.err.contains("lies in ., and is committed with it"),
        "{}",
        run.err
    );
    let run = scratch.atomos(&["commit", "-b", "a", "tree"]).code(0);
    assert!(!run.err.contains("warning"), "{}", run.err);
}

#[test]
fn a_report_is_whole_whatever_the_names_in_it_are() {
    let scratch = Scratch::new();
    scratch.tree();
    let odd = std::ffi::OsStr::from_bytes(b"tree/x\xff");
    let _socket =
        std::os::unix::net::UnixListener::bind(scratch.path("tree").parent().unwrap().join(odd)).unwrap();
    let report = scratch
        .atomos(&["commit", "--json", "--skip-special", "-b", "os", "tree"])
        .json();
    assert_eq!(report["skipped"], serde_json::json!(["x\u{fffd}"]));
}

#[test]
fn a_file_in_the_place_of_a_directory_is_said_to_be_none() {
    let scratch = Scratch::new();
    scratch.write("file", "bytes");
    let run = scratch.atomos(&["commit", "-b", "os", "file"]).code(5);
    assert_eq!(
        run.err,
        "error: file is not a directory\nhint: an archive is committed by --tar FILE\n"
    );
}
