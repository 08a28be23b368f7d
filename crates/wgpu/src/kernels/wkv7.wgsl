// The recurrence of RWKV-7 (Peng et al. 2025), a workgroup for each head of each sequence, a token after
// the other. With κ, b and k' as `wkv7_keys.wgsl` makes them, and the old S on the right:
//
//     S = diag(w) S - b (κᵀ S) + k' vᵀ        y = rᵀ S
//
// A thread holds columns of S, which are values: so no sum crosses threads. In slots S lies
// `[head][key][value]`. $DIM is at least the elements of a head, $PARTS the columns of a thread.

struct Parameters {
    width: u32,
    dim: u32,
    stride: u32,
    made_stride: u32,
    slot_words: u32,
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> ints: array<u32>;
@group(0) @binding(2) var<storage, read_write> r: array<f32>;
@group(0) @binding(3) var<storage, read_write> decay: array<f32>;
@group(0) @binding(4) var<storage, read_write> v: array<f32>;
@group(0) @binding(5) var<storage, read_write> made: array<f32>;
@group(0) @binding(6) var<storage, read_write> state: array<f32>;
@group(0) @binding(7) var<storage, read_write> out: array<f32>;

// r, w, κ, b, and k' of the token.
var<workgroup> rs: array<f32, $DIM>;
var<workgroup> ws: array<f32, $DIM>;
var<workgroup> kappas: array<f32, $DIM>;
var<workgroup> bs: array<f32, $DIM>;
var<workgroup> ks: array<f32, $DIM>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let seq = wg.y;
    let head = wg.x * p.dim;
    let slot = ints[ints[AT_STATE_IN] + seq];
    let from_state = slot * p.slot_words + head * p.dim;
    let to_state = ints[ints[AT_STATE_OUT] + seq] * p.slot_words + head * p.dim;
    var s: array<f32, $STATE>;
    for (var part = 0u; part < $PARTSu; part++) {
        let c = part * 64u + thread;
        for (var j = 0u; j < $DIMu; j++) {
            var old = 0.0;
            if slot != 0xffffffffu && j < p.dim && c < p.dim { old = state[from_state + j * p.dim + c]; }
            s[part * $DIMu + j] = old;
        }
    }
    let begin = ints[ints[AT_STARTS] + seq];
    let end = ints[ints[AT_STARTS] + seq + 1u];
    for (var t = begin; t < end; t++) {
        workgroupBarrier();
        let at = t * p.stride + head;
        let from_keys = t * p.made_stride + head;
        for (var i = thread; i < p.dim; i += 64u) {
            rs[i] = r[at + i];
            ws[i] = decay[at + i];
            kappas[i] = made[from_keys + i];
            bs[i] = made[from_keys + p.width + i];
            ks[i] = made[from_keys + 2u * p.width + i];
        }
        workgroupBarrier();
        for (var part = 0u; part < $PARTSu; part++) {
            let c = part * 64u + thread;
            if c >= p.dim { continue; }
            let value = v[at + c];
            var seen = 0.0;
            for (var j = 0u; j < p.dim; j++) { seen += s[part * $DIMu + j] * kappas[j]; }
            var y = 0.0;
            for (var j = 0u; j < p.dim; j++) {
                let n = ws[j] * s[part * $DIMu + j] - bs[j] * seen + ks[j] * value;
                s[part * $DIMu + j] = n;
                y += n * rs[j];
            }
            out[at + c] = y;
        }
    }
    for (var part = 0u; part < $PARTSu; part++) {
        let c = part * 64u + thread;
        if c >= p.dim { continue; }
        for (var j = 0u; j < p.dim; j++) { state[to_state + j * p.dim + c] = s[part * $DIMu + j]; }
    }
}
