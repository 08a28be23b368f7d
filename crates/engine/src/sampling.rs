//! How a request wants its tokens chosen.

use gristmill_core::{Error, Result};
use gristmill_ir::{Mirostat, Sampling, sample::check};

/// How tokens are chosen. The default is greedy, without penalties.
///
/// Fields are in the order in which they count, which is llama.cpp's: logit bias, penalties, DRY,
/// then what is left out as [`Sampling`] says it, then temperature, then the draw. Prompt and
/// answer both count as text.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// `(token, added)`: added to the token's logit, -1000 to 1000; minus infinity forbids it.
    pub logit_bias: Vec<(u32, f32)>,

    /// How many tokens back the three penalties look; 0: none; -1: the whole text.
    pub repeat_last_n: i32,
    /// Divides a positive logit of a token that is there, multiplies a negative one; above 0; 1:
    /// neither (Keskar et al. 2019, "CTRL").
    pub repeat_penalty: f32,
    /// Subtracted for each time that a token is there, -100 to 100.
    pub frequency_penalty: f32,
    /// Subtracted once from a token that is there, -100 to 100.
    pub presence_penalty: f32,

    /// DRY ("don't repeat yourself"): a token that would make a repetition of `n` tokens longer
    /// loses `multiplier · base^(n - allowed_length)`, where `n` is at least `allowed_length`. At
    /// least 0; 0: off.
    pub dry_multiplier: f32,
    /// At least 1.
    pub dry_base: f32,
    /// The longest repetition that costs nothing is one token less.
    pub dry_allowed_length: u32,
    /// How many tokens back DRY looks; 0: none; -1: the whole text.
    pub dry_penalty_last_n: i32,
    /// Sequences of tokens that no repetition reaches over.
    pub dry_breakers: Vec<Vec<u32>>,

    /// Keep logits at most so many standard deviations below the largest, at least 0; 0: all.
    pub top_n_sigma: f32,
    /// Keep the k most likely; 0: all.
    pub top_k: u32,
    /// Keep those nearest to the expected surprise whose probabilities sum to more than this, in
    /// (0, 1]; 1: all.
    pub typical_p: f32,
    /// Keep the fewest whose probabilities sum to at least this, in (0, 1]; 1: all.
    pub top_p: f32,
    /// Keep those at least this fraction as likely as the most likely, in [0, 1]; 0: all.
    pub min_p: f32,
    /// How often XTC leaves out the top, in [0, 1]; 0: never.
    pub xtc_probability: f32,
    /// Of those at least this likely XTC leaves out all but the least likely, in [0, 1].
    pub xtc_threshold: f32,
    /// Divides the logits; at least 0; 0 takes the most likely token.
    pub temperature: f32,

    /// In place of all that leaves tokens out above.
    pub mirostat: Mirostat,
    /// The surprise in bits that mirostat aims at, 0 to 100.
    pub mirostat_tau: f32,
    /// How fast it learns, in [0, 1].
    pub mirostat_eta: f32,

    /// Key of the counter-based generator: the same request with the same seed gives the same
    /// tokens.
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        let greedy = Sampling::GREEDY;
        SamplingParams {
            logit_bias: vec![],
            repeat_last_n: 64,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_penalty_last_n: -1,
            dry_breakers: vec![],
            top_n_sigma: greedy.top_n_sigma,
            top_k: greedy.top_k,
            typical_p: greedy.typical_p,
            top_p: greedy.top_p,
            min_p: greedy.min_p,
            xtc_probability: greedy.xtc_probability,
            xtc_threshold: 0.1,
            temperature: greedy.temperature,
            mirostat: greedy.mirostat,
            mirostat_tau: 5.0,
            mirostat_eta: 0.1,
            seed: 0,
        }
    }
}

impl SamplingParams {
    /// Checks all that does not depend on the model.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the parameter that is not a number or out of range, and the range.
    pub fn validate(&self) -> Result<()> {
        for &(token, v) in &self.logit_bias {
            let good = v == f32::NEG_INFINITY || v.abs() <= 1000.0;
            let name = format!("logit_bias of token {token}");
            check(&name, v, good, "between -1000 and 1000, or -inf for never")?;
        }
        let repeat = self.repeat_penalty;
        let good = repeat.is_finite() && repeat > 0.0;
        check("repeat_penalty", repeat, good, "a finite number above 0")?;
        for (name, v) in [
            ("frequency_penalty", self.frequency_penalty),
            ("presence_penalty", self.presence_penalty),
        ] {
            check(name, v, v.abs() <= 100.0, "between -100 and 100")?;
        }
        for (name, v, least) in
            [("dry_multiplier", self.dry_multiplier, 0.0), ("dry_base", self.dry_base, 1.0)]
        {
            let good = v.is_finite() && v >= least;
            check(name, v, good, &format!("a finite number of at least {least}"))?;
        }
        for (name, n) in
            [("repeat_last_n", self.repeat_last_n), ("dry_penalty_last_n", self.dry_penalty_last_n)]
        {
            if n < -1 {
                return Err(Error::Usage(format!("{name} is {n}; it must be at least -1")));
            }
        }
        if self.dry_breakers.iter().any(Vec::is_empty) {
            return Err(Error::Usage("dry_breakers holds a sequence of no tokens".into()));
        }
        let (tau, eta) = (self.mirostat_tau, self.mirostat_eta);
        check("mirostat_tau", tau, (0.0..=100.0).contains(&tau), "between 0 and 100")?;
        check("mirostat_eta", eta, (0.0..=1.0).contains(&eta), "between 0 and 1")?;
        self.device(0, self.first_mu()).check()
    }

    /// What the device is told of the token at `counter` in its sequence.
    pub(crate) fn device(&self, counter: u64, mu: f32) -> Sampling {
        Sampling {
            top_n_sigma: self.top_n_sigma,
            top_k: self.top_k,
            typical_p: self.typical_p,
            top_p: self.top_p,
            min_p: self.min_p,
            xtc_probability: self.xtc_probability,
            xtc_threshold: self.xtc_threshold,
            temperature: self.temperature,
            mirostat: self.mirostat,
            mu,
            seed: self.seed,
            counter,
        }
    }

    /// Whether there are penalties on single tokens.
    pub(crate) fn penalises(&self) -> bool {
        let changes = self.repeat_penalty != 1.0
            || self.frequency_penalty != 0.0
            || self.presence_penalty != 0.0;
        self.repeat_last_n != 0 && changes
    }

    /// Whether DRY is on.
    pub(crate) fn dries(&self) -> bool {
        self.dry_multiplier > 0.0 && self.dry_penalty_last_n != 0
    }

    /// Whether a token can be chosen only when all before it are known here.
    pub(crate) fn needs_text(&self) -> bool {
        self.penalises() || self.dries() || self.mirostat != Mirostat::Off
    }

    /// Where mirostat's bound on surprise starts.
    pub(crate) fn first_mu(&self) -> f32 {
        2.0 * self.mirostat_tau
    }

    /// Mirostat's bound after a token that had this probability among those kept.
    pub(crate) fn next_mu(&self, mu: f32, confidence: f32) -> f32 {
        if self.mirostat == Mirostat::Off {
            return mu;
        }
        let surprise = -confidence.max(f32::MIN_POSITIVE).log2();
        mu - self.mirostat_eta * (surprise - self.mirostat_tau)
    }
}
