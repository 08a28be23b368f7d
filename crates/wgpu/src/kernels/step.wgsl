// The integers of a step, as `integers.rs` of the crate gpu writes them. Entries of the head say how many there
// are of each kind and where the arrays begin.

const TOKENS: u32 = 0u;
const SEQS: u32 = 1u;
const WANTED: u32 = 2u;
const SPLITS: u32 = 3u;
const MOVES: u32 = 4u;
const AT_IDS: u32 = 8u;
const AT_TYPES: u32 = 9u;
const AT_POSITIONS: u32 = 10u;
const AT_INDEX: u32 = 11u;
const AT_VISIBLE: u32 = 12u;
const AT_ANCESTORS: u32 = 13u;
const AT_STARTS: u32 = 14u;
const AT_TREE: u32 = 15u;
const AT_PAGES: u32 = 16u;
const AT_PAGE_STARTS: u32 = 17u;
const AT_ROWS: u32 = 18u;
const AT_MOVES: u32 = 19u;
const AT_INPUTS: u32 = 20u;
const AT_STATE_IN: u32 = 22u;
const AT_STATE_OUT: u32 = 23u;
const AT_TIMES: u32 = 24u;
const AT_SEEDS: u32 = 25u;

// Rows of a value: 0 tokens, 1 sequences, 2 wanted rows, 3 choices of experts.
fn rows_of(kind: u32, k: u32) -> u32 {
    switch kind {
        case 0u: { return ints[TOKENS]; }
        case 1u: { return ints[SEQS]; }
        case 2u: { return ints[WANTED]; }
        default: { return ints[TOKENS] * k; }
    }
}
