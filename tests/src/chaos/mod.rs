//! The chaos suite: many real processes on one store, killed and stopped at random, and what must hold all the same.
//!
//! Four writers save changing images; others restore, verify, forget, prune, take back, tag, protect, collect and repack; a saboteur spoils local
//! caches; the chaos worker sends SIGKILL, SIGSTOP and SIGCONT to whoever runs. Invariants that are checked all the time ([`truth`], [`verdict`]):
//!
//! - every listed point restores to every byte of what was saved, also one whose backup was killed after its commit;
//! - what was acknowledged is listed until somebody forgets it; what was forgotten stays forgotten; what is protected cannot be forgotten;
//! - no command ends otherwise than the table in [`verdict`] allows, none hangs, none panics.
//!
//! And at the end: enough happened for all that to mean something ([`minima`]); nothing unreferenced stays ([`finish`]).
//!
//! Needs no guest, no libvirt and no root.

pub mod children;
pub mod finish;
pub mod image;
pub mod minima;
pub mod rng;
pub mod truth;
pub mod verdict;
pub mod workers;
pub mod world;

use crate::error::{Error, Result};
use crate::options::{BASE_DEFAULT, BASE_VARIABLE};
use rng::Rng;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use world::{WRITERS, World};

/// Environment variable with the length of the chaos in seconds.
pub const SECONDS_VARIABLE: &str = "CAIRN_CHAOS_SECONDS";
/// Environment variable with the seed.
pub const SEED_VARIABLE: &str = "CAIRN_CHAOS_SEED";
/// What the gates run; ten minutes and more are for a change of the store.
pub const SECONDS_DEFAULT: u64 = 240;
/// Threads that read.
const READERS: usize = 2;
/// Threads that collect.
const COLLECTORS: usize = 2;

/// How to run.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The program under test.
    pub program: PathBuf,
    /// Folder in which the suite makes its own.
    pub base: PathBuf,
    /// How long the chaos lasts; the checks at the end come on top.
    pub length: Duration,
    /// What the processes are asked to do follows from it.
    pub seed: u64,
}

impl Setup {
    /// As the environment says.
    ///
    /// # Errors
    /// A variable that is no number.
    pub fn from_environment(program: PathBuf) -> Result<Self> {
        let number = |name: &str| match std::env::var(name) {
            Ok(text) => text.parse().map(Some).map_err(|_| Error::answer(name, format!("{text:?} is no number"))),
            Err(_) => Ok(None),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        let seed = number(SEED_VARIABLE)?.unwrap_or(u64::try_from(now & 0xffff_ffff).expect("32 bits"));
        let length = Duration::from_secs(number(SECONDS_VARIABLE)?.unwrap_or(SECONDS_DEFAULT));
        let base = std::env::var_os(BASE_VARIABLE).map_or_else(|| BASE_DEFAULT.into(), PathBuf::from);
        Ok(Self { program, base, length, seed })
    }
}

/// Runs the suite; gives its report.
///
/// # Errors
/// What did not hold, each with all that the command said; the folder is kept then, and named.
pub fn run(setup: &Setup) -> Result<String> {
    let dir = setup.base.join(format!("cairn-chaos.{}.{}", setup.seed, std::process::id()));
    std::fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
    eprintln!("chaos: seed {} ({SEED_VARIABLE}), {} s ({SECONDS_VARIABLE}), in {}", setup.seed, setup.length.as_secs(), dir.display());
    let start = Instant::now();
    let world = World::new(&setup.program, &dir, setup.length)?;
    let (kills, stops) = live(&world, &mut Rng::new(setup.seed));
    let chaos = start.elapsed();
    if world.failures().is_empty() {
        minima::lacking(&world.tally(), setup.length).into_iter().for_each(|what| world.fail(what));
    }
    let quiet = if world.failures().is_empty() { finish::check(&world)? } else { finish::Quiet::default() };
    let mut report = format!("chaos: seed {}, {} s of chaos, {} s of checks\n", setup.seed, chaos.as_secs(), (start.elapsed() - chaos).as_secs());
    for ((op, what), count) in world.tally() {
        // Writing to a text cannot fail.
        let _ = writeln!(report, "  {:16} {what:55} {count:6}", format!("{op:?}"));
    }
    let _ = writeln!(report, "  {kills} kills, {stops} stops; at the end {quiet:?}");
    let failures = world.failures();
    if failures.is_empty() {
        std::fs::remove_dir_all(&dir).map_err(Error::io("remove", &dir))?;
        return Ok(report);
    }
    Err(Error::answer(format!("chaos with seed {}", setup.seed), format!("{}\n{report}all of it is kept in {}", failures.join("\n"), dir.display())))
}

/// All threads until the time is up; kills and stops.
fn live(world: &World, rng: &mut Rng) -> (u64, u64) {
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let rng = rng.fork();
            scope.spawn(move || workers::write(world, writer, rng));
        }
        for _ in 0..READERS {
            let rng = rng.fork();
            scope.spawn(move || workers::read(world, rng));
        }
        for _ in 0..COLLECTORS {
            let rng = rng.fork();
            scope.spawn(move || workers::collect(world, rng));
        }
        let (forget, sabotage, torment) = (rng.fork(), rng.fork(), rng.fork());
        scope.spawn(move || workers::forget(world, forget));
        scope.spawn(move || workers::sabotage(world, sabotage));
        scope.spawn(move || workers::torment(world, torment)).join().unwrap_or_default()
    })
}
