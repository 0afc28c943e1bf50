//! The head of a request: bytes to a value, without a socket in sight.

use std::fmt;

/// The most bytes that the head of a request may have.
pub(crate) const MAX_HEAD: usize = 16 * 1024;

/// The most header lines. More are a sign of somebody trying.
const MAX_HEADERS: usize = 100;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method, as it was sent.
    pub method: String,
    /// What follows it, as it was sent: a path, or the whole address where the client takes this for a proxy.
    pub target: String,
    /// The path beneath the directory, decoded, without a `/` before it and without a query.
    pub path: String,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// Whether the connection may be used again.
    pub(crate) keep_alive: bool,
}

/// Why a head is not understood: the status to answer with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused(pub(crate) u16);

impl Request {
    /// Returns the value of the first header called `name`, which is in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// Returns whether only the head of the answer is wanted.
    pub(crate) fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// Reads a head, up to and with the empty line.
    pub(crate) fn parse(head: &[u8]) -> Result<Self, Refused> {
        const BAD: Refused = Refused(400);
        let text = std::str::from_utf8(head).map_err(|_| BAD)?;
        let mut lines = text
            .split('\n')
            .map(|line| line.strip_suffix('\r').unwrap_or(line));
        let mut first = lines.next().unwrap_or_default().split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (first.next(), first.next(), first.next(), first.next())
        else {
            return Err(BAD);
        };
        if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return Err(BAD);
        }
        let newest = match version {
            "HTTP/1.1" => true,
            "HTTP/1.0" => false,
            _ if version.starts_with("HTTP/") => return Err(Refused(505)),
            _ => return Err(BAD),
        };
        let mut headers = Vec::new();
        for line in lines.take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').ok_or(BAD)?;
            if name.is_empty()
                || !name.bytes().all(is_token)
                || value.contains(|c: char| c.is_control() && c != '\t')
            {
                return Err(BAD);
            }
            if headers.len() == MAX_HEADERS {
                return Err(Refused(431));
            }
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut request = Self {
            method: method.to_owned(),
            target: target.to_owned(),
            path: path_of(target).ok_or(BAD)?,
            headers,
            keep_alive: newest,
        };
        if newest && request.header("host").is_none() {
            return Err(BAD);
        }
        let closes = |value: &str| {
            value
                .split(',')
                .any(|word| word.trim().eq_ignore_ascii_case("close"))
        };
        let has_body = request.header("transfer-encoding").is_some()
            || request
                .header("content-length")
                .is_some_and(|length| length != "0");
        // Nothing here wants a body; the connection ends instead of reading one.
        request.keep_alive &= !has_body && !request.header("connection").is_some_and(closes);
        Ok(request)
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.target)
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Returns the decoded path of a request's target; `None` if it has none, or one that climbs.
fn path_of(target: &str) -> Option<String> {
    let path = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => target,
    };
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let decoded = decode(path.strip_prefix('/')?)?;
    let climbs = decoded.split('/').any(|part| part == "..");
    (!climbs && !decoded.contains('\0')).then_some(decoded)
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let digit = |byte: u8| (byte as char).to_digit(16);
            u8::try_from(digit(rest.next()?)? * 16 + digit(rest.next()?)?).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::{Refused, Request};

    fn parse(head: &str) -> Result<Request, Refused> {
        Request::parse(head.as_bytes())
    }

    #[test]
    fn a_head_is_read() {
        let request =
            parse("GET /refs/os%2f13?x=1 HTTP/1.1\r\nHost: x\r\nRANGE:  bytes=0-1 \r\n\r\n").unwrap();
        assert_eq!(
            (request.method.as_str(), request.path.as_str()),
            ("GET", "refs/os/13")
        );
        assert_eq!(request.header("range"), Some("bytes=0-1"));
        assert!(request.keep_alive);
        assert_eq!(parse("GET / HTTP/1.1\nhost:x\n\n").unwrap().path, "");
        let proxied = parse("GET http://other:80/a/b HTTP/1.1\r\nHost: other\r\n\r\n").unwrap();
        assert_eq!(proxied.path, "a/b");
    }

    #[test]
    fn a_connection_is_kept_only_where_both_know_its_next_byte() {
        for (head, keep) in [
            ("GET / HTTP/1.0\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nHost: x\r\nConnection: Close\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", true),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
                false,
            ),
        ] {
            assert_eq!(parse(head).unwrap().keep_alive, keep, "{head}");
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for head in [
            "",
            "\r\n",
            "GET\r\n\r\n",
            "GET /\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n",
            "GET x HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /../x HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /a/%2e%2e/x HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /%f HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /%+f HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /%ff HTTP/1.1\r\nHost: x\r\n\r\n",
            "G\u{e9}T / HTTP/1.1\r\nHost: x\r\n\r\n",
        ] {
            assert_eq!(parse(head).unwrap_err(), Refused(400), "{head}");
        }
        assert_eq!(
            parse("GET / HTTP/2.0\r\nHost: x\r\n\r\n").unwrap_err(),
            Refused(505)
        );
        let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "a: b\r\n".repeat(200));
        assert_eq!(parse(&many).unwrap_err(), Refused(431));
    }
}
