//! Which regions are looked at, in order: those of the candidates, or all that are not zero in both the disk and the point.

use super::{Candidates, Update};
use crate::{Result, StoreError, resolve::decompressor, tree::TreeReader};
use cairn_store_format::limits::{BLOCK_BYTES, REGION_BLOCKS, REGION_BYTES};
use std::{collections::VecDeque, ops::Range};
use zstd::bulk::Decompressor;

/// What of a disk is asked for its holes at a time: one question to a remote image for some hundred regions.
const WINDOW_BYTES: u64 = 1 << 30;

/// A region to be looked at.
pub(super) struct Job {
    pub(super) region: u64,
    /// Blocks of the region, sorted and disjoint.
    pub(super) candidates: Vec<Range<usize>>,
    /// Bytes of [`Jobs::total_bytes`] that are done with it.
    pub(super) done_bytes: u64,
}

/// See the module.
pub(super) struct Jobs<'a> {
    tree: &'a TreeReader,
    update: &'a Update<'a>,
    zstd: Decompressor<'static>,
    ready: VecDeque<Job>,
    /// Up to where all was looked through (for all), or the next range and where in it (for ranges).
    at: u64,
    range: usize,
    done_bytes: u64,
}

impl<'a> Jobs<'a> {
    pub(super) fn new(tree: &'a TreeReader, update: &'a Update<'a>) -> Self {
        Self { tree, update, zstd: decompressor(), ready: VecDeque::new(), at: 0, range: 0, done_bytes: 0 }
    }

    /// Bytes that are to be looked at.
    pub(super) fn total_bytes(&self) -> u64 {
        match self.update.candidates {
            Candidates::All => self.update.end_bytes,
            Candidates::Ranges(ranges) => ranges.iter().map(|r| r.end.min(self.update.end_bytes).saturating_sub(r.start)).sum(),
        }
    }

    /// Looks through the next window; regions that hold nothing on either side are left out.
    fn window(&mut self) -> Result<()> {
        let window = self.at..(self.at + WINDOW_BYTES).min(self.update.end_bytes);
        self.at = window.end;
        let on_disk = window.start..window.end.min(self.update.source.size_bytes());
        let failed = |source| StoreError::Block { what: format!("disk {}: looking at {}", self.update.disk.target, window.start), source };
        let extents = if on_disk.is_empty() { Vec::new() } else { self.update.source.extents(on_disk).map_err(failed)? };
        let mut data = extents.into_iter().filter(|e| !e.zero).map(|e| e.range).peekable();
        for region in window.start / REGION_BYTES..window.end.div_ceil(REGION_BYTES) {
            let bytes = region * REGION_BYTES..((region + 1) * REGION_BYTES).min(self.update.end_bytes);
            while data.next_if(|d| d.end <= bytes.start).is_some() {}
            let has_data = data.peek().is_some_and(|d| d.start < bytes.end);
            let wanted = match self.tree.region_ref(&mut self.zstd, region) {
                Ok(node) => node.is_some(),
                // Who works on the region meets it again, and decides.
                Err(StoreError::Damaged { .. }) => true,
                Err(e) => return Err(e),
            };
            if has_data || wanted {
                let blocks = usize::try_from((bytes.end - bytes.start).div_ceil(BLOCK_BYTES as u64)).expect("at most 1024");
                self.ready.push_back(Job { region, candidates: vec![0..blocks], done_bytes: bytes.end });
            }
        }
        Ok(())
    }

    /// The next region that a range touches, with all that touch it.
    fn touched(&mut self, ranges: &[Range<u64>]) -> Option<Job> {
        let end = self.update.end_bytes;
        while ranges.get(self.range).is_some_and(|r| r.start.max(self.at) >= r.end.min(end)) {
            self.range += 1;
        }
        let region = ranges.get(self.range)?.start.max(self.at) / REGION_BYTES;
        let (start, until) = (region * REGION_BYTES, ((region + 1) * REGION_BYTES).min(end));
        let mut candidates: Vec<Range<usize>> = Vec::new();
        while let Some(r) = ranges.get(self.range).filter(|r| r.start < until) {
            let part = r.start.max(self.at)..r.end.min(until);
            if part.start < part.end {
                self.done_bytes += part.end - part.start;
                let block = |offset: u64| usize::try_from(offset / BLOCK_BYTES as u64).expect("inside one region");
                let blocks = block(part.start - start)..block((part.end - start).next_multiple_of(BLOCK_BYTES as u64)).min(REGION_BLOCKS);
                match candidates.last_mut() {
                    Some(last) if blocks.start <= last.end => last.end = last.end.max(blocks.end),
                    _ => candidates.push(blocks),
                }
            }
            if r.end > until {
                break;
            }
            self.range += 1;
        }
        self.at = until;
        Some(Job { region, candidates, done_bytes: self.done_bytes })
    }
}

impl Iterator for Jobs<'_> {
    type Item = Result<Job>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Candidates::Ranges(ranges) = self.update.candidates {
            return self.touched(ranges).map(Ok);
        }
        while self.ready.is_empty() && self.at < self.update.end_bytes {
            if let Err(e) = self.window() {
                self.at = self.update.end_bytes;
                self.ready.clear();
                return Some(Err(e));
            }
        }
        self.ready.pop_front().map(Ok)
    }
}
