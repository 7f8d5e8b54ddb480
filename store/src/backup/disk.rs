//! One disk: regions out to the workers, their results in order into packs and tree.

use super::{
    Counts, Progress,
    worker::{Job, RegionOutcome, Worker},
};
use crate::{
    BlockSource, Result, StoreError,
    chunk::Dirty,
    crypto::PackKey,
    pack::{PackStream, Pending},
    parallel,
    session::Session,
    tree::{TreeBuilder, TreeReader, regions_of},
};
use cairn_store_format::{
    limits::{BLOCK_BYTES, REGION_BLOCKS, REGION_BYTES},
    map::Ref,
};
use std::{
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

/// Workers of all disks that are read at the same time: with read and sealed buffers each holds up to 9 MiB.
const WORKERS_MAX: usize = super::DISKS_AT_ONCE_MAX;
/// Results of all of them that may wait for their consumers, beyond those in work; each disk has at least one.
const WINDOW_EXTRA: usize = 3;

/// Where the regions of all disks go that are read at the same time: one region after the other.
pub(super) struct Sink<'a> {
    stream: Mutex<&'a mut PackStream>,
    pending: Arc<Pending>,
    /// Workers seal with the key of the pack that is open when they begin a region; they see it through this cell.
    data_key: RwLock<Option<Arc<PackKey>>>,
    /// How many disks share workers and memory.
    at_once: usize,
    /// One of the disks failed: the others need not be read to their ends.
    pub(super) failed: AtomicBool,
}

impl<'a> Sink<'a> {
    pub(super) fn new(stream: &'a mut PackStream, at_once: usize) -> Self {
        let (pending, data_key) = (stream.pending.clone(), RwLock::new(stream.data_key()));
        Self { stream: Mutex::new(stream), pending, data_key, at_once, failed: AtomicBool::new(false) }
    }

    fn check(&self) -> Result<()> {
        if self.failed.load(Ordering::Relaxed) { Err(StoreError::Interrupted) } else { Ok(()) }
    }

    fn stream(&self) -> MutexGuard<'_, &'a mut PackStream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of what all have together, one disk's part.
    fn share(&self, all: usize) -> usize {
        (all / self.at_once).max(1)
    }
}

/// Saves a disk; `dirty` is `None` where all of it must be read. Returns its root.
pub(super) fn save(
    session: &Session,
    source: &dyn BlockSource,
    parent: Option<&Arc<TreeReader>>,
    dirty: Option<&[Range<u64>]>,
    sink: &Sink<'_>,
    progress: &Progress,
) -> Result<(Option<Ref>, Counts)> {
    let size_bytes = source.size_bytes();
    let mut builder = TreeBuilder::new(session.store.keys.clone(), parent.cloned(), size_bytes)?;
    let mut counts = Counts::default();
    let looked_at = dirty.map_or(size_bytes, |d| d.iter().map(|r| r.end - r.start).sum());
    progress.total_bytes.fetch_add(looked_at, Ordering::Relaxed);
    let jobs = jobs(size_bytes, dirty);
    let workers = parallel::workers(&*session.store.platform, source.parallel(), sink.share(WORKERS_MAX));
    let make_worker = || Worker::new(session, source, parent.cloned(), &sink.pending, &sink.data_key);
    let consume = |outcome: RegionOutcome| {
        progress.check()?;
        sink.check()?;
        let mut stream = sink.stream();
        let stored_before = stream.stored_bytes;
        let waited_before_ns = stream.waited_ns;
        let node = outcome.place(&session.store.keys, &mut stream)?;
        *sink.data_key.write().unwrap_or_else(PoisonError::into_inner) = stream.data_key();
        builder.set(&mut stream, outcome.region, node)?;
        progress.waits.writer_ns.fetch_add(stream.waited_ns - waited_before_ns, Ordering::Relaxed);
        counts.read_bytes += outcome.read_bytes;
        counts.changed_bytes += outcome.changed_bytes;
        counts.stored_bytes += stream.stored_bytes - stored_before;
        progress.done_bytes.fetch_add(outcome.looked_at_bytes, Ordering::Relaxed);
        progress.read_bytes.fetch_add(outcome.read_bytes, Ordering::Relaxed);
        progress.stored_bytes.fetch_add(stream.stored_bytes - stored_before, Ordering::Relaxed);
        Ok(())
    };
    parallel::ordered_timed(
        jobs,
        workers,
        workers + sink.share(WINDOW_EXTRA),
        &progress.waits,
        make_worker,
        |w: &mut Result<Worker<'_>>, job| worker_of(w)?.run(&job),
        consume,
    )?;
    let root = builder.finish(&mut sink.stream())?;
    Ok((root, counts))
}

/// A worker that could not be made (its index connection failed) fails its first job.
fn worker_of<'w, 'a>(w: &'w mut Result<Worker<'a>>) -> Result<&'w mut Worker<'a>> {
    match w {
        Ok(w) => Ok(w),
        Err(e) => Err(std::mem::replace(e, StoreError::Interrupted)),
    }
}

fn jobs(size_bytes: u64, dirty: Option<&[Range<u64>]>) -> Box<dyn Iterator<Item = Result<Job>> + Send> {
    match dirty {
        None => Box::new((0..regions_of(size_bytes)).map(|region| Ok(Job { region, dirty: Dirty::All }))),
        Some(ranges) => Box::new(by_region(ranges, size_bytes).into_iter().map(|(region, blocks)| Ok(Job { region, dirty: Dirty::Blocks(blocks) }))),
    }
}

/// Byte ranges as block ranges of regions, in order, rounded out and merged. The last region of the disk is always there, so that a disk
/// that has shrunk loses what lay behind its new end.
fn by_region(ranges: &[Range<u64>], size_bytes: u64) -> Vec<(u64, Vec<Range<usize>>)> {
    let mut out: Vec<(u64, Vec<Range<usize>>)> = Vec::new();
    let mut push = |region: u64, blocks: Range<usize>| match out.last_mut() {
        Some((last, list)) if *last == region => match list.last_mut() {
            Some(b) if blocks.start <= b.end => b.end = b.end.max(blocks.end),
            _ => list.push(blocks),
        },
        _ => out.push((region, vec![blocks])),
    };
    for r in ranges.iter().filter(|r| r.start < r.end) {
        let (mut block, end) = (r.start / BLOCK_BYTES as u64, r.end.div_ceil(BLOCK_BYTES as u64));
        while block < end {
            let region = block / REGION_BLOCKS as u64;
            let until = end.min((region + 1) * REGION_BLOCKS as u64);
            let local = |b: u64| usize::try_from(b - region * REGION_BLOCKS as u64).expect("inside one region");
            push(region, local(block)..local(until));
            block = until;
        }
    }
    if let Some(last) = regions_of(size_bytes).checked_sub(1)
        && out.last().is_none_or(|l| l.0 < last)
    {
        out.push((last, Vec::new()));
    }
    out
}

/// Growing a disk dirties from the old size's block on; shrinking zeroes the rest of the last region.
pub(super) fn dirty_with_resize(dirty: &[Range<u64>], old_bytes: u64, new_bytes: u64) -> Vec<Range<u64>> {
    let mut out: Vec<Range<u64>> = dirty.iter().map(|r| r.start.min(new_bytes)..r.end.min(new_bytes)).collect();
    if new_bytes != old_bytes {
        let from = old_bytes.min(new_bytes) / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        let until = if new_bytes > old_bytes { new_bytes } else { regions_of(new_bytes) * REGION_BYTES };
        out.push(from..until);
    }
    out.retain(|r| r.start < r.end);
    out.sort_by_key(|r| r.start);
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(out.len());
    for r in out {
        match merged.last_mut() {
            Some(last) if r.start <= last.end => last.end = last.end.max(r.end),
            _ => merged.push(r),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_become_blocks_of_regions() {
        let m = REGION_BYTES;
        let one = |r: Range<usize>| vec![r];
        assert_eq!(by_region(&[4095..4097, 8192..8193], m), [(0, one(0..3))]);
        assert_eq!(by_region(&[m - 1..m + 1], 3 * m), [(0, one(1023..1024)), (1, one(0..1)), (2, vec![])]);
        assert_eq!(by_region(&[], 0), []);
    }

    #[test]
    fn resizes_are_dirty() {
        let whole = |r: Range<u64>| vec![r];
        assert_eq!(dirty_with_resize(&[], 5000, 100_000), whole(4096..100_000));
        assert_eq!(dirty_with_resize(&[0..10, 90_000..99_999], 100_000, 50_000), [0..10, 49_152..REGION_BYTES]);
        assert_eq!(dirty_with_resize(&[], 10, 10), []);
    }
}
