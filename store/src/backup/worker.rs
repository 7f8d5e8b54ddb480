//! A worker's part: read a region, cut, hash, look up, seal. And the consumer's: give the new frames their place.

use crate::{
    BlockSource, Result,
    chunk::{Cutter, Dirty, NewRun, RegionReader},
    crypto::{Keys, PackKey, SealedFrame, Sealer},
    index::IndexReader,
    pack::{META_ZSTD_LEVEL, PackStream},
    resolve::decompressor,
    session::Session,
    tree::TreeReader,
};
use cairn_store_format::{
    Id, Location,
    limits::{BLOCK_BYTES, REGION_BYTES},
    map::{Ref, Region, Run, region_canonical},
    pack::FrameKind,
};
use std::sync::{Arc, PoisonError, RwLock};
use zstd::bulk::Decompressor;

/// One region to look at.
pub(super) struct Job {
    pub(super) region: u64,
    pub(super) dirty: Dirty,
}

enum OutRun {
    Zero(u16),
    Known(u16, Ref),
    New(u16, SealedFrame),
}

/// A region's new runs, before its new chunks have a place.
pub(super) struct RegionOutcome {
    pub(super) region: u64,
    runs: Vec<OutRun>,
    /// The parent's node of this region, where it can be read.
    old: Option<Ref>,
    /// A chunk of the parent's was damaged or gone and has another place now.
    healed: bool,
    pub(super) read_bytes: u64,
    pub(super) changed_bytes: u64,
    pub(super) looked_at_bytes: u64,
}

pub(super) struct Worker<'a> {
    session: &'a Session,
    source: &'a dyn BlockSource,
    parent: Option<Arc<TreeReader>>,
    pending: &'a crate::pack::Pending,
    data_key: &'a RwLock<Option<Arc<PackKey>>>,
    reader: RegionReader,
    sealer: Sealer,
    index: IndexReader,
    zstd: Decompressor<'static>,
}

impl<'a> Worker<'a> {
    pub(super) fn new(
        session: &'a Session,
        source: &'a dyn BlockSource,
        parent: Option<Arc<TreeReader>>,
        pending: &'a crate::pack::Pending,
        data_key: &'a RwLock<Option<Arc<PackKey>>>,
    ) -> Result<Self> {
        let store = &session.store;
        let cutter = Cutter::new(store.keys.cut_key(), store.config.chunks);
        Ok(Self {
            session,
            source,
            parent,
            pending,
            data_key,
            reader: RegionReader::new(cutter),
            sealer: Sealer::new(store.keys.family(), store.config.zstd_level),
            index: store.index.reader()?,
            zstd: decompressor(),
        })
    }

    pub(super) fn run(&mut self, job: &Job) -> Result<RegionOutcome> {
        let old = match &self.parent {
            Some(p) => p.region_ref(&mut self.zstd, job.region)?,
            None => None,
        };
        let (old_runs, readable) = match (&self.parent, &old) {
            (Some(p), Some(r)) => match p.region(&mut self.zstd, r) {
                Ok(region) => (region.0, true),
                // The parent's node is damaged, but the source has it all: this region is read whole and its node written anew.
                Err(e) if e.is_damage() => (Vec::new(), false),
                Err(e) => return Err(e),
            },
            _ => (Vec::new(), true),
        };
        let start = job.region * REGION_BYTES;
        let dirty = if readable { &job.dirty } else { &Dirty::All };
        let (new, read_bytes) = self.reader.walk(self.source, start, &old_runs, dirty)?;
        let mut out = RegionOutcome {
            region: job.region,
            runs: Vec::with_capacity(new.len()),
            old: old.filter(|_| readable),
            healed: false,
            read_bytes,
            changed_bytes: 0,
            looked_at_bytes: looked_at(job, self.source.size_bytes()),
        };
        let old_places = OldPlaces::new(&old_runs);
        for run in new {
            let run = match run {
                NewRun::Zero(n) => OutRun::Zero(blocks(n)),
                NewRun::Kept(i) => match &old_runs[i] {
                    Run::Chunk(n, r) => OutRun::Known(*n, *r),
                    Run::Zero(n) => OutRun::Zero(*n),
                },
                NewRun::New(range) => self.chunk(range, &old_places, &mut out.changed_bytes, &mut out.healed)?,
            };
            out.runs.push(run);
        }
        Ok(out)
    }

    fn chunk(&mut self, range: std::ops::Range<usize>, old: &OldPlaces, changed_bytes: &mut u64, healed: &mut bool) -> Result<OutRun> {
        let content = self.reader.content(&range);
        let n = blocks(range.len());
        let id = self.session.store.keys.content_id(FrameKind::Chunk, 0, content);
        // Unchanged at its place: the parent's reference. The parent is committed and not forgotten, so no GC takes it; but it was read again
        // here, and what is known to be damaged or gone is stored anew while the content is at hand.
        if let Some(r) = old.at(range.start, n).filter(|r| r.id == id) {
            if self.session.store.locate_whole(&r.at.pack, &id) == Some(r.at) && !self.session.bad.contains(&r.at) {
                return Ok(OutRun::Known(n, r));
            }
            *healed = true;
        }
        *changed_bytes += content.len() as u64;
        if let Some(at) = self.pending.find(&id) {
            return Ok(OutRun::Known(n, Ref { id, at }));
        }
        if let Some(at) = self.find_stored(&id)? {
            return Ok(OutRun::Known(n, Ref { id, at }));
        }
        let key = self.data_key.read().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(OutRun::New(n, self.sealer.seal(id, FrameKind::Chunk, 0, self.reader.content(&range), key.as_ref())))
    }

    /// A place in a pack that is not condemned, whose footer says in this session that the id is there.
    fn find_stored(&self, id: &Id) -> Result<Option<Location>> {
        let Some(pack) = self.index.find(id)? else { return Ok(None) };
        if self.session.condemned.contains(&pack) {
            return Ok(None);
        }
        // A pack that cannot be read, or not whole, or in which something is known to be bad is a missed duplicate, no more.
        let Ok(info) = self.session.store.packs.info(&pack) else { return Ok(None) };
        if !info.own_footer || self.session.bad.doubts(&pack) {
            return Ok(None);
        }
        let Some(at) = info.place_of(&pack, id) else { return Ok(None) };
        // B4: a moved place is kept only by those who had it before; collections keep its new places instead, and may have condemned these.
        if self.session.bad.contains(&at) || self.session.moved.contains_key(&at) {
            return Ok(None);
        }
        if pack.session != self.session.id() {
            self.session.referenced.lock().unwrap_or_else(PoisonError::into_inner).insert(pack, info.size_bytes);
        }
        Ok(Some(at))
    }
}

/// Chunks of the old region by their first block.
struct OldPlaces(std::collections::HashMap<usize, (u16, Ref)>);

impl OldPlaces {
    fn new(runs: &[Run]) -> Self {
        let mut at = 0;
        let mut out = std::collections::HashMap::with_capacity(runs.len());
        for run in runs {
            if let Run::Chunk(n, r) = run {
                out.insert(at, (*n, *r));
            }
            at += run.blocks();
        }
        Self(out)
    }
    fn at(&self, block: usize, len: u16) -> Option<Ref> {
        self.0.get(&block).filter(|c| c.0 == len).map(|c| c.1)
    }
}

fn blocks(n: usize) -> u16 {
    u16::try_from(n).expect("a region has 1024 blocks")
}

fn looked_at(job: &Job, size_bytes: u64) -> u64 {
    match &job.dirty {
        Dirty::All => REGION_BYTES.min(size_bytes - job.region * REGION_BYTES),
        Dirty::Blocks(b) => b.iter().map(|r| (r.len() * BLOCK_BYTES) as u64).sum(),
    }
}

impl RegionOutcome {
    /// Puts new chunks into packs and the region's node behind them; returns the node, `None` where all is zero. A node that equals the
    /// parent's at this place is the parent's.
    pub(super) fn place(&self, keys: &Keys, stream: &mut PackStream) -> Result<Option<Ref>> {
        let mut region = Region::default();
        for run in &self.runs {
            region.0.push(match run {
                OutRun::Zero(n) => Run::Zero(*n),
                OutRun::Known(n, r) => Run::Chunk(*n, *r),
                OutRun::New(n, frame) => {
                    let (at, _new) = stream.put_chunk(frame)?;
                    Run::Chunk(*n, Ref { id: frame.id, at })
                }
            });
        }
        if region.0.is_empty() {
            return Ok(None);
        }
        let id = keys.content_id(FrameKind::Node, 0, &region_canonical(&region));
        // A healed chunk lies elsewhere now: the node is written anew, with its hint.
        if let Some(old) = self.old.filter(|o| o.id == id && !self.healed) {
            return Ok(Some(old));
        }
        let mut sealer = Sealer::new(keys.family(), META_ZSTD_LEVEL);
        let frame = sealer.seal(id, FrameKind::Node, 0, &region.encode(), stream.meta_key(false).as_ref());
        Ok(Some(Ref { id, at: stream.put_meta(&frame)? }))
    }
}
