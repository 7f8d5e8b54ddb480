//! A point's disk read from many threads: the right bytes, each chunk loaded once, memory within its bound.

mod common;

use cairn_store::{
    BlockSource, OpenOptions, PointSource, ReadOptions, Result, Store,
    format::{ObjectName, register::DiskEntry},
    platform::{LocalPlatform, Platform},
};
use common::{Lab, backup, content, full, passes_on};
use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const SIZE: usize = (33 << 20) + 4096 + 77;

/// The local platform, with reads of parts counted, and failing on demand.
struct Counted {
    inner: LocalPlatform,
    reads: AtomicU64,
    broken: AtomicBool,
}

impl Platform for Counted {
    passes_on!(inner: location create cover barrier read size list list_dirs now_unix_ms monotonic_ms boot sleep_ms random process is_gone deleting);

    fn read_at(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Option<Vec<u8>>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        // A store that takes its time: threads meet at the same chunks.
        thread::sleep(Duration::from_micros(300));
        if self.broken.load(Ordering::Relaxed) { Ok(None) } else { self.inner.read_at(name, offset, len) }
    }
}

struct Bench {
    _lab: Lab,
    plain: Vec<u8>,
    platform: Arc<Counted>,
    store: Store,
    disk: DiskEntry,
}

fn bench() -> Bench {
    let lab = Lab::new();
    let plain = content(SIZE, 5);
    let outcome = backup(&lab.open(), "vm", &plain, full()).expect("backup");
    let platform = Arc::new(Counted { inner: LocalPlatform::open(&lab.root()).expect("platform"), reads: AtomicU64::new(0), broken: AtomicBool::new(false) });
    let options = OpenOptions { credential: lab.credential(), state_dir: lab.dir.path().join("state"), host: "host".into() };
    let store = Store::open_on(platform.clone(), options).expect("opens");
    let disk = outcome.disks[0].entry.clone();
    Bench { _lab: lab, plain, platform, store, disk }
}

/// The next number of a row that is the same for a seed.
fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state >> 16).expect("48 bits")
}

#[test]
fn random_reads_from_many_threads_are_right_and_memory_keeps_its_bound() {
    let bench = bench();
    for (cache_bytes, read_ahead_bytes) in [(4 << 20, 8 << 20), (64 << 20, 8 << 20), (64 << 20, 0)] {
        let source =
            PointSource::with_options(&bench.store, &bench.disk, ReadOptions { cache_bytes, read_ahead_bytes, record_touches: false }).expect("source");
        thread::scope(|scope| {
            for seed in 1..=6_u64 {
                let (source, plain) = (&source, &bench.plain);
                scope.spawn(move || {
                    let mut state = seed * 0x9e37_79b9;
                    for step in 0..60 {
                        let len = [1, 512, 4096, 70_000, 1 << 20, 5 << 20][next(&mut state) % 6].min(SIZE);
                        let at = next(&mut state) % (SIZE - len + 1);
                        let mut out = vec![0xee; len];
                        if step % 3 != 0 || !source.read_cached(at as u64, &mut out) {
                            source.read_at(at as u64, &mut out).expect("reads");
                        }
                        assert!(out == plain[at..at + len], "seed {seed}: {len} bytes at {at}");
                        assert!(source.statistics().cached_bytes <= cache_bytes as u64, "{:?}", source.statistics());
                    }
                });
            }
        });
    }
    let source = PointSource::new(&bench.store, &bench.disk).expect("source");
    assert!(source.read_at(SIZE as u64 - 1, &mut [0; 2]).is_err() && source.read_at(u64::MAX, &mut [0; 2]).is_err(), "beyond the end");
    source.read_at(SIZE as u64, &mut []).expect("nothing at the end");
}

/// Chunks of the disk that differ.
fn distinct(source: &PointSource, plain: &[u8]) -> u64 {
    let touched = source.touched();
    let at = |place: u64| usize::try_from(place).expect("fits").min(plain.len());
    let unlike: HashSet<&[u8]> = touched.iter().map(|range| &plain[at(range.start)..at(range.end)]).collect();
    unlike.len() as u64
}

#[test]
fn a_chunk_is_loaded_once_however_many_want_it() {
    let bench = bench();
    let options = ReadOptions { record_touches: true, ..ReadOptions::default() };
    let source = PointSource::with_options(&bench.store, &bench.disk, options).expect("source");
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut out = vec![0; SIZE];
                for (at, part) in out.chunks_mut(256 << 10).enumerate() {
                    source.read_at(at as u64 * (256 << 10), part).expect("reads");
                }
                assert!(out == bench.plain);
            });
        }
    });
    let found = source.statistics();
    assert_eq!(found.chunks_loaded, distinct(&source, &bench.plain), "{found:?}");
    assert!(found.chunks_ahead > 0, "sequential readers are run ahead of: {found:?}");
    let before = bench.platform.reads.load(Ordering::Relaxed);
    let mut again = vec![0; SIZE];
    assert!(source.read_at(0, &mut again).is_ok() && again == bench.plain);
    assert_eq!(bench.platform.reads.load(Ordering::Relaxed), before, "all of it is in memory");
}

#[test]
fn a_cold_chunk_is_one_request_and_neighbours_are_one_together() {
    let bench = bench();
    let options = ReadOptions { read_ahead_bytes: 0, record_touches: true, ..ReadOptions::default() };
    let source = PointSource::with_options(&bench.store, &bench.disk, options).expect("source");
    let requests = || bench.platform.reads.load(Ordering::Relaxed);
    // The tree, the pack's keys, the region's map.
    source.read_at(0, &mut vec![0; 1 << 20]).expect("reads");
    source.read_at(4 << 20, &mut [0; 512]).expect("reads");
    let (mut at, mut cold) = ((4 << 20) + 4096, 0);
    while at < 8 << 20 {
        let (before, loaded) = (requests(), source.statistics().chunks_loaded);
        source.read_at(at, &mut [0; 512]).expect("reads");
        let now = source.statistics().chunks_loaded - loaded;
        assert_eq!(requests() - before, now, "{at}");
        cold += now;
        at += 4096;
    }
    assert!(cold > 8, "{cold} chunks in a region");
    // A region that is new costs its map; its chunks lie side by side in the pack.
    let (before, loaded) = (requests(), source.statistics().chunks_loaded);
    source.read_at(8 << 20, &mut vec![0; 512 << 10]).expect("reads");
    let (requests, loaded) = (requests() - before, source.statistics().chunks_loaded - loaded);
    assert!(loaded >= 4 && requests <= 4, "{requests} requests for {loaded} chunks");
}

#[test]
fn what_cannot_be_read_is_an_error_for_all_who_want_it_and_heals() {
    let bench = bench();
    let source = PointSource::new(&bench.store, &bench.disk).expect("source");
    source.read_at(0, &mut [0; 4096]).expect("reads");
    bench.platform.broken.store(true, Ordering::Relaxed);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| assert!(source.read_at(20 << 20, &mut vec![0; 2 << 20]).is_err()));
        }
    });
    bench.platform.broken.store(false, Ordering::Relaxed);
    let mut out = vec![0; 2 << 20];
    source.read_at(20 << 20, &mut out).expect("nothing of the failure stays");
    assert!(out == bench.plain[20 << 20..22 << 20]);
}

#[test]
fn extents_tell_zeros_to_the_block_and_prefetched_places_are_in_memory() {
    let bench = bench();
    let options = ReadOptions { record_touches: true, ..ReadOptions::default() };
    let first = PointSource::with_options(&bench.store, &bench.disk, options).expect("source");
    let extents = first.extents(5000..SIZE as u64).expect("extents");
    assert_eq!((extents[0].range.start, extents[extents.len() - 1].range.end), (5000, SIZE as u64));
    assert!(extents.windows(2).all(|w| w[0].range.end == w[1].range.start && w[0].zero != w[1].zero));
    let at = |place: u64| usize::try_from(place).expect("fits");
    for extent in &extents {
        let bytes = &bench.plain[at(extent.range.start)..at(extent.range.end)];
        assert_eq!(extent.zero, bytes.iter().all(|b| *b == 0), "{extent:?}");
    }
    for place in [20_u64 << 20, 1 << 20, 9 << 20] {
        first.read_at(place, &mut [0; 65536]).expect("reads");
    }
    let boot = first.touched();
    assert!(boot.len() >= 3 && boot[0].start >> 20 >= 19, "{boot:?}");
    let second = PointSource::new(&bench.store, &bench.disk).expect("source");
    second.prefetch(boot.clone());
    let (start, mut bytes) = (Instant::now(), vec![0; at(boot[0].end - boot[0].start)]);
    for place in &boot {
        let len = at(place.end.min(SIZE as u64) - place.start);
        bytes.resize(len, 0);
        while !second.read_cached(place.start, &mut bytes) {
            assert!(start.elapsed() < Duration::from_secs(20), "{place:?} is not loaded");
            thread::sleep(Duration::from_millis(5));
        }
        assert!(bytes == bench.plain[at(place.start)..at(place.start) + len]);
    }
}

#[test]
fn a_long_list_is_loaded_as_far_as_half_of_the_cache() {
    let bench = bench();
    // Half of it holds the whole disk: how much of it the chunks of these places are differs with the store's key.
    let options = ReadOptions { cache_bytes: 2 * SIZE, ..ReadOptions::default() };
    let source = PointSource::with_options(&bench.store, &bench.disk, options).expect("source");
    // Far more places than wishes of readers are kept, none beside the next.
    let places: Vec<u64> = (0..SIZE as u64 / 131_072).map(|n| n * 131_072).collect();
    assert!(places.len() > 200, "{}", places.len());
    source.prefetch(places.iter().map(|at| *at..*at + 4096));
    let start = Instant::now();
    let in_memory = |at: &u64| source.read_cached(*at, &mut [0; 4096]);
    while !places.iter().all(in_memory) {
        assert!(start.elapsed() < Duration::from_secs(30), "{} of {} places are loaded", places.iter().filter(|at| in_memory(at)).count(), places.len());
        thread::sleep(Duration::from_millis(5));
    }
    // A list longer than that is cut, and what it begins with stays.
    let small = PointSource::with_options(&bench.store, &bench.disk, ReadOptions { cache_bytes: 8 << 20, ..ReadOptions::default() }).expect("source");
    small.prefetch((0..32_u64).map(|n| n << 20..(n + 1) << 20));
    let (start, mut bytes) = (Instant::now(), vec![0; 1 << 20]);
    while !small.read_cached(0, &mut bytes) {
        assert!(start.elapsed() < Duration::from_secs(30), "the first is loaded");
        thread::sleep(Duration::from_millis(5));
    }
    assert!(bytes == bench.plain[..1 << 20]);
}
