//! A store in a directory: local file systems, and NFS by the rules that measurements gave (probe and fresh open, `link`, no rename).
//!
//! `create`: objects and folders, and what dies after which step. `read`: open files, and handles that the server has forgotten. `list`: folders, on NFS
//! with a probe. `delete`: what garbage collection may do besides.

mod create;
mod delete;
mod direct;
mod list;
mod read;

pub(super) use create::new_temporary;

use create::sync_dir;
use read::{OpenFiles, again_if_stale};

use super::{Created, Deleting, Durability, Platform, nfs, process, too_large};
use crate::{Result, StoreError};
use cairn_store_format::ObjectName;
use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Read},
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

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
    /// On NFS: the first folder whose lists this host could only believe, since it may not write there.
    unproven: Mutex<Option<PathBuf>>,
}

/// Folders in which nothing is made or deleted while a store is in use; an admin may well keep backup hosts from writing there.
const LASTING: [&str; 2] = ["config", "keys"];

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
        Ok(Self { root, nfs, known_dirs: Mutex::default(), unsynced_dirs: Mutex::default(), open_files: Mutex::default(), unproven: Mutex::default() })
    }

    /// With what NFS asks for, wherever the directory lies.
    #[cfg(test)]
    pub(crate) fn open_as_nfs(root: &Path) -> Result<Self> {
        Ok(Self { nfs: true, ..Self::open(root)? })
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

    /// Makes this host forget what it believes about a folder; `false`: it is missing.
    fn refresh(&self, dir: &Path) -> io::Result<bool> {
        nfs::refresh(dir, &self.root, &|dir| self.not_proven(dir))
    }

    /// What this host reads of a folder is not proven to be what other hosts have made of it.
    fn not_proven(&self, dir: &Path) {
        let mut unproven = lock(&self.unproven);
        if unproven.is_none() && !LASTING.iter().any(|lasting| dir == self.root.join(lasting)) {
            tracing::warn!("{} takes no files of this user: what other hosts did within the last minute may be missing (docs/nfs.md)", dir.display());
            *unproven = Some(dir.to_path_buf());
        }
    }

    fn path(&self, name: &ObjectName) -> PathBuf {
        self.root.join(name.as_str())
    }
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
                return Ok(Err(too_large(name, len, max)));
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
        if let Ok(file) = read::open(&self.path(name)) {
            drop_cache(&file);
        }
    }

    fn size(&self, name: &ObjectName) -> Result<Option<u64>> {
        let look = || {
            let path = self.path(name);
            // On NFS a name that this host knows opens by its handle, wherever another host has moved the file meanwhile.
            if self.nfs && !self.refresh(path.parent().expect("objects lie in folders"))? {
                return Err(io::ErrorKind::NotFound.into());
            }
            Ok(read::open(&path)?.metadata()?.size())
        };
        self.none_if_missing("stat", name, again_if_stale(look))
    }

    fn stamp(&self, name: &ObjectName) -> Option<String> {
        // By the client's attributes on NFS, a few seconds old at most: what decides something reads.
        let meta = fs::metadata(self.path(name)).ok()?;
        Some(format!("{}-{}.{:09}-{}", meta.size(), meta.mtime(), meta.mtime_nsec(), meta.ino()))
    }

    fn list(&self, dir: &str) -> Result<Vec<ObjectName>> {
        Ok(self.list_kind(dir, false)?.iter().filter_map(|f| ObjectName::listed(dir, f)).collect())
    }

    fn list_dirs(&self, dir: &str) -> Result<Vec<String>> {
        self.list_kind(dir, true)
    }

    fn check_fresh(&self) -> Result<()> {
        let unproven = lock(&self.unproven);
        let Some(dir) = unproven.as_ref() else { return Ok(()) };
        Err(StoreError::Refused(format!(
            "{} takes no files of this user, so on NFS nobody knows whether what it shows is old: what other hosts did may be missing, and nothing is decided by \
             that. Mend owner and mode of it, make room, or mount it for writing; 'list', 'restore' and 'verify' work as it is (docs/nfs.md)",
            dir.display()
        )))
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
