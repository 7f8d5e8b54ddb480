//! Relocations over the counts: a place that was moved stands for the places it was moved to, each counted once, however many were moved there.
//!
//! Invariants: as in the marking of a collection, all committed targets count, a move of a moved place is followed, and a place none of whose targets
//! has a pack stands for itself. A list of moves is in use while a place that counts needs it.

use super::ledger::{Ledger, Place};
use crate::{Result, StoreError, store::Inner};
use cairn_store_format::{Location, PackId, map::Ref, pack::FRAME_HEADER_BYTES};
use std::collections::{BTreeSet, HashMap, HashSet};

/// Moves of a moved place that are followed.
const MOVES_MAX: usize = 64;

/// Where a moved place is now.
pub(super) struct Target {
    pub(super) place: Place,
    pub(super) bytes: u64,
}

/// The moves that what counts needs.
#[derive(Default)]
pub(super) struct Moved {
    /// Place as a map names it: where it is.
    targets: HashMap<Place, Vec<Target>>,
    /// Where something was moved to: all places that stand for it, itself among them if a map names it.
    named_by: HashMap<Place, Vec<Place>>,
    /// Where the lists are that are in use.
    pub(super) lists: BTreeSet<Location>,
}

type Moves = HashMap<Location, Vec<Location>>;

impl Moved {
    /// `lists`: frames of all relocation lists; `exists`: packs that are there.
    pub(super) fn load(store: &Inner, ledger: &mut Ledger<'_>, lists: &[Ref], exists: &dyn Fn(&PackId) -> bool) -> Result<Self> {
        store.refresh_relocations()?;
        let mut read: Vec<(Ref, Vec<(Location, Location)>)> = Vec::new();
        for list in lists {
            match store.relocation_list(list) {
                Ok(moves) => read.extend(moves.map(|m| (*list, m))),
                Err(e @ (StoreError::Damaged { .. } | StoreError::Format(_))) => tracing::warn!("{e}; what it moved is counted where it was"),
                Err(e) => return Err(e),
            }
        }
        let mut moves = Moves::new();
        for (from, to) in read.iter().flat_map(|r| &r.1) {
            moves.entry(*from).or_default().push(*to);
        }
        let (mut out, mut used) = (Self::default(), HashSet::new());
        for from in moves.keys() {
            // Most packs that frames were moved out of are long gone and named by nothing.
            if ledger.find_pack(&from.pack)?.is_none() {
                continue;
            }
            let place = ledger.place(from)?;
            if ledger.entry(place)?.is_some() {
                let targets = follow(from, &moves, exists, &mut used);
                out.insert(ledger, place, &targets)?;
            }
        }
        for place in out.named_by.keys().copied().collect::<Vec<_>>() {
            if ledger.entry(place)?.is_some() {
                out.named_by.entry(place).or_default().push(place);
            }
        }
        out.named_by.values_mut().for_each(|v| {
            v.sort_unstable();
            v.dedup();
        });
        // A list may lie in a pack that was rewritten, too, and then needs the list that says where it is.
        while let Some(i) = read.iter().position(|(_, moves)| moves.iter().any(|m| used.contains(&m.0))) {
            let (list, _) = read.swap_remove(i);
            out.lists.extend(follow(&list.at, &moves, exists, &mut used));
        }
        Ok(out)
    }

    fn insert(&mut self, ledger: &mut Ledger<'_>, from: Place, targets: &BTreeSet<Location>) -> Result<()> {
        for at in targets {
            let place = ledger.place(at)?;
            self.named_by.entry(place).or_default().push(from);
            let bytes = FRAME_HEADER_BYTES as u64 + u64::from(at.stored_len);
            self.targets.entry(from).or_default().push(Target { place, bytes });
        }
        Ok(())
    }

    /// Whether a place has to do with moves at all.
    pub(super) fn concerns(&self, place: Place) -> bool {
        self.targets.contains_key(&place) || self.named_by.contains_key(&place)
    }

    /// Where a place is now, if it was moved.
    pub(super) fn targets(&self, place: Place) -> Option<&[Target]> {
        self.targets.get(&place).map(Vec::as_slice)
    }

    /// All places that were moved and count.
    pub(super) fn origins(&self) -> impl Iterator<Item = (Place, &[Target])> {
        self.targets.iter().map(|(p, t)| (*p, t.as_slice()))
    }

    /// All places that stand for `place`.
    pub(super) fn named_by(&self, place: Place) -> &[Place] {
        self.named_by.get(&place).map_or(&[], Vec::as_slice)
    }
}

/// The last places of a moved one; itself where none of them has a pack.
fn follow(from: &Location, moves: &Moves, exists: &dyn Fn(&PackId) -> bool, used: &mut HashSet<Location>) -> BTreeSet<Location> {
    let (mut todo, mut seen, mut out) = (vec![*from], HashSet::new(), BTreeSet::new());
    while let Some(at) = todo.pop() {
        if !seen.insert(at) || seen.len() > MOVES_MAX {
            continue;
        }
        if let Some(targets) = moves.get(&at) {
            used.insert(at);
            todo.extend(targets);
        } else if exists(&at.pack) {
            out.insert(at);
        }
    }
    if out.is_empty() {
        out.insert(*from);
    }
    out
}
