use crate::common::Scratch;

#[test]
fn sizes_are_counted_per_ref_and_in_all() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    scratch.write("tree/copy", "hello\n");
    scratch.commit("second");
    scratch.atomos(&["refs", "--create", "old=os^"]).code(0);
    let stats = scratch.atomos(&["stats", "--json"]).json();
    assert_eq!(stats["commits"], 2);
    assert_eq!(stats["blobs"], 3);
    assert_eq!(stats["blob-bytes"], 17);
    // The first tree has 17 bytes, the second 23.
    assert_eq!(stats["logical-bytes"], 40);
    assert_eq!(stats["deduplication"], 2.353);
    let os = &stats["refs"][1];
    assert_eq!(os["name"], "os");
    assert_eq!(
        [
            &os["files"],
            &os["logical-bytes"],
            &os["blobs"],
            &os["unique-bytes"],
            &os["exclusive-bytes"]
        ],
        [4, 23, 3, 17, 0]
    );
    let text = scratch.atomos(&["stats"]).ok();
    assert!(
        text.contains("Ref  Files      Size  Blobs   Kept in  Only here\nold      3  17 bytes      3  17 bytes    0 bytes\n"),
        "{text}"
    );
    assert!(
        text.ends_with("have 40 bytes, kept in 17 bytes: 2.35 to 1.\n"),
        "{text}"
    );
}

#[test]
fn an_empty_repository_has_nothing_to_divide() {
    let scratch = Scratch::new();
    assert_eq!(scratch.atomos(&["stats", "--json"]).json()["deduplication"], 1.0);
    assert!(scratch.atomos(&["stats"]).ok().starts_with("Objects "));
}

#[test]
fn every_file_belongs_to_one_holder_to_several_or_to_nobody() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    scratch.write("tree/only-second", "x".repeat(5000));
    scratch.commit("second");
    scratch.write("tree/only-third", "y".repeat(9000));
    let third = scratch.commit("third");
    // `old` has the history up to the second; `os` has all of it, and the third alone.
    scratch.atomos(&["refs", "--create", "old=os^"]).code(0);
    let root = format!("{{\"commits\": [\"{third}\"]}}");
    std::fs::write(scratch.path("repo/roots/machine"), root).unwrap();
    scratch.write("stray", "z".repeat(3000));
    scratch
        .atomos(&["commit", "-b", "stray", "--parent", "none", "tree"])
        .code(0);
    scratch.atomos(&["refs", "--delete", "stray"]).code(0);
    let stats = scratch.atomos(&["stats", "--json"]).json();
    let holders = stats["holders"].as_array().unwrap();
    let names: Vec<_> = holders
        .iter()
        .map(|holder| holder["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["ref old", "ref os", "machine"]);
    // The root has the third commit too, so nothing of it is the ref's alone.
    assert_eq!(
        [&holders[0]["files"], &holders[1]["files"], &holders[2]["files"]],
        [0, 0, 0]
    );
    let files = |share: &serde_json::Value| share["files"].as_u64().unwrap();
    let all = files(&stats["shared"]) + files(&stats["prunable"]);
    let total: u64 = ["commits", "dirtrees", "blobs", "variants"]
        .iter()
        .map(|key| stats[*key].as_u64().unwrap())
        .sum();
    assert_eq!(all, total);
    std::fs::remove_file(scratch.path("repo/roots/machine")).unwrap();
    let stats = scratch.atomos(&["stats", "--json"]).json();
    let alone = &stats["holders"][1];
    assert_eq!(alone["name"], "ref os");
    // The commit, the root directory, the large file.
    assert_eq!(alone["files"], 3);
    assert!(alone["bytes"].as_u64().unwrap() > 9000);
    // What it says is what happens.
    let plan = scratch.atomos(&["prune", "--json", "--dry-run"]).json();
    assert_eq!(plan["bytes-removed"], stats["prunable"]["bytes"]);
    assert_eq!(plan["bytes-freed"], stats["prunable"]["freed-bytes"]);
    scratch.atomos(&["prune"]).code(0);
    scratch.atomos(&["refs", "--delete", "os"]).code(0);
    let done = scratch.atomos(&["prune", "--json"]).json();
    assert_eq!(done["bytes-removed"], alone["bytes"]);
    let text = scratch.atomos(&["stats"]).ok();
    assert!(text.contains("\nref old alone  "), "{text}");
    assert!(text.contains("\nnothing (prune)  "), "{text}");
}
