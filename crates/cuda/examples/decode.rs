//! Speed of a decoder of a real shape with weights of no meaning, on a GPU: tokens a second at batch 1
//! and of prompts, as markdown. `decode [llama8b|llama1b] [q4_k|q8_0|bf16|...] [f16|bf16|f32] [context]`.

use gristmill_conformance::model::Decoder;
use gristmill_core::{DType, Error, HostTensor, Result, quant};
use gristmill_cuda::{Cuda, CudaOptions, devices, driver::choose::take};
use gristmill_ir::{
    Activations, Backend, Batch, Layout, Options, Results, SampleBatch, Sampling, Size, Step,
    TensorDecl, Token,
};
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

/// A tensor of one random block, again and again.
fn tensor(d: &TensorDecl, dtype: DType) -> Result<HostTensor> {
    let dtype = if d.rows == 1 { DType::F32 } else { dtype };
    let block = 4096.min(d.cols as usize / dtype.block_len() * dtype.block_len());
    let mut state = 7u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as f32 / 65536.0 * 0.04 - 0.02
    };
    let values: Vec<f32> = (0..block).map(|_| random()).collect();
    let row = quant::quantize(dtype, &values)?;
    let shape = [d.experts, d.rows, d.cols].map(|n| n as usize);
    let elements: usize = shape.iter().product();
    let total = dtype.bytes(elements).ok_or_else(|| Error::Usage("no whole blocks".into()))?;
    let bytes: Vec<u8> = row.iter().copied().cycle().take(total).collect();
    HostTensor::new(&*d.name, dtype, shape, Arc::new(bytes), 0..total)
        .ok_or_else(|| Error::Usage(format!("a tensor of {shape:?}")))
}

struct Run<'a> {
    cuda: &'a Cuda,
    context: <Cuda as Backend>::Context,
    pages: Vec<u32>,
}

impl Run<'_> {
    /// A step of one sequence: `n` tokens from `at` on; the first is what the slot sampled last.
    fn launch(
        &mut self,
        plan: &<Cuda as Backend>::Plan,
        at: u32,
        n: u32,
        last: bool,
    ) -> Result<Step> {
        let first = if last { Token::Last(0) } else { Token::Id(1) };
        let mut tokens = vec![Token::Id(1); n as usize];
        tokens[0] = first;
        let indices: Vec<u32> = (at..at + n).collect();
        let positions: Vec<[u32; 3]> = indices.iter().map(|&i| [i; 3]).collect();
        let visible: Vec<[u32; 2]> = indices.iter().map(|&i| [0, i + 1]).collect();
        let batch = Batch {
            tokens: &tokens,
            positions: &positions,
            kv_index: &indices,
            visible: &visible,
            seq_starts: &[0, n],
            kv_len: &[at + n],
            slots: &[0],
            pages: &self.pages,
            page_starts: &[0, self.pages.len() as u32],
            rows: &[n - 1],
            ..Batch::default()
        };
        let step = self.cuda.launch(plan, &mut self.context, &batch)?;
        let params = [Sampling::GREEDY];
        let sample = SampleBatch { params: &params, slots: &[0], ..SampleBatch::default() };
        self.cuda.sample(&mut self.context, step, &sample)?;
        Ok(step)
    }

    fn finish(&mut self, step: Step) -> Result<()> {
        let mut out = Results::default();
        while !self.cuda.finish(&mut self.context, step, &mut out, Waker::noop())? {
            std::hint::spin_loop();
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let arg = |i: usize, default: &str| args.get(i).cloned().unwrap_or_else(|| default.to_owned());
    let (shape, format, compute) = (arg(0, "llama8b"), arg(1, "q4_k"), arg(2, "f16"));
    let context: u32 = arg(3, "128").parse().map_err(|e| Error::Usage(format!("context: {e}")))?;
    let type_of = |n: &str| DType::from_name(n).ok_or_else(|| Error::Usage(format!("type {n}")));
    let (dtype, compute) = (type_of(&format)?, type_of(&compute)?);
    let base = Decoder { kv: DType::F16, experts: None, ..Decoder::default() };
    let model = match shape.as_str() {
        "llama1b" => Decoder {
            vocab: 128_256,
            width: 2048,
            heads: 32,
            kv_heads: 8,
            head_dim: 64,
            ffn: 8192,
            windows: vec![None; 16],
            ..base
        },
        "llama8b" => Decoder {
            vocab: 128_256,
            width: 4096,
            heads: 32,
            kv_heads: 8,
            head_dim: 128,
            ffn: 14336,
            windows: vec![None; 32],
            ..base
        },
        other => return Err(Error::Usage(format!("no shape `{other}`"))),
    };
    let program = model.record()?;
    let cuda = Cuda::open(&take(devices()?, "")?, CudaOptions::default())?;
    let activations = Activations::Int8;
    let options = Options { compute, activations, batch_invariant: false, ..Options::default() };
    let mut streamed = 0u64;
    let began = Instant::now();
    let weights = cuda.load(
        &[&program],
        &mut |d| {
            let t = tensor(d, dtype)?;
            streamed += t.bytes().len() as u64;
            Ok(t)
        },
        &options,
    )?;
    println!(
        "loaded {:.2} GB in {:.1} s on {}",
        streamed as f64 / 1e9,
        began.elapsed().as_secs_f64(),
        cuda.name()
    );
    let most = (context + 600).max(2600);
    let page_tokens = 64;
    let max = Size { tokens: 2048, seqs: 1, rows: 1, one_token_a_seq: false };
    let pages = most.div_ceil(page_tokens);
    let layout = Layout {
        page_tokens,
        pages: vec![pages],
        host_pages: vec![0],
        slots: 1,
        max,
        in_flight: 2,
    };
    let mut state = cuda.create(&program.states, &layout)?;
    let mut plan = |size| cuda.compile(&program, &weights, &mut state, size, &options);
    let long = plan(max)?;
    let short = plan(Size { tokens: 512, ..max })?;
    let one = plan(Size { tokens: 1, seqs: 1, rows: 1, one_token_a_seq: true })?;
    let mut run = Run { cuda: &cuda, context: state, pages: (0..pages).collect() };

    println!("| what | tokens | tok/s | ms a step | GB/s |\n| --- | --- | --- | --- | --- |");
    for (plan, n) in [(&short, 512), (&long, 2048)] {
        let mut best = f64::MAX;
        for _ in 0..4 {
            let began = Instant::now();
            let step = run.launch(plan, 0, n, false)?;
            run.finish(step)?;
            best = best.min(began.elapsed().as_secs_f64());
        }
        let rate = f64::from(n) / best;
        println!("| {shape} {format} {compute} prefill | {n} | {rate:.0} | {:.2} | |", best * 1e3);
    }
    for at in [context, 2048] {
        // Two steps in flight.
        let steps = 256;
        let mut waiting = None;
        let mut began = Instant::now();
        for i in 0..steps + 32 {
            if i == 32 {
                began = Instant::now();
            }
            let step = run.launch(&one, at + i, 1, true)?;
            if let Some(before) = waiting.replace(step) {
                run.finish(before)?;
            }
        }
        if let Some(last) = waiting {
            run.finish(last)?;
        }
        let each = began.elapsed().as_secs_f64() / f64::from(steps);
        let rate = streamed as f64 / each / 1e9;
        println!(
            "| {shape} {format} {compute} decode at {at} | 1 | {:.1} | {:.3} | {rate:.0} |",
            1.0 / each,
            each * 1e3
        );
    }
    Ok(())
}
