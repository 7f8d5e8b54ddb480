//! Seeds of the corpora: objects and messages as the project's own encoders write them.
//!
//! `cargo run -p cairn-fuzz-cases --example seeds` writes them into `fuzz/corpus`; the replay test runs them as they are made.
//! Must not: write bytes by hand where an encoder can, or a seed would show the format as it was once thought to be.

mod messages;
mod objects;

/// A seed.
#[derive(Clone, Debug)]
pub struct Seed {
    /// The case it is for.
    pub case: &'static str,
    /// File name in that case's corpus.
    pub file: String,
    /// Content.
    pub bytes: Vec<u8>,
}

fn seed(case: &'static str, file: impl std::fmt::Display, bytes: impl Into<Vec<u8>>) -> Seed {
    Seed { case, file: format!("seed-{file}"), bytes: bytes.into() }
}

/// All of them. Each is accepted by a decoder of its case.
pub fn all() -> Vec<Seed> {
    let mut out = objects::all();
    out.extend(messages::all());
    out
}
