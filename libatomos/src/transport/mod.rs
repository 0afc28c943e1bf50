//! How the bytes of a site come to this machine.
//!
//! A [`Transport`] gives the bytes of a path beneath a site, whole or one range of them, and nothing else: it knows no
//! digests and believes nobody. `http` and `https` are the cargo feature `http`; [`DirTransport`] reads a directory, so a
//! USB stick is a remote, too. A program that embeds the library may bring its own: an object store's client, a peer's.
//!
//! A range is always a single one: servers in the field answer several with the whole file, or with an error.

#[cfg(feature = "http")]
mod answer;
#[cfg(feature = "http")]
mod body;
mod bundle;
#[cfg(feature = "http")]
mod connection;
mod dir;
#[cfg(feature = "http")]
mod http;
#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A test arranges by path what the library then sees by descriptor.
mod tests;
#[cfg(feature = "http")]
mod tls;

use std::fmt;
use std::io::{self, Read};
use std::ops::Range;
use std::time::Duration;

use crate::error::ErrorKind;

#[cfg(feature = "http")]
pub(crate) use answer::is_same_origin;
pub use bundle::{BundlePiece, BundleTransport};
pub use dir::DirTransport;
#[cfg(feature = "http")]
pub(crate) use http::is_proxy;
#[cfg(feature = "http")]
pub use http::{Authorization, HttpOptions, HttpTransport};
#[cfg(feature = "http")]
pub use tls::{ClientCertificate, Clock};

/// What is asked for.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Request<'a> {
    /// A path beneath the site, with `/` between its parts; see [`check_path`].
    pub path: &'a str,
    /// Which bytes; all where `None`.
    pub range: Option<Range<u64>>,
    /// Send nothing if the file still has this tag.
    pub if_none_match: Option<&'a str>,
    /// The most bytes that the body may have.
    pub max_bytes: u64,
}

impl<'a> Request<'a> {
    /// Asks for a whole file of at most `max_bytes`.
    #[must_use]
    pub const fn whole(path: &'a str, max_bytes: u64) -> Self {
        Self {
            path,
            range: None,
            if_none_match: None,
            max_bytes,
        }
    }

    /// Asks for a range. A transport may answer with the whole file, of at most `file_size` bytes.
    #[must_use]
    pub const fn range(path: &'a str, range: Range<u64>, file_size: u64) -> Self {
        Self {
            path,
            range: Some(range),
            if_none_match: None,
            max_bytes: file_size,
        }
    }
}

/// What the body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The whole file, although a range may have been asked for.
    Whole,
    /// The range that was asked for.
    Partial,
    /// Nothing: the file still has the tag that was sent.
    NotModified,
}

/// An answer. Its body is read as it comes.
pub struct Response {
    /// What the body is.
    pub status: Status,
    /// Names this state of the file, where the transport has such names.
    pub etag: Option<String>,
    /// Where it came from, for messages; without secrets.
    pub url: String,
    /// What the server calls it, for messages.
    pub content_type: Option<String>,
    /// The bytes. Ends with an error where they are more than allowed, or fewer than announced.
    pub body: Box<dyn Read + Send>,
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// Why there is no answer, as far as it matters for what to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransportErrorKind {
    /// It may work in a moment, or from another mirror.
    Temporary,
    /// There is no such file.
    NotFound,
    /// The server wants to know who asks, or does not let this one have it.
    Denied,
    /// The server does not like how it is asked; who asks does not matter.
    Refused,
    /// The server does not serve ranges; the whole file may be had.
    RangeRefused,
    /// The server said something that makes no sense.
    Protocol,
    /// The server cannot prove who it is.
    Untrusted,
    /// There are more bytes than may be.
    TooLarge,
    /// The caller asked to stop.
    Cancelled,
    /// Something on this machine: a file that cannot be read, an address that is none.
    Local,
}

/// A request failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot get {url}: {reason}")]
pub struct TransportError {
    /// What was asked for; without secrets.
    pub url: String,
    /// What to do about it.
    pub kind: TransportErrorKind,
    /// What happened.
    pub reason: String,
    /// When the server wants to be asked again.
    pub retry_after: Option<Duration>,
}

impl TransportError {
    /// Makes an error. What may be secret in the URL is left out.
    pub fn new(url: impl AsRef<str>, kind: TransportErrorKind, reason: impl fmt::Display) -> Self {
        Self {
            url: without_secrets(url.as_ref()),
            kind,
            reason: reason.to_string(),
            retry_after: None,
        }
    }

    /// Returns the coarse kind.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self.kind {
            TransportErrorKind::NotFound => ErrorKind::NotFound,
            TransportErrorKind::Denied | TransportErrorKind::Refused => ErrorKind::Denied,
            TransportErrorKind::Untrusted => ErrorKind::Untrusted,
            TransportErrorKind::TooLarge | TransportErrorKind::Protocol => ErrorKind::Corrupt,
            TransportErrorKind::RangeRefused => ErrorKind::Unsupported,
            TransportErrorKind::Cancelled => ErrorKind::Cancelled,
            _ => ErrorKind::Io,
        }
    }

    /// Returns whether it is about this one file: the server answers, and may have others.
    #[must_use]
    pub const fn is_of_file(&self) -> bool {
        matches!(
            self.kind,
            TransportErrorKind::NotFound
                | TransportErrorKind::Protocol
                | TransportErrorKind::TooLarge
                // Some say so of what is not there.
                | TransportErrorKind::Denied
                | TransportErrorKind::Refused
        )
    }

    /// Returns whether asking the same server again may help.
    #[must_use]
    pub const fn is_temporary(&self) -> bool {
        matches!(self.kind, TransportErrorKind::Temporary)
    }
}

/// Gives the bytes of a site. Called from several threads at once.
///
/// A program may bring its own. The caller verifies every byte, tries again what is [`TransportErrorKind::Temporary`],
/// and goes to another mirror after anything else, so an implementation only has to:
///
/// - bound every wait, and end it soon after the caller asked to stop, if it has been told of the flag;
/// - refuse paths that [`check_path`] refuses;
/// - answer with [`Status::Partial`] only if the body is exactly the range that was asked for. A server that has no
///   ranges may give the whole file, or [`TransportErrorKind::RangeRefused`];
/// - end the body with an error when it is shorter than announced, or longer than [`Request::max_bytes`];
/// - leave secrets out of URLs, reasons and `Debug`.
pub trait Transport: Send + Sync + fmt::Debug {
    /// Returns the address of the site, for messages; without secrets.
    fn url(&self) -> &str;

    /// Asks for a file, or a range of one. Returns when the answer begins; its body is read as it comes.
    fn get(&self, request: &Request<'_>) -> Result<Response, TransportError>;

    /// Returns whether it serves ranges, as far as that is known before one was asked for. Where it is not, the first range is asked for alone:
    /// several at once would be so many whole files.
    fn serves_ranges(&self) -> Option<bool> {
        None
    }
}

/// Leaves out of a URL what is not for messages: a user's name and password, and a query, which may be a signature. A proxy
/// may be named without a scheme. Paths are as they are.
pub(crate) fn without_secrets(url: &str) -> String {
    let (scheme, rest) = match url.find("://") {
        Some(at) => url.split_at(at + 3),
        None => ("", url),
    };
    if scheme.eq_ignore_ascii_case("file://") || (scheme.is_empty() && rest.starts_with('/')) {
        return url.to_owned();
    }
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}{host}{path}")
}

/// Refuses a path that is not plainly beneath a site: parts of letters, digits and `. _ - + :`, none starting with a dot.
pub fn check_path(path: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-+:".contains(c);
    !path.is_empty()
        && path
            .split('/')
            .all(|part| !part.is_empty() && !part.starts_with('.') && part.chars().all(plain))
}

/// A body that may have `left` bytes and no more, and must have `announced` where that is known.
pub(crate) struct Bounded<R> {
    pub(crate) inner: R,
    pub(crate) left: u64,
    pub(crate) announced: Option<u64>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        if len as u64 > self.left {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "the server sends more bytes than the file has",
            ));
        }
        self.left -= len as u64;
        if let Some(announced) = &mut self.announced {
            if len == 0 && *announced > 0 && !buffer.is_empty() {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("the connection ended {announced} bytes early"),
                ));
            }
            *announced = announced.saturating_sub(len as u64);
        }
        Ok(len)
    }
}
