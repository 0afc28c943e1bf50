//! The versions of a system that machines are offered: two real ones, and some that are broken on purpose.

use super::tree::TestFile;

/// Which of the two Debian trees a version is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// The release.
    Released,
    /// The release with all updates, and another kernel.
    Updated,
}

/// What makes a version's initramfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Initramfs {
    /// Debian's initramfs-tools.
    InitramfsTools,
    /// dracut.
    Dracut,
}

/// What a version of the test's system is, beside Debian.
#[derive(Debug, Clone, Copy)]
pub struct Version {
    /// Its name, which is its ref too.
    pub name: &'static str,
    /// The tree that it is made from.
    pub base: Base,
    /// What makes its initramfs.
    pub initramfs: Initramfs,
    /// Whether the initramfs is made anew, because of its `files` too.
    pub own_initramfs: bool,
    /// What it has that the others of its base have not.
    pub files: &'static [TestFile<'static>],
    /// Whether its image is sealed, by [`SEAL_KEY`].
    pub sealed: bool,
}

/// v2, but its kernel panics in the initramfs, before there is a root file system.
pub const PANICS: Version = Version {
    name: "panics",
    base: Base::Updated,
    initramfs: Initramfs::InitramfsTools,
    own_initramfs: true,
    files: &[(
        "usr/share/initramfs-tools/scripts/init-top/atomos-vm-test",
        "#!/bin/sh
[ \"$1\" = prereqs ] && exit 0
echo 1 >/proc/sys/kernel/sysrq
echo c >/proc/sysrq-trigger
",
        0o755,
    )],
    sealed: false,
};

/// v2, but its init does nothing at all. Only the watchdog, which was armed before it was started, ends that.
pub const HANGS: Version = Version {
    name: "hangs",
    base: Base::Updated,
    initramfs: Initramfs::InitramfsTools,
    own_initramfs: false,
    files: &[
        (
            "usr/sbin/init",
            "#!/bin/sh\nwhile :; do sleep 1000; done\n",
            0o755,
        ),
        ("usr/lib/atomos/prepare-root.conf", "watchdog = 30\n", 0o644),
    ],
    sealed: false,
};

/// v2, but a health check finds something wrong.
pub const UNHEALTHY: Version = Version {
    name: "unhealthy",
    base: Base::Updated,
    initramfs: Initramfs::InitramfsTools,
    own_initramfs: false,
    files: &[(
        "usr/lib/atomos/health.d/50-vm-test",
        "#!/bin/sh\necho the pump does not answer\nexit 1\n",
        0o755,
    )],
    sealed: false,
};

/// v2, but it cannot mount `/boot`, as for want of a kernel module. systemd gives a boot up for that, without going down, and nobody comes
/// to the console.
pub const EMERGENCY: Version = Version {
    name: "emergency",
    base: Base::Updated,
    initramfs: Initramfs::InitramfsTools,
    own_initramfs: false,
    files: &[
        (
            "usr/lib/systemd/system/boot.mount.d/50-vm-test.conf",
            "[Mount]\nOptions=no-such-option\n",
            0o644,
        ),
        (
            "usr/lib/systemd/system/atomos-emergency-deadline.timer.d/95-vm-test.conf",
            "[Timer]\nOnActiveSec=\nOnActiveSec=20s\n",
            0o644,
        ),
    ],
    sealed: false,
};

/// All of them.
pub const ALL: [&Version; 11] = [
    &V1,
    &V2,
    &DRACUT,
    &PANICS,
    &HANGS,
    &UNHEALTHY,
    &EMERGENCY,
    &COMPOSEFS,
    &COMPOSEFS_NEXT,
    &SEALED,
    &SEALED_NEXT,
];

impl Version {
    /// A default in `/etc` that changes with every version and nobody edits.
    pub fn followed(&self) -> String {
        format!("default of {}\n", self.name)
    }
}

/// The version that machines are installed with.
pub const V1: Version = Version {
    name: "v1",
    base: Base::Released,
    initramfs: Initramfs::InitramfsTools,
    own_initramfs: true,
    files: &[],
    sealed: false,
};

/// The version that they go over to.
pub const V2: Version = Version {
    name: "v2",
    base: Base::Updated,
    initramfs: Initramfs::InitramfsTools,
    own_initramfs: true,
    files: &[],
    sealed: false,
};

/// v2, booted by dracut's initramfs.
pub const DRACUT: Version = Version {
    name: "dracut",
    base: Base::Updated,
    initramfs: Initramfs::Dracut,
    own_initramfs: true,
    files: &[],
    sealed: false,
};

/// What a tree says whose root is to be an image.
const IMAGE_REQUIRED: TestFile<'_> = (
    "usr/lib/atomos/prepare-root.conf",
    "composefs = required\n",
    0o644,
);

/// v1, whose root is an image.
pub const COMPOSEFS: Version = Version {
    name: "composefs",
    base: Base::Released,
    initramfs: Initramfs::InitramfsTools,
    own_initramfs: false,
    files: &[IMAGE_REQUIRED],
    sealed: false,
};

/// v2, whose root is an image.
pub const COMPOSEFS_NEXT: Version = Version {
    name: "composefs-next",
    base: Base::Updated,
    initramfs: Initramfs::InitramfsTools,
    own_initramfs: false,
    files: &[IMAGE_REQUIRED],
    sealed: false,
};

/// Who seals what is verified when it boots. Of these tests alone.
pub const SEAL_KEY: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIMAVFI3YBzQi7/DiXyYSYCE6/gb/gaYQkEa/vmcVqzrB
-----END PRIVATE KEY-----
";

/// What a tree says whose root is to be verified. Its initramfs takes the key along.
const IMAGE_VERIFIED: &[TestFile<'_>] = &[
    (
        "usr/lib/atomos/prepare-root.conf",
        "composefs = verified\n",
        0o644,
    ),
    (
        "usr/lib/atomos/seal.d/vm-test.pub",
        "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAHtLINGpVJ5gACkfE+cDIyoIm04Xk7hkAIWfebbnluGU=
-----END PUBLIC KEY-----
",
        0o644,
    ),
    (VICTIMS[0], VICTIM, 0o644),
    (
        VICTIMS[1],
        "what somebody puts another file in the place of\n",
        0o644,
    ),
];

/// Files that are damaged on purpose.
pub const VICTIMS: [&str; 2] = [
    "usr/lib/atomos-vm-test/flipped",
    "usr/lib/atomos-vm-test/replaced",
];

const VICTIM: &str = "of which somebody flips a bit on the disk\n";

/// v1, whose root is an image that is verified.
pub const SEALED: Version = Version {
    name: "sealed",
    base: Base::Released,
    initramfs: Initramfs::InitramfsTools,
    own_initramfs: true,
    files: IMAGE_VERIFIED,
    sealed: true,
};

/// v2, whose root is an image that is verified.
pub const SEALED_NEXT: Version = Version {
    name: "sealed-next",
    base: Base::Updated,
    initramfs: Initramfs::InitramfsTools,
    own_initramfs: true,
    files: IMAGE_VERIFIED,
    sealed: true,
};

/// Everything that versions differ in, for telling whether those of an earlier run are of use.
pub fn ingredients() -> String {
    format!("{ALL:?}")
}
