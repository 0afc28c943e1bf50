//! `atomos usr-overlay`

use clap::Args;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;

/// Make /usr writable until the next boot
///
/// To try something on this very machine: an overlay in memory lies over /usr, and what is written to it is gone after the
/// next boot. The deployment stays as it is, and no upgrade takes anything over. `atomos status` says that it is so;
/// `atomos diff --booted` shows what was changed.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  atomos usr-overlay && apt-get install strace")]
pub struct UsrOverlayArgs {}

/// Runs the verb.
pub fn run(context: &Context, _args: &UsrOverlayArgs) -> RunResult {
    // Without mounts of this process's own: everybody is to see it.
    let made = context.open_sysroot()?.overlay_usr()?;
    context.ui().status(if made {
        "/usr is writable until the next boot; what is written to it is gone then"
    } else {
        "/usr is writable already"
    });
    Ok(Outcome::Done)
}
