//! The model inside the binary, so that the first command always works.

/// Names by which the bundled model is asked for; the first is the one shown.
pub const BUNDLED: [&str; 2] = ["stories", "gristmill-stories"];

/// The file. It is read where it lies, so it costs memory only where it is touched.
pub(crate) static STORIES: &[u8] = include_bytes!("../bundled/stories.gguf");

/// Whether this names the bundled model, in any case.
pub(crate) fn is_bundled(name: &str) -> bool {
    BUNDLED.iter().any(|b| b.eq_ignore_ascii_case(name))
}
