//! Clients that take too long, ask for too much, or are too many.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use atomos_httpd::testing::Client;
use atomos_httpd::{Observer, Server, ServerOptions};

use crate::site::{Site, pack, pack_target};

fn server(site: &Site, change: impl FnOnce(&mut ServerOptions)) -> Server {
    let mut options = ServerOptions::default();
    change(&mut options);
    Server::start(site.path(), options).unwrap()
}

#[test]
fn a_head_that_is_too_long_is_refused() {
    let site = Site::new();
    let server = server(&site, |_| {});
    let mut client = Client::connect(server.address());
    let line = format!("x: {}\r\n", "y".repeat(1000));
    client
        .send(format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", line.repeat(40)))
        .unwrap();
    assert_eq!(client.reply(true).unwrap().status, 431);
    // One that never ends, too: at most so much is kept of it.
    let mut client = Client::connect(server.address());
    client.send("z".repeat(17_000)).unwrap();
    assert_eq!(client.reply(true).unwrap().status, 431);
}

#[test]
fn a_head_that_takes_too_long_is_refused_however_often_a_byte_comes() {
    let site = Site::new();
    let server = server(&site, |options| options.head_timeout = Duration::from_millis(100));
    let mut client = Client::connect(server.address());
    let begin = Instant::now();
    while client.send("G").is_ok() && begin.elapsed() < Duration::from_millis(300) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let reply = client.reply(true);
    // The answer is lost where the kernel has reset the connection because of what was sent after it.
    assert!(reply.is_err() || reply.unwrap().status == 408);
}

#[test]
fn a_connection_that_waits_too_long_is_closed() {
    let site = Site::new();
    let server = server(&site, |options| options.idle_timeout = Duration::from_millis(50));
    let mut client = Client::connect(server.address());
    assert_eq!(client.get("/refs/os/13", &[]).unwrap().status, 200);
    assert_eq!(client.read_some().unwrap(), b"");
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let site = Site::new();
    site.write("large", vec![7; 32 << 20]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let server = server(&site, |options| {
        options.piece_timeout = Duration::from_millis(100);
        options.observer = Observer::new(move |entry| {
            log.lock()
                .unwrap()
                .push((entry.status, entry.bytes, entry.complete));
        });
    });
    let mut client = Client::connect(server.address());
    client.send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    while seen.lock().unwrap().is_empty() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    let entries = seen.lock().unwrap();
    let [(200, bytes, false)] = entries[..] else {
        panic!("{entries:?}");
    };
    assert!(bytes < 32 << 20);
}

#[test]
fn where_there_are_as_many_connections_as_may_be_an_idle_one_makes_room() {
    let site = Site::new();
    let server = server(&site, |options| options.max_connections = 2);
    let mut clients: Vec<Client> = (0..2).map(|_| Client::connect(server.address())).collect();
    for client in &mut clients {
        assert_eq!(client.get("/refs/os/13", &[]).unwrap().status, 200);
    }
    let mut third = Client::connect(server.address());
    assert_eq!(third.get("/refs/os/13", &[]).unwrap().status, 200);
    let ended = clients
        .iter_mut()
        .filter_map(|client| client.get("/refs/os/13", &[]).err())
        .count();
    assert_eq!(ended, 1);
}

#[test]
fn requests_that_come_together_are_answered_in_order() {
    let site = Site::new();
    let server = server(&site, |_| {});
    let mut client = Client::connect(server.address());
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
    client
        .send(get(&pack_target()) + &get("/none") + &get("/refs/os/13"))
        .unwrap();
    assert!(client.reply(true).unwrap().body == pack());
    assert_eq!(client.reply(true).unwrap().status, 404);
    assert_eq!(client.reply(true).unwrap().body, b"a record");
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_request_with_a_body_is_answered_and_ends_the_connection() {
    let site = Site::new();
    let server = server(&site, |_| {});
    let mut client = Client::connect(server.address());
    client
        .send("POST /refs/os/13 HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n")
        .unwrap();
    client.send("x".repeat(10_000)).unwrap();
    let reply = client.reply(true).unwrap();
    assert_eq!((reply.status, reply.header("connection")), (405, Some("close")));
    assert_eq!(client.read_some().unwrap(), b"");
}

#[test]
fn stopping_lets_a_running_answer_finish_and_an_idle_connection_go() {
    let site = Site::new();
    let bytes = vec![7; 32 << 20];
    site.write("large", &bytes);
    let server = server(&site, |_| {});
    let mut idle = Client::connect(server.address());
    assert_eq!(idle.get("/refs/os/13", &[]).unwrap().status, 200);
    let mut busy = Client::connect(server.address());
    busy.send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    // Its answer has begun.
    let mut received = busy.read_some().unwrap();
    let address: SocketAddr = server.address();
    let stopping = std::thread::spawn(move || server.stop(Duration::from_secs(10)));
    assert_eq!(idle.read_some().unwrap(), b"");
    while let Ok(more) = busy.read_some() {
        if more.is_empty() {
            break;
        }
        received.extend(more);
    }
    assert!(received.ends_with(&bytes[..1000]) && received.len() > bytes.len());
    assert_eq!(stopping.join().unwrap(), 0, "nothing was cut off");
    let refused = std::net::TcpStream::connect(address).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn stopping_without_patience_cuts_answers_off() {
    let site = Site::new();
    site.write("large", vec![7; 32 << 20]);
    let server = server(&site, |_| {});
    let mut client = Client::connect(server.address());
    client.send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(!client.read_some().unwrap().is_empty());
    assert_eq!(server.stop(Duration::ZERO), 1);
}
