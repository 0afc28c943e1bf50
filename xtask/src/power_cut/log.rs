//! What happened to the disks, in order, and its form in a file.
//!
//! The form is a magic, then records without padding, all numbers little-endian:
//!
//! | size | field |
//! |---|---|
//! | 1 | kind: 1 write, 2 zero, 3 flush, 4 mark |
//! | 1 | disk; 0 in a mark |
//! | 8 | offset in bytes; 0 in a flush and in a mark |
//! | 8 | length in bytes; 0 in a flush |
//! | length | the bytes written, or the text of the mark; nothing in a zero |

use std::io::{Read, Write};

use anyhow::{Context, Result, bail, ensure};

/// Begins a file.
const MAGIC: [u8; 8] = *b"pwrcut01";

/// Bytes of one write; what the kernel sends at once is less.
const MAX_WRITE: u64 = 64 << 20;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Bytes were written. A cut may lose them until the next flush of the disk.
    Write {
        /// Which disk.
        disk: u8,
        /// Where, in bytes.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// A range was discarded or written with zeros.
    Zero {
        /// Which disk.
        disk: u8,
        /// Where, in bytes.
        offset: u64,
        /// How many bytes.
        length: u64,
    },
    /// The disk was told to make all that was written lasting, and said that it had.
    Flush {
        /// Which disk.
        disk: u8,
    },
    /// A program said what it was doing.
    Mark(String),
}

/// Everything that happened, oldest first.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Log {
    /// The events.
    pub events: Vec<Event>,
}

impl Event {
    /// Returns the disk that a write changes, and its range.
    #[must_use]
    pub fn written(&self) -> Option<(u8, u64, u64)> {
        match self {
            Self::Write { disk, offset, bytes } => Some((*disk, *offset, bytes.len() as u64)),
            Self::Zero { disk, offset, length } => Some((*disk, *offset, *length)),
            Self::Flush { .. } | Self::Mark(_) => None,
        }
    }

    fn encode(&self, out: &mut impl Write) -> std::io::Result<()> {
        let empty: &[u8] = &[];
        let (kind, disk, offset, length, bytes) = match self {
            Self::Write { disk, offset, bytes } => (1, *disk, *offset, bytes.len() as u64, bytes.as_slice()),
            Self::Zero { disk, offset, length } => (2, *disk, *offset, *length, empty),
            Self::Flush { disk } => (3, *disk, 0, 0, empty),
            Self::Mark(text) => (4, 0, 0, text.len() as u64, text.as_bytes()),
        };
        out.write_all(&[kind, disk])?;
        out.write_all(&offset.to_le_bytes())?;
        out.write_all(&length.to_le_bytes())?;
        out.write_all(bytes)
    }

    fn decode(kind: u8, input: &mut impl Read) -> Result<Self> {
        let mut head = [0; 17];
        input.read_exact(&mut head)?;
        let disk = head[0];
        let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let (offset, length) = (number(1), number(9));
        let mut bytes = || -> Result<Vec<u8>> {
            ensure!(length <= MAX_WRITE, "{length} bytes are too many for one record");
            let mut bytes = Vec::new();
            input.take(length).read_to_end(&mut bytes)?;
            ensure!(bytes.len() as u64 == length, "it is cut short");
            Ok(bytes)
        };
        let event = match kind {
            1 => Self::Write {
                disk,
                offset,
                bytes: bytes()?,
            },
            2 => Self::Zero { disk, offset, length },
            3 if offset == 0 && length == 0 => Self::Flush { disk },
            4 if disk == 0 && offset == 0 => Self::Mark(String::from_utf8(bytes()?)?),
            _ => bail!("a record of kind {kind} is not understood"),
        };
        if let Some((_, offset, length)) = event.written() {
            offset
                .checked_add(length)
                .context("a range ends beyond all numbers")?;
        }
        Ok(event)
    }
}

impl Log {
    /// Writes the log.
    ///
    /// # Errors
    /// If `out` cannot be written.
    pub fn encode(&self, out: &mut impl Write) -> std::io::Result<()> {
        out.write_all(&MAGIC)?;
        self.events.iter().try_for_each(|event| event.encode(out))
    }

    /// Reads a log.
    ///
    /// # Errors
    /// If it is not one, or is cut short.
    pub fn decode(input: &mut impl Read) -> Result<Self> {
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic).context("there is no magic")?;
        ensure!(magic == MAGIC, "this is not a log of writes");
        let mut events = Vec::new();
        loop {
            let mut kind = [0];
            match input.read(&mut kind)? {
                0 => return Ok(Self { events }),
                _ => events.push(
                    Event::decode(kind[0], input).with_context(|| format!("in record {}", events.len()))?,
                ),
            }
        }
    }

    /// Returns the text of the last mark among the events before `at` that `wanted` takes.
    pub fn last_mark<'a, T>(&'a self, at: usize, wanted: impl Fn(&'a str) -> Option<T>) -> Option<T> {
        self.events[..at].iter().rev().find_map(|event| match event {
            Event::Mark(text) => wanted(text),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Log {
        Log {
            events: vec![
                Event::Mark("begin upgrade".to_owned()),
                Event::Write {
                    disk: 1,
                    offset: 4096,
                    bytes: vec![7; 4096],
                },
                Event::Zero {
                    disk: 0,
                    offset: 1 << 40,
                    length: 1 << 30,
                },
                Event::Flush { disk: 1 },
                Event::Write {
                    disk: 0,
                    offset: 0,
                    bytes: Vec::new(),
                },
            ],
        }
    }

    #[test]
    fn a_log_is_read_as_it_was_written() {
        let mut bytes = Vec::new();
        sample().encode(&mut bytes).unwrap();
        assert_eq!(Log::decode(&mut bytes.as_slice()).unwrap(), sample());
        let mut empty = Vec::new();
        Log::default().encode(&mut empty).unwrap();
        assert_eq!(Log::decode(&mut empty.as_slice()).unwrap(), Log::default());
    }

    #[test]
    fn a_log_that_is_cut_short_is_refused_unless_between_records() {
        let log = sample();
        let mut bytes = Vec::new();
        log.encode(&mut bytes).unwrap();
        let mut ends = vec![MAGIC.len()];
        let mut whole = MAGIC.to_vec();
        for event in &log.events {
            event.encode(&mut whole).unwrap();
            ends.push(whole.len());
        }
        for length in 0..bytes.len() {
            let result = Log::decode(&mut &bytes[..length]);
            assert_eq!(result.is_ok(), ends.contains(&length), "{length} bytes");
        }
    }

    #[test]
    fn what_no_writer_writes_is_refused() {
        let refused = |record: &[u8]| {
            let mut bytes = MAGIC.to_vec();
            bytes.extend(record);
            Log::decode(&mut bytes.as_slice()).unwrap_err();
        };
        let record = |kind: u8, disk: u8, offset: u64, length: u64| {
            let mut bytes = vec![kind, disk];
            bytes.extend(offset.to_le_bytes());
            bytes.extend(length.to_le_bytes());
            bytes
        };
        refused(&record(0, 0, 0, 0));
        refused(&record(5, 0, 0, 0));
        refused(&record(3, 0, 1, 0));
        refused(&record(2, 0, u64::MAX, 1));
        refused(&record(1, 0, 0, MAX_WRITE + 1));
        refused(&record(4, 1, 0, 0));
        Log::decode(&mut b"pwrcut00".as_slice()).unwrap_err();
    }

    #[test]
    fn the_last_mark_before_an_event_is_found() {
        let log = sample();
        assert_eq!(log.last_mark(0, Some), None);
        assert_eq!(log.last_mark(1, Some), Some("begin upgrade"));
        assert_eq!(
            log.last_mark(5, |text| text.strip_prefix("begin ")),
            Some("upgrade")
        );
        assert_eq!(log.last_mark(5, |text| text.strip_prefix("end ")), None);
    }
}
