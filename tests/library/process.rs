//! The process belongs to the program: an operation leaves umask, working directory, environment, signals and the
//! global thread pool as they are, and does so at every moment, since other threads are running.
//!
//! The state is looked at on every event that the operations report, from whichever thread reports it. What `/proc` says
//! is read, since asking for the umask by system call means setting it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use libatomos::checkout::{CheckoutOptions, Ownership, checkout};
use libatomos::commit::{CommitOptions, OsTreeOptions, commit};
use libatomos::fs::Dir;
use libatomos::progress::{Event, Progress};
use libatomos::repo::{FsckOptions, LocalPullOptions, PruneOptions, Repo, RepoMode};
use libatomos::sysroot::{CleanupOptions, DeployOptions, Sysroot, SysrootOptions, UpgradeOptions};
use libatomos::{Cancel, RefName, StaterootName};

#[derive(Debug, Clone, PartialEq, Eq)]
struct ProcessState {
    /// Umask, user, groups, capabilities, and which signals are blocked, ignored and caught.
    status: Vec<String>,
    directory: PathBuf,
    environment: BTreeMap<OsString, OsString>,
    limits: String,
}

impl ProcessState {
    fn now() -> Self {
        // Of the thread that asks: umask and working directory may be unshared between threads.
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let of_interest = ["Umask", "Uid", "Gid", "Groups", "Sig", "Shd", "Cap", "NoNewPrivs"];
        let keep = |line: &&str| {
            // Which signals wait is not the operation's doing.
            of_interest.iter().any(|key| line.starts_with(key))
                && !line.starts_with("SigQ")
                && !line.contains("Pnd")
        };
        Self {
            status: status.lines().filter(keep).map(str::to_owned).collect(),
            directory: fs::read_link("/proc/thread-self/cwd").unwrap(),
            environment: std::env::vars_os().collect(),
            limits: fs::read_to_string("/proc/self/limits").unwrap(),
        }
    }
}

/// Compares at every event.
struct Watch {
    expected: ProcessState,
    events: Mutex<u64>,
    differing: Mutex<Vec<ProcessState>>,
}

impl Progress for Watch {
    fn report(&self, _event: Event<'_>) {
        let now = ProcessState::now();
        *self.events.lock().unwrap() += 1;
        if now != self.expected {
            self.differing.lock().unwrap().push(now);
        }
    }
}

fn write_tree(tree: &std::path::Path, version: &str) {
    let files = [
        ("usr/lib/os-release", version),
        ("usr/share/doc/readme", version),
        ("etc/motd", version),
        ("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
        ("boot/vmlinuz-6.1.0-1", "kernel"),
        ("boot/initrd.img-6.1.0-1", "initramfs"),
        ("var/lib/state", "empty"),
    ];
    for (path, text) in files {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

#[test]
fn operations_leave_the_process_as_it_is() {
    let scratch = tempfile::tempdir().unwrap();
    let here = scratch.path();
    let watch = Watch {
        expected: ProcessState::now(),
        events: Mutex::default(),
        differing: Mutex::default(),
    };
    let cancel = Cancel::new();
    let mode = if rustix::process::geteuid().is_root() {
        RepoMode::Bare
    } else {
        RepoMode::BareUser
    };
    let reference: RefName = "os/stable".parse().unwrap();
    let stateroot: StaterootName = "os".parse().unwrap();

    let vendor = Repo::init(&here.join("vendor"), mode).unwrap();
    let mut options = CommitOptions::default();
    options.reference = Some(reference.clone());
    options.os = Some(OsTreeOptions::default());
    write_tree(&here.join("tree"), "1");
    let source = || Dir::open_ambient(here.join("tree")).unwrap();
    commit(&vendor, source(), &options, &watch, &cancel).unwrap();

    let mut sysroot_options = SysrootOptions::default();
    sysroot_options.host_root = here.to_owned();
    let sysroot = Sysroot::init(&here.join("machine"), mode, &sysroot_options).unwrap();
    sysroot.init_stateroot(&stateroot).unwrap();
    let pull = || {
        let refs = std::slice::from_ref(&reference);
        let options = LocalPullOptions::default();
        sysroot
            .repo()
            .pull_local(&vendor, refs, &options, &watch, &cancel)
            .unwrap();
    };
    pull();
    sysroot
        .deploy("os/stable", &DeployOptions::default(), &watch, &cancel)
        .unwrap();
    write_tree(&here.join("tree"), "2");
    commit(&vendor, source(), &options, &watch, &cancel).unwrap();
    pull();
    sysroot
        .preview_deploy("os/stable", &DeployOptions::default(), &watch, &cancel)
        .unwrap();
    sysroot
        .upgrade(&UpgradeOptions::default(), &watch, &cancel)
        .unwrap();
    sysroot.status().unwrap();
    sysroot.rollback(None, &watch).unwrap();
    sysroot.recover_boot(&watch).unwrap();
    sysroot
        .cleanup(&CleanupOptions::default(), &watch, &cancel)
        .unwrap();
    let mut options = CheckoutOptions::default();
    if mode == RepoMode::BareUser {
        options.ownership = Ownership::User;
    }
    checkout(&vendor, "os/stable", &here.join("out"), &options, &watch, &cancel).unwrap();
    vendor.prune(&PruneOptions::default(), &watch, &cancel).unwrap();
    assert!(
        vendor
            .fsck(&FsckOptions::default(), &watch, &cancel)
            .unwrap()
            .findings
            .is_empty()
    );

    assert_eq!(ProcessState::now(), watch.expected);
    assert_eq!(
        watch.differing.into_inner().unwrap(),
        [],
        "seen during an operation"
    );
    assert!(
        watch.events.into_inner().unwrap() > 50,
        "the operations were watched"
    );
    // It can be made once, and nobody has.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build_global();
    pool.expect("the global pool is still the program's to make");
}
