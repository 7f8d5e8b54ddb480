//! A captured disk as the store's [`BlockSource`].

use cairn_hypervisor::NbdDisk;
use cairn_store::{BlockSource, Extent};
use std::{io, ops::Range, sync::Arc};

/// libvirt's scratch export, which is the point in time.
pub struct CapturedSource(pub Arc<NbdDisk>);

impl BlockSource for CapturedSource {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }
    fn extents(&self, range: Range<u64>) -> io::Result<Vec<Extent>> {
        let found = self.0.extents(range).map_err(io::Error::other)?;
        Ok(found.into_iter().map(|e| Extent { range: e.range, zero: e.zero }).collect())
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buf).map_err(io::Error::other)
    }
    fn parallel(&self) -> usize {
        self.0.parallel()
    }
}
