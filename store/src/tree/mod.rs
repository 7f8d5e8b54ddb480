//! Maps: reading the tree of a disk, building the next one from it, and where two of them differ.

mod builder;
mod damaged;
mod diff;
mod reader;

pub(crate) use builder::TreeBuilder;
pub(crate) use damaged::damaged_ranges;
pub use diff::DiskDiff;
pub(crate) use reader::{RegionAt, Step, TreeReader, bad_node, load_region};

use cairn_store_format::limits::REGION_BYTES;

/// Regions of a disk.
pub(crate) const fn regions_of(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(REGION_BYTES)
}
