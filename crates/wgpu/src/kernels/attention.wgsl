// Attention over pages without ever holding more scores than a block of 64 keys: a workgroup takes
// $HEADS query heads that share a key head, of $TOKENS tokens, over a share of their keys.
//
// A thread scores one key for all of them, then gathers one or more words of the values. Keys lie
// `[head][word][token]` in a page, values `[token][head][word]`: both are read side by side. A page
// that nobody of the workgroup sees into is not read.
//
// With several shares the results are kept as they are, and `attention_merge.wgsl` joins them.

struct Parameters {
    heads: u32,
    kv_heads: u32,
    dim: u32,
    stride: u32,       // of queries and results, in elements
    capacity: u32,
    group: u32,
    page_tokens: u32,
    k_kind: u32,
    v_kind: u32,
    k_words: u32,
    v_words: u32,
    page_words: u32,
    window: u32,       // 0xffffffff: none
    sinks: u32,        // whether there are
    scale: f32,
    cap: f32,
    most_splits: u32,
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> ints: array<u32>;
@group(0) @binding(2) var<storage, read> derived: array<u32>;
@group(0) @binding(3) var<storage, read_write> q: array<f32>;
@group(0) @binding(4) var<storage, read> cache: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
@group(0) @binding(6) var<storage, read> sinks: array<f32>;
@group(0) @binding(7) var<storage, read_write> shares: array<f32>;

const SLOTS: u32 = $HEADSu * $TOKENSu;
const NOBODY: u32 = 0xffffffffu;

var<workgroup> queries: array<vec2<f32>, $QUERIES>;
var<workgroup> scores: array<f32, $SCORES>;
var<workgroup> value_at: array<u32, 64>;
var<workgroup> parts: array<f32, 64>;
var<workgroup> largest: array<f32, $SLOTS>;
var<workgroup> total: array<f32, $SLOTS>;
var<workgroup> shrink: array<f32, $SLOTS>;

// The keys that a token sees, before the tree.
fn seen(t: u32) -> vec2<u32> {
    let at = ints[AT_VISIBLE] + 2u * t;
    let index = ints[ints[AT_INDEX] + t];
    var first = ints[at];
    if p.window <= index { first = max(first, index + 1u - p.window); }
    return vec2<u32>(first, ints[at + 1u]);
}

fn in_tree(t: u32, tree: u32, key: u32) -> bool {
    if ints[AT_ANCESTORS] == 0u || key < tree { return true; }
    let n = key - tree;
    if n >= 64u { return false; }
    return ((ints[ints[AT_ANCESTORS] + 2u * t + n / 32u] >> (n % 32u)) & 1u) == 1u;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) thread: u32) {
    let sharing = p.heads / p.kv_heads;
    let tiles = (sharing + $HEADSu - 1u) / $HEADSu;
    let kv_head = wg.x / tiles;
    let first_head = wg.x % tiles * $HEADSu;
    let tokens = ints[TOKENS];
    let end = min((wg.y + 1u) * $TOKENSu, tokens);
    let lanes = 64u / SLOTS;
    var t0 = wg.y * $TOKENSu;
    // A tile that reaches into another sequence is done one sequence after the other.
    while t0 < end {
        let seq = derived[p.capacity + t0];
        let t1 = min(end, ints[ints[AT_STARTS] + seq + 1u]);
        let table = ints[AT_PAGES] + ints[ints[AT_PAGE_STARTS] + p.group * ints[SEQS] + seq];
        var tree = NOBODY;
        if ints[AT_TREE] != 0u { tree = ints[ints[AT_TREE] + seq]; }
        var span = seen(t0);
        for (var t = t0 + 1u; t < t1; t++) {
            let s = seen(t);
            span = vec2<u32>(min(span.x, s.x), max(span.y, s.y));
        }
        // This workgroup's share of the blocks.
        let blocks = (span.y + 63u) / 64u - span.x / 64u;
        let share = (blocks + n.z - 1u) / n.z;
        let first_block = span.x / 64u + wg.z * share;
        let last_block = min(first_block + share, (span.y + 63u) / 64u);

        workgroupBarrier();
        let pairs = (p.dim + 1u) / 2u;
        for (var i = thread; i < SLOTS * pairs; i += 64u) {
            let slot = i / pairs;
            let head = first_head + slot % $HEADSu;
            let t = t0 + slot / $HEADSu;
            var pair = vec2<f32>(0.0);
            if t < t1 && head < sharing {
                let e = 2u * (i % pairs);
                let at = t * p.stride + (kv_head * sharing + head) * p.dim + e;
                pair.x = q[at];
                if e + 1u < p.dim { pair.y = q[at + 1u]; }
            }
            queries[i] = pair;
        }
        if thread < SLOTS {
            largest[thread] = -3.0e38;
            total[thread] = 0.0;
        }
        var acc: array<vec2<f32>, $ACCS>;
        for (var block = first_block; block < last_block; block++) {
            let key = block * 64u + thread;
            // Which slots see this key.
            var mask = 0u;
            for (var slot = 0u; slot < SLOTS; slot++) {
                let t = t0 + slot / $HEADSu;
                if t < t1 {
                    let s = seen(t);
                    if key >= s.x && key < s.y && in_tree(t, tree, key) { mask |= 1u << slot; }
                }
            }
            workgroupBarrier();
            var sums: array<f32, $SLOTS>;
            value_at[thread] = NOBODY;
            if mask != 0u {
                let page = ints[table + key / p.page_tokens] * p.page_words;
                let token = key % p.page_tokens;
                value_at[thread] = page + p.kv_heads * p.k_words * p.page_tokens
                    + (token * p.kv_heads + kv_head) * p.v_words;
                let k_at = page + kv_head * p.k_words * p.page_tokens + token;
                if p.k_kind == 0u {
                    for (var i = 0u; i < p.dim; i++) {
                        let k = bitcast<f32>(cache[k_at + i * p.page_tokens]);
                        for (var slot = 0u; slot < SLOTS; slot++) {
                            sums[slot] += k * queries[slot * pairs + i / 2u][i & 1u];
                        }
                    }
                } else {
                    for (var i = 0u; i < pairs; i++) {
                        let k = loaded(p.k_kind, cache[k_at + i * p.page_tokens]);
                        for (var slot = 0u; slot < SLOTS; slot++) {
                            sums[slot] += dot(k, queries[slot * pairs + i]);
                        }
                    }
                }
            }
            for (var slot = 0u; slot < SLOTS; slot++) {
                let s = capped(p.scale * sums[slot], p.cap);
                scores[slot * 64u + thread] = select(-3.0e38, s, ((mask >> slot) & 1u) == 1u);
            }
            workgroupBarrier();
            // The largest score of each slot, by as many threads as there are for one.
            let mine = thread / lanes;
            var most = -3.0e38;
            for (var i = 0u; i < SLOTS; i++) {
                most = max(most, scores[mine * 64u + thread % lanes * SLOTS + i]);
            }
            parts[thread] = most;
            workgroupBarrier();
            if thread < SLOTS {
                var top = largest[thread];
                for (var i = 0u; i < lanes; i++) { top = max(top, parts[thread * lanes + i]); }
                shrink[thread] = exp_(largest[thread] - top);
                largest[thread] = top;
            }
            workgroupBarrier();
            for (var slot = 0u; slot < SLOTS; slot++) {
                let s = scores[slot * 64u + thread];
                scores[slot * 64u + thread] = select(0.0, exp_(s - largest[slot]), s > -1.0e38);
            }
            workgroupBarrier();
            var sum = 0.0;
            for (var i = 0u; i < SLOTS; i++) {
                sum += scores[mine * 64u + thread % lanes * SLOTS + i];
            }
            parts[thread] = sum;
            workgroupBarrier();
            if thread < SLOTS {
                var all = total[thread] * shrink[thread];
                for (var i = 0u; i < lanes; i++) { all += parts[thread * lanes + i]; }
                total[thread] = all;
            }
            for (var part = 0u; part < $PARTSu; part++) {
                let word = part * 64u + thread;
                for (var slot = 0u; slot < SLOTS; slot++) { acc[slot * $PARTSu + part] *= shrink[slot]; }
                if word < p.v_words {
                    for (var i = 0u; i < 64u; i++) {
                        let at = value_at[i];
                        if at == NOBODY { continue; }
                        let v = loaded(p.v_kind, cache[at + word]);
                        for (var slot = 0u; slot < SLOTS; slot++) {
                            acc[slot * $PARTSu + part] += scores[slot * 64u + i] * v;
                        }
                    }
                }
            }
        }
        workgroupBarrier();
        for (var slot = 0u; slot < SLOTS; slot++) {
            let head = first_head + slot % $HEADSu;
            let t = t0 + slot / $HEADSu;
            if t >= t1 || head >= sharing { continue; }
            let h = kv_head * sharing + head;
            var to = t * p.stride + h * p.dim;
            var factor = 1.0;
            if n.z == 1u {
                var all = total[slot];
                var top = largest[slot];
                if p.sinks != 0u {
                    let most = max(top, sinks[h]);
                    factor = exp_(top - most);
                    all = all * factor + exp_(sinks[h] - most);
                }
                factor = factor / all;
            } else {
                to = ((t * p.heads + h) * p.most_splits + wg.z) * (p.dim + 2u);
                if thread == 0u {
                    shares[to + p.dim] = largest[slot];
                    shares[to + p.dim + 1u] = total[slot];
                }
            }
            for (var part = 0u; part < $PARTSu; part++) {
                let word = part * 64u + thread;
                if word >= p.v_words { continue; }
                let v = acc[slot * $PARTSu + part] * factor;
                if p.v_kind == 0u {
                    if n.z == 1u { out[to + word] = v.x; } else { shares[to + word] = v.x; }
                } else {
                    if n.z == 1u { out[to + 2u * word] = v.x; } else { shares[to + 2u * word] = v.x; }
                    if 2u * word + 1u < p.dim {
                        if n.z == 1u { out[to + 2u * word + 1u] = v.y; } else { shares[to + 2u * word + 1u] = v.y; }
                    }
                }
            }
        }
        t0 = t1;
    }
}
