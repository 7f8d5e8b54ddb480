//! Opening SQLite files that several processes of this host share: the caches of a store.
//!
//! SQLite waits for another writer by its busy handler only where waiting can help in its view. It does not where a file is switched to its write-ahead
//! log, and not where a transaction that began with a read goes on to write; both answer "database is locked" at once. Invariants:
//! - A file is switched once, and whoever meets another one in that moment tries again until [`BUSY_LIMIT`] is over.
//! - What makes or changes tables begins with the right to write, and looks again then: another process may have been faster.
//!
//! Must not: hold a transaction while anything else than SQLite is waited for.

use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// How long to wait for another process that writes.
pub(crate) const BUSY_LIMIT: Duration = Duration::from_secs(30);
/// Pause between two tries of what SQLite itself does not wait for.
const AGAIN_MS: u64 = 5;

/// A connection that waits for others, to a file with a write-ahead log.
pub(crate) fn open(path: &Path, busy_limit: Duration) -> rusqlite::Result<Connection> {
    let db = connect(path, busy_limit)?;
    let until = Instant::now() + busy_limit;
    loop {
        match switch(&db) {
            Err(e) if is_busy(&e) && Instant::now() < until => std::thread::sleep(Duration::from_millis(AGAIN_MS)),
            other => return other.map(|()| db),
        }
    }
}

/// The same to a file that was opened by [`open`] before.
pub(crate) fn connect(path: &Path, busy_limit: Duration) -> rusqlite::Result<Connection> {
    let db = Connection::open(path)?;
    db.busy_timeout(busy_limit)?;
    Ok(db)
}

/// A file that has its log already is only read.
fn switch(db: &Connection) -> rusqlite::Result<()> {
    let mode = |sql| db.query_row(sql, [], |r| r.get::<_, String>(0));
    if mode("PRAGMA journal_mode")? != "wal" {
        mode("PRAGMA journal_mode = WAL")?;
    }
    Ok(())
}

/// Makes the tables of a file whose layout is another: `make` gives the statements for the layout that is there, `None` where nothing is to do.
pub(crate) fn prepare(db: &mut Connection, layout: i64, make: impl Fn(i64) -> Option<String>) -> rusqlite::Result<()> {
    let there = |db: &Connection| db.query_row("PRAGMA user_version", [], |r| r.get::<_, i64>(0));
    if make(there(db)?).is_none() {
        return Ok(());
    }
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if let Some(sql) = make(there(&tx)?) {
        tx.execute_batch(&format!("{sql} PRAGMA user_version = {layout};"))?;
    }
    tx.commit()
}

/// Whether another one is at work.
pub(crate) fn is_busy(e: &rusqlite::Error) -> bool {
    matches!(e, rusqlite::Error::SqliteFailure(f, _) if matches!(f.code, ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    const ROUNDS: usize = 60;
    const AT_ONCE: usize = 8;

    /// SQLite's locks hold between the connections of one process as between processes.
    fn all_at_once(work: impl Fn(&Path) -> rusqlite::Result<()> + Sync) -> Vec<String> {
        let mut failed = Vec::new();
        for _ in 0..ROUNDS {
            let dir = tempfile::tempdir().expect("temp dir");
            let (path, start) = (dir.path().join("x.sqlite"), Barrier::new(AT_ONCE));
            let one = || {
                start.wait();
                work(&path).map_err(|e| e.to_string())
            };
            std::thread::scope(|s| {
                let workers: Vec<_> = (0..AT_ONCE).map(|_| s.spawn(one)).collect();
                failed.extend(workers.into_iter().filter_map(|w| w.join().expect("no panic").err()));
            });
        }
        failed
    }

    #[test]
    fn many_that_make_one_file_at_once_all_succeed() {
        let failed = all_at_once(|path| {
            let mut db = open(path, BUSY_LIMIT)?;
            // Not "if not exists": one alone makes it.
            prepare(&mut db, 3, |there| (there != 3).then(|| "CREATE TABLE t (n INTEGER);".to_owned()))?;
            db.execute("INSERT INTO t VALUES (1)", []).map(drop)
        });
        assert!(failed.is_empty(), "{} of {}: {}", failed.len(), ROUNDS * AT_ONCE, failed[0]);
    }

    #[test]
    fn waiting_for_a_file_that_stays_locked_ends() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("x.sqlite");
        let other = Connection::open(&path).expect("opens");
        other.execute_batch("CREATE TABLE t (n INTEGER); BEGIN EXCLUSIVE;").expect("locks");
        let begin = Instant::now();
        let e = open(&path, Duration::from_millis(200)).expect_err("it is locked");
        assert!(is_busy(&e) && begin.elapsed() >= Duration::from_millis(200) && begin.elapsed() < Duration::from_secs(20), "{e}");
    }
}
