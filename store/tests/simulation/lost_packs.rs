//! What a lost pack costs whoever reads around it, and for how long it counts as lost.

use crate::{
    common::{MemTarget, restore},
    town::{Town, noise},
};
use cairn_store::{
    Progress, Store,
    format::{ObjectName, SessionId},
    platform::{Platform, simulated::StorageKind},
    restore::OnDamage,
};

const LEN: usize = 1 << 20;
/// So many operations for each chunk, beside a fixed number: a look at its place, and at what the index knows.
const OPERATIONS_PER_CHUNK_MAX: u64 = 8;

fn lose_data_packs(town: &Town, id: &SessionId) {
    let process = town.world.process(town.world.host(0));
    let deleting = process.deleting().expect("it may");
    for name in town.world.names().into_iter().filter(|n| n.starts_with("d/") && n.contains(&id.to_string())) {
        let (dir, file) = name.rsplit_once('/').expect("below d/");
        assert!(deleting.delete(&ObjectName::listed(dir, file).expect("an object")).expect("deletes"));
    }
}

fn restore_around(store: &Store, id: &SessionId) -> usize {
    let point = store.points().expect("lists").into_iter().find(|p| p.id == *id).expect("listed");
    let disk = store.disks(&point).expect("disks").remove(0);
    let report = store.restore_disk(&disk, &MemTarget::new(LEN), OnDamage::WriteZeros, &Progress::default()).expect("restores around");
    report.damage.len()
}

#[test]
fn a_lost_pack_costs_one_search_and_not_one_for_each_chunk() {
    let town = Town::new(StorageKind::Nfs, 6);
    let host = town.world.host(0);
    let id = town.backup(&town.store(host), "a", &noise(LEN, 1)).expect("backs up");
    // Folders that a search would go through.
    for n in 0..20 {
        town.backup(&town.store(host), "other", &noise(5000, 100 + n)).expect("backs up");
    }
    lose_data_packs(&town, &id);
    let process = town.world.process(host);
    let store = town.open(&process, &town.fresh_state()).expect("opens");
    let chunks = (LEN >> 15) as u64;
    assert!(restore_around(&store, &id) > 0);
    let before = process.operations();
    assert!(restore_around(&store, &id) > 0);
    let spent = process.operations() - before;
    assert!(spent < 100 + chunks * OPERATIONS_PER_CHUNK_MAX, "{spent} operations for {chunks} chunks");
}

#[test]
fn what_was_lost_is_found_again_once_it_is_stored_again() {
    let town = Town::new(StorageKind::Nfs, 6);
    let host = town.world.host(0);
    let content = noise(LEN, 2);
    let id = town.backup(&town.store(host), "a", &content).expect("backs up");
    lose_data_packs(&town, &id);
    let reader = town.store(host);
    assert!(restore_around(&reader, &id) > 0);
    town.backup(&town.store(host), "b", &content).expect("stores it again");
    // A reader that goes on for long: a minute later it looks again.
    town.world.advance_ms(61_000);
    let point = reader.points().expect("lists").into_iter().find(|p| p.id == id).expect("listed");
    assert!(restore(&reader, &point).expect("restores") == content);
}
