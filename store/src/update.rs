//! Bringing a disk that exists to what a point says, writing only the 4 KiB blocks that differ.
//!
//! Invariants
//! - Where the caller says that something may differ, the disk itself is read: a chunk's place is hashed, and only if that is not the chunk's id the
//!   chunk is fetched, verified and compared block by block. So doing it again, after an interruption or by mistake, is always right, and a chunk
//!   that the disk still holds is not needed from the store.
//! - What lies outside the candidates is the caller's claim, and is not looked at.
//! - Without a target nothing is written, and the report says what would be.
//! - Memory: each worker holds one region of the disk and the sealed chunks of it that differ.
//!
//! What it must not do: change the disk's size.

use crate::{
    BlockSource, BlockTarget, Damage, Progress, Result, StoreError,
    chunk::is_zero,
    parallel,
    resolve::decompressor,
    restore::OnDamage,
    store::Store,
    tree::{TreeReader, load_region},
};
use cairn_store_format::{
    limits::{BLOCK_BYTES, REGION_BLOCKS, REGION_BYTES},
    map::{Ref, Region, Run},
    pack::FrameKind,
    register::DiskEntry,
};
use jobs::{Job, Jobs};
use std::{ops::Range, sync::atomic::Ordering};
use zstd::bulk::Decompressor;

mod jobs;

/// Each holds some 8 MiB at most.
const WORKERS_MAX: usize = 8;
/// While some wait for disk or storage, others hash and decode.
const WORKERS_MIN: usize = 4;

/// Where the disk may not be what the point says.
#[derive(Clone, Copy, Debug)]
pub enum Candidates<'a> {
    /// Anywhere: all that is not zero in both is looked at.
    All,
    /// In these ranges only; sorted and disjoint.
    Ranges(&'a [Range<u64>]),
}

/// What to bring where.
pub struct Update<'a> {
    /// What it shall be.
    pub disk: &'a DiskEntry,
    /// The disk as it is. What lies behind its end reads as zero.
    pub source: &'a dyn BlockSource,
    /// The same disk for writing, at least [`Update::end_bytes`] long; `None` only counts.
    pub target: Option<&'a dyn BlockTarget>,
    /// Up to here: the point's size, or more where a larger device keeps its own; behind the point's end all shall be zero.
    pub end_bytes: u64,
    /// Where to look.
    pub candidates: Candidates<'a>,
    /// What to do about chunks that differ and cannot be read.
    pub on_damage: OnDamage,
}

/// What was done, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpdateReport {
    /// Read from the disk.
    pub read_bytes: u64,
    /// Plain bytes of chunks that came from the store.
    pub fetched_bytes: u64,
    /// Written to the disk as data.
    pub written_bytes: u64,
    /// Made zero on the disk.
    pub zeroed_bytes: u64,
    /// Ranges that could not be had and were made zero; empty unless damage was allowed.
    pub damage: Vec<Damage>,
}

impl Store {
    /// Writes what differs and makes it durable.
    pub fn update_disk(&self, update: &Update<'_>, progress: &Progress) -> Result<UpdateReport> {
        if let Some(have) = update.target.map(BlockTarget::size_bytes).filter(|have| *have < update.end_bytes) {
            return Err(StoreError::Refused(format!("disk {} shall have {} bytes, the target has only {have}", update.disk.target, update.end_bytes)));
        }
        let tree = TreeReader::new(self.inner.clone(), update.disk.root, update.disk.size_bytes)?;
        let jobs = Jobs::new(&tree, update);
        progress.total_bytes.fetch_add(jobs.total_bytes(), Ordering::Relaxed);
        let before = progress.done_bytes.load(Ordering::Relaxed);
        let total = jobs.total_bytes();
        let work = DiskUpdate { store: self, tree: &tree, update, progress };
        let workers = parallel::workers(&*self.inner.platform, WORKERS_MIN.max(update.source.parallel()), WORKERS_MAX);
        let mut report = UpdateReport::default();
        parallel::ordered(
            jobs,
            workers,
            workers * 2,
            Worker::new,
            |worker, job| Ok((job.done_bytes, work.region(worker, &job)?)),
            |(done_bytes, part): (u64, UpdateReport)| {
                progress.check()?;
                report.read_bytes += part.read_bytes;
                report.fetched_bytes += part.fetched_bytes;
                report.written_bytes += part.written_bytes;
                report.zeroed_bytes += part.zeroed_bytes;
                report.damage.extend(part.damage);
                progress.done_bytes.store(before + done_bytes, Ordering::Relaxed);
                progress.read_bytes.fetch_add(part.read_bytes, Ordering::Relaxed);
                Ok(())
            },
        )?;
        progress.check()?;
        if let Some(target) = update.target {
            target.flush().map_err(|source| work.failed("flushing", 0, source))?;
        }
        progress.done_bytes.store(before + total, Ordering::Relaxed);
        Ok(report)
    }
}

/// Buffers of one thread.
struct Worker {
    zstd: Decompressor<'static>,
    /// The region as the disk has it, as far as it was read.
    now: Vec<u8>,
}

impl Worker {
    fn new() -> Self {
        Self { zstd: decompressor(), now: vec![0; REGION_BLOCKS * BLOCK_BYTES] }
    }
}

/// Parts of a region that are to be looked at, in blocks of the region, in order.
#[derive(Default)]
struct Parts {
    zero: Vec<Range<usize>>,
    chunks: Vec<(Range<usize>, Ref)>,
}

impl Parts {
    /// Zero runs as far as they may differ, chunks as a whole if any of their blocks may.
    fn of(region: &Region, candidates: &[Range<usize>]) -> Self {
        let mut out = Self::default();
        let mut at = 0;
        let tail = Run::Zero(u16::try_from(REGION_BLOCKS).expect("1024"));
        for run in region.0.iter().chain([&tail]) {
            let span = at..(at + run.blocks()).min(REGION_BLOCKS);
            at = span.end;
            let touched = candidates.iter().map(|c| c.start.max(span.start)..c.end.min(span.end)).filter(|r| r.start < r.end);
            match run {
                Run::Zero(_) => out.zero.extend(touched),
                Run::Chunk(_, r) if touched.count() > 0 => out.chunks.push((span, *r)),
                Run::Chunk(..) => {}
            }
        }
        out
    }

    /// What must be read of the disk, joined.
    fn all(&self) -> Vec<Range<usize>> {
        let mut all: Vec<Range<usize>> = self.zero.iter().cloned().chain(self.chunks.iter().map(|c| c.0.clone())).collect();
        all.sort_by_key(|r| r.start);
        all.dedup_by(|next, last| {
            let joins = next.start <= last.end;
            last.end = if joins { last.end.max(next.end) } else { last.end };
            joins
        });
        all
    }
}

struct DiskUpdate<'a> {
    store: &'a Store,
    tree: &'a TreeReader,
    update: &'a Update<'a>,
    progress: &'a Progress,
}

impl DiskUpdate<'_> {
    fn failed(&self, what: &str, offset: u64, source: std::io::Error) -> StoreError {
        StoreError::Block { what: format!("disk {}: {what} at {offset}", self.update.disk.target), source }
    }

    fn region(&self, worker: &mut Worker, job: &Job) -> Result<UpdateReport> {
        self.progress.check()?;
        let mut out = UpdateReport::default();
        let start = job.region * REGION_BYTES;
        let node = self.tree.region_ref(&mut worker.zstd, job.region).and_then(|r| match r {
            Some(r) => load_region(&self.store.inner, &mut worker.zstd, &r),
            None => Ok(Region::default()),
        });
        let node = match node {
            Ok(node) => node,
            Err(e) => {
                for c in &job.candidates {
                    self.damaged(&self.bytes(start, c), &e, &mut out)?;
                }
                return if out.damage.is_empty() { Err(e) } else { Ok(out) };
            }
        };
        let parts = Parts::of(&node, &job.candidates);
        out.read_bytes = self.read(&mut worker.now, start, &parts.all())?;
        for part in &parts.zero {
            for run in runs(part.clone(), |b| !is_zero(&worker.now[block(b)])) {
                self.zero(self.bytes(start, &run), &mut out)?;
            }
        }
        self.chunks(worker, start, &parts.chunks, &mut out)?;
        let end = (start + REGION_BYTES).min(self.update.source.size_bytes());
        if start < end {
            self.update.source.done_with(start..end);
        }
        Ok(out)
    }

    fn chunks(&self, worker: &mut Worker, start: u64, chunks: &[(Range<usize>, Ref)], out: &mut UpdateReport) -> Result<()> {
        let Worker { zstd, now } = worker;
        let keys = &self.store.inner.keys;
        let differs = |(span, r): &&(Range<usize>, Ref)| keys.content_id(FrameKind::Chunk, 0, &now[blocks(span)]) != r.id;
        let todo: Vec<&(Range<usize>, Ref)> = chunks.iter().filter(differs).collect();
        let refs: Vec<(usize, Ref)> = todo.iter().enumerate().map(|(i, c)| (i, c.1)).collect();
        self.store.inner.fetch_chunks(zstd, &refs, |i, plain| {
            let span = &todo[i].0;
            let wrong = || StoreError::damaged(format_args!("disk {} at {start}", self.update.disk.target), "a chunk is not as long as the map says");
            let plain = plain.and_then(|p| if p.len() == span.len() * BLOCK_BYTES { Ok(p) } else { Err(wrong()) });
            let plain = match plain {
                Ok(p) => p,
                Err(e) => return self.damaged(&self.bytes(start, span), &e, out).and_then(|told| if told { Ok(()) } else { Err(e) }),
            };
            out.fetched_bytes += plain.len() as u64;
            let wanted = |b: usize| &plain[block(b - span.start)];
            for run in runs(span.clone(), |b| now[block(b)] != *wanted(b)) {
                let range = self.bytes(start, &run);
                let from = (run.start - span.start) * BLOCK_BYTES;
                // The last block is padded with zeros beyond the disk's end.
                let len = usize::try_from(range.end - range.start).expect("at most a chunk");
                if let Some(target) = self.update.target {
                    target.write_at(range.start, &plain[from..from + len]).map_err(|e| self.failed("writing", range.start, e))?;
                }
                out.written_bytes += len as u64;
            }
            Ok(())
        })
    }

    /// Blocks of a region as bytes of the disk.
    fn bytes(&self, start: u64, blocks: &Range<usize>) -> Range<u64> {
        let at = |b: usize| (start + (b * BLOCK_BYTES) as u64).min(self.update.end_bytes);
        at(blocks.start)..at(blocks.end)
    }

    /// Fills parts of the buffer from the disk; returns what was read.
    fn read(&self, now: &mut [u8], start: u64, parts: &[Range<usize>]) -> Result<u64> {
        let source = self.update.source;
        let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return Ok(0) };
        let within = |b: usize| (start + (b * BLOCK_BYTES) as u64).min(source.size_bytes());
        let asked = within(first.start)..within(last.end);
        let extents = if asked.is_empty() { Vec::new() } else { source.extents(asked.clone()).map_err(|e| self.failed("looking", asked.start, e))? };
        let mut read_bytes = 0;
        for part in parts {
            now[blocks(part)].fill(0);
            for e in extents.iter().filter(|e| !e.zero) {
                let range = e.range.start.max(within(part.start))..e.range.end.min(within(part.end));
                if range.start >= range.end {
                    continue;
                }
                let local = |offset: u64| usize::try_from(offset - start).expect("inside one region");
                source.read_at(range.start, &mut now[local(range.start)..local(range.end)]).map_err(|e| self.failed("reading", range.start, e))?;
                read_bytes += range.end - range.start;
            }
        }
        Ok(read_bytes)
    }

    fn zero(&self, range: Range<u64>, out: &mut UpdateReport) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        out.zeroed_bytes += range.end - range.start;
        match self.update.target {
            Some(target) => target.zero(range.clone()).map_err(|e| self.failed("zeroing", range.start, e)),
            None => Ok(()),
        }
    }

    /// Zeroes what cannot be had and tells it, if that is allowed.
    fn damaged(&self, range: &Range<u64>, e: &StoreError, out: &mut UpdateReport) -> Result<bool> {
        if self.update.on_damage == OnDamage::Stop || !matches!(e, StoreError::Damaged { .. }) {
            return Ok(false);
        }
        self.zero(range.clone(), out)?;
        out.damage.push(Damage { target: self.update.disk.target.clone(), offset: range.start, len: range.end - range.start, why: e.to_string() });
        Ok(true)
    }
}

fn block(b: usize) -> Range<usize> {
    b * BLOCK_BYTES..(b + 1) * BLOCK_BYTES
}

fn blocks(r: &Range<usize>) -> Range<usize> {
    r.start * BLOCK_BYTES..r.end * BLOCK_BYTES
}

/// Maximal runs of blocks for which `differs` holds.
fn runs(within: Range<usize>, differs: impl Fn(usize) -> bool) -> Vec<Range<usize>> {
    let mut out: Vec<Range<usize>> = Vec::new();
    for b in within.filter(|b| differs(*b)) {
        match out.last_mut() {
            Some(last) if last.end == b => last.end += 1,
            _ => out.push(b..b + 1),
        }
    }
    out
}
