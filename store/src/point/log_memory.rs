//! What this host remembers of points' logs: how far it has written each. Entries are never removed, so a log that ends before that has lost its newest ones,
//! which nothing in the store can tell.
//!
//! Invariants:
//! - Only what was durable is remembered: an entry that a power loss takes before its create has answered is not missed.
//! - Who compares asks here first and lists the log then: what another command adds meanwhile is no loss.
//! - New entries take no number that is remembered, so that what is lost stays a gap, which every host sees.
//!
//! A cache that fails or was deleted remembers nothing.

use crate::store::Inner;
use cairn_store_format::{SessionId, name::parse_session};
use std::collections::HashMap;

const MEMORY: &str = "log ";

fn count(bytes: &[u8]) -> u32 {
    bytes.try_into().map_or(0, u32::from_le_bytes)
}

/// Entries of a point's log, by what this host has written; 0 where it has written none.
pub(super) fn written(store: &Inner, id: &SessionId) -> u32 {
    let known = store.index.object(&format!("{MEMORY}{id}")).unwrap_or_else(|e| {
        tracing::debug!("{e}");
        None
    });
    known.map_or(0, |bytes| count(&bytes))
}

/// The same of all points.
pub(super) fn all_written(store: &Inner) -> HashMap<SessionId, u32> {
    let known = store.index.objects_beginning(MEMORY).unwrap_or_else(|e| {
        tracing::debug!("{e}");
        Vec::new()
    });
    known.iter().filter_map(|(id, bytes)| Some((parse_session(id).ok()?, count(bytes)))).collect()
}

/// Entry `number` was created and is durable.
pub(super) fn wrote(store: &Inner, id: &SessionId, number: u32) {
    let entries = number.saturating_add(1);
    if entries > written(store, id)
        && let Err(e) = store.index.keep_objects(&[(format!("{MEMORY}{id}"), entries.to_le_bytes().to_vec())])
    {
        tracing::debug!("{e}");
    }
}
