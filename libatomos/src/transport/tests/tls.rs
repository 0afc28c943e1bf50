//! https, with certificates that openssl makes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::testing::skip;
use crate::transport::{ClientCertificate, Clock, HttpOptions, HttpTransport, TransportErrorKind};

use super::server::{Server, answer, fails, read_head, says, whole};

/// An authority, a server at 127.0.0.1 and a client that it vouches for, and another authority.
struct Pki {
    dir: tempfile::TempDir,
}

fn openssl(dir: &Path, args: &str) -> Option<()> {
    let output = Command::new("openssl")
        .args(args.split(' '))
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    assert!(output.status.success(), "openssl {args}: {output:?}");
    Some(())
}

impl Pki {
    /// Returns nothing where there is no openssl.
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let config = "[req]\ndistinguished_name=dn\n[dn]\n[ca]\nbasicConstraints=critical,CA:TRUE\n\
                      [leaf]\nbasicConstraints=CA:FALSE\nsubjectAltName=IP:127.0.0.1,DNS:site.invalid\n";
        std::fs::write(path.join("c"), config).unwrap();
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -config c";
        for ca in ["ca", "other"] {
            let made = openssl(
                path,
                &format!(
                    "req -x509 {key} -extensions ca -subj /CN={ca} -days 2 -keyout {ca}.key -out {ca}.pem"
                ),
            );
            if made.is_none() {
                skip("https", "there is no openssl");
                return None;
            }
        }
        for leaf in ["server", "client"] {
            openssl(
                path,
                &format!("req {key} -subj /CN={leaf} -keyout {leaf}.key -out {leaf}.csr"),
            )?;
            let sign = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile c -extensions leaf";
            openssl(path, &format!("x509 -req -in {leaf}.csr {sign} -out {leaf}.pem"))?;
        }
        Some(Self { dir })
    }

    fn pem(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.dir.path().join(name)).unwrap()
    }

    fn certificate(&self, name: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(&self.pem(name)).unwrap()
    }

    /// Serves https, for clients with a certificate alone if `ask` is set. Says the first line of the request.
    fn serve(&self, ask: bool) -> Server {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if ask {
            let mut roots = RootCertStore::empty();
            roots.add(self.certificate("ca.pem")).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::from_pem_slice(&self.pem("server.key")).unwrap();
        let config = builder
            .with_single_cert(vec![self.certificate("server.pem")], key)
            .unwrap();
        let config = Arc::new(config);
        Server::listen("127.0.0.1:0", move |socket| {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, socket);
            while read_head(&mut stream).is_some() {
                let who = match stream.conn.peer_certificates() {
                    Some(_) => "known",
                    None => "unknown",
                };
                let _ = stream.write_all(answer("200 OK", "", who).as_bytes());
            }
        })
    }

    fn options(&self) -> HttpOptions {
        HttpOptions {
            ca: Some(self.pem("ca.pem")),
            ..HttpOptions::default()
        }
    }

    fn client(&self) -> Option<ClientCertificate> {
        Some(ClientCertificate {
            chain: self.pem("client.pem"),
            key: self.pem("client.key"),
        })
    }
}

fn https(server: &Server, options: HttpOptions) -> HttpTransport {
    HttpTransport::new(&format!("https://{}", server.address), options).unwrap()
}

#[test]
fn a_server_is_believed_by_its_authority_alone() {
    let Some(pki) = Pki::new() else { return };
    let server = pki.serve(false);
    let transport = https(&server, pki.options());
    assert_eq!(whole(&transport).unwrap(), "unknown");
    assert_eq!(whole(&transport).unwrap(), "unknown");
    assert_eq!(server.connections(), 1, "the connection is kept");
    let untrusted = TransportErrorKind::Untrusted;
    fails(
        whole(&https(&server, HttpOptions::default())),
        untrusted,
        "UnknownIssuer",
    );
    let other = HttpOptions {
        ca: Some(pki.pem("other.pem")),
        ..HttpOptions::default()
    };
    fails(whole(&https(&server, other)), untrusted, "certificate");
    // The certificate is for the address, and not for this name.
    let url = format!("https://localhost:{}", server.address.port());
    let transport = HttpTransport::new(&url, pki.options()).unwrap();
    fails(whole(&transport), untrusted, "not valid for name");
}

#[test]
fn a_machine_that_woke_up_in_1970_needs_a_clock_that_knows_better() {
    let Some(pki) = Pki::new() else { return };
    let server = pki.serve(false);
    let now = Clock::default();
    let at = |time: i64| HttpOptions {
        clock: Clock(Arc::new(move || time)),
        ..pki.options()
    };
    let untrusted = TransportErrorKind::Untrusted;
    fails(whole(&https(&server, at(0))), untrusted, "not valid yet");
    fails(whole(&https(&server, at(-1))), untrusted, "not valid yet");
    fails(
        whole(&https(&server, at((now.0)() + 30 * 86400))),
        untrusted,
        "expired",
    );
    assert_eq!(whole(&https(&server, at((now.0)()))).unwrap(), "unknown");
}

#[test]
fn a_time_that_was_seen_helps_a_clock_that_is_behind_and_harms_none_that_is_right() {
    let Some(pki) = Pki::new() else { return };
    let server = pki.serve(false);
    let now = (Clock::default().0)();
    let at = |time: i64, seen: i64| HttpOptions {
        clock: Clock(Arc::new(move || time)),
        seen,
        ..pki.options()
    };
    assert_eq!(whole(&https(&server, at(0, now))).unwrap(), "unknown");
    // Whoever stole a key said that it is another century.
    assert_eq!(whole(&https(&server, at(now, i64::MAX))).unwrap(), "unknown");
    let untrusted = TransportErrorKind::Untrusted;
    fails(whole(&https(&server, at(0, i64::MAX))), untrusted, "expired");
    fails(whole(&https(&server, at(0, 1))), untrusted, "not valid yet");
    fails(
        whole(&https(&server, at(now + 30 * 86400, now))),
        untrusted,
        "expired",
    );
    // Whose certificate it is does not depend on any clock.
    let other = HttpOptions {
        ca: Some(pki.pem("other.pem")),
        ..at(0, now)
    };
    fails(whole(&https(&server, other)), untrusted, "");
}

#[test]
fn a_client_shows_its_certificate_to_its_own_site_alone() {
    let Some(pki) = Pki::new() else { return };
    let with_certificate = || HttpOptions {
        client_certificate: pki.client(),
        ..pki.options()
    };
    let server = pki.serve(true);
    assert_eq!(whole(&https(&server, with_certificate())).unwrap(), "known");
    fails(
        whole(&https(&server, pki.options())),
        TransportErrorKind::Denied,
        "refs/os",
    );
    let location = format!("Location: https://{}/x\r\n", server.address);
    let first = says(answer("302 Found", &location, ""));
    let transport = HttpTransport::new(&format!("http://{}", first.address), with_certificate()).unwrap();
    fails(whole(&transport), TransportErrorKind::Denied, "/x");
}

#[test]
fn files_that_hold_no_certificate_are_told_before_anything_is_sent() {
    let Some(pki) = Pki::new() else { return };
    let server = says("");
    let url = format!("https://{}", server.address);
    let mut bad_ca = pki.options();
    bad_ca.ca = Some(b"nonsense".to_vec());
    let mut bad_key = pki.options();
    bad_key.client_certificate = pki.client().map(|mut client| {
        client.key = pki.pem("server.key");
        client
    });
    let mut no_key = pki.options();
    no_key.client_certificate = pki.client().map(|mut client| {
        client.key = pki.pem("client.pem");
        client
    });
    for options in [bad_ca, bad_key, no_key] {
        let error = HttpTransport::new(&url, options).unwrap_err();
        assert_eq!(error.kind, TransportErrorKind::Local, "{error}");
    }
    assert_eq!(server.connections(), 0);
}

#[test]
fn what_speaks_no_tls_is_not_talked_to() {
    let server = Server::listen("127.0.0.1:0", |mut socket| {
        let _ = socket.read(&mut [0; 512]);
        let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    fails(
        whole(&https(&server, HttpOptions::default())),
        TransportErrorKind::Untrusted,
        "refs/os",
    );
}

/// Copies bytes both ways.
fn tunnel(client: &TcpStream, target: &TcpStream) {
    let copy = |mut from: TcpStream, mut to: TcpStream| {
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Both);
        })
    };
    let clone = |stream: &TcpStream| stream.try_clone().unwrap();
    let there = copy(clone(client), clone(target));
    let back = copy(clone(target), clone(client));
    let _ = (there.join(), back.join());
}

#[test]
fn https_goes_through_a_tunnel_that_the_proxy_cannot_look_into() {
    let Some(pki) = Pki::new() else { return };
    let server = pki.serve(false);
    let target = server.address;
    let proxy = Server::listen("127.0.0.1:0", move |mut client| {
        let head = read_head(&mut client).unwrap_or_default();
        let wanted = head.starts_with("CONNECT site.invalid:8443 HTTP/1.1\r\n")
            && head.contains("Proxy-Authorization: Basic dXNlcjpwdw==\r\n");
        if !wanted {
            let _ = client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n");
            return;
        }
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        tunnel(&client, &TcpStream::connect(target).unwrap());
    });
    let through = |user: &str| {
        let mut options = pki.options();
        options.proxy = Some(format!("http://{user}{}", proxy.address));
        HttpTransport::new("https://site.invalid:8443", options).unwrap()
    };
    let transport = through("user:pw@");
    assert_eq!(whole(&transport).unwrap(), "unknown");
    assert_eq!(whole(&transport).unwrap(), "unknown");
    assert_eq!(proxy.connections(), 1, "the tunnel is kept");
    fails(whole(&through("")), TransportErrorKind::Denied, "407");
}
