//! Queries, keys and values, and attention over what was written.

use super::arguments::{Args, Resource};
use super::projection::Finish;
use super::{At, Compiler};
use gristmill_core::{DType, Error, Result};
use gristmill_gpu::kind_of;
use gristmill_ir::{Norm, NormKind, Op, QkNorm, Rope, RopePairs, Rows, State, StateKind};

/// Keys that one block of a decode takes at least, and into how many parts the keys of a sequence are
/// cut at most.
const SPLIT_KEYS: u32 = 64;
const MOST_SPLITS: u32 = 32;

/// A cache as kernels see it.
struct Cache {
    state: usize,
    group: u32,
    kinds: [u32; 2],
    page_bytes: u64,
    /// Pages that there are.
    pages: u32,
    /// Where values begin in a page.
    values_at: u64,
}

impl Compiler<'_> {
    fn cache(&self, state: State, kv_width: u32) -> Result<Cache> {
        let memory = &self.states[state.index()];
        let StateKind::Paged { group, k_type, v_type, .. } = memory.kind else {
            return Err(Error::Runtime(format!("state ${} has no pages", state.0)));
        };
        let known = |t| {
            kind_of(t).ok_or_else(|| {
                Error::Device(format!(
                    "keys in {k_type} and values in {v_type} do not run on CUDA; use --cache-type \
                     f32, f16 or bf16"
                ))
            })
        };
        let kinds = [known(k_type)?, known(v_type)?];
        let size = if kinds[0] == 0 { 4 } else { 2 };
        Ok(Cache {
            state: state.index(),
            group: group.into(),
            kinds,
            page_bytes: 4 * u64::from(memory.words),
            pages: (memory.buffer.bytes() / (4 * u64::from(memory.words)).max(1)) as u32,
            values_at: u64::from(kv_width) * u64::from(self.page_tokens) * size,
        })
    }

    /// The call that fills the table of a rotation, at `offset` of the workspace; gives its bytes.
    pub(super) fn rope(&mut self, rope: &Rope, offset: usize) -> Result<usize> {
        let pairs = rope.dims as usize / 2;
        let bytes = self.part(Rows::Tokens, 2 * pairs);
        let at = At { offset, bytes, rows: Rows::Tokens, width: 2 * pairs, twin: None };
        let factors = match rope.factors {
            Some(t) => Some(self.weights.values(&self.program.decl(t).name)?),
            None => None,
        };
        let frequencies = self.weights.derive(format!("{rope:?}"), || rope.frequencies(factors))?;
        let [first, second, _] = rope.sections.unwrap_or([u32::MAX, 0, 0]);
        let a = Args::new()
            .ptrs([Resource::Ints, frequencies, at.res()])
            .all(&[pairs as u32, first, first.saturating_add(second)])
            .f(rope.magnitude);
        let grid = [pairs.div_ceil(64) as u32, self.size.tokens, 1];
        self.call("rope", a, grid, 64)?;
        self.tables.push((rope.clone(), at));
        Ok(bytes)
    }

    pub(super) fn qkv(&mut self, op: &Op, x: At, out: At, scratch: usize) -> Result<()> {
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
            return Err(Error::Runtime("not a qkv".into()));
        };
        let all = self.products(w, Rows::Tokens, scratch);
        self.project(x, w, Finish::plain(bias), all, scratch + all.bytes, None)?;

        let c = self.cache(*cache, kv_heads * head_dim)?;
        let full = *norm_over == QkNorm::Full;
        let length = |heads: u32| if full { heads * head_dim } else { *head_dim };
        let norms = [(q_norm, length(*heads)), (k_norm, length(*kv_heads))];
        let weights = self.norms_of(&norms)?;
        let layer = |n: &Option<Norm>| n.as_ref().is_some_and(|n| n.kind == NormKind::Layer);
        let eps = |n: &Option<Norm>| n.as_ref().map_or(0.0, |n| n.eps);
        let table = match rope {
            Some(r) => self.tables.iter().find(|t| t.0 == *r).map(|t| t.1),
            None => None,
        };
        let adjacent = rope.as_ref().is_some_and(|r| r.pairs == RopePairs::Adjacent);
        let bits = |a: bool, b: bool| u32::from(a) | u32::from(b) << 1;
        let a = Args::new()
            .ptrs([Resource::Ints, Resource::Derived, all.res(), Resource::State(c.state)])
            .ptrs([out.res(), table.map_or(Resource::None, |t| t.res()), weights])
            .long(c.page_bytes)
            .long(c.values_at)
            .all(&[*heads, *kv_heads, *head_dim, all.stride() as u32, out.stride() as u32])
            .all(&[self.capacity, c.group, self.page_tokens, c.kinds[0], c.kinds[1]])
            .u(bits(q_norm.is_some(), k_norm.is_some()))
            .u(bits(layer(q_norm), layer(k_norm)))
            .u(u32::from(full))
            .f(eps(q_norm))
            .f(eps(k_norm))
            .all(&[2 * length(*heads), table.map_or(0, |t| t.width as u32 / 2)])
            .u(u32::from(adjacent));
        let grid = [heads + 2 * kv_heads, self.size.tokens, 1];
        self.call_with("qkv", a, grid, 64, 4 * head_dim)
    }

    /// Weights and biases of the norms of queries, then of keys; nothing without norms.
    fn norms_of(&self, norms: &[(&Option<Norm>, u32)]) -> Result<Resource> {
        if norms.iter().all(|n| n.0.is_none()) {
            return Ok(Resource::None);
        }
        let key = format!("{norms:?}");
        let mut all = vec![];
        for (norm, length) in norms {
            match norm {
                Some(n) => all.extend(self.norm_values(n, *length as usize)?),
                None => all.extend(vec![0.0; 2 * *length as usize]),
            }
        }
        self.weights.derive(key, || all)
    }

    /// Scratch for parts of sequences' keys, where a step is a decode.
    pub(super) fn shares_bytes(&self, heads: u32, head_dim: u32) -> usize {
        match self.size.one_token_a_seq {
            true => {
                let each = (MOST_SPLITS * (head_dim + 2)) as usize;
                self.part(Rows::Tokens, heads as usize * each)
            }
            false => 0,
        }
    }

    pub(super) fn attention(&mut self, op: &Op, q: At, out: At, scratch: usize) -> Result<()> {
        let Op::Attention {
            cache, heads, kv_heads, head_dim, scale, softcap, window, sinks, ..
        } = op
        else {
            return Err(Error::Runtime("not an attention".into()));
        };
        let c = self.cache(*cache, kv_heads * head_dim)?;
        let decodes = self.size.one_token_a_seq;
        let sinks = match sinks {
            Some(s) => self.weights.stacked(self.program, &[*s])?.0,
            None => Resource::None,
        };
        let sharing = heads / kv_heads;
        // As many queries as shared memory holds beside a tile of keys.
        let slots = (2048 / head_dim.max(&1)).clamp(1, 16);
        let tile_heads = sharing.min(slots);
        let tile_tokens = if decodes { 1 } else { (slots / tile_heads).max(1) };
        let keys = (4096 / head_dim.max(&1)).clamp(8, 32);
        let splits = if decodes { MOST_SPLITS } else { 0 };
        let shares = if decodes { Resource::Work(scratch) } else { Resource::None };
        let a = Args::new()
            .ptrs([Resource::Ints, Resource::Derived, q.res(), Resource::State(c.state)])
            .ptrs([out.res(), sinks, shares])
            .long(c.page_bytes)
            .long(c.values_at)
            .all(&[*heads, *kv_heads, *head_dim, q.stride() as u32, self.capacity, c.group])
            .all(&[self.page_tokens, c.kinds[0], c.kinds[1], window.unwrap_or(u32::MAX)])
            .f(*scale)
            .f(softcap.unwrap_or(0.0))
            .all(&[tile_heads, tile_tokens, keys, splits, SPLIT_KEYS, c.pages]);
        let narrow = c.kinds.iter().all(|&k| k != 0);
        if decodes && narrow && [64, 128].contains(head_dim) {
            let heads_each = if sharing == 1 { 1 } else { 4 };
            let kernel = format!("decode_{head_dim}_{heads_each}");
            let grid = [kv_heads * sharing.div_ceil(heads_each), self.size.tokens, splits];
            self.call(&kernel, a.clone(), grid, 128)?;
            return self.call("attention_merge", a, [*heads, self.size.tokens, 1], 128);
        }
        // Where results are rounded to 16 bits anyway, the matrix units take them so.
        let tiled = match (c.kinds, self.options.compute) {
            (_, DType::F32) => None,
            ([1, 1], _) => Some("half"),
            ([2, 2], _) if self.gpu.driver.facts().chip >= [8, 0] => Some("brain"),
            _ => None,
        };
        if let Some(element) = tiled.filter(|_| !decodes && [64, 128].contains(head_dim)) {
            let grid = [*heads, self.size.tokens.div_ceil(64), 1];
            return self.call(&format!("tiles_{element}_{head_dim}"), a, grid, 128);
        }
        let tiles = kv_heads * sharing.div_ceil(tile_heads);
        let grid = [tiles, self.size.tokens.div_ceil(tile_tokens), splits.max(1)];
        let slots = tile_heads * tile_tokens;
        let floats = 2 * slots * head_dim + keys * (head_dim + 1) + slots * keys + 3 * slots;
        self.call_with("attention", a.clone(), grid, 128, 4 * floats)?;
        if !decodes {
            return Ok(());
        }
        self.call("attention_merge", a, [*heads, self.size.tokens, 1], 128)
    }
}
