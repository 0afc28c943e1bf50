//! What deploying an upgrade costs, against `ostree admin deploy` of the same trees.
//!
//! Both tools have both versions in their repositories, and the first one deployed: what is timed merges `/etc`, copies kernel and
//! initramfs, writes a boot entry and waits for the disk. atomos reads back what is new besides; it is timed without that, too. After
//! each run the second version is undeployed.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::contest::remove;
use super::machine::{self, Machine};
use super::measure::{Series, settle, time, verdict};
use super::written::{self, Upgrades};
use crate::process::run;

/// The most that atomos may take, as a share of ostree's time, where it reads back as little as ostree does.
const TARGET: f64 = 0.3;

/// The same for a deployment whose root is an image.
const COMPOSEFS_TARGET: f64 = 0.15;

/// What was measured.
#[derive(Debug, Default)]
pub struct Deploy {
    /// As people run it: what is new is read back from the disk.
    pub atomos: Series,
    /// The same, and nothing read back.
    pub unread: Series,
    /// The same by composefs: an image of the tree, and what is administered of it as files.
    pub composefs: Series,
    /// `ostree admin deploy`.
    pub ostree: Series,
    /// The same with `--no-prune`.
    pub unpruned: Series,
    /// What an upgrade wrote, the new deployment being files, and being an image.
    pub written: Option<Upgrades>,
}

impl Deploy {
    fn ratio(&self) -> f64 {
        self.unread.median() / self.ostree.median()
    }

    fn composefs_ratio(&self) -> f64 {
        self.composefs.median() / self.ostree.median()
    }

    /// What was promised and does not hold.
    pub fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        if self.ratio() > TARGET {
            missed.push(format!(
                "deploying an upgrade: {:.2} of ostree's time, at most {TARGET} wanted",
                self.ratio()
            ));
        }
        if self.composefs_ratio() > COMPOSEFS_TARGET {
            missed.push(format!(
                "deploying an upgrade by composefs: {:.2} of ostree's time, at most {COMPOSEFS_TARGET} wanted",
                self.composefs_ratio()
            ));
        }
        missed.extend(self.written.into_iter().flat_map(Upgrades::missed));
        missed
    }

    /// Adds its part of the document.
    ///
    /// # Errors
    /// Never; as of writing to a text.
    pub fn render(&self, text: &mut String) -> Result<()> {
        writeln!(
            text,
            "Seconds: median (fastest to slowest). The second version is in the repository, the first is deployed. \
             The ratios are of the second and the third to the fourth, for ostree reads nothing back; at most {TARGET} and \
             {COMPOSEFS_TARGET}.\n"
        )?;
        writeln!(text, "| work | seconds |\n| --- | --- |")?;
        for (work, series) in [
            (
                "`atomos deploy`, what is new read back from the disk",
                &self.atomos,
            ),
            ("`atomos deploy --no-read-back`", &self.unread),
            (
                "`atomos deploy --no-read-back` by composefs, image and all",
                &self.composefs,
            ),
            ("`ostree admin deploy`", &self.ostree),
            ("`ostree admin deploy --no-prune`", &self.unpruned),
        ] {
            writeln!(
                text,
                "| {work} | {:.2} ({:.2} to {:.2}) |",
                series.median(),
                series.min(),
                series.max()
            )?;
        }
        writeln!(
            text,
            "\nRatio: {:.2}, {}; by composefs: {:.2}, {}.\n",
            self.ratio(),
            verdict(self.ratio(), TARGET),
            self.composefs_ratio(),
            verdict(self.composefs_ratio(), COMPOSEFS_TARGET)
        )?;
        let Some(written) = self.written else {
            return Ok(());
        };
        written.render(text)
    }
}

/// A sysroot of ostree's.
struct Rival {
    directory: PathBuf,
}

impl Rival {
    /// Makes it, with commits of the trees, and deploys the first.
    fn new(directory: PathBuf, trees: [&Path; 2]) -> Result<Self> {
        let rival = Self { directory };
        rival.remove()?;
        std::fs::create_dir(&rival.directory)
            .with_context(|| format!("cannot make {}", rival.directory.display()))?;
        time(
            Command::new("ostree")
                .args(["admin", "init-fs"])
                .arg(&rival.directory),
        )?;
        time(&mut rival.admin("os-init", &["os"]))?;
        for (tree, name) in trees.into_iter().zip(["v1", "v2"]) {
            time(
                Command::new("ostree")
                    .arg("commit")
                    .arg(option("--repo=", &rival.directory.join("ostree/repo")))
                    .args(["--branch", name, "--subject", "bench"])
                    .arg(option("--tree=dir=", tree)),
            )?;
        }
        time(&mut rival.deploy("v1", &["--karg=root=LABEL=root"]))?;
        Ok(rival)
    }

    fn admin(&self, verb: &str, words: &[&str]) -> Command {
        let mut command = Command::new("ostree");
        command
            .args(["admin", verb])
            .arg(option("--sysroot=", &self.directory))
            .args(words);
        command
    }

    fn deploy(&self, branch: &str, words: &[&str]) -> Command {
        let mut command = self.admin("deploy", &["--os=os"]);
        command.args(words).arg(branch);
        command
    }

    fn remove(&self) -> Result<()> {
        let deployments = self.directory.join("ostree/deploy/os/deploy");
        // ostree makes the root of each immutable.
        for entry in std::fs::read_dir(&deployments).into_iter().flatten() {
            let path = entry.context("cannot list what ostree deployed")?.path();
            if path.is_dir() {
                run(Command::new("chattr").arg("-i").arg(&path))?;
            }
        }
        remove(&self.directory)
    }
}

fn option(name: &str, path: &Path) -> std::ffi::OsString {
    let mut option = std::ffi::OsString::from(name);
    option.push(path);
    option
}

/// Measures it on the file system of `directory`.
///
/// # Errors
/// If a command fails.
pub fn measure(directory: &Path, atomos: &Path, trees: (&Path, &Path), runs: u16) -> Result<Deploy> {
    let mut machine = Machine::new(atomos, directory.join("machine"))?;
    machine.commit(trees.0)?;
    machine.boot(machine::REF)?;
    machine.commit(trees.1)?;
    // What ostree deploys is what atomos committed, with /usr/etc and the kernel where both look for it.
    let prepared = ["os-v1", "os-v2"].map(|name| directory.join(name));
    let parent = format!("{}^", machine::REF);
    for (revision, place) in [parent.as_str(), machine::REF].into_iter().zip(&prepared) {
        remove(place)?;
        let repo = machine.directory().join("atomos/repo");
        time(
            Command::new(atomos)
                .arg("--repo")
                .arg(repo)
                .args(["checkout", "--link", "hardlink", revision])
                .arg(place),
        )?;
    }
    let rival = Rival::new(directory.join("rival"), [&prepared[0], &prepared[1]])?;
    for place in &prepared {
        remove(place)?;
    }
    let mut deploy = Deploy::default();
    for number in 0..runs {
        eprintln!("run {} of {runs}", number + 1);
        for turn in 0..2 {
            if (turn + number) % 2 == 0 {
                deploy.atomos.push(one_of_atomos(&machine, &[])?);
                deploy.unread.push(one_of_atomos(&machine, &["--no-read-back"])?);
                let words = ["--no-read-back", "--karg", "atomos.composefs=required"];
                deploy.composefs.push(one_of_atomos(&machine, &words)?);
            } else {
                deploy.ostree.push(one_of_ostree(&rival, &[])?);
                deploy.unpruned.push(one_of_ostree(&rival, &["--no-prune"])?);
            }
        }
    }
    rival.remove()?;
    remove(machine.directory())?;
    eprintln!("bytes");
    deploy.written = Some(written::measure(directory, atomos, trees)?);
    Ok(deploy)
}

fn one_of_atomos(machine: &Machine<'_>, words: &[&str]) -> Result<std::time::Duration> {
    settle(machine.directory())?;
    let elapsed = time(machine.command(&["deploy", machine::REF, "--now"]).args(words))?;
    machine.run(&["undeploy", "default"])?;
    Ok(elapsed)
}

fn one_of_ostree(rival: &Rival, words: &[&str]) -> Result<std::time::Duration> {
    settle(&rival.directory)?;
    let elapsed = time(&mut rival.deploy("v2", words))?;
    time(&mut rival.admin("undeploy", &["0"]))?;
    Ok(elapsed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn measured(unread: u64, composefs: u64) -> Deploy {
        let mut deploy = Deploy::default();
        deploy.atomos.push(Duration::from_secs(9));
        deploy.unread.push(Duration::from_secs(unread));
        deploy.composefs.push(Duration::from_secs(composefs));
        deploy.ostree.push(Duration::from_secs(10));
        deploy
    }

    #[test]
    fn each_target_that_is_missed_is_said() {
        assert!(measured(3, 1).missed().is_empty());
        assert_eq!(measured(4, 2).missed().len(), 2);
        let mut text = String::new();
        measured(4, 2).render(&mut text).unwrap();
        assert_eq!(text.matches("**missed**").count(), 2, "{text}");
    }
}
