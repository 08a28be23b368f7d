//! What is sampled from the logits of a step: an operation with parameters for each row.
//!
//! For one row, in this order:
//!
//! 1. guidance, `combine`
//! 2. logit bias: each `bias` is added
//! 3. penalties: a positive logit is divided, another multiplied by `repeat`; then `subtract` is
//!    subtracted. The host works these few numbers out from token ids (repetition, frequency,
//!    presence, DRY), so a device needs neither the history nor a table of words
//! 4. masks
//! 5. what is left out, see [`Sampling`]
//! 6. the draw: of the tokens kept, the one with the largest `l / temperature - ln(-ln u)`, with
//!    `u` from Philox under the seed, word `id % 4` of the counter `[counter, counter >> 32, id / 4,
//!    0]`, as a number between 0 and 1 (Gumbel 1954). An exact draw from their softmax, without an
//!    order of summation
//!
//! Log-probabilities that are reported are those after 4.
//!
//! Masked diffusion proposes tokens for several places at once and commits those it is surest of:
//! [`Unmask`] has 1 to 4 and its own way of 5 and 6, and reports how sure the model is. Which are
//! committed is decided by the host, from these few numbers.

use gristmill_core::{Error, Result};

/// Leaves out tokens so that the surprise of the text stays near a target (Basu et al. 2021,
/// "Mirostat"). The host steers [`Sampling::mu`] by what was drawn, see [`Picked::confidence`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Mirostat {
    /// Not in use.
    #[default]
    Off,
    /// Version 1: the exponent `s` of Zipf's law is fitted to the [`MIROSTAT_FIT`] most likely:
    /// `s = Σ t b / Σ t²`, `t = ln((i + 1) / i)`, `b = ln(p_i / p_(i+1))` over ranks from 1. With `e
    /// = s - 1`, the `(e 2^mu / (1 - vocab^-e))^(1/s)` most likely are kept.
    V1,
    /// Version 2: those whose surprise `-log2 p` is at most `mu` are kept.
    V2,
}

/// The most likely tokens that [`Mirostat::V1`] fits Zipf's law to.
pub const MIROSTAT_FIT: usize = 100;

/// How one row is sampled: what is left out, in the order of the fields and so of llama.cpp, each on
/// the softmax at temperature 1 of what the one before has kept; then temperature, then the draw. At
/// least one token is always kept. At temperature 0 the most likely of those kept is taken, with
/// `mirostat` or without.
///
/// With `mirostat`, that alone decides what is left out, on the softmax at the temperature.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Keep logits at most this many standard deviations (over the logits that are not masked)
    /// below the largest (Tang et al. 2024, "Top-nσ"); 0: all.
    pub top_n_sigma: f32,
    /// Keep the k most likely; 0: all.
    pub top_k: u32,
    /// Keep those whose surprise `-ln p` is nearest to the entropy, the fewest whose probabilities
    /// sum to more than this (Meister et al. 2022, "Locally typical sampling"); 1: all.
    pub typical_p: f32,
    /// Keep the fewest whose probabilities sum to at least this; 1: all.
    pub top_p: f32,
    /// Keep those at least this fraction as likely as the most likely; 0: all.
    pub min_p: f32,
    /// Probability that `xtc_threshold` is applied; 0: never. It is where the first word of Philox
    /// at `[counter, counter >> 32, 0, 1]` is at most this, as a number between 0 and 1.
    pub xtc_probability: f32,
    /// Of those at least this likely, leave out all but the least likely ("exclude top choices").
    pub xtc_threshold: f32,
    /// Divides the logits; 0: greedy.
    pub temperature: f32,
    /// In place of all truncations above.
    pub mirostat: Mirostat,
    /// The surprise in bits that `mirostat` cuts by.
    pub mu: f32,
    /// Key of the counter-based generator.
    pub seed: u64,
    /// Its counter: the index of the token being sampled in its sequence.
    pub counter: u64,
}

impl Sampling {
    /// The most likely token.
    pub const GREEDY: Sampling = Sampling {
        top_n_sigma: 0.0,
        top_k: 0,
        typical_p: 1.0,
        top_p: 1.0,
        min_p: 0.0,
        xtc_probability: 0.0,
        xtc_threshold: 0.0,
        temperature: 0.0,
        mirostat: Mirostat::Off,
        mu: 0.0,
        seed: 0,
        counter: 0,
    };

    /// Checks every number.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the field that is not a number or out of range, and the range.
    pub fn check(&self) -> Result<()> {
        let share = "between 0 and 1";
        let above = "above 0 and at most 1";
        let finite = "a finite number of at least 0";
        let at_least_0 = |v: f32| v.is_finite() && v >= 0.0;
        check("top_n_sigma", self.top_n_sigma, at_least_0(self.top_n_sigma), finite)?;
        for (name, v) in [("typical_p", self.typical_p), ("top_p", self.top_p)] {
            check(name, v, v > 0.0 && v <= 1.0, above)?;
        }
        for (name, v) in [
            ("min_p", self.min_p),
            ("xtc_probability", self.xtc_probability),
            ("xtc_threshold", self.xtc_threshold),
        ] {
            check(name, v, (0.0..=1.0).contains(&v), share)?;
        }
        check("temperature", self.temperature, at_least_0(self.temperature), finite)?;
        check("mu", self.mu, self.mu.is_finite(), "a finite number")
    }
}

/// An error that names a parameter and its range, unless its value is `good`.
///
/// # Errors
/// That one, [`Error::Usage`].
pub fn check(name: &str, value: f32, good: bool, range: &str) -> Result<()> {
    if good {
        return Ok(());
    }
    Err(Error::Usage(format!("{name} is {value}; it must be {range}")))
}

/// What says how sure a model is of the token proposed for a masked place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Surety {
    /// The token's probability.
    #[default]
    Probability,
    /// How much more likely the most likely token is than the second.
    Margin,
    /// `Σ p ln(p + 1e-10)`: minus the entropy, so that higher is surer.
    Entropy,
}

/// A token to propose for a masked place, in place of [`Sampling`]. Logits are divided by the
/// temperature first, then `top_p`, then `top_k` leave tokens out (the order of Dream, Ye et al.
/// 2025; [`Sampling`] has another). Then the draw, a Gumbel maximum in f64 where the device has it
/// (rounding the noise makes rare tokens rarer, Zheng et al. 2024): the largest `l / temperature -
/// ln(-ln u)` with `u = (w + 1/2) / 2^32` of word `id % 4` of Philox under the seed at `[counter,
/// counter >> 32, id / 4, 2]`. At temperature 0 the most likely token, and logits are not divided.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unmask {
    /// Which of the wanted rows says what is likely.
    pub row: u32,
    /// Reported in [`Picked::confidence`].
    pub surety: Surety,
    /// Whether `surety` is of the whole softmax at temperature 1 (LLaDA, Nie et al. 2025) and not
    /// of that drawn from.
    pub plain: bool,
    /// Divides the logits; 0: greedy.
    pub temperature: f32,
    /// Keep the fewest whose probabilities sum to more than this; 1: all.
    pub top_p: f32,
    /// Keep the k most likely; 0: all.
    pub top_k: u32,
    /// Key of the counter-based generator.
    pub seed: u64,
    /// Its counter: the place in the sequence, and the pass above it.
    pub counter: u64,
}

impl Unmask {
    /// Checks every number.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the field that is not a number or out of range, and the range.
    pub fn check(&self) -> Result<()> {
        let (t, p) = (self.temperature, self.top_p);
        let finite = t.is_finite() && t >= 0.0;
        check("temperature", t, finite, "a finite number of at least 0")?;
        check("top_p", p, p > 0.0 && p <= 1.0, "above 0 and at most 1")
    }
}

/// What makes a token of a row less likely, or more.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Penalty {
    /// The row.
    pub row: u32,
    /// The token.
    pub token: u32,
    /// Divides a positive logit and multiplies any other; 1: neither.
    pub repeat: f32,
    /// Subtracted then.
    pub subtract: f32,
}

impl Penalty {
    /// What becomes of the token's logit.
    #[inline]
    pub fn apply(&self, logit: f32) -> f32 {
        let repeated = if logit > 0.0 { logit / self.repeat } else { logit * self.repeat };
        repeated - self.subtract
    }
}

/// What is sampled from a launched step. Built after the launch, so that grammar masks are
/// computed while the pass runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct SampleBatch<'a> {
    /// One a wanted row.
    pub params: &'a [Sampling],
    /// Slot whose last token each row's sample becomes; `u32::MAX`: none.
    pub slots: &'a [u32],
    /// Bitmasks over the vocabulary, `ceil(vocab / 32)` words each.
    pub allow: &'a [u32],
    /// Which mask applies to each row; -1: none. Empty: none at all.
    pub allow_row: &'a [i32],
    /// `(row, token, added)`: logit bias. Several for one token add up.
    pub bias: &'a [(u32, u32, f32)],
    /// Penalties, row after row; at most one for a token of a row, so that a device can apply all
    /// at once.
    pub penalties: &'a [Penalty],
    /// `(row, other, g)`: `l[other] + (g + 1)(l[row] - l[other])`, guidance.
    pub combine: &'a [(u32, u32, f32)],
    /// `(row, token)` whose log-probability is wanted.
    pub want: &'a [(u32, u32)],
    /// Most likely tokens to report for each row.
    pub top_logprobs: u32,
    /// Masked places of a diffusion. Where there are any, they alone are sampled, one result for
    /// each in this order, and `params`, `slots`, `want` and `top_logprobs` are empty; guidance,
    /// bias, penalties and masks hold for their rows.
    pub unmask: &'a [Unmask],
}

impl SampleBatch<'_> {
    /// Bytes that cross for it: class `control` of the [`Ledger`](crate::Ledger).
    pub fn bytes(&self) -> u64 {
        let all = size_of_val(self.params)
            + size_of_val(self.slots)
            + size_of_val(self.allow)
            + size_of_val(self.allow_row)
            + size_of_val(self.bias)
            + size_of_val(self.penalties)
            + size_of_val(self.combine)
            + size_of_val(self.want)
            + size_of_val(self.unmask);
        all as u64
    }

    /// Checks that everything to sample exists: `rows` rows of `vocab` logits, `slots` slots.
    ///
    /// # Errors
    /// [`Error::Runtime`] naming what does not exist or makes no sense, [`Error::Usage`] for
    /// parameters out of range.
    pub fn check(&self, rows: usize, vocab: usize, slots: usize) -> Result<()> {
        let b = self;
        let bad = |what: String| Err(Error::Runtime(format!("sampling: {what}")));
        if !b.unmask.is_empty() {
            b.check_unmask(rows)?;
        } else if b.params.len() != rows {
            return bad(format!("parameters of {} rows for {rows} rows of logits", b.params.len()));
        }
        for (what, n) in [("slots", b.slots.len()), ("masks", b.allow_row.len())] {
            if n != 0 && n != rows {
                return bad(format!("{n} {what} for {rows} rows of logits"));
            }
        }
        b.params.iter().try_for_each(|p| p.check())?;
        if let Some(slot) = b.slots.iter().find(|&&s| s != u32::MAX && s as usize >= slots) {
            return bad(format!("slot {slot} does not exist"));
        }
        let masks = b.allow.len() / vocab.div_ceil(32).max(1);
        if let Some(mask) = b.allow_row.iter().find(|&&m| m >= masks as i32) {
            return bad(format!("mask {mask} does not exist"));
        }
        let tokens =
            b.bias.iter().map(|&(row, token, _)| (row, token)).chain(b.want.iter().copied());
        for (row, token) in tokens.chain(b.penalties.iter().map(|p| (p.row, p.token))) {
            if row as usize >= rows || token as usize >= vocab {
                return bad(format!("there is no token {token} in row {row}"));
            }
        }
        // Minus infinity forbids a token; what is no number would spoil the whole row.
        if let Some(&(_, token, v)) = b.bias.iter().find(|c| c.2.is_nan() || c.2 == f32::INFINITY) {
            return bad(format!("a bias of {v} for token {token}"));
        }
        if !b.penalties.is_sorted_by_key(|p| p.row) {
            return bad("penalties do not come row after row".into());
        }
        let sound =
            |p: &&Penalty| p.repeat > 0.0 && p.repeat.is_finite() && p.subtract > f32::NEG_INFINITY;
        if let Some(p) = b.penalties.iter().find(|p| !sound(p)) {
            return bad(format!("token {} divided by {}, less {}", p.token, p.repeat, p.subtract));
        }
        match b.combine.iter().find(|c| c.0.max(c.1) as usize >= rows) {
            Some(c) => bad(format!("guidance of row {} from row {}", c.0, c.1)),
            None => Ok(()),
        }
    }

    /// Checks the masked places to propose tokens for.
    fn check_unmask(&self, rows: usize) -> Result<()> {
        let bad = |what: String| Err(Error::Runtime(format!("sampling: {what}")));
        let others =
            [self.params.len(), self.slots.len(), self.want.len(), self.top_logprobs as usize];
        if others != [0; 4] {
            return bad("masked places and tokens that follow in one step".into());
        }
        if let Some(u) = self.unmask.iter().find(|u| u.row as usize >= rows) {
            return bad(format!("a masked place of row {}, and there are {rows}", u.row));
        }
        self.unmask.iter().try_for_each(Unmask::check)
    }
}

/// What was sampled for a row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Picked {
    /// The token.
    pub id: u32,
    /// Its probability among those kept, at the temperature; mirostat learns from it. For a masked
    /// place, what [`Unmask::surety`] names.
    pub confidence: f32,
    /// Its log-probability under the whole distribution at temperature 1.
    pub logprob: f32,
}
