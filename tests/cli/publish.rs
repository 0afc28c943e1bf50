use std::fs;

use crate::common::{Scratch, numbers, published};

#[test]
fn a_site_is_static_files_and_the_result_says_what_is_new() {
    let scratch = published();
    for part in [
        "atomos.json",
        "refs/os",
        "releases",
        "manifests",
        "packs",
        "images",
    ] {
        assert!(scratch.path("site").join(part).exists(), "{part}");
    }
    let second = scratch.version("2");
    let run = scratch.publish(&[]).code(0);
    assert_eq!(run.out, "");
    assert!(
        run.err
            .starts_with(&format!("Published os 2 ({}), release 2\nNew: ", &second[..12])),
        "{}",
        run.err
    );
    scratch.version("3");
    let report = scratch.publish(&["--json"]).json();
    assert_eq!(report["refs"][0]["ref"], "os");
    assert_eq!(report["refs"][0]["number"], 3);
    assert_eq!(report["refs"][0]["outcome"], "released");
    assert_eq!(report["new-blobs"], 1, "only what is new is compressed");
    assert_eq!(report["key-set"], 0);
}

#[test]
fn publishing_again_with_nothing_new_changes_no_byte() {
    let scratch = published();
    let before = scratch.site_files();
    let run = scratch.publish(&[]).code(0);
    assert!(run.err.starts_with("Unchanged: os 1 ("), "{}", run.err);
    assert!(!run.err.contains("New: "), "{}", run.err);
    assert_eq!(scratch.site_files(), before);
    // A renewal is a new record, and nothing else.
    let run = scratch.publish(&["--renew"]).code(0);
    assert!(run.err.starts_with("Renewed os 1 ("), "{}", run.err);
    let after = scratch.site_files();
    let changed: Vec<_> = after
        .iter()
        .filter(|(path, bytes)| before.get(*path) != Some(bytes))
        .collect();
    assert_eq!(changed.len(), 1);
    assert!(changed[0].0.ends_with("refs/os"));
    // For how long a record is believed is said with each; what is good for a while yet is left alone.
    let report = scratch.publish(&["--expires", "90", "--json"]).json();
    assert_eq!(report["refs"][0]["outcome"], "unchanged");
}

#[test]
fn profiles_and_patches_are_a_matter_of_bytes_and_not_of_what_arrives() {
    let scratch = published();
    scratch.client(&["pull", "origin", "os"]).code(0);
    // Lines are changed in the midst of a file: worth a patch.
    let text = numbers(4000).replace("0000", "0x00");
    scratch.write("tree/usr/lib/data", &text);
    let second = scratch.version("2");
    let size = |name: &str| -> u64 {
        fs::read_dir(scratch.path(name).join("packs"))
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum()
    };
    // Each profile on a copy of the same site.
    for (name, more) in [
        ("fast", &[][..]),
        ("thorough", &["--profile", "thorough"]),
        ("plain", &["--no-patches", "--no-image"]),
    ] {
        copy(&scratch.path("site"), &scratch.path(name));
        let base = ["publish", "--to", name, "--key", "key", "--json"];
        let report = scratch.atomos(&[&base[..], more].concat()).json();
        assert_eq!(report["refs"][0]["commit"], second);
        let patches = report["patches"].as_u64().unwrap();
        let image = report["image-bytes"].as_u64().unwrap();
        assert_eq!(
            (patches > 0, image > 0),
            (name != "plain", name != "plain"),
            "{report}"
        );
        scratch
            .atomos(&["site", "fsck", name, "--key", "key.pub"])
            .code(0);
        // The machine gets the same, at another price.
        let machine = format!("client-{name}");
        copy(&scratch.path("client"), &scratch.path(&machine));
        let site = scratch.path(name);
        let add = [
            "remote",
            "add",
            "--repo",
            &machine,
            "here",
            site.to_str().unwrap(),
            "--key",
            "key.pub",
        ];
        scratch.atomos(&add).code(0);
        let report = scratch
            .atomos(&["pull", "--repo", &machine, "here", "os", "--json"])
            .json();
        assert_eq!(
            report["patched-blobs"].as_u64().unwrap() > 0,
            name != "plain",
            "{report}"
        );
        scratch.atomos(&["fsck", "--repo", &machine]).code(0);
    }
    assert!(size("thorough") <= size("fast"));
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[test]
fn patches_are_made_from_versions_that_are_named() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.write("tree/usr/lib/data", numbers(4000));
    scratch.atomos(&["key", "generate", "key"]).code(0);
    // Machines have this one from elsewhere: it was never published.
    let factory = scratch.version("factory");
    scratch.write("tree/usr/lib/data", numbers(4000).replace("0000", "0x00"));
    scratch.version("2");
    let without = scratch.publish(&["--json"]).json();
    assert_eq!(without["patches"], 0);
    let with = scratch.publish(&["--patch-from", &factory, "--json"]).json();
    // The large file as a difference; the small one, whose difference would be larger than itself, goes along whole.
    assert_eq!(with["patches"], 2, "{with}");
    assert!(with["patch-bytes"].as_u64().unwrap() < 1000, "{with}");
    assert_eq!(with["new-blobs"], 0);
    let run = scratch.publish(&["--patch-from", "nope"]).code(3);
    assert!(
        run.err.contains("\"nope\" is no ref, digest or prefix"),
        "{}",
        run.err
    );
    assert!(run.err.contains("hint: `atomos refs"), "{}", run.err);
    scratch
        .publish(&["--patch-from", &factory, "--no-patches"])
        .code(2);
    scratch
        .atomos(&["site", "fsck", "site", "--key", "key.pub"])
        .code(0);
}

#[test]
fn without_a_key_or_with_another_one_nothing_is_published() {
    let scratch = published();
    scratch.version("2");
    let before = scratch.site_files();
    let run = scratch.atomos(&["publish", "--to", "site"]).code(2);
    assert!(run.err.contains("--key <FILE>"), "{}", run.err);
    scratch.atomos(&["key", "generate", "other"]).code(0);
    let run = scratch.publish(&["--key", "other"]).code(7);
    assert!(
        run.err
            .starts_with("error: what is published as site/refs/os is signed by other keys\n"),
        "{}",
        run.err
    );
    assert!(
        run.err
            .contains("hint: sign with the keys that signed it; `atomos key set create`"),
        "{}",
        run.err
    );
    let run = scratch.publish(&["--key", "nowhere"]).code(3);
    assert!(run.err.contains("cannot read nowhere"), "{}", run.err);
    assert_eq!(scratch.site_files(), before);
}

#[test]
fn a_directory_that_is_something_else_is_left_alone() {
    let scratch = published();
    let run = scratch
        .atomos(&["publish", "--to", "tree", "--key", "key"])
        .code(10);
    assert!(
        run.err.contains("tree is not this repository's site: it has "),
        "{}",
        run.err
    );
    assert!(
        run.err.contains("hint: choose an empty directory with --to DIR"),
        "{}",
        run.err
    );
    assert!(!scratch.path("tree/.publish").exists());
    scratch
        .atomos(&["init", "--repo", "other", "--mode", "bare-user"])
        .code(0);
    let run = scratch
        .atomos(&["publish", "--repo", "other", "--to", "new", "--key", "key"])
        .code(3);
    assert!(
        run.err.contains("there is no ref to publish in other"),
        "{}",
        run.err
    );
    assert!(
        run.err.contains("hint: `atomos commit --ref REF DIR`"),
        "{}",
        run.err
    );
    assert!(!scratch.path("new").exists());
    scratch
        .atomos(&["commit", "--repo", "other", "-b", "os", "tree"])
        .code(0);
    let run = scratch
        .atomos(&["publish", "--repo", "other", "--to", "site", "--key", "key"])
        .code(10);
    assert!(run.err.contains("it is that of repository "), "{}", run.err);
    let run = scratch.publish(&["--ref", "nope"]).code(3);
    assert!(run.err.contains("there is no ref nope in "), "{}", run.err);
}

#[test]
fn only_the_refs_that_are_named_are_published() {
    let scratch = published();
    scratch
        .atomos(&["commit", "-b", "beta", "--version", "b", "tree"])
        .code(0);
    scratch.atomos(&["commit", "-b", "gamma", "tree"]).code(0);
    let report = scratch.publish(&["--ref", "beta", "--json"]).json();
    assert_eq!(report["refs"].as_array().unwrap().len(), 1);
    assert!(scratch.path("site/refs/beta").exists() && !scratch.path("site/refs/gamma").exists());
    let report = scratch.publish(&["--json"]).json();
    assert_eq!(report["refs"].as_array().unwrap().len(), 3);
}

#[test]
fn a_version_for_certain_machines_reaches_those() {
    let scratch = published();
    scratch.version("2");
    scratch.publish(&["--compatible", "board-a"]).code(0);
    let run = scratch.client(&["pull", "origin", "os"]).code(10);
    assert!(
        run.err
            .contains("os 2 is for board-a, and this machine is nothing in particular"),
        "{}",
        run.err
    );
    assert!(
        run.err.contains("hint: if this machine is one of those"),
        "{}",
        run.err
    );
    let site = scratch.path("site");
    let site = site.to_str().unwrap();
    let add = [
        "remote",
        "add",
        "--force",
        "origin",
        site,
        "--key",
        "key.pub",
        "--compatible",
        "board-a",
    ];
    scratch.client(&add).code(0);
    scratch.client(&["pull", "origin", "os"]).code(0);
    // What no machine could take is not signed.
    for (args, said) in [
        (
            ["--min-from", "99"],
            "no machine can have had release 99 of os before",
        ),
        (["--compatible", ""], "\"\" is no name of machines"),
    ] {
        let before = scratch.site_files();
        let run = scratch.publish(&args).code(5);
        assert!(run.err.contains(said), "{}", run.err);
        assert_eq!(scratch.site_files(), before);
    }
    // A barrier: release 2 comes before what needs it.
    scratch.version("3");
    scratch.publish(&["--min-from", "2"]).code(0);
    scratch.client(&["pull", "origin", "os"]).code(0);
}

#[test]
fn for_whom_a_version_is_goes_on_until_it_is_for_all() {
    let scratch = published();
    scratch.version("2");
    scratch.publish(&["--compatible", "board-a"]).code(0);
    scratch.client(&["pull", "origin", "os"]).code(10);
    scratch.version("3");
    let run = scratch.publish(&[]).code(0);
    assert!(run.err.contains(", for machines called board-a"), "{}", run.err);
    scratch.client(&["pull", "origin", "os"]).code(10);
    scratch.publish(&["--for-all", "--compatible", "board-a"]).code(2);
    let run = scratch.publish(&["--for-all"]).code(0);
    assert!(
        run.err.contains("Published os 3 (") && !run.err.contains("board-a"),
        "{}",
        run.err
    );
    scratch.client(&["pull", "origin", "os"]).code(0);
    let run = scratch.publish(&["--for-all"]).code(0);
    assert!(run.err.starts_with("Unchanged: os 3 ("), "{}", run.err);
}

#[test]
fn a_ref_of_a_remote_is_not_published_under_a_name_that_nobody_can_ask_for() {
    let scratch = published();
    scratch.atomos(&["refs", "--create", "o:os=os"]).code(0);
    let before = scratch.site_files();
    let run = scratch.publish(&["--ref", "o:os"]).code(5);
    assert!(run.err.contains("o:os is a ref of a remote"), "{}", run.err);
    assert_eq!(scratch.site_files(), before);
    scratch.publish(&[]).code(0);
}

#[test]
fn of_several_keys_any_one_will_do() {
    let scratch = published();
    scratch.atomos(&["key", "generate", "two"]).code(0);
    let site = scratch.path("site");
    let pulls = |key: &str, code: i32| {
        let add = [
            "remote",
            "add",
            "--force",
            "origin",
            site.to_str().unwrap(),
            "--key",
            key,
        ];
        scratch.client(&add).code(0);
        scratch.client(&["pull", "origin", "os"]).code(code);
    };
    // Each signs what machines that have it alone can believe: the release, too.
    let run = scratch
        .publish(&["--key", "two", "--key", "key", "--renew"])
        .code(0);
    assert!(run.err.starts_with("Renewed os 1 ("), "{}", run.err);
    pulls("two.pub", 0);
    pulls("key.pub", 0);
    // What the one has signed, the other signs where it is known.
    scratch.publish(&["--key", "key", "--renew"]).code(0);
    let run = scratch.publish(&["--key", "two", "--renew"]).code(7);
    assert!(run.err.contains("--pinned FILE.pub"), "{}", run.err);
    scratch
        .publish(&["--key", "two", "--renew", "--pinned", "key.pub"])
        .code(0);
    pulls("two.pub", 0);
    pulls("key.pub", 7);
    scratch.version("2");
    scratch.publish(&["--key", "key", "--pinned", "two.pub"]).code(0);
    pulls("key.pub", 0);
}

#[test]
fn a_version_does_not_reach_the_terminal_raw() {
    let scratch = published();
    scratch.version("\u{1b}[31mred");
    for (run, said) in [
        (scratch.publish(&[]).code(0), "Published os "),
        (scratch.publish(&[]).code(0), "Unchanged: os "),
        (
            scratch.client(&["pull", "origin", "os", "--dry-run"]).code(0),
            "Would pull ",
        ),
        (scratch.client(&["pull", "origin", "os"]).code(0), "Pulled "),
        (scratch.client(&["pull", "origin", "os"]).code(0), "Unchanged: "),
    ] {
        assert!(
            run.err.contains(said) && run.err.contains("[31mred"),
            "{}",
            run.err
        );
        assert!(!run.err.contains('\u{1b}'), "{:?}", run.err);
    }
}

#[test]
fn whoever_serves_a_site_can_read_it_whatever_the_umask_is() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = published();
    scratch.atomos(&["refs", "--create", "a/b=os"]).code(0);
    let program = scratch.command(&[]);
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", "umask 077; exec \"$0\" publish --to new --key key"])
        .arg(program.get_program())
        .current_dir(scratch.path(""))
        .env_clear()
        .env("ATOMOS_REPO", scratch.path("repo"));
    scratch.run(&mut command).code(0);
    for dir in ["", "refs", "refs/a", "releases", "manifests", "packs", "images"] {
        let mode = fs::metadata(scratch.path("new").join(dir))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o755, "{dir}");
    }
}

#[test]
fn an_image_of_several_refs_is_made_and_counted_once() {
    let scratch = published();
    let once = scratch
        .atomos(&["publish", "--to", "one", "--key", "key", "--json"])
        .json();
    for number in 0..5 {
        scratch
            .atomos(&["refs", "--create", &format!("more/{number}=os")])
            .code(0);
    }
    let six = scratch
        .atomos(&["publish", "--to", "six", "--key", "key", "--json"])
        .json();
    assert_eq!(six["refs"].as_array().unwrap().len(), 6);
    assert!(once["image-bytes"].as_u64().unwrap() > 0);
    assert_eq!(six["image-bytes"], once["image-bytes"]);
}

#[test]
fn what_could_not_be_published_leaves_nothing_behind() {
    let scratch = published();
    let run = scratch
        .atomos(&["publish", "--to", "new", "--key", "key", "--min-from", "7"])
        .code(5);
    assert!(run.err.contains("release 7"), "{}", run.err);
    assert!(!scratch.path("new/atomos.json").exists());
    // Nor does a signature that fails, when all else is made.
    let sign = ["--sign-command", "false", "--public", "key.pub"];
    scratch
        .atomos(&[&["publish", "--to", "new"][..], &sign].concat())
        .code(1);
    assert!(!scratch.path("new/atomos.json").exists());
    let left: Vec<_> = fs::read_dir(scratch.path("new/.publish"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["lock"]);
    scratch
        .atomos(&["publish", "--to", "new", "--key", "key"])
        .code(0);
}

#[test]
fn no_patch_is_made_from_a_damaged_file() {
    let scratch = published();
    let list = scratch.atomos(&["ls", "--json", "os", "usr/lib/data"]).json();
    let blob = list[0]["blob"].as_str().unwrap().to_owned();
    scratch.write("tree/usr/lib/data", numbers(4000).replace("0000", "0x00"));
    scratch.version("2");
    // As long as it was, so that nobody sees it without reading.
    let file = scratch.object("objects", &blob);
    let mut bytes = fs::read(&file).unwrap();
    bytes[1000] ^= 1;
    fs::remove_file(&file).unwrap();
    fs::write(&file, bytes).unwrap();
    let before = scratch.site_files();
    let run = scratch.publish(&[]).code(6);
    assert!(run.err.contains(&blob[..12]), "{}", run.err);
    assert_eq!(scratch.site_files(), before);
    scratch.publish(&["--no-patches"]).code(0);
}

#[test]
fn two_refs_of_one_content_are_published_at_once() {
    let scratch = published();
    // First of what the site has the files of, then of what it has not.
    for (version, data) in [("2", 4000), ("3", 3000)] {
        scratch.write("tree/usr/lib/data", numbers(data));
        scratch.version(version);
        for name in ["stable=os", "other=os"] {
            scratch.atomos(&["refs", "--force", "--create", name]).code(0);
        }
        scratch.publish(&[]).code(0);
        scratch
            .client(&["pull", "origin", "os", "stable", "other"])
            .code(0);
        scratch
            .atomos(&["site", "fsck", "site", "--key", "key.pub"])
            .code(0);
    }
}

#[test]
fn patches_are_made_from_a_version_by_its_name() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.write("tree/usr/lib/data", numbers(4000));
    scratch.atomos(&["key", "generate", "key"]).code(0);
    // It was never published, so nothing but the name leads to it.
    scratch.version("factory-1");
    scratch.write("tree/usr/lib/data", numbers(4000).replace("0000", "0x00"));
    scratch.version("2");
    let with = scratch
        .publish(&["--ref", "os", "--patch-from", "factory-1", "--json"])
        .json();
    assert_ne!(with["patches"], 0, "{with}");
    let run = scratch.publish(&["--patch-from", "factory-2"]).code(3);
    assert!(run.err.contains("\"factory-2\" is no ref"), "{}", run.err);
}
