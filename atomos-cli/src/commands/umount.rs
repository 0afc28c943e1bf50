//! `atomos umount`

use std::path::PathBuf;

use clap::Args;
use libatomos::composefs::{self, ComposefsError};

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::text;

/// Unmount what `atomos mount` has mounted
///
/// Its commit is kept from then on only by what else keeps it. Name the repository that it was mounted from: another one keeps nothing for it.
/// Fails while somebody uses a file of it.
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
    let Some(id) = composefs::mounted(&args.dir)? else {
        return Err(ComposefsError::NotMounted {
            path: args.dir.clone(),
        }
        .into());
    };
    // Before anything is unmounted: who keeps the commit must be there to let go of it.
    let is_held = id.is_held(&context.open_repo_as_it_is()?)?;
    composefs::unmount(&args.dir)?;
    if is_held && !composefs::is_mounted(&id)? {
        context.apart(|| Ok(id.release(&context.open_repo()?)?))?;
    }
    context
        .ui()
        .status(format_args!("Unmounted {}", text::escape_path(&args.dir)));
    Ok(Outcome::Done)
}
