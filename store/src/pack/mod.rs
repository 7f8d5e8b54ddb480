//! Packs: built in memory, written whole, read by ranges.

mod builder;
mod reader;
mod stream;
mod whole;
mod writer;

pub(crate) use builder::{FinishedPack, PackBuilder};
pub(crate) use reader::{PackInfo, PackReader};
pub(crate) use stream::{META_ZSTD_LEVEL, PackStream, Pending};
pub(crate) use whole::{footer_of, indexed};
