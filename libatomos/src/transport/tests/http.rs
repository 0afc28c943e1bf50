use std::io::Write;
use std::time::Duration;

use crate::cancel::Cancel;
use crate::transport::{HttpOptions, HttpTransport, Request, Status, TransportErrorKind};

use super::server::{
    Handler, Server, answer, fails, hang, impatient, range, read, read_head, says, transport, whole,
};

#[test]
fn one_connection_does_for_many_requests() {
    let server = Server::start(|stream, head| {
        let text = if head.contains("range: bytes=2-5\r\n") {
            answer("206 Partial Content", "Content-Range: bytes 2-5/10\r\n", "2345")
        } else if head.contains("if-none-match: \"t\"\r\n") {
            "HTTP/1.1 304 Not Modified\r\nETag: \"t\"\r\n\r\n".to_owned()
        } else if head.starts_with("GET /site/none ") {
            answer("404 Not Found", "", "<html>no</html>")
        } else {
            answer("200 OK", "ETag: \"t\"\r\n", "0123456789")
        };
        stream.write_all(text.as_bytes()).unwrap();
    });
    let transport = HttpTransport::new(&format!("{}/site/", server.url()), HttpOptions::default()).unwrap();
    assert_eq!(whole(&transport).unwrap(), "0123456789");
    assert_eq!(range(&transport).unwrap(), (Status::Partial, "2345".to_owned()));
    let mut request = Request::whole("refs/os", 10);
    request.if_none_match = Some("\"t\"");
    assert_eq!(
        read(&transport, &request).unwrap(),
        (Status::NotModified, String::new())
    );
    fails(
        read(&transport, &Request::whole("none", 10)),
        TransportErrorKind::NotFound,
        "/site/none: ",
    );
    assert_eq!(whole(&transport).unwrap(), "0123456789");
    assert_eq!(server.connections(), 1);
    let heads = server.heads();
    assert!(
        heads[0].starts_with("GET /site/refs/os HTTP/1.1\r\n"),
        "{}",
        heads[0]
    );
    assert!(
        heads
            .iter()
            .all(|head| head.contains("accept-encoding: identity\r\n")),
        "{heads:?}"
    );
}

#[test]
fn paths_and_ranges_that_make_no_sense_are_not_sent() {
    let server = says(answer("200 OK", "", "x"));
    let transport = transport(&server, HttpOptions::default());
    for path in ["../x", "a?b", "a b", ""] {
        fails(
            read(&transport, &Request::whole(path, 10)),
            TransportErrorKind::Local,
            "no path",
        );
    }
    let empty = Request::range("a", 4..4, 10);
    fails(read(&transport, &empty), TransportErrorKind::Local, "no range");
    assert_eq!(server.heads().len(), 0);
    for url in [
        "ftp://a",
        "http://",
        "http://u:p@a",
        "http://a?x=y",
        "nonsense",
        "http://a/#b",
    ] {
        let error = HttpTransport::new(url, HttpOptions::default()).unwrap_err();
        assert_eq!(error.kind, TransportErrorKind::Local, "{url}");
    }
}

#[test]
fn a_server_without_ranges_gives_the_whole() {
    let server = says(answer("200 OK", "", "0123456789"));
    let got = range(&transport(&server, HttpOptions::default())).unwrap();
    assert_eq!(got, (Status::Whole, "0123456789".to_owned()));
}

#[test]
fn a_refused_range_is_told_from_a_refused_file() {
    for status in [
        "416 Range Not Satisfiable",
        "403 Forbidden",
        "501 Not Implemented",
    ] {
        let server = says(answer(status, "", "<html>"));
        let transport = transport(&server, HttpOptions::default());
        fails(range(&transport), TransportErrorKind::RangeRefused, status);
    }
    let server = says(answer("403 Forbidden", "", ""));
    fails(
        whole(&transport(&server, HttpOptions::default())),
        TransportErrorKind::Denied,
        "403",
    );
}

#[test]
fn another_range_than_the_one_asked_for_is_refused() {
    for header in [
        "Content-Range: bytes 0-3/10\r\n",
        "Content-Range: bytes 2-6/10\r\n",
        "Content-Range: bytes */10\r\n",
        "Content-Type: multipart/byteranges; boundary=x\r\n",
        "",
    ] {
        let server = says(answer("206 Partial Content", header, "2345"));
        let transport = transport(&server, HttpOptions::default());
        fails(range(&transport), TransportErrorKind::Protocol, "another range");
        fails(whole(&transport), TransportErrorKind::Protocol, "another range");
    }
}

#[test]
fn nothing_modified_and_nobody_asked_is_no_answer() {
    let server = says("HTTP/1.1 304 Not Modified\r\n\r\n");
    fails(
        whole(&transport(&server, HttpOptions::default())),
        TransportErrorKind::Protocol,
        "304",
    );
}

#[test]
fn compression_that_nobody_asked_for_is_refused() {
    let server = says(answer("200 OK", "Content-Encoding: gzip\r\n", "x"));
    fails(
        whole(&transport(&server, HttpOptions::default())),
        TransportErrorKind::Protocol,
        "gzip",
    );
    let server = says(answer("200 OK", "Content-Encoding: identity\r\n", "x"));
    assert_eq!(whole(&transport(&server, HttpOptions::default())).unwrap(), "x");
}

#[test]
fn a_body_is_as_long_as_was_said() {
    use TransportErrorKind::{Temporary, TooLarge};
    let get = |text: &str| {
        let text = text.to_owned();
        // The end of the connection is the end of the body.
        let server = Server::listen("127.0.0.1:0", move |mut stream| {
            read_head(&mut stream);
            stream.write_all(text.as_bytes()).unwrap();
        });
        whole(&transport(&server, impatient()))
    };
    fails(
        get("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n012345678"),
        Temporary,
        "reading",
    );
    fails(
        get("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n01234567890"),
        TooLarge,
        "announces 11",
    );
    fails(
        get("HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n0"),
        TooLarge,
        "at most",
    );
    let error = get("HTTP/1.1 200 OK\r\nContent-Length: nonsense\r\n\r\n0").unwrap_err();
    assert!(error.to_string().contains("refs/os"), "{error}");
    let endless = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n01234567890\r\n";
    fails(get(endless), Temporary, "more bytes than the file has");
    assert_eq!(get("HTTP/1.1 200 OK\r\n\r\n0123456789").unwrap(), "0123456789");
    fails(get("HTTP/1.1 200 OK\r\n\r\n0123456789a"), Temporary, "more bytes");
    fails(get(""), Temporary, "refs/os");
    fails(get("SSH-2.0-OpenSSH_9.2\r\n"), Temporary, "refs/os");
}

#[test]
fn bytes_after_a_body_are_not_taken_for_the_next_answer() {
    let server = Server::start(|stream, _| {
        let twice = answer("200 OK", "", "good") + &answer("200 OK", "", "evil");
        let _ = stream.write_all(twice.as_bytes());
    });
    let transport = transport(&server, HttpOptions::default());
    for _ in 0..3 {
        assert_eq!(whole(&transport).unwrap(), "good");
    }
}

#[test]
fn a_busy_server_says_when_to_come_back() {
    let server = says(answer("503 Service Unavailable", "Retry-After: 7\r\n", ""));
    let error = whole(&transport(&server, HttpOptions::default())).unwrap_err();
    assert!(error.is_temporary());
    assert_eq!(error.retry_after, Some(Duration::from_secs(7)));
}

#[test]
fn a_server_that_stalls_or_trickles_is_left() {
    let stalls: [(&str, Box<Handler>); 4] = [
        ("in time", Box::new(|stream, _| hang(stream))),
        (
            "in time",
            Box::new(|stream, _| {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-");
                hang(stream);
            }),
        ),
        (
            "no byte came",
            Box::new(|stream, _| {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01");
                hang(stream);
            }),
        ),
        (
            "bytes came",
            Box::new(|stream, _| {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n");
                while stream.write_all(b"0").is_ok() {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }),
        ),
    ];
    for (reason, handler) in stalls {
        let server = Server::start(handler);
        let options = HttpOptions {
            min_rate: 1000,
            ..impatient()
        };
        let transport = transport(&server, options);
        fails(whole(&transport), TransportErrorKind::Temporary, reason);
    }
}

#[test]
fn a_wait_ends_when_the_caller_asks_to_stop() {
    for head in ["", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0"] {
        let cancel = Cancel::new();
        let from_server = cancel.clone();
        let server = Server::start(move |stream, _| {
            let _ = stream.write_all(head.as_bytes());
            from_server.cancel();
            hang(stream);
        });
        let options = HttpOptions {
            stall_timeout: Duration::from_secs(600),
            cancel,
            ..HttpOptions::default()
        };
        let error = whole(&transport(&server, options)).unwrap_err();
        assert!(error.to_string().contains("interrupted"), "{error}");
    }
}

#[test]
fn nobody_there_is_a_passing_failure() {
    let server = says("");
    let url = server.url();
    drop(server);
    // The port may be anybody's by now, but hardly within this test.
    let transport = HttpTransport::new(&url, impatient()).unwrap();
    fails(whole(&transport), TransportErrorKind::Temporary, "refs/os");
    let transport = HttpTransport::new("http://host.invalid", impatient()).unwrap();
    fails(
        whole(&transport),
        TransportErrorKind::Temporary,
        "http://host.invalid/refs/os",
    );
}
