//! Enumerations over backups alone.

use crate::{
    common::content,
    enumerate::{Enumeration, Script},
    town::{Saved, Town, noise},
};
use cairn_store::{Plan, Result, Store, platform::simulated::StorageKind};

fn image(generation: u64) -> Vec<u8> {
    let mut image = content(150_000, 5);
    let at = usize::try_from(generation).expect("small") * 20_000;
    let len = if generation == 0 { 0 } else { 9_000 };
    image[at..at + len].copy_from_slice(&noise(len, generation));
    image
}

fn first(town: &Town, store: &Store) -> Result<()> {
    town.backup(store, "a", &image(0)).map(drop)
}

fn increment(town: &Town, store: &Store) -> Result<()> {
    town.backup(store, "a", &image(1)).map(drop)
}

fn compare(town: &Town, store: &Store) -> Result<()> {
    town.backup_with(store, "a", &image(2), |base, _| Plan::Compare { reason: "test".into(), base: (base, 0) }).map(drop)
}

/// Another domain with content of the first one: its chunks are known by the index alone.
fn duplicate(town: &Town, store: &Store) -> Result<()> {
    town.backup(store, "b", &[noise(60_000, 77), image(0)].concat()).map(drop)
}

/// Two backups in one process: the second may not lean on what the first failed to make durable.
fn two_in_a_row(town: &Town, store: &Store) -> Result<()> {
    let one = town.backup(store, "a", &image(3)).map(drop);
    let two = town.backup(store, "c", &image(3)).map(drop);
    one.and(two)
}

fn after(kind: StorageKind, script: Script) -> Saved {
    let town = Town::new(kind, 3);
    let host = town.world.host(0);
    script(&town, &town.store(host)).expect("nothing goes wrong");
    town.save()
}

fn fresh(kind: StorageKind) -> Saved {
    Town::new(kind, 3).save()
}

fn run(kind: StorageKind, start: Saved, script: Script, operations_min: usize) {
    Enumeration { kind, start, script, collect: None, operations_min, sample: 1 }.run();
}

#[test]
fn a_first_backup_local() {
    run(StorageKind::Local, fresh(StorageKind::Local), first, 50);
}

#[test]
fn a_first_backup_nfs() {
    run(StorageKind::Nfs, fresh(StorageKind::Nfs), first, 50);
}

#[test]
fn an_increment_local() {
    run(StorageKind::Local, after(StorageKind::Local, first), increment, 45);
}

#[test]
fn a_compare_nfs() {
    run(StorageKind::Nfs, after(StorageKind::Nfs, first), compare, 45);
}

#[test]
fn a_duplicate_of_another_hosts_domain_local() {
    run(StorageKind::Local, after(StorageKind::Local, first), duplicate, 45);
}

#[test]
fn two_backups_of_one_process_local() {
    run(StorageKind::Local, after(StorageKind::Local, first), two_in_a_row, 100);
}
