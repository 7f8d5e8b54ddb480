//! Packs that are missing and that no index file names, as far as registers tell: manifests, disk tables, roots of maps.
//!
//! Registers are read by each scrub anyway. Which packs the maps below lead to is what `verify --all` and collections find out by walking them: a scrub that
//! walked all maps would read most metadata twice.

use super::{Finding, Indexed, Scrub};
use crate::{
    Result,
    damage::whole_pack,
    point::{Point, PointSet, log_forgets},
    store::Inner,
};
use cairn_store_format::{Location, ObjectName, PackId, register::DiskTable};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

impl Scrub<'_> {
    /// Packs that registers of living points name, that are not there, and that `missing` has not told of.
    pub(super) fn referenced(&self, known: &HashMap<PackId, Indexed>, there: &BTreeSet<PackId>) -> Result<Vec<Finding>> {
        let Some(store) = self.keyed else { return Ok(Vec::new()) };
        let points = PointSet::load(store)?;
        let mut gone: BTreeMap<PackId, &Point> = BTreeMap::new();
        for p in points.live() {
            for at in places(p) {
                if !there.contains(&at.pack) && !known.contains_key(&at.pack) && !gone.contains_key(&at.pack) && !is_somewhere(store, &at)? {
                    gone.insert(at.pack, p);
                }
            }
        }
        let mut out = Vec::new();
        for (pack, p) in gone {
            // Forgotten and collected since its register was listed.
            if self.platform.size(&ObjectName::tombstone(&p.id))?.is_some() || log_forgets(store, &p.id)? {
                continue;
            }
            self.report(&whole_pack(pack), "the pack is missing");
            let why = format!("point {} of {} refers to it, and it is missing", p.id, p.summary.name.escape_debug());
            out.push(Finding { object: ObjectName::pack(&pack)[0].to_string(), offset: None, why });
        }
        Ok(out)
    }
}

/// Where a register says that what it refers to lies.
fn places(p: &Point) -> Vec<Location> {
    let mut out: Vec<Location> = p.body.manifest.iter().map(|r| r.at).collect();
    match &p.body.disks {
        DiskTable::Frame(r) => out.push(r.at),
        DiskTable::Inline(disks) => out.extend(disks.iter().filter_map(|d| Some(d.root?.at))),
    }
    out
}

/// Whether a place, or one that it was moved to, lies in a pack that is there now.
fn is_somewhere(store: &Inner, at: &Location) -> Result<bool> {
    let (mut todo, mut seen) = (vec![*at], HashSet::new());
    while let Some(at) = todo.pop() {
        if seen.insert(at) {
            if store.pack_exists(&at.pack)? {
                return Ok(true);
            }
            todo.extend(store.moved_to(&at)?);
        }
    }
    Ok(false)
}
