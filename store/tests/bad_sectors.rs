//! A disk with bad sectors: some files are there and give part of their bytes. The storage is a real folder behind a platform that refuses some ranges.

mod common;

use cairn_store::{
    DiskJob, GcOptions, OpenOptions, Plan, Progress, Result, Store, StoreError,
    format::ObjectName,
    platform::{LocalPlatform, Platform},
    scrub::ScrubOptions,
};
use common::{Lab, Mem, backup, content, full, info, passes_on, point, restore};
use std::{
    fs, io,
    ops::Range,
    path::Path,
    sync::{Arc, Mutex},
};

const ALL: ScrubOptions = ScrubOptions { percent: 100, rate_bytes_max: None };

/// Bytes of objects that the disk does not give.
type BadSectors = Arc<Mutex<Vec<(String, Range<u64>)>>>;

struct Disk {
    folder: LocalPlatform,
    bad: BadSectors,
}

impl Disk {
    fn check(&self, name: &ObjectName, read: &Range<u64>) -> Result<()> {
        let bad = self.bad.lock().expect("lock").iter().any(|(n, r)| n == name.as_str() && r.start < read.end && read.start < r.end);
        let error = || StoreError::Storage { op: "read", name: name.to_string(), source: io::Error::from_raw_os_error(libc::EIO) };
        if bad { Err(error()) } else { Ok(()) }
    }
}

impl Platform for Disk {
    passes_on!(folder: location create cover barrier size list list_dirs now_unix_ms monotonic_ms boot sleep_ms random process is_gone deleting);

    fn read(&self, name: &ObjectName, max: usize) -> Result<Option<Vec<u8>>> {
        self.check(name, &(0..u64::MAX))?;
        self.folder.read(name, max)
    }
    fn read_at(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Option<Vec<u8>>> {
        self.check(name, &(offset..offset + len as u64))?;
        self.folder.read_at(name, offset, len)
    }
}

fn open(lab: &Lab, state: &str, bad: &BadSectors) -> Store {
    let disk = Disk { folder: LocalPlatform::open(&lab.root()).expect("opens"), bad: bad.clone() };
    let options = OpenOptions { credential: lab.credential(), state_dir: lab.dir.path().join(state), host: "host".into() };
    Store::open_on(Arc::new(disk), options).expect("opens")
}

fn name_of(lab: &Lab, file: &Path) -> String {
    file.strip_prefix(lab.root()).expect("below the root").to_str().expect("plain").to_owned()
}

fn at_once() -> GcOptions {
    GcOptions { resume_grace_ms: 0, trash_keep_ms: 0, repack_below_percent: 0, wait_ms_max: 1000, poll_ms: 10, ..GcOptions::default() }
}

#[test]
fn a_scrub_finds_the_frames_on_bad_sectors_and_they_heal() {
    let lab = Lab::new();
    let bad = BadSectors::default();
    let store = open(&lab, "state", &bad);
    let data = content(16 << 20, 3);
    let a = backup(&store, "a", &data, full()).expect("backs up");
    let pack = lab.files("d").remove(0);
    let middle = fs::metadata(&pack).expect("stat").len() / 2;
    bad.lock().expect("lock").push((name_of(&lab, &pack), middle..middle + 512));

    let store = open(&lab, "fresh", &bad);
    let found = store.scrub(&ALL, &Progress::default()).expect("scrubs");
    assert!(!found.findings.is_empty() && found.findings.iter().all(|f| f.offset.is_some_and(|o| o < middle + 512 && o + (256 << 10) > middle)), "{found:?}");
    // The bitmap says that nothing changed; what lay on the sector is read again all the same.
    let job = [DiskJob { target: "disk0".into(), source: Arc::new(Mem(data.clone())), plan: Plan::Incremental { base: (a.id, 0), dirty: vec![] } }];
    let b = store.begin().expect("begins").backup(&job, || info("a"), &Progress::default(), || Ok(())).expect("backs up");
    let read_bytes = b.disks[0].entry.read_bytes;
    assert!(read_bytes > 0 && read_bytes < 2 << 20, "{read_bytes} bytes were read again");
    let report = store.collect(&at_once(), &Progress::default()).expect("collects");
    assert!(report.healed_frames > 0 && report.moved_frames > 50, "the other frames of the pack move: {report:?}");
    assert!(!pack.exists(), "nothing needs the bad file any more");
    let store = open(&lab, "another", &bad);
    for p in [&a, &b] {
        assert_eq!(restore(&store, &point(&store, p)).expect("restores"), data);
    }
    assert_eq!(store.scrub(&ALL, &Progress::default()).expect("scrubs").findings, []);
}

#[test]
fn a_collection_replaces_an_index_file_that_the_disk_does_not_give() {
    let lab = Lab::new();
    let bad = BadSectors::default();
    let data = content(2 << 20, 4);
    backup(&open(&lab, "state", &bad), "a", &data, full()).expect("backs up");
    let index = lab.files("x").remove(0);
    bad.lock().expect("lock").push((name_of(&lab, &index), 0..u64::MAX));

    // Nor a pack of it: what else the file may say is not known.
    let pack = name_of(&lab, &lab.files("d").remove(0));
    bad.lock().expect("lock").push((pack.clone(), 100..200));
    open(&lab, "first", &bad).collect(&at_once(), &Progress::default()).expect("collects");
    assert!(index.exists(), "it may be read tomorrow");
    bad.lock().expect("lock").retain(|(name, _)| *name != pack);

    let store = open(&lab, "fresh", &bad);
    store.collect(&at_once(), &Progress::default()).expect("collects");
    assert!(!index.exists() && !lab.files("x").is_empty(), "another one stands for it");
    let b = backup(&open(&lab, "other", &bad), "b", &data, full()).expect("backs up");
    assert!(b.stored_bytes < 100_000, "all of it is found: {}", b.stored_bytes);
}

#[test]
fn what_collections_keep_for_each_other_may_lie_on_bad_sectors() {
    let lab = Lab::new();
    let bad = BadSectors::default();
    let store = open(&lab, "state", &bad);
    let a = backup(&store, "a", &content(300_000, 11), full()).expect("backs up");
    let b = backup(&store, "b", &content(300_000, 12), full()).expect("backs up");
    store.forget(&point(&store, &a), 0, true).expect("forgets");
    let spoil = |names: &[String]| *bad.lock().expect("lock") = names.iter().map(|n| (n.clone(), 0..u64::MAX)).collect();
    // A list of a collection that died before it decided, one of a collection that decided, a session that died, a tombstone.
    let junk = |name: &ObjectName| fs::write(lab.root().join(name.as_str()), b"these sectors are not read").expect("writes");
    let dead = cairn_store::format::SessionId([7; 16]);
    let names = [ObjectName::condemned(1), ObjectName::condemned(2), ObjectName::pardon(2), ObjectName::session(&dead)];
    names.iter().for_each(junk);
    let mut all: Vec<String> = names.iter().map(ToString::to_string).collect();
    all.push(ObjectName::tombstone(&a.id).to_string());
    spoil(&all);
    let store = open(&lab, "state", &bad);
    backup(&store, "c", &content(200_000, 13), full()).expect("a backup goes on");
    let report = store.collect(&GcOptions { dead_after_ms: 0, ..at_once() }, &Progress::default()).expect("a collection goes on");
    assert!(report.fenced.len() == 1 && !lab.root().join(ObjectName::condemned(1).as_str()).exists(), "{report:?}");
    assert!(lab.root().join(ObjectName::condemned(2).as_str()).exists(), "what it decided cannot be read, so it may still be deleted by");
    let store = open(&lab, "state", &bad);
    assert_eq!(restore(&store, &point(&store, &b)).expect("restores"), content(300_000, 12));
}
