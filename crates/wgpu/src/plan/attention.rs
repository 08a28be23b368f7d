//! Queries, keys and values, and attention over what was written.

use super::{At, Compiler, Count, Resource, recipes};
use crate::shader::Recipe;
use gristmill_core::{DType, Error, Result};
use gristmill_gpu::{kind_of, words_of};
use gristmill_ir::{Batch, Norm, NormKind, Op, QkNorm, Rope, RopePairs, Rows, State, StateKind};

/// Keys that one workgroup of a decode takes, and how many workgroups at most share a sequence's.
const SPLIT_KEYS: u32 = 256;
/// See [`SPLIT_KEYS`].
const MOST_SPLITS: u32 = 16;

/// How many workgroups share the keys of a sequence.
pub(crate) fn splits(b: &Batch<'_>) -> u32 {
    let keys = b.visible.iter().map(|v| v[1].saturating_sub(v[0])).max().unwrap_or(0);
    keys.div_ceil(SPLIT_KEYS).clamp(1, MOST_SPLITS)
}

/// A cache as kernels see it.
struct Cache {
    state: usize,
    group: u32,
    /// Types of keys and values, and words of a head.
    kinds: [u32; 2],
    words: [u32; 2],
    page_words: u32,
}

impl Compiler<'_> {
    fn cache(&self, state: State, head_dim: u32) -> Result<Cache> {
        let memory = &self.states[state.index()];
        let StateKind::Paged { group, k_type, v_type, .. } = memory.kind else {
            return Err(Error::Runtime(format!("state ${} has no pages", state.0)));
        };
        let known = |t: DType| {
            let fits = t == DType::F32 || head_dim.is_multiple_of(2);
            kind_of(t).filter(|_| fits).ok_or_else(|| {
                Error::Device(format!(
                    "keys in {k_type} and values in {v_type} with heads of {head_dim} do not run \
                     on wgpu; use --cache-type f32, f16 or bf16"
                ))
            })
        };
        Ok(Cache {
            state: state.index(),
            group: group.into(),
            kinds: [known(k_type)?, known(v_type)?],
            words: [words_of(k_type, head_dim), words_of(v_type, head_dim)],
            page_words: memory.words,
        })
    }

    /// The call that works out what others need of the step's integers.
    pub(super) fn prepare(&mut self) -> Result<()> {
        let params = vec![self.capacity, self.program.groups.len() as u32, self.page_tokens];
        let resources = [(1, Resource::Ints), (2, Resource::Derived), (3, Resource::Last)];
        let grid = [Count::Rows(Rows::Tokens, 64), Count::Fixed(1), Count::Fixed(1)];
        self.call(&Recipe::new("prepare"), &resources, params, grid)
    }

    /// The call that fills the table of a rotation, at `offset` of the workspace; gives its bytes.
    pub(super) fn rope(&mut self, rope: &Rope, offset: usize) -> Result<usize> {
        let pairs = rope.dims as usize / 2;
        let bytes = self.part(Rows::Tokens, 2 * pairs);
        let at = At { offset, bytes, rows: Rows::Tokens, width: 2 * pairs };
        let factors = match rope.factors {
            Some(t) => Some(self.weights.values(&self.program.decl(t).name)?),
            None => None,
        };
        let frequencies = self.weights.derive(format!("{rope:?}"), || rope.frequencies(factors))?;
        let [a, b, _] = rope.sections.unwrap_or([u32::MAX, 0, 0]);
        let params = vec![pairs as u32, a, a.saturating_add(b), rope.magnitude.to_bits()];
        let resources = [
            (1, Resource::Ints),
            (2, Resource::Held(frequencies)),
            (3, Resource::Part(offset, bytes)),
        ];
        let groups = Count::Fixed(pairs.div_ceil(64) as u32);
        let grid = [groups, Count::Rows(Rows::Tokens, 1), Count::Fixed(1)];
        self.call(&Recipe::new("rope"), &resources, params, grid)?;
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
        let finish = super::projection::Finish::plain(bias);
        self.project(x, w, finish, all, scratch + all.bytes, None)?;

        let c = self.cache(*cache, *head_dim)?;
        let full = *norm_over == QkNorm::Full;
        let length = |heads: u32| if full { heads * head_dim } else { *head_dim };
        let norms = [(q_norm, length(*heads)), (k_norm, length(*kv_heads))];
        let weights = self.norms_of(&norms)?;
        let layer = |n: &Option<Norm>| n.as_ref().is_some_and(|n| n.kind == NormKind::Layer);
        let eps = |n: &Option<Norm>| n.as_ref().map_or(0.0, |n| n.eps).to_bits();
        let table = match rope {
            Some(r) => self.tables.iter().find(|t| t.0 == *r).map(|t| t.1),
            None => None,
        };
        let adjacent = rope.as_ref().is_some_and(|r| r.pairs == RopePairs::Adjacent);
        let bits = |a: bool, b: bool| u32::from(a) | u32::from(b) << 1;
        let params = vec![
            *heads,
            *kv_heads,
            *head_dim,
            all.stride() as u32,
            out.stride() as u32,
            self.capacity,
            c.group,
            self.page_tokens,
            c.kinds[0],
            c.kinds[1],
            c.words[0],
            c.words[1],
            c.page_words,
            bits(q_norm.is_some(), k_norm.is_some()),
            bits(layer(q_norm), layer(k_norm)),
            u32::from(full),
            eps(q_norm),
            eps(k_norm),
            2 * length(*heads),
            table.map_or(0, |t| t.width as u32 / 2),
            u32::from(adjacent),
        ];
        let resources = [
            (1, Resource::Ints),
            (2, Resource::Derived),
            (3, Resource::Part(all.offset, all.bytes)),
            (4, Resource::State(c.state)),
            (5, Resource::Part(out.offset, out.bytes)),
            (6, table.map_or(Resource::None, |t| Resource::Part(t.offset, t.bytes))),
            (7, weights.map_or(Resource::None, Resource::Held)),
        ];
        let recipe = recipes::qkv(*head_dim);
        let grid =
            [Count::Fixed(heads + 2 * kv_heads), Count::Rows(Rows::Tokens, 1), Count::Fixed(1)];
        self.call(&recipe, &resources, params, grid)
    }

    /// Weights and biases of the norms of queries, then of keys; nothing without norms.
    fn norms_of(&self, norms: &[(&Option<Norm>, u32)]) -> Result<Option<wgpu::Buffer>> {
        if norms.iter().all(|n| n.0.is_none()) {
            return Ok(None);
        }
        let key = format!("{norms:?}");
        let mut all = vec![];
        for (norm, length) in norms {
            match norm {
                Some(n) => all.extend(self.norm_values(n, *length as usize)?),
                None => all.extend(vec![0.0; 2 * *length as usize]),
            }
        }
        self.weights.derive(key, || all).map(Some)
    }

    /// Scratch for shares of sequences' keys, where a step is a decode.
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
        let c = self.cache(*cache, *head_dim)?;
        let shares = self.shares_bytes(*heads, *head_dim);
        let sharing = heads / kv_heads;
        let (recipe, [tile_heads, tile_tokens]) =
            recipes::attention(*head_dim, sharing, c.words[1], shares > 0);
        let (sink, has_sinks) = match sinks {
            Some(s) => (Resource::Held(self.weights.stacked(self.program, &[*s])?.0), 1),
            None => (Resource::None, 0),
        };
        let params = vec![
            *heads,
            *kv_heads,
            *head_dim,
            q.stride() as u32,
            self.capacity,
            c.group,
            self.page_tokens,
            c.kinds[0],
            c.kinds[1],
            c.words[0],
            c.words[1],
            c.page_words,
            window.unwrap_or(u32::MAX),
            has_sinks,
            scale.to_bits(),
            softcap.unwrap_or(0.0).to_bits(),
            MOST_SPLITS,
        ];
        let part = |bytes| match bytes {
            0 => Resource::None,
            _ => Resource::Part(scratch, bytes),
        };
        let resources = [
            (1, Resource::Ints),
            (2, Resource::Derived),
            (3, Resource::Part(q.offset, q.bytes)),
            (4, Resource::State(c.state)),
            (5, Resource::Part(out.offset, out.bytes)),
            (6, sink.clone()),
            (7, part(shares)),
        ];
        let splits = if shares > 0 { Count::Splits } else { Count::Fixed(1) };
        let tiles = kv_heads * sharing.div_ceil(tile_heads);
        let grid = [Count::Fixed(tiles), Count::Rows(Rows::Tokens, tile_tokens), splits];
        self.call(&recipe, &resources, params, grid)?;
        if shares == 0 {
            return Ok(());
        }
        let params = vec![*heads, *head_dim, out.stride() as u32, MOST_SPLITS, has_sinks];
        let resources = [
            (1, Resource::Ints),
            (2, part(shares)),
            (3, Resource::Part(out.offset, out.bytes)),
            (4, sink),
        ];
        let grid = [Count::Fixed(*heads), Count::Rows(Rows::Tokens, 1), Count::Fixed(1)];
        self.call(&Recipe::new("attention_merge"), &resources, params, grid)
    }
}
