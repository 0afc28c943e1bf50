//! A writable `/usr` until the next boot, for somebody who has to try something on the machine itself.
//!
//! An overlay lies over `/usr`; what is written goes to a tmpfs of its own and is gone with it. The deployment is as it was:
//! an upgrade takes nothing over, and `/usr` is what the commit says after the next boot.
//!
//! Where the root is an image, it is an overlay itself, and the kernel puts none over it that leads to the repository. So the image is
//! mounted once more, with a place for what is written, and its `/usr` is put over the other.

use std::path::Path;

use rustix::fs::StatVfsMountFlags;
use rustix::mount::{MountFlags, MoveMountFlags, UnmountFlags, mount, mount_bind, move_mount, unmount};

use crate::composefs::{Upper, overlay};
use crate::fs::{Dir, FsError};

use super::{DeploymentId, Sysroot, SysrootError};

/// Where what is written lies, on the running system.
const PLACE: &str = "run/atomos/usr-overlay";
/// What the mounts are called.
const SOURCE: &str = "atomos-usr-overlay";
/// What `statfs` calls an overlay.
const OVERLAYFS: u64 = 0x794c_7630;

impl Sysroot {
    /// Makes `/usr` writable until the next boot; returns whether it was not so already. Takes root, and the running system's
    /// own mounts: a process with mounts of its own would change what it alone sees.
    ///
    /// # Errors
    /// When no deployment is running, or the kernel has no overlayfs.
    pub fn overlay_usr(&self) -> Result<bool, SysrootError> {
        // Without the lock, which lies in `/sysroot`, where this process cannot write: nothing there is changed.
        let booted = self.booted()?.ok_or(SysrootError::NotBooted {
            action: "make /usr writable",
        })?;
        if self.overlaid_usr()?.is_some() {
            return Ok(false);
        }
        let usr = self.host.open_dir("usr")?;
        let place = self.host.ensure_dir_all(PLACE, 0o700)?;
        let (usr_path, path) = (usr.path().to_owned(), place.path().to_owned());
        let fail = |path: &Path, errno| FsError::new("mount", path, errno);
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("tmpfs", &path, "tmpfs", flags, c"mode=0700").map_err(|errno| fail(&path, errno))?;
        let result = match self.running.image {
            true => self.mount_image(&booted, &usr_path, &path),
            false => self.mount_overlay(&usr, &usr_path, &path),
        };
        if result.is_err() {
            // Nothing is in it, and nobody knows of it yet.
            let _ = unmount(&path, UnmountFlags::DETACH);
        }
        result.map(|()| true)
    }

    fn mount_overlay(&self, usr: &Dir, usr_path: &Path, place: &Path) -> Result<(), SysrootError> {
        self.make_layers(usr)?;
        let quoted = |path: &Path| -> Result<String, FsError> {
            let text = path.to_str().ok_or_else(|| {
                FsError::new(
                    "mount over",
                    path,
                    std::io::Error::from(std::io::ErrorKind::InvalidInput),
                )
            })?;
            Ok(text.replace('\\', "\\\\").replace(',', "\\,").replace(':', "\\:"))
        };
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            quoted(usr_path)?,
            quoted(&place.join("upper"))?,
            quoted(&place.join("work"))?
        );
        let options = std::ffi::CString::new(options)
            .map_err(|error| FsError::new("mount over", usr_path, std::io::Error::other(error)))?;
        mount(
            "overlay",
            usr_path,
            "overlay",
            MountFlags::NODEV,
            options.as_c_str(),
        )
        .map_err(|errno| FsError::new("mount an overlay on", usr_path, errno))?;
        Ok(())
    }

    fn mount_image(&self, booted: &DeploymentId, usr: &Path, place: &Path) -> Result<(), SysrootError> {
        let tmpfs = self.make_layers(&self.host)?;
        let image = self.open_image(booted)?;
        let upper = Upper {
            changes: &place.join("upper"),
            work: &place.join("work"),
        };
        let root = overlay(
            &self.repo,
            &image,
            SOURCE,
            usr,
            self.running.files_are(),
            Some(upper),
        )?;
        tmpfs.create_dir("root", 0o700)?;
        let at = place.join("root");
        let fail = |errno| FsError::new("mount an image on", usr, errno);
        move_mount(&root, "", &tmpfs, "root", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(fail)?;
        let bound = mount_bind(at.join("usr"), usr).map_err(fail);
        // What is bound stays.
        unmount(&at, UnmountFlags::DETACH).map_err(|errno| FsError::new("unmount", &at, errno))?;
        Ok(bound?)
    }

    /// Makes the directories for what is written, the top like `lower`: it is what is seen of an overlay's own metadata.
    fn make_layers(&self, lower: &Dir) -> Result<Dir, SysrootError> {
        // Opened anew: a descriptor of before is below the tmpfs.
        let tmpfs = self.host.open_dir(PLACE)?;
        let mode = lower.stat_self()?.mode & 0o7777;
        for name in ["upper", "work"] {
            tmpfs.create_dir(name, mode)?;
        }
        let upper = tmpfs.open_dir("upper")?;
        rustix::fs::fchmod(&upper, rustix::fs::Mode::from_raw_mode(mode))
            .map_err(|errno| FsError::new("set the mode of", upper.path(), errno))?;
        Ok(tmpfs)
    }

    /// Returns `/usr` as it is seen, where an overlay that [`overlay_usr`](Self::overlay_usr) made lies over it.
    pub fn overlaid_usr(&self) -> Result<Option<Dir>, SysrootError> {
        if !self.host.exists(Path::new(PLACE).join("upper"))? {
            return Ok(None);
        }
        let usr = self.host.open_dir("usr")?;
        let stat = rustix::fs::fstatfs(&usr)
            .map_err(|errno| FsError::new("find the file system of", usr.path(), errno))?;
        // The field's type differs between architectures.
        #[allow(clippy::unnecessary_cast)]
        let is_overlay = stat.f_type as u64 & 0xffff_ffff == OVERLAYFS;
        let flags = rustix::fs::fstatvfs(&usr)
            .map_err(|errno| FsError::new("look at the mount of", usr.path(), errno))?
            .f_flag;
        Ok((is_overlay && !flags.contains(StatVfsMountFlags::RDONLY)).then_some(usr))
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // Tests arrange by path.
mod tests {
    use std::fs;

    use crate::repo::RepoMode;
    use crate::sysroot::{Sysroot, SysrootError, SysrootOptions};

    #[test]
    fn usr_is_writable_for_the_time_being_and_the_deployment_stays_as_it_is() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: mounting needs root");
            return;
        }
        let test = || {
            // Nobody else sees what is mounted in here.
            crate::fs::make_writable_in_private(&[]).unwrap();
            let scratch = tempfile::tempdir().unwrap();
            let path = scratch.path().join("machine");
            let sysroot = Sysroot::init(&path, RepoMode::Bare, &SysrootOptions::default()).unwrap();
            sysroot.init_stateroot(&"os".parse().unwrap()).unwrap();
            let error = sysroot.overlay_usr().unwrap_err();
            assert!(matches!(error, SysrootError::NotBooted { .. }), "{error}");
            let name = format!("atomos/deploy/os/deploy/{}.0", "ab".repeat(32));
            let root = path.join(&name);
            for dir in ["usr/bin", "run"] {
                fs::create_dir_all(root.join(dir)).unwrap();
            }
            fs::write(root.join("usr/bin/tool"), "of the commit").unwrap();
            let aside = scratch.path().join("aside");
            fs::create_dir(&aside).unwrap();
            rustix::mount::mount_bind(root.join("usr"), &aside).unwrap();
            let options = SysrootOptions {
                host_root: root.clone(),
                ..SysrootOptions::default()
            };
            let running = Sysroot::open(&path, &options).unwrap();
            assert!(running.overlaid_usr().unwrap().is_none());
            assert!(running.overlay_usr().unwrap());
            assert!(
                !running.overlay_usr().unwrap(),
                "a second time there is nothing to do"
            );
            assert!(running.overlaid_usr().unwrap().is_some());
            fs::write(root.join("usr/bin/tool"), "tried").unwrap();
            assert_eq!(fs::read_to_string(root.join("usr/bin/tool")).unwrap(), "tried");
            assert_eq!(
                fs::read_to_string(aside.join("bin/tool")).unwrap(),
                "of the commit"
            );
        };
        std::thread::spawn(test).join().unwrap();
    }
}
