//! Which files a model has.
//!
//! Its weights are `model.safetensors`, or the files that `model.safetensors.index.json` names, an
//! object whose `weight_map` says in which file each tensor is.

use super::container::{self, Entry};
use crate::source::{self, LoadMode, Source};
use gristmill_core::{Error, Result};
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::collections::BTreeSet;
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
    /// `config.json`, where there is one.
    pub(super) config: Option<PathBuf>,
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
    let config = Some(config).filter(|c| c.exists());
    if config.is_none() {
        if let Weights::One(one) = &weights {
            Source::open(one, LoadMode::Read)?; // what is wrong with the path itself comes first
        }
        if there("adapter_config.json").is_some() {
            return fail("is an adapter (LoRA), which changes another model; name that one".into());
        }
    }
    let own = folder.canonicalize().ok();
    let own = own.as_deref().and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned());
    Ok(Files { name: own.unwrap_or(file), config, folder: folder.to_owned(), weights })
}

/// What to say of weights that nothing is known of.
pub(super) fn no_config(path: &Path) -> Error {
    Error::model(
        path.display().to_string(),
        format!(
            "there is no '{CONFIG}' beside the weights, which says what model they are; name the \
             folder of a model, or a GGUF file"
        ),
    )
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
    // Twice through the text rather than a copy of it in tables: first the files, then the tensors.
    let mut files = BTreeSet::new();
    walk(&text, &mut |_, file| {
        if !files.contains(file) {
            // The name of a file beside the index, and nothing else.
            let plain = Path::new(file).components().count() == 1
                && Path::new(file).file_name().is_some_and(|n| n == file);
            if !plain {
                return Err(format!("'weight_map' names '{file}', no file beside the index"));
            }
            if files.len() == MAX_FILES {
                return Err(format!("more than {MAX_FILES} files"));
            }
            files.insert(file.to_owned());
        }
        Ok(())
    })
    .map_err(fail)?;
    if files.is_empty() {
        return Err(fail("'weight_map' names no tensor".into()));
    }
    let read = |file: &String| Shard::read(Source::open(&path.with_file_name(file), mode)?);
    let shards = files.iter().map(read).collect::<Result<Vec<_>>>()?;

    // Every tensor with its file.
    let mut held: Vec<(&str, &String)> = vec![];
    for (shard, file) in shards.iter().zip(&files) {
        held.extend(shard.entries.iter().map(|e| (e.name.as_str(), file)));
    }
    held.sort_unstable();
    if let Some(two) = held.windows(2).find(|two| two[0].0 == two[1].0) {
        let [(name, a), (_, b)] = [two[0], two[1]];
        return Err(fail(format!("tensor '{name}' is in '{a}' and '{b}'")));
    }
    walk(&text, &mut |tensor, file| match held.binary_search_by(|h| h.0.cmp(tensor)) {
        Ok(at) if held[at].1 == file => Ok(()),
        _ => Err(format!("'weight_map' says that '{tensor}' is in '{file}': it is not")),
    })
    .map_err(fail)?;
    Ok(shards)
}

/// What is done with each tensor of an index and the file that it is in.
type Each<'f> = &'f mut dyn FnMut(&str, &str) -> std::result::Result<(), String>;

/// Goes through the tensors of an index.
fn walk(text: &[u8], each: Each<'_>) -> std::result::Result<(), String> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let walked = Index(each).deserialize(&mut reader).and_then(|found| {
        reader.end()?;
        Ok(found)
    });
    match walked {
        Ok(true) => Ok(()),
        Ok(false) => Err("is no index: missing field `weight_map`".into()),
        Err(e) => Err(format!("is no index: {e}")),
    }
}

/// The object around the map; gives whether the map is there.
struct Index<'f>(Each<'f>);

/// The tensors and their files.
struct Map<'f>(Each<'f>);

impl<'de> DeserializeSeed<'de> for Index<'_> {
    type Value = bool;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<bool, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Index<'_> {
    type Value = bool;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a 'weight_map'")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<bool, A::Error> {
        let mut found = false;
        while let Some(Text(key)) = map.next_key()? {
            if key == "weight_map" {
                found = true;
                map.next_value_seed(Map(&mut *self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

impl<'de> DeserializeSeed<'de> for Map<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<(), D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Map<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors and the files they are in")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        while let Some((Text(tensor), Text(file))) = map.next_entry()? {
            (self.0)(&tensor, &file).map_err(serde::de::Error::custom)?;
        }
        Ok(())
    }
}

/// A string that is borrowed where the JSON has no escapes in it.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
