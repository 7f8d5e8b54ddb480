//! xtask's errors and the exit codes they end in.

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line asks for something that is not there.
    #[error("{0}")]
    Usage(String),
    /// A step failed; the text says which and what to do.
    #[error("{0}")]
    Failed(String),
    /// The lab, or a program run by its means.
    #[error(transparent)]
    Lab(#[from] cairn_lab::Error),
}

/// Short form used throughout xtask.
pub type Result<T> = std::result::Result<T, Error>;

const CODE_FAILED: u8 = 1;
const CODE_USAGE: u8 = 2;

impl Error {
    /// 2 for wrong usage, 1 for everything else.
    pub fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => CODE_USAGE,
            Self::Failed(_) | Self::Lab(_) => CODE_FAILED,
        }
    }

    /// The error and its causes in one line.
    pub fn report(&self) -> String {
        match self {
            Self::Lab(error) => error.report(),
            other => other.to_string(),
        }
    }

    /// Maker for a failed step.
    pub fn failed(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }
}
