//! Where frames were moved to: the lists of all committed relocation registers.
//!
//! Invariants: a place may have been moved more than once, to several places: all of them count. A list whose frame is gone was retired by a
//! collection once no map used it any more, and says nothing. A list's own frame may have been moved by another list.

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
pub(crate) struct Relocations {
    known: Mutex<Known>,
    /// Packs that newer lists were looked for: a lost pack costs one look, however many frames lay in it.
    asked: Mutex<HashSet<PackId>>,
}

#[derive(Default)]
struct Known {
    registers: HashSet<SessionId>,
    moves: Arc<Moves>,
}

impl Relocations {
    fn take_in(&self, read: Vec<(Location, Location)>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let moves = Arc::make_mut(&mut known.moves);
        for (from, to) in read {
            let targets = moves.entry(from).or_default();
            if !targets.contains(&to) {
                targets.push(to);
            }
        }
    }

    /// All moves known so far.
    pub(crate) fn known(&self) -> Arc<Moves> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).moves.clone()
    }
}

impl Inner {
    /// Where a frame was moved to; newer lists are taken in when nothing is known of it. Empty where it was not moved.
    pub(crate) fn moved_to(&self, at: &Location) -> Result<Vec<Location>> {
        if let Some(found) = self.relocations.known().get(at) {
            return Ok(found.clone());
        }
        // Held until the newer lists are read: whoever asks meanwhile must not take "being looked for" for "was not moved".
        let mut asked = self.relocations.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if !asked.contains(&at.pack) {
            self.refresh_relocations()?;
            asked.insert(at.pack);
        }
        Ok(self.relocations.known().get(at).cloned().unwrap_or_default())
    }

    /// Takes in relocation registers that this process has not seen. A list that is damaged is left out with a warning: what it moved is then
    /// looked for in the index.
    pub(crate) fn refresh_relocations(&self) -> Result<()> {
        let mut reader = CachedReader::new(self, true);
        let new: Vec<_> = {
            let known = self.relocations.known.lock().unwrap_or_else(PoisonError::into_inner);
            registers::list(self)?.into_iter().filter(|(id, _)| !known.registers.contains(id)).collect()
        };
        let mut unread: Vec<(SessionId, Ref)> = Vec::new();
        let mut done = Vec::new();
        for (id, name) in &new {
            match reader.register(id, name) {
                Ok(Decided::Relocation(list)) => unread.push((*id, list)),
                // No list that could be used; those who need all registers report it.
                Ok(_) | Err(StoreError::Damaged { .. } | StoreError::Format(_)) => done.push(*id),
                // It may well be one: whoever goes on without it would take moved frames for unused.
                Err(e) => return Err(e),
            }
        }
        reader.keep();
        // A list may itself have been moved by another one, whatever their order: those that cannot be found are tried again after the others.
        loop {
            let before = unread.len();
            let mut still_unread = Vec::new();
            for (id, list) in unread {
                match self.relocation_list(&list) {
                    Ok(Some(moves)) => self.relocations.take_in(moves),
                    Ok(None) => {
                        still_unread.push((id, list));
                        continue;
                    }
                    Err(e @ (StoreError::Damaged { .. } | StoreError::Format(_))) => tracing::warn!("{e}; this list of moved frames is left out"),
                    Err(e) => return Err(e),
                }
                done.push(id);
            }
            unread = still_unread;
            if unread.is_empty() || unread.len() == before {
                break;
            }
        }
        // What is left was retired, or its new place is told by a list that is newer than this look: the next look tries it again.
        self.relocations.known.lock().unwrap_or_else(PoisonError::into_inner).registers.extend(done);
        Ok(())
    }

    /// A list's moves, from where its register says or where it was moved to; `None` where its pack is gone.
    pub(crate) fn relocation_list(&self, list: &Ref) -> Result<Option<Vec<(Location, Location)>>> {
        let moves = self.relocations.known();
        let (mut places, mut seen, mut first_error) = (vec![list.at], HashSet::new(), None);
        while let Some(at) = places.pop() {
            if !seen.insert(at) {
                continue;
            }
            places.extend(moves.get(&at).into_iter().flatten());
            if !self.pack_exists(&at.pack)? {
                continue;
            }
            match self.fetch_at(&mut decompressor(), &at, &list.id, FrameKind::Relocation, 0) {
                Ok(plain) => return Ok(Some(decode_relocations(&plain)?)),
                Err(e @ StoreError::Damaged { .. }) => first_error = first_error.or(Some(e)),
                Err(e) => return Err(e),
            }
        }
        first_error.map_or(Ok(None), Err)
    }
}
