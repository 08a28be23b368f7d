//! How the model's publisher suggests to sample: `general.sampling.*` of a GGUF file, the keys that
//! llama.cpp reads, or the `generation_config.json` beside safetensors, as `transformers` reads it.

use crate::gguf::{Gguf, Value};
use crate::source::whole;
use gristmill_core::{Error, Result};
use std::path::Path;

/// Bytes of a `generation_config.json`.
const MAX_FILE: usize = 1 << 20;
const FILE: &str = "generation_config.json";
/// What the keys of a GGUF file begin with.
const PREFIX: &str = "general.sampling.";

/// A parameter that is suggested.
#[derive(Clone, Debug, PartialEq)]
pub struct Suggestion {
    /// The name of the field of the engine's `SamplingParams`.
    pub field: &'static str,
    /// Its value; no range is checked.
    pub value: f64,
    /// The key in the file.
    pub key: String,
}

/// All that a model's files suggest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Suggestions {
    /// The file that says so.
    pub file: String,
    /// One for each parameter at most.
    pub values: Vec<Suggestion>,
    /// The order of samplers that a GGUF file wants; ours is fixed.
    pub order: Option<String>,
}

/// Keys of a GGUF file, after [`PREFIX`], and the fields they set.
const GGUF: &[(&str, &str)] = &[
    ("temp", "temperature"),
    ("top_k", "top_k"),
    ("top_p", "top_p"),
    ("min_p", "min_p"),
    ("xtc_probability", "xtc_probability"),
    ("xtc_threshold", "xtc_threshold"),
    ("penalty_last_n", "repeat_last_n"),
    ("penalty_repeat", "repeat_penalty"),
    ("mirostat", "mirostat"),
    ("mirostat_tau", "mirostat_tau"),
    ("mirostat_eta", "mirostat_eta"),
];

/// Keys of a `generation_config.json`; the last alone counts where `do_sample` is false.
const JSON: &[(&str, &str)] = &[
    ("temperature", "temperature"),
    ("top_k", "top_k"),
    ("top_p", "top_p"),
    ("min_p", "min_p"),
    ("typical_p", "typical_p"),
    ("repetition_penalty", "repeat_penalty"),
];

impl Suggestions {
    /// Those of a model.
    ///
    /// # Errors
    /// [`Error::Model`] naming the file and the key whose value is no number.
    pub fn of(gguf: &Gguf) -> Result<Suggestions> {
        match gguf.folder() {
            Some(folder) => Suggestions::from_folder(folder),
            None => Suggestions::from_gguf(gguf),
        }
    }

    fn from_gguf(gguf: &Gguf) -> Result<Suggestions> {
        let mut values = vec![];
        for &(name, field) in GGUF {
            let key = format!("{PREFIX}{name}");
            let Some(value) = gguf.value(&key) else { continue };
            let value = match value {
                Value::F32(v) => shortest(v),
                Value::F64(v) => v,
                other => other.as_int().map(|n| n as f64).ok_or_else(|| {
                    Error::model(gguf.name(), format!("metadata key '{key}' is no number"))
                })?,
            };
            push(&mut values, field, value, key);
        }
        let order = gguf.opt::<&str>(&format!("{PREFIX}sequence"))?.map(str::to_owned);
        Ok(Suggestions { file: gguf.name().to_owned(), values, order })
    }

    fn from_folder(folder: &Path) -> Result<Suggestions> {
        let path = folder.join(FILE);
        if !path.exists() {
            return Ok(Suggestions::default());
        }
        Suggestions::from_json(&path.display().to_string(), &whole(&path, MAX_FILE)?)
    }

    /// Those of a `generation_config.json`; `file` stands for it in messages.
    ///
    /// # Errors
    /// Text that is no JSON object; a value that is no number.
    pub fn from_json(file: &str, json: &[u8]) -> Result<Suggestions> {
        let refuse = |what: String| Error::model(file, what);
        let config: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(json).map_err(|e| refuse(e.to_string()))?;
        // Then `transformers` takes the most likely token, and leaves the rest unread.
        let greedy = config.get("do_sample").is_some_and(|v| v.as_bool() == Some(false));
        let mut values = vec![];
        for &(key, field) in JSON {
            let Some(value) = config.get(key).filter(|v| !v.is_null()) else { continue };
            let value = value.as_f64().ok_or_else(|| refuse(format!("'{key}' is no number")))?;
            if greedy && field != "repeat_penalty" {
                continue;
            }
            push(&mut values, field, value, key.to_owned());
            if field == "repeat_penalty" && value != 1.0 {
                // Theirs looks at the whole text.
                push(&mut values, "repeat_last_n", -1.0, key.to_owned());
            }
        }
        Ok(Suggestions { file: file.to_owned(), values, order: None })
    }
}

/// Appends one. For llama.cpp and others a negative `top_k` is no limit; for us 0 is.
fn push(values: &mut Vec<Suggestion>, field: &'static str, value: f64, key: String) {
    let value = if field == "top_k" && value < 0.0 { 0.0 } else { value };
    values.push(Suggestion { field, value, key });
}

/// The decimal that a float stands for: 0.6, not 0.6000000238.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or_else(|_| value.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::GgufWriter;
    use std::sync::Arc;

    fn fields(s: &Suggestions) -> Vec<(&'static str, f64)> {
        s.values.iter().map(|v| (v.field, v.value)).collect()
    }

    #[test]
    fn generation_configs() {
        // As Qwen3 and Llama 3 have them.
        let of = |json: &str| Suggestions::from_json("g", json.as_bytes());
        let s =
            of(r#"{"bos_token_id": 1, "do_sample": true, "eos_token_id": [2, 3], "min_p": null,
            "temperature": 0.6, "top_k": 20, "top_p": 0.95, "transformers_version": "4.51.0"}"#);
        let want = [("temperature", 0.6), ("top_k", 20.0), ("top_p", 0.95)];
        assert_eq!(fields(&s.unwrap()), want);
        let s = of(r#"{"repetition_penalty": 1.05, "top_k": -1}"#).unwrap();
        let want = [("top_k", 0.0), ("repeat_penalty", 1.05), ("repeat_last_n", -1.0)];
        assert_eq!(fields(&s), want);
        let s = of(r#"{"do_sample": false, "temperature": 1.0, "repetition_penalty": 1.0}"#);
        assert_eq!(fields(&s.unwrap()), [("repeat_penalty", 1.0)]);
        for bad in
            ["[]", "{", r#"{"top_p": "0.9"}"#, r#"{"temperature": [1]}"#, "{\"min_p\": true}"]
        {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_of_gguf() {
        let mut w = GgufWriter::new("g");
        w.set("general.sampling.temp", 0.6f32).unwrap();
        w.set("general.sampling.top_k", 20i32).unwrap();
        w.set("general.sampling.penalty_last_n", -1i64).unwrap();
        w.set("general.sampling.sequence", "temperature;top_k").unwrap();
        let read = |w: GgufWriter| {
            let bytes = w.write(Vec::new(), &[]).unwrap();
            Suggestions::of(&Gguf::from_bytes("g.gguf", Arc::new(bytes)).unwrap())
        };
        let s = read(w).unwrap();
        assert_eq!(fields(&s), [("temperature", 0.6), ("top_k", 20.0), ("repeat_last_n", -1.0)]);
        assert_eq!(s.order.as_deref(), Some("temperature;top_k"));
        let mut w = GgufWriter::new("g");
        w.set("general.sampling.top_p", "high").unwrap();
        assert!(read(w).unwrap_err().to_string().contains("general.sampling.top_p"));
    }
}
