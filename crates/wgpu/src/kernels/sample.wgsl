// A token for each row of logits, as `gristmill_ir::sample` defines it. A workgroup takes a row, in
// `work`: there lie the logits after guidance, bias, penalties and masks, and what is left out
// becomes GONE.
//
// Nothing is sorted. What keeps the most likely, by number or by mass, finds the last one kept by its
// bits, from the top: four histograms of eight bits each. Masses are added as integers, so their
// order makes no difference.

struct Parameters {
    vocab: u32,
    stride: u32,
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> control: array<u32>;
@group(0) @binding(2) var<storage, read_write> logits: array<f32>;
@group(0) @binding(3) var<storage, read_write> work: array<f32>;
@group(0) @binding(4) var<storage, read_write> results: array<u32>;
@group(0) @binding(5) var<storage, read_write> last: array<u32>;

// The head of `control`, as `context/control.rs` writes it.
const ROWS: u32 = 0u;
const AT_SLOTS: u32 = 2u;
const AT_ALLOW: u32 = 3u;
const AT_ALLOW_ROW: u32 = 4u;
const AT_BIAS: u32 = 5u;
const BIASES: u32 = 6u;
const AT_PENALTIES: u32 = 7u;
const PENALTIES: u32 = 8u;
const AT_COMBINE: u32 = 9u;
const COMBINES: u32 = 10u;
const AT_WANT: u32 = 11u;
const WANTS: u32 = 12u;
const TOP: u32 = 13u;
const AT_PARAMS: u32 = 1u;
const PARAMS: u32 = 14u;

const GONE: f32 = -3.0e38;
const MINUS_INFINITY: u32 = 0xff800000u;
const N: u32 = 256u;
const NONE: u32 = 0xffffffffu;

var<workgroup> parts: array<f32, 256>;
var<workgroup> ids: array<u32, 256>;
var<workgroup> histogram: array<atomic<u32>, 256>;
var<workgroup> found: vec4<u32>;
var<workgroup> damaged: atomic<u32>;

fn kept(v: f32) -> bool {
    return v > -1.0e38;
}

fn sum_of(thread: u32, value: f32) -> f32 {
    workgroupBarrier();
    parts[thread] = value;
    for (var half = 128u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if thread < half { parts[thread] += parts[thread + half]; }
    }
    workgroupBarrier();
    return parts[0];
}

// The largest value and the lowest id that has it.
fn best_of(thread: u32, value: f32, id: u32) -> vec2<u32> {
    workgroupBarrier();
    parts[thread] = value;
    ids[thread] = id;
    for (var half = 128u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if thread < half {
            let other = parts[thread + half];
            if other > parts[thread] || (other == parts[thread] && ids[thread + half] < ids[thread]) {
                parts[thread] = other;
                ids[thread] = ids[thread + half];
            }
        }
    }
    workgroupBarrier();
    return vec2<u32>(bitcast<u32>(parts[0]), ids[0]);
}

// The best of the row that comes after (value, id).
fn next_best(thread: u32, row: u32, value: f32, id: u32) -> vec2<u32> {
    var best = -3.3e38;
    var best_id = NONE;
    for (var i = thread; i < p.vocab; i += N) {
        let v = work[row + i];
        if (v < value || (v == value && (id == NONE || i > id))) && (v > best) {
            best = v;
            best_id = i;
        }
    }
    return best_of(thread, best, best_id);
}

// A number that orders floats as unsigned integers.
fn ordered(v: f32) -> u32 {
    let b = bitcast<u32>(v);
    return select(b | 0x80000000u, ~b, (b & 0x80000000u) != 0u);
}

// What orders a token: its logit, or how near its distance from `middle` is to 0.
fn order(v: f32, middle: f32, by_distance: bool) -> u32 {
    if by_distance { return ~ordered(abs(v - middle)); }
    return ordered(v);
}

// The mass of a token in units of 2^-30 of all.
fn weight(v: f32, top: f32, unit_mass: f32) -> u32 {
    if unit_mass == 0.0 { return 1u; }
    return u32(exp_(v - top) * unit_mass);
}

// Among the numbers `shown` (already above what `prefix` says), the one at which the weights of those
// before and of itself reach `target_weight`: (number, what is left of the target, weight of all that
// have it, whether it was reached).
fn find(thread: u32, row: u32, middle: f32, by_distance: bool, top: f32, unit_mass: f32,
        target_weight: u32, only: u32, of_ids: bool) -> vec4<u32> {
    if thread == 0u { found = vec4<u32>(0u, target_weight, 0u, 1u); }
    for (var shift = 24i; shift >= 0; shift -= 8) {
        workgroupBarrier();
        atomicStore(&histogram[thread], 0u);
        let state = found;
        workgroupBarrier();
        for (var i = thread; i < p.vocab; i += N) {
            let v = work[row + i];
            if !kept(v) { continue; }
            var number = order(v, middle, by_distance);
            if of_ids {
                if number != only { continue; }
                number = ~i;
            }
            let above = select(number >> u32(shift + 8), 0u, shift == 24);
            if above != state.x { continue; }
            atomicAdd(&histogram[(number >> u32(shift)) & 255u], select(weight(v, top, unit_mass), 1u, of_ids));
        }
        workgroupBarrier();
        if thread == 0u {
            var left = state.y;
            var bin = 255u;
            var all = 0u;
            loop {
                all = atomicLoad(&histogram[bin]);
                if all >= left || bin == 0u { break; }
                left -= all;
                bin -= 1u;
            }
            found = vec4<u32>((state.x << 8u) | bin, left, all, select(0u, state.w, all >= left));
        }
    }
    workgroupBarrier();
    return found;
}

// Keeps the first ones by `order` whose weights reach the target. Of equal ones those with low ids.
fn keep(thread: u32, row: u32, middle: f32, by_distance: bool, top: f32, unit_mass: f32, target_weight: u32) {
    let cut = find(thread, row, middle, by_distance, top, unit_mass, target_weight, 0u, false);
    if cut.w == 0u { return; }
    // Equal ones have equal weights: how much one has, and how many are needed.
    var one = 0.0;
    if unit_mass == 0.0 {
        one = 1.0;
    } else {
        var mine = 0.0;
        for (var i = thread; i < p.vocab; i += N) {
            let v = work[row + i];
            if kept(v) && order(v, middle, by_distance) == cut.x {
                mine = max(mine, f32(weight(v, top, unit_mass)));
            }
        }
        one = bitcast<f32>(best_of(thread, mine, 0u).x);
    }
    let each = max(u32(one), 1u);
    let needed = (cut.y + each - 1u) / each;
    var lowest = 0u; // ids up to the complement of this are kept
    if needed * each < cut.z {
        lowest = find(thread, row, middle, by_distance, top, 0.0, needed, cut.x, true).x;
    }
    for (var i = thread; i < p.vocab; i += N) {
        let number = order(work[row + i], middle, by_distance);
        if number < cut.x || (number == cut.x && ~i < lowest) { work[row + i] = GONE; }
    }
    storageBarrier();
    workgroupBarrier();
}

// The largest logit kept.
fn largest(thread: u32, row: u32) -> vec2<u32> {
    return next_best(thread, row, 3.3e38, NONE);
}

fn mass_above(thread: u32, row: u32, top: f32, inverse: f32) -> f32 {
    var sum = 0.0;
    for (var i = thread; i < p.vocab; i += N) {
        let v = work[row + i];
        if kept(v) { sum += exp_((v - top) * inverse); }
    }
    return sum_of(thread, sum);
}

fn leave_out_below(thread: u32, row: u32, floor_: f32) {
    for (var i = thread; i < p.vocab; i += N) {
        if work[row + i] < floor_ { work[row + i] = GONE; }
    }
    storageBarrier();
    workgroupBarrier();
}

fn philox(seed: vec2<u32>, counter: vec4<u32>) -> vec4<u32> {
    var k = seed;
    var c = counter;
    for (var round_ = 0u; round_ < 10u; round_++) {
        let a = product(0xD2511F53u, c.x);
        let b = product(0xCD9E8D57u, c.z);
        c = vec4<u32>(b.y ^ c.y ^ k.x, b.x, a.y ^ c.w ^ k.y, a.x);
        k += vec2<u32>(0x9E3779B9u, 0xBB67AE85u);
    }
    return c;
}

fn unit(word: u32) -> f32 {
    return (f32(word >> 9u) + 0.5) * 1.1920929e-7;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let r = wg.x;
    if r >= control[ROWS] { return; }
    let row = r * p.vocab;
    // Guidance.
    var other = r;
    var guidance = 0.0;
    for (var c = control[COMBINES]; c > 0u; c--) {
        let at = control[AT_COMBINE] + 3u * (c - 1u);
        if control[at] == r {
            other = control[at + 1u];
            guidance = bitcast<f32>(control[at + 2u]);
        }
    }
    for (var i = thread; i < p.vocab; i += N) {
        var v = logits[r * p.stride + i];
        if other != r {
            let o = logits[other * p.stride + i];
            v = o + (guidance + 1.0) * (v - o);
        }
        work[row + i] = v;
    }
    // Each token's bias and penalty are one thread's, so that several come in order.
    for (var c = 0u; c < control[BIASES]; c++) {
        let at = control[AT_BIAS] + 3u * c;
        let token = control[at + 1u];
        if control[at] == r && token % N == thread { work[row + token] += bitcast<f32>(control[at + 2u]); }
    }
    for (var c = 0u; c < control[PENALTIES]; c++) {
        let at = control[AT_PENALTIES] + 4u * c;
        let token = control[at + 1u];
        if control[at] == r && token % N == thread {
            let v = work[row + token];
            let repeat = bitcast<f32>(control[at + 2u]);
            work[row + token] = select(v * repeat, v / repeat, v > 0.0) - bitcast<f32>(control[at + 3u]);
        }
    }
    // Masks; and what is infinitely unlikely is GONE, what is no number is noted.
    var mask = -1;
    if control[AT_ALLOW_ROW] != 0u { mask = bitcast<i32>(control[control[AT_ALLOW_ROW] + r]); }
    if thread == 0u { atomicStore(&damaged, 0u); }
    workgroupBarrier();
    var best = -3.3e38;
    var best_id = NONE;
    for (var i = thread; i < p.vocab; i += N) {
        var v = work[row + i];
        let bits = bitcast<u32>(v);
        if bits != MINUS_INFINITY && (bits & 0x7f800000u) == 0x7f800000u { atomicStore(&damaged, 1u); }
        if bits == MINUS_INFINITY || v < -1.0e38 { v = GONE; }
        if mask >= 0 {
            let word = control[control[AT_ALLOW] + u32(mask) * ((p.vocab + 31u) / 32u) + i / 32u];
            if ((word >> (i % 32u)) & 1u) == 0u { v = GONE; }
        }
        work[row + i] = v;
        if v > best {
            best = v;
            best_id = i;
        }
    }
    storageBarrier();
    let peak = best_of(thread, best, best_id);
    let top = bitcast<f32>(peak.x);
    let log_sum = top + ln_(mass_above(thread, row, top, 1.0));
    let wanted_at = control[ROWS] * (3u + 2u * control[TOP]);
    for (var c = thread; c < control[WANTS]; c += N) {
        let at = control[AT_WANT] + 2u * c;
        if control[at] == r {
            let v = work[row + control[at + 1u]];
            results[wanted_at + c] = select(MINUS_INFINITY, bitcast<u32>(v - log_sum), kept(v));
        }
    }
    var before = vec2<u32>(bitcast<u32>(3.3e38), NONE);
    for (var c = 0u; c < control[TOP]; c++) {
        before = next_best(thread, row, bitcast<f32>(before.x), before.y);
        if thread == 0u {
            let to = control[ROWS] * 3u + 2u * (r * control[TOP] + c);
            results[to] = before.y;
            let v = bitcast<f32>(before.x);
            results[to + 1u] = select(MINUS_INFINITY, bitcast<u32>(v - log_sum), kept(v));
        }
    }

    let at = control[AT_PARAMS] + r * PARAMS;
    let top_n_sigma = bitcast<f32>(control[at]);
    let top_k = control[at + 1u];
    let typical_p = bitcast<f32>(control[at + 2u]);
    let top_p = bitcast<f32>(control[at + 3u]);
    let min_p = bitcast<f32>(control[at + 4u]);
    let xtc_probability = bitcast<f32>(control[at + 5u]);
    let xtc_threshold = bitcast<f32>(control[at + 6u]);
    let temperature = bitcast<f32>(control[at + 7u]);
    let mirostat = control[at + 8u];
    let mu = bitcast<f32>(control[at + 9u]);
    let seed = vec2<u32>(control[at + 10u], control[at + 11u]);
    let counter = vec2<u32>(control[at + 12u], control[at + 13u]);

    var id = peak.y;
    var confidence = 1.0;
    let top_stays = mirostat != 0u || (typical_p >= 1.0 && xtc_probability == 0.0);
    if atomicLoad(&damaged) != 0u {
        id = NONE - 1u;
    } else if !kept(top) {
        id = NONE;
    } else if temperature != 0.0 || !top_stays {
        if mirostat == 0u {
            if top_n_sigma > 0.0 {
                var count = 0.0;
                var sum = 0.0;
                for (var i = thread; i < p.vocab; i += N) {
                    let v = work[row + i];
                    if kept(v) { count += 1.0; sum += v - top; }
                }
                count = sum_of(thread, count);
                let mean = sum_of(thread, sum) / count;
                sum = 0.0;
                for (var i = thread; i < p.vocab; i += N) {
                    let v = work[row + i];
                    if kept(v) { sum += (v - top - mean) * (v - top - mean); }
                }
                leave_out_below(thread, row, top - top_n_sigma * sqrt(sum_of(thread, sum) / count));
            }
            if top_k > 0u && top_k < p.vocab { keep(thread, row, 0.0, false, 0.0, 0.0, top_k); }
            if typical_p < 1.0 {
                let high = bitcast<f32>(largest(thread, row).x);
                var sum = 0.0;
                for (var i = thread; i < p.vocab; i += N) {
                    let v = work[row + i];
                    if kept(v) { sum += exp_(v - high) * (v - high); }
                }
                let mass = mass_above(thread, row, high, 1.0);
                let mean = sum_of(thread, sum) / mass;
                let unit_mass = 1073741824.0 / mass;
                keep(thread, row, high + mean, true, high, unit_mass, u32(typical_p * 1073741824.0) + 1u);
            }
            if top_p < 1.0 {
                let high = bitcast<f32>(largest(thread, row).x);
                let unit_mass = 1073741824.0 / mass_above(thread, row, high, 1.0);
                keep(thread, row, 0.0, false, high, unit_mass, max(u32(top_p * 1073741824.0), 1u));
            }
            if min_p > 0.0 {
                leave_out_below(thread, row, bitcast<f32>(largest(thread, row).x) + ln_(min_p));
            }
            if xtc_probability > 0.0
                && unit(philox(seed, vec4<u32>(counter, 0u, 1u)).x) <= xtc_probability {
                let high = bitcast<f32>(largest(thread, row).x);
                let least = xtc_threshold * mass_above(thread, row, high, 1.0);
                // Of the likely ones the least likely stays; of equal ones that with the highest id.
                var worst = -3.3e38;
                var worst_id = 0u;
                for (var i = thread; i < p.vocab; i += N) {
                    let v = work[row + i];
                    if kept(v) && exp_(v - high) >= least && -v >= worst {
                        worst = -v;
                        worst_id = i;
                    }
                }
                let stays = best_of(thread, worst, ~worst_id);
                for (var i = thread; i < p.vocab; i += N) {
                    let v = work[row + i];
                    let likely = kept(v) && exp_(v - high) >= least;
                    if likely && bitcast<f32>(stays.x) > -1.0e38 && i != ~stays.y { work[row + i] = GONE; }
                }
                storageBarrier();
                workgroupBarrier();
            }
        } else if mirostat == 1u && temperature != 0.0 {
            var entry = vec2<u32>(bitcast<u32>(3.3e38), NONE);
            var over = 0.0;
            var under = 0.0;
            for (var rank = 0u; rank < min(p.vocab, 100u); rank++) {
                let next = next_best(thread, row, bitcast<f32>(entry.x), entry.y);
                if !kept(bitcast<f32>(next.x)) { break; }
                if rank > 0u {
                    let t = ln_(f32(rank + 1u) / f32(rank));
                    over += t * (bitcast<f32>(entry.x) - bitcast<f32>(next.x)) / temperature;
                    under += t * t;
                }
                entry = next;
            }
            var k = 1u;
            if under > 0.0 && over > 0.0 {
                let s = over / under;
                let e = s - 1.0;
                let ln_vocab = ln_(f32(p.vocab));
                var ratio = 1.0 / ln_vocab;
                // e / (1 - vocab^-e), by its series where that would cancel.
                let x = e * ln_vocab;
                if abs(x) < 0.01 {
                    ratio = (1.0 + x * 0.5 + x * x / 12.0) / ln_vocab;
                } else {
                    ratio = e / (1.0 - exp_(-x));
                }
                let most = exp_(min((ln_(ratio) + mu * 0.6931472) / s, 80.0));
                k = clamp(u32(min(most, 1.0e9)), 1u, p.vocab);
            }
            if k < p.vocab { keep(thread, row, 0.0, false, 0.0, 0.0, k); }
        } else if mirostat == 2u && temperature != 0.0 {
            let inverse = 1.0 / temperature;
            let log_mass = ln_(mass_above(thread, row, top, inverse));
            let most = mu * 0.6931472;
            if log_mass <= most {
                for (var i = thread; i < p.vocab; i += N) {
                    let v = work[row + i];
                    if kept(v) && log_mass - (v - top) * inverse > most { work[row + i] = GONE; }
                }
                storageBarrier();
                workgroupBarrier();
            } else {
                keep(thread, row, 0.0, false, 0.0, 0.0, 1u);
            }
        }
        let high = largest(thread, row);
        id = high.y;
        if temperature != 0.0 {
            let inverse = 1.0 / temperature;
            let first = bitcast<f32>(high.x);
            var score = -3.3e38;
            var mine = NONE;
            for (var i = thread; i < p.vocab; i += N) {
                let v = work[row + i];
                if !kept(v) { continue; }
                let words = philox(seed, vec4<u32>(counter, i / 4u, 0u));
                let gumbel = -ln_(-ln_(unit(words[i % 4u])));
                let s = (v - first) * inverse + gumbel;
                if s > score {
                    score = s;
                    mine = i;
                }
            }
            id = best_of(thread, score, mine).y;
            let mass = mass_above(thread, row, first, inverse);
            confidence = exp_((work[row + id] - first) * inverse) / mass;
        }
    }
    if thread == 0u {
        results[3u * r] = id;
        if id < p.vocab {
            results[3u * r + 1u] = bitcast<u32>(confidence);
            results[3u * r + 2u] = bitcast<u32>(work[row + id] - log_sum);
        }
        let slot = select(NONE, control[control[AT_SLOTS] + r], control[AT_SLOTS] != 0u);
        if slot != NONE { last[slot] = select(0u, id, id < p.vocab); }
    }
}
