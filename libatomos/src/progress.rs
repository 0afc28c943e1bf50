//! What a running operation tells whoever waits for it.
//!
//! The library reports every event; how often to draw is the renderer's business. Totals are exact: an operation
//! counts its work before it begins it.

use serde::Serialize;

/// A part of an operation that has a total of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Phase {
    /// Listing the source tree.
    Scan,
    /// Reading archives, and storing what is new of them.
    Read,
    /// Hashing files and storing the new ones.
    Store,
    /// Making directories and files.
    Checkout,
    /// Verifying objects.
    Verify,
    /// Finding what is reachable.
    Mark,
    /// Removing what is not.
    Sweep,
    /// Copying objects from another repository.
    Pull,
    /// Compressing what is new for a site.
    Compress,
    /// Compressing the image of a tree.
    Image,
    /// Making patches.
    Patch,
    /// Writing a tree as an archive.
    Export,
    /// Merging `/etc`.
    MergeEtc,
    /// Copying kernel and initramfs.
    Kernel,
    /// Waiting for the disk.
    Sync,
}

impl Phase {
    /// Returns what is being done, to stand before a bar.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Scan => "Scanning",
            Self::Read => "Reading",
            Self::Store => "Storing",
            Self::Checkout => "Checking out",
            Self::Verify => "Verifying",
            Self::Mark => "Marking",
            Self::Sweep => "Sweeping",
            Self::Pull => "Pulling",
            Self::Compress => "Compressing",
            Self::Image => "Making the image",
            Self::Patch => "Making patches",
            Self::Export => "Exporting",
            Self::MergeEtc => "Merging /etc",
            Self::Kernel => "Copying the kernel",
            Self::Sync => "Syncing",
        }
    }
}

/// The unit of a phase's total.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Things, such as entries or objects.
    Items,
}

/// One thing that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Event<'a> {
    /// A phase begins.
    Begin {
        /// Which.
        phase: Phase,
        /// How much there is to do, where it can be known.
        total: Option<u64>,
        /// In which unit.
        unit: Unit,
    },
    /// Some of the phase's work is done.
    Advance {
        /// Which.
        phase: Phase,
        /// How much more is done than at the last event.
        delta: u64,
    },
    /// A phase is over.
    End {
        /// Which.
        phase: Phase,
    },
    /// Something a person may want to read.
    Note {
        /// A sentence.
        text: &'a str,
    },
    /// Something a person ought to read.
    Warning {
        /// A sentence.
        text: &'a str,
    },
}

/// Receives events, from any thread.
pub trait Progress: Send + Sync {
    /// Takes one event. It must not block for long.
    fn report(&self, event: Event<'_>);
}

/// Ignores every event.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn report(&self, _event: Event<'_>) {}
}

/// Reports `Begin` when made and `End` when dropped.
pub(crate) struct PhaseGuard<'a> {
    progress: &'a dyn Progress,
    phase: Phase,
}

impl<'a> PhaseGuard<'a> {
    pub(crate) fn begin(progress: &'a dyn Progress, phase: Phase, total: Option<u64>, unit: Unit) -> Self {
        progress.report(Event::Begin { phase, total, unit });
        Self { progress, phase }
    }

    pub(crate) fn advance(&self, delta: u64) {
        self.progress.report(Event::Advance {
            phase: self.phase,
            delta,
        });
    }
}

impl Drop for PhaseGuard<'_> {
    fn drop(&mut self) {
        self.progress.report(Event::End { phase: self.phase });
    }
}
