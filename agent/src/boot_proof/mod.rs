//! Boot proofs: a point is run in isolation until its guest shows that it lives, and is taken away again (docs/boot-proof.md).
//!
//! - [`attempt`]: one proof from beginning to end; [`watch`]: how far the guest is
//! - [`exec`], [`script`]: checks in the guest and on the host; [`picture`], [`tail`]: evidence of bounded size
//!
//! Invariants
//! - A proof's run is recognisable (`proof` in its record), and somebody holds the owner's lock in its folder for as long as it is wanted. Once nobody does,
//!   its supervisor takes it away; where that is dead too, the next `cairn verify --boot` or `cairn runs` does ([`sweep`]).
//! - The whole has a limit, whatever libvirt, store, guest or script do.
//!
//! What it must not do: decide what a verdict means for a point; touch runs that are no proofs.

mod attempt;
mod exec;
mod picture;
mod script;
mod tail;
mod watch;

use crate::{
    cli::Common,
    failure::{FAILED, Failure, INTERRUPTED, NOT_FOUND, Outcome},
    run::{self, folder::RunFolder},
};
use cairn_store::{
    Progress,
    format::boot_proof::{BootLevel, BootVerdict, Evidence},
};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

/// Names of their runs and domains begin so.
const PREFIX: &str = "cairn-boot-";
/// To make a run and to take it away, with a store that is slow.
const AROUND: Duration = Duration::from_secs(300);
/// After it, what is still at work is given up; its end is the supervisor's.
const GRACE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);
/// A folder without a record is one that is being made, or one whose maker died: by its age.
const NAKED_AGE: Duration = Duration::from_secs(60);

/// How to prove.
#[derive(Debug, Clone)]
pub struct Options {
    /// For the guest to come up.
    pub boot_limit: Duration,
    /// How far it has to come, if not as far as can be seen.
    pub level: Option<BootLevel>,
    /// Command line for its shell.
    pub exec: Option<String>,
    /// Program on the host.
    pub script: Option<PathBuf>,
    /// For each of both.
    pub script_limit: Duration,
    /// Memory other than the saved.
    pub memory_bytes: Option<u64>,
    /// Folder for the overlays.
    pub dir: Option<PathBuf>,
    /// Pool for the overlays.
    pub pool: Option<String>,
}

impl Options {
    /// For one point, all in all.
    fn limit(&self) -> Duration {
        let checks = u32::from(self.exec.is_some()) + u32::from(self.script.is_some());
        AROUND + self.boot_limit + self.script_limit * checks
    }

    /// After this its supervisor ends a run whose owner lives and does nothing.
    fn supervised_limit(&self) -> Duration {
        self.limit() + GRACE
    }
}

/// What came of a proof.
#[derive(Debug)]
pub struct Proof {
    /// The verdict.
    pub verdict: BootVerdict,
    /// Picture and console.
    pub evidence: Evidence,
    /// What people should know of the run.
    pub warnings: Vec<String>,
    /// Why something of it is left, if it is.
    pub left: Option<String>,
}

/// Proves one point, by its id; ends in time, or gives up.
pub fn prove(common: &Common, options: &Arc<Options>, point: &str, progress: &Arc<Progress>) -> Outcome<Proof> {
    let stop = Arc::new(AtomicBool::new(false));
    let (done, wait) = mpsc::channel();
    let worker = {
        let (common, options, point, stop) = (common.clone(), options.clone(), point.to_owned(), stop.clone());
        // Whoever no longer waits knows why.
        std::thread::spawn(move || drop(done.send(attempt::run(&common, &options, &point, &stop))))
    };
    let begin = Instant::now();
    let limit = options.limit();
    loop {
        match wait.recv_timeout(POLL) {
            Ok(outcome) => {
                // It has nothing left to do.
                let _ = worker.join();
                return match outcome {
                    Err(f) if f.code == INTERRUPTED && !progress.cancel.load(Ordering::SeqCst) => {
                        Err(Failure::new(FAILED, format!("the boot proof did not end within {} s; it was taken away", limit.as_secs())))
                    }
                    outcome => outcome,
                };
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::new(FAILED, "the boot proof ended without a word; its run is taken away by its supervisor"));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if begin.elapsed() > limit || progress.cancel.load(Ordering::SeqCst) {
            stop.store(true, Ordering::SeqCst);
        }
        if begin.elapsed() > limit + GRACE {
            let why = "libvirt or the store does not answer. The run is taken away by its supervisor as soon as it can be";
            return Err(Failure::new(FAILED, format!("the boot proof did not end within {} s: {why}", (limit + GRACE).as_secs())));
        }
    }
}

/// A name that no domain has.
fn new_name() -> String {
    format!("{PREFIX}{}", &uuid::Uuid::new_v4().simple().to_string()[..12])
}

/// Whether a domain of that name is a boot proof of this host.
pub fn is_proof(state_dir: &Path, name: &str) -> bool {
    RunFolder::of(state_dir, name).and_then(|folder| folder.record()).is_ok_and(|record| record.proof.is_some())
}

/// Takes away what proofs left whose processes are all dead; gives what could not be.
pub fn sweep(state_dir: &Path) -> Vec<String> {
    run::folder::sweep(state_dir);
    let folders = RunFolder::all(state_dir).unwrap_or_default();
    folders.iter().filter_map(|folder| sweep_one(folder).err().map(|f| format!("{} is left of a boot proof: {}", folder.name(), f.message))).collect()
}

fn sweep_one(folder: &RunFolder) -> Outcome<()> {
    match folder.record() {
        Ok(record) if record.proof.is_some() && !folder.has_owner() => {
            tracing::info!("{} is left of a boot proof; it is taken away", record.name);
            run::discard(folder, &record)
        }
        Err(f) if f.code == NOT_FOUND && folder.name().starts_with(PREFIX) && !folder.has_owner() && folder.age().is_some_and(|age| age > NAKED_AGE) => {
            folder.remove(folder.name())
        }
        // No proof, one that is at work, or one that another is taking away.
        _ => Ok(()),
    }
}
