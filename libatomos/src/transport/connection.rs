//! Connections: one that can be given up while it waits, and one through a proxy.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, NextTimeout, TcpConnector, Transport, time,
};

use crate::cancel::{Cancel, Cancelled};

use super::tls::TlsConnector;

/// How long a wait for bytes may last before somebody looks whether to go on.
const SLICE: Duration = Duration::from_millis(100);

/// Wraps connections so that a wait on them ends soon after the caller asked to stop.
#[derive(Clone)]
pub(super) struct WatchConnector(pub(super) Cancel);

impl fmt::Debug for WatchConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WatchConnector")
    }
}

impl<In: Transport> Connector<In> for WatchConnector {
    type Out = Watched<In>;

    fn connect(
        &self,
        _: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        Ok(chained.map(|inner| Watched {
            inner,
            cancel: self.0.clone(),
        }))
    }
}

/// A connection that looks at a flag while it waits.
#[derive(Debug)]
pub(super) struct Watched<T> {
    inner: T,
    cancel: Cancel,
}

impl<T: Transport> Transport for Watched<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let timeout = timeout.for_read();
        let started = Instant::now();
        loop {
            if self.cancel.is_cancelled() {
                return Err(io::Error::other(Cancelled).into());
            }
            let left = timeout.after.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Err(ureq::Error::Timeout(timeout.reason));
            }
            let slice = NextTimeout {
                after: time::Duration::Exact(left.min(SLICE)),
                reason: timeout.reason,
                ..NextTimeout::default()
            };
            match self.inner.await_input(slice) {
                Err(ureq::Error::Timeout(_)) => {}
                other => return other,
            }
        }
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

/// Reaches http sites through a proxy by asking it for the whole URL. The client library would open a tunnel, as for https;
/// many proxies refuse tunnels to the port of http, and none of them can keep what went through one.
pub(super) struct ForwardConnector {
    pub(super) tls: TlsConnector,
    pub(super) watch: WatchConnector,
}

impl fmt::Debug for ForwardConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ForwardConnector")
    }
}

impl<In: Transport> Connector<In> for ForwardConnector {
    type Out = Either<In, Forward>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        if let Some(chained) = chained {
            return Ok(Some(Either::A(chained)));
        }
        let Some(proxy) = details.config.proxy() else {
            return Ok(None);
        };
        // A tunnel's first connection comes by here too, and it must not be led to itself.
        if details.uri.scheme_str() != Some("http") || details.uri == proxy.uri() {
            return Ok(None);
        }
        let to_proxy = ConnectionDetails {
            uri: proxy.uri(),
            addrs: details
                .resolver
                .resolve(proxy.uri(), details.config, details.timeout)?,
            config: details.config,
            request_level: details.request_level,
            resolver: details.resolver,
            now: details.now,
            timeout: details.timeout,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: details.register_shutdown.clone(),
        };
        let tcp = TcpConnector::default().connect(&to_proxy, None::<()>)?;
        let watched = self.watch.connect(&to_proxy, tcp)?;
        let Some(inner) = self.tls.connect(&to_proxy, watched)? else {
            return Err(ureq::Error::ConnectionFailed);
        };
        let authority = match (details.uri.host(), details.uri.port_u16()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (Some(host), None) => host.to_owned(),
            (None, _) => return Err(ureq::Error::BadUri("it has no host".to_owned())),
        };
        let authorization = proxy.username().or(proxy.password()).map(|_| {
            let (user, password) = (
                proxy.username().unwrap_or_default(),
                proxy.password().unwrap_or_default(),
            );
            STANDARD.encode(format!("{user}:{password}"))
        });
        Ok(Some(Either::B(Forward {
            inner: inner.boxed(),
            site: format!("http://{authority}"),
            authorization,
            head: Vec::new(),
        })))
    }
}

/// A connection to a proxy, on which requests name the whole URL.
pub(super) struct Forward {
    inner: Box<dyn Transport>,
    site: String,
    authorization: Option<String>,
    /// The head of a request that is not complete yet.
    head: Vec<u8>,
}

impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward")
            .field("site", &self.site)
            .finish_non_exhaustive()
    }
}

/// Makes `GET /path …` a request to a proxy. `None` for what is no such head.
fn absolute(head: &[u8], site: &str, authorization: Option<&str>) -> Option<Vec<u8>> {
    let rest = head.strip_prefix(b"GET ")?;
    let line_end = rest.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let mut new = Vec::with_capacity(head.len() + site.len() + 128);
    new.extend_from_slice(b"GET ");
    new.extend_from_slice(site.as_bytes());
    new.extend_from_slice(&rest[..line_end]);
    if let Some(authorization) = authorization {
        new.extend_from_slice(format!("Proxy-Authorization: Basic {authorization}\r\n").as_bytes());
    }
    new.extend_from_slice(&rest[line_end..]);
    Some(new)
}

impl Transport for Forward {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let output = self.inner.buffers().output();
        self.head.extend_from_slice(&output[..amount]);
        // Requests have no bodies, so each ends with its head.
        if !self.head.ends_with(b"\r\n\r\n") {
            return Ok(());
        }
        let head = absolute(&self.head, &self.site, self.authorization.as_deref());
        self.head.clear();
        let output = self.inner.buffers().output();
        match head {
            Some(head) if head.len() <= output.len() => {
                output[..head.len()].copy_from_slice(&head);
                self.inner.transmit_output(head.len(), timeout)
            }
            _ => Err(io::Error::other("the request is too long for the proxy").into()),
        }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }
}

#[cfg(test)]
mod tests {
    use super::absolute;

    #[test]
    fn a_proxy_is_asked_for_the_whole_url() {
        let head = b"GET /refs/os HTTP/1.1\r\nhost: site\r\n\r\n";
        assert_eq!(
            absolute(head, "http://site", Some("eA==")).unwrap(),
            b"GET http://site/refs/os HTTP/1.1\r\nProxy-Authorization: Basic eA==\r\nhost: site\r\n\r\n"
        );
        assert_eq!(absolute(b"HEAD / HTTP/1.1\r\n\r\n", "http://site", None), None);
    }
}
