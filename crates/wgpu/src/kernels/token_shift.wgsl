// The mix of each token with the one before, `x + mix (last - x)`, once for each of up to three rows of
// mixes. What came before a sequence's first token lies in its slot. With STORE the last token of each
// sequence goes there: in the same pass where no other thread still reads the slot, since every
// sequence has one token; else, with nothing to mix, after it.

struct Parameters {
    width: u32,
    stride: u32,
    capacity: u32,
    mix_at: u32,     // where the first row of mixes begins
    slot_words: u32,
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> ints: array<u32>;
@group(0) @binding(2) var<storage, read> derived: array<u32>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;
@group(0) @binding(4) var<storage, read_write> state: array<f32>;
#if MIX
@group(0) @binding(5) var<storage, read> mixes: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;
#if SECOND
@group(0) @binding(7) var<storage, read_write> second: array<f32>;
#endif
#if THIRD
@group(0) @binding(8) var<storage, read_write> third: array<f32>;
#endif
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let i = wg.x * 64u + thread;
    let t = wg.y;
    if i >= p.width || t >= ints[TOKENS] { return; }
    let seq = derived[p.capacity + t];
    let at = t * p.stride + i;
    let own = x[at];
#if MIX
    var last = 0.0;
    if t > ints[ints[AT_STARTS] + seq] {
        last = x[at - p.stride];
    } else {
        let slot = ints[ints[AT_STATE_IN] + seq];
        if slot != 0xffffffffu { last = state[slot * p.slot_words + i]; }
    }
    let more = last - own;
    out[at] = own + mixes[p.mix_at + i] * more;
#if SECOND
    second[at] = own + mixes[p.mix_at + p.width + i] * more;
#endif
#if THIRD
    third[at] = own + mixes[p.mix_at + 2u * p.width + i] * more;
#endif
#endif
#if STORE
    if t + 1u == ints[ints[AT_STARTS] + seq + 1u] {
        state[ints[ints[AT_STATE_OUT] + seq] * p.slot_words + i] = own;
    }
#endif
}
