//! Scrubs on hosts that cannot read for reasons of their own, and on hosts whose clock was wrong.

use super::town::{Saved, Town, noise, seed_or};
use cairn_store::{
    Progress, Store, StoreError,
    platform::simulated::{Fault, OpKind, Operation, SimulatedPlatform, StorageKind},
    scrub::{ScrubOptions, ScrubReport},
};
use std::{collections::BTreeSet, sync::Arc};

const YEAR_MS: i64 = 365 * 86_400_000;

/// Three points, each with packs of its own.
fn start() -> Saved {
    let town = Town::new(StorageKind::Local, seed_or(17));
    let store = town.store(town.world.host(0));
    for (n, name) in (0..).zip(["a", "b", "c"]) {
        town.backup(&store, name, &noise(300_000, n)).expect("backs up");
    }
    drop(store);
    town.save()
}

fn scrub(store: &Store, percent: u8) -> cairn_store::Result<ScrubReport> {
    store.scrub(&ScrubOptions { percent, rate_bytes_max: None }, &Progress::default())
}

/// Who may not read, or has no handle, memory or answer left, knows nothing about what he could not read.
#[test]
fn a_scrub_that_cannot_read_for_reasons_of_its_own_ends_and_reports_nothing() {
    let saved = start();
    let once = |fault: Option<(u64, i32)>| {
        let town = Town::from_saved(StorageKind::Local, seed_or(17), &saved);
        let reader = town.world.process(town.world.host(0));
        let store = town.open(&reader, "reader").expect("opens");
        town.world.record(&reader);
        fault.into_iter().for_each(|(k, errno)| town.world.place(&reader, k, Fault::FailBefore(errno)));
        let outcome = scrub(&store, 100);
        let reports = town.world.names().iter().filter(|n| n.starts_with("b/")).count();
        (outcome, reports, town.world.recorded())
    };
    let (whole, reports, operations) = once(None);
    assert!(whole.expect("nothing goes wrong").findings.is_empty() && reports == 0);
    let reads: Vec<(u64, &Operation)> = (0..).zip(&operations).filter(|(_, op)| op.kind == OpKind::Read).collect();
    assert!(reads.iter().filter(|(_, op)| op.name.starts_with("d/")).count() > 2, "{operations:?}");
    for errno in [libc::EACCES, libc::EMFILE, libc::ENOMEM, libc::ESTALE, libc::ETIMEDOUT] {
        for (k, op) in &reads {
            let (outcome, reports, _) = once(Some((*k, errno)));
            assert_eq!(reports, 0, "error {errno} of {op:?}: {outcome:?}");
            match outcome {
                Err(StoreError::Storage { .. }) => {}
                // Of some objects there is another copy, or nobody depends on them.
                Ok(report) if report.findings.is_empty() && !op.name.starts_with("d/") => {}
                other => panic!("error {errno} of {op:?}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_clock_that_was_ahead_takes_no_pack_out_of_the_scrubs() {
    let town = Town::from_saved(StorageKind::Local, seed_or(17), &start());
    let open = |process: &Arc<SimulatedPlatform>| town.open(process, "scrubs").expect("opens");
    let ahead = town.world.process(town.world.host(YEAR_MS));
    let total = scrub(&open(&ahead), 50).expect("scrubs").packs_total;
    // Set right again.
    let right = town.world.process(town.world.host(0));
    let store = open(&right);
    town.world.record(&right);
    for _ in 0..2 {
        assert_eq!(scrub(&store, 50).expect("scrubs").packs, total.div_ceil(2));
    }
    let is_pack = |name: &&str| name.starts_with("d/") || name.starts_with("m/");
    let read: BTreeSet<String> =
        town.world.recorded().iter().filter(|op| op.kind == OpKind::Read).map(|op| op.name.as_str()).filter(is_pack).map(str::to_owned).collect();
    let all: BTreeSet<String> = town.world.names().into_iter().filter(|n| is_pack(&n.as_str())).collect();
    assert!(all.len() > 5 && read == all, "{:?} were not looked at", all.difference(&read));
}
