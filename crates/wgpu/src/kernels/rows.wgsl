// Operations on rows that read each element once: `$WHAT` is which. A thread computes an element.

struct Parameters {
    width: u32,
    stride: u32,   // of the result
    x_stride: u32,
    y_stride: u32,
    kind: u32,
    k: u32,        // choices of a token; with SEQUENCE, the capacity
    act: u32,
    gated: u32,
    input: u32,    // which input of the host
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> ints: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
#if SEQUENCE
@group(0) @binding(5) var<storage, read> derived: array<u32>;
#else
@group(0) @binding(5) var<storage, read_write> gate: array<f32>;
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let i = wg.x * 64u + thread;
    let row = wg.y;
    if i >= p.width || row >= rows_of(p.kind, p.k) { return; }
    let to = row * p.stride + i;
#if READ
    out[to] = bitcast<f32>(ints[ints[AT_INPUTS + p.input] + row * p.width + i]);
#endif
#if ADD
    var factor = 1.0;
    if p.gated != 0u { factor = sigmoid(gate[row * p.y_stride]); }
    out[to] = x[to] + factor * y[to];
#endif
#if SEQUENCE
    out[to] = x[to] + y[derived[p.k + row] * p.y_stride + i];
#endif
#if LERP
    out[to] = x[to] + gate[to] * (y[to] - x[to]);
#endif
#if SELECT
    out[to] = x[ints[ints[AT_ROWS] + row] * p.x_stride + i];
#endif
#if GATED
    out[to] = gated(p.act, x[row * p.x_stride + i], x[row * p.x_stride + p.width + i]);
#endif
#if POOL
    let from_row = ints[ints[AT_STARTS] + row];
    let end = ints[ints[AT_STARTS] + row + 1u];
    switch p.act {
        case 0u: {
            var sum = 0.0;
            for (var t = from_row; t < end; t++) { sum += x[t * p.x_stride + i]; }
            out[to] = sum / f32(end - from_row);
        }
        case 1u: { out[to] = x[from_row * p.x_stride + i]; }
        default: { out[to] = x[(end - 1u) * p.x_stride + i]; }
    }
#endif
#if CHOICES
    // The results of the experts of a token, by their weights, in order.
    var sum = 0.0;
    for (var c = 0u; c < p.k; c++) {
        sum += y[row * p.y_stride + p.k + c] * x[(row * p.k + c) * p.x_stride + i];
    }
    out[to] = sum;
#endif
}
