//! Backups that are stopped with their guest frozen, and the guest's own view of it: what it writes, and when it does not.
//!
//! Functions here panic on failure, as tests do.

use crate::process;
use crate::suite::{CLEAN_LIMIT, Suite};
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

/// Where open freezes are recorded.
pub const RECORDS: &str = "/run/cairn/frozen";
/// A freeze takes a tenth of a second: not every attempt to stop a backup within it succeeds.
const ATTEMPTS: usize = 48;
/// From the record of a freeze to libvirt's answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// From the thaw of a freeze that libvirt has answered to the end of its record: a guard whose thaw hung asks again after ten seconds. Longer, and it would wait for a
/// freeze that cannot come.
const CLOSE_LIMIT: Duration = Duration::from_secs(25);
/// Writes of the guest come every few milliseconds; so long without one, it is frozen.
const STILL: Duration = Duration::from_millis(700);
const POLL: Duration = Duration::from_millis(2);
/// Until a backup that was started records its freeze, or has ended.
const START_LIMIT: Duration = Duration::from_secs(60);
/// A freeze that is watched is over by then, or its test is.
const WATCH_LIMIT: Duration = Duration::from_secs(900);
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

    /// Waits for its end; how a child of ours ended.
    ///
    /// # Panics
    /// It does not end within `limit`.
    pub fn wait(&mut self, what: &str, limit: Duration) -> Option<ExitStatus> {
        match self {
            Self::Child(child) => Some(process::wait_limit(child, what, limit).expect("the backup ends")),
            Self::Other(_) => {
                let begin = Instant::now();
                while !self.has_ended() {
                    assert!(begin.elapsed() < limit, "{what}: the backup does not end");
                    sleep(POLL * 10);
                }
                None
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
    /// When the guest wrote last.
    pub since: Instant,
    /// The same by the clock of its image's host.
    begun: SystemTime,
    /// When it wrote again, as soon as it did.
    thawed: Arc<OnceLock<SystemTime>>,
    /// When somebody did something to it that a limit counts from.
    acted: SystemTime,
}

/// Whether any freeze is recorded.
#[must_use]
pub fn record_is_open() -> bool {
    fs::read_dir(RECORDS).is_ok_and(|mut records| records.next().is_some())
}

/// Whether a freeze is recorded that libvirt has answered, as its guard knows by then.
#[must_use]
pub fn freeze_is_answered() -> bool {
    let records = fs::read_dir(RECORDS).into_iter().flatten().flatten();
    records.filter_map(|record| fs::read_to_string(record.path()).ok()).any(|text| text.ends_with("\nanswered\n"))
}

/// How long ago the freeze that is recorded was asked for, by the record and the clock that runs from the host's start.
#[must_use]
pub fn record_age() -> Option<Duration> {
    let record = fs::read_dir(RECORDS).ok()?.flatten().next()?;
    let asked_ms: u64 = fs::read_to_string(record.path()).ok()?.split_whitespace().nth(1)?.parse().ok()?;
    Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?).checked_sub(Duration::from_millis(asked_ms))
}

/// Until no freeze is recorded any more.
///
/// # Panics
/// One still is after `limit`.
pub fn wait_closed(what: &str, limit: Duration) {
    let begin = Instant::now();
    while record_is_open() {
        assert!(begin.elapsed() < limit, "{what}: the record of the freeze stays");
        sleep(POLL * 10);
    }
    println!("{what}: the record was closed after another {:.1} s", begin.elapsed().as_secs_f64());
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

fn written(image: &Path) -> SystemTime {
    fs::metadata(image).and_then(|meta| meta.modified()).expect("an image of the guest's")
}

/// Notes the first write after `begun`, however long whoever asks for it is at other things.
fn note_thaw(image: PathBuf, begun: SystemTime) -> Arc<OnceLock<SystemTime>> {
    let thawed = Arc::new(OnceLock::new());
    let noted = Arc::clone(&thawed);
    std::thread::spawn(move || {
        let start = Instant::now();
        while start.elapsed() < WATCH_LIMIT {
            // It goes with its lab.
            let Ok(now) = fs::metadata(&image).and_then(|meta| meta.modified()) else { return };
            if now != begun {
                // Nobody else sets it.
                let _ = noted.set(now);
                return;
            }
            sleep(POLL);
        }
    });
    thawed
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

/// Whether a process has ended, be it that nobody has waited for it yet.
#[must_use]
pub fn has_died(pid: Pid) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    // Its name, in brackets, may have anything in it.
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

/// The children of a process, of any of its threads, whose command line ends with this word.
#[must_use]
pub fn child_named(parent: Pid, word: &str) -> Option<Pid> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).ok()?.flatten();
    let lists: Vec<String> = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok()).collect();
    let mut children = lists.iter().flat_map(|list| list.split_whitespace()).filter_map(|pid| pid.parse().ok());
    children.find(|pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.ends_with(format!("\0{word}\0").as_bytes()))).map(Pid::from_raw)
}

/// Who started a process.
///
/// # Panics
/// It has ended.
#[must_use]
pub fn parent(pid: Pid) -> Pid {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).and_then(|text| text.trim().parse().ok());
    Pid::from_raw(parent.expect("every process has one"))
}

/// Starts backups until one could be stopped while the guest is frozen: it writes no more to `image`, which it does without a pause otherwise. By then libvirt has answered
/// the freeze, and its guard knows.
///
/// # Panics
/// None could be stopped in time.
pub fn frozen(suite: &Suite, image: &Path, start: impl Fn() -> Job) -> Frozen {
    for _ in 0..ATTEMPTS {
        wait_writes(image, "before the backup", WRITES_LIMIT);
        let mut job = start();
        let begin = Instant::now();
        while !record_is_open() && !job.has_ended() && begin.elapsed() < START_LIMIT {
            sleep(POLL);
        }
        let recorded = Instant::now();
        // Next libvirt begins its job, which leaves some time before the thaw.
        while record_is_open() && recorded.elapsed() < ANSWER_LIMIT && !freeze_is_answered() {
            sleep(POLL);
        }
        // One that is not ours may have ended just now.
        if !job.has_ended() && kill(job.pid(), Signal::SIGSTOP).is_ok() {
            if freeze_is_answered() && stands_still(image) && suite.domain.freeze_status().is_ok_and(|status| status == "frozen") {
                let guard = child_named(job.pid(), "guard").expect("a guard");
                let begun = written(image);
                let since = Instant::now() - begun.elapsed().unwrap_or_default();
                return Frozen { job, guard, since, begun, thawed: note_thaw(image.to_owned(), begun), acted: begun };
            }
            // Likewise: its guard may have ended it.
            let _ = kill(job.pid(), Signal::SIGCONT);
        }
        job.wait("an attempt", START_LIMIT);
    }
    panic!("none of {ATTEMPTS} backups could be stopped while the guest was frozen");
}

impl Frozen {
    /// Signals the backup; limits count from now on.
    ///
    /// # Panics
    /// It is gone.
    pub fn job(&mut self, signal: Signal) {
        kill(self.job.pid(), signal).expect("the backup is there");
        self.acted();
    }

    /// Signals its guard; limits count from now on.
    ///
    /// # Panics
    /// It is gone.
    pub fn guard(&mut self, signal: Signal) {
        kill(self.guard, signal).expect("the guard is there");
        self.acted();
    }

    /// Somebody else was signalled; limits count from now on.
    pub fn acted(&mut self) {
        self.acted = SystemTime::now();
    }

    /// Until the guest writes again; how long it did not, by the times of its own writes. The limit is of that: from its last write before the freeze, or from
    /// what was done since, to its first one after it.
    ///
    /// # Panics
    /// It takes longer.
    pub fn thaws(&self, what: &str, limit: Duration) -> Duration {
        let thawed = loop {
            if let Some(thawed) = self.thawed.get() {
                break *thawed;
            }
            assert!(self.acted.elapsed().unwrap_or_default() < limit + STILL, "{what}: the guest is still frozen after {limit:?}");
            sleep(POLL);
        };
        let since = |from: SystemTime| thawed.duration_since(from).unwrap_or_default();
        println!("{what}: the guest wrote nothing for {:.1} s", since(self.begun).as_secs_f64());
        assert!(since(self.acted) <= limit, "{what}: frozen for {:?}, the limit is {limit:?}", since(self.acted));
        since(self.begun)
    }

    /// The guest writes again, in time, and everything is cleaned up; how its job ended, if it was a child of ours.
    ///
    /// # Panics
    /// Not so.
    pub fn ends(mut self, suite: &Suite, what: &str, limit: Duration) -> Option<ExitStatus> {
        self.thaws(what, limit);
        let ended = self.job.wait(what, START_LIMIT);
        suite.assert_left_alone(CLEAN_LIMIT);
        wait_closed(what, CLOSE_LIMIT);
        ended
    }
}
