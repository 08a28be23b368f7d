// The integers of a step, as `src/context/integers.rs` writes them. Entries of the head say how many
// there are of each kind and where the arrays begin.
#pragma once
#include "device.h"

const u32 TOKENS = 0, SEQS = 1, WANTED = 2, MOVES = 4;
const u32 AT_IDS = 8, AT_TYPES = 9, AT_POSITIONS = 10, AT_INDEX = 11, AT_VISIBLE = 12;
const u32 AT_ANCESTORS = 13, AT_STARTS = 14, AT_TREE = 15, AT_PAGES = 16, AT_PAGE_STARTS = 17;
const u32 AT_ROWS = 18, AT_MOVES = 19, AT_INPUTS = 20, AT_STATE_IN = 22, AT_STATE_OUT = 23;
const u32 AT_TIMES = 24, AT_SEEDS = 25;

const u32 NOBODY = 0xffffffffu;

// An array of the step.
DEVICE const u32* array(const u32* ints, u32 which) { return ints + ints[which]; }

// Rows of a value: 0 tokens, 1 sequences, 2 wanted rows, 3 choices of experts.
DEVICE u32 rows_of(const u32* ints, u32 kind, u32 k) {
    return kind == 0 ? ints[TOKENS] : kind == 1 ? ints[SEQS] : kind == 2 ? ints[WANTED] : ints[TOKENS] * k;
}
