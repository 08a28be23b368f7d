//! Shapes of tiles: what is put into the kernels that have any.

use crate::adapter::Cooperative;
use crate::format::Format;
use crate::shader::Recipe;
use crate::tune::{Shapes, TILE_THREADS};

/// Queries that a workgroup of `attention` takes at most.
const SLOTS: u32 = 8;

/// The kernels of a product: for one row of activations, and for many with the outputs and rows of a
/// tile. Activations may be `int8`, a row may end in the middle of a unit, matrices may be experts'.
/// Sums may be taken in `subgroups`, numbers multiplied as `half` as long ones, and those on `units`
/// that multiply matrices where `shapes` say so.
pub(crate) fn products(
    format: &Format,
    [int8, tail, experts]: [bool; 3],
    [subgroups, half]: [bool; 2],
    units: Option<Cooperative>,
    shapes: Shapes,
) -> (Recipe, (Recipe, [u32; 2])) {
    let Shapes { rows, threads, tile_rows, tile_tokens, .. } = shapes;
    let of = |kernel| {
        Recipe::new(kernel)
            .over(format)
            .flag("INT8", int8)
            .flag("TAIL", tail)
            .flag("EXPERTS", experts)
            .flag("HALF", half && !int8)
    };
    let vector = of("matvec")
        .flag("SUBGROUPS", subgroups)
        .define("ROWS", rows)
        .define("THREADS", threads)
        .define("PARTIAL", rows * threads);
    if let Some(Cooperative { side, threads, subgroups }) =
        units.filter(|_| half && !int8 && shapes.cooperates())
    {
        let [rows, tokens] = shapes.units;
        let tile = of("matmul_cooperative")
            .define("ROWS", rows)
            .define("TOKENS", tokens)
            .define("THREADS", threads)
            .define("SIDE", side)
            .define("W_HALVES", rows * 40)
            .define("X_HALVES", tokens * 40)
            .define("PARTS", subgroups * side * side)
            .define("MINE", rows * tokens / (4 * side * side));
        return (vector, (tile, shapes.units));
    }
    let tile = of("matmul")
        .define("ROWS", tile_rows)
        .define("TOKENS", tile_tokens)
        .define("THREADS", TILE_THREADS)
        .define("W_QUADS", tile_rows * 8)
        .define("W_RUNS", tile_rows * 2)
        .define("X_QUADS", tile_tokens * 8)
        .define("MINE", tile_rows * tile_tokens / TILE_THREADS);
    (vector, (tile, [tile_rows, tile_tokens]))
}

/// The mix with the token before: so many results, and whether slots are written.
pub(crate) fn token_shift(outs: usize, stores: bool) -> Recipe {
    Recipe::new("token_shift")
        .flag("MIX", outs > 0)
        .flag("SECOND", outs > 1)
        .flag("THIRD", outs > 2)
        .flag("STORE", stores)
}

/// A step of a Gaussian diffusion: its noise given, or drawn.
pub(crate) fn denoise(given: bool) -> Recipe {
    Recipe::new("denoise").flag("GIVEN", given).flag("DRAWN", !given)
}

/// The recurrence of heads of so many elements.
pub(crate) fn wkv7(dim: u32) -> Recipe {
    let parts = dim.div_ceil(64);
    Recipe::new("wkv7").define("DIM", dim).define("PARTS", parts).define("STATE", dim * parts)
}

/// What follows the projection of queries, keys and values.
pub(crate) fn qkv(head_dim: u32) -> Recipe {
    Recipe::new("qkv").define("DIM", head_dim.next_multiple_of(64))
}

/// Attention of `sharing` query heads to a key head, whose values take `words` words: with how many
/// heads and tokens a workgroup has.
pub(crate) fn attention(
    head_dim: u32,
    sharing: u32,
    words: u32,
    decodes: bool,
) -> (Recipe, [u32; 2]) {
    // As many queries as the memory of a workgroup holds.
    let slots = if head_dim > 256 { SLOTS / 2 } else { SLOTS };
    let heads = sharing.next_power_of_two().min(slots);
    let tokens = if decodes { 1 } else { slots / heads };
    let slots = heads * tokens;
    let parts = words.div_ceil(64);
    let recipe = Recipe::new("attention")
        .define("HEADS", heads)
        .define("TOKENS", tokens)
        .define("SLOTS", slots)
        .define("QUERIES", slots * head_dim.div_ceil(2))
        .define("SCORES", slots * 64)
        .define("PARTS", parts)
        .define("ACCS", slots * parts);
    (recipe, [heads, tokens])
}
