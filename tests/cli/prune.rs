use crate::common::Scratch;

#[test]
fn only_what_no_ref_leads_to_goes() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    scratch.write("tree/only-here", "only here");
    scratch
        .atomos(&[
            "commit", "-b", "extra", "--owner", "0:0", "--mtime", "zero", "tree",
        ])
        .code(0);
    scratch.atomos(&["refs", "--delete", "extra"]).code(0);
    let plan = scratch.atomos(&["prune", "--dry-run"]).code(0);
    assert!(
        plan.out.starts_with("Would remove 1 commit, 1 dirtree, 1 blob: "),
        "{}",
        plan.out
    );
    assert_eq!(plan.err, "");
    let report = scratch.atomos(&["prune", "--json"]).json();
    assert_eq!(report["commits-removed"], 1);
    assert_eq!(report["blobs-removed"], 1);
    assert_eq!(report["commits-kept"], 1);
    scratch.atomos(&["fsck"]).code(0);
    let run = scratch.atomos(&["prune"]).code(0);
    assert_eq!(run.out, "");
    assert!(
        run.err.starts_with("Removed 0 commits, 0 dirtrees, 0 blobs: "),
        "{}",
        run.err
    );
}
