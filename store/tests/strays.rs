//! What only a copy serves that nothing keeps: verify tells it, and a collection puts it where it belongs before the copy may go.

mod common;

use cairn_store::{BackupOutcome, DiskJob, GcOptions, GcReport, Plan, Progress, Session, Store, scrub::ScrubOptions, verify::Verifier};
use common::{Lab, Mem, backup, content, full, info, point, restore};
use std::{fs, path::Path, sync::Arc};

const REGION: usize = 4 << 20;

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("reads");
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("damages");
}

fn fresh(lab: &Lab, state: &str) -> Store {
    lab.open_with(lab.credential(), state).expect("opens")
}

fn damage_of(store: &Store, p: &BackupOutcome) -> u64 {
    let report = store.verify_point(&point(store, p), true, &Verifier::new(store).expect("reads reports"), &Progress::default()).expect("verifies");
    assert!(report.damage.iter().all(|d| d.why.contains("serves")), "nothing is lost: {report:?}");
    report.damage_count
}

/// No grace for anybody, and nothing stays in the trash.
fn collect(store: &Store, options: &GcOptions) -> GcReport {
    let options = GcOptions { resume_grace_ms: 0, wait_ms_max: 1000, poll_ms: 10, ..options.clone() };
    store.collect(&options, &Progress::default()).expect("collects")
}

fn purging() -> GcOptions {
    GcOptions { trash_keep_ms: 0, repack_below_percent: 0, ..GcOptions::default() }
}

fn clean(store: &Store) {
    let report = store.scrub(&ScrubOptions { percent: 100, rate_bytes_max: None }, &Progress::default()).expect("scrubs");
    assert_eq!(report.findings, []);
}

/// The first data pack of a session.
fn pack_of(lab: &Lab, below: &str, session: &str) -> std::path::PathBuf {
    lab.files(below).into_iter().find(|f| f.to_string_lossy().contains(session)).expect("its pack")
}

#[test]
fn another_points_copy_is_put_in_place_before_that_point_goes() {
    let lab = Lab::new();
    let data = content(3 * REGION, 31);
    // Two hosts at once: neither knows of the other's chunks.
    let sessions: Vec<Session> = ["one", "two"].iter().map(|host| fresh(&lab, host).begin().expect("begins")).collect();
    let job = || [DiskJob { target: "disk0".into(), source: Arc::new(Mem(data.clone())), plan: full() }];
    let made: Vec<BackupOutcome> = sessions.into_iter().map(|s| s.backup(&job(), || info("a"), &Progress::default(), || Ok(())).expect("backs up")).collect();
    let (kept, gone) = (&made[0], &made[1]);
    flip(&pack_of(&lab, "d", &kept.id.to_string()), 500);
    let store = fresh(&lab, "three");
    assert_eq!(damage_of(&store, kept), 1, "it is told, although every byte can be read");
    store.forget(&point(&store, gone), 0, true).expect("forgets");
    assert!(collect(&store, &purging()).healed_frames > 0);
    collect(&store, &purging());
    let store = fresh(&lab, "four");
    assert_eq!(restore(&store, &point(&store, kept)).expect("restores"), data);
    assert_eq!(damage_of(&store, kept), 0);
    clean(&store);
}

#[test]
fn what_was_moved_and_is_damaged_there_comes_back_from_the_trash() {
    for purge_at_once in [true, false] {
        let lab = Lab::new();
        let store = lab.open();
        let data = content(REGION, 32);
        let both = [&data[..], &content(4 * REGION, 33)].concat();
        let a = backup(&store, "a", &both, full()).expect("backs up");
        let b = backup(&store, "b", &data, full()).expect("backs up");
        store.forget(&point(&store, &a), 0, true).expect("forgets");
        let before = lab.files("d");
        let moved = collect(&store, &GcOptions { repack_below_percent: 60, trash_keep_ms: u64::MAX, ..GcOptions::default() });
        assert!(moved.moved_frames > 0 && moved.deleted_packs > 0, "{moved:?}");
        let target = lab.files("d").into_iter().find(|f| !before.contains(f)).expect("a new pack");
        flip(&target, 500);
        let store = fresh(&lab, "two");
        assert_eq!(damage_of(&store, &b), 1, "it is told");
        let report = collect(&fresh(&lab, "three"), &if purge_at_once { purging() } else { GcOptions { trash_keep_ms: u64::MAX, ..purging() } });
        assert!(report.healed_frames > 0, "{report:?}");
        collect(&fresh(&lab, "three"), &purging());
        assert!(lab.files("trash").is_empty() && !target.exists());
        let store = fresh(&lab, "four");
        assert_eq!(restore(&store, &point(&store, &b)).expect("restores"), data);
        assert_eq!(damage_of(&store, &b), 0);
        clean(&store);
    }
}

#[test]
fn a_copy_of_metadata_that_is_wrong_is_told_and_healed() {
    let lab = Lab::new();
    let store = lab.open();
    let data = content(2 * REGION, 34);
    let a = backup(&store, "a", &data, full()).expect("backs up");
    // Nothing changed: its metadata pack holds a manifest and no part of a map.
    let b = backup(&store, "a", &data, Plan::Compare { reason: "a test".into(), base: (a.id, 0) }).expect("backs up");
    for (p, copy) in [(&a, ".a"), (&b, ".a"), (&b, ".b")] {
        let file = lab.files("m").into_iter().find(|f| f.to_string_lossy().contains(&p.id.to_string()) && f.to_string_lossy().ends_with(copy));
        // Healing has moved it otherwise.
        if let Some(file) = file {
            flip(&file, 150);
            let store = fresh(&lab, &format!("{}{copy}", p.id));
            assert_eq!(damage_of(&store, p), 1, "{copy} is told");
            let report = collect(&store, &purging());
            assert!(report.moved_frames > 0, "{report:?}");
            assert_eq!(damage_of(&store, p), 0, "{copy} is healed");
            clean(&fresh(&lab, "scrub"));
        }
    }
}
