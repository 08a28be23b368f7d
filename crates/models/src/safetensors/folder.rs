//! Which files a model has.
//!
//! Its weights are `model.safetensors`, or the files that `model.safetensors.index.json` names, an
//! object whose `weight_map` says in which file each tensor is.

use super::container::{self, Entry};
use crate::source::{self, LoadMode, Source};
use gristmill_core::{Error, Result};
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

/// The largest index that is read, in bytes.
const MAX_INDEX: usize = 1 << 26;
/// More files than any model has.
const MAX_FILES: usize = 1000;
const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The files of a model.
pub(super) struct Files {
    /// The folder's own name, for people.
    pub(super) name: String,
    pub(super) config: PathBuf,
    pub(super) folder: PathBuf,
    weights: Weights,
}

enum Weights {
    One(PathBuf),
    Indexed(PathBuf),
}

/// A file of weights.
pub(super) struct Shard {
    pub(super) source: Source,
    pub(super) entries: Vec<Entry>,
}

/// Finds the files of the model at `path`, a folder or a `.safetensors` file.
///
/// # Errors
/// [`Error::Model`] that says what is missing or what the path is instead.
pub(super) fn find(path: &Path) -> Result<Files> {
    let fail = |what: String| Err(Error::model(path.display().to_string(), what));
    let is_dir = path.is_dir();
    let folder = match (is_dir, path.parent()) {
        (true, _) => path,
        (false, Some(p)) if !p.as_os_str().is_empty() => p,
        (false, _) => Path::new("."),
    };
    let there = |name: &str| Some(folder.join(name)).filter(|p| p.exists());
    let file = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    // A file of several stands for all of them.
    let shard = file.contains("-of-");
    let weights = match (is_dir, there(INDEX)) {
        (false, Some(index)) if shard => Weights::Indexed(index),
        (false, None) if shard => {
            return fail(format!("is one of several files, but there is no '{INDEX}' beside it"));
        }
        (false, _) => Weights::One(path.to_owned()),
        (true, Some(index)) => Weights::Indexed(index),
        (true, None) => match there(WEIGHTS) {
            Some(one) => Weights::One(one),
            None => return fail(no_model(folder)),
        },
    };
    let config = folder.join(CONFIG);
    if !config.exists() {
        if let Weights::One(one) = &weights {
            Source::open(one, LoadMode::Read)?; // what is wrong with the path itself comes first
        }
        if there("adapter_config.json").is_some() {
            return fail("is an adapter (LoRA), which changes another model; name that one".into());
        }
        return fail(format!(
            "there is no '{CONFIG}' beside the weights, which says what model they are; name the \
             folder of a model, or a GGUF file"
        ));
    }
    let own = folder.canonicalize().ok();
    let own = own.as_deref().and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned());
    Ok(Files { name: own.unwrap_or(file), config, folder: folder.to_owned(), weights })
}

/// What to say of a folder without weights.
fn no_model(folder: &Path) -> String {
    if folder.join("adapter_model.safetensors").exists() {
        return "holds an adapter (LoRA), which changes another model; name that one".into();
    }
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.take(10_000).map(|e| e.file_name().to_string_lossy().into_owned());
    let mut ggufs: Vec<String> = names.filter(|n| n.ends_with(".gguf")).collect();
    ggufs.sort();
    match ggufs.first() {
        Some(first) => format!("is a directory; name the .gguf file inside it, such as '{first}'"),
        None => format!(
            "is a directory without '{WEIGHTS}' or '{INDEX}'; name the .gguf file, or the folder \
             of a model"
        ),
    }
}

/// Maps and checks the files.
///
/// # Errors
/// [`Error::Model`] naming the file and what is wrong in it.
pub(super) fn read(files: &Files, mode: LoadMode) -> Result<Vec<Shard>> {
    match &files.weights {
        Weights::One(path) => Ok(vec![Shard::read(Source::open(path, mode)?)?]),
        Weights::Indexed(path) => indexed(path, mode),
    }
}

impl Shard {
    /// Checks a file that is open.
    ///
    /// # Errors
    /// [`Error::Model`] naming what is wrong in it.
    pub(super) fn read(source: Source) -> Result<Shard> {
        let entries = container::read(&source)?;
        Ok(Shard { source, entries })
    }
}

fn indexed(path: &Path, mode: LoadMode) -> Result<Vec<Shard>> {
    let text = source::whole(path, MAX_INDEX)?;
    let fail = |what: String| Error::model(path.display().to_string(), what);
    let index: Index<'_> =
        serde_json::from_slice(&text).map_err(|e| fail(format!("is no index: {e}")))?;
    let mut shards = Vec::new();
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for (file, wanted) in &index.weight_map.0 {
        let file: &str = file;
        // The name of a file beside the index, and nothing else.
        let plain = Path::new(file).components().count() == 1
            && Path::new(file).file_name().is_some_and(|n| n == file);
        if !plain {
            return Err(fail(format!("'weight_map' names '{file}', no file beside the index")));
        }
        let part = Shard::read(Source::open(&path.with_file_name(file), mode)?)?;
        let held: HashSet<&str> = part.entries.iter().map(|e| e.name.as_str()).collect();
        if let Some(missing) = wanted.iter().find(|w| !held.contains(w.as_ref())) {
            return Err(fail(format!(
                "'weight_map' says that '{missing}' is in '{file}': it is not"
            )));
        }
        for e in &part.entries {
            if let Some(other) = seen.insert(e.name.clone(), file.to_owned()) {
                return Err(fail(format!("tensor '{}' is in '{other}' and '{file}'", e.name)));
            }
        }
        shards.push(part);
    }
    if shards.is_empty() {
        return Err(fail("'weight_map' names no tensor".into()));
    }
    Ok(shards)
}

#[derive(Deserialize)]
struct Index<'a> {
    #[serde(borrow)]
    weight_map: Map<'a>,
}

/// The tensors of each file.
struct Map<'a>(BTreeMap<Cow<'a, str>, Vec<Cow<'a, str>>>);

impl<'de: 'a, 'a> Deserialize<'de> for Map<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct ByFile<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for ByFile<'a> {
            type Value = Map<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors and the files they are in")
            }
            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Map<'a>, A::Error> {
                let mut files: BTreeMap<Cow<'a, str>, Vec<Cow<'a, str>>> = BTreeMap::new();
                while let Some((Text(tensor), Text(file))) = map.next_entry()? {
                    if files.len() == MAX_FILES && !files.contains_key(&file) {
                        return Err(serde::de::Error::custom(format_args!(
                            "more than {MAX_FILES} files"
                        )));
                    }
                    files.entry(file).or_default().push(tensor);
                }
                Ok(Map(files))
            }
        }
        d.deserialize_map(ByFile(std::marker::PhantomData))
    }
}

/// A string that is borrowed where the JSON has no escapes in it.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
