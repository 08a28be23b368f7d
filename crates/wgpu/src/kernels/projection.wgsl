// What the kernels of matrix products share: their parameters, their inputs, and what follows a product.

struct Parameters {
    rows: u32,       // outputs of a matrix
    first: u32,      // the first row of this piece of the stack of matrices
    count: u32,      // its rows
    begin: u32,      // rows of each matrix to look at
    end: u32,
    units: u32,      // runs of 32 inputs, the last one filled with zeros
    cols: u32,
    d_at: u32,       // where scales and zeros of the piece begin, in words
    z_at: u32,
    x_stride: u32,   // in runs of four elements
    x_share: u32,    // rows of the result that share one of x
    out_stride: u32,
    out_at: u32,
    kind: u32,       // what a row of the result stands for
    k: u32,
    act: u32,
    biases: u32,     // elements of a row of biases, 0 without
    bias_at: u32,
    route_stride: u32,
    scale: f32,
    cap: f32,
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> ints: array<u32>;
@group(0) @binding(2) var<storage, read> w: array<u32>;
#if INT8
@group(0) @binding(3) var<storage, read_write> x: array<u32>;
#else
@group(0) @binding(3) var<storage, read_write> x: array<vec4<f32>>;
#endif
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(0) @binding(5) var<storage, read> bias: array<f32>;
#if EXPERTS
@group(0) @binding(6) var<storage, read_write> route: array<f32>;
#endif
#if GRID
@group(0) @binding(7) var<storage, read> grid: array<u32>;
#endif

// Four numbers as they are multiplied; sums of such products are f32.
#if HALF
alias quad_ = vec4<f16>;
#else
alias quad_ = vec4<f32>;
#endif

fn finish(t: u32, e: u32, row: u32, sum: f32) {
    var y = sum;
    if p.biases != 0u { y += bias[e * p.biases + p.bias_at + row]; }
    y = activate(p.act, y);
    out[t * p.out_stride + p.out_at + row] = capped(p.scale * y, p.cap);
}

#if INT8
// Activations as `int8.wgsl` leaves them: for each unit eight words of signed bytes, the scale, and
// the sums of both halves.
const UNIT_WORDS: u32 = 10u;

// The integers of a quad as signed bytes, and what is then still to be subtracted.
fn signed_quad(b: u32, u: u32, j: u32) -> u32 {
#if WHOLE_BYTES
    return quad(b, u, j) ^ 0x80808080u;
#else
    return quad(b, u, j);
#endif
}
fn signed_zero(i: u32) -> i32 {
#if WHOLE_BYTES
    return 0;
#else
    return zero(i);
#endif
}
fn sum_of_run(sums: u32, run: u32) -> i32 {
    let low = extractBits(bitcast<i32>(sums), 0u, 16u);
    let high = extractBits(bitcast<i32>(sums), 16u, 16u);
#if HALVES
    return select(low, high, run == 1u);
#else
    return low + high;
#endif
}
#else
// Inputs 4 j to 4 j + 3 of a unit of a row, zeros behind the last.
fn inputs4(row: u32, unit: u32, j: u32) -> quad_ {
    let at = row * p.x_stride + unit * 8u + j;
#if TAIL
    let left = vec4<i32>(i32(p.cols) - i32(unit * 32u + j * 4u)) - vec4<i32>(0, 1, 2, 3);
    var value = vec4<f32>(0.0);
    if left.x > 0 { value = select(value, x[at], left > vec4<i32>(0)); }
    return quad_(value);
#else
    return quad_(x[at]);
#endif
}
#endif
