// A token for each row of logits, as `gristmill_ir::sample` defines it. A block takes a row, in `work`:
// there lie the logits after guidance, bias, penalties and masks, and what is left out becomes GONE.
//
// Nothing is sorted. What keeps the most likely, by number or by mass, finds the last one kept by its
// bits, from the top: four histograms of eight bits each. Masses are added as integers, so their order
// makes no difference.
#include "numbers.h"

struct Sample {
    const u32* control;
    const float* logits;
    float* work;
    u32* results;
    u32* last;
    u32 vocab;
    u32 stride;
};

// The head of `control`, as `src/context/control.rs` writes it.
const u32 ROWS = 0, AT_PARAMS = 1, AT_SLOTS = 2, AT_ALLOW = 3, AT_ALLOW_ROW = 4, AT_BIAS = 5, BIASES = 6;
const u32 AT_PENALTIES = 7, PENALTIES = 8, AT_COMBINE = 9, COMBINES = 10, AT_WANT = 11, WANTS = 12, TOP = 13;
const u32 PARAMS = 14;

const float GONE = -3.0e38f;
const u32 MINUS_INFINITY = 0xff800000u, NONE = 0xffffffffu;
const u32 N = 512;

DEVICE bool kept(float v) { return v > -1.0e38f; }

struct Best { float value; u32 id; };

// The largest value and the lowest id that has it.
CALLED Best best_of(float value, u32 id) {
    SHARED float values[N / 32];
    SHARED u32 ids[N / 32];
    UNROLL
    for (int m = 16; m > 0; m /= 2) {
        float v = lanes_xor(value, m);
        u32 i = lanes_xor(id, m);
        if (v > value || (v == value && i < id)) value = v, id = i;
    }
    block_sync();
    if (threadIdx.x % 32 == 0) {
        values[threadIdx.x / 32] = value;
        ids[threadIdx.x / 32] = id;
    }
    block_sync();
    Best best = {values[0], ids[0]};
    for (u32 w = 1; w < N / 32; w++)
        if (values[w] > best.value || (values[w] == best.value && ids[w] < best.id)) best = Best{values[w], ids[w]};
    return best;
}

// What a row's threads share.
struct Row {
    float* work;
    u32 vocab;
};

// The best of the row that comes after (value, id).
CALLED Best next_best(const Row& r, float value, u32 id) {
    float best = -3.3e38f;
    u32 best_id = NONE;
    ROLLED
    for (u32 i = threadIdx.x; i < r.vocab; i += N) {
        float v = r.work[i];
        if ((v < value || (v == value && (id == NONE || i > id))) && v > best) best = v, best_id = i;
    }
    return best_of(best, best_id);
}

CALLED Best largest(const Row& r) { return next_best(r, 3.3e38f, NONE); }

// A number that orders floats as unsigned integers.
DEVICE u32 ordered(float v) {
    u32 b = float_bits(v);
    return b & 0x80000000u ? ~b : b | 0x80000000u;
}

// How tokens are ordered, and what each counts: 1, or its mass in units of 2^-30 of all.
struct Order {
    float middle;
    bool by_distance;  // how near to `middle` a logit is, in place of the logit
    float top;
    float unit_mass;   // 0: count
    MEMBER u32 place(const Order& o, float v) { return o.by_distance ? ~ordered(fabsf(v - o.middle)) : ordered(v); }
    MEMBER u32 weight(const Order& o, float v) { return o.unit_mass == 0.0f ? 1 : (u32)(expf(v - o.top) * o.unit_mass); }
};

// (number, what is left of the target, weight of all that have it, whether it was reached)
struct Found { u32 number, left, all, reached; };

// The number at which the weights of those before and of itself reach the target: among the places of
// tokens; or, of the tokens at place `only`, among the complements of their ids.
CALLED Found find(const Row& r, const Order& o, u32 target, u32 only, bool of_ids) {
    SHARED u32 histogram[256];
    SHARED Found found;
    if (threadIdx.x == 0) found = Found{0, target, 0, 1};
    for (int shift = 24; shift >= 0; shift -= 8) {
        block_sync();
        if (threadIdx.x < 256) histogram[threadIdx.x] = 0;
        Found state = found;
        block_sync();
        ROLLED
        for (u32 i = threadIdx.x; i < r.vocab; i += N) {
            float v = r.work[i];
            if (!kept(v)) continue;
            u32 number = Order::place(o, v);
            if (of_ids) {
                if (number != only) continue;
                number = ~i;
            }
            u32 above = shift == 24 ? 0 : number >> (shift + 8);
            if (above != state.number) continue;
            atomicAdd(&histogram[number >> shift & 255], of_ids ? 1 : Order::weight(o, v));
        }
        block_sync();
        if (threadIdx.x == 0) {
            u32 left = state.left, bin = 255, all;
            for (;;) {
                all = histogram[bin];
                if (all >= left || bin == 0) break;
                left -= all;
                bin--;
            }
            found = Found{state.number << 8 | bin, left, all, all >= left ? state.reached : 0};
        }
    }
    block_sync();
    Found out = found;
    block_sync();
    return out;
}

// Keeps the first ones whose weights reach the target. Of equal ones those with low ids.
CALLED void keep(const Row& r, const Order& o, u32 target) {
    Found cut = find(r, o, target, 0, false);
    if (!cut.reached) return;
    // Equal ones have equal weights: how much one has, and how many are needed.
    u32 each = 1;
    if (o.unit_mass != 0.0f) {
        float mine = 0.0f;
        ROLLED
        for (u32 i = threadIdx.x; i < r.vocab; i += N) {
            float v = r.work[i];
            if (kept(v) && Order::place(o, v) == cut.number) mine = fmaxf(mine, (float)Order::weight(o, v));
        }
        each = max((u32)best_of(mine, 0).value, 1u);
    }
    u32 needed = (cut.left + each - 1) / each, lowest = 0;  // ids up to the complement of this stay
    if ((u64)needed * each < cut.all) lowest = find(r, Order{o.middle, o.by_distance, o.top, 0.0f}, needed, cut.number, true).number;
    ROLLED
    for (u32 i = threadIdx.x; i < r.vocab; i += N) {
        u32 number = Order::place(o, r.work[i]);
        if (number < cut.number || (number == cut.number && ~i < lowest)) r.work[i] = GONE;
    }
    block_sync();
}

CALLED float mass_above(const Row& r, float top, float inverse) {
    float sum = 0.0f;
    ROLLED
    for (u32 i = threadIdx.x; i < r.vocab; i += N)
        if (kept(r.work[i])) sum += expf((r.work[i] - top) * inverse);
    return block_sum<N>(sum);
}

CALLED void leave_out_below(const Row& r, float least) {
    ROLLED
    for (u32 i = threadIdx.x; i < r.vocab; i += N)
        if (r.work[i] < least) r.work[i] = GONE;
    block_sync();
}

DEVICE float unit(u32 word) { return ((float)(word >> 9) + 0.5f) * 1.1920929e-7f; }

struct Params {
    float top_n_sigma;
    u32 top_k;
    float typical_p, top_p, min_p, xtc_probability, xtc_threshold, temperature;
    u32 mirostat;
    float mu;
    u32 seed[2], counter[2];
};

// Leaves out tokens: what `Sampling` says, in its order.
CALLED void truncate(const Row& r, const Params& a, float top) {
    if (a.top_n_sigma > 0.0f) {
        float count = 0.0f, sum = 0.0f;
        ROLLED
        for (u32 i = threadIdx.x; i < r.vocab; i += N)
            if (kept(r.work[i])) count += 1.0f, sum += r.work[i] - top;
        count = block_sum<N>(count);
        float mean = block_sum<N>(sum) / count;
        sum = 0.0f;
        ROLLED
        for (u32 i = threadIdx.x; i < r.vocab; i += N) {
            float v = r.work[i] - top - mean;
            if (kept(r.work[i])) sum += v * v;
        }
        leave_out_below(r, top - a.top_n_sigma * sqrtf(block_sum<N>(sum) / count));
    }
    if (a.top_k > 0 && a.top_k < r.vocab) keep(r, Order{0.0f, false, 0.0f, 0.0f}, a.top_k);
    if (a.typical_p < 1.0f) {
        float high = largest(r).value, sum = 0.0f;
        ROLLED
        for (u32 i = threadIdx.x; i < r.vocab; i += N)
            if (kept(r.work[i])) sum += expf(r.work[i] - high) * (r.work[i] - high);
        float mass = mass_above(r, high, 1.0f), mean = block_sum<N>(sum) / mass;
        keep(r, Order{high + mean, true, high, 1073741824.0f / mass}, (u32)(a.typical_p * 1073741824.0f) + 1);
    }
    if (a.top_p < 1.0f) {
        float high = largest(r).value, mass = mass_above(r, high, 1.0f);
        keep(r, Order{0.0f, false, high, 1073741824.0f / mass}, max((u32)(a.top_p * 1073741824.0f), 1u));
    }
    if (a.min_p > 0.0f) leave_out_below(r, largest(r).value + logf(a.min_p));
    if (a.xtc_probability > 0.0f && unit(philox(a.seed[0], a.seed[1], Words4{a.counter[0], a.counter[1], 0, 1}).x) <= a.xtc_probability) {
        float high = largest(r).value, least = a.xtc_threshold * mass_above(r, high, 1.0f);
        // Of the likely ones the least likely stays; of equal ones that with the highest id.
        float worst = -3.3e38f;
        u32 worst_id = 0;
        ROLLED
        for (u32 i = threadIdx.x; i < r.vocab; i += N) {
            float v = r.work[i];
            if (kept(v) && expf(v - high) >= least && -v >= worst) worst = -v, worst_id = i;
        }
        Best stays = best_of(worst, ~worst_id);
        ROLLED
        for (u32 i = threadIdx.x; i < r.vocab; i += N) {
            float v = r.work[i];
            bool likely = kept(v) && expf(v - high) >= least;
            if (likely && stays.value > -1.0e38f && i != ~stays.id) r.work[i] = GONE;
        }
        block_sync();
    }
}

// Mirostat, of both versions.
CALLED void surprise(const Row& r, const Params& a, float top) {
    if (a.mirostat == 1) {
        Best entry = {3.3e38f, NONE};
        float over = 0.0f, under = 0.0f;
        for (u32 rank = 0; rank < min(r.vocab, 100u); rank++) {
            Best next = next_best(r, entry.value, entry.id);
            if (!kept(next.value)) break;
            if (rank > 0) {
                float t = logf((float)(rank + 1) / (float)rank);
                over += t * (entry.value - next.value) / a.temperature;
                under += t * t;
            }
            entry = next;
        }
        u32 k = 1;
        if (under > 0.0f && over > 0.0f) {
            float s = over / under, e = s - 1.0f, ln_vocab = logf((float)r.vocab), x = e * ln_vocab;
            // e / (1 - vocab^-e), by its series where that would cancel.
            float ratio = fabsf(x) < 0.01f ? (1.0f + x * 0.5f + x * x / 12.0f) / ln_vocab : e / (1.0f - expf(-x));
            float most = expf(fminf((logf(ratio) + a.mu * 0.6931472f) / s, 80.0f));
            k = min(max((u32)fminf(most, 1.0e9f), 1u), r.vocab);
        }
        if (k < r.vocab) keep(r, Order{0.0f, false, 0.0f, 0.0f}, k);
        return;
    }
    float inverse = 1.0f / a.temperature, log_mass = logf(mass_above(r, top, inverse)), most = a.mu * 0.6931472f;
    if (log_mass > most) {
        keep(r, Order{0.0f, false, 0.0f, 0.0f}, 1);
        return;
    }
    ROLLED
    for (u32 i = threadIdx.x; i < r.vocab; i += N) {
        float v = r.work[i];
        if (kept(v) && log_mass - (v - top) * inverse > most) r.work[i] = GONE;
    }
    block_sync();
}

// Logits after guidance, bias, penalties and masks; whether one of them is no number.
CALLED bool adjust(const Sample& p, const Row& r, u32 row) {
    SHARED u32 damaged;
    const u32* c = p.control;
    u32 other = row;
    float guidance = 0.0f;
    for (u32 n = c[COMBINES]; n > 0; n--) {
        const u32* at = c + c[AT_COMBINE] + 3 * (n - 1);
        if (at[0] == row) other = at[1], guidance = bits_float(at[2]);
    }
    ROLLED
    for (u32 i = threadIdx.x; i < r.vocab; i += N) {
        float v = p.logits[(u64)row * p.stride + i];
        if (other != row) {
            float o = p.logits[(u64)other * p.stride + i];
            v = o + (guidance + 1.0f) * (v - o);
        }
        r.work[i] = v;
    }
    // Each token's bias and penalty are one thread's, so that several come in order.
    for (u32 n = 0; n < c[BIASES]; n++) {
        const u32* at = c + c[AT_BIAS] + 3 * n;
        if (at[0] == row && at[1] % N == threadIdx.x) r.work[at[1]] += bits_float(at[2]);
    }
    for (u32 n = 0; n < c[PENALTIES]; n++) {
        const u32* at = c + c[AT_PENALTIES] + 4 * n;
        if (at[0] == row && at[1] % N == threadIdx.x) {
            float v = r.work[at[1]], repeat = bits_float(at[2]);
            r.work[at[1]] = (v > 0.0f ? v / repeat : v * repeat) - bits_float(at[3]);
        }
    }
    i32 mask = c[AT_ALLOW_ROW] ? (i32)c[c[AT_ALLOW_ROW] + row] : -1;
    if (threadIdx.x == 0) damaged = 0;
    block_sync();
    ROLLED
    for (u32 i = threadIdx.x; i < r.vocab; i += N) {
        float v = r.work[i];
        u32 bits = float_bits(v);
        if (bits != MINUS_INFINITY && (bits & 0x7f800000u) == 0x7f800000u) damaged = 1;
        if (bits == MINUS_INFINITY || v < -1.0e38f) v = GONE;
        if (mask >= 0) {
            u32 word = c[c[AT_ALLOW] + (u32)mask * ((r.vocab + 31) / 32) + i / 32];
            if (!(word >> i % 32 & 1)) v = GONE;
        }
        r.work[i] = v;
    }
    block_sync();
    return damaged != 0;
}

KERNEL(sample, Sample, 512) {
    u32 row = blockIdx.x;
    const u32* c = p.control;
    if (row >= c[ROWS]) return;
    Row r = {p.work + (u64)row * p.vocab, p.vocab};
    bool damaged = adjust(p, r, row);
    Best peak = largest(r);
    float top = peak.value, log_sum = top + logf(mass_above(r, top, 1.0f));
    u32 wanted_at = c[ROWS] * (3 + 2 * c[TOP]);
    for (u32 n = threadIdx.x; n < c[WANTS]; n += N) {
        const u32* at = c + c[AT_WANT] + 2 * n;
        if (at[0] == row) {
            float v = r.work[at[1]];
            p.results[wanted_at + n] = kept(v) ? float_bits(v - log_sum) : MINUS_INFINITY;
        }
    }
    Best before = {3.3e38f, NONE};
    for (u32 n = 0; n < c[TOP]; n++) {
        before = next_best(r, before.value, before.id);
        if (threadIdx.x == 0) {
            u32* to = p.results + c[ROWS] * 3 + 2 * (row * c[TOP] + n);
            to[0] = before.id;
            to[1] = kept(before.value) ? float_bits(before.value - log_sum) : MINUS_INFINITY;
        }
    }
    const u32* w = c + c[AT_PARAMS] + row * PARAMS;
    Params a = {bits_float(w[0]), w[1], bits_float(w[2]), bits_float(w[3]), bits_float(w[4]), bits_float(w[5]), bits_float(w[6]),
                bits_float(w[7]), w[8], bits_float(w[9]), {w[10], w[11]}, {w[12], w[13]}};
    u32 id = peak.id;
    float confidence = 1.0f;
    bool top_stays = a.mirostat != 0 || (a.typical_p >= 1.0f && a.xtc_probability == 0.0f);
    if (damaged) {
        id = NONE - 1;
    } else if (!kept(top)) {
        id = NONE;
    } else if (a.temperature != 0.0f || !top_stays) {
        if (a.mirostat == 0) truncate(r, a, top);
        else if (a.temperature != 0.0f) surprise(r, a, top);
        Best high = largest(r);
        id = high.id;
        if (a.temperature != 0.0f) {
            float inverse = 1.0f / a.temperature, score = -3.3e38f;
            u32 mine = NONE;
            ROLLED
            for (u32 i = threadIdx.x; i < r.vocab; i += N) {
                float v = r.work[i];
                if (!kept(v)) continue;
                Words4 words = philox(a.seed[0], a.seed[1], Words4{a.counter[0], a.counter[1], i / 4, 0});
                float s = (v - high.value) * inverse - logf(-logf(unit(word_of(words, i % 4))));
                if (s > score) score = s, mine = i;
            }
            id = best_of(score, mine).id;
            float mass = mass_above(r, high.value, inverse);
            confidence = expf((r.work[id] - high.value) * inverse) / mass;
        }
    }
    if (threadIdx.x == 0) {
        u32* to = p.results + 3 * row;
        to[0] = id;
        if (id < r.vocab) {
            to[1] = float_bits(confidence);
            to[2] = float_bits(r.work[id] - log_sum);
        }
        u32 slot = c[AT_SLOTS] ? c[c[AT_SLOTS] + row] : NONE;
        if (slot != NONE) p.last[slot] = id < r.vocab ? id : 0;
    }
}
