// Joins the shares of `attention.wgsl`: a workgroup for each head of each token.

struct Parameters {
    heads: u32,
    dim: u32,
    stride: u32,
    most_splits: u32,
    sinks: u32,
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> ints: array<u32>;
@group(0) @binding(2) var<storage, read_write> shares: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read> sinks: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let h = wg.x;
    let t = wg.y;
    let splits = ints[SPLITS];
    // One share wrote its results itself.
    if t >= ints[TOKENS] || splits < 2u { return; }
    let each = p.dim + 2u;
    let at = (t * p.heads + h) * p.most_splits * each;
    var top = -3.0e38;
    if p.sinks != 0u { top = sinks[h]; }
    for (var s = 0u; s < splits; s++) { top = max(top, shares[at + s * each + p.dim]); }
    var all = 0.0;
    if p.sinks != 0u { all = exp_(sinks[h] - top); }
    for (var s = 0u; s < splits; s++) {
        let share = at + s * each + p.dim;
        all += shares[share + 1u] * exp_(shares[share] - top);
    }
    for (var i = thread; i < p.dim; i += 64u) {
        var sum = 0.0;
        for (var s = 0u; s < splits; s++) {
            let share = at + s * each;
            sum += shares[share + i] * exp_(shares[share + p.dim] - top);
        }
        out[t * p.stride + h * p.dim + i] = sum / all;
    }
}
