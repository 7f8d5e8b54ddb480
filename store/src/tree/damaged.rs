//! What of a disk's map is known to be damaged: the next backup reads these places again, even where the dirty bitmap says "unchanged".

use super::{Step, TreeReader, load_region};
use crate::{Result, damage::Bad, resolve::decompressor, store::Inner};
use cairn_store_format::{
    limits::{BLOCK_BYTES, REGION_BYTES},
    map::Run,
};
use std::ops::Range;

/// Byte ranges whose chunks or nodes are bad, in order; `None` where whole branches cannot be read, so that the tree is no base for another.
pub(crate) fn damaged_ranges(store: &Inner, tree: TreeReader, bad: &Bad) -> Result<Option<Vec<Range<u64>>>> {
    let mut zstd = decompressor();
    let mut out = Vec::new();
    for step in tree.regions() {
        let at = match step? {
            Step::Region(at) => at,
            Step::Broken(..) => return Ok(None),
        };
        let start = at.index * REGION_BYTES;
        let node = match load_region(store, &mut zstd, &at.node) {
            Ok(node) => node,
            Err(e) if e.is_damage() => {
                out.push(start..start + REGION_BYTES);
                continue;
            }
            Err(e) => return Err(e),
        };
        let mut place = start;
        for run in &node.0 {
            let end = place + (run.blocks() * BLOCK_BYTES) as u64;
            if let Run::Chunk(_, r) = run
                && bad.contains(&r.at)
            {
                out.push(place..end);
            }
            place = end;
        }
    }
    Ok(Some(out))
}
