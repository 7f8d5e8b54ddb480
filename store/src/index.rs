//! The local index: an SQLite file that says in which pack a chunk may be. A cache: deleting it costs time only.
//!
//! - `chunks`: first 8 bytes of an id -> pack number (28 B a row). A hit is a hint: the caller reads the id from the pack's own footer.
//! - `objects`: registers, tombstones and point logs as read, with the stamp of the file; which points this host has seen, and how far it has written
//!   their logs.
//! - `files`: index files that were taken in.
//! - `scrubbed`: when a pack was last checked by this host.
//! - `watched`: for how long this host has seen something stay as it is.

use crate::{
    Result, StoreError,
    database::{self, BUSY_LIMIT},
};
use cairn_store_format::{Id, PackId, PackKind, SessionId, StoreId, index::IndexedPack};
use rusqlite::{Connection, OptionalExtension, params};
use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Version of this database's layout; another one is thrown away.
const LAYOUT: i64 = 3;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS packs (number INTEGER PRIMARY KEY, session BLOB NOT NULL, seq INTEGER NOT NULL, kind INTEGER NOT NULL, UNIQUE (session, seq));
    CREATE TABLE IF NOT EXISTS chunks (prefix INTEGER PRIMARY KEY, pack INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS files (name TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS objects (name TEXT PRIMARY KEY, bytes BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS watched (name TEXT PRIMARY KEY, value INTEGER NOT NULL, boot TEXT NOT NULL, at_ms INTEGER NOT NULL, unchanged_ms INTEGER NOT NULL)
        WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS scrubbed (pack TEXT PRIMARY KEY, at_ms INTEGER NOT NULL) WITHOUT ROWID;";

/// What another layout had.
const DROP: &str = "DROP TABLE IF EXISTS packs; DROP TABLE IF EXISTS chunks; DROP TABLE IF EXISTS files; DROP TABLE IF EXISTS objects;
    DROP TABLE IF EXISTS watched; DROP TABLE IF EXISTS scrubbed;";

/// The index of one store on this host.
pub(crate) struct Index {
    path: PathBuf,
    db: Mutex<Connection>,
    /// A folder of this process alone, where the host's own cannot be used.
    temporary: Option<PathBuf>,
}

impl Drop for Index {
    fn drop(&mut self) {
        if let Some(dir) = &self.temporary {
            // What stays in a temporary folder is the system's to clear.
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

/// A look-up of its own, for one worker thread.
pub(crate) struct IndexReader {
    path: PathBuf,
    db: Connection,
}

/// A database that turns out to be damaged while it is used is dropped at the next opening.
fn fail(path: &Path) -> impl Fn(rusqlite::Error) -> StoreError + '_ {
    |source| {
        if is_damage(&source) {
            // If even the mark cannot be made, the message says what to delete.
            let _ = std::fs::write(damage_mark(path), b"");
        }
        StoreError::Index { path: path.display().to_string(), source }
    }
}

fn damage_mark(path: &Path) -> PathBuf {
    path.with_extension("damaged")
}

fn nanos() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos())
}

pub(crate) fn remove_database(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        // What cannot be removed shows when the new file is opened.
        let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
    }
}

fn prefix(id: &Id) -> i64 {
    id.prefix().cast_signed()
}

impl Index {
    /// Opens or makes `<dir>/<store>.sqlite`; a damaged one is replaced.
    pub(crate) fn open(dir: &Path, store: &StoreId) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|source| StoreError::Storage { op: "create", name: dir.display().to_string(), source })?;
        let path = dir.join(format!("{store}.sqlite"));
        if damage_mark(&path).exists() {
            tracing::warn!("index cache {} was found damaged and is made anew", path.display());
            remove_database(&path);
            // A mark that stays costs the cache once more.
            let _ = std::fs::remove_file(damage_mark(&path));
        }
        let db = match Self::connect(&path) {
            Ok(db) => db,
            Err(e) if is_damage(&e) => {
                tracing::warn!("index cache {} is damaged and is made anew", path.display());
                remove_database(&path);
                Self::connect(&path).map_err(fail(&path))?
            }
            Err(e) => return Err(fail(&path)(e)),
        };
        Ok(Self { path, db: Mutex::new(db), temporary: None })
    }

    /// The host's index; where that cannot be written (full, read-only, broken) one for this process alone, which costs time only.
    pub(crate) fn open_or_temporary(dir: &Path, store: &StoreId) -> Result<Self> {
        let error = match Self::open(dir, store).and_then(|index| index.probe().map(|()| index)) {
            Ok(index) => return Ok(index),
            Err(e) => e,
        };
        tracing::warn!("{error}; this run works without the host's index");
        let private = std::env::temp_dir().join(format!("cairn-index-{}-{:x}", std::process::id(), nanos()));
        let mut index = Self::open(&private, store)?;
        index.temporary = Some(private);
        Ok(index)
    }

    /// Whether it can be written to and its pages hold together where it matters.
    fn probe(&self) -> Result<()> {
        let result =
            self.db().execute_batch("BEGIN IMMEDIATE; INSERT OR REPLACE INTO files (name) VALUES ('probe'); DELETE FROM files WHERE name = 'probe'; COMMIT;");
        result.map_err(fail(&self.path))
    }

    fn connect(path: &Path) -> rusqlite::Result<Connection> {
        let mut db = database::open(path, BUSY_LIMIT)?;
        db.execute_batch("PRAGMA synchronous = OFF;")?;
        database::prepare(&mut db, LAYOUT, |there| (there != LAYOUT).then(|| format!("{DROP}{SCHEMA}")))?;
        db.query_row("SELECT count(*) FROM (SELECT 1 FROM chunks LIMIT 1)", [], |_| Ok(()))?;
        Ok(db)
    }

    fn db(&self) -> MutexGuard<'_, Connection> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its database file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Path of another cache of this store on this host.
    pub(crate) fn beside(&self, what: &str) -> PathBuf {
        self.path.with_extension(format!("{what}.sqlite"))
    }

    /// A connection for one thread.
    pub(crate) fn reader(&self) -> Result<IndexReader> {
        Ok(IndexReader { db: database::connect(&self.path, BUSY_LIMIT).map_err(fail(&self.path))?, path: self.path.clone() })
    }

    /// Takes in packs; `file` is the index file they came from, if any.
    pub(crate) fn add(&self, packs: &[IndexedPack], file: Option<&str>) -> Result<()> {
        let mut db = self.db();
        let work = |db: &mut Connection| {
            let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            for p in packs {
                tx.prepare_cached("INSERT OR IGNORE INTO packs (session, seq, kind) VALUES (?1, ?2, ?3)")?.execute(params![
                    p.pack.session.0,
                    p.pack.seq,
                    p.pack.kind as u8
                ])?;
                let number: i64 = tx
                    .prepare_cached("SELECT number FROM packs WHERE session = ?1 AND seq = ?2")?
                    .query_row(params![p.pack.session.0, p.pack.seq], |r| r.get(0))?;
                let mut insert = tx.prepare_cached("INSERT OR REPLACE INTO chunks (prefix, pack) VALUES (?1, ?2)")?;
                for s in &p.footer.slots {
                    insert.execute(params![prefix(&s.id), number])?;
                }
            }
            if let Some(name) = file {
                tx.prepare_cached("INSERT OR IGNORE INTO files (name) VALUES (?1)")?.execute([name])?;
            }
            tx.commit()
        };
        work(&mut db).map_err(fail(&self.path))
    }

    /// Takes in packs that are stored, if it can: a cache that is full or broken costs missed duplicates, never a backup.
    pub(crate) fn add_or_warn(&self, packs: &[IndexedPack]) -> Result<()> {
        match self.add(packs, None) {
            Err(e @ StoreError::Index { .. }) => {
                tracing::warn!("{e}; chunks of this backup may be stored again");
                Ok(())
            }
            other => other,
        }
    }

    /// Index files taken in so far.
    pub(crate) fn files(&self) -> Result<HashSet<String>> {
        let db = self.db();
        let work = || db.prepare_cached("SELECT name FROM files")?.query_map([], |r| r.get(0))?.collect::<rusqlite::Result<HashSet<String>>>();
        work().map_err(fail(&self.path))
    }

    /// An index file counts as not taken in: what lies under its name is damaged.
    pub(crate) fn forget_file(&self, name: &str) -> Result<()> {
        let db = self.db();
        let work = || db.prepare_cached("DELETE FROM files WHERE name = ?1")?.execute([name]);
        work().map(drop).map_err(fail(&self.path))
    }

    /// For how long `name` has had `value`, as far as this host's observations reach: time passes only between two looks during one boot.
    pub(crate) fn unchanged_ms(&self, name: &str, value: i64, boot: &str, now_ms: u64) -> Result<u64> {
        let mut db = self.db();
        let now = i64::try_from(now_ms).unwrap_or(i64::MAX);
        let work = |db: &mut Connection| {
            let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let before: Option<(i64, String, i64, i64)> = tx
                .prepare_cached("SELECT value, boot, at_ms, unchanged_ms FROM watched WHERE name = ?1")?
                .query_row([name], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)))
                .optional()?;
            let unchanged = match before {
                Some((v, b, at, so_far)) if v == value => so_far + if b == boot { (now - at).max(0) } else { 0 },
                _ => 0,
            };
            tx.prepare_cached("INSERT OR REPLACE INTO watched (name, value, boot, at_ms, unchanged_ms) VALUES (?1, ?2, ?3, ?4, ?5)")?
                .execute(params![name, value, boot, now, unchanged])?;
            tx.commit()?;
            Ok(unchanged)
        };
        work(&mut db).map(i64::unsigned_abs).map_err(fail(&self.path))
    }

    /// When each pack was last checked, Unix milliseconds.
    pub(crate) fn scrubbed(&self) -> Result<HashMap<String, u64>> {
        let db = self.db();
        let row = |r: &rusqlite::Row<'_>| Ok((r.get::<_, String>(0)?, r.get::<_, i64>(1)?.unsigned_abs()));
        let work = || db.prepare_cached("SELECT pack, at_ms FROM scrubbed")?.query_map([], row)?.collect::<rusqlite::Result<_>>();
        work().map_err(fail(&self.path))
    }

    /// Notes that a pack was checked.
    pub(crate) fn set_scrubbed(&self, pack: &PackId, unix_ms: u64) -> Result<()> {
        let db = self.db();
        let at = i64::try_from(unix_ms).unwrap_or(i64::MAX);
        let work = || db.prepare_cached("INSERT OR REPLACE INTO scrubbed (pack, at_ms) VALUES (?1, ?2)")?.execute(params![pack.to_string(), at]);
        work().map(drop).map_err(fail(&self.path))
    }

    /// No more watching.
    pub(crate) fn unwatch(&self, name: &str) -> Result<()> {
        let db = self.db();
        let work = || db.prepare_cached("DELETE FROM watched WHERE name = ?1")?.execute([name]);
        work().map(drop).map_err(fail(&self.path))
    }

    /// A cached object.
    pub(crate) fn object(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let db = self.db();
        let work = || db.prepare_cached("SELECT bytes FROM objects WHERE name = ?1")?.query_row([name], |r| r.get(0)).optional();
        work().map_err(fail(&self.path))
    }

    /// What is kept under names that begin so, without that beginning.
    pub(crate) fn objects_named(&self, prefix: &str) -> Result<Vec<String>> {
        let db = self.db();
        let row = |r: &rusqlite::Row<'_>| r.get::<_, String>(0);
        // All names are ASCII: the last character is behind every other one.
        let work = || {
            db.prepare_cached("SELECT name FROM objects WHERE name >= ?1 AND name < ?2")?
                .query_map(params![prefix, format!("{prefix}\u{7f}")], row)?
                .collect::<rusqlite::Result<Vec<String>>>()
        };
        let names = work().map_err(fail(&self.path))?;
        Ok(names.iter().filter_map(|n| n.strip_prefix(prefix)).map(str::to_owned).collect())
    }

    /// What is kept under names that begin so, without that beginning, with its bytes.
    pub(crate) fn objects_beginning(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>> {
        let db = self.db();
        let row = |r: &rusqlite::Row<'_>| Ok((r.get::<_, String>(0)?, r.get::<_, Vec<u8>>(1)?));
        let work = || {
            db.prepare_cached("SELECT substr(name, length(?1) + 1), bytes FROM objects WHERE name >= ?1 AND name < ?2")?
                .query_map(params![prefix, format!("{prefix}\u{7f}")], row)?
                .collect::<rusqlite::Result<_>>()
        };
        work().map_err(fail(&self.path))
    }

    /// An object is read again.
    pub(crate) fn forget_object(&self, name: &str) -> Result<()> {
        let db = self.db();
        let work = || db.prepare_cached("DELETE FROM objects WHERE name = ?1")?.execute([name]);
        work().map(drop).map_err(fail(&self.path))
    }

    /// Keeps objects that never change.
    pub(crate) fn keep_objects(&self, objects: &[(String, Vec<u8>)]) -> Result<()> {
        let mut db = self.db();
        let work = |db: &mut Connection| {
            let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            for (name, bytes) in objects {
                tx.prepare_cached("INSERT OR REPLACE INTO objects (name, bytes) VALUES (?1, ?2)")?.execute(params![name, bytes])?;
            }
            tx.commit()
        };
        work(&mut db).map_err(fail(&self.path))
    }
}

impl IndexReader {
    /// The pack that may hold an id.
    pub(crate) fn find(&self, id: &Id) -> Result<Option<PackId>> {
        let work = || {
            self.db
                .prepare_cached("SELECT p.session, p.seq, p.kind FROM chunks c JOIN packs p ON p.number = c.pack WHERE c.prefix = ?1")?
                .query_row([prefix(id)], |r| Ok((r.get::<_, [u8; 16]>(0)?, r.get::<_, u32>(1)?, r.get::<_, u8>(2)?)))
                .optional()
        };
        let row = work().map_err(fail(&self.path))?;
        Ok(row.and_then(|(session, seq, kind)| Some(PackId { session: SessionId(session), seq, kind: PackKind::from_u8(kind).ok()? })))
    }
}

pub(crate) fn is_damage(e: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(e, rusqlite::Error::SqliteFailure(f, _) if matches!(f.code, DatabaseCorrupt | NotADatabase))
}

#[cfg(test)]
mod scale;

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_store_format::pack::{Footer, FrameKind, Slot};

    #[test]
    fn many_that_open_it_at_once_make_it_once() {
        const AT_ONCE: u8 = 8;
        for round in 0..60 {
            let dir = tempfile::tempdir().expect("temp dir");
            let start = std::sync::Barrier::new(AT_ONCE.into());
            let one = |n: u8| {
                start.wait();
                let index = Index::open(dir.path(), &StoreId([1; 16]))?;
                index.keep_objects(&[(format!("point {n}"), vec![n])])
            };
            std::thread::scope(|s| {
                let one = &one;
                let workers: Vec<_> = (0..AT_ONCE).map(|n| s.spawn(move || one(n))).collect();
                workers.into_iter().for_each(|w| w.join().expect("no panic").unwrap_or_else(|e| panic!("round {round}: {e}")));
            });
            let index = Index::open(dir.path(), &StoreId([1; 16])).expect("opens");
            assert_eq!(index.objects_named("point ").expect("reads").len(), usize::from(AT_ONCE), "round {round}: nobody threw away what another had kept");
        }
    }

    #[test]
    fn finds_what_was_added_and_survives_damage() {
        let dir = tempfile::tempdir().expect("temp dir");
        let store = StoreId([1; 16]);
        let (known, unknown) = (Id([0xff; 32]), Id([3; 32]));
        let pack = PackId { session: SessionId([2; 16]), seq: 7, kind: PackKind::Data };
        let slot = Slot { id: known, offset: 64, stored_len: 1, kind: FrameKind::Chunk, level: 0 };
        let indexed = IndexedPack { pack, size_bytes: 1, sha256: [0; 32], footer: Footer { slots: vec![slot], key_rows: vec![] } };
        let index = Index::open(dir.path(), &store).expect("opens");
        index.add(std::slice::from_ref(&indexed), Some("x/1")).expect("adds");
        let reader = index.reader().expect("reads");
        assert_eq!(reader.find(&known).expect("finds"), Some(pack));
        assert_eq!(reader.find(&unknown).expect("finds nothing"), None);
        assert!(index.files().expect("lists").contains("x/1"));
        drop((reader, index));
        std::fs::write(dir.path().join(format!("{store}.sqlite")), [7; 9000]).expect("damages");
        let index = Index::open(dir.path(), &store).expect("is made anew");
        assert_eq!(index.reader().expect("reads").find(&known).expect("is empty"), None);
    }
}
