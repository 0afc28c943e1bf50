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
    let run = scratch.atomos(&["refs", "--create", "os=os^"]).code(10);
    assert_eq!(
        run.err,
        format!(
            "error: ref os was to be absent, and is {second}\n\
             hint: look at it with `atomos log os`, then run the command again, or use --force\n"
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
    scratch.atomos(&["refs", "--force", "--delete", "nope"]).code(0);
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
