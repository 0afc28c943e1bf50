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
