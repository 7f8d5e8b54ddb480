//! The lab's error: what was tried, on what, and what to do about it.
//!
//! Display never repeats the source; print the chain with [`Error::report`].

use std::path::{Path, PathBuf};
use std::time::Duration;

/// What can go wrong in the lab.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on a path or a process failed.
    #[error("cannot {what} {path}")]
    Io {
        /// The operation, as a verb.
        what: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A program ran and failed.
    #[error("`{command}` failed ({status}): {stderr}")]
    Command {
        /// Program and arguments as a person would type them.
        command: String,
        /// Exit status in words.
        status: String,
        /// The last part of its standard error.
        stderr: String,
    },
    /// Something took longer than its limit.
    #[error("{what} was not done after {} s{hint}", limit.as_secs())]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
        /// Where to look, with its leading separator, or nothing.
        hint: String,
    },
    /// Something the lab needs is not on this machine.
    #[error("{what} is missing: {remedy}")]
    Missing {
        /// The thing.
        what: String,
        /// How to get it.
        remedy: String,
    },
    /// An answer did not have the form it must have.
    #[error("{what}: {detail}")]
    Answer {
        /// Who answered.
        what: String,
        /// What was wrong with it.
        detail: String,
    },
}

/// Short form used throughout the crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Maker for `map_err` on I/O: `.map_err(Error::io("read", path))`.
    pub fn io<'a>(what: &'static str, path: &'a (impl AsRef<Path> + ?Sized)) -> impl FnOnce(std::io::Error) -> Self + 'a {
        move |source| Self::Io { what, path: path.as_ref().to_path_buf(), source }
    }

    /// An answer of the wrong form.
    pub fn answer(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Answer { what: what.into(), detail: detail.into() }
    }

    /// The error and its causes in one line.
    #[must_use]
    pub fn report(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        text
    }
}
