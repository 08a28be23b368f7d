// Activations as signed bytes in units of 32: the largest of a unit becomes 127, 126, 125 or 124,
// whichever leaves the least error; then the scale is the best for these integers by least squares.
// A thread makes a unit.

struct Parameters {
    units: u32,
    x_stride: u32, // in elements
    kind: u32,
    k: u32,
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> ints: array<u32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<u32>;

fn rounded(x: f32) -> f32 {
    return trunc(x + select(0.5, -0.5, x < 0.0));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let unit = wg.x * 64u + thread;
    let row = wg.y;
    if unit >= p.units || row >= rows_of(p.kind, p.k) { return; }
    let at = row * p.x_stride + unit * 32u;
    let to = (row * p.units + unit) * 10u;
    var peak = 0.0;
    for (var i = 0u; i < 32u; i++) { peak = max(peak, abs(x[at + i])); }
    // Errors in units of the step for 127.
    var errors = vec4<f32>(0.0);
    let tops = vec4<f32>(127.0, 126.0, 125.0, 124.0);
    let steps = vec4<f32>(1.0, 127.0 / 126.0, 127.0 / 125.0, 127.0 / 124.0);
    if peak > 0.0 {
        for (var i = 0u; i < 32u; i++) {
            let scaled = x[at + i] / peak * tops;
            let off = (scaled - vec4<f32>(rounded(scaled.x), rounded(scaled.y), rounded(scaled.z), rounded(scaled.w))) * steps;
            errors += off * off;
        }
    }
    var top = tops.x;
    var least = errors.x;
    for (var i = 1u; i < 4u; i++) {
        if errors[i] < least {
            least = errors[i];
            top = tops[i];
        }
    }
    var products = 0.0;
    var squares = 0;
    var sums = array<i32, 2>(0, 0);
    for (var j = 0u; j < 8u; j++) {
        var word = 0u;
        for (var i = 0u; i < 4u; i++) {
            let v = x[at + 4u * j + i];
            let q = i32(select(0.0, rounded(v / peak * top), peak > 0.0));
            products += v * f32(q);
            squares += q * q;
            sums[j / 4u] += q;
            word |= (u32(q) & 255u) << (8u * i);
        }
        out[to + j] = word;
    }
    out[to + 8u] = bitcast<u32>(products / f32(max(squares, 1)));
    out[to + 9u] = (u32(sums[0]) & 0xffffu) | (u32(sums[1]) << 16u);
}
