#[cfg(feature = "http")]
mod http;
#[cfg(feature = "http")]
mod secrets;
#[cfg(feature = "http")]
mod server;
#[cfg(feature = "http")]
mod tls;

use std::io::Read;

use super::{Bounded, check_path, without_secrets};

#[test]
fn paths_stay_beneath_the_site() {
    for good in ["atomos.json", "refs/os/13.1", "packs/00ff", "refs/a+b_c-d"] {
        assert!(check_path(good), "{good}");
    }
    for bad in [
        "", "/x", "x/", "a//b", "../x", "a/../b", "a/.b", "a b", "a%2f", "a?b", "a\\b", "a\0",
    ] {
        assert!(!check_path(bad), "{bad}");
    }
}

#[test]
fn messages_have_no_secrets_in_their_urls() {
    for (url, shown) in [
        ("https://u:p@host:1/a/b?sig=s", "https://host:1/a/b"),
        ("https://host?token", "https://host"),
        ("http://u@v@host/x@y#z", "http://host/x@y"),
        ("file:///media/a?b@c", "file:///media/a?b@c"),
        ("/media/a?b", "/media/a?b"),
        ("/media/x@y", "/media/x@y"),
        // A proxy, or a typing error, without a scheme.
        ("user:p@127.0.0.1:9", "127.0.0.1:9"),
        ("u:p@q@host/site?sig", "host/site"),
        ("host:80/a@b", "host:80/a@b"),
    ] {
        assert_eq!(without_secrets(url), shown);
    }
}

#[test]
fn a_body_is_neither_longer_nor_shorter_than_it_may_be() {
    let read = |bytes: &'static [u8], left, announced| {
        let mut out = Vec::new();
        let mut body = Bounded {
            inner: bytes,
            left,
            announced,
        };
        body.read_to_end(&mut out).map(|_| out.len())
    };
    assert_eq!(read(b"four", 4, Some(4)).unwrap(), 4);
    assert_eq!(read(b"four", 9, None).unwrap(), 4);
    assert!(read(b"four", 3, None).is_err());
    assert!(read(b"four", 9, Some(5)).is_err());
}
