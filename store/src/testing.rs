//! What unit tests of several modules need.

use crate::{BlockSource, Extent};
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
