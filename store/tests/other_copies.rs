//! A store that was set back to an earlier copy, and two copies of one store that are used in turn: other objects lie under the names that this host knows.

mod common;

use cairn_store::{
    GcOptions, Plan, Progress, Store, StoreError,
    format::{ObjectName, register::RegisterKind},
};
use common::{Lab, backup, content, full, point, restore};
use std::{fs, path::Path, process::Command};

fn at_once() -> GcOptions {
    GcOptions { wait_ms_max: 2000, poll_ms: 20, resume_grace_ms: 0, trash_keep_ms: 0, repack_below_percent: 0, ..GcOptions::default() }
}

/// As an admin copies a folder: dates stay.
fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs").success());
}

/// The disk in the drive is changed for the other one.
fn swap(lab: &Lab) {
    let (there, other, aside) = (lab.root(), lab.dir.path().join("other"), lab.dir.path().join("aside"));
    fs::rename(&there, &aside).expect("out");
    fs::rename(&other, &there).expect("in");
    fs::rename(&aside, &other).expect("away");
}

fn collect(store: &Store) -> cairn_store::GcReport {
    store.collect(&at_once(), &Progress::default()).expect("collects")
}

#[test]
fn a_protect_in_one_copy_holds_although_the_other_has_another_entry_of_that_number() {
    let lab = Lab::new();
    let data = content(300_000, 1);
    let first = backup(&lab.open(), "vm", &data, full()).expect("backs up");
    copy(&lab.root(), &lab.dir.path().join("other"));
    let store = lab.open();
    store.tag(&point(&store, &first), "monday", true).expect("tags");
    assert_eq!(point(&store, &first).tags(), ["monday"], "this host has the entry in its cache");
    drop(store);

    swap(&lab);
    let store = lab.open();
    let before = point(&store, &first);
    assert!(before.tags().is_empty(), "this copy has no log");
    store.protect(&before, true).expect("protects");
    for p in [point(&store, &first), store.point_from_storage(&first.id).expect("reads").expect("is there"), before.clone()] {
        let out = store.forget(&p, 0, true);
        assert!(matches!(&out, Err(StoreError::Refused(why)) if why.contains("protected")), "{out:?}");
    }
    assert!(point(&store, &first).is_protected());
    assert!(store.points_from_storage().expect("lists").0[0].is_protected());
    collect(&store);
    assert_eq!(restore(&store, &point(&store, &first)).expect("restores"), data);
}

#[test]
fn a_collection_buries_no_point_by_the_log_of_another_copy() {
    let lab = Lab::new();
    let data = content(300_000, 2);
    let a = backup(&lab.open(), "vm", &data, full()).expect("backs up");
    copy(&lab.root(), &lab.dir.path().join("other"));
    let store = lab.open();
    store.forget(&point(&store, &a), 0, true).expect("forgets");
    assert_eq!(store.forgotten_points().expect("lists").len(), 1, "and keeps the entry");
    assert!(store.points().expect("lists").is_empty());
    drop(store);

    swap(&lab);
    let store = lab.open();
    let p = point(&store, &a);
    store.protect(&p, true).expect("protects");
    assert!(store.point_from_storage(&a.id).expect("reads").expect("is a point").is_protected());
    let report = collect(&store);
    assert!(report.deleted_packs == 0 && lab.files("f").is_empty(), "{report:?}");
    assert_eq!(restore(&store, &point(&store, &a)).expect("restores"), data);
}

#[test]
fn a_session_that_was_fenced_in_a_store_set_back_is_no_point() {
    let lab = Lab::new();
    let (data, next) = (content(300_000, 3), content(300_000, 4));
    let a = backup(&lab.open(), "vm", &data, full()).expect("backs up");
    copy(&lab.root(), &lab.dir.path().join("other"));
    let store = lab.open();
    let b = backup(&store, "vm", &next, full()).expect("backs up");
    assert_eq!(store.points().expect("lists").len(), 2);
    drop(store);

    swap(&lab);
    // Another host found what that session had left, and fenced it.
    let fence = cairn_store::format::register::encode(&b.id, RegisterKind::Fence, &[], &[]).expect("encodes");
    let name = lab.root().join(ObjectName::register(&b.id).as_str());
    fs::create_dir_all(name.parent().expect("month")).expect("creates");
    fs::write(&name, fence).expect("fences");
    let store = lab.open();
    let ids: Vec<_> = store.points().expect("lists").iter().map(|p| p.id).collect();
    assert_eq!(ids, [a.id]);
    assert!(store.point_from_storage(&b.id).expect("reads").is_none());
    assert!(store.begin().expect("begins").point(&b.id).is_none(), "no parent");
    let on = backup(&store, "vm", &next, Plan::Compare { reason: "t".into(), base: (b.id, 0) });
    assert!(matches!(on, Err(StoreError::NotFound(_))), "{on:?}");
}
