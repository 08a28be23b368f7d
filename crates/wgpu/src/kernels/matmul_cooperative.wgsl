// Many rows of activations by a matrix, on units that multiply whole matrices of $SIDE by $SIDE in f16
// and add them up in f32: a workgroup computes $TOKENS rows by $ROWS outputs, with a unit of 32 inputs of
// all in its memory. Its first four subgroups compute a quarter each, two by two. Where subgroups are
// smaller than the largest that the adapter may choose there are more of them, which do as others do,
// since all must come this way; what they store is not looked at.

const PITCH: u32 = 40u; // from a row to the next: no two rows of eight begin in the same bank
const AREA: u32 = $SIDEu * $SIDEu;
const R: u32 = $ROWSu / (2u * $SIDEu);
const T: u32 = $TOKENSu / (2u * $SIDEu);

var<workgroup> ws: array<f16, $W_HALVES>;
var<workgroup> xs: array<f16, $X_HALVES>;
var<workgroup> parts: array<f32, $PARTS>;

@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(subgroup_id) subgroup: u32, @builtin(local_invocation_index) thread: u32) {
    let row0 = p.begin + (wg.x + wg.z * n.x) * $ROWSu;
    let t0 = wg.y * $TOKENSu;
    let tokens = rows_of(p.kind, p.k);
    let my_row = subgroup % 2u * R * $SIDEu;
    let my_token = subgroup / 2u % 2u * T * $SIDEu;
    var sums: array<coop_mat$SIDEx$SIDE<f32, C>, $MINE>;
    for (var unit = 0u; unit < p.units; unit++) {
        let block = unit / $UNITSu;
        let u = unit % $UNITSu;
        for (var q = thread; q < $ROWSu * 8u; q += $THREADSu) {
            let r = q / 8u;
            let j = q % 8u;
            let i = (min(row0 + r, p.first + p.count - 1u) - p.first) * (p.units / $UNITSu) + block;
            let four = quad_(weight4(i, i * $WORDSu, u, j));
            let to = r * PITCH + j * 4u;
            ws[to] = four.x;
            ws[to + 1u] = four.y;
            ws[to + 2u] = four.z;
            ws[to + 3u] = four.w;
        }
        for (var q = thread; q < $TOKENSu * 8u; q += $THREADSu) {
            let t = q / 8u;
            let j = q % 8u;
            let four = inputs4(min(t0 + t, tokens - 1u), unit, j);
            let to = t * PITCH + j * 4u;
            xs[to] = four.x;
            xs[to + 1u] = four.y;
            xs[to + 2u] = four.z;
            xs[to + 3u] = four.w;
        }
        workgroupBarrier();
        for (var depth = 0u; depth < 32u; depth += $SIDEu) {
            for (var r = 0u; r < R; r++) {
                // A row of weights is a column here.
                let weights = coopLoad<coop_mat$SIDEx$SIDE<f16, B>>(&ws[(my_row + r * $SIDEu) * PITCH + depth], PITCH);
                for (var t = 0u; t < T; t++) {
                    let numbers = coopLoadT<coop_mat$SIDEx$SIDE<f16, A>>(&xs[(my_token + t * $SIDEu) * PITCH + depth], PITCH);
                    sums[t * R + r] = coopMultiplyAdd(numbers, weights, sums[t * R + r]);
                }
            }
        }
        workgroupBarrier();
    }
    for (var t = 0u; t < T; t++) {
        for (var r = 0u; r < R; r++) {
            coopStoreT(sums[t * R + r], &parts[subgroup * AREA], $SIDEu);
            workgroupBarrier();
            for (var i = thread; i < 4u * AREA; i += $THREADSu) {
                let quarter = i / AREA;
                let token = t0 + (quarter / 2u * T + t) * $SIDEu + i % AREA / $SIDEu;
                let row = row0 + (quarter % 2u * R + r) * $SIDEu + i % $SIDEu;
                if token < tokens && row < p.end { finish(token, 0u, row, parts[i]); }
            }
            workgroupBarrier();
        }
    }
}
