//! From a reference to plain content, by the resolution rule: hint, relocations, local index, newer index files, trash, then a report.
//!
//! A frame that the storage cannot read is looked for elsewhere like one whose bytes are wrong. Before either counts as damage, the store's
//! configuration is read past this host's caches: where that fails too, the storage is gone as a whole (unmounted, unplugged, its server down), and
//! nothing is damaged for all anybody knows.

use crate::{
    Result, StoreError,
    damage::{read_or_skip, whole_pack},
    platform::Platform,
    store::Inner,
};
use cairn_store_format::{
    Id, Location, ObjectName, PackId, StoreId,
    config::Config,
    limits::{LIST_BYTES_MAX, SMALL_BYTES_MAX},
    map::Ref,
    pack::{FRAME_HEADER_BYTES, FrameKind},
};
use std::{collections::HashSet, sync::PoisonError};
use zstd::bulk::Decompressor;

/// Frames read in one request begin within so many bytes; a region of incompressible chunks is 4 MiB.
const GROUP_BYTES_MAX: u32 = 5 << 20;

/// A decompressor of one thread.
pub(crate) fn decompressor() -> Decompressor<'static> {
    Decompressor::new().expect("zstd needs only memory")
}

/// Whether the storage still has this store: one copy of its configuration can be read.
pub(crate) fn check_there(platform: &dyn Platform, store: &StoreId) -> Result<()> {
    let mut why = "there is no config/ in it any more".to_owned();
    match platform.list("config") {
        Ok(names) => {
            for name in names {
                platform.drop_cached(&name);
                match platform.read(&name, SMALL_BYTES_MAX) {
                    Ok(Some(bytes)) if Config::decode(&bytes).is_ok_and(|(config, ..)| config.store == *store) => return Ok(()),
                    Ok(_) => {}
                    Err(e) if e.is_own_limit() => return Err(e),
                    Err(e) => why = e.to_string(),
                }
            }
        }
        Err(e) if e.is_own_limit() => return Err(e),
        Err(e) => why = e.to_string(),
    }
    Err(StoreError::NoStore { at: platform.location(), why: format!("it does not answer any more ({why}); is its file system still mounted?") })
}

/// A frame's plain content.
pub(crate) struct Fetched {
    pub(crate) plain: Vec<u8>,
    /// It is not where its reference and the lists of moves say: a copy served that nothing keeps for this reference's sake.
    pub(crate) is_stray: bool,
}

impl Inner {
    /// Plain content of a frame.
    pub(crate) fn fetch(&self, zstd: &mut Decompressor<'static>, r: &Ref, kind: FrameKind, level: u8) -> Result<Vec<u8>> {
        self.fetch_told(zstd, r, kind, level).map(|f| f.plain)
    }

    /// The same, with where it came from.
    pub(crate) fn fetch_told(&self, zstd: &mut Decompressor<'static>, r: &Ref, kind: FrameKind, level: u8) -> Result<Fetched> {
        match self.fetch_at(zstd, &r.at, &r.id, kind, level) {
            Err(first) if first.is_damage() || first.is_bad_media() => self.fetch_elsewhere(zstd, r, kind, level, first),
            other => other.map(|plain| Fetched { plain, is_stray: false }),
        }
    }

    /// Whether the storage still has this store: one copy of its configuration can be read.
    pub(crate) fn check_there(&self) -> Result<()> {
        check_there(&*self.platform, &self.config.store)
    }

    pub(crate) fn fetch_at(&self, zstd: &mut Decompressor<'static>, at: &Location, id: &Id, kind: FrameKind, level: u8) -> Result<Vec<u8>> {
        self.packs.frame_from(&ObjectName::pack(&at.pack), &self.keys, zstd, at, (*id, kind, level))
    }

    /// The frame at one of the places that it was moved to, or moved on to from there.
    fn fetch_moved(&self, zstd: &mut Decompressor<'static>, r: &Ref, kind: FrameKind, level: u8) -> Result<Option<Vec<u8>>> {
        let mut places = self.moved_to(&r.at)?;
        let mut seen: HashSet<Location> = HashSet::from([r.at]);
        while let Some(at) = places.pop() {
            if !seen.insert(at) {
                continue;
            }
            match self.fetch_at(zstd, &at, &r.id, kind, level) {
                Ok(plain) => return Ok(Some(plain)),
                Err(e) if e.is_damage() || e.is_bad_media() => places.extend(self.moved_to(&at)?),
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }

    /// The same for those who only ask what is there: `None` where it cannot be had, and no report.
    pub(crate) fn fetch_if_there(&self, zstd: &mut Decompressor<'static>, r: &Ref, kind: FrameKind, level: u8) -> Result<Option<Vec<u8>>> {
        match self.fetch_at(zstd, &r.at, &r.id, kind, level) {
            Err(first) if first.is_damage() || first.is_bad_media() => match self.find_elsewhere(zstd, r, kind, level, &mut None)? {
                None => self.check_there().map(|()| None),
                found => Ok(found.map(|f| f.plain)),
            },
            other => other.map(Some),
        }
    }

    fn fetch_elsewhere(&self, zstd: &mut Decompressor<'static>, r: &Ref, kind: FrameKind, level: u8, first: StoreError) -> Result<Fetched> {
        let mut hindrance = None;
        if let Some(mut found) = self.find_elsewhere(zstd, r, kind, level, &mut hindrance)? {
            found.is_stray = found.is_stray && self.is_astray(zstd, r, kind, level);
            if found.is_stray {
                self.report_astray(r, &first);
            }
            return Ok(found);
        }
        self.check_there()?;
        // Where a look for another copy failed, nobody knows that there is none: a collection must not take that for a loss.
        let first = hindrance.unwrap_or(first).unreadable();
        // A pack that is lost as a whole is one finding, however many chunks lie in it.
        let place = if self.packs.info(&r.at.pack).is_err() { whole_pack(r.at.pack) } else { r.at };
        self.report(&place, &first);
        self.report_astray(r, &first);
        Err(first)
    }

    /// Whether a frame that a copy served is really not where it should be: it may have been moved a moment ago, by a list that this process has not seen.
    fn is_astray(&self, zstd: &mut Decompressor<'static>, r: &Ref, kind: FrameKind, level: u8) -> bool {
        let now_ms = self.platform.monotonic_ms();
        let asked = self.asked_for_moves.lock().unwrap_or_else(PoisonError::into_inner).contains(&r.at.pack, now_ms);
        if !asked {
            if let Err(e) = self.refresh_relocations() {
                tracing::debug!("{e}");
            }
            self.asked_for_moves.lock().unwrap_or_else(PoisonError::into_inner).insert(r.at.pack, now_ms);
        }
        !matches!(self.fetch_moved(zstd, r, kind, level), Ok(Some(_)))
    }

    /// Reports the places where a frame should be and is not, so that the next collection puts the copy there before it may go itself. Of a pack that is
    /// gone collections know without a report.
    fn report_astray(&self, r: &Ref, why: &StoreError) {
        for at in self.relocations.ends(&r.at) {
            if self.pack_exists(&at.pack).unwrap_or(false) {
                let place = if self.packs.info(&at.pack).is_err() { whole_pack(at.pack) } else { at };
                self.report(&place, why);
            }
        }
    }

    /// Another copy. A look that the storage fails is no reason to give up the others; the first one is left in `hindrance`.
    fn find_elsewhere(
        &self,
        zstd: &mut Decompressor<'static>,
        r: &Ref,
        kind: FrameKind,
        level: u8,
        hindrance: &mut Option<StoreError>,
    ) -> Result<Option<Fetched>> {
        let found = |plain, is_stray| Ok(Some(Fetched { plain, is_stray }));
        let mut hindered = |e: StoreError| match e {
            StoreError::Storage { .. } => drop(hindrance.get_or_insert(e)),
            other => tracing::debug!("{other}"),
        };
        match self.fetch_moved(zstd, r, kind, level) {
            Ok(Some(plain)) => return found(plain, false),
            Ok(None) => {}
            Err(e @ StoreError::Storage { .. }) => hindered(e),
            Err(e) => return Err(e),
        }
        // A frame that was moved is where it should be; from here on something is missing.
        tracing::info!("{} at {} of pack {} is not to be had there; looking for another copy", r.id, r.at.offset, r.at.pack);
        // Newer index files and the trash were looked through for this pack a moment ago.
        let now_ms = self.platform.monotonic_ms();
        let looked = self.searched.lock().unwrap_or_else(PoisonError::into_inner).contains(&r.at.pack, now_ms);
        for refresh in if looked { &[false][..] } else { &[false, true] } {
            let located = match if *refresh { self.refresh_index().and_then(|()| self.locate(&r.id)) } else { self.locate(&r.id) } {
                Ok(located) => located,
                // A cache that fails knows of no other copy.
                Err(StoreError::Index { .. }) => None,
                Err(e @ StoreError::Storage { .. }) => {
                    hindered(e);
                    None
                }
                Err(e) => return Err(e),
            };
            if let Some(at) = located.filter(|at| *at != r.at) {
                match self.fetch_at(zstd, &at, &r.id, kind, level) {
                    Ok(plain) => return found(plain, true),
                    Err(e) => hindered(e),
                }
            }
        }
        let rounds = if looked { Ok(Vec::new()) } else { self.platform.list_dirs("trash") };
        let rounds = rounds.unwrap_or_else(|e| {
            hindered(e);
            Vec::new()
        });
        let mut in_trash = false;
        for round in rounds {
            let names: Vec<_> = ObjectName::pack(&r.at.pack).iter().filter_map(|n| ObjectName::trashed(&round, n)).collect();
            for name in &names {
                in_trash |= self.platform.size(name).is_ok_and(|size| size.is_some());
            }
            match self.packs.frame_from(&names, &self.keys, zstd, &r.at, (r.id, kind, level)) {
                Ok(plain) => return found(plain, true),
                Err(e) => hindered(e),
            }
        }
        // Of a pack that is there or in the trash each frame is looked for: it may be that one of them alone is bad. And a look that failed is none.
        if !looked && !in_trash && hindrance.is_none() && self.packs.info(&r.at.pack).is_err() {
            self.searched.lock().unwrap_or_else(PoisonError::into_inner).insert(r.at.pack, now_ms);
        }
        Ok(None)
    }

    /// Whether a chunk can be had anywhere.
    pub(crate) fn fetch_works(&self, r: &Ref) -> Result<bool> {
        match self.fetch(&mut decompressor(), r, FrameKind::Chunk, 0) {
            Ok(_) => Ok(true),
            Err(e) if e.is_damage() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Where the local index and the pack's own footer say an id is.
    pub(crate) fn locate(&self, id: &Id) -> Result<Option<Location>> {
        let Some(pack) = self.index.reader()?.find(id)? else { return Ok(None) };
        Ok(self.locate_in(&pack, id))
    }

    /// Where the footer says that an id is, whoever has kept it: for readers, who check what they find there.
    pub(crate) fn locate_in(&self, pack: &PackId, id: &Id) -> Option<Location> {
        let info = self.packs.info(pack).ok()?;
        info.place_of(pack, id)
    }

    /// The same for those who are about to refer to it: only in a pack that is whole as far as its own footer tells. Of one that is cut or half lost an
    /// index file still has the footer, which says nothing of what is left.
    pub(crate) fn locate_whole(&self, pack: &PackId, id: &Id) -> Option<Location> {
        let info = self.packs.info(pack).ok().filter(|info| info.own_footer)?;
        info.place_of(pack, id)
    }

    /// Whether any copy of a pack lies under its own name.
    pub(crate) fn pack_exists(&self, pack: &PackId) -> Result<bool> {
        for name in ObjectName::pack(pack) {
            if self.platform.size(&name)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// B4: takes in index files that this host has not seen. A cache that is full or broken costs missed duplicates.
    pub(crate) fn refresh_index(&self) -> Result<()> {
        match self.take_in_index_files() {
            Err(e @ StoreError::Index { .. }) => {
                tracing::warn!("{e}; this command goes on with what the index knows");
                Ok(())
            }
            other => other,
        }
    }

    fn take_in_index_files(&self) -> Result<()> {
        let known = self.index.files()?;
        for month in self.platform.list_dirs("x")? {
            for name in self.platform.list(&format!("x/{month}"))? {
                if known.contains(name.as_str()) {
                    continue;
                }
                let Some(bytes) = read_or_skip(&*self.platform, &name, LIST_BYTES_MAX)? else { continue };
                match cairn_store_format::index::decode(&bytes) {
                    Ok((_, packs)) => self.index.add(&packs, Some(name.as_str()))?,
                    // A damaged index file costs missed duplicates, nothing else; scrub reports it.
                    Err(e) => tracing::warn!("index file {name}: {e}; skipped"),
                }
            }
        }
        Ok(())
    }

    /// Chunks of one region, in order, handed to `use_chunk` one by one. Frames that lie side by side are read in one request.
    pub(crate) fn fetch_chunks(
        &self,
        zstd: &mut Decompressor<'static>,
        refs: &[(usize, Ref)],
        mut use_chunk: impl FnMut(usize, Result<Vec<u8>>) -> Result<()>,
    ) -> Result<()> {
        self.fetch_chunks_told(zstd, refs, |tag, fetched| use_chunk(tag, fetched.map(|f| f.plain)))
    }

    /// The same, with where each came from.
    pub(crate) fn fetch_chunks_told(
        &self,
        zstd: &mut Decompressor<'static>,
        refs: &[(usize, Ref)],
        mut use_chunk: impl FnMut(usize, Result<Fetched>) -> Result<()>,
    ) -> Result<()> {
        let moves = self.relocations.known();
        // What is known to have been moved is looked for at its last place at once.
        let places: Vec<Location> = refs.iter().map(|(_, r)| moves.get(&r.at).and_then(|to| to.last()).copied().unwrap_or(r.at)).collect();
        let mut done = 0;
        while done < refs.len() {
            let len = adjacent(&places[done..]);
            let (group, at) = (&refs[done..done + len], &places[done..done + len]);
            done += len;
            let (first, last) = (&at[0], &at[len - 1]);
            let bytes = (last.offset - first.offset) as usize + FRAME_HEADER_BYTES + last.stored_len as usize;
            let name = &ObjectName::pack(&first.pack)[0];
            let mut bytes = match self.platform.read_at(name, first.offset.into(), bytes) {
                // One bad sector costs the frames that lie on it: each is tried alone.
                Err(e) if e.is_bad_media() => Vec::new(),
                other => other?.unwrap_or_default(),
            };
            for ((tag, r), at) in group.iter().zip(at) {
                let start = (at.offset - first.offset) as usize;
                let frame = bytes.get_mut(start..start + FRAME_HEADER_BYTES + at.stored_len as usize);
                let fetched = match frame.map(|f| self.packs.open(name, &self.keys, zstd, at, (r.id, FrameKind::Chunk, 0), f)) {
                    Some(Ok(plain)) => Ok(Fetched { plain, is_stray: false }),
                    None => self.fetch_told(zstd, r, FrameKind::Chunk, 0),
                    // The pack's keys lie in its footer, which may be what cannot be read.
                    Some(Err(e)) if e.is_damage() || e.is_bad_media() => self.fetch_told(zstd, r, FrameKind::Chunk, 0),
                    Some(Err(other)) => Err(other),
                };
                use_chunk(*tag, fetched)?;
            }
        }
        Ok(())
    }
}

/// How many of the first places lie one behind the other in one pack.
fn adjacent(places: &[Location]) -> usize {
    let start = places[0].offset;
    1 + places
        .windows(2)
        .take_while(|w| {
            let (a, b) = (&w[0], &w[1]);
            let fits = b.offset.saturating_sub(start) < GROUP_BYTES_MAX;
            fits && a.pack == b.pack && u64::from(a.offset) + FRAME_HEADER_BYTES as u64 + u64::from(a.stored_len) == u64::from(b.offset)
        })
        .count()
}
