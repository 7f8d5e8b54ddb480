//! A list of changes that misses some: what lay behind the end of a disk that was cut short and grew again. QEMU's bitmaps do not have it.

mod common;

use cairn_store::{BlockSource, Extent, Plan, format::register::DiskMode};
use common::{Lab, Mem, backup, content, full, point, restore};
use proptest::prelude::*;
use std::{io, ops::Range, sync::Mutex};

const REGION: usize = 4 << 20;

/// A disk that notes what is read of it.
struct Watched(Mem, Mutex<Vec<Range<u64>>>);

impl BlockSource for Watched {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }
    fn extents(&self, range: Range<u64>) -> io::Result<Vec<Extent>> {
        self.0.extents(range)
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.1.lock().expect("lock").push(offset..offset + buf.len() as u64);
        self.0.read_at(offset, buf)
    }
}

/// Cut at `at`, grown to the same size again.
fn cut(data: &[u8], at: usize) -> Vec<u8> {
    let mut data = data.to_vec();
    data[at..].fill(0);
    data
}

#[test]
fn what_a_cut_took_is_not_called_unchanged() {
    let lab = Lab::with(false);
    let store = lab.open();
    let mut data = content(3 * REGION, 5);
    // The last data ends within a block, and zeros lie behind it.
    data[2 * REGION + 90_000..2 * REGION + 100_000].fill(9);
    data[2 * REGION + 100_000..].fill(0);
    let base = backup(&store, "d", &data, full()).expect("backs up");
    let incremental = |dirty: Vec<Range<u64>>| Plan::Incremental { base: (base.id, 0), dirty };
    for at in [0, 1, 512, REGION - 1, REGION, 2 * REGION, 2 * REGION + 4096, 2 * REGION + 98_304, 2 * REGION + 99_840] {
        let now = cut(&data, at);
        let out = backup(&store, "d", &now, incremental(vec![])).expect("backs up");
        let entry = &out.disks[0].entry;
        assert_eq!((entry.mode, entry.reason.contains("cut short")), (DiskMode::Compare, true), "cut at {at}: {}", entry.reason);
        assert_eq!(restore(&store, &point(&store, &out)).expect("restores"), now, "cut at {at}");
    }
    // Nothing but zeros was cut off; and what was cut off is listed: both are increments.
    for (now, dirty) in
        [(cut(&data, 2 * REGION + 100_352), vec![]), (cut(&data, REGION + 5000), vec![REGION as u64..2 * REGION as u64, 2 * REGION as u64..3 * REGION as u64])]
    {
        let out = backup(&store, "d", &now, incremental(dirty)).expect("backs up");
        assert_eq!(out.disks[0].entry.mode, DiskMode::Incremental);
        assert_eq!(restore(&store, &point(&store, &out)).expect("restores"), now);
    }
}

#[test]
fn a_true_list_costs_one_chunk_of_the_point_and_one_block_of_the_disk() {
    let lab = Lab::with(false);
    let store = lab.open();
    let mut data = content(8 * REGION, 6);
    for end in [6 * REGION, 8 * REGION] {
        data[end - 4096..end].fill(3);
    }
    let base = backup(&store, "d", &data, full()).expect("backs up");
    let entry = &store.disks(&point(&store, &base)).expect("disks")[0];
    let watched = Watched(Mem(data), Mutex::default());
    assert_eq!(store.contradiction(entry, &watched, &[]).expect("looks"), None);
    assert_eq!(*watched.1.lock().expect("lock"), [8 * REGION as u64 - 4096..8 * REGION as u64]);
    // Of what is dirty as a whole nothing is looked at.
    let dirty = [0..5 * REGION as u64 + 70_000, 6 * REGION as u64..8 * REGION as u64];
    assert_eq!(store.contradiction(entry, &watched, &dirty).expect("looks"), None);
    assert_eq!(watched.1.lock().expect("lock")[1..], [6 * REGION as u64 - 4096..6 * REGION as u64]);
    assert_eq!(store.contradiction(entry, &watched, std::slice::from_ref(&(0..8 * REGION as u64))).expect("looks"), None);
    assert_eq!(watched.1.lock().expect("lock").len(), 2);
}

#[test]
fn what_cannot_be_read_bears_no_witness_and_is_not_reported() {
    let lab = Lab::with(false);
    let store = lab.open();
    let mut data = content(2 * REGION, 8);
    data[REGION..].fill(0);
    let noise = content(4 * REGION, 77);
    data[2 * REGION - 90_000..].copy_from_slice(&noise[..90_000]);
    data[2 * REGION - 4096..].fill(5);
    let first = backup(&store, "d", &data[..REGION], full()).expect("backs up");
    let base = backup(&store, "d", &data, Plan::Compare { base: (first.id, 0), reason: "grown".into() }).expect("backs up");
    // The pack of the second holds what lies at the end, and is gone.
    let gone = lab.files("d").into_iter().find(|f| f.to_string_lossy().contains(&base.id.to_string())).expect("a pack");
    std::fs::remove_file(gone).expect("lost");
    let store = lab.open();
    let entry = &store.disks(&point(&store, &base)).expect("disks")[0];
    assert_eq!(store.contradiction(entry, &Mem(data.clone()), &[]).expect("looks"), None);
    assert!(store.contradiction(entry, &Mem(cut(&data, 4096)), &[]).expect("looks").is_some_and(|at| at < REGION as u64), "what lies before bears witness");
    assert!(lab.files("b").is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    /// Whatever is written before and after a cut, and wherever it is: the point is what the disk was.
    #[test]
    fn a_point_behind_a_cut_is_the_disk(
        seed in any::<u64>(),
        zeros in prop::collection::vec((0usize..REGION * 2, 1usize..400_000), 0..5),
        before in prop::collection::vec((0usize..REGION * 2, 1usize..200_000), 0..4),
        at in 0usize..REGION * 2,
        after in prop::collection::vec((0usize..REGION * 2, 1usize..200_000), 0..4),
    ) {
        let lab = Lab::with(false);
        let store = lab.open();
        let mut data = content(REGION * 2, seed);
        let clip = |start: usize, len: usize, end: usize| start.min(end)..(start + len).min(end);
        for (start, len) in zeros {
            data[clip(start, len, REGION * 2)].fill(0);
        }
        let base = backup(&store, "d", &data, full()).expect("backs up");
        // What is written before the cut is marked as far as it lies before it.
        let mut dirty = Vec::new();
        for (start, len) in before {
            let range = clip(start, len, REGION * 2);
            data[range.clone()].fill(7);
            dirty.push(clip(start, len, at));
        }
        data[at..].fill(0);
        for (start, len) in after {
            let range = clip(start, len, REGION * 2);
            let bytes = content(range.len(), seed ^ 1);
            data[range.clone()].copy_from_slice(&bytes);
            dirty.push(range);
        }
        dirty.retain(|r| !r.is_empty());
        dirty.sort_by_key(|r| r.start);
        dirty.dedup_by(|next, last| if next.start <= last.end { last.end = last.end.max(next.end); true } else { false });
        let dirty = dirty.into_iter().map(|r| r.start as u64..r.end as u64).collect();
        let out = backup(&store, "d", &data, Plan::Incremental { base: (base.id, 0), dirty }).expect("backs up");
        prop_assert_eq!(&restore(&store, &point(&store, &out)).expect("restores"), &data);
    }
}
