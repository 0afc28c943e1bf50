//! Nothing outside the directory is served, whatever is asked for.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use atomos_httpd::testing::Client;
use atomos_httpd::{Server, ServerOptions};

use crate::site::Site;

#[test]
fn nothing_leads_out_of_the_directory() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    let site = Site::new();
    symlink(outside.path().join("secret"), site.path().join("absolute")).unwrap();
    symlink(outside.path(), site.path().join("dir")).unwrap();
    let name = outside.path().file_name().unwrap().to_str().unwrap();
    symlink(format!("../{name}/secret"), site.path().join("relative")).unwrap();
    symlink("loop", site.path().join("loop")).unwrap();
    symlink("refs/os/13", site.path().join("within")).unwrap();
    assert!(
        Command::new("mkfifo")
            .arg(site.path().join("fifo"))
            .status()
            .unwrap()
            .success()
    );

    let server = Server::start(site.path(), ServerOptions::default()).unwrap();
    let get = |target: &str| Client::connect(server.address()).get(target, &[]).unwrap();
    for target in [
        "/absolute".to_owned(),
        "/dir/secret".to_owned(),
        "/relative".to_owned(),
        "/loop".to_owned(),
        "/fifo".to_owned(),
        "/fifo/x".to_owned(),
        format!("/{}", "x".repeat(300)),
        format!("/../{name}/secret"),
        format!("/%2E%2e/{name}/secret"),
        format!("/refs/..%2f..%2f{name}/secret"),
        format!("//{}/secret", outside.path().display()),
        format!("/%2f{}/secret", outside.path().display()),
        "/proc/self/root/etc/passwd".to_owned(),
    ] {
        let reply = get(&target);
        assert!([400, 404].contains(&reply.status), "{target}: {reply:?}");
        assert!(!reply.body.windows(6).any(|bytes| bytes == b"secret"), "{target}");
    }
    assert_eq!(
        get("/within").body,
        b"a record",
        "a link within the directory is no escape"
    );
}

#[test]
fn a_file_that_is_replaced_has_another_tag_and_an_answer_is_never_a_mixture() {
    let site = Site::new();
    let server = Server::start(site.path(), ServerOptions::default()).unwrap();
    let mut client = Client::connect(server.address());
    let old = client.get("/refs/os/13", &[]).unwrap();
    let etag = old.header("etag").unwrap();
    let condition = format!("If-None-Match: {etag}");
    assert_eq!(client.get("/refs/os/13", &[&condition]).unwrap().status, 304);
    // The same size, and perhaps the same time: the inode tells.
    site.write("refs/os/new", "A RECORD");
    fs::rename(site.path().join("refs/os/new"), site.path().join("refs/os/13")).unwrap();
    let new = client.get("/refs/os/13", &[&condition]).unwrap();
    assert_eq!((new.status, new.body.as_slice()), (200, &b"A RECORD"[..]));
    let stale = format!("If-Range: {etag}");
    let part = client.get("/refs/os/13", &[&stale, "Range: bytes=2-3"]).unwrap();
    assert_eq!((part.status, part.body.len()), (200, 8));
}

#[test]
fn a_directory_that_is_missing_is_an_error_that_names_it() {
    let site = Site::new();
    let error = Server::start(site.path().join("none"), ServerOptions::default()).unwrap_err();
    assert!(error.to_string().ends_with("/none"), "{error}");
}
