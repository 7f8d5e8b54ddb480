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
            match reader.register(id, name) {
                Ok(Decided::Relocation(list)) => lists.push(list),
                Ok(_) => {}
                // No list that could be used; those who need all registers report it.
                Err(StoreError::Damaged { .. } | StoreError::Format(_)) => {}
                // It may well be one: whoever goes on without it would take moved frames for unused.
                Err(e) => return Err(e),
            }
        }
        reader.keep()?;
        let mut read = Vec::new();
        for list in &lists {
            match self.relocation_list(list) {
                Ok(moves) => read.extend(moves.unwrap_or_default()),
                Err(e @ (StoreError::Damaged { .. } | StoreError::Format(_))) => tracing::warn!("{e}; this list of moved frames is left out"),
                Err(e) => return Err(e),
            }
        }
        let mut known = self.relocations.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.registers.extend(new.into_iter().map(|(id, _)| id));
        if !read.is_empty() {
            let moves = Arc::make_mut(&mut known.moves);
            for (from, to) in read {
                let targets = moves.entry(from).or_default();
                if !targets.contains(&to) {
                    targets.push(to);
                }
            }
        }
        Ok(())
    }

    /// A list's moves; `None` where its pack is gone.
    pub(crate) fn relocation_list(&self, list: &Ref) -> Result<Option<Vec<(Location, Location)>>> {
        if !self.pack_exists(&list.at.pack)? {
            return Ok(None);
        }
        let plain = self.fetch_at(&mut decompressor(), &list.at, &list.id, FrameKind::Relocation, 0)?;
        Ok(Some(decode_relocations(&plain)?))
    }
}
