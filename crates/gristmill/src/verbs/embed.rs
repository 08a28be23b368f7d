//! `gristmill embed`: texts into vectors.

use crate::args::{Loading, RunsOn, Threads, model_help, open, source};
use crate::resolve;
use crate::term::{Done, note, out, usage};
use crate::texts::{self, Named};
use clap::{Args, ValueEnum};
use gristmill::ir::Output;
use gristmill::{Error, Pooling, Text, Wanted, bundled, files, npy, truncated, unnormalized};
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};

#[derive(Args)]
#[command(after_help = "Examples:
  gristmill embed notes.txt letter.txt                  a vector for each file, as JSON
  gristmill embed minilm.gguf --lines questions.txt -o questions.npy
  echo \"a short text\" | gristmill embed minilm.gguf --format csv")]
pub struct EmbedArgs {
    /// A model (default: the one inside this binary), and files, each a text (default: the lines of
    /// standard input)
    #[arg(value_name = "MODEL] [FILE")]
    words: Vec<String>,

    #[arg(short, long, value_name = "MODEL", help = model_help(bundled::EMBEDDER))]
    model: Option<String>,

    /// A text; may be given several times
    #[arg(short, long, value_name = "TEXT")]
    prompt: Vec<String>,

    /// Every line of the files is a text
    #[arg(long)]
    lines: bool,

    /// Put before every text, such as 'query: ' or an instruction, where the model wants that
    #[arg(long, value_name = "TEXT", default_value = "")]
    prefix: String,

    /// How the states of a text's tokens become one vector (default: as the model says)
    #[arg(long, value_enum, value_name = "HOW")]
    pooling: Option<PoolingArg>,

    /// Leave vectors as long as they come; else they are scaled to length one
    #[arg(long)]
    no_normalize: bool,

    /// Keep the first N numbers of each vector, for models that are made for that
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    dimensions: Option<u32>,

    /// Cut texts that are longer than the model's context instead of refusing them
    #[arg(long)]
    truncate: bool,

    /// Where to write (default: standard output)
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// The form: an object with everything, a line of numbers for each text, or an array of f32
    /// [texts, dimensions] (default: by the ending of --output, else json)
    #[arg(long, value_enum)]
    format: Option<Format>,

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

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Json,
    Csv,
    Npy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PoolingArg {
    /// The mean over all tokens
    Mean,
    /// The first token
    Cls,
    /// The last token
    Last,
}

impl From<PoolingArg> for Pooling {
    fn from(p: PoolingArg) -> Pooling {
        match p {
            PoolingArg::Mean => Pooling::Mean,
            PoolingArg::Cls => Pooling::Cls,
            PoolingArg::Last => Pooling::Last,
        }
    }
}

impl EmbedArgs {
    fn format(&self) -> Format {
        let ending = self.output.as_ref().and_then(|p| p.extension()?.to_str());
        let of_ending = match ending.map(str::to_lowercase).as_deref() {
            Some("npy") => Format::Npy,
            Some("csv") => Format::Csv,
            _ => Format::Json,
        };
        self.format.unwrap_or(of_ending)
    }
}

pub fn run(args: EmbedArgs) -> Done {
    let (name, files) = resolve::model_of_texts(args.model.as_ref(), &args.words);
    if let (None, Some(word)) = (name, files.first().filter(|f| !Path::new(f).exists())) {
        return Err(resolve::missing(word).into());
    }
    if !files.is_empty() && !args.prompt.is_empty() {
        return usage("the texts are given twice: in files and with --prompt");
    }
    let model = open(&source(name, bundled::EMBEDDER), &args.loading)?;
    let settings = args.runs_on.settings(args.threads.threads)?;
    let wanted = args.pooling.map_or(Wanted::AsFile, |p| Wanted::Vectors(p.into()));
    let mut program = model.program_for(settings.kv, wanted)?;
    let gives = |o: Output| program.output_value(o).is_some();
    if gives(Output::Scores) {
        return usage(format!(
            "{} scores pairs of texts; use `gristmill rerank`, or say how to pool with --pooling",
            model.name()
        ));
    }
    if gives(Output::Logits) {
        return usage(format!(
            "{} generates text and does not say how its states become one vector; say so with \
             --pooling",
            model.name()
        ));
    }
    if !gives(Output::Pooled) {
        if !args.quiet {
            note("pooling: mean (the model does not say; see --pooling)");
        }
        program = model.program_for(settings.kv, Wanted::Vectors(Pooling::Mean))?;
    }
    if args.no_normalize {
        program = unnormalized(program);
    }
    let pooled = program.output_value(Output::Pooled);
    let width = pooled.map_or(0, |v| program.shape(v).width);
    let dimensions = args.dimensions.unwrap_or(width);
    if dimensions > width {
        return usage(format!("--dimensions is {dimensions}; the model's vectors have {width}"));
    }

    let named = match args.prompt.is_empty() {
        true => {
            let files: Vec<PathBuf> = files.iter().map(PathBuf::from).collect();
            texts::read(&files, args.lines)?
        }
        false => {
            let named =
                |(i, t): (usize, &String)| Named { name: format!("{}", i + 1), text: t.clone() };
            args.prompt.iter().enumerate().map(named).collect()
        }
    };
    let tokenizer = model.tokenizer()?;
    let most = model.info(settings.kv)?.context_length as usize;
    let mut inputs: Vec<Text> = vec![];
    for n in &named {
        let mut ids = tokenizer.encode(&format!("{}{}", args.prefix, n.text), true, false);
        if ids.len() > most {
            if !args.truncate {
                return usage(format!(
                    "{}: {} tokens, and the model holds {most}; cut it with --truncate, or into \
                     pieces",
                    n.name,
                    ids.len()
                ));
            }
            let end = ids.len() - tokenizer.tokens_behind().min(most);
            ids.drain(end - (ids.len() - most)..end);
        }
        inputs.push(ids.into());
    }
    let mut vectors = vec![];
    texts::run(&model, program, &inputs, (&args.runs_on, &settings, args.quiet), &mut |_, v| {
        vectors.push(truncated(v, dimensions as usize, !args.no_normalize));
    })?;

    let bytes = match args.format() {
        Format::Json => {
            let one = |((i, v), (n, t)): ((usize, &Vec<f32>), (&Named, &Text))| json!({"index": i, "name": n.name, "tokens": t.ids.len(), "embedding": v});
            let all = vectors.iter().enumerate().zip(named.iter().zip(&inputs)).map(one);
            let all: Vec<_> = all.collect();
            let whole = json!({"model": model.name(), "dimensions": dimensions, "data": all});
            format!("{whole}\n").into_bytes()
        }
        Format::Csv => {
            let line = |v: &Vec<f32>| v.iter().map(f32::to_string).collect::<Vec<_>>().join(",");
            vectors.iter().map(|v| line(v) + "\n").collect::<String>().into_bytes()
        }
        Format::Npy => {
            let mut bytes = npy::header(&[vectors.len(), dimensions as usize]);
            vectors.iter().for_each(|v| bytes.extend(npy::values(v)));
            bytes
        }
    };
    let Some(path) = &args.output else {
        if args.format() == Format::Npy {
            let io = |source| Error::Io { what: "writing standard output".into(), source };
            return Ok(std::io::stdout().lock().write_all(&bytes).map_err(io)?);
        }
        return out(&String::from_utf8_lossy(&bytes));
    };
    files::write_bytes(path, &bytes)?;
    if !args.quiet {
        let (n, file) = (vectors.len(), path.display());
        note(format_args!("wrote {n} vectors of {dimensions} numbers to {file}"));
    }
    Ok(())
}
