use crate::common::Scratch;

fn two_commits() -> (Scratch, String, String) {
    let scratch = Scratch::new();
    scratch.tree();
    let first = scratch.commit("first");
    let second = scratch.commit("second");
    (scratch, first, second)
}

#[test]
fn refs_are_listed_after_their_commits() {
    let (scratch, first, second) = two_commits();
    let run = scratch
        .atomos(&["refs", "--create", "old/one=os^", "--create", "older=old"])
        .code(3);
    assert!(run.err.contains("\"old\" is no ref"), "{}", run.err);
    assert_eq!(
        scratch.atomos(&["refs"]).ok(),
        format!("{second} os\n"),
        "all or none"
    );
    let run = scratch
        .atomos(&["refs", "--create", "old/one=os^", "--create", "olden=os"])
        .code(0);
    assert_eq!(
        run.err,
        format!(
            "Ref old/one names {}\nRef olden names {}\n",
            &first[..12],
            &second[..12]
        )
    );
    assert_eq!(
        scratch.atomos(&["refs"]).ok(),
        format!("{first} old/one\n{second} olden\n{second} os\n")
    );
    assert_eq!(
        scratch.atomos(&["refs", "old"]).ok(),
        format!("{first} old/one\n")
    );
    let list = scratch.atomos(&["refs", "--json", "os"]).json();
    assert_eq!(list, serde_json::json!([{"name": "os", "commit": second}]));
}

#[test]
fn a_ref_is_moved_only_by_force() {
    let (scratch, first, second) = two_commits();
    let run = scratch.atomos(&["refs", "--create", "os=os^"]).code(4);
    assert_eq!(
        run.err,
        format!(
            "error: there is a ref os already, and it is {second}\n\
             hint: look at it with `atomos log os`; `atomos refs --force --create os=REV` moves it\n"
        )
    );
    scratch.atomos(&["refs", "--force", "--create", "os=os^"]).code(0);
    assert_eq!(scratch.atomos(&["rev-parse", "os"]).ok(), format!("{first}\n"));
}

#[test]
fn a_ref_is_removed() {
    let (scratch, ..) = two_commits();
    let run = scratch.atomos(&["refs", "--delete", "nope"]).code(3);
    assert!(
        run.err.starts_with("error: there is no ref nope in "),
        "{}",
        run.err
    );
    let run = scratch.atomos(&["refs", "--force", "--delete", "nope"]).code(0);
    assert_eq!(run.err, "There is no ref nope\n");
    let run = scratch.atomos(&["refs", "--delete", "os"]).code(0);
    assert_eq!(run.err, "Removed the ref os\n");
    assert_eq!(scratch.atomos(&["refs"]).ok(), "");
}

#[test]
fn a_ref_cannot_be_a_directory_too() {
    let (scratch, ..) = two_commits();
    let run = scratch.atomos(&["refs", "--create", "os/beta=os"]).code(10);
    assert!(run.err.contains("one would lie within the other"), "{}", run.err);
}

#[test]
fn a_bad_name_is_refused_with_the_rule() {
    let (scratch, ..) = two_commits();
    let run = scratch.atomos(&["refs", "--create", "../x=os"]).code(2);
    assert!(run.err.contains("\"../x\" is not a ref name"), "{}", run.err);
}

#[test]
fn an_alias_stands_for_the_ref_that_it_points_at() {
    let (scratch, first, second) = two_commits();
    scratch.atomos(&["refs", "--alias", "stable=os"]).code(0);
    scratch.atomos(&["refs", "--alias", "latest=stable"]).code(0);
    assert_eq!(
        scratch.atomos(&["rev-parse", "latest"]).ok(),
        format!("{second}\n")
    );
    assert_eq!(
        scratch.atomos(&["refs"]).ok(),
        format!("{second} latest -> stable\n{second} os\n{second} stable -> os\n")
    );
    let list = scratch.atomos(&["refs", "--json", "stable"]).json();
    assert_eq!(
        list,
        serde_json::json!([{"name": "stable", "commit": second, "alias-of": "os"}])
    );
    // It follows the ref, and is not moved itself.
    scratch.atomos(&["reset", "os", "os^"]).code(0);
    assert_eq!(
        scratch.atomos(&["rev-parse", "latest"]).ok(),
        format!("{first}\n")
    );
    for command in [
        &["commit", "-b", "stable", "tree"][..],
        &["reset", "stable", &second],
    ] {
        let run = scratch.atomos(command).code(10);
        assert!(
            run.err.starts_with("error: stable is an alias of os"),
            "{}",
            run.err
        );
    }
    scratch
        .atomos(&["refs", "--force", "--create", "stable=os"])
        .code(10);
    // Loops, collisions and what does not exist.
    scratch
        .atomos(&["refs", "--force", "--alias", "stable=latest"])
        .code(5);
    scratch.atomos(&["refs", "--alias", "self=self"]).code(5);
    scratch.atomos(&["refs", "--alias", "new=nothing"]).code(3);
    let run = scratch.atomos(&["refs", "--alias", "os=stable"]).code(10);
    assert!(
        run.err
            .contains("a ref cannot be called os: there is one already"),
        "{}",
        run.err
    );
    scratch.atomos(&["refs", "--alias", "os/x=stable"]).code(10);
    scratch.atomos(&["refs", "--create", "stable/x=os"]).code(10);
    scratch.atomos(&["refs", "--alias", "stable=latest"]).code(10);
    // One that leads nowhere keeps nothing, and says so.
    scratch.atomos(&["refs", "--delete", "os"]).code(0);
    scratch.atomos(&["rev-parse", "stable"]).code(3);
    assert!(scratch.atomos(&["refs"]).ok().starts_with(&"-".repeat(64)));
    scratch.atomos(&["fsck"]).code(0);
    let run = scratch
        .atomos(&["refs", "--delete", "stable", "--delete", "latest"])
        .code(0);
    assert_eq!(run.err, "Removed the alias stable\nRemoved the alias latest\n");
    assert_eq!(scratch.atomos(&["refs"]).ok(), "");
    // Whoever writes the file by hand can make a loop.
    std::fs::write(scratch.path("repo/aliases"), "b a\na b\n").unwrap();
    let run = scratch.atomos(&["rev-parse", "a"]).code(5);
    assert!(run.err.contains("the alias a leads to itself"), "{}", run.err);
}

#[test]
fn an_alias_is_published_only_where_it_is_named() {
    let scratch = crate::common::published();
    scratch.atomos(&["refs", "--alias", "stable=os"]).code(0);
    scratch.version("2");
    scratch.publish(&[]).code(0);
    assert!(!scratch.path("site/refs/stable").exists());
    scratch.publish(&["--ref", "stable"]).code(0);
    assert!(scratch.path("site/refs/stable").exists());
    scratch.client(&["pull", "origin", "stable"]).code(0);
}

#[test]
fn a_published_alias_is_told_where_it_is_not_named() {
    let scratch = crate::common::published();
    scratch.atomos(&["refs", "--alias", "stable=os"]).code(0);
    scratch.publish(&["--ref", "stable"]).code(0);
    let run = scratch.publish(&[]).code(0);
    assert!(
        run.err.contains("`--ref stable` publishes an alias"),
        "{}",
        run.err
    );
    scratch.publish(&["--ref", "stable", "--renew"]).code(0);
}

#[test]
fn a_reset_moves_a_ref_and_says_how_to_go_back() {
    let (scratch, first, second) = two_commits();
    let run = scratch.atomos(&["reset", "os", "os^"]).code(0);
    assert_eq!(
        run.err,
        format!(
            "Ref os named {}, and names {}\nhint: `atomos reset --repo {} os {}` takes it back, until a prune\n",
            &second[..12],
            &first[..12],
            "[SCRATCH]/repo",
            &second[..12]
        )
    );
    let run = scratch
        .atomos(&["reset", "os", &second, "--expect", &second])
        .code(10);
    assert!(
        run.err.contains(&format!("was to be {second}, and is {first}")),
        "{}",
        run.err
    );
    let model = scratch.atomos(&["reset", "--json", "os", &second[..12]]).json();
    assert_eq!(
        model,
        serde_json::json!({"name": "os", "old": first, "commit": second})
    );
    let run = scratch.atomos(&["reset", "os", "os"]).code(0);
    assert_eq!(run.err, format!("Unchanged: ref os names {}\n", &second[..12]));
    scratch.atomos(&["reset", "nothing", "os"]).code(3);
    scratch.atomos(&["reset", "os", "nothing"]).code(3);
}

#[test]
fn damaged_aliases_stop_nothing_but_what_needs_them() {
    let (scratch, first, second) = two_commits();
    scratch.atomos(&["refs", "--alias", "stable=os"]).code(0);
    let path = scratch.path("repo/aliases");
    std::fs::write(&path, "os stable\nos").unwrap();
    // What moves or removes a ref that is there, and what names a commit by all its digits.
    scratch.write("tree/new", "new");
    let third = scratch.commit("third");
    scratch.atomos(&["reset", "os", &second]).code(0);
    scratch
        .atomos(&["refs", "--force", "--create", &format!("os={third}")])
        .code(0);
    scratch.atomos(&["cat", "os", "new"]).code(0);
    scratch.atomos(&["rev-parse", &first]).code(0);
    scratch.atomos(&["checkout", &first, "out"]).code(0);
    scratch
        .atomos(&["init", "--repo", "other", "--mode", "bare-user"])
        .code(0);
    scratch
        .atomos(&["pull", "--repo", "other", "--from", "repo", "os"])
        .code(0);
    std::fs::copy(&path, scratch.path("other/aliases")).unwrap();
    scratch.atomos(&["reset", "os", &second]).code(0);
    scratch
        .atomos(&["pull", "--repo", "other", "--from", "repo", "os"])
        .code(0);
    scratch.atomos(&["prune"]).code(0);
    // A name that is new may be an alias's, and so may digits that are less than a digest.
    for args in [
        &["commit", "-b", "stable", "tree"][..],
        &["commit", "-b", "new", "tree"],
        &["refs", "--create", "new=os"],
        &["refs", "--delete", "stable"],
        &["refs", "--alias", "new=os"],
        &["refs", "--alias", "stable=os", "--force"],
        &["rev-parse", "stable"],
        &["rev-parse", &first[..12]],
        &["refs"],
    ] {
        let run = scratch.atomos(args).code(6);
        assert!(
            run.err.contains("repo/aliases: its last line is cut short\n")
                && run
                    .err
                    .contains("hint: mend it, a line `REF NAME` for each alias")
                && run.err.contains("--alias NAME=REF`"),
            "{args:?}: {}",
            run.err
        );
    }
    assert_eq!(scratch.atomos(&["refs"]).out, format!("{second} os\n"));
    assert_eq!(
        std::fs::read(&path).unwrap(),
        b"os stable\nos",
        "nobody writes to it"
    );
    // fsck looks at everything, and a repair leaves it to a person.
    for args in [&["fsck"][..], &["fsck", "--repair"]] {
        let run = scratch.atomos(args).code(6);
        assert_eq!(
            run.out, "file aliases is malformed: its last line is cut short\n",
            "{args:?}"
        );
        assert!(run.err.contains("1 bad file in 2 commits, "), "{}", run.err);
        assert!(run.err.contains("hint: mend it"), "{}", run.err);
    }
    let run = scratch.atomos(&["fsck", "--json"]).code(6);
    let report: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(
        report["files"],
        serde_json::json!([{"file": "aliases", "problem": "malformed", "reason": "its last line is cut short"}])
    );
    // What the hint says helps.
    std::fs::remove_file(&path).unwrap();
    scratch.atomos(&["refs", "--alias", "stable=os"]).code(0);
    scratch.atomos(&["fsck"]).code(0);
    assert_eq!(
        scratch.atomos(&["rev-parse", "stable"]).ok(),
        format!("{second}\n")
    );
}
