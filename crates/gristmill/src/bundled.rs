//! The models inside the binary, so that the first command of every kind always works.

use gristmill_core::{Error, Result};

/// A model inside the binary.
#[derive(Debug)]
pub struct Bundled {
    /// The name by which it is asked for, in any case.
    pub name: &'static str,
    /// What it does.
    pub does: &'static str,
    /// The file. It is read where it lies, so it costs memory only where it is touched.
    pub(crate) bytes: &'static [u8],
}

macro_rules! bundled {
    ($($name:literal: $does:literal,)*) => {
        /// All of them.
        pub static MODELS: &[Bundled] = &[$(Bundled {
            name: $name,
            does: $does,
            bytes: include_bytes!(concat!("../bundled/", $name, ".gguf")),
        }),*];
    };
}

// A line a model: its name, which is that of its file in `bundled`, and what it does.
bundled! {
    "stories": "tells short stories",
    "tales-rwkv": "tells short stories, an RWKV-7",
    "tales-denoiser": "writes first sentences of stories out of noise",
    "tales-embed": "embeds and reranks texts",
}

/// The one that generates text, where no model is named.
pub const STORIES: &str = "stories";

/// The one that embeds and reranks, where no model is named.
pub const EMBEDDER: &str = "tales-embed";

/// The model of this name, in any case.
pub fn find(name: &str) -> Option<&'static Bundled> {
    let name = name.to_ascii_lowercase();
    // The story model's name in other programs.
    let name = if name == "gristmill-stories" { STORIES } else { &name };
    MODELS.iter().find(|m| m.name == name)
}

/// [`find`], for a name that must be there.
///
/// # Errors
/// [`Error::Model`] that lists those that are.
pub fn get(name: &str) -> Result<&'static Bundled> {
    find(name).ok_or_else(|| {
        Error::model(name, format!("no such model inside this binary; there are {}", listed()))
    })
}

/// All of them with what they do, in a line.
pub fn listed() -> String {
    let one = |m: &Bundled| format!("{} ({})", m.name, m.does);
    MODELS.iter().map(one).collect::<Vec<_>>().join(", ")
}
