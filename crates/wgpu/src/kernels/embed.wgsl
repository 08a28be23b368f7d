// Rows of a table: the ids', positions' or types' of the tokens. A thread gathers four elements.

struct Parameters {
    first: u32,
    count: u32,
    units: u32,
    width: u32,
    d_at: u32,
    z_at: u32,
    out_stride: u32,
    source: u32, // 0 ids, 1 positions, 2 types
    capacity: u32,
    adds: u32,   // whether to add to what is there
    scale: f32,
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> ints: array<u32>;
@group(0) @binding(2) var<storage, read> w: array<u32>;
@group(0) @binding(3) var<storage, read> derived: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
#if GRID
@group(0) @binding(7) var<storage, read> grid: array<u32>;
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let quad_of_row = wg.x * 64u + thread;
    let t = wg.y;
    if quad_of_row * 4u >= p.width || t >= ints[TOKENS] { return; }
    var id = derived[t];
    if p.source == 1u { id = ints[ints[AT_POSITIONS] + 3u * t]; }
    if p.source == 2u {
        id = 0u;
        if ints[AT_TYPES] != 0u { id = ints[ints[AT_TYPES] + t]; }
    }
    if id - p.first >= p.count { return; }
    let unit = quad_of_row / 8u;
    let i = (id - p.first) * (p.units / $UNITSu) + unit / $UNITSu;
    let value = weight4(i, i * $WORDSu, unit % $UNITSu, quad_of_row % 8u) * p.scale;
    for (var n = 0u; n < 4u && quad_of_row * 4u + n < p.width; n++) {
        let at = t * p.out_stride + quad_of_row * 4u + n;
        if p.adds != 0u { out[at] += value[n]; } else { out[at] = value[n]; }
    }
}
