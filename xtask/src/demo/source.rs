//! The two versions that the demo works on.
//!
//! Best are the real trees of [`crate::debian`]. An ordinary user gets a copy of what can be read of them. Where there
//! are none, this machine's own `/usr` and `/etc` are taken, a part of them, and a second version is made up from that; the
//! demo says so in its first lines.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::edits::{self, Edits};
use crate::debian::{self, Availability, Trees};
use crate::facts::entry_names;
use crate::process::is_root;

/// The most that is taken of this machine's own files.
const OWN_FILES: u64 = 12_000;
/// See [`OWN_FILES`].
const OWN_BYTES: u64 = 600 << 20;
/// A larger single file is left out of a made-up tree.
const OWN_FILE_BYTES: u64 = 40 << 20;

/// Two versions of an operating system.
#[derive(Debug)]
pub struct Versions {
    /// The first.
    pub v1: PathBuf,
    /// The second.
    pub v2: PathBuf,
    /// The version and the subject that each is committed with.
    pub names: [(String, String); 2],
    /// What they are, in a sentence each.
    pub description: Vec<String>,
    /// Whether they hold a package database that can be asked.
    pub is_debian: bool,
    /// What to do to `/etc`.
    pub edits: Edits,
}

/// Gets the versions; what has to be copied is put below `work`.
///
/// # Errors
/// If the archive answers and the trees cannot be made, or if copying fails.
pub fn find(options: &debian::Options, work: &Path) -> Result<Versions> {
    if let Some(trees) = debian::load_trees(options)? {
        return real(&trees, work);
    }
    match debian::find_archive(&options.release)? {
        Availability::Answers(archive) => {
            println!(
                "Making two versions of Debian {} (once; it takes minutes):",
                options.release
            );
            real(&debian::ensure_trees(options, &archive)?, work)
        }
        Availability::Unavailable(why) => made_up(&why, work),
    }
}

fn real(trees: &Trees, work: &Path) -> Result<Versions> {
    let upgraded = trees
        .upgraded
        .iter()
        .filter(|upgrade| upgrade.from.is_some() && upgrade.to.is_some())
        .count();
    let mut description = vec![
        format!(
            "v1 is Debian {} as released: {} files, {} MB, by debootstrap.",
            trees.release,
            trees.size_v1.files,
            trees.size_v1.bytes / 1_000_000
        ),
        format!(
            "v2 is the same after `apt-get dist-upgrade`: {upgraded} packages upgraded, {} new, {} removed.",
            trees
                .upgraded
                .iter()
                .filter(|upgrade| upgrade.from.is_none())
                .count(),
            trees
                .upgraded
                .iter()
                .filter(|upgrade| upgrade.to.is_none())
                .count()
        ),
    ];
    let (mut v1, mut v2) = (trees.v1.clone(), trees.v2.clone());
    if !is_root() {
        let mut unreadable = 0;
        for (tree, name) in [(&mut v1, "v1"), (&mut v2, "v2")] {
            let copied = work.join(name);
            let mut copy = Copy::default();
            copy.tree(tree, &copied)?;
            unreadable = unreadable.max(copy.left_out);
            *tree = copied;
        }
        description.push(format!(
            "They are copied first, without {unreadable} entries that an ordinary user cannot read or make."
        ));
    }
    let edits = match edits::choose(&v1.join("etc"), &v2.join("etc"))? {
        Some(edits) => edits,
        None => {
            if is_root() {
                let copied = work.join("v2");
                crate::process::run(
                    std::process::Command::new("cp")
                        .args(["-a", "--reflink=auto"])
                        .args([&v2, &copied]),
                )?;
                v2 = copied;
            }
            change_defaults(&v2.join("etc"))?;
            description
                .push("This upgrade changed no default in /etc, so the demo changed two in v2.".to_owned());
            choose_made_up(&v1, &v2)?
        }
    };
    let version = version(&v1)?;
    Ok(Versions {
        names: [
            (version.clone(), "as released".to_owned()),
            (format!("{version}+updates"), "after dist-upgrade".to_owned()),
        ],
        v1,
        v2,
        description,
        is_debian: true,
        edits,
    })
}

/// What the tree calls its version, as `13.2`.
fn version(tree: &Path) -> Result<String> {
    let path = tree.join("etc/debian_version");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.trim().to_owned())
}

fn choose_made_up(v1: &Path, v2: &Path) -> Result<Edits> {
    edits::choose(&v1.join("etc"), &v2.join("etc"))?.context("/etc has too few files for the demo")
}

/// A part of this machine, and the same with some files changed.
fn made_up(why: &str, work: &Path) -> Result<Versions> {
    let (v1, v2) = (work.join("v1"), work.join("v2"));
    fs::create_dir_all(v1.join("usr")).context("cannot make the first version")?;
    let mut copy = Copy::default();
    copy.tree(Path::new("/etc"), &v1.join("etc"))?;
    let parts = ["share", "lib", "bin", "sbin"];
    for (name, part) in parts.iter().zip(1..) {
        // Each may take what those before it left of their shares.
        copy.most = Some((OWN_FILES * part / 4, OWN_BYTES * part / 4));
        copy.tree(&Path::new("/usr").join(name), &v1.join("usr").join(name))?;
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        let path = Path::new("/").join(name);
        if let Ok(target) = fs::read_link(&path) {
            std::os::unix::fs::symlink(&target, v1.join(name)).context("cannot make a link of the root")?;
        }
    }
    for name in ["var", "boot", "dev", "proc", "run", "sys", "tmp", "home", "root"] {
        fs::create_dir_all(v1.join(name)).with_context(|| format!("cannot make {name}"))?;
    }
    // Something has to lie where a kernel would; the demo boots nothing.
    let modules = v1.join("usr/lib/modules/0.0.0-stand-in");
    fs::create_dir_all(&modules).context("cannot make the kernel's directory")?;
    for (name, text) in [
        ("vmlinuz", "stands in for a kernel\n"),
        ("initramfs.img", "stands in for an initramfs\n"),
    ] {
        fs::write(modules.join(name), text).with_context(|| format!("cannot write {name}"))?;
    }
    Copy::default().tree(&v1, &v2)?;
    let changed = change_every_hundredth(&v2.join("usr/share"))?;
    change_defaults(&v2.join("etc"))?;
    fs::write(
        v2.join("usr/lib/modules/0.0.0-stand-in/vmlinuz"),
        "stands in for the next kernel\n",
    )
    .context("cannot write the second kernel")?;
    let edits = choose_made_up(&v1, &v2)?;
    Ok(Versions {
        description: vec![
            format!("FALLBACK: these are not two releases of an operating system, because {why}."),
            format!(
                "v1 is a part of this machine's own /usr and /etc: {} files, {} MB; {} entries that cannot be read are left out; \
                 its kernel is a stand-in.",
                copy.files,
                copy.bytes / 1_000_000,
                copy.left_out
            ),
            format!(
                "v2 is the same with {changed} files of /usr/share, two defaults in /etc and the stand-in changed."
            ),
        ],
        names: [("1", "a part of this machine"), ("2", "the same, changed")]
            .map(|(version, subject)| (version.to_owned(), subject.to_owned())),
        v1,
        v2,
        is_debian: false,
        edits,
    })
}

/// Plays a vendor: one default changes, another is added.
fn change_defaults(etc: &Path) -> Result<()> {
    let candidates = [
        "adduser.conf",
        "login.defs",
        "profile",
        "host.conf",
        "nsswitch.conf",
    ];
    let file = candidates
        .iter()
        .map(|name| etc.join(name))
        .find(|path| path.is_file());
    let file = file.context("/etc has none of the files whose default the demo changes")?;
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    fs::write(&file, text + "# a newer default\n")
        .with_context(|| format!("cannot write {}", file.display()))?;
    let directory = ["default", "profile.d", "cron.d"]
        .iter()
        .map(|name| etc.join(name))
        .find(|path| path.is_dir());
    let added = directory
        .context("/etc has none of the directories that the demo adds to")?
        .join("newer-default");
    fs::write(&added, "# a default that v1 does not have\n")
        .with_context(|| format!("cannot write {}", added.display()))
}

fn change_every_hundredth(directory: &Path) -> Result<u64> {
    let (mut seen, mut changed) = (0_u64, 0_u64);
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        for name in entry_names(&directory)? {
            let path = directory.join(name);
            let metadata = path
                .symlink_metadata()
                .with_context(|| format!("cannot look at {}", path.display()))?;
            if metadata.is_dir() {
                pending.push(path);
            } else if metadata.is_file() {
                seen += 1;
                if seen % 100 == 0 {
                    let mut bytes =
                        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                    bytes.extend_from_slice(b"\n");
                    fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
                    changed += 1;
                }
            }
        }
    }
    Ok(changed)
}

/// Copies trees as an ordinary user can: modes without setuid bits and times are kept, what cannot be read is left out.
#[derive(Debug, Default)]
struct Copy {
    /// The files and bytes at which it stops.
    most: Option<(u64, u64)>,
    files: u64,
    bytes: u64,
    left_out: u64,
}

impl Copy {
    fn is_full(&self) -> bool {
        self.most
            .is_some_and(|(files, bytes)| self.files >= files || self.bytes >= bytes)
    }

    fn tree(&mut self, from: &Path, to: &Path) -> Result<()> {
        fs::create_dir(to).with_context(|| format!("cannot make {}", to.display()))?;
        let Ok(entries) = fs::read_dir(from) else {
            self.left_out += 1;
            return Ok(());
        };
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot list {}", from.display()))?;
            if self.is_full() {
                break;
            }
            self.entry(&entry.path(), &to.join(entry.file_name()))?;
        }
        // Last, because a directory may not be writable, and what is put in it changes its time.
        let metadata = from
            .metadata()
            .with_context(|| format!("cannot look at {}", from.display()))?;
        fs::set_permissions(
            to,
            fs::Permissions::from_mode(metadata.permissions().mode() & 0o777 | 0o700),
        )
        .with_context(|| format!("cannot set the mode of {}", to.display()))?;
        set_time(to, &metadata)
    }

    fn entry(&mut self, from: &Path, to: &Path) -> Result<()> {
        let metadata = from
            .symlink_metadata()
            .with_context(|| format!("cannot look at {}", from.display()))?;
        if metadata.is_dir() {
            return self.tree(from, to);
        }
        if metadata.is_symlink() {
            let target = fs::read_link(from).with_context(|| format!("cannot read {}", from.display()))?;
            return std::os::unix::fs::symlink(target, to)
                .with_context(|| format!("cannot make {}", to.display()));
        }
        if !metadata.is_file() || self.most.is_some() && metadata.len() > OWN_FILE_BYTES {
            self.left_out += 1;
            return Ok(());
        }
        let Ok(mut source) = fs::File::open(from) else {
            self.left_out += 1;
            return Ok(());
        };
        let mut copied = fs::File::create(to).with_context(|| format!("cannot make {}", to.display()))?;
        self.bytes += std::io::copy(&mut source, &mut copied)
            .with_context(|| format!("cannot copy {}", from.display()))?;
        self.files += 1;
        // Readable and writable for its owner, so that it can be committed and thrown away.
        let mode = metadata.permissions().mode() & 0o777 | 0o600;
        fs::set_permissions(to, fs::Permissions::from_mode(mode))
            .with_context(|| format!("cannot set the mode of {}", to.display()))?;
        set_time(to, &metadata)
    }
}

fn set_time(path: &Path, metadata: &fs::Metadata) -> Result<()> {
    let times = fs::FileTimes::new().set_modified(
        metadata
            .modified()
            .context("the filesystem keeps no modification time")?,
    );
    fs::File::open(path)
        .and_then(|file| file.set_times(times))
        .with_context(|| format!("cannot set the time of {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_keeps_modes_times_and_links_and_counts_what_it_leaves_out() {
        let scratch = tempfile::tempdir().unwrap();
        let from = scratch.path().join("from");
        fs::create_dir_all(from.join("d")).unwrap();
        fs::write(from.join("d/f"), "text").unwrap();
        fs::set_permissions(from.join("d/f"), fs::Permissions::from_mode(0o4755)).unwrap();
        std::os::unix::fs::symlink("f", from.join("d/l")).unwrap();
        let mut copy = Copy::default();
        copy.tree(&from, &scratch.path().join("to")).unwrap();
        let copied = scratch.path().join("to/d/f");
        let (old, new) = (from.join("d/f").metadata().unwrap(), copied.metadata().unwrap());
        assert_eq!(new.permissions().mode() & 0o7777, 0o755);
        assert_eq!(old.modified().unwrap(), new.modified().unwrap());
        assert_eq!(
            fs::read_link(scratch.path().join("to/d/l")).unwrap(),
            Path::new("f")
        );
        assert_eq!((copy.files, copy.bytes, copy.left_out), (1, 4, 0));
    }
}
