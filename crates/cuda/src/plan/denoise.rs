//! Gaussian diffusion: the embedding of time, what it is added to, latents in slots, and the step.

use super::arguments::{Args, Resource};
use super::{At, Compiler};
use gristmill_core::{Error, Result};
use gristmill_ir::{DenoiseRule, Op, State, Value};

/// What a kernel of `denoise.cu` reads and writes.
struct Touched {
    x: Resource,
    y: Resource,
    noise: Resource,
    schedule: Resource,
    state: Resource,
}

impl Default for Touched {
    fn default() -> Touched {
        let none = || Resource::None;
        Touched { x: none(), y: none(), noise: none(), schedule: none(), state: none() }
    }
}

impl Compiler<'_> {
    fn diffuse(
        &mut self,
        kernel: &str,
        t: Touched,
        out: At,
        [slot_words, rule]: [u32; 2],
        eta: f32,
    ) -> Result<()> {
        let a = Args::new()
            .ptrs([Resource::Ints, Resource::Derived, t.x, t.y, t.noise, t.schedule, t.state])
            .ptr(out.res())
            .all(&[out.width as u32, out.stride() as u32, self.capacity, slot_words, rule])
            .f(eta);
        let (each, threads) = if kernel == "time_embed" { (128, 64) } else { (128, 128) };
        let grid = [(out.width as u32).div_ceil(each), self.bound(out.rows) as u32, 1];
        self.call(kernel, a, grid, threads)
    }

    pub(super) fn time_embed(&mut self, out: At) -> Result<()> {
        self.diffuse("time_embed", Touched::default(), out, [0, 0], 0.0)
    }

    pub(super) fn add_sequence(&mut self, [x, y]: [At; 2], out: At) -> Result<()> {
        let touched = Touched { x: x.res(), y: y.res(), ..Touched::default() };
        self.diffuse("add_sequence", touched, out, [0, 0], 0.0)
    }

    /// Rows of tokens read from slots, or written there.
    pub(super) fn slot_rows(&mut self, state: State, x: Option<At>, out: At) -> Result<()> {
        let words = self.slot(state)?;
        let touched = Touched {
            x: x.map_or(Resource::None, |x| x.res()),
            state: Resource::State(state.index()),
            ..Touched::default()
        };
        self.diffuse("slot_rows", touched, out, [words, 0], 0.0)
    }

    pub(super) fn denoise(&mut self, op: &Op, at: &dyn Fn(Value) -> At, out: At) -> Result<()> {
        let Op::Denoise { x, eps, schedule, eta, rule, noise } = op else {
            return Err(Error::Runtime("not a denoise".into()));
        };
        let name = &self.program.decl(*schedule).name;
        let values = self.weights.values(name)?;
        if let Some(a) = values.iter().find(|&&a| !(a > 0.0 && a < 1.0)) {
            let what = format!("holds {a}; cumulative alphas lie between 0 and 1");
            return Err(Error::model(name, what));
        }
        let touched = Touched {
            x: at(*x).res(),
            y: at(*eps).res(),
            noise: noise.map_or(Resource::None, |z| at(z).res()),
            schedule: self.weights.derive(name.clone(), || values.to_vec())?,
            state: Resource::None,
        };
        let rule = match rule {
            DenoiseRule::Ddim => 0,
            DenoiseRule::Ddpm => 1,
            DenoiseRule::Estimate => 2,
        };
        self.diffuse("denoise", touched, out, [0, rule], *eta)
    }
}
