//! `atomos umount`

use std::path::PathBuf;

use clap::Args;
use libatomos::composefs;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::text;

/// Unmount what `atomos mount` has mounted
///
/// Its commit is kept from then on only by what else keeps it. Fails while somebody uses a file of it.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  atomos umount /mnt")]
pub struct UmountArgs {
    /// Where it is mounted
    dir: PathBuf,
}

/// Runs the verb.
pub fn run(context: &Context, args: &UmountArgs) -> RunResult {
    composefs::unmount(&args.dir)?;
    context.apart(|| Ok(composefs::release(&context.open_repo()?, &args.dir)?))?;
    context
        .ui()
        .status(format_args!("Unmounted {}", text::escape_path(&args.dir)));
    Ok(Outcome::Done)
}
