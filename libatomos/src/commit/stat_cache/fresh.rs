//! What a commit has learnt, in the order in which it learnt it, until it is sorted into the cache.
//!
//! A tree may have more files than there is memory for their records, so that sorted runs of them are written to a file without
//! a name, and merged when the cache is written.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::record::{RECORD, Record};

/// Records of a run: four megabytes.
const RUN: usize = 32 * 1024;

/// Records of a run that are read at once.
const PIECE: usize = 256;

/// Records in no order.
#[derive(Debug)]
pub(super) struct Fresh {
    /// Records of a run.
    run: usize,
    /// Those that are not in a run yet.
    last: Vec<Record>,
    /// How many runs there are in `file`.
    runs: usize,
    file: Option<File>,
}

impl Default for Fresh {
    fn default() -> Self {
        Self::with_runs_of(RUN)
    }
}

impl Fresh {
    pub(super) fn with_runs_of(run: usize) -> Self {
        Self {
            run,
            last: Vec::new(),
            runs: 0,
            file: None,
        }
    }

    /// Returns how many there are.
    pub(super) fn len(&self) -> usize {
        self.runs * self.run + self.last.len()
    }

    /// Adds a record; `open` makes the file that runs are written to.
    pub(super) fn push(&mut self, record: Record, open: impl FnOnce() -> io::Result<File>) -> io::Result<()> {
        if self.last.len() == self.run {
            self.write_run(open)?;
        }
        self.last.push(record);
        Ok(())
    }

    fn write_run(&mut self, open: impl FnOnce() -> io::Result<File>) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(open()?),
        };
        self.last.sort_unstable_by_key(Record::key);
        let mut bytes = Vec::with_capacity(PIECE * RECORD);
        let mut at = (self.runs * self.run * RECORD) as u64;
        for piece in self.last.chunks(PIECE) {
            bytes.clear();
            piece
                .iter()
                .for_each(|record| bytes.extend_from_slice(&record.encode()));
            file.write_all_at(&bytes, at)?;
            at += bytes.len() as u64;
        }
        // A run that was not written whole is none, and its records are still here.
        self.last.clear();
        self.runs += 1;
        Ok(())
    }

    /// Sorts what is in no run.
    pub(super) fn sort(&mut self) {
        self.last.sort_unstable_by_key(Record::key);
    }

    /// Returns all of them sorted, those of one inode once.
    pub(super) fn merged(&self) -> io::Result<Merged<'_>> {
        let mut sources: Vec<Source<'_>> = self
            .file
            .iter()
            .flat_map(|file| (0..self.runs).map(move |run| Source::of_run(file, run, self.run)))
            .collect();
        sources.push(Source::of_slice(&self.last));
        let mut merged = Merged {
            sources,
            heads: BinaryHeap::new(),
            next: None,
        };
        for source in 0..merged.sources.len() {
            merged.draw(source)?;
        }
        merged.step()?;
        Ok(merged)
    }
}

/// One run, or what is in none.
struct Source<'a> {
    /// Where the run's records that are not read yet begin, and how many they are.
    rest: Option<(&'a File, u64, usize)>,
    /// Records that were read.
    piece: std::borrow::Cow<'a, [Record]>,
    at: usize,
}

impl<'a> Source<'a> {
    fn of_run(file: &'a File, run: usize, len: usize) -> Self {
        Self {
            rest: Some((file, (run * len * RECORD) as u64, len)),
            piece: Vec::new().into(),
            at: 0,
        }
    }

    fn of_slice(records: &'a [Record]) -> Self {
        Self {
            rest: None,
            piece: records.into(),
            at: 0,
        }
    }

    fn next(&mut self) -> io::Result<Option<Record>> {
        if self.at == self.piece.len() {
            let Some((file, from, left)) = self.rest.filter(|(_, _, left)| *left > 0) else {
                return Ok(None);
            };
            let count = left.min(PIECE);
            let mut bytes = vec![0; count * RECORD];
            file.read_exact_at(&mut bytes, from)?;
            let (records, _) = bytes.as_chunks::<RECORD>();
            self.piece = records.iter().map(Record::decode).collect();
            self.at = 0;
            self.rest = Some((file, from + bytes.len() as u64, left - count));
        }
        self.at += 1;
        Ok(Some(self.piece[self.at - 1]))
    }
}

/// Records in their order.
pub(super) struct Merged<'a> {
    sources: Vec<Source<'a>>,
    /// The next record of each source, the least one first.
    heads: BinaryHeap<Reverse<Head>>,
    next: Option<Record>,
}

impl Merged<'_> {
    /// Returns the key of the next one.
    pub(super) fn key(&self) -> Option<(u64, u64)> {
        self.next.as_ref().map(Record::key)
    }

    /// Returns the next one.
    pub(super) fn take(&mut self) -> io::Result<Option<Record>> {
        let taken = self.next.take();
        self.step()?;
        // A file with two names was read twice, and is one inode.
        while taken.is_some() && self.key() == taken.as_ref().map(Record::key) {
            self.step()?;
        }
        Ok(taken)
    }

    fn step(&mut self) -> io::Result<()> {
        self.next = None;
        if let Some(Reverse(Head { record, source })) = self.heads.pop() {
            self.next = Some(record);
            self.draw(source)?;
        }
        Ok(())
    }

    fn draw(&mut self, source: usize) -> io::Result<()> {
        if let Some(record) = self.sources[source].next()? {
            self.heads.push(Reverse(Head { record, source }));
        }
        Ok(())
    }
}

/// A record and the source it is of. The order is the keys'.
struct Head {
    record: Record,
    source: usize,
}

impl Head {
    fn key(&self) -> ((u64, u64), usize) {
        (self.record.key(), self.source)
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}
