use serde_json::json;

use crate::common::published;

#[test]
fn releases_are_listed_the_newest_first_with_what_was_withdrawn() {
    let scratch = published();
    let second = scratch.version("2");
    scratch.publish(&[]).code(0);
    let run = scratch.client(&["history", "origin", "os"]).code(0);
    let lines: Vec<&str> = run.out.lines().collect();
    assert_eq!(lines.len(), 3, "{}", run.out);
    assert!(
        lines[0].starts_with("Version  Release        Commit"),
        "{}",
        run.out
    );
    assert!(
        lines[1].starts_with("2 ") && lines[1].contains(&second[..12]),
        "{}",
        run.out
    );
    assert!(lines[2].starts_with("1 "), "{}", run.out);
    assert_eq!(run.err, "");

    let withdraw = [
        "site",
        "withdraw",
        "site",
        "os@2",
        "--reason",
        "does not boot",
        "--key",
        "key",
    ];
    scratch.atomos(&withdraw).code(0);
    // What came in its place does not have it in its history, and people ask what became of it.
    let run = scratch.client(&["history", "origin", "os"]).code(0);
    assert!(
        run.out
            .lines()
            .nth(1)
            .unwrap()
            .ends_with("withdrawn: does not boot"),
        "{}",
        run.out
    );
    let list = scratch.client(&["history", "origin", "os", "--json"]).json();
    assert_eq!(list[0]["number"], 2);
    assert_eq!(list[0]["commit"], second);
    assert_eq!(list[0]["withdrawn"], "does not boot");
    assert_eq!(
        (&list[1]["number"], &list[1]["version"]),
        (&json!(1), &json!("1"))
    );
    assert!(list[1]["time"].is_i64());
    assert_eq!(list[1].get("withdrawn"), None);
}

#[test]
fn what_is_not_there_is_named() {
    let scratch = published();
    let run = scratch.client(&["history", "origin", "nope"]).code(3);
    assert!(
        run.err.starts_with("error: the remote origin has no ref nope\n"),
        "{}",
        run.err
    );
    assert!(
        run.err.contains("hint: `atomos remote show origin`"),
        "{}",
        run.err
    );
    let run = scratch.client(&["history", "nope", "os"]).code(3);
    assert!(run.err.contains("there is no remote nope in "), "{}", run.err);
    assert!(run.err.contains("hint: `atomos remote list`"), "{}", run.err);
}
