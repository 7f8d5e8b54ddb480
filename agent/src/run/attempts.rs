//! How often a keep tries a disk whose job failed, and what is said of it meanwhile.
//!
//! Invariants
//! - An attempt counts only while the point is served and its store is there: a keep outlives a store that is away, for however long that is.
//! - The others have a limit, each waits longer than the one before, and progress makes the count begin anew.

use super::{guest::Work, obstacle, stopped};
use crate::{
    failure::{FAILED, Failure, Outcome},
    output::shown,
};
use cairn_hypervisor::run::BlockJob;
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// Attempts at one disk without progress between them: more than a minute of them.
const ATTEMPTS_MAX: u32 = 16;
/// So many at once: QEMU's first read after its server came back always fails (measured with 7.2). Damage is still there after these.
const QUICK: u32 = 6;
/// Between two of those.
const QUICK_PAUSE: Duration = Duration::from_millis(300);
/// Between the others, at most.
const PAUSE_S_MAX: u64 = 8;
/// Progress that makes the count begin anew.
const PROGRESS_BYTES: u64 = 1 << 20;
/// What the server's log says of a place that is not what was stored.
const DAMAGE: &str = "damaged data";

/// At one disk.
#[derive(Default)]
pub struct Attempts {
    target: String,
    count: u32,
    best_bytes: u64,
    next: Option<Instant>,
    /// What the last one that said something said.
    failure: Option<String>,
    /// Where the run's log ended before the first.
    log_from: u64,
    /// The last failure was none of an attempt's.
    waits: bool,
}

impl Attempts {
    /// Remembers why a step failed.
    pub fn failed(&mut self, f: &Failure) {
        if !std::mem::take(&mut self.waits) {
            self.failure = Some(f.message.clone());
        }
    }

    /// Notes how far a job is.
    pub fn progress(&mut self, job: &BlockJob) {
        if job.done_bytes >= self.best_bytes + PROGRESS_BYTES {
            self.best_bytes = job.done_bytes;
            self.count = 0;
            self.next = None;
        }
    }

    /// Why they fail: what the server said of this disk, or else who tried.
    fn reason(&self, log: &Path) -> Option<String> {
        let export = format!("export={} ", self.target);
        let said = |from| stopped::failed_read(log, from).filter(|line| line.contains(&export));
        // Of a connection it says only the first few: damage may have been met before.
        said(self.log_from).or_else(|| self.failure.clone()).or_else(|| said(0).filter(|line| line.contains(DAMAGE)))
    }

    /// Why there are no more.
    fn too_many(&self, log: &Path) -> Option<Failure> {
        let reason = self.reason(log);
        let is_damage = reason.as_ref().is_some_and(|r| r.contains(DAMAGE));
        if self.count < if is_damage { QUICK } else { ATTEMPTS_MAX } {
            return None;
        }
        let last = reason.map_or_else(|| "see the run's log".to_owned(), |reason| format!("the last one with: {reason}"));
        let remedy = if is_damage {
            "the point is damaged there: 'cairn restore --allow-damaged' gets all the rest of it; a new backup of the source and then 'cairn gc' mend it, then 'cairn keep' again"
        } else {
            "then 'cairn keep' again"
        };
        Some(Failure::new(FAILED, format!("disk {} cannot be copied: {} attempts failed, {last}; {remedy}", self.target, self.count)))
    }
}

/// Whether one is due, which counts it. An error while something is in the way, and, with `gave_up`, once there were too many, or as soon as one failed
/// because there is no room where `image` is.
pub fn is_due(work: &mut Work<'_>, target: &str, image: &Path) -> Outcome<bool> {
    let log = work.folder.log();
    let memory = &mut *work.memory;
    if memory.attempts.target != target {
        memory.attempts = Attempts { target: target.to_owned(), log_from: stopped::log_bytes(&log), ..Attempts::default() };
    }
    if memory.attempts.count > 0
        && let Some(folder) = image.parent().filter(|folder| obstacle::is_full(folder))
    {
        memory.gave_up = true;
        let folder = shown(&folder.display().to_string());
        return Err(Failure::new(FAILED, format!("disk {target} cannot be copied: there is no room on {folder}; make some, then 'cairn keep' again")));
    }
    if !work.shared.status().served {
        return Ok(false);
    }
    let attempts = &mut memory.attempts;
    if attempts.count > 0
        && let Some(away) = obstacle::store(&work.record.store)
    {
        attempts.waits = true;
        return Err(away);
    }
    if attempts.next.is_some_and(|next| Instant::now() < next) {
        if attempts.count <= QUICK {
            return Ok(false);
        }
        attempts.waits = true;
        let why = attempts.reason(&log).unwrap_or_else(|| "see the run's log".into());
        return Err(Failure::new(FAILED, format!("disk {target} could not be copied so far, and is tried again within {PAUSE_S_MAX} s: {why}")));
    }
    if let Some(f) = attempts.too_many(&log) {
        memory.gave_up = true;
        return Err(f);
    }
    attempts.count += 1;
    attempts.next = Some(Instant::now() + pause(attempts.count));
    Ok(true)
}

/// After so many.
fn pause(count: u32) -> Duration {
    match count.checked_sub(QUICK + 1) {
        None => QUICK_PAUSE,
        Some(slow) => Duration::from_secs((1 << slow.min(8)).min(PAUSE_S_MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_become_rarer_and_damage_ends_them_by_its_name() {
        let s: Vec<u64> = (QUICK + 1..=QUICK + 5).map(|count| pause(count).as_secs()).collect();
        assert_eq!((pause(QUICK), s, pause(u32::MAX).as_secs()), (QUICK_PAUSE, vec![1, 2, 4, 8, 8], PAUSE_S_MAX));
        let folder = tempfile::tempdir().expect("temp dir");
        let log = folder.path().join("log");
        let line = "cairn: warning: a client's request failed export=vda at=4096 error=damaged data in the store: d/26/x\n";
        std::fs::write(&log, line).expect("written");
        let of = |target: &str, count, log_from| Attempts { target: target.into(), count, log_from, ..Attempts::default() }.too_many(&log).map(|f| f.message);
        assert!(of("vda", QUICK - 1, 0).is_none() && of("vdb", QUICK, 0).is_none());
        let said = of("vda", QUICK, line.len() as u64).expect("enough, though it was met before");
        assert!(said.contains("d/26/x") && said.contains("restore --allow-damaged"), "{said}");
        assert!(of("vdb", ATTEMPTS_MAX, 0).expect("too many").contains("see the run's log"));
    }
}
