//! `gristmill rerank`: texts sorted by how well they answer a query.

use crate::args::{Loading, RunsOn, Threads, model_help, open, source};
use crate::resolve;
use crate::term::{Done, json, out, usage};
use crate::texts;
use clap::Args;
use gristmill::ir::Output;
use gristmill::{Encoding, Reranker, Wanted, bundled};
use serde_json::json;
use std::path::PathBuf;

#[derive(Args)]
#[command(after_help = "Examples:
  gristmill rerank \"a story about a fox who lost a lantern\" tales/*.txt
  gristmill rerank reranker.gguf \"how do I open a file?\" manual/*.txt
  gristmill rerank -m reranker.gguf \"how do I open a file?\" --lines answers.txt --top-n 3")]
pub struct RerankArgs {
    /// A model (default: the one inside this binary), a query, and files, each a text (default: the
    /// lines of standard input)
    #[arg(value_name = "MODEL] QUERY [FILE", required = true)]
    words: Vec<String>,

    #[arg(short, long, value_name = "MODEL", help = model_help(bundled::EMBEDDER))]
    model: Option<String>,

    /// Every line of the files is a text
    #[arg(long)]
    lines: bool,

    /// What is asked of a model that answers yes or no
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "Given a web search query, retrieve relevant passages that answer the query"
    )]
    instruction: String,

    /// Show the best N only
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    top_n: Option<u32>,

    /// Cut texts that are longer than the model's context instead of refusing them
    #[arg(long)]
    truncate: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    loading: Loading,

    #[command(flatten)]
    runs_on: RunsOn,

    #[command(flatten)]
    threads: Threads,

    /// Nothing on stderr but errors
    #[arg(short, long)]
    quiet: bool,
}

pub fn run(args: RerankArgs) -> Done {
    let (name, words) = resolve::model_of_texts(args.model.as_ref(), &args.words);
    let [query, files @ ..] = words else { return usage("give a query") };
    let model = open(&source(name, bundled::EMBEDDER), &args.loading)?;
    let settings = args.runs_on.settings(args.threads.threads)?;
    let program = model.program_for(settings.kv, Wanted::Scores)?;
    let value = |o: Output| program.output_value(o).map(|v| program.shape(v).width as usize);
    let (encoding, width) = match (value(Output::Scores), value(Output::Logits)) {
        (Some(n), _) => (Encoding::Scores, n),
        (None, Some(n)) => (Encoding::Logits, n),
        (None, None) => (Encoding::Pooled, 0),
    };
    let tokenizer = model.tokenizer()?;
    let reranker = Reranker::new(&model, &tokenizer, encoding, width)?;
    let files: Vec<PathBuf> = files.iter().map(PathBuf::from).collect();
    let named = texts::read(&files, args.lines)?;
    let most = model.info(settings.kv)?.context_length as usize;
    let mut inputs = vec![];
    for n in &named {
        let asked = [query.as_str(), args.instruction.as_str()];
        inputs.push(reranker.text(&tokenizer, asked, &n.text, (most, args.truncate))?);
    }
    let mut found = vec![];
    texts::run(&model, program, &inputs, (&args.runs_on, &settings, args.quiet), &mut |i, n| {
        found.push((i, reranker.relevance(n)));
    })?;
    // The best first; of equals the one that came first.
    found.sort_by(|a, b| b.1.score.total_cmp(&a.1.score));
    found.truncate(args.top_n.map_or(usize::MAX, |n| n as usize));
    if args.json {
        let one = |&(i, r): &(usize, gristmill::Relevance)| {
            json!({"index": i, "name": named[i].name, "score": r.score,
                   "relevance": r.probability, "tokens": inputs[i].ids.len()})
        };
        let results: Vec<_> = found.iter().map(one).collect();
        return json(&json!({"model": model.name(), "query": query, "results": results}));
    }
    for (i, r) in found {
        let text: String = named[i].text.split_whitespace().collect::<Vec<_>>().join(" ");
        let short: String = text.chars().take(60).collect();
        let short = crate::term::printable(&short).to_string();
        out(&format!("{:.4}  {}  {short}\n", r.probability, named[i].name))?;
    }
    Ok(())
}
