// The time of each sequence as sines, then cosines, of angles that are its products with frequencies.

struct Parameters {
    half: u32,
    stride: u32,
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> ints: array<u32>;
// Turns a time in units of 2^-64: low, high. So what is left of whole turns is exact for any time.
@group(0) @binding(2) var<storage, read> frequencies: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let i = wg.x * 64u + thread;
    let seq = wg.y;
    if i >= p.half || seq >= ints[SEQS] { return; }
    let time = ints[ints[AT_TIMES] + 2u * seq];
    let f = frequencies[i];
    let at = turn(product(time, f.x).y + time * f.y);
    out[seq * p.stride + i] = at.y;
    out[seq * p.stride + p.half + i] = at.x;
}
