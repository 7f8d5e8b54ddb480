//! Disks of one point that are read at the same time: as many as was said and no more, and the point is what it is when they are read one by one.

mod common;

use cairn_store::{BackupOutcome, BlockSource, DiskJob, Extent, Progress, Result, Store, StoreError, restore::OnDamage, verify::Verifier};
use common::{Lab, MemTarget, content, full, info, point};
use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    sync::{Arc, Condvar, Mutex, atomic::Ordering},
    time::Duration,
};

const REGION: usize = 4 << 20;
/// Of one that waits for another that is never read.
const LIMIT: Duration = Duration::from_secs(60);

/// Who is being read.
#[derive(Default)]
struct Readers {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Disks that were begun and are not at their ends, with what is left of each.
    open: BTreeMap<usize, usize>,
    /// Most of them at any time.
    most: usize,
}

impl Readers {
    fn most(&self) -> usize {
        self.state.lock().expect("lock").most
    }
}

/// A disk that says when it is read, and waits at its first read until so many are open.
struct Watched {
    number: usize,
    bytes: Vec<u8>,
    readers: Arc<Readers>,
    wait_for: usize,
    fails_at: Option<u64>,
}

impl BlockSource for Watched {
    fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }
    fn extents(&self, range: Range<u64>) -> io::Result<Vec<Extent>> {
        Ok(vec![Extent { range, zero: false }])
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if self.fails_at.is_some_and(|at| offset >= at) {
            return Err(io::Error::other("a bad sector"));
        }
        let at = usize::try_from(offset).expect("fits");
        buf.copy_from_slice(&self.bytes[at..at + buf.len()]);
        let mut state = self.readers.state.lock().expect("lock");
        state.open.entry(self.number).or_insert(self.bytes.len());
        state.most = state.most.max(state.open.len());
        self.readers.changed.notify_all();
        let (mut state, waited) = self.readers.changed.wait_timeout_while(state, LIMIT, |s| s.most < self.wait_for).expect("lock");
        if waited.timed_out() {
            return Err(io::Error::other("nobody else is read"));
        }
        let left = state.open.get(&self.number).map_or(0, |left| left.saturating_sub(buf.len()));
        if left == 0 {
            state.open.remove(&self.number)
        } else {
            state.open.insert(self.number, left)
        };
        Ok(())
    }
}

fn disks(count: usize, readers: &Arc<Readers>, wait_for: usize, fails: Option<usize>) -> Vec<DiskJob> {
    let disk = |number: usize| Watched {
        number,
        // Some share their content.
        bytes: content(2 * REGION + number * 5000, number as u64 / 2),
        readers: readers.clone(),
        wait_for,
        fails_at: (fails == Some(number)).then_some(REGION as u64),
    };
    (0..count).map(|i| DiskJob { target: format!("vd{i}"), source: Arc::new(disk(i)), plan: full() }).collect()
}

fn save(store: &Store, name: &str, at_once: usize, jobs: &[DiskJob]) -> Result<BackupOutcome> {
    store.begin()?.with_disks_at_once(at_once).backup(jobs, || info(name), &Progress::default(), || Ok(()))
}

fn roots(outcome: &BackupOutcome) -> Vec<String> {
    outcome.disks.iter().map(|d| format!("{} {:?} {}", d.entry.target, d.entry.root.map(|r| r.id), d.entry.read_bytes)).collect()
}

#[test]
fn as_many_as_was_said_are_read_at_the_same_time_and_the_point_is_the_same() {
    let (lab, other) = (Lab::new(), Lab::new());
    let store = lab.open();
    let mut all = Vec::new();
    for at_once in [1, 2, 3, 8] {
        let readers = Arc::new(Readers::default());
        let jobs = disks(9, &readers, at_once, None);
        let out = save(&store, &format!("p{at_once}"), at_once, &jobs).expect("backs up");
        assert_eq!(readers.most(), at_once);
        let p = point(&store, &out);
        for (i, disk) in store.disks(&p).expect("disks").iter().enumerate() {
            let target = MemTarget::new(usize::try_from(disk.size_bytes).expect("fits"));
            store.restore_disk(disk, &target, OnDamage::Stop, &Progress::default()).expect("restores");
            assert!(target.0.into_inner().expect("lock") == content(2 * REGION + i * 5000, i as u64 / 2), "disk {i} of {at_once} at once");
        }
        let report = store.verify_point(&p, true, &Verifier::new(&store).expect("reads"), &Progress::default()).expect("verifies");
        assert!(report.damage.is_empty());
        all.push(roots(&out));
    }
    assert!(all.windows(2).all(|w| w[0] == w[1]), "{all:#?}");
    // Into a store that has nothing of it yet: all of them write at the same time.
    let fresh = other.open();
    let out = save(&fresh, "p", 8, &disks(9, &Arc::default(), 8, None)).expect("backs up");
    assert_eq!(out.disks.len(), 9);
    let p = point(&fresh, &out);
    let report = fresh.verify_point(&p, true, &Verifier::new(&fresh).expect("reads"), &Progress::default()).expect("verifies");
    assert!(report.damage.is_empty() && report.bytes > 0);
}

#[test]
fn one_that_fails_ends_the_others_and_is_named() {
    let lab = Lab::new();
    let store = lab.open();
    for at_once in [1, 3] {
        let failed = save(&store, "x", at_once, &disks(6, &Arc::default(), 1, Some(4))).expect_err("a disk cannot be read");
        let StoreError::Block { what, source } = failed else { panic!("{failed:?}") };
        assert!(what.contains("vd4") && source.to_string().contains("bad sector"), "{what}: {source}");
    }
    assert!(store.points().expect("lists").is_empty());
    let cancelled = Progress::default();
    cancelled.cancel.store(true, Ordering::SeqCst);
    let out = store.begin().expect("begins").with_disks_at_once(3).backup(&disks(6, &Arc::default(), 1, None), || info("x"), &cancelled, || Ok(()));
    assert!(matches!(out, Err(StoreError::Interrupted)), "{out:?}");
    let good = save(&store, "x", 3, &disks(6, &Arc::default(), 3, None)).expect("what failed leaves nothing in the way");
    assert_eq!(store.points().expect("lists").len(), 1);
    assert_eq!(good.disks.len(), 6);
}
