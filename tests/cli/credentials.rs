//! What a remote's configuration says of who asks, and by which way, is what a server sees.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};

use crate::common::Scratch;

/// Answers every request with 404, and tells what each one was: its head in small letters, but for the first line.
fn listener() -> (String, Receiver<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, heads) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut head: Vec<String> = Vec::new();
            for line in BufReader::new(&stream).lines().map_while(Result::ok) {
                if line.is_empty() {
                    break;
                }
                let keep = head.is_empty() || line.to_ascii_lowercase().starts_with("authorization");
                head.push(if keep { line } else { line.to_ascii_lowercase() });
            }
            let answer = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = (&stream).write_all(answer.as_bytes());
            if sender.send(head).is_err() {
                return;
            }
        }
    });
    (format!("http://{address}"), heads)
}

/// Adds a remote with `args`, asks it for a ref, and returns the head of the one request that came.
fn asked(
    url: &str,
    heads: &Receiver<Vec<String>>,
    args: &[&str],
    environment: &[(&str, &str)],
) -> Vec<String> {
    let scratch = Scratch::new();
    scratch.write("password", "open sesame\n");
    scratch.write("token", "t0ken\n");
    scratch.write("netrc", "machine 127.0.0.1 login me password from-netrc\n");
    let add = ["remote", "add", "origin", url, "--no-verify"];
    scratch.atomos(&[&add, args].concat()).code(0);
    let mut command = scratch.command(&["pull", "origin", "os"]);
    command
        .env("PATH", "/usr/bin:/bin")
        .envs(environment.iter().copied());
    let run = scratch.run(&mut command).code(3);
    assert!(run.err.contains("the server answered 404"), "{}", run.err);
    let head = heads.recv().unwrap();
    assert!(heads.try_recv().is_err(), "one request");
    head
}

#[test]
fn every_way_to_say_who_asks_reaches_the_server() {
    let (url, heads) = listener();
    for (args, authorization) in [
        (
            &["--user", "me", "--password-file", "password"][..],
            Some("Basic bWU6b3BlbiBzZXNhbWU="),
        ),
        (&["--token-file", "token"], Some("Bearer t0ken")),
        (
            &["--token-command", "echo from-command"],
            Some("Bearer from-command"),
        ),
        (&["--netrc", "netrc"], Some("Basic bWU6ZnJvbS1uZXRyYw==")),
        (&["--header", "X-Board: a"], None),
    ] {
        let head = asked(&url, &heads, args, &[]);
        assert_eq!(head[0], "GET /refs/os HTTP/1.1");
        let found = head.iter().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("authorization").then_some(value)
        });
        assert_eq!(found, authorization, "{args:?}: {head:#?}");
        let board = head.iter().any(|line| line == "x-board: a");
        assert_eq!(board, authorization.is_none(), "{head:#?}");
    }
}

#[test]
fn a_mirror_learns_nothing_that_the_site_is_told() {
    let (site, at_site) = listener();
    let (mirror, at_mirror) = listener();
    for args in [
        &["--user", "me", "--password-file", "password"][..],
        &["--token-file", "token"],
        &["--token-command", "echo from-command"],
        &["--header", "X-Board: a"],
    ] {
        let told = |mirror: &str, heads: &Receiver<Vec<String>>| {
            let scratch = Scratch::new();
            scratch.write("password", "open sesame\n");
            scratch.write("token", "t0ken\n");
            let add = [
                "remote",
                "add",
                "origin",
                &site,
                "--mirror",
                mirror,
                "--no-verify",
            ];
            scratch.atomos(&[&add, args].concat()).code(0);
            let mut command = scratch.command(&["pull", "origin", "os"]);
            scratch.run(command.env("PATH", "/usr/bin:/bin")).code(3);
            let secret = |head: Vec<String>| {
                head.iter().any(|line| {
                    let line = line.to_ascii_lowercase();
                    line.starts_with("authorization") || line.starts_with("x-board")
                })
            };
            assert!(secret(at_site.recv().unwrap()), "{args:?}");
            secret(heads.recv().unwrap())
        };
        assert!(!told(&mirror, &at_mirror), "{args:?}");
        // Another directory of the same server.
        assert!(told(&format!("{site}/mirror"), &at_site), "{args:?}");
    }
}

#[test]
fn proxies_are_the_environments_unless_the_remote_has_its_own() {
    let (here, heads) = listener();
    let site = "http://os.example.invalid/site";
    let (direct, by_proxy) = (
        "GET /refs/os HTTP/1.1",
        "GET http://os.example.invalid/site/refs/os HTTP/1.1",
    );
    let nowhere = "http://127.0.0.1:1";
    for (url, args, environment, line) in [
        (site, &[][..], &[("http_proxy", here.as_str())][..], by_proxy),
        (site, &["--proxy", &here], &[], by_proxy),
        (site, &["--proxy", &here], &[("http_proxy", nowhere)], by_proxy),
        (&here, &["--proxy", "none"], &[("http_proxy", nowhere)], direct),
        (
            &here,
            &[],
            &[("http_proxy", nowhere), ("no_proxy", "127.0.0.1")],
            direct,
        ),
        // A request to a CGI program sets it.
        (&here, &[], &[("HTTP_PROXY", nowhere)], direct),
    ] {
        let head = asked(url, &heads, args, environment);
        assert_eq!(head[0], line, "{args:?} {environment:?}");
    }
}
