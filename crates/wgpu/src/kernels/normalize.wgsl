// The first elements of a row, scaled to length one. A workgroup takes a row.

struct Parameters {
    width: u32,
    stride: u32,
    x_stride: u32,
    kind: u32,
    k: u32,
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> ints: array<u32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

var<workgroup> parts: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let row = wg.y;
    if row >= rows_of(p.kind, p.k) { return; }
    var sum = 0.0;
    for (var i = thread; i < p.width; i += 64u) { let v = x[row * p.x_stride + i]; sum += v * v; }
    parts[thread] = sum;
    for (var half = 32u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if thread < half { parts[thread] += parts[thread + half]; }
    }
    workgroupBarrier();
    let inverse = 1.0 / max(sqrt(parts[0]), 1e-12);
    for (var i = thread; i < p.width; i += 64u) { out[row * p.stride + i] = x[row * p.x_stride + i] * inverse; }
}
