//! Restarting the machine when a verb has changed what it boots.

use std::process::Command;

use clap::Args;
use libatomos::sysroot::Sysroot;

use crate::context::Context;
use crate::report::CliError;

/// The option of every verb that changes what is booted.
#[derive(Debug, Args)]
pub struct RebootFlag {
    /// Restart the machine afterwards, if anything was changed
    #[arg(long)]
    reboot: bool,
}

impl RebootFlag {
    /// Refuses before anything is done what could not be done afterwards: another machine's disk cannot be restarted.
    pub fn check(&self, sysroot: &Sysroot) -> Result<(), CliError> {
        if self.reboot && sysroot.booted()?.is_none() {
            return Err(CliError::usage(
                "--reboot restarts the machine, and no deployment of this sysroot is running on it",
            ));
        }
        Ok(())
    }

    /// Restarts the machine if that was asked for and something has `changed`: by systemd, or else by the system's own
    /// `reboot`. Shutting down stops this process sooner or later.
    pub fn act(&self, context: &Context, changed: bool) -> Result<(), CliError> {
        if !self.reboot || !changed {
            return Ok(());
        }
        context.ui().status("Restarting");
        let run = |words: &[&str]| -> std::io::Result<bool> {
            Ok(Command::new(words[0]).args(&words[1..]).status()?.success())
        };
        if matches!(run(&["systemctl", "reboot"]), Ok(true)) {
            return Ok(());
        }
        let failed = "cannot restart the machine by `systemctl reboot` or `reboot`";
        match run(&["reboot"]) {
            Ok(true) => Ok(()),
            Ok(false) => Err(CliError::io(failed, std::io::Error::other("both failed"))),
            Err(error) => Err(CliError::io(failed, error)),
        }
    }
}
