//! Which points exist: fresh lists of `c/`, `f/` and `p/`, contents from the cache where this host has read them before.

use super::Point;
use crate::{Result, StoreError, store::Inner};
use cairn_store_format::{
    ObjectName, SessionId,
    header::ObjectKind,
    limits::{REGISTER_BYTES_MAX, SMALL_BYTES_MAX},
    name::{parse_numbered, parse_session},
    point_log::LogEntry,
    register::{self, Body, RegisterKind, Summary},
};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// New objects are handed to the cache in groups of this many.
const CACHE_BATCH: usize = 1000;

/// All registers of a store, read.
pub(crate) struct PointSet {
    /// Registers and log entries that cannot be read, and why: they must not hide the others.
    pub(crate) damaged: Vec<String>,
    live: Vec<Point>,
    forgotten: HashSet<SessionId>,
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
        let mut cache = CachedReader { store, cached, fresh: Vec::new() };
        let mut damaged = Vec::new();
        let registers = list_months(store, "c")?;
        let mut forgotten: HashSet<SessionId> = list_months(store, "f")?.iter().filter_map(|n| parse_session(n.file()).ok()).collect();
        let mut logs: BTreeMap<SessionId, Vec<(u32, ObjectName)>> = BTreeMap::new();
        for name in list_months(store, "p")? {
            if let Some((sid, n)) = parse_numbered(name.file()) {
                logs.entry(sid).or_default().push((n, name));
            }
        }
        let (mut live, mut ids) = (Vec::new(), BTreeSet::new());
        for name in registers {
            let Ok(id) = parse_session(name.file()) else { continue };
            ids.insert(id);
            if forgotten.contains(&id) {
                continue;
            }
            let Some(mut point) = or_damaged(read_register(store, &mut cache, &name, &id), &mut damaged)?.flatten() else { continue };
            point.log = read_log(store, &mut cache, &id, logs.remove(&id).unwrap_or_default(), &mut damaged)?;
            if point.log_forgets() {
                forgotten.insert(id);
            } else {
                live.push(point);
            }
        }
        cache.keep()?;
        live.sort_by_key(|p| (p.summary.time_unix_ms, p.id));
        Ok(Self { damaged, live, forgotten, registers: ids })
    }

    pub(crate) fn live(&self) -> &[Point] {
        &self.live
    }
    pub(crate) fn into_live(self) -> Vec<Point> {
        self.live
    }
    pub(crate) fn is_forgotten(&self, id: &SessionId) -> bool {
        self.forgotten.contains(id)
    }
    /// All registers that exist, sorted.
    pub(crate) fn register_ids(&self) -> impl Iterator<Item = &SessionId> {
        self.registers.iter()
    }
}

fn list_months(store: &Inner, root: &str) -> Result<Vec<ObjectName>> {
    let mut out = Vec::new();
    for month in store.platform.list_dirs(root)? {
        out.extend(store.platform.list(&format!("{root}/{month}"))?);
    }
    Ok(out)
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

/// Reads objects that never change, through the cache.
struct CachedReader<'a> {
    store: &'a Inner,
    cached: bool,
    fresh: Vec<(String, Vec<u8>)>,
}

impl CachedReader<'_> {
    fn read(&mut self, name: &ObjectName, max: usize) -> Result<Option<Vec<u8>>> {
        if self.cached
            && let Some(bytes) = self.store.index.object(name.as_str())?
        {
            return Ok(Some(bytes));
        }
        let bytes = self.store.platform.read(name, max)?;
        if let Some(b) = bytes.as_ref().filter(|_| self.cached) {
            self.fresh.push((name.as_str().to_owned(), b.clone()));
            if self.fresh.len() >= CACHE_BATCH {
                self.keep()?;
            }
        }
        Ok(bytes)
    }
    fn keep(&mut self) -> Result<()> {
        if !self.fresh.is_empty() {
            self.store.index.keep_objects(&std::mem::take(&mut self.fresh))?;
        }
        Ok(())
    }
}

/// A manifest register as a point; `None` for fences, aborts and relocations.
fn read_register(store: &Inner, cache: &mut CachedReader<'_>, name: &ObjectName, id: &SessionId) -> Result<Option<Point>> {
    let missing = || StoreError::damaged(name, "it is listed but cannot be opened");
    let bytes = cache.read(name, REGISTER_BYTES_MAX)?.ok_or_else(missing)?;
    let reg = register::decode(&bytes).map_err(|e| StoreError::damaged(name, e))?;
    if reg.session != *id {
        return Err(StoreError::damaged(name, "it lies under another session's name"));
    }
    if reg.kind != RegisterKind::Manifest {
        return Ok(None);
    }
    let open = |part: u8, sealed: &[u8]| store.keys.open_small(name, &register::aad(id, reg.kind, part), sealed);
    let summary = Summary::decode(&open(1, reg.summary)?)?;
    let body = Body::decode(&open(2, reg.body)?)?;
    Ok(Some(Point { id: *id, summary, body, register_sha256: Sha256::digest(&bytes).into(), log: Vec::new() }))
}

fn read_log(
    store: &Inner,
    cache: &mut CachedReader<'_>,
    id: &SessionId,
    mut names: Vec<(u32, ObjectName)>,
    damaged: &mut Vec<String>,
) -> Result<Vec<LogEntry>> {
    names.sort_unstable_by_key(|n| n.0);
    let mut out = Vec::with_capacity(names.len());
    for (n, name) in names {
        let Some(bytes) = cache.read(&name, SMALL_BYTES_MAX)? else { continue };
        let entry = store.keys.open_object(&name, ObjectKind::PointLog, &id.0, n.into(), &bytes).and_then(|plain| Ok(LogEntry::decode(&plain)?));
        out.extend(or_damaged(entry, damaged)?);
    }
    Ok(out)
}
