use std::fs;

use crate::common::Scratch;

#[test]
fn history_is_shown_from_the_newest() {
    let scratch = Scratch::new();
    scratch.tree();
    let first = scratch.commit("first");
    let second = scratch.commit("second");
    assert_eq!(
        scratch.atomos(&["log", "os"]).ok(),
        format!(
            "commit {second} (os)\nTime:    2024-02-29 12:34:56 UTC\n\n    second\n\n\
             commit {first}\nTime:    2024-02-29 12:34:56 UTC\n\n    first\n"
        )
    );
    let list = scratch.atomos(&["log", "--json", "-n", "1", "os"]).json();
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(list[0]["commit"], second.as_str());
    assert_eq!(list[0]["refs"], serde_json::json!(["os"]));
}

#[test]
fn a_history_that_was_cut_says_so() {
    let scratch = Scratch::new();
    scratch.tree();
    let first = scratch.commit("first");
    scratch.commit("second");
    fs::remove_file(scratch.object("commits", &first)).unwrap();
    let run = scratch.atomos(&["log", "os"]).code(0);
    assert_eq!(run.out.matches("commit ").count(), 1);
    assert_eq!(
        run.err,
        format!(
            "The history goes on with {}, which is not in this repository.\n",
            &first[..12]
        )
    );
}
