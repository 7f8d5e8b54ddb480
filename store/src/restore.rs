//! Restoring a disk: regions in parallel, every chunk verified before a byte is written, memory bounded by the workers.
//!
//! What is damaged ends a restore, unless the caller wants the rest: then it is written as zeros and told.

use crate::{
    BlockTarget, Damage, Progress, Result, StoreError, parallel,
    resolve::decompressor,
    store::Store,
    tree::{RegionAt, Step, TreeReader, load_region},
};
use cairn_store_format::{
    limits::{BLOCK_BYTES, REGION_BLOCKS, REGION_BYTES},
    map::{Ref, Region, Run},
    register::DiskEntry,
};
use std::{ops::Range, sync::atomic::Ordering};
use zstd::bulk::Decompressor;

/// Each worker holds the sealed chunks of one region, at most some 4 MiB.
const WORKERS_MAX: usize = 8;
/// More than a small host's cores: while some wait for the storage, others decode and write.
const WORKERS_MIN: usize = 4;

/// What to do about what cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnDamage {
    /// End with the error.
    Stop,
    /// Write zeros in its place and tell the range.
    WriteZeros,
}

/// What was written.
#[derive(Clone, Debug, Default)]
pub struct RestoreReport {
    /// Bytes of chunks written.
    pub written_bytes: u64,
    /// Ranges that could not be read and were written as zeros, in order; empty unless damage was allowed.
    pub damage: Vec<Damage>,
}

impl Store {
    /// Writes a point's disk to a target of at least its size and makes it durable. Where the target is larger, the rest is zeroed too.
    pub fn restore_disk(&self, disk: &DiskEntry, target: &dyn BlockTarget, on_damage: OnDamage, progress: &Progress) -> Result<RestoreReport> {
        if target.size_bytes() < disk.size_bytes {
            return Err(StoreError::Refused(format!("disk {} has {} bytes, the target only {}", disk.target, disk.size_bytes, target.size_bytes())));
        }
        progress.total_bytes.fetch_add(disk.size_bytes, Ordering::Relaxed);
        let restore = DiskRestore { store: self, disk, target, on_damage, progress };
        let regions = TreeReader::new(self.inner.clone(), disk.root, disk.size_bytes)?.regions();
        let workers = parallel::workers(&*self.inner.platform, WORKERS_MIN, WORKERS_MAX);
        let (mut report, mut at) = (RestoreReport::default(), 0);
        parallel::ordered(
            regions,
            workers,
            workers * 2,
            decompressor,
            |zstd, step| restore.step(zstd, step),
            |done: Written| {
                progress.check()?;
                restore.zero_until(&mut at, done.range.start)?;
                at = done.range.end;
                report.written_bytes += done.bytes;
                report.damage.extend(done.damage);
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

/// A part of the disk that is done.
struct Written {
    range: Range<u64>,
    bytes: u64,
    damage: Vec<Damage>,
}

struct DiskRestore<'a> {
    store: &'a Store,
    disk: &'a DiskEntry,
    target: &'a dyn BlockTarget,
    on_damage: OnDamage,
    progress: &'a Progress,
}

impl DiskRestore<'_> {
    fn failed(&self, what: &str, offset: u64, source: std::io::Error) -> StoreError {
        StoreError::Block { what: format!("restoring disk {}: {what} at {offset}", self.disk.target), source }
    }

    /// Regions without a node.
    fn zero_until(&self, at: &mut u64, until: u64) -> Result<()> {
        if *at < until {
            self.zero(*at..until)?;
        }
        *at = until.max(*at);
        Ok(())
    }

    fn zero(&self, range: Range<u64>) -> Result<()> {
        if range.is_empty() || self.target.starts_zeroed() {
            return Ok(());
        }
        self.target.zero(range.clone()).map_err(|e| self.failed("zeroing", range.start, e))
    }

    /// Damage ends the restore, or the range is zeroed and noted.
    fn damaged(&self, range: Range<u64>, e: StoreError) -> Result<Option<Damage>> {
        if self.on_damage == OnDamage::Stop || !e.is_damage() {
            return Err(e);
        }
        let end = range.end.min(self.disk.size_bytes);
        if range.start >= end {
            return Ok(None);
        }
        self.zero(range.start..end)?;
        Ok(Some(Damage { target: self.disk.target.clone(), offset: range.start, len: end - range.start, why: e.to_string() }))
    }

    fn step(&self, zstd: &mut Decompressor<'static>, step: Step) -> Result<Written> {
        self.progress.check()?;
        match step {
            Step::Broken(regions, e) => {
                let range = regions.start * REGION_BYTES..regions.end.saturating_mul(REGION_BYTES).min(self.disk.size_bytes);
                Ok(Written { damage: self.damaged(range.clone(), e)?.into_iter().collect(), range, bytes: 0 })
            }
            Step::Region(at) => {
                let range = at.index * REGION_BYTES..((at.index + 1) * REGION_BYTES).min(self.disk.size_bytes);
                match load_region(&self.store.inner, zstd, &at.node) {
                    Ok(node) => self.region(zstd, &at, &node, range),
                    Err(e) => Ok(Written { damage: self.damaged(range.clone(), e)?.into_iter().collect(), range, bytes: 0 }),
                }
            }
        }
    }

    fn region(&self, zstd: &mut Decompressor<'static>, at: &RegionAt, node: &Region, range: Range<u64>) -> Result<Written> {
        let place = |block: usize| range.start + (block * BLOCK_BYTES) as u64;
        let (mut chunks, mut block) = (Vec::<(usize, Ref)>::new(), 0);
        let mut lens = vec![0u16; REGION_BLOCKS];
        for run in &node.0 {
            match run {
                Run::Chunk(n, r) => {
                    lens[block] = *n;
                    chunks.push((block, *r));
                }
                Run::Zero(n) => self.zero(place(block)..place(block + usize::from(*n)).min(range.end))?,
            }
            block += run.blocks();
        }
        self.zero(place(block)..range.end)?;
        let mut out = Written { range: range.clone(), bytes: 0, damage: Vec::new() };
        self.store.inner.fetch_chunks(zstd, &chunks, |block, plain| {
            let len = usize::from(lens[block]) * BLOCK_BYTES;
            let plain = plain.and_then(|p| {
                let wrong = || StoreError::damaged(format_args!("region {} of disk {}", at.index, self.disk.target), "a chunk is not as long as the map says");
                if p.len() == len { Ok(p) } else { Err(wrong()) }
            });
            let offset = place(block);
            let plain = match plain {
                Ok(p) => p,
                Err(e) => {
                    out.damage.extend(self.damaged(offset..offset + len as u64, e)?);
                    return Ok(());
                }
            };
            // The last block is padded with zeros beyond the disk's end.
            let len = usize::try_from(range.end.saturating_sub(offset).min(plain.len() as u64)).expect("at most a chunk");
            out.bytes += len as u64;
            self.target.write_at(offset, &plain[..len]).map_err(|e| self.failed("writing", offset, e))
        })?;
        self.target.done_with(range);
        Ok(out)
    }
}
