//! Image layouts of which every byte may be spoiled, for [`super::decode`].

use std::io::Read;
use std::sync::{LazyLock, Mutex, PoisonError};

use sha2::{Digest as _, Sha256, Sha512};

use crate::archive::Decompressed;
use crate::fs::Dir;
use crate::oci::{Layout, OciDigest, Platform};

use super::archives::{Codec, compressed, layer, with_checksums};

/// Documents that an input may have, less one.
const MOST_DOCUMENTS: u8 = 7;

/// Bytes of a layer that are unpacked to know their digest.
const MOST: u64 = 1 << 20;

/// Layers of an image, as the library says.
const MAX_LAYERS: usize = 1024;

/// What stands in a document for what is not known before it.
const NEXT: &str = r#""@@","size":0"#;
const LAYER: &str = r#""@layer","size":0"#;
const LAYER_512: &str = r#""@layer512","size":0"#;
const DIFF: &str = "@diff";

/// See [`super::decode::check_layout`].
pub(super) fn check(bytes: &[u8]) {
    static PLACE: LazyLock<Mutex<tempfile::TempDir>> =
        LazyLock::new(|| Mutex::new(tempfile::tempdir_in(super::memory_dir()).unwrap()));
    let Some((first, rest)) = bytes.split_first() else {
        return;
    };
    let place = PLACE.lock().unwrap_or_else(PoisonError::into_inner);
    let layout = Layout::ensure(Dir::open_ambient(place.path()).unwrap()).unwrap();
    let count = usize::from(*first).clamp(1, usize::from(MOST_DOCUMENTS));
    let written = write(&layout, rest, count);
    let arm = Platform {
        os: "linux".to_owned(),
        architecture: "arm64".to_owned(),
        variant: Some("v8".to_owned()),
    };
    for (name, platform) in [(None, None), (Some("a"), None), (None, Some(&arm))] {
        let Ok(image) = layout.image(name, platform) else {
            continue;
        };
        assert!(image.layers.len() <= MAX_LAYERS);
        for layer in &image.layers {
            assert!(OciDigest::parse(&layer.diff_id.to_string()).is_some());
        }
        if let Ok(paths) = crate::source::hostile::read_image(&layout, &image) {
            super::decode::check_paths(paths);
        }
    }
    for path in written {
        layout.dir().remove_file_optional(path).unwrap();
    }
}

/// Writes `count` documents, and the layer behind them; returns the files that are not there without them.
fn write(layout: &Layout, bytes: &[u8], count: usize) -> Vec<String> {
    let mut parts: Vec<&[u8]> = bytes.splitn(count + 1, |byte| *byte == 0).collect();
    let packed = with_checksums(if parts.len() > count {
        parts.remove(count)
    } else {
        b""
    });
    let mut written = Vec::new();
    let mut put = |algorithm: &str, hex: &str, bytes: &[u8]| {
        let path = format!("blobs/{algorithm}/{hex}");
        layout
            .dir()
            .ensure_dir_all(format!("blobs/{algorithm}"), 0o755)
            .unwrap();
        layout.dir().write_atomic(&path, bytes, 0o644).unwrap();
        written.push(path);
        format!(r#""{algorithm}:{hex}","size":{}"#, bytes.len())
    };
    let layer = put("sha256", &sha256(&packed), &packed);
    let layer_512 = crate::digest::hex(&Sha512::digest(&packed));
    let layer_512 = put("sha512", &layer_512, &packed);
    let mut plain = Vec::new();
    if let Ok(reader) = Decompressed::new(&packed[..]) {
        let _ = reader.take(MOST).read_to_end(&mut plain);
    }
    let diff = format!("sha256:{}", sha256(&plain));
    // The last first, as those before have its digest and its size.
    let mut next = String::new();
    for (at, part) in parts.iter().enumerate().rev() {
        let text = String::from_utf8_lossy(part)
            .replace(NEXT, &next)
            .replace(LAYER, &layer)
            .replace(LAYER_512, &layer_512)
            .replace(DIFF, &diff);
        if at == 0 {
            layout
                .dir()
                .write_atomic("index.json", text.as_bytes(), 0o644)
                .unwrap();
        } else {
            next = put("sha256", &sha256(text.as_bytes()), text.as_bytes());
        }
    }
    written
}

fn sha256(bytes: &[u8]) -> String {
    crate::digest::hex(&Sha256::digest(bytes))
}

/// See [`super::decode::layout_seeds`].
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let oci = |what: &str| format!("application/vnd.oci.image.{what}");
    let docker = |what: &str| format!("application/vnd.docker.{what}");
    let named = r#""annotations":{"org.opencontainers.image.ref.name":"a"}"#;
    let (amd, arm) = (
        r#""platform":{"os":"linux","architecture":"amd64"}"#,
        r#""platform":{"os":"linux","architecture":"arm64","variant":"v8"}"#,
    );
    let next = |kind: &str, more: &str| format!(r#"{{"mediaType":"{kind}","digest":{NEXT}{more}}}"#);
    let index = |manifests: &str| format!(r#"{{"schemaVersion":2,"manifests":[{manifests}]}}"#);
    let manifest = |config: &str, layers: &[(String, &str)]| {
        let layers: Vec<String> = layers
            .iter()
            .map(|(kind, digest)| format!(r#"{{"mediaType":"{kind}","digest":{digest}}}"#))
            .collect();
        let config = next(config, "");
        format!(
            r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#,
            layers.join(",")
        )
    };
    let config = |diff_ids: &str| {
        format!(
            r#"{{"created":"2026-01-01T00:00:00Z","architecture":"amd64","os":"linux","config":{{"Labels":{{"a":"b"}}}},"rootfs":{{"type":"layers","diff_ids":[{diff_ids}]}},"history":[{{"created_by":"x"}}]}}"#
        )
    };
    let once = "\"@diff\"";
    let twice = "\"@diff\",\"@diff\"";
    let oci_manifest = oci("manifest.v1+json");
    let plain = (oci("layer.v1.tar"), LAYER);
    let input = |documents: &[String], layer: &[u8]| {
        let mut bytes = vec![documents.len() as u8];
        for document in documents {
            bytes.extend_from_slice(document.as_bytes());
            bytes.push(0);
        }
        bytes.extend_from_slice(layer);
        bytes
    };
    let archive = layer();
    vec![
        // As buildah has it.
        input(
            &[
                index(&next(&oci_manifest, &format!(",{named},{amd}"))),
                manifest(
                    &oci("config.v1+json"),
                    &[
                        (oci("layer.v1.tar+zstd"), LAYER),
                        (oci("layer.v1.tar+zstd"), LAYER_512),
                    ],
                ),
                config(twice),
            ],
            &compressed(&archive, Codec::Zstd),
        ),
        // As docker has it: an index in the index, with an image for each kind of machine.
        input(
            &[
                index(&next(
                    &docker("distribution.manifest.list.v2+json"),
                    &format!(",{named}"),
                )),
                index(&format!(
                    "{},{}",
                    next(&docker("distribution.manifest.v2+json"), &format!(",{arm}")),
                    next(&docker("distribution.manifest.v2+json"), &format!(",{amd}"))
                )),
                manifest(
                    &docker("container.image.v1+json"),
                    &[(docker("image.rootfs.diff.tar.gzip"), LAYER)],
                ),
                config(once),
            ],
            &compressed(&archive, Codec::Gzip),
        ),
        // Several images, of which one must be asked for.
        input(
            &[
                index(&format!(
                    "{},{}",
                    next(&oci_manifest, &format!(",{named}")),
                    next(&oci_manifest, "")
                )),
                manifest(&oci("config.v1+json"), &[plain.clone(), plain.clone()]),
                config(twice),
            ],
            &archive,
        ),
        // What is no image.
        input(
            &[
                index(&next("text/plain", "")),
                manifest("text/plain", &[]),
                config(""),
            ],
            b"",
        ),
        // Indexes without an end.
        input(
            &vec![index(&next(&oci("index.v1+json"), "")); usize::from(MOST_DOCUMENTS)],
            b"",
        ),
        // Layers of which the archive, the number or the kind is not what the documents say.
        input(
            &[
                index(&next(&oci_manifest, "")),
                manifest(&oci("config.v1+json"), std::slice::from_ref(&plain)),
                config(&format!("\"sha512:{}\"", "0".repeat(128))),
            ],
            &archive,
        ),
        input(
            &[
                index(&next(&oci_manifest, "")),
                manifest(&oci("config.v1+json"), &[(oci("layer.v1.tar+gzip"), LAYER)]),
                config(once),
            ],
            &compressed(&archive, Codec::Zstd),
        ),
        input(
            &[
                index(&next(&oci_manifest, "")),
                manifest(&oci("config.v1+json"), &[plain]),
                config(twice),
            ],
            &archive,
        ),
    ]
}
