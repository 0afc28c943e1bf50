use crate::common::Scratch;

#[test]
fn files_are_printed_one_after_the_other_through_links() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    assert_eq!(
        scratch.atomos(&["cat", "os", "/etc/os-release", "bin/sh"]).ok(),
        "ID=test\n#!\n"
    );
}

#[test]
fn what_is_no_file_is_named_by_its_kind() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    let run = scratch.atomos(&["cat", "os", "/etc"]).code(5);
    assert_eq!(
        run.err,
        "error: cannot print /etc in os: it is a directory\nhint: `atomos ls -l os /etc` shows it\n"
    );
}

#[test]
fn damaged_bytes_are_not_printed() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    let list = scratch.atomos(&["ls", "--json", "os", "etc/motd"]).json();
    scratch.damage("objects", list[0]["blob"].as_str().unwrap());
    let run = scratch.atomos(&["cat", "os", "/etc/motd"]).code(6);
    assert_eq!(run.out, "");
    assert!(run.err.contains("is damaged"), "{}", run.err);
    assert!(run.err.contains("hint: `atomos fsck`"), "{}", run.err);
}
