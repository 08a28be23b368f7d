// Noise that every device has alike: the counter-based generator Philox (Salmon et al. 2011), and what
// follows from its words.

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

// -ln((word + 1/2) 2^-32), to 2e-7 of itself from the rarest numbers to the most frequent. An f32 holds
// no more than 24 bits of what is near one: there the logarithm is that of what is missing to it.
fn exponential(word: u32) -> f32 {
    if word < 0x80000000u { return -ln_((f32(word) + 0.5) * 2.3283064e-10); }
    let missing = (f32(~word) + 0.5) * 2.3283064e-10;
    let s = missing / (2.0 - missing);
    let z = s * s;
    return 2.0 * s * (1.0 + z * (0.33333334 + z * (0.2 + z * (0.14285715 + z * (0.11111111 + z * (0.09090909 + z * (0.07692308 + z * 0.06666667)))))));
}

// Standard normal numbers of four words (Box and Muller 1958).
fn normals(words: vec4<u32>) -> vec4<f32> {
    let first = sqrt(2.0 * exponential(words.x)) * turn(words.y);
    let second = sqrt(2.0 * exponential(words.z)) * turn(words.w);
    return vec4<f32>(first, second);
}
