//! Configuration and key ring lie in the store twice: a copy that is missing or damaged is made anew from the whole one.
//!
//! Order: 1 the whole copy is read from the storage, proven, and durable · 2 a damaged one is deleted · 3 it is created if absent, the same bytes. If we die
//! between: the next collection finds it missing. Must not: touch a copy while the other one is not proven whole at this moment; a key slot, which lies
//! there once and is for its holder.

use super::GcReport;
use crate::{
    Result,
    crypto::verify_signature,
    damage::read_or_skip,
    platform::{Deleting, Durability},
    store::Inner,
};
use cairn_store_format::{ObjectName, config::Config, limits::SMALL_BYTES_MAX, name::parse_copy};

/// See the module.
pub(super) fn mend(store: &Inner, deleting: &dyn Deleting, report: &mut GcReport) -> Result<()> {
    let newest = store.platform.list("config")?.iter().filter(|name| is_ours(store, name)).filter_map(|n| parse_copy(n.file(), "")).max();
    if let Some(number) = newest.and_then(|n| u32::try_from(n).ok()) {
        pair(store, deleting, &ObjectName::config(number), &|bytes| config_is_ours(store, bytes), report)?;
    }
    // It opened when this store was opened: these bytes are right, and no others.
    let (number, ring) = &store.ring;
    let Ok(number) = u32::try_from(*number) else { return Ok(()) };
    pair(store, deleting, &ObjectName::key_ring(number), &|bytes| bytes == ring, report)
}

fn is_ours(store: &Inner, name: &ObjectName) -> bool {
    read_or_skip(&*store.platform, name, SMALL_BYTES_MAX).is_ok_and(|bytes| bytes.is_some_and(|bytes| config_is_ours(store, &bytes)))
}

/// Signed by the key that this host opened the store with, and the same store's.
fn config_is_ours(store: &Inner, bytes: &[u8]) -> bool {
    Config::decode(bytes).is_ok_and(|(config, signed, signature)| {
        config.store == store.config.store
            && config.public_key == store.config.public_key
            && verify_signature(&store.config.public_key, signed, &signature).is_ok()
    })
}

fn pair(store: &Inner, deleting: &dyn Deleting, names: &[ObjectName; 2], is_whole: &dyn Fn(&[u8]) -> bool, report: &mut GcReport) -> Result<()> {
    let platform = &*store.platform;
    let mut copies = Vec::new();
    for name in names {
        platform.drop_cached(name);
        // One on a bad sector may be read tomorrow.
        copies.push(match platform.read(name, SMALL_BYTES_MAX) {
            Err(e) if e.is_bad_media() => return Ok(()),
            Err(e) if e.is_damage() => Some(Vec::new()),
            other => other?,
        });
    }
    let whole = |i: usize| copies[i].as_ref().filter(|bytes| is_whole(bytes));
    let (good, bad) = match (whole(0), whole(1)) {
        (Some(bytes), None) => (bytes, 1),
        (None, Some(bytes)) => (bytes, 0),
        _ => return Ok(()),
    };
    platform.cover(&names[1 - bad]);
    platform.barrier()?;
    let name = &names[bad];
    if copies[bad].is_some() {
        deleting.delete(name)?;
    }
    platform.create(name, good, Durability::Now)?;
    tracing::warn!("{name} was missing or damaged; it is made anew from {}", names[1 - bad]);
    report.tidied += 1;
    Ok(())
}
