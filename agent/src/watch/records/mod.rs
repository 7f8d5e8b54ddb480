//! Records of domains, in `<state folder>/domains.sqlite`: what was seen of each, what happened to it, what its last points are.
//!
//! Invariants
//! - A domain is its UUID; a rename changes its name.
//! - One transaction decides what an event or a look means ([`super::life`]), so that a change that is told twice is one change.
//! - A wish lies here until there is a job for it: who is killed in between hands it on when it is started again.
//! - Bounded: so many events a domain, so long a domain that is gone.

mod file;
mod tables;

use super::{
    life::{Before, Change, Sight, judge},
    wish::{Trigger, Wish},
};
use crate::{
    config::Subject,
    failure::{FAILED, Failure, Outcome},
};
use cairn_hypervisor::{events::Start, metadata::BackupWord, phase::Phase};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

/// Events that are kept of each domain.
const EVENTS_MAX: i64 = 50;
/// How long a domain that libvirt no longer knows is remembered.
const GONE_KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
/// Longest text that comes from outside; names of domains are bounded by file names.
const TEXT_CHARS_MAX: usize = 300;

/// An open file of records.
#[derive(Debug)]
pub struct Records {
    state_dir: PathBuf,
    db: Connection,
}

/// One line of what happened to a domain.
#[derive(Debug, Clone, Copy)]
pub struct Note<'a> {
    /// Who told it: `libvirt`, `hook`, `look`.
    pub source: &'static str,
    /// A word.
    pub what: &'a str,
    /// More words.
    pub detail: &'a str,
}

/// A domain as policies select it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// UUID in its usual form.
    pub uuid: String,
    /// Name, state, and its own word.
    pub subject: Subject,
    /// Its metadata was read since it was first seen: until then its word is none.
    pub is_known: bool,
    /// It is in use on another host: its images are not ours to read.
    pub is_away: bool,
    /// Its latest point in each store that has one.
    pub points: BTreeMap<String, String>,
}

/// What a look found out about a domain, besides its phase.
#[derive(Debug, Clone, Default)]
pub struct LookNote {
    /// What its metadata says of its backups; none where it was not read.
    pub word: Option<BackupWord>,
    /// `looked`, `busy`, ...
    pub outcome: String,
    /// Disks with what is recorded of them; none where it was not asked.
    pub disks: Option<Value>,
    /// What was found and what became of it: an array of `{"kind", "name", "outcome"}`.
    pub findings: Value,
    /// A freeze of it is recorded and was not ended.
    pub frozen: bool,
    /// Its newest point in each store that answered: store, point, time in Unix milliseconds.
    pub points: Vec<(String, String, u64)>,
    /// When.
    pub at_unix_ms: u64,
}

impl Records {
    /// Opens or makes the file.
    pub fn open(state_dir: &Path) -> Outcome<Self> {
        let db = file::open(state_dir).map_err(|e| Failure::new(FAILED, e.to_string()))?;
        Ok(Self { state_dir: state_dir.to_owned(), db })
    }

    /// Work in one transaction. A file that turns out to be damaged, or whose tables are gone, is opened anew, and the work done once more.
    fn work<T>(&mut self, work: impl Fn(&Connection) -> rusqlite::Result<T>) -> Outcome<T> {
        let once = |db: &mut Connection| {
            let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = work(&tx)?;
            tx.commit()?;
            Ok(value)
        };
        let result = match once(&mut self.db) {
            Err(e) if file::is_damage(&e) => {
                *self = Self::open(&self.state_dir)?;
                once(&mut self.db)
            }
            result => result,
        };
        let path = self.state_dir.join(file::NAME);
        result.map_err(|e: rusqlite::Error| Failure::new(FAILED, format!("the records of domains in {}: {e}; the file may be deleted", path.display())))
    }

    /// Somebody saw a domain, or heard what became of it.
    pub fn saw(&mut self, uuid: &str, name: &str, sight: &Sight, source: &'static str) -> Outcome<Change> {
        let name = cut(name);
        self.work(|db| {
            let sql = "SELECT running, stamp_ns, boot, reason FROM domains WHERE uuid = ?1 AND phase != 'gone'";
            let before = db.prepare_cached(sql)?.query_row([uuid], before).optional()?;
            let change = judge(before.as_ref(), sight);
            if change.changed {
                tables::put_phase(db, uuid, &name, sight)?;
                let (what, detail) = phase_word(sight.phase);
                tables::note(db, uuid, sight.at_unix_ms, &Note { source, what, detail })?;
            } else {
                db.prepare_cached("UPDATE domains SET name = ?2 WHERE uuid = ?1 AND name != ?2")?.execute(params![uuid, name])?;
            }
            if let Some(why) = change.suspicion {
                tables::suspect(db, uuid, why, sight.at_unix_ms, source)?;
            }
            if let Some((trigger, why)) = change.wish {
                let sql = "INSERT INTO wishes (uuid, name, trigger, why, at_unix_ms) VALUES (?1, ?2, ?3, ?4, ?5)";
                db.prepare_cached(sql)?.execute(params![uuid, name, trigger.word(), format!("{why} (told by {source})"), signed(sight.at_unix_ms)])?;
            }
            Ok(change)
        })
    }

    /// Something happened that changes nothing by itself.
    pub fn happened(&mut self, uuid: &str, at_unix_ms: u64, note: &Note<'_>) -> Outcome<()> {
        self.work(|db| tables::note(db, uuid, at_unix_ms, note))
    }

    /// The UUID of the domain that had this name last.
    pub fn uuid_of(&mut self, name: &str) -> Outcome<Option<String>> {
        self.work(|db| {
            let sql = "SELECT uuid FROM domains WHERE name = ?1 ORDER BY phase = 'gone', since_unix_ms DESC LIMIT 1";
            db.prepare_cached(sql)?.query_row([name], |r| r.get(0)).optional()
        })
    }

    /// All domains that libvirt has, as policies select them.
    pub fn seen(&mut self) -> Outcome<Vec<Seen>> {
        self.work(tables::seen)
    }

    /// Stores in which a domain has points, with its newest there.
    pub fn points_of(&mut self, uuid: &str) -> Outcome<Vec<(String, String)>> {
        self.work(|db| db.prepare_cached("SELECT store, point FROM points WHERE uuid = ?1")?.query_map([uuid], |r| Ok((r.get(0)?, r.get(1)?)))?.collect())
    }

    /// A look came to its end. A point that is newer than what the domain is suspected for ends the suspicion.
    pub fn looked(&mut self, uuid: &str, look: &LookNote) -> Outcome<()> {
        self.work(|db| tables::looked(db, uuid, look))
    }

    /// A look at all domains saw these; what is not among them is gone.
    pub fn only_these(&mut self, uuids: &[String], now_unix_ms: u64, stamp_ns: u64) -> Outcome<()> {
        self.work(|db| tables::only_these(db, uuids, now_unix_ms, stamp_ns))
    }

    /// libvirt does not know this one any more.
    pub fn gone(&mut self, uuid: &str, now_unix_ms: u64) -> Outcome<()> {
        self.work(|db| tables::gone(db, uuid, now_unix_ms))
    }

    /// Wishes that were not handed on yet, oldest first, and still make sense: a domain that shut down and was started again has no quiet disks any more.
    pub fn wishes(&mut self) -> Outcome<Vec<Wish>> {
        self.work(|db| {
            db.execute("DELETE FROM wishes WHERE trigger = 'shutdown' AND uuid IN (SELECT uuid FROM domains WHERE running)", [])?;
            let mut select = db.prepare_cached("SELECT id, name, uuid, trigger, why FROM wishes ORDER BY id")?;
            let row = |r: &rusqlite::Row<'_>| {
                let trigger = if r.get::<_, String>(3)? == Trigger::Shutdown.word() { Trigger::Shutdown } else { Trigger::Started };
                Ok(Wish { id: r.get(0)?, domain: r.get(1)?, uuid: r.get(2)?, trigger, why: r.get(4)? })
            };
            select.query_map([], row)?.collect()
        })
    }

    /// A wish was granted: there is a job, or no policy wants one.
    pub fn wished(&mut self, id: i64) -> Outcome<()> {
        self.work(|db| db.prepare_cached("DELETE FROM wishes WHERE id = ?1")?.execute([id]).map(drop))
    }

    /// All that is known, as the API shows it: an array, by name.
    pub fn shown(&mut self) -> Outcome<Value> {
        self.work(tables::shown)
    }
}

fn before(r: &rusqlite::Row<'_>) -> rusqlite::Result<Before> {
    let (running, unexplained) = (r.get(0)?, r.get::<_, String>(3)? == Start::Other.word());
    Ok(Before { running, stamp_ns: r.get::<_, i64>(1)?.unsigned_abs(), boot: r.get(2)?, unexplained })
}

/// Phase and reason.
fn phase_word(phase: Phase) -> (&'static str, &'static str) {
    match phase {
        Phase::Running(start) => ("running", start.word()),
        Phase::Off(stop) => ("off", stop.word()),
    }
}

/// SQLite's numbers are signed; ours fit for 292 years.
fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn cut(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests;
