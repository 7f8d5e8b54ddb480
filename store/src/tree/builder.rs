//! Building a disk's tree from its parent's: regions come in order, branches are closed as soon as they are passed, and every node that
//! equals the parent's at the same place is inherited with its hint.
//!
//! Nodes are never looked up by id in other trees: a node found there could lead into packs that a GC has condemned.

use super::TreeReader;
use crate::{
    Result,
    crypto::{Keys, Sealer},
    pack::{META_ZSTD_LEVEL, PackStream},
    resolve::decompressor,
};
use cairn_store_format::{
    limits::BRANCH_FANOUT,
    map::{Branch, Ref, branch_canonical, root_level, span_bytes},
    pack::FrameKind,
};
use std::sync::Arc;
use zstd::bulk::Decompressor;

struct OpenBranch {
    index: u64,
    changed: Vec<(usize, Option<Ref>)>,
}

/// Writes one tree.
pub(crate) struct TreeBuilder {
    keys: Arc<Keys>,
    parent: Option<Arc<TreeReader>>,
    level: u8,
    size_bytes: u64,
    /// `open[l - 1]` is the branch of level `l` that the regions are passing through.
    open: Vec<Option<OpenBranch>>,
    root: Option<Ref>,
    root_changed: bool,
    sealer: Sealer,
    zstd: Decompressor<'static>,
}

impl TreeBuilder {
    pub(crate) fn new(keys: Arc<Keys>, parent: Option<Arc<TreeReader>>, size_bytes: u64) -> Result<Self> {
        let level = root_level(size_bytes)?;
        let sealer = Sealer::new(keys.family(), META_ZSTD_LEVEL);
        let open = (0..level).map(|_| None).collect();
        Ok(Self { keys, parent, level, size_bytes, open, root: None, root_changed: false, sealer, zstd: decompressor() })
    }

    /// Sets a region; they come in rising order. Regions not set are the parent's.
    pub(crate) fn set(&mut self, stream: &mut PackStream, region: u64, node: Option<Ref>) -> Result<()> {
        self.put(stream, 0, region, node)
    }

    fn put(&mut self, stream: &mut PackStream, level: u8, index: u64, node: Option<Ref>) -> Result<()> {
        if level == self.level {
            debug_assert_eq!(index, 0);
            (self.root, self.root_changed) = (node, true);
            return Ok(());
        }
        let (above, child) = (index / BRANCH_FANOUT as u64, (index % BRANCH_FANOUT as u64) as usize);
        let slot = usize::from(level);
        if self.open[slot].as_ref().is_some_and(|b| b.index != above) {
            self.close(stream, level + 1)?;
        }
        self.open[slot].get_or_insert_with(|| OpenBranch { index: above, changed: Vec::new() }).changed.push((child, node));
        Ok(())
    }

    /// Closes the open branch of `level`: parent's children, ours over them, nothing beyond the disk's end.
    fn close(&mut self, stream: &mut PackStream, level: u8) -> Result<()> {
        let Some(open) = self.open[usize::from(level) - 1].take() else { return Ok(()) };
        let old = match &self.parent {
            Some(p) => p.branch(&mut self.zstd, level, open.index)?,
            None => None,
        };
        let mut children = old.as_ref().map_or([None; BRANCH_FANOUT], |b| b.0);
        for (i, child) in children.iter_mut().enumerate() {
            let start = (open.index * BRANCH_FANOUT as u64 + i as u64).saturating_mul(span_bytes(level - 1));
            if start >= self.size_bytes {
                *child = None;
            }
        }
        for (i, node) in open.changed {
            children[i] = node;
        }
        // With their hints: a healed node has the old id at another place.
        let same = old.as_ref().is_some_and(|b| b.0 == children);
        let inherited = match (&self.parent, same) {
            (Some(p), true) if level <= p.level => p.node(&mut self.zstd, level, open.index)?,
            _ => None,
        };
        let node = match inherited {
            Some(r) => Some(r),
            None if children.iter().all(Option::is_none) => None,
            None => Some(self.write(stream, level, &Branch(children))?),
        };
        self.put(stream, level, open.index, node)
    }

    fn write(&mut self, stream: &mut PackStream, level: u8, branch: &Branch) -> Result<Ref> {
        let id = self.keys.content_id(FrameKind::Node, level, &branch_canonical(branch));
        let frame = self.sealer.seal(id, FrameKind::Node, level, &branch.encode(), stream.meta_key(false).as_ref());
        Ok(Ref { id, at: stream.put_meta(&frame)? })
    }

    /// Closes everything; returns the root.
    pub(crate) fn finish(mut self, stream: &mut PackStream) -> Result<Option<Ref>> {
        for level in 1..=self.level {
            self.close(stream, level)?;
        }
        if self.root_changed || self.size_bytes == 0 {
            return Ok(self.root);
        }
        match &self.parent {
            Some(p) => p.node(&mut self.zstd, self.level, 0),
            None => Ok(None),
        }
    }
}
