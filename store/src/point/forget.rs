//! Forgetting a point.
//!
//! Order: 1 `forget` in the point's log, by create-if-absent of the next number, after the entries before it were read · 2 the
//! tombstone in `f/`. If we die after 1: listings and backups no longer show the point, collections still keep it until a repeated forget writes the
//! tombstone, or a collection does. A tombstone that cannot be written is therefore no failure of the forget ([`Forgotten`]): who repeats it by a place
//! in the list would take the next point. After 2: the next collection may take what only this point uses. A protect that comes first wins; one that
//! comes later says that it came too late.

use super::{
    Point, log_memory,
    registers::{CachedReader, Decided, list_months},
    set::{all_log_names, log_names, read_log},
};
use crate::{
    Result, StoreError, parallel,
    platform::{Created, Durability},
    store::{Inner, Store},
};
use cairn_store_format::{
    ObjectName, SessionId,
    header::ObjectKind,
    name::parse_session,
    point_log::{Action, LogEntry},
};
use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering},
};

/// Others that write to the same point's log at the same moment; more tries than that mean something is wrong.
const TRIES_MAX: u32 = 100;
/// Forgets of one command that wait for the storage together: it makes the objects of all of them durable in one go.
const AT_ONCE: usize = 16;

/// A point that is forgotten.
#[derive(Debug)]
pub struct Forgotten {
    /// Why its tombstone could not be written, if so: the next collection writes it.
    pub lacks_tombstone: Option<StoreError>,
}

impl Forgotten {
    fn with(tombstone: Result<()>) -> Self {
        Self { lacks_tombstone: tombstone.err() }
    }
}

/// What else keeps a point, by what its log says at the moment of its forget.
pub type Stays<'a> = &'a (dyn Fn(&Point) -> Option<String> + Sync);

impl Store {
    /// Whether [`Store::forget`] would refuse, by what is known of the point already; nothing is written.
    pub fn may_forget(&self, point: &Point, min_age_ms: u64, force: bool) -> Result<()> {
        let name = || format!("point {} of {}", point.id, point.summary.name.escape_debug());
        if !force && self.inner.platform.now_unix_ms().saturating_sub(point.summary.time_unix_ms) < min_age_ms {
            return Err(StoreError::Refused(format!(
                "{} is younger than {}; give --force if it shall go all the same",
                name(),
                crate::point::hours(min_age_ms)
            )));
        }
        if point.is_protected() {
            return Err(StoreError::Refused(format!("{} is protected; 'cairn unprotect {}' first if it shall go", name(), point.id)));
        }
        if let Some(d) = point.log_damage.as_ref().filter(|d| d.may_be_protected && !force) {
            return Err(StoreError::Refused(format!(
                "{} is not forgotten: its log cannot be read whole, and it may be protected ({}); 'cairn unprotect {}' settles that, or give --force",
                name(),
                d.first(),
                point.id
            )));
        }
        Ok(())
    }

    /// Forgets a point. Protected points are refused; those younger than `min_age_ms`, and those of which a damaged log may say that they are protected,
    /// too, unless `force`.
    pub fn forget(&self, point: &Point, min_age_ms: u64, force: bool) -> Result<Forgotten> {
        self.forget_listed(point, None, min_age_ms, force, &|_| None)
    }

    /// Forgets many points, several at a time, each as [`Store::forget`] does and by objects of its own: what lies in the store after a crash is what
    /// single forgets leave. Their logs are listed once; who writes to one of them meanwhile takes the number that its forget would, and is seen: protected
    /// by now it is refused, and so is what `stays` has a reason for. One result for each point that was begun with, in their order: what is refused
    /// keeps no other from going, after any other failure nothing more begins.
    pub fn forget_all(&self, points: &[&Point], min_age_ms: u64, force: bool, stays: Stays<'_>) -> Result<Vec<Result<Forgotten>>> {
        let store = &*self.inner;
        let written = log_memory::all_written(store);
        let logs = if points.len() > 1 { Some(all_log_names(store)?) } else { None };
        let broken = AtomicBool::new(false);
        let one = |p: &Point| {
            let names = logs.as_ref().map(|logs| (logs.get(&p.id).cloned().unwrap_or_default(), written.get(&p.id).copied().unwrap_or(0)));
            let result = self.forget_listed(p, names, min_age_ms, force, stays);
            broken.fetch_or(!matches!(result, Ok(Forgotten { lacks_tombstone: None }) | Err(StoreError::Refused(_))), Ordering::SeqCst);
            result
        };
        let jobs = points.iter().take_while(|_| !broken.load(Ordering::SeqCst)).map(|p| Ok(*p));
        let mut out = Vec::with_capacity(points.len());
        parallel::ordered(
            jobs,
            parallel::workers(&*store.platform, AT_ONCE, AT_ONCE),
            points.len(),
            || (),
            |(), p| Ok(one(p)),
            |result| {
                out.push(result);
                Ok(())
            },
        )?;
        Ok(out)
    }

    /// `listed`: the entries of its log, and how many this host has written by then.
    fn forget_listed(
        &self,
        point: &Point,
        mut listed: Option<(Vec<(u32, ObjectName)>, u32)>,
        min_age_ms: u64,
        force: bool,
        stays: Stays<'_>,
    ) -> Result<Forgotten> {
        let store = &*self.inner;
        let now_ms = store.platform.now_unix_ms();
        if let Ok(Decided::Relocation(_) | Decided::Closed) = CachedReader::new(store, false).register(&point.id, &ObjectName::register(&point.id)) {
            return Err(StoreError::NotFound(format!("{} is no point in this store", point.id)));
        }
        let entry = LogEntry { action: Action::Forget, time_unix_ms: now_ms, host: store.host.clone(), text: String::new() }.encode();
        for _ in 0..TRIES_MAX {
            let (names, written) = match listed.take() {
                Some(listed) => listed,
                None => {
                    let written = log_memory::written(store, &point.id);
                    (log_names(store, &point.id)?, written)
                }
            };
            let next = names.iter().map(|n| n.0.saturating_add(1)).max().unwrap_or(0).max(written);
            let (log, log_damage) = read_log(&mut CachedReader::new(store, false), &point.id, names, written)?;
            let now = Point { log, log_damage, ..point.clone() };
            if now.log_forgets() {
                return Ok(Forgotten::with(bury(store, &point.id)));
            }
            self.may_forget(&now, min_age_ms, force)?;
            if let Some(why) = stays(&now) {
                return Err(StoreError::Refused(format!("point {} of {} stays: {why}", point.id, point.summary.name.escape_debug())));
            }
            store.platform.check_fresh()?;
            let bytes = store.keys.small_object(&*store.platform, ObjectKind::PointLog, &point.id.0, next.into(), &entry)?;
            if store.platform.create(&ObjectName::point_log(&point.id, next), &bytes, Durability::Now)? == Created::New {
                log_memory::wrote(store, &point.id, next);
                return Ok(Forgotten::with(bury(store, &point.id)));
            }
        }
        Err(StoreError::Busy(format!("the log of point {} is written to all the time; try again", point.id)))
    }

    /// Forgets a point whose register cannot be read: nothing tells whether it was protected, so the caller must be sure.
    pub fn forget_unreadable(&self, id: &SessionId) -> Result<()> {
        let name = ObjectName::register(id);
        match CachedReader::new(&self.inner, false).register(id, &name) {
            Err(e) if e.is_bad_media() => self.inner.check_there().and_then(|()| bury(&self.inner, id)),
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
        Ok(super::PointSet::load(store)?.missing().any(|(missing, _)| missing == id))
    }
}

/// The second half of a forget.
fn bury(store: &Inner, id: &SessionId) -> Result<()> {
    store.platform.check_fresh()?;
    let bytes = store.keys.small_object(&*store.platform, ObjectKind::Tombstone, &id.0, 0, b"")?;
    // Another one's tombstone is as good as ours.
    store.platform.create(&ObjectName::tombstone(id), &bytes, Durability::Now).map(drop)
}

/// Forgets that broke off between log and tombstone are finished: no list shows these points, so nobody else would.
pub(crate) fn finish_forgets(store: &Inner, set: &super::PointSet) -> Result<()> {
    let buried: HashSet<SessionId> = list_months(store, "f")?.iter().filter_map(|n| parse_session(n.file()).ok()).collect();
    set.forgotten().filter(|id| !buried.contains(id)).try_for_each(|id| bury(store, id))
}
