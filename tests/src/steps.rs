//! A backup that is held behind one of its steps, so that something can happen to it there.
//!
//! Functions here panic on failure, as tests do.

use crate::process;
use crate::stall;
use crate::suite::Suite;
use nix::unistd::Pid;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What the program's log says behind each step. What follows the commit is also said where an earlier backup's leavings are swept.
pub const STEPS: [&str; 11] = [
    "pre-flight done",
    "guard started",
    "bitmaps added",
    "point in time",
    "job begun",
    "freeze over",
    "disks open",
    "reading begins",
    COMMITTED,
    "exports removed",
    "job ended",
];
/// The step at which the point exists.
pub const COMMITTED: &str = "committed";
/// What a freeze may last in such backups, seconds.
pub const FREEZE_LIMIT_S: u64 = 10;
const STEP_LIMIT: Duration = Duration::from_secs(60);
/// A job that libvirt does not end is waited for 75 s (docs/capture.md).
const END_LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(5);

/// What holds backups.
#[derive(Debug)]
pub struct Holder {
    library: PathBuf,
    more: Vec<String>,
}

impl Holder {
    /// Made once a suite.
    #[must_use]
    pub fn new(suite: &Suite) -> Self {
        Self { library: stall::behind_a_line(&suite.path("")), more: Vec::new() }
    }

    /// The same, of backups with these arguments besides.
    #[must_use]
    pub fn with(self, more: &[&str]) -> Self {
        Self { more: more.iter().map(|arg| (*arg).to_owned()).collect(), ..self }
    }

    /// A backup of `lab1` that waits behind a step.
    ///
    /// # Panics
    /// It does not come there.
    #[must_use]
    pub fn hold(&self, suite: &Suite, step: &str) -> Held {
        let (gate, log) = (suite.path("gate"), suite.path("backup.log"));
        let at = gate.with_extension("at");
        for file in [&at, &gate] {
            fs::remove_file(file).ok();
        }
        fs::write(&gate, "").expect("writes");
        let mut command = suite.cairn.command(&["backup", "lab1", "--freeze-limit", &FREEZE_LIMIT_S.to_string()]);
        command.args(&self.more).env("LD_PRELOAD", &self.library).env("CAIRN_LOG", "debug").env(stall::GATE, &gate).env(stall::LINE, format!("step: {step}"));
        if STEPS.iter().position(|s| *s == step) > STEPS.iter().position(|s| *s == COMMITTED) {
            command.env(stall::AFTER, format!("step: {COMMITTED}"));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).expect("a log"));
        let mut held = Held { job: command.spawn().expect("the program starts"), gate, log };
        held.wait_for(&at, step);
        held
    }
}

/// A backup that waits.
#[derive(Debug)]
pub struct Held {
    job: Child,
    gate: PathBuf,
    log: PathBuf,
}

impl Held {
    fn wait_for(&mut self, at: &Path, step: &str) {
        let begin = Instant::now();
        while !at.exists() {
            assert!(self.job.try_wait().expect("our child").is_none(), "it ended before '{step}': {}", self.said());
            assert!(begin.elapsed() < STEP_LIMIT, "it does not come to '{step}': {}", self.said());
            sleep(POLL);
        }
    }

    /// All that it said.
    #[must_use]
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its number.
    ///
    /// # Panics
    /// Never: process ids are small.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.job.id()).expect("process ids are small"))
    }

    /// Lets it go on.
    ///
    /// # Panics
    /// It was let go before.
    pub fn goes_on(&self) {
        fs::remove_file(&self.gate).expect("it waits for this file to go");
    }

    /// Its end.
    ///
    /// # Panics
    /// It does not end in two minutes.
    pub fn ends(&mut self, what: &str) -> ExitStatus {
        process::wait_limit(&mut self.job, "the backup", END_LIMIT).unwrap_or_else(|e| panic!("{what}: {}\n{}", e.report(), self.said()))
    }
}
