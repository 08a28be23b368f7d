//! The QKV projection with its cache write, attention, and the rotation tables they share.

use super::projection::{Projection, products_bytes};
use super::{At, Compiler, Step};
use crate::context::{Context, StateMemory};
use crate::kernels::attention::{
    AttentionArgs, AttentionFn, MergeFn, SPAN, partial_len, scratch_len,
};
use crate::kernels::elementwise::EpilogueArgs;
use crate::kernels::norm::NormSpec;
use crate::kernels::qkv::{QkvArgs, QkvFn, RopeArgs};
use crate::pool::Team;
use gristmill_core::{DType, Error, Result};
use gristmill_ir::{Act, Op, QkNorm, Rope, RopePairs, State, StateKind};
use std::ops::Range;

/// cos and sin of each token and element, computed once a step for all layers; see [`RopeArgs`].
pub(super) struct RopeTable {
    frequencies: Vec<f32>,
    adjacent: bool,
    magnitude: f32,
    sections: Option<[u32; 3]>,
    offset: usize,
}

impl RopeTable {
    pub(super) fn new(c: &Compiler<'_>, rope: &Rope, offset: usize) -> Result<Self> {
        let factors = match rope.factors {
            Some(t) => Some(c.weights.values(&c.program.decl(t).name)?),
            None => None,
        };
        let frequencies = rope.frequencies(factors);
        let (magnitude, sections) = (rope.magnitude, rope.sections);
        let adjacent = rope.pairs == RopePairs::Adjacent;
        Ok(RopeTable { frequencies, adjacent, magnitude, sections, offset })
    }

    pub(super) fn bytes(&self, tokens: usize) -> usize {
        tokens * self.frequencies.len() * 4 * size_of::<f32>()
    }

    /// Which of a token's three positions drives a pair.
    fn component(&self, pair: usize) -> usize {
        let Some([a, b, _]) = self.sections else { return 0 };
        usize::from(pair >= a as usize) + usize::from(pair >= (a + b) as usize)
    }

    /// Fills all tables; members take different tokens.
    pub(super) fn fill(tables: &[RopeTable], step: &Step<'_>, team: &Team<'_>) {
        team.each(step.ints.ids.len(), 4, |tokens| {
            for table in tables {
                let pairs = table.frequencies.len();
                for t in tokens.clone() {
                    for (i, &f) in table.frequencies.iter().enumerate() {
                        let position = step.ints.positions[t][table.component(i)];
                        // The angle is rounded to f32 as the reference programs do; its sine
                        // and cosine are then as exact as f32 allows.
                        let (sin, cos) = f64::from(position as f32 * f).sin_cos();
                        let [cos, sin] = [cos, sin].map(|v| v as f32 * table.magnitude);
                        let [a, b] = match table.adjacent {
                            true => [2 * i, 2 * i + 1],
                            false => [i, pairs + i],
                        };
                        // SAFETY: the table lies behind the arena, with room for all tokens.
                        unsafe {
                            let to = step.floats(table.offset).add(t * pairs * 4);
                            (*to.add(a), *to.add(b)) = (cos, cos);
                            let to = to.add(2 * pairs);
                            (*to.add(a), *to.add(b)) = (-sin, sin);
                        }
                    }
                }
            }
        });
    }
}

/// The pages of one layer.
#[derive(Clone, Copy)]
struct Cache {
    state: usize,
    group: usize,
    types: (DType, DType),
}

impl Cache {
    fn new(c: &Compiler<'_>, state: State) -> Result<Cache> {
        match c.program.states[state.index()] {
            StateKind::Paged { group, k_type, v_type, .. } => {
                Ok(Cache { state: state.index(), group: group.into(), types: (k_type, v_type) })
            }
            StateKind::Slot { .. } => Err(Error::Runtime(format!("${} has no pages", state.0))),
        }
    }

    fn pages(&self, step: &Step<'_>) -> (*mut u8, *mut u8) {
        match &step.states[self.state] {
            StateMemory::Paged { k, v, .. } => (k.ptr(), v.ptr()),
            // Compiling checked the context's states.
            StateMemory::Slot { .. } => unreachable!("compile checked that this state is paged"),
        }
    }
}

fn unsupported_kv((k, v): (DType, DType)) -> Error {
    Error::Device(format!(
        "the cpu backend cannot store keys in {k} and values in {v}; it takes F32, F16 or BF16 for \
         both"
    ))
}

pub(super) struct Qkv {
    projection: Projection,
    finish: QkvFn,
    cache: Cache,
    heads: [usize; 3],
    norms: [Option<NormSpec>; 2],
    norm_full: bool,
    /// Where its table lies, elements that rotate, pairs side by side.
    rope: Option<(usize, usize, bool)>,
    bias: *const f32,
    add_bias: unsafe fn(&EpilogueArgs, usize, Range<usize>),
    x: At,
    out: At,
    scratch: usize,
    projected: usize,
}

// SAFETY: the pointers in the norms are to weights that the plan keeps alive and nobody writes.
unsafe impl Send for Qkv {}
// SAFETY: as above.
unsafe impl Sync for Qkv {}

impl Qkv {
    pub(super) fn new(c: &Compiler<'_>, op: &Op, x: At, out: At, scratch: usize) -> Result<Self> {
        let Op::Qkv {
            w,
            bias,
            heads,
            kv_heads,
            head_dim,
            q_norm,
            k_norm,
            norm_over,
            rope,
            cache,
            ..
        } = op
        else {
            return Err(Error::Runtime("not a qkv operation".into()));
        };
        let cache = Cache::new(c, *cache)?;
        let finish = (c.table.qkv)(cache.types.0, cache.types.1);
        let norm = |n: &Option<gristmill_ir::Norm>| {
            n.as_ref().map(|n| super::norm::spec(c, n)).transpose()
        };
        let rope = rope
            .as_ref()
            .map(|r| (c.rope_offset(r), r.dims as usize, r.pairs == RopePairs::Adjacent));
        let rows = c.bound(x.rows);
        let projection = Projection::with_rows(c, w, rows)?;
        let projected = products_bytes(rows, projection.width);
        Ok(Qkv {
            bias: c.weights.stacked(c.program, bias)?,
            add_bias: c.table.epilogue,
            finish: finish.ok_or_else(|| unsupported_kv(cache.types))?,
            cache,
            heads: [*heads, *kv_heads, *head_dim].map(|n| n as usize),
            norms: [norm(q_norm)?, norm(k_norm)?],
            norm_full: *norm_over == QkNorm::Full,
            rope,
            x,
            out,
            projected: scratch,
            scratch: scratch + projected,
            projection,
        })
    }

    /// # Safety
    /// See [`super::Plan::run`]; after the projection, members take different tokens, whose cache
    /// rows the engine keeps apart.
    pub(super) unsafe fn run(&self, step: &Step<'_>, team: &Team<'_>) {
        let tokens = step.ints.ids.len();
        let projected = step.floats(self.projected);
        let [heads, kv_heads, head_dim] = self.heads;
        // SAFETY: the scratch was sized for this projection.
        unsafe {
            let x = step.value(self.x);
            let scratch = step.floats(self.scratch).cast();
            let bias = EpilogueArgs {
                y: projected,
                stride: self.projection.width,
                bias: self.bias,
                act: Act::None,
                scale: 1.0,
                softcap: 0.0,
            };
            self.projection.prepare(team, x, tokens, scratch);
            self.projection.multiply(team, tokens, projected, scratch, |columns| {
                if !bias.is_identity() {
                    (self.add_bias)(&bias, tokens, columns);
                }
            });
        }
        team.barrier();
        let (k_pages, v_pages) = self.cache.pages(step);
        let args = QkvArgs {
            projected,
            q: step.value(self.out),
            k_pages,
            v_pages,
            cache_rows: step.ints.groups[self.cache.group].cache_rows.as_ptr(),
            page_tokens: step.page_tokens,
            heads,
            kv_heads,
            head_dim,
            norms: self.norms,
            norm_full: self.norm_full,
            rope: self.rope.map(|(table, dims, adjacent)| RopeArgs {
                table: step.floats(table),
                dims,
                adjacent,
            }),
        };
        // SAFETY: the arguments hold all tokens; cache rows were checked against the pages.
        team.each(tokens, team.chunk(tokens), |range| unsafe { (self.finish)(&args, range) });
    }
}

/// Bytes of scratch: a piece for each member, then the partial results of split decodes.
pub(super) fn scratch(c: &Compiler<'_>, [heads, kv_heads, head_dim]: [u32; 3]) -> usize {
    let (heads, head_dim) = (heads as usize, head_dim as usize);
    let worker = worker_floats(c, [heads, kv_heads as usize, head_dim]);
    (c.members * worker + c.split_items * heads * partial_len(head_dim)) * size_of::<f32>()
}

fn worker_floats(c: &Compiler<'_>, [heads, kv_heads, head_dim]: [usize; 3]) -> usize {
    scratch_len(heads, kv_heads, head_dim, c.page_tokens).next_multiple_of(32)
}

/// Most items of a step that shares out spans: every span of the pool's pages, and a broken one
/// for each sequence.
pub(super) fn split_items(context: &Context, seqs: u32) -> usize {
    let tokens = |&pages: &u32| pages as usize * context.layout.page_tokens as usize;
    context.layout.pages.iter().map(tokens).max().unwrap_or(0) / SPAN + 2 * seqs as usize
}

pub(super) struct Attention {
    kernel: AttentionFn,
    merge: MergeFn,
    cache: Cache,
    heads: [usize; 3],
    scale: f32,
    softcap: f32,
    window: u32,
    sinks: *const f32,
    q: At,
    out: At,
    scratch: usize,
    worker_floats: usize,
    members: usize,
}

// SAFETY: the sinks are weights that the plan keeps alive and nobody writes.
unsafe impl Send for Attention {}
// SAFETY: as above.
unsafe impl Sync for Attention {}

impl Attention {
    pub(super) fn new(c: &Compiler<'_>, op: &Op, q: At, out: At, scratch: usize) -> Result<Self> {
        let Op::Attention {
            cache, heads, kv_heads, head_dim, scale, softcap, window, sinks, ..
        } = op
        else {
            return Err(Error::Runtime("not an attention operation".into()));
        };
        let cache = Cache::new(c, *cache)?;
        let kernel = (c.table.attention)(cache.types.0, cache.types.1);
        let heads = [*heads, *kv_heads, *head_dim].map(|n| n as usize);
        Ok(Attention {
            kernel: kernel.ok_or_else(|| unsupported_kv(cache.types))?,
            merge: c.table.merge,
            cache,
            heads,
            scale: *scale,
            softcap: softcap.unwrap_or(0.0),
            window: window.unwrap_or(0),
            sinks: c.vector(*sinks, 0.0)?,
            q,
            out,
            scratch,
            worker_floats: worker_floats(c, heads),
            members: c.members,
        })
    }

    /// # Safety
    /// See [`super::Plan::run`]; members take different (item, head) pairs and their own scratch.
    pub(super) unsafe fn run(&self, step: &Step<'_>, team: &Team<'_>) {
        let [heads, kv_heads, head_dim] = self.heads;
        let (k_pages, v_pages) = self.cache.pages(step);
        let ints = step.ints;
        let work = &ints.groups[self.cache.group];
        let ancestors = &ints.ancestors;
        let args = AttentionArgs {
            q: step.value(self.q),
            out: step.value(self.out),
            k_pages,
            v_pages,
            page_tokens: step.page_tokens,
            heads,
            kv_heads,
            head_dim,
            scale: self.scale,
            softcap: self.softcap,
            window: self.window,
            sinks: self.sinks,
            visible: ints.visible.as_ptr(),
            kv_index: ints.kv_index.as_ptr(),
            ancestors: if ancestors.is_empty() { std::ptr::null() } else { ancestors.as_ptr() },
        };
        let floats = step.floats(self.scratch);
        // SAFETY: the scratch has a piece for each member, and the partials behind them; items
        // were built from checked batches.
        unsafe {
            let scratch = floats.add(team.member * self.worker_floats);
            let partials = floats.add(self.members * self.worker_floats);
            team.each(work.items.len() * kv_heads, 1, |range| {
                for i in range {
                    let (item, head) = (i / kv_heads, i % kv_heads);
                    let partials = match work.split {
                        true => partials.add(item * heads * partial_len(head_dim)),
                        false => std::ptr::null_mut(),
                    };
                    let pages = ints.pages.as_ptr();
                    (self.kernel)(&args, &work.items[item], pages, head, scratch, partials);
                }
            });
            if work.split {
                team.barrier();
                let items = work.token_items.as_ptr();
                let pairs = ints.ids.len() * heads;
                team.each(pairs, team.chunk(pairs), |range| {
                    (self.merge)(&args, partials, items, range);
                });
            }
        }
    }
}
