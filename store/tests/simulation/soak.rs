//! Many actors at once under random faults: writers whose images change, readers who restore, collectors who forget. A short form by default; CAIRN_SIM_SEEDS
//! sets how many seeds are run, CAIRN_SIM_SEED the first of them.

use crate::{
    common::{self, content},
    town::{Town, env_number, noise, repacking, ruthless, seed_or},
};
use cairn_store::{
    GcOptions, Plan, Progress, Result, Store, StoreError,
    platform::simulated::{ActorBody, Rates, Rng, StorageKind, survive},
};
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

const YEAR_MS: i64 = 365 * 86_400_000;
const RATES: Rates = Rates { fail_before_ppm: 3000, fail_after_ppm: 3000, crash_ppm: 1500, power_loss_ppm: 300, delay_ppm: 3000 };

/// How often what happened: a soak in which nothing succeeds, or nothing goes wrong, proves nothing.
#[derive(Default)]
struct Sums(Mutex<BTreeMap<&'static str, u64>>);

impl Sums {
    fn add(&self, what: &'static str, count: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(what).or_default() += count;
    }
    fn of(&self, what: &str) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(what).copied().unwrap_or(0)
    }
    /// Each at least so often, in so many days.
    fn expect(&self, days: u64, minima: &[(&str, u64)]) {
        println!("{days} days: {:?}", self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for (what, in_hundred) in minima {
            assert!(self.of(what) >= in_hundred * days / 100, "{what}: {} in {days} days", self.of(what));
        }
    }
}

/// What an actor may meet: a storage that fails, somebody who shut it out or is in its way, a point that somebody forgot. All else is wrong; damage as well,
/// unless a fault came up in this very process and says why.
fn may_end_so(town: &Town, e: &StoreError, faults_met: u64) -> Result<&'static str, ()> {
    match e {
        StoreError::Fenced { .. } => Ok("fenced"),
        StoreError::Busy(_) => Ok("busy"),
        StoreError::NotFound(_) => Ok("gone"),
        StoreError::Storage { .. } | StoreError::Unreadable { .. } | StoreError::NoStore { .. } if faults_met > 0 => Ok("storage failed"),
        // The one slot that this key opens could not be read.
        StoreError::Key(why) if faults_met > 0 && why.contains("Input/output error") => Ok("storage failed"),
        StoreError::Damaged { why, .. } if faults_met > 0 && why.contains("Input/output error") => Ok("storage failed"),
        // It stood still for up to an hour, and was taken for dead: what it relied on is gone.
        StoreError::Damaged { why, .. } if faults_met > 0 && why.contains("the backup was not committed") => Ok("bereft"),
        StoreError::Damaged { what, why } if faults_met > 0 && town.names_forgotten_points_only(&format!("{what}: {why}")) => Ok("forgotten while it was read"),
        _ => Err(()),
    }
}

/// One town's day: `rounds` of each actor, then the audit. Returns the trace's hash.
fn day(kind: StorageKind, seed: u64, rounds: usize, sums: &Sums) -> u64 {
    let town = Town::new(kind, seed);
    let skews = [0, YEAR_MS, -YEAR_MS, 90_000];
    let hosts: Vec<usize> = if kind == StorageKind::Local { vec![town.world.host(0); 4] } else { skews.iter().map(|&s| town.world.host(s)).collect() };
    town.world.set_rates(RATES);
    let mut actors: Vec<ActorBody<'_>> = Vec::new();
    for (n, &host) in (0u64..).zip(&hosts) {
        let (town, mut rng) = (&town, Rng::new(seed ^ (n << 32)));
        // Processes of one host share its state folder.
        let state = if kind == StorageKind::Local { "host".to_owned() } else { format!("host-{n}") };
        actors.push(Box::new(move || {
            let mut image = content(40_000 + rng.below(60_000), seed ^ n);
            for round in 0..rounds {
                let process = town.world.process(host);
                let state = if rng.below(8) == 0 { town.fresh_state() } else { state.clone() };
                // A crash ends the process; the actor goes on with another one.
                let outcome = survive(|| {
                    // What fails by a fault is tried again in the next round.
                    let store = town.open(&process, &state)?;
                    match n {
                        3 => read_all(town, &store, sums),
                        2 => forget_and_collect(town, &store, &mut rng).map(|()| sums.add("collections", 1)),
                        _ if rng.below(8) == 0 => forget_and_collect(town, &store, &mut rng).map(|()| sums.add("collections", 1)),
                        _ => {
                            change(&mut image, &mut rng);
                            write(town, &store, &format!("domain-{}", (n as usize + round) % 4), &image, &mut rng).map(|()| sums.add("commits", 1))
                        }
                    }
                });
                let faults_met = town.world.faults_met(&process);
                sums.add("faults", faults_met);
                match outcome {
                    None => sums.add("deaths", 1),
                    Some(Ok(())) => {}
                    Some(Err(e)) => match may_end_so(town, &e, faults_met) {
                        Ok(what) => sums.add(what, 1),
                        Err(()) => panic!("{kind:?}, seed {seed}, actor {n}, round {round}, after {faults_met} faults: {e:?}"),
                    },
                }
            }
        }));
    }
    town.world.run(actors);
    town.recover_and_audit(hosts[0]);
    town.collect_and_audit(hosts[0], &repacking());
    town.world.trace_hash()
}

/// Some of it changes, and some of it becomes what others have.
fn change(image: &mut Vec<u8>, rng: &mut Rng) {
    for _ in 0..1 + rng.below(3) {
        let at = rng.below(image.len());
        let len = (1 + rng.below(20_000)).min(image.len() - at);
        image[at..at + len].copy_from_slice(&noise(len, rng.below(6) as u64));
    }
    if rng.below(6) == 0 {
        image.resize(20_000 + rng.below(90_000), 3);
    }
}

fn write(town: &Town, store: &Store, domain: &str, image: &[u8], rng: &mut Rng) -> Result<()> {
    match rng.below(3) {
        0 => town.backup_with(store, domain, image, |_, _| common::full())?,
        1 => town.backup_with(store, domain, image, |base, _| Plan::Compare { reason: "soak".into(), base: (base, 0) })?,
        _ => town.backup(store, domain, image)?,
    };
    Ok(())
}

/// Now and then a point goes; then a collection, which may shut out whoever stands still, or give up soon.
fn forget_and_collect(town: &Town, store: &Store, rng: &mut Rng) -> Result<()> {
    let safe = town.safe_points();
    if safe.len() > 2 {
        town.forget(store, &safe[rng.below(safe.len())])?;
    }
    let options = GcOptions {
        dead_after_ms: [10_000, 600_000, 86_400_000][rng.below(3)],
        wait_ms_max: [1000, 100_000, 10_000_000][rng.below(3)],
        repack_below_percent: [0, 50, 95][rng.below(3)],
        ..ruthless()
    };
    store.collect(&options, &Progress::default()).map(drop)
}

/// A fault may end a reader, but no point may be damaged or another's.
fn read_all(town: &Town, store: &Store, sums: &Sums) -> Result<()> {
    let safe = town.safe_points();
    let (points, damaged) = store.points_and_damage()?;
    // What a fault kept from being read is told, and hides what it says.
    assert!(damaged.iter().all(|d| d.contains("cannot be read")), "{damaged:?}");
    for id in safe.into_iter().filter(|_| damaged.is_empty()) {
        assert!(points.iter().any(|p| p.id == id) || town.may_be_forgotten(&id), "point {id} is not listed");
    }
    for p in &points {
        match common::restore(store, p) {
            Ok(data) => {
                assert!(data == *town.content_of(&p.id), "point {} restores to something else", p.id);
                sums.add("restores", 1);
            }
            Err(e @ StoreError::Damaged { .. }) => {
                assert!(town.may_be_forgotten(&p.id), "point {}: {e}", p.id);
                sums.add("forgotten while it was read", 1);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// How many seeds each suite here runs.
fn seeds(default: u64) -> std::ops::Range<u64> {
    let count = env_number("CAIRN_SIM_SEEDS").unwrap_or(default);
    let first = seed_or(1000);
    first..first + count
}

/// What a hundred days have at least.
const MINIMA: [(&str, u64); 6] = [("commits", 400), ("restores", 250), ("collections", 100), ("faults", 1000), ("deaths", 200), ("storage failed", 300)];

fn days(kind: StorageKind) {
    let (seeds, sums) = (seeds(120), Sums::default());
    let count = seeds.end - seeds.start;
    for seed in seeds {
        day(kind, seed, 8, &sums);
    }
    sums.expect(count, &MINIMA);
}

#[test]
fn many_hosts_on_nfs() {
    days(StorageKind::Nfs);
}

#[test]
fn many_processes_on_one_host() {
    days(StorageKind::Local);
}

#[test]
fn the_same_seed_is_the_same_day() {
    for kind in [StorageKind::Nfs, StorageKind::Local] {
        let hashes: Vec<u64> = [7, 7, 8].map(|seed| day(kind, seed, 3, &Sums::default())).to_vec();
        assert_eq!(hashes[0], hashes[1], "{kind:?}");
        assert_ne!(hashes[0], hashes[2], "{kind:?}");
    }
}
