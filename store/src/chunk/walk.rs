//! The walk over a region's blocks, in full and as an increment.

use crate::Result;
use cairn_store_format::{limits::REGION_BLOCKS, map::Run};
use std::ops::Range;

/// Blocks of one region, by number; reads what it needs.
pub(crate) trait Blocks {
    /// All zero?
    fn is_zero(&mut self, block: usize) -> Result<bool>;
    /// May a chunk end after it? Asked only for blocks that are not zero.
    fn is_cut(&mut self, block: usize) -> Result<bool>;
    /// Smallest chunk that is cut by content.
    fn min_blocks(&self) -> usize;
    /// Largest chunk.
    fn max_blocks(&self) -> usize;
}

/// A run of the old map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) zero: bool,
}

/// A run of the new map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Piece {
    /// Zero blocks.
    Zero(usize),
    /// The old map's chunk run of this index, unchanged.
    Kept(usize),
    /// A chunk to be made from these blocks.
    New(usize, usize),
}

/// The old region's runs as spans, with the zero tail that every region implicitly has.
pub(crate) fn spans_of(runs: &[Run]) -> Vec<Span> {
    let mut out = Vec::with_capacity(runs.len() + 1);
    let mut at = 0;
    for r in runs {
        out.push(Span { start: at, end: at + r.blocks(), zero: matches!(r, Run::Zero(_)) });
        at += r.blocks();
    }
    if at < REGION_BLOCKS {
        out.push(Span { start: at, end: REGION_BLOCKS, zero: true });
    }
    out
}

/// One run from `start` on: all zeros, or one chunk.
fn next_run(blocks: &mut impl Blocks, start: usize) -> Result<Span> {
    let mut at = start;
    if blocks.is_zero(at)? {
        while at < REGION_BLOCKS && blocks.is_zero(at)? {
            at += 1;
        }
        return Ok(Span { start, end: at, zero: true });
    }
    while at < REGION_BLOCKS && !blocks.is_zero(at)? {
        at += 1;
        let len = at - start;
        if len == blocks.max_blocks() || (len >= blocks.min_blocks() && blocks.is_cut(at - 1)?) {
            break;
        }
    }
    Ok(Span { start, end: at, zero: false })
}

/// New runs of a region of which the `dirty` block ranges (sorted, disjoint) may have changed since `old`.
///
/// An increment starts at the chunk that holds the block *before* a dirty range (a chunk that ended at a zero block may go on now), walks
/// until a cut falls on an old cut behind the last dirty block, and merges dirty ranges that begin before that. Between its resync points
/// the map depends on nothing but the blocks, so the result equals a full walk.
pub(crate) fn rechunk(old: &[Span], dirty: &[Range<usize>], blocks: &mut impl Blocks) -> Result<Vec<Piece>> {
    let mut out = Pieces::default();
    let (mut at, mut next_old, mut next_dirty) = (0, 0, 0);
    while next_dirty < dirty.len() {
        let (from, mut until) = (dirty[next_dirty].start.max(at), dirty[next_dirty].end);
        if until <= at {
            next_dirty += 1;
            continue;
        }
        let start = if from > at { chunk_start_before(old, from).max(at) } else { from };
        out.copy(old, &mut next_old, at, start);
        at = start;
        while at < REGION_BLOCKS {
            while next_dirty < dirty.len() && dirty[next_dirty].start < at {
                until = until.max(dirty[next_dirty].end);
                next_dirty += 1;
            }
            if at >= until && at > from && is_cut_of(old, at) {
                break;
            }
            let run = next_run(blocks, at)?;
            out.push_new(run);
            at = run.end;
        }
    }
    out.copy(old, &mut next_old, at, REGION_BLOCKS);
    Ok(out.finish())
}

/// Start of the old chunk that holds the block before `block`; `block` itself where that is zero or in another region.
fn chunk_start_before(old: &[Span], block: usize) -> usize {
    if block == 0 {
        return 0;
    }
    let holder = span_at(old, block - 1);
    if holder.zero { block } else { holder.start }
}

fn span_at(old: &[Span], block: usize) -> Span {
    old[old.partition_point(|s| s.end <= block)]
}

/// A walk from here would go on as the old one did: an old run begins here, or we are inside an old zero run.
fn is_cut_of(old: &[Span], block: usize) -> bool {
    if block >= REGION_BLOCKS {
        return true;
    }
    let s = span_at(old, block);
    s.start == block || s.zero
}

#[derive(Default)]
struct Pieces(Vec<Piece>);

impl Pieces {
    fn push_zero(&mut self, len: usize) {
        match self.0.last_mut() {
            Some(Piece::Zero(n)) => *n += len,
            _ => self.0.push(Piece::Zero(len)),
        }
    }
    fn push_new(&mut self, run: Span) {
        if run.zero { self.push_zero(run.end - run.start) } else { self.0.push(Piece::New(run.start, run.end)) }
    }
    /// Takes over old runs of `from..to`; both are old cuts or lie in old zero runs.
    fn copy(&mut self, old: &[Span], next_old: &mut usize, from: usize, to: usize) {
        while *next_old < old.len() && old[*next_old].start < to {
            let s = old[*next_old];
            if s.end > from {
                if s.zero {
                    self.push_zero(s.end.min(to) - s.start.max(from));
                } else {
                    debug_assert!(s.start >= from && s.end <= to, "a chunk is kept whole or not at all");
                    self.0.push(Piece::Kept(*next_old));
                }
            }
            if s.end > to {
                break;
            }
            *next_old += 1;
        }
    }
    /// A region ends at its last block that is not zero.
    fn finish(mut self) -> Vec<Piece> {
        if matches!(self.0.last(), Some(Piece::Zero(_))) {
            self.0.pop();
        }
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Blocks as numbers: 0 is zero, a cut follows from the number alone.
    struct Numbers<'a>(&'a [u64]);
    impl Blocks for Numbers<'_> {
        fn is_zero(&mut self, b: usize) -> Result<bool> {
            Ok(self.0[b] == 0)
        }
        fn is_cut(&mut self, b: usize) -> Result<bool> {
            Ok(self.0[b].wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 < (u64::from(u32::MAX)) / 8)
        }
        fn min_blocks(&self) -> usize {
            8
        }
        fn max_blocks(&self) -> usize {
            32
        }
    }

    fn full(content: &[u64]) -> Vec<Piece> {
        let everything: Range<usize> = 0..REGION_BLOCKS;
        rechunk(&spans_of(&[]), &[everything], &mut Numbers(content)).expect("numbers do not fail")
    }

    /// As positions, whatever is kept or new.
    fn positions(old: &[Span], pieces: &[Piece]) -> Vec<Span> {
        let mut at = 0;
        pieces
            .iter()
            .map(|p| {
                let (len, zero) = match *p {
                    Piece::Zero(n) => (n, true),
                    Piece::Kept(i) => {
                        assert_eq!(old[i].start, at, "kept runs stay where they were");
                        (old[i].end - old[i].start, false)
                    }
                    Piece::New(s, e) => {
                        assert_eq!(s, at);
                        (e - s, false)
                    }
                };
                at += len;
                Span { start: at - len, end: at, zero }
            })
            .collect()
    }

    fn with_tail(mut spans: Vec<Span>) -> Vec<Span> {
        let at = spans.last().map_or(0, |s| s.end);
        if at < REGION_BLOCKS {
            spans.push(Span { start: at, end: REGION_BLOCKS, zero: true });
        }
        spans
    }

    /// Runs of one kind: long and short, many zero, few distinct values (so that cuts repeat).
    fn content() -> impl Strategy<Value = Vec<u64>> {
        prop::collection::vec((0u64..4, 1usize..60, prop::bool::ANY, any::<u64>()), 0..60).prop_map(|runs| {
            let mut out = Vec::with_capacity(REGION_BLOCKS);
            for (value, len, few, seed) in runs {
                for i in 0..len as u64 {
                    out.push(if value == 0 {
                        0
                    } else if few {
                        value
                    } else {
                        seed.wrapping_add(i).wrapping_mul(0x2545_f491_4f6c_dd1d) | 1
                    });
                }
            }
            out.resize(REGION_BLOCKS, 0);
            out
        })
    }

    /// (start, length, what is written there: zero, few values, random, or left as it was)
    fn writes() -> impl Strategy<Value = Vec<(usize, usize, u8, u64)>> {
        prop::collection::vec((0..REGION_BLOCKS, 1usize..80, 0u8..4, any::<u64>()), 1..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn an_increment_equals_a_full_walk(before in content(), generations in prop::collection::vec(writes(), 1..4)) {
            let mut now = before;
            let mut old = with_tail(positions(&[], &full(&now)));
            for writes in generations {
                let mut dirty = Vec::new();
                for (start, len, what, seed) in writes {
                    let end = (start + len).min(REGION_BLOCKS);
                    for (i, b) in now[start..end].iter_mut().enumerate() {
                        match what {
                            0 => *b = 0,
                            1 => *b = 1 + seed % 3,
                            2 => *b = seed.wrapping_add(i as u64) | 1,
                            _ => {}
                        }
                    }
                    dirty.push(start..end);
                }
                dirty.sort_by_key(|r| r.start);
                let mut merged: Vec<Range<usize>> = Vec::new();
                for r in dirty {
                    match merged.last_mut() {
                        Some(last) if r.start <= last.end => last.end = last.end.max(r.end),
                        _ => merged.push(r),
                    }
                }
                let pieces = rechunk(&old, &merged, &mut Numbers(&now)).expect("numbers do not fail");
                let increment = positions(&old, &pieces);
                prop_assert_eq!(&increment, &positions(&[], &full(&now)));
                old = with_tail(increment);
            }
        }
    }

    #[test]
    fn starting_at_the_dirty_block_would_be_wrong() {
        // A chunk of 3 blocks ends at a zero block; writing that block must make one chunk of 5.
        let mut c = vec![0; REGION_BLOCKS];
        c[..3].fill(2);
        c[4] = 2;
        let old = with_tail(positions(&[], &full(&c)));
        c[3] = 2;
        let dirty: Range<usize> = 3..4;
        let pieces = rechunk(&old, &[dirty], &mut Numbers(&c)).expect("numbers do not fail");
        assert_eq!(pieces, [Piece::New(0, 5)]);
    }
}
