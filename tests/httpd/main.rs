//! The server of `atomos serve`, beside nginx, and the servers that tests use.

use atomos_httpd::testing::{BadServer, Client, Deed, Fault};

#[test]
fn a_fault_is_done_to_whom_it_is_meant_for() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a"), "hello").unwrap();
    let server = BadServer::start(dir.path(), [Fault::on("a", Deed::Status(500)).after(1).times(1)]);
    let mut client = Client::connect(server.address());
    let statuses: Vec<_> = (0..3).map(|_| client.get("/a", &[]).unwrap().status).collect();
    assert_eq!(statuses, [200, 500, 200]);
    assert_eq!(server.requests().len(), 3);
    assert_eq!(server.connections(), 1);
}
