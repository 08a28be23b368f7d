//! Tensors that no file holds as they are: made from a file's bytes when they are asked for.
//!
//! Other containers keep the experts of a layer apart, transposed, or with gate and up rows in
//! turn; integers in words that run down a column, with scales apart. What a program names is a
//! stack of plain matrices, so the bytes are moved when a weight is loaded, one tensor at a time, in
//! their own format or in the packed one of the same integers.

use crate::source::{Bytes, Source};
use gristmill_core::quant::PackedMatrix;
use gristmill_core::{DType, Error, Result};
use std::fmt::Display;
use std::ops::Range;

/// Some bytes of one of a model's files.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Piece {
    /// Which file.
    pub(crate) part: usize,
    /// Where in it.
    pub(crate) range: Range<usize>,
}

/// `count` rows or columns of each matrix: `first`, `first + step` and so on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pick {
    pub(crate) first: usize,
    pub(crate) step: usize,
    pub(crate) count: usize,
}

/// A matrix of packed integers in pieces.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PackedPieces {
    /// The matrix without its bytes and its name.
    pub(crate) form: PackedMatrix<'static>,
    /// The type that it becomes.
    pub(crate) dtype: DType,
    pub(crate) weights: Piece,
    pub(crate) scales: Piece,
    pub(crate) zeros: Option<Piece>,
}

/// How a tensor is made. Shapes are those of the source: `matrices` of `rows` by `cols`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Recipe {
    /// Pieces one after the other.
    Join(Vec<Piece>),
    /// Some rows, of `row_bytes` each, of every matrix.
    Rows { of: Piece, matrices: usize, rows: usize, row_bytes: usize, pick: Pick },
    /// Some columns of every matrix, as rows: a transposition. Elements take `element` bytes.
    Columns { of: Piece, matrices: usize, rows: usize, cols: usize, element: usize, pick: Pick },
    /// MXFP4 published as 16 bytes of nibbles a block, elements in turn, and a scale apart: some
    /// rows, of `row_blocks` blocks each, as blocks of 17 bytes, low nibbles before high ones.
    Mxfp4 {
        blocks: Piece,
        scales: Piece,
        matrices: usize,
        rows: usize,
        row_blocks: usize,
        pick: Pick,
    },
    /// Matrices of packed integers, one after the other.
    Packed(Vec<PackedPieces>),
}

impl Recipe {
    /// The bytes of the tensor that `what` names, of the files that `part` gives by number.
    ///
    /// # Errors
    /// Those of [`Source::bytes`]; [`Error::Memory`] when there is no room.
    pub(super) fn make<'p>(
        &self,
        part: &dyn Fn(usize) -> &'p Source,
        what: &dyn Display,
    ) -> Result<Vec<u8>> {
        let held = |p: &Piece| -> Result<Held> {
            let (owner, range) = part(p.part).bytes(p.range.clone(), what)?;
            Ok(Held { owner, range })
        };
        let mut out = Vec::new();
        let full = out.try_reserve_exact(self.len().unwrap_or(usize::MAX)).is_err();
        if full {
            return Err(Error::Memory(format!("{what} is more than the system gives")));
        }
        let pieces = match self {
            Recipe::Join(pieces) => pieces.iter().collect(),
            Recipe::Rows { of, .. } | Recipe::Columns { of, .. } => vec![of],
            Recipe::Mxfp4 { blocks, scales, .. } => vec![blocks, scales],
            Recipe::Packed(_) => vec![],
        };
        match self {
            Recipe::Join(_) => {
                for p in pieces {
                    out.extend_from_slice(held(p)?.bytes());
                }
                return Ok(out);
            }
            Recipe::Packed(matrices) => {
                let name = what.to_string();
                for m in matrices {
                    let (weights, scales) = (held(&m.weights)?, held(&m.scales)?);
                    let zeros = m.zeros.as_ref().map(held).transpose()?;
                    let (weights, scales) = (weights.bytes(), scales.bytes());
                    let zeros = zeros.as_ref().map(Held::bytes);
                    PackedMatrix { name: &name, weights, scales, zeros, ..m.form }
                        .append_rows(&mut out)?;
                }
                return Ok(out);
            }
            _ => {}
        }
        let pieces = pieces.into_iter().map(held).collect::<Result<Vec<_>>>()?;
        let pieces: Vec<&[u8]> = pieces.iter().map(Held::bytes).collect();
        // What is picked lies within the shapes that the pieces were checked to have.
        self.fill(&pieces, &mut out)
            .ok_or_else(|| Error::Runtime(format!("{what} is not made of what it should be")))?;
        Ok(out)
    }

    /// Bytes of the tensor.
    fn len(&self) -> Option<usize> {
        match self {
            Recipe::Join(pieces) => {
                pieces.iter().try_fold(0usize, |n, p| n.checked_add(p.range.len()))
            }
            Recipe::Rows { matrices, row_bytes, pick, .. } => {
                product([*matrices, pick.count, *row_bytes])
            }
            Recipe::Columns { matrices, rows, element, pick, .. } => {
                product([*matrices, pick.count, *rows, *element])
            }
            Recipe::Mxfp4 { matrices, row_blocks, pick, .. } => {
                product([*matrices, pick.count, *row_blocks, 17])
            }
            Recipe::Packed(matrices) => matrices.iter().try_fold(0usize, |n, m| {
                n.checked_add(m.dtype.bytes(m.form.cols)?.checked_mul(m.form.rows)?)
            }),
        }
    }

    /// Appends the tensor's bytes; `None` when a piece is too short.
    fn fill(&self, pieces: &[&[u8]], out: &mut Vec<u8>) -> Option<()> {
        match (self, pieces) {
            (&Recipe::Rows { matrices, rows, row_bytes, pick, .. }, [from]) => {
                for row in pick.rows_of(matrices, rows) {
                    out.extend_from_slice(piece(from, row, row_bytes)?);
                }
            }
            (&Recipe::Columns { matrices, rows, cols, element, pick, .. }, [from]) => {
                out.resize(self.len()?, 0);
                for m in 0..matrices {
                    // A tile of rows at a time, so that its bytes are still near for the next
                    // column.
                    for tile in (0..rows).step_by(TILE) {
                        for (j, col) in pick.indices().enumerate() {
                            for i in tile..rows.min(tile + TILE) {
                                let x = piece(from, (m * rows + i) * cols + col, element)?;
                                let at = ((m * pick.count + j) * rows + i) * element;
                                out[at..at + element].copy_from_slice(x);
                            }
                        }
                    }
                }
            }
            (&Recipe::Mxfp4 { matrices, rows, row_blocks, pick, .. }, [blocks, scales]) => {
                for row in pick.rows_of(matrices, rows) {
                    for block in row * row_blocks..(row + 1) * row_blocks {
                        out.push(*scales.get(block)?);
                        out.extend(nibbles_by_halves(piece(blocks, block, 16)?));
                    }
                }
            }
            _ => return None,
        }
        Some(())
    }
}

/// Bytes of a piece, kept alive.
struct Held {
    owner: Bytes,
    range: Range<usize>,
}

impl Held {
    fn bytes(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }
}

/// Rows of a tile when transposing.
const TILE: usize = 32;

impl Pick {
    /// All of `count`.
    pub(crate) fn all(count: usize) -> Pick {
        Pick { first: 0, step: 1, count }
    }

    fn indices(self) -> impl Iterator<Item = usize> {
        (0..self.count).map(move |i| self.first + i * self.step)
    }

    /// The rows picked, counted through all matrices.
    fn rows_of(self, matrices: usize, rows: usize) -> impl Iterator<Item = usize> {
        (0..matrices).flat_map(move |m| self.indices().map(move |i| m * rows + i))
    }
}

fn product<const N: usize>(factors: [usize; N]) -> Option<usize> {
    factors.into_iter().try_fold(1usize, usize::checked_mul)
}

/// The `i`th run of `len` bytes.
fn piece(from: &[u8], i: usize, len: usize) -> Option<&[u8]> {
    let start = i.checked_mul(len)?;
    from.get(start..start.checked_add(len)?)
}

/// 32 nibbles, two neighbours a byte, as elements `j` and `j + 16` a byte.
fn nibbles_by_halves(pairs: &[u8]) -> [u8; 16] {
    let nibble = |i: usize| (pairs[i / 2] >> (4 * (i % 2))) & 15;
    std::array::from_fn(|j| nibble(j) | nibble(j + 16) << 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn made(recipe: &Recipe, parts: &[&[u8]]) -> Option<Vec<u8>> {
        let source = |p: &&[u8]| Source::from_bytes("test", Arc::new(p.to_vec()));
        let parts: Vec<Source> = parts.iter().map(source).collect();
        recipe.make(&|i| &parts[i], &"it").ok()
    }

    fn whole(part: usize, len: usize) -> Piece {
        Piece { part, range: 0..len }
    }

    #[test]
    fn pieces_of_several_files() {
        let join = Recipe::Join(vec![Piece { part: 1, range: 1..3 }, whole(0, 1)]);
        assert_eq!(made(&join, &[&[1, 2], &[3, 4, 5]]).unwrap(), [4, 5, 1]);
        assert_eq!(made(&join, &[&[1, 2], &[3]]), None);
    }

    #[test]
    fn rows_and_columns() {
        // Two matrices of 4 rows and 3 columns, one byte an element.
        let from: Vec<u8> = (0..24).collect();
        let pick = Pick { first: 1, step: 2, count: 2 };
        let rows = Recipe::Rows { of: whole(0, 24), matrices: 2, rows: 4, row_bytes: 3, pick };
        assert_eq!(made(&rows, &[&from]).unwrap(), [3, 4, 5, 9, 10, 11, 15, 16, 17, 21, 22, 23]);
        let pick = Pick { first: 0, step: 2, count: 2 };
        let of = whole(0, 24);
        let columns = Recipe::Columns { of, matrices: 2, rows: 4, cols: 3, element: 1, pick };
        let expected = [0, 3, 6, 9, 2, 5, 8, 11, 12, 15, 18, 21, 14, 17, 20, 23];
        assert_eq!(made(&columns, &[&from]).unwrap(), expected);
    }

    #[test]
    fn mxfp4_blocks() {
        // One block: element i has nibble i mod 16.
        let pairs: Vec<u8> =
            (0..16u8).map(|k| ((2 * k) % 16) | (((2 * k + 1) % 16) << 4)).collect();
        let recipe = Recipe::Mxfp4 {
            blocks: whole(0, 16),
            scales: whole(1, 1),
            matrices: 1,
            rows: 1,
            row_blocks: 1,
            pick: Pick::all(1),
        };
        let block = made(&recipe, &[&pairs, &[127]]).unwrap();
        assert_eq!(block[0], 127);
        for (j, b) in block[1..].iter().enumerate() {
            assert_eq!((b & 15, b >> 4), (j as u8, j as u8));
        }
    }
}
