//! [`Split`]: a backend made of two, of which the first runs the first layers and the second the rest
//! and the sampling.
//!
//! What crosses between them in a step is the residual of each token (class `boundary` of the second's
//! ledger). The first part ends before the second begins, so a step of a split model is launched when
//! the token before is known: that keeps a first device that is the host itself from guessing.

use crate::waker::{ThreadWaker, block_until};
use gristmill_core::{Error, HostTensor, Result};
use gristmill_ir::*;
use std::collections::VecDeque;
use std::task::Waker;

/// Two devices with the layers of a program between them.
#[derive(Clone)]
pub struct Split<A, B> {
    front: A,
    back: B,
    /// The operation at which programs are cut.
    at: String,
    /// The states as each device holds them.
    states: [Vec<StateKind>; 2],
}

/// A result that was fetched before it was asked for: the next step needed its token.
struct Fetched {
    step: Step,
    results: Results,
}

/// Contexts of both, and what the host has to know between them.
pub struct Context<A: Backend, B: Backend> {
    front: A::Context,
    back: B::Context,
    /// Steps of the first device for those of the second that are in flight.
    steps: VecDeque<(Step, Step)>,
    /// The slots that the rows of a sampled step go to.
    sampled: VecDeque<(Step, Vec<u32>)>,
    fetched: VecDeque<Fetched>,
    /// The last token of each slot.
    last: Vec<u32>,
    hidden: Vec<f32>,
    tokens: Vec<Token>,
    waker: ThreadWaker,
}

/// Plans of both.
pub struct Plan<A: Backend, B: Backend> {
    front: A::Plan,
    back: B::Plan,
    /// Results of the first part.
    first: Vec<Output>,
}

impl<A: Backend, B: Backend> Split<A, B> {
    /// Two devices for a program and those like it, cut before its last `layers` layers.
    ///
    /// # Errors
    /// [`Error::Device`] for a program that cannot be cut there.
    pub fn new(front: A, back: B, program: &Program, layers: usize) -> Result<Split<A, B>> {
        let cuts = program.cuts();
        // Every layer but the first begins with one.
        let at = (1..=cuts.len()).contains(&layers).then(|| cuts[cuts.len() - layers].to_owned());
        let at = at.ok_or_else(|| {
            Error::Device(format!(
                "{layers} layers cannot run apart from the others here: 1 to {} can",
                cuts.len()
            ))
        })?;
        let parts = program.cut(&at).map_err(|e| Error::Device(e.to_string()))?;
        let states = [parts.front.states, parts.back.states];
        Ok(Split { front, back, at, states })
    }
}

impl<A: Backend, B: Backend> Context<A, B> {
    /// Fetches what the steps before have sampled, so that the last tokens are known.
    fn fetch(&mut self, back: &B) -> Result<()> {
        let waker = self.waker.get();
        while let Some((step, slots)) = self.sampled.pop_front() {
            let mut results = Results::default();
            block_until(|| back.finish(&mut self.back, step, &mut results, &waker))?;
            for (&slot, picked) in slots.iter().zip(&results.picked) {
                if let Some(last) = self.last.get_mut(slot as usize) {
                    *last = picked.id;
                }
            }
            self.fetched.push_back(Fetched { step, results });
        }
        Ok(())
    }
}

impl<A: Backend, B: Backend> Backend for Split<A, B> {
    type Weights = (A::Weights, B::Weights);
    type Context = Context<A, B>;
    type Plan = Plan<A, B>;

    fn capabilities(&self) -> Capabilities {
        let (a, b) = (self.front.capabilities(), self.back.capabilities());
        fn both<T: PartialEq>(a: Vec<T>, b: &[T]) -> Vec<T> {
            a.into_iter().filter(|x| b.contains(x)).collect()
        }
        let (p, q) = (a.page_multiple.max(1), b.page_multiple.max(1));
        Capabilities {
            name: format!("{}, then from {} on {}", a.name, self.at, b.name),
            compute: both(a.compute, &b.compute),
            weights: both(a.weights, &b.weights),
            kv: both(a.kv, &b.kv),
            page_multiple: if p.max(q).is_multiple_of(p.min(q)) { p.max(q) } else { p * q },
            ops: both(a.ops, &b.ops),
        }
    }

    fn load(
        &self,
        uses: &[&Program],
        tensor: &mut dyn FnMut(&TensorDecl) -> Result<HostTensor>,
        options: &Options,
    ) -> Result<Self::Weights> {
        let parts: Vec<Parts> = uses.iter().map(|p| p.cut(&self.at)).collect::<Result<_>>()?;
        let front: Vec<&Program> = parts.iter().map(|p| &p.front).collect();
        let back: Vec<&Program> = parts.iter().map(|p| &p.back).collect();
        let first = self.front.load(&front, tensor, options)?;
        Ok((first, self.back.load(&back, tensor, options)?))
    }

    fn create(&self, states: &[StateKind], layout: &Layout) -> Result<Self::Context> {
        if states.len() != self.states[0].len() {
            return Err(Error::Runtime("the states are not those of the program".into()));
        }
        // Nothing is swapped: a page lies on both devices.
        let layout = Layout { host_pages: vec![0; layout.host_pages.len()], ..layout.clone() };
        Ok(Context {
            front: self.front.create(&self.states[0], &layout)?,
            back: self.back.create(&self.states[1], &layout)?,
            steps: VecDeque::new(),
            sampled: VecDeque::new(),
            fetched: VecDeque::new(),
            last: vec![u32::MAX; layout.slots as usize],
            hidden: vec![],
            tokens: vec![],
            waker: ThreadWaker::default(),
        })
    }

    fn compile(
        &self,
        program: &Program,
        (first, second): &Self::Weights,
        c: &mut Self::Context,
        size: Size,
        options: &Options,
    ) -> Result<Self::Plan> {
        let parts = program.cut(&self.at)?;
        let front = self.front.compile(&parts.front, first, &mut c.front, size, options)?;
        let back = self.back.compile(&parts.back, second, &mut c.back, size, options)?;
        let first = parts.front.outputs.iter().skip(1).map(|o| o.0).collect();
        Ok(Plan { front, back, first })
    }

    fn launch(&self, p: &Self::Plan, c: &mut Self::Context, b: &Batch<'_>) -> Result<Step> {
        c.fetch(&self.back)?;
        // What slots hold once the step's copies are done.
        for m in b.moves {
            if let Move::Slot { from, to } = *m
                && let (Some(&token), Some(_)) =
                    (c.last.get(from as usize), c.last.get(to as usize))
            {
                c.last[to as usize] = token;
            }
        }
        c.tokens.clear();
        for &t in b.tokens {
            c.tokens.push(match t {
                Token::Last(slot) => match c.last.get(slot as usize) {
                    Some(&id) if id != u32::MAX => Token::Id(id),
                    _ => {
                        return Err(Error::Runtime(
                            "batch: a slot whose last token was never sampled".into(),
                        ));
                    }
                },
                id => id,
            });
        }
        let b = Batch { tokens: &c.tokens, ..*b };
        let first = self.front.launch(&p.front, &mut c.front, &b)?;
        let (waker, hidden) = (c.waker.get(), &mut c.hidden);
        block_until(|| self.front.read(&mut c.front, first, Output::Hidden, hidden, &waker))?;
        self.back.write(&mut c.back, Input::Hidden, hidden)?;
        let step = self.back.launch(&p.back, &mut c.back, &b)?;
        if p.first.is_empty() {
            // Nobody will read of the first part.
            let mut none = Results::default();
            block_until(|| self.front.finish(&mut c.front, first, &mut none, &waker))?;
        } else {
            c.steps.push_back((step, first));
        }
        Ok(step)
    }

    fn sample(&self, c: &mut Self::Context, s: Step, b: &SampleBatch<'_>) -> Result<()> {
        self.back.sample(&mut c.back, s, b)?;
        let rows = b.params.len();
        let slots = if b.slots.is_empty() { vec![u32::MAX; rows] } else { b.slots.to_vec() };
        c.sampled.push_back((s, slots));
        Ok(())
    }

    fn finish(
        &self,
        c: &mut Self::Context,
        s: Step,
        out: &mut Results,
        wake: &Waker,
    ) -> Result<bool> {
        if let Some(at) = c.steps.iter().position(|x| x.0 == s) {
            let mut none = Results::default();
            let first = c.steps[at].1;
            if !self.front.finish(&mut c.front, first, &mut none, wake)? {
                return Ok(false);
            }
            c.steps.remove(at);
        }
        if let Some(at) = c.fetched.iter().position(|f| f.step == s) {
            *out = c.fetched.remove(at).map(|f| f.results).unwrap_or_default();
            return Ok(true);
        }
        if !self.back.finish(&mut c.back, s, out, wake)? {
            return Ok(false);
        }
        if let Some(at) = c.sampled.iter().position(|x| x.0 == s) {
            let slots = c.sampled.remove(at).map(|x| x.1).unwrap_or_default();
            for (slot, picked) in slots.into_iter().zip(&out.picked) {
                if let Some(last) = c.last.get_mut(slot as usize) {
                    *last = picked.id;
                }
            }
        }
        Ok(true)
    }

    fn read(
        &self,
        c: &mut Self::Context,
        s: Step,
        output: Output,
        out: &mut Vec<f32>,
        wake: &Waker,
    ) -> Result<bool> {
        let first = c.steps.iter().find(|x| x.0 == s).map(|x| x.1);
        if let Some(first) = first {
            // A value of the first part, if it has it.
            match self.front.read(&mut c.front, first, output, out, wake) {
                Err(Error::Runtime(_)) => {}
                other => return other,
            }
        }
        self.back.read(&mut c.back, s, output, out, wake)
    }

    fn write(&self, _: &mut Self::Context, _: Input, _: &[f32]) -> Result<()> {
        Err(Error::Runtime("a split model takes no input of the host".into()))
    }

    fn save(&self, _: &mut Self::Context, _: &[Move]) -> Result<Step> {
        Err(Error::Runtime("pages of a split model are not swapped".into()))
    }

    fn restore(&self, _: &mut Self::Context, _: &[Move]) -> Result<Step> {
        Err(Error::Runtime("pages of a split model are not swapped".into()))
    }

    fn host_page<'c>(&self, _: &'c mut Self::Context, _: u8, _: u32) -> &'c mut [u8] {
        &mut []
    }

    fn memory(&self) -> (u64, u64) {
        self.back.memory()
    }

    fn ledger(&self, c: &Self::Context) -> Ledger {
        self.back.ledger(&c.back)
    }
}
