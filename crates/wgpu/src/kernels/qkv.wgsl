// A head of a token after the projection: its norm, its rotation, and where it goes. Queries are the
// value, keys and values go to the pages.

struct Parameters {
    heads: u32,
    kv_heads: u32,
    dim: u32,
    x_stride: u32,
    out_stride: u32,
    capacity: u32,
    group: u32,
    page_tokens: u32,
    k_kind: u32,       // types of the cache, as `stored` names them
    v_kind: u32,
    k_words: u32,      // of a head of a token
    v_words: u32,
    page_words: u32,
    norms: u32,        // bits: 1 queries, 2 keys
    layer: u32,        // bits: which of these are layer norms
    full: u32,         // whether a norm runs over all heads
    q_eps: f32,
    k_eps: f32,
    k_norm_at: u32,    // where the norm of keys begins among the weights
    pairs: u32,        // of elements that rotate, 0: none
    adjacent: u32,
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> ints: array<u32>;
@group(0) @binding(2) var<storage, read> derived: array<u32>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;
@group(0) @binding(4) var<storage, read_write> cache: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
@group(0) @binding(6) var<storage, read_write> turns: array<vec2<f32>>;
@group(0) @binding(7) var<storage, read> weights: array<f32>;

var<workgroup> head: array<f32, $DIM>;
var<workgroup> parts: array<f32, 64>;

fn sum_of(thread: u32, value: f32) -> f32 {
    workgroupBarrier();
    parts[thread] = value;
    for (var half = 32u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if thread < half { parts[thread] += parts[thread + half]; }
    }
    workgroupBarrier();
    return parts[0];
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let t = wg.y;
    let h = wg.x;
    if t >= ints[TOKENS] { return; }
    let at = t * p.x_stride + h * p.dim;
    // 0 a query, 1 a key, 2 a value
    var role = 0u;
    if h >= p.heads { role = 1u; }
    if h >= p.heads + p.kv_heads { role = 2u; }
    for (var i = thread; i < p.dim; i += 64u) { head[i] = x[at + i]; }
    if role < 2u && (p.norms & (1u << role)) != 0u {
        // The row that the norm runs over, and the place of this head in it.
        var from_row = at;
        var length = p.dim;
        if p.full != 0u {
            from_row = t * p.x_stride + role * p.heads * p.dim;
            length = select(p.heads, p.kv_heads, role == 1u) * p.dim;
        }
        let eps = select(p.q_eps, p.k_eps, role == 1u);
        var weights_at = at - from_row;
        if role == 1u { weights_at += p.k_norm_at; }
        var mean = 0.0;
        var sum = 0.0;
        if (p.layer & (1u << role)) != 0u {
            for (var i = thread; i < length; i += 64u) { sum += x[from_row + i]; }
            mean = sum_of(thread, sum) / f32(length);
        }
        sum = 0.0;
        for (var i = thread; i < length; i += 64u) { let v = x[from_row + i] - mean; sum += v * v; }
        let inverse = 1.0 / sqrt(sum_of(thread, sum) / f32(length) + eps);
        for (var i = thread; i < p.dim; i += 64u) {
            head[i] = (head[i] - mean) * inverse * weights[weights_at + i] + weights[weights_at + length + i];
        }
    }
    workgroupBarrier();
    if role < 2u {
        for (var i = thread; i < p.pairs; i += 64u) {
            let turn = turns[t * p.pairs + i];
            let a = select(i, 2u * i, p.adjacent != 0u);
            let b = select(i + p.pairs, 2u * i + 1u, p.adjacent != 0u);
            let u = head[a];
            let v = head[b];
            head[a] = u * turn.x - v * turn.y;
            head[b] = u * turn.y + v * turn.x;
        }
        workgroupBarrier();
    }
    if role == 0u {
        for (var i = thread; i < p.dim; i += 64u) { out[t * p.out_stride + h * p.dim + i] = head[i]; }
        return;
    }
    let place = derived[(2u + p.group) * p.capacity + t];
    let page = place / p.page_tokens * p.page_words;
    let token = place % p.page_tokens;
    let words = select(p.k_words, p.v_words, role == 2u);
    let kind = select(p.k_kind, p.v_kind, role == 2u);
    let kv_head = h - p.heads - select(0u, p.kv_heads, role == 2u);
    for (var i = thread; i < words; i += 64u) {
        var word = 0u;
        if kind == 0u {
            word = stored(0u, head[i], 0.0);
        } else {
            var second = 0.0;
            if 2u * i + 1u < p.dim { second = head[2u * i + 1u]; }
            word = stored(kind, head[2u * i], second);
        }
        let n = kv_head * words + i;
        if role == 1u {
            cache[page + n * p.page_tokens + token] = word;
        } else {
            cache[page + p.kv_heads * p.k_words * p.page_tokens + token * p.kv_heads * words + n] = word;
        }
    }
}
