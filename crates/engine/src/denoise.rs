//! Gaussian diffusion: latents from noise to tokens, one launch a step.
//!
//! The model's program is one step: it loads the latents of a sequence from its slot, tells the
//! noise in them, goes to the next time and stores them again, so only times cross to the device. A
//! second program of two operations, made here, puts the first noise there. Tokens are those whose
//! embeddings the latents of the last step are nearest to by product.

use crate::whole_texts::WholeTexts;
use gristmill_core::{Error, HostTensor, Result, normals};
use gristmill_ir::{
    Backend, Batch, DenoiseRule, Input, Op, Options, Output, Program, SampleBatch, Sampling, Size,
    TensorDecl, Token,
};

/// In place of a time: the end.
const END: u32 = u32::MAX;

/// `1 - sqrt(t / times + 1e-4)` for each time `t` (Li et al. 2022, "Diffusion-LM", the square root
/// schedule): the cumulative alphas.
pub fn sqrt_schedule(times: u32) -> Vec<f32> {
    let alpha = |t: u32| 1.0 - (f64::from(t) / f64::from(times) + 1e-4).sqrt();
    // The last of a long schedule would be a hair below zero.
    (0..times).map(|t| alpha(t).max(1e-6) as f32).collect()
}

/// Times of `steps` steps through a schedule of `times`, evenly spread from the last, with the end
/// behind them: `steps + 1` numbers.
///
/// # Errors
/// [`Error::Usage`] for no step or more than times.
pub fn spread(times: u32, steps: u32) -> Result<Vec<u32>> {
    if steps == 0 || steps > times {
        return Err(Error::Usage(format!("{steps} steps; it must be 1 to {times}")));
    }
    let at = |i: u32| (u64::from(times) * u64::from(steps - i) / u64::from(steps)) as u32 - 1;
    Ok((0..steps).map(at).chain([END]).collect())
}

/// Standard normal numbers for `tokens` latents of `width` elements: the noise of
/// [`Op::Denoise`](gristmill_ir::Op::Denoise) at the time `u32::MAX`.
pub fn first_noise(seed: u64, tokens: u32, width: u32) -> Vec<f32> {
    let width = width as usize;
    let mut all = Vec::with_capacity(tokens as usize * width);
    for token in 0..tokens {
        let blocks = (0u32..).flat_map(|block| normals(seed, [block, token, END, 4]));
        all.extend(blocks.take(width).map(|z| z as f32));
    }
    all
}

/// What sees, after each step, its number, the latents, `[tokens, width]`, and the tokens that they
/// are nearest to.
pub type Watch<'w> = &'w mut dyn FnMut(usize, &[f32], &[u32]) -> Result<()>;

/// A denoiser on a device.
pub struct Denoiser<B: Backend> {
    device: WholeTexts<B>,
    start: B::Plan,
    step: B::Plan,
    tokens: u32,
    width: u32,
    times: u32,
    /// Whether noise comes from the host.
    given: bool,
}

impl<B: Backend> Denoiser<B> {
    /// Loads the weights of a denoiser's `program` and compiles it for texts of up to `tokens`
    /// tokens, with steps of `rule` and `eta`. With `given`, the noise of each step comes from the
    /// host in place of the device.
    ///
    /// # Errors
    /// [`Error::Device`] for a program that is no denoiser, [`Error::Usage`] for an `eta` out of
    /// range; those of the backend and of `tensor`.
    pub fn new(
        backend: B,
        program: &Program,
        tensor: &mut dyn FnMut(&TensorDecl) -> Result<HostTensor>,
        tokens: u32,
        (rule, eta, given): (DenoiseRule, f32, bool),
        options: &Options,
    ) -> Result<Denoiser<B>> {
        let (program, width, times) = with_rule(program, rule, eta, given)?;
        let start = first_step(&program, width)?;
        let size = Size { tokens, seqs: 1, rows: tokens, one_token_a_seq: tokens == 1 };
        let mut device = WholeTexts::new(backend, &[&program, &start], tensor, size, options)?;
        let start = device.compile(&start)?;
        let step = device.compile(&program)?;
        Ok(Denoiser { device, start, step, tokens, width, times, given })
    }

    /// Elements of a latent.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Tokens of a text at most.
    pub fn tokens(&self) -> u32 {
        self.tokens
    }

    /// Times of the model's schedule.
    pub fn times(&self) -> u32 {
        self.times
    }

    /// Goes from the latents `x`, `[tokens, width]`, along `times`, the last of them `u32::MAX` for
    /// the end, and gives the tokens. `seed` is that of the device's noise; where noise is given,
    /// `noise` gives that of a step, `[tokens, width]`. `watch` sees the latents after each step;
    /// where nobody watches they stay on the device.
    ///
    /// # Errors
    /// [`Error::Usage`] for latents that are not whole or too many, and for times that are none of
    /// the schedule; those of the backend and of `watch`.
    pub fn run(
        &mut self,
        x: &[f32],
        times: &[u32],
        seed: u64,
        noise: &mut dyn FnMut(usize) -> Vec<f32>,
        mut watch: Option<Watch<'_>>,
    ) -> Result<Vec<u32>> {
        let n = (x.len() / self.width as usize) as u32;
        if n == 0 || n > self.tokens || x.len() != (n * self.width) as usize {
            return Err(Error::Usage(format!(
                "{} numbers of latents of {}; there must be 1 to {} whole ones",
                x.len(),
                self.width,
                self.tokens
            )));
        }
        if times.len() < 2 || times[..times.len() - 1].iter().any(|&t| t >= self.times) {
            return Err(Error::Usage(format!("times are below {}, two at least", self.times)));
        }
        let Denoiser { device, start, step: plan, .. } = self;
        let places = device.places(&[n], false);
        // Their ids decide nothing.
        let tokens = vec![Token::Id(0); n as usize];
        let batch = Batch { tokens: &tokens, ..places.batch() };
        device.backend.write(&mut device.context, Input::Hidden, x)?;
        let first = device.launch(start, &batch)?;
        device.finish(first)?;
        let params = vec![Sampling::GREEDY; n as usize];
        let mut latents = vec![];
        let mut ids = vec![];
        for (i, pair) in times.windows(2).enumerate() {
            if self.given {
                device.backend.write(&mut device.context, Input::Embeddings, &noise(i))?;
            }
            let tells = watch.is_some() || i + 2 == times.len();
            let (now, seeds) = ([[pair[0], pair[1]]], [seed]);
            let rows: &[u32] = if tells { &places.kv_index } else { &[] };
            let b = Batch { state_in: &[0], times: &now, seeds: &seeds, rows, ..batch };
            let step = device.launch(plan, &b)?;
            let mut told = Ok(());
            if tells {
                let greedy = SampleBatch { params: &params, ..SampleBatch::default() };
                told = device.backend.sample(&mut device.context, step, &greedy);
            }
            if told.is_ok() && watch.is_some() {
                told = device.read(step, Output::Hidden, &mut latents);
            }
            // Also where something went wrong before: a step is to be finished.
            let results = device.finish(step);
            told?;
            ids = results?.picked.iter().map(|p| p.id).collect();
            if let Some(watch) = &mut watch {
                watch(i, &latents, &ids)?;
            }
        }
        Ok(ids)
    }
}

/// The program with its steps of `rule`, the width of a latent, and the times of its schedule.
fn with_rule(
    program: &Program,
    rule: DenoiseRule,
    eta: f32,
    given: bool,
) -> Result<(Program, u32, u32)> {
    if !(0.0..=1.0).contains(&eta) {
        return Err(Error::Usage(format!("eta is {eta}; it must be between 0 and 1")));
    }
    let mut p = program.clone();
    let found = p.nodes.iter().position(|n| matches!(n.op, Op::Denoise { .. }));
    let no_denoiser = || Error::Device(format!("`{}` is no denoiser", program.name));
    let at = found.ok_or_else(no_denoiser)?;
    let Op::Denoise { x, schedule, .. } = p.nodes[at].op else { return Err(no_denoiser()) };
    let (width, times) = (p.shape(x).width, p.decl(schedule).cols);
    let read = match given {
        true => Some(p.one("noise", Op::Read { input: Input::Embeddings, width })?),
        false => None,
    };
    if let Op::Denoise { eta: e, rule: r, noise, .. } = &mut p.nodes[at].op {
        (*e, *r, *noise) = (eta, rule, read);
    }
    // What is read comes before the step that adds it.
    if given && let Some(read) = p.nodes.pop() {
        p.nodes.insert(at, read);
    }
    Ok((p, width, times))
}

/// A program that stores the rows of the host where `program` loads its latents.
fn first_step(program: &Program, width: u32) -> Result<Program> {
    let stores = program.nodes.iter().find_map(|n| match n.op {
        Op::StoreSlot { state, .. } => Some(state),
        _ => None,
    });
    let Some(state) = stores else {
        return Err(Error::Device(format!("`{}` keeps no latents", program.name)));
    };
    let mut p = Program::new(format!("{} start", program.name));
    (p.groups, p.states) = (program.groups.clone(), program.states.clone());
    let x = p.one("x", Op::Read { input: Input::Hidden, width })?;
    let x = p.one("store", Op::StoreSlot { x, state })?;
    p.output(Output::Hidden, x);
    Ok(p)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_spread_to_the_end() {
        assert_eq!(spread(4, 4).unwrap(), [3, 2, 1, 0, END]);
        assert_eq!(spread(10, 3).unwrap(), [9, 5, 2, END]);
        assert!(spread(10, 0).is_err() && spread(10, 11).is_err());
    }

    #[test]
    fn the_schedule_is_the_papers() {
        let alphas = sqrt_schedule(2000);
        // 1 - sqrt(1e-4), and 1 - sqrt(1/2 + 1e-4).
        assert!((alphas[0] - 0.99).abs() < 1e-6 && (alphas[1000] - 0.292_822_5).abs() < 1e-6);
        assert!(alphas.windows(2).all(|w| w[1] < w[0] && w[1] > 0.0));
    }

    #[test]
    fn first_noise_is_normal() {
        let z = first_noise(3, 1000, 50);
        let n = z.len() as f64;
        let moment = |k: i32| z.iter().map(|&v| f64::from(v).powi(k)).sum::<f64>() / n;
        for (k, expected, sd) in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)] {
            let (got, sd) = (moment(k), (f64::from(sd as f32) / n).sqrt());
            assert!((got - expected).abs() < 4.0 * sd, "moment {k} is {got}");
        }
    }
}
