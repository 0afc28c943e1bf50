//! What deploying an upgrade costs, against `ostree admin deploy` of the same trees, and how much a whole upgrade writes to the disk.
//!
//! Both tools have both versions in their repositories, and the first one deployed: what is timed merges `/etc`, copies kernel and
//! initramfs, writes a boot entry and waits for the disk. atomos reads back what is new besides; it is timed without that, too. After
//! each run the second version is undeployed. Bytes are counted by the kernel, on a disk where nobody else writes: those of the journal,
//! of directories and of inodes are among them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::bare;
use super::contest::remove;
use super::machine::{self, Machine};
use super::measure::{Series, settle, time};
use crate::process::run;

/// The most that atomos may take, as a share of ostree's time, where it reads back as little as ostree does.
const TARGET: f64 = 0.3;

/// The same for a deployment whose root is an image.
const COMPOSEFS_TARGET: f64 = 0.15;

/// The most bytes that an upgrade may write, as a multiple of what is new in the store and in `/boot`.
const WRITE_TARGET: f64 = 1.15;

/// What a deployment is, in the order in which bytes are counted.
const KINDS: [&str; 2] = ["files", "an image"];

/// Bytes of the disk that writes are counted on. Sparse.
const DISK_SIZE: u64 = 12 << 30;

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
    pub written: Option<[Written; 2]>,
}

/// Bytes of one upgrade over a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// What the disk was given, by the kernel's count, until everything was on it.
    pub disk: u64,
    /// What is new in the store.
    pub store: Extent,
    /// What is new in `/boot`.
    pub boot: Extent,
    /// What the disk is given by directories and hard links alone, as many as the deployment has: it cannot do with less.
    pub links: u64,
}

/// How large files are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extent {
    /// The sum of their lengths.
    pub length: u64,
    /// What they take of the disk, in whole blocks.
    pub space: u64,
}

impl Written {
    fn ratio(self) -> f64 {
        self.disk as f64 / (self.store.length + self.boot.length) as f64
    }

    /// The same without what directories and links take.
    fn ratio_without_links(self) -> f64 {
        self.disk.saturating_sub(self.links) as f64 / (self.store.length + self.boot.length) as f64
    }

    fn ratio_to_space(self) -> f64 {
        self.disk as f64 / (self.store.space + self.boot.space) as f64
    }
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
        for (kind, written) in KINDS.into_iter().zip(self.written.into_iter().flatten()) {
            let ratio = written.ratio();
            if ratio > WRITE_TARGET {
                missed.push(format!(
                    "an upgrade to {kind} writes {ratio:.2} of what is new, at most {WRITE_TARGET} wanted"
                ));
            }
        }
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
        let verdict = |ratio, target| if ratio <= target { "met" } else { "**missed**" };
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
        writeln!(
            text,
            "What an upgrade from a site, pull and all, writes to the disk, by the kernel's count until everything was on it, against what is new \
             in the store and in `/boot`; at most {WRITE_TARGET} of that. The rest is the file system's own: directories, inodes, and the journal, \
             which has both once more. *Bare* is a loop of `mkdirat` and `linkat` that makes the deployment's directories and links, and nothing \
             else. In MB.\n"
        )?;
        writeln!(
            text,
            "| the deployment | written | new in the store | new in `/boot` | ratio | | of the blocks that these take | bare | ratio without \
             |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
        )?;
        for (kind, written) in KINDS.into_iter().zip(written) {
            let megabytes = |bytes: u64| bytes as f64 / 1e6;
            writeln!(
                text,
                "| {kind} | {:.1} | {:.1} | {:.1} | {:.2} | {} | {:.2} | {:.1} | {:.2} |",
                megabytes(written.disk),
                megabytes(written.store.length),
                megabytes(written.boot.length),
                written.ratio(),
                verdict(written.ratio(), WRITE_TARGET),
                written.ratio_to_space(),
                megabytes(written.links),
                written.ratio_without_links()
            )?;
        }
        writeln!(text)?;
        Ok(())
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
    deploy.written = Some(written(directory, atomos, trees)?);
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

/// A file system of its own in a file. Unmounted when dropped.
struct OwnDisk {
    image: PathBuf,
    place: PathBuf,
}

impl OwnDisk {
    fn mount(directory: &Path, name: &str) -> Result<Self> {
        let (image, place) = (directory.join(format!("{name}.img")), directory.join(name));
        std::fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
        std::fs::File::create(&image)
            .and_then(|file| file.set_len(DISK_SIZE))
            .with_context(|| format!("cannot make {}", image.display()))?;
        // Not lazily: the kernel would go on initialising it, and that would be counted.
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-m", "0"])
            .args(["-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"])
            .arg(&image))?;
        run(Command::new("mount")
            .args(["-t", "ext4", "-o", "loop", "--"])
            .args([&image, &place]))?;
        Ok(Self { image, place })
    }

    /// Bytes that its device was given since it was there, once everything is on it.
    fn written(&self) -> Result<u64> {
        settle(&self.place)?;
        let device = std::fs::metadata(&self.place)
            .with_context(|| format!("cannot look at {}", self.place.display()))?
            .dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let path = format!("/sys/dev/block/{major}:{minor}/stat");
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        bytes_written(&text).with_context(|| format!("{path} says {text:?}"))
    }
}

impl Drop for OwnDisk {
    fn drop(&mut self) {
        // In the bench's own mount namespace, which ends soon anyhow.
        let _ = run(Command::new("umount").arg(&self.place));
        let _ = remove(&self.image);
    }
}

/// The seventh field: sectors of 512 bytes, whatever the device has.
fn bytes_written(stat: &str) -> Option<u64> {
    let sectors: u64 = stat.split_whitespace().nth(6)?.parse().ok()?;
    sectors.checked_mul(512)
}

/// A machine with a disk of its own, which runs what was deployed first.
struct Counted<'a> {
    machine: Machine<'a>,
    disk: OwnDisk,
}

impl<'a> Counted<'a> {
    fn install(directory: &Path, name: &str, atomos: &'a Path, site: &Path, key: &Path) -> Result<Self> {
        let disk = OwnDisk::mount(directory, name)?;
        let mut machine = Machine::new(atomos, disk.place.join("machine"))?;
        let url = format!("file://{}", site.display());
        time(
            machine
                .command(&["remote", "add", "origin", &url, "--key"])
                .arg(key.with_extension("pub")),
        )?;
        machine.run(&["pull", "origin", machine::REF])?;
        machine.boot(&format!("origin:{}", machine::REF))?;
        Ok(Self { machine, disk })
    }

    /// Counts what `commands` write, which bring what is newest and deploy it.
    fn written(&self, commands: &[&[&str]]) -> Result<Written> {
        let (machine, disk) = (&self.machine, &self.disk);
        let store = machine.directory().join("atomos/repo");
        let boot = machine.directory().join("boot");
        let before = (files(&store)?, files(&boot)?, disk.written()?);
        for words in commands {
            machine.run(words)?;
        }
        let after = (files(&store)?, files(&boot)?, disk.written()?);
        bare::check_out(&machine.newest()?, &disk.place.join("bare"))?;
        let written = Written {
            links: disk.written()? - after.2,
            disk: after.2 - before.2,
            store: added(&before.0, &after.0),
            boot: added(&before.1, &after.1),
        };
        ensure!(
            written.store.length > 0 && written.boot.length > 0,
            "the upgrade brought nothing: {written:?}"
        );
        Ok(written)
    }
}

/// One upgrade of each of two machines, from a site with patches: to files, and to an image.
fn written(directory: &Path, atomos: &Path, trees: (&Path, &Path)) -> Result<[Written; 2]> {
    let [repo, key, site] = ["source", "source-key", "source-site"].map(|name| directory.join(name));
    for path in [&repo, &key, &key.with_extension("pub"), &site] {
        remove(path)?;
    }
    let source = |words: &[&str]| {
        let mut command = Command::new(atomos);
        command.arg("--repo").arg(&repo).args(words);
        command
    };
    let publish = || {
        let mut command = source(&["publish", "--ref", machine::REF, "--no-image", "--key"]);
        command.arg(&key).arg("--to").arg(&site);
        command
    };
    let commit = ["commit", "--os", "--ref", machine::REF];
    time(&mut source(&["init", "--mode", "bare"]))?;
    time(Command::new(atomos).args(["key", "generate"]).arg(&key))?;
    time(source(&commit).arg(trees.0))?;
    time(&mut publish())?;
    let install = |name| Counted::install(directory, name, atomos, &site, &key);
    let (of_files, of_image) = (install("counted-files")?, install("counted-image")?);
    time(source(&commit).arg(trees.1))?;
    time(&mut publish())?;
    let reference = format!("origin:{}", machine::REF);
    let written = [
        of_files.written(&[&["upgrade", "--now"]])?,
        of_image.written(&[
            &["pull", "origin", machine::REF],
            &[
                "deploy",
                &reference,
                "--now",
                "--karg",
                "atomos.composefs=required",
            ],
        ])?,
    ];
    drop((of_files, of_image));
    for path in [&repo, &site] {
        remove(path)?;
    }
    Ok(written)
}

/// Every regular file below a directory, with its size.
fn files(directory: &Path) -> Result<BTreeMap<PathBuf, Extent>> {
    let mut files = BTreeMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(next) = directories.pop() {
        for entry in std::fs::read_dir(&next).with_context(|| format!("cannot list {}", next.display()))? {
            let path = entry
                .with_context(|| format!("cannot list {}", next.display()))?
                .path();
            let metadata = path
                .symlink_metadata()
                .with_context(|| format!("cannot look at {}", path.display()))?;
            if metadata.is_dir() {
                directories.push(path);
            } else if metadata.is_file() {
                let extent = Extent {
                    length: metadata.len(),
                    space: metadata.blocks() * 512,
                };
                files.insert(path, extent);
            }
        }
    }
    Ok(files)
}

/// The size of the files that were not there before.
fn added(before: &BTreeMap<PathBuf, Extent>, after: &BTreeMap<PathBuf, Extent>) -> Extent {
    let new = after.iter().filter(|(path, _)| !before.contains_key(*path));
    new.fold(Extent::default(), |sum, (_, extent)| Extent {
        length: sum.length + extent.length,
        space: sum.space + extent.space,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn measured(unread: u64, composefs: u64, disk: u64) -> Deploy {
        let extent = |length| Extent {
            length,
            space: length * 2,
        };
        let mut deploy = Deploy::default();
        deploy.atomos.push(Duration::from_secs(9));
        deploy.unread.push(Duration::from_secs(unread));
        deploy.composefs.push(Duration::from_secs(composefs));
        deploy.ostree.push(Duration::from_secs(10));
        let written = |disk| Written {
            disk,
            store: extent(90),
            boot: extent(10),
            links: 15,
        };
        deploy.written = Some([written(disk), written(disk - 10)]);
        deploy
    }

    #[test]
    fn each_target_that_is_missed_is_said() {
        assert!(measured(3, 1, 115).missed().is_empty());
        let missed = measured(4, 2, 116).missed();
        assert_eq!(missed.len(), 3, "{missed:?}");
        let mut text = String::new();
        measured(4, 2, 116).render(&mut text).unwrap();
        assert_eq!(text.matches("**missed**").count(), 3, "{text}");
        assert!(
            text.contains("| files | 0.0 | 0.0 | 0.0 | 1.16 | **missed** | 0.58 | 0.0 | 1.01 |"),
            "{text}"
        );
        assert!(
            text.contains("| an image | 0.0 | 0.0 | 0.0 | 1.06 | met |"),
            "{text}"
        );
    }

    #[test]
    fn sectors_written_are_counted_and_a_line_without_them_is_none() {
        let stat = "   12 0 96 3 40 7 2048 90 0 20 93 0 0 0 0 5 1\n";
        assert_eq!(bytes_written(stat), Some(1 << 20));
        assert_eq!(bytes_written("1 2 3"), None);
    }

    #[test]
    fn what_is_new_is_what_was_not_there_under_its_name() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir(scratch.path().join("d")).unwrap();
        std::fs::write(scratch.path().join("d/old"), "123").unwrap();
        let before = files(scratch.path()).unwrap();
        std::fs::write(scratch.path().join("d/new"), "12345").unwrap();
        assert_eq!(added(&before, &files(scratch.path()).unwrap()).length, 5);
    }
}
