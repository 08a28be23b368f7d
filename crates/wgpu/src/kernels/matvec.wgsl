// A row of activations by a few rows of a matrix: a workgroup reads $ROWS rows of weights once, each
// thread every $THREADSth unit of 32, and adds up at the end.

var<workgroup> sums: array<f32, $PARTIAL>;

@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
#if SUBGROUPS
        @builtin(subgroup_id) subgroup: u32, @builtin(num_subgroups) subgroups: u32,
        @builtin(subgroup_invocation_id) lane: u32,
#endif
        @builtin(local_invocation_index) thread: u32) {
    let t = wg.y;
    let row = p.begin + (wg.x + wg.z * n.x) * $ROWSu;
    var e = 0u;
#if EXPERTS
    e = u32(route[t / p.k * p.route_stride + t % p.k]);
#endif
    // Rows of other pieces count as the first one here and are not written.
    var at: array<u32, $ROWS>;
    for (var r = 0u; r < $ROWSu; r++) {
        let flat = e * p.rows + row + r - p.first;
        at[r] = select(0u, flat, flat < p.count) * (p.units / $UNITSu);
    }
    var acc: array<f32, $ROWS>;
    for (var unit = thread; unit < p.units; unit += $THREADSu) {
        let block = unit / $UNITSu;
        let u = unit % $UNITSu;
#if INT8
        let from_word = (t / p.x_share * p.units + unit) * UNIT_WORDS;
        var xs: array<u32, 8>;
        for (var j = 0u; j < 8u; j++) { xs[j] = x[from_word + j]; }
        let x_scale = bitcast<f32>(x[from_word + 8u]);
        let x_sums = x[from_word + 9u];
        for (var r = 0u; r < $ROWSu; r++) {
            let i = at[r] + block;
            let b = i * $WORDSu;
            for (var run = 0u; run < $RUNSu; run++) {
                var products = 0;
                for (var k = 0u; k < 8u / $RUNSu; k++) {
                    let j = run * (8u / $RUNSu) + k;
                    products += dot4I8Packed(signed_quad(b, u, j), xs[j]);
                }
                let s = factors(i, b, u, run);
                let sum = sum_of_run(x_sums, run);
                acc[r] += x_scale * (s.x * f32(products - signed_zero(i) * sum) - s.y * f32(sum));
            }
        }
#else
        var xs: array<quad_, 8>;
        for (var j = 0u; j < 8u; j++) { xs[j] = inputs4(t / p.x_share, unit, j); }
        for (var r = 0u; r < $ROWSu; r++) {
            let i = at[r] + block;
            let b = i * $WORDSu;
            var sum = 0.0;
            for (var j = 0u; j < 8u; j++) { sum += f32(dot(quad_(weight4(i, b, u, j)), xs[j])); }
            acc[r] += sum;
        }
#endif
    }
#if SUBGROUPS
    for (var r = 0u; r < $ROWSu; r++) {
        let sum = subgroupAdd(acc[r]);
        if lane == 0u { sums[r * $THREADSu + subgroup] = sum; }
    }
    workgroupBarrier();
    if thread < $ROWSu {
        var sum = 0.0;
        for (var i = 0u; i < subgroups; i++) { sum += sums[thread * $THREADSu + i]; }
        sums[thread * $THREADSu] = sum;
    }
#else
    for (var r = 0u; r < $ROWSu; r++) { sums[r * $THREADSu + thread] = acc[r]; }
    for (var half = $THREADSu / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if thread < half {
            for (var r = 0u; r < $ROWSu; r++) {
                sums[r * $THREADSu + thread] += sums[r * $THREADSu + thread + half];
            }
        }
    }
    workgroupBarrier();
#endif
    if thread < $ROWSu && row + thread < p.end && t < rows_of(p.kind, p.k) {
        let flat = e * p.rows + row + thread - p.first;
        if flat < p.count { finish(t, e, row + thread, sums[thread * $THREADSu]); }
    }
}
