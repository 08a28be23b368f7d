//! What sampling is told, laid out as `kernels/sample.cu` reads it.

use gristmill_ir::{SampleBatch, Sampling};

/// Words of the head.
const HEAD: usize = 16;
/// Words of a row's parameters.
const PARAMS: usize = 14;

/// Words for a step of so many rows with a few adjustments: more is made room for when it comes.
pub(crate) fn expected(rows: u32) -> u32 {
    HEAD as u32 + rows * (PARAMS as u32 + 2) + 1024
}

/// Lays a batch out.
pub(crate) fn fill(w: &mut Vec<u32>, b: &SampleBatch<'_>, vocab: usize) {
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
    w[13] = (b.top_logprobs as usize).min(vocab) as u32;
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
