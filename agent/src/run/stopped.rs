//! A guest that QEMU has paused because a read or write failed: when it is let go on again, and what is said of it meanwhile.
//!
//! Invariants
//! - It is tried for as long as it is paused: at once and often when something has changed for the better (a process was started, the store is there
//!   again), with growing pauses otherwise, since room on a file system or a mended pack tell nobody.
//! - For all that time there is a reason to show.

use super::{obstacle, record::Record};
use crate::output;
use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::Path,
    time::{Duration, Instant},
};

/// How often it is tried quickly, for each disk: QEMU's client needs one failed read to see that its server is gone and one to come back (measured
/// with 7.2), for each disk.
const QUICK_PER_DISK: u32 = 6;
/// Between two of those: QEMU connects in the background meanwhile.
const QUICK_PAUSE: Duration = Duration::from_millis(300);
/// Between the others.
const PAUSE_S_MIN: u64 = 1;
const PAUSE_S_MAX: u64 = 30;
/// Between two looks at what is in the way.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// A guest that has run for so long goes on; one that has not only tries to.
pub const STEADY: Duration = Duration::from_secs(3);
/// Of the log's end, to find what the server said of a failed read.
const LOG_BYTES_MAX: u64 = 64 << 10;
/// What the server says of one.
const FAILED_READ: &str = "request failed";

/// From the first failed request until it goes on.
#[derive(Debug)]
pub struct Stopped {
    quick: u32,
    tries: u32,
    next: Instant,
    looked: Option<Instant>,
    obstacle: Option<String>,
    /// Where the log ended before.
    log_from: u64,
    /// Since when its processors run again.
    runs: Option<Instant>,
    /// What is said of it.
    pub problem: String,
}

impl Stopped {
    /// A guest that was just found paused.
    pub fn new(record: &Record, log_from: u64) -> Self {
        let disks = u32::try_from(record.disks.len()).unwrap_or(1).max(1);
        let quick = QUICK_PER_DISK * disks;
        Self { quick, tries: 0, next: Instant::now(), looked: None, obstacle: None, log_from, runs: None, problem: String::new() }
    }

    /// Something has changed for the better.
    pub fn afresh(&mut self) {
        (self.tries, self.next) = (0, Instant::now());
    }

    /// Its processors run; whether they have for long enough.
    pub fn is_over(&mut self) -> bool {
        self.runs.get_or_insert_with(Instant::now).elapsed() > STEADY
    }

    /// Looks for the reason, now and then.
    pub fn look(&mut self, record: &Record, log: &Path) {
        self.runs = None;
        if self.looked.is_some_and(|at| at.elapsed() < LOOK_PAUSE) {
            return;
        }
        let was = self.obstacle.take();
        self.obstacle = obstacle::of(record).map(|f| f.message);
        self.looked = Some(Instant::now());
        if was.is_some() && self.obstacle.is_none() {
            self.afresh();
        }
        let why = self.obstacle.clone().or_else(|| failed_read(log, self.log_from)).unwrap_or_else(|| {
            let folders: Vec<_> = obstacle::folders(record).iter().map(|f| output::shown(&f.display().to_string())).collect();
            format!("a read or a write failed: is there room on {}?", folders.join(", "))
        });
        self.problem = format!("the guest is paused (I/O error): {why}");
    }

    /// Whether it is to be let go on now; counts as done.
    pub fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let due = now >= self.next;
        if due {
            self.next = now + pause(self.tries, self.quick);
            self.tries = self.tries.saturating_add(1);
        }
        due
    }
}

fn pause(tries: u32, quick: u32) -> Duration {
    match tries.checked_sub(quick) {
        None => QUICK_PAUSE,
        Some(slow) => Duration::from_secs(PAUSE_S_MIN.checked_shl(slow.min(16)).unwrap_or(PAUSE_S_MAX).min(PAUSE_S_MAX)),
    }
}

/// Length of the log.
pub fn log_bytes(log: &Path) -> u64 {
    fs::metadata(log).map_or(0, |m| m.len())
}

/// What the server said last of a failed read, behind a place in the log.
pub fn failed_read(log: &Path, from: u64) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let len = file.metadata().ok()?.len();
    // A log that is shorter than it was has been cut.
    let from = if from > len { 0 } else { from }.max(len.saturating_sub(LOG_BYTES_MAX));
    file.seek(SeekFrom::Start(from)).ok()?;
    let mut text = Vec::new();
    file.take(LOG_BYTES_MAX).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().rev().find(|line| line.contains(FAILED_READ))?;
    Some(line.trim_start_matches("cairn: warning: ").chars().take(500).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_half_a_minute_and_never_end() {
        let s: Vec<u64> = (12..20).map(|tries| pause(tries, 12).as_secs()).collect();
        assert_eq!(s, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!((pause(0, 12), pause(11, 12)), (QUICK_PAUSE, QUICK_PAUSE));
        assert_eq!(pause(u32::MAX, 6).as_secs(), PAUSE_S_MAX);
    }

    #[test]
    fn only_what_the_server_said_since_is_the_reason() {
        let folder = tempfile::tempdir().expect("temp dir");
        let log = folder.path().join("log");
        let old = "cairn: warning: a client's request failed export=vda error=old\n";
        fs::write(&log, format!("{old}cairn: warning: a client's request failed export=vda error=new\nthe guest goes on\n")).expect("written");
        let from = u64::try_from(old.len()).expect("small");
        assert_eq!(failed_read(&log, from).as_deref(), Some("a client's request failed export=vda error=new"));
        assert_eq!(failed_read(&log, log_bytes(&log)), None);
        assert!(failed_read(&log, 1 << 20).is_some(), "the log was cut meanwhile");
    }
}
