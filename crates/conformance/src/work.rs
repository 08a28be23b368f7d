//! What sequences do in a step, in terms of sequences: no pages, no slots, no offsets.
//!
//! The [`reference`](mod@crate::reference) runs it as it stands; [`Device`](crate::Device) turns it
//! into the integers of a [`Batch`](gristmill_ir::Batch).

/// The tokens of one sequence in a step. Arrays have an entry a token.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// Whose; any number below the room's sequences.
    pub seq: usize,
    /// Token ids; of no meaning where the program reads rows.
    pub ids: Vec<u32>,
    /// Token types; empty: 0.
    pub types: Vec<u32>,
    /// Positions; all but M-RoPE look at the first.
    pub positions: Vec<[u32; 3]>,
    /// Logical index of each key.
    pub kv_index: Vec<u32>,
    /// Logical indices `[from, to)` that each token sees, before any window.
    pub visible: Vec<[u32; 2]>,
    /// Ancestors among the keys from `tree_base` on, a bit each; empty: no tree.
    pub ancestors: Vec<u64>,
    /// Where the tree begins.
    pub tree_base: u32,
    /// Tokens whose outputs are wanted, counted from the first of this part.
    pub rows: Vec<u32>,
    /// Whether it goes on from the state it stored although its first key is 0, as a diffusion does.
    pub carries: bool,
    /// Diffusion times `[now, next]`; none where the program asks for none.
    pub times: Option<[u32; 2]>,
    /// Key of its noise.
    pub seed: u64,
}

impl Part {
    /// Tokens of a causal sequence from index `from` on; the last one's output is wanted.
    pub fn causal(seq: usize, from: u32, ids: Vec<u32>) -> Part {
        let n = ids.len() as u32;
        let index = from..from + n;
        Part {
            seq,
            ids,
            // The second and third count for M-RoPE only: anything will do.
            positions: index.clone().map(|i| [i, i / 3 + 5, 7 * i % 11]).collect(),
            kv_index: index.clone().collect(),
            visible: index.map(|i| [0, i + 1]).collect(),
            rows: vec![n - 1],
            ..Part::default()
        }
    }

    /// A whole sequence whose tokens see each other.
    pub fn bidirectional(seq: usize, ids: Vec<u32>) -> Part {
        let n = ids.len() as u32;
        let mut part = Part::causal(seq, 0, ids);
        part.visible.fill([0, n]);
        part
    }

    /// A tree of tokens behind `from` keys: token `i` follows `parents[i]`, an earlier token of the
    /// tree, or the last key before it where that is `None`.
    pub fn tree(seq: usize, from: u32, ids: Vec<u32>, parents: &[Option<usize>]) -> Part {
        let n = ids.len() as u32;
        let mut part = Part::causal(seq, from, ids);
        part.tree_base = from;
        part.visible.fill([0, from + n]);
        part.rows = (0..n).collect();
        for (i, parent) in parents.iter().enumerate() {
            let (above, depth) = match *parent {
                Some(p) => (part.ancestors[p], part.positions[p][0] + 1),
                None => (0, from),
            };
            part.ancestors.push(above | 1 << i);
            part.positions[i] = [depth; 3];
        }
        part
    }

    /// Whether it starts from no state.
    pub fn begins(&self) -> bool {
        self.kv_index[0] == 0 && !self.carries
    }

    /// Keys of the sequence once this step's are written.
    pub fn kv_len(&self) -> u32 {
        let written = self.kv_index.iter().map(|&i| i + 1);
        written.chain(self.visible.iter().map(|v| v[1])).max().unwrap_or(0)
    }
}

/// A change to the keys and values of sequences before a step.
#[derive(Clone, Copy, Debug)]
pub enum Edit {
    /// Sequence `to` begins with a copy of all that `from` holds.
    Fork {
        /// Copied.
        from: usize,
        /// New.
        to: usize,
    },
    /// Sequence `to` begins with the first `keys` keys of `from`, in the same pages; `keys` fill
    /// whole pages.
    Share {
        /// Whose pages.
        from: usize,
        /// New.
        to: usize,
        /// How many.
        keys: u32,
    },
    /// Key `to` of a sequence becomes a copy of key `from`.
    Key {
        /// Whose.
        seq: usize,
        /// Logical index.
        from: u32,
        /// Logical index.
        to: u32,
    },
}

/// A step.
#[derive(Clone, Debug, Default)]
pub struct Work {
    /// Before anything runs.
    pub edits: Vec<Edit>,
    /// The sequences in it.
    pub parts: Vec<Part>,
    /// Rows for [`gristmill_ir::Op::Read`], of all tokens; empty where nothing reads.
    pub hidden: Vec<f32>,
    /// The same for [`gristmill_ir::Input::Embeddings`]: noise.
    pub noise: Vec<f32>,
}

/// One token with all that concerns it.
#[derive(Clone, Copy, Debug)]
pub struct TokenOf<'a> {
    /// The part it is in.
    pub part: &'a Part,
    /// Which token of the part.
    pub at: usize,
}

impl Work {
    /// A step of these parts.
    pub fn of(parts: Vec<Part>) -> Work {
        Work { parts, ..Work::default() }
    }

    /// All tokens in order.
    pub fn tokens(&self) -> impl Iterator<Item = TokenOf<'_>> {
        let of = |part| (0..Part::len(part)).map(move |at| TokenOf { part, at });
        self.parts.iter().flat_map(of)
    }

    /// First token of each sequence, and the number of tokens.
    pub fn starts(&self) -> Vec<u32> {
        let mut starts = vec![0];
        for p in &self.parts {
            starts.push(starts[starts.len() - 1] + p.len() as u32);
        }
        starts
    }

    /// Wanted tokens, counted over the step.
    pub fn rows(&self) -> Vec<u32> {
        let starts = self.starts();
        let of = |(p, &start): (&Part, &u32)| p.rows.iter().map(move |r| start + r).collect();
        self.parts.iter().zip(&starts).flat_map::<Vec<u32>, _>(of).collect()
    }
}

impl Part {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Never in a valid step.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}
