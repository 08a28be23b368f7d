//! What sampling is told, laid out as the kernels of sampling read it (`sample.wgsl`, `sample.cu`).

use gristmill_core::{Error, Result};
use gristmill_ir::{SampleBatch, Sampling, Unmask};

/// Words of the head.
const HEAD: usize = 16;
/// Words of a row's parameters.
const PARAMS: usize = 14;
/// Words of a masked place.
const UNMASK: usize = 10;

/// Words for a step of so many rows with a few adjustments: more is made room for when it comes.
pub fn expected(rows: u32) -> u32 {
    HEAD as u32 + rows * (PARAMS as u32 + 2) + 1024
}

/// Lays a batch out.
pub fn fill(w: &mut Vec<u32>, b: &SampleBatch<'_>, vocab: usize) {
    w.clear();
    w.resize(HEAD, 0);
    w[0] = b.params.len() as u32;
    w[1] = HEAD as u32;
    for p in b.params {
        w.extend(params(p));
    }
    let begin = |w: &mut Vec<u32>, place: usize, n: usize| {
        w[place] = if n > 0 { w.len() as u32 } else { 0 };
    };
    begin(w, 2, b.slots.len());
    w.extend_from_slice(b.slots);
    begin(w, 3, b.allow.len());
    w.extend_from_slice(b.allow);
    begin(w, 4, b.allow_row.len());
    w.extend(b.allow_row.iter().map(|&m| m as u32));
    begin(w, 5, b.bias.len());
    w[6] = b.bias.len() as u32;
    w.extend(b.bias.iter().flat_map(|&(row, token, v)| [row, token, v.to_bits()]));
    begin(w, 7, b.penalties.len());
    w[8] = b.penalties.len() as u32;
    let four =
        |p: &gristmill_ir::Penalty| [p.row, p.token, p.repeat.to_bits(), p.subtract.to_bits()];
    w.extend(b.penalties.iter().flat_map(four));
    begin(w, 9, b.combine.len());
    w[10] = b.combine.len() as u32;
    w.extend(b.combine.iter().flat_map(|&(row, other, g)| [row, other, g.to_bits()]));
    begin(w, 11, b.want.len());
    w[12] = b.want.len() as u32;
    w.extend(b.want.iter().flat_map(|&(row, token)| [row, token]));
    begin(w, 14, b.unmask.len());
    w[15] = b.unmask.len() as u32;
    w.extend(b.unmask.iter().flat_map(place));
    w[13] = (b.top_logprobs as usize).min(vocab) as u32;
}

/// Checks that masks allow something: otherwise the error would come only with the results.
///
/// # Errors
/// [`Error::Runtime`] naming the row.
pub fn check_masks(b: &SampleBatch<'_>, vocab: usize) -> Result<()> {
    let words = vocab.div_ceil(32);
    for (row, &mask) in b.allow_row.iter().enumerate().filter(|m| *m.1 >= 0) {
        let bits = &b.allow[mask as usize * words..][..words];
        // Bits beyond the vocabulary do not count.
        let rest = vocab % 32;
        let last = if rest == 0 { u32::MAX } else { (1 << rest) - 1 };
        let (end, front) = (bits[words - 1] & last, &bits[..words - 1]);
        if end == 0 && front.iter().all(|&w| w == 0) {
            return Err(Error::Runtime(format!(
                "masks and logit bias forbid every token of row {row}"
            )));
        }
    }
    Ok(())
}

fn place(u: &Unmask) -> [u32; UNMASK] {
    [
        u.row,
        u.surety as u32,
        u.plain.into(),
        u.temperature.to_bits(),
        u.top_p.to_bits(),
        u.top_k,
        u.seed as u32,
        (u.seed >> 32) as u32,
        u.counter as u32,
        (u.counter >> 32) as u32,
    ]
}

fn params(p: &Sampling) -> [u32; PARAMS] {
    [
        p.top_n_sigma.to_bits(),
        p.top_k,
        p.typical_p.to_bits(),
        p.top_p.to_bits(),
        p.min_p.to_bits(),
        p.xtc_probability.to_bits(),
        p.xtc_threshold.to_bits(),
        p.temperature.to_bits(),
        p.mirostat as u32,
        p.mu.to_bits(),
        p.seed as u32,
        (p.seed >> 32) as u32,
        p.counter as u32,
        (p.counter >> 32) as u32,
    ]
}
