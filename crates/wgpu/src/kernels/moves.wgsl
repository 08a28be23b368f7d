// Copies before a step, one after the other, in one state: a single workgroup, so that each sees what
// those before have done.

struct Parameters {
    slots: u32,       // 1: a state of slots, 0: of pages
    group: u32,
    words: u32,       // of a slot or a page
    page_tokens: u32,
    token_words: u32, // of the keys, and of the values, of a token
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> ints: array<u32>;
@group(0) @binding(2) var<storage, read_write> state: array<u32>;

@compute @workgroup_size(128)
fn main(@builtin(local_invocation_index) thread: u32) {
    for (var m = 0u; m < ints[MOVES]; m++) {
        // The kind (0 row, 1 page, 2 slot) lies above the group.
        let what = ints[ints[AT_MOVES] + 3u * m];
        let from_place = ints[ints[AT_MOVES] + 3u * m + 1u];
        let to_place = ints[ints[AT_MOVES] + 3u * m + 2u];
        let kind = what >> 8u;
        let mine = (what & 255u) == p.group;
        if (kind == 2u && p.slots == 1u) || (kind == 1u && p.slots == 0u && mine) {
            for (var i = thread; i < p.words; i += 128u) {
                state[to_place * p.words + i] = state[from_place * p.words + i];
            }
        }
        if kind == 0u && p.slots == 0u && mine {
            let a = from_place / p.page_tokens * p.words;
            let b = to_place / p.page_tokens * p.words;
            let s = from_place % p.page_tokens;
            let t = to_place % p.page_tokens;
            let values = p.token_words * p.page_tokens;
            for (var i = thread; i < p.token_words; i += 128u) {
                state[b + i * p.page_tokens + t] = state[a + i * p.page_tokens + s];
                state[b + values + t * p.token_words + i] = state[a + values + s * p.token_words + i];
            }
        }
        storageBarrier();
        workgroupBarrier();
    }
}
