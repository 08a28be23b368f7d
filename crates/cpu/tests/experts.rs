//! Whatever the scores, a router's choices are different experts that exist.

use gristmill_cpu::Isa;
use gristmill_cpu::kernels::experts::RouteArgs;
use gristmill_cpu::kernels::table::Table;
use gristmill_ir::Gating;

#[test]
fn damaged_scores_choose_experts_that_exist() {
    let odd = [
        f32::NAN,
        -f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        0.0,
        -0.0,
        f32::MAX,
        1e-42,
        f32::from_bits(0x7FFF_FFFF),
        f32::from_bits(0xFFFF_FFFF),
    ];
    for isa in Isa::available() {
        let table = Table::new(isa).unwrap();
        for gating in [Gating::Softmax, Gating::SoftmaxChosen, Gating::Sigmoid] {
            for (i, &first) in odd.iter().enumerate() {
                for experts in [1, 3, 17] {
                    let score = |e: usize| if e == 0 { first } else { odd[(i * e) % odd.len()] };
                    let mut scores: Vec<f32> = (0..experts).map(score).collect();
                    let k = experts;
                    let mut out = vec![f32::NAN; 2 * k];
                    let args = RouteArgs {
                        scores: scores.as_mut_ptr(),
                        bias: std::ptr::null(),
                        choice_bias: std::ptr::null(),
                        experts,
                        k,
                        gating,
                        renormalise: true,
                        scale: 1.0,
                        out: out.as_mut_ptr(),
                    };
                    // SAFETY: one token with all its scores and results.
                    unsafe { (table.route)(&args, 0..1) };
                    let mut ids: Vec<usize> = out[..k].iter().map(|&e| e as usize).collect();
                    ids.sort_unstable();
                    assert_eq!(ids, (0..experts).collect::<Vec<_>>(), "{isa} {gating:?} {first}");
                }
            }
        }
    }
}
