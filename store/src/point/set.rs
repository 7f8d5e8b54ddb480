//! Which points exist: fresh lists of `c/`, `f/` and `p/`, contents from the cache where this host has read them before.

use super::{
    LogDamage, Point, log_memory,
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
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// All registers of a store, read.
pub(crate) struct PointSet {
    /// Registers and log entries that cannot be read, and why: they must not hide the others.
    pub(crate) damaged: Vec<String>,
    live: Vec<Point>,
    /// Frames of the lists of moves that relocation registers name.
    lists: Vec<Ref>,
    forgotten: BTreeSet<SessionId>,
    /// Their logs, by name.
    forgotten_logs: BTreeMap<SessionId, Vec<(u32, ObjectName)>>,
    registers: BTreeSet<SessionId>,
    /// Points that something tells of and that have neither register nor copy, and why that is known.
    missing: BTreeMap<SessionId, String>,
}

impl PointSet {
    /// Lists `f/` before `c/`'s contents are judged: a forget that completed before is seen.
    pub(crate) fn load(store: &Inner) -> Result<Self> {
        Self::read(store, true, true)
    }

    /// The same without the cache: what lies in the store now.
    pub(crate) fn load_from_storage(store: &Inner) -> Result<Self> {
        Self::read(store, false, false)
    }

    /// Logs as they lie in the store now; registers are read afresh by those who decide about what they refer to.
    pub(crate) fn load_logs_from_storage(store: &Inner) -> Result<Self> {
        Self::read(store, true, false)
    }

    fn read(store: &Inner, cached: bool, cached_logs: bool) -> Result<Self> {
        let (mut cache, mut log_cache) = (CachedReader::new(store, cached), CachedReader::new(store, cached_logs));
        let mut damaged = Vec::new();
        let (registers, copies) = registers::list_with_copies(store)?;
        let mut forgotten: BTreeSet<SessionId> = list_months(store, "f")?.iter().filter_map(|n| parse_session(n.file()).ok()).collect();
        let written = log_memory::all_written(store);
        let mut logs = all_log_names(store)?;
        let known: HashSet<SessionId> = remembered(store).collect();
        let mut new = Vec::new();
        let (mut live, mut lists, mut ids) = (Vec::new(), Vec::new(), BTreeSet::new());
        for (id, name) in registers {
            ids.insert(id);
            if forgotten.contains(&id) {
                continue;
            }
            let mut point = match register(store, &mut cache, &id, &name, &mut damaged)? {
                Some(Decided::Point(point)) => {
                    // Its copy was made once its register was durable: what this host remembers was never lost in a crash.
                    if copies.contains(&id) && !registers::is_copy(&name) && !known.contains(&id) {
                        new.push((memory_name(&id), Vec::new()));
                    }
                    point
                }
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
            let names = logs.remove(&id).unwrap_or_default();
            (point.log, point.log_damage) = read_log(&mut log_cache, &id, names.clone(), written.get(&id).copied().unwrap_or(0))?;
            damaged.extend(point.log_damage.iter().flat_map(|d| d.entries.iter().cloned()));
            if point.log_forgets() {
                forgotten.insert(id);
                logs.insert(id, names);
            } else {
                live.push(*point);
            }
        }
        cache.keep();
        log_cache.keep();
        live.sort_by_key(|p| (p.summary.time_unix_ms, p.id));
        if let Err(e) = store.index.keep_objects(&new) {
            tracing::debug!("{e}");
        }
        // Logs are of points alone, and parents were committed before their children: both outlive a register that is lost, and so does this host's memory.
        let told = live.iter().flat_map(|p| p.body.parents.iter().map(|parent| parent.session)).chain(logs.keys().copied());
        let mut suspects: BTreeMap<SessionId, String> = told.map(|id| (id, MISSING.to_owned())).collect();
        for id in known {
            suspects.entry(id).or_insert_with(|| format!("{MISSING_HERE}{}", store.index.path().display()));
        }
        suspects.retain(|id, _| !ids.contains(id) && !forgotten.contains(id));
        let mut missing = BTreeMap::new();
        for (id, why) in suspects {
            // What was committed or forgotten while the lists were made is there by now.
            let names = [ObjectName::register(&id), ObjectName::register_copy(&id), ObjectName::tombstone(&id)];
            let mut is_there = false;
            for name in &names {
                is_there |= store.platform.size(name)?.is_some();
            }
            if !is_there && !log_forgets(store, &id)? {
                damaged.push(StoreError::damaged(&names[0], &why).to_string());
                missing.insert(id, why);
            }
        }
        logs.retain(|id, _| forgotten.contains(id));
        Ok(Self { damaged, live, lists, forgotten, forgotten_logs: logs, registers: ids, missing })
    }

    /// Points that were forgotten and whose registers can be read, oldest first, with what can be read of their logs.
    pub(super) fn forgotten_points(&mut self, store: &Inner) -> Result<Vec<Point>> {
        let mut reader = CachedReader::new(store, true);
        let mut out = Vec::new();
        for id in &self.forgotten {
            // Fences and what is damaged are nothing that could be taken back.
            if let Ok(Decided::Point(mut p)) = reader.register(id, &ObjectName::register(id)) {
                (p.log, p.log_damage) = read_log(&mut reader, id, self.forgotten_logs.remove(id).unwrap_or_default(), 0)?;
                out.push(*p);
            }
        }
        reader.keep();
        out.sort_by_key(|p| (p.summary.time_unix_ms, p.id));
        Ok(out)
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
    pub(crate) fn missing(&self) -> impl Iterator<Item = (&SessionId, &str)> {
        self.missing.iter().map(|(id, why)| (id, why.as_str()))
    }
    /// A point that is missing is not hidden by what is done on: its packs would be taken for those of a backup that never ended.
    pub(crate) fn none_is_missing(&self) -> Result<()> {
        let Some((id, why)) = self.missing.first_key_value() else { return Ok(()) };
        Err(StoreError::damaged(
            ObjectName::register(id),
            format_args!(
                "{why}; nothing was deleted. Put the file back from a copy of the store; 'cairn forget --force {id}' gives the point up, then collections go on"
            ),
        ))
    }
    /// All registers that exist, sorted.
    pub(crate) fn register_ids(&self) -> impl Iterator<Item = &SessionId> {
        self.registers.iter()
    }
}

/// What is wrong with a register that only a log or a child tells of.
const MISSING: &str = "the register of this point is missing, and so is its copy; its log or a later point tells of it";

/// The same where this host has read the register here before; with the name of its cache.
const MISSING_HERE: &str = "the register of this point is missing, and so is its copy; this host has seen both here. Where the store was set back to an older \
    copy on purpose, remove this host's cache of it: ";

/// The same of the newest entries of a log.
const WRITTEN_HERE: &str = "this host has written it. Where the store was set back to an older copy on purpose, remove this host's cache of it: ";

/// Under this name this host's cache remembers that a point was committed, and that its register had reached stable storage.
fn memory_name(id: &SessionId) -> String {
    format!("{MEMORY}{id}")
}

const MEMORY: &str = "point ";

/// Points that this host remembers. Registers and tombstones are never removed, so each has one or the other for ever, however long a host was away. A
/// cache that fails remembers nothing.
pub(crate) fn remembered(store: &Inner) -> impl Iterator<Item = SessionId> {
    let names = store.index.objects_named(MEMORY).unwrap_or_else(|e| {
        tracing::debug!("{e}");
        Vec::new()
    });
    names.into_iter().filter_map(|id| parse_session(&id).ok())
}

/// A register, or its copy where it is damaged or gone; that is noted.
fn register(store: &Inner, cache: &mut CachedReader<'_>, id: &SessionId, name: &ObjectName, damaged: &mut Vec<String>) -> Result<Option<Decided>> {
    if registers::is_copy(name) {
        let why = format_args!("the register is missing; its copy {name} serves, and the next collection puts it back");
        damaged.push(StoreError::damaged(ObjectName::register(id), why).to_string());
    }
    if let Some(decided) = or_damaged(store, cache.register_at(id, name), damaged)? {
        return Ok(Some(decided));
    }
    or_damaged(store, cache.register(id, name), &mut Vec::new())
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
    let (log, _) = read_log(&mut CachedReader::new(store, false), id, log_names(store, id)?, 0)?;
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

/// What of a log can be read, oldest first, and what cannot. `written`: so many entries it had by this host's memory, asked for before the list was made.
pub(super) fn read_log(
    cache: &mut CachedReader<'_>,
    id: &SessionId,
    mut names: Vec<(u32, ObjectName)>,
    written: u32,
) -> Result<(Vec<LogEntry>, Option<LogDamage>)> {
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
    if next < written {
        let why = format_args!("this entry of a point's log is missing, and it was among the newest; {WRITTEN_HERE}{}", store.index.path().display());
        damaged.push(StoreError::damaged(ObjectName::point_log(id, next), why).to_string());
        may_be_protected = true;
    }
    Ok((out, (!damaged.is_empty()).then_some(LogDamage { entries: damaged, may_be_protected })))
}
