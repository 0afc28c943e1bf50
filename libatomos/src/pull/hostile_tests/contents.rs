//! Files that are not what they should be.

use std::io::Read;

use atomos_httpd::testing::{BadServer, Deed, Fault};

use super::{Has, Site, chain, files};
use crate::digest::Digest;
use crate::publish::SiteDir;
use crate::pull::tests::{noise, os};
use crate::sign::{SecretKey, Signer, TrustedKeys};
use crate::site::{Artifact, PatchFrame};

#[test]
fn a_bit_that_flips_anywhere_is_found_and_had_elsewhere() {
    for image in [true, false] {
        let mut site = Site::small(image);
        let good = BadServer::start(site.world.site(), []);
        let bad = BadServer::start(site.world.site(), []);
        for kind in ["packs", "patches", "images", "manifests", "releases", "refs"] {
            if kind == "images" && !image {
                continue;
            }
            for file in files(&site.world.site(), kind) {
                let size = file.metadata().unwrap().len();
                let path = format!("{kind}/{}", file.file_name().unwrap().to_str().unwrap());
                for step in 0..4 {
                    let offset = (size - 1) * step / 3;
                    bad.set_faults([Fault::on(&path, Deed::Flip(offset))]);
                    let has = if step % 2 == 0 { Has::Nothing } else { Has::First };
                    site.client(has, &[bad.url()]);
                    if let (Err(error), _) = site.pull() {
                        let text = chain(&error);
                        assert!(text.contains(&bad.url()), "{path} at {offset}: {text}");
                        site.assert_nothing_visible(has);
                        site.remote(&[bad.url(), good.url()]);
                        let (result, _) = site.pull();
                        result.unwrap_or_else(|error| panic!("{path} at {offset}: {}", chain(&error)));
                    }
                    // Whether it was had from another file, or was not needed: what is here is right.
                    site.world.assert_same_as_tree();
                }
            }
        }
    }
}

#[test]
fn a_bomb_in_a_pack_takes_no_more_than_the_blob() {
    let mut site = Site::small(false);
    // A gigabyte of zeros, in the place of the largest frame.
    let zeros = std::io::repeat(0).take(1 << 30);
    let mut bomb = zstd::stream::Encoder::new(Vec::new(), 19).unwrap();
    std::io::copy(&mut { zeros }, &mut bomb).unwrap();
    let mut bomb = bomb.finish().unwrap();
    assert!(bomb.len() < 190_000, "{}", bomb.len());
    let keys = TrustedKeys::pinned([site.world.key.public()]).unwrap();
    let dir = SiteDir::open(&site.world.site()).unwrap();
    let release = dir.published(&os(), &keys, &[]).unwrap().unwrap().release;
    let manifest = dir.manifest(&release).unwrap();
    let largest = manifest
        .index
        .places
        .iter()
        .max_by_key(|place| place.frames[0])
        .unwrap();
    bomb.resize(largest.frames[0] as usize, 0);
    let pack = site
        .world
        .site()
        .join(Artifact::Pack.path(manifest.index.pack_digest(largest)));
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[largest.offset as usize..][..bomb.len()].copy_from_slice(&bomb);
    std::fs::write(&pack, bytes).unwrap();
    site.refuses(Has::Nothing, &["no mirror has a good copy of blob"]);
}

#[test]
fn a_manifest_with_a_huge_offset_is_refused_as_a_whole() {
    let mut site = Site::small(false);
    let key = SecretKey::from_seed(&[1; 32]);
    site.sign_another(&key, |index, _| index.places[3].offset = 1 << 60, |_| {});
    site.refuses(Has::Nothing, &["lies within its file", "the offset", "index"]);
}

#[test]
fn places_that_lie_over_each_other_give_no_wrong_blob() {
    let mut site = Site::small(false);
    let key = SecretKey::from_seed(&[1; 32]);
    site.sign_another(
        &key,
        |index, _| {
            let (offset, pack) = (index.places[3].offset, index.places[3].pack);
            index.places[4].offset = offset + 1;
            index.places[4].pack = pack;
        },
        |_| {},
    );
    site.refuses(Has::Nothing, &["no mirror has a good copy of blob", "index"]);
}

#[test]
fn a_patch_of_the_wrong_base_is_had_from_a_pack() {
    let mut site = Site::small(false);
    let key = SecretKey::from_seed(&[1; 32]);
    let mut changed = 0;
    site.sign_another(
        &key,
        |index, _| {
            // Another file that the client has.
            let wrong = Digest::of(&noise(2, 4000));
            for patch in &mut index.patches {
                if let PatchFrame::Prefix { base, .. } = patch {
                    base.copy_from_slice(&wrong.as_bytes()[..8]);
                    changed += 1;
                }
            }
        },
        |_| {},
    );
    assert!(changed > 0);
    let server = BadServer::start(site.world.site(), []);
    site.client(Has::First, &[server.url()]);
    let (result, _) = site.pull();
    result.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert!(
        server
            .requests()
            .iter()
            .any(|seen| seen.path.starts_with("packs/"))
    );
    site.world.assert_same_as_tree();
}

#[test]
fn a_name_of_two_dots_is_in_no_tree() {
    let mut site = Site::small(false);
    site.world.write("usr/lib/QZ", b"what");
    site.world.commit("3");
    site.world.publish_with(|options| options.no_image = true);
    let key = SecretKey::from_seed(&[1; 32]);
    site.sign_another(
        &key,
        |_, table| {
            // The last one: there is a second in every 18 hours that has these bytes, and the commit's time stands first.
            let at = table.windows(2).rposition(|bytes| bytes == b"QZ").unwrap();
            table[at..at + 2].copy_from_slice(b"..");
        },
        |_| {},
    );
    site.refuses(Has::Nothing, &["name", "tree"]);
}

#[test]
fn a_release_signed_by_another_key_is_not_believed_although_the_record_is_right() {
    let mut site = Site::small(false);
    let other = SecretKey::from_seed(&[9; 32]);
    site.sign_another(&other, |_, _| {}, |_| {});
    site.refuses(Has::Nothing, &["cannot trust"]);
}

#[test]
fn a_release_of_another_ref_or_commit_than_its_record_says_is_refused() {
    let mut site = Site::small(false);
    let key = SecretKey::from_seed(&[1; 32]);
    site.sign_another(
        &key,
        |_, _| {},
        |release| release.reference = "elsewhere".parse().unwrap(),
    );
    site.refuses(Has::Nothing, &["elsewhere"]);
}
