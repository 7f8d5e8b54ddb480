//! Registers as they stand in `c/`: what each session ended as. They never change, so this host keeps what it has read.
//!
//! What was committed lies in `r/` again, written after the register by whoever committed, or by a collection later. Invariants:
//! - Only the create in `c/` decides a session. A copy is never made of a fence or an abort, and is not looked at where the register can be read.
//! - A register that is lost is put back from its copy by create-if-absent, byte for byte: it was there before, and nobody can have been told otherwise.

use super::Point;
use crate::{
    Result, StoreError,
    damage::read_or_skip,
    platform::{Created, Deleting, Durability, Platform},
    store::Inner,
};
use cairn_store_format::{
    ObjectName, SessionId,
    limits::REGISTER_BYTES_MAX,
    map::Ref,
    name::parse_session,
    register::{self, Body, RegisterKind, Summary},
};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};

/// New objects are handed to the cache in groups of this many.
const CACHE_BATCH: usize = 1000;

/// What a session ended as.
#[derive(Debug)]
pub(crate) enum Decided {
    /// A restore point; its log is not read yet.
    Point(Box<Point>),
    /// A repack or heal, with the frame of its list.
    Relocation(Ref),
    /// Fenced or given up.
    Closed,
}

/// A session that is decided, and where that stands.
type Listed = (SessionId, ObjectName);

/// A fresh list of all registers; of one that is lost the copy in its place.
pub(crate) fn list(store: &Inner) -> Result<Vec<Listed>> {
    list_with_copies(store).map(|l| l.0)
}

/// The same, and all sessions that have a copy.
pub(crate) fn list_with_copies(store: &Inner) -> Result<(Vec<Listed>, HashSet<SessionId>)> {
    // Copies first: each was made after its register, so one that is seen without it has lost it.
    let mut copies: HashMap<SessionId, ObjectName> = list_sessions(store, "r", ObjectName::register_copy)?.into_iter().collect();
    let ids = copies.keys().copied().collect();
    let mut out = list_sessions(store, "c", ObjectName::register)?;
    out.iter().for_each(|(id, _)| drop(copies.remove(id)));
    if !copies.is_empty() {
        out.extend(copies);
        out.sort_unstable();
    }
    Ok((out, ids))
}

/// One in another month's folder is no register: there is one name for each, which decides a session once.
fn list_sessions(store: &Inner, root: &str, home: fn(&SessionId) -> ObjectName) -> Result<Vec<Listed>> {
    let names = list_months(store, root)?;
    Ok(names.into_iter().filter_map(|n| Some((parse_session(n.file()).ok()?, n))).filter(|(id, n)| *n == home(id)).collect())
}

/// Whether a listed name is that of a copy.
pub(crate) fn is_copy(name: &ObjectName) -> bool {
    name.as_str().starts_with("r/")
}

/// The copy of a register that was just committed. Best effort: the point exists without it, and the next collection makes it.
pub(crate) fn copy(store: &Inner, id: &SessionId, register: &[u8]) {
    if let Err(e) = store.platform.create(&ObjectName::register_copy(id), register, Durability::Now) {
        tracing::info!("no copy of the register of {id} was made ({e}); the next collection makes it");
    }
}

/// Registers that are lost are put back from their copies; their number. Order: 1 the copy opens under the session's name, and is of something that was
/// committed · 2 create-if-absent, durable. Whoever creates it meanwhile has the same bytes or is told by scrubs.
pub(crate) fn put_back(store: &Inner, forgotten: &HashSet<SessionId>) -> Result<u64> {
    let mut count = 0;
    for (id, copy) in list(store)?.into_iter().filter(|(id, name)| is_copy(name) && !forgotten.contains(id)) {
        let Some(bytes) = store.platform.read(&copy, REGISTER_BYTES_MAX)? else { continue };
        if matches!(open_register(store, &id, &copy, &bytes), Ok(Decided::Point(_) | Decided::Relocation(_))) {
            let name = ObjectName::register(&id);
            tracing::warn!("{name} was missing; it is put back from {copy}");
            count += u64::from(store.platform.create(&name, &bytes, Durability::Now)? == Created::New);
        }
    }
    Ok(count)
}

/// Copies for what has none: points of older versions, backups that died right after their commit; and for those whose copy is damaged. At most `max` of
/// them. Order: 1 registers durable · 2 damaged copies deleted · 3 copies created. If we die between: the next collection goes on.
pub(crate) fn make_copies(store: &Inner, deleting: &dyn Deleting, forgotten: &HashSet<SessionId>, max: usize) -> Result<()> {
    let (registers, copies) = list_with_copies(store)?;
    let (mut reader, mut found, mut looked) = (CachedReader::new(store, true), Vec::new(), 0);
    for (id, name) in registers.into_iter().filter(|(id, _)| !forgotten.contains(id)) {
        if found.len() >= max {
            break;
        }
        let is_there = copies.contains(&id);
        if is_there && (is_copy(&name) || looked >= max || store.index.object(&whole_mark(&ObjectName::register_copy(&id))).is_ok_and(|m| m.is_some())) {
            continue;
        }
        looked += usize::from(is_there);
        if is_there && copy_is_whole(store, &id)? {
            continue;
        }
        // What cannot be read has its own finding.
        if !matches!(reader.register_at(&id, &name), Ok(Decided::Point(_) | Decided::Relocation(_))) {
            continue;
        }
        if let Ok(Some(bytes)) = store.platform.read(&name, REGISTER_BYTES_MAX)
            && matches!(open_register(store, &id, &name, &bytes), Ok(Decided::Point(_) | Decided::Relocation(_)))
        {
            store.platform.cover(&name);
            found.push((id, bytes, is_there));
        }
    }
    reader.keep();
    // A copy must not outlast a register whose name never reached stable storage.
    store.platform.barrier()?;
    for (id, bytes, is_there) in &found {
        let copy = ObjectName::register_copy(id);
        if *is_there {
            tracing::warn!("{copy} was damaged; it is made anew from the register");
            deleting.delete(&copy)?;
        }
        store.platform.create(&copy, bytes, Durability::Now)?;
    }
    Ok(())
}

/// Whether a copy opens. One that does is not read again by this host until a scrub finds it damaged; of two that open and differ nobody knows which is
/// right, and scrubs say so.
fn copy_is_whole(store: &Inner, id: &SessionId) -> Result<bool> {
    let copy = ObjectName::register_copy(id);
    let Some(bytes) = read_or_skip(&*store.platform, &copy, REGISTER_BYTES_MAX)? else {
        // Too large for a register is damaged; gone, or on a bad sector, it may be there tomorrow, and the register is.
        return Ok(store.platform.size(&copy)?.is_none_or(|size| size <= REGISTER_BYTES_MAX as u64));
    };
    match open_register(store, id, &copy, &bytes) {
        Ok(_) => {
            if let Err(e) = store.index.keep_objects(&[(whole_mark(&copy), Vec::new())]) {
                tracing::debug!("{e}");
            }
            Ok(true)
        }
        Err(StoreError::Damaged { .. } | StoreError::Format(_)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Under this name this host's cache remembers that a copy was whole.
pub(crate) fn whole_mark(copy: &ObjectName) -> String {
    format!("whole {copy}")
}

/// A register that lies in another month's folder and nowhere else: its session is decided, and nobody sees it.
pub(crate) fn misplaced(store: &Inner) -> Result<Option<ObjectName>> {
    for name in list_months(store, "c")? {
        if let Ok(id) = parse_session(name.file())
            && name != ObjectName::register(&id)
            && store.platform.size(&ObjectName::register(&id))?.is_none()
        {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Objects of all months below `root`.
pub(crate) fn list_months(store: &Inner, root: &str) -> Result<Vec<ObjectName>> {
    list_months_of(&*store.platform, root)
}

/// The same of a store that is not open.
pub(crate) fn list_months_of(platform: &dyn Platform, root: &str) -> Result<Vec<ObjectName>> {
    let mut out = Vec::new();
    for month in platform.list_dirs(root)? {
        out.extend(platform.list(&format!("{root}/{month}"))?);
    }
    Ok(out)
}

/// Reads objects that never change, through the cache. A store that was set back, and two copies of one store that are used in turn, have other objects
/// under the names that this host knows: what lies in the cache is believed only with the stamp of the file, and what decides something that cannot be
/// taken back reads from the store.
pub(crate) struct CachedReader<'a> {
    pub(crate) store: &'a Inner,
    /// Whether the cache is asked. What was read is handed to it either way.
    cached: bool,
    usable: bool,
    fresh: Vec<(String, Vec<u8>)>,
}

impl<'a> CachedReader<'a> {
    /// `cached`: false reads what lies in the store now.
    pub(crate) fn new(store: &'a Inner, cached: bool) -> Self {
        Self { store, cached, usable: true, fresh: Vec::new() }
    }

    /// What `open` makes of an object. Only what it accepts is kept: a storage that had a bad moment must not be believed for ever.
    pub(crate) fn read<T>(&mut self, name: &ObjectName, max: usize, open: impl Fn(&[u8]) -> Result<T>) -> Result<Option<T>> {
        // Before the object is read: one that takes its place meanwhile has another stamp.
        let stamp = if self.usable { self.store.platform.stamp(name).unwrap_or_default() } else { String::new() };
        let known = if self.cached && self.usable { self.in_cache(name) } else { None };
        if let Some((of, bytes)) = &known
            && !stamp.is_empty()
            && *of == stamp
        {
            match open(bytes) {
                Err(StoreError::Damaged { .. } | StoreError::Format(_)) => tracing::info!("{name}: this host's copy is damaged; reading it again"),
                other => return other.map(Some),
            }
        }
        let read = self.store.platform.read(name, max).and_then(|bytes| bytes.map(|bytes| Ok((open(&bytes)?, bytes))).transpose());
        match (read, known) {
            (Ok(None), _) => Ok(None),
            (Ok(Some((opened, bytes))), _) => {
                if self.usable && !stamp.is_empty() {
                    self.fresh.push((cache_name(name), with_stamp(&stamp, &bytes)));
                    if self.fresh.len() >= CACHE_BATCH {
                        self.keep();
                    }
                }
                Ok(Some(opened))
            }
            // A point whose register is damaged can be listed and restored by what this host remembers of it.
            (Err(e), Some((_, bytes))) if name.as_str().starts_with("c/") && (e.is_bad_media() || is_wrong(&e)) => open(&bytes).map(Some).map_err(|_| e),
            (Err(e), _) => Err(e),
        }
    }

    /// With the stamp that it was read under. A cache that fails is done without: nothing local may keep a host from restoring.
    fn in_cache(&mut self, name: &ObjectName) -> Option<(String, Vec<u8>)> {
        let found = self.store.index.object(&cache_name(name)).unwrap_or_else(|e| {
            tracing::warn!("{e}; this command goes on without it");
            self.usable = false;
            None
        });
        found.and_then(without_stamp)
    }

    /// Hands what was read to the cache.
    pub(crate) fn keep(&mut self) {
        if self.usable
            && !self.fresh.is_empty()
            && let Err(e) = self.store.index.keep_objects(&std::mem::take(&mut self.fresh))
        {
            tracing::warn!("{e}; this command goes on without it");
            self.usable = false;
        }
    }

    /// A register, opened, or its copy where it cannot be: its bytes are wrong, or the disk does not give them.
    pub(crate) fn register(&mut self, id: &SessionId, name: &ObjectName) -> Result<Decided> {
        let is_lost = |e: &StoreError| matches!(e, StoreError::Damaged { .. } | StoreError::Format(_)) || e.is_bad_media();
        let damage = match self.register_at(id, name) {
            Err(e) if is_lost(&e) => e,
            other => return other,
        };
        match self.register_at(id, &ObjectName::register_copy(id)) {
            Ok(decided @ (Decided::Point(_) | Decided::Relocation(_))) => {
                tracing::info!("{damage}; the register's copy serves");
                Ok(decided)
            }
            Ok(Decided::Closed) => Err(damage),
            Err(e) if is_lost(&e) => Err(damage),
            Err(e) => Err(e),
        }
    }

    /// A register as it lies under this name.
    pub(crate) fn register_at(&mut self, id: &SessionId, name: &ObjectName) -> Result<Decided> {
        let store = self.store;
        let missing = || StoreError::damaged(name, "it is listed but cannot be opened");
        self.read(name, REGISTER_BYTES_MAX, |bytes| open_register(store, id, name, bytes))?.ok_or_else(missing)
    }
}

fn is_wrong(e: &StoreError) -> bool {
    matches!(e, StoreError::Damaged { .. } | StoreError::Format(_))
}

/// Under this name the cache keeps an object together with its stamp.
fn cache_name(name: &ObjectName) -> String {
    format!("stamped {name}")
}

/// Length of the stamp in one byte, stamp, object.
fn with_stamp(stamp: &str, bytes: &[u8]) -> Vec<u8> {
    let len = u8::try_from(stamp.len()).unwrap_or(u8::MAX);
    [&[len], &stamp.as_bytes()[..len.into()], bytes].concat()
}

fn without_stamp(mut kept: Vec<u8>) -> Option<(String, Vec<u8>)> {
    let len = usize::from(*kept.first()?);
    let stamp = String::from_utf8(kept.get(1..=len)?.to_vec()).ok()?;
    Some((stamp, kept.split_off(len + 1)))
}

fn open_register(store: &Inner, id: &SessionId, name: &ObjectName, bytes: &[u8]) -> Result<Decided> {
    let reg = register::decode(bytes).map_err(|e| StoreError::damaged(name, e))?;
    if reg.session != *id {
        return Err(StoreError::damaged(name, "it lies under another session's name"));
    }
    let open = |part: u8, sealed: &[u8]| store.keys.open_small(name, &register::aad(id, reg.kind, part), sealed);
    Ok(match reg.kind {
        RegisterKind::Fence | RegisterKind::Abort => Decided::Closed,
        RegisterKind::Relocation => {
            let list = Body::decode(&open(2, reg.body)?)?.manifest;
            Decided::Relocation(list.ok_or_else(|| StoreError::damaged(name, "a relocation without a list"))?)
        }
        RegisterKind::Manifest => {
            let summary = Summary::decode(&open(1, reg.summary)?)?;
            let body = Body::decode(&open(2, reg.body)?)?;
            let register_sha256 = Sha256::digest(bytes).into();
            Decided::Point(Box::new(Point { id: *id, summary, body, register_sha256, log: Vec::new(), log_damage: None }))
        }
    })
}
