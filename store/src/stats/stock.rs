//! Packs as they lie in the store, and what of them is in use.

use super::{
    ledger::{Ledger, PackFacts, Used},
    moved::Moved,
};
use crate::{Result, StoreError, point::registers::list_months, store::Inner};
use cairn_store_format::{ObjectName, PackId, PackKind, name::parse_pack, pack::FRAME_HEADER_BYTES};
use std::collections::{BTreeMap, HashMap, HashSet};

/// All packs by a fresh list: how many copies lie there.
pub(super) fn list(store: &Inner) -> Result<BTreeMap<PackId, u64>> {
    let mut out = BTreeMap::new();
    for (root, kind) in [("d", PackKind::Data), ("m", PackKind::Meta)] {
        for pack in list_months(store, root)?.iter().filter_map(|n| parse_pack(n.file(), kind)) {
            *out.entry(pack).or_default() += 1;
        }
    }
    Ok(out)
}

/// Size and frames of all listed packs. Each pack's footer is read once on this host; packs that are gone are dropped from the ledger.
pub(super) fn facts(
    store: &Inner,
    ledger: &mut Ledger<'_>,
    packs: &BTreeMap<PackId, u64>,
    check: &dyn Fn() -> Result<()>,
) -> Result<HashMap<PackId, PackFacts>> {
    let mut out = ledger.facts()?;
    let gone: Vec<PackId> = out.keys().filter(|p| !packs.contains_key(p)).copied().collect();
    for pack in &gone {
        out.remove(pack);
        ledger.drop_pack(pack)?;
    }
    for pack in packs.keys() {
        if out.contains_key(pack) {
            continue;
        }
        check()?;
        let facts = match store.packs.info(pack) {
            Ok(info) => {
                let frame_bytes = info.footer.slots.iter().map(|s| FRAME_HEADER_BYTES as u64 + u64::from(s.stored_len)).sum();
                let facts = PackFacts { size_bytes: info.size_bytes, frame_bytes };
                ledger.put_facts(pack, &facts)?;
                facts
            }
            // It takes its room all the same; that it is damaged is not for this command to say.
            Err(StoreError::Damaged { .. }) => {
                let mut size_bytes = 0;
                for name in ObjectName::pack(pack) {
                    size_bytes = size_bytes.max(store.platform.size(&name)?.unwrap_or(0));
                }
                PackFacts { size_bytes, frame_bytes: size_bytes }
            }
            Err(e) => return Err(e),
        };
        out.insert(*pack, facts);
    }
    Ok(out)
}

/// What of each pack is in use, by its number: what maps name, with what was moved counted where it is now, and the lists of moves that are needed.
pub(super) fn used(ledger: &mut Ledger<'_>, moved: &Moved) -> Result<HashMap<i64, Used>> {
    let mut out = ledger.used()?;
    let mut seen = HashSet::new();
    for (from, targets) in moved.origins() {
        let Some((_, entry)) = ledger.entry(from)? else { continue };
        if targets.iter().any(|t| t.place == from) {
            continue;
        }
        let old = out.entry(from.pack()).or_default();
        old.bytes -= entry.bytes();
        old.blocks -= u64::from(entry.blocks);
        old.places -= 1;
        for t in targets {
            if seen.insert(t.place) && ledger.entry(t.place)?.is_none() {
                let new = out.entry(t.place.pack()).or_default();
                new.bytes += t.bytes;
                new.blocks += u64::from(entry.blocks);
                new.places += 1;
            }
        }
    }
    for list in &moved.lists {
        let used = out.entry(ledger.number(&list.pack)?).or_default();
        used.bytes += FRAME_HEADER_BYTES as u64 + u64::from(list.stored_len);
        used.places += 1;
    }
    out.retain(|_, u| u.places > 0);
    Ok(out)
}

/// Files and bytes in the trash.
pub(super) fn trash(store: &Inner) -> Result<(u64, u64)> {
    let (mut files, mut bytes) = (0, 0);
    for round in store.platform.list_dirs("trash")? {
        for name in store.platform.list(&format!("trash/{round}"))? {
            // What a purge has just removed is none.
            if let Some(size) = store.platform.size(&name)? {
                files += 1;
                bytes += size;
            }
        }
    }
    Ok((files, bytes))
}
