//! The file of the records: opened, made, or set aside where it is of no use.
//!
//! Invariants
//! - It may be deleted at any time, also while it is open: what is lost is history, never a point.
//! - One that is damaged, or that a newer version made, is set aside under another name and begun anew. It is not deleted: somebody may want to look.
//! - It is its owner's alone, with all that SQLite makes beside it, whoever made it.
//! - Several processes have it open at once (the daemon, its looks, a look of an admin's): transactions are short, waits for them have a limit.

use rusqlite::{Connection, ErrorCode};
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Its name in the state folder.
pub const NAME: &str = "domains.sqlite";
/// Version of the tables, as `user_version`.
const LAYOUT: i64 = 2;
/// For another process that writes.
const BUSY_LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

const SCHEMA: &str = "
    CREATE TABLE domains (
        uuid TEXT PRIMARY KEY, name TEXT NOT NULL, running INTEGER NOT NULL, phase TEXT NOT NULL, reason TEXT NOT NULL,
        stamp_ns INTEGER NOT NULL, boot TEXT NOT NULL, since_unix_ms INTEGER NOT NULL,
        suspicion TEXT, suspicion_unix_ms INTEGER,
        frozen INTEGER NOT NULL DEFAULT 0, disks TEXT NOT NULL DEFAULT '[]',
        looked_unix_ms INTEGER, outcome TEXT, findings TEXT NOT NULL DEFAULT '[]', found_unix_ms INTEGER,
        word TEXT NOT NULL DEFAULT '{}') WITHOUT ROWID;
    CREATE TABLE events (id INTEGER PRIMARY KEY, uuid TEXT NOT NULL, at_unix_ms INTEGER NOT NULL, source TEXT NOT NULL, what TEXT NOT NULL, detail TEXT NOT NULL);
    CREATE INDEX events_of ON events (uuid, id);
    CREATE TABLE points (uuid TEXT NOT NULL, store TEXT NOT NULL, point TEXT NOT NULL, time_unix_ms INTEGER NOT NULL, PRIMARY KEY (uuid, store)) WITHOUT ROWID;
    CREATE TABLE wishes (id INTEGER PRIMARY KEY, uuid TEXT NOT NULL, name TEXT NOT NULL, trigger TEXT NOT NULL, why TEXT NOT NULL, at_unix_ms INTEGER NOT NULL);";

/// From layout 1, which knew nothing of what domains say of themselves.
const FROM_1: &str = "ALTER TABLE domains ADD COLUMN word TEXT NOT NULL DEFAULT '{}';";

/// Opens or makes it; what cannot be used is set aside.
pub fn open(state_dir: &Path) -> Result<Connection, OpenError> {
    fs::create_dir_all(state_dir).map_err(|e| OpenError::File("create", state_dir.to_owned(), e))?;
    let path = state_dir.join(NAME);
    // One at a time: two that found it damaged would set aside each other's new one.
    let _lock = lock(&state_dir.join("domains.lock"))?;
    match connect(&path) {
        Ok(Some(db)) => return Ok(db),
        Ok(None) => set_aside(&path, "it was made by a newer version")?,
        Err(e) if is_damage(&e) => set_aside(&path, "it is damaged")?,
        Err(e) => return Err(OpenError::Database(path, e)),
    }
    match connect(&path) {
        Ok(Some(db)) => Ok(db),
        Ok(None) => Err(OpenError::File("replace", path, io::ErrorKind::AlreadyExists.into())),
        Err(e) => Err(OpenError::Database(path, e)),
    }
}

/// Why there are no records.
#[derive(Debug)]
pub enum OpenError {
    /// A file or folder: what was done, to which.
    File(&'static str, PathBuf, io::Error),
    /// SQLite's.
    Database(PathBuf, rusqlite::Error),
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(action, path, e) => write!(f, "the records of domains: cannot {action} {}: {e}", path.display()),
            Self::Database(path, e) => write!(f, "the records of domains in {} cannot be used: {e}; the file may be deleted", path.display()),
        }
    }
}

impl std::error::Error for OpenError {}

/// What domains there are and what happens to them is nobody else's business. SQLite gives its log and its index the mode of the file.
fn private(path: &Path) {
    // An error shows when SQLite opens it. One that is there is left to SQLite: closing it would give up this process's locks, and another that leaves may
    // then remove the log (SQLite 3.40 did; 3.53 finds out).
    let _ = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    for suffix in ["", "-wal", "-shm"] {
        let path = PathBuf::from(format!("{}{suffix}", path.display()));
        if fs::metadata(&path).is_ok_and(|m| m.permissions().mode() & 0o077 != 0) {
            // Of an earlier version, which left it to the umask.
            let _ = fs::set_permissions(&path, fs::Permissions::from_mode(0o600));
        }
    }
}

/// None where a newer version made it.
fn connect(path: &Path) -> rusqlite::Result<Option<Connection>> {
    private(path);
    let db = Connection::open(path)?;
    db.busy_timeout(BUSY_LIMIT)?;
    // Not synced: after a power failure the newest may be missing, and a file that holds together is all that is asked of it.
    db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")?;
    let layout: i64 = db.query_row("PRAGMA user_version", [], |r| r.get(0))?;
    if layout > LAYOUT {
        return Ok(None);
    }
    let make = match layout {
        0 => Some(SCHEMA),
        1 => Some(FROM_1),
        _ => None,
    };
    if let Some(make) = make {
        db.execute_batch(&format!("BEGIN IMMEDIATE; {make} PRAGMA user_version = {LAYOUT}; COMMIT;"))?;
    }
    let sound: String = db.query_row("PRAGMA quick_check(1)", [], |r| r.get(0))?;
    if sound == "ok" { Ok(Some(db)) } else { Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT), Some(sound))) }
}

fn set_aside(path: &Path, why: &str) -> Result<(), OpenError> {
    let aside = path.with_extension("sqlite.aside");
    tracing::warn!("{} is set aside as {}, and begun anew: {why}", path.display(), aside.display());
    for suffix in ["-wal", "-shm"] {
        // Without its file a log is of no use, and with a new one it would be wrong.
        match fs::remove_file(format!("{}{suffix}", path.display())) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(OpenError::File("remove the log of", path.to_owned(), e)),
            _ => {}
        }
    }
    fs::rename(path, &aside).map_err(|e| OpenError::File("set aside", path.to_owned(), e))
}

/// Its tables are of no use any more.
pub fn is_damage(e: &rusqlite::Error) -> bool {
    match e {
        rusqlite::Error::SqliteFailure(f, _) if matches!(f.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => true,
        // Somebody else's file, or one that was emptied while it was open.
        rusqlite::Error::SqliteFailure(_, Some(text)) => text.contains("no such table") || text.contains("no such column"),
        rusqlite::Error::SqlInputError { msg, .. } => msg.contains("no such table") || msg.contains("no such column"),
        _ => false,
    }
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let failed = |e: io::Error| OpenError::File("lock", path.to_owned(), e);
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(failed)?;
    let start = Instant::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if start.elapsed() < BUSY_LIMIT => std::thread::sleep(POLL),
            Err(e) => return Err(failed(e.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir).expect("folder").map(|e| e.expect("entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn it_is_its_owners_alone() {
        let dir = tempfile::tempdir().expect("folder");
        let modes = || {
            let with = |name: &str| fs::metadata(dir.path().join(name)).expect(name).permissions().mode() & 0o777;
            ["domains.sqlite", "domains.sqlite-wal", "domains.sqlite-shm", "domains.lock"].map(with)
        };
        let db = open(dir.path()).expect("made");
        assert_eq!(modes(), [0o600; 4]);
        // As an earlier version left them.
        for name in ["domains.sqlite", "domains.sqlite-wal", "domains.sqlite-shm"] {
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o644)).expect("ours");
        }
        let second = open(dir.path()).expect("opened");
        assert_eq!(modes(), [0o600; 4]);
        drop((db, second));
    }

    #[test]
    fn what_cannot_be_used_is_set_aside() {
        let dir = tempfile::tempdir().expect("folder");
        let insert = |db: &Connection| db.execute("INSERT INTO wishes (uuid, name, trigger, why, at_unix_ms) VALUES ('u', 'n', 't', 'w', 1)", []);
        let count = |db: &Connection| db.query_row("SELECT count(*) FROM wishes", [], |r| r.get::<_, i64>(0)).expect("counted");
        let db = open(dir.path()).expect("made");
        insert(&db).expect("written");
        drop(db);
        assert_eq!(count(&open(dir.path()).expect("opened")), 1);
        for spoil in [b"no database at all, and longer than a header of one has to be to be looked at by it".to_vec(), vec![0x55; 9000]] {
            fs::write(dir.path().join(NAME), &spoil).expect("written");
            assert_eq!(count(&open(dir.path()).expect("made anew")), 0);
            assert_eq!(fs::read(dir.path().join("domains.sqlite.aside")).expect("kept"), spoil);
        }
        let db = open(dir.path()).expect("opened");
        insert(&db).expect("written");
        db.execute_batch("PRAGMA user_version = 99").expect("newer");
        drop(db);
        assert_eq!(count(&open(dir.path()).expect("made anew")), 0);
        assert_eq!(names(dir.path()).iter().filter(|n| n.contains("aside")).count(), 1, "one is kept");
        // Deleted while it is open.
        let db = open(dir.path()).expect("opened");
        fs::remove_file(dir.path().join(NAME)).expect("deleted");
        insert(&db).expect("goes nowhere, and hurts nobody");
        assert_eq!(count(&open(dir.path()).expect("made")), 0);
    }
}
