//! The table of jobs, `<state folder>/jobs.sqlite`: what waits, what runs, what was.
//!
//! Invariants
//! - It may be deleted at any time: started jobs are taken in again from their folders ([`super::folder`]). What only waited is forgotten then.
//! - A file that is damaged or of a newer Cairn is set aside as `jobs.sqlite.aside`, with a word, and a new one is begun.
//! - A number is not used again as long as a row or a folder has it.
//!
//! Must not: decide what runs.

use super::{
    record::{ASKED, Again, Job, JobId, Kind, Order, State, Ticket, names},
    room,
};
use crate::{
    failure::{FAILED, Failure, NOT_FOUND, Outcome},
    schedule::Slot,
};
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::{
    collections::HashMap,
    fs,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// Version of the layout.
const LAYOUT: i64 = 3;
/// Nobody else writes; somebody who looks with `sqlite3` is waited for.
const BUSY_LIMIT: Duration = Duration::from_secs(5);
/// The journal goes into the file after so many pages of 4 KiB, and has room for twice as much.
const JOURNAL_PAGES: u64 = 64;
const JOURNAL_BYTES: u64 = 2 * JOURNAL_PAGES * 4096;
const SCHEMA: &str = "
    CREATE TABLE jobs (id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, domain TEXT NOT NULL, uuid TEXT, store TEXT NOT NULL, policy TEXT,
        cause TEXT NOT NULL, why TEXT NOT NULL, argv TEXT NOT NULL, cancel_limit_ms INTEGER NOT NULL, state TEXT NOT NULL, code INTEGER, pid INTEGER,
        cancel INTEGER NOT NULL, queued_unix_ms INTEGER NOT NULL, started_unix_ms INTEGER, ended_unix_ms INTEGER, message TEXT, point TEXT,
        retry_of INTEGER, tries INTEGER, not_before_unix_ms INTEGER, windows TEXT);
    CREATE INDEX jobs_by_state ON jobs (state);
    CREATE TABLE slots (work TEXT PRIMARY KEY, done_unix_ms INTEGER NOT NULL, ran_unix_ms INTEGER) WITHOUT ROWID;";
/// From layout 1, which knew no second try.
const FROM_1: &str = "
    ALTER TABLE jobs ADD COLUMN retry_of INTEGER; ALTER TABLE jobs ADD COLUMN tries INTEGER; ALTER TABLE jobs ADD COLUMN not_before_unix_ms INTEGER;";
/// From layout 2, which knew no schedule.
const FROM_2: &str = "
    ALTER TABLE jobs ADD COLUMN windows TEXT;
    CREATE TABLE slots (work TEXT PRIMARY KEY, done_unix_ms INTEGER NOT NULL, ran_unix_ms INTEGER) WITHOUT ROWID;";
const COLUMNS: &str = "id, kind, domain, uuid, store, policy, cause, why, argv, cancel_limit_ms, state, code, pid, cancel, queued_unix_ms, started_unix_ms, \
    ended_unix_ms, message, point, retry_of, tries, not_before_unix_ms, windows";

/// Which jobs are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// All that is kept.
    All,
    /// One state.
    In(State),
    /// Those that are not over, and those that ended at this time or later, ms since 1970.
    Since(u64),
}

/// One kind of work on one thing, over all its jobs that are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activity {
    /// What kind.
    pub kind: Kind,
    /// As the order has it.
    pub name: String,
    /// Name of the store.
    pub store: String,
    /// Names of the policies.
    pub policies: Vec<String>,
    /// One of them waits or runs.
    pub is_busy: bool,
    /// When one last came to a good end.
    pub done_unix_ms: Option<u64>,
}

/// The open table.
#[derive(Debug)]
pub struct Table {
    db: Connection,
}

/// Whether an error says that the file is no good.
pub fn is_damage(e: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    match e {
        rusqlite::Error::SqliteFailure(f, _) => matches!(f.code, DatabaseCorrupt | NotADatabase),
        // A row that does not say what ours say.
        rusqlite::Error::FromSqlConversionFailure(..) | rusqlite::Error::InvalidColumnType(..) | rusqlite::Error::IntegralValueOutOfRange(..) => true,
        _ => false,
    }
}

/// The file of a state folder.
pub fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("jobs.sqlite")
}

/// Opens or makes it; what is said of one that could not be used.
pub fn open(path: &Path) -> Outcome<(Table, Option<String>)> {
    let why = match Table::connect(path) {
        Ok(table) => return Ok((table, None)),
        Err(Unusable::Newer(layout)) => format!("is of a newer Cairn (layout {layout})"),
        Err(Unusable::Sql(e)) if is_damage(&e) => format!("is damaged ({e})"),
        Err(Unusable::Sql(e)) => {
            // A disk without room shows as all sorts of errors of SQLite's.
            let room = path.parent().and_then(|dir| room::check(dir).err()).map_or(String::new(), |why| format!("; {why}"));
            return Err(Failure::new(FAILED, format!("cannot open {}: {e}{room}", path.display())));
        }
    };
    let aside = set_aside(path)?;
    let word = format!("{} {why}; it was set aside as {}, and a new one is begun", path.display(), aside.display());
    let table = Table::connect(path).map_err(|e| Failure::new(FAILED, format!("cannot make {}: {e}", path.display())))?;
    Ok((table, Some(word)))
}

/// A new one in the place of one that turned out to be damaged while it was open.
pub fn replace(path: &Path) -> Outcome<Table> {
    if path.exists() {
        set_aside(path)?;
    }
    Table::connect(path).map_err(|e| Failure::new(FAILED, format!("cannot make {}: {e}", path.display())))
}

/// Out of the way, for whoever wants to look at it; one that was set aside before is replaced.
fn set_aside(path: &Path) -> Outcome<PathBuf> {
    let aside = path.with_extension("sqlite.aside");
    fs::rename(path, &aside).map_err(|e| crate::run::folder::failed("rename", path, &e))?;
    for suffix in ["-wal", "-shm"] {
        // They belong to what is away; SQLite would take them for the new file's. One that is not there is as good.
        let _ = fs::remove_file(format!("{}{suffix}", path.display()));
    }
    Ok(aside)
}

enum Unusable {
    Newer(i64),
    Sql(rusqlite::Error),
}

impl From<rusqlite::Error> for Unusable {
    fn from(e: rusqlite::Error) -> Self {
        Self::Sql(e)
    }
}

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Newer(layout) => write!(f, "layout {layout} is of a newer Cairn"),
            Self::Sql(e) => e.fmt(f),
        }
    }
}

/// Place for the journal, which begins anew where it began: rows change on, for the ends of jobs, when the disk is full. One that has no place works as well
/// on a disk that has.
fn reserve_journal(path: &Path) {
    let opened = fs::OpenOptions::new().write(true).open(format!("{}-wal", path.display()));
    if let Err(e) = opened.and_then(|journal| room::behind(&journal, JOURNAL_BYTES)) {
        tracing::debug!("no place was taken for the journal of {}: {e}", path.display());
    }
}

impl Table {
    fn connect(path: &Path) -> Result<Self, Unusable> {
        // Arguments of commands are nobody else's business. An error shows when SQLite opens it. One that is there is not opened besides SQLite: closing it
        // would give up the locks of this process's connections.
        let _ = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let db = Connection::open(path)?;
        db.busy_timeout(BUSY_LIMIT)?;
        db.execute_batch(&format!("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = {JOURNAL_PAGES};"))?;
        let layout: i64 = db.query_row("PRAGMA user_version", [], |r| r.get(0))?;
        if layout > LAYOUT {
            return Err(Unusable::Newer(layout));
        }
        let make = match layout {
            0 => SCHEMA.to_owned(),
            1 => format!("{FROM_1}{FROM_2}"),
            2 => FROM_2.to_owned(),
            _ => String::new(),
        };
        if !make.is_empty() {
            db.execute_batch(&format!("BEGIN IMMEDIATE; {make} PRAGMA user_version = {LAYOUT}; COMMIT;"))?;
        }
        // Not of the layout: an older Cairn goes on with it, and one without is as good.
        db.execute_batch("CREATE INDEX IF NOT EXISTS jobs_by_work ON jobs (domain, store)")?;
        let good: String = db.query_row("PRAGMA quick_check(1)", [], |r| r.get(0))?;
        if good != "ok" {
            return Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT), Some(good)).into());
        }
        reserve_journal(path);
        Ok(Self { db })
    }

    /// Adds orders, all or none, and what is noted with them; each waits for its turn.
    pub fn add(&mut self, orders: &[Order], slots: &[(String, Slot)], now_unix_ms: u64) -> rusqlite::Result<Vec<JobId>> {
        let tx = self.db.transaction()?;
        let mut ids = Vec::new();
        for order in orders {
            insert(&tx, None, order, None, now_unix_ms)?;
            ids.push(tx.last_insert_rowid());
        }
        for (work, slot) in slots {
            let sql =
                "INSERT INTO slots (work, done_unix_ms, ran_unix_ms) VALUES (?1, ?2, ?3) ON CONFLICT (work) DO UPDATE SET done_unix_ms = ?2, ran_unix_ms = ?3";
            tx.prepare_cached(sql)?.execute(params![work, to_sql(slot.done), slot.ran.map(to_sql)])?;
        }
        tx.commit()?;
        Ok(ids)
    }

    /// What was run of all that is done again and again, by its key.
    pub fn slots(&self) -> rusqlite::Result<HashMap<String, Slot>> {
        let mut select = self.db.prepare_cached("SELECT work, done_unix_ms, ran_unix_ms FROM slots")?;
        let row = |r: &Row<'_>| Ok((r.get(0)?, Slot { done: from_sql(r.get(1)?), ran: r.get::<_, Option<i64>>(2)?.map(from_sql) }));
        select.query_map([], row)?.collect()
    }

    /// Forgets what was noted before a time: its policy, store or domain is not here any more.
    pub fn forget_slots(&self, before_unix_ms: u64) -> rusqlite::Result<()> {
        self.db.execute("DELETE FROM slots WHERE done_unix_ms < ?1", [to_sql(before_unix_ms)]).map(drop)
    }

    /// All kinds of work that are kept, each once. What ended later than now did so by a clock that was wrong: it would be the last for as long as that was.
    pub fn activity(&self, now_unix_ms: u64) -> rusqlite::Result<Vec<Activity>> {
        let mut select = self.db.prepare_cached(
            "SELECT kind, domain, store, policy, max(state IN ('queued', 'running')),
                max(CASE WHEN state IN ('done', 'warnings') AND ended_unix_ms <= ?1 THEN ended_unix_ms END)
                FROM jobs GROUP BY kind, domain, store, policy",
        )?;
        let row = |r: &Row<'_>| {
            let kind: String = r.get(0)?;
            Ok(Activity {
                kind: Kind::parse(&kind).ok_or_else(|| odd(0, &kind))?,
                name: r.get(1)?,
                store: r.get(2)?,
                policies: names::split(r.get::<_, Option<String>>(3)?.as_deref()),
                is_busy: r.get(4)?,
                done_unix_ms: r.get::<_, Option<i64>>(5)?.map(from_sql),
            })
        };
        select.query_map([to_sql(now_unix_ms)], row)?.collect()
    }

    /// Takes in a job that is known from its folder only, as one that waits.
    pub fn take_in(&self, ticket: &Ticket) -> rusqlite::Result<()> {
        insert(&self.db, Some(ticket.id), &ticket.order, ticket.again.as_ref(), ticket.queued_unix_ms)
    }

    /// Writes the end of a job and adds another try of it, both or neither; `say` gives its message by the other's number.
    pub fn end_and_retry(&mut self, job: &mut Job, again: &Again, now_unix_ms: u64, say: impl Fn(JobId) -> String) -> rusqlite::Result<()> {
        let tx = self.db.transaction()?;
        insert(&tx, None, &job.order, Some(again), now_unix_ms)?;
        job.message = Some(say(tx.last_insert_rowid()));
        update(&tx, job)?;
        tx.commit()
    }

    /// Whether there was another try of a job already.
    pub fn has_retry(&self, id: JobId) -> rusqlite::Result<bool> {
        self.db.query_row("SELECT EXISTS (SELECT 1 FROM jobs WHERE retry_of = ?1)", [id], |r| r.get(0))
    }

    /// Numbers up to this one are not given again.
    pub fn reserve(&self, id: JobId) -> rusqlite::Result<()> {
        let changed = self.db.execute("UPDATE sqlite_sequence SET seq = max(seq, ?1) WHERE name = 'jobs'", [id])?;
        if changed == 0 {
            self.db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('jobs', ?1)", [id])?;
        }
        Ok(())
    }

    /// One job.
    pub fn get(&self, id: JobId) -> rusqlite::Result<Option<Job>> {
        self.db.query_row(&format!("SELECT {COLUMNS} FROM jobs WHERE id = ?1"), [id], read).optional()
    }

    /// Jobs by number.
    pub fn list(&self, which: Which) -> rusqlite::Result<Vec<Job>> {
        let (condition, value): (&str, rusqlite::types::Value) = match which {
            Which::All => ("?1 IS NULL", rusqlite::types::Value::Null),
            Which::In(state) => ("state = ?1", state.word().to_owned().into()),
            Which::Since(ms) => ("(state IN ('queued', 'running') OR ended_unix_ms >= ?1)", to_sql(ms).into()),
        };
        let mut statement = self.db.prepare_cached(&format!("SELECT {COLUMNS} FROM jobs WHERE {condition} ORDER BY id"))?;
        statement.query_map([value], read)?.collect()
    }

    /// Jobs since a time that owe a point, newest first, at most this many: those that were lost, and those of an event that failed for good. Nothing later of the
    /// same work has come to a good end. Of what failed the last one tells, while no other try and no job of another event is to do it.
    /// A domain that is gone owes none.
    pub fn owed(&self, since_unix_ms: u64, max: usize) -> rusqlite::Result<Vec<Job>> {
        let mut statement = self.db.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM jobs WHERE ended_unix_ms >= ?1 AND (state = 'lost' OR (state = 'failed' AND cause <> '{ASKED}' AND code IS NOT {NOT_FOUND}))
                AND NOT EXISTS (SELECT 1 FROM jobs AS later WHERE later.domain = jobs.domain AND later.store = jobs.store AND later.id > jobs.id
                AND later.kind = jobs.kind AND (later.state IN ('done', 'warnings') OR (jobs.state = 'failed' AND (later.retry_of = jobs.id
                OR (later.cause <> '{ASKED}' AND later.state IN ('queued', 'running', 'failed', 'lost'))))))
                ORDER BY id DESC LIMIT ?2"
        ))?;
        statement.query_map(params![to_sql(since_unix_ms), i64::try_from(max).unwrap_or(i64::MAX)], read)?.collect()
    }

    /// How many are in a state.
    pub fn count(&self, state: State) -> rusqlite::Result<usize> {
        let n: i64 = self.db.query_row("SELECT count(*) FROM jobs WHERE state = ?1", [state.word()], |r| r.get(0))?;
        Ok(usize::try_from(n).unwrap_or(0))
    }

    /// Writes all that changes in a job's life.
    pub fn update(&self, job: &Job) -> rusqlite::Result<()> {
        update(&self.db, job)
    }

    /// Numbers of jobs that are over and older than a time, or beyond the newest `keep`.
    pub fn outdated(&self, before_unix_ms: u64, keep: usize) -> rusqlite::Result<Vec<JobId>> {
        let mut statement = self.db.prepare_cached(
            "SELECT id FROM jobs WHERE state NOT IN ('queued', 'running') AND (ended_unix_ms < ?1
                OR id NOT IN (SELECT id FROM jobs WHERE state NOT IN ('queued', 'running') ORDER BY id DESC LIMIT ?2)) ORDER BY id",
        )?;
        statement.query_map(params![to_sql(before_unix_ms), i64::try_from(keep).unwrap_or(i64::MAX)], |r| r.get(0))?.collect()
    }

    /// Forgets one.
    pub fn remove(&self, id: JobId) -> rusqlite::Result<()> {
        self.db.execute("DELETE FROM jobs WHERE id = ?1", [id]).map(drop)
    }
}

/// Writes all that changes in a job's life.
fn update(db: &Connection, job: &Job) -> rusqlite::Result<()> {
    db.execute(
        "UPDATE jobs SET state = ?2, code = ?3, pid = ?4, cancel = ?5, started_unix_ms = ?6, ended_unix_ms = ?7, message = ?8, point = ?9 WHERE id = ?1",
        params![
            job.id,
            job.state.word(),
            job.code,
            job.pid,
            job.cancel,
            job.started_unix_ms.map(to_sql),
            job.ended_unix_ms.map(to_sql),
            job.message,
            job.point
        ],
    )?;
    Ok(())
}

fn insert(db: &Connection, id: Option<JobId>, o: &Order, again: Option<&Again>, queued_unix_ms: u64) -> rusqlite::Result<()> {
    let argv = serde_json::Value::from(o.argv.clone()).to_string();
    db.execute(
        "INSERT INTO jobs (id, kind, domain, uuid, store, policy, cause, why, argv, cancel_limit_ms, state, cancel, queued_unix_ms,
            retry_of, tries, not_before_unix_ms, windows) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, 0, ?12, ?13, ?14, ?15, ?16)",
        params![
            id,
            o.kind.word(),
            o.domain,
            o.uuid,
            o.store,
            names::joined(&o.policies),
            o.trigger,
            o.why,
            argv,
            to_sql(o.cancel_limit_ms),
            State::Queued.word(),
            to_sql(queued_unix_ms),
            again.map(|a| a.of),
            again.map(|a| a.tries),
            again.map(|a| to_sql(a.not_before_unix_ms)),
            names::joined(&o.windows)
        ],
    )
    .map(drop)
}

fn odd(column: usize, what: &str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, what.to_owned().into())
}

fn from_sql(ms: i64) -> u64 {
    u64::try_from(ms).unwrap_or(0)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Job> {
    let ms = from_sql;
    let (kind, argv, state): (String, String, String) = (row.get(1)?, row.get(8)?, row.get(10)?);
    Ok(Job {
        id: row.get(0)?,
        order: Order {
            kind: Kind::parse(&kind).ok_or_else(|| odd(1, &kind))?,
            domain: row.get(2)?,
            uuid: row.get(3)?,
            store: row.get(4)?,
            policies: names::split(row.get::<_, Option<String>>(5)?.as_deref()),
            trigger: row.get(6)?,
            why: row.get(7)?,
            windows: names::split(row.get::<_, Option<String>>(22)?.as_deref()),
            argv: serde_json::from_str(&argv).map_err(|_| odd(8, &argv))?,
            cancel_limit_ms: ms(row.get(9)?),
        },
        state: State::parse(&state).ok_or_else(|| odd(10, &state))?,
        code: row.get(11)?,
        pid: row.get(12)?,
        cancel: row.get(13)?,
        queued_unix_ms: ms(row.get(14)?),
        started_unix_ms: row.get::<_, Option<i64>>(15)?.map(ms),
        ended_unix_ms: row.get::<_, Option<i64>>(16)?.map(ms),
        message: row.get(17)?,
        point: row.get(18)?,
        again: match (row.get(19)?, row.get(20)?, row.get::<_, Option<i64>>(21)?) {
            (Some(of), Some(tries), Some(at)) => Some(Again { of, tries, not_before_unix_ms: ms(at) }),
            _ => None,
        },
    })
}

fn to_sql(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
