//! Which points exist: fresh lists of `c/`, `f/` and `p/`, contents from the cache where this host has read them before.

use super::{
    Point,
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
        let mut logs: BTreeMap<SessionId, Vec<(u32, ObjectName)>> = BTreeMap::new();
        for name in list_months(store, "p")? {
            if let Some((sid, n)) = parse_numbered(name.file()).filter(|(sid, n)| name == ObjectName::point_log(sid, *n)) {
                logs.entry(sid).or_default().push((n, name));
            }
        }
        let (mut live, mut lists, mut ids) = (Vec::new(), Vec::new(), BTreeSet::new());
        for (id, name) in registers {
            ids.insert(id);
            if forgotten.contains(&id) {
                continue;
            }
            let mut point = match or_damaged(cache.register(&id, &name), &mut damaged)? {
                Some(Decided::Point(point)) => point,
                Some(Decided::Relocation(list)) => {
                    lists.push(list);
                    continue;
                }
                Some(Decided::Closed) | None => continue,
            };
            point.log = read_log(&mut cache, &id, logs.remove(&id).unwrap_or_default(), &mut damaged)?;
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
fn or_damaged<T>(result: Result<T>, damaged: &mut Vec<String>) -> Result<Option<T>> {
    match result {
        Ok(v) => Ok(Some(v)),
        Err(e @ (StoreError::Damaged { .. } | StoreError::Format(_))) => {
            damaged.push(e.to_string());
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// Whether a point's log forgets it, as it lies in the store now.
pub(crate) fn log_forgets(store: &Inner, id: &SessionId) -> Result<bool> {
    let dir = ObjectName::point_log(id, 0);
    let numbered = |name: ObjectName| parse_numbered(name.file()).filter(|(sid, _)| sid == id).map(|(_, n)| (n, name));
    let names = store.platform.list(dir.dir())?.into_iter().filter_map(numbered).collect();
    let log = read_log(&mut CachedReader::new(store, false), id, names, &mut Vec::new())?;
    Ok(log.iter().any(|e| e.action == Action::Forget))
}

pub(super) fn read_log(cache: &mut CachedReader<'_>, id: &SessionId, mut names: Vec<(u32, ObjectName)>, damaged: &mut Vec<String>) -> Result<Vec<LogEntry>> {
    names.sort_unstable_by_key(|n| n.0);
    let (mut out, mut next) = (Vec::with_capacity(names.len()), 0);
    let store = cache.store;
    for (n, name) in names {
        // Each number is taken only once the one before is: one that is not there was lost, and may have been a protect.
        if n != next {
            damaged.push(StoreError::damaged(ObjectName::point_log(id, next), "this entry of a point's log is missing").to_string());
        }
        next = n.saturating_add(1);
        let open = |bytes: &[u8]| Ok(LogEntry::decode(&store.keys.open_object(&name, ObjectKind::PointLog, &id.0, n.into(), bytes)?)?);
        out.extend(or_damaged(cache.read(&name, SMALL_BYTES_MAX, open), damaged)?.flatten());
    }
    Ok(out)
}
