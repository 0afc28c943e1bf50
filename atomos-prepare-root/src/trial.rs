//! Word of a boot that got this far.
//!
//! Beside a deployment on trial lies `<commit>.<serial>.trial`. Each boot adds its id, so that the next one that
//! reaches user space knows of this one that it found its root, if nothing else is heard of it. Where there is no such
//! file, nothing is written; where it cannot be written, the boot goes on.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode, OFlags, fstat, openat};

use crate::cmdline::DeploymentName;
use crate::log::{Level, say};

/// Bytes of the file to which it is written on: some hundred boots, and trials have few.
const MAX_MARK: i64 = 4096;

/// Names this boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Adds this boot to the deployment's trial, durably. The physical root must be writable.
pub(crate) fn note(deployments: &OwnedFd, name: &DeploymentName) {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(mark) = openat(deployments, format!("{name}.trial"), flags, Mode::empty()) else {
        return;
    };
    let is_ours = fstat(&mark).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_size < MAX_MARK
    });
    if !is_ours {
        return;
    }
    let mut file = File::from(mark);
    if let Err(error) = file
        .write_all(format!("{}\n", boot_id()).as_bytes())
        .and_then(|()| file.sync_all())
    {
        say(
            Level::Warning,
            &format!("writing {name}.trial: {error}; going on without"),
        );
    }
}

/// The id, or what stands for one that is not known: started as init, there may be no `/proc` yet.
fn boot_id() -> String {
    let mut text = String::new();
    let read = File::open(BOOT_ID).and_then(|file| file.take(64).read_to_string(&mut text));
    match read {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}
