//! Where inodes and their data lie.

use super::disk::{BLOCK, FIRST_INODE, Layout, SLOT};

/// Longer ends of data get a block of their own: they would seldom fit, and leave gaps.
const LONGEST_TAIL: usize = BLOCK / 2;

/// Hands out the space of an image. The same questions in the same order get the same answers.
#[derive(Debug, Clone, Copy)]
pub(in crate::composefs) struct Space {
    /// The first byte behind the inodes so far.
    end: u64,
    /// Blocks of data so far.
    blocks: u64,
}

/// The place of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::composefs) struct Spot {
    /// Its first byte in the image.
    pub(in crate::composefs) start: u64,
    /// Whether the end of its data is behind it.
    pub(in crate::composefs) layout: Layout,
    /// Its first block of data, counted from the first of all.
    pub(in crate::composefs) block: u64,
}

impl Space {
    pub(in crate::composefs) const fn new() -> Self {
        Self {
            end: FIRST_INODE,
            blocks: 0,
        }
    }

    /// Places an inode that takes `head` bytes with everything that is not data, and has `data` bytes of them.
    pub(in crate::composefs) fn place(&mut self, head: usize, data: usize) -> Spot {
        let (slot, block) = (SLOT as u64, BLOCK as u64);
        let (head, tail) = (head as u64, (data % BLOCK) as u64);
        let mut start = self.end.next_multiple_of(slot);
        let is_inline = tail > 0 && tail <= LONGEST_TAIL as u64;
        if is_inline {
            // What is behind an inode lies in one block.
            while (start + head) % block + tail > block {
                start += slot;
            }
        }
        let spot = Spot {
            start,
            layout: if is_inline { Layout::Inline } else { Layout::Plain },
            block: self.blocks,
        };
        self.end = start + head + if is_inline { tail } else { 0 };
        self.blocks += match is_inline {
            true => (data / BLOCK) as u64,
            false => data.div_ceil(BLOCK) as u64,
        };
        spot
    }

    /// Returns the first block behind the inodes.
    pub(in crate::composefs) const fn first_block(&self) -> u64 {
        self.end.div_ceil(BLOCK as u64)
    }

    /// Returns the blocks of the whole image.
    pub(in crate::composefs) const fn all_blocks(&self) -> u64 {
        self.first_block() + self.blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_overlaps_and_no_tail_crosses_a_block(
            wanted in proptest::collection::vec((0usize..2000, 0usize..20_000), 1..60),
        ) {
            let mut space = Space::new();
            let (mut end, mut blocks) = (FIRST_INODE, 0);
            for (xattrs, data) in wanted {
                let head = 64 + xattrs / 4 * 4;
                let spot = space.place(head, data);
                prop_assert!(spot.start >= end);
                prop_assert_eq!(spot.start % SLOT as u64, 0);
                prop_assert_eq!(spot.block, blocks);
                end = spot.start + head as u64;
                let mut whole = data.div_ceil(BLOCK) as u64;
                if spot.layout == Layout::Inline {
                    whole = (data / BLOCK) as u64;
                    let tail = (data % BLOCK) as u64;
                    prop_assert!(tail > 0);
                    prop_assert_eq!(end / BLOCK as u64, (end + tail - 1) / BLOCK as u64);
                    end += tail;
                }
                blocks += whole;
            }
            prop_assert_eq!(space.all_blocks(), end.div_ceil(BLOCK as u64) + blocks);
        }
    }
}
