// Cosines and sines of the rotations of a step, a pair of them for each token and pair of elements.
//
// The angle is an f32 product, as models are trained with; its cosine and sine are exact to the last
// few bits, however large it is. The built-in functions promise that for small angles only. So the
// angle is reduced in integers: times 2/pi, to 96 bits, of which those above two bits before the
// point do not count.

struct Parameters {
    pairs: u32,
    first: u32,  // pairs driven by the first component of a position, and by the first two
    second: u32,
    magnitude: f32,
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> ints: array<u32>;
@group(0) @binding(2) var<storage, read> frequencies: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<vec2<f32>>;

// cos and sin of an angle of 0 up to 2^24.
fn rotation(angle: f32) -> vec2<f32> {
    if angle <= 0.75 { return circle(angle, 0u); }
    let bits = bitcast<u32>(angle);
    let m = (bits & 0x7fffffu) | 0x800000u;
    // angle = m 2^-(23 - e); 2/pi = 0.A2F9836E 4E44152A... in base 2^32.
    let down = 150u - (bits >> 23u);
    let a = product(m, 0xA2F9836Eu);
    let b = product(m, 0x4E44152Au);
    let low = a.x + b.y;
    let high = a.y + select(0u, 1u, low < a.x);
    // high.low is the angle in quarter turns, times 2^down with `down` up to 24. To 2.30 bits:
    let up = 30u - down;
    return turn((high << up) | (low >> (32u - up)));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let i = wg.x * 64u + thread;
    let t = wg.y;
    if i >= p.pairs || t >= ints[TOKENS] { return; }
    var component = 0u;
    if i >= p.first { component = 1u; }
    if i >= p.second { component = 2u; }
    let position = ints[ints[AT_POSITIONS] + 3u * t + component];
    out[t * p.pairs + i] = p.magnitude * rotation(f32(position) * frequencies[i]);
}
