use crate::common::Scratch;

#[test]
fn every_spelling_of_a_revision_is_understood() {
    let scratch = Scratch::new();
    scratch.tree();
    let first = scratch.commit("first");
    let second = scratch.commit("second");
    let prefix = format!("{}^", &second[..10]);
    let found = scratch
        .atomos(&[
            "rev-parse",
            "os",
            "os^",
            &prefix,
            &first,
            "os^{tree}",
            "os^^{tree}",
        ])
        .ok();
    let lines: Vec<_> = found.lines().collect();
    assert_eq!(lines[..4], [&second, &first, &first, &first]);
    assert_eq!(lines[4], lines[5], "the tree did not change");
    let list = scratch.atomos(&["rev-parse", "--json", "os", "os^{tree}"]).json();
    assert_eq!(
        list[0],
        serde_json::json!({"rev": "os", "kind": "commit", "digest": second})
    );
    assert_eq!(list[1]["kind"], "dirtree");
}

#[test]
fn the_first_commit_has_no_parent() {
    let scratch = Scratch::new();
    scratch.tree();
    let first = scratch.commit("first");
    let run = scratch.atomos(&["rev-parse", "os^"]).code(3);
    assert_eq!(
        run.err,
        format!(
            "error: commit {first} has no parent\nhint: `atomos log {}` shows the history\n",
            &first[..12]
        )
    );
}

#[test]
fn all_digits_of_a_digest_name_its_object_whatever_refs_are_called() {
    let scratch = Scratch::new();
    scratch.tree();
    let first = scratch.commit("first");
    scratch.write("tree/new", "new");
    scratch.atomos(&["commit", "-b", &first, "tree"]).code(0);
    assert_eq!(scratch.atomos(&["rev-parse", &first]).ok().trim(), first);
    // One that nothing here has is a name like others.
    let other = "ab".repeat(32);
    let odd = scratch.atomos(&["commit", "-b", &other, "tree"]).ok();
    assert_eq!(scratch.atomos(&["rev-parse", &other]).ok(), odd);
}

#[test]
fn where_history_ends_is_said_and_is_no_damage() {
    let scratch = Scratch::new();
    scratch.tree();
    let first = scratch.commit("first");
    let second = scratch.commit("second");
    scratch.atomos(&["prune", "--depth", "0"]).code(0);
    for words in [&["checkout", "os^", "out"][..], &["diff", "os"]] {
        let run = scratch.atomos(words).code(3);
        assert_eq!(
            run.err,
            format!(
                "error: the parent {} of commit {} is not here: it was pruned, or never pulled\n\
                 hint: `atomos log {}` shows the history that is here\n",
                &first[..12],
                &second[..12],
                &second[..12]
            )
        );
    }
    scratch.atomos(&["fsck"]).code(0);
    std::fs::write(scratch.path("repo/refs"), "garbage\n").unwrap();
    let run = scratch.atomos(&["fsck"]).code(6);
    assert!(run.err.contains("repo/refs: its first line"), "{}", run.err);
}
