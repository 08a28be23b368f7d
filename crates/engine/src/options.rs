//! How much memory the engine takes and how large its steps are.

use crate::pages;
use gristmill_core::{DType, Error, Result};
use gristmill_ir::{Capabilities, Options, Output, Program, StateKind};

/// How many pages the KV cache has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PageCount {
    /// Enough for `max_seqs` sequences of `context` tokens: nothing is ever evicted.
    Full,
    /// So many in each page group.
    Each(u32),
    /// As many as fit in so many bytes, spread over the groups by what one long sequence needs of
    /// each, and never more than [`PageCount::Full`].
    Bytes(u64),
}

/// Sizes, fixed when the engine is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// The most tokens of a sequence, prompt and generated together.
    pub context: u32,
    /// The most sequences of a step.
    pub max_seqs: u32,
    /// The most tokens of a step, of all sequences together. At least
    /// `max_seqs - 1 + chunk_multiple`, so that a prompt always advances beside running sequences.
    pub token_budget: u32,
    /// Where a prompt is cut, the cut is at a multiple of this, counted from the start of the
    /// sequence: results that do not depend on chunking need it (16 for RWKV), and tiles like it.
    pub chunk_multiple: u32,
    /// Tokens of a page.
    pub page_tokens: u32,
    /// Pages of the KV cache.
    pub pages: PageCount,
    /// Slots for kept sequences of a recurrent model, beside those of the running ones. Other
    /// models need none.
    pub kept_slots: u32,
    /// Steps launched before the first is finished: 1, or 2 to hide the host's work from a device
    /// that runs beside it.
    pub in_flight: u32,
    /// Bounds of decode plans, in sequences, beside `max_seqs`; for devices whose launches cost by
    /// the bound. Powers of two up to `max_seqs` suit a GPU, none a CPU.
    pub decode_buckets: Vec<u32>,
    /// The same for plans with prompts in them, in tokens, beside `token_budget`.
    pub mixed_buckets: Vec<u32>,
    /// How programs are compiled.
    pub options: Options,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            context: 4096,
            max_seqs: 8,
            token_budget: 512,
            chunk_multiple: 16,
            page_tokens: 32,
            pages: PageCount::Full,
            kept_slots: 8,
            in_flight: 1,
            decode_buckets: vec![],
            mixed_buckets: vec![],
            options: Options::default(),
        }
    }
}

impl EngineOptions {
    /// # Errors
    /// [`Error::Usage`] naming the option and what it must be; [`Error::Device`] for what the
    /// device or the model cannot do.
    pub(crate) fn validate(&self, program: &Program, device: &Capabilities) -> Result<()> {
        let usage = |what: String| Err(Error::Usage(what));
        let at_least = [
            ("context", self.context, 2),
            ("max_seqs", self.max_seqs, 1),
            ("chunk_multiple", self.chunk_multiple, 1),
            ("page_tokens", self.page_tokens, 1),
            ("in_flight", self.in_flight, 1),
        ];
        for (name, value, least) in at_least {
            if value < least {
                return usage(format!("{name} is {value}; it must be at least {least}"));
            }
        }
        if self.context > u32::MAX / 2 || self.in_flight > 8 {
            return usage("context or in_flight is out of all proportion".into());
        }
        let least = self.max_seqs.saturating_add(self.chunk_multiple - 1);
        if self.token_budget < least {
            return usage(format!(
                "token_budget is {}; with {} sequences and chunks of {} it must be at least {least}",
                self.token_budget, self.max_seqs, self.chunk_multiple
            ));
        }
        if !self.page_tokens.is_multiple_of(device.page_multiple.max(1)) {
            return usage(format!(
                "page_tokens is {}; {} needs a multiple of {}",
                self.page_tokens, device.name, device.page_multiple
            ));
        }
        check_runs(program, device)?;
        if program.output_value(Output::Logits).is_none() {
            return Err(Error::Device(format!("`{}` has no logits to sample", program.name)));
        }
        Ok(())
    }

    /// Pages of each group.
    ///
    /// # Errors
    /// [`Error::Memory`] when not even one page of each group fits.
    pub(crate) fn pages(&self, program: &Program) -> Result<Vec<u32>> {
        let peak =
            |window| pages::peak_pages(window, self.context, self.token_budget, self.page_tokens);
        let need: Vec<u64> = program.groups.iter().map(|g| peak(g.window).into()).collect();
        let full = |n: u64| n.saturating_mul(self.max_seqs.into());
        let counts: Vec<u64> = match self.pages {
            PageCount::Full => need.iter().map(|&n| full(n)).collect(),
            PageCount::Each(n) => vec![n.into(); need.len()],
            PageCount::Bytes(bytes) => {
                let sizes = page_bytes(program, self.page_tokens)?;
                let one: u128 =
                    need.iter().zip(&sizes).map(|(&n, &b)| u128::from(n) * u128::from(b)).sum();
                let share = |n: u64| u128::from(bytes) * u128::from(n) / one.max(1);
                need.iter().map(|&n| share(n).min(full(n).into()) as u64).collect()
            }
        };
        let fits = |&n: &u64| n > 0 && n < u64::from(u32::MAX);
        if let Some(bad) = counts.iter().find(|n| !fits(n)) {
            return Err(Error::Memory(format!(
                "the KV cache would have {bad} pages of {} tokens; give it more memory, or ask for \
                 a shorter context or fewer sequences",
                self.page_tokens
            )));
        }
        Ok(counts.iter().map(|&n| n as u32).collect())
    }
}

/// Checks that the device has every operation and every type of stored keys and values.
///
/// # Errors
/// [`Error::Device`] that lists all that it lacks.
fn check_runs(program: &Program, device: &Capabilities) -> Result<()> {
    let mut lacks: Vec<String> = vec![];
    let mut add = |what: String| {
        if !lacks.contains(&what) {
            lacks.push(what);
        }
    };
    for (i, node) in program.nodes.iter().enumerate() {
        let name = node.op.name();
        let first = program.nodes[..i].iter().all(|n| n.op.name() != name);
        if first && !device.ops.contains(&name) {
            add(format!("operation `{name}` (first in `{}`)", node.name));
        }
    }
    for state in &program.states {
        if let StateKind::Paged { k_type, v_type, .. } = state {
            let absent = |t: &&DType| !device.kv.contains(t);
            [k_type, v_type].into_iter().filter(absent).for_each(|t| add(format!("{t} caches")));
        }
    }
    if lacks.is_empty() {
        return Ok(());
    }
    let (name, device) = (&program.name, &device.name);
    Err(Error::Device(format!("`{name}` does not run on {device}: no {}", lacks.join(", no "))))
}

/// Bytes of a page of each group, all its layers.
pub(crate) fn page_bytes(program: &Program, page_tokens: u32) -> Result<Vec<u64>> {
    let mut sizes = vec![0u64; program.groups.len()];
    for state in &program.states {
        let StateKind::Paged { group, k, v, k_type, v_type } = *state else { continue };
        let row = k_type.bytes(k as usize).zip(v_type.bytes(v as usize));
        let size = sizes.get_mut(group as usize);
        let (Some((k_bytes, v_bytes)), Some(size)) = (row, size) else {
            return Err(Error::Device(format!(
                "`{}`: {k} keys of {k_type} and {v} values of {v_type} in page group {group} are \
                 not whole blocks of a group that exists",
                program.name
            )));
        };
        *size += (k_bytes + v_bytes) as u64 * u64::from(page_tokens);
    }
    Ok(sizes)
}
