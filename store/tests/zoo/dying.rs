//! A directory as storage, for a process that dies at a chosen step: what it was about to do fails, and nothing it does later takes effect.
//! This is how a round of garbage collection stays open, or closed but not cleared away, in stores with and without encryption.
//!
//! Must not: be used where durability is asked about; a process that dies here has lost nothing that it had written.

use crate::common::passes_on;
use cairn_store::{
    Result, StoreError,
    format::ObjectName,
    platform::{Created, Deleting, Durability, LocalPlatform, Platform},
};
use std::{
    io,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

/// Where it dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Death {
    /// It lives.
    Never,
    /// Before the round's register is written: condemned, undecided (G7).
    BeforePardon,
    /// Before the first pack goes: decided, not finished (G8).
    BeforeDiscard,
    /// After the round is done, before its list is cleared away.
    BeforeRetiring,
}

/// See the module.
pub struct Dying {
    inner: LocalPlatform,
    death: Death,
    dead: AtomicBool,
}

impl Dying {
    pub fn open(root: &Path, death: Death) -> Self {
        Self { inner: LocalPlatform::open(root).expect("a directory"), death, dead: AtomicBool::new(false) }
    }

    fn alive(&self, dies_now: bool, op: &'static str, name: &str) -> Result<()> {
        if dies_now || self.dead.load(Ordering::SeqCst) {
            self.dead.store(true, Ordering::SeqCst);
            return Err(StoreError::Storage { op, name: name.to_owned(), source: io::Error::other("the process has died") });
        }
        Ok(())
    }
}

impl Platform for Dying {
    passes_on!(inner: location cover barrier read read_at size list list_dirs now_unix_ms monotonic_ms boot sleep_ms random process is_gone);

    fn create(&self, name: &ObjectName, bytes: &[u8], durability: Durability) -> Result<Created> {
        self.alive(self.death == Death::BeforePardon && name.as_str().starts_with("gc/pardon-"), "write", name.as_str())?;
        self.inner.create(name, bytes, durability)
    }
    fn single_threaded(&self) -> bool {
        true
    }
    fn deleting(&self) -> Option<&dyn Deleting> {
        Some(self)
    }
}

impl Deleting for Dying {
    fn discard(&self, name: &ObjectName, round: u64) -> Result<bool> {
        self.alive(self.death == Death::BeforeDiscard, "discard", name.as_str())?;
        self.inner.discard(name, round)
    }
    fn delete(&self, name: &ObjectName) -> Result<bool> {
        self.alive(self.death == Death::BeforeRetiring && name.as_str().starts_with("gc/condemned-"), "delete", name.as_str())?;
        self.inner.delete(name)
    }
    fn delete_temporaries(&self, dir: &str, age_ms_min: u64) -> Result<u64> {
        self.inner.delete_temporaries(dir, age_ms_min)
    }
    fn delete_empty_dir(&self, dir: &str) -> Result<()> {
        self.inner.delete_empty_dir(dir)
    }
    fn dir_modified_unix_ms(&self, dir: &str) -> Result<Option<u64>> {
        self.inner.dir_modified_unix_ms(dir)
    }
}
