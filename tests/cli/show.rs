use crate::common::Scratch;

#[test]
fn a_commit_is_shown_whole() {
    let scratch = Scratch::new();
    scratch.tree();
    let first = scratch.commit("first");
    let second = scratch
        .atomos(&[
            "commit",
            "-b",
            "os",
            "-s",
            "second",
            "--body",
            "line one\n\nline two\n",
            "--version",
            "13.1",
            "--owner",
            "0:0",
            "--mtime",
            "zero",
            "tree",
        ])
        .ok();
    scratch.atomos(&["refs", "--create", "stable=os"]).code(0);
    let tree = scratch.atomos(&["rev-parse", "os^{tree}"]).ok();
    assert_eq!(
        scratch.atomos(&["show", "os"]).ok(),
        format!(
            "commit {second}Tree:    {tree}Parent:  {first}\nRef:     os\nRef:     stable\n\
             Time:    2024-02-29 12:34:56 UTC\nVersion: 13.1\n\n    second\n\n    line one\n\n    line two\n"
        )
    );
}

#[test]
fn a_dirtree_is_listed() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    let shown = scratch.atomos(&["show", "os^{tree}"]).ok();
    assert!(shown.starts_with("dirtree "), "{shown}");
    assert_eq!(shown.lines().count(), 5);
    let list = scratch.atomos(&["show", "--json", "os^{tree}"]).json();
    assert_eq!(list.as_array().unwrap().len(), 3);
}

#[test]
fn a_message_cannot_talk_to_the_terminal() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("\x1b[2Jgone");
    assert!(!scratch.atomos(&["show", "os"]).ok().contains('\x1b'));
    assert!(!scratch.atomos(&["log", "os"]).ok().contains('\x1b'));
}
