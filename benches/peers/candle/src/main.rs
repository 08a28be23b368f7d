//! candle beside the others: prompts and generation of a GGUF model, as `llama-bench` times them.
//!
//!     candle-bench MODEL.gguf [-p N] [-n N] [-d N]
//!
//! `-p` tokens at once, or `-n` tokens one at a time, after `-d` tokens. It prints one object with the
//! fields of `llama-bench` (`n_prompt`, `n_gen`, `n_depth`, `avg_ns`, `avg_ts`) and with `load_ns` and
//! `steps_ns`. A run before the measured one warms up. Threads are those of `RAYON_NUM_THREADS`.

use anyhow::{Context, Result, bail, ensure};
use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use candle_transformers::models::{quantized_llama, quantized_qwen3};
use serde_json::json;
use std::fs::File;
use std::io::BufReader;
use std::time::Instant;

/// Those architectures of candle that models of the comparison have.
enum Model {
    Llama(quantized_llama::ModelWeights),
    Qwen3(quantized_qwen3::ModelWeights),
}

impl Model {
    fn open(path: &str) -> Result<Model> {
        let mut file = BufReader::new(File::open(path).with_context(|| path.to_owned())?);
        let content = Content::read(&mut file)?;
        let arch = content.metadata.get("general.architecture").context("no architecture")?;
        Ok(match arch.to_string()?.as_str() {
            "llama" => Model::Llama(quantized_llama::ModelWeights::from_gguf(
                content,
                &mut file,
                &Device::Cpu,
            )?),
            "qwen3" => Model::Qwen3(quantized_qwen3::ModelWeights::from_gguf(
                content,
                &mut file,
                &Device::Cpu,
            )?),
            other => bail!("{path}: candle-bench has no architecture {other}"),
        })
    }

    /// Runs tokens after `position` others, to the logits of the last.
    fn forward(&mut self, ids: &[u32], position: usize) -> Result<()> {
        let ids = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
        let logits = match self {
            Model::Llama(m) => m.forward(&ids, position)?,
            Model::Qwen3(m) => m.forward(&ids, position)?,
        };
        // The best token, as a program that generates needs it.
        logits.flatten_all()?.argmax(0)?.to_scalar::<u32>()?;
        Ok(())
    }

    fn clear(&mut self) {
        match self {
            Model::Llama(m) => m.clear_kv_cache(),
            Model::Qwen3(m) => m.clear_kv_cache(),
        }
    }
}

/// Nanoseconds of each step: one of `prompt` tokens or `generate` of one, after `depth` tokens.
fn test(model: &mut Model, prompt: usize, generate: usize, depth: usize) -> Result<Vec<u64>> {
    let ids = |n: usize| -> Vec<u32> { (0..n as u32).map(|i| 100 + i * 37 % 20_000).collect() };
    model.clear();
    let mut position = 0;
    // Like the other programs, what lies before runs in batches.
    for chunk in ids(depth).chunks(512) {
        model.forward(chunk, position)?;
        position += chunk.len();
    }
    let steps = if prompt > 0 { vec![prompt] } else { vec![1; generate] };
    let mut times = vec![];
    for tokens in steps {
        let start = Instant::now();
        for chunk in ids(tokens).chunks(512) {
            model.forward(chunk, position)?;
            position += chunk.len();
        }
        times.push(start.elapsed().as_nanos() as u64);
    }
    Ok(times)
}

fn main() -> Result<()> {
    let (mut path, mut prompt, mut generate, mut depth) = (None, 0, 0, 0);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || -> Result<usize> {
            words
                .next()
                .and_then(|n| n.parse().ok())
                .with_context(|| format!("{word} wants a number"))
        };
        match word.as_str() {
            "-p" => prompt = number()?,
            "-n" => generate = number()?,
            "-d" => depth = number()?,
            _ => path = Some(word),
        }
    }
    let path = path.context("candle-bench MODEL.gguf [-p N] [-n N] [-d N]")?;
    ensure!((prompt > 0) != (generate > 0), "give one of -p and -n");

    let start = Instant::now();
    let mut model = Model::open(&path)?;
    let load = start.elapsed().as_nanos() as u64;
    test(&mut model, prompt.min(64), generate.min(8), 0)?;
    let steps = test(&mut model, prompt, generate, depth)?;
    let ns: u64 = steps.iter().sum();
    let row = json!({
        "model_filename": path,
        "n_prompt": prompt,
        "n_gen": generate,
        "n_depth": depth,
        "avg_ns": ns,
        "avg_ts": (prompt + generate) as f64 * 1e9 / ns as f64,
        "load_ns": load,
        "steps_ns": steps,
    });
    println!("{row}");
    Ok(())
}
