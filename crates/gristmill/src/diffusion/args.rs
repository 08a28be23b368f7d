//! Options of masked diffusion, and the request that they make.

use crate::cli;
use crate::sampling::SamplingArgs;
use crate::term::{Done, usage};
use clap::{Args, ValueEnum};
use gristmill::engine::diffuse::{Blocks, Cache, DiffuseRequest, Ends, Rank, Rule};
use gristmill::ir::Surety;
use gristmill::{Error, ModelInfo, Result};

/// Which algorithm fills in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Algorithm {
    /// LLaDA's: as many places each step, ranked by --remasking
    Llada,
    /// Dream's: each place by itself, by chance
    Origin,
    /// Dream's: those whose token is most probable
    MaskgitPlus,
    /// Dream's: those whose best token is furthest ahead
    TopkMargin,
    /// Dream's: those with the least entropy
    Entropy,
    /// MDLM's: each place by itself, by chance, down to time 0
    Subs,
    /// The same process, one place after the other in random order
    FirstHitting,
}

/// What places are ranked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Remasking {
    /// The probability of the token
    LowConfidence,
    /// How far it is ahead of the second
    Margin,
    /// Minus the entropy
    Entropy,
    /// Chance
    Random,
}

/// What is kept from pass to pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum CacheArg {
    /// Nothing: every pass runs the whole text
    #[default]
    None,
    /// Keys and values before the block
    Prefix,
    /// All of them; a pass overwrites those of the block
    Dual,
}

/// What masked places see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BlocksArg {
    /// The whole text
    Open,
    /// What is before their block, and the block
    Causal,
}

/// What becomes of tokens that end a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum EndsArg {
    /// They come when they come
    #[default]
    Free,
    /// Their places are filled in last
    Late,
    /// They are never taken
    Never,
}

/// How a masked diffusion model (LLaDA, Dream) fills in its answer.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Masked diffusion")]
pub struct DiffusionArgs {
    /// How places are chosen (default: that of the model)
    #[arg(long, value_enum, value_name = "NAME")]
    algorithm: Option<Algorithm>,

    /// Steps in all, a multiple of the number of blocks (default: as many as tokens; out of Gaussian
    /// noise 50)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) steps: Option<u32>,

    /// Tokens that are filled in before the next, a divisor of -n (default: 32 for LLaDA, all for
    /// Dream)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    block_length: Option<u32>,

    /// What LLaDA's places are ranked by (default: low-confidence)
    #[arg(long, value_enum, value_name = "NAME")]
    remasking: Option<Remasking>,

    /// Guidance: how far from what the model would say without the prompt; 0: none
    #[arg(long, value_name = "G", allow_negative_numbers = true)]
    cfg_scale: Option<f32>,

    /// In place of steps: fill in every place at least this sure, and always the surest
    #[arg(long, value_name = "P", conflicts_with_all = ["steps", "factor"],
          allow_negative_numbers = true)]
    threshold: Option<f32>,

    /// In place of steps: the n surest with (n + 1)(1 - p) below this
    #[arg(long, value_name = "F", conflicts_with = "steps", allow_negative_numbers = true)]
    factor: Option<f32>,

    /// What is kept from pass to pass (default: none)
    #[arg(long, value_enum, value_name = "WHAT")]
    cache: Option<CacheArg>,

    /// Passes of a block after which everything is computed anew; 0: when a block begins (default)
    #[arg(long, value_name = "N")]
    refresh: Option<u32>,

    /// Above 0: choose places by chance, sharper the lower this is (Dream's alg_temp)
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    alg_temp: Option<f32>,

    /// What masked places see (default: the whole text)
    #[arg(long, value_enum, value_name = "WHAT")]
    blocks: Option<BlocksArg>,

    /// What becomes of tokens that end the text (default: free)
    #[arg(long, value_enum, value_name = "WHAT")]
    ends: Option<EndsArg>,
}

/// Ids of the options above.
pub(super) const OWN: [&str; 12] = [
    "algorithm",
    "steps",
    "block_length",
    "remasking",
    "cfg_scale",
    "threshold",
    "factor",
    "cache",
    "refresh",
    "alg_temp",
    "blocks",
    "ends",
];

/// Ids of options that say how a next token is chosen, which there is none of.
pub(super) const OF_NEXT_TOKENS: [&str; 21] = [
    "min_p",
    "top_nsigma",
    "typical",
    "xtc_probability",
    "xtc_threshold",
    "repeat_last_n",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "dry_penalty_last_n",
    "dry_sequence_breaker",
    "mirostat",
    "mirostat_lr",
    "mirostat_ent",
    "logit_bias",
    "think",
    "interactive",
    "ignore_eos",
];

/// Tokens filled in when nobody says how many.
const LENGTH: u32 = 128;
/// Tokens of a block of LLaDA.
const BLOCK: u32 = 32;

impl DiffusionArgs {
    /// Whether a model is filled in.
    pub fn apply_to(&self, info: &ModelInfo) -> bool {
        info.mask_token.is_some() && (info.is_masked_diffusion() || self.blocks.is_some())
    }

    /// # Errors
    /// [`Error::Usage`] where one of these is given for a model that goes on token by token.
    pub fn check_unused(&self, model: &str) -> Done {
        match OWN.iter().find(|id| cli::is_given(id)) {
            Some(id) => usage(format!(
                "--{} is for diffusion, and {model} goes on token by token",
                id.replace('_', "-")
            )),
            None => Ok(()),
        }
    }

    /// The request for an answer of `length` tokens to `prompt`.
    ///
    /// # Errors
    /// [`Error::Usage`] for options that say how a next token is chosen, or that do not go together;
    /// [`Error::Model`] for a file that names no mask.
    pub fn request(
        &self,
        info: &ModelInfo,
        prompt: Vec<u32>,
        predict: Option<u32>,
        sampling: &SamplingArgs,
        end_ids: &[u32],
    ) -> Result<DiffuseRequest> {
        let name = &info.architecture;
        let unused = [
            (
                &OF_NEXT_TOKENS[..],
                format!(
                    "says how a next token is chosen, and {name} fills in; it takes --temp, --top-p, \
                     --top-k and --seed"
                ),
            ),
            (&["state_in", "state_out"], format!("is for recurrent models, and {name} is none")),
            (&["batch_size"], format!("cuts a prompt, and {name} needs the whole text in a pass")),
        ];
        for (ids, why) in unused {
            if let Some(id) = ids.iter().find(|id| cli::is_given(id)) {
                return Err(Error::Usage(format!("--{} {why}", id.replace('_', "-"))));
            }
        }
        let Some(mask) = info.mask_token else {
            let what = "names no mask token (`tokenizer.ggml.mask_token_id`)";
            return Err(Error::model(info.architecture.clone(), what));
        };
        let dream = info.shift_logits;
        let algorithm =
            self.algorithm.unwrap_or(if dream { Algorithm::Entropy } else { Algorithm::Llada });
        let (length, block_length) = self.lengths(info, prompt.len(), predict, dream);
        let params = sampling.params()?;
        let steps = self.steps.unwrap_or(length);
        let eps = 1e-3;
        let rule = match (self.threshold, self.factor, algorithm) {
            (Some(c), _, _) => Rule::Threshold(c),
            (None, Some(f), _) => Rule::Factor(f),
            (None, None, Algorithm::Llada) => Rule::Even { steps },
            (None, None, Algorithm::Origin) => Rule::Ancestral { steps, eps },
            (None, None, Algorithm::Subs) => Rule::Ancestral { steps, eps: 0.0 },
            (None, None, Algorithm::FirstHitting) => Rule::FirstHitting,
            (None, None, _) => Rule::Timed { steps, eps },
        };
        if self.remasking.is_some() && algorithm != Algorithm::Llada {
            return Err(Error::Usage(
                "--remasking is of --algorithm llada; the others say themselves what places are \
                 ranked by"
                    .into(),
            ));
        }
        let rank = match (algorithm, self.remasking) {
            (Algorithm::TopkMargin, _) | (_, Some(Remasking::Margin)) => Rank::Of(Surety::Margin),
            (Algorithm::Entropy, _) | (_, Some(Remasking::Entropy)) => Rank::Of(Surety::Entropy),
            (_, Some(Remasking::Random)) => Rank::Random,
            _ => Rank::Of(Surety::Probability),
        };
        // By chance where the process is one of chance; else greedy, as the papers report.
        let by_chance = matches!(algorithm, Algorithm::Subs | Algorithm::FirstHitting);
        let temperature = match cli::is_given("temp") {
            true => params.temperature,
            false => f32::from(u8::from(by_chance)),
        };
        Ok(DiffuseRequest {
            block_length,
            blocks: match self.blocks {
                Some(BlocksArg::Causal) => Blocks::Causal,
                _ => Blocks::Open,
            },
            shift: info.shift_logits,
            rule,
            rank,
            plain: algorithm == Algorithm::Llada,
            place_temperature: self.alg_temp.unwrap_or(0.0),
            temperature,
            top_p: if cli::is_given("top_p") { params.top_p } else { 1.0 },
            top_k: if cli::is_given("top_k") { params.top_k } else { 0 },
            seed: params.seed,
            guidance: self.cfg_scale.unwrap_or(0.0),
            end_ids: end_ids.to_vec(),
            ends: match self.ends.unwrap_or_default() {
                EndsArg::Free => Ends::Free,
                EndsArg::Late => Ends::Late,
                EndsArg::Never => Ends::Never,
            },
            cache: match self.cache.unwrap_or_default() {
                CacheArg::None => Cache::None,
                CacheArg::Prefix => Cache::Prefix,
                CacheArg::Dual => Cache::Dual,
            },
            refresh: self.refresh.unwrap_or(0),
            ..DiffuseRequest::new(prompt, length, mask)
        })
    }

    /// Tokens to fill in, and those of a block. What nobody says is made to divide.
    fn lengths(
        &self,
        info: &ModelInfo,
        prompt: usize,
        predict: Option<u32>,
        dream: bool,
    ) -> (u32, u32) {
        let left = info.context_length.saturating_sub(prompt as u32).max(1);
        let length = predict.unwrap_or_else(|| {
            let most = LENGTH.min(left);
            let block = self.block_length.unwrap_or(if dream { 1 } else { BLOCK });
            if most >= block { most - most % block } else { most }
        });
        let whole = dream || !length.is_multiple_of(BLOCK);
        (length, self.block_length.unwrap_or(if whole { length } else { BLOCK }))
    }
}
