// A token for each masked place, and how sure the model is of it, as `gristmill_ir::Unmask` defines
// them. A workgroup takes a place; several may ask the same row.

// How sure the tokens kept are, whatever is drawn: 1 the most likely before the second, 2 minus the
// entropy. `mass` is theirs.
fn surety_of(thread: u32, row: u32, peak: vec2<u32>, what: u32, mass: f32) -> f32 {
    let top = bitcast<f32>(peak.x);
    if what == 1u {
        let second = bitcast<f32>(next_best(thread, row, top, peak.y).x);
        return (1.0 - exp_((second - top) * sharpness)) / mass;
    }
    var sum = 0.0;
    for (var i = thread; i < p.vocab; i += N) {
        let v = work[row + i];
        if !kept(v) { continue; }
        let share = exp_((v - top) * sharpness) / mass;
        sum += share * ln_(share + 1.0e-10);
    }
    return sum_of(thread, sum);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let place = wg.x;
    if place >= control[UNMASKS] { return; }
    let at = control[AT_UNMASK] + place * UNMASK;
    let surety = control[at + 1u]; // 0: the token's probability
    let plain = control[at + 2u] != 0u;
    let temperature = bitcast<f32>(control[at + 3u]);
    let top_p = bitcast<f32>(control[at + 4u]);
    let top_k = control[at + 5u];
    let seed = vec2<u32>(control[at + 6u], control[at + 7u]);
    let counter = vec2<u32>(control[at + 8u], control[at + 9u]);

    let row = place * p.vocab;
    let peak = adjust(thread, control[at], row);
    let top = bitcast<f32>(peak.x);
    let all = mass_above(thread, row, top, 1.0);
    var id = peak.y;
    var confidence = 0.0;
    if atomicLoad(&damaged) != 0u {
        id = NONE - 1u;
    } else if !kept(top) {
        id = NONE;
    } else {
        if plain && surety != 0u { confidence = surety_of(thread, row, peak, surety, all); }
        if temperature != 0.0 { sharpness = 1.0 / temperature; }
        if top_p < 1.0 {
            let unit_mass = 1073741824.0 / mass_above(thread, row, top, sharpness);
            keep(thread, row, 0.0, false, top, unit_mass, u32(top_p * 1073741824.0) + 1u);
        }
        if top_k > 0u && top_k < p.vocab { keep(thread, row, 0.0, false, 0.0, 0.0, top_k); }
        if temperature != 0.0 {
            // All 32 bits count: with fewer the largest noise of many tokens is cut off, and rare tokens
            // come too seldom.
            var score = -3.3e38;
            var mine = NONE;
            for (var i = thread; i < p.vocab; i += N) {
                let v = work[row + i];
                if !kept(v) { continue; }
                let words = philox(seed, vec4<u32>(counter, i / 4u, 2u));
                let s = (v - top) * sharpness - ln_(exponential(words[i % 4u]));
                if s > score {
                    score = s;
                    mine = i;
                }
            }
            id = best_of(thread, score, mine).y;
        }
        if !plain {
            let mass = mass_above(thread, row, top, sharpness);
            if surety == 0u {
                confidence = exp_((work[row + id] - top) * sharpness) / mass;
            } else {
                confidence = surety_of(thread, row, peak, surety, mass);
            }
        } else if surety == 0u {
            confidence = exp_(work[row + id] - top) / all;
        }
    }
    if thread == 0u {
        results[3u * place] = id;
        if id < p.vocab {
            results[3u * place + 1u] = bitcast<u32>(confidence);
            results[3u * place + 2u] = bitcast<u32>(work[row + id] - top - ln_(all));
        }
    }
}
