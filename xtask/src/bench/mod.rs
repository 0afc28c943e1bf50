//! `cargo xtask bench`: atomos against ostree and `cp`, on the same real tree, in the same run.
//!
//! Numbers of one tool alone say little: a machine's disk, its load and the age of its filesystem change them
//! twofold. So the tools take turns, what counts is the ratio of their medians, and what a figure leaves out (a write-back that comes
//! later) is put in on both sides. `benches/RESULTS.md` keeps the last results with the machine they are from.

mod bare;
mod contest;
mod delivery;
mod deploy;
mod discard;
mod few_packages;
mod growth;
mod machine;
mod measure;
mod report;
mod shutdown;
mod small;
mod store;
mod written;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::debian::{self, Availability};
use crate::own_disk::Again;
use crate::process::{has_program, is_root};
use crate::workspace;
use contest::Ring;
use report::{Circumstances, Results};

/// How to run it.
#[derive(Debug, Clone, clap::Args)]
pub struct BenchArgs {
    /// Runs of each command; the median is what counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Directory that keeps the Debian trees [default: target/xtask/trees-RELEASE]
    #[arg(long, value_name = "DIR")]
    trees: Option<PathBuf>,
    /// Debian's name of the release; one that gets no more point releases has an upgrade worth the name on every day
    #[arg(long, value_name = "NAME", default_value = "bookworm")]
    release: String,
    /// A part of it
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// An empty directory on the filesystem that is to be measured [default: on a new ext4 in a file]
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// The atomos to measure, instead of building one
    #[arg(long, value_name = "FILE", hide = true)]
    atomos: Option<PathBuf>,
    /// Print the results and leave benches/RESULTS.md as it is
    #[arg(long)]
    print_only: bool,
    /// Fail if a target is missed
    #[arg(long)]
    strict: bool,
}

/// How many releases the sites with many of them have.
const HISTORIES: [usize; 2] = [6, 100];

/// How many releases the site has whose small files are measured.
const AGE: usize = 1000;

/// A part of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Commit, checkout, fsck
    Store,
    /// The same with 200,000 small files
    Small,
    /// What a million files take of time and memory, by what a quarter of them takes
    Growth,
    /// What a staged update leaves for shutdown
    Shutdown,
    /// Deploying an upgrade, and what it writes
    Deploy,
    /// Publish and pull, tree A
    DeliveryA,
    /// Publish and pull, tree B
    DeliveryB,
    /// Sites with many releases
    History,
}

impl BenchArgs {
    fn has(&self, part: Part) -> bool {
        self.only.is_none_or(|only| only == part)
    }

    fn options(&self) -> debian::Options {
        debian::Options::of_release(&self.release, self.trees.as_deref())
    }
}

/// Runs the comparison.
///
/// # Errors
/// If a command fails, or with `--strict` if a target is missed.
pub fn bench(args: &BenchArgs) -> Result<()> {
    if !is_root() {
        bail!("a bare repository keeps true owners: the comparison needs root");
    }
    if !has_program("ostree") {
        bail!("ostree is not installed (`cargo xtask test` installs it)");
    }
    let atomos = match &args.atomos {
        Some(path) => path
            .canonicalize()
            .with_context(|| format!("there is no {}", path.display()))?,
        None => workspace::build_atomos()?,
    };
    let (trees, packages) = trees(args)?;
    let Some(work) = &args.work else {
        return measure_elsewhere(args, &atomos, &trees);
    };
    let circumstances = Circumstances {
        command: command(args),
        runs: usize::from(args.runs),
        trees: &trees,
        directory: work,
        load: load()?,
    };
    let results = measure_all(args, &atomos, &trees, &packages, work)?;
    finish(args, &results, &circumstances)
}

/// As a person would type it.
fn command(args: &BenchArgs) -> String {
    let mut command = format!(
        "cargo xtask bench --runs {} --release {}",
        args.runs, args.release
    );
    if let Some(name) = args.only.as_ref().and_then(clap::ValueEnum::to_possible_value) {
        command.push_str(" --only ");
        command.push_str(name.get_name());
    }
    command
}

/// Starts it again on a filesystem of its own.
fn measure_elsewhere(args: &BenchArgs, atomos: &Path, trees: &debian::Trees) -> Result<()> {
    let runs = args.runs.to_string();
    let part = args.only.as_ref().and_then(clap::ValueEnum::to_possible_value);
    let mut words = vec!["bench", "--runs", &runs, "--release", &args.release];
    if let Some(part) = &part {
        words.extend(["--only", part.get_name()]);
    }
    words.extend(args.print_only.then_some("--print-only"));
    words.extend(args.strict.then_some("--strict"));
    let words: Vec<&OsStr> = words.into_iter().map(OsStr::new).collect();
    let trees = trees.v1.parent().context("the trees lie in no directory")?;
    Again {
        name: "bench",
        atomos,
        trees,
        user: None,
        gibibytes: 40,
        inodes: 4_500_000,
    }
    .run(&words)
}

fn finish(args: &BenchArgs, results: &Results, circumstances: &Circumstances<'_>) -> Result<()> {
    let path = workspace::root().join("benches/RESULTS.md");
    let old = match args.print_only {
        true => String::new(),
        false => std::fs::read_to_string(&path).unwrap_or_default(),
    };
    let text = results.render(circumstances, &old)?;
    println!("{text}");
    if !args.print_only {
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("written to {}", path.display());
    }
    let missed = results.missed();
    for miss in &missed {
        eprintln!("missed: {miss}");
    }
    if args.strict && !missed.is_empty() {
        bail!("{} targets are missed", missed.len());
    }
    Ok(())
}

fn trees(args: &BenchArgs) -> Result<(debian::Trees, debian::Packages)> {
    let options = args.options();
    if let Some(trees) = debian::load_trees(&options)?
        && let Ok(packages) = debian::ensure_packages(&options, None)
    {
        return Ok((trees, packages));
    }
    match debian::find_archive(&options.release)? {
        Availability::Answers(archive) => Ok((
            debian::ensure_trees(&options, &archive)?,
            debian::ensure_packages(&options, Some(&archive))?,
        )),
        Availability::Unavailable(why) => bail!("the comparison needs real trees, but {why}"),
    }
}

fn measure_all(
    args: &BenchArgs,
    atomos: &Path,
    trees: &debian::Trees,
    packages: &debian::Packages,
    work: &Path,
) -> Result<Results> {
    if work.to_str().is_none() {
        bail!("{} is not UTF-8", work.display());
    }
    let mut results = Results::default();
    let whole_trees = [Part::Store, Part::Shutdown, Part::Deploy, Part::DeliveryA];
    if whole_trees.into_iter().any(|part| args.has(part)) {
        eprintln!("copying the trees");
        let ring = Ring::prepare(work, atomos, trees)?;
        if args.has(Part::Store) {
            results.store = Some(store::measure(&ring, args.runs)?);
            ring.remove_all()?;
        }
        if args.has(Part::Shutdown) {
            eprintln!("shutdown");
            let measured = shutdown::measure(work, atomos, ring.trees(), args.runs.min(3))?;
            results.shutdown = Some(measured);
        }
        if args.has(Part::Deploy) {
            eprintln!("deploy");
            results.deploy = Some(deploy::measure(work, atomos, ring.trees(), args.runs)?);
        }
        if args.has(Part::DeliveryA) {
            let size = trees.size_v2;
            let title = format!(
                "Debian {} with its initramfs, {} files, {} MB, after an upgrade of {} packages",
                trees.release,
                size.files,
                size.bytes / 1_000_000,
                trees.upgraded.len()
            );
            eprintln!("tree A");
            let tree = delivery::tree(title, &work.join("a"), atomos, ring.trees(), args.runs.min(3))?;
            results.delivery.trees.insert('A', tree);
        }
    }
    if args.has(Part::Small) {
        eprintln!("small files");
        results.small = Some(small::measure(&work.join("small"), atomos, args.runs)?);
    }
    if args.has(Part::Growth) {
        eprintln!("a million files");
        results.growth = Some(growth::measure(&work.join("growth"), atomos)?);
    }
    if args.has(Part::DeliveryB) || args.has(Part::History) {
        measure_packages(args, atomos, packages, work, &mut results)?;
    }
    Ok(results)
}

fn measure_packages(
    args: &BenchArgs,
    atomos: &Path,
    packages: &debian::Packages,
    work: &Path,
    results: &mut Results,
) -> Result<()> {
    let (v1, v2) = delivery::unpack_all(packages, &work.join("packages"))?;
    if args.has(Part::DeliveryB) {
        let size = debian::measure(&v2)?;
        let updated = packages.packages.iter().filter(|package| package.is_updated());
        let title = format!(
            "{} packages of Debian {}, unpacked, {} files, {} MB, {} of them updated",
            packages.packages.len(),
            packages.release,
            size.files,
            size.bytes / 1_000_000,
            updated.count()
        );
        eprintln!("tree B");
        let tree = delivery::tree(title, &work.join("b"), atomos, (&v1, &v2), args.runs.min(3))?;
        results.delivery.trees.insert('B', tree);
    }
    if args.has(Part::History) {
        for releases in HISTORIES {
            eprintln!("{releases} releases");
            let place = work.join("history");
            let history = delivery::measure_history(&place, atomos, &v1, packages, releases)?;
            results.delivery.histories.push(history);
        }
        eprintln!("{AGE} releases of a small tree");
        let age = delivery::measure_age(&work.join("age"), atomos, AGE)?;
        if let (false, Some(history)) = (args.print_only, results.delivery.histories.last()) {
            let value = serde_json::json!({ "history": delivery::history_to_json(history), "age": age });
            let path = workspace::root().join("benches/history.json");
            std::fs::write(&path, format!("{value:#}\n"))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(())
}

fn load() -> Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg").context("cannot read /proc/loadavg")?;
    Ok(text.split_whitespace().take(3).collect::<Vec<_>>().join(", "))
}
