//! A storage that is full at every byte of a pack, and an fdatasync or fsync that fails once.

use crate::town::{Saved, Town, noise, seed_or};
use cairn_store::{
    StoreError,
    format::ObjectName,
    platform::{
        Platform,
        simulated::{Fault, OpKind, StorageKind, Survival},
    },
};

/// One chunk that hardly shrinks: a pack of some 4 KiB would take too long at every byte, so most of it repeats.
fn image(n: u8) -> Vec<u8> {
    let mut image = noise(120, n.into());
    image.resize(5000, n);
    image
}

/// Every byte of the data pack and of a metadata pack's first copy; elsewhere each so many.
const COARSE_BYTES: u64 = 19;

#[test]
fn the_storage_is_full_at_every_byte_of_a_pack() {
    let origin = {
        let town = Town::new(StorageKind::Local, 5);
        let host = town.world.host(0);
        town.backup(&town.store(host), "a", &image(1)).expect("backs up");
        town.save()
    };
    // Packs are the second to fourth object that a backup writes: session record, data, metadata twice, index file, register. The register's copy comes
    // last, and the point does without it.
    let mut sizes = written_sizes(&origin);
    assert_eq!(sizes.pop(), sizes.last().copied());
    let (packs, all) = (sizes[0]..sizes[..3].iter().sum(), sizes.iter().sum::<u64>());
    assert!(sizes.len() == 6 && packs.end - packs.start > 500, "{sizes:?}");
    for free in (0..all).filter(|n| packs.contains(n) || n % COARSE_BYTES == 0) {
        let town = Town::from_saved(StorageKind::Local, seed_or(12), &origin);
        let host = town.world.host(0);
        let store = town.store(host);
        town.world.set_free_bytes(Some(free));
        let e = town.backup(&store, "b", &image(2)).expect_err("it does not fit");
        assert!(e.is_no_space(), "{free} bytes free: {e}");
        // The same process goes on once there is room, and what it stores does not lean on anything half written.
        town.world.set_free_bytes(None);
        let id = town.backup(&store, "c", &image(2)).expect("there is room again");
        assert_eq!(store.points().expect("lists").last().expect("it is listed").id, id);
        drop(store);
        town.world.power_loss(host, Survival::None);
        town.audit(&town.store(host));
    }
}

/// Bytes of the objects that the backup writes, in its order.
fn written_sizes(origin: &Saved) -> Vec<u64> {
    let town = Town::from_saved(StorageKind::Local, seed_or(12), origin);
    let process = town.world.process(town.world.host(0));
    town.world.record(&process);
    town.backup(&town.open(&process, "state").expect("opens"), "b", &image(2)).expect("backs up");
    let links = town.world.recorded().into_iter().filter(|op| op.kind == OpKind::Link);
    links
        .map(|op| op.name.rsplit_once('/').and_then(|(dir, file)| ObjectName::listed(dir, file)).expect("an object"))
        .map(|name| process.size(&name).expect("asks").expect("there"))
        .collect()
}

#[test]
fn a_sync_that_fails_once_costs_that_backup_alone() {
    for kind in [OpKind::SyncFile, OpKind::SyncDir] {
        let origin = Town::new(StorageKind::Local, 5).save();
        let operations = {
            let town = Town::from_saved(StorageKind::Local, seed_or(13), &origin);
            let victim = town.world.process(town.world.host(0));
            town.world.record(&victim);
            town.backup(&town.open(&victim, "victim").expect("opens"), "a", &image(3)).expect("backs up");
            town.world.recorded()
        };
        let syncs: Vec<u64> = (0..).zip(&operations).filter(|(_, op)| op.kind == kind).map(|(k, _)| k).collect();
        assert!(syncs.len() >= 5, "{kind:?}: {}", syncs.len());
        // Behind the register comes its copy, which a point does without.
        let committed = (0..).zip(&operations).find(|(_, op)| op.name == "r" || op.name.starts_with("r/")).map(|(k, _)| k).expect("it is made");
        for k in syncs.into_iter().filter(|k| *k < committed) {
            let town = Town::from_saved(StorageKind::Local, seed_or(13), &origin);
            let host = town.world.host(0);
            let victim = town.world.process(host);
            town.world.place(&victim, k, Fault::FailBefore(libc::EIO));
            let store = town.open(&victim, "victim").expect("opens");
            let failed = town.backup(&store, "a", &image(3)).expect_err("a sync failed");
            assert!(matches!(failed, StoreError::Storage { .. }), "{failed}");
            // At once again, in the same process: all of it under new names.
            town.backup(&store, "a", &image(3)).expect("it fails once");
            drop((store, victim));
            town.recover_and_audit(host);
        }
    }
}
