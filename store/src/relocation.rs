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
use cairn_store_format::{Location, ObjectName, PackId, SessionId, gc::decode_relocations, map::Ref, pack::FrameKind};
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
    asked: Mutex<Recent>,
}

/// Packs that were looked for in vain a moment ago: what would cost the same look for each frame in them is done once. Only for a moment, since a list
/// of moves or the pack itself may turn up later; it costs a process that reads for days no more than one look a minute.
#[derive(Default)]
pub(crate) struct Recent(HashMap<PackId, u64>);

/// For so long a look counts.
const RECENT_MS: u64 = 60_000;
/// Packs remembered; beyond, all are forgotten and looked for anew.
const RECENT_MAX: usize = 10_000;

impl Recent {
    pub(crate) fn contains(&self, pack: &PackId, now_ms: u64) -> bool {
        self.0.get(pack).is_some_and(|at_ms| now_ms.saturating_sub(*at_ms) < RECENT_MS)
    }

    pub(crate) fn insert(&mut self, pack: PackId, now_ms: u64) {
        if self.0.len() >= RECENT_MAX {
            self.0.clear();
        }
        self.0.insert(pack, now_ms);
    }
}

#[derive(Default)]
struct Known {
    registers: HashSet<SessionId>,
    /// Lists that could not be found: retired, or moved by a list that was not there yet.
    unread: HashMap<SessionId, Ref>,
    /// When these were last looked for.
    unread_at_ms: u64,
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

    /// Where a place is by the moves known so far: itself, where it was not moved.
    pub(crate) fn ends(&self, at: &Location) -> Vec<Location> {
        let (moves, mut out, mut todo, mut seen) = (self.known(), Vec::new(), vec![*at], HashSet::new());
        while let Some(at) = todo.pop() {
            match moves.get(&at) {
                _ if !seen.insert(at) => {}
                Some(targets) => todo.extend(targets),
                None => out.push(at),
            }
        }
        out
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
        let now_ms = self.platform.monotonic_ms();
        if !asked.contains(&at.pack, now_ms) {
            self.take_in_relocations(false)?;
            asked.insert(at.pack, now_ms);
        }
        Ok(self.relocations.known().get(at).cloned().unwrap_or_default())
    }

    /// Takes in relocation registers that this process has not seen. A list that is damaged is left out with a warning: what it moved is then
    /// looked for in the index.
    pub(crate) fn refresh_relocations(&self) -> Result<()> {
        self.take_in_relocations(true)
    }

    /// A list that is gone stays gone, unless another list tells where its frame was moved to. Without `all` it is looked for again only when a list was
    /// taken in, and once a minute for the sake of packs that somebody brings back. That is remembered by the process alone, and sessions and collections
    /// look for all: who took a list for gone, because its storage had a bad moment, would deduplicate into what the list has moved.
    fn take_in_relocations(&self, all: bool) -> Result<()> {
        let mut reader = CachedReader::new(self, true);
        let now_ms = self.platform.monotonic_ms();
        let (new, gone, look_for_gone) = {
            let known = self.relocations.known.lock().unwrap_or_else(PoisonError::into_inner);
            let is_new = |id: &SessionId| !known.registers.contains(id) && !known.unread.contains_key(id);
            let new: Vec<_> = registers::list(self)?.into_iter().filter(|(id, _)| is_new(id)).collect();
            (new, known.unread.clone(), all || now_ms.saturating_sub(known.unread_at_ms) >= RECENT_MS)
        };
        let mut unread: Vec<(SessionId, Ref)> = Vec::new();
        let mut done = Vec::new();
        for (id, name) in &new {
            match reader.register(id, name) {
                Ok(Decided::Relocation(list)) => unread.push((*id, list)),
                // No list that could be used; those who need all registers report it.
                Ok(_) | Err(StoreError::Damaged { .. } | StoreError::Format(_)) => done.push(*id),
                // Given up by an admin, as the collection that met it said.
                Err(e) if e.is_bad_media() && self.platform.size(&ObjectName::tombstone(id))?.is_some() => done.push(*id),
                // It may well be one: whoever goes on without it would take moved frames for unused.
                Err(e) => return Err(e),
            }
        }
        reader.keep();
        if look_for_gone || !unread.is_empty() {
            unread.extend(gone);
            // A list may itself have been moved by another one, whatever their order: those that cannot be found are tried again after the others.
            unread = self.take_in_lists(unread, &mut done)?;
            let mut known = self.relocations.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.unread.extend(unread);
            known.unread_at_ms = now_ms;
        }
        let mut known = self.relocations.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.unread.retain(|id, _| !done.contains(id));
        known.registers.extend(done);
        Ok(())
    }

    /// Those that cannot be found.
    fn take_in_lists(&self, mut unread: Vec<(SessionId, Ref)>, done: &mut Vec<SessionId>) -> Result<Vec<(SessionId, Ref)>> {
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
                return Ok(unread);
            }
        }
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
