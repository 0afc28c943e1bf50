//! Ending early, without leaving a file system mounted whose disk is gone: between two cuts, or two recordings.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGINT, SIGTERM};

/// Whether somebody wants the test to end.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens to the signals that ask for it. The process is the first one of its namespace, which dies of none of them by
    /// itself.
    ///
    /// # Errors
    /// If the system does not let it.
    pub fn install() -> Result<Self> {
        let interrupt = Self::default();
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupt.0)).context("cannot handle signals")?;
        }
        Ok(interrupt)
    }

    /// Returns whether it is to end.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Ends what is being done, if that is wanted.
    ///
    /// # Errors
    /// If it is.
    pub fn check(&self) -> Result<()> {
        if self.is_raised() {
            bail!("interrupted");
        }
        Ok(())
    }
}
