//! Space that a repository leaves free on its file system: `min-free-space` in `config`.
//!
//! A full root file system is a machine that cannot log, and cannot be helped. What stores objects or makes files beside them asks
//! before it begins, and again as it writes: others write, too. Removing and repairing are not held up.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::fs::Dir;

use super::{Repo, RepoError};

/// How much is to stay free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum MinFreeSpace {
    /// Bytes.
    Bytes(u64),
    /// Hundredths of the file system, 99 at most.
    Percent(u8),
}

/// Factors of sizes, the longer suffixes first.
const UNITS: [(&str, u64); 8] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("k", 1000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
];

impl FromStr for MinFreeSpace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no space to keep free: 500M, 2GiB and 3% are some");
        let number = |digits: &str| -> Result<u64, String> {
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| digits.parse().ok()).flatten().ok_or_else(wrong)
        };
        if let Some(digits) = text.strip_suffix('%') {
            return match number(digits)? {
                percent @ 0..=99 => Ok(Self::Percent(percent as u8)),
                _ => Err(wrong()),
            };
        }
        let size = text.strip_suffix('B').unwrap_or(text);
        for (unit, factor) in UNITS {
            if let Some(digits) = size.strip_suffix(unit) {
                let bytes = number(digits)?.checked_mul(factor);
                return bytes.map(Self::Bytes).ok_or_else(wrong);
            }
        }
        number(size).map(Self::Bytes)
    }
}

impl TryFrom<String> for MinFreeSpace {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<MinFreeSpace> for String {
    fn from(space: MinFreeSpace) -> Self {
        space.to_string()
    }
}

impl fmt::Display for MinFreeSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Bytes(bytes) => {
                let unit = UNITS
                    .iter()
                    .filter(|(_, factor)| *bytes > 0 && bytes % factor == 0)
                    .max_by_key(|(_, factor)| *factor);
                match unit {
                    Some((unit, factor)) => write!(f, "{}{unit}", bytes / factor),
                    None => write!(f, "{bytes}"),
                }
            }
        }
    }
}

/// Bytes that are written at most before somebody looks again how much is left.
const STRIDE: u64 = 64 << 20;

/// Bytes in a block of most file systems.
const BLOCK: u64 = 4096;

/// What may still be written to one file system. Threads share it.
#[derive(Debug)]
pub(crate) struct Room {
    dir: Dir,
    path: PathBuf,
    reserved: u64,
    promised: Mutex<Promised>,
    /// Something that was promised has been written.
    written: Condvar,
}

#[derive(Debug, Default)]
struct Promised {
    /// What may be written before the next look.
    left: u64,
    /// What is being written at this moment, by all threads: the file system need not know of it yet.
    unwritten: u64,
}

/// Bytes that may be written. Dropped when they are, or will not be.
#[must_use = "the bytes count as written when this is dropped"]
#[derive(Debug)]
pub(crate) struct Taken<'r>(Option<(&'r Room, u64)>);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some((room, bytes)) = self.0 {
            room.promised().unwritten -= bytes;
            room.written.notify_all();
        }
    }
}

impl Room {
    fn promised(&self) -> MutexGuard<'_, Promised> {
        // The numbers are consistent between any two statements.
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `bytes`, or fails where the reserve would be touched. Nothing is measured where nothing is reserved.
    pub(crate) fn take(&self, bytes: u64) -> Result<Taken<'_>, RepoError> {
        if self.reserved == 0 {
            return Ok(Taken(None));
        }
        // A file takes whole blocks, and its name may be the first in a directory. Too much counted here is seen at the next look.
        let bytes = (bytes.saturating_add(BLOCK - 1) & !(BLOCK - 1)).saturating_add(BLOCK);
        let mut promised = self.promised();
        loop {
            if let Some(left) = promised.left.checked_sub(bytes) {
                promised.left = left;
                break;
            }
            let available = self.dir.available_space()?;
            let needed = bytes.saturating_add(self.reserved);
            if let Some(left) = available.checked_sub(needed.saturating_add(promised.unwritten)) {
                promised.left = left.min(STRIDE);
                break;
            }
            if promised.unwritten == 0 {
                return Err(RepoError::NoRoom {
                    path: self.path.clone(),
                    needed: bytes,
                    available,
                    reserved: self.reserved,
                });
            }
            // How much of what others are writing the file system knows of already cannot be seen before they are done.
            promised = self
                .written
                .wait(promised)
                .unwrap_or_else(PoisonError::into_inner);
        }
        promised.unwritten += bytes;
        Ok(Taken(Some((self, bytes))))
    }
}

impl Repo {
    /// Returns the bytes that are to stay free on the repository's file system.
    pub fn reserved_space(&self) -> Result<u64, RepoError> {
        Ok(match self.config().min_free_space {
            None => 0,
            Some(MinFreeSpace::Bytes(bytes)) => bytes,
            // Of an empty file system even a small part may be more than a number holds.
            Some(MinFreeSpace::Percent(percent)) => self.dir().total_space()? / 100 * u64::from(percent),
        })
    }

    /// Fails where `needed` bytes more would leave less free than is to stay free.
    pub fn check_room(&self, needed: u64) -> Result<(), RepoError> {
        self.room()?.take(needed).map(drop)
    }

    /// Returns the room that there is on the repository's file system.
    pub(crate) fn room(&self) -> Result<Room, RepoError> {
        Ok(Room {
            dir: self.dir().try_clone()?,
            path: self.dir().path().to_owned(),
            reserved: self.reserved_space()?,
            promised: Mutex::default(),
            written: Condvar::new(),
        })
    }

    /// Returns the room for what is made in `target`: it is the repository's where that is on the same file system, and nobody's
    /// business elsewhere.
    pub(crate) fn room_beside(&self, target: &Dir) -> Result<Room, RepoError> {
        let mut room = self.room()?;
        if room.reserved > 0 && target.stat_self()?.dev != self.dir().stat_self()?.dev {
            room.reserved = 0;
        }
        Ok(room)
    }

    /// Says how much is to stay free, from now on. Durable on return.
    pub fn set_min_free_space(&mut self, space: Option<MinFreeSpace>) -> Result<(), RepoError> {
        self.check_writable()?;
        let mut config = self.config().clone();
        config.min_free_space = space;
        self.dir()
            .write_atomic(super::layout::CONFIG, config.to_text().as_bytes(), 0o644)?;
        self.dir().sync_fs()?;
        self.config = config;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_thread_is_about_to_write_is_not_given_twice() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(scratch.path()).unwrap();
        let available = dir.available_space().unwrap();
        // Room for two files of this size, and not for three, whatever others write here meanwhile.
        let file = available / 5;
        let room = Room {
            path: dir.path().to_owned(),
            reserved: available - file / 2 * 5,
            dir,
            promised: Mutex::default(),
            written: Condvar::new(),
        };
        let first = room.take(file).unwrap();
        let second = room.take(file).unwrap();
        std::thread::scope(|scope| {
            let third = scope.spawn(|| room.take(file).map(drop));
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert!(!third.is_finished(), "it waits for what is being written");
            // They were given up, so there is room.
            drop((first, second));
            third.join().unwrap().unwrap();
        });
        let all = room.take(available);
        assert!(matches!(all, Err(RepoError::NoRoom { .. })), "{all:?}");
    }

    #[test]
    fn spaces_are_sizes_and_percents_and_round_trip() {
        for (text, space) in [
            ("0", MinFreeSpace::Bytes(0)),
            ("1234567", MinFreeSpace::Bytes(1_234_567)),
            ("500M", MinFreeSpace::Bytes(500_000_000)),
            ("2Gi", MinFreeSpace::Bytes(2 << 30)),
            ("3%", MinFreeSpace::Percent(3)),
        ] {
            assert_eq!(text.parse(), Ok(space));
            assert_eq!(space.to_string(), text);
        }
        assert_eq!("2GiB".parse(), Ok(MinFreeSpace::Bytes(2 << 30)));
        for text in ["", "%", "100%", "-1", "1.5G", "3 %", "99999999999T", "M"] {
            assert!(text.parse::<MinFreeSpace>().is_err(), "{text}");
        }
    }
}
