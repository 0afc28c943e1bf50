//! Cases that have gone wrong somewhere before.

use super::*;

#[test]
fn a_change_here_and_a_change_of_the_default_both_survive() {
    let f = Fixture::of(&[("a", file("a")), ("b", file("b")), ("d/c", file("c"))]);
    f.write("mine", "a", "mine");
    f.write("mine", "local", "local");
    f.write("theirs", "b", "theirs");
    f.write("theirs", "new", "new");
    f.remove("theirs", "d");
    let report = f.merge();
    assert_eq!(f.read("a"), "mine");
    assert_eq!(f.read("b"), "theirs");
    assert_eq!(f.read("local"), "local");
    assert_eq!(f.read("new"), "new");
    assert!(!f.exists("d"));
    assert!(report.conflicts.is_empty());
    assert_eq!((report.counts.mine, report.counts.default), (2, 4));
}

#[test]
fn in_a_conflict_mine_stays_and_nothing_is_written_beside_it() {
    let f = Fixture::of(&[("a", file("a")), ("gone", file("x")), ("deleted", file("x"))]);
    f.write("mine", "a", "mine");
    f.write("theirs", "a", "theirs");
    f.write("mine", "gone", "edited");
    f.remove("theirs", "gone");
    f.remove("mine", "deleted");
    f.write("theirs", "deleted", "changed");
    let report = f.merge();
    assert_eq!(f.read("a"), "mine");
    assert_eq!(f.read("gone"), "edited");
    let names: Vec<_> = f.list("target").into_iter().map(|(path, _)| path).collect();
    assert_eq!(names, ["", "a", "gone"]);
    assert_eq!(
        conflicts(&report),
        [
            ("a".to_owned(), vec![ConflictKind::Content]),
            ("deleted".to_owned(), vec![ConflictKind::DeletedHere]),
            ("gone".to_owned(), vec![ConflictKind::DeletedThere]),
        ]
    );
}

#[test]
fn a_mode_only_change_of_a_directory_and_a_new_default_in_it_both_survive() {
    let f = Fixture::of(&[("d", What::Dir(0o755)), ("d/a", file("a"))]);
    f.chmod("mine", "d", 0o700);
    f.write("theirs", "d/b", "b");
    let report = f.merge();
    assert_eq!(f.mode("d"), 0o700);
    assert_eq!(f.read("d/b"), "b");
    assert!(report.conflicts.is_empty());
}

#[test]
fn a_new_default_mode_of_a_directory_is_not_reverted_by_an_edit_in_it() {
    let f = Fixture::of(&[("d", What::Dir(0o750)), ("d/a", file("a"))]);
    f.write("mine", "d/a", "mine");
    f.chmod("theirs", "d", 0o755);
    f.merge();
    assert_eq!(f.mode("d"), 0o755);
    assert_eq!(f.read("d/a"), "mine");
}

#[test]
fn non_utf8_names() {
    let f = Fixture::of(&[("a", file("a"))]);
    f.put("mine", os(b"d\xff/\xfe\n"), file("odd"));
    f.merge();
    assert_eq!(fs::read(f.at("target", os(b"d\xff/\xfe\n"))).unwrap(), b"odd");
}

#[test]
fn links_that_lead_nowhere_and_fifos_are_kept_and_compared() {
    let f = Fixture::of(&[("link", link("/nowhere")), ("other", link("a"))]);
    f.put("mine", "fifo", What::Fifo);
    f.put("mine", "link", link("/elsewhere"));
    f.put("theirs", "other", link("b"));
    f.merge();
    let target = |path| fs::read_link(f.at("target", path)).unwrap();
    assert_eq!(target("link"), Path::new("/elsewhere"));
    assert_eq!(target("other"), Path::new("b"));
    assert_eq!(f.mode("fifo"), 0o600);
}

#[test]
fn a_socket_is_skipped_and_named() {
    let f = Fixture::of(&[("a", file("a"))]);
    let _listener = std::os::unix::net::UnixListener::bind(f.at("mine", "socket")).unwrap();
    let report = f.merge();
    assert!(!f.exists("socket"));
    assert_eq!(report.skipped[0].path.to_string(), "socket");
    assert_eq!(report.skipped[0].reason, SkipReason::Socket);
}

#[test]
fn a_directory_that_became_a_file_here_stays_a_file() {
    let f = Fixture::of(&[("d/a", file("a")), ("d/b", file("b"))]);
    f.put("mine", "d", file("mine"));
    f.merge();
    assert_eq!(f.read("d"), "mine");
    // And so it does when the new default has more in it, but then somebody is told.
    f.write("theirs", "d/c", "c");
    let report = f.merge();
    assert_eq!(f.read("d"), "mine");
    assert_eq!(conflicts(&report), conflict("d", ConflictKind::Type));
}

#[test]
fn a_file_that_became_a_directory_in_the_default_yields_to_an_edited_file() {
    let f = Fixture::of(&[("x", file("x"))]);
    f.remove("theirs", "x");
    f.write("theirs", "x/a", "a");
    f.merge();
    assert_eq!(f.read("x/a"), "a");
    f.write("mine", "x", "edited");
    let report = f.merge();
    assert_eq!(f.read("x"), "edited");
    assert_eq!(conflicts(&report), conflict("x", ConflictKind::Type));
}

#[test]
fn a_directory_that_became_a_file_in_the_default_stays_whole_if_something_of_mine_is_in_it() {
    let f = Fixture::of(&[("d/a", file("a")), ("d/e/b", file("b"))]);
    f.put("theirs", "d", link("elsewhere"));
    f.merge();
    assert!(f.at("target", "d").is_symlink());
    f.write("mine", "d/e/local", "local");
    let report = f.merge();
    assert_eq!(f.read("d/e/local"), "local");
    assert_eq!(f.read("d/a"), "a", "half a directory would be of no use");
    assert_eq!(conflicts(&report), conflict("d", ConflictKind::Type));
}

#[test]
fn a_directory_deleted_here_stays_deleted_and_a_change_in_its_default_is_one_conflict() {
    let f = Fixture::of(&[("d/a", file("a")), ("d/b", file("b")), ("k", file("k"))]);
    f.remove("mine", "d");
    assert!(f.merge().conflicts.is_empty());
    assert!(!f.exists("d"));
    f.write("theirs", "d/a", "changed");
    f.write("theirs", "d/c", "new");
    let report = f.merge();
    assert!(!f.exists("d"));
    assert_eq!(conflicts(&report), conflict("d", ConflictKind::DeletedHere));
}

#[test]
fn a_directory_that_is_no_default_any_more_stays_for_what_is_in_it() {
    let f = Fixture::of(&[("d", What::Dir(0o2770)), ("d/a", file("a")), ("d/b", file("b"))]);
    f.write("mine", "d/local", "local");
    f.write("mine", "d/b", "edited");
    f.remove("theirs", "d");
    let report = f.merge();
    assert_eq!(f.read("d/local"), "local");
    assert_eq!(f.read("d/b"), "edited");
    assert!(!f.exists("d/a"));
    assert_eq!(f.mode("d"), 0o2770);
    assert_eq!(conflicts(&report), conflict("d/b", ConflictKind::DeletedThere));
}

#[test]
fn my_content_never_gets_their_setuid_bit() {
    let f = Fixture::of(&[("tool", What::File("#!".to_owned(), 0o755))]);
    f.put("mine", "tool", What::File("mine".to_owned(), 0o755));
    f.put("theirs", "tool", What::File("#!".to_owned(), 0o4755));
    let report = f.merge();
    assert_eq!(f.read("tool"), "mine");
    assert_eq!(f.mode("tool"), 0o755);
    assert_eq!(conflicts(&report), conflict("tool", ConflictKind::Content));
}

#[test]
fn a_secret_that_was_put_into_a_default_is_not_opened_by_the_next_one() {
    let f = Fixture::of(&[("c", What::File("c".to_owned(), 0o600))]);
    f.put("mine", "c", What::File("password".to_owned(), 0o600));
    f.put("theirs", "c", What::File("c".to_owned(), 0o755));
    let report = f.merge();
    assert_eq!((f.read("c").as_str(), f.mode("c")), ("password", 0o711));
    assert_eq!(conflicts(&report), conflict("c", ConflictKind::Mode));
}

#[test]
fn what_marks_etc_as_updated_is_left_behind() {
    let f = Fixture::of(&[(".updated", file("")), ("a", file("a"))]);
    f.write("mine", ".updated", "stamp");
    f.write("mine", ".pwd.lock", "");
    f.write("mine", "d/.updated", "not that one");
    f.merge();
    assert!(!f.exists(".updated"));
    assert!(!f.exists(".pwd.lock"));
    assert!(f.exists("d/.updated"));
}

#[test]
fn etc_itself_has_a_mode() {
    let f = Fixture::of(&[("a", file("a"))]);
    f.chmod("mine", "", 0o711);
    f.write("theirs", "b", "b");
    f.merge();
    assert_eq!(f.mode(""), 0o711);
    assert_eq!(f.read("b"), "b");
}

#[test]
fn times_are_kept_and_are_no_change() {
    let f = Fixture::of(&[("a", file("a")), ("d/b", file("b")), ("e/c", file("c"))]);
    let stamp = |side: &str, path: &str, time| f.dir(side).set_mtime(path, time).unwrap();
    f.write("mine", "d/b", "mine");
    f.chmod("mine", "e", 0o700);
    for path in ["a", "d/b", "d", "e/c", "e"] {
        stamp("mine", path, 1_000);
        stamp("theirs", path, 2_000);
    }
    let report = f.merge();
    let time = |path: &str| f.dir("target").stat(path).unwrap().mtime;
    assert_eq!(
        [time("a"), time("d/b"), time("d"), time("e/c"), time("e")],
        [2_000, 1_000, 2_000, 2_000, 1_000]
    );
    assert_eq!(report.counts.mine, 2);
}

#[test]
fn running_it_again_over_an_unfinished_run_gives_the_same() {
    let f = Fixture::of(&[("a", file("a")), ("d/b", file("b"))]);
    f.write("mine", "a", "mine");
    f.merge();
    let first = f.list("target");
    f.write("target", "rest/of/a/run", "x");
    f.remove("target", "a");
    f.merge();
    assert_eq!(f.list("target"), first);
}

#[test]
fn the_target_cannot_be_one_of_the_inputs() {
    let f = Fixture::of(&[("a", file("a"))]);
    let plan = f.plan().unwrap();
    let (base, mine, theirs) = (f.dir("base"), f.dir("mine"), f.dir("theirs"));
    let input = MergeInput {
        base: &base,
        mine: &mine,
        theirs: &theirs,
        policies: &f.policies,
    };
    let result = apply(&plan, &input, &f.dir("mine"), &NoProgress, &Cancel::new());
    assert!(matches!(result, Err(EtcMergeError::TargetIsInput { .. })));
    assert!(f.at("mine", "a").exists());
}

#[test]
fn what_changed_since_the_plan_is_looked_at_again() {
    let f = Fixture::of(&[("a", file("a")), ("b", file("b")), ("d/c", file("c"))]);
    f.write("mine", "a", "first");
    f.remove("mine", "b");
    f.write("mine", "local", "x");
    let plan = f.plan().unwrap();
    // An editor is done replacing `b`; another file is edited once more, one goes, a directory comes.
    f.write("mine", "b", "back");
    f.write("mine", "a", "second");
    f.remove("mine", "local");
    f.write("mine", "d/e/new", "new");
    f.chmod("mine", "d", 0o700);
    let report = f.apply(&plan).unwrap();
    assert_eq!(report.unsettled, []);
    assert_eq!(f.read("b"), "back");
    assert_eq!(f.read("a"), "second");
    assert!(!f.exists("local"));
    assert_eq!(f.read("d/e/new"), "new");
    assert_eq!(f.mode("d"), 0o700);
    let again = Fixture::new();
    for side in ["base", "mine", "theirs"] {
        fs::remove_dir(again.path(side)).unwrap();
        fs::rename(f.path(side), again.path(side)).unwrap();
    }
    again.merge();
    assert_eq!(again.list("target"), f.list("target"));
}

#[test]
fn a_file_that_changes_all_the_time_does_not_hold_the_merge_up() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let f = Fixture::of(&[("a", file("a"))]);
    f.write("mine", "log", "begun");
    let stop = AtomicBool::new(false);
    let report = std::thread::scope(|scope| {
        scope.spawn(|| {
            for count in 0u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                fs::write(f.at("mine", "log"), vec![b'x'; 1 + count as usize % 5000]).unwrap();
            }
        });
        let report = f.plan().and_then(|plan| f.apply(&plan));
        stop.store(true, Ordering::Relaxed);
        report
    });
    report.unwrap();
    assert!(f.exists("log"));
}

/// A service owns a directory in `/etc`, and what it makes there must not keep the machine from being upgraded.
#[test]
fn what_is_nested_too_deep_or_is_a_hole_is_left_out_and_told() {
    let f = Fixture::of(&[("a", file("a")), ("log", file("default"))]);
    fs::create_dir_all(f.at("mine", "d/".repeat(200))).unwrap();
    for name in ["log", "own"] {
        let file = fs::File::create(f.at("mine", name)).unwrap();
        file.set_len(1 << 42).unwrap();
    }
    let report = f.merge();
    let mut skipped: Vec<_> = report.skipped.iter().map(|skipped| skipped.reason).collect();
    skipped.sort_by_key(|reason| *reason as u8);
    assert_eq!(skipped, [SkipReason::TooDeep, SkipReason::Hole, SkipReason::Hole]);
    assert!(f.exists("d/d/d") && !f.exists("own"));
    assert_eq!(f.read("log"), "default");

    // But no default is left out.
    fs::create_dir_all(f.at("theirs", "t/".repeat(200))).unwrap();
    let error = f.plan().unwrap_err();
    assert!(matches!(error, EtcMergeError::NoDefault { .. }), "{error}");
}

#[test]
fn a_subvolume_in_etc_is_a_directory_like_any_other() {
    let Some(btrfs) = crate::testing::LoopFs::new("btrfs", 128) else {
        return;
    };
    let f = Fixture::beneath(tempfile::tempdir_in(btrfs.path()).unwrap());
    let made = std::process::Command::new("btrfs")
        .args(["--quiet", "subvolume", "create"])
        .arg(f.at("mine", "sub"))
        .status()
        .unwrap();
    assert!(made.success());
    fs::create_dir(f.at("mine", "sub/dir")).unwrap();
    fs::write(f.at("mine", "sub/dir/data"), "precious").unwrap();
    let report = f.merge();
    assert_eq!(report.skipped, []);
    assert_eq!(f.read("sub/dir/data"), "precious");
}

#[test]
fn a_merge_that_is_cancelled_stops() {
    let f = Fixture::of(&[("a", file("a"))]);
    let (base, mine, theirs) = (f.dir("base"), f.dir("mine"), f.dir("theirs"));
    let cancel = Cancel::new();
    cancel.cancel();
    let input = MergeInput {
        base: &base,
        mine: &mine,
        theirs: &theirs,
        policies: &f.policies,
    };
    let error = plan(&input, &cancel).unwrap_err();
    assert_eq!(error.kind(), crate::error::ErrorKind::Cancelled);
}

#[test]
fn an_account_that_the_new_version_renumbers_is_told_of() {
    let accounts = |uid: u32| format!("root:x:0:0:::\nd:x:{uid}:{uid}:::\n");
    let f = Fixture::of(&[("passwd", file(&accounts(100))), ("group", file("d:x:100:\n"))]);
    assert_eq!(f.merge().renumbered, []);
    f.write("theirs", "passwd", &accounts(102));
    // Also where somebody has an account here, so that records are merged.
    for own in ["", "me:x:1000:1000:::\n"] {
        f.write("mine", "passwd", &(accounts(100) + own));
        let [account] = &f.merge().renumbered[..] else {
            panic!("one was renumbered");
        };
        assert_eq!(
            (account.name.as_str(), account.before, account.after),
            ("d", 100, 102)
        );
        assert_eq!(account.file, AccountFile::Passwd);
    }
}

#[test]
fn a_policy_that_cannot_be_read_is_one_line_that_says_where() {
    let mut policies = Policies::default();
    let text = "[[rule]]\npath = \"a\"\npolicy = \"no-such\"\n";
    let error = policies.add(text, "etc-merge.d/x.conf".into()).unwrap_err();
    let told = error.to_string();
    assert!(
        told.starts_with("cannot read the merge policies in etc-merge.d/x.conf, line 3: "),
        "{told}"
    );
    assert!(!told.contains('\n'), "{told}");
}
