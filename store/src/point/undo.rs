//! Taking a forget back while the data is still there: a new point with the content of the forgotten one, and with what its log said of it.
//!
//! Order: 1 the new point is committed · 2 who finds others that took the same forget back forgets all but one · 3 protection · 4 tags · 5 note. If we
//! die after 1 or later: the point is there and lacks the rest, which can be set by hand; taking the same forget back again makes no second point.
//! Invariant: of several that take the same forget back at once one point stays: that of the lowest id among those that nobody protected, which all of
//! them see that commit after it.
//! Must not: report what is gone as damage. A collection has taken it, as it should.

use super::{Point, PointSet};
use crate::{BackupOutcome, DiskJob, Part, Plan, PointInfo, Progress, Result, StoreError, point_source::PointSource, resolve::decompressor, store::Store};
use cairn_store_format::{
    Location, PackId, PackKind, SessionId,
    manifest::Manifest,
    map::{Branch, Ref, Region, Run, root_level},
    name::parse_pack,
    pack::FrameKind,
    point_log::Action,
    register::{DiskEntry, DiskTable, decode_disks},
};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};
use zstd::bulk::Decompressor;

impl Store {
    /// Points that were forgotten and whose registers can be read, oldest first, with what can be read of their logs. [`TakeBack`] tells whether their data
    /// is still there.
    pub fn forgotten_points(&self) -> Result<Vec<Point>> {
        Ok(self.all_points()?.forgotten)
    }

    /// Living and forgotten points by one look at the store.
    pub fn all_points(&self) -> Result<AllPoints> {
        let mut set = PointSet::load(&self.inner)?;
        let damaged = std::mem::take(&mut set.damaged);
        let forgotten = set.forgotten_points(&self.inner)?;
        Ok(AllPoints { live: set.into_live(), forgotten, damaged })
    }

    /// Takes a forget back: a new point with the content of the forgotten one. What is still in the store is not stored again; if anything is
    /// gone, nothing is committed. Tags, note and protection are carried over as far as the log of the forgotten point can be read. It counts for the
    /// host that the forgotten one counted for.
    pub fn unforget(&self, point: &Point, progress: &Progress) -> Result<TakenBack> {
        let mut session = self.begin()?;
        session.host.clone_from(&point.summary.host);
        if !session.is_forgotten(&point.id) {
            return Err(StoreError::NotFound(format!("point {} was not forgotten", point.id)));
        }
        let manifest = self.manifest(point)?;
        let mut parts = Vec::new();
        for (name, part) in &manifest.parts {
            let bytes = self.part(&manifest, name)?.expect("the manifest names it");
            parts.push(Part { name: name.clone(), bytes, secret: part.secret });
        }
        let mut jobs = Vec::new();
        for d in self.disks(point)? {
            let source = Arc::new(PointSource::new(self, &d)?);
            jobs.push(DiskJob { target: d.target, source, plan: Plan::Full { reason: reason(&point.id) } });
        }
        let s = &point.summary;
        let tags = point.tags();
        // The summary has little room: what it had before fits in again.
        let (first, later): (Vec<String>, Vec<String>) = tags.into_iter().partition(|t| s.tags.contains(t));
        let info = || PointInfo {
            name: s.name.clone(),
            time_unix_ms: s.time_unix_ms,
            quiesce: s.quiesce.clone(),
            tags: first,
            warnings: manifest.warnings,
            source: manifest.source,
            parts,
            cairn_version: manifest.cairn_version,
        };
        let outcome = session.backup(&jobs, info, progress, || Ok(()))?;
        let stays = self.settle(point, &outcome.id).unwrap_or_else(|e| {
            tracing::warn!("whether others took the forget of {} back at the same moment cannot be told: {e}; 'cairn list' shows it", point.id);
            outcome.id
        });
        if stays != outcome.id {
            return Ok(TakenBack::ByAnother(stays));
        }
        self.carry_over(point, &outcome.id, &later);
        Ok(TakenBack::Now(outcome))
    }

    /// The one that stays of all points by which a forget was taken back.
    fn settle(&self, forgotten: &Point, own: &SessionId) -> Result<SessionId> {
        let mine = reason(&forgotten.id);
        let mut alike = Vec::new();
        for p in self.points()? {
            if p.summary.name == forgotten.summary.name && self.disks(&p)?.first().is_some_and(|d| d.reason == mine) {
                alike.push(p);
            }
        }
        let Some(stays) = alike.iter().find(|p| p.is_protected()).or_else(|| alike.iter().min_by_key(|p| p.id)).map(|p| p.id) else { return Ok(*own) };
        for p in alike.iter().filter(|p| p.id != stays) {
            match self.forget(p, 0, false) {
                // Protected meanwhile: somebody wants it.
                Ok(_) | Err(StoreError::Refused(_)) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(stays)
    }

    /// The point is back already, so what fails here is told and no more.
    fn carry_over(&self, old: &Point, new: &SessionId, tags: &[String]) {
        let mut entries = Vec::new();
        if old.is_protected() {
            entries.push((Action::Protect, ""));
        }
        entries.extend(tags.iter().map(|t| (Action::Tag, t.as_str())));
        if !old.note().is_empty() {
            entries.push((Action::Note, old.note()));
        }
        for (action, text) in entries {
            if let Err(e) = self.append(new, action, text) {
                tracing::warn!("point {new} was taken back, but lacks an entry of its log, {action:?} {}: {e}; set it again", text.escape_debug());
            }
        }
        if let Some(d) = &old.log_damage {
            tracing::warn!("point {new} was taken back, but tags, note or protection may be missing ({}); look and set them again", d.first());
        }
    }
}

/// What a point that was taken back says of its disks.
fn reason(forgotten: &SessionId) -> String {
    format!("taken back: {forgotten} was forgotten")
}

/// How a forget was taken back.
#[derive(Debug)]
pub enum TakenBack {
    /// By this point.
    Now(BackupOutcome),
    /// Another command did the same at the same moment, and its point stays.
    ByAnother(SessionId),
}

/// What [`Store::all_points`] finds.
pub struct AllPoints {
    /// Oldest first.
    pub live: Vec<Point>,
    /// Those that were forgotten and whose registers can be read, oldest first.
    pub forgotten: Vec<Point>,
    /// What of registers and logs of living points cannot be read.
    pub damaged: Vec<String>,
}

/// Finds out whether forgets can still be taken back. What points share is looked at once.
pub struct TakeBack<'a> {
    store: &'a Store,
    live: &'a [Point],
    zstd: Decompressor<'static>,
    /// Nodes below which everything is there.
    whole: HashSet<(Location, u8)>,
    packs: HashMap<PackId, bool>,
    in_trash: HashSet<PackId>,
}

impl<'a> TakeBack<'a> {
    /// For the points of a store, of which `live` are not forgotten. The trash, lists of moves and index files are looked through here, once for all
    /// points: each look lists whole folders of the store, and of a thousand forgotten points a thousand packs are gone.
    pub fn new(store: &'a Store, live: &'a [Point]) -> Result<Self> {
        let inner = &*store.inner;
        inner.refresh_relocations()?;
        inner.refresh_index()?;
        let mut in_trash = HashSet::new();
        for round in inner.platform.list_dirs("trash")? {
            let names = inner.platform.list(&format!("trash/{round}"))?;
            in_trash.extend(names.iter().flat_map(|n| [PackKind::Data, PackKind::Meta].into_iter().filter_map(|kind| parse_pack(n.file(), kind))));
        }
        Ok(Self { store, live, zstd: decompressor(), whole: HashSet::new(), packs: HashMap::new(), in_trash })
    }

    /// The living point that has the name, the time and the content of this one: its forget was taken back before.
    pub fn done_before(&mut self, forgotten: &Point) -> Result<Option<SessionId>> {
        let s = &forgotten.summary;
        let alike = |p: &&Point| p.summary.name == s.name && p.summary.time_unix_ms == s.time_unix_ms && p.summary.size_bytes == s.size_bytes;
        let same: Vec<&Point> = self.live.iter().filter(alike).collect();
        if same.is_empty() {
            return Ok(None);
        }
        let content = |disks: Vec<DiskEntry>| disks.into_iter().map(|d| (d.target, d.size_bytes, d.root.map(|r| r.id))).collect::<Vec<_>>();
        let Some(mine) = self.disks(forgotten)?.map(content) else { return Ok(None) };
        for p in same {
            if self.disks(p)?.map(content).is_some_and(|theirs| theirs == mine) {
                return Ok(Some(p.id));
            }
        }
        Ok(None)
    }

    /// A point's disks; `None` where they cannot be had any more.
    fn disks(&mut self, p: &Point) -> Result<Option<Vec<DiskEntry>>> {
        match &p.body.disks {
            DiskTable::Inline(d) => Ok(Some(d.clone())),
            DiskTable::Frame(r) => {
                let plain = self.fetch(r, FrameKind::DiskTable, 0)?;
                Ok(plain.and_then(|plain| decode_disks(&plain).ok()))
            }
        }
    }

    /// Whether all that the point refers to can be found, by the packs that are there: nothing but maps is read.
    pub fn is_possible(&mut self, forgotten: &Point) -> Result<bool> {
        let Some(r) = &forgotten.body.manifest else { return Ok(false) };
        let Some(plain) = self.fetch(r, FrameKind::Manifest, 0)? else { return Ok(false) };
        let Ok(manifest) = Manifest::decode(&plain) else { return Ok(false) };
        for part in manifest.parts.values() {
            if !part.to_ref().is_ok_and(|r| self.frame_is_there(&r).unwrap_or(false)) {
                return Ok(false);
            }
        }
        let Some(disks) = self.disks(forgotten)? else { return Ok(false) };
        for d in disks {
            if let Some(root) = d.root
                && !self.tree_is_there(root, root_level(d.size_bytes)?)?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn tree_is_there(&mut self, root: Ref, level: u8) -> Result<bool> {
        let (mut todo, mut seen) = (vec![(root, level)], Vec::new());
        while let Some((r, level)) = todo.pop() {
            if self.whole.contains(&(r.at, level)) {
                continue;
            }
            let Some(plain) = self.fetch(&r, FrameKind::Node, level)? else { return Ok(false) };
            if level > 0 {
                let Ok(branch) = Branch::decode(&plain) else { return Ok(false) };
                todo.extend(branch.0.into_iter().flatten().map(|child| (child, level - 1)));
            } else {
                let Ok(region) = Region::decode(&plain) else { return Ok(false) };
                for run in region.0 {
                    if let Run::Chunk(_, chunk) = run
                        && !self.frame_is_there(&chunk)?
                    {
                        return Ok(false);
                    }
                }
            }
            seen.push((r.at, level));
        }
        // Only now: nothing below any of them is missing.
        self.whole.extend(seen);
        Ok(true)
    }

    /// A frame, unless its packs are gone: then nobody looks for other copies of it.
    fn fetch(&mut self, r: &Ref, kind: FrameKind, level: u8) -> Result<Option<Vec<u8>>> {
        // Asked for where it is: who asks for it in a pack that is gone has all registers listed for newer lists of moves.
        let Some(at) = self.place(r)? else { return Ok(None) };
        self.store.inner.fetch_if_there(&mut self.zstd, &Ref { id: r.id, at }, kind, level)
    }

    fn frame_is_there(&mut self, r: &Ref) -> Result<bool> {
        Ok(self.place(r)?.is_some())
    }

    /// Where a frame is: in its pack, here or in the trash; else where it was moved to, or where the index has it.
    fn place(&mut self, r: &Ref) -> Result<Option<Location>> {
        if self.pack_is_there(&r.at.pack)? {
            return Ok(Some(r.at));
        }
        let indexed = self.store.inner.locate(&r.id).ok().flatten();
        for at in self.store.inner.relocations.ends(&r.at).into_iter().chain(indexed) {
            if self.pack_is_there(&at.pack)? {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    fn pack_is_there(&mut self, pack: &PackId) -> Result<bool> {
        if let Some(known) = self.packs.get(pack) {
            return Ok(*known);
        }
        let there = self.in_trash.contains(pack) || self.store.inner.pack_exists(pack)?;
        self.packs.insert(*pack, there);
        Ok(there)
    }
}
