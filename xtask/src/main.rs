//! The project's own tasks: `cargo xtask demo`, `test`, `bench`, `trees`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "these are commands: they talk"
)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use xtask::bench;
use xtask::checks;
use xtask::debian::{self, Availability};
use xtask::demo;
use xtask::fuzz;
use xtask::power_cut;
use xtask::scale;
use xtask::vm;

/// The project's own tasks.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what tests need (as root), then check format, lints, licences, tests and documentation
    Test,
    /// Play the main job on real operating system trees, and hold it to its promises
    Demo(demo::DemoArgs),
    /// Compare atomos with ostree and cp on a real operating system tree
    Bench(bench::BenchArgs),
    /// Boot virtual machines that atomos deployed
    VmTest(vm::TestArgs),
    /// Cut the power at any write of an update, and look at what is left
    PowerCut(power_cut::CutArgs),
    /// Give every decoder of the store spoiled inputs, and measure what of it they reach
    Fuzz(fuzz::FuzzArgs),
    /// Simulate what a fleet costs the server, and write docs/scale.md
    Scale,
    /// Make the two Debian trees that the other tasks work on, unless they are there
    Trees {
        /// Directory that keeps them [default: target/xtask/trees]
        #[arg(long, value_name = "DIR")]
        trees: Option<PathBuf>,
        /// Debian's name of the release
        #[arg(long, value_name = "NAME", default_value_t = debian::Options::default().release)]
        release: String,
        /// Also the packages that the benchmark unpacks
        #[arg(long)]
        packages: bool,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Test => checks::run_all(),
        Task::Demo(args) => demo::demo(&args),
        Task::Bench(args) => bench::bench(&args),
        Task::VmTest(args) => vm::test(&args),
        Task::PowerCut(args) => power_cut::power_cut(&args),
        Task::Fuzz(args) => fuzz::fuzz(&args),
        Task::Scale => scale::scale(),
        Task::Trees {
            trees,
            release,
            packages,
        } => {
            let options = debian::Options::of_release(&release, trees.as_deref());
            let archive = match debian::find_archive(&options.release)? {
                Availability::Answers(archive) => archive,
                Availability::Unavailable(why) => bail!("{why}"),
            };
            let trees = debian::ensure_trees(&options, &archive)?;
            println!(
                "{}: {} files, {} bytes",
                trees.v1.display(),
                trees.size_v1.files,
                trees.size_v1.bytes
            );
            println!(
                "{}: {} files, {} bytes",
                trees.v2.display(),
                trees.size_v2.files,
                trees.size_v2.bytes
            );
            println!("{} packages differ", trees.upgraded.len());
            if packages {
                let packages = debian::ensure_packages(&options, Some(&archive))?.packages;
                let updated = packages.iter().filter(|package| package.is_updated()).count();
                println!("{} packages to unpack, {updated} of which differ", packages.len());
            }
            Ok(())
        }
    }
}
