//! Whether a list of what may have changed can be believed: the last data that it calls unchanged is looked at.
//!
//! Why: an image that is cut short and then grows again (`qemu-img resize --shrink`) has zeros behind the cut, and QEMU's dirty bitmap, cut and grown
//! with it, calls them unchanged. Whatever such a cut took lies behind it; so it took the last data that is said to be unchanged as well, or nothing
//! of it at all. One block tells.
//!
//! Invariants
//! - Only data is a witness: a block that is zero in the point would be as it was behind a cut, too.
//! - What cannot be read of the point bears no witness; what lies before it does. Nothing is reported: a backup only asks.
//! - Cost: a node a level and one chunk, unless what lies behind is dirty or unreadable: what is dirty as a whole is not looked into.

use crate::{
    BlockSource, Result, StoreError,
    resolve::decompressor,
    store::{Inner, Store},
    tree::bad_node,
};
use cairn_store_format::{
    limits::{BLOCK_BYTES, BRANCH_FANOUT, REGION_BYTES},
    map::{Branch, Ref, Region, Run, root_level, span_bytes},
    pack::FrameKind,
    register::DiskEntry,
};
use std::ops::Range;
use zstd::bulk::Decompressor;

impl Store {
    /// Where `now` is not what the point says, although no range of `dirty` (sorted, disjoint) has it; `None` where the list may be believed.
    pub fn contradiction(&self, base: &DiskEntry, now: &dyn BlockSource, dirty: &[Range<u64>]) -> Result<Option<u64>> {
        contradiction(&self.inner, base, now, dirty)
    }
}

/// [`Store::contradiction`].
pub(crate) fn contradiction(store: &Inner, base: &DiskEntry, now: &dyn BlockSource, dirty: &[Range<u64>]) -> Result<Option<u64>> {
    let Some(root) = base.root else { return Ok(None) };
    let end = base.size_bytes.min(now.size_bytes());
    let mut search = Search { store, zstd: decompressor(), now, dirty, end };
    // Children are put on it in order, so the last one comes first.
    let mut stack = vec![(root_level(base.size_bytes)?, 0_u64, root)];
    while let Some((level, index, node)) = stack.pop() {
        let start = index.saturating_mul(span_bytes(level));
        if search.is_dirty(&(start..start.saturating_add(span_bytes(level)).min(end))) {
            continue;
        }
        if level > 0 {
            let children = search.branch(level, &node)?.into_iter().flat_map(|branch| branch.0).enumerate();
            stack.extend(children.filter_map(|(i, child)| Some((level - 1, index * BRANCH_FANOUT as u64 + i as u64, child?))));
            continue;
        }
        match search.region(index, &node)? {
            Testimony::None => {}
            Testimony::Agrees => return Ok(None),
            Testimony::Contradicts(offset) => return Ok(Some(offset)),
        }
    }
    Ok(None)
}

enum Testimony {
    None,
    Agrees,
    Contradicts(u64),
}

struct Search<'a> {
    store: &'a Inner,
    zstd: Decompressor<'static>,
    now: &'a dyn BlockSource,
    dirty: &'a [Range<u64>],
    end: u64,
}

impl Search<'_> {
    /// Nothing of the range (which may be behind the end, and empty then) is said to be unchanged.
    fn is_dirty(&self, range: &Range<u64>) -> bool {
        self.clean(range).is_empty()
    }

    /// What of a range is said to be unchanged, in order.
    fn clean(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let (mut out, mut at) = (Vec::new(), range.start);
        let end = range.end.min(self.end);
        for dirty in &self.dirty[self.dirty.partition_point(|d| d.end <= range.start)..] {
            if dirty.start >= end {
                break;
            }
            if at < dirty.start {
                out.push(at..dirty.start);
            }
            at = at.max(dirty.end);
        }
        if at < end {
            out.push(at..end);
        }
        out
    }

    fn branch(&mut self, level: u8, node: &Ref) -> Result<Option<Branch>> {
        let plain = self.store.fetch_if_there(&mut self.zstd, node, FrameKind::Node, level)?;
        plain.map(|plain| Branch::decode(&plain).map_err(|e| bad_node(node, &e))).transpose()
    }

    fn region(&mut self, index: u64, node: &Ref) -> Result<Testimony> {
        let Some(plain) = self.store.fetch_if_there(&mut self.zstd, node, FrameKind::Node, 0)? else { return Ok(Testimony::None) };
        let Region(runs) = Region::decode(&plain).map_err(|e| bad_node(node, &e))?;
        let mut end = index * REGION_BYTES + runs.iter().map(|run| (run.blocks() * BLOCK_BYTES) as u64).sum::<u64>();
        for run in runs.iter().rev() {
            let start = end - (run.blocks() * BLOCK_BYTES) as u64;
            if let Run::Chunk(_, chunk) = run
                && !self.is_dirty(&(start..end))
            {
                match self.chunk(start, chunk)? {
                    Testimony::None => {}
                    told => return Ok(told),
                }
            }
            end = start;
        }
        Ok(Testimony::None)
    }

    /// The last block of a chunk that is not all zero where it is said to be unchanged.
    fn chunk(&mut self, start: u64, chunk: &Ref) -> Result<Testimony> {
        let Some(then) = self.store.fetch_if_there(&mut self.zstd, chunk, FrameKind::Chunk, 0)? else { return Ok(Testimony::None) };
        let inside = |at: u64| usize::try_from(at - start).expect("inside a chunk");
        for piece in self.clean(&(start..start + then.len() as u64)).into_iter().rev() {
            let Some(last) = then[inside(piece.start)..inside(piece.end)].iter().rposition(|byte| *byte != 0) else { continue };
            let last = piece.start + last as u64;
            let block = last / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
            let range = block.max(piece.start)..(block + BLOCK_BYTES as u64).min(piece.end);
            let mut now = [0; BLOCK_BYTES];
            let whole = &mut now[..usize::try_from((block + BLOCK_BYTES as u64).min(self.now.size_bytes()) - block).expect("a block")];
            self.now.read_at(block, whole).map_err(|source| StoreError::Block { what: format!("reading {} bytes at {block}", whole.len()), source })?;
            let at = |at: u64| usize::try_from(at - block).expect("inside a block");
            let is_same = whole[at(range.start)..at(range.end)] == then[inside(range.start)..inside(range.end)];
            return Ok(if is_same { Testimony::Agrees } else { Testimony::Contradicts(last) });
        }
        Ok(Testimony::None)
    }
}
