use std::fs;

use crate::common::published;

#[test]
fn a_mirror_is_a_site_that_machines_can_pull_from() {
    let scratch = published();
    let run = scratch
        .client(&["mirror", "origin", "os", "--to", "copy"])
        .code(0);
    assert!(
        run.err.starts_with("Copied ") && run.err.ends_with("; 0 were there\n"),
        "{}",
        run.err
    );
    scratch
        .atomos(&["site", "fsck", "copy", "--key", "key.pub"])
        .code(0);
    let copy = scratch.path("copy");
    scratch
        .client(&[
            "remote",
            "add",
            "copy",
            copy.to_str().unwrap(),
            "--key",
            "key.pub",
        ])
        .code(0);
    scratch.client(&["pull", "copy", "os"]).code(0);
    // Again: nothing is fetched that is there.
    let report = scratch
        .client(&["mirror", "origin", "os", "--to", "copy", "--json"])
        .json();
    assert_eq!((&report["files"], &report["bytes"]), (&0.into(), &0.into()));
    assert!(report["present"].as_u64().unwrap() >= 4);
    // A new release: only what is new.
    scratch.version("2");
    scratch.publish(&[]).code(0);
    let report = scratch
        .client(&["mirror", "origin", "os", "--to", "copy", "--json"])
        .json();
    assert!(report["present"].as_u64().unwrap() > 0);
    let run = scratch.client(&["pull", "copy", "os"]).code(0);
    assert!(run.err.starts_with("Pulled copy:os: 2 ("), "{}", run.err);
    scratch
        .atomos(&["site", "fsck", "copy", "--key", "key.pub"])
        .code(0);
}

#[test]
fn a_damaged_site_is_not_copied() {
    let scratch = published();
    let pack = fs::read_dir(scratch.path("site/packs"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let run = scratch.client(&["mirror", "origin", "os", "--to", "copy"]);
    assert_eq!(run.code, 6, "{}", run.err);
    assert!(run.err.contains("site/packs/"), "{}", run.err);
    assert!(run.err.contains("not those of its name"), "{}", run.err);
    assert!(
        !scratch.path("copy/refs").exists(),
        "no record without what it needs"
    );
}

#[test]
fn a_mirror_does_not_mix_with_something_else() {
    let scratch = published();
    let run = scratch
        .client(&["mirror", "origin", "os", "--to", "tree"])
        .code(10);
    assert!(
        run.err.contains("cannot mirror into tree: it has ") && run.err.contains("and no atomos.json"),
        "{}",
        run.err
    );
    assert!(run.err.contains("hint: choose an empty directory"), "{}", run.err);
    assert!(!scratch.path("tree/packs").exists());
    // Another repository's site.
    scratch.write("other/site/atomos.json", "");
    fs::remove_dir_all(scratch.path("other")).unwrap();
    scratch
        .atomos(&["init", "--repo", "other", "--mode", "bare-user"])
        .code(0);
    scratch
        .atomos(&["commit", "--repo", "other", "-b", "os", "tree"])
        .code(0);
    scratch
        .atomos(&["publish", "--repo", "other", "--key", "key", "--to", "other-site"])
        .code(0);
    let record = fs::read(scratch.path("other-site/refs/os")).unwrap();
    let run = scratch
        .client(&["mirror", "origin", "os", "--to", "other-site"])
        .code(10);
    assert!(run.err.contains("it is a site of repository "), "{}", run.err);
    assert_eq!(fs::read(scratch.path("other-site/refs/os")).unwrap(), record);
    let run = scratch
        .client(&["mirror", "origin", "nope", "--to", "copy"])
        .code(3);
    assert!(
        run.err.contains("the remote origin has no ref nope"),
        "{}",
        run.err
    );
}

#[test]
fn everybody_may_read_a_mirror_whatever_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = published();
    let program = env!("CARGO_BIN_EXE_atomos");
    let script = format!("umask 077; exec {program} mirror origin os --to copy --repo client");
    let status = std::process::Command::new("sh")
        .args(["-c", &script])
        .current_dir(scratch.path(""))
        .status()
        .unwrap();
    assert!(status.success());
    let mut stack = vec![scratch.path("copy")];
    let mut files = 0;
    while let Some(dir) = stack.pop() {
        let mode = fs::metadata(&dir).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755, "{}", dir.display());
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.ends_with(".mirror") {
                continue;
            }
            if path.is_dir() {
                stack.push(path);
                continue;
            }
            files += 1;
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o644, "{}", path.display());
        }
    }
    assert!(files >= 5, "{files}");
}

#[test]
fn refs_that_lie_within_one_another_are_refused_before_anything_is_copied() {
    let scratch = published();
    let run = scratch
        .client(&["mirror", "origin", "os", "os/edge", "--to", "copy"])
        .code(10);
    assert!(
        run.err
            .contains("a ref cannot be called os/edge: there is os, and one would lie within the other"),
        "{}",
        run.err
    );
    assert!(!scratch.path("copy").exists());
    scratch
        .client(&["mirror", "origin", "os", "--to", "copy"])
        .code(0);
    for (file, name) in [("refs/other/x", "other"), ("refs/other", "other/x")] {
        let _ = fs::remove_dir_all(scratch.path("copy/refs/other"));
        scratch.write(&format!("copy/{file}"), "a record");
        let run = scratch
            .client(&["mirror", "origin", name, "--to", "copy"])
            .code(10);
        assert!(
            run.err.contains(&format!("a ref cannot be called {name}: ")),
            "{}",
            run.err
        );
    }
}

#[test]
fn another_mirror_is_waited_for_as_long_as_is_said() {
    let scratch = published();
    scratch
        .client(&["mirror", "origin", "os", "--to", "copy"])
        .code(0);
    let lock = fs::File::open(scratch.path("copy/.mirror/lock")).unwrap();
    lock.lock().unwrap();
    let began = std::time::Instant::now();
    let run = scratch
        .client(&["mirror", "origin", "os", "--to", "copy", "--lock-timeout", "0"])
        .code(8);
    assert!(run.err.contains("the mirror"), "{}", run.err);
    assert!(began.elapsed().as_secs() < 20);
}
