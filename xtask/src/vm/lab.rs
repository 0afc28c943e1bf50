//! What all tests of one run share, and what each has for itself.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};
use atomos_httpd::testing::{Nginx, NginxLogLine};

use super::Options;
use super::disk::{Disk, Kind, Loader};
use super::firmware::Firmware;
use super::guest::{self, STATEROOT};
use super::hardware::{Hardware, Places};
use super::host::Host;
use super::machine::Machine;
use super::programs::Programs;
use super::steps::Steps;
use super::store::Store;
use super::versions::{V1, Version};
use crate::process::run;

/// The ref that machines are installed from.
pub const REF: &str = "debian/trixie";

/// Short on the console, so that an emulated serial port does not slow the boot; no mitigations, which cost
/// emulation more than they do a processor; and no limits of time that a busy machine would break.
const KERNEL_ARGUMENTS: [&str; 13] = [
    "root=LABEL=atomos-root",
    "ro",
    "console=ttyS0",
    "panic=2",
    "loglevel=5",
    "systemd.show_status=auto",
    "mitigations=off",
    "systemd.default_timeout_start_sec=1800",
    "systemd.default_device_timeout_sec=1800",
    "systemd.service_watchdogs=no",
    "audit=0",
    "apparmor=0",
    "modprobe.blacklist=evdev,i2c_i801,iTCO_wdt,joydev,lpc_ich,pcspkr,psmouse",
];

/// What all tests of a run share, also those that run at the same time. Locks are taken in the order in which they stand here.
#[derive(Debug)]
pub struct Lab {
    /// For each kind of disk, held by whoever boots v1 for all others to go on from.
    first_boots: Mutex<BTreeMap<String, Arc<Mutex<()>>>>,
    /// A disk of each kind, as it was installed.
    disks: Mutex<BTreeMap<String, Disk>>,
    /// Versions, and the site.
    store: Mutex<Store>,
    /// The clock.
    pub steps: Steps,
    programs: Programs,
    options: Options,
    work: PathBuf,
}

/// What one test has for itself: a disk on which version 1 was installed, and a directory.
#[derive(Debug)]
pub struct Stage<'a> {
    /// What it shares.
    lab: &'a Lab,
    /// Its disk.
    pub disk: Disk,
    /// Whether its clock was near 1970 for a while.
    pub began_in_1970: bool,
    work: PathBuf,
    name: String,
    firmware: Firmware,
    machines: usize,
    /// How many times a machine came up.
    boots: Arc<AtomicU32>,
    nginx: Option<Nginx>,
}

impl Lab {
    /// What tests in `work` share.
    pub fn new(work: PathBuf, store: Store, programs: &Programs, options: &Options) -> Self {
        Self {
            first_boots: Mutex::default(),
            disks: Mutex::default(),
            store: Mutex::new(store),
            steps: Steps::start(),
            programs: programs.clone(),
            options: options.clone(),
            work,
        }
    }

    /// Versions, and the site, for one test at a time.
    pub fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    /// Prepares a test: an empty directory of its name, and a disk of its own. `boots` counts the times that its machines come up.
    ///
    /// # Errors
    /// If the disk cannot be made.
    pub fn stage(&self, name: &str, kind: Kind, boots: &Arc<AtomicU32>) -> Result<Stage<'_>> {
        let work = super::make_work_directory(&self.work.join(name))?;
        let disk = self.installed_disk(kind, &work)?;
        let firmware = match kind.loader {
            Loader::Grub => Firmware::Bios,
            Loader::SystemdBoot => Firmware::new_uefi(&work)?,
        };
        Ok(Stage {
            lab: self,
            began_in_1970: false,
            disk,
            work,
            name: name.to_owned(),
            firmware,
            machines: 0,
            boots: Arc::clone(boots),
            nginx: None,
        })
    }

    /// The digest of each kind of disk, as it was installed.
    ///
    /// # Errors
    /// If an image cannot be read.
    pub fn disk_digests(&self) -> Result<Vec<(String, String)>> {
        lock(&self.disks)
            .iter()
            .map(|(name, disk)| {
                let mut hasher = blake3::Hasher::new();
                std::fs::File::open(disk.image())
                    .and_then(|file| hasher.update_reader(file).map(|_| ()))
                    .with_context(|| format!("cannot read {}", disk.image().display()))?;
                Ok((name.clone(), hasher.finalize().to_hex().to_string()))
            })
            .collect()
    }

    /// A copy, in `to`, of a disk of this kind on which v1 is installed.
    fn installed_disk(&self, kind: Kind, to: &Path) -> Result<Disk> {
        let mut disks = lock(&self.disks);
        let disk = match disks.entry(kind.name()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(self.install(kind)?),
        };
        disk.copy_to(to)
    }

    /// Installs v1 on a disk of this kind, unless an earlier run has.
    fn install(&self, kind: Kind) -> Result<Disk> {
        let mut store = self.store();
        let commit = store.commit(&V1)?;
        let work = self.work.join("disks").join(kind.name());
        let record = work.join("installed");
        if std::fs::read_to_string(&record).is_ok_and(|installed| installed == commit) {
            return Ok(Disk::open(work.join("disk.img"), kind));
        }
        self.steps
            .say(&format!("installing v1 on a disk: {}", kind.name()));
        let work = super::make_work_directory(&work)?;
        store.set_ref(REF, &V1)?;
        let disk = Disk::create(&work, kind)?;
        let mounted = disk.mount(&work.join("disk"))?;
        disk.configure_loader(&mounted)?;
        let host = Host::sysroot(&self.programs.atomos, &mounted.root);
        host.run(&["sysroot", "init"])?;
        host.run(&["stateroot", "init", STATEROOT])?;
        pull(&host, store.repo_path())?;
        drop(store);
        let mut words = vec!["deploy", REF, "--stateroot", STATEROOT];
        for argument in KERNEL_ARGUMENTS {
            words.extend(["--karg", argument]);
        }
        host.run(&words)?;
        // What an installer leaves in the deployment's /etc.
        let fstab = mounted
            .root
            .join(format!("atomos/deploy/{STATEROOT}/deploy/{commit}.0/etc/fstab"));
        std::fs::write(&fstab, kind.fstab()).with_context(|| format!("cannot write {}", fstab.display()))?;
        mounted.install(&disk)?;
        std::fs::write(&record, &commit).with_context(|| format!("cannot write {}", record.display()))?;
        Ok(disk)
    }
}

impl Stage<'_> {
    /// Says what happens now.
    pub fn say(&self, what: &str) {
        self.lab.steps.say(&format!("{}: {what}", self.name));
    }

    /// A machine that runs v1, which has been looked at, and has the edits of its owner; it has a network, and a watchdog. The
    /// first one of its kind of disk boots; the others go on from where that one was then.
    ///
    /// # Errors
    /// If it does not come up, or something is not as it should be.
    pub fn installed(&mut self) -> Result<Machine> {
        let lab = self.lab;
        let first_boot = Arc::clone(lock(&lab.first_boots).entry(self.disk.kind().name()).or_default());
        let first = lock(&first_boot);
        let saved = Saved::of(self.disk.kind(), &lab.work);
        let mut hardware = Hardware {
            network: true,
            watchdog: true,
            ..self.hardware()
        };
        if saved.state.exists() {
            drop(first);
            self.say("v1 goes on from where it was once it had booted");
            self.disk = saved.disk.copy_to(&self.work)?;
            if let Firmware::Uefi { variables } = &self.firmware {
                copy(&saved.variables, variables)?;
            }
            hardware.state = Some(saved.state);
            let mut machine = self.start(&hardware)?;
            machine.ask("true")?;
            return Ok(machine);
        }
        let commit = lab.store().commit(&V1)?;
        self.say("booting v1");
        let mut machine = self.start(&hardware)?;
        machine.wait_for_boot()?;
        self.say("v1 is up");
        guest::check_version(&mut machine, &V1, &commit)?;
        guest::check_mounts(&mut machine, self.disk.kind())?;
        guest::check_health(&mut machine)?;
        machine.ask(guest::EDIT)?;
        machine.ask(guest::JOIN_NETWORK)?;
        if self.lab.options.resume {
            machine.save(&saved.state, || {
                copy(self.disk.image(), saved.disk.image())?;
                match &self.firmware {
                    Firmware::Uefi { variables } => copy(variables, &saved.variables),
                    Firmware::Bios => Ok(()),
                }
            })?;
        }
        Ok(machine)
    }

    /// The least hardware that boots the disk.
    pub fn hardware(&self) -> Hardware {
        Hardware::new(self.firmware.clone())
    }

    /// Switches a machine with the disk on.
    ///
    /// # Errors
    /// If QEMU does not start.
    pub fn start(&mut self, hardware: &Hardware) -> Result<Machine> {
        self.machines += 1;
        let places = Places::new(&self.work, self.machines);
        let boots = Arc::clone(&self.boots);
        Machine::start(
            hardware,
            self.disk.image(),
            places,
            self.lab.options.boot_limit,
            boots,
        )
    }

    /// The digest of a version's commit, which is made if nobody has asked for it before.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn commit(&self, version: &Version) -> Result<String> {
        self.lab.store().commit(version)
    }

    /// The public key of who signs the site.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn public_key(&self) -> Result<String> {
        self.lab.store().public_key()
    }

    /// Puts a version into the machine's own repository, as the newest of the ref that it follows. Only while it is off.
    ///
    /// # Errors
    /// If it cannot be done.
    pub fn put_in_repository(&mut self, version: &Version) -> Result<()> {
        let mounted = self.disk.mount(&self.work.join("disk"))?;
        // Held until it is pulled, for the ref is one that all tests share.
        let mut store = self.lab.store();
        store.set_ref(REF, version)?;
        pull(
            &Host::sysroot(&self.lab.programs.atomos, &mounted.root),
            store.repo_path(),
        )?;
        drop(store);
        mounted.unmount()
    }

    /// The ref that this test's machine follows on the site.
    pub fn site_ref(&self) -> String {
        format!("machines/{}", self.name)
    }

    /// Publishes a version as the newest that this test's machine finds.
    ///
    /// # Errors
    /// If it cannot be published.
    pub fn publish(&mut self, version: &Version) -> Result<()> {
        let name = self.site_ref();
        self.lab.store().publish(&name, version)
    }

    /// Serves the site, and returns its address as the machine sees it.
    ///
    /// # Errors
    /// If there is no nginx.
    pub fn serve(&mut self) -> Result<String> {
        let Some(nginx) = Nginx::start(self.lab.store().site_path()) else {
            bail!("nginx is not installed");
        };
        // QEMU's network shows this machine's own loopback under this address.
        let url = format!("http://10.0.2.2:{}", nginx.address().port());
        self.nginx = Some(nginx);
        Ok(url)
    }

    /// What was asked of the site since it was served.
    pub fn requests(&self) -> Vec<NginxLogLine> {
        self.nginx.as_ref().map(Nginx::requests).unwrap_or_default()
    }

    /// Ends a test: shuts the machine down, and looks at what it left. `expected` are units that fail in this test; with any
    /// other on the console, it fails.
    ///
    /// # Errors
    /// If something is not as it should be.
    pub fn finish(self, machine: Machine, expected: &[&str]) -> Result<()> {
        let stage = self.shut_down(machine, expected)?;
        stage.check_disk()?;
        stage.tidy_up()
    }

    /// As [`Stage::finish`], for a disk with files that a kernel without fs-verity does not open: this machine's may be one, so that only the file
    /// systems are checked from outside.
    ///
    /// # Errors
    /// If something is not as it should be.
    pub fn finish_with_verity(self, machine: Machine) -> Result<()> {
        let stage = self.shut_down(machine, &[])?;
        stage.disk.check(&stage.work, stage.began_in_1970)?;
        stage.tidy_up()
    }

    fn shut_down(self, machine: Machine, expected: &[&str]) -> Result<Self> {
        self.say("shutting down");
        let console = machine.power_off()?;
        let failed =
            |line: &&str| line.contains("FAILED") && !expected.iter().any(|unit| line.contains(unit));
        if let Some(line) = console.lines().find(failed) {
            bail!("systemd failed at something: {}", line.trim());
        }
        Ok(self)
    }

    fn tidy_up(self) -> Result<()> {
        match self.lab.options.keep {
            true => Ok(()),
            false => super::remove_work_directory(&self.work),
        }
    }

    /// Checks file systems and the repository from outside, while the machine is off.
    ///
    /// # Errors
    /// If something is damaged.
    pub fn check_disk(&self) -> Result<()> {
        self.disk.check(&self.work, self.began_in_1970)?;
        let mounted = self.disk.mount(&self.work.join("disk"))?;
        // From outside: the machine would take minutes to hash a gigabyte.
        Host::sysroot(&self.lab.programs.atomos, &mounted.root).run(&["fsck"])?;
        mounted.unmount()
    }
}

/// Where the state of a machine that has booted v1 is kept, with all that belongs to it.
struct Saved {
    state: PathBuf,
    disk: Disk,
    variables: PathBuf,
}

impl Saved {
    fn of(kind: Kind, work: &Path) -> Self {
        let directory = work.join("disks").join(kind.name());
        Self {
            state: directory.join("v1.state"),
            disk: Disk::open(directory.join("v1.img"), kind),
            variables: directory.join("v1-efi-variables.fd"),
        }
    }
}

/// Nothing of the lab is left half changed by a test that panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").arg("--sparse=always").args([from, to]))
}

fn pull(host: &Host<'_>, from: &Path) -> Result<()> {
    run(host
        .command()
        .args(["pull", REF, "--from"])
        .arg(from)
        .stdout(std::process::Stdio::null()))
}
