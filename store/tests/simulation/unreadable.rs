//! Reads that fail while a point is restored: one at a time, and all of them from some moment on.

use super::{
    common::MemTarget,
    town::{Town, noise, seed_or},
};
use cairn_store::{
    Point, Progress, Store, StoreError,
    platform::simulated::{Fault, OpKind, StorageKind},
    restore::{OnDamage, RestoreReport},
};

/// More operations than a restore has.
const FAULTS: u64 = 2000;

/// What a restore that puts up with damage wrote, and what it told.
fn restore(store: &Store, point: &Point) -> cairn_store::Result<(Vec<u8>, RestoreReport)> {
    let disk = store.disks(point)?.remove(0);
    let target = MemTarget::new(usize::try_from(disk.size_bytes).expect("fits"));
    let report = store.restore_disk(&disk, &target, OnDamage::WriteZeros, &Progress::default())?;
    Ok((target.0.into_inner().expect("lock"), report))
}

fn town() -> Town {
    let town = Town::new(StorageKind::Local, seed_or(17));
    let host = town.world.host(0);
    town.backup(&town.store(host), "fresh", &noise(9 << 20, 3)).expect("backs up");
    town
}

#[test]
fn one_read_that_fails_costs_at_most_what_it_was_for() {
    let saved = town().save();
    let operations = {
        let town = Town::from_saved(StorageKind::Local, seed_or(17), &saved);
        let reader = town.world.process(town.world.host(0));
        let store = town.open(&reader, "reader").expect("opens");
        let point = store.points().expect("lists").into_iter().find(|p| p.summary.name == "fresh").expect("was made");
        town.world.record(&reader);
        restore(&store, &point).expect("nothing goes wrong");
        town.world.recorded()
    };
    assert!(operations.len() > 5 && operations.iter().any(|op| op.kind == OpKind::Read), "{operations:?}");
    let mut with_damage = 0;
    for k in 0..operations.len() as u64 {
        let town = Town::from_saved(StorageKind::Local, seed_or(17), &saved);
        let reader = town.world.process(town.world.host(0));
        let store = town.open(&reader, "reader").expect("opens");
        let point = store.points().expect("lists").into_iter().find(|p| p.summary.name == "fresh").expect("was made");
        town.world.place(&reader, k, Fault::FailBefore(libc::EIO));
        let (mut got, report) = restore(&store, &point).unwrap_or_else(|e| panic!("operation {k} ({:?}): {e}", operations[k as usize]));
        let mut want = town.content_of(&point.id).to_vec();
        for d in &report.damage {
            let range = usize::try_from(d.offset).expect("fits")..usize::try_from(d.offset + d.len).expect("fits");
            assert!(got[range.clone()].iter().all(|b| *b == 0), "operation {k}: damage is written as zeros");
            got[range.clone()].fill(1);
            want[range].fill(1);
        }
        assert!(got == want, "operation {k}: what is not told is right");
        with_damage += u32::from(!report.damage.is_empty());
    }
    println!("{} operations, {with_damage} of them with damage", operations.len());
}

#[test]
fn a_storage_that_answers_no_more_is_no_damage() {
    let saved = town().save();
    for errno in [libc::EIO, libc::ESTALE, libc::ETIMEDOUT, libc::ENOENT] {
        for from in [0, 1, 2, 3, 5, 8] {
            let town = Town::from_saved(StorageKind::Local, seed_or(17), &saved);
            let reader = town.world.process(town.world.host(0));
            let store = town.open(&reader, "reader").expect("opens");
            let point = store.points().expect("lists").into_iter().find(|p| p.summary.name == "fresh").expect("was made");
            (from..FAULTS).for_each(|k| town.world.place(&reader, k, Fault::FailBefore(errno)));
            match restore(&store, &point) {
                Err(StoreError::NoStore { .. } | StoreError::Storage { .. }) => {}
                other => panic!("error {errno} from operation {from} on: {:?}", other.map(|(_, report)| report.damage)),
            }
        }
    }
}
