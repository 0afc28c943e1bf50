//! A site in a directory of this machine, such as a USB stick.

use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::with_causes;
use crate::fs::{Dir, FsError};

use super::{Bounded, Request, Response, Status, Transport, TransportError, TransportErrorKind, check_path};

/// Reads a site from a directory. Links are not followed.
#[derive(Debug)]
pub struct DirTransport {
    dir: Dir,
    url: String,
}

impl DirTransport {
    /// Opens the directory.
    pub fn open(path: &Path) -> Result<Self, FsError> {
        Ok(Self {
            dir: Dir::open_ambient(path)?,
            url: format!("file://{}", path.display()),
        })
    }
}

/// A file that cannot be opened says nothing of the others, unless this process has no room left for any.
fn kind_of(error: &FsError) -> TransportErrorKind {
    use rustix::io::Errno;
    let errno = error.source.raw_os_error().map(Errno::from_raw_os_error);
    match errno {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => TransportErrorKind::Local,
        _ if error.is_denied() => TransportErrorKind::Denied,
        _ => TransportErrorKind::Protocol,
    }
}

impl Transport for DirTransport {
    fn url(&self) -> &str {
        &self.url
    }

    fn serves_ranges(&self) -> Option<bool> {
        Some(true)
    }

    fn get(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        let url = format!("{}/{}", self.url, request.path);
        let fail = |kind, reason: String| TransportError::new(&url, kind, reason);
        if !check_path(request.path) {
            return Err(fail(
                TransportErrorKind::Local,
                "this is no path of a site".to_owned(),
            ));
        }
        let io = |error: std::io::Error| fail(TransportErrorKind::Local, error.to_string());
        let mut file = match self.dir.open_file_optional(request.path) {
            Ok(Some(file)) => file,
            Ok(None) => {
                return Err(fail(
                    TransportErrorKind::NotFound,
                    "there is no such file".to_owned(),
                ));
            }
            Err(error) => return Err(fail(kind_of(&error), with_causes(&error))),
        };
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(fail(TransportErrorKind::NotFound, "it is no file".to_owned()));
        }
        let etag = format!(
            "\"{:x}-{:x}-{:x}-{:x}\"",
            metadata.ino(),
            metadata.size(),
            metadata.mtime(),
            metadata.mtime_nsec()
        );
        let answer = |status, body| Response {
            status,
            etag: Some(etag.clone()),
            url: url.clone(),
            content_type: None,
            body,
        };
        if request.if_none_match == Some(etag.as_str()) {
            return Ok(answer(Status::NotModified, Box::new(std::io::empty())));
        }
        let size = metadata.size();
        let too_large = |what: u64| {
            fail(
                TransportErrorKind::TooLarge,
                format!("it has {what} bytes, and at most {} may be", request.max_bytes),
            )
        };
        match &request.range {
            Some(range) if range.is_empty() => Err(fail(
                TransportErrorKind::Local,
                "this is no range of a file".to_owned(),
            )),
            None if size > request.max_bytes => Err(too_large(size)),
            None => Ok(answer(
                Status::Whole,
                Box::new(Bounded {
                    inner: file,
                    left: request.max_bytes,
                    announced: Some(size),
                }),
            )),
            Some(range) if range.end > size => Err(fail(
                TransportErrorKind::Protocol,
                format!(
                    "it has {size} bytes, and bytes up to {} were to be read",
                    range.end
                ),
            )),
            Some(range) => {
                file.seek(SeekFrom::Start(range.start)).map_err(io)?;
                let len = range.end - range.start;
                Ok(answer(
                    Status::Partial,
                    Box::new(Bounded {
                        inner: file.take(len),
                        left: len,
                        announced: Some(len),
                    }),
                ))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A test arranges by path what the library then sees by descriptor.
mod tests {
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    fn site() -> (tempfile::TempDir, DirTransport) {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("site");
        std::fs::create_dir_all(root.join("refs/os")).unwrap();
        std::fs::write(root.join("refs/os/a"), "0123456789").unwrap();
        std::fs::write(scratch.path().join("secret"), "secret").unwrap();
        symlink("../../../secret", root.join("refs/os/link")).unwrap();
        symlink("../..", root.join("refs/up")).unwrap();
        let transport = DirTransport::open(&root).unwrap();
        (scratch, transport)
    }

    fn read(transport: &DirTransport, request: &Request<'_>) -> Result<String, TransportErrorKind> {
        let mut text = String::new();
        let mut response = transport.get(request).map_err(|error| error.kind)?;
        response.body.read_to_string(&mut text).unwrap();
        Ok(text)
    }

    #[test]
    fn a_directory_answers_as_a_server_does() {
        use TransportErrorKind::{Local, NotFound, Protocol, TooLarge};
        let (_scratch, transport) = site();
        let whole = |path, max| read(&transport, &Request::whole(path, max));
        let range = |range| read(&transport, &Request::range("refs/os/a", range, 10));
        assert_eq!(whole("refs/os/a", 10).unwrap(), "0123456789");
        assert_eq!(whole("refs/os/a", 9).unwrap_err(), TooLarge);
        assert_eq!(whole("refs/os/none", 10).unwrap_err(), NotFound);
        assert_eq!(whole("refs/os", 10).unwrap_err(), NotFound);
        assert_eq!(whole("../secret", 10).unwrap_err(), Local);
        assert_eq!(range(2..4).unwrap(), "23");
        assert_eq!(range(9..10).unwrap(), "9");
        assert_eq!(range(9..11).unwrap_err(), Protocol);
        assert_eq!(range(4..4).unwrap_err(), Local);
    }

    #[test]
    fn no_link_leads_out_of_the_directory() {
        let (_scratch, transport) = site();
        for path in ["refs/os/link", "refs/up/secret"] {
            let error = transport.get(&Request::whole(path, 10)).unwrap_err();
            assert!(error.is_of_file(), "another file may do: {path}: {error:?}");
            assert_eq!(error.kind, TransportErrorKind::Protocol, "{path}: {error}");
            assert!(error.to_string().contains("symbolic links"), "the cause: {error}");
        }
    }

    #[test]
    fn a_file_that_is_as_it_was_is_not_read_again() {
        let (scratch, transport) = site();
        let first = transport.get(&Request::whole("refs/os/a", 10)).unwrap();
        let mut request = Request::whole("refs/os/a", 20);
        request.if_none_match = first.etag.as_deref();
        assert_eq!(transport.get(&request).unwrap().status, Status::NotModified);
        std::fs::write(scratch.path().join("site/refs/os/a"), "other").unwrap();
        assert_eq!(transport.get(&request).unwrap().status, Status::Whole);
    }
}
