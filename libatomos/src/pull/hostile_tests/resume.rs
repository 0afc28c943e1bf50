//! What is kept of what came, and what is asked for.

use atomos_httpd::testing::{BadServer, Deed, Fault, Nginx};

use super::{Has, Site, Warnings, chain, files};
use crate::cancel::Cancel;
use crate::publish::SiteDir;
use crate::pull::tests::{name, os};
use crate::pull::{PullOptions, Selector, Wanted, pull};
use crate::repo::Repo;
use crate::sign::{Signer, TrustedKeys};
use crate::site::Artifact;

#[test]
fn what_came_before_an_interruption_is_not_asked_for_again() {
    let mut site = Site::new(false);
    let server = BadServer::start(site.world.site(), []);
    for has in [Has::Nothing, Has::First] {
        site.client(has, &[server.url()]);
        // What a pull without interruption costs.
        let (whole, _) = site.pull();
        whole.unwrap();
        let objects = |seen: &[atomos_httpd::testing::Seen]| -> u64 {
            let objects = seen.iter().filter(|seen| seen.path.starts_with('p'));
            objects.map(|seen| seen.bytes).sum()
        };
        let whole = objects(&server.take_requests());
        // Every answer breaks off after six megabytes, and nobody asks again.
        site.client(has, &[server.url()]);
        drop(server.take_requests());
        server.set_faults([Fault::on("p", Deed::Close(6_000_000))]);
        site.world.remote(|config| {
            config.urls = vec![server.url()];
            config.retries = Some(0);
        });
        site.pull().0.unwrap_err();
        site.assert_nothing_visible(has);
        let wasted = server.take_requests();
        assert!(objects(&wasted) >= 5_000_000);
        server.set_faults([]);
        // Another process, perhaps after a reboot: nothing but the repository is the same.
        let path = site.world.client.dir().path().to_owned();
        site.world.client = Repo::open(&path).unwrap();
        let (result, _) = site.pull();
        result.unwrap_or_else(|error| panic!("{}", chain(&error)));
        let rest = objects(&server.take_requests());
        assert!(
            rest <= whole - 4_000_000,
            "{has:?}: {rest} of {whole} bytes were asked for, after six megabytes had come"
        );
        site.world.assert_same_as_tree();
    }
}

#[test]
fn what_an_interruption_left_is_not_believed() {
    let mut site = Site::new(false);
    let server = BadServer::start(site.world.site(), []);
    site.client(Has::First, &[server.url()]);
    server.set_faults([Fault::on("p", Deed::Close(6_000_000))]);
    site.world.remote(|config| {
        config.urls = vec![server.url()];
        config.retries = Some(0);
    });
    site.pull().0.unwrap_err();
    // A bit flips in what is on the disk meanwhile.
    let staging = files(site.world.client.dir().path(), "tmp");
    let mut flipped = 0;
    for dir in staging.iter().filter(|dir| dir.join("partial").is_dir()) {
        for file in files(dir, "partial") {
            let mut bytes = std::fs::read(&file).unwrap();
            assert!(bytes.len() >= 4 << 20, "{} bytes", bytes.len());
            bytes[1000] ^= 1;
            std::fs::write(&file, bytes).unwrap();
            flipped += 1;
        }
    }
    assert!(flipped > 0);
    server.set_faults([]);
    site.remote(&[server.url()]);
    let (result, _) = site.pull();
    result.unwrap_or_else(|error| panic!("{}", chain(&error)));
    site.world.assert_same_as_tree();
}

#[test]
fn the_parts_of_a_large_blob_are_all_had_from_the_mirror_that_is_right() {
    let mut site = Site::new(false);
    let good = BadServer::start(site.world.site(), []);
    // The same site, in which the second part of the large blob is another file's: each part is sound, the whole is not.
    let other = site.world.scratch.path().join("other-site");
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(site.world.site())
        .arg(&other)
        .status()
        .unwrap();
    assert!(copied.success());
    let keys = TrustedKeys::pinned([site.world.key.public()]).unwrap();
    let dir = SiteDir::open(&other).unwrap();
    let release = dir.published(&os(), &keys, &[]).unwrap().unwrap().release;
    let manifest = dir.manifest(&release).unwrap();
    let large = manifest
        .index
        .places
        .iter()
        .find(|place| place.frames.len() > 1)
        .unwrap();
    let pack = other.join(Artifact::Pack.path(manifest.index.pack_digest(large)));
    let mut bytes = std::fs::read(&pack).unwrap();
    let second = (large.offset + large.frames[0]) as usize;
    let len = large.frames[1] as usize;
    let raw = crate::compress::decompress(&bytes[second..second + len], 4 << 20).unwrap();
    let mut raw = raw;
    raw[77] ^= 1;
    // Noise takes as much room as it has, however hard one tries.
    let frame = (1..=19)
        .map(|level| crate::compress::Compressor::new(level).compress(&raw).unwrap())
        .find(|frame| frame.len() == len)
        .unwrap();
    bytes[second..second + len].copy_from_slice(&frame);
    std::fs::write(&pack, bytes).unwrap();
    let bad = BadServer::start(&other, []);
    site.client(Has::Nothing, &[bad.url(), good.url()]);
    let (result, warnings) = site.pull();
    result.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert!(
        warnings.iter().any(|text| text.contains(&bad.url())),
        "{warnings:?}"
    );
    site.world.assert_same_as_tree();
}

#[test]
fn two_refs_of_one_tree_come_once() {
    let mut site = Site::small(false);
    let canary: crate::names::RefName = "os-canary".parse().unwrap();
    let newest = site.world.publisher.ref_optional(&os()).unwrap().unwrap();
    let update = crate::repo::RefUpdate {
        name: canary.clone(),
        expected: None,
        new: Some(newest),
    };
    site.world.publisher.update_refs(&[update]).unwrap();
    site.world.publish_with(|options| options.no_image = true);
    let server = BadServer::start(site.world.site(), []);
    let mut bytes = Vec::new();
    for refs in [vec![os()], vec![os(), canary]] {
        site.client(Has::Nothing, &[server.url()]);
        drop(server.take_requests());
        let wanted: Vec<Wanted> = refs
            .into_iter()
            .map(|reference| Wanted {
                reference,
                selector: Selector::Newest,
            })
            .collect();
        let report = pull(
            &site.world.client,
            &name(),
            &wanted,
            &site.world.session(|_| {}),
            &PullOptions::default(),
            &Warnings::default(),
            &Cancel::new(),
        )
        .unwrap();
        assert_eq!(report.refs.len(), wanted.len());
        let packs = server.take_requests();
        let packs = packs.iter().filter(|seen| seen.path.starts_with("packs/"));
        bytes.push(packs.map(|seen| seen.bytes).sum::<u64>());
        site.world.assert_same_as_tree();
    }
    assert_eq!(bytes[0], bytes[1]);
}

#[test]
fn nginx_serves_it_in_few_requests() {
    let mut site = Site::new(true);
    let Some(nginx) = Nginx::start(site.world.site()) else {
        return;
    };
    let mut before = 0;
    for (has, most) in [(Has::Nothing, 24), (Has::First, 8)] {
        site.client(has, &[nginx.url()]);
        let report = site.pull().0.unwrap();
        site.world.assert_same_as_tree();
        let count = nginx
            .wait_for_requests(before + report.traffic.requests as usize)
            .len()
            - before;
        assert_eq!(count as u64, report.traffic.requests);
        assert!(count <= most, "{has:?}: {count} requests");
        before += count;
        // Nothing new: one request, and an answer without a body.
        let report = site.pull().0.unwrap();
        assert!(report.unchanged);
        let requests = nginx.wait_for_requests(before + 1);
        assert_eq!(requests.len(), before + 1);
        assert_eq!((requests[before].status, requests[before].body_bytes), (304, 0));
        before += 1;
    }
}
