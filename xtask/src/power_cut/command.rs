//! `cargo xtask power-cut`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::mount::MountFlags;

use super::atomos::Atomos;
use super::boots;
use super::interrupt::Interrupt;
use super::kit::{BUSYBOX, Kit};
use super::log::Event;
use super::machine::Machine;
use super::mount::Kind;
use super::phase::Phase;
use super::prove::{Effort, FaultKind, Proof};
use super::report::{self, Line};
use super::scenario::{Recording, Scenario, record};
use super::sources::Sources;
use super::store::Store;
use super::trial::{self, Choice, Failure, Outcome, Trial};
use super::watcher::Others;
use crate::process::{has_program, is_root};
use crate::vm::steps::Steps;
use crate::workspace::root;

/// Cuts in each phase, at least.
const EACH_PHASE: usize = 50;

/// What the test runs, and the Debian package that brings it.
const PROGRAMS: [(&str, &str); 6] = [
    ("e2fsck", "e2fsprogs"),
    ("xfs_repair", "xfsprogs"),
    ("btrfs", "btrfs-progs"),
    ("grub-fstest", "grub-common"),
    ("unshare", "util-linux"),
    ("mount", "mount"),
];

/// What the test can be told.
#[derive(Debug, Args)]
pub struct CutArgs {
    /// About how many cuts to try in all
    #[arg(long, value_name = "N", default_value_t = 600)]
    points: usize,
    /// Decides which cuts, and when others sync
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Only scenarios whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Leave out each sync, and reorder each rename, and see that a cut shows it
    #[arg(long)]
    prove: bool,
    /// With --prove, only faults whose name contains this
    #[arg(long, value_name = "TEXT", requires = "prove")]
    fault: Option<String>,
    /// How many cuts at the same time
    #[arg(long, value_name = "N", default_value_t = 2)]
    workers: usize,
    /// Boot none of the disks
    #[arg(long)]
    no_boot: bool,
    /// Write what came out to docs/boot-tests.md
    #[arg(long)]
    write: bool,
    /// Directory for the disks of cuts after which something was wrong
    #[arg(long, value_name = "DIR", default_value = "target/xtask/power-cut")]
    keep: PathBuf,
}

/// Runs the test.
///
/// # Errors
/// If something is missing on this machine, or anything is wrong after a cut.
pub fn power_cut(args: &CutArgs) -> Result<()> {
    check_requirements()?;
    crate::vm::enter_namespace()?;
    // What a machine that runs leaves there must be nobody else's.
    rustix::mount::mount("run", "/run", "tmpfs", MountFlags::empty(), None).context("cannot mount /run")?;
    let place = tempfile::Builder::new()
        .prefix("atomos-power-cut-")
        .tempdir_in("/dev/shm")
        .context("the disks are kept in memory, in /dev/shm")?;
    let interrupt = Interrupt::install()?;
    let steps = Steps::start();
    let atomos = Atomos::build(place.path())?;
    let run = Run {
        args,
        interrupt,
        atomos: &atomos,
        place: place.path(),
        steps: &steps,
    };
    if args.prove { run.prove() } else { run.cut() }
}

fn check_requirements() -> Result<()> {
    if !is_root() {
        bail!("disks are mounted, which needs root");
    }
    let missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| !has_program(program))
        .map(|(_, package)| *package)
        .collect();
    if !missing.is_empty() {
        bail!("missing programs; run `apt-get install {}`", missing.join(" "));
    }
    if !Path::new("/dev/fuse").exists() {
        bail!("the kernel has no FUSE, by which writes are recorded");
    }
    Ok(())
}

/// What a machine that boots takes besides.
fn check_boot_requirements() -> Result<()> {
    let programs = [
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("grub-mkimage", "grub-common"),
        ("modprobe", "kmod"),
        ("xz", "xz-utils"),
        ("dpkg-deb", "dpkg"),
    ];
    let mut missing: Vec<_> = programs
        .iter()
        .filter(|(program, _)| !has_program(program))
        .map(|(_, package)| *package)
        .collect();
    if !Path::new(BUSYBOX).exists() {
        missing.push("busybox-static");
    }
    if !missing.is_empty() {
        bail!(
            "missing programs; run `apt-get install {}`, or leave booting out with --no-boot",
            missing.join(" ")
        );
    }
    Ok(())
}

fn machines() -> Vec<Machine> {
    let machine = |root, boot, runs, conflicts| Machine {
        root,
        boot,
        runs,
        conflicts,
        kit: None,
    };
    vec![
        machine(Kind::Ext4, Some(Kind::Ext4), false, true),
        machine(Kind::Xfs, Some(Kind::Xfs), false, false),
        machine(Kind::Btrfs, Some(Kind::Ext4), false, false),
        machine(Kind::Ext4, None, false, false),
        machine(Kind::Ext4, Some(Kind::Ext4), true, false),
        machine(Kind::Xfs, Some(Kind::Xfs), true, true),
    ]
}

fn stores() -> Vec<Store> {
    [Kind::Ext4, Kind::Xfs, Kind::Btrfs]
        .map(|kind| Store { kind })
        .into()
}

struct Run<'a> {
    args: &'a CutArgs,
    interrupt: Interrupt,
    atomos: &'a Atomos,
    place: &'a Path,
    steps: &'a Steps,
}

impl Run<'_> {
    fn wanted<S: Scenario>(&self, all: Vec<S>) -> Vec<S> {
        let only = self.args.only.as_deref().unwrap_or_default();
        all.into_iter()
            .filter(|scenario| scenario.name().contains(only))
            .collect()
    }

    fn cut(&self) -> Result<()> {
        let (machines, stores) = (self.wanted(machines()), self.wanted(stores()));
        let all = (machines.len() + stores.len()).max(1);
        let even = self.args.points.div_ceil(all);
        // What the scenarios before had no outcomes for is left to those that follow.
        let share = |lines: &[Line]| -> usize {
            let tried: usize = lines.iter().flat_map(|line| line.tried.values()).sum();
            let left = self.args.points.saturating_sub(tried);
            even.max(left.div_ceil(all - lines.len()))
        };
        let each: fn(Phase) -> usize = match self.args.only {
            // Of what was asked for a look is enough.
            Some(_) => |_| 2,
            None => |phase| match phase {
                // Only the two machines that run do these.
                Phase::Staging | Phase::Finalize | Phase::MarkGood => EACH_PHASE.div_ceil(2),
                // Six machines do the others, and there may be few outcomes in one.
                _ => EACH_PHASE.div_ceil(5),
            },
        };
        let mut lines = Vec::new();
        for scenario in &machines {
            lines.push(self.cut_one(scenario, share(&lines), each)?);
        }
        for scenario in &stores {
            lines.push(self.cut_one(scenario, share(&lines), each)?);
        }
        let mut text = report::cuts(&lines, self.args.seed);
        let booted = self.boot()?;
        if let Some(outcome) = &booted {
            text.push_str(&report::boots(&outcome.boots));
        }
        println!("{text}");
        if self.args.write {
            report::write(&root().join("docs/boot-tests.md"), "power cuts", &text)?;
        }
        for phase in Phase::ALL {
            let tried: usize = lines.iter().filter_map(|line| line.tried.get(&phase)).sum();
            if tried > 0 && tried < EACH_PHASE && self.args.only.is_none() {
                bail!("only {tried} cuts were found in the phase {}", phase.name());
            }
        }
        let not_booted = booted.map_or(0, |outcome| outcome.failures.len());
        match not_booted + lines.iter().map(|line| line.failed).sum::<usize>() {
            0 => Ok(()),
            failed => bail!(
                "{failed} cuts left something wrong; their disks are in {}",
                self.args.keep.display()
            ),
        }
    }

    /// Boots what some cuts leave.
    fn boot(&self) -> Result<Option<Outcome>> {
        let mut scenario = Machine {
            root: Kind::Ext4,
            boot: Some(Kind::Ext4),
            runs: true,
            conflicts: true,
            kit: None,
        };
        // By the name alone: a kit takes a while.
        if self.args.no_boot || !Machine::BOOTS.contains(self.args.only.as_deref().unwrap_or_default()) {
            return Ok(None);
        }
        check_boot_requirements()?;
        self.steps.say("a kernel, an initramfs and a loader are made");
        scenario.kit = Some(Kit::make(&self.place.join("kit"))?);
        let name = scenario.name();
        let (work, others) = (self.place.join("scenario"), Others::Sometimes(self.args.seed));
        std::fs::create_dir(&work)?;
        let recording = record(&scenario, self.atomos, &work, others, None)
            .with_context(|| format!("{name} cannot be recorded"))?;
        let planned = boots::choose(&recording, self.args.seed);
        self.steps.say(&format!("{name}: {} cuts", planned.len()));
        let keep = self.args.keep.join("boots");
        let trial = Trial {
            keep: Some(&keep),
            ..self.trial(&work)
        };
        let outcome = trial::run(&trial, &scenario, &recording, &planned)?;
        for failure in &outcome.failures {
            show(failure);
        }
        std::fs::remove_dir_all(&work).context("cannot remove what was in memory")?;
        Ok(Some(outcome))
    }

    fn trial<'a>(&'a self, work: &'a Path) -> Trial<'a> {
        Trial {
            atomos: self.atomos,
            place: work,
            workers: self.args.workers,
            interrupt: &self.interrupt,
            enough: 20,
            keep: None,
            steps: Some(self.steps),
        }
    }

    fn cut_one<S: Scenario>(
        &self,
        scenario: &S,
        points: usize,
        each_phase: fn(Phase) -> usize,
    ) -> Result<Line> {
        let name = scenario.name();
        let work = self.place.join("scenario");
        std::fs::create_dir(&work)?;
        let recording = record(
            scenario,
            self.atomos,
            &work,
            Others::Sometimes(self.args.seed),
            None,
        )
        .with_context(|| format!("{name} cannot be recorded"))?;
        let choice = Choice {
            points,
            each_phase,
            seed: self.args.seed,
        };
        let planned = trial::choose(&recording, &choice);
        self.steps.say(&format!(
            "{name}: {} events, {} cuts",
            recording.log.events.len(),
            planned.len()
        ));
        let keep = self.args.keep.join(name.replace([' ', ',', '/'], "-"));
        let trial = Trial {
            keep: Some(&keep),
            ..self.trial(&work)
        };
        let outcome = trial::run(&trial, scenario, &recording, &planned)?;
        for failure in &outcome.failures {
            show(failure);
        }
        let line = Line {
            scenario: name,
            events: recording.log.events.len(),
            flushes: recording
                .log
                .events
                .iter()
                .filter(|event| matches!(event, Event::Flush { .. }))
                .count(),
            digest: digest(&recording)?,
            failed: outcome.failures.len(),
            tried: outcome.tried,
        };
        std::fs::remove_dir_all(&work).context("cannot remove what was in memory")?;
        Ok(line)
    }

    fn prove(&self) -> Result<()> {
        let effort = Effort {
            points: self.args.points,
            seed: self.args.seed,
            workers: self.args.workers,
            interrupt: &self.interrupt,
        };
        let only = self.args.fault.as_deref().unwrap_or_default();
        let sources = Sources::read(&root().join("libatomos/src"))?;
        let mut proof = Proof::new(self.atomos, self.place, self.steps, effort, only, sources);
        // Those that show most come first.
        let mut machines = self.wanted(machines());
        machines.sort_by_key(|machine| (!machine.runs, machine.root != Kind::Xfs, machine.boot.is_some()));
        for kind in [FaultKind::Skip, FaultKind::Late] {
            for scenario in &self.wanted(stores()) {
                proof.add(scenario, kind)?;
            }
            for scenario in &machines {
                proof.add(scenario, kind)?;
            }
        }
        let is_whole = self.args.only.is_none() && self.args.fault.is_none();
        let (text, wrong) = proof.judge(is_whole);
        println!("{text}");
        if self.args.write {
            report::write(&root().join("docs/boot-tests.md"), "power cut faults", &text)?;
        }
        if !wrong.is_empty() {
            bail!("{}", wrong.join("\n"));
        }
        Ok(())
    }
}

/// The digest of the disks before the first step, and of the log.
fn digest<S>(recording: &Recording<S>) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for path in &recording.base {
        let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        hasher.update_reader(file)?;
    }
    recording.log.encode(&mut hasher)?;
    Ok(hasher.finalize().to_hex()[..16].to_owned())
}

fn show(failure: &Failure) {
    eprintln!(
        "FAILED: {}, after `{}`, event {}, {} of the writes since the last flush survive: {:#}",
        failure.planned.phase.name(),
        failure.mark,
        failure.planned.cut.at,
        failure.planned.cut.survivors.len(),
        failure.error
    );
}
