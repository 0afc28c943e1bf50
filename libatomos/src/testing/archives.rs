//! Archives as the programs of the last forty years have written them, for [`super::decode`].
//!
//! Headers are put together field by field, since no one program writes all of this, and some of it none does any more.

use crate::archive::{Member, MemberKind, TarWriter};
use crate::format::Metadata;

const BLOCK: usize = 512;
const USTAR: &[u8] = b"ustar\x0000";
const GNU: &[u8] = b"ustar  \0";
const V7: &[u8] = b"";

/// An archive that is being put together.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    /// Appends a member: a header with `magic`, which `change` may change, and `data` behind it.
    fn add(mut self, magic: &[u8], kind: u8, name: &str, data: &[u8], change: impl Fn(&mut [u8])) -> Self {
        let mut block = [0; BLOCK];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..107].copy_from_slice(b"0000755");
        block[108..115].copy_from_slice(b"0001750");
        block[116..123].copy_from_slice(b"0001750");
        block[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
        block[136..147].copy_from_slice(b"14000000000");
        block[156] = kind;
        block[257..257 + magic.len()].copy_from_slice(magic);
        change(&mut block);
        set_checksum(&mut block);
        self.0.extend_from_slice(&block);
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    fn plain(self, magic: &[u8], kind: u8, name: &str, data: &[u8]) -> Self {
        self.add(magic, kind, name, data, |_| ())
    }

    fn link(self, magic: &[u8], kind: u8, name: &str, target: &str) -> Self {
        self.add(magic, kind, name, b"", |block| {
            block[157..157 + target.len()].copy_from_slice(target.as_bytes());
        })
    }

    /// Appends an extended header: `x` for the next member, `g` for all.
    fn records(self, kind: u8, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (keyword, value) in records {
            let rest = keyword.len() + value.len() + 3;
            // The length counts its own digits.
            let digits = (1..4).find(|digits| (rest + digits).to_string().len() == *digits);
            let len = rest + digits.expect("no record here is so long");
            text.extend_from_slice(format!("{len} {keyword}=").as_bytes());
            text.extend_from_slice(value);
            text.push(b'\n');
        }
        self.plain(USTAR, kind, "PaxHeaders/x", &text)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }
}

/// Gives every block that looks like a header the checksum that it should have.
pub(super) fn with_checksums(archive: &[u8]) -> Vec<u8> {
    let mut archive = archive.to_vec();
    for block in archive.chunks_exact_mut(BLOCK) {
        if block[257..].starts_with(b"ustar") {
            set_checksum(block);
        }
    }
    archive
}

fn set_checksum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Returns archives with everything that a reader of them knows. In each, the first byte says how paths are to be taken.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let own = own_archive();
    let (head, tail) = own.split_at(4 * BLOCK);
    let rooted = [
        own.clone(),
        old(),
        gnu(),
        layer(),
        // In two parts, as some programs write it.
        [compressed(head, Codec::Gzip), compressed(tail, Codec::Gzip)].concat(),
        compressed(&own, Codec::Xz),
        compressed(&own, Codec::Zstd),
    ];
    let strict = [old(), posix(), gnu(), sparse(), attributes()];
    let with = |first: u8, archives: Vec<Vec<u8>>| {
        archives
            .into_iter()
            .map(move |archive| [&[first], &archive[..]].concat())
    };
    with(1, rooted.into()).chain(with(0, strict.into())).collect()
}

/// What this library writes.
fn own_archive() -> Vec<u8> {
    let long = "n".repeat(150);
    let mut metadata = Metadata::with_mode(0o4755);
    metadata.mtime = -1;
    metadata.uid = 3_000_000;
    // Those of users are for files and directories alone.
    metadata.xattrs.insert(b"trusted.a".to_vec(), b"x=y".to_vec());
    metadata.xattrs.insert(b"trusted.b=c".to_vec(), vec![0, 1]);
    let bytes = b"some bytes";
    let size = bytes.len() as u64;
    let kinds = [
        ("./", MemberKind::Dir),
        ("dir/file", MemberKind::File { size }),
        ("dir/hard", MemberKind::HardLink(b"dir/file".to_vec())),
        ("link", MemberKind::Symlink(long.clone().into_bytes())),
        ("link2", MemberKind::Symlink(b"/dir".to_vec())),
        ("link2/in", MemberKind::Fifo),
        (long.as_str(), MemberKind::File { size }),
        ("c", MemberKind::Char(1, 3)),
        ("b", MemberKind::Block(8, 1)),
        ("dir/.wh.file", MemberKind::File { size: 0 }),
        ("dir/.wh..wh..opq", MemberKind::File { size: 0 }),
    ];
    let mut writer = TarWriter::new(Vec::new());
    for (path, kind) in kinds {
        let size = match kind {
            MemberKind::File { size } => size,
            _ => 0,
        };
        let member = Member {
            path: path.as_bytes().to_vec(),
            metadata: metadata.clone(),
            kind,
            literal: path.len() > 100,
        };
        writer.write_member(&member).expect("memory takes it");
        writer
            .write_data(&bytes[..size as usize])
            .expect("memory takes it");
        writer.end_file(size).expect("memory takes it");
    }
    writer.finish().expect("memory takes it")
}

/// As before POSIX: no magic, and a directory is known by its slash.
fn old() -> Vec<u8> {
    Archive::default()
        .plain(V7, 0, "dir/", b"")
        .plain(V7, 0, "dir/file", b"bytes")
        .link(V7, b'1', "dir/hard", "dir/file")
        .link(V7, b'2', "dir/link", "../dir/./file")
        .end()
}

/// What POSIX has besides: prefixes of names, devices, files that lie in one piece.
fn posix() -> Vec<u8> {
    let device = |block: &mut [u8]| {
        block[329..336].copy_from_slice(b"0000010");
        block[337..344].copy_from_slice(b"0000001");
    };
    Archive::default()
        .plain(USTAR, b'5', "dir", b"")
        .add(USTAR, b'0', "file", b"bytes", |block| {
            block[345..352].copy_from_slice(b"dir/sub");
        })
        .plain(USTAR, b'7', "whole", b"one piece")
        .add(USTAR, b'3', "null", b"", device)
        .add(USTAR, b'4', "sda", b"", device)
        .plain(USTAR, b'6', "fifo", b"")
        .plain(USTAR, b'0', "dir", b"no directory any more")
        .end()
}

/// GNU's label, long names and numbers of base 256.
fn gnu() -> Vec<u8> {
    let long = format!("d/{}\0", "n".repeat(120));
    Archive::default()
        .plain(GNU, b'V', "label", b"")
        .plain(GNU, b'5', "d/", b"")
        .plain(GNU, b'L', "././@LongLink", long.as_bytes())
        .add(GNU, b'0', "n", b"bytes", |block| {
            block[108..116].copy_from_slice(&[0x80, 0, 0, 0, 0, 0x2d, 0xc6, 0xc0]);
            block[136..148].fill(0xff);
        })
        .plain(GNU, b'K', "././@LongLink", long.as_bytes())
        .plain(GNU, b'2', "link", b"")
        .plain(GNU, b'K', "././@LongLink", long.as_bytes())
        .plain(GNU, b'L', "././@LongLink", b"hard\0")
        .plain(GNU, b'1', "h", b"")
        .end()
}

/// Sparse files in each of four ways.
fn sparse() -> Vec<u8> {
    let octal = |block: &mut [u8], at: usize, number: usize| {
        block[at..at + 11].copy_from_slice(format!("{number:011o}").as_bytes());
    };
    // Four pieces in the header, and one in a block behind it, which is no part of the member's size.
    let mut more = [0; BLOCK];
    octal(&mut more, 0, 500);
    octal(&mut more, 12, 1);
    let old = Archive::default()
        .add(GNU, b'S', "old", b"", |block| {
            octal(block, 124, 5);
            for piece in 0..4 {
                octal(block, 386 + 24 * piece, 100 * piece);
                octal(block, 398 + 24 * piece, 1);
            }
            block[482] = 1;
            octal(block, 483, 600);
        })
        .0;
    let mut archive = Archive([&old[..], &more, b"abcde"].concat());
    archive.0.resize(archive.0.len().next_multiple_of(BLOCK), 0);
    let mut stored = b"2\n0\n1\n100\n2\n".to_vec();
    stored.resize(BLOCK, 0);
    stored.extend_from_slice(b"abc");
    archive
        .records(
            b'x',
            &[
                ("GNU.sparse.size", b"300"),
                ("GNU.sparse.numblocks", b"2"),
                ("GNU.sparse.offset", b"0"),
                ("GNU.sparse.numbytes", b"1"),
                ("GNU.sparse.offset", b"100"),
                ("GNU.sparse.numbytes", b"2"),
            ],
        )
        .plain(USTAR, b'0', "zero", b"abc")
        .records(
            b'x',
            &[
                ("GNU.sparse.name", b"one"),
                ("GNU.sparse.size", b"300"),
                ("GNU.sparse.map", b"0,1,100,2"),
            ],
        )
        .plain(USTAR, b'0', "GNUSparseFile.0/one", b"abc")
        .records(
            b'x',
            &[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"newest"),
                ("GNU.sparse.realsize", b"300"),
            ],
        )
        .plain(USTAR, b'0', "GNUSparseFile.0/newest", &stored)
        .end()
}

/// Attributes, lists and numbers in every spelling, for one member and for all.
fn attributes() -> Vec<u8> {
    let list = b"user::rwx,user:alice:r--:1000,group::r--,group:50:-wx,mask::rwx,other::r-x";
    Archive::default()
        .records(b'g', &[("uid", b"7"), ("comment", b"of all"), ("mtime", b"12.5")])
        .records(
            b'x',
            &[
                ("path", b"dir/a"),
                ("mtime", b"-1.5"),
                ("uid", b"3000000"),
                ("SCHILY.xattr.user.a%3Db", b"x=y"),
                ("LIBARCHIVE.xattr.user.c%41", b"AAE="),
                ("RHT.security.selinux", b"system_u:object_r:etc_t:s0"),
                ("SCHILY.acl.access", list),
            ],
        )
        .plain(USTAR, b'0', "a", b"bytes")
        .records(b'x', &[("SCHILY.acl.default", b"u::rwx\ng::r-x\no:r-x # others")])
        .plain(USTAR, b'5', "dir/", b"")
        .records(b'x', &[("linkpath", b"dir/a"), ("gid", b"")])
        .plain(USTAR, b'1', "hard", b"")
        .records(b'x', &[("SCHILY.devmajor", b"8"), ("SCHILY.devminor", b"70000")])
        .plain(USTAR, b'4', "sda", b"")
        .records(
            b'x',
            &[("ATOMOS.literal", b"1"), ("size", b"0"), ("mtime", b"-.5")],
        )
        .plain(USTAR, b'0', ".wh.meant", b"")
        .end()
}

/// A layer of an image: it goes through links, and takes away what the layers below have.
pub(super) fn layer() -> Vec<u8> {
    Archive::default()
        .plain(USTAR, b'5', "/usr/lib", b"")
        .link(USTAR, b'2', "lib", "usr/../usr//lib")
        .link(USTAR, b'2', "usr/up", "/../..")
        .plain(USTAR, b'0', "lib/libc.so", b"bytes")
        .plain(USTAR, b'0', "usr/up/top", b"")
        .link(USTAR, b'1', "usr/hard", "/lib/libc.so")
        .plain(USTAR, b'0', "gone/sub/file", b"")
        .plain(USTAR, b'0', ".wh.gone", b"")
        .plain(USTAR, b'0', "usr/lib/.wh..wh..opq", b"")
        .plain(USTAR, b'0', ".wh..wh.plnk", b"")
        .plain(USTAR, b'0', "nowhere/.wh.file", b"")
        .link(USTAR, b'2', "loop", "loop/loop")
        .end()
}

#[derive(Clone, Copy)]
pub(super) enum Codec {
    Gzip,
    Xz,
    Zstd,
}

pub(super) fn compressed(bytes: &[u8], codec: Codec) -> Vec<u8> {
    use std::io::Write;
    let write = || -> std::io::Result<Vec<u8>> {
        match codec {
            Codec::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
                encoder.write_all(bytes)?;
                encoder.finish()
            }
            Codec::Xz => {
                let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 6);
                encoder.write_all(bytes)?;
                encoder.finish()
            }
            Codec::Zstd => zstd::encode_all(bytes, 3),
        }
    };
    write().expect("memory takes it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_archive_is_read_to_its_end() {
        for (name, archive, rooted) in [
            ("own", own_archive(), true),
            ("old", old(), false),
            ("posix", posix(), false),
            ("gnu", gnu(), false),
            ("sparse", sparse(), false),
            ("attributes", attributes(), false),
            ("layer", layer(), true),
            ("gzip", compressed(&own_archive(), Codec::Gzip), true),
            ("xz", compressed(&own_archive(), Codec::Xz), true),
            ("zstd", compressed(&own_archive(), Codec::Zstd), true),
        ] {
            let read = crate::source::hostile::read_archive(&archive, rooted);
            let paths = read.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(!paths.is_empty(), "{name}");
            assert_eq!(
                with_checksums(&archive),
                archive,
                "{name}: its checksums are right"
            );
        }
    }
}
