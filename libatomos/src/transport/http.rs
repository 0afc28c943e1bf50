//! http and https, by ureq and rustls.
//!
//! Connections are kept and used again. Redirects are followed here and not by the client library, because what proves
//! who asks must never reach another host. Nothing is sent compressed beyond what the site's files are.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ureq::http::{HeaderMap, StatusCode, Uri, header};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector, TcpConnector};

use super::tls::{ClientCertificate, Clock, TlsConnector, config};
use super::{Bounded, Request, Response, Status, Transport, TransportError, TransportErrorKind, check_path};

/// Redirects that one request may lead through.
const MAX_REDIRECTS: usize = 8;

/// The longest that a server can make a client wait by asking for it.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// Gives the value of the header `Authorization`. Asked again when the server refused the last one.
pub trait Authorization: Send + Sync {
    /// Returns the header's value for `host`, or `None` to send none. `refused` is set when the last one was refused.
    fn value(&self, host: &str, refused: bool) -> Result<Option<String>, String>;
}

/// How to reach a server.
#[derive(Clone)]
#[non_exhaustive]
pub struct HttpOptions {
    /// Certificate authorities besides the system's, in PEM.
    pub ca: Option<Vec<u8>>,
    /// Shows who asks.
    pub client_certificate: Option<ClientCertificate>,
    /// `http://[user:password@]host:port` of a proxy.
    pub proxy: Option<String>,
    /// Headers for the site's own host.
    pub headers: Vec<(String, String)>,
    /// Who asks, for the site's own host.
    pub authorization: Option<Arc<dyn Authorization>>,
    /// The longest time to connect.
    pub connect_timeout: Duration,
    /// The longest time without a byte.
    pub stall_timeout: Duration,
    /// The longest time for one request.
    pub request_timeout: Option<Duration>,
    /// Tells certificates how late it is.
    pub clock: Clock,
}

impl std::fmt::Debug for HttpOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpOptions").finish_non_exhaustive()
    }
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            ca: None,
            client_certificate: None,
            proxy: None,
            headers: Vec::new(),
            authorization: None,
            connect_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(30),
            request_timeout: Some(Duration::from_secs(3600)),
            clock: Clock::default(),
        }
    }
}

/// A site on a web server.
pub struct HttpTransport {
    agent: ureq::Agent,
    base: String,
    origin: Origin,
    options: HttpOptions,
    /// Where the last redirect of a path's directory led is not remembered: each request asks the site first.
    refused: Mutex<bool>,
}

impl std::fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpTransport")
            .field("url", &self.base)
            .finish_non_exhaustive()
    }
}

/// Scheme, host and port: what may learn a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    fn of(uri: &Uri) -> Option<Self> {
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

impl HttpTransport {
    /// Prepares to reach the site at `url`. Nothing is sent yet.
    pub fn new(url: &str, options: HttpOptions) -> Result<Self, TransportError> {
        let local = |reason: String| TransportError::new(url, TransportErrorKind::Local, reason);
        let uri: Uri = url
            .parse()
            .map_err(|error| local(format!("this is no URL: {error}")))?;
        let origin = Origin::of(&uri).ok_or_else(|| local("this is no http or https URL".to_owned()))?;
        if uri.query().is_some()
            || uri
                .authority()
                .is_some_and(|authority| authority.as_str().contains('@'))
        {
            return Err(local(
                "a site's URL has neither a query nor a user's name in it".to_owned(),
            ));
        }
        let tls = config(
            options.ca.as_deref(),
            options.client_certificate.as_ref(),
            &options.clock,
        )
        .map_err(local)?;
        let proxy = match &options.proxy {
            None => None,
            Some(proxy) => {
                Some(ureq::Proxy::new(proxy).map_err(|error| local(format!("the proxy: {error}")))?)
            }
        };
        let agent_config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("atomos/", env!("CARGO_PKG_VERSION")))
            .accept("*/*")
            .proxy(proxy)
            .max_idle_connections(32)
            .max_idle_connections_per_host(16)
            .timeout_connect(Some(options.connect_timeout))
            .timeout_recv_response(Some(options.stall_timeout))
            .timeout_per_read(Some(options.stall_timeout))
            .timeout_global(options.request_timeout)
            .build();
        let connector =
            ().chain(ConnectProxyConnector::default())
                .chain(TcpConnector::default())
                .chain(TlsConnector(tls));
        Ok(Self {
            agent: ureq::Agent::with_parts(agent_config, connector, DefaultResolver::default()),
            base: url.trim_end_matches('/').to_owned(),
            origin,
            options,
            refused: Mutex::new(false),
        })
    }

    fn send(
        &self,
        url: &Uri,
        request: &Request<'_>,
    ) -> Result<ureq::http::Response<ureq::Body>, TransportError> {
        let text = url.to_string();
        let mut call = self
            .agent
            .get(url.clone())
            .header(header::ACCEPT_ENCODING, "identity");
        if let Some(range) = &request.range {
            call = call.header(header::RANGE, format!("bytes={}-{}", range.start, range.end - 1));
        }
        if let Some(tag) = request.if_none_match {
            call = call.header(header::IF_NONE_MATCH, tag);
        }
        if Origin::of(url).as_ref() == Some(&self.origin) {
            for (name, value) in &self.options.headers {
                call = call.header(name, value);
            }
            if let Some(authorization) = &self.options.authorization {
                let refused = *self.refused.lock().unwrap_or_else(PoisonError::into_inner);
                let value = authorization
                    .value(&self.origin.host, refused)
                    .map_err(|reason| TransportError::new(&text, TransportErrorKind::Denied, reason))?;
                if let Some(value) = value {
                    call = call.header(header::AUTHORIZATION, value);
                }
            }
        }
        call.call().map_err(|error| classify(&text, &error))
    }

    /// Follows redirects, and asks for new credentials once.
    fn follow(
        &self,
        request: &Request<'_>,
    ) -> Result<(Uri, ureq::http::Response<ureq::Body>), TransportError> {
        let first = format!("{}/{}", self.base, request.path);
        let local = |reason: String| TransportError::new(&first, TransportErrorKind::Local, reason);
        let mut url: Uri = first
            .parse()
            .map_err(|error| local(format!("this is no URL: {error}")))?;
        let mut asked_again = false;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(&url, request)?;
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && self.options.authorization.is_some() && !asked_again {
                asked_again = true;
                *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = true;
                let again = self.send(&url, request);
                *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = false;
                let again = again?;
                if again.status() == StatusCode::UNAUTHORIZED {
                    return Ok((url, again));
                }
                if !again.status().is_redirection() || again.status() == StatusCode::NOT_MODIFIED {
                    return Ok((url, again));
                }
                url = redirect(&url, again.headers())?;
                continue;
            }
            if !status.is_redirection() || status == StatusCode::NOT_MODIFIED {
                return Ok((url, response));
            }
            url = redirect(&url, response.headers())?;
        }
        Err(TransportError::new(
            first,
            TransportErrorKind::Protocol,
            format!("it leads through more than {MAX_REDIRECTS} redirects"),
        ))
    }
}

/// Returns where a redirect leads. From https, never to http.
fn redirect(from: &Uri, headers: &HeaderMap) -> Result<Uri, TransportError> {
    let fail = |reason: &str| TransportError::new(from.to_string(), TransportErrorKind::Protocol, reason);
    let target = headers
        .get(header::LOCATION)
        .and_then(|value| value.to_str().ok())
        .ok_or_else(|| fail("it redirects to nowhere"))?;
    let target = target.split('#').next().unwrap_or_default();
    let absolute = if let Some(rest) = target.strip_prefix("//") {
        format!("{}://{rest}", from.scheme_str().unwrap_or("https"))
    } else if target.contains("://") {
        target.to_owned()
    } else {
        let authority = from.authority().map(ToString::to_string).unwrap_or_default();
        let scheme = from.scheme_str().unwrap_or("https");
        if target.starts_with('/') {
            format!("{scheme}://{authority}{target}")
        } else {
            let dir = from.path().rsplit_once('/').map_or("", |(dir, _)| dir);
            format!("{scheme}://{authority}{dir}/{target}")
        }
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

fn classify(url: &str, error: &ureq::Error) -> TransportError {
    let kind = match error {
        ureq::Error::Tls(_) => TransportErrorKind::Untrusted,
        ureq::Error::BadUri(_) | ureq::Error::InvalidProxyUrl | ureq::Error::Http(_) => {
            TransportErrorKind::Local
        }
        ureq::Error::Io(error) if is_tls(error) => TransportErrorKind::Untrusted,
        ureq::Error::Other(error) if error.is::<rustls::Error>() => TransportErrorKind::Untrusted,
        _ => TransportErrorKind::Temporary,
    };
    TransportError::new(url, kind, explain(error))
}

fn is_tls(error: &std::io::Error) -> bool {
    matches!(
        error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>()),
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_))
    )
}

fn explain(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(what) => format!("the server did not answer in time ({what})"),
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::HostNotFound => "the host is not known".to_owned(),
        other => other.to_string(),
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(header::RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}

/// Judges a status that brings no body.
fn refusal(url: &str, status: StatusCode, headers: &HeaderMap, ranged: bool) -> TransportError {
    let kind = match status.as_u16() {
        400 | 403 | 405 | 416 | 501 if ranged => TransportErrorKind::RangeRefused,
        404 | 410 => TransportErrorKind::NotFound,
        401 | 403 | 407 => TransportErrorKind::Denied,
        408 | 421 | 425 | 429 | 500..=599 => TransportErrorKind::Temporary,
        _ => TransportErrorKind::Protocol,
    };
    let mut error = TransportError::new(url, kind, format!("the server answered {status}"));
    error.retry_after = retry_after(headers);
    error
}

/// Checks `Content-Range: bytes a-b/total` against what was asked for.
fn is_range(headers: &HeaderMap, range: &Range<u64>) -> bool {
    let parse = || {
        let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
        let (bytes, _total) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (start, last) = bytes.split_once('-')?;
        Some((
            start.trim().parse::<u64>().ok()?,
            last.trim().parse::<u64>().ok()?,
        ))
    };
    parse().is_some_and(|(start, last)| start == range.start && last.checked_add(1) == Some(range.end))
}

impl Transport for HttpTransport {
    fn url(&self) -> &str {
        &self.base
    }

    fn get(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        if !check_path(request.path) {
            let url = format!("{}/{}", self.base, request.path);
            return Err(TransportError::new(
                url,
                TransportErrorKind::Local,
                "this is no path of a site",
            ));
        }
        let (url, response) = self.follow(request)?;
        // A query may be a signature: it is not for messages.
        let url = url.to_string().split('?').next().unwrap_or_default().to_owned();
        let fail = |kind, reason: String| Err(TransportError::new(&url, kind, reason));
        let headers = response.headers();
        let header = |name| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned)
        };
        let status = match (response.status().as_u16(), &request.range) {
            (200, _) => Status::Whole,
            (206, Some(range)) if is_range(headers, range) => Status::Partial,
            (206, _) => {
                return fail(
                    TransportErrorKind::Protocol,
                    "the server sent another range than was asked for".to_owned(),
                );
            }
            (304, _) if request.if_none_match.is_some() => Status::NotModified,
            _ => {
                let ranged = request.range.is_some();
                return Err(refusal(&url, response.status(), headers, ranged));
            }
        };
        if let Some(encoding) = header(header::CONTENT_ENCODING)
            && !encoding.eq_ignore_ascii_case("identity")
        {
            return fail(
                TransportErrorKind::Protocol,
                format!("the server sent it as {encoding:?}, which nobody asked for"),
            );
        }
        let allowed = match (status, &request.range) {
            (Status::Partial, Some(range)) => range.end - range.start,
            _ => request.max_bytes,
        };
        let length = header(header::CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
        if let Some(length) = length
            && length > allowed
            && status != Status::NotModified
        {
            return fail(
                TransportErrorKind::TooLarge,
                format!("the server announces {length} bytes, and there are {allowed} at most"),
            );
        }
        let announced = match status {
            Status::Partial => Some(allowed),
            Status::Whole => length,
            Status::NotModified => None,
        };
        let (etag, content_type) = (header(header::ETAG), header(header::CONTENT_TYPE));
        let reader = response.into_body().into_with_config().limit(u64::MAX).reader();
        Ok(Response {
            status,
            etag,
            url,
            content_type,
            body: Box::new(Bounded {
                inner: reader,
                left: allowed,
                announced,
            }),
        })
    }
}
