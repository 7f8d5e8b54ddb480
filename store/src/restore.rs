//! Restoring a disk: regions in parallel, every chunk verified before a byte is written, memory bounded by the workers.

use crate::{
    BlockTarget, Progress, Result, StoreError, parallel,
    resolve::decompressor,
    store::Store,
    tree::{RegionAt, TreeReader, load_region},
};
use cairn_store_format::{
    limits::{BLOCK_BYTES, REGION_BYTES},
    map::{Ref, Run},
    register::DiskEntry,
};
use std::sync::atomic::Ordering;
use zstd::bulk::Decompressor;

/// Each worker holds the sealed chunks of one region, at most some 4 MiB.
const WORKERS_MAX: usize = 8;

/// What was written.
#[derive(Clone, Copy, Debug, Default)]
pub struct RestoreReport {
    /// Bytes of chunks written.
    pub written_bytes: u64,
}

impl Store {
    /// Writes a point's disk to a target of at least its size and makes it durable. Where the target is larger, the rest is zeroed too.
    pub fn restore_disk(&self, disk: &DiskEntry, target: &dyn BlockTarget, progress: &Progress) -> Result<RestoreReport> {
        if target.size_bytes() < disk.size_bytes {
            return Err(StoreError::Refused(format!("disk {} has {} bytes, the target only {}", disk.target, disk.size_bytes, target.size_bytes())));
        }
        progress.total_bytes.fetch_add(disk.size_bytes, Ordering::Relaxed);
        let restore = DiskRestore { store: self, disk, target, progress };
        let regions = TreeReader::new(self.inner.clone(), disk.root, disk.size_bytes)?.regions();
        let workers = parallel::workers(&*self.inner.platform, 2, WORKERS_MAX);
        let (mut report, mut at) = (RestoreReport::default(), 0);
        parallel::ordered(
            regions,
            workers,
            workers * 2,
            decompressor,
            |zstd, region| restore.region(zstd, &region),
            |(index, written)| {
                progress.check()?;
                restore.zero_until(&mut at, index * REGION_BYTES)?;
                at = ((index + 1) * REGION_BYTES).min(disk.size_bytes);
                report.written_bytes += written;
                progress.done_bytes.store(at, Ordering::Relaxed);
                Ok(())
            },
        )?;
        restore.zero_until(&mut at, target.size_bytes())?;
        target.flush().map_err(|source| restore.failed("flushing", 0, source))?;
        progress.done_bytes.store(disk.size_bytes, Ordering::Relaxed);
        Ok(report)
    }
}

struct DiskRestore<'a> {
    store: &'a Store,
    disk: &'a DiskEntry,
    target: &'a dyn BlockTarget,
    progress: &'a Progress,
}

impl DiskRestore<'_> {
    fn failed(&self, what: &str, offset: u64, source: std::io::Error) -> StoreError {
        StoreError::Block { what: format!("restoring disk {}: {what} at {offset}", self.disk.target), source }
    }

    /// Regions without a node.
    fn zero_until(&self, at: &mut u64, until: u64) -> Result<()> {
        if *at < until && !self.target.starts_zeroed() {
            self.target.zero(*at..until).map_err(|e| self.failed("zeroing", *at, e))?;
        }
        *at = until.max(*at);
        Ok(())
    }

    fn region(&self, zstd: &mut Decompressor<'static>, region: &RegionAt) -> Result<(u64, u64)> {
        self.progress.check()?;
        let inner = &self.store.inner;
        let node = load_region(inner, zstd, &region.node)?;
        let start = region.index * REGION_BYTES;
        let end = (start + REGION_BYTES).min(self.disk.size_bytes);
        let (mut chunks, mut block) = (Vec::<(usize, Ref)>::new(), 0);
        let mut lens = vec![0u16; cairn_store_format::limits::REGION_BLOCKS];
        for run in &node.0 {
            match run {
                Run::Chunk(n, r) => {
                    lens[block] = *n;
                    chunks.push((block, *r));
                }
                Run::Zero(n) => self.zero(start, block, usize::from(*n), end)?,
            }
            block += run.blocks();
        }
        self.zero(start, block, lens.len() - block, end)?;
        let mut written = 0;
        inner.fetch_chunks(zstd, &chunks, |block, plain| {
            let plain = plain?;
            if plain.len() != usize::from(lens[block]) * BLOCK_BYTES {
                return Err(StoreError::damaged(
                    format_args!("region {} of disk {}", region.index, self.disk.target),
                    "a chunk is not as long as the map says",
                ));
            }
            let at = start + (block * BLOCK_BYTES) as u64;
            // The last block is padded with zeros beyond the disk's end.
            let len = usize::try_from(end.saturating_sub(at).min(plain.len() as u64)).expect("at most a chunk");
            written += len as u64;
            self.target.write_at(at, &plain[..len]).map_err(|e| self.failed("writing", at, e))
        })?;
        Ok((region.index, written))
    }

    fn zero(&self, start: u64, block: usize, blocks: usize, end: u64) -> Result<()> {
        let from = start + (block * BLOCK_BYTES) as u64;
        let until = (from + (blocks * BLOCK_BYTES) as u64).min(end);
        if from >= until || self.target.starts_zeroed() {
            return Ok(());
        }
        self.target.zero(from..until).map_err(|e| self.failed("zeroing", from, e))
    }
}
