//! The world as the store sees it: objects by name, clocks, randomness, processes. One trait, so that a simulator can take its place.
//!
//! Contract of [`Platform`]:
//! - `create` is create-if-absent, decided by the storage itself; an object is there whole or not at all.
//! - `Durability::Now` has reached stable storage on return; `Deferred` has once a later `barrier` returned.
//! - `list` shows every create that completed before it was asked for. One that is under way it may show or not; but what anybody was shown,
//!   by a list, a read or a create that found it there, every later list shows, wherever it is asked for.
//!   Where this host may not write into a folder, the list is what it believes, good enough for reading: [`Platform::check_fresh`] then refuses what
//!   decides something.
//! - Nothing here deletes or replaces an object. What deletes is [`Deleting`], which only garbage collection asks for.

mod local;
mod nfs;
mod process;
#[cfg(feature = "simulation")]
pub mod simulated;

pub use local::LocalPlatform;

use crate::{Result, StoreError};
use cairn_store_format::ObjectName;

/// Outcome of a create.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Created {
    /// The object is now there with our bytes.
    New,
    /// It was there before, with other bytes.
    Exists,
}

/// When a create must be durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// On return.
    Now,
    /// After the next barrier.
    Deferred,
}

/// See the module's contract.
pub trait Platform: Send + Sync {
    /// Where this is, for messages.
    fn location(&self) -> String;
    /// Create-if-absent.
    fn create(&self, name: &ObjectName, bytes: &[u8], durability: Durability) -> Result<Created>;
    /// The next barrier also covers this object of another session: its name may not have reached stable storage yet.
    fn cover(&self, name: &ObjectName);
    /// Makes all earlier creates, and what was covered, durable.
    fn barrier(&self) -> Result<()>;
    /// The whole object; `None` where it does not exist. One of more than `max` bytes is [`crate::StoreError::Damaged`]: no other fault is in the
    /// storage, and it must not hide what lies beside it.
    fn read(&self, name: &ObjectName, max: usize) -> Result<Option<Vec<u8>>>;
    /// As [`Platform::read`], into a buffer that is used again for many large objects; `false` where it does not exist.
    fn read_into(&self, name: &ObjectName, max: usize, out: &mut Vec<u8>) -> Result<bool> {
        let read = self.read(name, max)?;
        let there = read.is_some();
        *out = read.unwrap_or_default();
        Ok(there)
    }
    /// Exactly `len` bytes at `offset`; `None` where the object does not exist or ends before.
    fn read_at(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Option<Vec<u8>>>;
    /// Whoever reads this object next asks the storage itself, and not a cache of this host's. A hint.
    fn drop_cached(&self, _name: &ObjectName) {}
    /// Size in bytes; `None` where it does not exist (any more): a delete or discard that completed before is seen.
    fn size(&self, name: &ObjectName) -> Result<Option<u64>>;
    /// What tells an object from another one that lies under its name after the store was set back or swapped for a copy: cheap, for caches alone, and
    /// never a reason to delete. `None` where that cannot be told.
    fn stamp(&self, name: &ObjectName) -> Option<String> {
        self.size(name).ok().flatten().map(|size| size.to_string())
    }
    /// Objects of one folder.
    fn list(&self, dir: &str) -> Result<Vec<ObjectName>>;
    /// Folders of one folder, by name.
    fn list_dirs(&self, dir: &str) -> Result<Vec<String>>;
    /// Refuses once a list or a look since the opening could not be proven fresh: whoever commits, forgets or deletes asks before the step that counts.
    fn check_fresh(&self) -> Result<()> {
        Ok(())
    }
    /// Unix time, milliseconds.
    fn now_unix_ms(&self) -> u64;
    /// A clock that never goes back and runs while the host sleeps, milliseconds; it begins anew with each boot.
    fn monotonic_ms(&self) -> u64;
    /// Names the boot that [`Platform::monotonic_ms`] counts from.
    fn boot(&self) -> String;
    /// Waits.
    fn sleep_ms(&self, ms: u64);
    /// Fills with cryptographically strong random bytes.
    fn random(&self, out: &mut [u8]);
    /// Names this process so that another one on the same host can ask [`Platform::is_gone`].
    fn process(&self) -> String;
    /// Whether that process has certainly ended. Processes of other hosts are never certain.
    fn is_gone(&self, process: &str) -> bool;
    /// Whether all work is done on the calling thread, so that each run has the same order of operations.
    fn single_threaded(&self) -> bool {
        false
    }
    /// The right to delete, where this storage and these credentials give it.
    fn deleting(&self) -> Option<&dyn Deleting>;
}

/// What garbage collection may do besides. A name that was deleted is never created again, but for copies that are made anew with the bytes they had:
/// those of the configuration, the key ring and registers.
pub trait Deleting: Send + Sync {
    /// Takes a pack's copy out of use: local storage moves it to `trash/<round>/`, others delete it. `false` where it is not there (any more).
    fn discard(&self, name: &ObjectName, round: u64) -> Result<bool>;
    /// Deletes an object for good. `false` where it is not there.
    fn delete(&self, name: &ObjectName) -> Result<bool>;
    /// Deletes temporary files of a folder that were last written `age_ms_min` ago or earlier; returns their number.
    fn delete_temporaries(&self, dir: &str, age_ms_min: u64) -> Result<u64>;
    /// Deletes a folder if it is empty.
    fn delete_empty_dir(&self, dir: &str) -> Result<()>;
    /// When something was last added to or taken from a folder, Unix milliseconds by the storage's clock; `None` where it is not there.
    fn dir_modified_unix_ms(&self, dir: &str) -> Result<Option<u64>>;
}

/// An object that has grown beyond all that its kind may be.
fn too_large(name: &ObjectName, len: usize, max: usize) -> StoreError {
    StoreError::damaged(name, format_args!("{len} bytes, more than the {max} that such an object may have"))
}

/// `N` random bytes.
pub fn random_bytes<const N: usize>(platform: &dyn Platform) -> [u8; N] {
    let mut out = [0; N];
    platform.random(&mut out);
    out
}
