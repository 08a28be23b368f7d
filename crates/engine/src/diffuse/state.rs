//! Where a diffusion stands: what to run next, and what becomes of it. No device, no clock.

use super::request::{Blocks, Cache, DiffuseRequest, Ends, Rank, Rule};
use super::{schedule, select};
use gristmill_core::{Error, Result};
use gristmill_ir::{Picked, Surety, Unmask};
use std::ops::Range;

/// A forward of the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Pass {
    /// Places to run; keys and values of those before, and of those behind that are seen, are there.
    pub tokens: Range<u32>,
    /// Keys of the text once this pass has written its own.
    pub keys: u32,
    /// Places whose logits are wanted, in order.
    pub rows: Vec<u32>,
    /// What is proposed from them: [`Unmask::row`] counts in `rows`.
    pub unmask: Vec<Unmask>,
    /// Tokens that must not be proposed.
    pub forbidden: Vec<u32>,
}

/// A diffusion under way, or done.
#[derive(Clone, Debug)]
pub struct Diffusion {
    request: DiffuseRequest,
    ids: Vec<u32>,
    block: Range<u32>,
    /// Masks of the block when it began.
    masks: u32,
    /// Steps of the block so far.
    step: u32,
    /// Steps of all blocks so far: noise is counted by them.
    steps: u32,
    /// Passes since all keys and values were computed anew; none while that is still to be done.
    since: Option<u32>,
    /// Places before this have their final keys and values ([`Blocks::Causal`]).
    cached: u32,
    /// Places of the pass that was asked for, and how many of them are to be committed.
    targets: Vec<u32>,
    count: usize,
    passes: u32,
    /// Whether the latest pass committed nothing but masks.
    stuck: bool,
    proposed: Vec<Picked>,
    committed: Vec<u32>,
}

impl Diffusion {
    /// A diffusion before its first pass.
    ///
    /// # Errors
    /// As [`DiffuseRequest::validate`].
    pub fn new(request: DiffuseRequest, context: u32, vocab: u32) -> Result<Diffusion> {
        request.validate(context, vocab)?;
        let start = request.prompt.len() as u32;
        let mut ids = request.prompt.clone();
        ids.resize(request.total() as usize, request.mask);
        let block = start..request.block_end(start);
        Ok(Diffusion {
            masks: block.end - block.start,
            block,
            ids,
            step: 0,
            steps: 0,
            since: None,
            cached: 0,
            targets: vec![],
            count: 0,
            passes: 0,
            stuck: false,
            proposed: vec![],
            committed: vec![],
            request,
        })
    }

    /// What was asked.
    pub fn request(&self) -> &DiffuseRequest {
        &self.request
    }

    /// The whole text, masks where nothing is committed yet.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The text behind the prompt.
    pub fn answer(&self) -> &[u32] {
        &self.ids[self.request.prompt.len()..]
    }

    /// Forwards of the model so far; one with guidance counts twice.
    pub fn forwards(&self) -> u32 {
        self.passes * if self.request.guidance > 0.0 { 2 } else { 1 }
    }

    /// Places committed by the latest pass, in order.
    pub fn committed(&self) -> &[u32] {
        &self.committed
    }

    /// What the latest pass proposed, place after place, whether committed or not.
    pub fn proposed(&self) -> &[Picked] {
        &self.proposed
    }

    /// What a place sees: keys `0..` this.
    pub fn sees(&self, place: u32) -> u32 {
        match self.request.blocks {
            Blocks::Open => self.ids.len() as u32,
            Blocks::Causal => self.request.block_end(place),
        }
    }

    /// Places that guidance masks too.
    pub fn prompt_len(&self) -> u32 {
        self.request.prompt.len() as u32
    }

    /// What to run next; `None` when the text is whole. Steps that commit nothing are taken here:
    /// they need no pass, since the text does not change.
    pub fn next_pass(&mut self) -> Option<Pass> {
        loop {
            let masks = self.masked();
            if masks.is_empty() {
                if self.block.end == self.ids.len() as u32 {
                    return None;
                }
                self.block = self.block.end..self.request.block_end(self.block.end);
                self.masks = self.block.end - self.block.start;
                (self.step, self.since) = (0, None);
                continue;
            }
            self.choose(masks);
            if !self.targets.is_empty() && self.count > 0 {
                return Some(self.pass());
            }
            self.end_step();
        }
    }

    /// Masked places of the block.
    fn masked(&self) -> Vec<u32> {
        let masked = |&i: &u32| self.ids[i as usize] == self.request.mask;
        self.block.clone().filter(masked).collect()
    }

    /// Whether all keys and values are to be computed anew.
    fn stale(&self) -> bool {
        let every = self.request.refresh;
        self.since.is_none_or(|n| every > 0 && n >= every)
    }

    fn end_step(&mut self) {
        self.step += 1;
        self.steps = self.steps.wrapping_add(1);
    }

    /// Whether every step of the block is taken, and masks are left because masks were proposed.
    fn overdue(&self) -> bool {
        self.request.steps_of_block().is_some_and(|n| self.step >= n)
    }

    /// Sets which of the masked places this step is about, and how many of them are committed, as
    /// far as that is known before the pass.
    fn choose(&mut self, masks: Vec<u32>) {
        let uniform = |place: u32| select::uniform(self.request.seed, self.steps, place);
        let steps = self.request.steps_of_block().unwrap_or(0);
        let left = masks.len();
        let (step, seed) = (self.step, self.request.seed);
        (self.targets, self.count) = match self.request.rule {
            _ if self.overdue() => (masks, left),
            Rule::Even { .. } => (masks, schedule::even(self.masks, steps, step) as usize),
            Rule::Timed { eps, .. } => {
                (masks, schedule::timed(left as u32, steps, eps, step) as usize)
            }
            Rule::Threshold(_) | Rule::Factor(_) => (masks, left),
            Rule::Ancestral { eps, .. } => {
                let stays = if step + 1 == steps { 0.0 } else { schedule::stays(steps, eps, step) };
                let leaves = |&place: &u32| uniform(place) >= f64::from(stays);
                let leaving: Vec<u32> = masks.into_iter().filter(leaves).collect();
                let n = leaving.len();
                (leaving, n)
            }
            Rule::FirstHitting => {
                // One of the masks, each as likely; the last place stands for the text.
                let u = select::uniform(seed, self.steps, u32::MAX);
                let at = ((u * left as f64) as usize).min(left - 1);
                (vec![masks[at]], 1)
            }
        };
    }

    fn pass(&self) -> Pass {
        let r = &self.request;
        let row_of = |place: u32| if r.shift { place.saturating_sub(1) } else { place };
        let mut rows: Vec<u32> = self.targets.iter().map(|&t| row_of(t)).collect();
        rows.dedup(); // in order already
        let surety = match r.rank {
            Rank::Of(surety) => surety,
            Rank::Random => Surety::Probability,
        };
        let unmask = self.targets.iter().map(|&place| Unmask {
            row: rows.partition_point(|&row| row < row_of(place)) as u32,
            surety,
            plain: r.plain,
            temperature: r.temperature,
            top_p: r.top_p,
            top_k: r.top_k,
            seed: r.seed,
            counter: u64::from(place) | u64::from(self.steps) << 32,
        });
        let unmask = unmask.collect();
        let total = self.ids.len() as u32;
        let lowest = self.block.start.min(rows[0]);
        let (tokens, keys) = match (r.blocks, r.cache) {
            (Blocks::Causal, Cache::None) => (0..self.block.end, self.block.end),
            (Blocks::Causal, _) => (lowest.min(self.cached)..self.block.end, self.block.end),
            (Blocks::Open, Cache::None) => (0..total, total),
            (Blocks::Open, _) if self.stale() => (0..total, total),
            (Blocks::Open, Cache::Prefix) => (lowest..total, total),
            (Blocks::Open, Cache::Dual) => (lowest..self.block.end, total),
        };
        // As published, the rules that rank places may propose a mask; so that they end, not after
        // their steps or where nothing else came of a pass.
        let by_chance = matches!(r.rule, Rule::Ancestral { .. } | Rule::FirstHitting);
        let free = !by_chance && !self.overdue() && !self.stuck;
        let mut forbidden = if free { vec![] } else { vec![r.mask] };
        if r.ends == Ends::Never {
            forbidden.extend(&r.end_ids);
        }
        Pass { tokens, keys, rows, unmask, forbidden }
    }

    /// Takes the proposals of the pass that was asked for last, in the order of [`Pass::unmask`],
    /// and commits.
    ///
    /// # Errors
    /// [`Error::Runtime`] for another number of proposals, and where no pass was asked for.
    pub fn apply(&mut self, picked: &[Picked]) -> Result<()> {
        if picked.is_empty() || picked.len() != self.targets.len() {
            return Err(Error::Runtime(format!(
                "{} tokens were proposed for {} masked places",
                picked.len(),
                self.targets.len()
            )));
        }
        self.passes += 1;
        self.proposed.clear();
        self.proposed.extend_from_slice(picked);
        self.since = Some(if self.stale() { 1 } else { self.since.unwrap_or(0) + 1 });
        // What shares the block with masks, the end of a prompt, changes with them.
        self.cached = self.block.start / self.request.block_length * self.request.block_length;
        let surety: Vec<f64> =
            picked.iter().zip(&self.targets).map(|(p, &place)| self.surety(p, place)).collect();
        let order = select::order(&surety);
        let sorted = || order.iter().map(|&i| surety[i]);
        let n = match self.request.rule {
            Rule::Threshold(c) => select::above(sorted(), c),
            Rule::Factor(f) => select::within_factor(sorted(), f),
            _ => self.count,
        };
        self.committed.clear();
        for &i in order.iter().take(n) {
            self.ids[self.targets[i] as usize] = picked[i].id;
            self.committed.push(self.targets[i]);
        }
        self.targets.clear();
        self.committed.sort_unstable();
        let found = |&place: &u32| self.ids[place as usize] != self.request.mask;
        self.stuck = !self.committed.iter().any(found);
        self.end_step();
        Ok(())
    }

    /// How sure a proposal is, as places are ranked.
    fn surety(&self, p: &Picked, place: u32) -> f64 {
        let r = &self.request;
        if r.ends == Ends::Late && r.end_ids.contains(&p.id) {
            return f64::NEG_INFINITY;
        }
        let uniform = || select::uniform(r.seed, self.steps, place);
        let surety = match r.rank {
            Rank::Of(_) => p.confidence.into(),
            Rank::Random => uniform(),
        };
        match r.place_temperature > 0.0 {
            true => select::by_chance(surety, r.place_temperature, uniform()),
            false => surety,
        }
    }
}
