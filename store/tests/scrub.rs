//! Scrub, healing, restores around damage, comparison with a disk: on a real directory.

mod common;

use cairn_store::{
    DiskJob, GcOptions, Plan, Point, PointState, Progress, Store, StoreError,
    scrub::{ScrubOptions, ScrubReport, scrub_without_keys},
    verify::Verifier,
};
use common::{Lab, Mem, MemTarget, backup, content, full, info, point, restore};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

const REGION: usize = 4 << 20;
const ALL: ScrubOptions = ScrubOptions { percent: 100, rate_bytes_max: None };

fn scrub(store: &Store) -> ScrubReport {
    store.scrub(&ALL, &Progress::default()).expect("scrubs")
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("reads");
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("damages");
}

fn pack_of(lab: &Lab, below: &str, id: &cairn_store::format::SessionId) -> PathBuf {
    lab.files(below).into_iter().find(|f| f.to_string_lossy().contains(&id.to_string())).expect("its pack")
}

fn collect(store: &Store) -> cairn_store::GcReport {
    let options = GcOptions { resume_grace_ms: 0, trash_keep_ms: 0, repack_below_percent: 0, wait_ms_max: 1000, poll_ms: 10, ..GcOptions::default() };
    store.collect(&options, &Progress::default()).expect("collects")
}

fn verify(store: &Store, p: &Point) -> u64 {
    store.verify_point(p, true, &Verifier::new(store).expect("reports"), &Progress::default()).expect("verifies").damage_count
}

#[test]
fn a_whole_store_has_no_findings_with_and_without_keys() {
    for encrypted in [true, false] {
        let lab = Lab::with(encrypted);
        let store = lab.open();
        let a = backup(&store, "a", &content(3 * REGION, 1), full()).expect("backs up");
        store.tag(&point(&store, &a), "x", true).expect("tags");
        let b = backup(&store, "b", &content(REGION, 2), full()).expect("backs up");
        store.forget(&point(&store, &b), 0, true).expect("forgets");
        collect(&store);
        let _session = store.begin().expect("begins");
        let with = scrub(&store);
        assert!(with.findings.is_empty() && with.packs == with.packs_total && with.frames > 50 && with.objects > 8, "{with:?}");
        let without = scrub_without_keys(&lab.root(), &lab.dir.path().join("other"), &ALL, &Progress::default()).expect("scrubs");
        assert_eq!((without.findings.len(), without.frames, without.objects), (0, with.frames, with.objects));
    }
}

#[test]
fn a_share_at_a_time_comes_round_to_every_pack() {
    let lab = Lab::with(false);
    let store = lab.open();
    for i in 0..5 {
        backup(&store, "a", &content(REGION / 4, 20 + i), full()).expect("backs up");
    }
    let bad = lab.files("d").remove(3);
    flip(&bad, 500);
    let share = ScrubOptions { percent: 20, rate_bytes_max: None };
    let runs: Vec<_> = (0..5).map(|_| store.scrub(&share, &Progress::default()).expect("scrubs")).collect();
    assert!(runs.iter().all(|r| r.packs == 2 && r.packs_total == 10), "{runs:?}");
    assert_eq!(runs.iter().map(|r| r.findings.len()).sum::<usize>(), 1, "each pack was looked at once");
    let slow = std::time::Instant::now();
    let report = store.scrub(&ScrubOptions { percent: 100, rate_bytes_max: Some(20 << 20) }, &Progress::default()).expect("scrubs");
    let least = std::time::Duration::from_millis(report.bytes * 1000 / (20 << 20));
    // The platform's clock counts whole milliseconds.
    assert!(slow.elapsed() + std::time::Duration::from_millis(2) >= least, "{:?} for {} bytes", slow.elapsed(), report.bytes);
}

#[test]
fn damage_is_stored_anew_by_the_next_backup_and_older_points_heal() {
    let lab = Lab::new();
    let store = lab.open();
    let data = content(4 * REGION, 3);
    let a = backup(&store, "a", &data, full()).expect("backs up");
    let pack = pack_of(&lab, "d", &a.id);
    let size = fs::metadata(&pack).expect("stat").len() as usize;
    [70, size / 3, size / 2].iter().for_each(|at| flip(&pack, *at));
    let found = scrub(&store);
    assert!(found.findings.len() >= 3 && found.findings.iter().all(|f| f.offset.is_some()), "{found:?}");
    assert!(verify(&store, &point(&store, &a)) > 0);
    // The bitmap says that nothing changed; the damaged places are read again all the same.
    let job = [DiskJob { target: "disk0".into(), source: Arc::new(Mem(data.clone())), plan: Plan::Incremental { base: (a.id, 0), dirty: vec![] } }];
    let b = store.begin().expect("begins").backup(&job, || info("a"), &Progress::default(), || Ok(())).expect("backs up");
    let entry = &b.disks[0].entry;
    assert!(entry.read_bytes > 0 && entry.read_bytes < 2 << 20, "{} bytes were read again", entry.read_bytes);
    assert_eq!(restore(&store, &point(&store, &b)).expect("restores"), data);
    assert!(restore(&store, &point(&store, &a)).is_ok_and(|d| d == data), "the index knows the new copies");
    let report = collect(&store);
    assert!(report.healed_frames > 0, "{report:?}");
    assert!(!pack.exists(), "what was whole has moved out of the damaged pack");
    let fresh = lab.open_with(lab.credential(), "fresh").expect("opens");
    for p in [&a, &b] {
        assert_eq!(verify(&fresh, &point(&fresh, p)), 0);
        assert_eq!(restore(&fresh, &point(&fresh, p)).expect("restores"), data);
    }
    assert!(scrub(&fresh).findings.is_empty());
    collect(&store);
    assert!(lab.files("b").is_empty(), "reports about what is gone are gone");
}

#[test]
fn a_lost_pack_heals_too() {
    let lab = Lab::with(false);
    let store = lab.open();
    let data = content(2 * REGION, 4);
    let a = backup(&store, "a", &data, full()).expect("backs up");
    fs::remove_file(pack_of(&lab, "d", &a.id)).expect("loses it");
    let store = lab.open_with(None, "fresh").expect("opens");
    let found = scrub(&store);
    assert!(found.findings.iter().any(|f| f.why.contains("missing")), "{found:?}");
    let job = [DiskJob { target: "disk0".into(), source: Arc::new(Mem(data.clone())), plan: Plan::Incremental { base: (a.id, 0), dirty: vec![] } }];
    let b = store.begin().expect("begins").backup(&job, || info("a"), &Progress::default(), || Ok(())).expect("backs up");
    collect(&store);
    let fresh = lab.open_with(None, "another").expect("opens");
    for p in [&a, &b] {
        assert_eq!(restore(&fresh, &point(&fresh, p)).expect("restores"), data);
    }
}

#[test]
fn one_copy_of_metadata_heals_from_the_other() {
    let lab = Lab::new();
    let store = lab.open();
    let data = content(2 * REGION, 5);
    let a = backup(&store, "a", &data, full()).expect("backs up");
    let copy = lab.files("m").into_iter().find(|f| f.to_string_lossy().ends_with(".a")).expect("a copy");
    for at in [100, fs::metadata(&copy).expect("stat").len() as usize - 60] {
        flip(&copy, at);
        let store = lab.open_with(lab.credential(), &format!("s{at}")).expect("opens");
        assert!(!scrub(&store).findings.is_empty());
        assert_eq!(restore(&store, &point(&store, &a)).expect("restores"), data);
    }
    collect(&store);
    assert!(!copy.exists());
    let fresh = lab.open_with(lab.credential(), "fresh").expect("opens");
    assert!(scrub(&fresh).findings.is_empty());
    assert_eq!(restore(&fresh, &point(&fresh, &a)).expect("restores"), data);
}

#[test]
fn a_report_without_reason_is_not_believed() {
    let lab = Lab::new();
    let store = lab.open();
    let data = content(REGION, 6);
    let a = backup(&store, "a", &data, full()).expect("backs up");
    let pack = pack_of(&lab, "d", &a.id);
    let good = fs::read(&pack).expect("reads");
    flip(&pack, good.len() / 2);
    assert!(!scrub(&store).findings.is_empty() && !lab.files("b").is_empty());
    // The disk had a bad moment.
    fs::write(&pack, good).expect("mends");
    let again = backup(&store, "b", &data, full()).expect("backs up");
    assert!(again.stored_bytes < 100_000, "{} bytes stored again", again.stored_bytes);
}

#[test]
fn a_damaged_point_can_be_restored_around_the_damage() {
    let lab = Lab::new();
    let store = lab.open();
    let data = content(5 * REGION, 7);
    let a = backup(&store, "a", &data, full()).expect("backs up");
    let pack = pack_of(&lab, "d", &a.id);
    flip(&pack, fs::metadata(&pack).expect("stat").len() as usize / 2);
    let store = lab.open_with(lab.credential(), "fresh").expect("opens");
    let p = point(&store, &a);
    assert!(matches!(restore(&store, &p), Err(StoreError::Damaged { .. })));
    let disk = store.disks(&p).expect("disks").remove(0);
    let target = MemTarget::new(data.len());
    let report = store.restore_disk(&disk, &target, cairn_store::restore::OnDamage::WriteZeros, &Progress::default()).expect("restores the rest");
    assert_eq!(report.damage.len(), 1, "{:?}", report.damage);
    let d = &report.damage[0];
    let (from, to) = (d.offset as usize, (d.offset + d.len) as usize);
    let out = target.0.into_inner().expect("lock");
    assert!(to - from <= 128 << 10 && out[from..to].iter().all(|b| *b == 0));
    assert!(out[..from] == data[..from] && out[to..] == data[to..], "all else is right");
    store.record_verdict(&p, Some("1 range")).expect("records");
    assert_eq!(point(&store, &a).state(), PointState::Damaged);
}

#[test]
fn a_disk_is_compared_by_roots() {
    let lab = Lab::new();
    let store = lab.open();
    let mut data = content(4 * REGION + 5000, 8);
    let a = backup(&store, "a", &data, full()).expect("backs up");
    let disk = store.disks(&point(&store, &a)).expect("disks").remove(0);
    let compare = |d: &[u8]| store.compare(&disk, &Mem(d.to_vec()), &Progress::default()).expect("compares");
    assert!(compare(&data).is_equal());
    data[REGION + 77] ^= 1;
    data[2 * REGION + 1] ^= 1;
    let m = REGION as u64;
    let two: Vec<std::ops::Range<u64>> = std::iter::once(m..3 * m).collect();
    assert_eq!(compare(&data).ranges, two);
    data.truncate(3 * REGION);
    let short = compare(&data);
    assert_eq!((short.other_size, short.ranges.last().map(|r| r.end)), (Some(3 * m), Some(4 * m + 5000)));
}

#[test]
fn a_pack_whose_footer_is_damaged_is_read_by_the_index_file_and_healed() {
    let lab = Lab::new();
    let store = lab.open();
    let data = content(2 * REGION, 41);
    let a = backup(&store, "a", &data, full()).expect("backs up");
    let pack = pack_of(&lab, "d", &a.id);
    let size = fs::metadata(&pack).expect("stat").len() as usize;
    for at in [size - 3, size - 30, size - 200] {
        flip(&pack, at);
        let store = lab.open_with(lab.credential(), &format!("s{at}")).expect("opens");
        assert_eq!(restore(&store, &point(&store, &a)).expect("restores"), data);
        assert_eq!(scrub(&store).findings.len(), 1);
    }
    let report = collect(&store);
    assert!(report.moved_frames > 0 && !pack.exists(), "{report:?}");
    // Not even the index files are needed any more.
    lab.files("x").iter().for_each(|f| fs::remove_file(f).expect("removes"));
    let fresh = lab.open_with(lab.credential(), "fresh").expect("opens");
    assert_eq!(restore(&fresh, &point(&fresh, &a)).expect("restores"), data);
    assert!(scrub(&fresh).findings.is_empty());
}

#[test]
fn a_damaged_index_file_is_replaced_by_the_next_collection() {
    for cut in [true, false] {
        let lab = Lab::new();
        let store = lab.open();
        let data = content(3 * REGION, 51);
        let a = backup(&store, "a", &data, full()).expect("backs up");
        let file = lab.files("x").remove(0);
        // A session takes in what others have published.
        drop(store.begin().expect("begins"));
        if cut {
            fs::write(&file, b"").expect("cuts");
        } else {
            flip(&file, 100);
        }
        let unindexed = lab.open_with(lab.credential(), "unindexed").expect("opens");
        let again = backup(&unindexed, "b", &data, full()).expect("backs up");
        assert!(again.stored_bytes > 1 << 20, "nobody knows what is there");
        unindexed.forget(&point(&unindexed, &again), 0, true).expect("forgets");
        // The host that collects took the file in when it was whole; its scrub tells it to look again.
        collect(&store);
        assert!(file.exists());
        assert_eq!(scrub(&store).finding_count, 1);
        collect(&store);
        assert!(!file.exists() && lab.files("x").len() == 1, "{:?}", lab.files("x"));
        let fresh = lab.open_with(lab.credential(), "fresh").expect("opens");
        assert_eq!(scrub(&fresh).finding_count, 0, "packs are as the new file says");
        let third = backup(&fresh, "c", &data, full()).expect("backs up");
        assert!(third.stored_bytes < 100_000, "{} bytes stored again", third.stored_bytes);
        assert_eq!(restore(&fresh, &point(&fresh, &a)).expect("restores"), data);
    }
}

#[test]
fn a_damaged_pack_is_not_vouched_for_by_a_new_index_file() {
    let lab = Lab::new();
    let store = lab.open();
    let a = backup(&store, "a", &content(2 * REGION, 52), full()).expect("backs up");
    let pack = pack_of(&lab, "d", &a.id);
    flip(&pack, fs::metadata(&pack).expect("stat").len() as usize / 2);
    flip(&lab.files("x").remove(0), 100);
    let fresh = lab.open_with(lab.credential(), "fresh").expect("opens");
    assert!(scrub(&fresh).finding_count >= 2);
    collect(&fresh);
    let names = lab.files("x").into_iter().map(|f| fs::read(f).expect("reads")).flat_map(|bytes| cairn_store::format::index::decode(&bytes).expect("whole").1);
    let of_a: Vec<_> = names.map(|p| p.pack).filter(|p| p.session == a.id).collect();
    assert!(of_a.iter().all(|p| p.kind == cairn_store::format::PackKind::Meta), "the damaged pack is not named: {of_a:?}");
    assert!(scrub(&lab.open_with(lab.credential(), "another").expect("opens")).finding_count > 0, "the damage is still told");
}

#[test]
fn a_lost_pack_that_no_index_file_names_is_missed_by_the_registers_that_need_it() {
    let lab = Lab::new();
    let store = lab.open();
    let a = backup(&store, "a", &content(REGION, 53), full()).expect("backs up");
    for f in lab.files("x").into_iter().chain(lab.files("m")) {
        fs::remove_file(f).expect("loses it");
    }
    let fresh = lab.open_with(lab.credential(), "fresh").expect("opens");
    let found = scrub(&fresh);
    assert!(found.findings.iter().any(|f| f.object.starts_with("m/") && f.why.contains(&a.id.to_string())), "{found:?}");
    // What was forgotten and collected is missed by nobody.
    let lab = Lab::new();
    let store = lab.open();
    let b = backup(&store, "b", &content(REGION, 54), full()).expect("backs up");
    store.forget(&point(&store, &b), 0, true).expect("forgets");
    collect(&store);
    assert_eq!(scrub(&store).finding_count, 0);
}
