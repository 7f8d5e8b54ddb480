//! A disk of a point as an export of the NBD server: for runs and for `cairn export`.

use cairn_nbd::server::{Export, ExportExtent};
use cairn_store::{BlockSource, PointSource};
use std::{io, ops::Range, sync::Arc};

/// Of a map so much is looked at for one answer, before it is seen whether that is full: a large disk's map is not read for its beginning.
const MAP_PIECE_BYTES: u64 = 64 << 20;

/// See the module.
pub struct PointExport {
    /// The disk.
    pub source: Arc<PointSource>,
    /// For people; at most 256 bytes.
    pub description: String,
}

impl Export for PointExport {
    fn size_bytes(&self) -> u64 {
        self.source.size_bytes()
    }

    fn description(&self) -> String {
        self.description.clone()
    }

    fn extents(&self, range: Range<u64>, extents_max: usize) -> io::Result<Vec<ExportExtent>> {
        let (mut out, mut at): (Vec<ExportExtent>, _) = (Vec::new(), range.start);
        while at < range.end && out.len() <= extents_max {
            let end = (at + MAP_PIECE_BYTES).min(range.end);
            for e in self.source.extents(at..end)? {
                match out.last_mut() {
                    Some(last) if last.zero == e.zero => last.range.end = e.range.end,
                    _ => out.push(ExportExtent { range: e.range, zero: e.zero }),
                }
            }
            at = end;
        }
        out.truncate(extents_max);
        Ok(out)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.source.read_at(offset, into)
    }

    fn read_ready(&self, offset: u64, into: &mut [u8]) -> bool {
        self.source.read_cached(offset, into)
    }

    fn prefetch(&self, range: Range<u64>) {
        self.source.prefetch([range]);
    }
}
