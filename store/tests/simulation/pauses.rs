//! A process that is stopped before each of its operations in turn, while others run to their ends; then it goes on. It fails loudly, or
//! its point restores; nobody else's point suffers either way.

use crate::{
    common::content,
    town::{Saved, Town, seed_or},
};
use cairn_store::{
    Plan, Result, Store,
    platform::simulated::{Fault, StorageKind, survive},
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// What one process does.
pub type Script = fn(&Town, &Store) -> Result<()>;

/// Stops `stopped` at each operation while `meanwhile` runs elsewhere. Returns how often the stopped one failed all the same.
pub fn pause_everywhere(kind: StorageKind, start: &Saved, stopped: Script, meanwhile: Script) -> (u64, u64) {
    let seed = seed_or(14);
    let (mut k, mut failed) = (0, 0);
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
        town.world.place(&victim, k, Fault::Pause(Box::new(other)));
        let outcome = survive(|| town.open(&victim, "here").and_then(|store| stopped(&town, &store))).expect("nobody dies");
        if let Err(e) = outcome {
            println!("stopped before operation {k}: {e}");
            failed += 1;
        }
        drop(victim);
        town.recover_and_audit(there);
        if !came.load(Ordering::SeqCst) {
            return (k, failed);
        }
        k += 1;
    }
}

fn image(generation: u64) -> Vec<u8> {
    [content(60_000, 5), content(20_000, 40 + generation), content(50_000, 6)].concat()
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
            let (operations, failed) = pause_everywhere(kind, &start(), increment, meanwhile);
            assert!(operations > 45, "{operations} operations");
            assert_eq!(failed, 0, "backups do not stand in each other's way");
        }
    }
}
