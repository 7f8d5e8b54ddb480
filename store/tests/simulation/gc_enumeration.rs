//! Enumerations over forgetting and collecting: what no live point needs goes, nothing else, whatever goes wrong.

use crate::{
    common::content,
    enumerate::{Enumeration, Script},
    town::{Saved, Town, noise, repacking, ruthless},
};
use cairn_store::{GcOptions, Progress, Result, Store, platform::simulated::StorageKind};

/// `a` and `b` have much in common, and each something of its own.
fn image(domain: u64) -> Vec<u8> {
    [content(40_000, 5), noise(40_000, domain), content(30_000, 6)].concat()
}

fn start(kind: StorageKind) -> Saved {
    let town = Town::new(kind, 3);
    let host = town.world.host(0);
    let store = town.store(host);
    town.backup(&store, "a", &image(0)).expect("backs up");
    town.backup(&store, "b", &image(1)).expect("backs up");
    drop(store);
    town.save()
}

fn collect(store: &Store, options: &GcOptions) -> Result<()> {
    store.collect(options, &Progress::default()).map(drop)
}

/// Forget a, collect, back c up (it has what a had), collect again.
fn forget_and_collect(town: &Town, store: &Store, options: &GcOptions) -> Result<()> {
    let first = town.oldest();
    town.forget(store, &first)?;
    collect(store, options)?;
    town.backup(store, "c", &[image(0), noise(8_000, 9)].concat())?;
    collect(store, options)
}

fn script(town: &Town, store: &Store) -> Result<()> {
    forget_and_collect(town, store, &ruthless())
}

fn script_with_repacking(town: &Town, store: &Store) -> Result<()> {
    forget_and_collect(town, store, &repacking())
}

fn run(kind: StorageKind, script: Script, options: GcOptions, sample: usize) {
    Enumeration { kind, start: start(kind), script, collect: Some(options), operations_min: 200, sample }.run();
}

#[test]
fn forget_and_collect_local() {
    run(StorageKind::Local, script, ruthless(), 1);
}

#[test]
fn forget_and_collect_nfs() {
    run(StorageKind::Nfs, script, ruthless(), 1);
}

#[test]
fn repacking_local() {
    run(StorageKind::Local, script_with_repacking, repacking(), 5);
}

#[test]
fn repacking_nfs() {
    run(StorageKind::Nfs, script_with_repacking, repacking(), 5);
}

/// Small packs are rewritten by each collection here, and with them the list of what the one before has moved.
#[test]
fn frames_and_their_lists_that_were_moved_again_and_again_are_found() {
    for kind in [StorageKind::Nfs, StorageKind::Local] {
        let town = Town::from_saved(kind, 8, &start(kind));
        let host = town.world.host(0);
        for round in 0..5 {
            // Nothing but what lies in the store tells the next one where everything is.
            let report = town.collect(&town.store(host), &repacking());
            assert!(report.moved_frames > 0, "round {round}: {report:?}");
            town.forget_index_files();
            town.audit(&town.store(host));
        }
        town.collect_and_audit(host, &ruthless());
    }
}
