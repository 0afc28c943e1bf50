//! Frames, streams, bundles: what the bytes of blobs come in.

use std::io::{Read, Write};

use crate::digest::Digest;
use crate::patch::{apply_stream, make_stream};
use crate::publish::SiteDir;
use crate::pull::create_bundle;
use crate::transport::{BundleTransport, Request, Transport, TransportErrorKind, check_path};

use super::files::Files;
use super::world::{World, reference};

/// Set in the first byte of a frame's number: what follows are streams, which have yet to be compressed.
const STREAMS: u8 = 0x80;

fn numbered(number: usize, flag: u8, bytes: &[u8]) -> Vec<u8> {
    [&[(number >> 8) as u8 | flag, number as u8], bytes].concat()
}

pub(super) fn frames(files: &Files) -> Vec<Vec<u8>> {
    let mut seeds: Vec<_> = files
        .frames
        .bytes()
        .enumerate()
        .map(|(number, bytes)| numbered(number, 0, bytes))
        .collect();
    for (number, len) in files.frames.groups() {
        let frame = files.frames.bytes().nth(number).unwrap();
        let raw = crate::compress::decompress(frame, len as usize).unwrap();
        seeds.push(numbered(number, STREAMS, &raw));
    }
    seeds
}

pub(super) fn frame(world: &World, files: &Files, bytes: &[u8]) {
    let [high, low, rest @ ..] = bytes else {
        return;
    };
    let number = usize::from(high & !STREAMS) << 8 | usize::from(*low);
    let client = &world.client;
    if high & STREAMS == 0 {
        return files.frames.take(client, &files.blobs, number, rest);
    }
    let groups = files.frames.groups();
    if let Some((number, len)) = groups.iter().nth(number % groups.len().max(1)) {
        let mut raw = rest.to_vec();
        raw.resize(*len as usize, 0);
        let frame = crate::pull::laws::Frames::compress(&raw);
        files.frames.take(client, &files.blobs, *number, &frame);
    }
}

/// A file of one version, the next version of it, and the stream that makes the one of the other.
#[derive(Debug)]
pub(super) struct Pair {
    base: std::fs::File,
    new: Vec<u8>,
    stream: Vec<u8>,
}

pub(super) fn pairs() -> Vec<Pair> {
    let old: Vec<u8> = (0..3000u32).map(|n| (n * n / 7) as u8).collect();
    let mut moved = old[1000..2500].to_vec();
    moved.extend_from_slice(&old[..900]);
    moved.iter_mut().step_by(97).for_each(|byte| *byte ^= 5);
    let longer = [&b"inserted"[..], &old, b"appended"].concat();
    [
        (&old[..], moved),
        (&old[..], longer),
        (&[], b"all of it is new".to_vec()),
    ]
    .map(|(old, new)| Pair {
        base: memory_file(old),
        stream: make_stream(old, &new).unwrap(),
        new,
    })
    .into()
}

pub(super) fn streams(files: &Files) -> Vec<Vec<u8>> {
    let numbered = files.pairs.iter().enumerate();
    numbered
        .map(|(number, pair)| [&[number as u8], &pair.stream[..]].concat())
        .collect()
}

pub(super) fn stream(files: &Files, bytes: &[u8]) {
    let Some((number, stream)) = bytes.split_first() else {
        return;
    };
    let pair = &files.pairs[usize::from(*number) % files.pairs.len()];
    for size in [pair.new.len(), pair.new.len() + 1, 0] {
        if let Ok(made) = apply_stream(stream, &pair.base, size as u64) {
            assert_eq!(made.len(), size, "as many bytes as were announced");
            // Each byte is new, or is a byte of the base and a difference: it has to stand in the stream.
            assert!(stream.len() >= 4 + size);
        }
    }
    if pair.stream == stream {
        let made = apply_stream(stream, &pair.base, pair.new.len() as u64);
        assert!(made.unwrap() == pair.new, "the real stream makes the real file");
    }
}

fn memory_file(bytes: &[u8]) -> std::fs::File {
    let mut file = tempfile::tempfile_in(crate::testing::memory_dir()).unwrap();
    file.write_all(bytes).unwrap();
    file
}

pub(super) fn bundles(world: &World) -> Vec<Vec<u8>> {
    let site = SiteDir::open(&world.site()).unwrap();
    [None, Some("2"), Some("1")]
        .into_iter()
        .map(|from| {
            let mut out = Vec::new();
            create_bundle(&site, &reference(), from, &mut out).unwrap();
            out
        })
        .collect()
}

/// Bytes of a bundle's file that are looked at.
const LOOK: u64 = 64 * 1024;

pub(super) fn bundle(bytes: &[u8]) {
    let file = memory_file(bytes);
    let Ok(bundle) = BundleTransport::from_file(file, "bundle".to_owned()) else {
        return;
    };
    let read = |request: &Request<'_>| {
        let mut response = bundle.get(request).map_err(|error| error.kind)?;
        let mut bytes = Vec::new();
        response
            .body
            .read_to_end(&mut bytes)
            .map_err(|_| TransportErrorKind::Temporary)?;
        Ok(bytes)
    };
    for path in bundle.paths().take(20) {
        assert!(check_path(path), "{path:?} leads elsewhere");
        let whole = read(&Request::whole(path, LOOK));
        assert!(whole.as_ref().map_or(true, |whole| whole.len() as u64 <= LOOK));
        let whole_len = whole.as_ref().map(|whole| whole.len() as u64).ok();
        for range in [0..1, 1..100, 60_000..LOOK, LOOK - 1..LOOK + 1] {
            let part = read(&Request::range(path, range.clone(), LOOK));
            match (&part, &whole) {
                (Ok(part), _) if part.len() as u64 != range.end - range.start => {
                    panic!("{range:?} of {path} has {} bytes", part.len())
                }
                (Ok(part), Ok(whole)) => {
                    assert_eq!(part, &whole[range.start as usize..range.end as usize]);
                }
                (Err(_), Ok(_)) => assert!(Some(range.end) > whole_len, "{range:?} of {path}"),
                _ => {}
            }
        }
        assert!(read(&Request::range(path, 5..5, LOOK)).is_err());
        assert!(read(&Request::range(path, 0..u64::MAX, LOOK)).is_err());
    }
    let other = Digest::of(bytes).to_hex();
    assert_eq!(
        read(&Request::whole(&other, 1)),
        Err(TransportErrorKind::NotFound)
    );
}
