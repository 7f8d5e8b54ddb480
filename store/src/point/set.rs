//! Which points exist: fresh lists of `c/`, `f/` and `p/`, contents from the cache where this host has read them before.

use super::{
    LogDamage, Point,
    registers::{self, CachedReader, Decided, list_months},
};
use crate::{Result, StoreError, store::Inner};
use cairn_store_format::{
    ObjectName, SessionId,
    header::ObjectKind,
    limits::SMALL_BYTES_MAX,
    map::Ref,
    name::{parse_numbered, parse_session},
    point_log::{Action, LogEntry},
};
use std::collections::{BTreeMap, BTreeSet};

/// All registers of a store, read.
pub(crate) struct PointSet {
    /// Registers and log entries that cannot be read, and why: they must not hide the others.
    pub(crate) damaged: Vec<String>,
    live: Vec<Point>,
    /// Frames of the lists of moves that relocation registers name.
    lists: Vec<Ref>,
    forgotten: BTreeSet<SessionId>,
    registers: BTreeSet<SessionId>,
}

impl PointSet {
    /// Lists `f/` before `c/`'s contents are judged: a forget that completed before is seen.
    pub(crate) fn load(store: &Inner) -> Result<Self> {
        Self::read(store, true)
    }

    /// The same without the cache: what lies in the store now.
    pub(crate) fn load_from_storage(store: &Inner) -> Result<Self> {
        Self::read(store, false)
    }

    fn read(store: &Inner, cached: bool) -> Result<Self> {
        let mut cache = CachedReader::new(store, cached);
        let mut damaged = Vec::new();
        let registers = registers::list(store)?;
        let mut forgotten: BTreeSet<SessionId> = list_months(store, "f")?.iter().filter_map(|n| parse_session(n.file()).ok()).collect();
        let mut logs = all_log_names(store)?;
        let (mut live, mut lists, mut ids) = (Vec::new(), Vec::new(), BTreeSet::new());
        for (id, name) in registers {
            ids.insert(id);
            if forgotten.contains(&id) {
                continue;
            }
            let mut point = match or_damaged(store, cache.register(&id, &name), &mut damaged)? {
                Some(Decided::Point(point)) => point,
                Some(Decided::Relocation(list)) => {
                    lists.push(list);
                    continue;
                }
                Some(Decided::Closed) | None => continue,
            };
            (point.log, point.log_damage) = read_log(&mut cache, &id, logs.remove(&id).unwrap_or_default())?;
            damaged.extend(point.log_damage.iter().flat_map(|d| d.entries.iter().cloned()));
            if point.log_forgets() {
                forgotten.insert(id);
            } else {
                live.push(*point);
            }
        }
        cache.keep();
        live.sort_by_key(|p| (p.summary.time_unix_ms, p.id));
        Ok(Self { damaged, live, lists, forgotten, registers: ids })
    }

    pub(crate) fn live(&self) -> &[Point] {
        &self.live
    }
    pub(crate) fn into_live(self) -> Vec<Point> {
        self.live
    }
    pub(crate) fn lists(&self) -> &[Ref] {
        &self.lists
    }
    pub(crate) fn is_decided(&self, id: &SessionId) -> bool {
        self.registers.contains(id)
    }
    pub(crate) fn forgotten(&self) -> impl Iterator<Item = &SessionId> {
        self.forgotten.iter()
    }
    pub(crate) fn is_forgotten(&self, id: &SessionId) -> bool {
        self.forgotten.contains(id)
    }
    /// All registers that exist, sorted.
    pub(crate) fn register_ids(&self) -> impl Iterator<Item = &SessionId> {
        self.registers.iter()
    }
}

/// Damage of one object is noted; any other failure ends the listing.
fn or_damaged<T>(store: &Inner, result: Result<T>, damaged: &mut Vec<String>) -> Result<Option<T>> {
    let result = match result {
        // A storage that is gone as a whole has no damaged objects.
        Err(e) if e.is_bad_media() => Err(store.check_there().err().unwrap_or(e.unreadable())),
        other => other,
    };
    match result {
        Ok(v) => Ok(Some(v)),
        Err(e) if e.is_damage() || matches!(e, StoreError::Format(_)) => {
            damaged.push(e.to_string());
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// Whether a point's log forgets it, as it lies in the store now.
pub(crate) fn log_forgets(store: &Inner, id: &SessionId) -> Result<bool> {
    let (log, _) = read_log(&mut CachedReader::new(store, false), id, log_names(store, id)?)?;
    Ok(log.iter().any(|e| e.action == Action::Forget))
}

/// The entries of one point's log, by a fresh list.
pub(super) fn log_names(store: &Inner, id: &SessionId) -> Result<Vec<(u32, ObjectName)>> {
    let numbered = |name: ObjectName| parse_numbered(name.file()).filter(|(sid, _)| sid == id).map(|(_, n)| (n, name));
    Ok(store.platform.list(ObjectName::point_log(id, 0).dir())?.into_iter().filter_map(numbered).collect())
}

/// The logs of all points, by fresh lists.
pub(super) fn all_log_names(store: &Inner) -> Result<BTreeMap<SessionId, Vec<(u32, ObjectName)>>> {
    let mut logs: BTreeMap<SessionId, Vec<(u32, ObjectName)>> = BTreeMap::new();
    for name in list_months(store, "p")? {
        if let Some((sid, n)) = parse_numbered(name.file()).filter(|(sid, n)| name == ObjectName::point_log(sid, *n)) {
            logs.entry(sid).or_default().push((n, name));
        }
    }
    Ok(logs)
}

/// What of a log can be read, oldest first, and what cannot.
pub(super) fn read_log(cache: &mut CachedReader<'_>, id: &SessionId, mut names: Vec<(u32, ObjectName)>) -> Result<(Vec<LogEntry>, Option<LogDamage>)> {
    names.sort_unstable_by_key(|n| n.0);
    let (mut out, mut next) = (Vec::with_capacity(names.len()), 0);
    let (mut damaged, mut may_be_protected) = (Vec::new(), false);
    let store = cache.store;
    for (n, name) in names {
        // Each number is taken only once the one before is: one that is not there was lost, and may have been a protect.
        if n != next {
            damaged.push(StoreError::damaged(ObjectName::point_log(id, next), "this entry of a point's log is missing").to_string());
            may_be_protected = true;
        }
        next = n.saturating_add(1);
        let open = |bytes: &[u8]| Ok(LogEntry::decode(&store.keys.open_object(&name, ObjectKind::PointLog, &id.0, n.into(), bytes)?)?);
        let (entry, unreadable) = (cache.read(&name, SMALL_BYTES_MAX, open), damaged.len());
        match or_damaged(store, entry, &mut damaged)?.flatten() {
            // It says how things stand, whatever was lost before.
            Some(e) => {
                may_be_protected &= !matches!(e.action, Action::Protect | Action::Unprotect);
                out.push(e);
            }
            None => may_be_protected |= damaged.len() > unreadable,
        }
    }
    Ok((out, (!damaged.is_empty()).then_some(LogDamage { entries: damaged, may_be_protected })))
}
