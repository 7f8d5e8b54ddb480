//! The world as the store sees it: objects by name, a clock, randomness. One trait, so that a simulator can take its place.
//!
//! Contract of [`Platform`]:
//! - `create` is create-if-absent, decided by the storage itself; an object is there whole or not at all.
//! - `Durability::Now` has reached stable storage on return; `Deferred` has once a later `barrier` returned.
//! - `list` shows every create that completed before it was asked for.
//! - Nothing here deletes or replaces an object.

mod local;

pub use local::LocalPlatform;

use crate::Result;
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
    /// The whole object, at most `max` bytes; `None` where it does not exist.
    fn read(&self, name: &ObjectName, max: usize) -> Result<Option<Vec<u8>>>;
    /// Exactly `len` bytes at `offset`; `None` where the object does not exist or ends before.
    fn read_at(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Option<Vec<u8>>>;
    /// Size in bytes; `None` where it does not exist.
    fn size(&self, name: &ObjectName) -> Result<Option<u64>>;
    /// Objects of one folder.
    fn list(&self, dir: &str) -> Result<Vec<ObjectName>>;
    /// Folders of one folder, by name.
    fn list_dirs(&self, dir: &str) -> Result<Vec<String>>;
    /// Unix time, milliseconds.
    fn now_unix_ms(&self) -> u64;
    /// Fills with cryptographically strong random bytes.
    fn random(&self, out: &mut [u8]);
}

/// `N` random bytes.
pub fn random_bytes<const N: usize>(platform: &dyn Platform) -> [u8; N] {
    let mut out = [0; N];
    platform.random(&mut out);
    out
}
