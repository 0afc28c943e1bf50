//! The line with a round trip time.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use atomos_httpd::testing::{BadServer, Client, Deed, DelayProxy, Fault};

use crate::site::{Site, pack, pack_target};

const DELAY: Duration = Duration::from_millis(20);

#[test]
fn a_request_waits_for_a_round_trip_and_the_first_for_two() {
    let site = Site::new();
    let server = BadServer::start(site.path(), []);
    let proxy = DelayProxy::start(server.address(), DELAY);
    let mut client = Client::connect(proxy.address());
    let mut begin = Instant::now();
    assert!(client.get(&pack_target(), &[]).unwrap().body == pack());
    assert!(begin.elapsed() >= 4 * DELAY, "{:?}", begin.elapsed());
    begin = Instant::now();
    assert_eq!(client.get("/refs/os/13", &[]).unwrap().body, b"a record");
    assert!(begin.elapsed() >= 2 * DELAY, "{:?}", begin.elapsed());
    assert_eq!((proxy.connections(), server.connections()), (1, 1));
    assert!(proxy.bytes_to_client() > 200_000);
    let asked = proxy.bytes_to_server();
    assert!((50..1000).contains(&asked), "{asked}");
}

#[test]
fn requests_under_way_at_the_same_time_wait_together() {
    let site = Site::new();
    let server = BadServer::start(site.path(), []);
    let delay = Duration::from_millis(100);
    let proxy = DelayProxy::start(server.address(), delay);
    let begin = Instant::now();
    let mut client = Client::connect(proxy.address());
    for _ in 0..20 {
        client
            .send("GET /refs/os/13 HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
    }
    for _ in 0..20 {
        assert_eq!(client.reply(true).unwrap().body, b"a record");
    }
    // One after the other they would take four seconds.
    assert!(begin.elapsed() >= 4 * delay && begin.elapsed() < 20 * delay);
}

#[test]
fn the_end_of_a_connection_and_a_reset_come_through() {
    let site = Site::new();
    let server = BadServer::start(
        site.path(),
        [
            Fault::on("refs", Deed::Close(3)),
            Fault::on("packs", Deed::Reset(3)),
        ],
    );
    let proxy = DelayProxy::start(server.address(), DELAY);
    let error = Client::connect(proxy.address())
        .get("/refs/os/13", &[])
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    let error = Client::connect(proxy.address())
        .get(&pack_target(), &[])
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn what_a_client_does_not_take_is_not_piled_up_without_end() {
    // A server that sends for as long as somebody takes it.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = DelayProxy::start(listener.local_addr().unwrap(), Duration::ZERO);
    let mut client = std::net::TcpStream::connect(proxy.address()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    server
        .set_write_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    while server.write_all(&[0; 1 << 16]).is_ok() {
        assert!(proxy.bytes_to_client() < 1 << 30, "there is a bound");
    }
    // The line is whole: what was sent arrives.
    drop(server);
    let mut buffer = vec![0; 1 << 20];
    let mut received = 0;
    while let Ok(len @ 1..) = client.read(&mut buffer) {
        received += len as u64;
    }
    assert_eq!(received, proxy.bytes_to_client());
}
