//! The one error type of the engine, sorted by who has to act.

/// What went wrong, by the one who can mend it. The text says what is wrong and what to do.
///
/// The command line maps the variants to its exit codes; see [`Error::exit_code`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A request or an option that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A model file that is missing, unreadable, malformed or of an unsupported kind.
    #[error("{file}: {what}")]
    Model {
        /// The file (or the model's name where it has none).
        file: String,
        /// The tensor, field or offset that is wrong, and the way out.
        what: String,
    },
    /// The device asked for is absent, or cannot run the program.
    #[error("{0}")]
    Device(String),
    /// Not enough memory for what was asked.
    #[error("{0}")]
    Memory(String),
    /// An operating system call that failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Anything else at run time.
    #[error("{0}")]
    Runtime(String),
}

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error about a model file.
    pub fn model(file: impl Into<String>, what: impl Into<String>) -> Self {
        Error::Model { file: file.into(), what: what.into() }
    }

    /// The process exit code: 1 runtime, 2 usage, 3 model, 4 device, 5 memory.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Runtime(_) | Error::Io { .. } => 1,
            Error::Usage(_) => 2,
            Error::Model { .. } => 3,
            Error::Device(_) => 4,
            Error::Memory(_) => 5,
        }
    }
}
