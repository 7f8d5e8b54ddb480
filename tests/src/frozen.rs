//! Backups that are stopped with their guest frozen, and the guest's own view of it: what it writes, and when it does not.
//!
//! Functions here panic on failure, as tests do.

use crate::process;
use crate::suite::{CLEAN_LIMIT, Suite};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

/// Where open freezes are recorded.
pub const RECORDS: &str = "/run/cairn/frozen";
/// A freeze takes a tenth of a second: not every attempt to stop a backup within it succeeds.
const ATTEMPTS: usize = 48;
/// A guest that has not written for so long may be frozen: then is the time to stop its backup. On a busy host it may just be slow, so the next attempt
/// waits for longer, up to so many times this.
const LULL: Duration = Duration::from_millis(20);
const LULLS: usize = 5;
/// From the record of a freeze to its lull.
const LULL_LIMIT: Duration = Duration::from_secs(3);
/// Writes of the guest come every few milliseconds; so long without one, it is frozen.
const STILL: Duration = Duration::from_millis(700);
const POLL: Duration = Duration::from_millis(2);
/// Until a backup that was started records its freeze, or has ended.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Before an attempt, the guest writes again within this time.
const WRITES_LIMIT: Duration = Duration::from_secs(15);

/// The process of a backup: a child of ours, or somebody else's.
#[derive(Debug)]
pub enum Job {
    /// Ours.
    Child(Child),
    /// The daemon's: its runner waits for it.
    Other(Pid),
}

impl Job {
    /// Starts a command.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn start(command: &mut Command) -> Self {
        Self::Child(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("the program starts"))
    }

    /// Its number.
    ///
    /// # Panics
    /// Never: process ids are small.
    #[must_use]
    pub fn pid(&self) -> Pid {
        match self {
            Self::Child(child) => Pid::from_raw(i32::try_from(child.id()).expect("process ids are small")),
            Self::Other(pid) => *pid,
        }
    }

    fn has_ended(&mut self) -> bool {
        match self {
            Self::Child(child) => child.try_wait().expect("our child").is_some(),
            Self::Other(pid) => !Path::new(&format!("/proc/{pid}")).exists(),
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// It does not end within `limit`.
    pub fn wait(&mut self, what: &str, limit: Duration) {
        match self {
            Self::Child(child) => drop(process::wait_limit(child, what, limit).expect("the backup ends")),
            Self::Other(_) => {
                let begin = Instant::now();
                while !self.has_ended() {
                    assert!(begin.elapsed() < limit, "{what}: the backup does not end");
                    sleep(POLL * 10);
                }
            }
        }
    }
}

/// A backup that was stopped (SIGSTOP) with its guest frozen.
#[derive(Debug)]
pub struct Frozen {
    /// The backup.
    pub job: Job,
    /// Its guard.
    pub guard: Pid,
    /// When its freeze was recorded.
    pub since: Instant,
}

/// Whether any freeze is recorded.
#[must_use]
pub fn record_is_open() -> bool {
    fs::read_dir(RECORDS).is_ok_and(|mut records| records.next().is_some())
}

/// A program for `--on-stuck-freeze`, and the file in which it notes how it was called.
///
/// # Panics
/// It cannot be written.
#[must_use]
pub fn alarm(suite: &Suite) -> (PathBuf, PathBuf) {
    let (program, note) = (suite.path("alarm"), suite.path("alarm-was-called"));
    fs::write(&program, format!("#!/bin/sh\necho \"$1 $CAIRN_URI\" >> {}\n", note.display())).expect("written");
    crate::folder::set_mode(&program, 0o755).expect("executable");
    (program, note)
}

/// Time of the guest's last write to an image, as its host's file system has it.
fn last_write(image: &Path) -> (i64, i64) {
    let meta = fs::metadata(image).expect("an image of the guest's");
    (meta.mtime(), meta.mtime_nsec())
}

fn since_last_write(image: &Path) -> Duration {
    let written = fs::metadata(image).and_then(|meta| meta.modified()).expect("an image of the guest's");
    // A clock that was set back shows as a write just now.
    SystemTime::now().duration_since(written).unwrap_or_default()
}

/// Whether the guest writes nothing to an image for a while.
#[must_use]
pub fn stands_still(image: &Path) -> bool {
    let (before, begin) = (last_write(image), Instant::now());
    while begin.elapsed() < STILL {
        if last_write(image) != before {
            return false;
        }
        sleep(POLL);
    }
    true
}

/// Until the guest writes to an image again.
///
/// # Panics
/// It does not, within `limit`.
pub fn wait_writes(image: &Path, what: &str, limit: Duration) {
    let (before, begin) = (last_write(image), Instant::now());
    while last_write(image) == before {
        assert!(begin.elapsed() < limit, "{what}: the guest is still frozen after {limit:?}");
        sleep(POLL);
    }
}

/// The children of a process, of any of its threads, whose command line ends with this word.
#[must_use]
pub fn child_named(parent: Pid, word: &str) -> Option<Pid> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).ok()?.flatten();
    let lists: Vec<String> = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok()).collect();
    let mut children = lists.iter().flat_map(|list| list.split_whitespace()).filter_map(|pid| pid.parse().ok());
    children.find(|pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.ends_with(format!("\0{word}\0").as_bytes()))).map(Pid::from_raw)
}

/// Starts backups until one could be stopped while the guest is frozen: it writes no more to `image`, which it does without a pause otherwise.
///
/// # Panics
/// None could be stopped in time.
pub fn frozen(suite: &Suite, image: &Path, start: impl Fn() -> Job) -> Frozen {
    for attempt in 0..ATTEMPTS {
        wait_writes(image, "before the backup", WRITES_LIMIT);
        let mut job = start();
        let begin = Instant::now();
        while !record_is_open() && !job.has_ended() && begin.elapsed() < START_LIMIT {
            sleep(POLL);
        }
        let since = Instant::now();
        // The freeze itself is a call that the agent gets a moment after the record; how long that is, and the freeze, depends on the host and its load.
        let lull = LULL * u32::try_from(1 + attempt % LULLS).expect("a few");
        while record_is_open() && since.elapsed() < LULL_LIMIT && since_last_write(image) < lull {
            sleep(POLL);
        }
        // One that is not ours may have ended just now.
        if !job.has_ended() && kill(job.pid(), Signal::SIGSTOP).is_ok() {
            if record_is_open() && stands_still(image) && suite.domain.freeze_status().is_ok_and(|status| status == "frozen") {
                let guard = child_named(job.pid(), "guard").expect("a guard");
                return Frozen { job, guard, since };
            }
            // Likewise: its guard may have ended it.
            let _ = kill(job.pid(), Signal::SIGCONT);
        }
        job.wait("an attempt", START_LIMIT);
    }
    panic!("none of {ATTEMPTS} backups could be stopped while the guest was frozen");
}

impl Frozen {
    /// Signals the backup.
    ///
    /// # Panics
    /// It is gone.
    pub fn job(&self, signal: Signal) {
        kill(self.job.pid(), signal).expect("the backup is there");
    }

    /// Signals its guard.
    ///
    /// # Panics
    /// It is gone.
    pub fn guard(&self, signal: Signal) {
        kill(self.guard, signal).expect("the guard is there");
    }

    /// The guest writes to `image` again, in time, and everything is cleaned up.
    ///
    /// # Panics
    /// Not so.
    pub fn ends(mut self, suite: &Suite, image: &Path, what: &str, limit: Duration) {
        wait_writes(image, what, limit);
        println!("{what}: frozen for {:.1} s", self.since.elapsed().as_secs_f64());
        self.job.wait(what, START_LIMIT);
        suite.assert_left_alone(CLEAN_LIMIT);
        assert!(!record_is_open(), "{what}: the record of the freeze stays");
    }
}
