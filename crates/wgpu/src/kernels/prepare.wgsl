// What follows from the integers of a step, once for all that need it: the id of each token, its
// sequence, and where its keys and values go in each page group.

struct Parameters {
    capacity: u32,
    groups: u32,
    page_tokens: u32,
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> ints: array<u32>;
@group(0) @binding(2) var<storage, read_write> derived: array<u32>;
@group(0) @binding(3) var<storage, read_write> last: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) at: vec3<u32>) {
    let t = at.x;
    if t >= ints[TOKENS] { return; }
    // The topmost bit tells a slot from an id.
    let token = ints[ints[AT_IDS] + t];
    var id = token;
    if token >= 0x80000000u { id = last[token & 0x7fffffffu]; }
    derived[t] = id;
    var seq = 0u;
    var end = ints[SEQS];
    while end - seq > 1u {
        let middle = (seq + end) / 2u;
        if ints[ints[AT_STARTS] + middle] <= t { seq = middle; } else { end = middle; }
    }
    derived[p.capacity + t] = seq;
    let index = ints[ints[AT_INDEX] + t];
    for (var g = 0u; g < p.groups; g++) {
        let table = ints[ints[AT_PAGE_STARTS] + g * ints[SEQS] + seq];
        let page = ints[ints[AT_PAGES] + table + index / p.page_tokens];
        derived[(2u + g) * p.capacity + t] = page * p.page_tokens + index % p.page_tokens;
    }
}
