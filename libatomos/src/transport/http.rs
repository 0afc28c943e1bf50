//! http and https, by ureq and rustls.
//!
//! Connections are kept and used again. Redirects are followed here and not by the client library, because what proves
//! who asks must never reach another host. Nothing is sent compressed beyond what the site's files are.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ureq::http::{StatusCode, Uri, header};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector, TcpConnector};

use crate::cancel::{Cancel, Cancelled};

use super::answer::{Origin, is_range, is_redirect, redirect, refusal};
use super::body::{Pace, Paced};
use super::connection::{ForwardConnector, WatchConnector};
use super::tls::{ClientCertificate, Clock, TlsConnector};
use super::{Bounded, Request, Response, Status, Transport, TransportError, TransportErrorKind, check_path};

/// Redirects that one request may lead through.
const MAX_REDIRECTS: usize = 8;

/// Bytes of an answer that nobody wants, such as a page that says "moved", which are read so that the connection can
/// be used again. For more, a new connection is cheaper.
const MAX_DRAINED: u64 = 16 * 1024;

/// Gives the value of the header `Authorization`.
pub trait Authorization: Send + Sync {
    /// Returns the header's value for `host`, or `None` to send none. `refused` is a value that the server has just
    /// refused: if there may be another by now, it is to be had anew. Called from several threads at once.
    fn value(&self, host: &str, refused: Option<&str>) -> Result<Option<String>, String>;
}

/// How to reach a server.
#[derive(Clone)]
#[non_exhaustive]
pub struct HttpOptions {
    /// Certificate authorities besides the system's, in PEM.
    pub ca: Option<Vec<u8>>,
    /// Shows the site's own host who asks.
    pub client_certificate: Option<ClientCertificate>,
    /// `http://[user:password@]host:port` of a proxy; `https` works, too.
    pub proxy: Option<String>,
    /// Headers for the site's own host.
    pub headers: Vec<(String, String)>,
    /// Who asks, for the site's own host.
    pub authorization: Option<Arc<dyn Authorization>>,
    /// The longest time to connect.
    pub connect_timeout: Duration,
    /// The longest time without a byte.
    pub stall_timeout: Duration,
    /// The least bytes per second, over [`Self::stall_timeout`]: an answer that trickles is as bad as none.
    pub min_rate: u64,
    /// The longest time of waiting for one body.
    pub request_timeout: Option<Duration>,
    /// Tells certificates how late it is.
    pub clock: Clock,
    /// A time that somebody vouched for, in seconds since 1970: a certificate that is not valid yet by the clock may be so by
    /// this one.
    pub seen: i64,
    /// Ends every wait when it is set.
    pub cancel: Cancel,
}

impl std::fmt::Debug for HttpOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Nearly everything else in it may be secret.
        f.debug_struct("HttpOptions")
            .field("connect_timeout", &self.connect_timeout)
            .field("stall_timeout", &self.stall_timeout)
            .finish_non_exhaustive()
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
            min_rate: 100,
            request_timeout: Some(Duration::from_secs(3600)),
            clock: Clock::default(),
            seen: 0,
            cancel: Cancel::new(),
        }
    }
}

/// A site on a web server.
pub struct HttpTransport {
    agent: ureq::Agent,
    base: String,
    origin: Origin,
    options: HttpOptions,
    /// Whether the server has said that it serves ranges.
    ranges: AtomicBool,
}

impl std::fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpTransport")
            .field("url", &self.base)
            .finish_non_exhaustive()
    }
}

type Answer = ureq::http::Response<ureq::Body>;

impl HttpTransport {
    /// Prepares to reach the site at `url`. Nothing is sent yet.
    pub fn new(url: &str, options: HttpOptions) -> Result<Self, TransportError> {
        let local = |reason: String| TransportError::new(url, TransportErrorKind::Local, reason);
        let uri: Uri = url
            .parse()
            .map_err(|error| local(format!("this is no URL: {error}")))?;
        let origin = Origin::of(&uri).ok_or_else(|| local("this is no http or https URL".to_owned()))?;
        let has_user = uri
            .authority()
            .is_some_and(|authority| authority.as_str().contains('@'));
        if uri.query().is_some() || has_user || url.contains('#') {
            return Err(local(
                "a site's URL has neither a query nor a user's name in it".to_owned(),
            ));
        }
        let tls = TlsConnector::new(&options, &origin).map_err(local)?;
        let proxy = match &options.proxy {
            None => None,
            Some(proxy) => Some(
                parse_proxy(proxy).ok_or_else(|| local("its proxy is no http or https URL".to_owned()))?,
            ),
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
            .timeout_resolve(Some(options.connect_timeout))
            .timeout_connect(Some(options.connect_timeout))
            .timeout_send_request(Some(options.stall_timeout))
            .timeout_recv_response(Some(options.stall_timeout))
            .timeout_per_read(Some(options.stall_timeout))
            .build();
        let watch = WatchConnector(options.cancel.clone());
        let forward = ForwardConnector {
            tls: tls.clone(),
            watch: watch.clone(),
        };
        let connector =
            ().chain(forward)
                .chain(ConnectProxyConnector::default())
                .chain(TcpConnector::default())
                .chain(watch)
                .chain(tls);
        Ok(Self {
            agent: ureq::Agent::with_parts(agent_config, connector, DefaultResolver::default()),
            base: url.trim_end_matches('/').to_owned(),
            origin,
            options,
            ranges: AtomicBool::new(false),
        })
    }

    /// Sends the request to `url`. Returns the value of `Authorization` that it took along, too.
    fn send(
        &self,
        url: &Uri,
        request: &Request<'_>,
        refused: Option<&str>,
    ) -> Result<(Answer, Option<String>), TransportError> {
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
        let mut sent = None;
        if Origin::of(url).as_ref() == Some(&self.origin) {
            for (name, value) in &self.options.headers {
                call = call.header(name, value);
            }
            if let Some(authorization) = &self.options.authorization {
                sent = authorization
                    .value(&self.origin.host, refused)
                    .map_err(|reason| {
                        TransportError::new(url.to_string(), TransportErrorKind::Denied, reason)
                    })?;
                if let Some(value) = &sent {
                    call = call.header(header::AUTHORIZATION, value);
                }
            }
        }
        match call.call() {
            Ok(answer) => Ok((answer, sent)),
            Err(error) => Err(self.explain(url, &error)),
        }
    }

    /// Follows redirects, and asks for new credentials once.
    fn follow(&self, request: &Request<'_>) -> Result<(Uri, Answer), TransportError> {
        let first = format!("{}/{}", self.base, request.path);
        let fail = |kind, reason: String| TransportError::new(&first, kind, reason);
        let mut url: Uri = first
            .parse()
            .map_err(|error| fail(TransportErrorKind::Local, format!("this is no URL: {error}")))?;
        let mut redirects = 0;
        let mut refused: Option<String> = None;
        loop {
            let (answer, sent) = self.send(&url, request, refused.as_deref())?;
            if answer.status() == StatusCode::UNAUTHORIZED && refused.is_none() && sent.is_some() {
                refused = sent;
                drain(answer);
            } else if is_redirect(answer.status()) {
                redirects += 1;
                if redirects > MAX_REDIRECTS {
                    return Err(fail(
                        TransportErrorKind::Protocol,
                        format!("it leads through more than {MAX_REDIRECTS} redirects"),
                    ));
                }
                url = redirect(&url, answer.headers())?;
                drain(answer);
            } else {
                return Ok((url, answer));
            }
        }
    }

    fn explain(&self, url: &Uri, error: &ureq::Error) -> TransportError {
        let inner: Option<&(dyn std::error::Error + Send + Sync)> = match error {
            ureq::Error::Io(error) => error.get_ref(),
            ureq::Error::Other(error) => Some(&**error),
            _ => None,
        };
        let (kind, reason) = match (error, inner.and_then(|inner| inner.downcast_ref())) {
            _ if self.options.cancel.is_cancelled() => (TransportErrorKind::Cancelled, Cancelled.to_string()),
            // Alerts come from the server: it does not like what this machine shows, or how it speaks.
            (_, Some(error @ rustls::Error::AlertReceived(_))) => {
                (TransportErrorKind::Denied, error.to_string())
            }
            (_, Some(error)) => (TransportErrorKind::Untrusted, error.to_string()),
            (ureq::Error::Tls(reason), _) => (TransportErrorKind::Untrusted, (*reason).to_owned()),
            // These may repeat what they were given, which may be secret.
            (ureq::Error::BadUri(_), _) => (TransportErrorKind::Local, "this is no URL".to_owned()),
            (ureq::Error::Http(_), _) => (
                TransportErrorKind::Local,
                "a header cannot be sent as it is".to_owned(),
            ),
            (ureq::Error::InvalidProxyUrl, _) => {
                (TransportErrorKind::Local, "the proxy's URL is none".to_owned())
            }
            (ureq::Error::ConnectProxyFailed(reason), _) => {
                // It says so in words.
                let kind = match reason.contains("407") {
                    true => TransportErrorKind::Denied,
                    false => TransportErrorKind::Temporary,
                };
                (kind, format!("there is no connection: {reason}"))
            }
            (ureq::Error::Timeout(what), _) => (
                TransportErrorKind::Temporary,
                format!("the server did not answer in time ({what})"),
            ),
            (ureq::Error::HostNotFound, _) => {
                (TransportErrorKind::Temporary, "the host is not known".to_owned())
            }
            (ureq::Error::Protocol(error), _) => (
                TransportErrorKind::Temporary,
                format!("the server does not speak HTTP: {error}"),
            ),
            (ureq::Error::Io(error), _) => (TransportErrorKind::Temporary, error.to_string()),
            (other, _) => (TransportErrorKind::Temporary, other.to_string()),
        };
        let reason = match &self.options.proxy {
            Some(proxy) if matches!(kind, TransportErrorKind::Temporary | TransportErrorKind::Denied) => {
                format!("{reason}, by the proxy {}", super::without_secrets(proxy))
            }
            _ => reason,
        };
        TransportError::new(url.to_string(), kind, reason)
    }
}

fn parse_proxy(text: &str) -> Option<ureq::Proxy> {
    use ureq::ProxyProtocol::{Http, Https};
    let proxy = ureq::Proxy::new(text).ok()?;
    matches!(proxy.protocol(), Http | Https).then_some(proxy)
}

/// Returns whether this names a proxy that can be used.
pub(crate) fn is_proxy(text: &str) -> bool {
    parse_proxy(text).is_some()
}

/// Reads what is left of a small answer, so that its connection can be used again.
fn drain(answer: Answer) {
    let small = answer
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .is_some_and(|length: u64| length <= MAX_DRAINED);
    if small {
        // If it fails, the connection is not used again, and that is all.
        let _ = io::copy(
            &mut answer.into_body().into_reader().take(MAX_DRAINED),
            &mut io::sink(),
        );
    }
}

impl Transport for HttpTransport {
    fn url(&self) -> &str {
        &self.base
    }

    fn serves_ranges(&self) -> Option<bool> {
        self.ranges.load(Ordering::Relaxed).then_some(true)
    }

    fn get(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        let empty = request.range.as_ref().is_some_and(std::ops::Range::is_empty);
        if !check_path(request.path) || empty {
            let url = format!("{}/{}", self.base, request.path);
            return Err(TransportError::new(
                url,
                TransportErrorKind::Local,
                "this is no path of a site, or no range of a file",
            ));
        }
        let (url, answer) = self.follow(request)?;
        let url = super::without_secrets(&url.to_string());
        let fail = |kind, reason: String| Err(TransportError::new(&url, kind, reason));
        let headers = answer.headers();
        let header = |name| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned)
        };
        if header(header::ACCEPT_RANGES).is_some_and(|unit| unit.eq_ignore_ascii_case("bytes")) {
            self.ranges.store(true, Ordering::Relaxed);
        }
        let status = match (answer.status().as_u16(), &request.range) {
            (200, _) => Status::Whole,
            (206, Some(range)) if is_range(headers, range) => Status::Partial,
            (206, _) => {
                return fail(
                    TransportErrorKind::Protocol,
                    "the server sent another range than was asked for".to_owned(),
                );
            }
            (304, _) if request.if_none_match.is_some() => Status::NotModified,
            (status, range) => {
                let error = refusal(&url, answer.status(), headers, range.is_some());
                // A busy server's word may be followed by a close; what it refused for good is asked otherwise.
                if status < 500 {
                    drain(answer);
                }
                return Err(error);
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
            Status::NotModified => Some(0),
        };
        let (etag, content_type) = (header(header::ETAG), header(header::CONTENT_TYPE));
        let pace = Pace {
            window: self.options.stall_timeout,
            min_rate: self.options.min_rate,
            whole: self.options.request_timeout,
        };
        let reader = answer.into_body().into_with_config().limit(u64::MAX).reader();
        Ok(Response {
            status,
            etag,
            url,
            content_type,
            body: Box::new(Bounded {
                inner: Paced::new(reader, pace),
                left: allowed,
                announced,
            }),
        })
    }
}
