//! What an answer's status and headers say, and where a redirect leads. Pure functions.

use std::ops::Range;
use std::time::Duration;

use ureq::http::{HeaderMap, StatusCode, Uri, header};

use super::{TransportError, TransportErrorKind};

/// The longest that a server can make a client wait by asking for it.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// Scheme, host and port: what may learn a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) scheme: String,
    pub(super) host: String,
    pub(super) port: u16,
}

impl Origin {
    pub(super) fn of(uri: &Uri) -> Option<Self> {
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let port = match (uri.port_u16(), scheme.as_str()) {
            (Some(port), "http" | "https") => port,
            (None, "http") => 80,
            (None, "https") => 443,
            _ => return None,
        };
        Some(Self {
            host: uri.host()?.to_ascii_lowercase(),
            scheme,
            port,
        })
    }
}

/// Returns whether two URLs are of one server: what may learn a secret of one may learn it by the other.
pub(crate) fn is_same_origin(a: &str, b: &str) -> bool {
    let origin = |url: &str| url.parse().ok().as_ref().and_then(Origin::of);
    origin(a).is_some_and(|a| Some(a) == origin(b))
}

/// Returns whether the status sends the client elsewhere.
pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Returns where a redirect leads. From https, never to http.
pub(super) fn redirect(from: &Uri, headers: &HeaderMap) -> Result<Uri, TransportError> {
    let fail = |reason: &str| TransportError::new(from.to_string(), TransportErrorKind::Protocol, reason);
    let target = headers
        .get(header::LOCATION)
        .and_then(|value| value.to_str().ok())
        .ok_or_else(|| fail("it redirects to nowhere"))?;
    let target = target.split('#').next().unwrap_or_default();
    let scheme = from.scheme_str().unwrap_or("https");
    let authority = from.authority().map(ToString::to_string).unwrap_or_default();
    let absolute = if let Some(rest) = target.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if target.contains("://") {
        target.to_owned()
    } else if target.starts_with('/') {
        format!("{scheme}://{authority}{target}")
    } else {
        let dir = from.path().rsplit_once('/').map_or("", |(dir, _)| dir);
        format!("{scheme}://{authority}{dir}/{target}")
    };
    let url: Uri = absolute
        .parse()
        .map_err(|_| fail("it redirects to what is no URL"))?;
    match Origin::of(&url) {
        None => Err(fail("it redirects to what is neither http nor https")),
        Some(origin) if from.scheme_str() == Some("https") && origin.scheme == "http" => {
            Err(fail("it redirects from https to http"))
        }
        Some(_) => Ok(url),
    }
}

/// Returns how long the server wants to be left alone. A date instead of seconds is not understood: backing off is.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    let seconds = text.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}

/// Judges a status that brings no body.
pub(super) fn refusal(url: &str, status: StatusCode, headers: &HeaderMap, ranged: bool) -> TransportError {
    let kind = match status.as_u16() {
        400 | 403 | 405 | 416 | 501 if ranged => TransportErrorKind::RangeRefused,
        404 | 410 => TransportErrorKind::NotFound,
        401 | 403 | 407 => TransportErrorKind::Denied,
        408 | 421 | 425 | 429 | 500..=599 => TransportErrorKind::Temporary,
        // Nothing is wrong with a file.
        400..=499 => TransportErrorKind::Refused,
        _ => TransportErrorKind::Protocol,
    };
    let who = if status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        "the proxy"
    } else {
        "the server"
    };
    let mut error = TransportError::new(url, kind, format!("{who} answered {status}"));
    error.retry_after = retry_after(headers);
    error
}

/// Checks `Content-Range: bytes a-b/total` against what was asked for.
pub(super) fn is_range(headers: &HeaderMap, range: &Range<u64>) -> bool {
    let parse = || {
        let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
        let (unit, rest) = text.split_once(' ')?;
        let (bytes, _total) = rest.split_once('/')?;
        let (start, last) = bytes.split_once('-')?;
        let number = |text: &str| text.trim().parse::<u64>().ok();
        unit.eq_ignore_ascii_case("bytes")
            .then_some((number(start)?, number(last)?))
    };
    parse().is_some_and(|(start, last)| start == range.start && last.checked_add(1) == Some(range.end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ureq::http::HeaderValue;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).unwrap());
        headers
    }

    #[test]
    fn redirects_lead_where_browsers_would_go_and_never_out_of_tls() {
        let from: Uri = "https://a.example:8443/site/refs/os".parse().unwrap();
        let to =
            |target: &str| redirect(&from, &headers(header::LOCATION, target)).map(|url| url.to_string());
        for (target, url) in [
            ("https://b.example/x", "https://b.example/x"),
            ("//b.example/x", "https://b.example/x"),
            ("/x?y=z#frag", "https://a.example:8443/x?y=z"),
            ("old", "https://a.example:8443/site/refs/old"),
        ] {
            assert_eq!(to(target).unwrap(), url);
        }
        for target in [
            "http://a.example/x",
            "ftp://a.example/x",
            "file:///etc/passwd",
            "http://",
        ] {
            assert!(to(target).is_err(), "{target}");
        }
        assert!(redirect(&from, &HeaderMap::new()).is_err());
    }

    #[test]
    fn only_the_range_that_was_asked_for_will_do() {
        let is = |text: &str| is_range(&headers(header::CONTENT_RANGE, text), &(10..20));
        assert!(is("bytes 10-19/100"));
        assert!(is("Bytes 10-19/*"));
        for text in [
            "bytes 10-20/100",
            "bytes 9-19/100",
            "bytes 0-9/10",
            "bytes */100",
            "bytes 10-18446744073709551615/100",
            "items 10-19/100",
            "bytes=10-19",
            "10-19",
        ] {
            assert!(!is(text), "{text}");
        }
        assert!(!is_range(&HeaderMap::new(), &(10..20)));
    }

    #[test]
    fn a_server_cannot_make_a_client_wait_for_ever() {
        let wait = |text: &str| retry_after(&headers(header::RETRY_AFTER, text));
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("99999999999"), Some(MAX_RETRY_AFTER));
        for text in ["-1", "Fri, 31 Dec 1999 23:59:59 GMT", ""] {
            assert_eq!(wait(text), None, "{text}");
        }
    }

    #[test]
    fn a_status_says_what_to_do_next() {
        use TransportErrorKind::{Denied, NotFound, Protocol, RangeRefused, Refused, Temporary};
        let kind = |status, ranged| {
            let status = StatusCode::from_u16(status).unwrap();
            refusal("u", status, &HeaderMap::new(), ranged).kind
        };
        for (status, ranged, expected) in [
            (416, true, RangeRefused),
            (403, true, RangeRefused),
            (501, true, RangeRefused),
            (403, false, Denied),
            (401, true, Denied),
            (404, true, NotFound),
            (500, true, Temporary),
            (501, false, Temporary),
            (429, false, Temporary),
            (407, false, Denied),
            (418, false, Refused),
            (400, false, Refused),
            (413, false, Refused),
            (204, false, Protocol),
        ] {
            assert_eq!(kind(status, ranged), expected, "{status}");
        }
    }
}
