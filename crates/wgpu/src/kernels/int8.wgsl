// Activations as signed bytes in units of 32: integers by the largest of the unit, then the scale that
// is best for them by least squares. A thread makes a unit.

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

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let unit = wg.x * 64u + thread;
    let row = wg.y;
    if unit >= p.units || row >= rows_of(p.kind, p.k) { return; }
    let at = row * p.x_stride + unit * 32u;
    let to = (row * p.units + unit) * 10u;
    var peak = 0.0;
    for (var i = 0u; i < 32u; i++) { peak = max(peak, abs(x[at + i])); }
    let inverse = select(0.0, 127.0 / peak, peak > 0.0);
    var products = 0.0;
    var squares = 0;
    var sums = array<i32, 2>(0, 0);
    for (var j = 0u; j < 8u; j++) {
        var word = 0u;
        for (var i = 0u; i < 4u; i++) {
            let v = x[at + 4u * j + i];
            let scaled = v * inverse;
            let q = i32(scaled + select(0.5, -0.5, scaled < 0.0));
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
