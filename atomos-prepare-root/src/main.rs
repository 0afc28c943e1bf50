//! Mounts an atomos deployment as the root file system.
//!
//! Runs in the initramfs after the physical root was mounted and before the switch to it, with the mount point as
//! its argument (`/root` with initramfs-tools, `/sysroot` with dracut); or, where there is no initramfs, as
//! `init=` itself, in which case it goes on to the deployment's own `/sbin/init`.
//!
//! The kernel argument `atomos=<stateroot>/<commit>.<serial>` says which deployment. It must have its completion
//! marker. What was booted is left for the running system in `/run/atomos/booted`. A tree may ask for more, in its
//! `prepare-root.conf`, and so may the kernel command line: see `conf.rs`.
//!
//! Runs as root on every boot before anything else can help, so: no shell, no allocation that a file on disk
//! controls, no panic on anything it reads, and few lines.

mod choice;
mod cmdline;
mod conf;
mod error;
mod image;
mod log;
mod mounts;
mod seal;
mod sysroot;
mod transient;
mod trial;
mod verity;
mod watchdog;

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use crate::choice::{Choice, choose};
use crate::cmdline::{BootRequest, BootTarget, DeploymentName};
use crate::conf::{Composefs, Etc, Options, Root};
use crate::error::{Doing, Error, Result};
use crate::log::{Level, say};
use crate::mounts::{Image, Layout};
use crate::seal::{Hex, Keys, Sealed};
use crate::sysroot::Stateroot;

/// What the running system learns about its boot.
const BOOTED: &str = "/run/atomos/booted";
/// The deployment's own init.
const INIT: &str = "/sbin/init";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let outcome = if rustix::process::getpid().is_init() {
        boot_as_init().map(|never| match never {})
    } else {
        match arguments.as_slice() {
            [target] => match target.to_str() {
                Some(target) if target.starts_with('/') => boot_in_initramfs(target.trim_end_matches('/')),
                _ => Err(Error::new(
                    "the argument must be the absolute path where the physical root is mounted",
                )),
            },
            _ => Err(Error::new(
                "usage: atomos-prepare-root MOUNTPOINT, or as init= on the kernel command line",
            )),
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(Level::Error, &error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// The physical root is at `target`; the initramfs will switch to what is there when this returns.
fn boot_in_initramfs(target: &str) -> Result<()> {
    if std::path::Path::new(BOOTED).exists() {
        say(Level::Info, "the root is prepared already");
        return Ok(());
    }
    let line =
        sysroot::read_cmdline(File::open("/proc/cmdline").doing(|| "opening /proc/cmdline".to_owned())?)?;
    let keys = Keys::load(seal::KEYS);
    let Some(requested) = requested(&line)? else {
        // The physical root is nothing that a key vouches for.
        if keys.is_demand() {
            return Err(Error::new(format!(
                "no atomos= on the kernel command line says what to boot, and with the keys in {} nothing else is",
                seal::KEYS
            )));
        }
        say(
            Level::Info,
            "no atomos= on the kernel command line, so the root stays as it is",
        );
        return Ok(());
    };
    let booted = find(target, &requested, &line, &keys)?;
    booted.arm_watchdog(watchdog::DEVICE);
    let from_image = mounts::prepare_in_initramfs(target, booted.layout())?;
    booted.record(from_image)
}

/// Never returns but with an error: the first process becomes the deployment's init.
fn boot_as_init() -> Result<std::convert::Infallible> {
    let cmdline = File::open("/proc/cmdline").or_else(|_| open_cmdline_without_proc())?;
    let line = sysroot::read_cmdline(cmdline)?;
    let Some(requested) = requested(&line)? else {
        return Err(Error::new(
            "no atomos= on the kernel command line says what to boot",
        ));
    };
    // What is on the disk vouches for nothing on it.
    let booted = find("/", &requested, &line, &Keys::default())?;
    booted.arm_watchdog(watchdog::DEVICE);
    let from_image = mounts::prepare_as_init(booted.layout())?;
    booted.record(from_image)?;
    let failure = Command::new(INIT).args(std::env::args_os().skip(1)).exec();
    Err(failure).doing(|| format!("starting {INIT}"))
}

/// Opens `/proc/cmdline` where nothing has mounted `/proc`, without needing a place to mount it.
fn open_cmdline_without_proc() -> Result<File> {
    let open = || -> rustix::io::Result<File> {
        let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&context)?;
        let proc = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        rustix::fs::openat(proc, "cmdline", flags, rustix::fs::Mode::empty()).map(File::from)
    };
    open().doing(|| "reading the kernel command line".to_owned())
}

fn requested(line: &[u8]) -> Result<Option<BootTarget>> {
    match cmdline::parse(line) {
        BootRequest::None => Ok(None),
        BootRequest::Deployment(target) => Ok(Some(target)),
        BootRequest::Malformed(text) => Err(Error::new(format!(
            "atomos={} on the kernel command line is not <stateroot>/<commit>.<serial>",
            text.escape_debug()
        ))),
    }
}

/// What is going to be booted, and how the running system recognises it.
#[derive(Debug)]
struct Booted {
    target: BootTarget,
    /// What the kernel command line named, of the same stateroot.
    requested: DeploymentName,
    deployment_path: String,
    image_path: String,
    image: UseOfImage,
    /// Who vouches for the image, where it must be verified.
    sealed: Option<Sealed>,
    var_path: String,
    device: u64,
    inode: u64,
    options: Options,
}

/// What is done with a deployment's image.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum UseOfImage {
    /// There is none, or nobody wants it.
    None,
    /// It is mounted, or else the files are.
    OrFiles,
    /// It is mounted.
    Must,
}

impl Booted {
    fn layout(&self) -> Layout<'_> {
        Layout {
            deployment: &self.deployment_path,
            image: (self.image != UseOfImage::None).then_some(Image {
                path: &self.image_path,
                objects: sysroot::OBJECTS,
                or_files: self.image == UseOfImage::OrFiles,
                digest: self.sealed.as_ref().map(|sealed| &sealed.image),
            }),
            var: &self.var_path,
            root: self.options.root,
            etc: self.options.etc,
        }
    }

    /// A machine without a watchdog, or whose watchdog does not do what was asked, still boots.
    fn arm_watchdog(&self, device: &str) {
        let Some(seconds) = self.options.watchdog else {
            return;
        };
        match watchdog::arm(device, seconds) {
            Ok(set) => say(
                Level::Info,
                &format!(
                    "the watchdog restarts the machine in {set} seconds unless the system takes it over"
                ),
            ),
            Err(error) => say(Level::Warning, &format!("{error}; going on without a watchdog")),
        }
    }

    /// Writes `/run/atomos/booted`. None of the values has a character that JSON would escape: the names were
    /// checked when they were parsed.
    fn record(&self, from_image: bool) -> Result<()> {
        let root = match self.options.root {
            Root::ReadOnly => "read-only",
            Root::Transient => "transient",
        };
        let etc = match self.options.etc {
            Etc::Persistent => "persistent",
            Etc::Transient => "transient",
        };
        let verified = self.sealed.map_or_else(String::new, |sealed| {
            format!("\"verified\":\"{}\",", Hex(&sealed.key))
        });
        let json = format!(
            "{{\"stateroot\":\"{}\",\"deployment\":\"{}\",\"path\":\"/sysroot{}\",\"device\":{},\"inode\":{},\
             \"requested\":\"{}\",{verified}\"composefs\":{from_image},\"root\":\"{root}\",\"etc\":\"{etc}\"}}\n",
            self.target.stateroot,
            self.target.deployment,
            self.deployment_path,
            self.device,
            self.inode,
            self.requested,
        );
        std::fs::create_dir_all("/run/atomos").doing(|| "creating /run/atomos".to_owned())?;
        std::fs::write(BOOTED, json).doing(|| format!("writing {BOOTED}"))
    }
}

/// Finds the deployment to boot in the physical root at `physical`, and what it and the command line ask for.
fn find(physical: &str, requested: &BootTarget, line: &[u8], keys: &Keys) -> Result<Booted> {
    let stateroot = Stateroot::open(physical, &requested.stateroot)?;
    let release = sysroot::kernel_release()?;
    let settings = cmdline::settings(line);
    // What was asked to be verified gives way to nothing that is not.
    let asked = || stateroot.asked(&requested.deployment, &settings);
    let keys = (keys.is_demand() || matches!(asked(), Ok(Composefs::Verified))).then_some(keys);
    let candidates = stateroot.candidates(&release, &settings, keys)?;
    let name = match choose(&requested.deployment, &candidates) {
        Choice::Requested(name) => {
            say(Level::Info, &format!("booting {requested}"));
            name
        }
        Choice::Fallback { name, because } => {
            say(
                Level::Warning,
                &format!(
                    "{requested} {because}; booting {}/{name} instead",
                    requested.stateroot
                ),
            );
            name
        }
        Choice::Nothing { because } => {
            return Err(Error::new(format!(
                "{requested} {because}, and {} has no other finished deployment for kernel {release} that can be booted and that is not known to be bad",
                requested.stateroot
            )));
        }
    };
    let options = Options::gather(stateroot.read_conf(&name)?.as_deref(), &settings)?;
    let sealed = keys.map(|keys| stateroot.verify(&name, keys)).transpose()?;
    let image = use_of_image(
        if keys.is_some() {
            Composefs::Verified
        } else {
            options.composefs
        },
        stateroot.has_image(&name),
        stateroot.is_skeleton(&name),
        &name,
    )?;
    mounts::make_writable(physical);
    stateroot.note_trial(&name);
    let (device, inode) = sysroot::identity(&stateroot.open_deployment(&name)?)?;
    Ok(Booted {
        deployment_path: stateroot.deployment_path(&name),
        image_path: stateroot.image_path(&name),
        image,
        sealed,
        var_path: stateroot.var_path(),
        target: BootTarget {
            stateroot: requested.stateroot.clone(),
            deployment: name,
        },
        requested: requested.deployment.clone(),
        device,
        inode,
        options,
    })
}

/// What is to be done with the image that a deployment has or has not. Where it is a skeleton, there is nothing else to boot.
fn use_of_image(
    asked: Composefs,
    has_image: bool,
    is_skeleton: bool,
    name: &DeploymentName,
) -> Result<UseOfImage> {
    match (asked, has_image) {
        (Composefs::Off, _) if is_skeleton => Err(Error::new(format!(
            "{name} has no files to boot with composefs = off: its root is the image {name}.image, so boot it without \
             atomos.composefs=off, or another deployment"
        ))),
        (Composefs::Off, _) => Ok(UseOfImage::None),
        (Composefs::Wanted, true) if !is_skeleton => Ok(UseOfImage::OrFiles),
        (_, true) => Ok(UseOfImage::Must),
        (Composefs::Wanted, false) if !is_skeleton => {
            say(
                Level::Warning,
                &format!("{name} has no composefs image; booting its files"),
            );
            Ok(UseOfImage::None)
        }
        (_, false) => Err(Error::new(format!(
            "{name} has no composefs image, and one is required"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_read_without_a_mounted_proc() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root may mount procfs");
            return;
        }
        let line = sysroot::read_cmdline(open_cmdline_without_proc().unwrap()).unwrap();
        assert_eq!(line, std::fs::read("/proc/cmdline").unwrap());
    }
}
