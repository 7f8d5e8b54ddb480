//! What unit tests of several modules need.

use crate::{BlockSource, Extent, PointInfo};
use std::{io, ops::Range};

/// A disk in memory, of which nothing is known to be zero.
pub(crate) struct Disk(pub(crate) Vec<u8>);

impl BlockSource for Disk {
    fn size_bytes(&self) -> u64 {
        self.0.len() as u64
    }
    fn extents(&self, range: Range<u64>) -> io::Result<Vec<Extent>> {
        Ok(vec![Extent { range, zero: false }])
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).expect("fits");
        buf.copy_from_slice(&self.0[at..at + buf.len()]);
        Ok(())
    }
}

/// A point of this name and time, of which nothing else is said.
pub(crate) fn info(name: &str, time_unix_ms: u64) -> PointInfo {
    PointInfo {
        name: name.into(),
        time_unix_ms,
        quiesce: "none".into(),
        tags: vec![],
        warnings: vec![],
        source: serde_json::json!({}),
        parts: vec![],
        cairn_version: "test".into(),
    }
}
