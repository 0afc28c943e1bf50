//! System calls that rustix does not wrap. The only module that may hold `unsafe` code.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::thread::UnshareFlags;

use crate::verity::VerityDigest;

/// `FIFREEZE` and `FITHAW` of `linux/fs.h`: `_IOWR('X', 119, int)` and `_IOWR('X', 120, int)`, on every architecture
/// that Rust's standard library knows but those whose directions are encoded otherwise, for which libc has no
/// constants either; there the kernel answers `ENOTTY` and the caller falls back.
const FIFREEZE: libc::c_ulong = 0xc004_5877;
const FITHAW: libc::c_ulong = 0xc004_5878;

/// `F_SETSIG` of `asm-generic/fcntl.h`, for which libc has no constant everywhere. Where a processor has another number for it,
/// the kernel refuses this one, and [`nobody_writes`] never holds.
const F_SETSIG: libc::c_int = 10;

/// `FS_IOC_ENABLE_VERITY` and `FS_IOC_MEASURE_VERITY` of `linux/fsverity.h`: `_IOW('f', 133, struct fsverity_enable_arg)` and
/// `_IOWR('f', 134, struct fsverity_digest)`, encoded as above.
const ENABLE_VERITY: libc::c_ulong = 0x4080_6685;
const MEASURE_VERITY: libc::c_ulong = 0xc004_6686;

/// `struct fsverity_enable_arg`.
#[repr(C)]
struct EnableVerity {
    version: u32,
    hash_algorithm: u32,
    block_size: u32,
    salt_size: u32,
    salt_ptr: u64,
    sig_size: u32,
    reserved1: u32,
    sig_ptr: u64,
    reserved2: [u64; 11],
}

/// `struct fsverity_digest`, with room for the longest.
#[repr(C)]
struct MeasuredVerity {
    algorithm: u16,
    size: u16,
    digest: [u8; 64],
}

/// How long the watchdog waits for the freezing process. A freeze of a synced file system takes milliseconds.
const WATCHDOG_MILLISECONDS: libc::c_int = 30_000;

/// Freezes the file system that `dir` is on and thaws it again at once. The kernel writes everything, its journal
/// included, to the places where a reader looks who does not replay the journal, as boot loaders do not.
///
/// A process that dies between the two would leave the file system frozen, and every writer to it waiting, until the
/// next boot. So a second process watches: it thaws when this one is gone, or after 30 seconds. It is forked, not
/// started from a file, makes system calls only, ignores signals, and is gone when this function returns.
///
/// # Errors
/// `EOPNOTSUPP` where the file system cannot be frozen, `EPERM` where the caller may not, `EBUSY` where it is frozen
/// already; nothing was changed then. Any other error of the freeze is of the same kind.
pub fn freeze_and_thaw(dir: impl AsFd) -> io::Result<()> {
    freeze_and_thaw_around(dir.as_fd(), || ())
}

fn freeze_and_thaw_around(dir: BorrowedFd<'_>, while_frozen: impl FnOnce()) -> io::Result<()> {
    let (here, there) = socket_pair()?;
    // SAFETY: the child makes system calls only, which is all that may be done after a fork of a process that may have
    // other threads, and ends in `_exit`.
    let child = match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()),
        0 => watch(dir.as_raw_fd(), here.as_raw_fd(), there.as_raw_fd()),
        child => child,
    };
    drop(there);
    // The watchdog says when it is deaf to signals: a Ctrl-C reaches it as well as this process.
    let mut ready = [0u8];
    let result = match rustix::io::retry_on_intr(|| rustix::io::read(&here, &mut ready)) {
        Ok(1) => freeze(dir).and_then(|()| {
            while_frozen();
            thaw(dir)
        }),
        Ok(_) => Err(io::Error::from(Errno::CHILD)),
        Err(errno) => Err(errno.into()),
    };
    // The end of the file is what the watchdog waits for.
    drop(here);
    loop {
        // SAFETY: `child` is a child of this process, and no status is asked for. If the embedding program reaps all
        // children itself, the call fails with `ECHILD`, which is as good.
        let reaped = unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
        if reaped != -1 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return result;
        }
    }
}

fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds: [RawFd; 2] = [-1; 2];
    // SAFETY: the kernel writes two descriptors to the array, which has room for two.
    let result = unsafe {
        libc::socketpair(
            libc::AF_UNIX,
            libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC,
            0,
            fds.as_mut_ptr(),
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both are open, and nobody else has them.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

fn freeze(dir: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the argument is ignored by the kernel.
    match unsafe { libc::ioctl(dir.as_raw_fd(), FIFREEZE as _, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn thaw(dir: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the argument is ignored by the kernel.
    match unsafe { libc::ioctl(dir.as_raw_fd(), FITHAW as _, 0) } {
        -1 => match io::Error::last_os_error() {
            // The watchdog lost its patience, and thawed.
            error if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            error => Err(error),
        },
        _ => Ok(()),
    }
}

/// What the watchdog does. No allocation, no lock, no panic: another thread of the parent may have held any lock when
/// it was copied.
fn watch(dir: RawFd, theirs: RawFd, ours: RawFd) -> ! {
    // SAFETY: system calls on descriptors that this process inherited, and on memory of its own stack.
    unsafe {
        let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigfillset(all.as_mut_ptr());
        libc::sigprocmask(libc::SIG_BLOCK, all.as_ptr(), std::ptr::null_mut());
        libc::close(theirs);
        let ready = [1u8];
        libc::send(ours, ready.as_ptr().cast(), 1, libc::MSG_NOSIGNAL);
        let mut poll = libc::pollfd {
            fd: ours,
            events: libc::POLLIN,
            revents: 0,
        };
        libc::poll(&raw mut poll, 1, WATCHDOG_MILLISECONDS);
        // Where it is thawed already, this is refused and does nothing.
        libc::ioctl(dir, FITHAW as _, 0);
        libc::_exit(0);
    }
}

/// Asks the kernel to begin writing a part of a file to the disk, and does not wait for it. Advice: it says nothing of what is
/// written, and whoever needs that syncs.
pub(crate) fn begin_write_back(file: &std::fs::File, offset: u64, len: u64) {
    if let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) {
        // SAFETY: it concerns this open file alone, and takes numbers.
        unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) };
    }
}

/// `listxattrat` of Linux 6.13. New system calls have one number on all of these processors.
#[cfg(any(
    target_arch = "x86_64",
    target_arch = "x86",
    target_arch = "aarch64",
    target_arch = "arm",
    target_arch = "riscv64",
    target_arch = "powerpc64",
    target_arch = "s390x"
))]
const LISTXATTRAT: Option<libc::c_long> = Some(465);
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "x86",
    target_arch = "aarch64",
    target_arch = "arm",
    target_arch = "riscv64",
    target_arch = "powerpc64",
    target_arch = "s390x"
)))]
const LISTXATTRAT: Option<libc::c_long> = None;

/// Lists the names of the extended attributes of `name` in `dir` itself, a link not followed. `ENOSYS` where there is no such call.
pub(crate) fn list_xattrs_at(
    dir: BorrowedFd<'_>,
    name: &CStr,
    buffer: &mut [u8],
) -> rustix::io::Result<usize> {
    let Some(number) = LISTXATTRAT else {
        return Err(Errno::NOSYS);
    };
    let (fd, flags) = (dir.as_raw_fd(), libc::AT_SYMLINK_NOFOLLOW);
    // SAFETY: the name ends in a zero, and the kernel writes no more than the buffer's length into it.
    let len = unsafe {
        libc::syscall(
            number,
            fd,
            name.as_ptr(),
            flags,
            buffer.as_mut_ptr(),
            buffer.len(),
        )
    };
    usize::try_from(len).map_err(|_| last_errno())
}

/// Returns whether nobody has the open file open for writing, and nobody has it mapped so; who begins to do so later changes its
/// times. `false` where that cannot be told: for another user's file without the right to lease, on a network file system.
///
/// The kernel grants a read lease on just such a file. It is given back at once; whoever opens the file for writing in between
/// waits for that long, and this process gets a signal, for which `SIGURG` is chosen, as its default is to do nothing.
pub(crate) fn nobody_writes(file: &std::fs::File) -> bool {
    let fd = file.as_raw_fd();
    // SAFETY: all three concern this open file alone, and take a number.
    unsafe {
        libc::fcntl(fd, F_SETSIG, libc::SIGURG) == 0
            && libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) == 0
            && libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK) == 0
    }
}

/// Has the kernel verify an open file from now on: SHA-256, blocks of 4096 bytes, no salt. Nobody can write to it any more. It must not be
/// open for writing anywhere. Returns whether it was not so already.
pub(crate) fn enable_verity(file: &std::fs::File) -> rustix::io::Result<bool> {
    let argument = EnableVerity {
        version: 1,
        hash_algorithm: u32::from(crate::verity::SHA256),
        block_size: 4096,
        salt_size: 0,
        salt_ptr: 0,
        sig_size: 0,
        reserved1: 0,
        sig_ptr: 0,
        reserved2: [0; 11],
    };
    // SAFETY: the kernel reads one `struct fsverity_enable_arg`, whose pointers have no length.
    match unsafe { libc::ioctl(file.as_raw_fd(), ENABLE_VERITY as _, &raw const argument) } {
        0 => Ok(true),
        _ => match last_errno() {
            Errno::EXIST => Ok(false),
            errno => Err(errno),
        },
    }
}

/// Returns the digest of an open file that the kernel verifies; `None` for one that it does not. `EBADMSG` where it verifies it by another
/// kind of digest.
pub(crate) fn measure_verity(file: &std::fs::File) -> rustix::io::Result<Option<VerityDigest>> {
    let mut measured = MeasuredVerity {
        algorithm: 0,
        size: 64,
        digest: [0; 64],
    };
    // SAFETY: the kernel writes no more of a digest than `size` says that there is room for.
    match unsafe { libc::ioctl(file.as_raw_fd(), MEASURE_VERITY as _, &raw mut measured) } {
        0 => match (measured.algorithm, measured.digest.first_chunk(), measured.size) {
            (1, Some(digest), 32) => Ok(Some(VerityDigest::from_bytes(*digest))),
            _ => Err(Errno::BADMSG),
        },
        _ => match last_errno() {
            Errno::NODATA => Ok(None),
            errno => Err(errno),
        },
    }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// A file that is mapped for writing, as another process may have it.
#[cfg(test)]
pub(crate) struct SharedMap {
    at: *mut libc::c_void,
    len: usize,
}

#[cfg(test)]
impl SharedMap {
    #[allow(clippy::disallowed_methods)]
    pub(crate) fn of(path: &std::path::Path, len: usize) -> Self {
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open(path)
            .unwrap();
        let (protection, fd) = (libc::PROT_READ | libc::PROT_WRITE, file.as_raw_fd());
        // SAFETY: a new mapping at a place of the kernel's choice.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, fd, 0) };
        assert_ne!(at, libc::MAP_FAILED);
        Self { at, len }
    }

    pub(crate) fn write(&mut self, offset: usize, byte: u8) {
        assert!(offset < self.len);
        // SAFETY: it is within the mapping, which lives as long as this value.
        unsafe { self.at.cast::<u8>().add(offset).write_volatile(byte) };
    }
}

#[cfg(test)]
impl Drop for SharedMap {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nobody else knows of it.
        unsafe { libc::munmap(self.at, self.len) };
    }
}

/// Gives the calling thread a mount namespace of its own; threads that it starts share it.
pub(super) fn unshare_mounts() -> rustix::io::Result<()> {
    // SAFETY: unshare(2) is unsafe for CLONE_FILES, after which a thread may not know a descriptor that another opened.
    // CLONE_NEWNS leaves the table of descriptors, and memory, as they are.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // Tests arrange by path, and talk to themselves through the environment.
mod tests {
    use super::*;
    use crate::fs::Dir;
    use crate::fs::loop_mount::LoopMount;
    use std::process::Command;
    use std::time::Duration;

    const MOUNT: &str = "ATOMOS_TEST_FROZEN";

    /// What a `/boot` of its own may be.
    const KINDS: [&str; 3] = ["ext4", "xfs", "btrfs"];

    #[test]
    fn a_frozen_file_system_is_thawed_again() {
        for kind in KINDS {
            let Some(mount) = LoopMount::smallest(kind) else {
                continue;
            };
            let dir = Dir::open_ambient(mount.path()).unwrap();
            for _ in 0..3 {
                freeze_and_thaw(&dir).unwrap();
                std::fs::write(mount.path().join("file"), "written after").unwrap();
            }
        }
    }

    #[test]
    fn the_requests_are_the_kernel_s() {
        assert_eq!(size_of::<EnableVerity>(), 128);
        let encoded = |direction: libc::c_ulong, number, size: libc::c_ulong| {
            direction << 30 | size << 16 | 0x66 << 8 | number
        };
        assert_eq!(ENABLE_VERITY, encoded(1, 133, 128));
        assert_eq!(MEASURE_VERITY, encoded(3, 134, 4));
    }

    #[test]
    fn what_cannot_be_frozen_says_so() {
        let dir = Dir::open_ambient("/proc").unwrap();
        freeze_and_thaw(&dir).unwrap_err();
    }

    #[test]
    #[ignore = "run by the test below, in a process of its own that dies"]
    fn die_while_it_is_frozen() {
        let Some(mount) = std::env::var_os(MOUNT) else {
            return println!("skipped: it is not run by the test below");
        };
        let dir = Dir::open_ambient(mount).unwrap();
        let _ = freeze_and_thaw_around(dir.as_fd(), || {
            // SAFETY: ends this process, as `kill -9` would.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        });
    }

    #[test]
    fn the_watchdog_thaws_when_the_process_is_killed() {
        for kind in KINDS {
            if let Some(mount) = LoopMount::smallest(kind) {
                kill_the_freezer(&mount, kind);
            }
        }
    }

    fn kill_the_freezer(mount: &LoopMount, kind: &str) {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "fs::ioctl::tests::die_while_it_is_frozen", "--ignored"])
            .env(MOUNT, mount.path())
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(!status.success());
        let path = mount.path().join("file");
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(std::fs::write(path, "written after")));
        // Longer than the watchdog's own patience, which a busy machine may need.
        match receiver.recv_timeout(Duration::from_secs(120)) {
            Ok(written) => written.unwrap(),
            Err(_) => {
                let dir = Dir::open_ambient(mount.path()).unwrap();
                thaw(dir.as_fd()).unwrap();
                panic!("the {kind} stayed frozen");
            }
        }
    }
}
