// Many rows of activations by a matrix, in tiles: a workgroup computes $TOKENS rows by $ROWS
// outputs, $THREADS threads each a few of them, with a unit of 32 inputs of all in its memory.

#if INT8
var<workgroup> ws: array<u32, $W_QUADS>;
var<workgroup> ss: array<vec2<f32>, $W_RUNS>;
var<workgroup> zs: array<i32, $ROWS>;
var<workgroup> xs: array<u32, $X_QUADS>;
var<workgroup> ds: array<f32, $TOKENS>;
var<workgroup> sums: array<u32, $TOKENS>;
#else
var<workgroup> ws: array<quad_, $W_QUADS>;
var<workgroup> xs: array<quad_, $X_QUADS>;
#endif

const R: u32 = $ROWSu / 16u;
const T: u32 = $TOKENSu / ($THREADSu / 16u);

@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) thread: u32) {
    let row0 = p.begin + (wg.x + wg.z * n.x) * $ROWSu;
    let t0 = wg.y * $TOKENSu;
    let tokens = rows_of(p.kind, p.k);
    let my_row = thread % 16u;
    let my_token = thread / 16u;
    var acc: array<f32, $MINE>;
    for (var unit = 0u; unit < p.units; unit++) {
        let block = unit / $UNITSu;
        let u = unit % $UNITSu;
        for (var q = thread; q < $ROWSu * 8u; q += $THREADSu) {
            let r = q / 8u;
            let j = q % 8u;
            let i = (min(row0 + r, p.first + p.count - 1u) - p.first) * (p.units / $UNITSu) + block;
            let b = i * $WORDSu;
#if INT8
            ws[j * $ROWSu + r] = signed_quad(b, u, j);
            if j < $RUNSu { ss[j * $ROWSu + r] = factors(i, b, u, j); }
            if j == 0u { zs[r] = signed_zero(i); }
#else
            ws[j * $ROWSu + r] = quad_(weight4(i, b, u, j));
#endif
        }
        for (var q = thread; q < $TOKENSu * 8u; q += $THREADSu) {
            let t = q / 8u;
            let j = q % 8u;
            let from_row = min(t0 + t, tokens - 1u);
#if INT8
            let from_word = (from_row * p.units + unit) * UNIT_WORDS;
            xs[j * $TOKENSu + t] = x[from_word + j];
            if j == 0u {
                ds[t] = bitcast<f32>(x[from_word + 8u]);
                sums[t] = x[from_word + 9u];
            }
#else
            xs[j * $TOKENSu + t] = inputs4(from_row, unit, j);
#endif
        }
        workgroupBarrier();
#if INT8
        for (var run = 0u; run < $RUNSu; run++) {
            var products: array<i32, $MINE>;
            for (var k = 0u; k < 8u / $RUNSu; k++) {
                let j = run * (8u / $RUNSu) + k;
                for (var r = 0u; r < R; r++) {
                    let weight = ws[j * $ROWSu + my_row + r * 16u];
                    for (var t = 0u; t < T; t++) {
                        products[t * R + r] += dot4I8Packed(weight, xs[j * $TOKENSu + my_token * T + t]);
                    }
                }
            }
            for (var r = 0u; r < R; r++) {
                let s = ss[run * $ROWSu + my_row + r * 16u];
                let zero_point = zs[my_row + r * 16u];
                for (var t = 0u; t < T; t++) {
                    let sum = sum_of_run(sums[my_token * T + t], run);
                    acc[t * R + r] += ds[my_token * T + t]
                        * (s.x * f32(products[t * R + r] - zero_point * sum) - s.y * f32(sum));
                }
            }
        }
#else
        for (var j = 0u; j < 8u; j++) {
            for (var r = 0u; r < R; r++) {
                let weight = ws[j * $ROWSu + my_row + r * 16u];
                for (var t = 0u; t < T; t++) {
                    acc[t * R + r] += f32(dot(weight, xs[j * $TOKENSu + my_token * T + t]));
                }
            }
        }
#endif
        workgroupBarrier();
    }
    for (var t = 0u; t < T; t++) {
        let token = t0 + my_token * T + t;
        for (var r = 0u; r < R; r++) {
            let row = row0 + my_row + r * 16u;
            if token < tokens && row < p.end { finish(token, 0u, row, acc[t * R + r]); }
        }
    }
}
