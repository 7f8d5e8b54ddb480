//! Keeping the counts in step with the set of points.
//!
//! A point that is new costs what its maps do not share with those that count already: a node that is counted is not read again. A point that is gone
//! costs what was its own, and none of it is read from the store: what its nodes name is in the ledger.
//!
//! Must not: know relocations. Places are counted as maps name them.

use super::ledger::{Below, Ledger, Place};
use crate::{
    Progress, Result, StoreError,
    point::{self, Point},
    resolve::decompressor,
    store::Inner,
};
use cairn_store_format::{
    SessionId,
    manifest::Manifest,
    map::{Branch, Ref, Region, Run, root_level},
    pack::FrameKind,
    register::DiskTable,
};
use zstd::bulk::Decompressor;

/// Counts into one transaction.
pub(super) struct Counter<'a, 't> {
    store: &'a Inner,
    pub(super) ledger: &'a mut Ledger<'t>,
    progress: &'a Progress,
    zstd: Decompressor<'static>,
    /// What could not be read: what lies below is missing from the counts, so these must not be kept.
    pub(super) damage: Vec<String>,
}

impl<'a, 't> Counter<'a, 't> {
    pub(super) fn new(store: &'a Inner, ledger: &'a mut Ledger<'t>, progress: &'a Progress) -> Self {
        Self { store, ledger, progress, zstd: decompressor(), damage: Vec::new() }
    }

    /// Counts a point.
    pub(super) fn add_point(&mut self, p: &Point) -> Result<()> {
        let mut out = Below::default();
        if let Some(r) = &p.body.manifest {
            self.leaf(r, 0, &mut out)?;
            let manifest = self.store.fetch(&mut self.zstd, r, FrameKind::Manifest, 0).and_then(|plain| Ok(Manifest::decode(&plain)?));
            for part in self.or_damage(manifest)?.into_iter().flat_map(|m| m.parts.into_values()) {
                self.leaf(&part.to_ref()?, 0, &mut out)?;
            }
        }
        if let DiskTable::Frame(r) = &p.body.disks {
            self.leaf(r, 0, &mut out)?;
        }
        let disks = point::disks(self.store, p);
        for d in self.or_damage(disks)?.unwrap_or_default() {
            let level = root_level(d.size_bytes)?;
            if let Some(root) = d.root {
                self.node(level, &root, &mut out)?;
            }
        }
        self.ledger.put_point(&p.id, &out)
    }

    fn leaf(&mut self, r: &Ref, blocks: u16, above: &mut Below) -> Result<()> {
        let place = self.ledger.place(&r.at)?;
        self.ledger.add(place, r.at.stored_len, blocks)?;
        above.children.push(place);
        above.blocks += u64::from(blocks);
        Ok(())
    }

    fn node(&mut self, level: u8, r: &Ref, above: &mut Below) -> Result<()> {
        let place = self.ledger.place(&r.at)?;
        above.children.push(place);
        if !self.ledger.add(place, r.at.stored_len, 0)? {
            above.blocks += self.ledger.node_blocks(place)?;
            return Ok(());
        }
        self.progress.check()?;
        let plain = self.store.fetch(&mut self.zstd, r, FrameKind::Node, level);
        let mut out = Below::default();
        if level == 0 {
            let region = plain.and_then(|p| Ok(Region::decode(&p)?));
            for run in self.or_damage(region)?.unwrap_or_default().0 {
                if let Run::Chunk(blocks, r) = run {
                    self.leaf(&r, blocks, &mut out)?;
                }
            }
        } else {
            let branch = plain.and_then(|p| Ok(Branch::decode(&p)?));
            for child in self.or_damage(branch)?.iter().flat_map(Branch::refs) {
                self.node(level - 1, child, &mut out)?;
            }
        }
        above.blocks += out.blocks;
        self.ledger.put_node(place, &out)
    }

    fn or_damage<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(v) => Ok(Some(v)),
            Err(e @ (StoreError::Damaged { .. } | StoreError::Format(_))) => {
                self.damage.push(e.to_string());
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// Counts a point no longer.
    pub(super) fn remove_point(&mut self, id: &SessionId) -> Result<()> {
        let Some(point) = self.ledger.point(id)? else { return Ok(()) };
        self.ledger.remove_point(id)?;
        let mut todo: Vec<Place> = point.children;
        while let Some(place) = todo.pop() {
            // Only nodes have children, and a node goes with the last that names it.
            if self.ledger.subtract(place)?.is_some_and(|e| !e.is_chunk())
                && let Some(node) = self.ledger.node(place)?
            {
                self.ledger.remove_node(place)?;
                todo.extend(node.children);
            }
        }
        Ok(())
    }
}
