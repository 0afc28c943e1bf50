//! The updater on a small machine, by root and by an ordinary user.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use libatomos::progress::{Event, Phase, Progress};
use libatomos::repo::FsckOptions;
use libatomos::sysroot::{DeployPreview, Sysroot};
use libatomos::{Cancel, DeploymentId, ErrorKind, NoProgress, Status};
use updater_daemon::broker::{Broker, BrokerTransport};
use updater_daemon::machine::Machine;
use updater_daemon::{Error, Finding, Update, Updater, Verdict};

/// Holds the worker at its first step in a phase, until the test has done what it wants to do meanwhile.
struct Gate {
    phase: Phase,
    arrived: Mutex<Option<SyncSender<()>>>,
    go_on: Mutex<Receiver<()>>,
}

impl Gate {
    /// Returns the gate, what says that the worker has arrived, and what lets it go on.
    fn new(phase: Phase) -> (Arc<Self>, Receiver<()>, SyncSender<()>) {
        let (arrived, wait) = sync_channel(1);
        let (release, go_on) = sync_channel(1);
        let gate = Self {
            phase,
            arrived: Mutex::new(Some(arrived)),
            go_on: Mutex::new(go_on),
        };
        (Arc::new(gate), wait, release)
    }
}

impl Progress for Gate {
    fn report(&self, event: Event<'_>) {
        if !matches!(event, Event::Advance { phase, .. } if phase == self.phase) {
            return;
        }
        // Only the first one; the other workers wait here too, since the lock is held.
        let mut arrived = self.arrived.lock().unwrap();
        if let Some(arrived) = arrived.take() {
            arrived.send(()).unwrap();
            self.go_on
                .lock()
                .unwrap()
                .recv_timeout(Duration::from_secs(60))
                .unwrap();
        }
    }
}

fn updater(machine: &Machine, progress: Arc<dyn Progress>) -> Updater {
    Updater::new(&machine.sysroot(), machine.options(), &machine.memory(), progress)
}

fn quiet(machine: &Machine) -> Updater {
    updater(machine, Arc::new(NoProgress))
}

fn sysroot(machine: &Machine) -> Sysroot {
    Sysroot::open(&machine.sysroot(), &machine.options()).unwrap()
}

fn status(machine: &Machine) -> Status {
    sysroot(machine).status().unwrap()
}

fn deployments(machine: &Machine) -> Vec<DeploymentId> {
    let deployments = status(machine).deployments.into_iter();
    deployments.map(|deployment| deployment.id).collect()
}

fn pinned(machine: &Machine) -> Vec<DeploymentId> {
    let deployments = status(machine).deployments.into_iter();
    let pinned = deployments.filter(|deployment| deployment.pinned);
    pinned.map(|deployment| deployment.id).collect()
}

fn found(updater: &Updater) -> Update {
    match updater.check().unwrap() {
        Finding::Update(update) => *update,
        other => panic!("{other:?}"),
    }
}

fn apply(_: &DeployPreview) -> Verdict {
    Verdict::Apply
}

/// A machine that runs 1.0, with 2.0 waiting for it.
fn machine() -> Machine {
    let mut machine = Machine::new().unwrap();
    machine.publish("1.0").unwrap();
    machine.install().unwrap();
    machine.publish("2.0").unwrap();
    machine
}

/// Everything is as whole as it says it is.
fn assert_whole(machine: &Machine) {
    let sysroot = sysroot(machine);
    let options = FsckOptions::default();
    let report = sysroot
        .repo()
        .fsck(&options, &NoProgress, &Cancel::new())
        .unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    let status = sysroot.status().unwrap();
    assert!(status.deployments.iter().all(|deployment| deployment.complete));
    assert_eq!(status.warnings, [""; 0]);
}

#[test]
fn an_update_is_planned_inspected_and_deployed_and_edits_survive() {
    let mut machine = machine();
    fs::write(machine.running("etc/motd"), "mine\n").unwrap();
    let updater = quiet(&machine);
    let update = found(&updater);
    assert_eq!(
        (update.version.as_str(), update.reference.as_str()),
        ("2.0", "vendor/stable")
    );
    let before = deployments(&machine);

    let (plans, seen) = sync_channel(1);
    let inspect = move |plan: &DeployPreview| {
        plans.send(plan.clone()).unwrap();
        Verdict::Apply
    };
    let applied = updater.start(update, Box::new(inspect)).wait().unwrap();
    let plan = seen.recv().unwrap();
    assert_eq!(
        plan.deployment, applied.deployed.deployment,
        "what was planned is done"
    );
    assert_eq!(
        plan.etc.unwrap().counts().conflicts,
        1,
        "both sides changed the motd"
    );
    assert!(applied.pulled.unwrap().stats.blobs_added >= 300);

    assert_eq!(
        deployments(&machine),
        [applied.deployed.deployment.clone(), before[0].clone()]
    );
    assert_eq!(machine.boot().unwrap(), applied.deployed.deployment);
    assert_eq!(fs::read_to_string(machine.running("etc/motd")).unwrap(), "mine\n");
    let config = fs::read_to_string(machine.running("etc/service.conf")).unwrap();
    assert!(config.starts_with("release = 2.0"), "{config}");
    assert_eq!(quiet(&machine).check().unwrap(), Finding::UpToDate);
    assert_whole(&machine);
}

#[test]
fn a_plan_that_is_refused_changes_nothing() {
    let machine = machine();
    let before = deployments(&machine);
    let updater = quiet(&machine);
    let refuse = |_: &DeployPreview| Verdict::Refuse("not at noon".to_owned());
    let error = updater
        .start(found(&updater), Box::new(refuse))
        .wait()
        .unwrap_err();
    assert!(
        matches!(&error, Error::Refused(why) if why == "not at noon"),
        "{error:?}"
    );
    assert_eq!(deployments(&machine), before);
    assert_whole(&machine);
    // And it can be taken later.
    updater.start(found(&updater), Box::new(apply)).wait().unwrap();
}

#[test]
fn a_cancelled_download_is_taken_up_by_the_next() {
    let machine = machine();
    let before = deployments(&machine);
    let (gate, arrived, release) = Gate::new(Phase::Pull);
    let updater = updater(&machine, gate);
    let job = updater.start(found(&updater), Box::new(apply));
    arrived.recv().unwrap();
    let snapshot = job.board().snapshot();
    assert_eq!(snapshot.phase, Some(Phase::Pull));
    assert!(
        snapshot.total.unwrap() > snapshot.done,
        "it was in the middle: {snapshot:?}"
    );
    let canceller = job.canceller();
    std::thread::spawn(move || canceller.cancel()).join().unwrap();
    release.send(()).unwrap();
    let error = job.wait().unwrap_err();
    assert!(error.is_cancelled() && error.is_temporary(), "{error:?}");
    assert_eq!(deployments(&machine), before);
    assert_whole(&machine);

    let applied = updater.start(found(&updater), Box::new(apply)).wait().unwrap();
    let stats = applied.pulled.unwrap().stats;
    assert!(stats.resumed > 0, "{stats:?}");
    assert_eq!(deployments(&machine)[0], applied.deployed.deployment);
    assert_whole(&machine);
}

#[test]
fn a_cancelled_deployment_leaves_the_machine_where_it_was() {
    let machine = machine();
    let before = deployments(&machine);
    let (gate, arrived, release) = Gate::new(Phase::MergeEtc);
    let updater = updater(&machine, gate);
    let update = found(&updater);
    let job = updater.start(update.clone(), Box::new(apply));
    arrived.recv().unwrap();
    job.cancel();
    release.send(()).unwrap();
    assert!(job.wait().unwrap_err().is_cancelled());
    assert_eq!(deployments(&machine), before);
    assert_whole(&machine);
    let deploy = machine.sysroot().join("atomos/deploy/os/deploy");
    let names = fs::read_dir(deploy)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    let owner = before[0].dir_name();
    assert!(
        names.iter().all(|name| name.starts_with(&owner)),
        "nothing is left of the attempt: {names:?}"
    );

    let applied = updater.start(update, Box::new(apply)).wait().unwrap();
    assert_eq!(deployments(&machine)[0], applied.deployed.deployment);
    assert_whole(&machine);
}

#[test]
fn what_works_is_kept_and_what_does_not_is_never_taken_again() {
    let mut machine = machine();
    let first = quiet(&machine).mark_good().unwrap();
    assert_eq!(pinned(&machine), std::slice::from_ref(&first));

    let updater = quiet(&machine);
    let update = found(&updater);
    updater.start(update.clone(), Box::new(apply)).wait().unwrap();
    machine.boot().unwrap();
    assert_eq!(quiet(&machine).give_up().unwrap(), first);
    assert_eq!(machine.boot().unwrap(), first);
    assert_eq!(quiet(&machine).check().unwrap(), Finding::Rejected(update.commit));

    machine.publish("3.0").unwrap();
    let updater = quiet(&machine);
    let applied = updater.start(found(&updater), Box::new(apply)).wait().unwrap();
    machine.boot().unwrap();
    assert_eq!(quiet(&machine).mark_good().unwrap(), applied.deployed.deployment);
    assert_eq!(pinned(&machine), [applied.deployed.deployment]);
    assert_whole(&machine);
}

#[test]
fn two_updates_at_once_wait_for_each_other() {
    let machine = machine();
    let updater = quiet(&machine);
    let update = found(&updater);
    let start = |_| updater.start(update.clone(), Box::new(apply));
    let jobs: Vec<_> = (0..2).map(start).collect();
    // Both succeed: a deployment of one commit can be made twice, under two serials.
    let made: Vec<_> = jobs
        .into_iter()
        .map(|job| job.wait().unwrap().deployed.deployment)
        .collect();
    assert_ne!(made[0], made[1]);
    assert_whole(&machine);
}

#[test]
fn a_machine_that_is_not_there_is_an_error_with_a_kind() {
    let machine = Machine::new().unwrap();
    let nowhere = machine.sysroot().join("nowhere");
    let updater = Updater::new(
        &nowhere,
        machine.options(),
        &machine.memory(),
        Arc::new(NoProgress),
    );
    match updater.check().unwrap_err() {
        Error::Library(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
        other => panic!("{other:?}"),
    }
    assert!(matches!(quiet(&machine).mark_good(), Err(Error::NotBooted)));
}

/// A machine that runs 1.0 of the vendor's site and asks the broker for what is new, with 2.0 waiting for it.
fn machine_with_a_broker() -> (Machine, Broker) {
    let mut machine = Machine::new().unwrap();
    machine.publish("1.0").unwrap();
    machine.publish_site().unwrap();
    let broker = Broker::start(&machine.socket(), &machine.site()).unwrap();
    let transport = BrokerTransport::new(&machine.socket(), &Cancel::new());
    machine.install_from_site(vec![Box::new(transport)]).unwrap();
    machine.publish("2.0").unwrap();
    machine.publish_site().unwrap();
    (machine, broker)
}

fn over_the_broker(machine: &Machine) -> Updater {
    let socket = machine.socket();
    quiet(machine).over(Arc::new(move |_, cancel| {
        vec![Box::new(BrokerTransport::new(&socket, cancel))]
    }))
}

#[test]
fn an_update_comes_over_a_transport_of_the_programs_own() {
    let (mut machine, broker) = machine_with_a_broker();
    let updater = over_the_broker(&machine);
    let applied = updater.start(found(&updater), Box::new(apply)).wait().unwrap();
    let received = applied.received.unwrap();
    assert!(received.missing_blobs >= 300, "{received:?}");
    assert!(!received.unverified);
    machine.boot().unwrap();
    assert_eq!(over_the_broker(&machine).check().unwrap(), Finding::UpToDate);
    let config = fs::read_to_string(machine.running("etc/service.conf")).unwrap();
    assert!(config.starts_with("release = 2.0"), "{config}");
    assert_whole(&machine);
    // Without the broker nobody knows whether there is something new.
    drop(broker);
    match over_the_broker(&machine).check().unwrap_err() {
        Error::Library(error) => assert_eq!(error.kind(), ErrorKind::Io, "{error}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_transport_brings_is_verified() {
    let (machine, _broker) = machine_with_a_broker();
    let before = deployments(&machine);
    let updater = over_the_broker(&machine);
    let update = found(&updater);
    for kind in ["packs", "images", "patches"] {
        let Ok(files) = fs::read_dir(machine.site().join(kind)) else {
            continue;
        };
        for file in files {
            let file = file.unwrap().path();
            let mut bytes = fs::read(&file).unwrap();
            bytes.iter_mut().for_each(|byte| *byte ^= 1);
            fs::write(&file, bytes).unwrap();
        }
    }
    match updater.start(update, Box::new(apply)).wait().unwrap_err() {
        Error::Library(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(deployments(&machine), before);
    assert_whole(&machine);
}

#[test]
fn a_broker_that_says_nothing_is_waited_for_until_somebody_asks_to_stop() {
    let (machine, broker) = machine_with_a_broker();
    let updater = over_the_broker(&machine);
    let update = found(&updater);
    drop(broker);
    // It takes connections, and never answers.
    let silent = UnixListener::bind(machine.socket()).unwrap();
    let job = updater.start(update, Box::new(apply));
    let (asked, _) = silent.accept().unwrap();
    job.cancel();
    assert!(job.wait().unwrap_err().is_cancelled());
    drop(asked);
    assert_whole(&machine);
}

/// Runs the other tests once more without any of root's rights.
#[test]
fn all_of_this_works_for_an_ordinary_user() {
    const NOBODY: u32 = 65534;
    const THIS: &str = "all_of_this_works_for_an_ordinary_user";
    let scratch = Machine::new().unwrap();
    let place = scratch.sysroot();
    if fs::metadata(&place).unwrap().uid() != 0 {
        println!("skipped: not root, so the other tests have run as an ordinary user already");
        return;
    }
    // Outside of the build directory, which may lie where only root can enter.
    let (program, home) = (place.join("test"), place.join("home"));
    copy_for_all(&std::env::current_exe().unwrap(), &program).unwrap();
    fs::create_dir(&home).unwrap();
    chown(&home, Some(NOBODY), Some(NOBODY)).unwrap();
    let status = Command::new(&program)
        .args(["--skip", THIS])
        .env("TMPDIR", &home)
        .current_dir(&home)
        .uid(NOBODY)
        .gid(NOBODY)
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

fn copy_for_all(from: &std::path::Path, to: &std::path::Path) -> io::Result<()> {
    fs::copy(from, to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))
}
