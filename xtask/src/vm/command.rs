//! `cargo xtask vm-test`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use super::{Options, build_programs, check_requirements, enter_namespace, smoke};
use crate::debian::{self, Availability};

/// What a test in a virtual machine can be told.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// Only boot, upgrade from the machine's own repository, and roll back
    #[arg(long, required = true)]
    smoke: bool,
    /// Directory that keeps the Debian trees
    #[arg(long, value_name = "DIR", default_value = "target/xtask/trees")]
    trees: PathBuf,
    /// Directory for disks and logs
    #[arg(long, value_name = "DIR", default_value = "target/xtask/vm")]
    work: PathBuf,
    /// Leave disks and logs there; they stay after a failure anyway
    #[arg(long)]
    keep: bool,
    /// How long one boot may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    boot_timeout: u64,
}

/// Runs the tests.
///
/// # Errors
/// If something is missing on this machine, or a test fails.
pub fn test(args: &TestArgs) -> Result<()> {
    check_requirements()?;
    enter_namespace()?;
    let programs = build_programs()?;
    let mut tree_options = debian::Options::default();
    tree_options.trees.clone_from(&args.trees);
    let trees = match debian::load_trees(&tree_options)? {
        Some(trees) => trees,
        None => match debian::find_archive(&tree_options.release)? {
            Availability::Answers(archive) => debian::ensure_trees(&tree_options, &archive)?,
            Availability::Unavailable(why) => bail!("{why}"),
        },
    };
    let options = Options {
        work: args.work.clone(),
        keep: args.keep,
        boot_timeout: Duration::from_secs(args.boot_timeout),
    };
    smoke(&trees, &programs, &options)
}
