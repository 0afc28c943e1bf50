//! Disks as a power cut leaves them.
//!
//! A disk is a file in memory in which what was never written is a hole, so copying a disk of hundreds of
//! megabytes costs what is on it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use super::cuts::{BLOCK, Cut, Survivor};
use super::log::{Event, Log};

/// Makes a hole.
///
/// # Errors
/// If the file system has none.
pub fn punch(file: &File, offset: u64, length: u64) -> rustix::io::Result<()> {
    if length == 0 {
        return Ok(());
    }
    rustix::fs::fallocate(
        file,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        offset,
        length,
    )
}

/// Makes `to` a file with the bytes and the holes of `from`.
///
/// # Errors
/// If one cannot be read, or the other written.
pub fn copy_sparse(from: &File, to: &File) -> Result<()> {
    let size = from.metadata()?.len();
    to.set_len(0)?;
    to.set_len(size)?;
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        at = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => return Ok(()),
            other => other.context("cannot look for data")?,
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(at)).context("cannot look for a hole")?;
        while at < end {
            let length = buffer.len().min((end - at) as usize);
            from.read_exact_at(&mut buffer[..length], at)?;
            to.write_all_at(&buffer[..length], at)?;
            at += length as u64;
        }
    }
}

/// Opens a file for reading and writing.
///
/// # Errors
/// If it cannot be opened.
pub fn open(path: &Path) -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}

fn create(path: &Path) -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .with_context(|| format!("cannot make {}", path.display()))
}

/// One worker's disks, which go from cut to cut, forwards only.
#[derive(Debug)]
pub struct Disks {
    durable: Vec<File>,
    cut: Vec<(PathBuf, File)>,
    /// How many events of the log each disk has.
    applied: Vec<usize>,
}

impl Disks {
    /// Copies the disks as they were before the log begins into the directory `place`.
    ///
    /// # Errors
    /// If they cannot be copied.
    pub fn new(base: &[PathBuf], place: &Path) -> Result<Self> {
        std::fs::create_dir_all(place).with_context(|| format!("cannot make {}", place.display()))?;
        let mut disks = Self {
            durable: Vec::new(),
            cut: Vec::new(),
            applied: vec![0; base.len()],
        };
        for (number, path) in base.iter().enumerate() {
            let durable = create(&place.join(format!("durable-{number}")))?;
            copy_sparse(&File::open(path)?, &durable)?;
            disks.durable.push(durable);
            let path = place.join(format!("disk-{number}"));
            let file = create(&path)?;
            disks.cut.push((path, file));
        }
        Ok(disks)
    }

    /// Returns the files that hold the disks after the last cut.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.cut.iter().map(|(path, _)| path.clone()).collect()
    }

    /// Makes the disks what the cut leaves of them.
    ///
    /// # Errors
    /// If a disk cannot be written, or the cut is before the one before.
    pub fn make(&mut self, log: &Log, cut: &Cut) -> Result<()> {
        let flushed = cut.flushed(log, self.durable.len());
        for (number, until) in flushed.iter().enumerate() {
            ensure!(self.applied[number] <= *until, "cuts go forwards");
            for event in &log.events[self.applied[number]..*until] {
                if event
                    .written()
                    .is_some_and(|(disk, _, _)| usize::from(disk) == number)
                {
                    apply(&self.durable[number], event, &Survivor::ALL)?;
                }
            }
            self.applied[number] = *until;
        }
        self.copy()?;
        for survivor in &cut.survivors {
            let event = &log.events[survivor.event];
            let (disk, _, _) = event.written().context("only writes survive")?;
            apply(&self.cut[usize::from(disk)].1, event, survivor)?;
        }
        Ok(())
    }

    /// Makes the disks again what the flushes before the last cut left of them, without what survived.
    fn copy(&self) -> Result<()> {
        for (durable, (_, cut)) in self.durable.iter().zip(&self.cut) {
            copy_sparse(durable, cut)?;
        }
        Ok(())
    }
}

/// Does to the file what the event did to the disk, in the blocks that survive.
fn apply(file: &File, event: &Event, survivor: &Survivor) -> Result<()> {
    let (_, offset, length) = event.written().context("only writes survive")?;
    let mut at = 0;
    while at < length {
        // Blocks are those of the disk, whatever the write's own beginning.
        let block = (offset + at) / BLOCK;
        let end = if survivor.torn.is_none() {
            length
        } else {
            length.min((block + 1) * BLOCK - offset)
        };
        if survivor.has(block) {
            match event {
                Event::Write { bytes, .. } => {
                    file.write_all_at(&bytes[at as usize..end as usize], offset + at)?;
                }
                _ => punch(file, offset + at, end - at)?,
            }
        }
        at = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> Vec<u8> {
        std::fs::read(path).unwrap()
    }

    fn write(disk: u8, offset: u64, byte: u8, length: usize) -> Event {
        Event::Write {
            disk,
            offset,
            bytes: vec![byte; length],
        }
    }

    #[test]
    fn a_cut_has_what_was_flushed_and_what_survived_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let base: Vec<_> = (0..2)
            .map(|number| {
                let path = place.path().join(format!("base-{number}"));
                std::fs::write(&path, vec![b'.'; 16]).unwrap();
                path
            })
            .collect();
        let log = Log {
            events: vec![
                write(0, 0, b'a', 4),
                write(1, 0, b'b', 4),
                Event::Flush { disk: 0 },
                write(0, 4, b'c', 4),
                write(1, 4, b'd', 4),
                Event::Zero {
                    disk: 1,
                    offset: 0,
                    length: 2,
                },
                Event::Flush { disk: 1 },
                write(0, 8, b'e', 4),
            ],
        };
        let mut disks = Disks::new(&base, &place.path().join("work")).unwrap();
        let mut make = |at: usize, survivors: &[usize]| {
            let cut = Cut {
                at,
                survivors: survivors
                    .iter()
                    .map(|event| Survivor {
                        event: *event,
                        torn: None,
                    })
                    .collect(),
            };
            disks.make(&log, &cut).unwrap();
            let paths = disks.paths();
            [read(&paths[0]), read(&paths[1])].map(|bytes| String::from_utf8(bytes).unwrap())
        };
        let dots = |text: &str| format!("{text:.<16}");
        assert_eq!(make(0, &[]), [dots(""), dots("")]);
        assert_eq!(make(2, &[1]), [dots(""), dots("bbbb")]);
        assert_eq!(
            make(5, &[4]),
            [dots("aaaa"), dots("....dddd")],
            "disk 1 was not flushed yet"
        );
        assert_eq!(make(8, &[7]), [dots("aaaa....eeee"), dots("\0\0bbdddd")]);
        assert_eq!(
            make(8, &[3]),
            [dots("aaaacccc"), dots("\0\0bbdddd")],
            "what survived before is gone"
        );
    }

    #[test]
    fn a_sparse_copy_is_equal_and_sparse() {
        use std::os::unix::fs::MetadataExt;
        let place = tempfile::tempdir().unwrap();
        let (from, to) = (place.path().join("from"), place.path().join("to"));
        let file = create(&from).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"x", 40 << 20).unwrap();
        let copy = create(&to).unwrap();
        copy.write_all_at(b"rubbish", 0).unwrap();
        copy_sparse(&file, &copy).unwrap();
        assert!(read(&from) == read(&to));
        assert!(copy.metadata().unwrap().blocks() * 512 <= 4 << 20);
    }

    #[test]
    fn a_torn_write_leaves_whole_blocks_of_either_side() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("disk");
        let event = write(0, BLOCK / 2, b'n', 4 * BLOCK as usize);
        for seed in 0..20 {
            std::fs::write(&path, vec![b'o'; 5 * BLOCK as usize]).unwrap();
            let survivor = Survivor {
                event: 0,
                torn: Some(seed),
            };
            apply(&open(&path).unwrap(), &event, &survivor).unwrap();
            let bytes = read(&path);
            for block in 0..5 {
                let start = (block * BLOCK) as usize;
                let written =
                    start.max(BLOCK as usize / 2)..(start + BLOCK as usize).min(9 * BLOCK as usize / 2);
                let expected = if survivor.has(block) { b'n' } else { b'o' };
                assert!(bytes[written].iter().all(|byte| *byte == expected));
            }
        }
    }
}
