//! Verifying points: all nodes and parts can be read and are what their ids say; with `data`, every chunk too.

use crate::{
    Damage, Progress, Result, StoreError,
    damage::{Bad, read_or_skip, whole_pack},
    parallel,
    point::Point,
    resolve::decompressor,
    store::Store,
    tree::{RegionAt, Step, TreeReader, bad_node},
};
use cairn_store_format::{
    Location, ObjectName, PackId, PackKind,
    limits::{BLOCK_BYTES, PACK_BYTES_MAX, REGION_BYTES},
    map::{Ref, Region, Run},
    pack::FrameKind,
    register::DiskTable,
};
use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError, atomic::Ordering},
};
use zstd::bulk::Decompressor;

const WORKERS_MAX: usize = 8;
/// Bytes are not lost, and soon might be.
const ASTRAY: &str = "it is damaged or gone where the map says, only another copy serves; the next 'cairn gc' mends it";
/// Damaged ranges kept a point; beyond, only the count goes on.
const DAMAGE_LISTED_MAX: usize = 1000;

/// What a verification saw.
#[derive(Clone, Debug, Default)]
pub struct VerifyReport {
    /// Chunks checked (with `data`) or looked up.
    pub chunks: u64,
    /// Plain bytes of chunks that were read and proven.
    pub bytes: u64,
    /// What is damaged, at most 1000 entries a run.
    pub damage: Vec<Damage>,
    /// All damaged ranges, listed or not.
    pub damage_count: u64,
}

/// Remembers across points what was checked, so that shared chunks are read once.
pub struct Verifier {
    /// One bit a frame: its slot in its pack's footer.
    checked: Mutex<HashMap<PackId, Vec<u64>>>,
    nodes: Mutex<HashSet<Location>>,
    packs: Mutex<HashMap<PackId, bool>>,
    bad: Bad,
    /// Metadata packs whose two copies were compared.
    twins: Mutex<HashSet<PackId>>,
}

impl Verifier {
    /// For points of a store; takes its reports into account.
    pub fn new(store: &Store) -> Result<Self> {
        let bad = Bad::load(&store.inner)?;
        Ok(Self { checked: Mutex::default(), nodes: Mutex::default(), packs: Mutex::default(), bad, twins: Mutex::default() })
    }

    fn is_checked(&self, pack: &PackId, slot: usize) -> bool {
        let map = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        map.get(pack).and_then(|bits| bits.get(slot / 64)).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }
    fn check(&self, pack: PackId, slot: usize) {
        let mut map = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        let bits = map.entry(pack).or_default();
        if bits.len() <= slot / 64 {
            bits.resize(slot / 64 + 1, 0);
        }
        bits[slot / 64] |= 1 << (slot % 64);
    }
}

impl Store {
    /// Verifies one point. Damage is in the report; an error means that it could not be done.
    pub fn verify_point(&self, point: &Point, data: bool, verifier: &Verifier, progress: &Progress) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        let mut meta_damage = |target: &str, e: StoreError| match e {
            e if e.is_damage() => {
                report.damage_count += 1;
                report.damage.push(Damage { target: target.into(), offset: 0, len: 0, why: e.to_string() });
                Ok(())
            }
            other => Err(other),
        };
        let mut frames = Vec::new();
        if let Some(r) = point.body.manifest {
            frames.push(("manifest", r, FrameKind::Manifest));
        }
        if let DiskTable::Frame(r) = point.body.disks {
            frames.push(("disk table", r, FrameKind::DiskTable));
        }
        let manifest = self.manifest(point).map(Some).or_else(|e| meta_damage("manifest", e).map(|()| None))?;
        let parts = manifest.iter().flat_map(|m| &m.parts);
        for (name, part) in parts {
            match part.to_ref() {
                Ok(r) => frames.push((name, r, FrameKind::Blob)),
                Err(e) => meta_damage(name, StoreError::damaged("manifest", e))?,
            }
        }
        let mut zstd = decompressor();
        for (what, r, kind) in frames {
            match self.inner.fetch_told(&mut zstd, &r, kind, 0) {
                Ok(f) if f.is_stray => meta_damage(what, StoreError::damaged(what, ASTRAY))?,
                Ok(_) => {}
                // These two are told where they are decoded.
                Err(e) if e.is_damage() && kind != FrameKind::Blob => {}
                Err(e) => meta_damage(what, e)?,
            }
            if let (true, Some(why)) = (data, self.compare_twins(verifier, &r.at)?) {
                meta_damage(what, StoreError::damaged(what, why))?;
            }
        }
        let disks = self.disks(point).or_else(|e| meta_damage("disk table", e).map(|()| Vec::new()))?;
        for disk in &disks {
            let tree = TreeReader::new(self.inner.clone(), disk.root, disk.size_bytes)?;
            progress.total_bytes.fetch_add(disk.size_bytes, Ordering::Relaxed);
            let done_before = progress.done_bytes.load(Ordering::Relaxed);
            let check = DiskCheck { store: self, verifier, data, target: &disk.target, size_bytes: disk.size_bytes, progress };
            let workers = parallel::workers(&*self.inner.platform, 2, WORKERS_MAX);
            parallel::ordered(
                tree.regions(),
                workers,
                workers * 2,
                decompressor,
                |zstd, step| check.step(zstd, step),
                |r: RegionReport| {
                    progress.check()?;
                    progress.done_bytes.store(done_before + r.end.min(disk.size_bytes), Ordering::Relaxed);
                    report.chunks += r.chunks;
                    report.bytes += r.bytes;
                    report.damage_count += r.damage.len() as u64;
                    let room = DAMAGE_LISTED_MAX.saturating_sub(report.damage.len());
                    report.damage.extend(r.damage.into_iter().take(room));
                    Ok(())
                },
            )?;
            progress.done_bytes.store(done_before + disk.size_bytes, Ordering::Relaxed);
        }
        Ok(report)
    }

    /// A metadata pack lies there twice; that the other copy would do is no reason to leave a bad one unmentioned.
    fn compare_twins(&self, verifier: &Verifier, at: &Location) -> Result<Option<String>> {
        let (inner, pack) = (&self.inner, &at.pack);
        if pack.kind != PackKind::Meta || !verifier.twins.lock().unwrap_or_else(PoisonError::into_inner).insert(*pack) {
            return Ok(None);
        }
        let read = |name: &ObjectName| read_or_skip(&*inner.platform, name, PACK_BYTES_MAX);
        let names = ObjectName::pack(pack);
        let (a, b) = (read(&names[0])?, read(&names[1])?);
        if a.is_some() && a == b {
            return Ok(None);
        }
        // What was moved is somewhere else by now, and a collection may be taking the two copies away one after the other at this very moment.
        inner.refresh_relocations()?;
        if let Some(targets) = inner.relocations.known().get(at) {
            return targets.iter().find_map(|to| self.compare_twins(verifier, to).transpose()).transpose();
        }
        if a.is_none() && b.is_none() {
            // Whether the node can be had elsewhere shows when it is read.
            return Ok(None);
        }
        let why = format!("the copies {} and {} are not the same; one of them still serves", names[0], names[1]);
        // The next collection makes two new ones out of what is whole.
        inner.report(&whole_pack(*pack), &StoreError::damaged(pack, &why));
        Ok(Some(why))
    }
}

#[derive(Default)]
struct RegionReport {
    end: u64,
    chunks: u64,
    bytes: u64,
    damage: Vec<Damage>,
}

struct DiskCheck<'a> {
    store: &'a Store,
    verifier: &'a Verifier,
    data: bool,
    target: &'a str,
    size_bytes: u64,
    progress: &'a Progress,
}

impl DiskCheck<'_> {
    fn step(&self, zstd: &mut Decompressor<'static>, step: Step) -> Result<RegionReport> {
        self.progress.check()?;
        match step {
            Step::Region(r) => self.region(zstd, r),
            Step::Broken(regions, e) => {
                let (offset, end) = (regions.start * REGION_BYTES, regions.end.saturating_mul(REGION_BYTES).min(self.size_bytes));
                let damage = Damage { target: self.target.into(), offset, len: end.saturating_sub(offset), why: e.to_string() };
                Ok(RegionReport { end, damage: vec![damage], ..RegionReport::default() })
            }
        }
    }

    fn region(&self, zstd: &mut Decompressor<'static>, region: RegionAt) -> Result<RegionReport> {
        let start = region.index * REGION_BYTES;
        let mut out = RegionReport { end: start + REGION_BYTES, ..RegionReport::default() };
        if self.verifier.nodes.lock().unwrap_or_else(PoisonError::into_inner).contains(&region.node.at) {
            return Ok(out);
        }
        if self.data
            && let Some(why) = self.store.compare_twins(self.verifier, &region.node.at)?
        {
            out.damage.push(Damage { target: self.target.into(), offset: start, len: 0, why });
        }
        let node = self.store.inner.fetch_told(zstd, &region.node, FrameKind::Node, 0).and_then(|f| {
            if f.is_stray {
                out.damage.push(Damage { target: self.target.into(), offset: start, len: REGION_BYTES, why: ASTRAY.into() });
            }
            Region::decode(&f.plain).map_err(|e| bad_node(&region.node, &e))
        });
        let node = match node {
            Ok(n) => n,
            Err(e) if e.is_damage() => {
                out.damage.push(Damage { target: self.target.into(), offset: start, len: REGION_BYTES, why: e.to_string() });
                return Ok(out);
            }
            Err(e) => return Err(e),
        };
        let mut block = 0u64;
        let mut todo = Vec::new();
        let mut places = Vec::new();
        for run in &node.0 {
            if let Run::Chunk(n, r) = run {
                out.chunks += 1;
                places.push((start + block * BLOCK_BYTES as u64, usize::from(*n) * BLOCK_BYTES));
                if !self.slot(r).is_some_and(|slot| self.verifier.is_checked(&r.at.pack, slot)) {
                    todo.push((places.len() - 1, *r));
                }
            }
            block += run.blocks() as u64;
        }
        if self.data {
            self.read_chunks(zstd, &todo, &places, &mut out)?;
        } else {
            self.look_up_chunks(&todo, &places, &mut out)?;
        }
        if out.damage.is_empty() {
            for (_, r) in &todo {
                if let Some(slot) = self.slot(r) {
                    self.verifier.check(r.at.pack, slot);
                }
            }
            self.verifier.nodes.lock().unwrap_or_else(PoisonError::into_inner).insert(region.node.at);
        }
        Ok(out)
    }

    /// Where a chunk stands in its pack's footer, if it stands there.
    fn slot(&self, r: &Ref) -> Option<usize> {
        let info = self.store.inner.packs.info(&r.at.pack).ok()?;
        info.footer.slots.binary_search_by(|s| s.id.cmp(&r.id)).ok().filter(|i| info.footer.slots[*i].offset == r.at.offset)
    }

    fn read_chunks(&self, zstd: &mut Decompressor<'static>, todo: &[(usize, Ref)], places: &[(u64, usize)], out: &mut RegionReport) -> Result<()> {
        self.store.inner.fetch_chunks_told(zstd, todo, |i, fetched| {
            let (offset, len) = places[i];
            let why = match fetched {
                Ok(f) if f.plain.len() == len => {
                    out.bytes += len as u64;
                    if !f.is_stray {
                        return Ok(());
                    }
                    ASTRAY.to_owned()
                }
                Ok(_) => "a chunk is not as long as the map says".to_owned(),
                Err(e) if e.is_damage() => e.to_string(),
                Err(e) => return Err(e),
            };
            out.damage.push(Damage { target: self.target.into(), offset, len: len as u64, why });
            Ok(())
        })
    }

    /// Without `data`: the pack is there, its footer names the chunk, and no report that holds says otherwise.
    fn look_up_chunks(&self, todo: &[(usize, Ref)], places: &[(u64, usize)], out: &mut RegionReport) -> Result<()> {
        for (i, r) in todo {
            let why = if self.verifier.bad.contains(&r.at) {
                format!("chunk {} in pack {} is damaged: that was reported, and is so", r.id, r.at.pack)
            } else if self.store.inner.locate_in(&r.at.pack, &r.id).is_none() {
                format!("chunk {} is not in pack {}", r.id, r.at.pack)
            } else if !self.pack_is_whole(&r.at.pack)? {
                format!("chunk {} cannot be had from pack {}, which is not whole", r.id, r.at.pack)
            } else {
                continue;
            };
            if !self.store.inner.fetch_works(r)? {
                let (offset, len) = places[*i];
                out.damage.push(Damage { target: self.target.into(), offset, len: len as u64, why });
            }
        }
        Ok(())
    }

    fn pack_is_whole(&self, pack: &PackId) -> Result<bool> {
        if let Some(known) = self.verifier.packs.lock().unwrap_or_else(PoisonError::into_inner).get(pack) {
            return Ok(*known);
        }
        let size = match self.store.inner.platform.size(&ObjectName::pack(pack)[0]) {
            Err(e) if e.is_bad_media() => None,
            other => other?,
        };
        let whole = self.store.inner.packs.info(pack).is_ok_and(|i| i.own_footer && Some(i.size_bytes) == size);
        self.verifier.packs.lock().unwrap_or_else(PoisonError::into_inner).insert(*pack, whole);
        Ok(whole)
    }
}
