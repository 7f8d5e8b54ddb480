//! A backup that is held behind one of its steps, so that something can happen to it there: a command's, or a job of the daemon's.
//!
//! Functions here panic on failure, as tests do.

use crate::daemon::{Daemon, Environment};
use crate::frozen;
use crate::process;
use crate::stall;
use crate::suite::Suite;
use nix::unistd::Pid;
use serde_json::{Value, json};
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
/// The same of a domain that is off.
pub const OFFLINE_STEPS: [&str; 6] = ["domain is off", "images found", "disks open", "reading begins", COMMITTED, "storage daemons ended"];
/// The step at which the point exists.
pub const COMMITTED: &str = "committed";
/// What a freeze may last in such backups, seconds; also what the daemon's jobs have where nothing else is said.
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

/// Whether the point exists behind this step.
#[must_use]
pub fn has_point(step: &str) -> bool {
    let follows = |steps: &[&str]| steps.iter().position(|s| *s == step) >= steps.iter().position(|s| *s == COMMITTED);
    follows(&STEPS) || follows(&OFFLINE_STEPS)
}

fn at(gate: &Path) -> PathBuf {
    gate.with_extension("at")
}

/// The next one that comes to its step waits there.
fn shut(suite: &Suite) -> PathBuf {
    let gate = suite.path("gate");
    for file in [&at(&gate), &gate] {
        fs::remove_file(file).ok();
    }
    fs::write(&gate, "").expect("writes");
    gate
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

    fn environment(&self, gate: &Path, step: &str) -> Environment {
        let mut all: Environment = vec![
            ("LD_PRELOAD", self.library.clone().into()),
            ("CAIRN_LOG", "debug".into()),
            (stall::GATE, gate.into()),
            (stall::LINE, format!("step: {step}").into()),
        ];
        if has_point(step) && step != COMMITTED {
            all.push((stall::AFTER, format!("step: {COMMITTED}").into()));
        }
        all
    }

    /// A backup of `lab1` that waits behind a step.
    ///
    /// # Panics
    /// It does not come there.
    #[must_use]
    pub fn hold(&self, suite: &Suite, step: &str) -> Held {
        let (gate, log) = (shut(suite), suite.path("backup.log"));
        let mut command = suite.cairn.command(&["backup", "lab1", "--freeze-limit", &FREEZE_LIMIT_S.to_string()]);
        command.args(&self.more).envs(self.environment(&gate, step));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).expect("a log"));
        let mut held = Held { job: command.spawn().expect("the program starts"), gate, log };
        held.wait_for(step);
        held
    }

    /// A daemon, and a backup of `lab1` as its job that waits behind a step.
    ///
    /// # Panics
    /// It does not come there.
    #[must_use]
    pub fn hold_job(&self, suite: &Suite, step: &str) -> HeldJob {
        let gate = shut(suite);
        let (store, key) = (suite.cairn.store().display(), suite.cairn.key().display());
        let config = format!("stores:\n  main: {{ url: {store}, key_file: {key} }}\n");
        let daemon = Daemon::start_with(&suite.lab, &config, self.environment(&gate, step)).expect("the daemon");
        let id = daemon.back_up(&json!({"domain": "lab1", "store": "main"})).expect("asked")[0]["id"].clone();
        let has_come = |job: &Value| is_over(job) || at(&gate).exists() && job["pid"].is_i64();
        let job = daemon.wait_job(&id, step, STEP_LIMIT, has_come).unwrap_or_else(|e| panic!("{}", e.report()));
        let pid = job["pid"].as_i64().unwrap_or_else(|| panic!("it ended before '{step}': {job:#}"));
        let pid = Pid::from_raw(i32::try_from(pid).expect("process ids are small"));
        HeldJob { daemon, id, pid, runner: frozen::parent(pid), gate }
    }
}

fn is_over(job: &Value) -> bool {
    !["queued", "running"].iter().any(|state| job["state"] == *state)
}

/// A job of a daemon's that waits.
#[derive(Debug)]
pub struct HeldJob {
    /// Its daemon.
    pub daemon: Daemon,
    /// The command's process.
    pub pid: Pid,
    /// The process that waits for it.
    pub runner: Pid,
    id: Value,
    gate: PathBuf,
}

impl HeldJob {
    /// Lets it go on.
    ///
    /// # Panics
    /// It was let go before.
    pub fn goes_on(&self) {
        fs::remove_file(&self.gate).expect("it waits for this file to go");
    }

    /// The job once it is over, as the daemon has it.
    ///
    /// # Panics
    /// It does not end in two minutes.
    #[must_use]
    pub fn ends(&self, what: &str) -> Value {
        self.daemon.wait_job(&self.id, what, END_LIMIT, is_over).unwrap_or_else(|e| panic!("{what}: {}\n{}", e.report(), self.daemon.said()))
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
    fn wait_for(&mut self, step: &str) {
        let begin = Instant::now();
        while !at(&self.gate).exists() {
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
