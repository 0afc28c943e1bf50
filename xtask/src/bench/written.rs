//! How much an upgrade writes to the disk.
//!
//! Bytes are counted by the kernel, on a disk where nobody else writes: those of the journal, of directories and of inodes are among
//! them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::bare;
use super::contest::remove;
use super::machine::{self, Machine};
use super::measure::{settle, time, verdict};
use crate::process::run;

/// The most bytes that an upgrade may write, as a multiple of what is new in the store and in `/boot`.
const TARGET: f64 = 1.15;

/// What a deployment is, in the order in which bytes are counted.
const KINDS: [&str; 2] = ["files", "an image"];

/// Bytes of the disk that writes are counted on. Sparse.
const DISK_SIZE: u64 = 12 << 30;

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
    fn lengths(self) -> f64 {
        (self.store.length + self.boot.length) as f64
    }

    fn ratio(self) -> f64 {
        self.disk as f64 / self.lengths()
    }

    const fn blocks(self) -> u64 {
        self.store.space + self.boot.space
    }

    /// The ratio that no program comes below on this file system.
    fn least(self) -> f64 {
        (self.blocks() + self.links) as f64 / self.lengths()
    }
}

/// An upgrade to files, and one to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upgrades(pub [Written; 2]);

impl Upgrades {
    fn each(self) -> impl Iterator<Item = (&'static str, Written)> {
        KINDS.into_iter().zip(self.0)
    }

    /// What was promised and does not hold.
    pub fn missed(self) -> Vec<String> {
        self.each()
            .map(|(kind, written)| (kind, written.ratio()))
            .filter(|(_, ratio)| *ratio > TARGET)
            .map(|(kind, ratio)| {
                format!("an upgrade to {kind} writes {ratio:.2} of what is new, at most {TARGET} wanted")
            })
            .collect()
    }

    /// Adds its part of the document.
    ///
    /// # Errors
    /// Never; as of writing to a text.
    pub fn render(self, text: &mut String) -> Result<()> {
        writeln!(
            text,
            "What an upgrade from a site, pull and all, writes to the disk, by the kernel's count until everything was on it, against what is new \
             in the store and in `/boot`; at most {TARGET} of that. The rest is the file system's own: the ends of last blocks, and directories, \
             inodes and the journal, which has both once more. *Bare* is a loop of `mkdirat` and `linkat` that makes the deployment's directories \
             and links, and nothing else. The blocks and these are the least that such a deployment takes; names and inodes of what is new \
             in the store are not in it. In MB.\n"
        )?;
        writeln!(
            text,
            "| the deployment | written | new in the store | new in `/boot` | ratio | | blocks of these | bare | the least | written, of the least \
             |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
        )?;
        for (kind, written) in self.each() {
            let megabytes = |bytes: u64| bytes as f64 / 1e6;
            writeln!(
                text,
                "| {kind} | {:.1} | {:.1} | {:.1} | {:.2} | {} | {:.1} | {:.1} | {:.2} | {:.2} |",
                megabytes(written.disk),
                megabytes(written.store.length),
                megabytes(written.boot.length),
                written.ratio(),
                verdict(written.ratio(), TARGET),
                megabytes(written.blocks()),
                megabytes(written.links),
                written.least(),
                written.ratio() / written.least()
            )?;
        }
        writeln!(text)?;
        Ok(())
    }
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
///
/// # Errors
/// If a command fails.
pub fn measure(directory: &Path, atomos: &Path, trees: (&Path, &Path)) -> Result<Upgrades> {
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
    Ok(Upgrades(written))
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

    #[test]
    fn sectors_written_are_counted_and_a_line_without_them_is_none() {
        let stat = "   12 0 96 3 40 7 2048 90 0 20 93 0 0 0 0 5 1\n";
        assert_eq!(bytes_written(stat), Some(1 << 20));
        assert_eq!(bytes_written("1 2 3"), None);
    }

    #[test]
    fn each_target_that_is_missed_is_said() {
        let extent = |length| Extent {
            length,
            space: length + 2_000_000,
        };
        let written = |disk| Written {
            disk,
            store: extent(90_000_000),
            boot: extent(10_000_000),
            links: 5_000_000,
        };
        let upgrades = |disk| Upgrades([written(disk), written(disk - 10_000_000)]);
        assert!(upgrades(115_000_000).missed().is_empty());
        let missed = upgrades(116_000_000).missed();
        assert_eq!(
            missed,
            ["an upgrade to files writes 1.16 of what is new, at most 1.15 wanted"]
        );
        let mut text = String::new();
        upgrades(116_000_000).render(&mut text).unwrap();
        for line in [
            "| files | 116.0 | 90.0 | 10.0 | 1.16 | **missed** | 104.0 | 5.0 | 1.09 | 1.06 |",
            "| an image | 106.0 | 90.0 | 10.0 | 1.06 | met | 104.0 | 5.0 | 1.09 | 0.97 |",
        ] {
            assert!(text.contains(line), "{text}");
        }
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
