//! Every operation of a script goes wrong once, in each way that there is; what must hold afterwards is [`Town::recover_and_audit`], and
//! [`Town::collect_and_audit`] where collections are part of it.

use crate::town::{Saved, Town, seed_or};
use cairn_store::{
    GcOptions, Result, Store,
    platform::simulated::{Fault, OpKind, Operation, StorageKind, Survival, survive},
};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

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

/// A script and where it runs.
pub struct Enumeration {
    pub kind: StorageKind,
    /// What is there before.
    pub start: Saved,
    /// What goes wrong in each case.
    pub script: Script,
    /// How collections after each case are made, where there shall be some.
    pub collect: Option<GcOptions>,
    /// A script of fewer operations does not do what it is meant to.
    pub operations_min: usize,
    /// Of the cases of a long script, one of so many is run, unless CAIRN_SIM_FULL is set.
    pub sample: usize,
}

impl Enumeration {
    /// Runs the script once for each operation and way.
    pub fn run(&self) {
        let seed = seed_or(11);
        let operations = self.dry_run(seed);
        assert!(operations.len() >= self.operations_min, "only {} operations", operations.len());
        let ends: &[Way] = if self.kind == StorageKind::Local { &ENDS_LOCAL } else { &ENDS_NFS };
        let cases = (0..).zip(&operations).flat_map(|(k, op)| FAILURES.iter().chain(ends).filter(move |w| w.1(op)).map(move |w| (k, op, w)));
        let sample = if std::env::var_os("CAIRN_SIM_FULL").is_some() { 1 } else { self.sample };
        let cases: Vec<_> = cases.skip(usize::try_from(seed).unwrap_or(0) % sample).step_by(sample).collect();
        println!("{:?}: {} operations, {} cases", self.kind, operations.len(), cases.len());
        for (k, op, (way, _, fault)) in cases {
            let outcome = catch_unwind(AssertUnwindSafe(|| self.case(seed, k, fault())));
            if let Err(panic) = outcome {
                eprintln!("operation {k} ({:?} {}): {way}", op.kind, op.name);
                resume_unwind(panic);
            }
        }
    }

    fn dry_run(&self, seed: u64) -> Vec<Operation> {
        let town = Town::from_saved(self.kind, seed, &self.start);
        let victim = town.world.process(town.world.host(0));
        town.world.record(&victim);
        (self.script)(&town, &town.open(&victim, "victim").expect("opens")).expect("nothing goes wrong");
        drop(victim);
        let operations = town.world.recorded();
        self.check(&town, 0);
        operations
    }

    fn case(&self, seed: u64, k: u64, fault: Fault) {
        let town = Town::from_saved(self.kind, seed, &self.start);
        let host = town.world.host(0);
        let victim = town.world.process(host);
        let ends = !matches!(fault, Fault::FailBefore(_) | Fault::FailAfter(_));
        town.world.place(&victim, k, fault);
        let outcome = survive(|| town.open(&victim, "victim").and_then(|store| (self.script)(&town, &store)));
        assert!(!town.world.has_unused_faults(&victim), "the script did not come that far");
        assert_eq!(outcome.is_none(), ends, "a process ends by a crash alone");
        drop(victim);
        // Local storage has one host; on NFS another one finds what is left.
        self.check(&town, if self.kind == StorageKind::Local { host } else { town.world.host(1_000) });
    }

    fn check(&self, town: &Town, host: usize) {
        town.recover_and_audit(host);
        if let Some(options) = &self.collect {
            town.collect_and_audit(host, options);
        }
    }
}
