//! Where frames were moved to: the lists of all committed relocation registers.
//!
//! Invariants: a place may have been moved more than once, to several places: all of them count. A list whose frame is gone was retired by a
//! collection once no map used it any more, and says nothing.

use crate::{
    Result, StoreError,
    point::registers::{self, CachedReader, Decided},
    resolve::decompressor,
    store::Inner,
};
use cairn_store_format::{Location, PackId, SessionId, gc::decode_relocations, map::Ref, pack::FrameKind};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

/// Old place to new places.
pub(crate) type Moves = HashMap<Location, Vec<Location>>;

/// What this process knows of relocations.
#[derive(Default)]
pub(crate) struct Relocations(Mutex<Known>);

#[derive(Default)]
struct Known {
    registers: HashSet<SessionId>,
    /// Packs that newer lists were looked for: a lost pack costs one look, however many frames lay in it.
    asked: HashSet<PackId>,
    moves: Arc<Moves>,
}

impl Relocations {
    /// All moves known so far.
    pub(crate) fn known(&self) -> Arc<Moves> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).moves.clone()
    }

    fn learn(&self, moves: Vec<(Location, Location)>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all = Arc::make_mut(&mut known.moves);
        for (from, to) in moves {
            let targets = all.entry(from).or_default();
            if !targets.contains(&to) {
                targets.push(to);
            }
        }
    }
}

impl Inner {
    /// Where a frame was moved to; newer lists are taken in when nothing is known of it. Empty where it was not moved.
    pub(crate) fn moved_to(&self, at: &Location) -> Result<Vec<Location>> {
        if let Some(found) = self.relocations.known().get(at) {
            return Ok(found.clone());
        }
        if !self.relocations.0.lock().unwrap_or_else(PoisonError::into_inner).asked.insert(at.pack) {
            return Ok(Vec::new());
        }
        self.refresh_relocations()?;
        Ok(self.relocations.known().get(at).cloned().unwrap_or_default())
    }

    /// Takes in relocation registers that this process has not seen. A list that is damaged is left out with a warning: what it moved is then
    /// looked for in the index.
    pub(crate) fn refresh_relocations(&self) -> Result<()> {
        let mut reader = CachedReader::new(self, true);
        let new: Vec<_> = {
            let known = self.relocations.0.lock().unwrap_or_else(PoisonError::into_inner);
            registers::list(self)?.into_iter().filter(|(id, _)| !known.registers.contains(id)).collect()
        };
        let mut lists = Vec::new();
        for (id, name) in &new {
            // What cannot be read is no list that could be used; those who need all registers report it.
            if let Ok(Decided::Relocation(list)) = reader.register(id, name) {
                lists.push(list);
            }
        }
        reader.keep()?;
        // A later list may have moved an earlier one's frame with the rest of its pack: newest first, and again while that finds more.
        lists.reverse();
        loop {
            let before = lists.len();
            let mut missing = Vec::new();
            for list in lists {
                match self.relocation_list(&list) {
                    Ok(Some(moves)) => self.relocations.learn(moves),
                    Ok(None) => missing.push(list),
                    Err(e @ (StoreError::Damaged { .. } | StoreError::Format(_))) => tracing::warn!("{e}; this list of moved frames is left out"),
                    Err(e) => return Err(e),
                }
            }
            lists = missing;
            if lists.is_empty() || lists.len() == before {
                break;
            }
        }
        self.relocations.0.lock().unwrap_or_else(PoisonError::into_inner).registers.extend(new.into_iter().map(|(id, _)| id));
        Ok(())
    }

    /// A list's moves, from where its frame is by what this process knows of moves; `None` where its pack is gone.
    pub(crate) fn relocation_list(&self, list: &Ref) -> Result<Option<Vec<(Location, Location)>>> {
        let moves = self.relocations.known();
        let (mut todo, mut seen) = (vec![list.at], HashSet::new());
        while let Some(at) = todo.pop() {
            if !seen.insert(at) {
                continue;
            }
            if self.pack_exists(&at.pack)? {
                let plain = self.fetch_at(&mut decompressor(), &at, &list.id, FrameKind::Relocation, 0)?;
                return Ok(Some(decode_relocations(&plain)?));
            }
            todo.extend(moves.get(&at).into_iter().flatten());
        }
        Ok(None)
    }
}
