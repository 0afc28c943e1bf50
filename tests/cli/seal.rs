//! Trees that are to be verified: digests, seals, and what is said of them.

use std::path::Path;

use crate::common::{Run, Scratch, has_tool};

fn tree(scratch: &Scratch) {
    scratch.write("tree/boot/vmlinuz-6.1", "kernel");
    scratch.write("tree/boot/initrd.img-6.1", "initramfs");
    scratch.write("tree/etc/hostname", "default\n");
    scratch.write("tree/usr/bin/tool", "hello\n");
    scratch.write("tree/usr/lib/os-release", "PRETTY_NAME=\"Test\"\n");
    scratch.write("tree/usr/lib/atomos/prepare-root.conf", "composefs = verified\n");
}

fn commit(scratch: &Scratch, more: &[&str]) -> Run {
    let args = ["commit", "--os", "-b", "os", "--version", "13.1"];
    // A seal by a command takes a tool.
    let path = std::env::var_os("PATH").unwrap();
    scratch.run(
        scratch
            .command(&[&args, more, &["tree"]].concat())
            .env("PATH", path),
    )
}

#[test]
fn a_commit_records_digests_where_it_is_asked_to() {
    let scratch = Scratch::new();
    tree(&scratch);
    commit(&scratch, &[]).code(0);
    let file = |scratch: &Scratch| scratch.atomos(&["ls", "--json", "os", "/usr/bin/tool"]).json()[0].clone();
    assert_eq!(file(&scratch).get("verity"), None);
    let run = commit(&scratch, &["--verity"]).code(0);
    assert!(
        run.err.contains("Its image has the fs-verity digest "),
        "{}",
        run.err
    );
    // As repo-format.md has it.
    assert_eq!(
        file(&scratch)["verity"],
        "9c76eecc7b76fcb46199cb27b90cf59a660e10575bb0412128905129d5b1c2aa"
    );
    let shown = scratch.atomos(&["show", "--json", "os"]).json();
    let digest = shown["metadata"]["atomos.composefs.verity"].as_str().unwrap();
    assert!(run.err.contains(digest), "{}", run.err);
    assert_eq!(shown["metadata"].get("atomos.composefs.seal"), None);
}

#[test]
fn a_commit_is_sealed_by_keys_and_by_commands() {
    let scratch = Scratch::new();
    tree(&scratch);
    scratch.atomos(&["key", "generate", "one"]).code(0);
    commit(&scratch, &["--seal", "one"]).code(0);
    let seal = |scratch: &Scratch| -> serde_json::Value {
        let shown = scratch.atomos(&["show", "--json", "os"]).json();
        let text = shown["metadata"]["atomos.composefs.seal"]
            .as_str()
            .unwrap()
            .to_owned();
        serde_json::from_str(&text).unwrap()
    };
    assert_eq!(seal(&scratch)["signatures"].as_array().unwrap().len(), 1);
    let again = commit(
        &scratch,
        &["--seal", "one", "--skip-if-unchanged", "--unchanged-exit-77"],
    );
    again.code(77);
    if has_tool("openssl", "a seal by a command") {
        let make = "openssl genpkey -algorithm ed25519 -out two && openssl pkey -in two -pubout -out two.pub";
        let mut shell = std::process::Command::new("sh");
        let made = shell.args(["-c", make]).current_dir(scratch.path("")).status();
        assert!(made.unwrap().success());
        commit(&scratch, &["--seal", "two"]).code(0);
        let before = seal(&scratch);
        let command = "openssl pkeyutl -sign -rawin -in /dev/stdin -inkey two";
        let by_command = ["--seal-command", command, "--seal-public", "two.pub"];
        let skip = ["--skip-if-unchanged", "--unchanged-exit-77"];
        commit(&scratch, &[&by_command[..], &skip].concat()).code(77);
        commit(&scratch, &by_command).code(0);
        assert_eq!(seal(&scratch), before, "a key signs one thing in one way");
    }
    let run = commit(&scratch, &["--seal-command", "true"]);
    assert_ne!(run.code, 0);
    let run = commit(&scratch, &["--seal", "one.pub"]);
    assert_ne!(run.code, 0);
    assert!(run.err.contains("this is a public key"), "{}", run.err);
}

#[test]
fn what_cannot_be_deployed_is_not_sealed_and_what_is_not_sealed_is_not_deployed() {
    let scratch = Scratch::new();
    tree(&scratch);
    scratch.atomos(&["key", "generate", "one"]).code(0);
    let run = scratch.atomos(&["commit", "-b", "os", "--seal", "one", "tree"]);
    assert_ne!(run.code, 0);
    assert!(
        run.err.contains("cannot seal the tree: it is not deployable"),
        "{}",
        run.err
    );
    assert!(run.err.contains("hint: commit it with --os"), "{}", run.err);

    let machine = scratch.path("machine");
    let machine = machine.to_str().unwrap();
    let sysroot = |args: &[&str]| {
        let mut command = scratch.command(&[args, &["--sysroot", machine]].concat());
        command.env_remove("ATOMOS_REPO");
        scratch.run(&mut command)
    };
    sysroot(&["sysroot", "init", "--mode", "bare-user"]).code(0);
    sysroot(&["stateroot", "init", "os"]).code(0);
    let repo = format!("{machine}/atomos/repo");
    let deploy = |seal: &[&str]| {
        let args = [&["commit", "--repo", &repo, "--os", "-b", "os"], seal, &["tree"]].concat();
        scratch.atomos(&args).code(0);
        sysroot(&["deploy", "os"])
    };
    let lint = || {
        let report = scratch.atomos(&["lint", "--repo", &repo, "os", "--json"]);
        report.out.contains("\"not-sealed\"")
    };
    let run = deploy(&["--verity"]);
    assert_ne!(run.code, 0);
    assert!(lint());
    assert!(
        run.err.contains("it is not sealed: commit it with --seal"),
        "{}",
        run.err
    );
    // Sealed by a key that its own initramfs would not have.
    scratch.atomos(&["key", "generate", "other"]).code(0);
    let key = std::fs::read_to_string(scratch.path("other.pub")).unwrap();
    scratch.write("tree/usr/lib/atomos/seal.d/other.pub", key);
    let run = deploy(&["--seal", "one"]);
    assert_ne!(run.code, 0);
    assert!(lint());
    assert!(
        run.err.contains("are others, so it would not boot"),
        "{}",
        run.err
    );
    let run = deploy(&["--seal", "other"]);
    assert!(!lint());
    if run.code == 0 {
        let status = sysroot(&["status", "--json"]).json();
        assert_eq!(status["deployments"][0]["root"], "verified-image");
        return;
    }
    assert!(
        run.err
            .contains("the root is to be verified, and the file system of "),
        "{}",
        run.err
    );
    assert!(
        run.err.contains("hint: docs/composefs.md says what it takes")
            || run.err.contains("hint: give it the feature: tune2fs -O verity "),
        "{}",
        run.err
    );
    let beside = std::fs::read_dir(Path::new(machine).join("atomos/deploy/os/deploy")).unwrap();
    assert_eq!(beside.count(), 0, "nothing is made");
}
