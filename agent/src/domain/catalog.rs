//! The store's knowledge of points, as the hypervisor asks for it when it decides what each disk gets.
//!
//! Invariant: what cannot be read is not known. That means a full compare, which is always right.

use super::saved::{SavedDisk, SavedDomain, SavedImage, part_marked};
use cairn_hypervisor::{
    CarrierRecord, PointCatalog, PointStatus, StampCatalog,
    capture::{
        names::{BitmapName, CheckpointName},
        offline::stamp::Stamp,
        plan::Later,
    },
};
use cairn_store::{Point, PointState, Session, Store, format::SessionId};
use std::{cell::RefCell, collections::BTreeMap, ops::Range};

/// Manifests that were read, by point.
pub type Seen = RefCell<BTreeMap<SessionId, Option<SavedDomain>>>;

/// Points as of the session's B3.
pub struct SessionCatalog<'a> {
    store: &'a Store,
    session: &'a Session,
    name: &'a str,
    seen: Seen,
}

impl<'a> SessionCatalog<'a> {
    /// For one session, and one domain by its name.
    pub fn new(store: &'a Store, session: &'a Session, name: &'a str) -> Self {
        Self { store, session, name, seen: Seen::default() }
    }
}

fn saved(store: &Store, point: &Point) -> Option<SavedDomain> {
    match store.manifest(point) {
        Ok(m) => SavedDomain::of(&m),
        Err(e) => {
            tracing::warn!("manifest of point {}: {e}", point.id);
            None
        }
    }
}

fn saved_once(store: &Store, point: &Point, seen: &Seen) -> Option<SavedDomain> {
    seen.borrow_mut().entry(point.id).or_insert_with(|| saved(store, point)).clone()
}

/// What a point recorded of one of its disks.
pub fn carrier(store: &Store, point: &Point, ordinal: u32) -> Option<CarrierRecord> {
    let saved = saved(store, point)?;
    let disk = saved.disks.iter().find(|d| d.ordinal == ordinal)?;
    // A bitmap that began at this very point had nothing marked.
    let began_here = disk.bitmap.parse::<BitmapName>().is_ok_and(|b| SessionId(b.session) == point.id);
    let marked = if began_here { Vec::new() } else { marked(store, point, &disk.target)? };
    Some(disk.carrier(marked))
}

fn marked(store: &Store, point: &Point, target: &str) -> Option<Vec<Range<u64>>> {
    let read = store.manifest(point).and_then(|m| store.part(&m, &part_marked(target)));
    let bytes = match read {
        Ok(bytes) => bytes?,
        Err(e) => {
            tracing::warn!("part of point {}: {e}", point.id);
            return None;
        }
    };
    let pairs: Vec<(u64, u64)> = serde_json::from_slice(&bytes).map_err(|e| tracing::warn!("part of point {}: {e}", point.id)).ok()?;
    Some(pairs.into_iter().map(|(start, end)| start..end).collect())
}

/// The newest point that goes on from a bitmap, the newest usable one if any is; looked for back to the point at which the bitmap began. `name`: only
/// points of that name.
pub fn later(store: &Store, points: &[Point], name: Option<&str>, bitmap: &BitmapName, seen: &Seen) -> Option<Later> {
    let text = bitmap.to_string();
    let mut damaged = None;
    for (order, point) in points.iter().enumerate().rev() {
        if point.id == SessionId(bitmap.session) {
            break;
        }
        if name.is_some_and(|n| n != point.summary.name) {
            continue;
        }
        let Some(ordinal) = saved_once(store, point, seen).and_then(|s| s.disks.iter().find(|d| d.bitmap == text).map(|d| d.ordinal)) else { continue };
        let found = |status| Later { session: point.id.0, ordinal, status };
        if point.state() != PointState::Damaged {
            return Some(found(PointStatus::Usable { order: order as u64 }));
        }
        damaged = damaged.or(Some(found(PointStatus::Damaged)));
    }
    damaged
}

impl PointCatalog for SessionCatalog<'_> {
    fn status(&self, session: [u8; 16]) -> PointStatus {
        let id = SessionId(session);
        match self.session.points().iter().position(|p| p.id == id) {
            Some(i) if self.session.points()[i].state() == PointState::Damaged => PointStatus::Damaged,
            Some(i) => PointStatus::Usable { order: i as u64 },
            None if self.session.is_forgotten(&id) => PointStatus::Forgotten,
            // Another backup may have committed it after this session looked: then its bitmap must stay, though it is no base for us.
            None => match self.store.has_committed(&id) {
                Ok(false) => PointStatus::NotCommitted,
                Ok(true) => PointStatus::Unreachable,
                Err(e) => {
                    tracing::warn!("whether session {id} committed a point: {e}");
                    PointStatus::Unreachable
                }
            },
        }
    }

    fn carrier(&self, session: [u8; 16], ordinal: u32) -> Option<CarrierRecord> {
        carrier(self.store, self.session.point(&SessionId(session))?, ordinal)
    }

    fn later(&self, bitmap: &BitmapName) -> Option<Later> {
        later(self.store, self.session.points(), Some(self.name), bitmap, &self.seen)
    }

    fn checkpointed(&self, session: [u8; 16]) -> Vec<(u32, CarrierRecord)> {
        let saved = self.session.point(&SessionId(session)).and_then(|p| saved_once(self.store, p, &self.seen));
        let has = |d: &SavedDisk| d.bitmap.parse::<CheckpointName>().is_ok_and(|name| name.session == session);
        saved.iter().flat_map(|s| &s.disks).filter(|d| has(d)).map(|d| (d.ordinal, d.carrier(Vec::new()))).collect()
    }

    fn newest_checkpoint(&self) -> Option<CheckpointName> {
        let newest = self.session.points().iter().rev().find(|p| p.summary.name == self.name && p.state() != PointState::Damaged)?;
        let disks = saved_once(self.store, newest, &self.seen)?.disks;
        disks.iter().filter_map(|d| d.bitmap.parse::<CheckpointName>().ok()).find(|name| SessionId(name.session) == newest.id)
    }
}

impl StampCatalog for SessionCatalog<'_> {
    fn unchanged(&self, target: &str, format: &str, size_bytes: u64, images: &[Stamp]) -> Option<([u8; 16], u32)> {
        let images = SavedImage::all(images).filter(|i| !i.is_empty())?;
        let newest = self.session.points().iter().rev().find(|p| p.summary.name == self.name && p.state() != PointState::Damaged)?;
        let saved = saved_once(self.store, newest, &self.seen)?;
        let disk = saved.disks.iter().find(|d| d.target == target && d.format == format && d.size == size_bytes && d.images == images)?;
        Some((newest.id.0, disk.ordinal))
    }
}

/// The same for who brings a disk back: points as they were listed. What is damaged of a point's data does not matter, only its map is needed; where
/// that cannot be read, whoever reads it finds out.
pub struct PointsCatalog<'a> {
    /// The store.
    pub store: &'a Store,
    /// Its points, oldest first.
    pub points: &'a [Point],
}

impl PointCatalog for PointsCatalog<'_> {
    fn status(&self, session: [u8; 16]) -> PointStatus {
        match self.points.iter().position(|p| p.id == SessionId(session)) {
            Some(i) => PointStatus::Usable { order: i as u64 },
            None => PointStatus::Forgotten,
        }
    }

    fn carrier(&self, session: [u8; 16], ordinal: u32) -> Option<CarrierRecord> {
        carrier(self.store, self.points.iter().find(|p| p.id == SessionId(session))?, ordinal)
    }

    fn later(&self, bitmap: &BitmapName) -> Option<Later> {
        later(self.store, self.points, None, bitmap, &Seen::default())
    }
}
