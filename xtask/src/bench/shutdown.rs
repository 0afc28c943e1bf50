//! What a staged update leaves for shutdown: the end of it, with a hundred files of `/etc` changed since.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::contest::remove;
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

/// A machine on the measured file system that takes itself for running.
struct Machine<'a> {
    atomos: &'a Path,
    directory: PathBuf,
    running: Option<PathBuf>,
}

impl Machine<'_> {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.atomos);
        command.args(words).env("ATOMOS_SYSROOT", &self.directory);
        if let Some(running) = &self.running {
            command.env("ATOMOS_HOST_ROOT", running);
        }
        command
    }

    fn run(&self, words: &[&str]) -> Result<()> {
        time(&mut self.command(words)).map(drop)
    }

    fn commit(&self, tree: &Path) -> Result<()> {
        let words = ["commit", "--os", "--ref", "os/bench"];
        time(self.command(&words).arg(tree)).map(drop)
    }

    /// Deploys the first version and takes it for what runs, with somebody there who finishes updates at shutdown.
    fn boot(&mut self) -> Result<PathBuf> {
        self.run(&["deploy", "os/bench", "--karg", "root=LABEL=root"])?;
        let deployments = self.directory.join("atomos/deploy/os/deploy");
        let listed = std::fs::read_dir(&deployments)
            .with_context(|| format!("cannot list {}", deployments.display()))?;
        let mut found = listed.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let root = found.find(|path| path.is_dir()).context("nothing was deployed")?;
        let flag = root.join("run/atomos/finalize-at-shutdown");
        let parent = flag.parent().context("a flag lies in a directory")?;
        std::fs::create_dir_all(parent)
            .and_then(|()| File::create(&flag))
            .with_context(|| format!("cannot make {}", flag.display()))?;
        self.running = Some(root.clone());
        Ok(root)
    }
}

/// Measures it on the trees' directory's file system.
///
/// # Errors
/// If a command fails, or `/etc` has fewer files than are to be changed.
pub fn measure(directory: &Path, atomos: &Path, trees: (&Path, &Path), runs: u16) -> Result<Shutdown> {
    let mut shutdown = Shutdown::default();
    for number in 0..runs {
        eprintln!("run {} of {runs}", number + 1);
        let mut machine = Machine {
            atomos,
            directory: directory.join("machine"),
            running: None,
        };
        remove(&machine.directory)?;
        machine.run(&["sysroot", "init"])?;
        machine.run(&["stateroot", "init", "os"])?;
        machine.commit(trees.0)?;
        let root = machine.boot()?;
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
        remove(&machine.directory)?;
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
