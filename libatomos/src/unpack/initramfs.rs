//! What of an initramfs is compressed.
//!
//! An initramfs is a row of archives (`Documentation/driver-api/early-userspace/buffer-format.rst` in the kernel's
//! source): cpio archives as they are, in which come microcode and, on Debian, modules that are compressed one by one;
//! and archives that are compressed as a whole, of which the end cannot be told without unpacking. So entries of plain
//! archives are skipped by their headers, and from the first byte of anything else to the end counts as compressed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::{Codec, begins_as};

/// A header of the format `newc`: a magic number and thirteen numbers of eight hexadecimal digits.
const HEADER: usize = 110;

/// Entries that are looked at; Debian's have some thousands.
const MAX_ENTRIES: usize = 1_000_000;

/// Returns the bytes of the file that are compressed, of `size` in all.
pub(crate) fn compressed_bytes(file: &File, size: u64) -> io::Result<u64> {
    let mut inside = 0u64;
    let mut at = 0u64;
    for _ in 0..MAX_ENTRIES {
        let mut head = [0; HEADER];
        let len = read_at(file, &mut head, at)?;
        // Archives are padded with zeros, whole blocks of them.
        if len > 0 && head[..len].iter().all(|byte| *byte == 0) {
            at += len as u64;
            continue;
        }
        let zeros = head[..len].iter().take_while(|byte| **byte == 0).count();
        if zeros > 0 {
            at += zeros as u64;
            continue;
        }
        if len == 0 {
            return Ok(inside);
        }
        let Some((name_len, file_len)) = sizes(&head[..len]) else {
            let rest = size.saturating_sub(at);
            return Ok(if is_compressed(&head[..len]) {
                inside + rest
            } else {
                inside
            });
        };
        let name_end = round_up(at + HEADER as u64 + name_len);
        let end = round_up(name_end + file_len);
        if file_len > 0 {
            let mut magic = [0; 6];
            let len = read_at(file, &mut magic, name_end)?;
            if is_compressed(&magic[..len]) {
                inside += file_len.min(size.saturating_sub(name_end));
            }
        }
        at = end;
    }
    Ok(inside)
}

/// Returns the sizes of the name and of the content that an entry's header says.
fn sizes(head: &[u8]) -> Option<(u64, u64)> {
    if head.len() < HEADER || !(head.starts_with(b"070701") || head.starts_with(b"070702")) {
        return None;
    }
    let number = |index: usize| {
        let digits = std::str::from_utf8(&head[6 + index * 8..14 + index * 8]).ok()?;
        u32::from_str_radix(digits, 16).ok().map(u64::from)
    };
    Some((number(11)?, number(6)?))
}

fn round_up(offset: u64) -> u64 {
    offset.next_multiple_of(4)
}

/// Returns whether bytes begin as what the kernel can unpack.
fn is_compressed(head: &[u8]) -> bool {
    let others: [&[u8]; 4] = [
        b"BZh",
        // lzma, lzo, and lz4 as the kernel wants it.
        &[0x5d, 0, 0],
        &[0x89, b'L', b'Z', b'O'],
        &[0x02, 0x21, 0x4c, 0x18],
    ];
    Codec::ALL.into_iter().any(|codec| begins_as(codec, head))
        || others.iter().any(|magic| head.starts_with(magic))
}

fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(len) => filled += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn entry(name: &str, content: &[u8]) -> Vec<u8> {
        let mut out = format!(
            "070701{:08x}{:08x}{:032x}{:08x}{:032x}{:08x}{:08x}",
            1,
            0o100_644,
            0,
            content.len(),
            0,
            name.len() + 1,
            0
        )
        .into_bytes();
        assert_eq!(out.len(), HEADER);
        out.extend(name.bytes().chain([0]));
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend(content);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out: Vec<u8> = entries
            .iter()
            .flat_map(|(name, bytes)| entry(name, bytes))
            .collect();
        out.extend(entry("TRAILER!!!", b""));
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }

    fn measure(bytes: &[u8]) -> u64 {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        compressed_bytes(&file, bytes.len() as u64).unwrap()
    }

    #[test]
    fn only_what_is_compressed_counts() {
        let microcode = archive(&[("kernel/x86/microcode/GenuineIntel.bin", &[7; 3000])]);
        let xz = [&[0xfd, b'7', b'z', b'X', b'Z', 0][..], &[1; 994]].concat();
        let modules = archive(&[("a.ko", &[2; 500]), ("b.ko.xz", &xz)]);
        let zstd = [&[0x28, 0xb5, 0x2f, 0xfd][..], &[9; 4996]].concat();
        assert_eq!(measure(&microcode), 0);
        assert_eq!(measure(&modules), 1000);
        assert_eq!(measure(&zstd), 5000);
        assert_eq!(measure(&[&microcode[..], &zstd].concat()), 5000);
        assert_eq!(measure(&[&microcode[..], &modules, &zstd].concat()), 6000);
        assert_eq!(measure(b""), 0);
        assert_eq!(measure(b"usr/lib/modules/6.1/initramfs.img"), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn whatever_an_initramfs_says_no_more_counts_than_it_has(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            size in any::<u32>(),
            name in any::<u32>(),
        ) {
            let mut lying = entry("a", b"\x28\xb5\x2f\xfd rest");
            lying[54..62].copy_from_slice(format!("{size:08x}").as_bytes());
            lying[94..102].copy_from_slice(format!("{name:08x}").as_bytes());
            for bytes in [&bytes[..], &[&lying[..], &bytes].concat()] {
                prop_assert!(measure(bytes) <= bytes.len() as u64);
            }
        }
    }
}
