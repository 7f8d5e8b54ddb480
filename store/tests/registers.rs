//! Registers that are lost, and their copies: on a real directory.

mod common;

use cairn_store::{
    GcOptions, Plan, Progress, Store, StoreError,
    format::{
        ObjectName, SessionId,
        register::{self, RegisterKind},
    },
    scrub::{ScrubOptions, scrub_without_keys},
};
use common::{Lab, backup, content, full, point, restore};
use std::{fs, path::PathBuf};

const ALL: ScrubOptions = ScrubOptions { percent: 100, rate_bytes_max: None };

fn at_once() -> GcOptions {
    GcOptions { wait_ms_max: 2000, poll_ms: 20, resume_grace_ms: 0, trash_keep_ms: 0, repack_below_percent: 0, ..GcOptions::default() }
}

fn packs(lab: &Lab) -> usize {
    lab.files("d").len() + lab.files("m").len()
}

fn path(lab: &Lab, name: &ObjectName) -> PathBuf {
    lab.root().join(name.as_str())
}

fn register_of(lab: &Lab, id: &SessionId) -> [PathBuf; 2] {
    [path(lab, &ObjectName::register(id)), path(lab, &ObjectName::register_copy(id))]
}

fn fresh(lab: &Lab, state: &str) -> Store {
    lab.open_with(lab.credential(), state).expect("opens")
}

fn findings(lab: &Lab, state: &str) -> [usize; 2] {
    let keyed = fresh(lab, state).scrub(&ALL, &Progress::default()).expect("scrubs");
    let keyless = scrub_without_keys(&lab.root(), &lab.dir.path().join("keyless"), &ALL, &Progress::default()).expect("scrubs");
    [keyed.findings.len(), keyless.findings.len()]
}

#[test]
fn a_lost_register_is_told_of_and_put_back_from_its_copy() {
    for encrypted in [true, false] {
        let lab = Lab::with(encrypted);
        let data = content(300_000, 1);
        let a = backup(&lab.open(), "a", &data, full()).expect("backs up");
        let [register, copy] = register_of(&lab, &a.id);
        let bytes = fs::read(&register).expect("reads");
        assert_eq!(fs::read(&copy).expect("there is a copy"), bytes);
        assert_eq!(findings(&lab, "whole"), [0, 0]);
        fs::remove_file(&register).expect("loses it");
        let store = fresh(&lab, "fresh");
        let (points, damaged) = store.points_from_storage().expect("lists");
        assert!(points.len() == 1 && damaged.len() == 1 && damaged[0].contains(&a.id.to_string()), "{damaged:?}");
        assert_eq!(restore(&store, &points[0]).expect("restores"), data);
        assert!(store.has_committed(&a.id).expect("looks"));
        assert_eq!(findings(&lab, "scrub"), [1, 1]);
        let dry = store.collect(&GcOptions { dry_run: true, ..at_once() }, &Progress::default()).expect("looks");
        assert!(dry.condemned == 0 && !register.exists(), "{dry:?}");
        let before = packs(&lab);
        let report = store.collect(&at_once(), &Progress::default()).expect("collects");
        assert!(report.registers_put_back == 1 && report.fenced.is_empty() && report.deleted_packs == 0 && packs(&lab) == before, "{report:?}");
        assert_eq!(fs::read(&register).expect("is back"), bytes);
        assert_eq!(findings(&lab, "mended"), [0, 0]);
    }
}

#[test]
fn a_damaged_register_is_told_of_and_its_copy_serves() {
    let lab = Lab::new();
    let data = content(300_000, 2);
    let a = backup(&lab.open(), "a", &data, full()).expect("backs up");
    let [register, _] = register_of(&lab, &a.id);
    fs::write(&register, b"rubbish").expect("damages");
    let store = fresh(&lab, "fresh");
    let (points, damaged) = store.points_from_storage().expect("lists");
    assert!(points.len() == 1 && damaged.len() == 1 && damaged[0].contains(&a.id.to_string()), "{damaged:?}");
    store.collect(&at_once(), &Progress::default()).expect("collects");
    assert_eq!(restore(&store, &points[0]).expect("restores"), data);
    assert!(findings(&lab, "scrub").iter().all(|n| *n > 0));
    // A register is never written over; once the damaged one is taken out of the way, the copy comes back.
    fs::remove_file(&register).expect("takes it away");
    assert_eq!(store.collect(&at_once(), &Progress::default()).expect("collects").registers_put_back, 1);
    assert_eq!(findings(&lab, "mended"), [0, 0]);
}

#[test]
fn only_what_was_committed_has_a_copy() {
    let lab = Lab::new();
    let store = lab.open();
    drop(store.begin().expect("begins"));
    let shut_out = store.begin().expect("begins");
    store.collect(&GcOptions { dead_after_ms: 0, ..at_once() }, &Progress::default()).expect("collects");
    let job = cairn_store::DiskJob { target: "disk0".into(), source: std::sync::Arc::new(common::Mem(content(50_000, 3))), plan: full() };
    let out = shut_out.backup(&[job], || common::info("a"), &Progress::default(), || Ok(()));
    assert!(matches!(out, Err(StoreError::Fenced { .. })), "{out:?}");
    store.collect(&at_once(), &Progress::default()).expect("collects");
    assert_eq!((lab.files("c").len(), lab.files("r").len()), (2, 0), "{:?}", lab.files("r"));
    assert!(store.points().expect("lists").is_empty());
}

#[test]
fn a_register_that_is_lost_with_its_copy_stops_collections() {
    for child in [true, false] {
        let lab = Lab::new();
        let store = lab.open();
        let data = content(300_000, 4);
        let a = backup(&store, "a", &data, full()).expect("backs up");
        let gone = backup(&store, "gone", &content(90_000, 5), full()).expect("backs up");
        if child {
            backup(&store, "a", &data, Plan::Compare { reason: "t".into(), base: (a.id, 0) }).expect("backs up");
        } else {
            store.tag(&point(&store, &a), "gold", true).expect("tags");
        }
        // Records of sessions that ended are cleared away.
        store.collect(&at_once(), &Progress::default()).expect("collects");
        store.forget(&point(&store, &gone), 0, true).expect("forgets");
        register_of(&lab, &a.id).iter().for_each(|f| fs::remove_file(f).expect("loses it"));
        let store = fresh(&lab, "fresh");
        let (_, damaged) = store.points_from_storage().expect("lists");
        assert!(damaged.len() == 1 && damaged[0].contains(&a.id.to_string()), "{damaged:?}");
        assert!(findings(&lab, "scrub")[0] > 0);
        let before = packs(&lab);
        let out = store.collect(&at_once(), &Progress::default());
        assert!(matches!(&out, Err(StoreError::Damaged { what, .. }) if what.contains(&a.id.to_string())), "{out:?}");
        assert!(packs(&lab) == before && lab.files("c").len() == usize::from(child) + 1, "nothing is deleted, nobody is fenced");
        store.forget_unreadable(&a.id).expect("gives it up");
        assert!(store.collect(&at_once(), &Progress::default()).expect("collects").deleted_packs > 0);
        assert!(store.points_from_storage().expect("lists").1.is_empty());
    }
}

#[test]
fn a_fence_in_the_place_of_a_lost_register_stops_collections() {
    let lab = Lab::new();
    let store = lab.open();
    let data = content(300_000, 6);
    let a = backup(&store, "a", &data, full()).expect("backs up");
    let [register, _] = register_of(&lab, &a.id);
    // A collection of a version that knows no copies found packs without register.
    fs::write(&register, register::encode(&a.id, RegisterKind::Fence, &[], &[]).expect("encodes")).expect("fences");
    let store = fresh(&lab, "fresh");
    let (points, damaged) = store.points_from_storage().expect("lists");
    assert!(points.is_empty() && damaged.len() == 1, "a fence is a fence, and the copy tells: {damaged:?}");
    let before = packs(&lab);
    let out = store.collect(&at_once(), &Progress::default());
    assert!(matches!(&out, Err(StoreError::Damaged { what, .. }) if what.contains(&a.id.to_string())), "{out:?}");
    assert_eq!(packs(&lab), before);
    fs::remove_file(&register).expect("takes the fence away, as the message says");
    let store = fresh(&lab, "another");
    assert_eq!(store.collect(&at_once(), &Progress::default()).expect("collects").registers_put_back, 1);
    assert_eq!(restore(&store, &point(&store, &a)).expect("restores"), data);
}

#[test]
fn a_collection_makes_the_copies_that_older_versions_did_not() {
    let lab = Lab::new();
    let store = lab.open();
    let ids: Vec<SessionId> = (0..3).map(|n| backup(&store, "a", &content(50_000, 7 + n), full()).expect("backs up").id).collect();
    lab.files("r").iter().for_each(|f| fs::remove_file(f).expect("removes"));
    assert_eq!(findings(&lab, "old"), [0, 0], "a store without copies is whole");
    store.forget(&store.points().expect("lists")[0].clone(), 0, true).expect("forgets");
    store.collect(&at_once(), &Progress::default()).expect("collects");
    assert_eq!(lab.files("r").len(), 2);
    for id in &ids[1..] {
        let [register, copy] = register_of(&lab, id);
        assert_eq!(fs::read(register).expect("reads"), fs::read(copy).expect("reads"));
    }
}

#[test]
fn a_point_that_nothing_tells_of_is_missed_by_a_host_that_has_seen_it() {
    let lab = Lab::new();
    let store = lab.open();
    let kept = backup(&store, "b", &content(90_000, 9), full()).expect("backs up");
    let a = backup(&store, "a", &content(300_000, 8), full()).expect("backs up");
    assert_eq!(store.points().expect("lists").len(), 2);
    let saved: Vec<Vec<u8>> = register_of(&lab, &a.id).iter().map(|f| fs::read(f).expect("reads")).collect();
    register_of(&lab, &a.id).iter().for_each(|f| fs::remove_file(f).expect("hides it"));
    drop(store);

    let store = lab.open();
    let (points, damaged) = store.points_and_damage().expect("lists");
    assert!(points.len() == 1 && damaged.len() == 1 && damaged[0].contains(&a.id.to_string()) && damaged[0].contains(".sqlite"), "{damaged:?}");
    assert!(store.scrub(&ALL, &Progress::default()).expect("scrubs").findings.iter().any(|f| f.object.contains(&a.id.to_string())));
    let stopped = |out: &StoreError| matches!(out, StoreError::Damaged { what, .. } if what.contains(&a.id.to_string()));
    assert!(store.points_for_retention().is_err_and(|e| stopped(&e)));
    let before = packs(&lab);
    assert!(store.collect(&at_once(), &Progress::default()).is_err_and(|e| stopped(&e)));
    // Whoever goes on all the same fences nobody, and leaves the packs.
    let report = store.collect(&GcOptions { accept_loss: true, dead_after_ms: 0, ..at_once() }, &Progress::default()).expect("collects");
    assert!(report.fenced.is_empty() && packs(&lab) == before && lab.files("c").len() == 1, "{report:?}");
    register_of(&lab, &a.id).iter().zip(&saved).for_each(|(f, bytes)| fs::write(f, bytes).expect("is put back"));
    assert!(store.points_and_damage().expect("lists").1.is_empty());
    store.collect(&at_once(), &Progress::default()).expect("collects");

    register_of(&lab, &a.id).iter().for_each(|f| fs::remove_file(f).expect("hides it again"));
    store.forget_unreadable(&a.id).expect("gives it up");
    // A point that was forgotten and collected leaves its register and its tombstone: neither is missed.
    store.forget(&point(&store, &kept), 0, true).expect("forgets");
    let report = store.collect(&at_once(), &Progress::default()).expect("collects");
    assert!(report.deleted_packs > 0 && report.fenced.len() == 1, "what is given up is no point any more: {report:?}");
    assert!(store.points_and_damage().expect("lists").1.is_empty());
}

#[test]
fn a_point_that_was_given_up_frees_its_packs_at_once() {
    let lab = Lab::new();
    let store = lab.open();
    let kept = backup(&store, "b", &content(90_000, 9), full()).expect("backs up");
    let before = packs(&lab);
    let a = backup(&store, "a", &content(300_000, 8), full()).expect("backs up");
    assert_eq!(store.points().expect("lists").len(), 2);
    // Its session's record goes.
    store.collect(&at_once(), &Progress::default()).expect("collects");
    register_of(&lab, &a.id).iter().for_each(|f| fs::remove_file(f).expect("removes"));
    store.forget_unreadable(&a.id).expect("gives it up");
    // Nothing else is to be collected.
    let report = store.collect(&at_once(), &Progress::default()).expect("collects");
    assert!(report.deleted_packs > 0 && report.fenced.len() == 1 && packs(&lab) == before, "{report:?}");
    let report = store.collect(&at_once(), &Progress::default()).expect("collects");
    assert!(report.fenced.is_empty() && report.condemned == 0, "{report:?}");
    assert!(restore(&store, &point(&store, &kept)).is_ok() && store.points_and_damage().expect("lists").1.is_empty());
}
