//! A directory, and what it has to say to a request.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::answer::{Answer, Body};
use crate::date::http_date;
use crate::range::{Wanted, wanted};
use crate::request::Request;

/// For what is named by the digest of its bytes: it never changes, so nobody need ask again.
const FOREVER: &str = "public, max-age=31536000, immutable";

/// For everything else: it may be kept, and must be asked about each time.
const ASK: &str = "no-cache";

/// An open directory that is served.
#[derive(Debug)]
pub(crate) struct Site {
    root: OwnedFd,
}

/// A file of the directory, and what tells this state of it from another.
struct Found {
    file: File,
    size: u64,
    /// Strong: a file that is replaced has another inode, one that is written to another time, in nanoseconds.
    etag: String,
    modified: String,
}

impl Site {
    /// Opens the directory at `path`.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { root })
    }

    /// Opens a file; fails with the status to answer with.
    fn find(&self, path: &str) -> Result<Found, u16> {
        // Hidden files are somebody's work in progress.
        if path
            .split('/')
            .any(|part| part.is_empty() || part.starts_with('.'))
        {
            return Err(404);
        }
        // Without NONBLOCK a fifo would hold the thread.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let fd = loop {
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
                // The kernel asks to try again when a rename raced with the look-up.
                Err(Errno::AGAIN | Errno::INTR) => {}
                Ok(fd) => break fd,
                Err(Errno::ACCESS | Errno::PERM) => return Err(403),
                Err(
                    Errno::NOENT
                    | Errno::NOTDIR
                    | Errno::LOOP
                    | Errno::XDEV
                    | Errno::NAMETOOLONG
                    | Errno::NXIO,
                ) => {
                    return Err(404);
                }
                Err(_) => return Err(500),
            }
        };
        let file = File::from(fd);
        let metadata = file.metadata().map_err(|_| 500_u16)?;
        if !metadata.is_file() {
            return Err(404);
        }
        Ok(Found {
            size: metadata.len(),
            etag: format!(
                "\"{:x}-{:x}-{:x}.{:x}\"",
                metadata.ino(),
                metadata.len(),
                metadata.mtime(),
                metadata.mtime_nsec()
            ),
            modified: http_date(u64::try_from(metadata.mtime()).unwrap_or(0)),
            file,
        })
    }

    /// Returns the answer to a request.
    pub(crate) fn answer(&self, request: &Request) -> Answer {
        let found = match self.find(&request.path) {
            Ok(found) => found,
            Err(status) => return Answer::plain(status),
        };
        if request.method != "GET" && request.method != "HEAD" {
            let mut answer = Answer::plain(405);
            answer.set("Allow", "GET, HEAD");
            return answer;
        }
        let mut answer = Answer {
            status: 200,
            headers: vec![
                ("ETag", found.etag.clone()),
                ("Last-Modified", found.modified.clone()),
                ("Cache-Control", cache_control(&request.path).to_owned()),
            ],
            body: Body::None,
        };
        if is_unchanged(request, &found) {
            answer.status = 304;
            return answer;
        }
        answer.set("Content-Type", content_type(&request.path));
        answer.set("Accept-Ranges", "bytes");
        let range = match request.header("range") {
            // A range is of GET alone, and of this state of the file if a state was named.
            Some(header) if !request.is_head() && is_same(request.header("if-range"), &found) => {
                wanted(header, found.size)
            }
            _ => Wanted::Whole,
        };
        match range {
            Wanted::Whole => answer.body = Body::File(found.file, 0..found.size),
            Wanted::Part(range) => {
                answer.status = 206;
                answer.set(
                    "Content-Range",
                    format!("bytes {}-{}/{}", range.start, range.end - 1, found.size),
                );
                answer.body = Body::File(found.file, range);
            }
            Wanted::Nothing => {
                answer = Answer::plain(416);
                answer.set("Content-Range", format!("bytes */{}", found.size));
            }
        }
        answer
    }
}

/// Returns whether the client has this state of the file. A tag decides where there is one.
fn is_unchanged(request: &Request, found: &Found) -> bool {
    match request.header("if-none-match") {
        Some(tags) => tags.split(',').any(|tag| {
            let tag = tag.trim();
            // Whether the bytes are the same or only mean the same is no matter here.
            tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == found.etag
        }),
        // Any other date than the one that was told is not of this file.
        None => request.header("if-modified-since") == Some(&found.modified),
    }
}

/// Returns whether `If-Range`, if it is there, names this state of the file. A date does not: a file can change twice in
/// a second.
fn is_same(if_range: Option<&str>, found: &Found) -> bool {
    if_range.is_none_or(|state| state == found.etag)
}

/// Directories whose files are named by the digest of their bytes.
const BY_DIGEST: [&str; 5] = ["packs", "patches", "images", "manifests", "releases"];

/// Directories of small files that are JSON although their names do not say so.
const JSON: [&str; 3] = ["refs", "keys", "releases"];

/// Returns how long what lies at `path` may be kept: for ever, if its name is a digest. A ref may be called like anything.
fn cache_control(path: &str) -> &'static str {
    let digest =
        |name: &str| name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    match path.split_once('/') {
        Some((dir, name)) if BY_DIGEST.contains(&dir) && digest(name) => FOREVER,
        _ => ASK,
    }
}

fn content_type(path: &str) -> &'static str {
    match path.split_once('/') {
        None if path == "atomos.json" => "application/json",
        Some((dir, _)) if JSON.contains(&dir) => "application/json",
        _ => "application/octet-stream",
    }
}
