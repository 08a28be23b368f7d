// What sampling and proposing share, as `gristmill_ir::sample` defines it. A workgroup takes a row of
// logits to `work`: there they lie after guidance, bias, penalties and masks, and what is left out
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

// The head of `control`, as `control.rs` of the crate gpu writes it.
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
const AT_UNMASK: u32 = 14u;
const UNMASKS: u32 = 15u;
const UNMASK: u32 = 10u;

const GONE: f32 = -3.0e38;
const MINUS_INFINITY: u32 = 0xff800000u;
const N: u32 = 256u;
const NONE: u32 = 0xffffffffu;

var<workgroup> parts: array<f32, 256>;
var<workgroup> ids: array<u32, 256>;
var<workgroup> histogram: array<atomic<u32>, 256>;
var<workgroup> found: vec4<u32>;
var<workgroup> damaged: atomic<u32>;

// What differences of logits are multiplied by where masses are kept: one by the temperature.
var<private> sharpness: f32 = 1.0;

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
    return u32(exp_((v - top) * sharpness) * unit_mass);
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

// Takes the logits of row `r` to `work`, from `row` on. Gives the largest and its id.
fn adjust(thread: u32, r: u32, row: u32) -> vec2<u32> {
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
    return best_of(thread, best, best_id);
}
