//! A storage that is full: what a backup stored is found again, and the collection that frees space needs next to none itself.

mod common;

use cairn_store::{
    BlockSource, DiskJob, Extent, GcOptions, OpenOptions, Progress, Result, Store, StoreError,
    format::ObjectName,
    platform::{Created, Deleting, Durability, LocalPlatform, Platform},
};
use common::{Lab, backup, content, full, info, passes_on, point, restore};
use std::{
    io,
    ops::Range,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

/// A real folder with so many free bytes.
struct FullDisk {
    folder: LocalPlatform,
    free: Arc<AtomicU64>,
}

impl FullDisk {
    fn folders(&self) -> &dyn Deleting {
        self.folder.deleting().expect("it may")
    }
}

impl Platform for FullDisk {
    passes_on!(folder: location cover barrier read read_at size list list_dirs now_unix_ms monotonic_ms boot sleep_ms random process is_gone);

    fn create(&self, name: &ObjectName, bytes: &[u8], durability: Durability) -> Result<Created> {
        // As a file system does it: what has no room is no file.
        let taken = self.free.fetch_update(SeqCst, SeqCst, |free| free.checked_sub(bytes.len() as u64));
        if taken.is_err() {
            let source = io::Error::from_raw_os_error(libc::ENOSPC);
            return Err(StoreError::Storage { op: "write", name: name.to_string(), source });
        }
        self.folder.create(name, bytes, durability)
    }
    fn deleting(&self) -> Option<&dyn Deleting> {
        Some(self)
    }
}

impl Deleting for FullDisk {
    fn discard(&self, name: &ObjectName, round: u64) -> Result<bool> {
        self.folders().discard(name, round)
    }
    fn delete(&self, name: &ObjectName) -> Result<bool> {
        let size = self.folder.size(name)?.unwrap_or(0);
        let deleted = self.folders().delete(name)?;
        self.free.fetch_add(if deleted { size } else { 0 }, SeqCst);
        Ok(deleted)
    }
    fn delete_temporaries(&self, dir: &str, age_ms_min: u64) -> Result<u64> {
        self.folders().delete_temporaries(dir, age_ms_min)
    }
    fn delete_empty_dir(&self, dir: &str) -> Result<()> {
        self.folders().delete_empty_dir(dir)
    }
    fn dir_modified_unix_ms(&self, dir: &str) -> Result<Option<u64>> {
        self.folders().dir_modified_unix_ms(dir)
    }
}

fn open(lab: &Lab, state: &str, free: &Arc<AtomicU64>) -> Store {
    let disk = FullDisk { folder: LocalPlatform::open(&lab.root()).expect("opens"), free: free.clone() };
    let options = OpenOptions { credential: lab.credential(), state_dir: lab.dir.path().join(state), host: "host".into() };
    Store::open_on(Arc::new(disk), options).expect("opens")
}

/// What the page on running a store says: `cairn gc --keep-trash 0s --keep-interrupted 0s`.
fn remedy() -> GcOptions {
    GcOptions { trash_keep_ms: 0, resume_grace_ms: 0, wait_ms_max: 1000, poll_ms: 10, ..GcOptions::default() }
}

/// A store with a pack of which little is in use and, with `trash`, a point's packs that were discarded before.
fn thin_store(lab: &Lab, store: &Store, trash: bool) -> (cairn_store::BackupOutcome, Vec<u8>) {
    let data = content(2 << 20, 41);
    let both = [&data[..], &content(10 << 20, 42)].concat();
    let a = backup(store, "a", &both, full()).expect("backs up");
    let b = backup(store, "b", &data, full()).expect("backs up");
    if trash {
        let c = backup(store, "c", &content(5 << 20, 43), full()).expect("backs up");
        store.forget(&point(store, &c), 0, true).expect("forgets");
        store.collect(&GcOptions { trash_keep_ms: u64::MAX, ..remedy() }, &Progress::default()).expect("collects");
        assert!(!lab.files("trash").is_empty());
    }
    store.forget(&point(store, &a), 0, true).expect("forgets");
    (b, data)
}

#[test]
fn a_full_disk_is_freed_by_what_the_trash_holds() {
    // Not a byte; room for the lists and no more.
    for free_bytes in [0, 40_000] {
        let (lab, free) = (Lab::new(), Arc::new(AtomicU64::new(u64::MAX / 2)));
        let store = open(&lab, "state", &free);
        let (b, data) = thin_store(&lab, &store, true);
        free.store(free_bytes, SeqCst);
        let report = open(&lab, "gc", &free).collect(&remedy(), &Progress::default()).expect("collects");
        assert!(report.purged_files > 0 && report.moved_frames > 0 && report.deleted_packs > 0, "{free_bytes} bytes free: {report:?}");
        assert!(free.load(SeqCst) > 5 << 20 && lab.files("trash").is_empty());
        let store = open(&lab, "fresh", &free);
        assert_eq!(restore(&store, &point(&store, &b)).expect("restores"), data);
    }
}

#[test]
fn what_cannot_be_moved_for_want_of_room_does_not_stop_a_collection() {
    let (lab, free) = (Lab::new(), Arc::new(AtomicU64::new(u64::MAX / 2)));
    let store = open(&lab, "state", &free);
    thin_store(&lab, &store, false);
    let other = backup(&store, "c", &content(5 << 20, 44), full()).expect("backs up");
    store.forget(&point(&store, &other), 0, true).expect("forgets");
    free.store(100_000, SeqCst);
    // The packs that can go as a whole make the room for the others: were they discarded after the moves, there would never be any.
    let report = open(&lab, "gc", &free).collect(&remedy(), &Progress::default()).expect("collects");
    assert!(report.deleted_packs > 0 && report.purged_files > 0 && free.load(SeqCst) > 1 << 20, "{report:?}");
    let (lab, free) = (Lab::new(), Arc::new(AtomicU64::new(u64::MAX / 2)));
    let store = open(&lab, "state", &free);
    let (b, data) = thin_store(&lab, &store, false);
    free.store(100_000, SeqCst);
    let report = open(&lab, "gc", &free).collect(&remedy(), &Progress::default()).expect("ends without the moves");
    assert_eq!(report.moved_frames, 0, "{report:?}");
    free.store(u64::MAX / 2, SeqCst);
    let report = open(&lab, "gc", &free).collect(&GcOptions { dead_after_ms: 0, ..remedy() }, &Progress::default()).expect("collects");
    assert!(report.moved_frames > 0, "{report:?}");
    let store = open(&lab, "fresh", &free);
    assert_eq!(restore(&store, &point(&store, &b)).expect("restores"), data);
}

#[test]
fn what_a_backup_stored_before_the_disk_was_full_is_found_again() {
    let (lab, free) = (Lab::new(), Arc::new(AtomicU64::new(45 << 20)));
    // One whole pack fits, the second does not.
    let mut x = 45u64;
    let word = |_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()
    };
    let data: Vec<u8> = (0..(72 << 20) / 8).flat_map(word).collect();
    let e = backup(&open(&lab, "state", &free), "a", &data, full()).expect_err("it does not fit");
    assert!(e.is_no_space(), "{e}");
    assert!(!lab.files("d").is_empty() && !lab.files("x").is_empty(), "what is stored is told");
    free.store(u64::MAX / 2, SeqCst);
    let a = backup(&open(&lab, "another", &free), "a", &data, full()).expect("backs up");
    assert!(a.stored_bytes < 42 << 20, "{} bytes, some of them again", a.stored_bytes);
    let store = open(&lab, "fresh", &free);
    assert!(restore(&store, &point(&store, &a)).is_ok_and(|d| d == data));
}

/// A disk of noise that looks, when its end is read, whether the store has an index file.
struct Watching {
    index: PathBuf,
    seen: Arc<AtomicU64>,
}

/// More than the three packs by which the first is told of, less than the five by which four would be.
const WATCHED_BYTES: u64 = 120 << 20;
const WAIT_LIMIT: Duration = Duration::from_secs(60);

impl Watching {
    fn index_files(&self) -> u64 {
        let months = std::fs::read_dir(&self.index).into_iter().flatten().flatten();
        months.filter_map(|m| std::fs::read_dir(m.path()).ok()).flatten().count() as u64
    }
}

impl BlockSource for Watching {
    fn size_bytes(&self) -> u64 {
        WATCHED_BYTES
    }
    fn extents(&self, range: Range<u64>) -> io::Result<Vec<Extent>> {
        Ok(vec![Extent { range, zero: false }])
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        for (i, word) in buf.chunks_mut(8).enumerate() {
            let x = (offset / 8 + i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            word.copy_from_slice(&(x ^ x >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_le_bytes()[..word.len()]);
        }
        if offset + buf.len() as u64 == WATCHED_BYTES {
            // What is read is ahead of what is written, by more on a busy machine; the writer goes on while this waits.
            let begin = Instant::now();
            while self.index_files() == 0 && begin.elapsed() < WAIT_LIMIT {
                std::thread::sleep(Duration::from_millis(20));
            }
            self.seen.store(self.index_files(), SeqCst);
        }
        Ok(())
    }
    fn parallel(&self) -> usize {
        1
    }
}

#[test]
fn a_backup_that_is_killed_early_has_told_of_its_first_pack() {
    let lab = Lab::new();
    let seen = Arc::new(AtomicU64::new(u64::MAX));
    let source = Watching { index: lab.root().join("x"), seen: seen.clone() };
    let job = [DiskJob { target: "disk0".into(), source: Arc::new(source), plan: full() }];
    lab.open().begin().expect("begins").backup(&job, || info("a"), &Progress::default(), || Ok(())).expect("backs up");
    assert!((1..u64::MAX).contains(&seen.load(SeqCst)), "{} index files before the fourth pack", seen.load(SeqCst));
}
