//! The book on disk, `<state folder>/alerts.sqlite`.
//!
//! Invariants
//! - It may be deleted at any time: what stands is told once more then.
//! - A file that is damaged or of a newer Cairn is set aside as `alerts.sqlite.aside`, and a new one is begun.
//! - What changed is written in one transaction.

use super::book::Book;
use crate::jobs::is_damage;
use rusqlite::{Connection, params};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// Version of the layout.
const LAYOUT: i64 = 1;
const BUSY_LIMIT: Duration = Duration::from_secs(5);
/// Rows are JSON: their keys are only ever added.
const SCHEMA: &str = "
    CREATE TABLE causes (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE failing (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE promises (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;";

/// The file of a state folder.
pub fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("alerts.sqlite")
}

/// Reads it; and what is to be said of one that could not be used.
pub fn load(path: &Path) -> Result<(Book, Option<String>), String> {
    match connect(path).and_then(|db| read(&db)) {
        Ok(book) => Ok((book, None)),
        Err(Unusable::Odd(why)) => {
            let aside = path.with_extension("sqlite.aside");
            fs::rename(path, &aside).map_err(|e| format!("{} {why}, and cannot be set aside: {e}", path.display()))?;
            // They belong to what is away. One that is not there is as good.
            ["-wal", "-shm"].iter().for_each(|suffix| drop(fs::remove_file(format!("{}{suffix}", path.display()))));
            Ok((Book::default(), Some(format!("{} {why}; it was set aside as {}, and what is wrong is told once more", path.display(), aside.display()))))
        }
        Err(Unusable::Sql(e)) => Err(format!("{} cannot be read: {e}", path.display())),
    }
}

/// Writes what differs from what was written last.
pub fn save(path: &Path, before: &Book, now: &Book) -> Result<(), String> {
    let fail = |e: Unusable| format!("{} cannot be written: {e}; is the disk of the state folder full?", path.display());
    let mut db = connect(path).map_err(fail)?;
    write(&mut db, before, now).map_err(|e| fail(e.into()))
}

fn write(db: &mut Connection, before: &Book, now: &Book) -> rusqlite::Result<()> {
    let tx = db.transaction()?;
    rows(&tx, "causes", &before.entries, &now.entries)?;
    rows(&tx, "failing", &before.failing, &now.failing)?;
    rows(&tx, "promises", &before.promises, &now.promises)?;
    tx.commit()
}

enum Unusable {
    /// What it holds is not ours.
    Odd(String),
    Sql(rusqlite::Error),
}

impl From<rusqlite::Error> for Unusable {
    fn from(e: rusqlite::Error) -> Self {
        if is_damage(&e) { Self::Odd(format!("is damaged ({e})")) } else { Self::Sql(e) }
    }
}

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Odd(why) => f.write_str(why),
            Self::Sql(e) => e.fmt(f),
        }
    }
}

fn connect(path: &Path) -> Result<Connection, Unusable> {
    // Names of domains are nobody else's business. An error shows when SQLite opens it.
    let _ = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let db = Connection::open(path)?;
    db.busy_timeout(BUSY_LIMIT)?;
    db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")?;
    match db.query_row("PRAGMA user_version", [], |r| r.get::<_, i64>(0))? {
        0 => db.execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {LAYOUT}; COMMIT;"))?,
        LAYOUT => {}
        layout => return Err(Unusable::Odd(format!("is of a newer Cairn (layout {layout})"))),
    }
    Ok(db)
}

fn read(db: &Connection) -> Result<Book, Unusable> {
    Ok(Book { entries: column(db, "causes")?, failing: column(db, "failing")?, promises: column(db, "promises")? })
}

fn column<T: DeserializeOwned>(db: &Connection, table: &str) -> Result<BTreeMap<String, T>, Unusable> {
    let mut select = db.prepare(&format!("SELECT key, value FROM {table}"))?;
    let rows = select.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?)))?;
    let mut out = BTreeMap::new();
    for row in rows {
        let (key, value) = row?;
        let value = serde_json::from_str(&value).map_err(|e| Unusable::Odd(format!("has a row that cannot be read ({table}, {key}: {e})")))?;
        out.insert(key, value);
    }
    Ok(out)
}

fn rows<T: Serialize + PartialEq>(db: &Connection, table: &str, before: &BTreeMap<String, T>, now: &BTreeMap<String, T>) -> rusqlite::Result<()> {
    for key in before.keys().filter(|key| !now.contains_key(*key)) {
        db.execute(&format!("DELETE FROM {table} WHERE key = ?1"), [key])?;
    }
    for (key, value) in now.iter().filter(|(key, value)| before.get(*key) != Some(*value)) {
        let value = serde_json::to_string(value).map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))?;
        db.execute(&format!("INSERT OR REPLACE INTO {table} (key, value) VALUES (?1, ?2)"), params![key, value])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Cause, Kind, Severity},
        *,
    };

    #[test]
    fn what_was_written_is_read_and_what_is_no_book_is_set_aside() {
        let dir = tempfile::tempdir().expect("dir");
        let path = path(dir.path());
        let (empty, said) = load(&path).expect("makes");
        assert!(empty == Book::default() && said.is_none());
        let mut book = Book::default();
        let cause = |n: u32| Cause::new(Kind::Rpo, Severity::Critical, &format!("{n}"), "x").remedy("do it");
        book.see(vec![cause(1), cause(2)], |_| true, 5);
        book.failed("ops", "it is away", 5);
        save(&path, &empty, &book).expect("writes");
        assert_eq!(load(&path).expect("reads").0, book);
        let mut later = book.clone();
        later.see(vec![cause(2)], |_| true, 6);
        later.entries.remove("rpo:1");
        later.failing.clear();
        save(&path, &book, &later).expect("writes");
        assert_eq!(load(&path).expect("reads").0, later);
        for odd in ["PRAGMA user_version = 9", "PRAGMA user_version = 1; UPDATE causes SET value = '{}'"] {
            save(&path, &Book::default(), &later).expect("writes");
            Connection::open(&path).expect("opens").execute_batch(odd).expect("writes");
            let (book, said) = load(&path).expect("goes on");
            assert!(book == Book::default() && said.is_some_and(|said| said.contains("aside")), "{odd}");
            assert_eq!(load(&path).expect("is new").1, None, "{odd}");
        }
        fs::write(&path, "this is no database at all, but long enough to be looked at by SQLite").expect("writes");
        assert!(load(&path).expect("goes on").1.is_some_and(|said| said.contains("damaged")));
    }
}
