//! Forgetting a point, and taking that back while its packs are still there.
//!
//! Forgetting. Order: 1 `forget` in the point's log, by create-if-absent of the next number, after the entries before it were read · 2 the
//! tombstone in `f/`. If we die after 1: listings and backups no longer show the point, collections still keep it until a repeated forget writes the
//! tombstone. After 2: the next collection may take what only this point uses. A protect that comes first wins; one that comes later says that
//! it came too late.

use super::{
    Point,
    registers::{CachedReader, Decided, list_months},
    set::read_log,
};
use crate::{
    BackupOutcome, DiskJob, Part, Plan, PointInfo, Progress, Result, StoreError,
    platform::{Created, Durability},
    point_source::PointSource,
    store::{Inner, Store},
};
use cairn_store_format::{
    ObjectName, SessionId,
    header::ObjectKind,
    name::{parse_numbered, parse_session},
    point_log::{Action, LogEntry},
};
use std::{collections::HashSet, sync::Arc};

/// Others that write to the same point's log at the same moment; more tries than that mean something is wrong.
const TRIES_MAX: u32 = 100;

impl Store {
    /// Forgets a point. Protected points are refused; those younger than `min_age_ms` too, unless `force`.
    pub fn forget(&self, point: &Point, min_age_ms: u64, force: bool) -> Result<()> {
        let store = &*self.inner;
        let now_ms = store.platform.now_unix_ms();
        let name = || format!("point {} of {}", point.id, point.summary.name.escape_debug());
        if !force && now_ms.saturating_sub(point.summary.time_unix_ms) < min_age_ms {
            return Err(StoreError::Refused(format!(
                "{} is younger than {}; give --force if it shall go all the same",
                name(),
                crate::point::hours(min_age_ms)
            )));
        }
        let entry = LogEntry { action: Action::Forget, time_unix_ms: now_ms, host: store.host.clone(), text: String::new() }.encode();
        let dir = ObjectName::point_log(&point.id, 0);
        for _ in 0..TRIES_MAX {
            let names: Vec<_> =
                store.platform.list(dir.dir())?.into_iter().filter_map(|n| parse_numbered(n.file()).filter(|p| p.0 == point.id).map(|p| (p.1, n))).collect();
            let next = names.iter().map(|n| n.0.saturating_add(1)).max().unwrap_or(0);
            let mut damaged = Vec::new();
            let log = read_log(&mut CachedReader::new(store, true), &point.id, names, &mut damaged)?;
            if let Some(d) = damaged.first() {
                return Err(StoreError::Refused(format!("{} is not forgotten: its log cannot be read whole, and it may be protected ({d})", name())));
            }
            let now = Point { log, ..point.clone() };
            if now.log_forgets() {
                return bury(store, &point.id);
            }
            if now.is_protected() {
                return Err(StoreError::Refused(format!("{} is protected; 'cairn unprotect {}' first if it shall go", name(), point.id)));
            }
            let bytes = store.keys.small_object(&*store.platform, ObjectKind::PointLog, &point.id.0, next.into(), &entry)?;
            if store.platform.create(&ObjectName::point_log(&point.id, next), &bytes, Durability::Now)? == Created::New {
                return bury(store, &point.id);
            }
        }
        Err(StoreError::Busy(format!("the log of {} is written to all the time; try again", name())))
    }

    /// Forgets a point whose register cannot be read: nothing tells whether it was protected, so the caller must be sure.
    pub fn forget_unreadable(&self, id: &SessionId) -> Result<()> {
        let name = ObjectName::register(id);
        match CachedReader::new(&self.inner, false).register(id, &name) {
            Err(StoreError::Damaged { .. } | StoreError::Format(_)) if self.has_traces(id)? => bury(&self.inner, id),
            Err(StoreError::Damaged { .. } | StoreError::Format(_)) => Err(StoreError::NotFound(format!("there is no register of {id}"))),
            Err(e) => Err(e),
            // A fence where a register was: the point is no point any more, and its copy says that it was one.
            Ok(Decided::Closed) if self.inner.platform.size(&ObjectName::register_copy(id))?.is_some() => bury(&self.inner, id),
            Ok(_) => Err(StoreError::Refused(format!("the register of {id} can be read: forget it as a point"))),
        }
    }

    /// Whether a register or its copy lies there, however damaged, or a log or a child tells of the point.
    fn has_traces(&self, id: &SessionId) -> Result<bool> {
        let store = &self.inner;
        for name in [ObjectName::register(id), ObjectName::register_copy(id)] {
            if store.platform.size(&name)?.is_some() {
                return Ok(true);
            }
        }
        Ok(super::PointSet::load(store)?.missing().any(|missing| missing == id))
    }

    /// Points that were forgotten and whose registers can be read, newest last. Whether their data is still there shows when one is taken back.
    pub fn forgotten_points(&self) -> Result<Vec<Point>> {
        let store = &*self.inner;
        let mut reader = CachedReader::new(store, true);
        let set = super::PointSet::load(store)?;
        let mut out = Vec::new();
        for id in set.forgotten() {
            // Fences and what is damaged are nothing that could be taken back.
            if let Ok(Decided::Point(p)) = reader.register(id, &ObjectName::register(id)) {
                out.push(*p);
            }
        }
        reader.keep();
        out.sort_by_key(|p| (p.summary.time_unix_ms, p.id));
        Ok(out)
    }

    /// Takes a forget back: a new point with the content of the forgotten one. What is still in the store is not stored again; if anything is
    /// gone, nothing is committed.
    pub fn unforget(&self, point: &Point, progress: &Progress) -> Result<BackupOutcome> {
        let session = self.begin()?;
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
            jobs.push(DiskJob { target: d.target, source, plan: Plan::Full { reason: format!("taken back: {} was forgotten", point.id) } });
        }
        let s = &point.summary;
        let info = || PointInfo {
            name: s.name.clone(),
            time_unix_ms: s.time_unix_ms,
            quiesce: s.quiesce.clone(),
            tags: s.tags.clone(),
            warnings: manifest.warnings,
            source: manifest.source,
            parts,
            cairn_version: manifest.cairn_version,
        };
        session.backup(&jobs, info, progress, || Ok(()))
    }
}

/// The second half of a forget.
fn bury(store: &Inner, id: &SessionId) -> Result<()> {
    let bytes = store.keys.small_object(&*store.platform, ObjectKind::Tombstone, &id.0, 0, b"")?;
    // Another one's tombstone is as good as ours.
    store.platform.create(&ObjectName::tombstone(id), &bytes, Durability::Now).map(drop)
}

/// Forgets that broke off between log and tombstone are finished: no list shows these points, so nobody else would.
pub(crate) fn finish_forgets(store: &Inner, set: &super::PointSet) -> Result<()> {
    let buried: HashSet<SessionId> = list_months(store, "f")?.iter().filter_map(|n| parse_session(n.file()).ok()).collect();
    set.forgotten().filter(|id| !buried.contains(id)).try_for_each(|id| bury(store, id))
}
