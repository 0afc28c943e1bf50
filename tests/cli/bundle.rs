use std::fs;

use crate::common::{EPOCH, Scratch, published};

/// A repository that knows whom to believe, and reaches nobody.
fn offline(scratch: &Scratch, repo: &str) {
    scratch
        .atomos(&["init", "--repo", repo, "--mode", "bare-user"])
        .code(0);
    let add = [
        "remote", "add", "--repo", repo, "origin", "/nowhere", "--key", "key.pub",
    ];
    scratch.atomos(&add).code(0);
}

#[test]
fn an_update_goes_in_one_file_to_a_machine_without_a_network() {
    let scratch = published();
    let first = ["bundle", "create", "site", "os", "-o", "first.atomos"];
    let run = scratch.atomos(&first).code(0);
    assert!(run.err.starts_with("Wrote first.atomos: os 1 ("), "{}", run.err);
    offline(&scratch, "machine");
    let apply = |file: &str, more: &[&str]| {
        let base = ["bundle", "apply", "--repo", "machine", file, "--remote", "origin"];
        scratch.atomos(&[&base[..], more].concat())
    };
    let run = apply("first.atomos", &[]).code(0);
    assert!(run.err.starts_with("Pulled origin:os: 1 ("), "{}", run.err);

    let second = scratch.version("2");
    scratch.publish(&[]).code(0);
    let report = scratch
        .atomos(&[
            "bundle",
            "create",
            "site",
            "os",
            "--from",
            "1",
            "-o",
            "update.atomos",
            "--json",
        ])
        .json();
    assert_eq!(
        (&report["commit"], &report["version"]),
        (&second.as_str().into(), &"2".into())
    );
    assert_eq!(report["blobs"], 1);
    let size = |file: &str| fs::metadata(scratch.path(file)).unwrap().len();
    assert!(size("update.atomos") < size("first.atomos") / 2);
    let report = apply("update.atomos", &["--json"]).json();
    assert_eq!(report["refs"][0]["commit"], second);
    scratch.atomos(&["fsck", "--repo", "machine"]).code(0);
    let run = apply("update.atomos", &[]).code(0);
    assert!(run.err.starts_with("Unchanged: origin:os is 2 ("), "{}", run.err);
    // The way back is an older record, and that is never taken.
    let run = apply("first.atomos", &["--allow-downgrade"]).code(7);
    assert!(
        run.err.contains("is older than what this machine has seen"),
        "{}",
        run.err
    );
    assert!(!scratch.path("update.atomos.new").exists());
}

#[test]
fn a_bundle_for_another_version_says_so() {
    let scratch = published();
    scratch.version("2");
    scratch.publish(&[]).code(0);
    scratch
        .atomos(&[
            "bundle",
            "create",
            "site",
            "os",
            "--from",
            "1",
            "-o",
            "update.atomos",
        ])
        .code(0);
    offline(&scratch, "machine");
    let run = scratch
        .atomos(&[
            "bundle",
            "apply",
            "--repo",
            "machine",
            "update.atomos",
            "--remote",
            "origin",
        ])
        .code(3);
    assert!(
        run.err.contains("error: os 2 (release 2) cannot be had there"),
        "{}",
        run.err
    );
    assert!(run.err.contains("update.atomos:manifests/"), "{}", run.err);
    assert!(
        run.err.contains("bundles are for certain versions"),
        "{}",
        run.err
    );
    assert_eq!(scratch.atomos(&["refs", "--repo", "machine"]).ok(), "");
}

#[test]
fn a_bundle_leads_to_the_barrier_first_and_says_how_to_go_on() {
    let scratch = published();
    let apply =
        |file: &str| scratch.atomos(&["bundle", "apply", "--repo", "machine", file, "--remote", "origin"]);
    let create = |from: &[&str], file: &str| {
        scratch.atomos(&[&["bundle", "create", "site", "os", "-o", file], from].concat())
    };
    create(&[], "1.atomos").code(0);
    offline(&scratch, "machine");
    apply("1.atomos").code(0);
    for version in ["2", "3"] {
        scratch.write("tree/usr/lib/more", version);
        scratch.version(version);
        scratch.publish(&[]).code(0);
    }
    scratch.version("4");
    scratch.publish(&["--min-from", "3"]).code(0);
    // What leads a new machine to the newest release leads no old one past the barrier.
    create(&[], "all.atomos").code(0);
    let run = apply("all.atomos").code(3);
    assert!(
        run.err
            .contains("hint: the bundle was made for machines with another version"),
        "{}",
        run.err
    );
    assert!(!run.err.contains("mirror"), "{}", run.err);
    let run = create(&["--from", "1"], "barrier.atomos").code(0);
    assert!(
        run.err
            .contains("warning: os 4 has to be reached by way of 3 first"),
        "{}",
        run.err
    );
    assert!(
        run.err
            .contains("`atomos bundle create site os --from 3 -o FILE` makes the one that leads on"),
        "{}",
        run.err
    );
    let run = apply("barrier.atomos").code(0);
    assert!(run.err.contains("Pulled origin:os: 3 ("), "{}", run.err);
    let run = create(&["--from", "3"], "last.atomos").code(0);
    assert!(!run.err.contains("warning"), "{}", run.err);
    let run = apply("last.atomos").code(0);
    assert!(run.err.contains("Pulled origin:os: 4 ("), "{}", run.err);
    scratch.atomos(&["fsck", "--repo", "machine"]).code(0);
    // Where the barrier is gone, nobody is given what leads nowhere.
    scratch
        .atomos(&["site", "prune", "site", "--keep", "1", "--grace", "0"])
        .code(0);
    let run = create(&["--from", "1"], "none.atomos").code(3);
    assert!(
        run.err.contains(
            "error: machines with os 1 have to take release 3 first, and the site does not have it any more"
        ),
        "{}",
        run.err
    );
    assert!(!scratch.path("none.atomos").exists());
}

#[test]
fn an_expired_bundle_is_taken_only_when_that_is_said() {
    let scratch = published();
    // Signed for a day in the past of this machine, whose clock cannot be set here: so by its future.
    scratch
        .atomos(&["bundle", "create", "site", "os", "-o", "old.atomos"])
        .code(0);
    offline(&scratch, "machine");
    // What was seen tells the time: a record of long after this one's expiry.
    let state =
        serde_json::json!({"newest-time": EPOCH.parse::<i64>().unwrap() + 10 * 365 * 86_400, "refs": {}});
    fs::write(scratch.path("machine/remotes/origin.state"), state.to_string()).unwrap();
    let apply = [
        "bundle",
        "apply",
        "--repo",
        "machine",
        "old.atomos",
        "--remote",
        "origin",
    ];
    let run = scratch.atomos(&apply).code(7);
    assert!(run.err.contains("was good until "), "{}", run.err);
    assert!(run.err.contains("--accept-expired"), "{}", run.err);
    assert_eq!(scratch.atomos(&["refs", "--repo", "machine"]).ok(), "");
    let run = scratch
        .atomos(&[&apply[..], &["--accept-expired"]].concat())
        .code(0);
    assert!(run.err.starts_with("Pulled origin:os: 1 ("), "{}", run.err);
}

#[test]
fn what_cannot_be_a_bundle_is_named() {
    let scratch = published();
    offline(&scratch, "machine");
    for (args, code, said) in [
        (
            &["create", "site", "nope", "-o", "b"][..],
            3,
            "there is no ref nope on the site site",
        ),
        (
            &["create", "site", "os", "--from", "9", "-o", "b"],
            3,
            "os has no release 9 on this site",
        ),
        (&["create", "tree", "os", "-o", "b"], 10, "tree is no site"),
        (
            &["apply", "key.pub", "--remote", "origin"],
            6,
            "cannot get key.pub: it is no bundle",
        ),
        (
            &["apply", "nowhere", "--remote", "origin"],
            3,
            "cannot open ./nowhere",
        ),
        (&["apply", "key.pub", "--remote", "nope"], 6, "it is no bundle"),
        (&["apply", "key.pub"], 2, "--remote <NAME>"),
    ] {
        let run = scratch
            .atomos(&[&["bundle", "--repo", "machine"], args].concat())
            .code(code);
        assert!(run.err.contains(said), "{said}: {}", run.err);
        assert!(
            !scratch.path("b").exists() && !scratch.path("b.new").exists(),
            "{said}"
        );
    }
    // Cut off on its way.
    scratch
        .atomos(&["bundle", "create", "site", "os", "-o", "whole"])
        .code(0);
    let whole = fs::read(scratch.path("whole")).unwrap();
    for len in [0, 10, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(scratch.path("cut"), &whole[..len]).unwrap();
        let run = scratch
            .atomos(&[
                "bundle", "--repo", "machine", "apply", "cut", "--remote", "origin",
            ])
            .code(6);
        assert!(
            run.err.contains("cut: it was cut off: it has "),
            "{len}: {}",
            run.err
        );
    }
    // Signed by somebody else.
    scratch
        .atomos(&["bundle", "create", "site", "os", "-o", "b"])
        .code(0);
    scratch.atomos(&["key", "generate", "other"]).code(0);
    let add = [
        "remote",
        "add",
        "--repo",
        "machine",
        "other",
        "/nowhere",
        "--key",
        "other.pub",
    ];
    scratch.atomos(&add).code(0);
    let run = scratch
        .atomos(&["bundle", "apply", "--repo", "machine", "b", "--remote", "other"])
        .code(7);
    assert!(run.err.contains("error: cannot trust b:refs/os"), "{}", run.err);
    assert!(run.err.contains("0 of the 1 signatures"), "{}", run.err);
}

#[test]
fn a_bundle_says_why_it_cannot_be_made() {
    let scratch = published();
    let create = |more: &[&str]| {
        let base = ["bundle", "create", "site", "os", "-o"];
        scratch.atomos(&[&base[..], more].concat())
    };
    let run = create(&["-"]).code(2);
    assert!(run.err.contains("hint: -o /dev/stdout"), "{}", run.err);
    assert!(!scratch.path("-").exists());
    for version in ["2", "3"] {
        scratch.version(version);
        scratch.publish(&[]).code(0);
    }
    scratch
        .atomos(&["site", "prune", "site", "--keep", "1", "--grace", "0"])
        .code(0);
    let run = create(&["update.atomos", "--from", "1"]).code(3);
    assert!(run.err.contains("os 1 was pruned"), "{}", run.err);
    for file in fs::read_dir(scratch.path("site/packs")).unwrap() {
        let file = file.unwrap().path();
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&file, bytes).unwrap();
    }
    let run = create(&["all.atomos"]).code(6);
    assert!(run.err.contains("site/packs/"), "{}", run.err);
    assert!(run.err.contains("`atomos site fsck DIR`"), "{}", run.err);
    assert!(!scratch.path("all.atomos").exists());
}
