//! Every operation of a script goes wrong once, in each way that there is; what must hold afterwards is [`Town::recover_and_audit`].

use crate::{
    common::content,
    town::{Saved, Town, seed_or},
};
use cairn_store::{
    Plan, Result, Store,
    platform::simulated::{Fault, OpKind, Operation, StorageKind, Survival, survive},
};

/// What the victim does.
pub type Script = fn(&Town, &Store) -> Result<()>;

/// A way to go wrong: its name, whether it makes a difference for an operation, the fault.
type Way = (&'static str, fn(&Operation) -> bool, fn() -> Fault);

const FAILURES: [Way; 2] =
    [("fails before", |_| true, || Fault::FailBefore(libc::EIO)), ("fails after it took effect", |op| op.kind.changes(), || Fault::FailAfter(libc::EIO))];
/// Between two operations that only read, a crash leaves what it leaves before the next change.
const ENDS_LOCAL: [Way; 3] = [
    ("crash", |op| op.kind.changes(), || Fault::Crash),
    ("power loss, nothing survives", |op| op.kind.changes(), || Fault::PowerLoss(Survival::None)),
    ("power loss, anything survives", |op| op.kind.changes(), || Fault::PowerLoss(Survival::Random)),
];
const ENDS_NFS: [Way; 2] =
    [("crash", |op| op.kind.changes(), || Fault::Crash), ("crash, its link arrives late", |op| op.kind == OpKind::Link, || Fault::CrashInFlight)];

/// Runs `script` from `start` once for each operation and way. `must_ops` guards against a script that does nothing.
pub fn enumerate(kind: StorageKind, start: &Saved, script: Script, must_ops: usize) {
    let seed = seed_or(11);
    let operations = dry_run(kind, seed, start, script);
    assert!(operations.len() >= must_ops, "only {} operations", operations.len());
    let ends: &[Way] = if kind == StorageKind::Local { &ENDS_LOCAL } else { &ENDS_NFS };
    let mut cases = 0;
    for (k, op) in operations.iter().enumerate() {
        for (name, _, fault) in FAILURES.iter().chain(ends).filter(|w| w.1(op)) {
            one_case(kind, seed, start, script, (k as u64, op, name, fault()));
            cases += 1;
        }
    }
    println!("{kind:?}: {} operations, {cases} cases", operations.len());
}

fn dry_run(kind: StorageKind, seed: u64, start: &Saved, script: Script) -> Vec<Operation> {
    let town = Town::from_saved(kind, seed, start);
    let victim = town.world.process(town.world.host(0));
    town.world.record(&victim);
    script(&town, &town.open(&victim, "victim").expect("opens")).expect("nothing goes wrong");
    drop(victim);
    let operations = town.world.recorded();
    town.recover_and_audit(0);
    operations
}

fn one_case(kind: StorageKind, seed: u64, start: &Saved, script: Script, (k, op, way, fault): (u64, &Operation, &str, Fault)) {
    let town = Town::from_saved(kind, seed, start);
    let host = town.world.host(0);
    let victim = town.world.process(host);
    let ends = !matches!(fault, Fault::FailBefore(_) | Fault::FailAfter(_));
    town.world.place(&victim, k, fault);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let outcome = survive(|| town.open(&victim, "victim").and_then(|store| script(&town, &store)));
        assert!(!town.world.has_unused_faults(&victim), "the script did not come that far");
        assert_eq!(outcome.is_none(), ends, "a process ends by a crash alone");
        drop(victim);
        // Local storage has one host; on NFS another one finds what is left.
        town.recover_and_audit(if kind == StorageKind::Local { host } else { town.world.host(1_000) });
    }));
    if let Err(panic) = outcome {
        eprintln!("operation {k} ({:?} {}): {way}", op.kind, op.name);
        std::panic::resume_unwind(panic);
    }
}

fn image(generation: u64) -> Vec<u8> {
    let mut image = content(150_000, 5);
    let at = usize::try_from(generation).expect("small") * 20_000;
    let len = if generation == 0 { 0 } else { 9_000 };
    image[at..at + len].copy_from_slice(&content(len, generation));
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
    town.backup(store, "b", &[content(60_000, 77), image(0)].concat()).map(drop)
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

#[test]
fn a_first_backup_local() {
    enumerate(StorageKind::Local, &fresh(StorageKind::Local), first, 50);
}

#[test]
fn a_first_backup_nfs() {
    enumerate(StorageKind::Nfs, &fresh(StorageKind::Nfs), first, 50);
}

#[test]
fn an_increment_local() {
    enumerate(StorageKind::Local, &after(StorageKind::Local, first), increment, 45);
}

#[test]
fn a_compare_nfs() {
    enumerate(StorageKind::Nfs, &after(StorageKind::Nfs, first), compare, 45);
}

#[test]
fn a_duplicate_of_another_hosts_domain_local() {
    enumerate(StorageKind::Local, &after(StorageKind::Local, first), duplicate, 45);
}

#[test]
fn two_backups_of_one_process_local() {
    enumerate(StorageKind::Local, &after(StorageKind::Local, first), two_in_a_row, 100);
}
