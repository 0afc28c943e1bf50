//! A stand-in for a machine and for whoever makes its operating system, in a temporary directory.
//!
//! Everything is real but the size of the operating system and the reboot: the "running root" is a directory that
//! [`Machine::boot`] chooses, as `atomos` would find it from `/`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering};

use libatomos::commit::{CommitOptions, OsTreeOptions, commit};
use libatomos::digest::CommitId;
use libatomos::fs::Dir;
use libatomos::names::{RefName, StaterootName};
use libatomos::publish::{PublishOptions, publish};
use libatomos::pull::{PullOptions, Selector, Session, SessionOptions, Wanted};
use libatomos::remote::{RemoteConfig, RemoteName};
use libatomos::repo::{LocalPullOptions, Repo, RepoMode};
use libatomos::sign::{SecretKey, Signer};
use libatomos::sysroot::{DeployOptions, DeploymentId, KargsChange, Origin, Sysroot, SysrootOptions};
use libatomos::transport::Transport;
use libatomos::{Cancel, NoProgress};

use crate::Error;

/// Files in the tree, so that there is something to be in the middle of.
const FILES: u32 = 300;

/// A machine, its vendor, and the directory that both live in. Removed when dropped.
#[derive(Debug)]
pub struct Machine {
    directory: PathBuf,
    /// What the vendor publishes under.
    reference: RefName,
    /// What is running as `/`.
    host_root: PathBuf,
}

impl Machine {
    /// Makes the directory, the vendor's repository, and an empty sysroot with one stateroot.
    ///
    /// # Errors
    /// Where the temporary directory cannot be written.
    pub fn new() -> Result<Self, Error> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("updater-daemon-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).map_err(|error| Error::Memory(directory.clone(), error))?;
        let machine = Self {
            host_root: directory.clone(),
            reference: "vendor/stable".parse()?,
            directory,
        };
        let mode = machine.mode()?;
        Repo::init(&machine.vendor(), mode)?;
        let stateroot: StaterootName = "os".parse()?;
        Sysroot::init(&machine.sysroot(), mode, &machine.options())?.init_stateroot(&stateroot)?;
        Ok(machine)
    }

    /// Only root can keep true owners.
    fn mode(&self) -> Result<RepoMode, Error> {
        let metadata = fs::metadata(&self.directory);
        let metadata = metadata.map_err(|error| Error::Memory(self.directory.clone(), error))?;
        Ok(match metadata.uid() {
            0 => RepoMode::Bare,
            _ => RepoMode::BareUser,
        })
    }

    /// Returns the machine's physical root.
    pub fn sysroot(&self) -> PathBuf {
        self.directory.join("machine")
    }

    /// Returns the vendor's repository.
    pub fn vendor(&self) -> PathBuf {
        self.directory.join("vendor")
    }

    /// Returns where an updater of this machine keeps its memory.
    pub fn memory(&self) -> PathBuf {
        self.directory.join("memory")
    }

    /// Returns how to open the sysroot, with what is running as `/`.
    pub fn options(&self) -> SysrootOptions {
        let mut options = SysrootOptions::default();
        options.host_root.clone_from(&self.host_root);
        options
    }

    /// Publishes a version of the operating system in the vendor's repository.
    ///
    /// # Errors
    /// Where the library fails.
    pub fn publish(&self, version: &str) -> Result<CommitId, Error> {
        let tree = self.directory.join(format!("tree-{version}"));
        write_tree(&tree, version).map_err(|error| Error::Memory(tree.clone(), error))?;
        let mut options = CommitOptions::default();
        options.reference = Some(self.reference.clone());
        options.version = version.to_owned();
        options.os = Some(OsTreeOptions::default());
        let repo = Repo::open(&self.vendor())?;
        let report = commit(
            &repo,
            Dir::open_ambient(&tree)?,
            &options,
            &NoProgress,
            &Cancel::new(),
        )?;
        Ok(report.commit)
    }

    /// Publishes what the vendor's repository has as a site, signed.
    ///
    /// # Errors
    /// Where the library fails.
    pub fn publish_site(&self) -> Result<(), Error> {
        let key = vendor_key();
        let mut options = PublishOptions::default();
        options.signers = vec![&key];
        let repo = Repo::open(&self.vendor())?;
        publish(&repo, &self.site(), &options, &NoProgress, &Cancel::new())?;
        Ok(())
    }

    /// Returns the directory of the vendor's site.
    pub fn site(&self) -> PathBuf {
        self.directory.join("site")
    }

    /// Returns where a broker may listen.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("broker")
    }

    /// Installs the newest release of the vendor's site, to follow the site from then on, and boots it. `transports` bring it.
    ///
    /// # Errors
    /// Where the library fails.
    pub fn install_from_site(&mut self, transports: Vec<Box<dyn Transport>>) -> Result<DeploymentId, Error> {
        let sysroot = Sysroot::open(&self.sysroot(), &self.options())?;
        let (progress, cancel) = (&NoProgress, &Cancel::new());
        let remote: RemoteName = "vendor".parse()?;
        let mut config = RemoteConfig::default();
        // Nobody asks there: the updater has transports of its own.
        config.urls = vec![self.site().display().to_string()];
        config.keys = vec![vendor_key().public().to_pem()];
        config.save(sysroot.repo(), &remote)?;
        let wanted = Wanted {
            reference: self.reference.clone(),
            selector: Selector::Newest,
        };
        let options = SessionOptions::default();
        Session::open_with(sysroot.repo(), &remote, transports, &options, progress, cancel)?
            .pull(&[wanted], &PullOptions::default())?;
        let reference = remote.local_ref(&self.reference)?;
        let mut origin = Origin::default();
        origin.reference = Some(reference.clone());
        let mut options = DeployOptions::default();
        options.origin = Some(origin);
        sysroot.deploy(reference.as_str(), &options, progress, cancel)?;
        self.boot()
    }

    /// Installs what the vendor has, to follow it from then on, and boots it.
    ///
    /// # Errors
    /// Where the library fails.
    pub fn install(&mut self) -> Result<DeploymentId, Error> {
        let sysroot = Sysroot::open(&self.sysroot(), &self.options())?;
        let (progress, cancel) = (&NoProgress, &Cancel::new());
        let source = Repo::open(&self.vendor())?;
        let refs = slice::from_ref(&self.reference);
        let pull = LocalPullOptions::default();
        sysroot
            .repo()
            .pull_local(&source, refs, &pull, progress, cancel)?;
        let mut origin = Origin::default();
        origin.reference = Some(self.reference.clone());
        origin.pull_from = Some(self.vendor());
        let mut options = DeployOptions::default();
        options.origin = Some(origin);
        options.kargs = vec![KargsChange::Append("root=LABEL=root".to_owned())];
        sysroot.deploy(self.reference.as_str(), &options, progress, cancel)?;
        self.boot()
    }

    /// Reboots: what is the default now is running afterwards.
    ///
    /// # Errors
    /// Where the library fails.
    pub fn boot(&mut self) -> Result<DeploymentId, Error> {
        let sysroot = Sysroot::open(&self.sysroot(), &self.options())?;
        let default = sysroot.select_deployment(Some("default"))?;
        self.host_root = sysroot.deployment_dir(&default)?.path().to_owned();
        Ok(default)
    }

    /// Returns the path of a file as the running system sees it.
    pub fn running(&self, path: &str) -> PathBuf {
        self.host_root.join(path)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("{} is left behind: {error}", self.directory.display());
        }
    }
}

/// Everybody knows it: this vendor is not to be trusted.
fn vendor_key() -> SecretKey {
    SecretKey::from_seed(&[7; 32])
}

/// Writes what debootstrap would, as far as it matters here.
fn write_tree(tree: &Path, version: &str) -> std::io::Result<()> {
    let files = [
        (
            "usr/lib/os-release",
            format!("PRETTY_NAME=\"Example OS {version}\"\n"),
        ),
        ("boot/vmlinuz-6.1.0-1", format!("the kernel of {version}\n")),
        ("boot/initrd.img-6.1.0-1", "the initramfs\n".to_owned()),
        ("etc/hostname", "example\n".to_owned()),
        ("etc/motd", format!("Welcome to {version}\n")),
        ("etc/service.conf", format!("release = {version}\nworkers = 4\n")),
        ("var/lib/service/state", "empty\n".to_owned()),
    ];
    for (path, text) in files {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap_or(tree))?;
        fs::write(path, text)?;
    }
    for number in 0..FILES {
        let path = tree.join(format!("usr/share/data/{}/{number}", number % 10));
        fs::create_dir_all(path.parent().unwrap_or(tree))?;
        fs::write(path, format!("{version} {number}\n").repeat(300))?;
    }
    Ok(())
}
