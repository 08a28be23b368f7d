//! What is measured once and kept for the next run: a small JSON file in the user's cache directory,
//! `{"KEY": VALUE, ...}`. Without a directory, or with a file that is damaged, it is measured again.

use crate::files;
use serde_json::{Map, Value};
use std::path::PathBuf;

/// More than this is no file of ours.
const MOST: u64 = 1 << 20;
/// Entries that are kept; when there are more, all are forgotten.
const ENTRIES: usize = 500;

/// The user's cache directory for this program: `GRISTMILL_CACHE_DIR`, else the system's own for such things.
pub fn folder() -> Option<PathBuf> {
    let of = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let own = |p: PathBuf| p.join("gristmill");
    let system = || {
        if cfg!(windows) {
            return of("LOCALAPPDATA");
        }
        let home = of("HOME");
        if cfg!(target_os = "macos") {
            return home.map(|h| h.join("Library/Caches"));
        }
        of("XDG_CACHE_HOME").or_else(|| home.map(|h| h.join(".cache")))
    };
    of("GRISTMILL_CACHE_DIR").or_else(|| system().map(own))
}

fn read(path: &std::path::Path) -> Map<String, Value> {
    let small = std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() <= MOST);
    let text = small.then(|| std::fs::read(path).ok()).flatten().unwrap_or_default();
    match serde_json::from_slice(&text) {
        Ok(Value::Object(all)) => all,
        _ => Map::new(),
    }
}

/// What the file `name` holds for a key.
pub fn get(name: &str, key: &str) -> Option<Value> {
    read(&folder()?.join(name)).remove(key)
}

/// Keeps a value for a key. What cannot be written is measured again the next time.
pub fn put(name: &str, key: &str, value: Value) {
    let Some(folder) = folder() else { return };
    let path = folder.join(name);
    let mut all = read(&path);
    if all.len() >= ENTRIES {
        all.clear();
    }
    all.insert(key.to_owned(), value);
    let text = Value::Object(all).to_string();
    if std::fs::create_dir_all(&folder).is_ok() {
        let _ = files::write_bytes(&path, text.as_bytes());
    }
}
