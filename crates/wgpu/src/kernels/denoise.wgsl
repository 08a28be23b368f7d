// A step of a Gaussian diffusion. A thread takes four elements of a token, which share a block of noise.
//
// At the end of the noise the factors of `x` and of the estimated noise `e` are a hundred times the
// result and nearly opposite. So the sum is taken as `f (x - e) + g e`, with `g` the sum of both factors
// by a formula in which nothing cancels: then f32 is enough.

struct Parameters {
    width: u32,
    stride: u32,
    capacity: u32,
    times: u32, // of the schedule
    rule: u32,  // 0 the estimate of the end, 1 DDIM, 2 DDPM
    eta: f32,
    eta2: f32,  // its square, and what that lacks to one
    rest: f32,
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> ints: array<u32>;
@group(0) @binding(2) var<storage, read> derived: array<u32>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;
@group(0) @binding(4) var<storage, read_write> e: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
// For each time, and for the end: a, b = 1 - a, and the root and inverse root of each.
@group(0) @binding(6) var<storage, read> schedule: array<f32>;
#if GIVEN
@group(0) @binding(7) var<storage, read_write> noise: array<f32>;
#endif

struct Time {
    a: f32,
    b: f32,
    root_a: f32,
    inverse_a: f32,
    root_b: f32,
    inverse_b: f32,
}

fn at_time(time: u32) -> Time {
    let at = 6u * min(time, p.times);
    return Time(schedule[at], schedule[at + 1u], schedule[at + 2u], schedule[at + 3u], schedule[at + 4u], schedule[at + 5u]);
}

// What x - e, e and new noise are multiplied by.
fn factors(now: Time, next: Time) -> vec3<f32> {
    // 1/root a - root b / root a, without the difference.
    let whole = now.root_a / (1.0 + now.root_b);
    if p.rule == 0u { return vec3<f32>(now.inverse_a, whole, 0.0); }
    let f = next.root_a * now.inverse_a;
    let between = sqrt(max(next.a - now.a, 0.0)) * next.inverse_a;
    let sigma = p.eta * next.root_b * now.inverse_b * between;
    let inverses = next.inverse_a * next.inverse_a * now.inverse_b;
    if p.rule == 1u {
        // The root of 1 - a of the next time - sigma^2.
        let along = next.root_b * sqrt(p.rest + p.eta2 * now.a * next.b * inverses * now.inverse_b);
        return vec3<f32>(f, next.root_a * whole + along, sigma);
    }
    return vec3<f32>(f, f * now.a * (next.b + now.root_b) * inverses / (1.0 + now.root_b), sigma);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let block = wg.x * 64u + thread;
    let t = wg.y;
    if 4u * block >= p.width || t >= ints[TOKENS] { return; }
    let seq = derived[p.capacity + t];
    let time = ints[ints[AT_TIMES] + 2u * seq];
    let f = factors(at_time(time), at_time(ints[ints[AT_TIMES] + 2u * seq + 1u]));
    var z = vec4<f32>();
#if DRAWN
    if f.z != 0.0 {
        var seed = vec2<u32>();
        let at = ints[AT_SEEDS] + 2u * seq;
        if ints[AT_SEEDS] != 0u { seed = vec2<u32>(ints[at], ints[at + 1u]); }
        z = normals(philox(seed, vec4<u32>(block, ints[ints[AT_INDEX] + t], time, 4u)));
    }
#endif
    for (var n = 0u; n < 4u && 4u * block + n < p.width; n++) {
        let i = t * p.stride + 4u * block + n;
#if GIVEN
        z[n] = noise[i];
#endif
        out[i] = f.x * (x[i] - e[i]) + (f.y * e[i] + f.z * z[n]);
    }
}
