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
    /// Points that something tells of and that have neither register nor copy.
    missing: BTreeSet<SessionId>,
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
        let (registers, copies) = registers::list_with_copies(store)?;
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
            let mut point = match register(&mut cache, &id, &name, &mut damaged)? {
                Some(Decided::Point(point)) => point,
                Some(Decided::Relocation(list)) => {
                    lists.push(list);
                    continue;
                }
                Some(Decided::Closed) if copies.contains(&id) => {
                    let why = format_args!("a fence or abort stands where a register was, by the copy {}", ObjectName::register_copy(&id));
                    damaged.push(StoreError::damaged(&name, why).to_string());
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
        // Logs are of points alone, and parents were committed before their children: both outlive a register that is lost.
        let mut missing: BTreeSet<SessionId> = live.iter().flat_map(|p| p.body.parents.iter().map(|parent| parent.session)).collect();
        missing.extend(logs.into_keys());
        missing.retain(|id| !ids.contains(id) && !forgotten.contains(id));
        for id in std::mem::take(&mut missing) {
            // What was committed or forgotten while the lists were made is there by now.
            let names = [ObjectName::register(&id), ObjectName::register_copy(&id), ObjectName::tombstone(&id)];
            let mut is_there = false;
            for name in &names {
                is_there |= store.platform.size(name)?.is_some();
            }
            if !is_there && !log_forgets(store, &id)? {
                damaged.push(StoreError::damaged(&names[0], MISSING).to_string());
                missing.insert(id);
            }
        }
        Ok(Self { damaged, live, lists, forgotten, registers: ids, missing })
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
    /// Points whose registers are lost, by what their logs and children tell.
    pub(crate) fn missing(&self) -> impl Iterator<Item = &SessionId> {
        self.missing.iter()
    }
    /// All registers that exist, sorted.
    pub(crate) fn register_ids(&self) -> impl Iterator<Item = &SessionId> {
        self.registers.iter()
    }
}

/// What is wrong with a register that only a log or a child tells of.
pub(crate) const MISSING: &str = "the register of this point is missing, and so is its copy; its log or a later point tells of it";

/// A register, or its copy where it is damaged or gone; that is noted.
fn register(cache: &mut CachedReader<'_>, id: &SessionId, name: &ObjectName, damaged: &mut Vec<String>) -> Result<Option<Decided>> {
    if registers::is_copy(name) {
        let why = format_args!("the register is missing; its copy {name} serves, and the next collection puts it back");
        damaged.push(StoreError::damaged(ObjectName::register(id), why).to_string());
    }
    if let Some(decided) = or_damaged(cache.register_at(id, name), damaged)? {
        return Ok(Some(decided));
    }
    or_damaged(cache.register(id, name), &mut Vec::new())
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
