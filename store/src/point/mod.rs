//! Restore points: listing them, what happened to them since, their manifest and parts.
//!
//! A point exists while `c/` holds its manifest register and neither `f/` nor its log forget it. Registers and log entries never change,
//! so this host keeps them in its cache; which exist is always listed afresh.

mod boot_proof;
mod forget;
mod log;
mod log_memory;
mod numbered;
mod undo;
pub use boot_proof::BootProof;
pub(crate) use forget::finish_forgets;
pub use forget::{Forgotten, Stays};
pub use log::check_tag;
pub use undo::{AllPoints, TakeBack, TakenBack};
pub(crate) mod registers;
mod set;

#[cfg(test)]
mod scale;

use registers::{CachedReader, Decided};
pub(crate) use set::{PointSet, log_forgets, remembered};
use set::{log_names, read_log};

use crate::{
    Result, StoreError,
    resolve::decompressor,
    store::{Inner, Store},
};
use cairn_store_format::{
    ObjectName, SessionId,
    limits::REGISTER_BYTES_MAX,
    manifest::Manifest,
    pack::FrameKind,
    point_log::{Action, LogEntry},
    register::{self, Body, DiskEntry, DiskTable, RegisterKind, Summary, decode_disks},
};

/// What is known about a point's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PointState {
    /// The newest verification found nothing wrong.
    Good,
    /// The newest verification found damage.
    Damaged,
    /// Never verified.
    Unverified,
}

/// A committed point that is not forgotten.
#[derive(Clone, Debug)]
pub struct Point {
    /// Its session's id.
    pub id: SessionId,
    /// What `list` shows.
    pub summary: Summary,
    /// Parent points, roots and manifest reference.
    pub body: Body,
    /// SHA-256 of its register.
    pub register_sha256: [u8; 32],
    /// Its log, oldest first, as far as it can be read.
    pub log: Vec<LogEntry>,
    /// What of its log cannot be read; `None` where nothing is known to be missing.
    pub log_damage: Option<LogDamage>,
}

/// Entries of a point's log that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogDamage {
    /// Each with its reason.
    pub entries: Vec<String>,
    /// No later entry that can be read says whether the point is protected.
    pub may_be_protected: bool,
}

impl LogDamage {
    /// The first entry, and how many more.
    fn first(&self) -> String {
        let more = self.entries.len().saturating_sub(1);
        let first = self.entries.first().map_or("", String::as_str);
        if more == 0 { first.to_owned() } else { format!("{first}; and {more} more") }
    }
}

impl Point {
    /// Tags given at the backup and since, less those removed.
    pub fn tags(&self) -> Vec<String> {
        let mut tags = self.summary.tags.clone();
        for e in &self.log {
            match e.action {
                Action::Tag if !tags.contains(&e.text) => tags.push(e.text.clone()),
                Action::Untag => tags.retain(|t| *t != e.text),
                _ => {}
            }
        }
        tags
    }
    /// Whether the last protect or unprotect was a protect.
    pub fn is_protected(&self) -> bool {
        let last = self.log.iter().rev().find(|e| matches!(e.action, Action::Protect | Action::Unprotect));
        last.is_some_and(|e| e.action == Action::Protect)
    }
    /// By its newest verification.
    pub fn state(&self) -> PointState {
        match self.log.iter().rev().find(|e| e.action == Action::Verified) {
            None => PointState::Unverified,
            Some(e) if e.text == VERDICT_GOOD => PointState::Good,
            Some(_) => PointState::Damaged,
        }
    }
    /// The newest note; empty where there is none.
    pub fn note(&self) -> &str {
        self.log.iter().rev().find(|e| e.action == Action::Note).map_or("", |e| e.text.as_str())
    }
    /// Whether the log forgets it.
    pub(crate) fn log_forgets(&self) -> bool {
        self.log.iter().any(|e| e.action == Action::Forget)
    }
}

/// A guard's age, for messages.
pub(crate) fn hours(ms: u64) -> String {
    if ms.is_multiple_of(3_600_000) { format!("{} h", ms / 3_600_000) } else { format!("{} s", ms / 1000) }
}

/// Verdict text of a verification that found nothing wrong.
pub(crate) const VERDICT_GOOD: &str = "good";

impl Store {
    /// All points, oldest first. Registers that cannot be read are left out, with a warning: they must not hide the others.
    pub fn points(&self) -> Result<Vec<Point>> {
        let (points, damaged) = self.points_and_damage()?;
        damaged.iter().for_each(|d| tracing::warn!("{d}; 'cairn verify --all' tells more"));
        Ok(points)
    }

    /// All points, oldest first, and what of registers and logs cannot be read.
    pub fn points_and_damage(&self) -> Result<(Vec<Point>, Vec<String>)> {
        let mut set = PointSet::load(&self.inner)?;
        let damaged = std::mem::take(&mut set.damaged);
        Ok((set.into_live(), damaged))
    }

    /// All points as they lie in the store now, past this host's cache, and what of their registers and logs cannot be read.
    pub fn points_from_storage(&self) -> Result<(Vec<Point>, Vec<String>)> {
        let mut set = PointSet::load_from_storage(&self.inner)?;
        let damaged = std::mem::take(&mut set.damaged);
        Ok((set.into_live(), damaged))
    }

    /// As [`Store::points_from_storage`], for those who decide what goes: damage where the register of a point is missing.
    pub fn points_for_retention(&self) -> Result<(Vec<Point>, Vec<String>)> {
        let mut set = PointSet::load_from_storage(&self.inner)?;
        set.none_is_missing()?;
        let damaged = std::mem::take(&mut set.damaged);
        Ok((set.into_live(), damaged))
    }

    /// A point as it stands in the store now, past this host's cache; `None` where it was forgotten, or is no point (any more).
    pub fn point_from_storage(&self, id: &SessionId) -> Result<Option<Point>> {
        let store = &*self.inner;
        if store.platform.size(&ObjectName::tombstone(id))?.is_some() {
            return Ok(None);
        }
        let mut reader = CachedReader::new(store, false);
        let Decided::Point(mut point) = reader.register(id, &ObjectName::register(id))? else { return Ok(None) };
        let written = log_memory::written(store, id);
        (point.log, point.log_damage) = read_log(&mut reader, id, log_names(store, id)?, written)?;
        reader.keep();
        Ok((!point.log_forgets()).then_some(*point))
    }

    /// Whether a session has committed a point by now; asked afresh, so it knows of points that a session's B3 did not see.
    pub fn has_committed(&self, id: &SessionId) -> Result<bool> {
        let name = ObjectName::register(id);
        let Some(bytes) = self.inner.platform.read(&name, REGISTER_BYTES_MAX)? else {
            // A copy is only made of what was committed.
            return Ok(self.inner.platform.size(&ObjectName::register_copy(id))?.is_some());
        };
        let register = register::decode(&bytes).map_err(|e| StoreError::damaged(&name, e))?;
        Ok(register.kind == RegisterKind::Manifest)
    }

    /// A point's disks.
    pub fn disks(&self, point: &Point) -> Result<Vec<DiskEntry>> {
        disks(&self.inner, point)
    }

    /// A point's manifest.
    pub fn manifest(&self, point: &Point) -> Result<Manifest> {
        manifest(&self.inner, point)
    }

    /// Content of a part that the manifest names; `None` where it names none so.
    pub fn part(&self, manifest: &Manifest, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(part) = manifest.parts.get(name) else { return Ok(None) };
        self.inner.fetch(&mut decompressor(), &part.to_ref()?, FrameKind::Blob, 0).map(Some)
    }
}

pub(crate) fn manifest(store: &Inner, point: &Point) -> Result<Manifest> {
    let r = point.body.manifest.as_ref().ok_or_else(|| StoreError::damaged(format_args!("point {}", point.id), "it has no manifest"))?;
    Ok(Manifest::decode(&store.fetch(&mut decompressor(), r, FrameKind::Manifest, 0)?)?)
}

pub(crate) fn disks(store: &Inner, point: &Point) -> Result<Vec<DiskEntry>> {
    match &point.body.disks {
        DiskTable::Inline(d) => Ok(d.clone()),
        DiskTable::Frame(r) => Ok(decode_disks(&store.fetch(&mut decompressor(), r, FrameKind::DiskTable, 0)?)?),
    }
}
