//! Changes that are forgotten: overlays whose upper layer is in memory.

use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::error::{Doing, Error, Result};

/// A tmpfs that holds what is written. The overlays keep it alive; once it is detached nothing else reaches it, so
/// that nobody changes an upper layer beneath its overlay.
#[derive(Debug)]
pub(crate) struct Memory {
    at: String,
}

/// Where what is written to an overlay goes.
#[derive(Debug)]
pub(crate) struct Layers {
    pub(crate) upper: String,
    pub(crate) work: String,
}

impl Memory {
    /// Mounts a tmpfs at the directory `at`, for a while.
    pub(crate) fn mount(at: &str) -> Result<Self> {
        let flags = MountFlags::NODEV | MountFlags::NOSUID;
        mount("tmpfs", at, "tmpfs", flags, c"mode=0700")
            .doing(|| format!("mounting memory for transient changes at {at}"))?;
        Ok(Memory { at: at.to_owned() })
    }

    /// Mounts at `target` what is in `lower`, to be changed without changing it. `name` is used once.
    pub(crate) fn overlay(&self, name: &str, lower: &str, target: &str) -> Result<()> {
        let Layers { upper, work } = self.layers(name, lower)?;
        // A list of options is made of these; none of our own names has such a character.
        if [lower, &upper].iter().any(|path| path.contains([',', ':', '\\'])) {
            return Err(Error::new(format!(
                "{lower} cannot be made transient: its path has a comma, a colon or a backslash"
            )));
        }
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        let options = std::ffi::CString::new(options).map_err(|_| Error::new("a path has a zero byte"))?;
        mount("overlay", target, "overlay", MountFlags::empty(), options.as_c_str()).doing(|| {
            format!("mounting an overlay in memory over {lower}; has the kernel, or the initramfs, the module overlay")
        })
    }

    /// Makes the directories for what is written over `lower`. `name` is used once.
    pub(crate) fn layers(&self, name: &str, lower: &str) -> Result<Layers> {
        let (upper, work) = (format!("{}/{name}", self.at), format!("{}/{name}.work", self.at));
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o700);
        for path in [&upper, &work] {
            builder.create(path).doing(|| format!("creating {path}"))?;
        }
        // The root of an overlay has the owner and mode of its upper layer.
        let of_lower = std::fs::metadata(lower).doing(|| format!("looking at {lower}"))?;
        let mode = std::fs::Permissions::from_mode(of_lower.mode() & 0o7777);
        chown(&upper, Some(of_lower.uid()), Some(of_lower.gid()))
            .and_then(|()| std::fs::set_permissions(&upper, mode))
            .doing(|| format!("making {upper} like {lower}"))?;
        Ok(Layers { upper, work })
    }

    /// Takes the tmpfs out of sight.
    pub(crate) fn detach(self) -> Result<()> {
        unmount(self.at.as_str(), UnmountFlags::DETACH).doing(|| format!("detaching {}", self.at))
    }
}
