//! Publishing and pulling, against ostree's archive and static deltas, with nginx between.
//!
//! Two trees. In A the operating system's own upgrade changed some packages, and its initramfs. B is unpacked packages of a
//! release and the same with every update; of those a [`history`] of many releases is made, too.
//!
//! Both tools get what they need from one server, on loopback, once as it is and once with a round trip time. What is counted is
//! counted in the server's log, of the very pull that is timed. The time to make patches is what publishing takes longer with
//! them than without.

mod history;
mod line;
mod report;
mod ring;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::contest::Contestant;
use super::measure::{Series, peak_anonymous_memory, settle, time, time_and_watch};
use crate::debian::{Package, Packages, unpack};
use crate::process::run;
pub use history::{History, measure as measure_history, measure_age, to_json as history_to_json};
use line::{Line, Pulled};
use ring::{Ring, Site};

/// The round trip times that are added, in milliseconds.
const ROUND_TRIPS: [u64; 2] = [0, 50];

/// What is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pull {
    /// Everything, by a client that has nothing.
    Full,
    /// The second version by a client that has the first, without patches or deltas.
    Whole,
    /// The same, compressed with the profile thorough.
    WholeThorough,
    /// The same with patches of the profile fast, and with a static delta.
    Fast,
    /// The same with patches of the profile thorough, and with a static delta.
    Thorough,
    /// Nothing: the client has it.
    Nothing,
}

impl Pull {
    const ALL: [Self; 6] = [
        Self::Full,
        Self::Whole,
        Self::WholeThorough,
        Self::Fast,
        Self::Thorough,
        Self::Nothing,
    ];

    fn site(self) -> Site {
        match self {
            Self::Full | Self::Whole => Site::Whole,
            Self::WholeThorough => Site::ThoroughWhole,
            Self::Fast => Site::Fast,
            Self::Thorough | Self::Nothing => Site::Thorough,
        }
    }
}

/// What a publisher does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Publish {
    /// The first version into an empty site; into an empty archive.
    First,
    /// The same again.
    Again,
    /// Patches, profile fast; a static delta.
    FastPatches,
    /// Patches, profile thorough; a static delta.
    ThoroughPatches,
}

impl Publish {
    const ALL: [Self; 4] = [Self::First, Self::Again, Self::FastPatches, Self::ThoroughPatches];
}

/// What was measured of one tree.
#[derive(Debug, Default)]
pub struct Tree {
    /// What it is, for the reader.
    pub title: String,
    /// Times of publishing.
    pub publish: BTreeMap<(Publish, Contestant), Series>,
    /// Pulls, by round trip time.
    pub pulls: BTreeMap<(Pull, u64, Contestant), Vec<Pulled>>,
    /// Peaks of anonymous memory, in bytes.
    pub memory: BTreeMap<(&'static str, Contestant), u64>,
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub struct Delivery {
    /// By the tree's letter.
    pub trees: BTreeMap<char, Tree>,
    /// Histories of tree B.
    pub histories: Vec<History>,
}

/// How often a pull without a round trip is timed at least.
const LEAST_RUNS: u16 = 3;

/// Measures one tree.
///
/// # Errors
/// If a tool fails.
pub fn tree(title: String, place: &Path, atomos: &Path, versions: (&Path, &Path), runs: u16) -> Result<Tree> {
    let ring = Ring::prepare(place, atomos)?;
    let mut tree = Tree {
        title,
        ..Tree::default()
    };
    let v1 = ring.commit("repo", versions.0, "1")?;
    let ostree_v1 = ring.ostree_commit(versions.0)?;
    for number in 0..runs {
        publish_first(&ring, &mut tree, number)?;
    }
    ring.commit("repo", versions.1, "2")?;
    let ostree_v2 = ring.ostree_commit(versions.1)?;
    time(&mut ring.ostree(
        "ostree-archive",
        &["pull-local", text(&ring.path("ostree-bare")), ring::REF],
    ))?;
    for number in 0..runs {
        publish_patches(&ring, &mut tree, number, (&ostree_v1, &ostree_v2))?;
    }
    ring.begin_client(&ring.site(Site::First), Some(&v1), "client")?;
    ring.begin_ostree_client(Some(&ostree_v1), "ostree-client")?;
    for round_trip in ROUND_TRIPS {
        // Seconds, in which the machine's noise shows; and whoever is first finds the server's files out of memory.
        let runs = if round_trip == 0 {
            runs.max(LEAST_RUNS)
        } else {
            runs
        };
        for number in 0..runs {
            pulls(&ring, &mut tree, round_trip, number)?;
        }
    }
    memory(&ring, &mut tree)?;
    run(Command::new("rm")
        .args(["-rf", "--one-file-system", "--"])
        .arg(place))?;
    Ok(tree)
}

/// The contestants, the first of them first in every other run.
fn turns(number: u16) -> [Contestant; 2] {
    let mut turns = [Contestant::Atomos, Contestant::Ostree];
    if number % 2 == 1 {
        turns.reverse();
    }
    turns
}

fn publish_first(ring: &Ring, tree: &mut Tree, number: u16) -> Result<()> {
    for contestant in turns(number) {
        let command = || -> Command {
            match contestant {
                Contestant::Atomos => ring.publish(Site::First),
                _ => ring.ostree(
                    "ostree-archive",
                    &["pull-local", text(&ring.path("ostree-bare")), ring::REF],
                ),
            }
        };
        if contestant == Contestant::Atomos {
            ring.begin_site(Site::First)?;
        } else {
            ring.remove("ostree-archive")?;
            time(&mut ring.ostree("ostree-archive", &["init", "--mode=archive"]))?;
        }
        for publish in [Publish::First, Publish::Again] {
            settle(&ring.path(""))?;
            add(tree, publish, contestant, time(&mut command())?);
        }
    }
    Ok(())
}

fn publish_patches(ring: &Ring, tree: &mut Tree, number: u16, ostree: (&str, &str)) -> Result<()> {
    for contestant in turns(number) {
        if contestant == Contestant::Ostree {
            // Minutes, in which noise evens out.
            if number == 0 {
                ring.remove("ostree-archive/deltas")?;
                let (from, to) = (format!("--from={}", ostree.0), format!("--to={}", ostree.1));
                settle(&ring.path(""))?;
                let elapsed =
                    time(&mut ring.ostree("ostree-archive", &["static-delta", "generate", &from, &to]))?;
                add(tree, Publish::FastPatches, contestant, elapsed);
                add(tree, Publish::ThoroughPatches, contestant, elapsed);
                time(&mut ring.ostree("ostree-archive", &["summary", "--update"]))?;
            }
            continue;
        }
        let elapsed = |site: Site| -> Result<Duration> {
            ring.begin_site(site)?;
            settle(&ring.path(""))?;
            time(&mut ring.publish(site))
        };
        let whole = elapsed(Site::FastWhole)?;
        add(
            tree,
            Publish::FastPatches,
            contestant,
            elapsed(Site::Fast)?.saturating_sub(whole),
        );
        if number == 0 {
            elapsed(Site::Whole)?;
            let whole = elapsed(Site::ThoroughWhole)?;
            ring.begin_site(Site::Thorough)?;
            settle(&ring.path(""))?;
            let (time, peak) = time_and_watch(&mut ring.publish(Site::Thorough))?;
            tree.memory.insert(("patches, thorough", contestant), peak);
            add(
                tree,
                Publish::ThoroughPatches,
                contestant,
                time.saturating_sub(whole),
            );
        }
    }
    Ok(())
}

fn add(tree: &mut Tree, publish: Publish, contestant: Contestant, elapsed: Duration) {
    eprintln!("  {publish:?} {contestant:?} {:.2} s", elapsed.as_secs_f64());
    tree.publish
        .entry((publish, contestant))
        .or_default()
        .push(elapsed);
}

fn pulls(ring: &Ring, tree: &mut Tree, round_trip: u64, number: u16) -> Result<()> {
    let delay = Duration::from_millis(round_trip);
    for pull in Pull::ALL {
        for contestant in turns(number) {
            // 20,000 requests at 50 ms: once is enough.
            if pull == Pull::Full && round_trip > 0 && number > 0 {
                continue;
            }
            let (line, mut command) = match contestant {
                Contestant::Atomos => atomos_pull(ring, pull, delay)?,
                _ => ostree_pull(ring, pull, delay)?,
            };
            settle(&ring.path(""))?;
            let pulled = line.pull(&mut command)?;
            eprintln!("  {pull:?} {round_trip} ms {contestant:?} {pulled:?}");
            tree.pulls
                .entry((pull, round_trip, contestant))
                .or_default()
                .push(pulled);
        }
    }
    ring.remove("c")?;
    ring.remove("oc")
}

/// A client of its own, before the pull.
fn atomos_pull(ring: &Ring, pull: Pull, delay: Duration) -> Result<(Line, Command)> {
    let line = Line::start(&ring.site(pull.site()), delay)?;
    match pull {
        Pull::Full => ring.begin_client(&ring.site(pull.site()), None, "c")?,
        // As the pull before left it.
        Pull::Nothing => {}
        _ => ring.clone_client("client", "c")?,
    }
    ring.set_remote("c", &line.url())?;
    Ok((line, ring.atomos("c", &["pull", "origin", ring::REF])))
}

fn ostree_pull(ring: &Ring, pull: Pull, delay: Duration) -> Result<(Line, Command)> {
    let line = Line::start(&ring.path("ostree-archive"), delay)?;
    match pull {
        Pull::Full => ring.begin_ostree_client(None, "oc")?,
        Pull::Nothing => {}
        _ => ring.clone_client("ostree-client", "oc")?,
    }
    ring.set_ostree_remote("oc", &line.url())?;
    let words: &[&str] = match pull {
        Pull::Full | Pull::Whole | Pull::WholeThorough => {
            &["pull", "--disable-static-deltas", "origin", ring::REF]
        }
        _ => &["pull", "origin", ring::REF],
    };
    Ok((line, ring.ostree("oc", words)))
}

/// One run more, for what watching would disturb.
fn memory(ring: &Ring, tree: &mut Tree) -> Result<()> {
    let mut watch = |what: &'static str, contestant: Contestant, command: &mut Command| -> Result<()> {
        let bytes = peak_anonymous_memory(command).with_context(|| format!("watching {what}"))?;
        eprintln!("  {what} {contestant:?} {} MB", bytes / 1_000_000);
        tree.memory.insert((what, contestant), bytes);
        Ok(())
    };
    ring.begin_site(Site::Fast)?;
    watch("patches, fast", Contestant::Atomos, &mut ring.publish(Site::Fast))?;
    for (what, pull) in [
        ("pull, full", Pull::Full),
        ("pull, without patches", Pull::Whole),
        ("pull, with patches", Pull::Thorough),
    ] {
        let (line, mut command) = atomos_pull(ring, pull, Duration::ZERO)?;
        watch(what, Contestant::Atomos, &mut command)?;
        drop(line);
        let (line, mut command) = ostree_pull(ring, pull, Duration::ZERO)?;
        watch(what, Contestant::Ostree, &mut command)?;
        drop(line);
    }
    // The whole of the second version, in one site.
    ring.remove("site-memory")?;
    watch(
        "publish",
        Contestant::Atomos,
        &mut ring.publish_to("repo", "site-memory", &[]),
    )
}

/// The packages, unpacked as they were released and with every update. Returns the two trees.
///
/// # Errors
/// If a package cannot be unpacked.
pub fn unpack_all(packages: &Packages, place: &Path) -> Result<(std::path::PathBuf, std::path::PathBuf)> {
    let (v1, v2) = (place.join("v1"), place.join("v2"));
    std::fs::create_dir_all(&v1).with_context(|| format!("cannot make {}", v1.display()))?;
    eprintln!("unpacking {} packages", packages.packages.len());
    for package in &packages.packages {
        unpack(&v1, None, package.old.as_deref())?;
    }
    run(Command::new("cp").arg("-a").args([&v1, &v2]))?;
    for package in packages.packages.iter().filter(|package| package.is_updated()) {
        update(&v2, package)?;
    }
    Ok((v1, v2))
}

fn update(tree: &Path, package: &Package) -> Result<()> {
    unpack(tree, package.old.as_deref(), package.new.as_deref())
}

/// The place is UTF-8: [`super::bench`] checks that.
fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}
