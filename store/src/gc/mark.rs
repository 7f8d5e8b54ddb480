//! G3: which places of which packs live points refer to, found by walking their maps.
//!
//! Invariants:
//! - A node is visited by its *location*, and everything below it is marked before the walk counts as done.
//! - A place that was moved marks all committed targets instead of itself, as far as these are there and not reported as bad; else itself as well.
//! - What is referred to and nowhere to be found is noted in `lost`: nothing may be deleted then, unless the loss was accepted.

use crate::{
    Result, StoreError,
    damage::Bad,
    pack::PackInfo,
    point::{self, Point},
    relocation::Moves,
    resolve::decompressor,
    store::Inner,
};
use cairn_store_format::{
    Location, ObjectName, PackId, PackKind, SessionId,
    manifest::Manifest,
    map::{Branch, Ref, Region, Run, root_level},
    pack::FrameKind,
    register::DiskTable,
};
use roaring::RoaringBitmap;
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};
use zstd::bulk::Decompressor;

/// A good copy of a frame that is bad or gone at its place.
#[derive(Clone, Debug)]
pub(crate) struct Spare {
    /// The frame, and where in its pack it lies.
    pub(crate) frame: Ref,
    /// Folder below `trash/` that the pack lies in; `None` where it lies under its own name.
    pub(crate) round: Option<String>,
}

impl Spare {
    /// The pack's files.
    pub(crate) fn names(&self) -> Vec<ObjectName> {
        let names = ObjectName::pack(&self.frame.at.pack);
        match &self.round {
            Some(round) => names.iter().filter_map(|n| ObjectName::trashed(round, n)).collect(),
            None => names,
        }
    }

    /// The pack's footer; of one in the trash its own, else as any reader has it.
    pub(crate) fn info(&self, store: &Inner) -> Result<Arc<PackInfo>> {
        let pack = &self.frame.at.pack;
        if self.round.is_some() { store.packs.info_of(pack, &self.names()).map(Arc::new) } else { store.packs.info(pack) }
    }
}

impl From<Ref> for Spare {
    fn from(frame: Ref) -> Self {
        Self { frame, round: None }
    }
}

/// Marked places, and what the walk found missing.
pub(crate) struct Marker<'a> {
    store: &'a Inner,
    /// K of G2, with what was found to exist since.
    exists: HashMap<PackId, bool>,
    moves: Arc<Moves>,
    pub(crate) bad: &'a Bad,
    /// Points that are walked only because they are pinned: what they refer to may have been deleted before the pin, and their reader is about to
    /// notice. That is no alarm.
    tombstones: HashSet<SessionId>,
    /// Something was missing for these alone. What they share with others was visited then, and is not looked at again.
    pub(crate) excused: bool,
    places: HashMap<PackId, RoaringBitmap>,
    /// Moved places that a map still names: the lists that move them are in use.
    moves_used: HashSet<Location>,
    /// Places that are bad or gone, and where another copy of their frame is: healing moves it.
    pub(crate) displaced: HashMap<Location, Spare>,
    /// Folders below `trash/`, once they were asked for.
    trash: Option<Vec<String>>,
    /// Packs that are referred to and are nowhere.
    pub(crate) lost: BTreeSet<String>,
    /// Points that `lost` concerns.
    pub(crate) damaged_points: BTreeSet<SessionId>,
    zstd: Decompressor<'static>,
    current: Option<SessionId>,
}

impl<'a> Marker<'a> {
    pub(crate) fn new(store: &'a Inner, known: impl Iterator<Item = PackId>, bad: &'a Bad, tombstones: HashSet<SessionId>) -> Self {
        Self {
            store,
            exists: known.map(|p| (p, true)).collect(),
            moves: store.relocations.known(),
            bad,
            tombstones,
            excused: false,
            places: HashMap::new(),
            moves_used: HashSet::new(),
            displaced: HashMap::new(),
            trash: None,
            lost: BTreeSet::new(),
            damaged_points: BTreeSet::new(),
            zstd: decompressor(),
            current: None,
        }
    }

    /// Marks everything that a point refers to.
    pub(crate) fn point(&mut self, p: &Point) -> Result<()> {
        self.current = Some(p.id);
        if let Some(r) = &p.body.manifest {
            self.mark(r)?;
            match self.store.fetch(&mut self.zstd, r, FrameKind::Manifest, 0).and_then(|plain| Ok(Manifest::decode(&plain)?)) {
                Ok(manifest) => {
                    for part in manifest.parts.values() {
                        self.mark(&part.to_ref()?)?;
                    }
                }
                Err(e) => self.unreadable(e)?,
            }
        }
        if let DiskTable::Frame(r) = &p.body.disks {
            self.mark(r)?;
        }
        match point::disks(self.store, p) {
            Ok(disks) => disks.iter().try_for_each(|d| d.root.map_or(Ok(()), |root| self.node(root_level(d.size_bytes)?, &root))),
            Err(e) => self.unreadable(e),
        }
    }

    /// Marks the lists of moves that are needed; the others may go with their packs. Needed is a list that a marked map leads to, and one of which a
    /// pack stays that it moved something out of: a backup that finds such a list gone would deduplicate into the old place, while a collection that
    /// read the list looks for it at the new one. `stays`: whether this round will leave a pack that exists, by what is marked so far.
    pub(crate) fn lists(&mut self, lists: &[Ref], stays: &dyn Fn(&Self, &PackId) -> bool) -> Result<()> {
        self.current = None;
        let mut unused: Vec<(&Ref, Vec<Location>)> = Vec::new();
        for list in lists {
            match self.store.relocation_list(list) {
                Ok(moves) => unused.push((list, moves.unwrap_or_default().into_iter().map(|(from, _)| from).collect())),
                // What it moved is looked for in the index; if that fails too, the walk has noted the loss.
                Err(StoreError::Damaged { .. } | StoreError::Format(_)) => {}
                Err(e) => return Err(e),
            }
        }
        // A list may be needed only because of another one, whose frame it moved or in whose pack it moved something: go on until no further one is.
        loop {
            let (mut needed, mut rest) = (Vec::new(), Vec::new());
            for (list, moved) in unused {
                if self.needs(&moved, stays)? { needed.push(list) } else { rest.push((list, moved)) }
            }
            unused = rest;
            if needed.is_empty() {
                return Ok(());
            }
            needed.into_iter().try_for_each(|list| self.mark(list).map(drop))?;
        }
    }

    fn needs(&mut self, moved: &[Location], stays: &dyn Fn(&Self, &PackId) -> bool) -> Result<bool> {
        if moved.iter().any(|at| self.moves_used.contains(at)) {
            return Ok(true);
        }
        for pack in moved.iter().map(|at| at.pack).collect::<BTreeSet<_>>() {
            if self.is_there(&pack)? && stays(self, &pack) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// G7: nodes that a list which was committed meanwhile put in the place of marked ones, and all below them. Healing takes a node from where it finds
    /// one with the same id, and that one may lead to other packs than the one that was walked.
    pub(crate) fn moved_nodes(&mut self, list: &Ref) -> Result<()> {
        self.current = None;
        let moves = match self.store.relocation_list(list) {
            Ok(moves) => moves.unwrap_or_default(),
            // As in `lists`.
            Err(StoreError::Damaged { .. } | StoreError::Format(_)) => return Ok(()),
            Err(e) => return Err(e),
        };
        let used = |at: &Location| self.marks_place(&at.pack, at.offset) || self.displaced.contains_key(at) || self.moves_used.contains(at);
        let targets: HashSet<Location> = moves.into_iter().filter(|(from, to)| to.pack.kind == PackKind::Meta && used(from)).map(|(_, to)| to).collect();
        for pack in targets.iter().map(|at| at.pack).collect::<BTreeSet<_>>() {
            let info = match self.store.packs.info(&pack) {
                Ok(info) => info,
                Err(e) => {
                    self.unreadable(e)?;
                    continue;
                }
            };
            for slot in info.footer.slots.iter().filter(|s| s.kind == FrameKind::Node) {
                let at = Location { pack, offset: slot.offset, stored_len: slot.stored_len };
                if targets.contains(&at) {
                    self.node(slot.level, &Ref { id: slot.id, at })?;
                }
            }
        }
        Ok(())
    }

    fn node(&mut self, level: u8, r: &Ref) -> Result<()> {
        let mut todo = vec![(level, *r)];
        while let Some((level, r)) = todo.pop() {
            if !self.mark(&r)? {
                continue;
            }
            let children = self.store.fetch(&mut self.zstd, &r, FrameKind::Node, level).and_then(|plain| children(level, &plain));
            match children {
                Ok(refs) if level == 0 => refs.iter().try_for_each(|r| self.mark(r).map(drop))?,
                Ok(refs) => todo.extend(refs.into_iter().map(|r| (level - 1, r))),
                Err(e) => self.unreadable(e)?,
            }
        }
        Ok(())
    }

    /// Marks the places that stand for a reference; whether any of them is new.
    fn mark(&mut self, r: &Ref) -> Result<bool> {
        if self.moves.contains_key(&r.at) {
            return self.mark_moved(r);
        }
        self.mark_place(r, false, &[])
    }

    /// `elsewhere`: the frame lies at another place too, bad as it may be there, so that this one's absence is no news. `before`: places that it was at.
    fn mark_place(&mut self, r: &Ref, elsewhere: bool, before: &[Location]) -> Result<bool> {
        let here = self.is_there(&r.at.pack)?;
        if here && !self.bad.contains(&r.at) {
            return Ok(self.set(&r.at));
        }
        // The only good copy may be one that no map names yet.
        let copy = self.store.locate(&r.id)?.filter(|at| *at != r.at && !self.bad.contains(at));
        let copy = match copy {
            Some(at) if self.is_there(&at.pack)? => Some(at),
            _ => None,
        };
        if let Some(at) = copy {
            self.displaced.insert(r.at, Ref { id: r.id, at }.into());
        } else if let Some(spare) = self.in_trash(r, before)? {
            self.displaced.insert(r.at, spare);
        } else if !here && !elsewhere {
            self.lose(format!("pack {} is missing", r.at.pack));
        }
        let new = here && self.set(&r.at);
        Ok(copy.is_some_and(|at| self.set(&at)) || new)
    }

    fn mark_moved(&mut self, r: &Ref) -> Result<bool> {
        let (moves, mut new, mut good, mut there) = (self.moves.clone(), false, false, false);
        let mut todo = vec![r.at];
        let (mut seen, mut left, mut ends) = (HashSet::new(), Vec::new(), Vec::new());
        while let Some(at) = todo.pop() {
            if !seen.insert(at) {
                continue;
            }
            if let Some(targets) = moves.get(&at) {
                self.moves_used.insert(at);
                left.push(at);
                todo.extend(targets);
                continue;
            }
            ends.push(at);
            if self.is_there(&at.pack)? {
                new |= self.set(&at);
                there = true;
                good |= !self.bad.contains(&at);
            }
        }
        if good {
            return Ok(new);
        }
        // No target is good: the old place, or a copy, is all there is. Healing goes on from where the moves end, so that nothing needs the bad place.
        new |= self.mark_place(r, there, &left)?;
        if !ends.is_empty()
            && let Some(spare) = self.displaced.remove(&r.at)
        {
            self.displaced.extend(ends.into_iter().map(|end| (end, spare.clone())));
        }
        Ok(new)
    }

    /// A good copy that a collection discarded and nobody has purged yet: it was moved from there, and its new place is bad.
    fn in_trash(&mut self, r: &Ref, before: &[Location]) -> Result<Option<Spare>> {
        let rounds = match self.trash.take() {
            Some(known) => known,
            None => self.store.platform.list_dirs("trash")?,
        };
        let places: Vec<Location> = std::iter::once(r.at).chain(before.iter().copied().filter(|at| *at != r.at)).collect();
        let spares = places.iter().flat_map(|at| rounds.iter().map(|round| Spare { frame: Ref { id: r.id, at: *at }, round: Some(round.clone()) }));
        let found = spares.into_iter().find(|spare| self.store.packs.holds(&spare.names(), &self.store.keys, &mut self.zstd, &spare.frame));
        self.trash = Some(rounds);
        Ok(found)
    }

    /// Packs in the trash that hold the only good copy of something.
    pub(crate) fn needed_in_trash(&self) -> HashSet<PackId> {
        self.displaced.values().filter(|s| s.round.is_some()).map(|s| s.frame.at.pack).collect()
    }

    fn set(&mut self, at: &Location) -> bool {
        self.places.entry(at.pack).or_default().insert(at.offset)
    }

    fn is_there(&mut self, pack: &PackId) -> Result<bool> {
        if let Some(known) = self.exists.get(pack) {
            return Ok(*known);
        }
        // Written after G2, or gone.
        let there = self.store.pack_exists(pack)?;
        self.exists.insert(*pack, there);
        Ok(there)
    }

    fn unreadable(&mut self, e: StoreError) -> Result<()> {
        match e {
            StoreError::Damaged { .. } | StoreError::Format(_) => {
                self.lose(e.to_string());
                Ok(())
            }
            other => Err(other),
        }
    }

    fn lose(&mut self, what: String) {
        if self.current.is_some_and(|p| self.tombstones.contains(&p)) {
            self.excused = true;
            return;
        }
        self.lost.insert(what);
        self.damaged_points.extend(self.current);
    }

    /// Whether a point is walked only because it is pinned.
    pub(crate) fn is_tombstoned(&self, p: &Point) -> bool {
        self.tombstones.contains(&p.id)
    }

    /// Whether anything in a pack is marked.
    pub(crate) fn marks(&self, pack: &PackId) -> bool {
        self.places.contains_key(pack)
    }

    /// Whether a place is marked.
    pub(crate) fn marks_place(&self, pack: &PackId, offset: u32) -> bool {
        self.places.get(pack).is_some_and(|p| p.contains(offset))
    }

    /// Relocation lists committed since are taken into account from now on.
    pub(crate) fn renew_moves(&mut self) {
        self.moves = self.store.relocations.known();
    }
}

pub(super) fn children(level: u8, plain: &[u8]) -> Result<Vec<Ref>> {
    if level == 0 {
        let runs = Region::decode(plain)?.0;
        return Ok(runs.into_iter().filter_map(|r| if let Run::Chunk(_, r) = r { Some(r) } else { None }).collect());
    }
    Ok(Branch::decode(plain)?.0.into_iter().flatten().collect())
}
