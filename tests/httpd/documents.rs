//! What docs/serving.md says, tried.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use atomos_httpd::testing::{Client, Nginx, documented_config};

use crate::site::{DIGEST, Site, pack, pack_target};

#[test]
fn the_documented_nginx_serves_a_site_as_it_should_be() {
    let site = Site::new();
    let Some(nginx) = Nginx::start(site.path()) else {
        return;
    };
    let mut client = Client::connect(nginx.address());

    let whole = client.get(&pack_target(), &["Accept-Encoding: gzip"]).unwrap();
    assert_eq!((whole.status, whole.header("content-encoding")), (200, None));
    assert!(whole.body == pack());
    assert_eq!(
        whole.header("cache-control"),
        Some("public, max-age=31536000, immutable")
    );
    let etag = whole.header("etag").unwrap();
    assert!(etag.starts_with('"'), "a strong tag: {etag}");

    let part = client.get(&pack_target(), &["Range: bytes=1000-1999"]).unwrap();
    assert_eq!(part.status, 206);
    assert_eq!(part.header("content-range"), Some("bytes 1000-1999/200000"));
    assert!(part.body == pack()[1000..2000]);

    let record = client.get("/refs/os/13", &[]).unwrap();
    assert_eq!(record.header("cache-control"), Some("no-cache"));
    assert_eq!(record.header("content-type"), Some("application/json"));
    let same = format!("If-None-Match: {}", record.header("etag").unwrap());
    let again = client.get("/refs/os/13", &[&same]).unwrap();
    assert_eq!((again.status, again.body.len()), (304, 0));

    let missing = client.get("/refs/os/14", &[]).unwrap();
    assert_eq!((missing.status, missing.header("cache-control")), (404, None));
    assert_eq!(
        client.get("/refs/", &[]).unwrap().status,
        404,
        "nothing is listed"
    );

    let log = nginx.wait_for_requests(6);
    assert_eq!(log.len(), 6);
    assert!(
        log.iter().all(|line| line.connection == log[0].connection),
        "one connection"
    );
    assert_eq!(log[1].range.as_deref(), Some("bytes=1000-1999"));
    assert_eq!((log[1].status, log[1].body_bytes), (206, 1000));
    assert!(log[1].bytes > 1000);
}

#[test]
fn tls_needs_no_more_than_its_lines_uncommented() {
    let config = documented_config();
    let tls: Vec<&str> = config
        .lines()
        .filter_map(|line| line.trim().strip_prefix("# "))
        .filter(|line| line.ends_with(';'))
        .collect();
    let words: Vec<&str> = tls
        .iter()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    for word in [
        "listen",
        "ssl_certificate",
        "ssl_certificate_key",
        "ssl_protocols",
    ] {
        assert!(words.contains(&word), "{word} in {words:?}");
    }
}

/// Returns the commands of the block that is marked so.
fn commands(mark: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/serving.md");
    let text = fs::read_to_string(path).unwrap();
    let (_, rest) = text
        .split_once(&format!("<!-- {mark}: a test runs this block -->"))
        .unwrap();
    let block = rest.split("```").nth(1).unwrap();
    block.strip_prefix("sh\n").unwrap().to_owned()
}

fn run(line: &str, from: &Path, to: &Path) {
    let line = line
        .replace("www.example.org:/srv/site", to.to_str().unwrap())
        .replace(" /srv/site", &format!(" {}", from.to_str().unwrap()));
    assert!(!line.contains("/srv/"), "{line}");
    let status = Command::new("sh").arg("-ec").arg(&line).status().unwrap();
    assert!(status.success(), "{line}");
}

fn list(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.push(path.strip_prefix(dir).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn the_documented_rsync_brings_records_last_and_sees_one_that_keeps_its_size_and_time() {
    if Command::new("rsync").arg("--version").output().is_err() {
        eprintln!("skipped: rsync is not installed");
        return;
    }
    let (site, copy) = (Site::new(), tempfile::tempdir().unwrap());
    let upload = commands("rsync");
    let lines: Vec<&str> = upload.lines().collect();
    assert_eq!(lines.len(), 2, "two passes");

    run(lines[0], site.path(), copy.path());
    let first = list(copy.path());
    assert!(first.contains(&format!("packs/{DIGEST}").into()));
    assert!(!first.iter().any(|path| path.starts_with("refs")), "{first:?}");
    assert!(
        !first.iter().any(|path| path.starts_with(".publish")),
        "{first:?}"
    );

    run(lines[1], site.path(), copy.path());
    let mut all = list(site.path());
    all.retain(|path| !path.starts_with(".publish"));
    assert_eq!(list(copy.path()), all);

    let record = site.path().join("refs/os/13");
    let time = fs::metadata(&record).unwrap().modified().unwrap();
    site.write("refs/os/13", "A RECORD");
    fs::File::options()
        .write(true)
        .open(&record)
        .unwrap()
        .set_modified(time)
        .unwrap();
    fs::remove_file(site.path().join("packs/empty")).unwrap();
    for line in &lines {
        run(line, site.path(), copy.path());
    }
    assert_eq!(fs::read(copy.path().join("refs/os/13")).unwrap(), b"A RECORD");
    assert!(
        copy.path().join("packs/empty").exists(),
        "an upload deletes nothing"
    );

    run(commands("rsync delete").trim(), site.path(), copy.path());
    assert!(!copy.path().join("packs/empty").exists());
    assert!(
        copy.path().join("refs/os/13").exists(),
        "records are not of this pass"
    );
}
