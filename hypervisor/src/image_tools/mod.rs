//! QEMU's own programs, for images of domains that are off: `qemu-storage-daemon` serves what is in an image, `qemu-img` tells what an image is.
//!
//! - [`child`]: how such a program is started, ended and listened to
//! - [`daemon`]: one chain of images behind a private NBD socket
//! - [`chain`]: images, sizes and dirty bitmaps of a chain, read from its headers
//!
//! Invariants
//! - Nothing here outlives the process that started it, and every wait has a limit.
//! - An image is opened by a node that names its format and its file: no header and no guest decides what is opened as what.

pub mod chain;
pub mod child;
pub mod daemon;

use std::path::PathBuf;

use thiserror::Error;

/// A program that did not do what was asked.
#[derive(Debug, Error)]
pub enum ToolError {
    /// It is not there, or cannot be started.
    #[error("{program} for {image:?} cannot be started ({package})")]
    Start {
        /// Program.
        program: &'static str,
        /// Image.
        image: PathBuf,
        /// Where it comes from.
        package: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// It ended badly, did not end, or said what cannot be understood.
    #[error("{program} for {image:?}: {problem}")]
    Failed {
        /// Program.
        program: &'static str,
        /// Image.
        image: PathBuf,
        /// What is known.
        problem: String,
    },
}
