//! A part of a site in one file, for machines without a network.
//!
//! A bundle is `atomosB` and a version byte, the length of an index (u32), the index in JSON, and pieces of a site's files. Bytes of a
//! file that are not in it read as zeros: whoever asks for what was not put in finds that it does not verify. As with any
//! transport, nothing in a bundle is believed because it is there.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::with_causes;
use crate::fs::Dir;

use super::{Bounded, Request, Response, Status, Transport, TransportError, TransportErrorKind, check_path};

const MAGIC: [u8; 8] = *b"atomosB\x01";

/// Bytes of an index.
const MAX_INDEX: usize = 16 * 1024 * 1024;

/// A piece of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BundlePiece {
    /// The file, relative to the site.
    pub path: String,
    /// The whole file's bytes.
    pub size: u64,
    /// Where the piece begins in the file.
    pub start: u64,
    /// The piece's bytes.
    pub len: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    pieces: Vec<BundlePiece>,
}

/// Where a piece lies in the bundle.
#[derive(Debug, Clone, Copy)]
struct Placed {
    start: u64,
    len: u64,
    at: u64,
}

/// A bundle's name is a path: nothing in it is secret, whatever it looks like.
fn failed(
    url: impl Into<String>,
    kind: TransportErrorKind,
    reason: impl std::fmt::Display,
) -> TransportError {
    TransportError {
        url: url.into(),
        kind,
        reason: reason.to_string(),
        retry_after: None,
    }
}

/// Reads a site out of a bundle.
#[derive(Debug)]
pub struct BundleTransport {
    file: Arc<File>,
    url: String,
    files: BTreeMap<String, (u64, Arc<[Placed]>)>,
}

impl BundleTransport {
    /// Opens a bundle.
    pub fn open(path: &Path) -> Result<Self, TransportError> {
        let url = path.display().to_string();
        let fail = |kind, reason: String| failed(url.as_str(), kind, reason);
        let name = path
            .file_name()
            .ok_or_else(|| fail(TransportErrorKind::Local, "it is no file".to_owned()))?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let file = Dir::open_ambient(parent.unwrap_or(Path::new(".")))
            .and_then(|dir| dir.open_file(name))
            .map_err(|error| match error.is_not_found() {
                true => fail(TransportErrorKind::NotFound, with_causes(&error)),
                false => fail(TransportErrorKind::Local, with_causes(&error)),
            })?;
        Self::from_file(file, url)
    }

    /// Reads a bundle from an open file; `url` is what messages call it.
    pub fn from_file(file: File, url: String) -> Result<Self, TransportError> {
        let fail = |reason: String| failed(url.as_str(), TransportErrorKind::Protocol, reason);
        let local = |error: io::Error| failed(url.as_str(), TransportErrorKind::Local, error);
        let cut_off = |has: u64, needs: u64| {
            fail(format!(
                "it was cut off: it has {has} bytes, and its beginning says {needs}"
            ))
        };
        let has = file.metadata().map_err(local)?.len();
        let read = |buffer: &mut [u8], at: u64| {
            file.read_exact_at(buffer, at)
                .map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => cut_off(has, at.saturating_add(buffer.len() as u64)),
                    _ => local(error),
                })
        };
        let mut head = [0; 12];
        read(&mut head, 0)?;
        let (magic, len) = head.split_at(8);
        if magic != MAGIC {
            return Err(fail(
                "it is no bundle of atomos, or of another version".to_owned(),
            ));
        }
        let len = u32::from_le_bytes([len[0], len[1], len[2], len[3]]) as usize;
        if len > MAX_INDEX {
            return Err(fail("its index is too large".to_owned()));
        }
        let mut bytes = vec![0; len];
        read(&mut bytes, 12)?;
        let index: Index = serde_json::from_slice(&bytes)
            .map_err(|error| fail(format!("its index cannot be read: {error}")))?;
        let mut files: BTreeMap<String, (u64, Vec<Placed>)> = BTreeMap::new();
        let mut at = 12 + len as u64;
        for piece in index.pieces {
            let end = piece
                .start
                .checked_add(piece.len)
                .filter(|end| *end <= piece.size);
            if end.is_none() || !check_path(&piece.path) {
                return Err(fail(format!("its index breaks the rules at {:?}", piece.path)));
            }
            let (size, pieces) = files.entry(piece.path).or_insert((piece.size, Vec::new()));
            let follows = pieces
                .last()
                .is_none_or(|last: &Placed| last.start + last.len <= piece.start);
            if *size != piece.size || !follows {
                return Err(fail("its index has pieces out of order".to_owned()));
            }
            pieces.push(Placed {
                start: piece.start,
                len: piece.len,
                at,
            });
            at = at.saturating_add(piece.len);
        }
        if has < at {
            return Err(cut_off(has, at));
        }
        let files = files
            .into_iter()
            .map(|(path, (size, pieces))| (path, (size, pieces.into())))
            .collect();
        Ok(Self {
            file: Arc::new(file),
            url,
            files,
        })
    }

    /// Returns the paths of the files that the bundle has something of.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Writes a bundle. `copy` is asked to write the bytes of each piece.
    pub fn write(
        out: &mut dyn Write,
        pieces: Vec<BundlePiece>,
        copy: &mut dyn FnMut(&BundlePiece, &mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let index = Index { pieces };
        let bytes = serde_json::to_vec(&index)?;
        if bytes.len() > MAX_INDEX {
            return Err(io::Error::other("its index would be too large to be read again"));
        }
        let len = bytes.len() as u32;
        out.write_all(&MAGIC)?;
        out.write_all(&len.to_le_bytes())?;
        out.write_all(&bytes)?;
        index.pieces.iter().try_for_each(|piece| copy(piece, out))
    }
}

impl Transport for BundleTransport {
    fn url(&self) -> &str {
        &self.url
    }

    fn serves_ranges(&self) -> Option<bool> {
        Some(true)
    }

    fn get(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        let url = format!("{}:{}", self.url, request.path);
        let Some((size, pieces)) = self.files.get(request.path) else {
            return Err(failed(
                url,
                TransportErrorKind::NotFound,
                "it is not in the bundle",
            ));
        };
        let range = request.range.clone().unwrap_or(0..*size);
        if request.range.is_some() && range.is_empty() {
            let reason = "this is no range of a file";
            return Err(failed(url, TransportErrorKind::Local, reason));
        }
        let len = range.end - range.start;
        if range.end > *size || len > request.max_bytes {
            return Err(failed(
                url,
                TransportErrorKind::TooLarge,
                "it has another size in the bundle",
            ));
        }
        let status = if request.range.is_some() {
            Status::Partial
        } else {
            Status::Whole
        };
        Ok(Response {
            status,
            etag: None,
            url,
            content_type: None,
            body: Box::new(Bounded {
                inner: Sparse {
                    file: Arc::clone(&self.file),
                    pieces: Arc::clone(pieces),
                    position: range.start,
                    end: range.end,
                },
                left: len,
                announced: Some(len),
            }),
        })
    }
}

/// Reads pieces, and zeros between them.
struct Sparse {
    file: Arc<File>,
    pieces: Arc<[Placed]>,
    position: u64,
    end: u64,
}

impl Read for Sparse {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = (buffer.len() as u64).min(self.end - self.position);
        if want == 0 {
            return Ok(0);
        }
        // In order, as the index had to be; a bundle may have very many.
        let passed = |piece: &Placed| piece.start + piece.len <= self.position;
        let here = self.pieces.get(self.pieces.partition_point(passed)).copied();
        let len = match here {
            Some(piece) if piece.start <= self.position => {
                let offset = self.position - piece.start;
                let len = want.min(piece.len - offset) as usize;
                self.file.read_exact_at(&mut buffer[..len], piece.at + offset)?;
                len
            }
            gap => {
                let until = gap.map_or(self.end, |piece| piece.start);
                let len = want.min(until - self.position) as usize;
                buffer[..len].fill(0);
                len
            }
        };
        self.position += len as u64;
        Ok(len)
    }
}
