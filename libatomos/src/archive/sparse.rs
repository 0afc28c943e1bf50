//! Sparse files: which pieces of a file are stored. What lies between them is zeros.

use super::header::number;

/// Pieces that one file may have: 16 MiB in memory.
const MAX_PIECES: usize = 1 << 20;

/// Bytes of a piece in GNU's header: two numbers of 12 bytes.
const PIECE: usize = 24;

/// A part of a file that is stored: where it begins, and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// The stored pieces of a file of some size.
#[derive(Debug, Default)]
pub(super) struct Map {
    pieces: Vec<Piece>,
}

impl Map {
    /// Adds a piece, which must lie after the others.
    pub(super) fn push(&mut self, offset: i64, len: i64) -> Result<(), String> {
        let wrong = "its map of a sparse file is not in order, or has a negative number";
        let (Ok(offset), Ok(len)) = (u64::try_from(offset), u64::try_from(len)) else {
            return Err(wrong.to_owned());
        };
        let end = self.pieces.last().map_or(0, |last| last.offset + last.len);
        // Neither exceeds 63 bits, so that their sum does not overflow.
        if offset < end || offset.checked_add(len).is_none_or(|end| end > i64::MAX as u64) {
            return Err(wrong.to_owned());
        }
        if self.pieces.len() == MAX_PIECES {
            return Err("its map of a sparse file has more than a million pieces".to_owned());
        }
        self.pieces.push(Piece { offset, len });
        Ok(())
    }

    /// Adds the pieces of a block of GNU's; returns whether there may be more.
    pub(super) fn push_gnu(&mut self, block: &[u8]) -> Result<(), String> {
        for piece in block.chunks_exact(PIECE) {
            if piece.iter().all(|byte| *byte == 0) {
                break;
            }
            let (offset, len) = piece.split_at(PIECE / 2);
            self.push(number("map", offset)?, number("map", len)?)?;
        }
        Ok(())
    }

    /// Gives the pieces away, if they are what is stored of a file of `size` bytes.
    pub(super) fn finish(self, size: u64, stored: u64) -> Result<Vec<Piece>, String> {
        let end = self.pieces.last().map_or(0, |last| last.offset + last.len);
        let sum: u64 = self.pieces.iter().map(|piece| piece.len).sum();
        if end > size || sum != stored {
            return Err("its map of a sparse file does not fit its size".to_owned());
        }
        Ok(self.pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_in_order_and_fits() {
        let map = |pieces: &[(i64, i64)]| {
            let mut map = Map::default();
            for (offset, len) in pieces {
                map.push(*offset, *len)?;
            }
            Ok::<_, String>(map)
        };
        assert_eq!(
            map(&[(0, 5), (5, 5), (20, 0)])
                .unwrap()
                .finish(20, 10)
                .unwrap()
                .len(),
            3
        );
        map(&[(0, 5)]).unwrap().finish(4, 5).unwrap_err();
        map(&[(0, 5)]).unwrap().finish(9, 4).unwrap_err();
        for pieces in [
            &[(0, 5), (4, 5)][..],
            &[(-1, 5)],
            &[(1, -5)],
            &[(i64::MAX, 1)],
            &[(i64::MAX, i64::MAX)],
        ] {
            map(pieces).unwrap_err();
        }
    }
}
