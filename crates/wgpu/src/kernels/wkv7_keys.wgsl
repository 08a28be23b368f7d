// Of each head of each token, what the recurrence of RWKV-7 makes of its keys: three vectors, one after
// the other. κ = k ⊙ k_k, scaled to length one; b = κ ⊙ a; k' = k + k ⊙ (a - 1) ⊙ k_a.

struct Parameters {
    width: u32,
    dim: u32,
    stride: u32,
    made_stride: u32, // of the three vectors of a token
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> ints: array<u32>;
@group(0) @binding(2) var<storage, read_write> k: array<f32>;
@group(0) @binding(3) var<storage, read_write> a: array<f32>;
@group(0) @binding(4) var<storage, read_write> made: array<f32>;
// k_k, then k_a.
@group(0) @binding(5) var<storage, read> weights: array<f32>;

var<workgroup> parts: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let t = wg.y;
    if t >= ints[TOKENS] { return; }
    let head = wg.x * p.dim;
    let at = t * p.stride + head;
    var sum = 0.0;
    for (var i = thread; i < p.dim; i += 64u) {
        let v = k[at + i] * weights[head + i];
        sum += v * v;
    }
    parts[thread] = sum;
    for (var half = 32u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if thread < half { parts[thread] += parts[thread + half]; }
    }
    workgroupBarrier();
    let inverse = 1.0 / max(sqrt(parts[0]), 1e-12);
    let to = t * p.made_stride + head;
    for (var i = thread; i < p.dim; i += 64u) {
        let key = k[at + i];
        let rate = a[at + i];
        let kappa = key * weights[head + i] * inverse;
        made[to + i] = kappa;
        made[to + p.width + i] = kappa * rate;
        made[to + 2u * p.width + i] = key + key * (rate - 1.0) * weights[p.width + head + i];
    }
}
