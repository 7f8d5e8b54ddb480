//! Where two disks of one store differ, by their trees: subtrees of one id are equal and are not entered.
//!
//! Invariants
//! - What is not in a range is equal in both disks, byte for byte. The shorter disk counts as followed by zeros.
//! - A range begins and ends where a chunk or a zero run does, so it may hold equal bytes; a region (4 MiB) that is equal is in none.
//! - Ranges come in order and never touch. Memory: the children along one path of each tree, and the runs of one region.
//!
//! What it must not do: read chunks, or guess where a node cannot be read (that is an error).

use super::load_region;
use crate::{
    Result,
    resolve::decompressor,
    store::{Inner, Store},
};
use cairn_store_format::{
    Id,
    limits::{BLOCK_BYTES, BRANCH_FANOUT, REGION_BLOCKS, REGION_BYTES},
    map::{Branch, Ref, Region, Run, root_level},
    pack::FrameKind,
    register::DiskEntry,
};
use std::{collections::VecDeque, ops::Range, sync::Arc};
use zstd::bulk::Decompressor;

/// A subtree and the level that it is stored at; a small disk's root stands for the first child of all levels above it. `None`: all zero.
type Side = Option<(Ref, u8)>;

/// The same place in both trees.
struct Pair {
    level: u8,
    index: u64,
    sides: [Side; 2],
}

/// Ranges in which two disks differ, in bytes. An error ends it.
pub struct DiskDiff {
    store: Arc<Inner>,
    zstd: Decompressor<'static>,
    /// Next one last.
    stack: Vec<Pair>,
    /// Differing parts of the last region.
    ready: VecDeque<Range<u64>>,
    /// May still grow.
    pending: Option<Range<u64>>,
    end: u64,
    nodes_read: u64,
}

impl Store {
    /// Compares two disks of this store, of any points and sizes.
    pub fn diff(&self, a: &DiskEntry, b: &DiskEntry) -> Result<DiskDiff> {
        let (level_a, level_b) = (root_level(a.size_bytes)?, root_level(b.size_bytes)?);
        let sides = [a.root.map(|r| (r, level_a)), b.root.map(|r| (r, level_b))];
        let top = Pair { level: level_a.max(level_b), index: 0, sides };
        let end = a.size_bytes.max(b.size_bytes);
        let store = self.inner.clone();
        Ok(DiskDiff { store, zstd: decompressor(), stack: vec![top], ready: VecDeque::new(), pending: None, end, nodes_read: 0 })
    }
}

impl DiskDiff {
    /// Nodes of both trees that were read so far.
    pub fn nodes_read(&self) -> u64 {
        self.nodes_read
    }

    fn enter(&mut self, pair: &Pair) -> Result<()> {
        let [a, b] = &pair.sides;
        if is_same(a.as_ref(), b.as_ref()) {
            return Ok(());
        }
        if pair.level > 0 {
            let (a, b) = (self.children(*a, pair.level)?, self.children(*b, pair.level)?);
            let below = |i: usize| Pair { level: pair.level - 1, index: pair.index * BRANCH_FANOUT as u64 + i as u64, sides: [a[i], b[i]] };
            self.stack.extend((0..BRANCH_FANOUT).rev().filter(|i| !is_same(a[*i].as_ref(), b[*i].as_ref())).map(below));
            return Ok(());
        }
        let (a, b) = (spans(&self.region(*a)?), spans(&self.region(*b)?));
        let start = pair.index * REGION_BYTES;
        let end = self.end;
        let bytes = |r: Range<usize>| start + (r.start * BLOCK_BYTES) as u64..(start + (r.end * BLOCK_BYTES) as u64).min(end);
        self.ready.extend(differing(&a, &b).into_iter().map(bytes).filter(|r| r.start < r.end));
        Ok(())
    }

    fn children(&mut self, side: Side, level: u8) -> Result<[Side; BRANCH_FANOUT]> {
        let mut out = [None; BRANCH_FANOUT];
        match side {
            None => {}
            Some((_, stored)) if stored < level => out[0] = side,
            Some((r, _)) => {
                self.nodes_read += 1;
                let plain = self.store.fetch(&mut self.zstd, &r, FrameKind::Node, level)?;
                let branch = Branch::decode(&plain).map_err(|e| super::reader::bad_node(&r, &e))?;
                for (to, child) in out.iter_mut().zip(branch.0) {
                    *to = child.map(|r| (r, level - 1));
                }
            }
        }
        Ok(out)
    }

    fn region(&mut self, side: Side) -> Result<Region> {
        let Some((r, _)) = side else { return Ok(Region::default()) };
        self.nodes_read += 1;
        load_region(&self.store, &mut self.zstd, &r)
    }
}

impl Iterator for DiskDiff {
    type Item = Result<Range<u64>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            while let Some(r) = self.ready.pop_front() {
                match &mut self.pending {
                    Some(last) if last.end == r.start => last.end = r.end,
                    Some(_) => return self.pending.replace(r).map(Ok),
                    None => self.pending = Some(r),
                }
            }
            let Some(pair) = self.stack.pop() else { return self.pending.take().map(Ok) };
            if let Err(e) = self.enter(&pair) {
                self.stack.clear();
                self.pending = None;
                return Some(Err(e));
            }
        }
    }
}

/// Ids say nothing of hints, and are over kind, level and content.
fn is_same(a: Option<&(Ref, u8)>, b: Option<&(Ref, u8)>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some((a, level_a)), Some((b, level_b))) => level_a == level_b && a.id == b.id,
        _ => false,
    }
}

/// A run with its place.
struct Span {
    blocks: Range<usize>,
    /// `None`: zero.
    id: Option<Id>,
}

/// All blocks of a region, with the zero tail that it implicitly has.
fn spans(region: &Region) -> Vec<Span> {
    let (mut out, mut at) = (Vec::with_capacity(region.0.len() + 1), 0);
    for run in &region.0 {
        let id = match run {
            Run::Zero(_) => None,
            Run::Chunk(_, r) => Some(r.id),
        };
        out.push(Span { blocks: at..at + run.blocks(), id });
        at += run.blocks();
    }
    if at < REGION_BLOCKS {
        out.push(Span { blocks: at..REGION_BLOCKS, id: None });
    }
    out
}

/// Blocks that are not told to be equal, in order, joined.
fn differing(a: &[Span], b: &[Span]) -> Vec<Range<usize>> {
    let (mut out, mut i, mut j): (Vec<Range<usize>>, _, _) = (Vec::new(), 0, 0);
    while i < a.len() && j < b.len() {
        let (x, y) = (&a[i], &b[j]);
        let both = x.blocks.start.max(y.blocks.start)..x.blocks.end.min(y.blocks.end);
        let same = match (&x.id, &y.id) {
            (None, None) => true,
            (Some(p), Some(q)) => p == q && x.blocks == y.blocks,
            _ => false,
        };
        match out.last_mut() {
            _ if same => {}
            Some(last) if last.end == both.start => last.end = both.end,
            _ => out.push(both.clone()),
        }
        i += usize::from(x.blocks.end == both.end);
        j += usize::from(y.blocks.end == both.end);
    }
    out
}
