//! Weights in the order that kernels read them; never more than the file's own bits.
//!
//! A matrix is cut into *row groups* of `R` rows, `R` being the lanes of a register, so that a
//! lane is a row: no kernel sums across lanes, and the bytes of a group are read once, forward.
//! Groups are whole: rows beyond the last are zeros with zero scales. The groups of an expert
//! stack follow each other, expert after expert.
//!
//! * Dense formats: a group is `[k][R]` elements.
//! * Block formats ([`IntFormat`]): a group is first the scales of all its blocks, `d: f16[R]`,
//!   `m: f16[R]`, `sc: i8[subs][R]`, `mn: u8[subs][R]` (those that the format has), then the
//!   integers of all its units of 32 elements, as [bit planes](planes).
//! * Coded formats ([`CodedFormat`]): a group is first the scales `d` of all its blocks, then their
//!   words, [as the file has them](coded) but for the order.
//!
//! A matrix whose inputs are mostly zeros lies [by columns](columns), where its format and its size
//! allow that ([`Layout::by_columns`]): several row groups together, the bytes of each column side by
//! side, in dense formats `[k][rows]`.
//!
//! What lies together, a row group or a chunk of them, is a *part*.
//!
//! Any row can be read back exactly ([`Packed::gather`]), so an embedding table that is also the
//! output head is held once.

pub(crate) mod coded;
pub(crate) mod columns;
pub(crate) mod planes;

use crate::memory::Buffer;
use crate::simd::{Isa, IsaVisitor, Simd};
use gristmill_core::quant::{CodedFormat, IntFormat};
use gristmill_core::{DType, DeviceRepr, Error, HostTensor, Result, for_each_format};
use std::marker::PhantomData;
use std::ops::Range;

/// Where things lie in a packed tensor.
#[derive(Clone, Debug)]
pub struct Layout {
    isa: Isa,
    dtype: DType,
    experts: usize,
    rows: usize,
    cols: usize,
    lanes: usize,
    /// Whether full-range bytes are stored with 128 added.
    biased: bool,
    /// Row groups of a part, and of a granule where it lies by columns.
    part_groups: usize,
    granule: Option<usize>,
    part_bytes: usize,
}

/// The functions of a format: bytes of a part of so many row groups, pack one, read one of its rows back.
struct Codec {
    part_bytes: fn(cols: usize, lanes: usize, groups: usize) -> usize,
    pack: fn(&Layout, rows: &[u8], out: &mut [u8]),
    gather: fn(&Layout, part: &[u8], row: usize, out: &mut [f32]),
}

/// The match on the format, for matrices by rows.
fn codec(dtype: DType) -> Option<Codec> {
    macro_rules! dense {
        ($d:ident, $t:ty) => {
            if dtype == DType::$d {
                return Some(Codec {
                    part_bytes: dense_bytes::<$t>,
                    pack: pack_dense::<$t>,
                    gather: gather_dense::<$t>,
                });
            }
        };
    }
    macro_rules! int {
        ($d:ident, $t:ty) => {
            if dtype == DType::$d {
                return Some(Codec {
                    part_bytes: |cols, lanes, _| planes::group_bytes::<$t>(cols, lanes),
                    pack: pack_blocks::<$t>,
                    gather: gather_blocks::<$t>,
                });
            }
        };
    }
    macro_rules! coded {
        ($d:ident, $t:ty) => {
            if dtype == DType::$d {
                return Some(Codec {
                    part_bytes: |cols, lanes, _| coded::group_bytes::<$t>(cols, lanes),
                    pack: pack_coded::<$t>,
                    gather: gather_coded::<$t>,
                });
            }
        };
    }
    for_each_format!(dense: dense);
    for_each_format!(int: int);
    for_each_format!(coded: coded);
    for_each_format!(packed: coded);
    None
}

/// The same for matrices by columns, and the row groups of a granule.
fn codec_by_columns(dtype: DType) -> Option<(Codec, usize)> {
    macro_rules! dense {
        ($d:ident, $t:ty) => {
            if dtype == DType::$d {
                let codec = Codec {
                    part_bytes: dense_bytes::<$t>,
                    pack: pack_dense::<$t>,
                    gather: gather_dense::<$t>,
                };
                return Some((codec, columns::DENSE_GRANULE));
            }
        };
    }
    macro_rules! int {
        ($d:ident, $t:ty) => {
            if dtype == DType::$d {
                let codec = Codec {
                    part_bytes: columns::chunk_bytes::<$t>,
                    pack: columns::pack::<$t>,
                    gather: columns::gather::<$t>,
                };
                return Some((codec, columns::granule::<$t>()));
            }
        };
    }
    for_each_format!(dense: dense);
    for_each_format!(int: int);
    None
}

impl Layout {
    /// The layout by rows of `experts` matrices of `rows` x `cols` for the kernels of `isa`.
    ///
    /// # Errors
    /// [`Error::Runtime`] for a format without kernels, an instruction set this machine does
    /// not have, a row that is no whole number of blocks, or sizes beyond the address space.
    pub fn new(isa: Isa, dtype: DType, [experts, rows, cols]: [usize; 3]) -> Result<Layout> {
        let (lanes, biased) = isa
            .visit(Facts)
            .ok_or_else(|| Error::Runtime(format!("this machine does not have {isa}")))?;
        let codec = codec(dtype).ok_or_else(|| {
            Error::Runtime(format!("weights of type {dtype} are not supported yet"))
        })?;
        if !cols.is_multiple_of(dtype.block_len()) {
            return Err(Error::Runtime(format!(
                "rows of {cols} elements are no whole number of {dtype} blocks of {}",
                dtype.block_len()
            )));
        }
        let too_large = || Error::Runtime(format!("{experts} x {rows} x {cols} is too large"));
        // An upper bound first, so that nothing below can overflow.
        let padded = rows.checked_add(lanes).and_then(|r| r.checked_mul(experts.max(1)));
        let cells = padded.and_then(|r| r.checked_mul(cols.max(1)));
        cells.filter(|&c| c <= isize::MAX as usize / 16).ok_or_else(too_large)?;
        let bytes = (codec.part_bytes)(cols, lanes, 1);
        let part_bytes = bytes.next_multiple_of((lanes * 4).min(64));
        let (part_groups, granule) = (1, None);
        Ok(Layout {
            isa,
            dtype,
            experts,
            rows,
            cols,
            lanes,
            biased,
            part_groups,
            granule,
            part_bytes,
        })
    }

    /// The same matrix by columns: for inputs that are mostly zeros. By rows still where the format is
    /// one of codes, or the rows are no whole granules.
    pub fn by_columns(self) -> Layout {
        let Some((codec, granule)) = codec_by_columns(self.dtype) else { return self };
        let groups = columns::chunk(self.groups(), granule);
        let Some(part_groups) = groups.filter(|_| self.rows.is_multiple_of(self.lanes)) else {
            return self;
        };
        let bytes = (codec.part_bytes)(self.cols, self.lanes, part_groups);
        let part_bytes = bytes.next_multiple_of((self.lanes * 4).min(64));
        Layout { part_groups, granule: Some(granule), part_bytes, ..self }
    }

    fn codec(&self) -> Option<Codec> {
        match self.granule {
            Some(_) => codec_by_columns(self.dtype).map(|c| c.0),
            None => codec(self.dtype),
        }
    }

    /// The instruction set it is for.
    pub fn isa(&self) -> Isa {
        self.isa
    }
    /// The storage format.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
    /// Matrices in the stack.
    pub fn experts(&self) -> usize {
        self.experts
    }
    /// Rows of a matrix, without padding.
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Elements of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }
    /// Rows of a group.
    pub fn lanes(&self) -> usize {
        self.lanes
    }
    /// Row groups of one matrix.
    pub fn groups(&self) -> usize {
        self.rows.div_ceil(self.lanes)
    }
    /// Row groups of a granule, the least that a kernel takes, where it lies by columns.
    pub fn granule(&self) -> Option<usize> {
        self.granule
    }
    /// Parts of one matrix: row groups, or chunks of them.
    pub fn parts(&self) -> usize {
        self.groups() / self.part_groups
    }
    /// Rows of a part.
    fn part_rows(&self) -> usize {
        self.part_groups * self.lanes
    }
    /// Bytes of a part.
    pub fn part_bytes(&self) -> usize {
        self.part_bytes
    }
    /// Bytes of one matrix.
    pub fn matrix_bytes(&self) -> usize {
        self.parts() * self.part_bytes
    }
    /// Bytes of the whole stack.
    pub fn bytes(&self) -> usize {
        self.experts * self.matrix_bytes()
    }

    /// Packs some parts of `source`, numbered across the whole stack, into `out`, which holds
    /// exactly their bytes and is zero where a row is padding. Ranges may be packed in parallel.
    ///
    /// # Errors
    /// [`Error::Runtime`] when the source has another format or shape, or `out` another size.
    pub fn pack_parts(
        &self,
        source: &HostTensor,
        parts: Range<usize>,
        out: &mut [u8],
    ) -> Result<()> {
        let shape = [source.experts, source.rows, source.cols];
        if source.dtype != self.dtype || shape != [self.experts, self.rows, self.cols] {
            return Err(Error::Runtime(format!("{source:?} does not fit the layout {self:?}")));
        }
        if parts.end > self.experts * self.parts() || out.len() != parts.len() * self.part_bytes {
            return Err(Error::Runtime(format!(
                "parts {parts:?} of {} do not fill {} bytes",
                source.name,
                out.len()
            )));
        }
        let Some(codec) = self.codec() else { return Ok(()) };
        for (p, out) in parts.zip(out.chunks_exact_mut(self.part_bytes.max(1))) {
            let (expert, first) = (p / self.parts(), p % self.parts() * self.part_rows());
            let last = (first + self.part_rows()).min(self.rows);
            let row = source.row_bytes();
            let rows = (expert * self.rows + first) * row..(expert * self.rows + last) * row;
            (codec.pack)(self, &source.bytes()[rows], out);
        }
        Ok(())
    }
}

/// A packed tensor.
#[derive(Debug)]
pub struct Packed {
    layout: Layout,
    held: Held,
}

/// What the bytes lie in.
#[derive(Debug)]
enum Held {
    Own(Buffer),
    /// Packed before, and kept.
    Kept(HostTensor),
}

/// What the order of bytes is called: with the rows of a group and what is added to whole bytes it says
/// everything but the format. The number grows when anything in this file changes the order.
pub(crate) fn form(isa: Isa) -> Option<String> {
    let (lanes, biased) = isa.visit(Facts)?;
    Some(format!("cpu2-{lanes}{}", if biased { "b" } else { "" }))
}

/// Rows of a group, and whether whole bytes have 128 added.
struct Facts;

impl IsaVisitor for Facts {
    type Output = (usize, bool);
    fn visit<S: Simd>(self, _: S) -> (usize, bool) {
        (S::LANES, S::S8_BIAS != 0)
    }
}

impl Packed {
    /// Packs a whole tensor by rows.
    ///
    /// # Errors
    /// See [`Layout::new`].
    pub fn new(isa: Isa, source: &HostTensor) -> Result<Packed> {
        let shape = [source.experts, source.rows, source.cols];
        Packed::of(Layout::new(isa, source.dtype, shape)?, source)
    }

    /// Packs a whole tensor.
    ///
    /// # Errors
    /// See [`Layout::pack_parts`] and [`Packed::zeroed`].
    pub fn of(layout: Layout, source: &HostTensor) -> Result<Packed> {
        let mut packed = Packed::zeroed(layout.clone())?;
        layout.pack_parts(source, 0..layout.experts * layout.parts(), packed.bytes_mut())?;
        Ok(packed)
    }

    /// All zeros, to be filled by [`Layout::pack_parts`].
    ///
    /// # Errors
    /// [`Error::Memory`] when the system does not give that much.
    pub fn zeroed(layout: Layout) -> Result<Packed> {
        let buffer = Buffer::zeroed(layout.bytes())?;
        Ok(Packed { layout, held: Held::Own(buffer) })
    }

    /// Bytes that were packed before, [`HostTensor::packed`], in place.
    ///
    /// # Errors
    /// [`Error::Runtime`] when they are in another order, not as many as they must be, or not aligned to
    /// 64.
    pub fn kept(layout: Layout, source: HostTensor) -> Result<Packed> {
        let (len, due) = (source.bytes().len(), layout.bytes());
        let form = form(layout.isa);
        if source.form() != form.as_deref() || len != due {
            return Err(Error::Runtime(format!(
                "{source:?} is {len} packed bytes in the order {:?}, not {due} in {form:?}",
                source.form(),
            )));
        }
        if !(source.bytes().as_ptr() as usize).is_multiple_of(64) {
            return Err(Error::Runtime(format!("{source:?} is packed, and not aligned to 64")));
        }
        Ok(Packed { layout, held: Held::Kept(source) })
    }

    /// Where things lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }
    /// Rows of a matrix.
    pub fn rows(&self) -> usize {
        self.layout.rows
    }
    /// Elements of a row.
    pub fn cols(&self) -> usize {
        self.layout.cols
    }
    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.held {
            Held::Own(buffer) => buffer.as_slice(),
            Held::Kept(tensor) => tensor.bytes(),
        }
    }
    /// All bytes, to pack into: parts are [`Layout::part_bytes`] apart. None where they were
    /// packed before.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.held {
            Held::Own(buffer) => buffer.as_mut_slice(),
            Held::Kept(_) => &mut [],
        }
    }
    /// The bytes of one matrix of the stack: what a matmul is given.
    ///
    /// # Panics
    /// When there is no such expert.
    pub fn matrix(&self, expert: usize) -> &[u8] {
        let n = self.layout.matrix_bytes();
        &self.bytes()[expert * n..(expert + 1) * n]
    }

    /// Reads one row back, exactly the values of the reference dequantization.
    ///
    /// # Panics
    /// When there is no such row, or `out` does not hold `cols` elements.
    pub fn gather(&self, expert: usize, row: usize, out: &mut [f32]) {
        let Layout { part_bytes, rows, cols, .. } = self.layout;
        assert!(row < rows && out.len() == cols, "row {row} of {rows}, {} of {cols}", out.len());
        let part_rows = self.layout.part_rows();
        let part = &self.matrix(expert)[row / part_rows * part_bytes..][..part_bytes];
        if let Some(codec) = self.layout.codec() {
            (codec.gather)(&self.layout, part, row % part_rows, out);
        }
    }
}

/// Bytes of `[k][rows]` elements.
fn dense_bytes<E>(cols: usize, lanes: usize, groups: usize) -> usize {
    cols * lanes * groups * size_of::<E>()
}

fn pack_dense<E: DeviceRepr + bytemuck::Pod>(layout: &Layout, rows: &[u8], out: &mut [u8]) {
    let e = size_of::<E>();
    for (r, row) in rows.chunks_exact((layout.cols * e).max(1)).enumerate() {
        let slots = out.chunks_exact_mut(layout.part_rows() * e);
        for (value, slot) in row.chunks_exact(e).zip(slots) {
            slot[r * e..(r + 1) * e].copy_from_slice(value);
        }
    }
}

fn gather_dense<E: DeviceRepr + bytemuck::Pod>(
    layout: &Layout,
    part: &[u8],
    row: usize,
    out: &mut [f32],
) {
    let e = size_of::<E>();
    for (o, slot) in out.iter_mut().zip(part.chunks_exact(layout.part_rows() * e)) {
        *o = bytemuck::pod_read_unaligned::<E>(&slot[row * e..(row + 1) * e]).widen();
    }
}

fn pack_blocks<F: IntFormat>(layout: &Layout, rows: &[u8], out: &mut [u8]) {
    let blocks = layout.cols / F::BLOCK;
    let row_bytes = (blocks * size_of::<F>()).max(1);
    let (scales, units) = out.split_at_mut(planes::scales_bytes::<F>(layout.cols, layout.lanes));
    let units_bytes = F::BLOCK / 32 * planes::unit_bytes::<F>(layout.lanes);
    let mut quads = planes::Quads::zeroed();
    let mut q = [0; 256];
    // Block after block, so that the lines of a block stay in the first-level cache while its
    // rows are interleaved.
    for (b, out) in units.chunks_exact_mut(units_bytes).enumerate() {
        for (lane, row) in rows.chunks_exact(row_bytes).enumerate() {
            let bytes = &row[b * size_of::<F>()..(b + 1) * size_of::<F>()];
            let block: F = bytemuck::pod_read_unaligned(bytes);
            planes::write_scales(&block, b, lane, layout.lanes, scales);
            block.quants(&mut q[..F::BLOCK]);
            quads.set::<F>(lane, layout.biased, &q[..F::BLOCK]);
        }
        let units = planes::WriteUnits { quads: &quads, out, format: PhantomData::<F> };
        layout.isa.vectorize(units);
    }
}

fn gather_blocks<F: IntFormat>(layout: &Layout, group: &[u8], lane: usize, out: &mut [f32]) {
    let (scales, units) = group.split_at(planes::scales_bytes::<F>(layout.cols, layout.lanes));
    let units = units.chunks_exact(F::BLOCK / 32 * planes::unit_bytes::<F>(layout.lanes));
    let mut runs = [(0.0, 0.0); 16];
    for ((b, units), out) in units.enumerate().zip(out.chunks_exact_mut(F::BLOCK)) {
        for (s, run) in runs[..F::BLOCK / F::SUB].iter_mut().enumerate() {
            *run = planes::read_scales::<F>(scales, b, s, lane, layout.lanes);
        }
        let (runs, biased, format) = (&runs, layout.biased, PhantomData::<F>);
        layout.isa.vectorize(planes::ReadUnits { units, biased, lane, runs, out, format });
    }
}

fn pack_coded<F: CodedFormat>(layout: &Layout, rows: &[u8], out: &mut [u8]) {
    let blocks = layout.cols / F::BLOCK;
    for (lane, row) in rows.chunks_exact((blocks * size_of::<F>()).max(1)).enumerate() {
        for (b, bytes) in row.chunks_exact(size_of::<F>()).enumerate() {
            let block: F = bytemuck::pod_read_unaligned(bytes);
            coded::write(&block, b, lane, layout.lanes, layout.cols, out);
        }
    }
}

fn gather_coded<F: CodedFormat>(layout: &Layout, group: &[u8], lane: usize, out: &mut [f32]) {
    for (b, out) in out.chunks_exact_mut(F::BLOCK).enumerate() {
        coded::read::<F>(group, b, lane, layout.lanes, layout.cols, out);
    }
}
