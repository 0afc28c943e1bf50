//! Answers that are no answers.

use atomos_httpd::testing::{BadServer, Deed, Fault};

use super::{Has, PullError, Site, chain};

/// Everything that a machine with nothing asks for, and the objects that a machine one release behind asks for.
const PLACES: [(Has, &str); 2] = [(Has::Nothing, ""), (Has::First, "p")];

fn fails_everywhere(deed: &Deed, why: &[&str]) {
    let mut site = Site::new(false);
    for (has, prefix) in PLACES {
        site.fails(has, prefix, deed, why);
    }
}

#[test]
fn a_page_of_html_is_no_record_and_no_pack() {
    fails_everywhere(&Deed::Html, &["no signed envelope", "ends before the bytes"]);
}

#[test]
fn a_page_in_the_sites_place_is_called_one() {
    let mut site = Site::small(false);
    let bad = BadServer::start(site.world.site(), [Fault::on("", Deed::Html)]);
    site.client(Has::Nothing, &[bad.url()]);
    let error = site.pull().0.unwrap_err();
    assert!(matches!(error, PullError::WebPage { .. }), "{}", chain(&error));
    assert!(error.to_string().contains("text/html"), "{error}");
    assert_eq!(error.kind(), crate::error::ErrorKind::Untrusted);
}

#[test]
fn what_is_not_found_is_named() {
    fails_everywhere(&Deed::Status(404), &["404"]);
}

#[test]
fn a_server_that_fails_half_of_the_time_is_asked_again() {
    let mut site = Site::new(false);
    for (has, _) in PLACES {
        let seen = site.completes(has, vec![Fault::on("", Deed::Status(500)).odds(0.5, 7)]);
        assert!(seen.iter().any(|seen| seen.status == 500));
    }
}

#[test]
fn a_server_that_always_fails_is_named() {
    fails_everywhere(&Deed::Status(500), &["500"]);
}

#[test]
fn the_whole_file_instead_of_a_range_is_used() {
    let mut site = Site::new(false);
    for (has, _) in PLACES {
        let seen = site.completes(has, vec![Fault::on("", Deed::IgnoreRange)]);
        assert!(seen.iter().any(|seen| seen.deed == Some(Deed::IgnoreRange)));
        let packs = seen.iter().filter(|seen| seen.path.starts_with("packs/")).count();
        assert!(packs <= 4, "a file is asked for once: {packs}");
    }
}

#[test]
fn a_server_without_ranges_is_asked_for_whole_files() {
    let mut site = Site::new(false);
    for (has, _) in PLACES {
        let seen = site.completes(has, vec![Fault::on("", Deed::RefuseRange)]);
        assert!(seen.iter().any(|seen| seen.status == 501));
    }
}

#[test]
fn of_a_server_without_ranges_a_file_comes_once() {
    let mut site = Site::new(true);
    for has in [Has::Nothing, Has::First] {
        let seen = site.completes(has, vec![Fault::on("", Deed::NoRanges)]);
        let mut paths: Vec<_> = seen.iter().map(|seen| &seen.path).collect();
        let asked = paths.len();
        paths.sort();
        paths.dedup();
        assert_eq!(paths.len(), asked, "{has:?}: {seen:#?}");
    }
}

#[test]
fn another_range_than_was_asked_for_is_refused() {
    let mut site = Site::new(false);
    for (has, _) in PLACES {
        site.fails(has, "p", &Deed::WrongRange(100), &["range"]);
    }
}

#[test]
fn another_range_under_the_right_name_does_not_verify() {
    let mut site = Site::new(false);
    for (has, _) in PLACES {
        site.fails(
            has,
            "p",
            &Deed::LyingRange(100),
            &["no mirror has a good copy of blob"],
        );
    }
}

#[test]
fn a_length_that_lies_is_found_out() {
    fails_everywhere(&Deed::LongLength(10), &["disconnected", "announces"]);
    fails_everywhere(
        &Deed::ShortLength(10),
        &[
            "EOF",
            "no mirror has a good copy",
            "bytes early",
            "ends before the bytes",
        ],
    );
}

#[test]
fn a_compression_that_nobody_asked_for_is_refused() {
    fails_everywhere(&Deed::Gzip, &["gzip", "encod"]);
}

#[test]
fn a_trickle_is_not_waited_for() {
    fails_everywhere(
        &Deed::Trickle(1, std::time::Duration::from_millis(300)),
        &["bytes came in"],
    );
}

#[test]
fn a_stall_ends() {
    fails_everywhere(&Deed::Stall(20), &["time", "stall", "no byte"]);
    fails_everywhere(&Deed::Silence, &["time", "stall"]);
}

#[test]
fn a_connection_that_breaks_is_an_error_of_that_file() {
    for deed in [Deed::Reset(20), Deed::Close(20), Deed::Hangup, Deed::Garbage] {
        fails_everywhere(&deed, &["disconnected", "does not speak HTTP"]);
    }
}

#[test]
fn an_endless_body_is_cut_off() {
    fails_everywhere(&Deed::Endless, &["more bytes than the file has"]);
}

#[test]
fn a_circle_of_redirects_is_left() {
    fails_everywhere(&Deed::RedirectLoop, &["redirect"]);
}

#[test]
fn an_image_or_a_patch_that_breaks_off_is_made_up_for_by_packs() {
    let mut site = Site::new(true);
    let image = [
        Deed::Close(20),
        Deed::Close(40_000),
        Deed::ShortLength(30_000),
        Deed::Reset(5000),
    ];
    let patches = [Deed::Close(20), Deed::ShortLength(20)];
    for (has, prefix, deeds) in [
        (Has::Nothing, "images/", &image[..]),
        (Has::First, "patches/", &patches[..]),
    ] {
        for deed in deeds {
            let bad = BadServer::start(site.world.site(), [Fault::on(prefix, deed.clone())]);
            site.client(has, &[bad.url()]);
            let (result, warnings) = site.pull();
            let report = result.unwrap_or_else(|error| panic!("{deed:?} on {prefix}: {}", chain(&error)));
            assert_eq!(report.refs[0].version, "2");
            site.world.assert_same_as_tree();
            assert!(
                warnings
                    .iter()
                    .any(|text| text.contains(prefix) && text.contains("taken from elsewhere")),
                "{deed:?} on {prefix}: {warnings:?}"
            );
        }
    }
    // Where everything breaks off, the network is to blame, and nothing is said of damage.
    let bad = BadServer::start(
        site.world.site(),
        [
            Fault::on("images/", Deed::Close(20)),
            Fault::on("packs/", Deed::Close(20)),
        ],
    );
    site.client(Has::Nothing, &[bad.url()]);
    let error = site.pull().0.unwrap_err();
    assert_eq!(error.kind(), crate::error::ErrorKind::Io, "{}", chain(&error));
    // A server that is not there at all is no reason to ask it for more.
    let bad = BadServer::start(
        site.world.site(),
        [
            Fault::on("images/", Deed::Hangup),
            Fault::on("packs/", Deed::Hangup),
        ],
    );
    site.client(Has::Nothing, &[bad.url()]);
    let (result, _) = site.pull();
    let error = result.unwrap_err();
    assert!(chain(&error).contains("images/"), "{}", chain(&error));
    assert!(!bad.requests().iter().any(|seen| seen.path.starts_with("packs/")));
}
