use std::fs;

use crate::common::Scratch;

/// Two commits that differ in every way that takes no rights.
fn changed() -> Scratch {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.write("tree/etc/old", "");
    scratch.symlink("a", "tree/link");
    scratch.commit("first");
    scratch.write("tree/etc/motd", "good morning\n");
    scratch.chmod("tree/etc/motd", 0o600);
    scratch.chmod("tree/usr/lib", 0o700);
    fs::remove_file(scratch.path("tree/etc/old")).unwrap();
    fs::remove_file(scratch.path("tree/link")).unwrap();
    scratch.symlink("b", "tree/link");
    fs::remove_file(scratch.path("tree/usr/bin/sh")).unwrap();
    scratch.write("tree/usr/bin/sh/dash", "");
    scratch.commit("second");
    scratch
}

const CHANGES: &str = "\
M /etc/motd (content, mode 0644 -> 0600)
D /etc/old
M /link (target)
M /usr/bin/sh (file -> directory)
A /usr/bin/sh/dash
M /usr/lib (mode 0755 -> 0700)
";

#[test]
fn each_change_is_a_line_that_says_what_changed() {
    let scratch = changed();
    let run = scratch.atomos(&["diff", "os^", "os"]).code(0);
    assert_eq!(run.out, CHANGES);
    assert_eq!(run.err, "1 added, 1 deleted, 4 modified\n");
}

#[test]
fn one_revision_is_compared_with_its_parent() {
    assert_eq!(changed().atomos(&["diff", "os"]).ok(), CHANGES);
}

#[test]
fn a_tree_is_equal_to_itself() {
    let run = changed().atomos(&["diff", "os", "os"]).code(0);
    assert_eq!(run.out, "");
    assert_eq!(run.err, "0 added, 0 deleted, 0 modified\n");
}

#[test]
fn json_has_both_sides() {
    let list = changed().atomos(&["diff", "--json", "os"]).json();
    assert_eq!(list.as_array().unwrap().len(), 6);
    assert_eq!(list[0]["change"], "modified");
    assert_eq!(list[0]["path"], "/etc/motd");
    assert_eq!(list[0]["parts"], serde_json::json!(["content", "mode"]));
    assert_eq!(list[0]["before"]["mode"], "0644");
    assert_eq!(list[0]["after"]["mode"], "0600");
    assert_eq!(list[1]["change"], "deleted");
    assert!(list[1].get("after").is_none());
    assert_eq!(list[4]["change"], "added");
}

#[test]
fn a_revision_is_compared_with_a_directory() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.atomos(&["commit", "-b", "os", "tree"]).code(0);
    scratch.write("tree/etc/motd", "edited\n");
    scratch.write("tree/new", "");
    let expected = "M /etc/motd (content)\nA /new\n";
    assert_eq!(scratch.atomos(&["diff", "os", "./tree"]).ok(), expected);
    let absolute = scratch.path("tree");
    assert_eq!(
        scratch.atomos(&["diff", "os", absolute.to_str().unwrap()]).ok(),
        expected
    );
    assert_eq!(
        scratch.atomos(&["diff", "./tree", "os"]).ok(),
        "M /etc/motd (content)\nD /new\n"
    );
}

#[test]
fn time_alone_is_no_change_unless_asked_for() {
    let scratch = Scratch::new();
    scratch.write("tree/file", "x");
    scratch.commit("zero");
    scratch
        .atomos(&["commit", "-b", "os", "--owner", "0:0", "tree"])
        .code(0);
    assert_eq!(scratch.atomos(&["diff", "os"]).ok(), "");
    assert_eq!(
        scratch.atomos(&["diff", "--mtime", "os"]).ok(),
        "M / (time 1970-01-01 00:00:00 UTC -> 2024-02-29 12:34:56 UTC)\n\
         M /file (time 1970-01-01 00:00:00 UTC -> 2024-02-29 12:34:56 UTC)\n"
    );
}

#[test]
fn a_directory_that_looks_like_a_revision_is_pointed_out() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    let run = scratch.atomos(&["diff", "os", "tree"]).code(3);
    assert!(
        run.err.ends_with("hint: for the directory, write ./tree\n"),
        "{}",
        run.err
    );
    let run = scratch.atomos(&["diff", "./tree"]).code(2);
    assert!(run.err.contains("`atomos diff REV ./tree`"), "{}", run.err);
}

#[test]
fn colour_comes_when_asked_for() {
    let scratch = changed();
    let colored = scratch.atomos(&["diff", "--color", "always", "os"]).ok();
    assert!(
        colored.contains("\x1b[32mA\x1b[0m /usr/bin/sh/dash"),
        "{colored:?}"
    );
}
