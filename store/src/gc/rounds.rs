//! Rounds of garbage collection as they stand in `gc/`, and D: what nothing new may come to depend on.
//!
//! Invariants:
//! - A round whose list or pardon cannot be read counts as "everything": D is never smaller than it should be.
//! - `gc/pardon-<round>` is the register that decides a round and is never removed. It names its list by hash: a collection that chose a number, slept,
//!   and published after that round was retired has published in vain.

use crate::{Result, StoreError, damage::read_or_skip, store::Inner};
use cairn_store_format::{
    ObjectName, PackId,
    gc::{Condemned, Pardon, Spared},
    header::ObjectKind,
    limits::{LIST_BYTES_MAX, SMALL_BYTES_MAX},
    name::parse_round,
};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashSet};

/// What of a round exists.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Stage {
    pub(crate) condemned: bool,
    pub(crate) pardon: bool,
    pub(crate) done: bool,
}

/// All rounds of a fresh list of `gc/`.
pub(crate) fn stages(names: &[ObjectName]) -> BTreeMap<u64, Stage> {
    let mut out = BTreeMap::<u64, Stage>::new();
    for name in names {
        let mut set = |prefix: &str, f: fn(&mut Stage)| {
            if let Some(round) = parse_round(name.file(), prefix) {
                f(out.entry(round).or_default());
            }
        };
        set("condemned-", |s| s.condemned = true);
        set("pardon-", |s| s.pardon = true);
        set("done-", |s| s.done = true);
    }
    out
}

/// D of B2.
#[derive(Default, Debug)]
pub(crate) struct Doomed {
    packs: HashSet<PackId>,
    /// A list could not be read: any pack may be in it.
    all: bool,
}

impl Doomed {
    /// For tests: these packs.
    #[cfg(test)]
    pub(crate) fn these(packs: impl IntoIterator<Item = PackId>) -> Self {
        Self { packs: packs.into_iter().collect(), all: false }
    }

    pub(crate) fn contains(&self, pack: &PackId) -> bool {
        self.all || self.packs.contains(pack)
    }

    /// The union over all rounds of what was condemned and not pardoned in that round, from a fresh list of `gc/`.
    pub(crate) fn of(store: &Inner, names: &[ObjectName]) -> Result<Self> {
        let mut out = Self::default();
        for (round, stage) in stages(names) {
            if !stage.condemned {
                continue;
            }
            let condemned = match read_condemned(store, round) {
                Ok(Some(c)) => c,
                // Retired since the list was made: its packs were deleted before that, and B5a finds out.
                Ok(None) => continue,
                Err(e) if is_unreadable(store, &e)? => {
                    tracing::warn!("{e}; known chunks are stored again until this round is cleared away");
                    out.all = true;
                    continue;
                }
                Err(e) => return Err(e),
            };
            let spared = match stage.pardon.then(|| spared_of(store, round, &condemned)) {
                Some(Ok(s)) => s,
                None => None,
                Some(Err(e)) if is_unreadable(store, &e)? => {
                    tracing::warn!("{e}; what this round condemned is not referred to");
                    None
                }
                Some(Err(e)) => return Err(e),
            };
            out.packs.extend(condemned.list.packs.into_iter().filter(|p| !spared.as_ref().is_some_and(|s| s.contains(p))));
        }
        Ok(out)
    }
}

/// Whether one object cannot be read, by its bytes or by the disk that does not give them. A storage that is gone as a whole has no such objects: that is
/// the error.
pub(super) fn is_unreadable(store: &Inner, e: &StoreError) -> Result<bool> {
    if e.is_bad_media() {
        store.check_there()?;
    }
    Ok(matches!(e, StoreError::Damaged { .. } | StoreError::Format(_)) || e.is_bad_media())
}

/// A round's list, with the hash that its pardon names.
pub(crate) struct Listed {
    pub(crate) list: Condemned,
    pub(crate) sha256: [u8; 32],
}

/// A round's list; `None` where it is not there (any more).
pub(crate) fn read_condemned(store: &Inner, round: u64) -> Result<Option<Listed>> {
    let name = ObjectName::condemned(round);
    let Some(bytes) = store.platform.read(&name, LIST_BYTES_MAX)? else { return Ok(None) };
    let plain = store.keys.open_object(&name, ObjectKind::Condemned, &[0; 16], round, &bytes)?;
    let list = Condemned::decode(&plain).map_err(|e| StoreError::damaged(&name, e))?;
    Ok(Some(Listed { list, sha256: Sha256::digest(&bytes).into() }))
}

/// What of a list a round spares; `None` where it is not decided yet. A pardon of another list, whose round had the same number before it was
/// retired, decides nothing about this one and lets nobody decide it any more: it is given up.
pub(crate) fn spared_of(store: &Inner, round: u64, condemned: &Listed) -> Result<Option<Spared>> {
    let pardon = read_pardon(store, round)?;
    Ok(pardon.map(|p| if p.list_sha256 == condemned.sha256 { p.spared } else { Spared::All }))
}

/// A round's register, whatever list it decides.
pub(crate) fn read_pardon(store: &Inner, round: u64) -> Result<Option<Pardon>> {
    let name = ObjectName::pardon(round);
    let Some(bytes) = store.platform.read(&name, LIST_BYTES_MAX)? else { return Ok(None) };
    let plain = store.keys.open_object(&name, ObjectKind::Pardon, &[0; 16], round, &bytes)?;
    Pardon::decode(&plain).map(Some).map_err(|e| StoreError::damaged(&name, e))
}

/// What a decided round has taken or may take; `None` where it is not there (any more) or not decided.
pub(crate) fn taken(store: &Inner, round: u64) -> Result<Option<Vec<PackId>>> {
    let Some(condemned) = read_condemned(store, round)? else { return Ok(None) };
    let Some(spared) = spared_of(store, round, &condemned)? else { return Ok(None) };
    Ok(Some(condemned.list.packs.into_iter().filter(|p| !spared.contains(p)).collect()))
}

/// Whether done-N is there and is what its name says.
pub(crate) fn is_done(store: &Inner, round: u64) -> Result<bool> {
    let name = ObjectName::done(round);
    let Some(bytes) = read_or_skip(&*store.platform, &name, SMALL_BYTES_MAX)? else { return Ok(false) };
    Ok(store.keys.open_object(&name, ObjectKind::Done, &[0; 16], round, &bytes).is_ok())
}
