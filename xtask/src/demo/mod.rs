//! `cargo xtask demo`: the main job on real input, narrated, and held to its promises.
//!
//! It is documentation that cannot go stale and an end-to-end test at once: what it shows is what the
//! commands print, and the first promise that does not hold ends it with an error.

mod edits;
mod machine;
mod narrator;
mod scenario;
mod source;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::debian::{self, Availability};
use crate::own_disk::{self, Again};
use crate::process::{is_root, run};
use crate::workspace;
use narrator::Narrator;

/// How to run it.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// Leave everything there to be looked at
    #[arg(long)]
    keep: bool,
    /// Directory that keeps the Debian trees [default: target/xtask/trees]
    #[arg(long, value_name = "DIR")]
    trees: Option<PathBuf>,
    /// Run as an ordinary user: the user `nobody` if root asks for it
    #[arg(long)]
    as_user: bool,
    /// The atomos to show, instead of building one
    #[arg(long, value_name = "FILE", hide = true)]
    atomos: Option<PathBuf>,
    /// An empty directory to work in, which is left there
    #[arg(long, value_name = "DIR", hide = true)]
    work: Option<PathBuf>,
}

/// Runs the demo.
///
/// # Errors
/// If a promise is broken, or the demo's own preparations fail.
pub fn demo(args: &DemoArgs) -> Result<()> {
    let atomos = match &args.atomos {
        Some(path) => path
            .canonicalize()
            .with_context(|| format!("there is no {}", path.display()))?,
        None => workspace::build_atomos()?,
    };
    match &args.work {
        Some(path) => {
            let work = path
                .canonicalize()
                .with_context(|| format!("there is no {}", path.display()))?;
            perform(args, &atomos, &work)
        }
        None if is_root() && (args.as_user || !args.keep) => perform_elsewhere(args, &atomos),
        None => {
            let work = make_work(&workspace::root().join("target/xtask"))?;
            let result = perform(args, &atomos, &work);
            if args.keep {
                println!("\nkept: {}", work.display());
                return result;
            }
            result.and(remove(&work))
        }
    }
}

/// Runs it on a filesystem of its own, as `nobody` if that is asked for.
fn perform_elsewhere(args: &DemoArgs, atomos: &Path) -> Result<()> {
    if args.keep {
        bail!("what `nobody` leaves is not kept: run it with --keep as root, or as the user that you are");
    }
    let options = debian::Options::kept_in(args.trees.as_deref());
    // Made here, where they stay and where root can; whoever comes next finds them made.
    if debian::load_trees(&options)?.is_none()
        && let Availability::Answers(archive) = debian::find_archive(&options.release)?
    {
        debian::ensure_trees(&options, &archive)?;
    }
    let again = Again {
        name: "demo",
        atomos,
        trees: &options.trees,
        user: args.as_user.then_some(own_disk::NOBODY),
        gibibytes: 16,
        inodes: 500_000,
    };
    again.run(&["demo".as_ref()])
}

fn perform(args: &DemoArgs, atomos: &Path, work: &Path) -> Result<()> {
    let start = Instant::now();
    let options = debian::Options::kept_in(args.trees.as_deref());
    let versions = source::find(&options, work)?;
    scenario::introduce(&versions);
    println!("Prepared in {:.1} s.", start.elapsed().as_secs_f64());
    let mut narrator = Narrator::new(atomos, work);
    let start = Instant::now();
    scenario::play(&mut narrator, &versions, work)?;
    println!("\n== Timings");
    let shown = work.to_string_lossy().into_owned() + "/";
    for (command, time) in narrator.timings() {
        println!("  {:>7.2} s  {}", time.as_secs_f64(), command.replace(&shown, ""));
    }
    println!(
        "\ndemo: {} promises kept in {:.1} s, on {}",
        narrator.promises(),
        start.elapsed().as_secs_f64(),
        if versions.is_debian {
            "real Debian trees"
        } else {
            "made-up trees (FALLBACK, see above)"
        }
    );
    Ok(())
}

/// Makes a directory to work in.
fn make_work(parent: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let directory = tempfile::Builder::new()
        .prefix("demo-")
        .tempdir_in(parent)
        .with_context(|| format!("cannot make a directory in {}", parent.display()))?;
    Ok(directory.keep())
}

/// Removes the directory, in which an ordinary user may have made directories that nobody may write to.
fn remove(work: &Path) -> Result<()> {
    run(std::process::Command::new("chmod")
        .args(["-R", "u+rwX", "--"])
        .arg(work))
    .and_then(|()| {
        run(std::process::Command::new("rm")
            .args(["-rf", "--one-file-system", "--"])
            .arg(work))
    })
}
