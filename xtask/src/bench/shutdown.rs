//! What a staged update leaves for shutdown: the end of it, with a hundred files of `/etc` changed since.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::contest::remove;
use super::machine::{self, Machine};
use super::measure::{Series, settle, time};

/// Files of `/etc` that are changed between staging and shutdown.
const CHANGED: usize = 100;

/// The most seconds that finishing may take.
pub const TARGET: f64 = 1.0;

/// What was measured.
#[derive(Debug, Default)]
pub struct Shutdown {
    /// Staging the second version, what is new read back.
    pub stage: Series,
    /// The same, and nothing read back.
    pub stage_unread: Series,
    /// Finishing it.
    pub finish: Series,
}

/// Measures it on the trees' directory's file system.
///
/// # Errors
/// If a command fails, or `/etc` has fewer files than are to be changed.
pub fn measure(directory: &Path, atomos: &Path, trees: (&Path, &Path), runs: u16) -> Result<Shutdown> {
    let mut shutdown = Shutdown::default();
    for number in 0..runs {
        eprintln!("run {} of {runs}", number + 1);
        let mut machine = Machine::new(atomos, directory.join("machine"))?;
        machine.commit(trees.0)?;
        let root = machine.boot(machine::REF)?;
        machine.commit(trees.1)?;
        settle(directory)?;
        shutdown
            .stage_unread
            .push(time(&mut machine.command(&["upgrade", "--no-read-back"]))?);
        machine.run(&["undeploy", "staged"])?;
        settle(directory)?;
        shutdown.stage.push(time(&mut machine.command(&["upgrade"]))?);
        change(&root.join("etc"))?;
        settle(directory)?;
        shutdown
            .finish
            .push(time(&mut machine.command(&["finalize", "--shutdown"]))?);
        remove(machine.directory())?;
    }
    Ok(shutdown)
}

/// Adds a line to the first hundred files, by name.
fn change(etc: &Path) -> Result<()> {
    let mut files = Vec::new();
    let mut directories = vec![etc.to_owned()];
    while let Some(directory) = directories.pop() {
        let listed =
            std::fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))?;
        for entry in listed {
            let entry = entry.with_context(|| format!("cannot list {}", directory.display()))?;
            let kind = entry
                .file_type()
                .with_context(|| format!("cannot look at {}", entry.path().display()))?;
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    ensure!(files.len() >= CHANGED, "/etc has {} files only", files.len());
    for path in files.iter().take(CHANGED) {
        let file = OpenOptions::new().append(true).open(path);
        file.and_then(|mut file| file.write_all(b"# changed\n"))
            .with_context(|| format!("cannot change {}", path.display()))?;
    }
    Ok(())
}
