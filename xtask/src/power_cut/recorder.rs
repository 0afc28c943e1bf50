//! Disks whose every write and flush is written down.
//!
//! The kernel of a test machine may have neither device mapper nor network block devices, but it has FUSE and loop
//! devices. So this process serves a directory with one file for each disk, and a loop device makes a block device of each:
//!
//! ```text
//! file system ── block layer ── loop device ── FUSE ── this process: the log, and a file in memory
//! ```
//!
//! A loop device writes through: a block that was written has reached the log before the kernel hears that it is
//! written, since the page cache of a FUSE file without write-back holds nothing dirty. A flush (and the flush
//! after a forced write) becomes an `fsync` of the file, and so a request of its own. A test shows that both arrive.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::log::{Event, Log};
use super::wire::{self, MAX_WRITE, ROOT, Received, Request};

/// A disk to make.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Its name.
    pub name: &'static str,
    /// Its size in bytes.
    pub size: u64,
}

/// A running recorder. Its mount must be left by everybody before it is dropped.
#[derive(Debug)]
pub struct Recorder {
    directory: PathBuf,
    shared: Arc<Shared>,
    server: Option<JoinHandle<Result<()>>>,
}

#[derive(Debug)]
struct Shared {
    disks: Vec<(Disk, File)>,
    log: Mutex<Log>,
}

impl Recorder {
    /// Makes the disks, empty, their bytes in files of `memory`, and serves them in `directory`.
    ///
    /// # Errors
    /// If they cannot be made, or there is no FUSE.
    pub fn start(disks: &[Disk], memory: &Path, directory: &Path) -> Result<Self> {
        let disks = disks
            .iter()
            .map(|disk| {
                let path = memory.join(disk.name);
                let file = File::options()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .open(&path)
                    .with_context(|| format!("cannot make {}", path.display()))?;
                file.set_len(disk.size)?;
                Ok((disk.clone(), file))
            })
            .collect::<Result<Vec<_>>>()?;
        let shared = Arc::new(Shared {
            disks,
            log: Mutex::default(),
        });
        let device = File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .context("cannot open /dev/fuse")?;
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let options = std::ffi::CString::new(options).expect("numbers have no zero byte");
        rustix::mount::mount(
            "power-cut",
            directory,
            "fuse",
            MountFlags::empty(),
            options.as_c_str(),
        )
        .context("cannot mount what records the disks")?;
        let serving = Arc::clone(&shared);
        let server = std::thread::spawn(move || serving.serve(device));
        Ok(Self {
            directory: directory.to_owned(),
            shared,
            server: Some(server),
        })
    }

    /// Returns the path at which the disk is served.
    #[must_use]
    pub fn disk(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Writes a mark down.
    pub fn mark(&self, text: &str) {
        self.shared.log().events.push(Event::Mark(text.to_owned()));
    }

    /// Takes what was written down since the last time.
    #[must_use]
    pub fn take_log(&self) -> Log {
        std::mem::take(&mut *self.shared.log())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // Lazily: where a test failed, somebody may still be in it.
        if let Err(error) = rustix::mount::unmount(&self.directory, UnmountFlags::DETACH) {
            eprintln!("cannot unmount {}: {error}", self.directory.display());
            return;
        }
        // The kernel lets go of the server once the last loop device has.
        if let Some(server) = self.server.take()
            && server.is_finished()
            && let Ok(Err(error)) = server.join()
        {
            eprintln!("the recorder stopped: {error:#}");
        }
    }
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Log> {
        // A push is one step, so a panic elsewhere does not spoil the list.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, mut device: File) -> Result<()> {
        let mut buffer = vec![0; MAX_WRITE as usize + 4096];
        loop {
            let length = match device.read(&mut buffer) {
                // The last request, and an unmount.
                Ok(0) => return Ok(()),
                Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => return Ok(()),
                Err(error)
                    if [Errno::INTR, Errno::AGAIN, Errno::NOENT]
                        .iter()
                        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) =>
                {
                    continue;
                }
                other => other.context("cannot read from /dev/fuse")?,
            };
            let received = Received::parse(&buffer[..length])?;
            if received.request == Request::Silent {
                continue;
            }
            let ended = received.request == Request::Destroy;
            let answer = match self.answer(&received) {
                Ok(body) => wire::answer(received.unique, &body),
                Err(errno) => wire::refusal(received.unique, errno),
            };
            match device.write_all(&answer) {
                // It was interrupted meanwhile.
                Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {}
                other => other.context("cannot write to /dev/fuse")?,
            }
            if ended {
                return Ok(());
            }
        }
    }

    fn answer(&self, received: &Received<'_>) -> rustix::io::Result<Vec<u8>> {
        let at = received.node.wrapping_sub(ROOT + 1) as usize;
        let disk = || self.disks.get(at).ok_or(Errno::ISDIR);
        let size = self.disks.get(at).map_or(0, |(disk, _)| disk.size);
        let number = at as u8;
        Ok(match &received.request {
            Request::Init { read_ahead } => wire::init(*read_ahead),
            Request::Lookup(name) => {
                let found = self
                    .disks
                    .iter()
                    .position(|(disk, _)| disk.name.as_bytes() == *name);
                let at = found.ok_or(Errno::NOENT)?;
                wire::entry(ROOT + 1 + at as u64, self.disks[at].0.size)
            }
            Request::GetAttr | Request::SetAttr => wire::attributes(received.node, size),
            Request::Open | Request::OpenDir => wire::opened(),
            Request::StatFs => wire::statfs(),
            Request::Read { offset, size: wanted } => {
                let (_, file) = disk()?;
                let length = u64::from((*wanted).min(MAX_WRITE)).min(size.saturating_sub(*offset));
                let mut bytes = vec![0; length as usize];
                file.read_exact_at(&mut bytes, *offset).map_err(|_| Errno::IO)?;
                bytes
            }
            Request::Write { offset, bytes } => {
                let (_, file) = disk()?;
                if offset.saturating_add(bytes.len() as u64) > size {
                    return Err(Errno::NOSPC);
                }
                file.write_all_at(bytes, *offset).map_err(|_| Errno::IO)?;
                self.log().events.push(Event::Write {
                    disk: number,
                    offset: *offset,
                    bytes: bytes.to_vec(),
                });
                wire::written(bytes.len())
            }
            Request::Punch { offset, length } => {
                let (_, file) = disk()?;
                let length = (*length).min(size.saturating_sub(*offset));
                super::image::punch(file, *offset, length).map_err(|_| Errno::IO)?;
                self.log().events.push(Event::Zero {
                    disk: number,
                    offset: *offset,
                    length,
                });
                Vec::new()
            }
            Request::Fsync => {
                // The directory has nothing to make lasting.
                if disk().is_ok() {
                    self.log().events.push(Event::Flush { disk: number });
                }
                Vec::new()
            }
            Request::ReadDir | Request::Done | Request::Destroy => Vec::new(),
            Request::Silent | Request::Other => return Err(Errno::NOSYS),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::power_cut::mount::{Kind, Mount};

    /// Runs `work` on a new ext4 whose writes are recorded, or says why that cannot be.
    fn recorded(work: impl FnOnce(&Path)) -> Option<Log> {
        if !crate::process::is_root() || !Path::new("/dev/fuse").exists() {
            eprintln!("skipped: recording a disk takes root and FUSE");
            return None;
        }
        let place = tempfile::tempdir().unwrap();
        let disk = Disk {
            name: "disk",
            size: 16 << 20,
        };
        let recorder = Recorder::start(&[disk], place.path(), &place.path().join("fuse")).unwrap();
        Kind::Ext4.make(&recorder.disk("disk"), "disk").unwrap();
        let target = place.path().join("mnt");
        let mount = Mount::new(Kind::Ext4, &recorder.disk("disk"), &target).unwrap();
        drop(recorder.take_log());
        work(&target);
        let log = recorder.take_log();
        mount.unmount().unwrap();
        Some(log)
    }

    fn position(log: &Log, wanted: impl Fn(&Event) -> bool) -> Option<usize> {
        log.events.iter().position(wanted)
    }

    #[test]
    fn what_a_program_syncs_is_written_and_then_flushed_and_the_rest_is_not() {
        let marker = |byte: u8| vec![byte; 4096];
        let log = recorded(|mount| {
            let mut first = File::create(mount.join("first")).unwrap();
            first.write_all(&marker(0xa1)).unwrap();
            first.sync_all().unwrap();
            // Closed, and not synced: it stays in the page cache.
            std::fs::write(mount.join("second"), marker(0xb2)).unwrap();
        });
        let Some(log) = log else {
            return;
        };
        let holds = |event: &Event, byte: u8| {
            let marker = marker(byte);
            matches!(event, Event::Write { bytes, .. } if bytes.chunks(4096).any(|chunk| chunk == marker))
        };
        let written = position(&log, |event| holds(event, 0xa1)).expect("the bytes were written");
        let flushed = log.events[written..].contains(&Event::Flush { disk: 0 });
        assert!(flushed, "a flush follows: {} events", log.events.len());
        assert_eq!(position(&log, |event| holds(event, 0xb2)), None);
    }

    #[test]
    fn each_sync_has_a_flush_after_its_writes() {
        let log = recorded(|mount| {
            for number in 0..3u8 {
                let mut file = File::create(mount.join(format!("file-{number}"))).unwrap();
                file.write_all(&[0xc0 + number; 4096]).unwrap();
                file.sync_data().unwrap();
            }
        });
        let Some(log) = log else {
            return;
        };
        let mut at = 0;
        for number in 0..3u8 {
            let written = log.events[at..]
                .iter()
                .position(
                    |event| matches!(event, Event::Write { bytes, .. } if bytes[..] == [0xc0 + number; 4096]),
                )
                .expect("it was written after the last flush");
            at += written;
            at += log.events[at..]
                .iter()
                .position(|event| *event == Event::Flush { disk: 0 })
                .expect("it was flushed");
        }
    }
}
