//! A process that is stopped before each of its operations in turn, while others run to their ends; then it goes on. It fails loudly, or
//! its point restores; nobody else's point suffers either way.

use crate::{
    common::{content, restore},
    town::{Saved, Town, noise, repacking, ruthless, seed_or},
};
use cairn_store::{
    GcOptions, Plan, Progress, Result, Store, StoreError,
    platform::simulated::{Fault, StorageKind, survive},
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// What one process does.
pub type Script = fn(&Town, &Store) -> Result<()>;

/// Where a process was stopped and what became of it.
#[derive(Default)]
pub struct Pauses {
    pub operations: u64,
    /// How often it failed.
    pub failed: u64,
    /// How often it was shut out.
    pub fenced: u64,
    /// How often it noticed by what was gone: the packs that it relies on, or its own temporary file, were taken for a dead one's.
    pub bereft: u64,
}

/// Before it commits, a backup that was shut out may find so by what a collection took from it.
fn is_bereft(e: &StoreError) -> bool {
    match e {
        StoreError::Damaged { why, .. } => why.contains("the backup was not committed"),
        StoreError::Storage { op: "write", source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

/// Stops `stopped` at each operation while `meanwhile` runs elsewhere, then looks with `check`.
pub fn pause_everywhere(kind: StorageKind, start: &Saved, stopped: Script, meanwhile: Script, check: fn(&Town, usize)) -> Pauses {
    pause_at(1, kind, start, stopped, meanwhile, check)
}

/// The same at one of so many operations, the seed says which ones, unless CAIRN_SIM_FULL is set.
fn pause_at(sample: u64, kind: StorageKind, start: &Saved, stopped: Script, meanwhile: Script, check: fn(&Town, usize)) -> Pauses {
    let seed = seed_or(14);
    let sample = if std::env::var_os("CAIRN_SIM_FULL").is_some() { 1 } else { sample };
    let mut out = Pauses { operations: seed % sample, ..Pauses::default() };
    loop {
        let town = Arc::new(Town::from_saved(kind, seed, start));
        let here = town.world.host(0);
        let there = if kind == StorageKind::Local { here } else { town.world.host(-86_400_000) };
        let victim = town.world.process(here);
        let came = Arc::new(AtomicBool::new(false));
        let other = {
            let (town, came) = (town.clone(), came.clone());
            move || {
                came.store(true, Ordering::SeqCst);
                let state = if kind == StorageKind::Local { "here".to_owned() } else { town.fresh_state() };
                let store = town.open(&town.world.process(there), &state).expect("opens");
                meanwhile(&town, &store).expect("nothing goes wrong there");
            }
        };
        town.world.place(&victim, out.operations, Fault::Pause(Box::new(other)));
        let outcome = survive(|| town.open(&victim, "here").and_then(|store| stopped(&town, &store))).expect("nobody dies");
        if let Err(e) = outcome {
            println!("stopped before operation {}: {e}", out.operations);
            out.failed += 1;
            out.fenced += u64::from(matches!(e, StoreError::Fenced { .. }));
            out.bereft += u64::from(is_bereft(&e));
        }
        drop(victim);
        check(&town, there);
        if !came.load(Ordering::SeqCst) {
            return out;
        }
        out.operations += sample;
    }
}

fn image(generation: u64) -> Vec<u8> {
    [content(60_000, 5), noise(20_000, generation), content(50_000, 6)].concat()
}

fn increment(town: &Town, store: &Store) -> Result<()> {
    town.backup(store, "a", &image(1)).map(drop)
}

fn same_content(town: &Town, store: &Store) -> Result<()> {
    town.backup(store, "b", &image(1)).map(drop)
}

fn same_domain(town: &Town, store: &Store) -> Result<()> {
    town.backup_with(store, "a", &image(2), |base, _| Plan::Compare { reason: "test".into(), base: (base, 0) }).map(drop)
}

fn start() -> Saved {
    let town = Town::new(StorageKind::Nfs, 4);
    let host = town.world.host(0);
    town.backup(&town.store(host), "a", &image(0)).expect("backs up");
    town.save()
}

#[test]
fn a_backup_stands_still_while_others_back_up() {
    for kind in [StorageKind::Nfs, StorageKind::Local] {
        for meanwhile in [same_content as Script, same_domain] {
            let out = pause_everywhere(kind, &start(), increment, meanwhile, Town::recover_and_audit);
            assert!(out.operations > 45, "{} operations", out.operations);
            assert_eq!(out.failed, 0, "backups do not stand in each other's way");
        }
    }
}

/// The base of the stopped backup goes, and with it all that nobody else refers to; who does not move for long enough is shut out.
fn forget_and_collect(town: &Town, store: &Store) -> Result<()> {
    town.forget(store, &town.oldest())?;
    town.collect(store, &ruthless());
    Ok(())
}

fn forget_and_repack(town: &Town, store: &Store) -> Result<()> {
    town.forget(store, &town.oldest())?;
    town.collect(store, &repacking());
    Ok(())
}

/// A collection that does not wait for long gives up rather than shut somebody out.
fn forget_and_give_up(town: &Town, store: &Store) -> Result<()> {
    town.forget(store, &town.oldest())?;
    match store.collect(&GcOptions { dead_after_ms: 1 << 40, wait_ms_max: 5000, ..ruthless() }, &Progress::default()) {
        Ok(_) | Err(StoreError::Busy(_)) => Ok(()),
        Err(e) => Err(e),
    }
}

fn collect_afterwards(town: &Town, host: usize) {
    town.recover_and_audit(host);
    town.collect_and_audit(host, &repacking());
}

/// Two points of `a`, the first of which is to be forgotten, and one of `b`.
fn start_of_three() -> Saved {
    let town = Town::from_saved(StorageKind::Nfs, 4, &start());
    let host = town.world.host(0);
    let store = town.store(host);
    town.backup(&store, "a", &image(7)).expect("backs up");
    town.backup(&store, "b", &image(8)).expect("backs up");
    drop(store);
    town.save()
}

#[test]
fn a_backup_stands_still_while_its_base_is_forgotten_and_collected() {
    for (meanwhile, shut_out) in [(forget_and_collect as Script, true), (forget_and_repack, true), (forget_and_give_up, false)] {
        let out = pause_everywhere(StorageKind::Nfs, &start(), increment, meanwhile, collect_afterwards);
        assert!(out.operations > 45, "{} operations", out.operations);
        assert_eq!(out.fenced > 10, shut_out, "{} of {} were shut out", out.fenced, out.operations);
    }
}

#[test]
fn a_backup_of_known_content_stands_still_while_that_is_forgotten_and_collected() {
    for (meanwhile, may_shut_out) in [(forget_and_collect as Script, true), (forget_and_repack, true), (forget_and_give_up, false)] {
        for kind in [StorageKind::Nfs, StorageKind::Local] {
            let out = pause_at(2, kind, &start(), same_content, meanwhile, collect_afterwards);
            println!("{kind:?}: {} operations, {} failed, {} shut out, {} bereft", out.operations, out.failed, out.fenced, out.bereft);
            assert!(out.operations > 45, "{} operations", out.operations);
            assert_eq!(out.fenced > 0, may_shut_out, "{kind:?}: {} of {} were shut out", out.fenced, out.operations);
            assert_eq!(out.failed, out.fenced + out.bereft, "{kind:?}: nothing else goes wrong");
            assert!(may_shut_out || out.failed == 0, "{kind:?}: {} failed beside a collection that shuts nobody out", out.failed);
        }
    }
}

#[test]
fn a_collection_stands_still_while_others_back_up_forget_and_collect() {
    fn stopped(town: &Town, store: &Store) -> Result<()> {
        town.forget(store, &town.oldest())?;
        store.collect(&repacking(), &Progress::default()).map(drop)
    }
    fn all_of_it(town: &Town, store: &Store) -> Result<()> {
        same_content(town, store)?;
        town.collect(store, &repacking());
        town.backup(store, "c", &image(0)).map(drop)
    }
    for meanwhile in [same_content as Script, same_domain, all_of_it] {
        let out = pause_at(8, StorageKind::Nfs, &start_of_three(), stopped, meanwhile, collect_afterwards);
        assert!(out.operations > 200, "{} operations", out.operations);
    }
}

#[test]
fn a_reader_that_pinned_its_point_stands_still_while_that_is_forgotten_and_collected() {
    /// A pin holds, or says that it came too late.
    fn stopped(town: &Town, store: &Store) -> Result<()> {
        let id = town.oldest();
        let Some(point) = store.points()?.into_iter().find(|p| p.id == id) else { return Ok(()) };
        let _pin = match store.pin(&[id]) {
            Err(StoreError::NotFound(_)) => return Ok(()),
            other => other?,
        };
        assert!(restore(store, &point)? == *town.content_of(&id));
        Ok(())
    }
    /// Readers that live are not taken for dead.
    fn patient(town: &Town, store: &Store) -> Result<()> {
        town.forget(store, &town.oldest())?;
        town.collect(store, &GcOptions { dead_after_ms: 1 << 40, ..repacking() });
        Ok(())
    }
    for kind in [StorageKind::Nfs, StorageKind::Local] {
        let out = pause_everywhere(kind, &start_of_three(), stopped, patient, collect_afterwards);
        assert!(out.operations > 20 && out.failed == 0, "{} operations, {} failed", out.operations, out.failed);
    }
}

/// Two collections of which each has its own view of what may go; the round that one closes is never the other's, even under the same number.
#[test]
fn a_collection_stands_still_while_another_closes_a_round_and_a_backup_uses_what_it_kept() {
    fn kept() -> Vec<u8> {
        noise(60_000, 33)
    }
    fn stopped(_: &Town, store: &Store) -> Result<()> {
        store.collect(&ruthless(), &Progress::default()).map(drop)
    }
    fn meanwhile(town: &Town, store: &Store) -> Result<()> {
        town.collect(store, &GcOptions { resume_grace_ms: 1 << 40, ..ruthless() });
        town.backup(store, "c", &kept()).map(drop)
    }
    let start = {
        let town = Town::from_saved(StorageKind::Nfs, 4, &start());
        let host = town.world.host(0);
        let store = town.store(host);
        town.give_up(&store, &kept());
        town.forget(&store, &town.oldest()).expect("forgets");
        drop(store);
        town.save()
    };
    let out = pause_at(2, StorageKind::Nfs, &start, stopped, meanwhile, collect_afterwards);
    assert!(out.operations > 100, "{} operations", out.operations);
}

/// A list of moves that one collection lets go, since no point uses it, while another has read it: the place that it moved lies in a pack that the
/// first one keeps for interrupted backups, a new backup takes it from there, and the other collection must not look for it where it was moved to.
#[test]
fn a_collection_stands_still_while_another_retires_a_list_of_moves_and_a_backup_uses_the_old_place() {
    fn keeping() -> GcOptions {
        GcOptions { resume_grace_ms: 1 << 40, ..ruthless() }
    }
    /// The beginning of what was interrupted: the rest of it is used by nobody, so its pack is thin.
    fn kept() -> Vec<u8> {
        noise(300_000, 34)[..90_000].to_vec()
    }
    fn stopped(_: &Town, store: &Store) -> Result<()> {
        store.collect(&ruthless(), &Progress::default()).map(drop)
    }
    fn meanwhile(town: &Town, store: &Store) -> Result<()> {
        town.collect(store, &keeping());
        // A host that never heard of the new place.
        let other = town.store(town.world.host(0));
        town.backup(&other, "c", &kept()).map(drop)
    }
    let start = {
        let town = Town::from_saved(StorageKind::Nfs, 4, &start());
        let host = town.world.host(0);
        let store = town.store(host);
        town.give_up(&store, &noise(300_000, 34));
        let user = town.backup(&store, "b", &kept()).expect("backs up");
        let report = town.collect(&store, &GcOptions { repack_below_percent: 60, ..keeping() });
        assert!(report.moved_frames > 0 && report.kept_for_resume > 0, "{report:?}");
        town.forget(&store, &user).expect("forgets");
        drop(store);
        town.save()
    };
    let out = pause_at(2, StorageKind::Nfs, &start, stopped, meanwhile, collect_afterwards);
    assert!(out.operations > 100, "{} operations", out.operations);
}
