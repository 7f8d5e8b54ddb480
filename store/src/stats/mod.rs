//! Statistics: how much a store holds, how much of it is shared, what is waste, what each name and each point would free.
//!
//! `ledger` keeps, on this host, how many times each place in packs is named by the maps of points; `count` keeps it in step with the points that exist;
//! `moved` lays relocations over it; `stock` looks at the packs; `sizes` takes points away on paper. See docs/statistics.md for what a figure means and what
//! it costs.
//!
//! Invariants:
//! - The figures are those of the points that a fresh list shows, whatever the cache held before.
//! - What could not be read is named, and counts with something missing are never kept.
//!
//! Must not: write to the store, or decide what may be deleted. That is the collection's, from its own walk.

mod count;
mod ledger;
mod moved;
#[cfg(test)]
mod scale;
mod sizes;
mod stock;
#[cfg(test)]
mod tests;

use crate::{
    GcOptions, Progress, Result, StoreError,
    index::{is_damage, remove_database},
    point::{Point, PointSet},
    store::{Inner, Store},
};
use cairn_store_format::{PackId, PackKind, SessionId, limits::BLOCK_BYTES};
use count::Counter;
use ledger::Ledger;
use moved::Moved;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
};

/// Points are counted in transactions of so much time: what was done is kept when the count is interrupted, and another process waits no longer.
const BATCH_MS: u64 = 2000;
const DAY_MS: u64 = 24 * 3_600_000;
/// Windows of growth.
const WINDOWS_DAYS: [u64; 2] = [7, 30];

/// What points stored within some days up to now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Growth {
    /// Length of the window.
    pub days: u64,
    /// Points taken in it.
    pub points: u64,
    /// What they stored, by their own record.
    pub stored_bytes: u64,
    /// The same by day; a history that is younger than the window counts with its own length, at least a day.
    pub per_day_bytes: u64,
}

/// All points of a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NameStatistics {
    /// Domain or image.
    pub name: String,
    /// Points.
    pub points: u64,
    /// Time of the newest, Unix milliseconds.
    pub newest_unix_ms: u64,
    /// Sizes of all disks of all its points, bytes.
    pub size_bytes: u64,
    /// The same without what is zero.
    pub data_bytes: u64,
    /// Stored bytes that no other name uses: free if all points of this name go.
    pub unique_bytes: u64,
    /// What its points stored lately.
    pub growth: Vec<Growth>,
}

/// Room that no point needs.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Waste {
    /// Packs that nothing uses.
    pub unused_packs: u64,
    /// Their bytes, all copies.
    pub unused_bytes: u64,
    /// Packs of which less than half is in use: a collection rewrites them.
    pub thin_packs: u64,
    /// Bytes of unused frames in them, all copies.
    pub thin_dead_bytes: u64,
    /// Bytes of unused frames in all packs that are in use, all copies.
    pub dead_bytes: u64,
    /// Packs of sessions that have not ended, or broke off and were not fenced yet.
    pub unfinished_packs: u64,
    /// Their bytes, all copies.
    pub unfinished_bytes: u64,
    /// Files in the trash.
    pub trash_files: u64,
    /// Their bytes.
    pub trash_bytes: u64,
}

/// Figures of a whole store. Bytes of frames include their headers.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Statistics {
    /// Points.
    pub points: u64,
    /// Sessions that ended, whatever as.
    pub sessions: u64,
    /// Sizes of all disks of all points, bytes.
    pub size_bytes: u64,
    /// The same without what is zero.
    pub data_bytes: u64,
    /// Chunks in use.
    pub chunks: u64,
    /// Their plain bytes.
    pub chunk_plain_bytes: u64,
    /// Their frames in packs, bytes.
    pub chunk_stored_bytes: u64,
    /// Data packs.
    pub data_packs: u64,
    /// Their bytes.
    pub data_pack_bytes: u64,
    /// Metadata packs.
    pub meta_packs: u64,
    /// Their bytes, one copy of each.
    pub meta_pack_bytes: u64,
    /// Bytes of their second copies.
    pub meta_copy_bytes: u64,
    /// Room that no point needs; it is part of the packs above, but for the trash.
    pub waste: Waste,
    /// What points stored lately.
    pub growth: Vec<Growth>,
    /// By name, in its order.
    pub names: Vec<NameStatistics>,
    /// What could not be read: what lies below is missing in the figures.
    pub damage: Vec<String>,
}

impl Statistics {
    /// All packs with all copies, without the trash.
    pub fn stored_bytes(&self) -> u64 {
        self.data_pack_bytes + self.meta_pack_bytes + self.meta_copy_bytes
    }
    /// Data of all points to chunks in use; `None` where there is nothing to compare.
    pub fn dedup_ratio(&self) -> Option<f64> {
        ratio(self.data_bytes, self.chunk_plain_bytes)
    }
    /// Chunks in use, plain to stored.
    pub fn compression_ratio(&self) -> Option<f64> {
        ratio(self.chunk_plain_bytes, self.chunk_stored_bytes)
    }
    /// Data of all points to all that lies in packs, waste and copies included.
    pub fn overall_ratio(&self) -> Option<f64> {
        ratio(self.data_bytes, self.stored_bytes())
    }
}

fn ratio(a: u64, b: u64) -> Option<f64> {
    (b > 0).then(|| a as f64 / b as f64)
}

/// What would be free if points went, each on its own.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct PointSizes {
    /// Stored bytes that only this point uses.
    pub points: HashMap<SessionId, u64>,
    /// Stored bytes that only this name's points use.
    pub names: BTreeMap<String, u64>,
    /// What could not be read: what lies below is missing in the figures.
    pub damage: Vec<String>,
}

impl Store {
    /// Figures of the whole store. The first call on a host walks all maps, later ones what is new.
    pub fn statistics(&self, progress: &Progress) -> Result<Statistics> {
        counted(&self.inner, progress, &mut |view| view.statistics(progress))
    }

    /// What would be free if each of these points went, and if all points of their names went. Points that are not there (any more) are left out.
    pub fn point_sizes(&self, points: &[SessionId], progress: &Progress) -> Result<PointSizes> {
        counted(&self.inner, progress, &mut |view| view.sizes(points, progress))
    }
}

/// The counts of exactly the points of `set`.
struct View<'a, 't> {
    store: &'a Inner,
    set: &'a PointSet,
    ledger: &'a mut Ledger<'t>,
    packs: BTreeMap<PackId, u64>,
    moved: Moved,
    damage: Vec<String>,
}

type Work<'w, T> = &'w mut dyn FnMut(&mut View<'_, '_>) -> Result<T>;

/// Brings the ledger up to date and works on it. A cache that proves useless is made anew, once.
fn counted<T>(store: &Inner, progress: &Progress, work: Work<'_, T>) -> Result<T> {
    let path = store.index.beside("stats");
    let set = PointSet::load(store)?;
    let mut anew = false;
    loop {
        let mut db = ledger::open(&path)?;
        if anew {
            ledger::prepare(&db, true).map_err(|e| ledger::fail(&path, e))?;
        }
        let tried = try_counted(store, &set, &mut db, &path, progress, work);
        drop(db);
        match tried {
            Ok(Some(out)) => return Ok(out),
            Err(StoreError::Index { source, .. }) if !anew && is_damage(&source) => remove_database(&path),
            Err(e) => return Err(e),
            Ok(None) if anew => {
                return Err(StoreError::damaged(path.display(), "its counts contradict each other, even when made anew; delete this file, it is a cache"));
            }
            Ok(None) => {}
        }
        tracing::warn!("statistics cache {} is of no use and is made anew", path.display());
        anew = true;
    }
}

/// `None` where the counts contradict each other.
fn try_counted<T>(store: &Inner, set: &PointSet, db: &mut rusqlite::Connection, path: &Path, progress: &Progress, work: Work<'_, T>) -> Result<Option<T>> {
    // First what is new, in several transactions; then, in one, what is gone, what came to differ meanwhile, and the work itself: processes that see
    // different sets of points do not undo each other's work for ever.
    add_in_batches(store, set, db, path, progress)?;
    let mut ledger = Ledger::begin(db, path)?;
    let known = ledger.points()?;
    let live: HashSet<SessionId> = set.live().iter().map(|p| p.id).collect();
    let mut counter = Counter::new(store, &mut ledger, progress);
    known.iter().filter(|id| !live.contains(id)).try_for_each(|id| counter.remove_point(id))?;
    set.live().iter().filter(|p| !known.contains(&p.id)).try_for_each(|p| counter.add_point(p))?;
    let mut damage = set.damaged.clone();
    let keep = counter.damage.is_empty();
    damage.append(&mut counter.damage);
    let packs = stock::list(store)?;
    let moved = Moved::load(store, &mut ledger, set.lists(), &|p| packs.contains_key(p))?;
    let out = work(&mut View { store, set, ledger: &mut ledger, packs, moved, damage })?;
    if ledger.broken {
        return Ok(None);
    }
    if keep {
        ledger.commit()?;
    }
    Ok(Some(out))
}

/// Points with damage are left to the caller, who does not keep their counts.
fn add_in_batches(store: &Inner, set: &PointSet, db: &mut rusqlite::Connection, path: &Path, progress: &Progress) -> Result<()> {
    let known = Ledger::begin(db, path)?.points()?;
    let mut todo: Vec<&Point> = set.live().iter().filter(|p| !known.contains(&p.id)).collect();
    let mut at = 0;
    while at < todo.len() {
        progress.check()?;
        let mut ledger = Ledger::begin(db, path)?;
        let (started_ms, first) = (store.platform.monotonic_ms(), at);
        let mut damaged = false;
        while at < todo.len() && store.platform.monotonic_ms() - started_ms < BATCH_MS {
            // Another process may have counted it meanwhile.
            if ledger.point(&todo[at].id)?.is_none() {
                let mut counter = Counter::new(store, &mut ledger, progress);
                counter.add_point(todo[at])?;
                damaged = !counter.damage.is_empty();
            }
            if damaged {
                break;
            }
            at += 1;
        }
        if damaged {
            todo.remove(at);
            at = first;
        } else {
            ledger.commit()?;
        }
    }
    Ok(())
}

impl<'a> View<'a, '_> {
    fn data_bytes(&self, p: &Point) -> Result<u64> {
        Ok(self.ledger.point(&p.id)?.map_or(0, |b| b.blocks) * BLOCK_BYTES as u64)
    }

    fn names(&self) -> BTreeMap<&'a str, Vec<&'a Point>> {
        let mut out: BTreeMap<&'a str, Vec<&'a Point>> = BTreeMap::new();
        self.set.live().iter().for_each(|p| out.entry(&p.summary.name).or_default().push(p));
        out
    }

    fn statistics(&mut self, progress: &Progress) -> Result<Statistics> {
        let now_ms = self.store.platform.now_unix_ms();
        let all: Vec<&Point> = self.set.live().iter().collect();
        let mut out = Statistics { sessions: self.set.register_ids().count() as u64, growth: growth(&all, now_ms), ..Statistics::default() };
        for (name, points) in self.names() {
            let data_bytes = points.iter().map(|p| self.data_bytes(p)).sum::<Result<u64>>()?;
            let ids: Vec<SessionId> = points.iter().map(|p| p.id).collect();
            progress.check()?;
            let size_bytes = points.iter().map(|p| p.summary.size_bytes).sum();
            out.points += points.len() as u64;
            out.size_bytes += size_bytes;
            out.data_bytes += data_bytes;
            out.names.push(NameStatistics {
                points: points.len() as u64,
                newest_unix_ms: points.iter().map(|p| p.summary.time_unix_ms).max().unwrap_or(0),
                size_bytes,
                data_bytes,
                unique_bytes: sizes::freed_bytes(self.ledger, &self.moved, &ids)?,
                growth: growth(&points, now_ms),
                name: name.to_owned(),
            });
        }
        self.count_packs(&mut out, progress)?;
        (out.waste.trash_files, out.waste.trash_bytes) = stock::trash(self.store)?;
        out.damage = std::mem::take(&mut self.damage);
        Ok(out)
    }

    fn count_packs(&mut self, out: &mut Statistics, progress: &Progress) -> Result<()> {
        let facts = stock::facts(self.store, self.ledger, &self.packs, &|| progress.check())?;
        let used = stock::used(self.ledger, &self.moved)?;
        let thin_percent = GcOptions::default().repack_below_percent;
        for (pack, copies) in &self.packs {
            let fact = facts[pack];
            let all_copies = fact.size_bytes * copies;
            if pack.kind == PackKind::Data {
                out.data_packs += 1;
                out.data_pack_bytes += all_copies;
            } else {
                out.meta_packs += 1;
                out.meta_pack_bytes += fact.size_bytes;
                out.meta_copy_bytes += all_copies - fact.size_bytes;
            }
            let used = match self.ledger.find_pack(pack)? {
                Some(n) => used.get(&n).copied().unwrap_or_default(),
                None => ledger::Used::default(),
            };
            if pack.kind == PackKind::Data {
                out.chunks += used.places;
                out.chunk_plain_bytes += used.blocks * BLOCK_BYTES as u64;
                out.chunk_stored_bytes += used.bytes;
            }
            let waste = &mut out.waste;
            if !self.set.is_decided(&pack.session) {
                waste.unfinished_packs += 1;
                waste.unfinished_bytes += all_copies;
            } else if used.places == 0 {
                waste.unused_packs += 1;
                waste.unused_bytes += all_copies;
            } else {
                let dead_bytes = fact.frame_bytes.saturating_sub(used.bytes) * copies;
                waste.dead_bytes += dead_bytes;
                // As the collection decides.
                if used.bytes * 100 < fact.size_bytes * thin_percent {
                    waste.thin_packs += 1;
                    waste.thin_dead_bytes += dead_bytes;
                }
            }
        }
        Ok(())
    }

    fn sizes(&mut self, points: &[SessionId], progress: &Progress) -> Result<PointSizes> {
        let wanted: HashSet<SessionId> = points.iter().copied().collect();
        let mut out = PointSizes::default();
        for (name, all) in self.names() {
            let ids: Vec<SessionId> = all.iter().map(|p| p.id).collect();
            let mine: Vec<SessionId> = ids.iter().filter(|id| wanted.contains(id)).copied().collect();
            for id in &mine {
                progress.check()?;
                out.points.insert(*id, sizes::freed_bytes(self.ledger, &self.moved, &[*id])?);
            }
            if !mine.is_empty() {
                out.names.insert(name.to_owned(), sizes::freed_bytes(self.ledger, &self.moved, &ids)?);
            }
        }
        out.damage = std::mem::take(&mut self.damage);
        Ok(out)
    }
}

fn growth(points: &[&Point], now_ms: u64) -> Vec<Growth> {
    let age_ms = points.iter().map(|p| now_ms.saturating_sub(p.summary.time_unix_ms)).max().unwrap_or(0);
    let window = |days: u64| {
        let inside = || points.iter().filter(|p| now_ms.saturating_sub(p.summary.time_unix_ms) < days * DAY_MS);
        let stored_bytes: u64 = inside().map(|p| p.summary.stored_bytes).sum();
        let length_ms = age_ms.clamp(DAY_MS, days * DAY_MS);
        let per_day = u128::from(stored_bytes) * u128::from(DAY_MS) / u128::from(length_ms);
        Growth { days, points: inside().count() as u64, stored_bytes, per_day_bytes: u64::try_from(per_day).unwrap_or(u64::MAX) }
    };
    WINDOWS_DAYS.map(window).to_vec()
}
