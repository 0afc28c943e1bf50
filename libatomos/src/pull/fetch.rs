//! Carrying out a plan: a few connections, each frame verified as it comes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{self, BufReader, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::digest::BlobId;
use crate::progress::{Event, PhaseGuard};
use crate::remote::{Metered, Source};
use crate::site::{Artifact, FileRef, Frame};
use crate::transport::{Request, Status, TransportError, TransportErrorKind};

use super::PullError;
use super::plan::{Content, Piece, PlannedRequest, part_of};
use super::receive::{Assembly, FrameError, Receiver};

/// What did not come, by which way, and why.
#[derive(Debug, Default)]
pub(super) struct Failures {
    pub(super) avoid: HashMap<BlobId, HashSet<Artifact>>,
    pub(super) reason: Option<String>,
    /// The first of the bodies that broke off, each at the same place every time.
    pub(super) broke_off: Option<TransportError>,
    /// Whether something was not to be had for another reason.
    pub(super) is_damaged: bool,
    /// Blobs of which an interrupted pull had left something wrong: they are to come whole.
    pub(super) stale: Vec<u32>,
}

/// Bytes asked of the kernel at a time.
const READ: usize = 256 * 1024;

/// Fetches everything that the requests name. What came is in the transaction; what no mirror had a good copy of is
/// returned, and may be had another way.
pub(super) fn fetch(
    source: &Source<'_>,
    requests: Vec<PlannedRequest>,
    receiver: &Receiver<'_>,
    jobs: usize,
    phase: &PhaseGuard<'_>,
) -> Result<Failures, PullError> {
    let fetcher = Fetcher {
        source,
        receiver,
        phase,
        queue: Mutex::new(requests.into()),
        failures: Mutex::default(),
        error: Mutex::default(),
        probe: Mutex::default(),
        stop: AtomicBool::new(false),
    };
    let threads = jobs.clamp(1, 64).min(lock(&fetcher.queue).len().max(1));
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| fetcher.work());
        }
        fetcher.work();
    });
    source.cancel().check()?;
    if let Some(error) = lock(&fetcher.error).take() {
        return Err(error);
    }
    Ok(fetcher
        .failures
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Fetcher<'a> {
    source: &'a Source<'a>,
    receiver: &'a Receiver<'a>,
    phase: &'a PhaseGuard<'a>,
    queue: Mutex<VecDeque<PlannedRequest>>,
    failures: Mutex<Failures>,
    error: Mutex<Option<PullError>>,
    /// Held by whoever finds out whether there are ranges.
    probe: Mutex<()>,
    stop: AtomicBool,
}

impl Fetcher<'_> {
    fn work(&self) {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            // Where the whole file comes for a range, all that is wanted of it is taken from that one answer.
            let mut probe = (!self.source.knows_ranges()).then(|| lock(&self.probe));
            if self.source.knows_ranges() {
                probe = None;
            }
            let Some(request) = self.next() else {
                return;
            };
            if let Err(error) = self.serve(request, &mut probe) {
                lock(&self.error).get_or_insert(error);
                self.stop.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Takes the next request; of a server that has no ranges, with all that is wanted of the same file.
    fn next(&self) -> Option<PlannedRequest> {
        let mut queue = lock(&self.queue);
        let mut request = queue.pop_front()?;
        if self.source.has_no_ranges() {
            let same = take_same(&mut queue, request.kind, &request.file);
            request.pieces.extend(same);
            request.pieces.sort_by_key(|piece| piece.range.start);
        }
        Some(request)
    }

    fn serve(
        &self,
        request: PlannedRequest,
        probe: &mut Option<MutexGuard<'_, ()>>,
    ) -> Result<(), PullError> {
        let path = request.kind.path(&request.file.digest);
        let mut pieces: VecDeque<Piece> = request.pieces.into();
        let mut attempts = self.source.attempts();
        let mut assembly = Assembly::default();
        // The parts that came of the large blob that is being put together.
        let mut parts: Vec<Piece> = Vec::new();
        while let (Some(first), Some(last)) = (pieces.front(), pieces.back()) {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let range = first.range.start..last.range.end;
            let question = Request::range(&path, range.clone(), request.file.size);
            let response = match attempts.get(&question) {
                Ok(response) => response,
                Err(error) => match error.kind {
                    TransportErrorKind::Cancelled | TransportErrorKind::Local => return Err(error.into()),
                    TransportErrorKind::Temporary if !attempts.broke_off() => return Err(error.into()),
                    kind => {
                        self.fail(request.kind, pieces.iter(), &error.to_string());
                        let mut failures = lock(&self.failures);
                        if kind == TransportErrorKind::Temporary {
                            failures.broke_off.get_or_insert(error);
                        } else {
                            failures.is_damaged = true;
                        }
                        return Ok(());
                    }
                },
            };
            let url = response.url.clone();
            let mut position = range.start;
            if response.status == Status::Whole {
                position = 0;
                // Whatever else is wanted of the file is taken from the same stream.
                pieces.extend(take_same(&mut lock(&self.queue), request.kind, &request.file));
                pieces.make_contiguous().sort_by_key(|piece| piece.range.start);
            }
            drop(probe.take());
            let body = Metered::new(self.source, response.body);
            let mut body = BufReader::with_capacity(READ, body);
            let bad = loop {
                let Some(piece) = pieces.front() else { break None };
                let end = piece.range.end;
                // Before the bytes come, so that the frames of all threads fit.
                let _share = self.receiver.budget.take(cost(piece, self.receiver));
                let frame = match read_frame(&mut body, &mut position, piece) {
                    Ok(frame) => frame,
                    Err(error) => {
                        self.source.cancel().check()?;
                        attempts.failed(&url, &error);
                        break None;
                    }
                };
                match self.receiver.take(&frame, &piece.content, &mut assembly) {
                    Ok(()) => {
                        attempts.progressed();
                        self.phase.advance(end - piece.range.start);
                        if let Some(done) = pieces.pop_front() {
                            if parts.first().and_then(part_of) != part_of(&done) {
                                parts.clear();
                            }
                            parts.push(done);
                        }
                    }
                    Err(FrameError::Failed(error)) => return Err(error),
                    Err(FrameError::Stale { blob }) => {
                        pieces.pop_front();
                        lock(&self.failures).stale.push(blob);
                    }
                    Err(FrameError::Bad { blob, reason }) => break Some(format!("blob {blob}: {reason}")),
                }
                if self.stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
            };
            if let Some(reason) = bad {
                attempts.reject(&url, &reason);
                // Parts of two mirrors are not mixed: whichever is wrong, the blob is.
                self.receiver.discard(&mut assembly)?;
                let mut is_stale = false;
                match pieces.front().and_then(part_of) {
                    Some(blob) if self.receiver.begun.contains_key(&blob) => {
                        for part in whole_blob(&mut pieces) {
                            self.phase.advance(part.range.end - part.range.start);
                        }
                        lock(&self.failures).stale.push(blob);
                        is_stale = true;
                    }
                    blob if blob.is_some() && parts.first().and_then(part_of) == blob => {
                        for part in parts.drain(..).rev() {
                            pieces.push_front(part);
                        }
                    }
                    _ => {}
                }
                if attempts.is_exhausted() && is_stale {
                    attempts = self.source.attempts();
                } else if attempts.is_exhausted() {
                    // The other frames of the file may be as they should be.
                    let first = whole_blob(&mut pieces);
                    lock(&self.failures).is_damaged = true;
                    self.fail(request.kind, first.iter(), &format!("{url}: {reason}"));
                    attempts = self.source.attempts();
                }
            }
        }
        Ok(())
    }

    fn fail<'p>(&self, kind: Artifact, pieces: impl Iterator<Item = &'p Piece>, reason: &str) {
        let mut failures = lock(&self.failures);
        for piece in pieces {
            for index in blobs_of(piece) {
                if self.receiver.wanted.contains_key(&index) {
                    let id = self.receiver.blobs.blobs()[index as usize].id;
                    failures.avoid.entry(id).or_default().insert(kind);
                }
            }
            self.phase.advance(piece.range.end - piece.range.start);
        }
        if failures.reason.is_none() {
            let text = format!("{reason}; what it was for is taken from elsewhere");
            self.source.progress().report(Event::Warning { text: &text });
        }
        failures.reason = Some(reason.to_owned());
    }
}

/// Takes out of the queue what is wanted of one file.
fn take_same(queue: &mut VecDeque<PlannedRequest>, kind: Artifact, file: &FileRef) -> Vec<Piece> {
    let (same, others): (VecDeque<_>, VecDeque<_>) = queue
        .drain(..)
        .partition(|request| request.kind == kind && request.file.digest == file.digest);
    *queue = others;
    same.into_iter().flat_map(|request| request.pieces).collect()
}

/// Takes the first piece off, with all that are parts of the same blob.
fn whole_blob(pieces: &mut VecDeque<Piece>) -> Vec<Piece> {
    let mut taken: Vec<Piece> = pieces.pop_front().into_iter().collect();
    let blob = taken.first().and_then(part_of);
    while blob.is_some() && pieces.front().and_then(part_of) == blob {
        taken.extend(pieces.pop_front());
    }
    taken
}

/// Returns the blobs that depend on a piece.
fn blobs_of(piece: &Piece) -> Vec<u32> {
    match &piece.content {
        Content::Plain(frame) => frame.blobs().collect(),
        Content::Window { blob, .. } => vec![*blob],
        Content::Group(members) => members
            .iter()
            .filter(|one| one.use_it)
            .map(|one| one.blob)
            .collect(),
    }
}

/// Bytes that a frame, what it holds, and a base take in memory.
fn cost(piece: &Piece, receiver: &Receiver<'_>) -> u64 {
    let frame = piece.range.end - piece.range.start;
    let raw = match &piece.content {
        Content::Plain(content @ Frame::Blobs(_)) => content.raw_len(receiver.blobs),
        Content::Plain(content) => content.raw_len(receiver.blobs),
        Content::Window { .. } => crate::patch::WINDOW + crate::patch::BASE_WINDOW,
        Content::Group(members) => {
            let streams: u64 = members.iter().map(|member| member.stream_len).sum();
            // What is not in this tree is not made.
            let largest = members
                .iter()
                .filter(|member| member.use_it)
                .map(|member| receiver.blobs.size(member.blob))
                .max();
            streams + 2 * largest.unwrap_or(0)
        }
    };
    frame + raw
}

fn read_frame(body: &mut impl Read, position: &mut u64, piece: &Piece) -> io::Result<Vec<u8>> {
    let gap = piece.range.start.saturating_sub(*position);
    if io::copy(&mut body.take(gap), &mut io::sink())? != gap {
        return Err(ends_early());
    }
    let len = (piece.range.end - piece.range.start) as usize;
    let mut frame = vec![0; len];
    body.read_exact(&mut frame).map_err(|error| match error.kind() {
        // What `read_exact` says of it speaks of a buffer; a transport that knows how much is missing says so itself.
        io::ErrorKind::UnexpectedEof if error.get_ref().is_none() => ends_early(),
        _ => error,
    })?;
    *position = piece.range.end;
    Ok(frame)
}

/// The error of an answer without all of the file's bytes that are needed of it, such as a short page instead of the file.
fn ends_early() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "what the server sends ends before the bytes that the manifest says are there",
    )
}
