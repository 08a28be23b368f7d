// What follows the recurrence of RWKV-7, for each head of each token, in place:
// `(norm(y) + (Σ r ⊙ k' ⊙ r_k) v) ⊙ g`, the norm over the head.

struct Parameters {
    width: u32,
    dim: u32,
    stride: u32,
    made_stride: u32,
    layer: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> ints: array<u32>;
@group(0) @binding(2) var<storage, read_write> r: array<f32>;
@group(0) @binding(3) var<storage, read_write> v: array<f32>;
@group(0) @binding(4) var<storage, read_write> g: array<f32>;
@group(0) @binding(5) var<storage, read_write> made: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;
// Of the norm, its biases, then r_k.
@group(0) @binding(7) var<storage, read> weights: array<f32>;

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
    if t >= ints[TOKENS] { return; }
    let head = wg.x * p.dim;
    let at = t * p.stride + head;
    let from_keys = t * p.made_stride + 2u * p.width + head;
    let count = f32(p.dim);
    var sum = 0.0;
    for (var i = thread; i < p.dim; i += 64u) {
        sum += r[at + i] * made[from_keys + i] * weights[2u * p.width + head + i];
    }
    let own = sum_of(thread, sum);
    var mean = 0.0;
    if p.layer != 0u {
        sum = 0.0;
        for (var i = thread; i < p.dim; i += 64u) { sum += out[at + i]; }
        mean = sum_of(thread, sum) / count;
    }
    sum = 0.0;
    for (var i = thread; i < p.dim; i += 64u) { let d = out[at + i] - mean; sum += d * d; }
    let inverse = 1.0 / sqrt(sum_of(thread, sum) / count + p.eps);
    for (var i = thread; i < p.dim; i += 64u) {
        let normed = (out[at + i] - mean) * inverse * weights[head + i] + weights[p.width + head + i];
        out[at + i] = (normed + own * v[at + i]) * g[at + i];
    }
}
