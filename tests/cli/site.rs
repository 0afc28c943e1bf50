use std::fs;

use crate::common::{Scratch, published};

#[test]
fn a_whole_site_is_said_to_be_whole() {
    let scratch = published();
    let run = scratch
        .atomos(&["site", "fsck", "site", "--key", "key.pub"])
        .code(0);
    assert_eq!(run.out, "");
    assert!(run.err.starts_with("Whole: 1 ref, 1 release, "), "{}", run.err);
    assert!(!run.err.contains("not looked at"), "{}", run.err);
    let run = scratch.atomos(&["site", "fsck", "site"]).code(0);
    assert!(run.err.contains("Signatures were not looked at"), "{}", run.err);
    let report = scratch.atomos(&["site", "fsck", "site", "--json"]).json();
    assert_eq!(report["findings"], serde_json::json!([]));
    assert_eq!(report["refs"], 1);
}

#[test]
fn what_is_damaged_is_listed_and_publishing_again_mends_it() {
    let scratch = published();
    for kind in ["packs", "images", "manifests", "releases"] {
        let file = fs::read_dir(scratch.path("site").join(kind))
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        let good = fs::read(&file).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        fs::write(&file, bad).unwrap();
        let run = scratch
            .atomos(&["site", "fsck", "site", "--key", "key.pub"])
            .code(6);
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(run.out.contains(name), "{kind}: {}", run.out);
        assert!(
            run.err.starts_with("error: the site site is damaged: "),
            "{}",
            run.err
        );
        assert!(run.err.contains("hint: "), "{}", run.err);
        fs::remove_file(&file).unwrap();
        let run = scratch
            .atomos(&["site", "fsck", "site", "--key", "key.pub"])
            .code(6);
        let gone = run.out.contains(&format!("{name}: it is not there"));
        let why = run.out.contains(&format!("{name}: No such file or directory"));
        assert!(gone || why, "{kind}: {}", run.out);
        fs::write(&file, good).unwrap();
    }
    scratch
        .atomos(&["site", "fsck", "site", "--key", "key.pub"])
        .code(0);
    scratch.atomos(&["key", "generate", "other"]).code(0);
    let run = scratch
        .atomos(&["site", "fsck", "site", "--key", "other.pub"])
        .code(6);
    assert!(
        run.out.starts_with("refs/os: it has 0 of the 1 signatures"),
        "{}",
        run.out
    );
    assert!(
        run.err
            .contains("hint: --key takes the keys that machines were given"),
        "{}",
        run.err
    );
    let run = scratch.atomos(&["site", "fsck", "nowhere"]).code(3);
    assert!(run.err.contains("nowhere"), "{}", run.err);
    let run = scratch.atomos(&["site", "fsck", "tree"]).code(10);
    assert!(run.err.contains("it has no atomos.json"), "{}", run.err);
}

#[test]
fn damaged_files_that_were_removed_come_back_by_publishing_as_the_hint_says() {
    let scratch = published();
    for kind in ["packs", "images", "manifests", "releases"] {
        for file in fs::read_dir(scratch.path("site").join(kind)).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
        let run = scratch
            .atomos(&["site", "fsck", "site", "--key", "key.pub"])
            .code(6);
        assert!(run.err.contains("publish again"), "{kind}: {}", run.err);
        // Who has keys for records alone may renew; nothing is made then.
        if kind != "releases" {
            let run = scratch.publish(&["--renew"]).code(0);
            assert!(
                run.err
                    .contains("until a new release of it is published: without --renew"),
                "{kind}: {}",
                run.err
            );
        }
        let run = scratch.publish(&[]).code(0);
        assert!(run.err.starts_with("Published os 1 ("), "{kind}: {}", run.err);
        assert!(
            run.err.contains(&format!("that os needs, such as {kind}/"))
                && run.err.contains("the new release does not need them"),
            "{kind}: {}",
            run.err
        );
        fs::remove_dir_all(scratch.path("client")).unwrap();
        scratch.new_client();
        scratch.client(&["pull", "origin", "os"]).code(0);
        // What only the older release needs goes as the hint says.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        scratch
            .atomos(&["site", "prune", "site", "--keep", "1", "--grace", "0"])
            .code(0);
        scratch
            .atomos(&["site", "fsck", "site", "--key", "key.pub"])
            .code(0);
    }
    let run = scratch.publish(&[]).code(0);
    assert!(run.err.starts_with("Unchanged: os 1 ("), "{}", run.err);
}

#[test]
fn a_ref_does_not_begin_anew_where_its_record_is_lost() {
    let scratch = with_releases(3);
    scratch.client(&["pull", "origin", "os"]).code(0);
    let record = fs::read(scratch.path("site/refs/os")).unwrap();
    fs::write(scratch.path("site/refs/os"), &record[..record.len() / 2]).unwrap();
    let run = scratch.atomos(&["site", "fsck", "site"]).code(6);
    assert!(run.err.contains("back from a server or a mirror"), "{}", run.err);
    fs::remove_file(scratch.path("site/refs/os")).unwrap();
    scratch.version("4");
    let before = scratch.site_files();
    let run = scratch.publish(&[]).code(10);
    assert!(
        run.err.contains("site/refs/os is gone") && run.err.contains("up to number 3"),
        "{}",
        run.err
    );
    assert_eq!(scratch.site_files(), before);
    fs::write(scratch.path("site/refs/os"), &record).unwrap();
    scratch.publish(&[]).code(0);
    scratch.client(&["pull", "origin", "os"]).code(0);
    // Whoever knows that nobody knows it says so.
    fs::remove_file(scratch.path("site/refs/os")).unwrap();
    let run = scratch.publish(&[]).code(10);
    assert!(run.err.contains("--anew begins it again"), "{}", run.err);
    let run = scratch.publish(&["--anew"]).code(0);
    assert!(run.err.contains("release 1\n"), "{}", run.err);
}

#[test]
fn an_older_release_that_is_lost_is_left_out_of_the_history() {
    let scratch = with_releases(4);
    let report = scratch.client(&["history", "origin", "os", "--json"]).json();
    assert_eq!(report.as_array().unwrap().len(), 4);
    let mut releases: Vec<_> = fs::read_dir(scratch.path("site/releases"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    releases.sort_by_key(|file| fs::metadata(file).unwrap().modified().unwrap());
    fs::remove_file(&releases[1]).unwrap();
    scratch
        .atomos(&["site", "fsck", "site", "--key", "key.pub"])
        .code(6);
    let run = scratch.publish(&[]).code(0);
    assert!(run.err.contains("the site had lost 1 file"), "{}", run.err);
    scratch
        .atomos(&["site", "fsck", "site", "--key", "key.pub"])
        .code(0);
    scratch
        .client(&["mirror", "origin", "os", "--to", "copy"])
        .code(0);
    // And nobody is made to go by way of it.
    scratch.version("5");
    let run = scratch.publish(&["--min-from", "2"]).code(5);
    assert!(
        run.err.contains("no machine can have had release 2 of os"),
        "{}",
        run.err
    );
    scratch.publish(&["--min-from", "3"]).code(0);
}

#[test]
fn what_is_left_of_a_history_is_kept_where_the_newest_release_is_lost() {
    let scratch = with_releases(2);
    scratch
        .client(&["pull", "origin", "os@1", "--allow-downgrade"])
        .code(0);
    scratch.version("3");
    scratch.publish(&["--min-from", "2"]).code(0);
    scratch.version("4");
    scratch.publish(&[]).code(0);
    let releases = |scratch: &Scratch| {
        let report = scratch.client(&["history", "origin", "os", "--json"]).json();
        let list = report.as_array().unwrap().clone();
        list.iter()
            .map(|one| one["number"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(releases(&scratch), [4, 3, 2, 1]);
    let newest = scratch.newest_release();
    fs::remove_file(newest).unwrap();
    scratch.publish(&[]).code(0);
    assert_eq!(releases(&scratch), [5, 3, 2, 1]);
    // By way of the second, as before.
    scratch.client(&["pull", "origin", "os"]).code(0);
}

/// Releases of different sizes, so that each needs something of its own.
fn with_releases(count: u32) -> Scratch {
    let scratch = published();
    for number in 2..=count {
        scratch.write("tree/usr/lib/more", crate::common::numbers(number * 500));
        scratch.version(&number.to_string());
        scratch.publish(&[]).code(0);
    }
    scratch
}

#[test]
fn pruning_keeps_what_is_young_or_needed_and_says_what_goes() {
    let scratch = with_releases(4);
    // Everything is young.
    let run = scratch.atomos(&["site", "prune", "site", "--keep", "1"]).code(0);
    assert_eq!(run.err, "Removed 0 files, 0 bytes\n");
    let prune = ["site", "prune", "site", "--keep", "2", "--grace", "0"];
    let before = scratch.site_files();
    let dry = scratch.atomos(&[&prune[..], &["--dry-run"]].concat()).code(0);
    assert!(dry.err.starts_with("Would remove "), "{}", dry.err);
    assert!(dry.out.lines().count() >= 2, "{}", dry.out);
    assert_eq!(scratch.site_files(), before);
    let report = scratch.atomos(&[&prune[..], &["--json"]].concat()).json();
    let removed: Vec<&str> = report["removed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file.as_str().unwrap())
        .collect();
    assert_eq!(removed, dry.out.lines().collect::<Vec<_>>());
    for file in removed {
        assert!(!scratch.path("site").join(file).exists());
    }
    scratch
        .atomos(&["site", "fsck", "site", "--key", "key.pub"])
        .code(0);
    // The kept ones can be pulled; the others are gone, and said to be.
    scratch.client(&["pull", "origin", "os"]).code(0);
    scratch
        .client(&["pull", "origin", "os@3", "--allow-downgrade"])
        .code(0);
    let run = scratch
        .client(&["pull", "origin", "os@1", "--allow-downgrade"])
        .code(3);
    assert!(
        run.err
            .starts_with("error: os 1 (release 1) cannot be had there\n"),
        "{}",
        run.err
    );
    assert!(
        run.err.contains("hint: sites keep a number of releases"),
        "{}",
        run.err
    );
}

fn withdraw(scratch: &Scratch, release: &str, more: &[&str]) -> crate::common::Run {
    let base = ["site", "withdraw", "site", release, "--reason", "does not boot"];
    scratch.atomos(&[&base[..], more].concat())
}

#[test]
fn machines_leave_a_withdrawn_release_and_nobody_takes_it() {
    let scratch = with_releases(2);
    let first = scratch.atomos(&["rev-parse", "os^"]).ok();
    scratch.client(&["pull", "origin", "os"]).code(0);
    let run = withdraw(&scratch, "os@2", &["--key", "key"]).code(0);
    assert_eq!(
        run.err,
        format!("Withdrew os@2; os is 1 ({}) now\n", &first[..12])
    );
    scratch
        .atomos(&["site", "fsck", "site", "--key", "key.pub"])
        .code(0);
    let run = scratch.client(&["pull", "origin", "os"]).code(0);
    assert!(run.err.starts_with("Pulled origin:os: 1 ("), "{}", run.err);
    let run = scratch.client(&["pull", "origin", "os@2"]).code(7);
    assert!(run.err.contains("was withdrawn: does not boot"), "{}", run.err);
    // Twice is a mistake, and so is publishing it again.
    let run = withdraw(&scratch, "os@2", &["--key", "key"]).code(10);
    assert!(run.err.contains("was withdrawn: does not boot"), "{}", run.err);
    let before = scratch.site_files();
    let run = scratch.publish(&[]).code(0);
    assert!(run.err.starts_with("Unchanged: os 1 ("), "{}", run.err);
    assert!(
        run.err
            .contains("of os was withdrawn (does not boot) and is not published; commit a newer version, or"),
        "{}",
        run.err
    );
    assert_eq!(scratch.site_files(), before);
    scratch.version("3");
    let run = scratch.publish(&[]).code(0);
    assert!(
        run.err.contains("release 3\n"),
        "its number is not used again: {}",
        run.err
    );
    scratch.client(&["pull", "origin", "os"]).code(0);
}

#[test]
fn what_was_withdrawn_of_one_ref_keeps_no_other_from_being_published() {
    let scratch = with_releases(2);
    let first = scratch.atomos(&["rev-parse", "os^"]).ok();
    withdraw(&scratch, "os@2", &["--key", "key"]).code(0);
    scratch.atomos(&["refs", "--create", "other=os^"]).code(0);
    let run = scratch.publish(&[]).code(0);
    assert!(run.err.contains("Published other 1 ("), "{}", run.err);
    let way_out = ["reset", "os", &first[..12]];
    assert!(
        run.err
            .contains(&format!("`atomos {}` goes back", way_out.join(" "))),
        "{}",
        run.err
    );
    // Whoever renews is told, too, and the record is renewed.
    let report = scratch.publish(&["--renew", "--json"]).json();
    assert_eq!(report["withdrawn"][0]["ref"], "os");
    assert_eq!(report["withdrawn"][0]["reason"], "does not boot");
    assert_eq!(report["refs"][0]["outcome"], "renewed");
    scratch.atomos(&way_out).code(0);
    let run = scratch.publish(&[]).code(0);
    assert!(!run.err.contains("withdrawn"), "{}", run.err);
    scratch
        .atomos(&["site", "fsck", "site", "--key", "key.pub"])
        .code(0);
}

#[test]
fn who_takes_a_release_back_is_told_by_which_refs_it_is_offered_still() {
    let scratch = with_releases(2);
    scratch.atomos(&["refs", "--create", "canary=os"]).code(0);
    scratch.atomos(&["refs", "--create", "old=os^"]).code(0);
    scratch.publish(&[]).code(0);
    // As an older release it can be asked for by its version.
    scratch.version("3");
    scratch.publish(&[]).code(0);
    let run = withdraw(&scratch, "canary@2", &["--key", "key"]).code(3);
    assert!(
        run.err.contains("there is no other release of canary"),
        "{}",
        run.err
    );
    let run = withdraw(&scratch, "os@3", &["--key", "key"]).code(0);
    assert!(!run.err.contains("warning"), "{}", run.err);
    let run = withdraw(&scratch, "os@2", &["--key", "key"]).code(0);
    assert_eq!(run.err.matches("warning").count(), 1, "{}", run.err);
    assert!(
        run.err
            .contains("canary still offers the same commit; `atomos site withdraw site canary@"),
        "{}",
        run.err
    );
    let run = scratch.client(&["pull", "origin", "canary"]).code(0);
    assert!(run.err.starts_with("Pulled origin:canary: 2 ("), "{}", run.err);
}

#[test]
fn who_publishes_what_another_ref_has_withdrawn_is_told() {
    let scratch = with_releases(2);
    withdraw(&scratch, "os@2", &["--key", "key"]).code(0);
    scratch.atomos(&["refs", "--create", "canary=os"]).code(0);
    let run = scratch.publish(&[]).code(0);
    assert!(run.err.contains("Published canary 2 ("), "{}", run.err);
    assert!(
        run.err.contains(
            "which was withdrawn from os of this site (does not boot); `atomos site withdraw site canary@"
        ),
        "{}",
        run.err
    );
    // It is said when it is released, and not for ever.
    let run = scratch.publish(&[]).code(0);
    assert!(!run.err.contains("canary is published with"), "{}", run.err);
}

#[test]
fn a_ref_is_taken_off_a_site_and_makes_room_for_names_within_its_own() {
    let scratch = published();
    let create = |name: &str| {
        scratch
            .atomos(&["refs", "--create", &format!("{name}=os")])
            .code(0)
    };
    let delete = |name: &str| scratch.atomos(&["refs", "--delete", name]).code(0);
    create("a/y");
    scratch.publish(&[]).code(0);
    delete("a/y");
    // Whoever publishes all hears of what stays behind.
    let run = scratch.publish(&[]).code(0);
    assert!(
        run.err
            .contains("warning: the site has a/y, and it is not among the refs"),
        "{}",
        run.err
    );
    assert!(!scratch.publish(&["--ref", "os"]).code(0).err.contains("a/y"));
    for name in ["a/y/z", "a"] {
        create(name);
        let before = scratch.site_files();
        let run = scratch.publish(&[]).code(10);
        assert!(
            run.err
                .contains(&format!("cannot publish {name}: the site site has a/y")),
            "{}",
            run.err
        );
        assert!(
            run.err.contains("hint: ") && run.err.contains("`atomos site remove-ref site a/y`"),
            "{}",
            run.err
        );
        assert_eq!(scratch.site_files(), before);
        delete(name);
    }
    let run = scratch.atomos(&["site", "remove-ref", "site", "a/y"]).code(0);
    assert!(run.err.starts_with("Removed a/y from the site; "), "{}", run.err);
    let run = scratch.atomos(&["site", "remove-ref", "site", "a/y"]).code(3);
    assert!(run.err.contains("there is no ref a/y on the site"), "{}", run.err);
    assert!(scratch.path("site/refs").exists() && !scratch.path("site/refs/a").exists());
    scratch
        .atomos(&["site", "fsck", "site", "--key", "key.pub"])
        .code(0);
    create("a");
    let run = scratch.publish(&[]).code(0);
    assert!(
        run.err.contains("Published a 1 (") && !run.err.contains("a/y"),
        "{}",
        run.err
    );
    delete("a");
    scratch.atomos(&["site", "remove-ref", "site", "a"]).code(0);
    // Machines may know it: it does not begin anew by itself.
    create("a");
    let run = scratch.publish(&[]).code(10);
    assert!(run.err.contains("site/refs/a is gone"), "{}", run.err);
}

#[test]
fn what_is_no_site_is_said_to_be_none() {
    let scratch = published();
    for args in [
        &["site", "fsck", "tree"][..],
        &["site", "prune", "tree"],
        &["site", "remove-ref", "tree", "os"],
        &[
            "site", "withdraw", "tree", "os@1", "--reason", "why", "--key", "key",
        ],
    ] {
        let run = scratch.atomos(args).code(10);
        assert!(run.err.starts_with("error: tree is no site: "), "{}", run.err);
        assert!(!run.err.contains("--to DIR\n"), "{}", run.err);
    }
}

#[test]
fn who_writes_to_a_site_waits_as_long_as_is_said_and_says_for_whom() {
    let scratch = with_releases(2);
    let lock = fs::File::open(scratch.path("site/.publish/lock")).unwrap();
    lock.lock().unwrap();
    let started = std::time::Instant::now();
    for args in [
        &["publish", "--to", "site", "--key", "key", "--renew"][..],
        &["site", "prune", "site"],
        &["site", "remove-ref", "site", "os"],
        &[
            "site", "withdraw", "site", "os@2", "--reason", "why", "--key", "key",
        ],
    ] {
        let run = scratch.atomos(&[args, &["--lock-timeout", "1"]].concat()).code(8);
        assert!(
            run.err.contains("Waiting for the lock of the site"),
            "{}",
            run.err
        );
        assert!(run.err.contains("after waiting 1 s"), "{}", run.err);
    }
    assert!(started.elapsed().as_secs() < 40, "{:?}", started.elapsed());
}

#[test]
fn no_record_grows_beyond_what_machines_read() {
    let scratch = with_releases(3);
    let before = scratch.site_files();
    let reason = "x".repeat(60_000);
    let args = [
        "site", "withdraw", "site", "os@3", "--key", "key", "--reason", &reason,
    ];
    let run = scratch.atomos(&args).code(5);
    assert!(run.err.contains("1000 are allowed"), "{}", run.err);
    let names: Vec<String> = (0..400).map(|number| format!("{number:0>180}")).collect();
    scratch.version("4");
    let mut args = Vec::new();
    for name in &names {
        args.extend(["--compatible", name]);
    }
    let run = scratch.publish(&args).code(5);
    assert!(run.err.contains("the record of os would have"), "{}", run.err);
    assert_eq!(scratch.site_files(), before);
    scratch.publish(&[]).code(0);
}

#[test]
fn however_much_was_withdrawn_the_next_one_can_be() {
    let scratch = with_releases(1);
    let reason = "y".repeat(1000);
    for number in 2..=60 {
        scratch.version(&number.to_string());
        scratch.publish(&["--no-image", "--no-patches"]).code(0);
        let release = format!("os@{number}");
        let args = [
            "site", "withdraw", "site", &release, "--key", "key", "--reason", &reason,
        ];
        scratch.atomos(&args).code(0);
    }
    let run = scratch.client(&["pull", "origin", "os@60"]).code(7);
    assert!(run.err.contains(&reason), "{}", run.err);
    // What was withdrawn long ago is so still, without the reason.
    let run = scratch.client(&["pull", "origin", "os@2"]).code(7);
    assert!(run.err.contains("was withdrawn"), "{}", run.err);
    scratch.client(&["pull", "origin", "os"]).code(0);
}

#[test]
fn what_cannot_be_withdrawn_leaves_the_site_as_it_was() {
    let scratch = with_releases(2);
    scratch.atomos(&["key", "generate", "other"]).code(0);
    let before = scratch.site_files();
    for (release, key, code, said) in [
        ("os", "key", 2, "a ref and a version are needed"),
        ("os@9", "key", 3, "os has no release 9"),
        ("nope@1", "key", 3, "there is no ref nope on the site"),
        ("os@2", "other", 7, "is signed by other keys"),
    ] {
        let run = withdraw(&scratch, release, &["--key", key]).code(code);
        assert!(run.err.contains(said), "{said}: {}", run.err);
    }
    withdraw(&scratch, "os@2", &[]).code(2);
    let run = scratch
        .atomos(&["site", "withdraw", "site", "os@2", "--key", "key"])
        .code(2);
    assert!(run.err.contains("--reason <TEXT>"), "{}", run.err);
    assert_eq!(scratch.site_files(), before);
    // There must be something to go back to that can still be pulled.
    scratch
        .atomos(&["site", "prune", "site", "--keep", "1", "--grace", "0"])
        .code(0);
    let run = withdraw(&scratch, "os@2", &["--key", "key"]).code(3);
    assert!(
        run.err.contains("there is no other release of os to go back to"),
        "{}",
        run.err
    );
    scratch.client(&["pull", "origin", "os"]).code(0);
}
