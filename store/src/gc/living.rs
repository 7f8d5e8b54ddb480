//! Sessions as a collection sees them: decided or not, silent or not; and fencing those that are gone (G5, G6).
//!
//! Clocks and processes decide only *when* a session is fenced. Fencing a live one costs it its backup, never a committed point.

use super::{GcOptions, rounds::is_unreadable};
use crate::{Result, StoreError, damage::read_or_skip, platform::Durability, point::registers, store::Inner};
use cairn_store_format::{
    ObjectName, SessionId,
    gc::{BEAT_ENDED, SessionKind, SessionRecord},
    header::ObjectKind,
    limits::SMALL_BYTES_MAX,
    name::{parse_numbered, parse_session},
    register::{self, RegisterKind},
};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// A session by its record and beats.
pub(crate) struct Seen {
    pub(crate) id: SessionId,
    /// `None` where the record cannot be read: taken for a writer.
    pub(crate) record: Option<SessionRecord>,
    last_beat: u32,
    record_is_gone: bool,
}

/// All sessions of a fresh list of `gc/`.
pub(crate) fn sessions(store: &Inner, names: &[ObjectName]) -> Result<Vec<Seen>> {
    let mut beats: BTreeMap<SessionId, u32> = BTreeMap::new();
    for (id, n) in names.iter().filter_map(|n| parse_numbered(n.file().strip_prefix("beat-")?)) {
        let last = beats.entry(id).or_default();
        *last = n.max(*last);
    }
    let mut out = Vec::new();
    for name in names {
        let Some(id) = name.file().strip_prefix("session-").and_then(|s| parse_session(s).ok()) else { continue };
        let record = match store.platform.read(name, SMALL_BYTES_MAX) {
            Ok(None) => continue,
            Ok(Some(bytes)) => store.keys.open_object(name, ObjectKind::Session, &id.0, 0, &bytes).and_then(|plain| Ok(SessionRecord::decode(&plain)?)),
            Err(e) => Err(e),
        };
        let record = match record {
            Ok(r) => Some(r),
            Err(e) if is_unreadable(store, &e)? => {
                tracing::warn!("{e}; the session is waited for as a writer, and its record goes once it is decided");
                None
            }
            Err(e) => return Err(e),
        };
        out.push(Seen { id, record, last_beat: beats.get(&id).copied().unwrap_or(0), record_is_gone: false });
    }
    Ok(out)
}

impl Seen {
    /// One that left packs and has no record: B1 comes first, so somebody removed the record, and nobody can tell when it last lived. A fence costs it
    /// no more than its backup.
    pub(crate) fn without_record(id: SessionId) -> Self {
        Self { id, record: None, last_beat: 0, record_is_gone: true }
    }

    pub(crate) fn is_reader(&self) -> bool {
        self.record.as_ref().is_some_and(|r| r.kind == SessionKind::Read)
    }

    /// Its process ended, or it gave no sign of life for too long.
    pub(crate) fn is_dead(&self, store: &Inner, options: &GcOptions) -> Result<bool> {
        if self.record_is_gone || self.record.as_ref().is_some_and(|r| store.platform.is_gone(&r.process)) {
            return Ok(true);
        }
        let (boot, now) = (store.platform.boot(), store.platform.monotonic_ms());
        let silent_ms = store.index.unchanged_ms(&watch_name(&self.id), self.last_beat.into(), &boot, now)?;
        Ok(silent_ms >= options.dead_after_ms)
    }

    /// A reader that said it is done.
    pub(crate) fn has_ended(&self, store: &Inner) -> Result<bool> {
        if self.last_beat == 0 {
            return Ok(false);
        }
        let name = ObjectName::beat(&self.id, self.last_beat);
        let Some(bytes) = read_or_skip(&*store.platform, &name, SMALL_BYTES_MAX)? else { return Ok(false) };
        let payload = store.keys.open_object(&name, ObjectKind::Beat, &self.id.0, self.last_beat.into(), &bytes);
        // A beat that cannot be read is a beat.
        Ok(payload.is_ok_and(|p| p == BEAT_ENDED))
    }

    /// For people.
    pub(crate) fn describe(&self) -> String {
        match &self.record {
            Some(r) => format!("{} of host {}", self.id, r.host),
            None => format!("{} (its record is gone or cannot be read)", self.id),
        }
    }
}

fn watch_name(id: &SessionId) -> String {
    format!("session-{id}")
}

/// Points that living readers hold (G1; asked for after the tombstones were listed).
pub(crate) fn pinned(store: &Inner, options: &GcOptions) -> Result<HashSet<SessionId>> {
    let mut out = HashSet::new();
    for s in sessions(store, &store.platform.list("gc")?)? {
        if let Some(r) = s.record.as_ref().filter(|r| r.kind == SessionKind::Read)
            && !s.has_ended(store)?
            && !s.is_dead(store, options)?
        {
            out.extend(r.pins.iter().copied());
        }
    }
    Ok(out)
}

/// Shuts a session out: afterwards it is decided, by this fence or by its own register.
pub(crate) fn fence(store: &Inner, s: &Seen) -> Result<()> {
    store.platform.check_fresh()?;
    let bytes = register::encode(&s.id, RegisterKind::Fence, &[], &[])?;
    store.platform.create(&ObjectName::register(&s.id), &bytes, Durability::Now)?;
    tracing::info!("session {} is fenced or was decided at that moment", s.describe());
    store.index.unwatch(&watch_name(&s.id))
}

/// Sessions with a register, by a fresh list.
pub(crate) fn decided(store: &Inner) -> Result<HashSet<SessionId>> {
    Ok(registers::list(store)?.into_iter().map(|(id, _)| id).collect())
}

/// Those of `sessions` that have a register, by fresh lists of their months.
fn decided_among(store: &Inner, sessions: &[Seen]) -> Result<HashSet<SessionId>> {
    let months: BTreeSet<String> = sessions.iter().map(|s| s.id.month()).collect();
    let mut out = HashSet::new();
    for month in months {
        out.extend(store.platform.list(&format!("c/{month}"))?.iter().filter_map(|n| parse_session(n.file()).ok()));
    }
    Ok(out)
}

/// G6: waits until every one of `older` has a register; those that are dead get a fence. `Err(Busy)` after `wait_ms_max`.
pub(crate) fn wait_for(store: &Inner, mut older: Vec<Seen>, options: &GcOptions, check: &mut dyn FnMut() -> Result<()>) -> Result<Vec<String>> {
    let (started, mut fenced) = (store.platform.monotonic_ms(), Vec::new());
    loop {
        check()?;
        let there = decided_among(store, &older)?;
        older.retain(|s| !there.contains(&s.id));
        let mut waiting = Vec::new();
        for s in older {
            if s.is_dead(store, options)? {
                fence(store, &s)?;
                fenced.push(s.describe());
            } else {
                waiting.push(s);
            }
        }
        older = waiting;
        if older.is_empty() {
            return Ok(fenced);
        }
        if store.platform.monotonic_ms().saturating_sub(started) >= options.wait_ms_max {
            let names: Vec<String> = older.iter().map(Seen::describe).collect();
            return Err(StoreError::Busy(format!(
                "waited {} s for backups that began before this collection: {}; nothing was deleted, run it again later or with a longer --wait",
                options.wait_ms_max / 1000,
                names.join(", ")
            )));
        }
        store.platform.sleep_ms(options.poll_ms);
        // Beats that came meanwhile reset the silence.
        let names = store.platform.list("gc")?;
        for s in &mut older {
            let beats = names.iter().filter_map(|n| parse_numbered(n.file().strip_prefix("beat-")?)).filter(|b| b.0 == s.id);
            s.last_beat = beats.map(|b| b.1).max().unwrap_or(s.last_beat);
        }
    }
}
