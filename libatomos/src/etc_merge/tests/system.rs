//! What depends on who runs it, on other processes, or on size.

use std::collections::BTreeMap;
use std::io;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::fs::XattrFlags;

use super::*;
use crate::error::ErrorKind;
use crate::progress::{Event, Phase, Progress};

fn is_root(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: only root {what}");
    }
    root
}

fn set_xattr(f: &Fixture, side: &str, path: &str, name: &str, value: &[u8]) {
    rustix::fs::setxattr(f.at(side, path), name, value, XattrFlags::empty()).unwrap();
}

fn own(f: &Fixture, side: &str, path: &str, uid: u32, gid: u32) {
    f.dir(side).set_owner(path, uid, gid).unwrap();
}

fn xattr(f: &Fixture, path: &str, name: &str) -> Option<Vec<u8>> {
    let (path, name) = (path.to_owned(), name.as_bytes());
    let entry = f.list("target").into_iter().find(|(found, _)| *found == path);
    entry?.1.metadata.xattrs.get(name).map(<[u8]>::to_vec)
}

const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn owners_capabilities_lists_and_attributes_are_exact() {
    if !is_root("gives files away") {
        return;
    }
    let f = Fixture::of(&[
        ("tool", What::File("tool".to_owned(), 0o755)),
        ("d", What::Dir(0o755)),
        ("d/a", file("a")),
        ("attr", file("a")),
        ("list", What::File("list".to_owned(), 0o640)),
    ]);
    let list = acl::test_acl(6, 4, 4, 0, &[(7, 4)]);
    // Mine: an owner and capabilities of a file, an owner and a default list of a directory, an attribute, a list.
    own(&f, "mine", "tool", 7, 8);
    set_xattr(&f, "mine", "tool", "security.capability", &CAPABILITY);
    own(&f, "mine", "d", 9, 10);
    f.chmod("mine", "d", 0o2770);
    set_xattr(
        &f,
        "mine",
        "d",
        "system.posix_acl_default",
        &acl::test_acl(7, 7, 7, 0, &[(7, 7)]),
    );
    set_xattr(&f, "mine", "attr", "user.x", b"mine");
    set_xattr(&f, "mine", "list", "system.posix_acl_access", &list);
    f.put("mine", "link", link("x"));
    own(&f, "mine", "link", 11, 12);
    // Theirs: new contents, a new file in the directory.
    f.write("theirs", "d/new", "new");
    f.write("theirs", "attr", "b");
    f.put("theirs", "list", What::File("new".to_owned(), 0o640));
    let report = f.merge();
    assert_eq!(conflicts(&report), []);
    let stat = |path: &str| f.dir("target").stat(path).unwrap();
    assert_eq!((stat("tool").uid, stat("tool").gid), (7, 8));
    assert_eq!(xattr(&f, "tool", "security.capability").unwrap(), CAPABILITY);
    assert_eq!((stat("d").uid, stat("d").gid, stat("d").mode), (9, 10, 0o2770));
    assert!(xattr(&f, "d", "system.posix_acl_default").is_some());
    assert_eq!(
        (stat("d/new").gid, xattr(&f, "d/new", "system.posix_acl_access")),
        (0, None),
        "what is written into a directory with a default list does not inherit"
    );
    assert_eq!(xattr(&f, "attr", "user.x").unwrap(), b"mine");
    assert_eq!(f.read("attr"), "b");
    assert_eq!(xattr(&f, "list", "system.posix_acl_access").unwrap(), list);
    assert_eq!(f.read("list"), "new");
    assert_eq!((stat("link").uid, stat("link").gid), (11, 12));
}

#[test]
fn a_rebuilt_path_inherits_no_list_from_its_directory() {
    if !is_root("is sure to be allowed to set lists in /tmp") {
        return;
    }
    let f = Fixture::of(&[("d", What::Dir(0o755)), ("d/a", file("a"))]);
    set_xattr(
        &f,
        "mine",
        "d",
        "system.posix_acl_default",
        &acl::test_acl(7, 7, 7, 0, &[(7, 7)]),
    );
    let plan = f.plan().unwrap();
    // Written before it had the list; `fs::write` keeps the inode.
    fs::write(f.at("mine", "d/a"), "changed").unwrap();
    f.apply(&plan).unwrap();
    assert_eq!(f.read("d/a"), "changed");
    assert_eq!(xattr(&f, "d/a", "system.posix_acl_access"), None);
    assert_eq!(f.mode("d/a"), 0o644);
}

/// Runs as an ordinary user, in a thread of its own: the identity of a thread is the kernel's unit.
fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if rustix::process::geteuid().is_root() {
                let (uid, gid) = (rustix::fs::Uid::from_raw(65534), rustix::fs::Gid::from_raw(65534));
                rustix::thread::set_thread_groups(&[]).unwrap();
                rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
                rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            }
            work()
        });
        thread.join().unwrap()
    })
}

/// Gives everything to the user of [`as_nobody`].
fn give_away(f: &Fixture) {
    if rustix::process::geteuid().is_root() {
        let status = Command::new("chown")
            .arg("-hR")
            .arg("65534:65534")
            .arg(f.scratch.path())
            .status();
        assert!(status.unwrap().success());
    }
}

#[test]
fn an_ordinary_user_merges_what_is_the_user_s() {
    let f = Fixture::of(&[("a", file("a")), ("d/b", file("b")), ("l", link("x"))]);
    f.write("mine", "a", "mine");
    f.put("mine", "fifo", What::Fifo);
    f.chmod("mine", "d", 0o500);
    f.write("theirs", "d/c", "c");
    give_away(&f);
    let list = acl::test_acl(6, 0, 6, 0, &[(7, 6)]);
    set_xattr(&f, "mine", "a", "system.posix_acl_access", &list);
    let plan = as_nobody(|| f.plan()).unwrap();
    fs::write(f.at("mine", "d/b"), "after the plan").unwrap();
    let report = as_nobody(|| f.apply(&plan)).unwrap();
    assert_eq!(conflicts(&report), []);
    assert_eq!(f.read("d/b"), "after the plan");
    assert_eq!(
        xattr(&f, "a", "system.posix_acl_access").unwrap(),
        list,
        "or the group would get the mask"
    );
    assert_eq!((f.read("a").as_str(), f.read("d/c").as_str()), ("mine", "c"));
    assert_eq!(f.mode("d"), 0o500);
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_that_names_it() {
    let f = Fixture::of(&[("a", file("a")), ("d/secret", file("s"))]);
    f.put("mine", "d/secret", What::File("s".to_owned(), 0o000));
    give_away(&f);
    let error = as_nobody(|| f.plan()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("d/secret"), "{error}");
}

/// A file system mounted for a test, until it is dropped.
struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(status.unwrap().success());
    }
}

#[test]
fn what_is_mounted_over_etc_is_neither_copied_nor_taken_as_deleted() {
    if !is_root("mounts") {
        return;
    }
    let f = Fixture::of(&[("d/a", file("a")), ("d/e/b", file("b"))]);
    f.write("theirs", "d/e/b", "theirs");
    let at = f.at("mine", "d");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "tmpfs"])
        .arg(&at)
        .stderr(Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("skipped: nothing can be mounted here");
        return;
    }
    let mount = Mount(at);
    f.write("mine", "d/of-the-mount", "x");
    let report = f.merge();
    drop(mount);
    assert_eq!(
        (f.read("d/a").as_str(), f.read("d/e/b").as_str()),
        ("a", "theirs")
    );
    assert!(!f.exists("d/of-the-mount"));
    assert_eq!(conflicts(&report), []);
    assert_eq!(report.skipped[0].reason, SkipReason::Mount);
}

#[test]
fn accounts_merge_on_disk_and_keep_the_stricter_mode() {
    let f = Fixture::of(&[
        ("passwd", file("root:x:0:0:::\n")),
        ("shadow", What::File("root:*:1::::::\n".to_owned(), 0o640)),
    ]);
    f.write("mine", "passwd", "root:x:0:0:::\nme:x:1000:1000:::\n");
    f.put(
        "mine",
        "shadow",
        What::File("root:HASH:2::::::\nme:H:2::::::\n".to_owned(), 0o640),
    );
    f.write("theirs", "passwd", "root:x:0:0:::\nsvc:x:101:101:::\n");
    f.put(
        "theirs",
        "shadow",
        What::File("root:*:1::::::\nsvc:!:3::::::\n".to_owned(), 0o644),
    );
    let report = f.merge();
    assert_eq!(
        f.read("passwd"),
        "root:x:0:0:::\nme:x:1000:1000:::\nsvc:x:101:101:::\n"
    );
    assert_eq!(
        f.read("shadow"),
        "root:HASH:2::::::\nme:H:2::::::\nsvc:!:3::::::\n"
    );
    assert_eq!(f.mode("shadow"), 0o640, "somebody's password is in it");
    assert_eq!(conflicts(&report), conflict("shadow", ConflictKind::Mode));
    assert_eq!(report.counts.merged, 2);
    // Merging what was merged changes nothing.
    for (from, to) in [("theirs", "base"), ("target", "mine")] {
        for path in ["passwd", "shadow"] {
            fs::copy(f.at(from, path), f.at(to, path)).unwrap();
        }
    }
    let before = f.read("passwd");
    assert!(f.merge().conflicts.is_empty());
    assert_eq!(f.read("passwd"), before);
}

#[test]
fn a_policy_for_an_account_file_takes_it_out_of_the_merge_by_record() {
    let mut f = Fixture::of(&[("passwd", file("root:x:0:0:::\n"))]);
    f.write("mine", "passwd", "root:x:0:0:::\nme:x:1000:1000:::\n");
    f.write("theirs", "passwd", "root:x:0:0:::\nsvc:x:101:101:::\n");
    let text = "[[rule]]\npath = 'passwd'\npolicy = 'keep-mine'\n";
    f.policies.add(text, "test".into()).unwrap();
    assert!(f.merge().conflicts.is_empty());
    assert_eq!(f.read("passwd"), "root:x:0:0:::\nme:x:1000:1000:::\n");
}

struct Runner(Mutex<Vec<Vec<String>>>);

impl CommandRunner for Runner {
    fn run(&self, command: &[String]) -> io::Result<()> {
        self.0.lock().unwrap().push(command.to_vec());
        match command[0].as_str() {
            "ldconfig" => Ok(()),
            _ => Err(io::Error::other("exit status: 1")),
        }
    }
}

#[test]
fn each_command_runs_once_and_a_failure_is_told() {
    let f = Fixture::of(&[
        ("ld.so.cache", file("old")),
        ("pki/ca-trust/extracted/a", file("a")),
        ("pki/ca-trust/extracted/b", file("b")),
    ]);
    f.write("mine", "ld.so.cache", "mine");
    f.write("theirs", "ld.so.cache", "new");
    f.write("mine", "pki/ca-trust/extracted/a", "mine");
    f.write("mine", "pki/ca-trust/extracted/b", "mine");
    let report = f.merge();
    assert_eq!(f.read("ld.so.cache"), "new");
    assert_eq!(f.read("pki/ca-trust/extracted/a"), "a");
    assert!(report.conflicts.is_empty());
    assert_eq!(report.regenerate.len(), 3);
    let runner = Runner(Mutex::new(Vec::new()));
    let failed = regenerate(&report.regenerate, &runner);
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].0, ["update-ca-trust", "extract"]);
    assert_eq!(runner.0.into_inner().unwrap().len(), 2);
}

#[test]
fn a_refusal_names_every_path() {
    let mut f = Fixture::of(&[("a", file("a")), ("d/b", file("b"))]);
    for path in ["a", "d/b"] {
        f.write("mine", path, "mine");
        f.write("theirs", path, "theirs");
    }
    let text = "[[rule]]\npath = '**'\npolicy = 'fail'\n";
    f.policies.add(text, "test".into()).unwrap();
    let error = f.plan().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().ends_with("conflicts at a, d/b"), "{error}");
    assert!(!f.exists("a"));
}

#[derive(Default)]
struct Seen(Mutex<BTreeMap<&'static str, u64>>);

impl Progress for Seen {
    fn report(&self, event: Event<'_>) {
        let mut seen = self.0.lock().unwrap();
        match event {
            Event::Begin {
                phase: Phase::MergeEtc,
                total,
                ..
            } => {
                *seen.entry("total").or_default() += total.unwrap();
            }
            Event::Advance {
                phase: Phase::MergeEtc,
                delta,
            } => *seen.entry("done").or_default() += delta,
            Event::End {
                phase: Phase::MergeEtc,
            } => *seen.entry("ends").or_default() += 1,
            _ => {}
        }
    }
}

#[test]
fn ten_thousand_files_are_merged_with_an_exact_total() {
    let f = Fixture::large();
    for index in 0..10_000 {
        let (dir, name) = (format!("d{}", index % 100), format!("f{index}"));
        for side in ["base", "mine", "theirs"] {
            let text = match (side, index % 50) {
                ("mine", 1) => "mine",
                ("theirs", 2) => "theirs",
                ("theirs" | "mine", 3) => side,
                _ => "base",
            };
            let dir = f.at(side, &dir);
            if index < 100 {
                fs::create_dir(&dir).unwrap();
            }
            match text {
                // As deployments share their defaults.
                "base" if side != "base" => {
                    fs::hard_link(f.at("base", format!("d{}/{name}", index % 100)), dir.join(&name)).unwrap();
                }
                _ => fs::write(dir.join(&name), text).unwrap(),
            }
        }
    }
    let plan = f.plan().unwrap();
    assert_eq!(plan.entries().len(), 600);
    assert_eq!(plan.conflicts().count(), 200);
    let (base, mine, theirs) = (f.dir("base"), f.dir("mine"), f.dir("theirs"));
    let input = MergeInput {
        base: &base,
        mine: &mine,
        theirs: &theirs,
        policies: &f.policies,
    };
    let seen = Seen::default();
    let started = Instant::now();
    let report = apply(&plan, &input, &f.dir("target"), &seen, &Cancel::new()).unwrap();
    eprintln!("10,000 files in {} ms", started.elapsed().as_millis());
    assert_eq!(report.conflicts.len(), 200);
    assert_eq!(report.counts.mine, 400);
    assert_eq!(report.counts.default, 200);
    let seen = seen.0.into_inner().unwrap();
    assert_eq!((seen["total"], seen["done"], seen["ends"]), (10_101, 10_101, 1));
    assert_eq!(f.read("d1/f1"), "mine");
    assert_eq!(f.read("d2/f2"), "theirs");
}

#[test]
fn a_plan_is_plain_data_without_contents() {
    let f = Fixture::of(&[("a", file("a"))]);
    f.write("mine", "a", "mine");
    f.write("theirs", "a", "theirs");
    f.put("mine", os(b"\xff"), file("x"));
    let json = serde_json::to_value(f.plan().unwrap()).unwrap();
    let entry = &json["entries"][0];
    assert_eq!(entry["path"], "a");
    assert_eq!(entry["verdict"], "mine");
    assert_eq!(entry["mine"]["change"], "changed");
    assert_eq!(entry["conflict"]["kinds"][0], "content");
    assert_eq!(json["entries"][1]["path"], "\\xff");
}

const LOCKED_ETC: &str = "ATOMOS_TEST_LOCKED_ETC";

#[test]
#[ignore = "run by the test below, in a process of its own: record locks are the process's"]
fn hold_the_lock() {
    let etc = Dir::open_ambient(std::env::var(LOCKED_ETC).unwrap()).unwrap();
    let _lock = AccountsLock::acquire(&etc, Duration::ZERO, &Cancel::new()).unwrap();
    println!("held");
    let mut end = String::new();
    io::stdin().read_line(&mut end).unwrap();
}

#[test]
fn the_account_tools_lock_excludes_other_processes_and_survives_a_merge() {
    use std::io::{BufRead, BufReader};
    let f = Fixture::of(&[("passwd", file("root:x:0:0:::\n"))]);
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "--ignored",
            "--nocapture",
            "etc_merge::tests::system::hold_the_lock",
        ])
        .env(LOCKED_ETC, f.path("mine"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert!(
        lines
            .by_ref()
            .map_while(Result::ok)
            .any(|line| line.contains("held"))
    );
    let wait = Duration::from_millis(120);
    let error = AccountsLock::acquire(&f.dir("mine"), wait, &Cancel::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert!(error.to_string().contains(".pwd.lock"), "{error}");
    drop(holder.stdin.take());
    holder.wait().unwrap();

    let lock = AccountsLock::acquire(&f.dir("mine"), wait, &Cancel::new()).unwrap();
    f.merge();
    let held = fs::read_to_string("/proc/locks").unwrap_or_default();
    let inode = f.dir("mine").stat(".pwd.lock").unwrap().ino;
    assert!(
        held.is_empty() || held.contains(&format!(":{inode} ")),
        "the merge opened and closed the lock file"
    );
    drop(lock);
    assert!(!f.exists(".pwd.lock"));
}
