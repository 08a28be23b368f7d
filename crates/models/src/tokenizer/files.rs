//! A tokenizer from files of its own: those that lie beside a model in safetensors.

use super::Tokenizer;
use crate::source;
use gristmill_core::{Error, Result};
use std::path::{Path, PathBuf};

/// The largest file that is read, in bytes: four times that of the largest vocabulary known.
const MAX_BYTES: usize = 1 << 27;
const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const GENERATION: &str = "generation_config.json";

/// RWKV's own vocabulary in a folder: the first `rwkv_vocab*.txt` by name.
fn world_vocabulary(folder: &Path) -> Option<PathBuf> {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = names.take(10_000).filter_map(|e| e.file_name().into_string().ok());
    let found = names.filter(|n| n.starts_with("rwkv_vocab") && n.ends_with(".txt")).min()?;
    Some(folder.join(found))
}

impl Tokenizer {
    /// The tokenizer of a model's folder: its `tokenizer.json`, or RWKV's own `rwkv_vocab*.txt`.
    ///
    /// # Errors
    /// That there is no such file; as [`Tokenizer::from_file`].
    pub fn from_folder(folder: &Path) -> Result<Tokenizer> {
        let path = folder.join(TOKENIZER);
        let world = if path.exists() { None } else { world_vocabulary(folder) };
        if let Some(path) = world {
            return Tokenizer::from_file(&path);
        }
        if !path.exists() {
            return Err(Error::model(
                folder.display().to_string(),
                format!(
                    "there is no '{TOKENIZER}' in it, so that text has no tokens: give token ids \
                     with --ids, or save the tokenizer in that form (transformers: \
                     AutoTokenizer.from_pretrained(...).save_pretrained(...))"
                ),
            ));
        }
        Tokenizer::from_file(&path)
    }

    /// The tokenizer in a file: a `tokenizer.json`, with what `tokenizer_config.json` and
    /// `generation_config.json` beside it say of BOS, EOS and the ends of an answer; or, with the
    /// extension `txt`, RWKV's own vocabulary.
    ///
    /// # Errors
    /// [`Error::Model`] naming the file that is missing, too large or damaged, and what in it is
    /// not supported.
    pub fn from_file(path: &Path) -> Result<Tokenizer> {
        let name = path.display().to_string();
        let bytes = source::whole(path, MAX_BYTES)?;
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("txt")) {
            let text = String::from_utf8(bytes).map_err(|_| Error::model(&name, "not UTF-8"))?;
            return Tokenizer::from_rwkv_text(&name, &text);
        }
        let beside = |name: &str| {
            let path = path.with_file_name(name);
            let shown = path.display().to_string();
            path.exists().then(|| source::whole(&path, MAX_BYTES).map(|b| (shown, b))).transpose()
        };
        let config = beside(CONFIG)?.map(|(_, bytes)| bytes);
        let tokenizer = Tokenizer::from_json(&name, &bytes, config.as_deref())?;
        match beside(GENERATION)? {
            Some((name, bytes)) => tokenizer.with_generation_config(&name, &bytes),
            None => Ok(tokenizer),
        }
    }
}
