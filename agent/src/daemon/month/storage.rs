//! A store's real directory under the host's simulated clock, with a disk that is full at times and a process that may be killed at any operation.

use super::sky::Sky;
use cairn_store::{
    Result, StoreError,
    format::ObjectName,
    platform::{Created, Deleting, Durability, LocalPlatform, Platform},
};
use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// No process does so many.
const ENDLESS: u64 = u64::MAX / 2;

/// One process's view of a store's storage.
pub struct Storage {
    inner: LocalPlatform,
    sky: Arc<Sky>,
    store: usize,
    process: String,
    /// Operations that it may still do before it is killed.
    left: AtomicU64,
    /// What it waited.
    waited_ms: AtomicU64,
}

impl Storage {
    pub fn open(root: &Path, sky: &Arc<Sky>, store: usize, process: String) -> Result<Self> {
        let left = AtomicU64::new(ENDLESS);
        Ok(Self { inner: LocalPlatform::open(root)?, sky: sky.clone(), store, process, left, waited_ms: AtomicU64::new(0) })
    }

    /// After so many operations the process is dead: nothing of it has an effect any more.
    pub fn kill_after(&self, operations: u64) {
        self.left.store(operations, Ordering::Relaxed);
    }

    fn step(&self, op: &'static str, name: &str) -> Result<()> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return Err(StoreError::Storage { op, name: name.into(), source: io::Error::other("the process was killed") });
        }
        self.left.store(left - 1, Ordering::Relaxed);
        Ok(())
    }
}

impl Platform for Storage {
    fn location(&self) -> String {
        self.inner.location()
    }
    fn create(&self, name: &ObjectName, bytes: &[u8], durability: Durability) -> Result<Created> {
        self.step("write", name.as_str())?;
        if self.sky.state().full.contains(&self.store) {
            return Err(StoreError::Storage { op: "write", name: name.to_string(), source: io::Error::from_raw_os_error(nix::libc::ENOSPC) });
        }
        self.inner.create(name, bytes, durability)
    }
    fn cover(&self, name: &ObjectName) {
        self.inner.cover(name);
    }
    fn barrier(&self) -> Result<()> {
        self.step("sync", "")?;
        self.inner.barrier()
    }
    fn read(&self, name: &ObjectName, max: usize) -> Result<Option<Vec<u8>>> {
        self.step("read", name.as_str())?;
        self.inner.read(name, max)
    }
    fn read_into(&self, name: &ObjectName, max: usize, out: &mut Vec<u8>) -> Result<bool> {
        self.step("read", name.as_str())?;
        self.inner.read_into(name, max, out)
    }
    fn read_at(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Option<Vec<u8>>> {
        self.step("read", name.as_str())?;
        self.inner.read_at(name, offset, len)
    }
    fn drop_cached(&self, name: &ObjectName) {
        self.inner.drop_cached(name);
    }
    fn size(&self, name: &ObjectName) -> Result<Option<u64>> {
        self.step("look at", name.as_str())?;
        self.inner.size(name)
    }
    fn stamp(&self, name: &ObjectName) -> Option<String> {
        self.inner.stamp(name)
    }
    fn list(&self, dir: &str) -> Result<Vec<ObjectName>> {
        self.step("list", dir)?;
        self.inner.list(dir)
    }
    fn list_dirs(&self, dir: &str) -> Result<Vec<String>> {
        self.step("list", dir)?;
        self.inner.list_dirs(dir)
    }
    fn check_fresh(&self) -> Result<()> {
        self.inner.check_fresh()
    }
    fn now_unix_ms(&self) -> u64 {
        self.sky.clock() + self.waited_ms.load(Ordering::Relaxed)
    }
    fn monotonic_ms(&self) -> u64 {
        self.sky.true_ms() + self.waited_ms.load(Ordering::Relaxed)
    }
    fn boot(&self) -> String {
        format!("boot {}", self.sky.state().boot)
    }
    fn sleep_ms(&self, ms: u64) {
        self.waited_ms.fetch_add(ms, Ordering::Relaxed);
    }
    fn random(&self, out: &mut [u8]) {
        let mut state = self.sky.state();
        for piece in out.chunks_mut(8) {
            let bytes = state.rng.next().to_le_bytes();
            piece.copy_from_slice(&bytes[..piece.len()]);
        }
    }
    fn process(&self) -> String {
        self.process.clone()
    }
    /// Work on stores is done by one process after the other.
    fn is_gone(&self, process: &str) -> bool {
        process != self.process
    }
    fn single_threaded(&self) -> bool {
        true
    }
    fn deleting(&self) -> Option<&dyn Deleting> {
        self.inner.deleting().map(|_| self as &dyn Deleting)
    }
}

impl Storage {
    fn inner_deleting(&self, op: &'static str, name: &str) -> Result<&dyn Deleting> {
        self.step(op, name)?;
        let none = || StoreError::Storage { op, name: name.into(), source: io::ErrorKind::PermissionDenied.into() };
        self.inner.deleting().ok_or_else(none)
    }
}

impl Deleting for Storage {
    fn discard(&self, name: &ObjectName, round: u64) -> Result<bool> {
        self.inner_deleting("discard", name.as_str())?.discard(name, round)
    }
    fn delete(&self, name: &ObjectName) -> Result<bool> {
        self.inner_deleting("delete", name.as_str())?.delete(name)
    }
    fn delete_temporaries(&self, dir: &str, age_ms_min: u64) -> Result<u64> {
        self.inner_deleting("tidy", dir)?.delete_temporaries(dir, age_ms_min)
    }
    fn delete_empty_dir(&self, dir: &str) -> Result<()> {
        self.inner_deleting("delete", dir)?.delete_empty_dir(dir)
    }
    fn dir_modified_unix_ms(&self, dir: &str) -> Result<Option<u64>> {
        self.inner_deleting("look at", dir)?.dir_modified_unix_ms(dir)
    }
}
