use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, ChildStdout, Stdio};

use atomos_httpd::testing::Client;
use libatomos::site::Artifact;

use crate::common::Scratch;

/// A server that ends with its test.
struct Serving {
    child: Child,
    out: BufReader<ChildStdout>,
    err: BufReader<ChildStderr>,
}

impl Serving {
    fn start(scratch: &Scratch, args: &[&str]) -> Self {
        let args = [&["serve", "site", "--listen", "127.0.0.1:0"], args].concat();
        let mut child = scratch
            .command(&args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            out: BufReader::new(child.stdout.take().unwrap()),
            err: BufReader::new(child.stderr.take().unwrap()),
            child,
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Sends Ctrl-C; returns the exit code and what was on stderr.
    fn interrupt(mut self) -> (Option<i32>, String) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let mut err = String::new();
        self.err.read_to_string(&mut err).unwrap();
        (self.child.wait().unwrap().code(), err)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It has most likely ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn site() -> Scratch {
    let scratch = Scratch::empty();
    scratch.write("site/atomos.json", "{}");
    scratch.write("site/refs/os", "a record");
    for artifact in Artifact::ALL {
        scratch.write(
            &format!("site/{}/{}", artifact.dir(), "0f".repeat(32)),
            artifact.dir(),
        );
    }
    scratch
}

fn address(url: &str) -> SocketAddr {
    let address = url.strip_prefix("http://").unwrap().strip_suffix('/').unwrap();
    address.parse().unwrap()
}

#[test]
fn the_address_is_the_first_line_and_ctrl_c_ends_it_well() {
    let scratch = site();
    let mut serving = Serving::start(&scratch, &["-v"]);
    let address = address(&serving.line());
    assert!(address.ip().is_loopback());
    let mut client = Client::connect(address);
    let record = client.get("/refs/os", &["Range: bytes=2-"]).unwrap();
    assert_eq!((record.status, record.body.as_slice()), (206, &b"record"[..]));
    assert_eq!(client.get("/no\u{1b}ne", &[]).unwrap().status, 404);
    let (code, err) = serving.interrupt();
    assert_eq!(code, Some(0), "{err}");
    assert!(
        err.starts_with("Serving site; Ctrl-C ends it.\n127.0.0.1:"),
        "{err}"
    );
    assert!(err.contains(" GET /refs/os [bytes=2-] 206 6\n"), "{err}");
    assert!(!err.contains('\u{1b}') && err.contains(" 404 "), "{err}");
    assert_eq!(err.lines().count(), 3, "{err}");
}

#[test]
fn json_is_one_line_with_the_address() {
    let scratch = site();
    let mut serving = Serving::start(&scratch, &["--json", "-q"]);
    let model: serde_json::Value = serde_json::from_str(&serving.line()).unwrap();
    let address = address(model["url"].as_str().unwrap());
    assert_eq!(model["address"].as_str().unwrap(), address.to_string());
    assert_eq!(Client::connect(address).get("/refs/os", &[]).unwrap().status, 200);
    assert_eq!(serving.interrupt(), (Some(0), String::new()));
}

#[test]
fn only_what_is_named_by_its_digest_may_be_kept_for_ever() {
    let scratch = site();
    let mut serving = Serving::start(&scratch, &[]);
    let mut client = Client::connect(address(&serving.line()));
    let mut kept = |target: &str| {
        let reply = client.get(target, &[]).unwrap();
        reply.header("cache-control").unwrap().to_owned()
    };
    for artifact in Artifact::ALL {
        let path = format!("/{}/{}", artifact.dir(), "0f".repeat(32));
        assert_eq!(kept(&path), "public, max-age=31536000, immutable", "{path}");
    }
    assert_eq!(kept("/refs/os"), "no-cache");
    assert_eq!(kept("/atomos.json"), "no-cache");
}

#[test]
fn a_second_ctrl_c_does_not_wait_for_answers() {
    let scratch = site();
    scratch.write("site/large", vec![7; 32 << 20]);
    let mut serving = Serving::start(&scratch, &[]);
    let address = address(&serving.line());
    let mut client = Client::connect(address);
    client.send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(!client.read_some().unwrap().is_empty());
    let pid = rustix::process::Pid::from_child(&serving.child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    // Two signals of a kind that come together are one, so the second waits until the first has been heard.
    while std::net::TcpStream::connect(address).is_ok() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let (code, _) = serving.interrupt();
    assert_eq!(code, Some(130));
}

#[test]
fn what_cannot_be_served_is_said() {
    let scratch = site();
    let run = scratch
        .atomos(&["serve", "none", "--listen", "127.0.0.1:0"])
        .code(3);
    assert!(run.err.contains("none"), "{run:?}");
    scratch
        .atomos(&["serve", "site", "--listen", "everywhere"])
        .code(2);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let run = scratch.atomos(&["serve", "site", "--listen", &address]).code(1);
    assert!(
        run.err.contains(&format!("cannot listen at {address}")),
        "{run:?}"
    );
    assert!(run.err.contains("--listen 127.0.0.1:0"), "{run:?}");
}

#[test]
fn a_directory_that_is_no_site_is_served_with_a_warning() {
    let scratch = Scratch::empty();
    scratch.write("site/x", "x");
    let mut serving = Serving::start(&scratch, &[]);
    let mut client = Client::connect(address(&serving.line()));
    assert_eq!(client.get("/x", &[]).unwrap().body, b"x");
    let (_, err) = serving.interrupt();
    assert!(err.starts_with("warning: site has no atomos.json"), "{err}");
}
