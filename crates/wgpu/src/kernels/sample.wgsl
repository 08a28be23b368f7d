// A token for each row of logits.

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let r = wg.x;
    if r >= control[ROWS] { return; }
    let row = r * p.vocab;
    let peak = adjust(thread, r, row);
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
