//! A directory's data: blocks of entries, each with its names behind them.

use super::disk::{BLOCK, DIRENT, Kind};

/// An entry of a directory: where its inode is, is known later than that it is there.
#[derive(Debug, Clone, Copy)]
pub(in crate::composefs) struct Dirent<'n> {
    pub(in crate::composefs) name: &'n [u8],
    pub(in crate::composefs) kind: Kind,
    pub(in crate::composefs) inode: u64,
}

/// Returns where each block ends in `names`, which are sorted, and how many bytes the last one has.
pub(in crate::composefs) fn blocks<'n>(names: impl Iterator<Item = &'n [u8]>) -> (Vec<usize>, usize) {
    let (mut ends, mut used, mut count) = (Vec::new(), 0, 0);
    for name in names {
        let needed = DIRENT + name.len();
        if used + needed > BLOCK {
            ends.push(count);
            used = 0;
        }
        used += needed;
        count += 1;
    }
    ends.push(count);
    (ends, used)
}

/// Appends one block, without what fills it up.
pub(in crate::composefs) fn encode(entries: &[Dirent<'_>], out: &mut Vec<u8>) {
    let mut offset = entries.len() * DIRENT;
    for entry in entries {
        out.extend_from_slice(&entry.inode.to_le_bytes());
        out.extend_from_slice(&(offset as u16).to_le_bytes());
        out.extend_from_slice(&[entry.kind as u8, 0]);
        offset += entry.name.len();
    }
    for entry in entries {
        out.extend_from_slice(entry.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_filled_and_not_more() {
        let name = [b'n'; 244];
        // 256 bytes each: 16 in a block.
        let names = std::iter::repeat_n(name.as_slice(), 33);
        assert_eq!(blocks(names), (vec![16, 32, 33], 256));
        assert_eq!(blocks(std::iter::repeat_n(name.as_slice(), 16)), (vec![16], 4096));
    }

    #[test]
    fn names_follow_the_entries() {
        let entry = |name, inode| Dirent {
            name,
            kind: Kind::File,
            inode,
        };
        let mut out = Vec::new();
        encode(&[entry(b"a", 1), entry(b"bc", 2)], &mut out);
        assert_eq!(out.len(), 27);
        assert_eq!(out[8], 24);
        assert_eq!(out[20], 25);
        assert_eq!(&out[24..], b"abc");
    }
}
