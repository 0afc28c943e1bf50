//! Ending conflicts, going back to defaults, and saying what was changed.

use super::*;
use crate::error::ErrorKind;

/// Merges, then plays the new deployment: `etc` is the target, `usr/etc` is theirs.
struct Deployed {
    f: Fixture,
    conflicts: Conflicts,
}

fn deploy(f: Fixture) -> Deployed {
    let conflicts = f.merge().conflicts;
    Deployed { f, conflicts }
}

impl Deployed {
    fn resolve(&mut self, path: &str, resolution: Resolution) -> Result<ConflictRecord, EtcMergeError> {
        resolve(
            &mut self.conflicts,
            &path.parse().unwrap(),
            resolution,
            &self.f.dir("target"),
            &self.f.dir("theirs"),
            &Cancel::new(),
        )
    }

    fn reset(&self, path: &str) -> Result<bool, EtcMergeError> {
        reset(
            &path.parse().unwrap(),
            &self.f.dir("target"),
            &self.f.dir("theirs"),
            &Cancel::new(),
        )
    }
}

fn content_conflict() -> Deployed {
    let f = Fixture::of(&[("d/a", file("base"))]);
    f.write("mine", "d/a", "mine");
    f.put("theirs", "d/a", What::File("theirs".to_owned(), 0o640));
    deploy(f)
}

#[test]
fn mine_and_edited_leave_the_file_and_end_the_conflict() {
    for resolution in [Resolution::Mine, Resolution::Edited] {
        let mut d = content_conflict();
        d.f.write("target", "d/a", "put together");
        let record = d.resolve("d/a", resolution).unwrap();
        assert_eq!(record.path.to_string(), "d/a");
        assert!(d.conflicts.is_empty());
        assert_eq!(d.f.read("d/a"), "put together");
    }
}

#[test]
fn theirs_puts_the_new_default_in_place_with_its_metadata_and_leaves_no_trace() {
    let mut d = content_conflict();
    d.resolve("d/a", Resolution::Theirs).unwrap();
    assert!(d.conflicts.is_empty());
    assert_eq!((d.f.read("d/a").as_str(), d.f.mode("d/a")), ("theirs", 0o640));
    let names: Vec<_> = d.f.list("target").into_iter().map(|(path, _)| path).collect();
    assert_eq!(names, ["", "d", "d/a"]);
}

#[test]
fn a_path_without_a_conflict_is_an_error_and_changes_nothing() {
    let mut d = content_conflict();
    let error = d.resolve("d", Resolution::Theirs).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(d.conflicts.len(), 1);
}

#[test]
fn theirs_brings_back_what_was_deleted_here_with_its_directories() {
    let f = Fixture::of(&[("d", What::Dir(0o750)), ("d/a", file("a")), ("d/b", file("b"))]);
    f.remove("mine", "d");
    f.write("theirs", "d/a", "theirs");
    let mut d = deploy(f);
    d.resolve("d", Resolution::Theirs).unwrap();
    assert_eq!(d.f.read("d/a"), "theirs");
    assert_eq!(d.f.read("d/b"), "b");
    assert_eq!(d.f.mode("d"), 0o750);
}

#[test]
fn theirs_removes_what_is_no_default_any_more() {
    let f = Fixture::of(&[("a", file("a"))]);
    f.write("mine", "a", "mine");
    f.remove("theirs", "a");
    let mut d = deploy(f);
    d.resolve("a", Resolution::Theirs).unwrap();
    assert!(!d.f.exists("a"));
}

#[test]
fn theirs_replaces_a_directory_by_a_link_and_a_file_by_a_directory() {
    let f = Fixture::of(&[("d/a", file("a")), ("x", file("x"))]);
    f.write("mine", "d/local", "mine");
    f.put("theirs", "d", link("elsewhere"));
    f.write("mine", "x", "mine");
    f.remove("theirs", "x");
    f.write("theirs", "x/y", "y");
    let mut d = deploy(f);
    d.resolve("d", Resolution::Theirs).unwrap();
    d.resolve("x", Resolution::Theirs).unwrap();
    assert_eq!(
        fs::read_link(d.f.at("target", "d")).unwrap(),
        Path::new("elsewhere")
    );
    assert_eq!(d.f.read("x/y"), "y");
    assert_eq!(d.f.list("target").len(), 4);
}

#[test]
fn theirs_of_a_mode_alone_keeps_my_content() {
    let f = Fixture::of(&[("c", What::File("c".to_owned(), 0o600))]);
    f.put("mine", "c", What::File("secret".to_owned(), 0o600));
    f.put("theirs", "c", What::File("c".to_owned(), 0o644));
    let mut d = deploy(f);
    d.resolve("c", Resolution::Theirs).unwrap();
    assert_eq!((d.f.read("c").as_str(), d.f.mode("c")), ("secret", 0o644));
}

#[test]
fn theirs_of_a_directory_s_mode_keeps_what_is_in_it() {
    let f = Fixture::of(&[("d", What::Dir(0o755)), ("d/a", file("a"))]);
    f.chmod("mine", "d", 0o711);
    f.write("mine", "d/local", "local");
    f.chmod("theirs", "d", 0o750);
    let mut d = deploy(f);
    assert_eq!(d.f.mode("d"), 0o710);
    d.resolve("d", Resolution::Theirs).unwrap();
    assert_eq!(d.f.mode("d"), 0o750);
    assert_eq!(d.f.read("d/local"), "local");
}

#[test]
fn the_account_files_are_not_replaced_as_a_whole() {
    let f = Fixture::of(&[("passwd", file("r:x:0:0:::\n"))]);
    f.write("mine", "passwd", "r:x:0:0:::\na:x:9:9:::\n");
    f.write("theirs", "passwd", "r:x:0:0:::\nb:x:9:9:::\n");
    let mut d = deploy(f);
    assert_eq!(conflicts_of(&d), ["passwd"]);
    for error in [
        d.resolve("passwd", Resolution::Theirs).unwrap_err(),
        d.reset("passwd").unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
    assert_eq!(d.conflicts.len(), 1);
    assert_eq!(d.f.read("passwd"), "r:x:0:0:::\na:x:9:9:::\n");
    d.resolve("passwd", Resolution::Edited).unwrap();
}

fn conflicts_of(d: &Deployed) -> Vec<String> {
    d.conflicts.iter().map(|record| record.path.to_string()).collect()
}

#[test]
fn reset_puts_any_default_back() {
    let f = Fixture::of(&[("d/a", file("a")), ("d/b", file("b")), ("l", link("x"))]);
    f.write("mine", "d/a", "mine");
    f.write("mine", "d/local", "local");
    f.put("mine", "l", file("no link"));
    let d = deploy(f);
    d.reset("l").unwrap();
    assert!(d.f.at("target", "l").is_symlink());
    d.reset("d/local").unwrap();
    assert!(!d.f.exists("d/local"));
    d.f.remove("target", "d");
    d.reset("d/b").unwrap();
    assert_eq!(d.f.read("d/b"), "b");
    d.f.remove("target", "d/a");
    d.reset("d").unwrap();
    assert_eq!(d.f.read("d/a"), "a");
    assert_eq!(d.reset("no/such").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(d.reset("").unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn reset_of_a_directory_loses_nothing_that_was_made_or_changed_in_it() {
    let f = Fixture::of(&[
        ("d/a", file("a")),
        ("d/b", file("b")),
        ("d/c", file("c")),
        ("o", file("o")),
    ]);
    f.write("mine", "d/a", "mine");
    f.write("mine", "d/deep/key", "key");
    f.remove("mine", "d/b");
    f.write("mine", "own/x", "x");
    f.write("mine", "o", "mine");
    let d = deploy(f);
    let socket = std::os::unix::net::UnixListener::bind(d.f.at("target", "d/socket")).unwrap();
    let before = d.f.list("target");
    for (path, lost) in [
        ("d", &["d/a", "d/deep", "d/deep/key", "d/socket"][..]),
        ("d/deep", &["d/deep/key"]),
        ("own", &["own/x"]),
    ] {
        let error = d.reset(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert_eq!(lost_of(&d, path), lost);
        let shown = lost.join(", ");
        assert!(error.to_string().ends_with(&shown), "{error}");
    }
    assert_eq!(d.f.list("target"), before);
    let (path, cancel) = (&"d".parse().unwrap(), Cancel::new());
    let (etc, default) = (d.f.dir("target"), d.f.dir("theirs"));
    let (has_default, lost) = reset_all(path, &etc, &default, &cancel).unwrap();
    assert!(has_default && lost.len() == 4);
    drop(socket);
    let names: Vec<_> = d.f.list("target").into_iter().map(|(path, _)| path).collect();
    assert_eq!(names, ["", "d", "d/a", "d/b", "d/c", "o", "own", "own/x"]);
    assert_eq!(d.f.read("d/a"), "a");
    // What is no directory is named itself.
    assert!(lost_of(&d, "o").is_empty());
    d.reset("o").unwrap();
}

fn lost_of(d: &Deployed, path: &str) -> Vec<String> {
    let (etc, default) = (d.f.dir("target"), d.f.dir("theirs"));
    let lost = lost_by_reset(&path.parse().unwrap(), &etc, &default, &Cancel::new()).unwrap();
    lost.iter().map(ToString::to_string).collect()
}

#[test]
fn a_link_on_the_way_leads_nobody_out() {
    let f = Fixture::of(&[("d/a", file("a"))]);
    let d = deploy(f);
    let outside = d.f.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("a"), "outside").unwrap();
    d.f.put("target", "d", link(outside.to_str().unwrap()));
    assert!(d.reset("d/a").is_err());
    assert_eq!(fs::read_to_string(outside.join("a")).unwrap(), "outside");
}

#[test]
fn open_conflicts_go_on_until_the_file_is_touched() {
    let mut d = content_conflict();
    d.f.write("target", "other", "x");
    let mut next = Conflicts::default();
    next.carry_over(&d.conflicts, &d.f.dir("target"), &Cancel::new())
        .unwrap();
    assert_eq!(next, d.conflicts);
    d.f.write("target", "d/a", "edited by hand");
    let mut next = Conflicts::default();
    next.carry_over(&d.conflicts, &d.f.dir("target"), &Cancel::new())
        .unwrap();
    assert!(next.is_empty());
    d.resolve("d/a", Resolution::Mine).unwrap();
}

#[test]
fn the_diff_names_every_path_and_what_was_changed() {
    let f = Fixture::of(&[
        ("a", file("a")),
        ("b", file("b")),
        ("d", What::Dir(0o755)),
        ("gone/x", file("x")),
        ("same", file("same")),
        (".updated", file("")),
    ]);
    f.put("mine", "a", What::File("mine".to_owned(), 0o600));
    f.put("mine", "b", link("a"));
    f.chmod("mine", "d", 0o700);
    f.write("mine", "d/new", "new");
    f.remove("mine", "gone");
    f.remove("mine", ".updated");
    f.write("mine", ".pwd.lock", "");
    let diff = diff(&f.dir("base"), &f.dir("mine"), &Cancel::new()).unwrap();
    let shown: Vec<_> = diff
        .entries
        .iter()
        .map(|entry| format!("{} {}", entry.letter(), entry.path))
        .collect();
    assert_eq!(shown, ["M a", "T b", "M d", "A d/new", "D gone", "D gone/x"]);
    assert_eq!(
        diff.entries[0].change,
        Change::Changed {
            aspects: vec![Aspect::Content, Aspect::Mode]
        }
    );
    let json = serde_json::to_value(&diff).unwrap();
    assert_eq!(json["entries"][0]["change"], "changed");
    assert_eq!(json["entries"][0]["aspects"][1], "mode");
}
