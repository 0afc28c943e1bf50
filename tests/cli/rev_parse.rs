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
