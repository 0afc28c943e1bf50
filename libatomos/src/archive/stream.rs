//! Finding out how a stream is compressed.
//!
//! What it unpacks to is not bounded here: whoever reads it writes to disk what is new, and keeps nothing in memory. A
//! decoder's own memory is, as in `unpack`.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};

use crate::unpack::{Codec, XZ_MEMORY, ZSTD_WINDOW_LOG, begins_as};

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Not at all.
    None,
    /// As `gzip` does.
    Gzip,
    /// As `xz` does.
    Xz,
    /// As `zstd` does.
    Zstd,
}

/// Bytes that are enough to tell.
const MAGIC: usize = 10;

/// How streams begin that are not read here. As an archive that is not compressed each would only be a damaged one.
const FOREIGN: [(&[u8], &str); 4] = [
    (b"1AY&SY", "bzip2"),
    (&[0x04, 0x22, 0x4d, 0x18], "lz4"),
    (b"LZIP\x01", "lzip"),
    (b"PK\x03\x04", "zip"),
];

/// What is read at once.
const BUFFER: usize = 128 * 1024;

/// The bytes of a stream that may be compressed.
pub struct Decompressed<R: Read> {
    decoder: Decoder<Prefixed<R>>,
    compression: Compression,
}

enum Decoder<R: BufRead> {
    None(R),
    Gzip(Box<MultiGzDecoder<R>>),
    Xz(XzDecoder<R>),
    Zstd(Box<zstd::stream::read::Decoder<'static, R>>),
}

/// The first bytes, which were read to look at them, and the rest.
type Prefixed<R> = BufReader<io::Chain<io::Cursor<Vec<u8>>, R>>;

impl<R: Read> std::fmt::Debug for Decompressed<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decompressed")
            .field("compression", &self.compression)
            .finish_non_exhaustive()
    }
}

impl<R: Read> Decompressed<R> {
    /// Looks at the first bytes of `reader`.
    pub fn new(mut reader: R) -> io::Result<Self> {
        let mut head = Vec::with_capacity(MAGIC);
        (&mut reader).take(MAGIC as u64).read_to_end(&mut head)?;
        let is = |codec| begins_as(codec, &head);
        let compression = if is(Codec::Gzip) {
            Compression::Gzip
        } else if is(Codec::Xz) {
            Compression::Xz
        } else if is(Codec::Zstd) {
            Compression::Zstd
        } else if let Some(name) = foreign(&head) {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("it is compressed by {name}, and only gzip, xz and zstd are read"),
            ));
        } else {
            Compression::None
        };
        let reader = BufReader::with_capacity(BUFFER, io::Cursor::new(head).chain(reader));
        let decoder = match compression {
            Compression::None => Decoder::None(reader),
            Compression::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(reader))),
            Compression::Xz => {
                let stream = Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)?;
                Decoder::Xz(XzDecoder::new_stream(reader, stream))
            }
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(reader)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Decoder::Zstd(Box::new(decoder))
            }
        };
        Ok(Self { decoder, compression })
    }

    /// Returns how it is compressed.
    #[must_use]
    pub const fn compression(&self) -> Compression {
        self.compression
    }
}

fn foreign(head: &[u8]) -> Option<&'static str> {
    // The fourth byte of bzip2 is a digit, how large its blocks are.
    let head = match head {
        [b'B', b'Z', b'h', b'1'..=b'9', rest @ ..] => rest,
        _ => head,
    };
    FOREIGN
        .into_iter()
        .find_map(|(magic, name)| head.starts_with(magic).then_some(name))
}

impl<R: Read> Read for Decompressed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.decoder {
            Decoder::None(decoder) => decoder.read(buffer),
            Decoder::Gzip(decoder) => decoder.read(buffer),
            Decoder::Xz(decoder) => decoder.read(buffer),
            Decoder::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_compresses_otherwise_is_called_by_its_name() {
        for (head, name) in [
            (&b"BZh91AY&SY\xd6\x4f"[..], "bzip2"),
            (b"\x04\x22\x4d\x18\x64\x40", "lz4"),
            (b"LZIP\x01\x0c", "lzip"),
            (b"PK\x03\x04\x14\0", "zip"),
        ] {
            let error = Decompressed::new(head).map(drop).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::Unsupported);
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn a_first_member_may_have_any_name() {
        for head in [&b"BZh9/file"[..], b"PK/", b"LZIP.txt", b""] {
            assert_eq!(Decompressed::new(head).unwrap().compression(), Compression::None);
        }
    }
}
