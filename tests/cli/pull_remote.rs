//! Pulling from remotes.

use std::fs;

use crate::common::{Scratch, published};

/// Whether there is a site that answers, and a client that has its newest version.
fn at_two() -> (Scratch, String, String) {
    let scratch = published();
    let first = scratch.atomos(&["rev-parse", "os"]).ok().trim_end().to_owned();
    let second = scratch.version("2");
    scratch.publish(&[]).code(0);
    (scratch, first, second)
}

fn local(scratch: &Scratch, name: &str) -> String {
    scratch.client(&["rev-parse", name]).ok().trim_end().to_owned()
}

#[test]
fn a_pull_brings_a_version_and_says_what_it_took() {
    let (scratch, _, second) = at_two();
    let run = scratch.client(&["pull", "origin", "os"]).code(0);
    let lines: Vec<&str> = run.err.lines().collect();
    assert_eq!(lines.len(), 2, "{}", run.err);
    assert_eq!(lines[0], format!("Pulled origin:os: 2 ({})", &second[..12]));
    // All that went over the network: the site, the record, the release, the manifest, and the blobs.
    assert!(lines[1].contains(" requests for 5 new blobs of "), "{}", run.err);
    assert_eq!(run.out, "");
    assert_eq!(local(&scratch, "origin:os"), second);
    scratch.client(&["fsck"]).code(0);
    let run = scratch.client(&["pull", "origin", "os"]).code(0);
    assert_eq!(
        run.err,
        format!("Unchanged: origin:os is 2 ({})\n", &second[..12])
    );
    // As the ref is called here.
    let report = scratch.client(&["pull", "origin:os", "--json"]).json();
    assert_eq!(report["unchanged"], true);
    assert_eq!(report["traffic"]["requests"], 1, "one question, and no more");
}

#[test]
fn a_dry_run_tells_the_price_and_changes_nothing() {
    let (scratch, _, second) = at_two();
    let run = scratch.client(&["pull", "origin", "os", "--dry-run"]).code(0);
    assert!(
        run.err
            .starts_with(&format!("Would pull origin:os: 2 ({})\n", &second[..12])),
        "{}",
        run.err
    );
    assert_eq!(scratch.client(&["refs"]).ok(), "");
    let planned = scratch
        .client(&["pull", "origin", "os", "--dry-run", "--json"])
        .json();
    let done = scratch.client(&["pull", "origin", "os", "--json"]).json();
    for what in [
        "planned-bytes",
        "planned-requests",
        "missing-blobs",
        "missing-bytes",
    ] {
        assert_eq!(planned[what], done[what], "{what}");
    }
    assert_eq!(done["stored"]["blobs-added"], 5);
    let run = scratch.client(&["pull", "origin", "os", "--dry-run"]).code(0);
    assert!(run.err.starts_with("Unchanged: "), "{}", run.err);
}

#[test]
fn earlier_releases_come_by_version_or_commit_when_that_is_said() {
    let (scratch, first, second) = at_two();
    // A new machine may begin with any.
    let run = scratch.client(&["pull", "origin", "os@1"]).code(0);
    assert!(run.err.starts_with("Pulled origin:os: 1 ("), "{}", run.err);
    let report = scratch
        .client(&["pull", "origin", &format!("os@{second}"), "--json"])
        .json();
    assert_eq!(report["refs"][0]["old"], first);
    assert_eq!(report["refs"][0]["commit"], second);
    // Back is a downgrade.
    let back = format!("os@{}", &first[..14]);
    let run = scratch.client(&["pull", "origin", &back]).code(10);
    assert_eq!(
        run.err,
        "error: os 1 is release 1, and release 2 is here\nhint: --allow-downgrade takes it all the same\n"
    );
    let run = scratch
        .client(&["pull", "origin", &back, "--allow-downgrade"])
        .code(0);
    assert_eq!(
        run.err,
        format!(
            "Pulled origin:os: 1 ({})\nEvery file of it was here already\n",
            &first[..12]
        )
    );
    let run = scratch.client(&["pull", "origin", "os@9"]).code(3);
    assert_eq!(
        run.err,
        "error: the remote origin has no version 9 of os\nhint: `atomos history origin os` lists what there is\n"
    );
    scratch.client(&["pull", "origin", "os@"]).code(2);
}

#[test]
fn several_refs_move_together_or_not_at_all() {
    let (scratch, _, _) = at_two();
    scratch
        .atomos(&["commit", "-b", "beta/x", "--version", "b", "tree"])
        .code(0);
    scratch.publish(&[]).code(0);
    let run = scratch.client(&["pull", "origin", "os", "nope"]).code(3);
    assert!(
        run.err.contains("the remote origin has no ref nope"),
        "{}",
        run.err
    );
    assert_eq!(scratch.client(&["refs"]).ok(), "");
    let report = scratch
        .client(&["pull", "origin", "os", "beta/x@b", "--json"])
        .json();
    let names: Vec<_> = report["refs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].clone())
        .collect();
    assert_eq!(names, ["origin:os", "origin:beta/x"]);
    let run = scratch.client(&["pull", "origin", "os", "os@1"]).code(2);
    assert!(run.err.starts_with("error: os is named twice\n"), "{}", run.err);
    let run = scratch.client(&["pull", "origin"]).code(2);
    assert!(run.err.contains("a remote and a ref are needed"), "{}", run.err);
    let run = scratch.client(&["pull", "nowhere", "os"]).code(3);
    assert!(
        run.err.contains("hint: `atomos remote list` lists the remotes"),
        "{}",
        run.err
    );
}

#[test]
fn more_bytes_than_allowed_are_refused_before_the_first_blob() {
    let (scratch, _, second) = at_two();
    let run = scratch
        .client(&["pull", "origin", "os", "--max-bytes", "100"])
        .code(10);
    assert!(
        run.err.contains("error: the download takes ") && run.err.contains(", and 100 are allowed"),
        "{}",
        run.err
    );
    let allows = run
        .err
        .split("hint: --max-bytes ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap();
    assert_eq!(scratch.client(&["refs"]).ok(), "");
    assert_eq!(scratch.client(&["stats", "--json"]).json()["blobs"], 0);
    // What the hint says is enough, and one byte less is not.
    let less = (allows.parse::<u64>().unwrap() - 1).to_string();
    scratch
        .client(&["pull", "origin", "os", "--max-bytes", &less])
        .code(10);
    scratch
        .client(&["pull", "origin", "os", "--max-bytes", allows])
        .code(0);
    assert_eq!(local(&scratch, "origin:os"), second);
}

#[test]
fn connections_and_speed_are_limits_and_not_results() {
    let (scratch, _, second) = at_two();
    let base = ["pull", "origin", "os"];
    for bad in [
        ["--jobs", "0"],
        ["--limit-rate", "0"],
        ["--limit-rate", "fast"],
        ["--max-bytes", "x"],
    ] {
        scratch.client(&[&base[..], &bad].concat()).code(2);
    }
    scratch
        .client(&[&base[..], &["--jobs", "1", "--limit-rate", "100M"]].concat())
        .code(0);
    assert_eq!(local(&scratch, "origin:os"), second);
}

#[test]
fn a_part_of_a_version_is_known_to_be_a_part_until_the_rest_comes() {
    let (scratch, first, second) = at_two();
    let part = ["pull", "origin", "os@1", "--subpath", "usr/bin"];
    let run = scratch.client(&part).code(0);
    assert!(
        run.err
            .contains(&format!("Pulled usr/bin of origin:os: 1 ({})\n", &first[..12])),
        "{}",
        run.err
    );
    assert!(
        run.err.contains(&format!(
            "No ref names it: `atomos checkout {} --subpath usr/bin DEST`",
            &first[..12]
        )),
        "{}",
        run.err
    );
    assert_eq!(scratch.client(&["refs"]).ok(), "");
    let run = scratch.client(&["show", &first]).code(0);
    assert!(run.out.contains("\nPartial: usr/bin\n"), "{}", run.out);
    let out = scratch.client(&["checkout", &first, "part", "--subpath", "usr/bin", "--user"]);
    out.code(0);
    assert!(scratch.path("part/sh").exists());
    // Asking for more says what is here, and what brings the rest.
    for args in [
        &["checkout", &first, "whole", "--user"][..],
        &["cat", &first, "/etc/motd"],
    ] {
        let run = scratch.client(args).code(3);
        assert!(
            run.err.starts_with(&format!(
                "error: only a part of commit {} is here: usr/bin\n",
                &first[..12]
            )),
            "{}",
            run.err
        );
        assert!(
            run.err
                .contains("hint: `atomos pull REMOTE REF` without --subpath brings the rest"),
            "{}",
            run.err
        );
    }
    assert!(!scratch.path("whole").exists());
    // It is the parent of what comes next, and that is whole all the same.
    scratch.client(&["pull", "origin", "os"]).code(0);
    assert_eq!(local(&scratch, "origin:os"), second);
    assert_eq!(local(&scratch, "origin:os^"), first);
    let run = scratch.client(&["fsck"]).code(0);
    assert!(
        run.err.starts_with(&format!(
            "Only a part of commit {} is here, as was asked for: usr/bin\nEverything is whole",
            &first[..12]
        )),
        "{}",
        run.err
    );
    let report = scratch.client(&["fsck", "--json"]).json();
    assert_eq!(report["partial"][&first], serde_json::json!(["usr/bin"]));
    // Another repository takes what is whole.
    scratch
        .atomos(&["init", "--repo", "third", "--mode", "bare-user"])
        .code(0);
    scratch
        .atomos(&["pull", "--repo", "third", "--from", "client", "origin:os"])
        .code(0);
    scratch.atomos(&["fsck", "--repo", "third"]).code(0);
    // The rest.
    scratch
        .client(&["pull", "origin", "os@1", "--allow-downgrade"])
        .code(0);
    let report = scratch.client(&["fsck", "--json"]).json();
    assert_eq!(report.get("partial"), None);
    scratch
        .client(&["checkout", "origin:os", "whole", "--user"])
        .code(0);
    // A part of what is here is no part.
    let run = scratch.client(&part).code(0);
    assert!(
        run.err.contains("Unchanged") || run.err.contains("here already"),
        "{}",
        run.err
    );
    assert_eq!(scratch.client(&["fsck", "--json"]).json().get("partial"), None);
    let run = scratch
        .client(&["pull", "origin", "os", "--subpath", "usr/nowhere"])
        .code(3);
    assert!(
        run.err.starts_with("error: there is no usr/nowhere in os\n"),
        "{}",
        run.err
    );
}

#[test]
fn a_part_of_a_version_gets_no_ref_and_goes_nowhere_as_a_whole() {
    let (scratch, first, second) = at_two();
    let pull = ["pull", "origin", "os@1", "--subpath", "usr/bin"];
    scratch.client(&pull).code(0);
    scratch.client(&["pull", "origin", "os"]).code(0);
    scratch.client(&["refs", "--create", "mine=origin:os"]).code(0);
    let create = format!("part={first}");
    let also = format!("other={second}");
    for args in [
        &["refs", "--create", &create][..],
        &["refs", "--create", &also, "--create", &create],
        &["refs", "--force", "--create", &create],
        &["reset", "mine", &first],
        &["mount", &first, "on"],
        &["checkout", "--composefs", &first, "image"],
        &["checkout", "--composefs", "--subpath", "usr", &first, "image"],
        &["export", &first, "-o", "part.tar"],
        &["export", &first, "--oci", "layout"],
    ] {
        let run = scratch.client(args).code(3);
        let said = format!("error: only a part of commit {} is here: usr/bin\n", &first[..12]);
        assert!(run.err.starts_with(&said), "{args:?}: {}", run.err);
        assert!(
            run.err.contains("hint: `atomos pull REMOTE REF`"),
            "{args:?}: {}",
            run.err
        );
    }
    for made in ["image", "part.tar", "layout"] {
        assert!(!scratch.path(made).exists(), "{made}");
    }
    assert_eq!(local(&scratch, "mine"), second);
    let refs = scratch.client(&["refs"]).ok();
    assert!(!refs.contains("part") && !refs.contains("other"), "{refs}");
    scratch.client(&["fsck"]).code(0);
    // What is here is a part of it.
    scratch
        .client(&[
            "checkout",
            "--composefs",
            "--subpath",
            "/usr/./bin/",
            &first,
            "image",
        ])
        .code(0);
    scratch
        .client(&["pull", "origin", "os@1", "--allow-downgrade"])
        .code(0);
    scratch.client(&["refs", "--create", &create]).code(0);
    scratch.client(&["export", &first, "-o", "whole.tar"]).code(0);
}

#[test]
fn a_part_that_nothing_needs_is_pruned_and_forgotten() {
    let (scratch, first, _) = at_two();
    let run = scratch.client(&["pull", "origin", "os@1", "--subpath", "etc", "--json"]);
    assert_eq!(run.json()["subpath"], "etc");
    scratch.client(&["prune"]).code(0);
    let run = scratch.client(&["rev-parse", &first]);
    assert_ne!(run.code, 0);
    let report = scratch.client(&["fsck", "--json"]).json();
    assert_eq!(report.get("partial"), None);
    assert_eq!(report["blobs"], 0);
    let list = fs::read_to_string(scratch.path("client/partial.json")).unwrap();
    assert_eq!(list.trim(), "{}");
}

#[test]
fn what_nobody_vouched_for_is_marked_until_somebody_does() {
    let (scratch, _, second) = at_two();
    let site = scratch.path("site");
    let site = site.to_str().unwrap();
    let run = scratch
        .client(&["remote", "add", "lab", site, "--no-verify"])
        .code(0);
    assert!(
        run.err
            .starts_with("warning: whatever lab sends will be believed"),
        "{}",
        run.err
    );
    let run = scratch.client(&["pull", "lab", "os"]).code(0);
    assert!(
        run.err
            .contains("warning: nobody vouches for what came: the remote lab is not verified"),
        "{}",
        run.err
    );
    for args in [&["log", "lab:os"][..], &["show", "lab:os"]] {
        let run = scratch.client(args).code(0);
        assert!(run.out.contains("NOT VERIFIED"), "{args:?}: {}", run.out);
    }
    assert_eq!(
        scratch.client(&["pull", "lab", "os", "--json"]).json()["unverified"],
        true
    );
    let model = scratch.client(&["show", "lab:os", "--json"]).json();
    assert_eq!(model["unverified"], true, "{model}");
    // The trace outlives the remote.
    scratch.client(&["remote", "remove", "lab"]).code(0);
    assert!(scratch.client(&["log", "lab:os"]).ok().contains("NOT VERIFIED"));
    // The same commit, signed by whom it should be.
    scratch.client(&["pull", "origin", "os"]).code(0);
    let run = scratch.client(&["log", &second]).code(0);
    assert!(!run.out.contains("NOT VERIFIED"), "{}", run.out);
}

#[test]
fn with_the_wrong_key_nothing_comes() {
    let (scratch, _, _) = at_two();
    scratch.atomos(&["key", "generate", "other"]).code(0);
    let site = scratch.path("site");
    let add = [
        "remote",
        "add",
        "wrong",
        site.to_str().unwrap(),
        "--key",
        "other.pub",
    ];
    scratch.client(&add).code(0);
    let run = scratch.client(&["pull", "wrong", "os"]).code(7);
    assert!(
        run.err
            .starts_with("error: cannot trust file://[SCRATCH]/site/refs/os\n"),
        "{}",
        run.err
    );
    assert!(
        run.err.contains("  caused by: it has 0 of the 1 signatures"),
        "{}",
        run.err
    );
    assert!(
        run.err
            .contains("hint: `atomos remote show NAME` shows the keys that count"),
        "{}",
        run.err
    );
    assert_eq!(scratch.client(&["refs"]).ok(), "");
    assert_eq!(scratch.client(&["stats", "--json"]).json()["blobs"], 0);
}

#[test]
fn a_directory_is_a_remote_as_a_server_is_and_one_that_is_gone_is_named() {
    let (scratch, _, second) = at_two();
    let site = scratch.path("site");
    let url = format!("file://{}", site.display());
    scratch
        .client(&["remote", "add", "stick", &url, "--key", "key.pub"])
        .code(0);
    scratch.client(&["pull", "stick", "os"]).code(0);
    assert_eq!(local(&scratch, "stick:os"), second);
    fs::rename(&site, scratch.path("unplugged")).unwrap();
    let run = scratch.client(&["pull", "stick", "os"]);
    assert_ne!(run.code, 0);
    assert!(run.err.contains("[SCRATCH]/site"), "{}", run.err);
    assert_eq!(local(&scratch, "stick:os"), second);
}
