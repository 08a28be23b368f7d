//! What a token costs: bytes read and operations, counted from the program.
//!
//! Decoding one sequence reads every matrix once a token and every stored key and value once, so
//! its speed is bounded by memory; a long prompt multiplies every matrix by many tokens at once,
//! so its speed is bounded by arithmetic. `bench` shows both beside what the machine can do.

use gristmill_core::DType;
use gristmill_ir::{Node, Op, Program, Ref, Rows, StateKind};
use gristmill_models::Gguf;

/// The costs of a program over the weights of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Bytes of the matrices that a step of one token reads, as the file stores them.
    pub weight_bytes: u64,
    /// Multiplications and additions by matrices for each token.
    pub ops_per_token: u64,
    /// The same for each token whose logits are wanted.
    pub ops_per_row: u64,
    /// Multiplications and additions of attention for each token and each key it sees.
    pub ops_per_key: u64,
    /// Bytes of keys and values that a token reads for each token before it.
    pub kv_bytes_per_key: u64,
    /// Whether some matrix is stored in blocks, so that int8 arithmetic applies.
    pub quantized: bool,
}

impl Work {
    /// Counts.
    pub fn of(program: &Program, gguf: &Gguf) -> Work {
        let mut sum = Work::default();
        for node in &program.nodes {
            let work = Work::of_node(program, node, gguf);
            sum.weight_bytes += work.weight_bytes;
            sum.ops_per_token += work.ops_per_token;
            sum.ops_per_row += work.ops_per_row;
            sum.ops_per_key += work.ops_per_key;
            sum.kv_bytes_per_key += work.kv_bytes_per_key;
            sum.quantized |= work.quantized;
        }
        sum
    }

    /// Counts for one operation.
    pub fn of_node(program: &Program, node: &Node, gguf: &Gguf) -> Work {
        let mut work = Work::default();
        if let Op::Attention { heads, head_dim, cache, .. } = node.op {
            work.ops_per_key = 4 * u64::from(heads) * u64::from(head_dim);
            work.kv_bytes_per_key = state_bytes(&program.states[cache.index()]);
        }
        if matches!(node.op, Op::Embed { .. }) {
            return work; // one row of it is read
        }
        let rows = program.shape(node.outputs[0]).rows;
        node.op.visit(&mut |r| {
            let Ref::Tensor(t) = r else { return };
            let decl = program.decl(t);
            if decl.rows == 1 {
                return;
            }
            let one = u64::from(decl.rows) * u64::from(decl.cols);
            let info = gguf.tensor_info(&decl.name);
            let bytes = info.as_ref().map_or(0, |i| i.bytes as u64);
            work.quantized |= info.is_some_and(|i| i.dtype.block_len() > 1);
            let used = match rows {
                Rows::Choices(k) => k,
                _ => decl.experts,
            };
            work.weight_bytes += bytes * u64::from(used) / u64::from(decl.experts.max(1));
            match rows {
                Rows::Wanted => work.ops_per_row += 2 * one,
                _ => work.ops_per_token += 2 * one * u64::from(used),
            }
        });
        work
    }

    /// Bytes read to generate `tokens` after `before` tokens, one at a time, of `seqs` sequences at
    /// once: weights are read for all together.
    pub fn decode_bytes(&self, before: u64, tokens: u64, seqs: u64) -> f64 {
        let keys = seqs as f64 * (before as f64 + (tokens as f64 + 1.0) / 2.0);
        tokens as f64 * (self.weight_bytes as f64 + keys * self.kv_bytes_per_key as f64)
    }

    /// Operations to run `tokens` of a prompt after `before` tokens, wanting the logits of
    /// `wanted` of them.
    pub fn ops(&self, before: u64, tokens: u64, wanted: u64) -> f64 {
        let keys = before as f64 + (tokens as f64 + 1.0) / 2.0;
        tokens as f64 * (self.ops_per_token as f64 + keys * self.ops_per_key as f64)
            + wanted as f64 * self.ops_per_row as f64
    }
}

/// Bytes of keys and values a token of one state.
fn state_bytes(state: &StateKind) -> u64 {
    let row = |n: u32, t: DType| t.bytes(n as usize).unwrap_or(0) as u64;
    match *state {
        StateKind::Paged { k, v, k_type, v_type, .. } => row(k, k_type) + row(v, v_type),
        StateKind::Slot { .. } => 0,
    }
}
