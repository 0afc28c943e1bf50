//! Reading compressed bytes that nobody vouches for.
//!
//! A few bytes can claim to be terabytes, or ask for gigabytes of memory to be read with. Both are bounded here: a file
//! may unpack to 256 times its size (text and modules unpack to less than ten times theirs), a small one to 1 MiB, none
//! to more than 1 GiB; and a decoder has at most 128 MiB. Several streams in one file are read one after the other, as
//! the programs of these formats do.

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};

use super::Codec;

/// What a small file may unpack to whatever its size.
const SMALLEST_LIMIT: u64 = 1024 * 1024;

/// What no file may exceed.
const LARGEST_LIMIT: u64 = 1024 * 1024 * 1024;

/// How often a file may have its own size.
const RATIO: u64 = 256;

/// Memory of a decoder, as the two that let a file choose take it.
pub(crate) const XZ_MEMORY: u64 = 128 * 1024 * 1024;
pub(crate) const ZSTD_WINDOW_LOG: u32 = 27;

/// Reads what a compressed file holds.
pub(crate) struct Unpacker<'r, R: Read> {
    decoder: Decoder<'r, R>,
    left: u64,
}

enum Decoder<'r, R: Read> {
    Gzip(Box<MultiGzDecoder<BufReader<R>>>),
    Xz(XzDecoder<BufReader<R>>),
    Zstd(zstd::stream::read::Decoder<'r, BufReader<R>>),
}

/// Returns whether a file that begins so can be one of this format.
pub(crate) fn begins_as(codec: Codec, head: &[u8]) -> bool {
    let magic: &[u8] = match codec {
        Codec::Gzip => &[0x1f, 0x8b, 8],
        Codec::Xz => &[0xfd, b'7', b'z', b'X', b'Z', 0],
        Codec::Zstd => &[0x28, 0xb5, 0x2f, 0xfd],
    };
    head.starts_with(magic)
}

impl<R: Read> Unpacker<'_, R> {
    /// Begins to read a file of `packed` bytes.
    pub(crate) fn new(codec: Codec, reader: R, packed: u64) -> io::Result<Self> {
        let reader = BufReader::new(reader);
        let decoder = match codec {
            Codec::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(reader))),
            Codec::Xz => {
                let stream = Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)?;
                Decoder::Xz(XzDecoder::new_stream(reader, stream))
            }
            Codec::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(reader)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Decoder::Zstd(decoder)
            }
        };
        Ok(Self {
            decoder,
            left: packed.saturating_mul(RATIO).clamp(SMALLEST_LIMIT, LARGEST_LIMIT),
        })
    }
}

impl<R: Read> Read for Unpacker<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = match &mut self.decoder {
            Decoder::Gzip(decoder) => decoder.read(buffer)?,
            Decoder::Xz(decoder) => decoder.read(buffer)?,
            Decoder::Zstd(decoder) => decoder.read(buffer)?,
        };
        self.left = self.left.checked_sub(len as u64).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "it unpacks to more than 256 times its size, or to more than a gigabyte",
            )
        })?;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn pack(codec: Codec, bytes: &[u8]) -> Vec<u8> {
        match codec {
            Codec::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Codec::Xz => {
                let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 6);
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Codec::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
                encoder.include_checksum(true).unwrap();
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
        }
    }

    fn unpack(codec: Codec, packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        Unpacker::new(codec, packed, packed.len() as u64)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_was_packed_is_unpacked_and_streams_in_a_row_are_one(
            bytes in prop::collection::vec(any::<u8>(), 0..5000),
            more in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            for codec in Codec::ALL {
                let mut packed = pack(codec, &bytes);
                prop_assert!(begins_as(codec, &packed));
                packed.extend(pack(codec, &more));
                prop_assert_eq!(unpack(codec, &packed).unwrap(), [&bytes[..], &more].concat());
            }
        }

        #[test]
        fn what_is_cut_or_flipped_is_an_error_or_the_same_bytes(
            bytes in prop::collection::vec(any::<u8>(), 1..2000),
            cut in any::<prop::sample::Index>(),
            flip in any::<prop::sample::Index>(),
        ) {
            for codec in Codec::ALL {
                let packed = pack(codec, &bytes);
                let len = 1 + cut.index(packed.len() - 1);
                if len < packed.len() {
                    prop_assert!(unpack(codec, &packed[..len]).is_err(), "{codec:?} cut to {len}");
                }
                let mut damaged = packed.clone();
                damaged[flip.index(packed.len())] ^= 0x10;
                // Some bytes say when a file was packed, or by what.
                if let Ok(found) = unpack(codec, &damaged) {
                    prop_assert_eq!(&found, &bytes, "{:?}", codec);
                }
            }
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for codec in Codec::ALL {
                let magic: &[u8] = match codec {
                    Codec::Gzip => &[0x1f, 0x8b, 8],
                    Codec::Xz => &[0xfd, b'7', b'z', b'X', b'Z', 0],
                    Codec::Zstd => &[0x28, 0xb5, 0x2f, 0xfd],
                };
                let _ = unpack(codec, &bytes);
                let _ = unpack(codec, &[magic, &bytes].concat());
            }
        }
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_large() {
        let zeros = vec![0; 64 << 20];
        for codec in Codec::ALL {
            let packed = pack(codec, &zeros);
            let mut reader = Unpacker::new(codec, &packed[..], packed.len() as u64).unwrap();
            let mut buffer = vec![0; 1 << 16];
            let mut read = 0;
            let error = loop {
                match reader.read(&mut buffer) {
                    Ok(0) => panic!("{codec:?}: all of it was read"),
                    Ok(len) => read += len as u64,
                    Err(error) => break error,
                }
            };
            assert!(error.to_string().contains("256 times"), "{codec:?}: {error}");
            assert!(
                read <= (packed.len() as u64 * RATIO).max(SMALLEST_LIMIT),
                "{codec:?}"
            );
        }
    }

    #[test]
    fn a_file_that_wants_much_memory_is_refused() {
        let mut options = liblzma::stream::LzmaOptions::new_preset(0).unwrap();
        options.dict_size(512 << 20);
        let mut filters = liblzma::stream::Filters::new();
        filters.lzma2(&options);
        let mut head = pack(Codec::Xz, b"small");
        // The property byte of LZMA2 is the size of its dictionary: 37 is 1 GiB. Its header has a checksum.
        let at = head.windows(2).position(|pair| pair == [0x21, 1]).unwrap() + 2;
        head[at] = 37;
        let block = 12..12 + (usize::from(head[12]) + 1) * 4;
        let mut crc = flate2::Crc::new();
        crc.update(&head[block.start..block.end - 4]);
        head[block.end - 4..block.end].copy_from_slice(&crc.sum().to_le_bytes());
        let error = unpack(Codec::Xz, &head).unwrap_err();
        assert!(
            error.to_string().contains("emory") || format!("{error:?}").contains("Mem"),
            "{error:?}"
        );

        // A frame of one segment says its window by its size: 4 GiB.
        let frame = [&[0x28, 0xb5, 0x2f, 0xfd, 0xa0][..], &[0xff; 4], &[1, 0, 0]].concat();
        unpack(Codec::Zstd, &frame).unwrap_err();
    }
}
