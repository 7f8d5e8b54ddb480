//! The folder of a run, `<state folder>/runs/<name>`, and that of its sockets, `/run/cairn/run/<id>`.
//!
//! ```text
//! <state folder>/runs/<name>/   0700   run.json  wish.json  definition.json  lock  owner (boot proofs)  log  log.1
//! /run/cairn/run/<id>/          0711   nbd.sock (QEMU's user, 0600)  status.json
//! /run/cairn/run/<id>/daemon/   0700, QEMU's user   nbd.sock
//! ```
//!
//! The lock belongs to an open file description: it is handed to the supervisor as its standard input, so that there is no moment without a holder.

use super::record::{Record, VERSION, Wish};
use crate::failure::{FAILED, Failure, NOT_FOUND, Outcome};
use rustix::fs::{FlockOperation, flock};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

const RECORD: &str = "run.json";
const WISH: &str = "wish.json";
/// libvirt's definition of the domain, with its consoles' passwords.
const DEFINITION: &str = "definition.json";
const LOCK: &str = "lock";
/// Locked by the maker of a boot proof for as long as the proof is wanted.
const OWNER: &str = "owner";
/// Says that somebody starts the domain: its images are left alone meanwhile.
const STARTING: &str = "starting";
/// Who starts a domain for longer than this has died.
const STARTING_LIMIT: Duration = Duration::from_secs(180);
/// What is being removed has this before its name.
const GONE: &str = ".gone-";
/// Longest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A run's folder.
#[derive(Debug, Clone)]
pub struct RunFolder {
    path: PathBuf,
    name: String,
}

/// The lock of a run's folder; whoever has a duplicate of the descriptor holds it as well.
pub type RunLock = File;

impl RunFolder {
    /// The folder of a run of that name, which need not exist.
    pub fn of(state_dir: &Path, name: &str) -> Outcome<Self> {
        if name.is_empty() || name.starts_with('.') || name.chars().any(|c| c == '/' || c.is_control()) {
            return Err(Failure::usage(format!("'{}' cannot be the name of a run", crate::output::shown(name))));
        }
        Ok(Self { path: state_dir.join("runs").join(name), name: name.to_owned() })
    }

    /// All runs of this host, by name.
    pub fn all(state_dir: &Path) -> Outcome<Vec<Self>> {
        let dir = state_dir.join("runs");
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(failed("read", &dir, &e)),
        };
        let mut names: Vec<String> = entries.flatten().filter_map(|e| e.file_name().into_string().ok()).filter(|n| !n.starts_with('.')).collect();
        names.sort();
        names.iter().map(|name| Self::of(state_dir, name)).collect()
    }

    /// Makes it; it must not exist.
    pub fn create(&self) -> Outcome<()> {
        let parent = self.path.parent().expect("runs/ is its parent");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(|e| failed("create", parent, &e))?;
        match fs::DirBuilder::new().mode(0o700).create(&self.path) {
            Ok(()) => sync_folder(parent),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(Failure::refused(format!(
                "there is a run '{}' already; see 'cairn runs', give another name with --as, or remove it with 'cairn discard'",
                crate::output::shown(&self.name)
            ))),
            Err(e) => Err(failed("create", &self.path, &e)),
        }
    }

    /// The run's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it exists.
    pub fn exists(&self) -> bool {
        self.path.is_dir()
    }

    /// The record.
    pub fn record(&self) -> Outcome<Record> {
        let record: Record = read_json(&self.path.join(RECORD))?.ok_or_else(|| self.missing())?;
        if record.version > VERSION {
            return Err(Failure::refused(format!("run '{}' was made by a newer Cairn; use that", crate::output::shown(&self.name))));
        }
        Ok(record)
    }

    /// No such run.
    pub fn missing(&self) -> Failure {
        Failure::new(NOT_FOUND, format!("there is no run '{}'; see 'cairn runs'", crate::output::shown(&self.name)))
    }

    /// Replaces the record.
    pub fn save(&self, record: &Record) -> Outcome<()> {
        write_json(&self.path.join(RECORD), record)
    }

    /// The domain's definition as it was recorded last.
    pub fn definition(&self) -> Outcome<Option<String>> {
        read_json(&self.path.join(DEFINITION))
    }

    /// Records the domain's definition, if it is another one.
    pub fn save_definition(&self, xml: &str) -> Outcome<()> {
        // One that cannot be read is replaced.
        if self.definition().ok().flatten().as_deref() == Some(xml) { Ok(()) } else { write_json(&self.path.join(DEFINITION), &xml) }
    }

    /// What is wanted of it.
    pub fn wish(&self) -> Outcome<Option<Wish>> {
        read_json(&self.path.join(WISH))
    }

    /// Says what is wanted of it.
    pub fn set_wish(&self, wish: &Wish) -> Outcome<()> {
        write_json(&self.path.join(WISH), wish)
    }

    /// Nothing is wanted of it any more.
    pub fn clear_wish(&self) -> Outcome<()> {
        match fs::remove_file(self.path.join(WISH)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", &self.path.join(WISH), &e)),
            _ => sync_folder(&self.path),
        }
    }

    /// Says that the domain is being started, until the result is dropped.
    pub fn starting(&self) -> Outcome<Starting> {
        let path = self.path.join(STARTING);
        File::create(&path).map_err(|e| failed("create", &path, &e))?;
        Ok(Starting { path })
    }

    /// Whether somebody starts the domain.
    pub fn is_starting(&self) -> bool {
        let age = fs::metadata(self.path.join(STARTING)).and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
        age.is_some_and(|age| age < STARTING_LIMIT)
    }

    /// The lock, if nobody has it.
    pub fn try_lock(&self) -> Outcome<Option<RunLock>> {
        let file = self.lock_file()?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => self.still_there(file).map(Some),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(failed("lock", &self.path, &e.into())),
        }
    }

    /// The lock, however long that takes: until the process that has it ends.
    pub fn wait_lock(&self) -> Outcome<RunLock> {
        let file = self.lock_file()?;
        loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => return self.still_there(file),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(failed("lock", &self.path, &e.into())),
            }
        }
    }

    /// Makes this process the run's owner, until the result is dropped or the process ends, however that comes.
    pub fn own(&self) -> Outcome<RunLock> {
        let file = self.open_lock(OWNER)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|e| failed("lock", &self.path, &e.into()))?;
        Ok(file)
    }

    /// Whether a process owns it. Two that ask at the same moment may each take the other for the owner; they ask again.
    pub fn has_owner(&self) -> bool {
        match File::open(self.path.join(OWNER)) {
            Ok(file) => flock(&file, FlockOperation::NonBlockingLockExclusive).is_err(),
            Err(e) => e.kind() != io::ErrorKind::NotFound,
        }
    }

    /// Whether somebody makes, serves or removes it now. Asking makes no file, and keeps nobody from the lock for longer than that.
    pub fn is_locked(&self) -> bool {
        File::open(self.path.join(LOCK)).is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared).is_err())
    }

    /// How long ago something was made or removed in it.
    pub fn age(&self) -> Option<Duration> {
        fs::metadata(&self.path).and_then(|m| m.modified()).ok()?.elapsed().ok()
    }

    fn lock_file(&self) -> Outcome<File> {
        self.open_lock(LOCK)
    }

    fn open_lock(&self, name: &str) -> Outcome<File> {
        let path = self.path.join(name);
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => self.missing(),
            _ => failed("open", &path, &e),
        })
    }

    /// A run that was removed while we waited is no longer ours to lock.
    fn still_there(&self, lock: RunLock) -> Outcome<RunLock> {
        let id = |m: &fs::Metadata| (m.dev(), m.ino());
        let ours = lock.metadata().map(|m| id(&m)).map_err(|e| failed("look at", &self.path, &e))?;
        match fs::metadata(self.path.join(LOCK)) {
            Ok(m) if id(&m) == ours => Ok(lock),
            _ => Err(self.missing()),
        }
    }

    /// File that its processes write to.
    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Removes it with all that is in it; a crash in between leaves nothing that is taken for a run.
    pub fn remove(&self, id: &str) -> Outcome<()> {
        let parent = self.path.parent().expect("runs/ is its parent");
        let gone = parent.join(format!("{GONE}{id}"));
        match fs::rename(&self.path, &gone) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed("remove", &self.path, &e)),
            Ok(()) => sync_folder(parent)?,
        }
        match fs::remove_dir_all(&gone) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", &gone, &e)),
            _ => Ok(()),
        }
    }
}

/// A domain is being started.
#[derive(Debug)]
pub struct Starting {
    path: PathBuf,
}

impl Drop for Starting {
    fn drop(&mut self) {
        // One that stays counts for three minutes.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes what an interrupted removal left.
pub fn sweep(state_dir: &Path) {
    let entries = fs::read_dir(state_dir.join("runs")).into_iter().flatten().flatten();
    for entry in entries.filter(|e| e.file_name().to_string_lossy().starts_with(GONE)) {
        // Tidiness only; the next call tries again.
        let _ = fs::remove_dir_all(entry.path());
    }
}

/// Sockets and status of a run; gone after the host's restart.
#[derive(Debug, Clone)]
pub struct RunSockets {
    /// `/run/cairn/run/<id>`.
    pub dir: PathBuf,
}

impl RunSockets {
    /// Of a run's id.
    pub fn of(id: &str) -> Self {
        let root = nix::unistd::geteuid().is_root();
        let base = std::env::var_os("XDG_RUNTIME_DIR").filter(|v| !root && !v.is_empty());
        Self { dir: base.map_or_else(|| PathBuf::from("/run"), PathBuf::from).join("cairn/run").join(id) }
    }

    /// Makes the folders.
    pub fn create(&self, owner: Option<(u32, u32)>) -> Outcome<()> {
        let parents = self.dir.parent().into_iter().flat_map(|run| [run.parent(), Some(run)]).flatten();
        for dir in parents.chain([self.dir.as_path()]) {
            make_dir(dir, 0o711)?;
        }
        let daemon = self.daemon_dir();
        make_dir(&daemon, 0o700)?;
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::chown(&daemon, Some(uid), Some(gid)).map_err(|e| failed("give away", &daemon, &e))?;
        }
        Ok(())
    }

    /// Our server's.
    pub fn server(&self) -> PathBuf {
        self.dir.join("nbd.sock")
    }

    fn daemon_dir(&self) -> PathBuf {
        self.dir.join("daemon")
    }

    /// The storage daemon's.
    pub fn daemon(&self) -> PathBuf {
        self.daemon_dir().join("nbd.sock")
    }

    /// Removes everything.
    pub fn remove(&self) -> Outcome<()> {
        match fs::remove_dir_all(&self.dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", &self.dir, &e)),
            _ => Ok(()),
        }
    }
}

/// QEMU's user must be able to pass through, whatever the umask; a folder that others made is left as it is.
fn make_dir(dir: &Path, mode: u32) -> Outcome<()> {
    use std::os::unix::fs::PermissionsExt;
    match fs::DirBuilder::new().mode(mode).create(dir) {
        Ok(()) => fs::set_permissions(dir, fs::Permissions::from_mode(mode)).map_err(|e| failed("set the mode of", dir, &e)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let m = fs::metadata(dir).map_err(|e| failed("look at", dir, &e))?;
            let passable = m.mode() | (mode & 0o011);
            if m.mode() == passable {
                Ok(())
            } else {
                fs::set_permissions(dir, fs::Permissions::from_mode(passable & 0o7777)).map_err(|e| failed("set the mode of", dir, &e))
            }
        }
        Err(e) => Err(failed("create", dir, &e)),
    }
}

/// Replaces a file whole and durably: 1 temporary file · 2 fsync · 3 rename · 4 fsync of the folder.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Outcome<()> {
    try_write_json(path, value).map_err(|e| failed("write", path, &e))
}

/// The same for who has to know what kind of error it is.
pub fn try_write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
    let text = serde_json::to_vec_pretty(value)?;
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().inspect_err(|_| {
        // Ours alone.
        let _ = fs::remove_file(&temporary);
    })?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// `None` where there is no such file.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Outcome<Option<T>> {
    use std::io::Read;
    // A pipe in its place must not be waited for.
    let file = match OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed("read", path, &e)),
    };
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(|e| failed("read", path, &e))?;
    serde_json::from_str(&text).map(Some).map_err(|e| Failure::new(FAILED, format!("{} cannot be read: {e}", path.display())))
}

/// Makes names in a folder durable.
pub fn sync_folder(dir: &Path) -> Outcome<()> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| failed("sync", dir, &e))
}

/// What could not be done to which path.
pub fn failed(what: &str, path: &Path, e: &io::Error) -> Failure {
    Failure::new(FAILED, format!("cannot {what} {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_of_one_and_ends_with_the_run() {
        let state = tempfile::tempdir().expect("temp dir");
        let folder = RunFolder::of(state.path(), "web-run").expect("a name");
        assert_eq!(folder.record().expect_err("none").code, NOT_FOUND);
        assert_eq!(folder.try_lock().expect_err("none").code, NOT_FOUND);
        folder.create().expect("creates");
        assert_eq!(folder.create().expect_err("exists").code, crate::failure::REFUSED);
        let held = folder.try_lock().expect("locks").expect("free");
        assert!(folder.try_lock().expect("asks").is_none());
        let waiting = std::thread::spawn({
            let folder = folder.clone();
            move || folder.wait_lock().map(drop)
        });
        std::thread::sleep(std::time::Duration::from_millis(50));
        folder.remove("1").expect("removes");
        drop(held);
        assert_eq!(waiting.join().expect("ends").expect_err("the run is gone").code, NOT_FOUND);
        assert!(RunFolder::all(state.path()).expect("lists").is_empty());
    }

    #[test]
    fn an_owner_is_one_until_it_ends() {
        let state = tempfile::tempdir().expect("temp dir");
        let folder = RunFolder::of(state.path(), "a").expect("a name");
        folder.create().expect("creates");
        assert!(!folder.has_owner(), "nobody ever was");
        let owner = folder.own().expect("owns");
        assert!(folder.has_owner() && folder.own().is_err() && folder.has_owner(), "asking takes nothing");
        assert!(folder.try_lock().expect("asks").is_some(), "its supervisor's lock is another");
        drop(owner);
        assert!(!folder.has_owner());
    }

    #[test]
    fn wishes_are_replaced_and_taken_back() {
        let state = tempfile::tempdir().expect("temp dir");
        let folder = RunFolder::of(state.path(), "a").expect("a name");
        folder.create().expect("creates");
        assert!(folder.wish().expect("reads").is_none());
        folder.set_wish(&Wish::Keep { asked_unix_ms: 1, bytes_per_s: 7, to: vec![] }).expect("writes");
        folder.set_wish(&Wish::Cancel).expect("writes");
        assert!(matches!(folder.wish().expect("reads"), Some(Wish::Cancel)));
        folder.clear_wish().expect("removes");
        folder.clear_wish().expect("twice is as good");
        assert!(folder.wish().expect("reads").is_none());
        for bad in ["", "..", ".x", "a/b", "a\nb"] {
            assert!(RunFolder::of(state.path(), bad).is_err(), "{bad:?}");
        }
    }
}
