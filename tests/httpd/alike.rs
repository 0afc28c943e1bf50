//! One table of requests, and every server gives the same answers.

use std::net::SocketAddr;

use atomos_httpd::testing::{BadServer, Client, Nginx, Reply};
use atomos_httpd::{Server, ServerOptions};

use crate::site::{DIGEST, Site, pack, pack_target};

/// What an answer is judged by.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, Option<String>)>,
    has_etag: bool,
    body: Vec<u8>,
}

impl Answer {
    fn new(reply: &Reply) -> Self {
        let compared: &[&'static str] = match reply.status {
            200 => &[
                "content-type",
                "content-length",
                "content-range",
                "cache-control",
                "content-encoding",
                "accept-ranges",
                "last-modified",
                "location",
            ],
            // nginx does not repeat Accept-Ranges in a part.
            206 | 304 => &[
                "content-type",
                "content-length",
                "content-range",
                "cache-control",
                "content-encoding",
                "last-modified",
            ],
            416 => &["content-range", "etag"],
            // Pages of errors are everybody's own.
            _ => &["content-range", "cache-control", "etag", "location"],
        };
        let header = |name: &&'static str| (*name, reply.header(name).map(str::to_owned));
        Self {
            status: reply.status,
            headers: compared.iter().map(header).collect(),
            has_etag: reply.header("etag").is_some(),
            body: if reply.status < 400 {
                reply.body.clone()
            } else {
                Vec::new()
            },
        }
    }
}

fn with_range(range: &str) -> (&'static str, String, Vec<String>) {
    ("GET", pack_target(), vec![format!("Range: {range}")])
}

/// Requests; `{etag}` and `{date}` stand for what the server said of the pack.
fn table() -> Vec<(&'static str, String, Vec<String>)> {
    let mut table: Vec<(&str, String, Vec<String>)> = Vec::new();
    let pack = pack_target();
    for target in [
        "/atomos.json",
        "/refs/os/13",
        "/refs/os%2f13",
        "/refs/os/13?query",
        "/keys/1",
        "/packs/empty",
        &format!("/releases/{DIGEST}"),
        &format!("/refs/packs/{DIGEST}"),
        &pack,
        "/",
        "/packs",
        "/packs/",
        "/nothing",
        "/packs/nothing",
        &format!("/packs/{}", "f".repeat(64)),
        &format!("{pack}/x"),
        "/.publish/lock",
        "/../etc/passwd",
        "/%2e%2e/etc/passwd",
        "/%00",
        "/%zz",
    ] {
        for method in ["GET", "HEAD", "POST", "DELETE"] {
            table.push((method, target.to_owned(), Vec::new()));
        }
    }
    for range in [
        "bytes=0-0",
        "bytes=0-9",
        "bytes=100-70000",
        "bytes=199999-",
        "bytes=199999-999999999",
        "bytes=-1",
        "bytes=-300000",
        "bytes=0-",
        "bytes=200000-",
        "bytes=200000-200001",
        "bytes=5-4",
        "bytes=-0",
        "bytes=",
        "bytes=x-y",
        "bytes=99999999999999999999999-",
        "items=0-1",
        "bytes=0-1,4-5",
    ] {
        table.push(with_range(range));
    }
    table.push((
        "GET",
        "/packs/empty".to_owned(),
        vec!["Range: bytes=0-0".to_owned()],
    ));
    for headers in [
        &["If-None-Match: {etag}"][..],
        &["If-None-Match: W/{etag}"],
        &["If-None-Match: \"other\", {etag}"],
        &["If-None-Match: \"other\""],
        &["If-None-Match: *"],
        &["If-None-Match: {etag}", "Range: bytes=0-9"],
        &["If-None-Match: \"other\"", "If-Modified-Since: {date}"],
        &["If-Modified-Since: {date}"],
        &["If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT"],
        &["If-Range: {etag}", "Range: bytes=0-9"],
        &["If-Range: \"other\"", "Range: bytes=0-9"],
        &["If-Range: {etag}"],
        &["Accept-Encoding: gzip, br", "Range: bytes=0-9"],
        &["Accept-Encoding: gzip, br"],
    ] {
        let headers: Vec<String> = headers.iter().map(|header| (*header).to_owned()).collect();
        table.push(("GET", pack.clone(), headers.clone()));
        table.push((
            "HEAD",
            pack.clone(),
            headers.into_iter().filter(|h| !h.contains("ytes")).collect(),
        ));
    }
    table
}

/// Asks everything over as few connections as the server allows.
fn answers(address: SocketAddr) -> Vec<Answer> {
    let mut client = Client::connect(address);
    let first = client.get(&pack_target(), &[]).unwrap();
    let etag = first.header("etag").unwrap();
    assert!(!etag.starts_with("W/"), "the tag is strong");
    let date = first.header("last-modified").unwrap();
    let mut answers = Vec::new();
    for (method, target, headers) in table() {
        let headers: Vec<String> = headers
            .iter()
            .map(|header| header.replace("{etag}", etag).replace("{date}", date))
            .collect();
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let reply = client.request(method, &target, &headers).unwrap();
        if reply.header("connection") == Some("close") {
            client = Client::connect(address);
        }
        answers.push(Answer::new(&reply));
    }
    answers
}

#[test]
fn atomos_serve_and_the_server_of_the_tests_give_the_right_answers() {
    let site = Site::new();
    let server = Server::start(site.path(), ServerOptions::default()).unwrap();
    let plain = answers(server.address());
    let status = |method: &str, target: &str, header: &str| {
        let table = table();
        let at = table.iter().position(|(m, t, h)| {
            *m == method && t == target && h.first().map_or("", |header| header) == header
        });
        plain[at.unwrap()].status
    };
    // A sample with the answers written down, so that servers cannot agree on nonsense.
    let pack_at = pack_target();
    assert_eq!(status("GET", "/refs/os/13", ""), 200);
    assert_eq!(status("POST", "/refs/os/13", ""), 405);
    assert_eq!(status("GET", "/packs", ""), 404);
    assert_eq!(status("GET", "/.publish/lock", ""), 404);
    assert_eq!(status("GET", "/%2e%2e/etc/passwd", ""), 400);
    assert_eq!(status("GET", &pack_at, "Range: bytes=0-9"), 206);
    assert_eq!(status("GET", &pack_at, "Range: bytes=200000-"), 416);
    assert_eq!(status("GET", &pack_at, "Range: bytes=0-1,4-5"), 200);
    assert_eq!(status("GET", &pack_at, "If-None-Match: {etag}"), 304);
    let whole = table()
        .iter()
        .position(|(_, target, _)| *target == pack_at)
        .unwrap();
    assert!(plain[whole].body == pack(), "the whole pack");

    let bad = BadServer::start(site.path(), []);
    assert_same("BadServer", &answers(bad.address()), &plain);
    // What is not understood is not a request.
    let understood = plain.iter().filter(|answer| answer.status != 400).count();
    assert_eq!(bad.requests().len(), understood + 1);
}

#[test]
fn nginx_gives_the_answers_of_atomos_serve() {
    let site = Site::new();
    let Some(nginx) = Nginx::start(site.path()) else {
        return;
    };
    let server = Server::start(site.path(), ServerOptions::default()).unwrap();
    assert_same("nginx", &answers(nginx.address()), &answers(server.address()));
}

#[track_caller]
fn assert_same(name: &str, found: &[Answer], expected: &[Answer]) {
    let mut wrong = String::new();
    for ((request, found), expected) in table().iter().zip(found).zip(expected) {
        if found != expected {
            let text = |answer: &Answer| {
                let body = (answer.body.len(), answer.body.iter().take(20).collect::<Vec<_>>());
                format!(
                    "{} {:?} {:?} {body:?}",
                    answer.status, answer.headers, answer.has_etag
                )
            };
            wrong.push_str(&format!(
                "{request:?}\n   {}\n   {}\n",
                text(found),
                text(expected)
            ));
        }
    }
    assert!(wrong.is_empty(), "{name}, and what was expected:\n{wrong}");
}
