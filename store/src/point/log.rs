//! Writing a point's log: each entry under the next free number, by create-if-absent.

use super::{Point, log_memory, numbered::create_next};
use crate::{Result, StoreError, store::Store};
use cairn_store_format::{
    ObjectName, SessionId,
    header::ObjectKind,
    limits::{NOTE_BYTES_MAX, TAG_BYTES_MAX},
    point_log::{Action, LogEntry},
};

/// Entries that others add at the same moment; more tries than that mean something is wrong.
const TRIES_MAX: u32 = 1000;

impl Store {
    /// Refuses to forget the point until it is unprotected.
    pub fn protect(&self, point: &Point, protect: bool) -> Result<()> {
        self.append(&point.id, if protect { Action::Protect } else { Action::Unprotect }, "")
    }

    /// Adds or removes a tag.
    pub fn tag(&self, point: &Point, tag: &str, add: bool) -> Result<()> {
        check_tag(tag)?;
        self.append(&point.id, if add { Action::Tag } else { Action::Untag }, tag)
    }

    /// Replaces the point's note.
    pub fn note(&self, point: &Point, text: &str) -> Result<()> {
        if text.len() > NOTE_BYTES_MAX {
            return Err(StoreError::Usage(format!("a note has at most {NOTE_BYTES_MAX} bytes, this one has {}", text.len())));
        }
        self.append(&point.id, Action::Note, text)
    }

    /// Records a verification: `None` where nothing was wrong.
    pub fn record_verdict(&self, point: &Point, damage: Option<&str>) -> Result<()> {
        let text = damage.map_or(super::VERDICT_GOOD.to_owned(), |d| format!("damaged: {d}"));
        self.append(&point.id, Action::Verified, &text)
    }

    pub(super) fn append(&self, point: &SessionId, action: Action, text: &str) -> Result<()> {
        let store = &*self.inner;
        let text = cairn_store_format::register::cut_text(text, NOTE_BYTES_MAX).to_owned();
        let entry = LogEntry { action, time_unix_ms: store.platform.now_unix_ms(), host: store.host.clone(), text }.encode();
        let written = log_memory::written(store, point);
        let number = create_next(store, point, ObjectKind::PointLog, ObjectName::point_log, &entry, written, TRIES_MAX)?;
        number.iter().for_each(|n| log_memory::wrote(store, point, *n));
        let crowded = || StoreError::Refused(format!("the log of point {point} grows faster than an entry can be added"));
        number.map(drop).ok_or_else(crowded)
    }
}

/// A tag: one word, printable, not too long.
pub fn check_tag(tag: &str) -> Result<()> {
    let fine = !tag.is_empty() && tag.len() <= TAG_BYTES_MAX && tag.chars().all(|c| !c.is_control() && !c.is_whitespace() && c != ',');
    if fine { Ok(()) } else { Err(StoreError::Usage(format!("'{}' is no tag: one word of at most {TAG_BYTES_MAX} bytes without commas", tag.escape_debug()))) }
}
