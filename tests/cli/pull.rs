use crate::common::Scratch;

#[test]
fn a_ref_comes_with_its_tree_and_history() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    let second = scratch.commit("second");
    scratch
        .atomos(&["init", "--repo", "mirror", "--mode", "bare-user"])
        .code(0);
    let pull = ["pull", "--repo", "mirror", "--from", "repo", "os"];
    let run = scratch.atomos(&pull).code(0);
    assert_eq!(
        run.err,
        format!(
            "Pulled os ({}): 2 new commits, 3 new blobs; 17 bytes\n",
            &second[..12]
        )
    );
    assert_eq!(
        scratch.atomos(&["log", "--repo", "mirror", "os"]).ok(),
        scratch.atomos(&["log", "os"]).ok()
    );
    scratch.atomos(&["fsck", "--repo", "mirror"]).code(0);
    let mut again = pull.to_vec();
    again.push("--json");
    let report = scratch.atomos(&again).json();
    assert_eq!(
        report["refs"],
        serde_json::json!([{"name": "os", "commit": second}])
    );
    assert_eq!(report["blobs-added"], 0);
}

#[test]
fn a_damaged_source_moves_no_ref() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    let list = scratch.atomos(&["ls", "--json", "os", "etc/motd"]).json();
    scratch.damage("objects", list[0]["blob"].as_str().unwrap());
    scratch
        .atomos(&["init", "--repo", "mirror", "--mode", "bare-user"])
        .code(0);
    let run = scratch
        .atomos(&["pull", "--repo", "mirror", "--from", "repo", "os"])
        .code(6);
    assert!(run.err.contains("is damaged"), "{}", run.err);
    assert_eq!(scratch.atomos(&["refs", "--repo", "mirror"]).ok(), "");
    scratch.atomos(&["fsck", "--repo", "mirror"]).code(0);
}

#[test]
fn a_ref_that_the_source_lacks_is_looked_for_there() {
    let scratch = Scratch::new();
    scratch
        .atomos(&["init", "--repo", "mirror", "--mode", "bare-user"])
        .code(0);
    let run = scratch.atomos(&["pull", "--from", "mirror", "os"]).code(3);
    assert_eq!(
        run.err,
        "error: there is no ref os in mirror\nhint: `atomos refs --repo mirror` lists the refs\n"
    );
}
