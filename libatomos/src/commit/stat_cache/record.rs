//! The cache's file.
//!
//! ```text
//! 8   magic, with the version in its last byte
//! 4   how many sets of extended attributes
//! 4   how many records
//! …   each set: its length in 4 bytes, and its canonical bytes (`repo-format.md`, "Metadata")
//! …   each record, 120 bytes, sorted by device and inode
//! 32  BLAKE3 of all of this
//! ```

use std::collections::HashMap;
use std::io::{self, BufWriter, Read, Write};

use crate::digest::{BlobId, DIGEST_LEN, Digest};
use crate::format::{Xattrs, limits};
use crate::verity::VerityDigest;

use super::{MAX_RECORDS, Stamp};

const MAGIC: [u8; 8] = *b"ATOMSTC\x02";
pub(super) const RECORD: usize = 120;

/// Sets of extended attributes that are remembered. SELinux has some hundreds of labels, and few files have any other.
const MAX_SETS: usize = 16 * 1024;

/// A file, as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) device: u64,
    pub(super) stamp: Stamp,
    /// How many commits have not come across it.
    pub(super) idle: u32,
    /// Which set of extended attributes it had.
    pub(super) xattrs: u32,
    pub(super) blob: BlobId,
    /// Zeros in the file where it is not known.
    pub(super) verity: Option<VerityDigest>,
}

impl Record {
    pub(super) fn key(&self) -> (u64, u64) {
        (self.device, self.stamp.ino)
    }

    pub(super) fn encode(&self) -> [u8; RECORD] {
        let mut out = [0; RECORD];
        let stamp = &self.stamp;
        out[..8].copy_from_slice(&self.device.to_le_bytes());
        out[8..16].copy_from_slice(&stamp.ino.to_le_bytes());
        out[16..24].copy_from_slice(&stamp.size.to_le_bytes());
        out[24..32].copy_from_slice(&stamp.mtime.to_le_bytes());
        out[32..40].copy_from_slice(&stamp.ctime.to_le_bytes());
        out[40..44].copy_from_slice(&stamp.mtime_nsec.to_le_bytes());
        out[44..48].copy_from_slice(&stamp.ctime_nsec.to_le_bytes());
        out[48..52].copy_from_slice(&self.idle.to_le_bytes());
        out[52..56].copy_from_slice(&self.xattrs.to_le_bytes());
        out[56..88].copy_from_slice(self.blob.digest().as_bytes());
        if let Some(verity) = &self.verity {
            out[88..].copy_from_slice(verity.as_bytes());
        }
        out
    }

    pub(super) fn decode(bytes: &[u8; RECORD]) -> Self {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let half = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let digest = |at: usize| -> [u8; DIGEST_LEN] {
            bytes[at..at + DIGEST_LEN].try_into().expect("a digest's bytes")
        };
        Self {
            device: word(0),
            stamp: Stamp {
                ino: word(8),
                size: word(16),
                mtime: word(24).cast_signed(),
                ctime: word(32).cast_signed(),
                mtime_nsec: half(40),
                ctime_nsec: half(44),
            },
            idle: half(48),
            xattrs: half(52),
            blob: BlobId::new(Digest::from_bytes(digest(56))),
            verity: Some(digest(88))
                .filter(|verity| *verity != [0; DIGEST_LEN])
                .map(VerityDigest::from_bytes),
        }
    }
}

/// Each set of extended attributes once.
#[derive(Debug, Clone, Default)]
pub(super) struct XattrTable {
    sets: Vec<Xattrs>,
    index: HashMap<Xattrs, u32>,
}

impl XattrTable {
    pub(super) fn get(&self, index: u32) -> Option<&Xattrs> {
        self.sets.get(index as usize)
    }

    /// Returns the set's number; none where there are too many already, or the set is none that a tree can have.
    pub(super) fn intern(&mut self, xattrs: &Xattrs) -> Option<u32> {
        if let Some(index) = self.index.get(xattrs) {
            return Some(*index);
        }
        if self.sets.len() >= MAX_SETS || encode(xattrs).is_none() {
            return None;
        }
        let index = self.sets.len() as u32;
        self.sets.push(xattrs.clone());
        self.index.insert(xattrs.clone(), index);
        Some(index)
    }
}

fn encode(xattrs: &Xattrs) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    xattrs.encode(&mut bytes).ok()?;
    (bytes.len() <= limits::MAX_XATTRS).then_some(bytes)
}

/// Bytes that are hashed at once: BLAKE3 is fast from some chunks on, and slow a record at a time.
const PIECE: usize = 64 * 1024;

/// Reads and hashes.
struct Hashing<T> {
    inner: T,
    hasher: blake3::Hasher,
    /// What is not hashed yet.
    pending: Vec<u8>,
}

impl<T> Hashing<T> {
    fn new(inner: T) -> Self {
        Self {
            inner,
            hasher: blake3::Hasher::new(),
            pending: Vec::with_capacity(PIECE),
        }
    }

    fn note(&mut self, bytes: &[u8]) {
        if self.pending.len() + bytes.len() > PIECE {
            self.hasher.update(&self.pending);
            self.pending.clear();
        }
        self.pending.extend_from_slice(bytes);
    }

    fn digest(&mut self) -> [u8; 32] {
        self.hasher.update(&self.pending);
        self.pending.clear();
        *self.hasher.finalize().as_bytes()
    }
}

impl<T: Read> Hashing<T> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.inner.read_exact(&mut bytes).ok()?;
        self.note(&bytes);
        Some(bytes)
    }

    fn number(&mut self) -> Option<usize> {
        Some(u32::from_le_bytes(self.take()?) as usize)
    }
}

impl<T: Write> Hashing<T> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.note(bytes);
        self.inner.write_all(bytes)
    }
}

/// These bytes are no cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoCache;

/// A cache that is read record by record. No record is to be believed before all of them have been read: only then does the
/// checksum say that this is a cache.
pub(super) struct Reader<R> {
    input: Hashing<R>,
    left: usize,
    last: Option<(u64, u64)>,
}

impl<R: Read> Reader<R> {
    /// Reads what comes before the records.
    pub(super) fn new(reader: R) -> Result<(Self, XattrTable), NoCache> {
        let mut input = Hashing::new(reader);
        let (table, left) = head(&mut input).ok_or(NoCache)?;
        let last = None;
        Ok((Self { input, left, last }, table))
    }

    /// Reads one; `None` after the last one, once the checksum was right.
    pub(super) fn record(&mut self) -> Result<Option<Record>, NoCache> {
        if self.left == 0 {
            return self.is_whole().then_some(None).ok_or(NoCache);
        }
        self.left -= 1;
        let record = Record::decode(&self.input.take().ok_or(NoCache)?);
        if self.last.is_some_and(|last| last >= record.key()) {
            return Err(NoCache);
        }
        self.last = Some(record.key());
        Ok(Some(record))
    }

    fn is_whole(&mut self) -> bool {
        let expected = self.input.digest();
        // The comparison is of a checksum, not of a secret.
        self.input.take() == Some(expected) && self.input.inner.read(&mut [0]).is_ok_and(|len| len == 0)
    }
}

/// No length is believed.
fn head(input: &mut Hashing<impl Read>) -> Option<(XattrTable, usize)> {
    if input.take::<8>()? != MAGIC {
        return None;
    }
    let (sets, count) = (input.number()?, input.number()?);
    if sets > MAX_SETS || count > MAX_RECORDS {
        return None;
    }
    let mut table = XattrTable::default();
    for number in 0..sets {
        let len = input.number()?;
        if len > limits::MAX_XATTRS {
            return None;
        }
        let mut bytes = vec![0; len];
        input.inner.read_exact(&mut bytes).ok()?;
        input.note(&bytes);
        let xattrs = Xattrs::decode(&bytes).ok()?;
        if table.intern(&xattrs)? as usize != number {
            return None;
        }
    }
    Some((table, count))
}

/// Writes a cache record by record.
pub(super) struct Writer<W: Write>(Hashing<BufWriter<W>>);

impl<W: Write> Writer<W> {
    /// Writes what comes before `count` records.
    pub(super) fn new(output: W, table: &XattrTable, count: usize) -> io::Result<Self> {
        let mut out = Hashing::new(BufWriter::with_capacity(256 * 1024, output));
        out.put(&MAGIC)?;
        out.put(&(table.sets.len() as u32).to_le_bytes())?;
        out.put(&(count as u32).to_le_bytes())?;
        for xattrs in &table.sets {
            let bytes = encode(xattrs).unwrap_or_default();
            out.put(&(bytes.len() as u32).to_le_bytes())?;
            out.put(&bytes)?;
        }
        Ok(Self(out))
    }

    /// Writes one.
    pub(super) fn put(&mut self, record: &Record) -> io::Result<()> {
        self.0.put(&record.encode())
    }

    /// Writes what comes after them.
    pub(super) fn finish(mut self) -> io::Result<()> {
        let digest = self.0.digest();
        self.0.inner.write_all(&digest)?;
        self.0.inner.flush()
    }
}

/// Reads a whole cache.
#[cfg(any(test, feature = "testing"))]
pub(super) fn decode(reader: impl Read) -> Option<(Vec<Record>, XattrTable)> {
    let (mut reader, table) = Reader::new(reader).ok()?;
    let mut records = Vec::new();
    while let Some(record) = reader.record().ok()? {
        records.push(record);
    }
    Some((records, table))
}

/// Writes a whole cache.
#[cfg(any(test, feature = "testing"))]
pub(super) fn encode_all(output: impl Write, records: &[Record], table: &XattrTable) -> io::Result<()> {
    let mut writer = Writer::new(output, table, records.len())?;
    records.iter().try_for_each(|record| writer.put(record))?;
    writer.finish()
}

/// Reads bytes as a cache, once they have the checksum that they lack.
///
/// # Panics
/// If what is believed is not written as it was read.
#[cfg(feature = "testing")]
pub(crate) fn check_bytes(bytes: &[u8]) {
    let file = [bytes, blake3::hash(bytes).as_bytes()].concat();
    if let Some((records, table)) = decode(&file[..]) {
        let mut again = Vec::new();
        encode_all(&mut again, &records, &table).expect("memory takes it");
        assert!(again == file, "a cache is read that nobody writes");
    }
}

/// Returns the bytes of a cache, without its checksum.
#[cfg(feature = "testing")]
pub(crate) fn seed() -> Vec<u8> {
    let mut table = XattrTable::default();
    let mut sets = [Xattrs::new(), Xattrs::new()];
    sets[1].insert(b"user.a".to_vec(), b"x".to_vec());
    let records: Vec<Record> = (1..4u64)
        .map(|number| Record {
            device: number / 2,
            stamp: Stamp {
                ino: number,
                size: 1000 * number,
                mtime: -1,
                ctime: 1_700_000_000,
                mtime_nsec: 999_999_999,
                ctime_nsec: 1,
            },
            idle: 0,
            xattrs: table.intern(&sets[number as usize % 2]).expect("they are few"),
            blob: BlobId::new(Digest::of(&number.to_le_bytes())),
            verity: (number == 2).then(|| VerityDigest::of(b"x")),
        })
        .collect();
    let mut bytes = Vec::new();
    encode_all(&mut bytes, &records, &table).expect("memory takes it");
    bytes.truncate(bytes.len() - 32);
    bytes
}
