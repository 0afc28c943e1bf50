//! Arming the hardware watchdog.
//!
//! From here until systemd opens the device nobody feeds it: a boot that hangs in between, or a systemd that never
//! comes up, ends in a restart, and the loader's count of tries goes down. Opening the device starts it; closing it
//! without the letter `V` leaves it running, if the driver has that feature, as nearly all have.
//!
//! The only module that may hold `unsafe` code: the device is set by ioctl.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::io::Write;

use rustix::ioctl::{Getter, Opcode, Updater, ioctl, opcode};

use crate::error::{Doing, Error, Result};

/// The first watchdog, by its older name, which systemd uses too.
pub(crate) const DEVICE: &str = "/dev/watchdog";

/// `struct watchdog_info` of `linux/watchdog.h`.
#[repr(C)]
struct Info {
    options: u32,
    firmware_version: u32,
    identity: [u8; 32],
}

/// `WDIOC_GETSUPPORT`, `WDIOC_SETTIMEOUT`.
const GET_SUPPORT: Opcode = opcode::read::<Info>(b'W', 0);
const SET_TIMEOUT: Opcode = opcode::read_write::<c_int>(b'W', 6);

/// `WDIOF_MAGICCLOSE`: closing it does not stop it, but for the magic letter.
const MAGIC_CLOSE: u32 = 0x0100;

/// Starts the watchdog at `path` with this timeout, and leaves it running. Returns the timeout that the device took,
/// which it may have rounded.
///
/// # Errors
/// If there is no watchdog, or it cannot be armed as asked; it is stopped then, as far as it lets itself be.
pub(crate) fn arm(path: &str, seconds: u32) -> Result<u32> {
    let device = OpenOptions::new()
        .write(true)
        .open(path)
        .doing(|| format!("opening {path}; is the watchdog's driver in the initramfs"))?;
    match set(&device, seconds) {
        // Closed without the letter.
        Ok(set) => Ok(set),
        Err(error) => {
            let _ = (&device).write_all(b"V");
            Err(error)
        }
    }
}

fn set(device: &File, seconds: u32) -> Result<u32> {
    // SAFETY: the kernel writes one `struct watchdog_info`, whose layout `Info` has, and every bit pattern of it is one.
    let info: Info = unsafe { ioctl(device, Getter::<GET_SUPPORT, Info>::new()) }
        .doing(|| "asking the watchdog what it can do".to_owned())?;
    if info.options & MAGIC_CLOSE == 0 {
        return Err(Error::new(
            "the watchdog's driver stops it when nobody has it open, so it can be armed by systemd alone",
        ));
    }
    let mut timeout =
        c_int::try_from(seconds).map_err(|_| Error::new("the watchdog's timeout is too long"))?;
    // SAFETY: the kernel reads and writes one int.
    unsafe { ioctl(device, Updater::<SET_TIMEOUT, c_int>::new(&mut timeout)) }
        .doing(|| format!("setting the watchdog to {seconds} seconds"))?;
    u32::try_from(timeout).map_err(|_| Error::new("the watchdog took a negative timeout"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_watchdog_is_said_and_told_to_stop() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("file");
        std::fs::write(&path, "").unwrap();
        let error = arm(path.to_str().unwrap(), 30).unwrap_err().to_string();
        assert!(
            error.starts_with("asking the watchdog what it can do: "),
            "{error}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), b"V");
        let error = arm("/nonexistent/watchdog", 30).unwrap_err().to_string();
        assert!(error.contains("opening /nonexistent/watchdog"), "{error}");
    }

    /// `linux/watchdog.h`, on architectures that encode a direction in two bits, as nearly all.
    #[test]
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
    fn the_requests_are_the_kernel_s() {
        assert_eq!(GET_SUPPORT, 0x8028_5700);
        assert_eq!(SET_TIMEOUT, 0xc004_5706);
    }
}
