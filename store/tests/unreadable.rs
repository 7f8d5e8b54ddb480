//! A storage that is gone is not a store that is damaged: real folders that are taken away under an open store.

mod common;

use cairn_store::{
    Progress, Store, StoreError,
    restore::{OnDamage, RestoreReport},
    verify::Verifier,
};
use common::{Lab, MemTarget, backup, content, full, point};
use std::{fs, path::Path};

fn restore_rest(store: &Store, p: &cairn_store::Point) -> cairn_store::Result<RestoreReport> {
    let disk = store.disks(p)?.remove(0);
    let target = MemTarget::new(usize::try_from(disk.size_bytes).expect("fits"));
    store.restore_disk(&disk, &target, OnDamage::WriteZeros, &Progress::default())
}

/// Every read of it ends with EIO: nothing is mapped at so low an address.
fn make_unreadable(file: &Path) {
    fs::remove_file(file).expect("removes");
    std::os::unix::fs::symlink("/proc/self/mem", file).expect("links");
}

fn assert_gone(lab: &Lab, what: &str, take_away: impl Fn(), bring_back: impl Fn()) {
    let store = lab.open();
    let p = store.points().expect("lists").remove(0);
    let verifier = Verifier::new(&store).expect("nothing is wrong yet");
    take_away();
    let outcomes = [
        ("restore", restore_rest(&store, &p).map(|r| r.damage.len())),
        ("verify --data", store.verify_point(&p, true, &verifier, &Progress::default()).map(|r| r.damage.len())),
        ("verify", store.verify_point(&p, false, &verifier, &Progress::default()).map(|r| r.damage.len())),
    ];
    bring_back();
    for (step, outcome) in outcomes {
        assert!(matches!(outcome, Err(StoreError::NoStore { .. })), "{what}, {step}: {outcome:?}");
    }
    assert_eq!(lab.files("b"), Vec::<std::path::PathBuf>::new(), "{what}: nothing was reported");
    assert_eq!(restore_rest(&lab.open(), &p).expect("restores").damage, []);
}

#[test]
fn a_store_that_is_gone_has_no_damage() {
    let lab = Lab::new();
    let store = lab.open();
    let bytes = content(6 << 20, 7);
    let p = point(&store, &backup(&store, "a", &bytes, full()).expect("backs up"));
    drop(store);

    let (root, away) = (lab.root(), lab.dir.path().join("away"));
    assert_gone(&lab, "the folder is not there", || fs::rename(&root, &away).expect("moves"), || fs::rename(&away, &root).expect("moves"));
    let unmounted = || {
        fs::rename(&root, &away).expect("moves");
        fs::create_dir(&root).expect("an empty mount point");
    };
    let mounted = || {
        fs::remove_dir(&root).expect("nothing was put into it");
        fs::rename(&away, &root).expect("moves");
    };
    assert_gone(&lab, "its file system is not mounted", unmounted, mounted);

    // The whole disk answers with EIO.
    let store = lab.open();
    let verifier = Verifier::new(&store).expect("nothing is wrong yet");
    ["config", "d", "m"].iter().flat_map(|folder| lab.files(folder)).for_each(|f| make_unreadable(&f));
    let outcome = restore_rest(&store, &p);
    assert!(matches!(outcome, Err(StoreError::NoStore { .. })), "{outcome:?}");
    let outcome = store.verify_point(&p, true, &verifier, &Progress::default());
    assert!(matches!(outcome, Err(StoreError::NoStore { .. })), "{outcome:?}");
}

#[test]
fn bad_sectors_are_damage_of_what_lies_there() {
    let lab = Lab::new();
    let store = lab.open();
    let bytes = content(6 << 20, 7);
    let p = point(&store, &backup(&store, "a", &bytes, full()).expect("backs up"));
    lab.files("d").iter().for_each(|f| make_unreadable(f));
    let store = lab.open();
    let report = restore_rest(&store, &p).expect("goes on");
    assert!(!report.damage.is_empty() && report.damage.iter().all(|d| d.why.contains("Input/output error")), "{:?}", report.damage);
    // What can be read says so again once the sectors are back: nothing is believed for ever.
    assert!(!lab.files("b").is_empty(), "reported");
    let outcome = common::restore(&store, &p);
    assert!(matches!(outcome, Err(StoreError::Unreadable { .. })), "{outcome:?}");
}

#[test]
fn a_pipe_in_a_packs_place_keeps_nobody_waiting() {
    let lab = Lab::new();
    let store = lab.open();
    let p = point(&store, &backup(&store, "a", &content(6 << 20, 7), full()).expect("backs up"));
    for file in lab.files("d") {
        fs::remove_file(&file).expect("removes");
        nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRUSR).expect("makes a pipe");
    }
    let (told, done) = std::sync::mpsc::channel();
    let store = lab.open();
    std::thread::spawn(move || told.send(restore_rest(&store, &p).map(|r| r.damage.len())));
    let damage = done.recv_timeout(std::time::Duration::from_secs(60)).expect("it does not hang").expect("goes on");
    assert!(damage > 0, "there is no data in a pipe");
}
