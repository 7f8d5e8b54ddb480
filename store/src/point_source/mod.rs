//! A point's disk as a source: any range from many threads, as quick as the store allows.
//!
//! How a read goes: the map of each region it touches (a node, then kept) names its chunks; those that are not in memory are loaded, neighbours in
//! a pack with one request, each proven by its id. A read of many pieces, and what lies ahead of a sequential reader, is loaded by threads of the
//! source at the same time.
//!
//! Invariants
//! - No byte is handed on that was not proven by the id its map names.
//! - Chunks in memory are at most [`ReadOptions::cache_bytes`], maps an eighth of that besides. In flight: one piece a thread.
//! - Nobody loads a chunk that another thread is loading. Who waits holds no claim, so no two wait for each other.
//! - On a platform that wants all on one thread there are no others.

mod ahead;
mod cache;
#[cfg(test)]
mod tests;
mod touches;

use crate::{BlockSource, Extent, Result, StoreError, parallel, resolve::decompressor, store::Store, tree::TreeReader};
use ahead::{Queue, Streams};
use cache::{Cache, Claim, Look};
use cairn_store_format::{
    Id,
    limits::{BLOCK_BYTES, REGION_BYTES},
    map::{Ref, Run},
    register::DiskEntry,
};
use std::{
    io,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};
use touches::Touches;
use zstd::bulk::Decompressor;

/// What one thread loads at a time, bytes of plain content. Regions are a whole number of pieces.
const PIECE_BYTES: u64 = 512 << 10;
/// Threads that load ahead.
const LOADERS_MIN: usize = 2;
/// More only compete for the cores with those who read.
const LOADERS_MAX: usize = 8;
/// Decompressors that wait for their next use: 160 KiB each.
const DECOMPRESSORS_MAX: usize = 16;
/// A smaller cache would drop what it has just loaded for the same read.
const CACHE_BYTES_MIN: usize = 4 << 20;

/// How a point's disk is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadOptions {
    /// Chunks kept in memory, bytes; at least 4 MiB are used.
    pub cache_bytes: usize,
    /// How far ahead of a sequential reader is loaded, bytes; 0: not at all. At most a quarter of the cache is used.
    pub read_ahead_bytes: u64,
    /// Keep a list of what is read first ([`PointSource::touched`]).
    pub record_touches: bool,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, read_ahead_bytes: 8 << 20, record_touches: false }
    }
}

/// What reading took so far.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct ReadStatistics {
    /// Chunks that were fetched, decoded and proven.
    pub chunks_loaded: u64,
    /// Of these, before anybody asked for them.
    pub chunks_ahead: u64,
    /// Times that a reader waited for another thread's load.
    pub waits: u64,
    /// Bytes of chunks in memory now.
    pub cached_bytes: u64,
}

/// A region's chunks in order; what lies between is zero.
struct RegionMap {
    chunks: Vec<Placed>,
}

/// A chunk and where it lies in its region, blocks.
struct Placed {
    block: u32,
    blocks: u32,
    chunk: Ref,
}

impl Placed {
    /// In bytes of the region.
    fn range(&self) -> Range<u64> {
        let start = u64::from(self.block) * BLOCK_BYTES as u64;
        start..start + u64::from(self.blocks) * BLOCK_BYTES as u64
    }

    /// Whether a chunk is as long as its place.
    fn fits(&self, chunk: &[u8]) -> bool {
        chunk.len() as u64 == u64::from(self.blocks) * BLOCK_BYTES as u64
    }
}

type Chunk = Arc<Vec<u8>>;

/// What all threads of a source share.
struct Reading {
    store: Store,
    tree: TreeReader,
    size_bytes: u64,
    chunks: Cache<Id, Chunk>,
    maps: Cache<u64, Arc<RegionMap>>,
    decompressors: Mutex<Vec<Decompressor<'static>>>,
    queue: Queue,
    chunks_loaded: AtomicU64,
    chunks_ahead: AtomicU64,
    waits: AtomicU64,
}

/// See the module.
pub struct PointSource {
    reading: Arc<Reading>,
    streams: Mutex<Streams>,
    window: u64,
    loaders: usize,
    /// Most that is loaded of a list that is given beforehand.
    prefetch_bytes: u64,
    touches: Option<Touches>,
}

impl PointSource {
    /// A disk of a point of this store, read with the default options.
    pub fn new(store: &Store, disk: &DiskEntry) -> Result<Self> {
        Self::with_options(store, disk, ReadOptions::default())
    }

    /// A disk of a point of this store.
    pub fn with_options(store: &Store, disk: &DiskEntry, options: ReadOptions) -> Result<Self> {
        let tree = TreeReader::new(store.inner.clone(), disk.root, disk.size_bytes)?;
        let cache_bytes = options.cache_bytes.max(CACHE_BYTES_MIN);
        let reading = Reading {
            store: store.clone(),
            tree,
            size_bytes: disk.size_bytes,
            chunks: Cache::new(cache_bytes),
            maps: Cache::new(cache_bytes / 8),
            decompressors: Mutex::default(),
            queue: Queue::default(),
            chunks_loaded: AtomicU64::new(0),
            chunks_ahead: AtomicU64::new(0),
            waits: AtomicU64::new(0),
        };
        Ok(Self {
            loaders: parallel::workers(&*store.inner.platform, LOADERS_MIN, LOADERS_MAX),
            reading: Arc::new(reading),
            streams: Mutex::default(),
            window: options.read_ahead_bytes.min(cache_bytes as u64 / 4),
            prefetch_bytes: cache_bytes as u64 / 2,
            touches: options.record_touches.then(Touches::default),
        })
    }

    /// What reading took so far.
    pub fn statistics(&self) -> ReadStatistics {
        let reading = &self.reading;
        ReadStatistics {
            chunks_loaded: reading.chunks_loaded.load(Ordering::Relaxed),
            chunks_ahead: reading.chunks_ahead.load(Ordering::Relaxed),
            waits: reading.waits.load(Ordering::Relaxed),
            cached_bytes: reading.chunks.bytes() as u64,
        }
    }

    /// Fills `buf` if all of it is in memory; without any request to the store, quick enough for a thread that must not block.
    pub fn read_cached(&self, offset: u64, buf: &mut [u8]) -> bool {
        // The tree's branches and the recorder are behind locks that are held for loads or short: only what is surely in memory is looked at.
        let range = offset..offset + buf.len() as u64;
        if self.touches.is_some() || range.end > self.size_bytes() {
            return false;
        }
        let done = pieces(range.clone()).all(|piece| {
            let region = piece.start / REGION_BYTES;
            let Some(map) = self.reading.maps.ready(&region) else { return false };
            let out = part(buf, offset, &piece);
            out.fill(0);
            let inside = piece.start - region * REGION_BYTES..piece.end - region * REGION_BYTES;
            map.within(&inside).iter().all(|placed| match self.reading.chunks.ready(&placed.chunk.id) {
                Some(chunk) if placed.fits(&chunk) => {
                    copy(&chunk, &placed.range(), out, &inside);
                    true
                }
                _ => false,
            })
        });
        if done {
            self.run_ahead(range);
        }
        done
    }

    /// Loads ranges in the background, in this order, while no reader wants anything; as much of them as half of the cache holds, since what is loaded
    /// beyond that would push out what was loaded before it is read.
    pub fn prefetch(&self, ranges: impl IntoIterator<Item = Range<u64>>) {
        if self.loaders == 0 {
            return;
        }
        let (size, mut room) = (self.size_bytes(), self.prefetch_bytes);
        let bounded = ranges.into_iter().map(|range| range.start.min(size)..range.end.min(size)).take_while(|range| {
            let fits = range.end.saturating_sub(range.start) <= room;
            room = room.saturating_sub(range.end.saturating_sub(range.start));
            fits
        });
        let list: Vec<Range<u64>> = bounded.flat_map(pieces).collect();
        self.reading.queue.later(list, || self.start_loaders());
    }

    /// What was read first, in that order: chunks as ranges of the disk. Empty unless recording was asked for.
    pub fn touched(&self) -> Vec<Range<u64>> {
        self.touches.as_ref().map(Touches::list).unwrap_or_default()
    }

    fn start_loaders(&self) -> Vec<thread::JoinHandle<()>> {
        let start = |number| {
            let reading = self.reading.clone();
            let run = move || {
                while let Some(piece) = reading.queue.next() {
                    // Whoever needs this meets the same failure and tells it.
                    if let Err(error) = reading.load_ahead(&piece) {
                        tracing::debug!("reading ahead: {error}");
                    }
                }
            };
            thread::Builder::new().name(format!("read-ahead-{number}")).spawn(run)
        };
        // Without threads, which a host may refuse, everything is read when it is asked for.
        (0..self.loaders).map_while(|number| start(number).ok()).collect()
    }

    fn run_ahead(&self, read: Range<u64>) {
        if self.loaders == 0 || self.window == 0 {
            return;
        }
        let wishes = self.streams.lock().unwrap_or_else(PoisonError::into_inner).note(read, self.size_bytes(), self.window, PIECE_BYTES);
        if !wishes.is_empty() {
            self.reading.queue.wish(wishes, || self.start_loaders());
        }
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let range = offset..offset + buf.len() as u64;
        let mut own = pieces(range.clone());
        let Some(first) = own.next() else { return Ok(()) };
        let rest = first.end..range.end;
        // The others begin on the rest of this read, then on what lies behind it, while this thread takes it from the front.
        if !rest.is_empty() {
            self.prefetch([rest]);
        }
        self.run_ahead(range.clone());
        let mut zstd = self.reading.decompressor();
        let result = pieces(range).try_for_each(|piece| {
            let out = part(buf, offset, &piece);
            self.reading.read_piece(&mut zstd, &piece, out, self.touches.as_ref())
        });
        self.reading.give_back(zstd);
        result
    }
}

impl Drop for PointSource {
    fn drop(&mut self) {
        self.reading.queue.close();
    }
}

/// A range cut at the edges of pieces.
fn pieces(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let end = ((at / PIECE_BYTES + 1) * PIECE_BYTES).min(range.end);
        let piece = at..end;
        at = end;
        (piece.start < piece.end).then_some(piece)
    })
}

/// The part of a read's buffer that belongs to a piece.
fn part<'a>(buf: &'a mut [u8], offset: u64, piece: &Range<u64>) -> &'a mut [u8] {
    let at = |place: u64| usize::try_from(place - offset).expect("inside the buffer");
    &mut buf[at(piece.start)..at(piece.end)]
}

/// Copies what a chunk at `at` has of `inside` (both in bytes of the region); `out` is all of `inside`.
fn copy(chunk: &[u8], at: &Range<u64>, out: &mut [u8], inside: &Range<u64>) {
    let (start, end) = (at.start.max(inside.start), at.end.min(inside.end));
    let index = |place: u64, base: u64| usize::try_from(place - base).expect("inside a region of 4 MiB");
    out[index(start, inside.start)..index(end, inside.start)].copy_from_slice(&chunk[index(start, at.start)..index(end, at.start)]);
}

impl RegionMap {
    /// The chunks that have something of a range, in bytes of the region.
    fn within(&self, range: &Range<u64>) -> &[Placed] {
        let first = self.chunks.partition_point(|placed| placed.range().end <= range.start);
        let last = self.chunks.partition_point(|placed| placed.range().start < range.end);
        &self.chunks[first..last.max(first)]
    }
}

impl Reading {
    fn decompressor(&self) -> Decompressor<'static> {
        self.decompressors.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_else(decompressor)
    }

    fn give_back(&self, zstd: Decompressor<'static>) {
        let mut kept = self.decompressors.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < DECOMPRESSORS_MAX {
            kept.push(zstd);
        }
    }

    /// A region's map; `None` where all is zero.
    fn map(&self, zstd: &mut Decompressor<'static>, region: u64) -> Result<Option<Arc<RegionMap>>> {
        let mut look = self.maps.look(region);
        if matches!(look, Look::Loading) {
            // The other may have failed, or found it all zero; then it is this thread's turn.
            look = self.maps.wait(&region).map_or_else(|| self.maps.look(region), Look::Ready);
        }
        let claim = match look {
            Look::Ready(map) => return Ok(Some(map)),
            Look::Claimed(claim) => Some(claim),
            Look::Loading => None,
        };
        let Some(node) = self.tree.region_ref(zstd, region)? else { return Ok(None) };
        let (mut chunks, mut block) = (Vec::new(), 0_u32);
        for run in self.tree.region(zstd, &node)?.0 {
            let blocks = u32::try_from(run.blocks()).expect("a region has 1,024 blocks");
            if let Run::Chunk(_, chunk) = run {
                chunks.push(Placed { block, blocks, chunk });
            }
            block += blocks;
        }
        let bytes = chunks.len() * size_of::<Placed>();
        let map = Arc::new(RegionMap { chunks });
        if let Some(claim) = claim {
            claim.put(map.clone(), bytes);
        }
        Ok(Some(map))
    }

    /// Fills `out` with a piece of the disk.
    fn read_piece(&self, zstd: &mut Decompressor<'static>, piece: &Range<u64>, out: &mut [u8], touches: Option<&Touches>) -> Result<()> {
        let region = piece.start / REGION_BYTES;
        let base = region * REGION_BYTES;
        out.fill(0);
        let Some(map) = self.map(zstd, region)? else { return Ok(()) };
        let inside = piece.start - base..piece.end - base;
        let wanted = map.within(&inside);
        if let Some(touches) = touches {
            touches.note(wanted.iter().map(|placed| base + placed.range().start..base + placed.range().end));
        }
        let (mut claimed, mut awaited) = (Vec::new(), Vec::new());
        for placed in wanted {
            match self.chunks.look(placed.chunk.id) {
                Look::Ready(chunk) => copy(&checked(region, placed, chunk)?, &placed.range(), out, &inside),
                Look::Claimed(claim) => claimed.push((placed, claim)),
                // Also a chunk that is in this piece twice: its first place loads it.
                Look::Loading => awaited.push(placed),
            }
        }
        self.load(zstd, region, claimed, |placed, chunk| copy(chunk, &placed.range(), out, &inside))?;
        for placed in awaited {
            self.waits.fetch_add(1, Ordering::Relaxed);
            let chunk = match self.chunks.wait(&placed.chunk.id) {
                Some(chunk) => checked(region, placed, chunk)?,
                // The other failed, or it is gone again already: this reader sees for itself, and the cache is not waited for again.
                None => self.load_alone(zstd, region, placed)?,
            };
            copy(&chunk, &placed.range(), out, &inside);
        }
        Ok(())
    }

    /// Loads what was claimed, neighbours with one request, and hands out each chunk as it comes.
    fn load(
        &self,
        zstd: &mut Decompressor<'static>,
        region: u64,
        claimed: Vec<(&Placed, Claim<'_, Id, Chunk>)>,
        mut use_chunk: impl FnMut(&Placed, &Chunk),
    ) -> Result<()> {
        let refs: Vec<(usize, Ref)> = claimed.iter().enumerate().map(|(index, (placed, _))| (index, placed.chunk)).collect();
        let mut claimed: Vec<Option<(&Placed, Claim<'_, Id, Chunk>)>> = claimed.into_iter().map(Some).collect();
        self.store.inner.fetch_chunks(zstd, &refs, |index, plain| {
            let (placed, claim) = claimed[index].take().expect("each chunk comes once");
            let chunk = checked(region, placed, Arc::new(plain?))?;
            self.chunks_loaded.fetch_add(1, Ordering::Relaxed);
            use_chunk(placed, &chunk);
            claim.put(chunk.clone(), chunk.len());
            Ok(())
        })
    }

    fn load_alone(&self, zstd: &mut Decompressor<'static>, region: u64, placed: &Placed) -> Result<Chunk> {
        let mut out = None;
        self.store.inner.fetch_chunks(zstd, &[(0, placed.chunk)], |_, plain| {
            self.chunks_loaded.fetch_add(1, Ordering::Relaxed);
            out = Some(checked(region, placed, Arc::new(plain?))?);
            Ok(())
        })?;
        Ok(out.expect("one chunk was asked for"))
    }

    /// Loads what nobody has or loads.
    fn load_ahead(&self, piece: &Range<u64>) -> Result<()> {
        let region = piece.start / REGION_BYTES;
        let base = region * REGION_BYTES;
        let mut zstd = self.decompressor();
        let result = self.map(&mut zstd, region).and_then(|map| {
            let Some(map) = map else { return Ok(()) };
            let wanted = map.within(&(piece.start - base..piece.end - base));
            let claimed: Vec<_> = wanted
                .iter()
                .filter_map(|placed| match self.chunks.look(placed.chunk.id) {
                    Look::Claimed(claim) => Some((placed, claim)),
                    Look::Ready(_) | Look::Loading => None,
                })
                .collect();
            self.chunks_ahead.fetch_add(claimed.len() as u64, Ordering::Relaxed);
            self.load(&mut zstd, region, claimed, |_, _| {})
        });
        self.give_back(zstd);
        result
    }
}

/// The id was proven; the length is the map's to tell, and two places of a map that somebody made up may tell two.
fn checked(region: u64, placed: &Placed, chunk: Chunk) -> Result<Chunk> {
    if placed.fits(&chunk) {
        return Ok(chunk);
    }
    Err(StoreError::damaged(format_args!("region {region}"), "a chunk is not as long as the map says"))
}

impl BlockSource for PointSource {
    fn size_bytes(&self) -> u64 {
        self.reading.size_bytes
    }

    fn extents(&self, range: Range<u64>) -> io::Result<Vec<Extent>> {
        let mut out: Vec<Extent> = Vec::new();
        let mut add = |range: Range<u64>, zero: bool| match out.last_mut() {
            _ if range.is_empty() => {}
            Some(last) if last.zero == zero => last.range.end = range.end,
            _ => out.push(Extent { range, zero }),
        };
        let mut zstd = self.reading.decompressor();
        let mut at = range.start;
        while at < range.end {
            let base = at / REGION_BYTES * REGION_BYTES;
            let end = (base + REGION_BYTES).min(range.end);
            match self.reading.map(&mut zstd, at / REGION_BYTES).map_err(io::Error::other)? {
                None => add(at..end, true),
                Some(map) => {
                    for placed in map.within(&(at - base..end - base)) {
                        let (from, until) = (base + placed.range().start, (base + placed.range().end).min(end));
                        add(at..from.max(at), true);
                        add(from.max(at)..until, false);
                        at = until;
                    }
                    add(at..end, true);
                }
            }
            at = end;
        }
        self.reading.give_back(zstd);
        Ok(out)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.size_bytes()) {
            let message = format!("{} bytes at {offset} of a disk of {}", buf.len(), self.size_bytes());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        self.read(offset, buf).map_err(io::Error::other)
    }
}
