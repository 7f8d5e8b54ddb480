//! A store in a directory: local file systems, and NFS by the rules that measurements gave (probe and fresh open, `link`, no rename).

use super::{Created, Deleting, Durability, Platform, nfs, process};
use crate::{Result, StoreError};
use cairn_store_format::ObjectName;
use std::{
    collections::{HashMap, HashSet, VecDeque},
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Pack files kept open for reading.
const OPEN_FILES_MAX: usize = 64;
/// Tries of a listing that misses its own probe.
const PROBE_TRIES_MAX: u32 = 5;
/// Tries of a read whose file handle the server does not know any more.
const STALE_TRIES_MAX: u32 = 5;
/// Tries to move a pack into a folder of the trash that others remove while it is empty.
const TRASH_TRIES_MAX: u32 = 100;
/// First characters of files that are no objects: temporary files and probes.
const TEMPORARY: &str = ".tmp-";

/// A directory as a store's storage.
pub struct LocalPlatform {
    root: PathBuf,
    nfs: bool,
    /// Folders that were made or seen, so `mkdir` is asked once each.
    known_dirs: Mutex<HashSet<PathBuf>>,
    /// Folders with entries that are not durable yet.
    unsynced_dirs: Mutex<HashSet<PathBuf>>,
    open_files: Mutex<OpenFiles>,
}

#[derive(Default)]
struct OpenFiles {
    files: HashMap<ObjectName, Arc<File>>,
    order: VecDeque<ObjectName>,
}

impl LocalPlatform {
    /// Opens a directory that exists.
    pub fn open(root: &Path) -> Result<Self> {
        let at = || root.display().to_string();
        let meta = fs::metadata(root).map_err(|e| StoreError::NoStore { at: at(), why: e.to_string() })?;
        if !meta.is_dir() {
            return Err(StoreError::NoStore { at: at(), why: "not a directory".into() });
        }
        let root = root.canonicalize().map_err(|e| StoreError::NoStore { at: at(), why: e.to_string() })?;
        let nfs = nfs::is_nfs(&root);
        if nfs {
            nfs::check_mount(&root)?;
        }
        Ok(Self { root, nfs, known_dirs: Mutex::default(), unsynced_dirs: Mutex::default(), open_files: Mutex::default() })
    }

    /// An error that names the whole path: an admin looks for it on the file system.
    fn failed(&self, op: &'static str, name: &str, source: io::Error) -> StoreError {
        StoreError::Storage { op, name: self.root.join(name).display().to_string(), source }
    }

    fn none_if_missing<T>(&self, op: &'static str, name: &ObjectName, r: io::Result<T>) -> Result<Option<T>> {
        match r {
            Ok(v) => Ok(Some(v)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.failed(op, name.as_str(), e)),
        }
    }

    fn path(&self, name: &ObjectName) -> PathBuf {
        self.root.join(name.as_str())
    }

    /// Makes the folder of an object, durably, one level at a time.
    /// Order: 1 mkdir · 2 fsync of the folder above. If we die after 1, or another process is there now: the folder is there for everybody but
    /// may vanish with all that is put into it, so whoever finds one does 2 as well, once.
    /// Where 2 fails the kernel may have dropped what it could not write; a folder that is taken away again leaves no one to rely on it.
    fn ensure_dir(&self, dir: &Path) -> io::Result<()> {
        if dir == self.root || lock(&self.known_dirs).contains(dir) {
            return Ok(());
        }
        let parent = dir.parent().expect("below the root");
        self.ensure_dir(parent)?;
        let made = match fs::DirBuilder::new().mode(0o700).create(dir) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
            Err(e) => return Err(e),
        };
        if let Err(e) = sync_dir(parent) {
            if made {
                // It stays where another process has put something into it meanwhile; that one made it durable itself.
                let _ = fs::remove_dir(dir);
            }
            return Err(e);
        }
        lock(&self.known_dirs).insert(dir.to_path_buf());
        Ok(())
    }

    /// Order: 1 temporary file, exclusive · 2 write · 3 fdatasync · 4 close · 5 link to the final name · 6 unlink temporary ·
    /// 7 fsync of the folder (now, or at the barrier).
    /// If we die after 1-4: a `.tmp-` file that no listing shows and GC removes by age. After 5: the object is there; it may vanish with a
    /// power loss until 7, which is why nothing refers to it before. After 6: the same. After 7: done.
    /// A failed fdatasync makes the temporary file garbage: it is never synced again.
    fn create_file(&self, name: &ObjectName, bytes: &[u8], durability: Durability) -> io::Result<Created> {
        let target = self.path(name);
        let dir = target.parent().expect("objects lie in folders").to_path_buf();
        self.ensure_dir(&dir)?;
        let (tmp, mut file) = new_temporary(&dir)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_data());
        drop_cache(&file);
        drop(file);
        let linked = written.and_then(|()| self.link_if_absent(&tmp, &target, bytes));
        // The temporary file is ours alone and nothing refers to it: failing to remove it costs space until GC finds it.
        let _ = fs::remove_file(&tmp);
        let created = linked?;
        match durability {
            Durability::Now => sync_dir(&dir)?,
            Durability::Deferred => {
                lock(&self.unsynced_dirs).insert(dir);
            }
        }
        Ok(created)
    }

    /// EEXIST may be the echo of our own link whose reply was lost: the bytes (they carry our nonce) tell.
    fn link_if_absent(&self, tmp: &Path, target: &Path, bytes: &[u8]) -> io::Result<Created> {
        match fs::hard_link(tmp, target) {
            Ok(()) => Ok(Created::New),
            Err(e) => match self.open_path(target) {
                Ok(mut f) => {
                    let mut there = Vec::with_capacity(bytes.len());
                    f.read_to_end(&mut there)?;
                    Ok(if there == bytes { Created::New } else { Created::Exists })
                }
                Err(_) => Err(e),
            },
        }
    }

    /// On NFS "not there" is believed only after this host has forgotten what it knew about the folder.
    fn open_path(&self, path: &Path) -> io::Result<File> {
        match File::open(path) {
            Err(e) if self.nfs && e.kind() == io::ErrorKind::NotFound => {
                let dir = path.parent().expect("objects lie in folders");
                if nfs::refresh(dir, &self.root)? { File::open(path) } else { Err(e) }
            }
            other => other,
        }
    }

    fn open_file(&self, name: &ObjectName) -> io::Result<Arc<File>> {
        let mut open = lock(&self.open_files);
        if let Some(f) = open.files.get(name) {
            return Ok(f.clone());
        }
        let file = Arc::new(self.open_path(&self.path(name))?);
        if open.files.len() >= OPEN_FILES_MAX
            && let Some(oldest) = open.order.pop_front()
        {
            open.files.remove(&oldest);
        }
        open.order.push_back(name.clone());
        open.files.insert(name.clone(), file.clone());
        Ok(file)
    }

    /// On NFS a listing counts only if it shows a name that was made just before: the client's own change drops its cached folder.
    fn entries(&self, dir: &Path) -> io::Result<Vec<fs::DirEntry>> {
        if !self.nfs {
            return fs::read_dir(dir)?.collect();
        }
        let mut believed_missing = false;
        for _ in 0..PROBE_TRIES_MAX {
            let probe = match new_temporary(dir) {
                // Closed before it is removed: the client would only rename an open one.
                Ok((probe, file)) => {
                    drop(file);
                    probe
                }
                // A mount that this host cannot write to: it can restore from it, and no session could begin here anyway.
                Err(e) if matches!(e.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied) => return fs::read_dir(dir)?.collect(),
                // Another host may have made the folder since this one looked for it in vain.
                Err(e) if e.kind() == io::ErrorKind::NotFound && !believed_missing && nfs::refresh(dir, &self.root)? => {
                    believed_missing = true;
                    continue;
                }
                Err(e) => return Err(e),
            };
            let entries: io::Result<Vec<_>> = fs::read_dir(dir)?.collect();
            // A probe that stays behind is skipped by every listing.
            let _ = fs::remove_file(&probe);
            let entries = entries?;
            if entries.iter().any(|e| e.path() == probe) {
                return Ok(entries);
            }
        }
        Err(io::Error::other("the listing keeps missing a file that was just made here; is this mount stale?"))
    }

    fn list_kind(&self, dir: &str, want_dirs: bool) -> Result<Vec<String>> {
        let path = self.root.join(dir);
        let entries = match self.entries(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|e| self.failed("list", dir, e))?,
        };
        let mut out = Vec::new();
        for e in entries {
            // Temporary files come and go, and asking about one that went is an error: they are passed over first.
            let Ok(name) = e.file_name().into_string() else { continue };
            if name.starts_with('.') {
                continue;
            }
            let wanted = match e.file_type() {
                Ok(kind) => kind.is_dir() == want_dirs,
                // It was listed, so it was there; NFS lists without kinds, and "missing" may be an old belief. Readers meet what has gone as well.
                Err(x) if x.kind() == io::ErrorKind::NotFound => true,
                Err(x) => return Err(self.failed("list", dir, x)),
            };
            if wanted {
                out.push(name);
            }
        }
        out.sort_unstable();
        Ok(out)
    }
}

pub(super) fn new_temporary(dir: &Path) -> io::Result<(PathBuf, File)> {
    loop {
        let mut r = [0u8; 8];
        getrandom::fill(&mut r).map_err(|e| io::Error::other(e.to_string()))?;
        let path = dir.join(format!("{TEMPORARY}{:016x}", u64::from_le_bytes(r)));
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map(|f| (path, f)),
        }
    }
}

/// A handle that the server does not know any more says nothing about what its name leads to now: the read begins anew, a few times.
fn again_if_stale<T>(mut read: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut tries = 1;
    loop {
        match read() {
            Err(e) if nfs::is_stale(&e) && tries < STALE_TRIES_MAX => tries += 1,
            other => return other,
        }
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// A backup must not push the host's working set out of the page cache.
fn drop_cache(file: &File) {
    // SAFETY: posix_fadvise takes a valid descriptor and touches no memory of ours; its failure is harmless.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

/// A poisoned lock means another thread panicked between two simple updates; the maps are caches and stay usable.
fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Platform for LocalPlatform {
    fn location(&self) -> String {
        self.root.display().to_string()
    }

    fn create(&self, name: &ObjectName, bytes: &[u8], durability: Durability) -> Result<Created> {
        self.create_file(name, bytes, durability).map_err(|e| self.failed("write", name.as_str(), e))
    }

    fn barrier(&self) -> Result<()> {
        let mut dirs: Vec<PathBuf> = lock(&self.unsynced_dirs).drain().collect();
        while let Some(dir) = dirs.last() {
            if let Err(e) = sync_dir(dir) {
                let failed = self.failed("sync", &dir.display().to_string(), e);
                // What is not durable stays owed: a later barrier must not succeed over it.
                lock(&self.unsynced_dirs).extend(dirs);
                return Err(failed);
            }
            dirs.pop();
        }
        Ok(())
    }

    fn cover(&self, name: &ObjectName) {
        if let Some(dir) = self.path(name).parent() {
            lock(&self.unsynced_dirs).insert(dir.to_path_buf());
        }
    }

    fn read(&self, name: &ObjectName, max: usize) -> Result<Option<Vec<u8>>> {
        let mut out = Vec::new();
        Ok(self.read_into(name, max, &mut out)?.then_some(out))
    }

    fn read_into(&self, name: &ObjectName, max: usize, out: &mut Vec<u8>) -> Result<bool> {
        let read = || {
            out.clear();
            let mut f = self.open_path(&self.path(name))?;
            let len = usize::try_from(f.metadata()?.size()).unwrap_or(usize::MAX);
            if len > max {
                return Ok(Err(super::too_large(name, len, max)));
            }
            out.reserve_exact(len);
            (&mut f).take(max as u64).read_to_end(out)?;
            Ok(Ok(()))
        };
        Ok(self.none_if_missing("read", name, again_if_stale(read))?.transpose()?.is_some())
    }

    fn read_at(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Option<Vec<u8>>> {
        let read = || {
            let f = self.open_file(name)?;
            let mut out = vec![0; len];
            f.read_exact_at(&mut out, offset).inspect_err(|e| {
                if nfs::is_stale(e) {
                    self.forget_open(name);
                }
            })?;
            Ok(out)
        };
        match self.none_if_missing("read", name, again_if_stale(read)) {
            Err(StoreError::Storage { source, .. }) if source.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            other => other,
        }
    }

    fn drop_cached(&self, name: &ObjectName) {
        // A file that does not open is in no cache that would be believed.
        if let Ok(file) = File::open(self.path(name)) {
            drop_cache(&file);
        }
    }

    fn size(&self, name: &ObjectName) -> Result<Option<u64>> {
        let look = || {
            let path = self.path(name);
            // On NFS a name that this host knows opens by its handle, wherever another host has moved the file meanwhile.
            if self.nfs && !nfs::refresh(path.parent().expect("objects lie in folders"), &self.root)? {
                return Err(io::ErrorKind::NotFound.into());
            }
            Ok(File::open(&path)?.metadata()?.size())
        };
        self.none_if_missing("stat", name, again_if_stale(look))
    }

    fn list(&self, dir: &str) -> Result<Vec<ObjectName>> {
        Ok(self.list_kind(dir, false)?.iter().filter_map(|f| ObjectName::listed(dir, f)).collect())
    }

    fn list_dirs(&self, dir: &str) -> Result<Vec<String>> {
        self.list_kind(dir, true)
    }

    fn now_unix_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn monotonic_ms(&self) -> u64 {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).expect("Linux has this clock since 2.6.39");
        u64::try_from(now.tv_sec() * 1000 + now.tv_nsec() / 1_000_000).expect("it counts from 0")
    }

    fn boot(&self) -> String {
        process::boot()
    }

    fn sleep_ms(&self, ms: u64) {
        std::thread::sleep(Duration::from_millis(ms));
    }

    fn random(&self, out: &mut [u8]) {
        getrandom::fill(out).expect("the kernel's random generator works once the system has booted");
    }

    fn process(&self) -> String {
        process::this()
    }

    fn is_gone(&self, process: &str) -> bool {
        process::is_gone(process)
    }

    fn deleting(&self) -> Option<&dyn Deleting> {
        Some(self)
    }
}

impl LocalPlatform {
    fn forget_open(&self, name: &ObjectName) {
        lock(&self.open_files).files.remove(name);
    }

    fn gone_is_false(&self, op: &'static str, name: &str, result: io::Result<()>) -> Result<bool> {
        match result {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(self.failed(op, name, e)),
        }
    }
}

impl Deleting for LocalPlatform {
    /// Order: 1 trash folder, durable · 2 rename into it. The name there is as unique as the pack's, so nothing is renamed over.
    /// If we die after 1: an empty folder, removed by the next purge. After 2: done; should a power loss bring the old entry back, the round
    /// that condemned the pack is either still open, and discards it again, or closed, and the next round condemns it again.
    /// On NFS a lost reply makes the repeated rename say "not there" although it took effect: that is the answer for "gone" as well.
    fn discard(&self, name: &ObjectName, round: u64) -> Result<bool> {
        let trashed = ObjectName::trashed(&format!("{round:08}"), name).expect("a number is a plain folder name");
        self.forget_open(name);
        for _ in 0..TRASH_TRIES_MAX {
            let folder = self.path(&trashed).parent().expect("it lies in trash/").to_path_buf();
            self.ensure_dir(&folder).map_err(|e| self.failed("create the folder of", trashed.as_str(), e))?;
            match fs::rename(self.path(name), self.path(&trashed)) {
                // Not there, or another collection has just purged the empty folder: then the pack would stay, while its round counts as done.
                Err(e) if e.kind() == io::ErrorKind::NotFound && self.size(name)?.is_some() => {
                    lock(&self.known_dirs).remove(&folder);
                }
                other => return self.gone_is_false("discard", name.as_str(), other),
            }
        }
        Err(StoreError::Busy(format!("{}: its folder in trash/ is removed again and again by other collections; try again", name.as_str())))
    }

    fn delete(&self, name: &ObjectName) -> Result<bool> {
        self.forget_open(name);
        self.gone_is_false("delete", name.as_str(), fs::remove_file(self.path(name)))
    }

    fn delete_temporaries(&self, dir: &str, age_ms_min: u64) -> Result<u64> {
        let failed = |e| self.failed("list", dir, e);
        let entries = match fs::read_dir(self.root.join(dir)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            other => other.map_err(failed)?,
        };
        let mut deleted = 0;
        for e in entries {
            let e = e.map_err(failed)?;
            let ours = e.file_name().to_str().is_some_and(|n| n.starts_with(TEMPORARY));
            // What vanishes meanwhile was removed by its owner.
            let age = e.metadata().and_then(|m| m.modified()).map(|t| SystemTime::now().duration_since(t).unwrap_or_default());
            if ours && age.is_ok_and(|a| a.as_millis() >= u128::from(age_ms_min)) && fs::remove_file(e.path()).is_ok() {
                deleted += 1;
            }
        }
        Ok(deleted)
    }

    fn delete_empty_dir(&self, dir: &str) -> Result<()> {
        lock(&self.known_dirs).remove(&self.root.join(dir));
        match fs::remove_dir(self.root.join(dir)) {
            Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => Err(self.failed("delete", dir, e)),
            _ => Ok(()),
        }
    }

    fn dir_modified_unix_ms(&self, dir: &str) -> Result<Option<u64>> {
        match fs::metadata(self.root.join(dir)).and_then(|m| m.modified()) {
            Ok(t) => Ok(Some(u64::try_from(t.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.failed("stat", dir, e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_store_format::SessionId;

    #[test]
    fn create_is_exclusive_and_leaves_no_temporary_files() {
        let dir = tempfile::tempdir().expect("temp dir");
        let p = LocalPlatform::open(dir.path()).expect("opens");
        let name = ObjectName::register(&SessionId([1; 16]));
        assert_eq!(p.create(&name, b"one", Durability::Now).expect("creates"), Created::New);
        assert_eq!(p.create(&name, b"two", Durability::Now).expect("answers"), Created::Exists);
        assert_eq!(p.create(&name, b"one", Durability::Deferred).expect("our own echo"), Created::New);
        p.barrier().expect("syncs");
        assert_eq!(p.read(&name, 10).expect("reads").expect("is there"), b"one");
        assert!(p.read(&name, 2).is_err(), "over the limit");
        assert_eq!(p.read_at(&name, 1, 5).expect("short"), None);
        assert_eq!(p.list(name.dir()).expect("lists"), std::slice::from_ref(&name));
        assert_eq!(fs::read_dir(p.path(&name).parent().expect("dir")).expect("lists").count(), 1);
        assert_eq!(p.list("nowhere").expect("empty"), []);
    }

    #[test]
    fn a_pack_is_discarded_although_its_empty_folder_was_purged() {
        let dir = tempfile::tempdir().expect("temp dir");
        let p = LocalPlatform::open(dir.path()).expect("opens");
        let (one, two) = (ObjectName::register(&SessionId([1; 16])), ObjectName::register(&SessionId([2; 16])));
        p.create(&one, b"one", Durability::Now).expect("creates");
        p.create(&two, b"two", Durability::Now).expect("creates");
        assert!(p.discard(&one, 7).expect("discards"));
        // Another process purges what it finds, and the folder with it: this one still believes in the folder.
        fs::remove_dir_all(dir.path().join("trash/00000007")).expect("purges");
        assert!(p.discard(&two, 7).expect("discards"), "it was there");
        assert_eq!(p.size(&two).expect("looks"), None);
        assert!(!p.discard(&two, 7).expect("looks"), "it is gone");
    }
}
