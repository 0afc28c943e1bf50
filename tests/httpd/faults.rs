//! Each way to misbehave is what it says.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use atomos_httpd::testing::{BadServer, Client, Deed, Fault, Reply};

use crate::site::{Site, pack, pack_target};

const RANGE: &str = "Range: bytes=1000-1999";

/// Asks a server with one fault for the pack, or for its second thousand of bytes.
fn ask(deed: Deed, headers: &[&str]) -> std::io::Result<Reply> {
    let site = Site::new();
    let server = BadServer::start(site.path(), [Fault::on("packs/", deed.clone())]);
    let reply = Client::connect(server.address()).get(&pack_target(), headers);
    let seen = server.requests();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].deed, Some(deed));
    if let Ok(reply) = &reply {
        assert_eq!(seen[0].status, reply.status);
    }
    reply
}

#[test]
fn answers_that_are_not_of_the_file() {
    let html = ask(Deed::Html, &[]).unwrap();
    assert_eq!(
        (html.status, html.header("content-type")),
        (200, Some("text/html"))
    );
    assert!(html.body.starts_with(b"<!DOCTYPE html>"));
    assert_eq!(ask(Deed::Status(404), &[]).unwrap().status, 404);
    let busy = ask(Deed::Unavailable(7), &[]).unwrap();
    assert_eq!((busy.status, busy.header("retry-after")), (503, Some("7")));
    assert_eq!(ask(Deed::NotModified, &[]).unwrap().status, 304);
    let looping = ask(Deed::RedirectLoop, &[]).unwrap();
    assert_eq!(
        (looping.status, looping.header("location")),
        (302, Some(pack_target().as_str()))
    );
    let away = ask(Deed::Redirect("http://other.example/".to_owned()), &[]).unwrap();
    let target = format!("http://other.example{}", pack_target());
    assert_eq!(away.header("location"), Some(target.as_str()));
    assert!(ask(Deed::Garbage, &[]).is_err());
}

#[test]
fn ranges_that_are_not_what_was_asked_for() {
    let whole = ask(Deed::IgnoreRange, &[RANGE]).unwrap();
    assert_eq!(whole.status, 200);
    assert!(whole.body == pack());
    assert_eq!(ask(Deed::RefuseRange, &[RANGE]).unwrap().status, 501);
    let wrong = ask(Deed::WrongRange(5), &[RANGE]).unwrap();
    assert_eq!(
        (wrong.status, wrong.header("content-range")),
        (206, Some("bytes 1005-2004/200000"))
    );
    assert!(wrong.body == pack()[1005..2005]);
    let lie = ask(Deed::LyingRange(5), &[RANGE]).unwrap();
    assert_eq!(lie.header("content-range"), Some("bytes 1000-1999/200000"));
    assert!(lie.body == pack()[1005..2005]);
}

#[test]
fn ranges_are_only_wrong_where_there_is_one() {
    let site = Site::new();
    let server = BadServer::start(
        site.path(),
        [
            Fault::on("", Deed::RefuseRange),
            Fault::on("", Deed::Status(500)).only_ranges(),
        ],
    );
    let mut client = Client::connect(server.address());
    assert_eq!(client.get(&pack_target(), &[]).unwrap().status, 200);
    assert_eq!(client.get(&pack_target(), &[RANGE]).unwrap().status, 501);
    assert_eq!(server.requests()[1].bytes_range(), Some(1000..2000));
}

#[test]
fn bodies_that_are_not_the_file() {
    let swapped = ask(Deed::Swap("refs/os/13".to_owned()), &[]).unwrap();
    assert_eq!(swapped.body, b"a record");
    let other = ask(Deed::Bytes(vec![1; 1500]), &[RANGE]).unwrap();
    assert_eq!(other.header("content-range"), Some("bytes 1000-1499/1500"));
    assert_eq!(other.body, [1; 500]);
    assert_eq!(ask(Deed::Bytes(vec![1; 9]), &[RANGE]).unwrap().status, 416);
    assert_eq!(ask(Deed::Bytes(vec![1; 9]), &[]).unwrap().body, [1; 9]);

    let difference = |reply: &Reply, begin: usize| {
        let right = &pack()[begin..begin + reply.body.len()];
        let differ = |at: &usize| right[*at] != reply.body[*at];
        (0..right.len()).filter(differ).collect::<Vec<_>>()
    };
    assert_eq!(difference(&ask(Deed::Flip(1234), &[]).unwrap(), 0), [1234]);
    assert_eq!(difference(&ask(Deed::Flip(1234), &[RANGE]).unwrap(), 1000), [234]);
    assert_eq!(difference(&ask(Deed::Flip(4), &[RANGE]).unwrap(), 1000), [0; 0]);

    let zipped = ask(Deed::Gzip, &[]).unwrap();
    assert_eq!(zipped.header("content-encoding"), Some("gzip"));
    assert!(unzip(&zipped.body) == pack());
}

fn unzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut child = std::process::Command::new("gzip")
        .arg("-dc")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writing = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap();
    assert!(output.status.success());
    output.stdout
}

#[test]
fn lengths_that_are_a_lie() {
    let error = ask(Deed::LongLength(10), &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    let short = ask(Deed::ShortLength(10), &[]).unwrap();
    assert!(short.body == pack()[..pack().len() - 10]);
    let endless = {
        let site = Site::new();
        let server = BadServer::start(site.path(), [Fault::on("", Deed::Endless)]);
        let mut client = Client::connect(server.address());
        client
            .send("GET /refs/os/13 HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        let mut received = 0;
        while received < 1 << 20 {
            let bytes = client.read_some().unwrap();
            assert!(!bytes.is_empty());
            received += bytes.len();
        }
        received
    };
    assert!(endless >= 1 << 20);
}

#[test]
fn connections_that_do_not_last() {
    for (deed, kind) in [
        (Deed::Close(100), ErrorKind::UnexpectedEof),
        (Deed::Hangup, ErrorKind::UnexpectedEof),
        (Deed::Reset(100), ErrorKind::ConnectionReset),
    ] {
        assert_eq!(ask(deed.clone(), &[]).unwrap_err().kind(), kind, "{deed:?}");
    }
    let site = Site::new();
    let server = BadServer::start(site.path(), [Fault::on("", Deed::Close(100))]);
    assert!(
        Client::connect(server.address())
            .get(&pack_target(), &[])
            .is_err()
    );
    assert_eq!(server.requests()[0].bytes, 100);
}

#[test]
fn connections_that_last_too_long() {
    let site = Site::new();
    let server = BadServer::start(
        site.path(),
        [
            Fault::on("refs/", Deed::Trickle(1, Duration::from_millis(5))),
            Fault::on("packs/", Deed::Stall(100)),
            Fault::on("keys/", Deed::Silence),
        ],
    );
    let begin = Instant::now();
    let mut client = Client::connect(server.address());
    assert_eq!(client.get("/refs/os/13", &[]).unwrap().body, b"a record");
    assert!(begin.elapsed() >= Duration::from_millis(35));

    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
    client.send(get(&pack_target())).unwrap();
    let mut received = Vec::new();
    while !received.windows(4).any(|end| end == b"\r\n\r\n") || received.len() < 100 {
        received.extend(client.read_some().unwrap());
    }
    let mut silent = Client::connect(server.address());
    silent.send(get("/keys/1")).unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    while server.requests().len() < 3 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(server.requests()[1].bytes, 100);
    assert_eq!(server.requests()[2].status, 0);
    // The server goes although two connections have not ended.
    let begin = Instant::now();
    drop(server);
    assert!(begin.elapsed() < Duration::from_secs(4));
    assert!(silent.read_some().is_err() || silent.read_some().unwrap().is_empty());
}

#[test]
fn half_of_the_requests_are_the_same_half_in_any_order() {
    let site = Site::new();
    let half = || Fault::on("", Deed::Status(500)).odds(0.5, 7);
    let ask = |order: &mut dyn Iterator<Item = u64>| {
        let server = BadServer::start(site.path(), [half()]);
        let mut client = Client::connect(server.address());
        let mut failed: Vec<u64> = order
            .filter(|n| {
                let range = format!("Range: bytes={n}-{n}");
                client.get(&pack_target(), &[&range]).unwrap().status == 500
            })
            .collect();
        failed.sort_unstable();
        failed
    };
    let failed = ask(&mut (0..200));
    assert!((70..130).contains(&failed.len()), "{}", failed.len());
    assert_eq!(ask(&mut (0..200).rev()), failed);

    // Who asks again is not refused for ever.
    let server = BadServer::start(site.path(), [half()]);
    let mut client = Client::connect(server.address());
    let refused = (0..40)
        .filter(|_| client.get("/refs/os/13", &[]).unwrap().status == 500)
        .count();
    assert!((8..32).contains(&refused), "{refused}");
}

#[test]
fn faults_can_be_replaced_and_requests_forgotten() {
    let site = Site::new();
    let server = BadServer::start(site.path(), [Fault::on("refs/", Deed::Status(500))]);
    let mut client = Client::connect(server.address());
    let mut status = || {
        client
            .get("/refs/os/13", &["Authorization: Basic eDp5"])
            .unwrap()
            .status
    };
    assert_eq!(status(), 500);
    assert_eq!(server.take_requests().len(), 1);
    server.set_faults([]);
    assert_eq!(status(), 200);
    let seen = server.requests();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].header("authorization"), Some("Basic eDp5"));
    assert_eq!((seen[0].path.as_str(), seen[0].bytes), ("refs/os/13", 8));
}
