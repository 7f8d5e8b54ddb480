//! One region of a source as blocks: reads lazily what a walk asks for, knows what needs no reading.

use super::{Blocks, Cutter, Piece, is_zero, rechunk, spans_of};
use crate::{BlockSource, Extent, Result, StoreError};
use cairn_store_format::{
    limits::{BLOCK_BYTES, REGION_BLOCKS, REGION_BYTES},
    map::Run,
};
use std::ops::Range;

/// How far a read goes beyond the block that was asked for, blocks: one request serves a few chunks.
const READ_AHEAD_BLOCKS: usize = 32;

/// What of a region may have changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Dirty {
    /// Unknown: compare all of it.
    All,
    /// These blocks, sorted and disjoint.
    Blocks(Vec<Range<usize>>),
}

/// A run of the new map, with the content where it is new.
pub(crate) enum NewRun {
    /// Zero blocks.
    Zero(usize),
    /// The old map's run of this index.
    Kept(usize),
    /// Blocks to be made a chunk; see [`RegionReader::content`].
    New(Range<usize>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Unknown,
    Zero,
    Data,
}

/// Buffers of one worker, used again for every region.
pub(crate) struct RegionReader {
    cutter: Cutter,
    buffer: Vec<u8>,
    state: Vec<State>,
}

struct View<'a> {
    reader: &'a mut RegionReader,
    source: &'a dyn BlockSource,
    start: u64,
    /// Reading goes at least to the end of the dirty range that holds the block.
    wanted: &'a [Range<usize>],
    read_bytes: u64,
}

impl RegionReader {
    pub(crate) fn new(cutter: Cutter) -> Self {
        Self { cutter, buffer: vec![0; REGION_BLOCKS * BLOCK_BYTES], state: vec![State::Unknown; REGION_BLOCKS] }
    }

    /// Bytes of blocks that the last walk returned as new.
    pub(crate) fn content(&self, blocks: &Range<usize>) -> &[u8] {
        &self.buffer[blocks.start * BLOCK_BYTES..blocks.end * BLOCK_BYTES]
    }

    /// Walks a region that begins at `start`; returns its new runs and how many bytes were read.
    pub(crate) fn walk(&mut self, source: &dyn BlockSource, start: u64, old: &[Run], dirty: &Dirty) -> Result<(Vec<NewRun>, u64)> {
        let all = [0..REGION_BLOCKS];
        let (old_spans, dirty): (_, &[Range<usize>]) = match dirty {
            Dirty::All => (spans_of(&[]), &all),
            Dirty::Blocks(d) => (spans_of(old), d),
        };
        self.state.fill(State::Unknown);
        // What was zero and is not dirty is zero now, without reading.
        for s in old_spans.iter().filter(|s| s.zero) {
            self.state[s.start..s.end].fill(State::Zero);
        }
        for d in dirty {
            self.state[d.clone()].fill(State::Unknown);
        }
        let mut view = View { reader: self, source, start, wanted: dirty, read_bytes: 0 };
        let pieces = rechunk(&old_spans, dirty, &mut view)?;
        let read_bytes = view.read_bytes;
        let run = |p| match p {
            Piece::Zero(n) => NewRun::Zero(n),
            Piece::Kept(i) => NewRun::Kept(i),
            Piece::New(s, e) => NewRun::New(s..e),
        };
        Ok((pieces.into_iter().map(run).collect(), read_bytes))
    }
}

fn failed(range: &Range<u64>, source: std::io::Error) -> StoreError {
    StoreError::Block { what: format!("reading {} bytes at {}", range.end - range.start, range.start), source }
}

impl View<'_> {
    fn load(&mut self, block: usize) -> Result<()> {
        let wanted_end = self.wanted.iter().find(|d| d.contains(&block)).map_or(0, |d| d.end);
        let limit = (block + READ_AHEAD_BLOCKS).max(wanted_end).min(REGION_BLOCKS);
        let end = (block..limit).find(|b| self.reader.state[*b] != State::Unknown).unwrap_or(limit);
        let size = self.source.size_bytes();
        let at = |b: usize| (self.start + (b * BLOCK_BYTES) as u64).min(size);
        let range = at(block)..at(end);
        let extents = if range.is_empty() { Vec::new() } else { self.source.extents(range.clone()).map_err(|e| failed(&range, e))? };
        if extents.iter().all(|e| e.zero) {
            // Sparse disks are mostly this: nothing is read, nothing is looked at.
            self.reader.state[block..end].fill(State::Zero);
            return Ok(());
        }
        self.reader.buffer[block * BLOCK_BYTES..end * BLOCK_BYTES].fill(0);
        self.read(extents)?;
        for b in block..end {
            let zero = is_zero(&self.reader.buffer[b * BLOCK_BYTES..(b + 1) * BLOCK_BYTES]);
            self.reader.state[b] = if zero { State::Zero } else { State::Data };
        }
        Ok(())
    }

    fn read(&mut self, extents: Vec<Extent>) -> Result<()> {
        for e in extents.into_iter().filter(|e| !e.zero) {
            let local = |offset: u64| usize::try_from(offset - self.start).expect("inside one region");
            let buf = &mut self.reader.buffer[local(e.range.start)..local(e.range.end)];
            self.source.read_at(e.range.start, buf).map_err(|x| failed(&e.range, x))?;
            self.read_bytes += e.range.end - e.range.start;
            self.source.done_with(e.range);
        }
        Ok(())
    }

    fn state(&mut self, block: usize) -> Result<State> {
        if self.reader.state[block] == State::Unknown {
            self.load(block)?;
        }
        Ok(self.reader.state[block])
    }
}

impl Blocks for View<'_> {
    fn is_zero(&mut self, block: usize) -> Result<bool> {
        Ok(self.state(block)? == State::Zero)
    }
    fn is_cut(&mut self, block: usize) -> Result<bool> {
        self.state(block)?;
        let r = &self.reader;
        Ok(r.cutter.is_cut(&r.buffer[block * BLOCK_BYTES..(block + 1) * BLOCK_BYTES]))
    }
    fn min_blocks(&self) -> usize {
        self.reader.cutter.min_blocks
    }
    fn max_blocks(&self) -> usize {
        self.reader.cutter.max_blocks
    }
}

const _: () = assert!(REGION_BLOCKS as u64 * BLOCK_BYTES as u64 == REGION_BYTES);
