//! A site in a directory of this machine, such as a USB stick.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

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

impl Transport for DirTransport {
    fn url(&self) -> &str {
        &self.url
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
        let io = |error: &dyn std::fmt::Display| fail(TransportErrorKind::Local, error.to_string());
        let mut file = match self.dir.open_file_optional(request.path) {
            Ok(Some(file)) => file,
            Ok(None) => {
                return Err(fail(
                    TransportErrorKind::NotFound,
                    "there is no such file".to_owned(),
                ));
            }
            Err(error) => return Err(io(&error)),
        };
        let metadata = file.metadata().map_err(|error| io(&error))?;
        use std::os::unix::fs::MetadataExt;
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
                file.seek(SeekFrom::Start(range.start))
                    .map_err(|error| io(&error))?;
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
