//! Where two points differ by their trees, and bringing a disk from one to the other: both against comparison byte by byte.

mod common;

use cairn_store::{
    BlockSource, BlockTarget, DiskJob, Extent, FileSource, FileTarget, Plan, Progress, Store, StoreError,
    format::register::DiskEntry,
    restore::OnDamage,
    update::{Candidates, Update, UpdateReport},
};
use common::{Lab, MemTarget, backup, content, full, info, point};
use proptest::prelude::*;
use std::{io, ops::Range, sync::Arc, sync::Mutex, time::Instant};

const REGION: usize = 4 << 20;
const BLOCK: usize = 4096;

/// A disk in memory that is read and written.
struct Ram(MemTarget);

impl Ram {
    fn new(content: &[u8]) -> Self {
        Self(MemTarget(Mutex::new(content.to_vec())))
    }
    fn content(self) -> Vec<u8> {
        self.0.0.into_inner().expect("lock")
    }
}

impl BlockSource for Ram {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }
    fn extents(&self, range: Range<u64>) -> io::Result<Vec<Extent>> {
        assert!(range.end <= self.0.size_bytes(), "{range:?}");
        Ok(vec![Extent { range, zero: false }])
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).expect("fits");
        buf.copy_from_slice(&self.0.0.lock().expect("lock")[at..at + buf.len()]);
        Ok(())
    }
}

fn entry(store: &Store, data: &[u8]) -> DiskEntry {
    let out = backup(store, "d", data, full()).expect("backs up");
    store.disks(&point(store, &out)).expect("disks").remove(0)
}

fn ranges(store: &Store, a: &DiskEntry, b: &DiskEntry) -> Vec<Range<u64>> {
    store.diff(a, b).expect("begins").collect::<Result<_, _>>().expect("walks")
}

fn padded(data: &[u8], len: usize) -> Vec<u8> {
    let mut out = data.to_vec();
    out.resize(len, 0);
    out
}

/// What is outside is equal; what is inside touches no region that is equal; in order, apart, within the larger disk.
fn assert_fits(a: &[u8], b: &[u8], found: &[Range<u64>]) {
    let len = a.len().max(b.len());
    let (a, b) = (padded(a, len), padded(b, len));
    let mut at = 0;
    for r in found {
        let r = usize::try_from(r.start).expect("fits")..usize::try_from(r.end).expect("fits");
        assert!(r.start < r.end && r.end <= len && (r.start > at || at == 0), "{found:?}");
        assert!(a[at..r.start] == b[at..r.start], "bytes {at}..{} differ and are in no range", r.start);
        for region in r.start / REGION..r.end.div_ceil(REGION) {
            let whole = region * REGION..((region + 1) * REGION).min(len);
            assert!(a[whole.clone()] != b[whole.clone()], "region {region} is equal and is in {r:?}");
        }
        at = r.end;
    }
    assert!(a[at..] == b[at..], "bytes behind {at} differ and are in no range");
}

fn update(store: &Store, disk: &DiskEntry, ram: &Ram, candidates: Candidates<'_>, write: bool) -> UpdateReport {
    let target: Option<&dyn BlockTarget> = if write { Some(&ram.0) } else { None };
    let end_bytes = ram.size_bytes().max(disk.size_bytes);
    let update = Update { disk, source: ram, target, end_bytes, candidates, on_damage: OnDamage::Stop };
    store.update_disk(&update, &Progress::default()).expect("updates")
}

fn differing_blocks(a: &[u8], b: &[u8]) -> u64 {
    let len = a.len().max(b.len());
    let (a, b) = (padded(a, len), padded(b, len));
    a.chunks(BLOCK).zip(b.chunks(BLOCK)).filter(|(x, y)| x != y).map(|(x, _)| x.len() as u64).sum()
}

fn writes() -> impl Strategy<Value = Vec<(usize, usize, u8, u64)>> {
    prop::collection::vec((0usize..14 << 20, 1usize..300_000, 0u8..4, any::<u64>()), 0..6)
}

fn apply(data: &mut [u8], writes: &[(usize, usize, u8, u64)]) -> Vec<Range<u64>> {
    let mut dirty: Vec<Range<u64>> = Vec::new();
    for (at, len, what, seed) in writes {
        let (start, end) = ((*at).min(data.len()), (at + len).min(data.len()));
        match what {
            0 => data[start..end].fill(0),
            1 => data[start..end].fill(*seed as u8 | 1),
            2 => data[start..end].copy_from_slice(&content(end - start, *seed)),
            _ => {}
        }
        dirty.push(start as u64..end as u64);
    }
    joined(dirty)
}

fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|r| r.start < r.end);
    ranges.sort_by_key(|r| r.start);
    ranges.dedup_by(|next, last| {
        let joins = next.start <= last.end;
        last.end = if joins { last.end.max(next.end) } else { last.end };
        joins
    });
    ranges
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    /// Random histories of one disk, with resizes: any two of its states, and any state brought to any other, with the dirty ranges that a bitmap
    /// of the second one's base would hold and with none known.
    #[test]
    fn trees_tell_where_bytes_differ(
        size in 1usize..14 << 20,
        seed in any::<u64>(),
        generations in prop::collection::vec((writes(), prop::option::of(1usize..14 << 20)), 1..4),
        since in writes(),
    ) {
        let lab = Lab::with(false);
        let store = lab.open();
        let mut data = content(size, seed);
        let mut states = vec![(entry(&store, &data), data.clone())];
        for (writes, resize) in generations {
            data.resize(resize.unwrap_or(data.len()), 0);
            apply(&mut data, &writes);
            states.push((entry(&store, &data), data.clone()));
        }
        for (a, bytes_a) in &states {
            for (b, bytes_b) in &states {
                assert_fits(bytes_a, bytes_b, &ranges(&store, a, b));
            }
        }
        // The disk went on after its last point (the bitmap's base); it is to be what an earlier state was.
        let base = &states[states.len() - 1].0;
        let dirty = apply(&mut data, &since);
        for (wanted, bytes) in &states {
            let now = padded(&data, bytes.len().max(data.len()));
            let expected = padded(bytes, now.len());
            let candidates = joined(dirty.iter().cloned().chain(ranges(&store, base, wanted)).collect());
            for candidates in [Candidates::Ranges(&candidates), Candidates::All] {
                let ram = Ram::new(&now);
                let told = update(&store, wanted, &ram, candidates, false);
                let done = update(&store, wanted, &ram, candidates, true);
                prop_assert_eq!(&told, &done, "a dry run tells what is done");
                prop_assert_eq!(done.written_bytes + done.zeroed_bytes, differing_blocks(&now, &expected));
                let again = update(&store, wanted, &ram, candidates, true);
                prop_assert_eq!((again.written_bytes, again.zeroed_bytes, again.fetched_bytes), (0, 0, 0), "once more is nothing");
                prop_assert!(ram.content() == expected, "the disk is the point's");
            }
        }
    }
}

#[test]
fn disks_that_differ_in_size_alone_do_not_differ_in_content() {
    let lab = Lab::new();
    let store = lab.open();
    let small = content(REGION + 5000, 3);
    let (a, b) = (entry(&store, &small), entry(&store, &padded(&small, 300 << 20)));
    assert!(ranges(&store, &a, &b).is_empty() && ranges(&store, &b, &a).is_empty());
    let empty = entry(&store, &[]);
    assert_fits(&small, &[], &ranges(&store, &a, &empty));
}

#[test]
fn a_target_that_is_too_small_is_refused_and_an_interruption_ends_it() {
    let lab = Lab::new();
    let store = lab.open();
    let disk = entry(&store, &content(REGION, 1));
    let ram = Ram::new(&vec![0; 100_000]);
    let mut update =
        Update { disk: &disk, source: &ram, target: Some(&ram.0), end_bytes: disk.size_bytes, candidates: Candidates::All, on_damage: OnDamage::Stop };
    assert!(matches!(store.update_disk(&update, &Progress::default()), Err(StoreError::Refused(_))));
    update.target = None;
    let stopped = Progress::default();
    stopped.cancel.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(matches!(store.update_disk(&update, &stopped), Err(StoreError::Interrupted)));
}

/// A store that lost a pack: the disk is brought back as far as it has the rest itself, or zeroed where that is allowed.
#[test]
fn a_damaged_chunk_is_needed_only_where_the_disk_lost_it() {
    let lab = Lab::new();
    let store = lab.open();
    let data = content(2 * REGION, 5);
    let disk = entry(&store, &data);
    for pack in lab.files("d") {
        std::fs::remove_file(pack).expect("removes");
    }
    let fresh = lab.open_with(lab.credential(), "fresh").expect("opens");
    let ram = Ram::new(&data);
    let done = update(&fresh, &disk, &ram, Candidates::All, true);
    assert_eq!((done.written_bytes, done.fetched_bytes), (0, 0));
    let mut other = data.clone();
    other[80_000] ^= 1;
    let ram = Ram::new(&other);
    let mut wanted =
        Update { disk: &disk, source: &ram, target: Some(&ram.0), end_bytes: disk.size_bytes, candidates: Candidates::All, on_damage: OnDamage::Stop };
    assert!(matches!(fresh.update_disk(&wanted, &Progress::default()), Err(StoreError::Damaged { .. })));
    wanted.on_damage = OnDamage::WriteZeros;
    let done = fresh.update_disk(&wanted, &Progress::default()).expect("zeroes");
    assert!(done.damage.len() == 1 && (done.damage[0].offset..done.damage[0].offset + done.damage[0].len).contains(&80_000), "{done:?}");
    assert!(ram.content()[80_000..80_001] == [0]);
}

/// A file keeps its holes: what the point has as zero gives its space back.
#[test]
fn a_sparse_file_stays_sparse() {
    use std::os::unix::fs::MetadataExt;
    let lab = Lab::new();
    let store = lab.open();
    let mut data = vec![0; 8 << 20];
    data[..BLOCK].fill(7);
    let disk = entry(&store, &data);
    let path = lab.dir.path().join("image");
    let file = FileTarget::create_new(&path, disk.size_bytes).expect("creates");
    file.write_at(2 << 20, &vec![9; 3 << 20]).expect("writes");
    drop(file);
    let (source, target) = (FileSource::open(&path).expect("opens"), FileTarget::open_existing(&path).expect("opens"));
    let update =
        Update { disk: &disk, source: &source, target: Some(&target), end_bytes: disk.size_bytes, candidates: Candidates::All, on_damage: OnDamage::Stop };
    let done = store.update_disk(&update, &Progress::default()).expect("updates");
    assert_eq!((done.read_bytes, done.written_bytes, done.zeroed_bytes), (3 << 20, BLOCK as u64, 3 << 20));
    assert!(std::fs::read(&path).expect("reads") == data);
    let blocks = std::fs::metadata(&path).expect("there").blocks();
    assert!(blocks * 512 <= 64 << 10, "{blocks} blocks are left");
}

/// 1 TiB with one chunk in every 256 MiB, in which one chunk changed: both paths of nodes are read, nothing else.
#[test]
fn a_huge_sparse_disk_is_compared_by_its_changed_paths() {
    struct Sparse {
        changed: bool,
    }
    const STEP: u64 = 256 << 20;
    const SIZE: u64 = 1 << 40;
    impl BlockSource for Sparse {
        fn size_bytes(&self) -> u64 {
            SIZE
        }
        fn extents(&self, range: Range<u64>) -> io::Result<Vec<Extent>> {
            let data = range.start / STEP * STEP..range.start / STEP * STEP + BLOCK as u64;
            let cut = |r: Range<u64>| r.start.clamp(range.start, range.end)..r.end.clamp(range.start, range.end);
            let all = [Extent { range: cut(data.clone()), zero: false }, Extent { range: cut(data.end..SIZE), zero: true }];
            assert!(range.end <= range.start / STEP * STEP + STEP, "regions are asked for one by one");
            Ok(all.into_iter().filter(|e| !e.range.is_empty()).collect())
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            let seed = offset / STEP + u64::from(self.changed && offset / STEP == 2048) * 100_000;
            buf.fill(0);
            for (i, b) in buf.iter_mut().take(BLOCK - usize::try_from(offset % STEP).expect("a block")).enumerate() {
                *b = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (i % 57)) as u8 | 1;
            }
            Ok(())
        }
    }
    let lab = Lab::new();
    let store = lab.open();
    let save = |changed| {
        let job = DiskJob { target: "disk0".into(), source: Arc::new(Sparse { changed }), plan: Plan::Full { reason: "test".into() } };
        let out = store.begin().expect("begins").backup(&[job], || info("huge"), &Progress::default(), || Ok(())).expect("backs up");
        store.disks(&point(&store, &out)).expect("disks").remove(0)
    };
    let (a, b) = (save(false), save(true));
    let start = Instant::now();
    let mut diff = store.diff(&a, &b).expect("begins");
    let found = diff.by_ref().collect::<Result<Vec<_>, _>>().expect("walks");
    println!("1 TiB, 4096 chunks, one changed: {} nodes read in {:?}", diff.nodes_read(), start.elapsed());
    assert_eq!(found, [2048 * STEP..2048 * STEP + BLOCK as u64]);
    // Three branches and a region on each side.
    assert_eq!(diff.nodes_read(), 8);
}
