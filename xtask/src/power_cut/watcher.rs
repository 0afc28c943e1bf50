//! What the program says of itself while its writes are recorded, and what else happens on the disks meanwhile.
//!
//! The program stops at each of its steps until it is answered (`atomos-cli/src/power_cut.rs`), so a step is written
//! down exactly between the writes before it and those after it. While the program waits, somebody else syncs something
//! small: a journal is made lasting by whoever syncs first, and on a machine that is another program, at any moment. What is
//! only right as long as nobody else syncs is wrong.
//!
//! To show that the test would notice, a [`Fault`] leaves one of the program's syncs out, or makes it too late.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result};

use super::mount::Kind;
use super::recorder::Recorder;
use crate::random::Random;

/// A sync or a rename in the source, `syncfs repo/refs.rs:89`.
pub type Site = String;

/// What is done wrong on purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The sync is left out, always.
    Skip(Site),
    /// The sync is made only after the rename, instead of before it.
    Late {
        /// Which sync.
        sync: Site,
        /// The rename.
        rename: Site,
    },
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Skip(site) => write!(f, "without {site}"),
            Self::Late { sync, rename } => write!(f, "{sync} after {rename}"),
        }
    }
}

/// Who else syncs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// At about half of the steps, by a seed.
    Sometimes(u64),
    /// At every step: names last as soon as they can, and bytes do not.
    Always,
    /// At no step: what a command has promised lasts by its own syncs.
    Never,
}

/// A listener for the programs that run while a recorder records.
#[derive(Debug)]
pub struct Watcher {
    socket: PathBuf,
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    recorder: Arc<Recorder>,
    /// Mounted file systems on which others sync.
    mounts: Vec<(Kind, PathBuf)>,
    fault: Option<Fault>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    others: Others,
    random: Random,
    /// Numbers what others write.
    number: u64,
    /// The last step was a rename: a hundred of them in a row are one.
    renaming: bool,
    /// A sync was put off.
    late: bool,
    /// How often each site was passed.
    sites: BTreeMap<Site, u64>,
    /// Renames, each after a sync that came right before it.
    before: BTreeSet<(Site, Site)>,
    last_sync: Option<Site>,
}

impl Watcher {
    /// Listens at `socket`.
    ///
    /// # Errors
    /// If the socket cannot be made.
    pub fn start(
        socket: &Path,
        recorder: &Arc<Recorder>,
        mounts: &[(Kind, PathBuf)],
        others: Others,
        fault: Option<&Fault>,
    ) -> Result<Self> {
        let listener =
            UnixListener::bind(socket).with_context(|| format!("cannot listen at {}", socket.display()))?;
        let seed = match others {
            Others::Sometimes(seed) => seed,
            Others::Always | Others::Never => 0,
        };
        let shared = Arc::new(Shared {
            recorder: Arc::clone(recorder),
            mounts: mounts.to_vec(),
            fault: fault.cloned(),
            state: Mutex::new(State {
                others,
                random: Random::new(seed),
                number: 0,
                renaming: false,
                late: false,
                sites: BTreeMap::new(),
                before: BTreeSet::new(),
                last_sync: None,
            }),
        });
        let serving = Arc::clone(&shared);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let listener = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(std::result::Result::ok) {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let serving = Arc::clone(&serving);
                std::thread::spawn(move || {
                    if let Err(error) = serving.answer(stream) {
                        eprintln!("somebody who is watched cannot be answered: {error:#}");
                    }
                });
            }
        });
        Ok(Self {
            socket: socket.to_owned(),
            shared,
            stop,
            listener: Some(listener),
        })
    }

    /// Returns where it listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Returns every sync and rename that was passed, and how often.
    #[must_use]
    pub fn sites(&self) -> BTreeMap<Site, u64> {
        self.shared.state().sites.clone()
    }

    /// Returns every sync with a rename that came after it, and after no other sync.
    #[must_use]
    pub fn syncs_before_renames(&self) -> BTreeSet<(Site, Site)> {
        self.shared.state().before.clone()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes it. Where nobody can connect, nobody listens.
        if UnixStream::connect(&self.socket).is_ok()
            && let Some(listener) = self.listener.take()
            && listener.join().is_err()
        {
            eprintln!("the watcher panicked");
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Counters and flags: no panic leaves them half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, stream: UnixStream) -> Result<()> {
        let mut out = stream.try_clone()?;
        // What another program has synced says nothing about the order of this one's steps.
        self.state().last_sync = None;
        for line in BufReader::new(stream).lines() {
            let line = line?.replace("libatomos/src/", "");
            let yes = self.step(&line)?;
            out.write_all(if yes { b"1" } else { b"0" })?;
        }
        Ok(())
    }

    /// Takes note of a step; returns whether to sync.
    fn step(&self, line: &str) -> Result<bool> {
        let mut state = self.state();
        let kind = line.split(' ').next().unwrap_or_default();
        let (is_rename, is_point) = (kind == "renamed", kind == "point");
        if !is_rename || !state.renaming {
            self.recorder.mark(line);
        }
        if !is_point {
            *state.sites.entry(line.to_owned()).or_default() += 1;
        }
        let first_rename = is_rename && !state.renaming;
        state.renaming = is_rename;
        if is_rename {
            if let Some(sync) = state.last_sync.clone() {
                state.before.insert((sync, line.to_owned()));
            }
        } else if !is_point && kind != "freeze" {
            // A freeze is a part of the flush that begins right before it.
            state.last_sync = Some(line.to_owned());
        }
        if is_point || first_rename {
            self.others_sync(&mut state)?;
        }
        Ok(match &self.fault {
            Some(Fault::Skip(site)) => !is_rename && site != line,
            Some(Fault::Late { sync, .. }) if sync == line => {
                state.late = true;
                false
            }
            Some(Fault::Late { rename, .. }) if rename == line => std::mem::take(&mut state.late),
            _ => !is_rename,
        })
    }

    fn others_sync(&self, state: &mut State) -> Result<()> {
        match state.others {
            Others::Sometimes(_) if state.random.below(2) == 0 => return Ok(()),
            Others::Never => return Ok(()),
            Others::Sometimes(_) | Others::Always => {}
        }
        state.number += 1;
        for (kind, mount) in &self.mounts {
            sync_something(*kind, mount, state.number)
                .with_context(|| format!("cannot sync something on {}", mount.display()))?;
        }
        Ok(())
    }
}

/// The name of what others write.
pub const OTHERS: &str = "others";

/// Makes the journal of the file system lasting, as a program does that syncs a file of its own.
fn sync_something(kind: Kind, mount: &Path, number: u64) -> Result<()> {
    let place = mount.join(OTHERS);
    if kind == Kind::Btrfs {
        // A sync of one file is a log of its own there, so it takes what commits the whole: a snapshot does, of something
        // that nobody writes to.
        if number.is_multiple_of(4) {
            let snapshot = mount.join(format!("{OTHERS}-{number}"));
            let mut command = std::process::Command::new("btrfs");
            command.args(["--quiet", "subvolume", "snapshot"]);
            return crate::process::run(command.arg(&place).arg(&snapshot));
        }
        std::fs::write(mount.join("others.log"), number.to_string())?;
        return Ok(std::fs::File::open(mount.join("others.log"))?.sync_all()?);
    }
    let mut file = std::fs::File::options().append(true).create(true).open(&place)?;
    writeln!(file, "{number}")?;
    Ok(file.sync_all()?)
}

/// Makes what others need, before anything is recorded.
///
/// # Errors
/// If it cannot be made.
pub fn prepare_others(kind: Kind, mount: &Path) -> Result<()> {
    if kind == Kind::Btrfs {
        let mut command = std::process::Command::new("btrfs");
        command.args(["--quiet", "subvolume", "create"]);
        crate::process::run(command.arg(mount.join(OTHERS)))?;
    }
    Ok(())
}
