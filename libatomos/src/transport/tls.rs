//! TLS for the http transport: rustls, with the roots of this system and those that were given, and with a clock that
//! may be ahead of the machine's: one that boots in 1970 would take every certificate for one of the future.

use std::fmt;
use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
    StreamOwned,
};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

use super::answer::Origin;
use super::http::HttpOptions;

/// Returns the time in seconds since 1970.
#[derive(Clone)]
pub struct Clock(pub Arc<dyn Fn() -> i64 + Send + Sync>);

impl Default for Clock {
    fn default() -> Self {
        Self(Arc::new(|| {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            since.map_or(0, |time| time.as_secs() as i64)
        }))
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

impl rustls::time_provider::TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time((self.0)()))
    }
}

/// Shows the server who asks.
#[derive(Clone)]
pub struct ClientCertificate {
    /// The certificate and those that lead to it, in PEM.
    pub chain: Vec<u8>,
    /// Its key, in PEM.
    pub key: Vec<u8>,
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientCertificate")
    }
}

/// Judges certificates as of the clock, and what is not valid yet as of the time that was seen, if that is later.
///
/// Not the later one of both alone: whoever once had a publisher's key may have signed that it is another century, and every
/// certificate would have expired then. The new key set, which ends that, could not be fetched.
#[derive(Debug)]
struct TwoClocks {
    inner: Arc<WebPkiServerVerifier>,
    seen: UnixTime,
}

impl ServerCertVerifier for TwoClocks {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let judge = |now| {
            self.inner
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        };
        match judge(now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
            )) if now < self.seen => judge(self.seen),
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

fn unix_time(seconds: i64) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(
        u64::try_from(seconds).unwrap_or(0),
    ))
}

/// Makes the configuration. `extra` are certificate authorities in PEM.
fn config(
    extra: Option<&[u8]>,
    client: Option<&ClientCertificate>,
    clock: &Clock,
    seen: i64,
) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    // One unreadable certificate of the system must not make the others useless.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(extra) = extra {
        for certificate in certificates(extra)? {
            roots
                .add(certificate)
                .map_err(|error| format!("the certificate authority cannot be used: {error}"))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_details(Arc::clone(&provider), Arc::new(clock.clone()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if roots.is_empty() {
        // Then no https server can be trusted; http and directories need none.
        builder.with_root_certificates(roots)
    } else {
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| error.to_string())?;
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TwoClocks {
                inner: verifier,
                seen: unix_time(seen),
            }))
    };
    let config = match client {
        None => builder.with_no_client_auth(),
        Some(client) => {
            let key = PrivateKeyDer::from_pem_slice(&client.key)
                .map_err(|error| format!("the client's key cannot be read: {error}"))?;
            builder
                .with_client_auth_cert(certificates(&client.chain)?, key)
                .map_err(|error| format!("the client's certificate cannot be used: {error}"))?
        }
    };
    Ok(Arc::new(config))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("a certificate cannot be read: {error}"))?;
    if certificates.is_empty() {
        return Err("there is no certificate in the file".to_owned());
    }
    Ok(certificates)
}

/// Wraps connections to https servers. This machine's certificate is shown to the site's own host alone.
#[derive(Clone)]
pub(super) struct TlsConnector(Arc<Inner>);

struct Inner {
    origin: Origin,
    ca: Option<Vec<u8>>,
    clock: Clock,
    seen: i64,
    /// For the site's own host.
    own: Option<Arc<ClientConfig>>,
    /// For others. Reading the system's certificates takes milliseconds, which a site without https need not spend.
    other: OnceLock<Result<Arc<ClientConfig>, String>>,
}

impl TlsConnector {
    pub(super) fn new(options: &HttpOptions, origin: &Origin) -> Result<Self, String> {
        let client = options.client_certificate.as_ref();
        let wanted = origin.scheme == "https" || options.ca.is_some() || client.is_some();
        let own = if wanted {
            Some(config(
                options.ca.as_deref(),
                client,
                &options.clock,
                options.seen,
            )?)
        } else {
            None
        };
        Ok(Self(Arc::new(Inner {
            origin: origin.clone(),
            ca: options.ca.clone(),
            clock: options.clock.clone(),
            seen: options.seen,
            own,
            other: OnceLock::new(),
        })))
    }

    fn config_for(&self, uri: &ureq::http::Uri) -> Result<Arc<ClientConfig>, ureq::Error> {
        let inner = &self.0;
        if let Some(own) = &inner.own
            && Origin::of(uri).as_ref() == Some(&inner.origin)
        {
            return Ok(Arc::clone(own));
        }
        inner
            .other
            .get_or_init(|| config(inner.ca.as_deref(), None, &inner.clock, inner.seen))
            .clone()
            .map_err(|_| ureq::Error::Tls("the system's certificates cannot be used"))
    }
}

impl fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsConnector")
    }
}

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Either<In, TlsTransport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else {
            return Ok(None);
        };
        if !details.needs_tls() || transport.is_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| ureq::Error::Tls("the host's name is no name"))?;
        let mut connection = ClientConnection::new(self.config_for(details.uri)?, name)
            .map_err(|error| ureq::Error::Other(Box::new(error)))?;
        let mut socket = TransportAdapter::new(transport.boxed(), Arc::clone(&details.current_time));
        socket.set_timeout(details.timeout);
        connection.complete_io(&mut socket)?;
        let buffers = LazyBuffers::new(
            details.config.input_buffer_size(),
            details.config.output_buffer_size(),
        );
        Ok(Some(Either::B(TlsTransport {
            buffers,
            stream: StreamOwned {
                conn: connection,
                sock: socket,
            },
        })))
    }
}

/// A connection inside TLS.
pub(super) struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsTransport")
    }
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        let output = &self.buffers.output()[..amount];
        self.stream.write_all(output)?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        let input = self.buffers.input_append_buf();
        let amount = self.stream.read(input)?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.get_mut().get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}
