//! Reading a disk's tree: any node by its place, or all regions in order.

use crate::{Result, StoreError, resolve::decompressor, store::Inner};
use cairn_store_format::{
    FormatError,
    limits::{BRANCH_FANOUT, REGION_BYTES},
    map::{Branch, Ref, Region, root_level, span_bytes},
    pack::FrameKind,
};
use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};
use zstd::bulk::Decompressor;

/// Branch nodes kept; one spans 256 MiB or more and takes some 6 KiB.
const CACHED_BRANCHES_MAX: usize = 2048;

/// The tree of one disk of one point.
pub(crate) struct TreeReader {
    store: Arc<Inner>,
    root: Option<Ref>,
    pub(crate) level: u8,
    branches: Mutex<HashMap<(u8, u64), Arc<Branch>>>,
}

/// A region that is not all zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RegionAt {
    pub(crate) index: u64,
    pub(crate) node: Ref,
}

impl TreeReader {
    pub(crate) fn new(store: Arc<Inner>, root: Option<Ref>, size_bytes: u64) -> Result<Self> {
        Ok(Self { store, root, level: root_level(size_bytes)?, branches: Mutex::default() })
    }

    /// The node at (level, index); `None` where all is zero. Levels above the root are virtual: their first child is the root.
    pub(crate) fn node(&self, zstd: &mut Decompressor<'static>, level: u8, index: u64) -> Result<Option<Ref>> {
        if level >= self.level {
            return Ok(if index == 0 && level == self.level { self.root } else { None });
        }
        let (parent, child) = (index / BRANCH_FANOUT as u64, (index % BRANCH_FANOUT as u64) as usize);
        match self.branch(zstd, level + 1, parent)? {
            Some(b) => Ok(b.0[child]),
            None => Ok(None),
        }
    }

    /// The branch at (level, index), level >= 1.
    pub(crate) fn branch(&self, zstd: &mut Decompressor<'static>, level: u8, index: u64) -> Result<Option<Arc<Branch>>> {
        if level > self.level {
            // Virtual levels of a disk that has grown.
            let below = if index == 0 { self.virtual_root(level)? } else { None };
            return Ok(below.map(Arc::new));
        }
        if let Some(b) = self.branches.lock().unwrap_or_else(PoisonError::into_inner).get(&(level, index)) {
            return Ok(Some(b.clone()));
        }
        let Some(r) = self.node(zstd, level, index)? else { return Ok(None) };
        let plain = self.store.fetch(zstd, &r, FrameKind::Node, level)?;
        let branch = Arc::new(Branch::decode(&plain).map_err(|e| bad_node(&r, &e))?);
        let mut cache = self.branches.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHED_BRANCHES_MAX {
            cache.clear();
        }
        cache.insert((level, index), branch.clone());
        Ok(Some(branch))
    }

    /// A level above the root has one child, and only the level right above it has a stored one.
    fn virtual_root(&self, level: u8) -> Result<Option<Branch>> {
        if level != self.level + 1 || self.root.is_none() {
            return Ok(None);
        }
        let mut children = [None; BRANCH_FANOUT];
        children[0] = self.root;
        Ok(Some(Branch(children)))
    }

    /// A region's reference.
    pub(crate) fn region_ref(&self, zstd: &mut Decompressor<'static>, index: u64) -> Result<Option<Ref>> {
        if index >> (6 * u32::from(self.level)) > 0 { Ok(None) } else { self.node(zstd, 0, index) }
    }

    /// A region's node.
    pub(crate) fn region(&self, zstd: &mut Decompressor<'static>, r: &Ref) -> Result<Region> {
        load_region(&self.store, zstd, r)
    }

    /// All regions that are not zero, in order. What lies behind a node that cannot be read is one [`Step::Broken`]; the rest goes on.
    pub(crate) fn regions(self) -> impl Iterator<Item = Result<Step>> + Send {
        let stack = self.root.map(|r| (self.level, 0, r)).into_iter().collect::<Vec<_>>();
        Regions { tree: self, zstd: decompressor(), stack }
    }
}

/// A step through a tree's regions.
pub(crate) enum Step {
    /// A region that is not all zero.
    Region(RegionAt),
    /// Regions that cannot be told, and why.
    Broken(Range<u64>, StoreError),
}

/// Loads and checks a region node.
pub(crate) fn load_region(store: &Inner, zstd: &mut Decompressor<'static>, r: &Ref) -> Result<Region> {
    let plain = store.fetch(zstd, r, FrameKind::Node, 0)?;
    Region::decode(&plain).map_err(|e| bad_node(r, &e))
}

pub(crate) fn bad_node(r: &Ref, e: &FormatError) -> StoreError {
    StoreError::damaged(format_args!("map node {}", r.id), e)
}

struct Regions {
    tree: TreeReader,
    zstd: Decompressor<'static>,
    /// (level, index, node), next one last.
    stack: Vec<(u8, u64, Ref)>,
}

impl Iterator for Regions {
    type Item = Result<Step>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (level, index, node) = self.stack.pop()?;
            if level == 0 {
                return Some(Ok(Step::Region(RegionAt { index, node })));
            }
            let branch = self.tree.store.fetch(&mut self.zstd, &node, FrameKind::Node, level).and_then(|p| Branch::decode(&p).map_err(|e| bad_node(&node, &e)));
            match branch {
                Ok(b) => {
                    let children = b.0.into_iter().enumerate().rev();
                    self.stack.extend(children.filter_map(|(i, c)| Some((level - 1, index * BRANCH_FANOUT as u64 + i as u64, c?))));
                }
                Err(e) if e.is_damage() => {
                    let regions = span_bytes(level) / REGION_BYTES;
                    return Some(Ok(Step::Broken(index * regions..(index + 1).saturating_mul(regions), e)));
                }
                Err(e) => {
                    self.stack.clear();
                    return Some(Err(e));
                }
            }
        }
    }
}
