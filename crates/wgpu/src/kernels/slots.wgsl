// Rows of the tokens of a sequence in its slot, the first token's first: read from the slot where it
// began, zeros where it began in none, or with STORE written to the one where it ends.

struct Parameters {
    width: u32,
    stride: u32,
    capacity: u32,
    slot_words: u32,
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> ints: array<u32>;
@group(0) @binding(2) var<storage, read> derived: array<u32>;
@group(0) @binding(3) var<storage, read_write> state: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
#if STORE
@group(0) @binding(5) var<storage, read_write> x: array<f32>;
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let i = wg.x * 64u + thread;
    let t = wg.y;
    if i >= p.width || t >= ints[TOKENS] { return; }
    let seq = derived[p.capacity + t];
    let at = (t - ints[ints[AT_STARTS] + seq]) * p.width + i;
#if STORE
    let v = x[t * p.stride + i];
    state[ints[ints[AT_STATE_OUT] + seq] * p.slot_words + at] = v;
#else
    let slot = ints[ints[AT_STATE_IN] + seq];
    var v = 0.0;
    if slot != 0xffffffffu { v = state[slot * p.slot_words + at]; }
#endif
    out[t * p.stride + i] = v;
}
