//! What a server does wrong, and when.

use std::sync::Mutex;
use std::time::Duration;

use crate::request::Request;

/// One way to misbehave.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Deed {
    /// A page of HTML instead of the file, with status 200: what captive portals do.
    Html,
    /// An answer with this status and a few words of text.
    Status(u16),
    /// `503` with `Retry-After`, in seconds.
    Unavailable(u64),
    /// The whole file with status 200, although a range was asked for. Only for requests with a range.
    IgnoreRange,
    /// As a server that has no ranges: the whole file always, and no word of them.
    NoRanges,
    /// `501` to a range. Only for requests with a range.
    RefuseRange,
    /// `206` with a range that starts this many bytes later, and says so. Only for requests with a range.
    WrongRange(u64),
    /// `206` with the bytes of a range that starts this many bytes later, and says that they are the right ones. Only
    /// for requests with a range.
    LyingRange(u64),
    /// A `Content-Length` that says this many bytes more than there are; the connection ends after them.
    LongLength(u64),
    /// A `Content-Length` that says this many bytes less than are sent, on a connection that is kept.
    ShortLength(u64),
    /// The body compressed with gzip, as `Content-Encoding` says.
    Gzip,
    /// This many bytes at a time, with a pause after each.
    Trickle(usize, Duration),
    /// The head and this many bytes of the body, and then silence on an open connection.
    Stall(u64),
    /// Silence from the start.
    Silence,
    /// The head and this many bytes of the body, and then a reset of the connection.
    Reset(u64),
    /// The head and this many bytes of the body, and then the end of the connection.
    Close(u64),
    /// The connection ends without a word.
    Hangup,
    /// A body without an announced length, that goes on until the client has had enough.
    Endless,
    /// A redirect to where the client is.
    RedirectLoop,
    /// A redirect to the same path beneath another address, such as `http://127.0.0.1:1234`.
    Redirect(String),
    /// Another file, of this path.
    Swap(String),
    /// These bytes, as if they were the file's.
    Bytes(Vec<u8>),
    /// One bit wrong, in the byte at this offset of the file; answers without that byte are right.
    Flip(u64),
    /// `304`, although nothing was asked on a condition.
    NotModified,
    /// Bytes that are no HTTP.
    Garbage,
}

impl Deed {
    /// Returns whether it is only done to a request with a range.
    const fn needs_range(&self) -> bool {
        matches!(
            self,
            Self::IgnoreRange | Self::RefuseRange | Self::WrongRange(_) | Self::LyingRange(_)
        )
    }
}

/// A deed, and the requests that it is done to.
///
/// ```
/// use atomos_httpd::testing::{Deed, Fault};
///
/// // The second and third request for a pack end after 1000 bytes.
/// let fault = Fault::on("packs/", Deed::Close(1000)).after(1).times(2);
/// // Half of all requests fail, which ones is decided by the seed.
/// let flaky = Fault::on("", Deed::Status(500)).odds(0.5, 42);
/// # let _ = (fault, flaky);
/// ```
#[derive(Debug)]
pub struct Fault {
    prefix: String,
    deed: Deed,
    only_ranges: bool,
    after: u64,
    times: u64,
    odds: Option<(f64, u64)>,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Requests that matched.
    matched: u64,
    /// Requests that it was done to.
    done: u64,
    /// What was asked for so far, for [`Fault::odds`].
    asked: Vec<(String, Option<String>)>,
}

impl Fault {
    /// Does `deed` to every request whose path, without the first `/`, begins with `prefix`.
    #[must_use]
    pub fn on(prefix: impl Into<String>, deed: Deed) -> Self {
        Self {
            prefix: prefix.into(),
            only_ranges: deed.needs_range(),
            deed,
            after: 0,
            times: u64::MAX,
            odds: None,
            counts: Mutex::default(),
        }
    }

    /// Lets the first `count` requests that match go unharmed.
    #[must_use]
    pub const fn after(mut self, count: u64) -> Self {
        self.after = count;
        self
    }

    /// Stops after `count` requests.
    #[must_use]
    pub const fn times(mut self, count: u64) -> Self {
        self.times = count;
        self
    }

    /// Matches only requests with a range.
    #[must_use]
    pub const fn only_ranges(mut self) -> Self {
        self.only_ranges = true;
        self
    }

    /// Happens with this probability. The draw depends on the seed, on what is asked for, and on how often that was
    /// asked for before: not on the order in which different requests arrive.
    #[must_use]
    pub const fn odds(mut self, odds: f64, seed: u64) -> Self {
        self.odds = Some((odds, seed));
        self
    }

    /// Returns the deed, if it is this request's turn, and counts it.
    pub(super) fn strike(&self, request: &Request) -> Option<Deed> {
        let range = request.header("range");
        if !request.path.starts_with(&self.prefix) || (self.only_ranges && range.is_none()) {
            return None;
        }
        let mut counts = self.counts.lock().unwrap();
        let earlier = counts.matched;
        counts.matched += 1;
        if earlier < self.after || counts.done >= self.times {
            return None;
        }
        if let Some((odds, seed)) = self.odds {
            let asked = (request.path.clone(), range.map(str::to_owned));
            let before = counts.asked.iter().filter(|other| **other == asked).count() as u64;
            let key = format!("{seed} {} {:?} {before}", asked.0, asked.1);
            counts.asked.push(asked);
            if draw(key.as_bytes()) >= odds {
                return None;
            }
        }
        counts.done += 1;
        Some(self.deed.clone())
    }
}

/// Returns a number from 0 up to 1 that depends on the bytes: FNV-1a, and a mixer, since similar keys must differ.
fn draw(key: &[u8]) -> f64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in key {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    ((hash ^ (hash >> 33)) >> 11) as f64 / (1_u64 << 53) as f64
}
