//! What the text before a token has to do with its choice, worked out the slow way.

use super::mix;
use gristmill_engine::{Mirostat, SamplingParams};
use std::collections::BTreeMap;

/// A number made of all that is adjusted for a row, in whatever order it comes; 0: nothing is.
#[derive(Default)]
pub struct Control(u64);

impl Control {
    pub fn bias(&mut self, token: u32, added: f32) {
        self.0 = self.0.wrapping_add(mix(mix(1, token.into()), added.to_bits().into()));
    }

    pub fn penalty(&mut self, token: u32, repeat: f32, subtract: f32) {
        let h = mix(mix(2, token.into()), repeat.to_bits().into());
        self.0 = self.0.wrapping_add(mix(h, subtract.to_bits().into()));
    }

    pub fn mirostat(&mut self, mirostat: Mirostat, mu: f32) {
        if mirostat != Mirostat::Off {
            self.0 = self.0.wrapping_add(mix(mirostat as u64, mu.to_bits().into()));
        }
    }

    pub fn hash(&self) -> u64 {
        self.0
    }
}

/// The same from the text itself.
pub fn control(tokens: &[u32], p: &SamplingParams, mu: f32) -> u64 {
    let mut all = Control::default();
    p.logit_bias.iter().for_each(|&(token, v)| all.bias(token, v));
    let mut penalties: BTreeMap<u32, (f32, f32)> = BTreeMap::new();
    let none = p.repeat_penalty == 1.0 && p.frequency_penalty == 0.0 && p.presence_penalty == 0.0;
    if !none {
        let recent = last(tokens, p.repeat_last_n);
        for &t in recent {
            let count = recent.iter().filter(|&&r| r == t).count() as f32;
            let subtract = count * p.frequency_penalty + p.presence_penalty;
            penalties.insert(t, (p.repeat_penalty, subtract));
        }
    }
    if p.dry_multiplier > 0.0 {
        for (t, len) in repetitions(last(tokens, p.dry_penalty_last_n), p) {
            let power = f64::from(p.dry_base).powi(len as i32 - p.dry_allowed_length as i32);
            let penalty = penalties.entry(t).or_insert((1.0, 0.0));
            penalty.1 += (f64::from(p.dry_multiplier) * power) as f32;
        }
    }
    penalties.iter().for_each(|(&t, &(repeat, subtract))| all.penalty(t, repeat, subtract));
    all.mirostat(p.mirostat, mu);
    all.hash()
}

fn last(tokens: &[u32], n: i32) -> &[u32] {
    if n < 0 { tokens } else { &tokens[tokens.len().saturating_sub(n as usize)..] }
}

/// The longest repetition that each token would go on, every pair of places compared.
fn repetitions(tokens: &[u32], p: &SamplingParams) -> BTreeMap<u32, usize> {
    // Where the last breaker begins, and the longest of those that begin there.
    let begins = |at: usize| {
        let there = p.dry_breakers.iter().filter(|b| tokens[at..].starts_with(b));
        there.map(|b| tokens.len() - at - b.len()).min()
    };
    let limit = (0..tokens.len()).rev().find_map(begins).unwrap_or(tokens.len());
    let mut longest = BTreeMap::new();
    for end in 1..tokens.len() {
        let same = |n: &usize| tokens[..end].ends_with(&tokens[tokens.len() - n..]);
        let n = (0..=end).filter(same).max().unwrap_or(0).min(limit);
        let next = tokens[end];
        if n >= p.dry_allowed_length as usize && !p.dry_breakers.contains(&vec![next]) {
            let most = longest.entry(next).or_insert(0);
            *most = n.max(*most);
        }
    }
    let short = tokens.len() <= p.dry_allowed_length as usize;
    if short { BTreeMap::new() } else { longest }
}
