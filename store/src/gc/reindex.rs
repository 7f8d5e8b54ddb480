//! Index files that are damaged are replaced: packs of decided sessions that no whole index file names get a new one, made of their footers.
//!
//! Order: 1 the new files, durable · 2 the damaged ones deleted. If we die between: the next collection finds all packs named and deletes.
//! Must not: name a pack that is damaged itself. It stays readable by hints, and repacking or healing moves what is whole in it.

use super::{GcReport, round, tidy};
use crate::{Result, StoreError, damage::read_or_skip, pack::indexed, platform::Deleting, point::registers::list_months, store::Inner};
use cairn_store_format::{ObjectName, PackId, SessionId, index, limits::LIST_BYTES_MAX, name::parse_numbered};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// See the module. `decided`: sessions that write no more.
pub(super) fn replace_damaged(store: &Inner, deleting: &dyn Deleting, decided: &HashSet<SessionId>, report: &mut GcReport) -> Result<()> {
    let mut damaged: BTreeMap<SessionId, Vec<ObjectName>> = BTreeMap::new();
    // What this host has taken in was whole then, and is not read again by each collection; a scrub of this host that finds one damaged takes it out.
    let known = store.index.files().unwrap_or_default();
    for name in list_months(store, "x")? {
        let Some((session, n)) = parse_numbered(name.file()).filter(|(s, _)| decided.contains(s)) else { continue };
        // Looked at twice: a disk may have had a bad moment.
        let is_candidate = name == ObjectName::index(&session, n) && !known.contains(name.as_str());
        if is_candidate && !is_whole(store, &session, &name)? && !is_whole(store, &session, &name)? {
            damaged.entry(session).or_default().push(name);
        }
    }
    if damaged.is_empty() {
        return Ok(());
    }
    // A fresh list: these sessions were decided before, so all their packs are in it.
    let packs = round::list_packs(store)?;
    for (session, names) in damaged {
        let named = named(store, &session)?;
        let nameless = packs.iter().filter(|p| p.session == session && !named.contains(p));
        let mut entries = Vec::new();
        for pack in nameless {
            entries.extend(indexed(&*store.platform, pack)?);
        }
        tidy::write_index(store, &session, &entries)?;
        for name in &names {
            tracing::warn!("index file {name} was damaged; {} packs are named by a new one", entries.len());
            report.tidied += u64::from(deleting.delete(name)?);
        }
    }
    Ok(())
}

/// Whether an index file decodes and is its session's; one that is gone has nothing that could be mended.
fn is_whole(store: &Inner, session: &SessionId, name: &ObjectName) -> Result<bool> {
    match store.platform.read(name, LIST_BYTES_MAX) {
        Ok(Some(bytes)) => Ok(index::decode(&bytes).is_ok_and(|(s, _)| s == *session)),
        Ok(None) => Ok(true),
        Err(StoreError::Damaged { .. }) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Packs that whole index files of a session name.
fn named(store: &Inner, session: &SessionId) -> Result<BTreeSet<PackId>> {
    let mut out = BTreeSet::new();
    for name in store.platform.list(ObjectName::index(session, 0).dir())? {
        if parse_numbered(name.file()).is_some_and(|(s, _)| s == *session)
            && let Some(bytes) = read_or_skip(&*store.platform, &name, LIST_BYTES_MAX)?
            && let Ok((s, packs)) = index::decode(&bytes)
            && s == *session
        {
            out.extend(packs.into_iter().map(|p| p.pack));
        }
    }
    Ok(out)
}
