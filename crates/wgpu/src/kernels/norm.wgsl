// Norms of rows, a workgroup each: alone, or of `x + scale · post(delta)`, whose sum is kept.

struct Parameters {
    width: u32,
    stride: u32,
    kind: u32,
    k: u32,
    layer: u32,
    eps: f32,
    scale: f32,
    post: u32,   // 0 none, 1 RMS, 2 layer norm
    post_eps: f32,
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> ints: array<u32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
// Weights, then biases.
@group(0) @binding(4) var<storage, read> weights: array<f32>;
#if RESIDUAL
@group(0) @binding(5) var<storage, read_write> delta: array<f32>;
@group(0) @binding(6) var<storage, read_write> total: array<f32>;
@group(0) @binding(7) var<storage, read> post: array<f32>;
#endif

var<workgroup> parts: array<f32, 128>;

fn sum_of(thread: u32, value: f32) -> f32 {
    workgroupBarrier();
    parts[thread] = value;
    for (var half = 64u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if thread < half { parts[thread] += parts[thread + half]; }
    }
    workgroupBarrier();
    return parts[0];
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) thread: u32) {
    let row = wg.x + wg.y * n.x;
    if row >= rows_of(p.kind, p.k) { return; }
    let at = row * p.stride;
    let count = f32(p.width);
    var sum = 0.0;
#if RESIDUAL
    var mean = 0.0;
    var factor = p.scale;
    if p.post != 0u {
        if p.post == 2u {
            for (var i = thread; i < p.width; i += 128u) { sum += delta[at + i]; }
            mean = sum_of(thread, sum) / count;
        }
        sum = 0.0;
        for (var i = thread; i < p.width; i += 128u) { let v = delta[at + i] - mean; sum += v * v; }
        factor = p.scale / sqrt(sum_of(thread, sum) / count + p.post_eps);
    }
    for (var i = thread; i < p.width; i += 128u) {
        var v = (delta[at + i] - mean) * factor;
        if p.post != 0u { v = v * post[i] + p.scale * post[p.width + i]; }
        total[at + i] = x[at + i] + v;
    }
    storageBarrier();
#endif
    var middle = 0.0;
    if p.layer != 0u {
        sum = 0.0;
        for (var i = thread; i < p.width; i += 128u) { sum += $SOURCE[at + i]; }
        middle = sum_of(thread, sum) / count;
    }
    sum = 0.0;
    for (var i = thread; i < p.width; i += 128u) { let v = $SOURCE[at + i] - middle; sum += v * v; }
    let inverse = 1.0 / sqrt(sum_of(thread, sum) / count + p.eps);
    for (var i = thread; i < p.width; i += 128u) {
        out[at + i] = ($SOURCE[at + i] - middle) * inverse * weights[i] + weights[p.width + i];
    }
}
