// The experts of each token from the scores of its router: `k` numbers, the best first, then their
// weights. Of equal scores the lower number is the better. A thread takes a token.

struct Parameters {
    experts: u32,
    k: u32,
    x_stride: u32,
    stride: u32,
    gating: u32,      // 0 softmax over all, 1 over the chosen, 2 sigmoid
    choice_bias: u32, // whether there is one
    renormalise: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> ints: array<u32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read> choice_bias: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) at: vec3<u32>) {
    let t = at.x;
    if t >= ints[TOKENS] { return; }
    let from_score = t * p.x_stride;
    let to = t * p.stride;
    if p.gating == 0u {
        var top = -3.0e38;
        for (var e = 0u; e < p.experts; e++) { top = max(top, x[from_score + e]); }
        var sum = 0.0;
        for (var e = 0u; e < p.experts; e++) { sum += exp_(x[from_score + e] - top); }
        for (var e = 0u; e < p.experts; e++) { x[from_score + e] = exp_(x[from_score + e] - top) / sum; }
    }
    if p.gating == 2u {
        for (var e = 0u; e < p.experts; e++) { x[from_score + e] = sigmoid(x[from_score + e]); }
    }
    // The best that comes after the one before it.
    var before = 3.0e38;
    var before_id = 0u;
    for (var c = 0u; c < p.k; c++) {
        var best = -3.0e38;
        var id = p.experts;
        for (var e = 0u; e < p.experts; e++) {
            var value = x[from_score + e];
            if p.choice_bias != 0u { value += choice_bias[e]; }
            let later = c == 0u || value < before || (value == before && e > before_id);
            if later && (value > best || id == p.experts) {
                best = value;
                id = e;
            }
        }
        // Scores that are no numbers choose somebody too.
        if id == p.experts { id = c; }
        before = best;
        before_id = id;
        out[to + c] = f32(id);
        out[to + p.k + c] = x[from_score + id];
    }
    if p.gating == 1u {
        let top = out[to + p.k];
        var most = top;
        for (var c = 0u; c < p.k; c++) { most = max(most, out[to + p.k + c]); }
        var sum = 0.0;
        for (var c = 0u; c < p.k; c++) { sum += exp_(out[to + p.k + c] - most); }
        for (var c = 0u; c < p.k; c++) { out[to + p.k + c] = exp_(out[to + p.k + c] - most) / sum; }
    }
    var sum = 1.0;
    if p.renormalise != 0u {
        sum = 0.0;
        for (var c = 0u; c < p.k; c++) { sum += out[to + p.k + c]; }
    }
    for (var c = 0u; c < p.k; c++) { out[to + p.k + c] = out[to + p.k + c] / sum * p.scale; }
}
