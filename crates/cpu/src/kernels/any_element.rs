//! Keys and values of elements that no instruction set knows, f64 and i8: written by the kernel of
//! queries, keys and values, read by that of attention, against sums in f64. The backend offers
//! caches of F32, F16 and BF16; the kernels hold for every [`Element`].

use super::attention::{AttentionArgs, Item, SPAN, TILE, attend, scratch_len};
use super::qkv::{QkvArgs, finish};
use crate::simd::{Naive, Scalar, Simd};
use gristmill_core::Element;

/// More than one span, and pages that are not in order.
const TOKENS: usize = SPAN + 21;
const PAGE: usize = 32;
const PAGES: usize = TOKENS.div_ceil(PAGE);
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
/// Two heads fill no whole number of blocks of values.
const HEAD_DIM: usize = 20;
const SCALE: f32 = 1.0 / 4000.0;

/// The page of a sequence's `i`th.
fn page(i: usize) -> usize {
    (i * 5 + 2) % PAGES
}

/// The projection, -140 to 140 in eighths: beyond what i8 holds, and between its numbers.
fn projected(i: usize) -> f32 {
    ((i * 7919 + i / 97 * 31) % 2241) as f32 / 8.0 - 140.0
}

/// Runs both kernels and compares with what `k` and `v` make of a key's and a value's element.
fn check<S: Simd, K: Element, V: Element>(k: fn(f32) -> f64, v: fn(f32) -> f64) {
    const { assert!(!PAGES.is_multiple_of(5)) };
    let (q_width, kv_width) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
    let row = q_width + 2 * kv_width;
    let mut x: Vec<f32> = (0..TOKENS * row).map(projected).collect();
    let mut q = vec![0.0f32; TOKENS * q_width];
    let mut out = vec![0.0f32; TOKENS * q_width];
    let mut k_pages = vec![K::narrow(f32::NAN); PAGES * PAGE * kv_width];
    let mut v_pages = vec![V::narrow(f32::NAN); PAGES * PAGE * kv_width];
    let table: Vec<u32> = (0..PAGES).map(|i| page(i) as u32).collect();
    let cache_rows: Vec<u32> =
        (0..TOKENS).map(|t| (page(t / PAGE) * PAGE + t % PAGE) as u32).collect();
    let visible: Vec<[u32; 2]> = (0..TOKENS as u32).map(|t| [0, t + 1]).collect();
    let kv_index: Vec<u32> = (0..TOKENS as u32).collect();
    let mut scratch = vec![0.0f32; scratch_len(HEADS, KV_HEADS, HEAD_DIM, PAGE)];
    let write = QkvArgs {
        projected: x.as_mut_ptr(),
        q: q.as_mut_ptr(),
        k_pages: k_pages.as_mut_ptr().cast(),
        v_pages: v_pages.as_mut_ptr().cast(),
        cache_rows: cache_rows.as_ptr(),
        page_tokens: PAGE,
        heads: HEADS,
        kv_heads: KV_HEADS,
        head_dim: HEAD_DIM,
        norms: [None, None],
        norm_full: false,
        rope: None,
    };
    // SAFETY: portable instruction sets; every array has the size that its argument documents.
    unsafe { finish::<S, K, V>(&write, 0..TOKENS) };
    let read = AttentionArgs {
        q: q.as_ptr(),
        out: out.as_mut_ptr(),
        k_pages: k_pages.as_ptr().cast(),
        v_pages: v_pages.as_ptr().cast(),
        page_tokens: PAGE,
        heads: HEADS,
        kv_heads: KV_HEADS,
        head_dim: HEAD_DIM,
        scale: SCALE,
        softcap: 0.0,
        window: 0,
        sinks: std::ptr::null(),
        visible: visible.as_ptr(),
        kv_index: kv_index.as_ptr(),
        ancestors: std::ptr::null(),
    };
    for token in (0..TOKENS).step_by(TILE) {
        let tokens = TILE.min(TOKENS - token);
        let last = (token + tokens - 1) / SPAN;
        let item = Item {
            token: token as u32,
            tokens: tokens as u32,
            table: 0,
            tree_base: u32::MAX,
            spans: [0, last as u32],
        };
        for kv_head in 0..KV_HEADS {
            let partials = std::ptr::null_mut();
            // SAFETY: as above; the table has a page for every visible key.
            unsafe {
                attend::<S, K, V>(
                    &read,
                    &item,
                    table.as_ptr(),
                    kv_head,
                    scratch.as_mut_ptr(),
                    partials,
                );
            }
        }
    }

    let element = |t: usize, i: usize| projected(t * row + i);
    for t in (0..TOKENS).step_by(13).chain([TOKENS - 1]) {
        for head in 0..HEADS {
            let first = head / (HEADS / KV_HEADS) * HEAD_DIM;
            let score = |key: usize| -> f64 {
                let products = (0..HEAD_DIM).map(|e| {
                    f64::from(element(t, head * HEAD_DIM + e))
                        * k(element(key, q_width + first + e))
                });
                products.sum::<f64>() * f64::from(SCALE)
            };
            let scores: Vec<f64> = (0..=t).map(score).collect();
            let max = scores.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
            for e in 0..HEAD_DIM {
                let weighted = scores.iter().enumerate().map(|(key, s)| {
                    (s - max).exp() * v(element(key, q_width + kv_width + first + e))
                });
                let expected = weighted.sum::<f64>() / sum;
                let got = f64::from(out[(t * HEADS + head) * HEAD_DIM + e]);
                // Scores up to 90 in f32 are off by 3e-5 at most, and values are up to 140; what
                // i8 rounds away is fifty times as much.
                assert!(
                    (got - expected).abs() < 5e-3,
                    "token {t} head {head} {e}: {got}, not {expected}"
                );
            }
        }
    }
}

/// What i8 keeps of a number.
fn eight_bits(x: f32) -> f64 {
    f64::from(x).round_ties_even().clamp(-128.0, 127.0)
}

#[test]
fn any_element_can_be_a_key_or_a_value() {
    check::<Naive, f64, f64>(f64::from, f64::from);
    check::<Scalar, f64, f64>(f64::from, f64::from);
    check::<Naive, i8, i8>(eight_bits, eight_bits);
    check::<Scalar, i8, i8>(eight_bits, eight_bits);
    check::<Scalar, i8, f64>(eight_bits, f64::from);
    check::<Scalar, f64, i8>(f64::from, eight_bits);
}
