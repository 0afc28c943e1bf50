//! Who asks is nobody's business but the site's own host's.

use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::transport::{Authorization, HttpOptions, HttpTransport, Request, Transport, TransportErrorKind};

use super::server::{Server, answer, fails, impatient, says, transport, whole};

struct Fixed;

impl Authorization for Fixed {
    fn value(&self, _: &str, _: Option<&str>) -> Result<Option<String>, String> {
        Ok(Some("Bearer secret".to_owned()))
    }
}

fn with_secrets() -> HttpOptions {
    HttpOptions {
        headers: vec![("x-key".to_owned(), "secret".to_owned())],
        authorization: Some(Arc::new(Fixed)),
        ..HttpOptions::default()
    }
}

#[test]
fn what_proves_who_asks_never_goes_to_another_host_or_port() {
    for other in ["127.0.0.2:0", "127.0.0.1:0"] {
        let other = Server::start_at(other, |stream, _| {
            let _ = stream.write_all(answer("200 OK", "", "moved").as_bytes());
        });
        let location = format!("Location: {}/elsewhere?signature=s3cr3t\r\n", other.url());
        let server = Server::start(move |stream, head| {
            let text = if head.starts_with("GET /refs/os") {
                answer("302 Found", "Location: /second\r\n", "<html>moved</html>")
            } else {
                answer("307 Temporary Redirect", &location, "")
            };
            let _ = stream.write_all(text.as_bytes());
        });
        let transport = transport(&server, with_secrets());
        let mut response = transport.get(&Request::whole("refs/os", 10)).unwrap();
        let mut text = String::new();
        response.body.read_to_string(&mut text).unwrap();
        assert_eq!(text, "moved");
        assert!(!response.url.contains("s3cr3t"), "{}", response.url);
        let (own, others) = (server.heads(), other.heads());
        assert!(
            own.len() == 2 && own.iter().all(|head| head.contains("Bearer secret")),
            "{own:?}"
        );
        assert!(own.iter().all(|head| head.contains("x-key: secret")), "{own:?}");
        assert_eq!(
            server.connections(),
            1,
            "a small page is read, and the connection is kept"
        );
        assert!(
            others[0].starts_with("GET /elsewhere?signature=s3cr3t "),
            "{others:?}"
        );
        assert!(others.iter().all(|head| !head.contains(" secret")), "{others:?}");
    }
}

#[test]
fn a_ring_of_redirects_ends() {
    let server = says(answer(
        "301 Moved Permanently",
        "Location: /refs/os?again\r\n",
        "",
    ));
    let transport = transport(&server, HttpOptions::default());
    fails(whole(&transport), TransportErrorKind::Protocol, "8 redirects");
    assert_eq!(server.heads().len(), 9);
}

#[test]
fn messages_about_redirects_have_no_secrets() {
    let other = says(answer("500 Oops", "", ""));
    let location = format!("Location: http://user:s3cr3t@{}/x?s3cr3t\r\n", other.address);
    let server = says(answer("302 Found", &location, ""));
    let error = whole(&transport(&server, with_secrets())).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("s3cr3t"), "{error:?}");
    assert!(error.url.ends_with("/x"), "{error}");
}

/// A token that has to be renewed.
#[derive(Default)]
struct Renewed(AtomicUsize);

impl Authorization for Renewed {
    fn value(&self, _: &str, refused: Option<&str>) -> Result<Option<String>, String> {
        if refused.is_some() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Some(format!("Bearer {}", self.0.load(Ordering::Relaxed))))
    }
}

#[test]
fn a_refused_token_is_renewed_once() {
    let good: Arc<Mutex<&str>> = Arc::new(Mutex::new("Bearer 1\r\n"));
    let wanted = Arc::clone(&good);
    let server = Server::start(move |stream, head| {
        let text = match head.contains(*wanted.lock().unwrap()) {
            true => answer("200 OK", "", "x"),
            false => answer("401 Unauthorized", "WWW-Authenticate: Bearer\r\n", "who?"),
        };
        let _ = stream.write_all(text.as_bytes());
    });
    let options = HttpOptions {
        authorization: Some(Arc::new(Renewed::default())),
        ..HttpOptions::default()
    };
    let transport = transport(&server, options);
    assert_eq!(whole(&transport).unwrap(), "x");
    assert_eq!(whole(&transport).unwrap(), "x");
    assert_eq!(server.heads().len(), 3, "the new token is kept");
    *good.lock().unwrap() = "never";
    fails(whole(&transport), TransportErrorKind::Denied, "401");
    assert_eq!(server.heads().len(), 5);
    // Nothing to renew: the answer stands.
    let other = HttpTransport::new(&server.url(), HttpOptions::default()).unwrap();
    fails(whole(&other), TransportErrorKind::Denied, "401");
    assert_eq!(server.heads().len(), 6);
}

#[test]
fn http_goes_through_a_proxy_that_sees_the_whole_url() {
    let proxy = says(answer("200 OK", "", "proxied"));
    let options = HttpOptions {
        proxy: Some(format!("http://user:p%40ss@{}", proxy.address)),
        ..with_secrets()
    };
    let transport = HttpTransport::new("http://site.invalid:8080/a", options).unwrap();
    assert_eq!(whole(&transport).unwrap(), "proxied");
    assert_eq!(whole(&transport).unwrap(), "proxied");
    let heads = proxy.heads();
    assert!(
        heads[1].starts_with("GET http://site.invalid:8080/a/refs/os HTTP/1.1\r\n"),
        "{heads:?}"
    );
    // user:p@ss
    assert!(
        heads[1].contains("Proxy-Authorization: Basic dXNlcjpwQHNz\r\n"),
        "{heads:?}"
    );
    assert!(heads[1].contains("host: site.invalid:8080\r\n"), "{heads:?}");
    assert_eq!(proxy.connections(), 1, "the connection is kept");
}

#[test]
fn a_proxys_password_is_in_no_message() {
    for proxy in [
        "socks5://user:s3cr3t@host",
        "http://user:s3cr3t@",
        "http://user:s3cr3t@127.0.0.1:1",
        "user:s3cr3t@127.0.0.1:1",
    ] {
        let options = HttpOptions {
            proxy: Some(proxy.to_owned()),
            ..impatient()
        };
        let result =
            HttpTransport::new("http://site.invalid", options).and_then(|transport| whole(&transport));
        let error = result.unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cr3t"), "{error}");
        // And it is named: the site may be as it should be.
        assert!(error.to_string().contains("proxy"), "{error}");
    }
}
