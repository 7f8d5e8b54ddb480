//! B4 and B5a of healing: a node that was found by its id may lead to packs that nobody has compared with D, since the id leaves hints out.
//!
//! A node may stand in for another one only if all that it leads to lies outside D and is there, looked at after B2. What it leads to by a list of
//! moves counts by all its new places, and only while no such list is about to go.

use super::{
    mark::{Spare, children},
    rounds::Doomed,
};
use crate::{Result, StoreError, point::PointSet, relocation::Moves, resolve::decompressor, store::Inner};
use cairn_store_format::{Location, ObjectName, PackId, map::Ref, pack::FrameKind};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};
use zstd::bulk::Decompressor;

/// Looks at what is below nodes; made after B2.
pub(super) struct Subtrees<'a> {
    store: &'a Inner,
    doomed: &'a Doomed,
    moves: Arc<Moves>,
    /// A list of moves lies in D: nobody can say how long what it moved is found by it.
    lists_go: bool,
    usable: HashMap<PackId, bool>,
    zstd: Decompressor<'static>,
}

impl<'a> Subtrees<'a> {
    /// Looks at the registers (B3) for lists of moves.
    pub(super) fn new(store: &'a Inner, doomed: &'a Doomed) -> Result<Self> {
        let lists_go = PointSet::load_from_storage(store)?.lists().iter().any(|list| doomed.contains(&list.at.pack));
        store.refresh_relocations()?;
        Ok(Self { store, doomed, moves: store.relocations.known(), lists_go, usable: HashMap::new(), zstd: decompressor() })
    }

    /// Whether a frame may stand in for another one with its id. Frames other than nodes lead nowhere, or have all they lead to in their id.
    pub(super) fn may_stand_in(&mut self, spare: &Spare, check: &mut dyn FnMut() -> Result<()>) -> Result<bool> {
        let copy = &spare.frame;
        // What lies in the trash is copied and not referred to.
        if spare.round.is_none() && !self.is_usable(&copy.at.pack)? {
            return Ok(false);
        }
        let names = spare.names();
        let slot = match spare.info(self.store) {
            Ok(info) => info.footer.find(&copy.id).copied(),
            Err(e) if e.is_damage() || e.is_bad_media() => return Ok(false),
            Err(e) => return Err(e),
        };
        let Some(slot) = slot.filter(|s| s.kind == FrameKind::Node) else { return Ok(true) };
        let (mut todo, mut seen) = (vec![(slot.level, *copy)], HashSet::from([copy.at]));
        while let Some((level, r)) = todo.pop() {
            check()?;
            let names = if r.at == copy.at { names.clone() } else { ObjectName::pack(&r.at.pack) };
            let plain = self.store.packs.frame_from(&names, &self.store.keys, &mut self.zstd, &r.at, (r.id, FrameKind::Node, level));
            let below = match plain.and_then(|plain| children(level, &plain)) {
                Ok(below) => below,
                Err(StoreError::Format(_)) => return Ok(false),
                Err(e) if e.is_damage() || e.is_bad_media() => return Ok(false),
                Err(e) => return Err(e),
            };
            for child in below {
                let Some(places) = self.places(&child.at)? else { return Ok(false) };
                if level > 0 {
                    todo.extend(places.into_iter().filter(|at| seen.insert(*at)).map(|at| (level - 1, Ref { id: child.id, at })));
                }
            }
        }
        Ok(true)
    }

    /// Where a reference leads to; `None` where that is not to be relied on.
    fn places(&mut self, at: &Location) -> Result<Option<Vec<Location>>> {
        let (moves, mut out, mut todo, mut seen) = (self.moves.clone(), Vec::new(), vec![*at], HashSet::new());
        while let Some(at) = todo.pop() {
            match moves.get(&at) {
                _ if !seen.insert(at) => {}
                Some(_) if self.lists_go => return Ok(None),
                Some(targets) => todo.extend(targets),
                None if self.is_usable(&at.pack)? => out.push(at),
                None => return Ok(None),
            }
        }
        Ok(Some(out))
    }

    fn is_usable(&mut self, pack: &PackId) -> Result<bool> {
        if let Some(known) = self.usable.get(pack) {
            return Ok(*known);
        }
        let usable = !self.doomed.contains(pack) && self.store.pack_exists(pack)?;
        self.usable.insert(*pack, usable);
        Ok(usable)
    }
}
