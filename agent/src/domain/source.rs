//! A captured disk as the store's [`BlockSource`].

use cairn_hypervisor::{NbdDisk, capture::live::CapturedDisk};
use cairn_store::{BlockSource, Extent};
use std::{
    io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// The disk at the point in time, as long as it is one.
pub struct CapturedSource {
    reader: Arc<NbdDisk>,
    worthless: Arc<AtomicBool>,
}

impl CapturedSource {
    /// Of one disk.
    pub fn of(d: &CapturedDisk) -> Self {
        Self { reader: d.reader.clone(), worthless: d.worthless.clone() }
    }

    fn check(&self) -> io::Result<()> {
        match self.worthless.load(Ordering::Relaxed) {
            true => Err(io::Error::other("the disk is not what it was when the backup began")),
            false => Ok(()),
        }
    }
}

impl BlockSource for CapturedSource {
    fn size_bytes(&self) -> u64 {
        self.reader.size_bytes()
    }
    fn extents(&self, range: Range<u64>) -> io::Result<Vec<Extent>> {
        self.check()?;
        let found = self.reader.extents(range).map_err(io::Error::other)?;
        Ok(found.into_iter().map(|e| Extent { range: e.range, zero: e.zero }).collect())
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.check()?;
        self.reader.read_at(offset, buf).map_err(io::Error::other)
    }
    fn parallel(&self) -> usize {
        self.reader.parallel()
    }
}
