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

/// In order, without a gap, and no more than the range.
fn covers(range: &Range<u64>, extents: &[Extent]) -> bool {
    let mut at = range.start;
    extents.iter().all(|e| e.range.start == std::mem::replace(&mut at, e.range.end) && e.range.start < e.range.end) && at == range.end
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
        // The buffer holds another region's bytes where nothing is read: a source that leaves a part out must not let them through.
        if !covers(&range, &extents) {
            return Err(failed(&range, std::io::Error::other("the source's extents do not cover it")));
        }
        if extents.iter().all(|e| e.zero) {
            // Sparse disks are mostly this: nothing is read, nothing is looked at.
            self.reader.state[block..end].fill(State::Zero);
            return Ok(());
        }
        // Behind the disk's end there is nothing to read, and the last block is padded.
        let read_bytes = usize::try_from(range.end - range.start).expect("inside one region");
        self.reader.buffer[block * BLOCK_BYTES + read_bytes..end * BLOCK_BYTES].fill(0);
        self.read(extents)?;
        for b in block..end {
            let zero = is_zero(&self.reader.buffer[b * BLOCK_BYTES..(b + 1) * BLOCK_BYTES]);
            self.reader.state[b] = if zero { State::Zero } else { State::Data };
        }
        Ok(())
    }

    fn read(&mut self, extents: Vec<Extent>) -> Result<()> {
        for e in extents {
            let local = |offset: u64| usize::try_from(offset - self.start).expect("inside one region");
            let buf = &mut self.reader.buffer[local(e.range.start)..local(e.range.end)];
            if e.zero {
                buf.fill(0);
                continue;
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_store_format::config::ChunkSizes;
    use std::io;

    /// Content and what it tells of its holes.
    struct Told(Vec<u8>, Vec<(Range<u64>, bool)>);

    impl BlockSource for Told {
        fn size_bytes(&self) -> u64 {
            self.0.len() as u64
        }
        fn extents(&self, range: Range<u64>) -> io::Result<Vec<Extent>> {
            let cut = |r: &Range<u64>| r.start.max(range.start)..r.end.min(range.end);
            Ok(self.1.iter().map(|(r, zero)| Extent { range: cut(r), zero: *zero }).filter(|e| e.range.start < e.range.end).collect())
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            let at = usize::try_from(offset).expect("small");
            buf.copy_from_slice(&self.0[at..at + buf.len()]);
            Ok(())
        }
    }

    fn reader() -> RegionReader {
        RegionReader::new(Cutter::new(&[1; 16], ChunkSizes { min_blocks: 8, mean_blocks: 16, max_blocks: 32 }))
    }

    /// What a walk says of each block, as bytes.
    fn seen(reader: &mut RegionReader, source: &Told) -> Result<Vec<u8>> {
        let (runs, _) = reader.walk(source, 0, &[], &Dirty::All)?;
        Ok(runs.iter().fold(Vec::new(), |mut out, run| {
            match run {
                NewRun::Zero(n) => out.resize(out.len() + n * BLOCK_BYTES, 0),
                NewRun::New(r) => out.extend_from_slice(reader.content(r)),
                NewRun::Kept(_) => unreachable!("there is no old map"),
            }
            out
        }))
    }

    #[test]
    fn nothing_of_the_region_before_is_seen_in_holes_or_behind_the_end() {
        let mut reader = reader();
        let full = Told(vec![0xaa; REGION_BYTES as usize], vec![(0..REGION_BYTES, false)]);
        assert_eq!(seen(&mut reader, &full).expect("walks"), full.0);
        // Holes within blocks, and an end within one.
        let len = 9 * BLOCK_BYTES as u64 + 100;
        let told = vec![(0..1000, false), (1000..20_000, true), (20_000..len, false)];
        let sparse = Told(vec![0xbb; len as usize], told);
        let mut expected = vec![0xbb; 10 * BLOCK_BYTES];
        expected[1000..20_000].fill(0);
        expected[len as usize..].fill(0);
        assert_eq!(seen(&mut reader, &sparse).expect("walks"), expected);
    }

    #[test]
    fn a_source_that_leaves_a_part_out_is_an_error() {
        for told in [vec![], vec![(0..8192, false)], vec![(0..4096, false), (8192..40_960, false)], vec![(0..40_960, false), (0..40_960, false)]] {
            let source = Told(vec![1; 40_960], told);
            assert!(matches!(seen(&mut reader(), &source), Err(StoreError::Block { .. })), "{:?}", source.1);
        }
    }
}
