//! Rotation and threshold, as publisher, holders of root keys and machines go through it.

use std::fs;

use serde_json::json;

use crate::common::{Run, Scratch, published};

/// Makes keys, and returns their ids.
fn keys<const N: usize>(scratch: &Scratch, names: [&str; N]) -> [String; N] {
    names.map(|name| {
        let out = scratch.atomos(&["key", "generate", name]).ok();
        out.trim_end().to_owned()
    })
}

fn create(scratch: &Scratch, args: &[&str]) -> Run {
    scratch.atomos(&[&["key", "set", "create"], args].concat())
}

fn sign(scratch: &Scratch, file: &str, key: &str) {
    scratch
        .atomos(&["key", "set", "sign", file, "--key", key])
        .code(0);
}

/// Goes over to a set whose every role is one new key, as the first key or the last set's root says.
fn rotate(scratch: &Scratch, number: u32, old: &str) -> String {
    let new = format!("key-{number}");
    let public = format!("{new}.pub");
    let file = format!("keys-{number}.json");
    keys(scratch, [new.as_str()]);
    create(
        scratch,
        &[
            "--site", "site", "--root", &public, "--record", &public, "-o", &file,
        ],
    )
    .code(0);
    sign(scratch, &file, old);
    sign(scratch, &file, &new);
    scratch
        .publish(&["--key-set", &file, "--key", &new, "--pinned", "key.pub"])
        .code(0);
    new
}

#[test]
fn holders_of_root_keys_sign_on_different_machines_until_it_is_enough() {
    let scratch = published();
    let [first] = [scratch.atomos(&["key", "show", "key"]).ok().trim_end().to_owned()];
    let [a, b, c, online] = keys(&scratch, ["a", "b", "c", "online"]);
    let run = create(
        &scratch,
        &[
            "--site",
            "site",
            "--root",
            "a.pub",
            "--root",
            "b.pub",
            "--root",
            "c.pub",
            "--root-threshold",
            "2",
            "--record",
            "online.pub",
            "-o",
            "keys-1.json",
        ],
    )
    .code(0);
    assert!(run.out.starts_with("Key set: 1\nRepository: "), "{}", run.out);
    assert!(run.out.contains("\nRoot: 2 of 3\n"), "{}", run.out);
    assert!(
        run.out
            .ends_with(&format!("Record: 1 of 1\n  {online}\nRelease: as records\n")),
        "{}",
        run.out
    );
    let mut roots = [a.as_str(), &b, &c];
    roots.sort_unstable();
    assert_eq!(
        run.err,
        format!(
            "It takes 2 more signatures by root keys of its own: {}\n\
             A key that machines were given has to sign it, too\n",
            roots.join(", ")
        )
    );

    // Each works on a copy, where there is nothing else: no repository, no site.
    for holder in ["a", "b", "key"] {
        let dir = format!("{holder}-machine");
        fs::create_dir(scratch.path(&dir)).unwrap();
        for file in [holder, "keys-1.json"] {
            fs::copy(scratch.path(file), scratch.path(&format!("{dir}/{file}"))).unwrap();
        }
        let mut command = scratch.command(&["key", "set", "sign", "keys-1.json", "--key", holder]);
        command.env_remove("ATOMOS_REPO").current_dir(scratch.path(&dir));
        scratch.run(&mut command).code(0);
    }

    // One of two is not enough, and nothing is published.
    let before = scratch.site_files();
    let go = |file: &str| scratch.publish(&["--key-set", file, "--key", "online", "--pinned", "key.pub"]);
    let run = go("a-machine/keys-1.json").code(7);
    assert!(
        run.err
            .contains("cannot publish key set 1: it takes 2 signatures by its own root keys, and has 1"),
        "{}",
        run.err
    );
    let merge = |copy: &str| scratch.atomos(&["key", "set", "merge", "keys-1.json", copy]);
    merge("a-machine/keys-1.json").code(0);
    let run = merge("b-machine/keys-1.json").code(0);
    assert!(
        run.err.starts_with("b-machine/keys-1.json: 1 new signature\n"),
        "{}",
        run.err
    );
    // Enough of its own, and no machine would know.
    let run = go("keys-1.json").code(7);
    assert!(
        run.err.contains(&format!(
            "it takes 1 signatures by the keys that machines were given, and has 0; these have not signed: {first}"
        )),
        "{}",
        run.err
    );
    let run = scratch
        .publish(&["--key-set", "keys-1.json", "--key", "online"])
        .code(7);
    assert!(
        run.err
            .contains(&format!("the record of os is signed by {first}")),
        "{}",
        run.err
    );
    assert!(
        run.err
            .contains("hint: name the keys that machines were given with --pinned"),
        "{}",
        run.err
    );
    assert_eq!(scratch.site_files(), before);

    merge("key-machine/keys-1.json").code(0);
    // A copy that came already brings nothing.
    let run = merge("a-machine/keys-1.json").code(0);
    assert!(
        run.err.starts_with("a-machine/keys-1.json: 0 new signatures\n"),
        "{}",
        run.err
    );
    let run = go("keys-1.json").code(0);
    assert!(run.err.contains("Renewed os 1 ("), "{}", run.err);
    assert!(run.err.contains("Key set 1 counts now\n"), "{}", run.err);

    // The machine follows; and what it knows then is the new key alone.
    scratch.client(&["pull", "origin", "os"]).code(0);
    let model = scratch.client(&["remote", "show", "origin", "--json"]).json();
    assert_eq!(model["key-set"], 1);
    assert_eq!(model["keys"], json!([online]));
    scratch
        .atomos(&["site", "fsck", "site", "--key", "key.pub"])
        .code(0);
    scratch
        .atomos(&["site", "fsck", "site", "--key", "a.pub"])
        .code(0);
    // A machine that was given a key which did not sign cannot follow.
    let run = scratch
        .atomos(&["site", "fsck", "site", "--key", "c.pub"])
        .code(6);
    assert!(
        run.out.starts_with("keys/1: it has 0 of the 1 signatures"),
        "{}",
        run.out
    );
    let run = scratch.publish(&["--key", "key", "--renew"]).code(7);
    assert!(
        run.err.contains(&format!(
            "signing the record takes 1 of these keys, and 0 were given: {online}"
        )),
        "{}",
        run.err
    );
    // Publishing it again is no mistake.
    scratch
        .publish(&["--key-set", "keys-1.json", "--key", "online"])
        .code(0);
    let shown = scratch.atomos(&["key", "set", "show", "--site", "site"]).code(0);
    assert!(shown.out.contains(&format!("  {a}  signed\n")), "{}", shown.out);
    assert!(shown.out.contains(&format!("  {c}\n")), "{}", shown.out);
    assert!(
        shown.out.ends_with(&format!("Signed also by: {first}\n")),
        "{}",
        shown.out
    );
    assert_eq!(shown.err, "");
}

#[test]
fn a_client_that_slept_across_three_rotations_follows() {
    let scratch = published();
    scratch.client(&["pull", "origin", "os"]).code(0);
    let mut old = "key".to_owned();
    for number in 1..=3 {
        old = rotate(&scratch, number, &old);
    }
    let third = scratch.version("2");
    scratch.publish(&["--key", &old]).code(0);
    // Not a byte was compressed anew for the rotations.
    assert_eq!(fs::read_dir(scratch.path("site/packs")).unwrap().count(), 2);

    let run = scratch.client(&["pull", "origin", "os"]).code(0);
    assert!(run.err.starts_with("Pulled origin:os: 2 ("), "{}", run.err);
    assert_eq!(scratch.client(&["rev-parse", "origin:os"]).ok().trim_end(), third);
    let model = scratch.client(&["remote", "show", "origin", "--json"]).json();
    assert_eq!(model["key-set"], 3);
    // A new machine gets there from the oldest key, and from the newest set without what came before it.
    let site = scratch.path("site");
    let site = site.to_str().unwrap();
    for (name, trust, file, code) in [
        ("oldest", "--key", "key.pub", 0),
        ("newest", "--key-set", "site/keys/3", 0),
        // It did not sign the first set, and nothing else says what is true there.
        ("late", "--key", "key-3.pub", 7),
    ] {
        scratch
            .client(&["remote", "add", name, site, trust, file])
            .code(0);
        let run = scratch.client(&["pull", name, "os"]).code(code);
        assert!(code == 0 || run.err.contains("site/keys/1"), "{}", run.err);
    }
    let model = scratch.client(&["remote", "show", "newest", "--json"]).json();
    assert_eq!(model["key-set"], 3);
    scratch
        .client(&[
            "remote",
            "add",
            "both",
            site,
            "--key-set",
            "site/keys/3",
            "--key",
            "key.pub",
        ])
        .code(2);
    let run = scratch
        .client(&["remote", "add", "wrong", site, "--key-set", "key.pub"])
        .code(5);
    assert!(run.err.contains("cannot use the key set key.pub"), "{}", run.err);
    // Whoever stole the first key signs for nobody.
    let run = scratch.publish(&["--key", "key", "--renew"]).code(7);
    assert!(
        run.err.contains("signing the record takes 1 of these keys"),
        "{}",
        run.err
    );
}

#[test]
fn the_end_of_a_key_set_is_told_before_it_comes() {
    let scratch = published();
    keys(&scratch, ["next"]);
    for (days, is_told) in [("31", false), ("10", true)] {
        let roles = ["--root", "next.pub", "--record", "next.pub"];
        let more = ["--expires", days, "--site", "site", "-o", days];
        create(&scratch, &[&roles[..], &more].concat()).code(0);
        sign(&scratch, days, "key");
        sign(&scratch, days, "next");
        let to = format!("site-{days}");
        let copied = std::process::Command::new("cp")
            .args(["-a", "site", &to])
            .current_dir(scratch.path(""))
            .status();
        assert!(copied.unwrap().success());
        let run = scratch
            .atomos(&[
                "publish",
                "--to",
                &to,
                "--key-set",
                days,
                "--key",
                "next",
                "--pinned",
                "key.pub",
            ])
            .code(0);
        assert_eq!(
            run.err.contains("warning: key set 1 is good until "),
            is_told,
            "{}",
            run.err
        );
    }
}

#[test]
fn a_key_set_that_the_site_has_lost_is_told() {
    let scratch = published();
    let first = rotate(&scratch, 1, "key");
    let second = rotate(&scratch, 2, &first);
    assert!(
        !scratch
            .publish(&["--key", &second])
            .code(0)
            .err
            .contains("key set")
    );
    fs::remove_file(scratch.path("site/keys/1")).unwrap();
    let run = scratch.publish(&["--key", &second]).code(0);
    assert!(
        run.err.contains("warning: the site had lost 1 key set") && run.err.contains("keys/1"),
        "{}",
        run.err
    );
}

#[test]
fn a_new_set_keeps_what_is_not_said_anew() {
    let scratch = published();
    let [a, b, online, offline] = keys(&scratch, ["a", "b", "online", "offline"]);
    create(
        &scratch,
        &[
            "--root",
            "a.pub",
            "--root",
            "b.pub",
            "--record",
            "online.pub",
            "--release",
            "offline.pub",
            "--expires",
            "700",
            "-o",
            "keys-1.json",
        ],
    )
    .code(0);
    keys(&scratch, ["online-2"]);
    let run = create(
        &scratch,
        &[
            "--after",
            "keys-1.json",
            "--record",
            "online-2.pub",
            "-o",
            "keys-2.json",
            "--json",
        ],
    );
    let model = run.json();
    assert_eq!(model["number"], 2);
    let mut roots = [a.clone(), b.clone()];
    roots.sort_unstable();
    assert_eq!(model["root"], json!({"keys": roots, "threshold": 1}));
    assert_eq!(model["release"], json!({"keys": [offline], "threshold": 1}));
    assert_eq!(model["own"]["missing"], 1);
    assert_eq!(model["before"]["missing"], 1);
    assert_eq!(
        model.get("expires"),
        None,
        "a life is said anew, or there is none"
    );
    // Keys that nobody names any more are not in it.
    assert!(!model.to_string().contains(&online));
    // A lost root key goes by naming the others, for which their ids will do.
    let model = create(
        &scratch,
        &[
            "--after",
            "keys-1.json",
            "--root",
            &b,
            "--no-release",
            "-o",
            "keys-2b.json",
            "--json",
        ],
    )
    .json();
    assert_eq!(model["root"], json!({"keys": [b], "threshold": 1}));
    assert_eq!(model.get("release"), None);
    assert_eq!(model["own"]["open"], json!([b]));
}

#[test]
fn a_set_that_cannot_work_is_not_begun() {
    let scratch = published();
    keys(&scratch, ["a", "b"]);
    for (args, code, said) in [
        (&["--root", "a.pub"][..], 2, "takes --root KEY and --record KEY"),
        (
            &["--root", "a.pub", "--root-threshold", "2", "--record", "b.pub"],
            2,
            "the role root would take 2 signatures of 1 key",
        ),
        (
            &["--root", "a.pub", "--root-threshold", "0", "--record", "b.pub"],
            2,
            "the role root would take 0 signatures of 1 key",
        ),
        (
            &["--root", "a.pub", "--record", "b.pub", "--release-threshold", "1"],
            2,
            "--release-threshold takes keys",
        ),
        (
            &["--root", "a.pub", "--record", "00000000000000000000000000000000"],
            3,
            "the key set before has no key 00000000000000000000000000000000",
        ),
        (&["--root", "a", "--record", "b.pub"], 5, "this is a secret key"),
        (
            &["--root", "nowhere.pub", "--record", "b.pub"],
            3,
            "cannot read nowhere.pub",
        ),
        (
            &["--after", "key.pub", "--record", "b.pub"],
            5,
            "cannot use the key set key.pub",
        ),
    ] {
        let run = create(&scratch, &[args, &["-o", "keys-1.json"]].concat()).code(code);
        assert!(run.err.contains(said), "{said}: {}", run.err);
        let says_all = said.starts_with("cannot read");
        assert!(says_all || run.err.contains("hint: "), "{said}: {}", run.err);
        assert!(!scratch.path("keys-1.json").exists(), "{said}");
    }
    // One root key: it works, and is said to be a risk.
    let good = ["--root", "a.pub", "--record", "b.pub", "-o", "keys-1.json"];
    let run = create(&scratch, &good).code(0);
    assert!(
        run.err
            .contains("warning: the next key set takes all of the root keys"),
        "{}",
        run.err
    );
    // Somebody may be signing it.
    let run = create(&scratch, &good).code(4);
    assert!(
        run.err.contains("hint: others may be signing that file"),
        "{}",
        run.err
    );
}

#[test]
fn signatures_that_do_not_count_are_told_from_those_that_do() {
    let scratch = published();
    keys(&scratch, ["a", "b", "stranger"]);
    create(
        &scratch,
        &["--root", "a.pub", "--record", "a.pub", "-o", "keys-1.json"],
    )
    .code(0);
    create(
        &scratch,
        &["--after", "keys-1.json", "--root", "b.pub", "-o", "keys-2.json"],
    )
    .code(0);
    let before = fs::read(scratch.path("keys-2.json")).unwrap();
    let run = scratch
        .atomos(&[
            "key",
            "set",
            "sign",
            "keys-2.json",
            "--key",
            "stranger",
            "--after",
            "keys-1.json",
        ])
        .code(7);
    assert!(
        run.err
            .contains("is a root key neither of key set 2 nor of key set 1"),
        "{}",
        run.err
    );
    assert_eq!(fs::read(scratch.path("keys-2.json")).unwrap(), before);
    let run = scratch
        .atomos(&["key", "set", "sign", "keys-2.json", "--key", "a"])
        .code(0);
    assert!(
        run.err.contains("counts only if it is one of the set before"),
        "{}",
        run.err
    );
    let run = scratch
        .atomos(&[
            "key",
            "set",
            "sign",
            "keys-2.json",
            "--key",
            "b",
            "--after",
            "keys-1.json",
        ])
        .code(0);
    assert!(
        run.err
            .contains("Everybody has signed: `atomos publish --key-set keys-2.json"),
        "{}",
        run.err
    );
    // Copies of something else have nothing to give.
    let run = scratch
        .atomos(&["key", "set", "merge", "keys-1.json", "keys-2.json"])
        .code(10);
    assert!(
        run.err.contains("cannot take signatures from keys-2.json"),
        "{}",
        run.err
    );
    // A copy with a spoilt signature is named.
    let text = fs::read_to_string(scratch.path("keys-2.json")).unwrap();
    let mut envelope: serde_json::Value = serde_json::from_str(&text).unwrap();
    let good = envelope["signatures"][0]["sig"].clone();
    envelope["signatures"][1]["sig"] = good;
    fs::write(scratch.path("spoilt.json"), envelope.to_string()).unwrap();
    fs::write(scratch.path("keys-2.json"), before).unwrap();
    let run = scratch
        .atomos(&["key", "set", "merge", "keys-2.json", "spoilt.json"])
        .code(10);
    assert!(run.err.contains("is none"), "{}", run.err);
    // A failing command leaves the file as it was.
    let before = fs::read(scratch.path("keys-2.json")).unwrap();
    let run = scratch
        .atomos(&[
            "key",
            "set",
            "sign",
            "keys-2.json",
            "--sign-command",
            "exit 1",
            "--public",
            "b.pub",
        ])
        .code(1);
    assert!(run.err.contains("hint: the file is as it was"), "{}", run.err);
    assert_eq!(fs::read(scratch.path("keys-2.json")).unwrap(), before);
}

#[test]
fn sets_of_other_sites_out_of_order_or_twice_are_not_published() {
    let scratch = published();
    let first = rotate(&scratch, 1, "key");
    scratch
        .atomos(&["init", "--repo", "elsewhere", "--mode", "bare-user"])
        .code(0);
    let before = scratch.site_files();
    for (args, said) in [
        (&["--repo", "elsewhere"][..], "and this site is of "),
        // The first one again, but another.
        (&[], "the site has key set 1, and 2 comes next"),
    ] {
        let _ = fs::remove_file(scratch.path("wrong.json"));
        let make = ["--root", "key-1.pub", "--record", "key-1.pub", "-o", "wrong.json"];
        create(&scratch, &[&make, args].concat()).code(0);
        sign(&scratch, "wrong.json", &first);
        let run = scratch
            .publish(&["--key-set", "wrong.json", "--key", &first])
            .code(7);
        assert!(run.err.contains(said), "{said}: {}", run.err);
        assert_eq!(scratch.site_files(), before);
    }
    let run = scratch
        .publish(&["--key-set", "key.pub", "--key", &first])
        .code(5);
    assert!(run.err.contains("cannot use the key set key.pub"), "{}", run.err);
    // The second one by nobody of the first.
    keys(&scratch, ["thief"]);
    let make = [
        "--site",
        "site",
        "--root",
        "thief.pub",
        "--record",
        "thief.pub",
        "-o",
        "stolen.json",
    ];
    create(&scratch, &make).code(0);
    sign(&scratch, "stolen.json", "thief");
    let run = scratch
        .publish(&["--key-set", "stolen.json", "--key", "thief"])
        .code(7);
    assert!(
        run.err
            .contains("it takes 1 signatures by the root keys of key set 1, and has 0"),
        "{}",
        run.err
    );
    assert!(
        run.err.contains("hint: `atomos key set show FILE --site DIR`"),
        "{}",
        run.err
    );
    assert_eq!(scratch.site_files(), before);
    let run = scratch
        .atomos(&["key", "set", "show", "stolen.json", "--site", "site"])
        .code(0);
    assert!(
        run.err
            .contains("It takes 1 more signature by root keys of key set 1: "),
        "{}",
        run.err
    );
    // Without asking: somebody writes it there. Who verifies the site says so, and machines do not follow.
    fs::copy(scratch.path("stolen.json"), scratch.path("site/keys/2")).unwrap();
    let run = scratch.atomos(&["site", "fsck", "site"]).code(6);
    assert!(
        run.out.contains("keys/2: it has 0 of the 1 signatures"),
        "{}",
        run.out
    );
    let run = scratch.publish(&["--key", "thief"]).code(7);
    assert!(run.err.contains("site/keys/2"), "{}", run.err);
}

#[test]
fn with_release_keys_offline_the_online_key_renews_and_releases_nothing() {
    let scratch = published();
    keys(&scratch, ["root", "online", "offline"]);
    create(
        &scratch,
        &[
            "--site",
            "site",
            "--root",
            "root.pub",
            "--record",
            "online.pub",
            "--release",
            "offline.pub",
            "-o",
            "keys-1.json",
        ],
    )
    .code(0);
    sign(&scratch, "keys-1.json", "key");
    sign(&scratch, "keys-1.json", "root");
    let set = ["--key-set", "keys-1.json", "--pinned", "key.pub"];
    // The release that there is has to be signed by the new key.
    let run = scratch
        .publish(&[&set[..], &["--key", "online"]].concat())
        .code(7);
    assert!(
        run.err.contains("signing the release takes 1 of these keys"),
        "{}",
        run.err
    );
    assert!(!scratch.path("site/keys").exists());
    scratch
        .publish(&[&set[..], &["--key", "online", "--key", "offline"]].concat())
        .code(0);
    let run = scratch.publish(&["--key", "online", "--renew"]).code(0);
    assert!(run.err.contains("Renewed os 1 ("), "{}", run.err);
    scratch.client(&["pull", "origin", "os"]).code(0);
    scratch.version("2");
    let before = scratch.site_files();
    let run = scratch.publish(&["--key", "online"]).code(7);
    assert!(
        run.err.contains("signing the release takes 1 of these keys"),
        "{}",
        run.err
    );
    assert_eq!(scratch.site_files(), before);
    scratch.publish(&["--key", "online", "--key", "offline"]).code(0);
    scratch.client(&["pull", "origin", "os"]).code(0);
    // Taking it back takes no release key: the one before is signed.
    scratch
        .atomos(&[
            "site", "withdraw", "site", "os@2", "--reason", "no", "--key", "online",
        ])
        .code(0);
    scratch.client(&["pull", "origin", "os"]).code(0);
}

#[test]
fn what_is_withdrawn_after_a_rotation_leaves_a_release_that_machines_believe() {
    let scratch = published();
    scratch.version("2");
    scratch.publish(&[]).code(0);
    let new = rotate(&scratch, 1, "key");
    // The first release has the old key's signature alone.
    scratch
        .atomos(&[
            "site", "withdraw", "site", "os@2", "--reason", "no", "--key", &new,
        ])
        .code(0);
    let run = scratch.client(&["pull", "origin", "os"]).code(0);
    assert!(run.err.starts_with("Pulled origin:os: 1 ("), "{}", run.err);
    scratch
        .atomos(&["site", "fsck", "site", "--key", "key.pub"])
        .code(0);
}

#[test]
fn a_lost_record_begins_anew_with_a_new_key_set() {
    let scratch = published();
    scratch.version("2");
    scratch.publish(&[]).code(0);
    scratch.client(&["pull", "origin", "os"]).code(0);
    std::fs::remove_file(scratch.path("site/refs/os")).unwrap();
    scratch.version("3");
    scratch.publish(&[]).code(10);
    rotate(&scratch, 1, "key");
    let run = scratch.client(&["pull", "origin", "os"]).code(0);
    assert!(run.err.starts_with("Pulled origin:os: 3 ("), "{}", run.err);
}

#[test]
fn every_ref_of_a_site_goes_over_to_the_new_keys() {
    let scratch = published();
    scratch.atomos(&["refs", "--create", "staging", "os"]);
    scratch
        .atomos(&["commit", "-b", "staging", "--version", "1s", "tree"])
        .code(0);
    scratch.publish(&[]).code(0);
    // One that only the site has any more, and nobody its commit.
    scratch.atomos(&["refs", "--delete", "staging"]).code(0);
    scratch.atomos(&["prune"]).code(0);
    let new = rotate(&scratch, 1, "key");
    let run = scratch.client(&["pull", "origin", "os", "staging"]).code(0);
    assert!(run.err.contains("Pulled origin:staging: 1s ("), "{}", run.err);
    // Who names refs is told of the others.
    keys(&scratch, ["next"]);
    create(
        &scratch,
        &[
            "--site",
            "site",
            "--root",
            "next.pub",
            "--record",
            "next.pub",
            "-o",
            "keys-2.json",
        ],
    )
    .code(0);
    sign(&scratch, "keys-2.json", &new);
    sign(&scratch, "keys-2.json", "next");
    let run = scratch
        .publish(&["--key-set", "keys-2.json", "--key", "next", "--ref", "os"])
        .code(0);
    assert!(
        run.err
            .contains("warning: the record of staging is signed by keys of before key set 2"),
        "{}",
        run.err
    );
    scratch.client(&["pull", "origin", "os"]).code(0);
    scratch.client(&["pull", "origin", "staging"]).code(7);
    let run = scratch.publish(&["--key", "next"]).code(0);
    assert!(!run.err.contains("warning"), "{}", run.err);
    scratch.client(&["pull", "origin", "staging"]).code(0);
}
