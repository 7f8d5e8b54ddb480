//! Rounds of garbage collection as they stand in `gc/`, and D: what nothing new may come to depend on.
//!
//! Invariants:
//! - A round whose list or pardon cannot be read counts as "everything": D is never smaller than it should be.
//! - `gc/pardon-<round>` is the register that decides a round and is never removed; so round numbers are never used twice.

use crate::{Result, StoreError, store::Inner};
use cairn_store_format::{
    FormatError, ObjectName, PackId,
    gc::{Condemned, Pardon},
    header::ObjectKind,
    limits::LIST_BYTES_MAX,
    name::parse_round,
};
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
                Err(e @ (StoreError::Damaged { .. } | StoreError::Format(_))) => {
                    tracing::warn!("{e}; known chunks are stored again until this round is cleared away");
                    out.all = true;
                    continue;
                }
                Err(e) => return Err(e),
            };
            let pardon = match stage.pardon.then(|| read_pardon(store, round)) {
                Some(Ok(p)) => p,
                None => None,
                Some(Err(e @ (StoreError::Damaged { .. } | StoreError::Format(_)))) => {
                    tracing::warn!("{e}; what this round condemned is not referred to");
                    None
                }
                Some(Err(e)) => return Err(e),
            };
            match pardon {
                Some(Pardon::All) => {}
                Some(Pardon::Packs(spared)) => {
                    let spared: HashSet<PackId> = spared.into_iter().collect();
                    out.packs.extend(condemned.packs.into_iter().filter(|p| !spared.contains(p)));
                }
                None => out.packs.extend(condemned.packs),
            }
        }
        Ok(out)
    }
}

/// A round's list; `None` where it is not there (any more).
pub(crate) fn read_condemned(store: &Inner, round: u64) -> Result<Option<Condemned>> {
    read(store, &ObjectName::condemned(round), ObjectKind::Condemned, round, Condemned::decode)
}

/// A round's decision; `None` where there is none yet.
pub(crate) fn read_pardon(store: &Inner, round: u64) -> Result<Option<Pardon>> {
    read(store, &ObjectName::pardon(round), ObjectKind::Pardon, round, Pardon::decode)
}

fn read<T>(store: &Inner, name: &ObjectName, kind: ObjectKind, round: u64, decode: fn(&[u8]) -> Result<T, FormatError>) -> Result<Option<T>> {
    let Some(bytes) = store.platform.read(name, LIST_BYTES_MAX)? else { return Ok(None) };
    let plain = store.keys.open_object(name, kind, &[0; 16], round, &bytes)?;
    decode(&plain).map(Some).map_err(|e| StoreError::damaged(name, e))
}
