//! Jobs that do not get on: one that runs and does not move, one whose turn does not come. Nothing is done about them: a store that hangs may be back in an hour,
//! and then they go on; but somebody should know. Pure, but for where it is told how far jobs are.
//!
//! Invariants
//! - A job that moves is never told of, however slow it is; nor is one before its time.
//! - What is told is forgotten as soon as it moves, or ends.
//! - Bounded: few jobs are named.

use super::record::{Job, JobId};
use crate::output::shown;
use serde_json::Value;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(10);
/// A backup tells its bytes twice a second. It tells none while it waits for a guest, a lock or a store, which all have limits of minutes; but not a disk or a
/// server that hangs in the kernel.
const STILL_MAX: Duration = Duration::from_secs(30 * 60);
/// A hundred guests that shut down at once wait for each other; longer than this, points of a night are made by day.
const WAIT_MAX_MS: u64 = 6 * 3600 * 1000;
/// More jobs than these are counted only.
const NAMED_MAX: usize = 3;

/// What was seen of them.
#[derive(Debug)]
pub struct Stalled {
    next: Instant,
    /// How far each was when it was last seen to move, and when that was.
    moved: HashMap<JobId, (Vec<Value>, Instant)>,
    problems: Vec<String>,
    /// Each of them, however many.
    all: Vec<(JobId, String)>,
}

impl Stalled {
    /// Nothing was seen yet.
    pub fn new(now: Instant) -> Self {
        Self { next: now, moved: HashMap::new(), problems: Vec::new(), all: Vec::new() }
    }

    /// Whether it is time for a look; it is taken to be done.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let is_due = now >= self.next;
        if is_due {
            self.next = now + EVERY;
        }
        is_due
    }

    /// Looks at what runs and what waits. `progress`: how far a job is, as its command told last.
    pub fn look(&mut self, running: &[Job], waiting: &[Job], progress: impl Fn(JobId) -> Option<Value>, (now, now_unix_ms): (Instant, u64)) {
        self.moved.retain(|id, _| running.iter().any(|job| job.id == *id));
        let mut told = Vec::new();
        for job in running {
            let told_so_far = progress(job.id).unwrap_or_default();
            // Not when it was told: that goes on while all else stands.
            let far: Vec<Value> = ["name", "done", "total", "stored"].map(|key| told_so_far[key].clone()).into();
            let (before, since) = self.moved.entry(job.id).or_insert_with(|| (far.clone(), now));
            if *before != far {
                (*before, *since) = (far, now);
            }
            let still = now.saturating_duration_since(*since);
            if still >= STILL_MAX {
                let (id, minutes) = (job.id, still.as_secs() / 60);
                told.push((job.id, format!(
                    "{} runs, and has not moved for {minutes} minutes: does its store hang? 'cairn job log {id}' has its last words, 'cairn job cancel {id}' ends it",
                    named(job)
                )));
            }
        }
        for job in waiting {
            let due_unix_ms = job.again.as_ref().map_or(0, |again| again.not_before_unix_ms).max(job.queued_unix_ms);
            let waits_ms = now_unix_ms.saturating_sub(due_unix_ms);
            if waits_ms >= WAIT_MAX_MS {
                told.push((
                    job.id,
                    format!("{} has waited for its turn for {} hours; see 'cairn jobs' for what runs, and daemon.jobs_max", named(job), waits_ms / 3_600_000),
                ));
            }
        }
        let more = told.len().saturating_sub(NAMED_MAX);
        self.problems = told.iter().take(NAMED_MAX).map(|(_, words)| words.clone()).collect();
        if more > 0 {
            self.problems.push(format!("{more} more jobs do not get on; see 'cairn jobs'"));
        }
        self.all = told;
    }

    /// Each of them, with its number.
    pub fn all(&self) -> &[(JobId, String)] {
        &self.all
    }

    /// For people.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

fn named(job: &Job) -> String {
    let order = &job.order;
    format!("job {} ({} of {} to {})", job.id, order.kind.word(), shown(&order.domain), shown(&order.store))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::record::{Again, Kind, Order, State};
    use serde_json::json;

    fn job(id: JobId, state: State) -> Job {
        let order = Order {
            kind: Kind::Backup,
            domain: "web".into(),
            uuid: None,
            store: "main".into(),
            policies: Vec::new(),
            trigger: "shutdown".into(),
            why: "w".into(),
            windows: vec![],
            argv: vec!["backup".into()],
            cancel_limit_ms: 1,
        };
        let (code, pid, point, message, started_unix_ms, ended_unix_ms, again) = Default::default();
        Job { id, order, state, code, pid, cancel: false, queued_unix_ms: 1000, started_unix_ms, ended_unix_ms, message, point, again }
    }

    #[test]
    fn a_job_that_stands_is_told_until_it_moves_or_ends() {
        let start = Instant::now();
        let mut stalled = Stalled::new(start);
        let jobs = [job(1, State::Running), job(2, State::Running)];
        let mut look = |minutes: u64, done: u64, jobs: &[Job]| {
            // The first has told nothing yet; the second tells the time, too.
            let progress = |id| (id == 2).then(|| json!({"name": "web", "done": done, "total": 9, "stored": 1, "time": minutes}));
            stalled.look(jobs, &[], progress, (start + Duration::from_secs(60 * minutes), 0));
            stalled.problems().to_vec()
        };
        assert!(look(0, 1, &jobs).is_empty());
        assert!(look(29, 1, &jobs).is_empty());
        let told = look(30, 2, &jobs);
        assert!(told.len() == 1 && told[0].contains("job 1 (backup of web to main)") && told[0].contains("for 30 minutes"), "{told:?}");
        assert!(told[0].contains("'cairn job cancel 1'"), "{told:?}");
        assert_eq!(look(60, 2, &jobs).len(), 2, "the other stands since minute 30");
        assert_eq!(look(61, 3, &jobs).len(), 1, "it goes on");
        assert!(look(62, 3, &jobs[1..]).is_empty(), "the first has ended");
    }

    #[test]
    fn what_waits_too_long_is_told_from_when_it_was_due() {
        let mut stalled = Stalled::new(Instant::now());
        let waiting = |again| Job { again, ..job(7, State::Queued) };
        let again = Again { of: 3, tries: 2, not_before_unix_ms: 1000 + 3_600_000 };
        let mut look = |job: Job, hours: u64| {
            stalled.look(&[], &[job], |_| None, (Instant::now(), 1000 + hours * 3_600_000));
            stalled.problems().to_vec()
        };
        assert!(look(waiting(None), 5).is_empty());
        let told = look(waiting(None), 6);
        assert!(told.len() == 1 && told[0].contains("job 7 ") && told[0].contains("6 hours"), "{told:?}");
        assert!(look(waiting(Some(again.clone())), 6).is_empty(), "it was not to begin before");
        assert_eq!(look(waiting(Some(again)), 7).len(), 1);
    }

    #[test]
    fn many_are_counted_and_looks_have_their_time() {
        let now = Instant::now();
        let mut stalled = Stalled::new(now);
        assert!(stalled.is_due(now) && !stalled.is_due(now) && stalled.is_due(now + EVERY));
        let waiting: Vec<Job> = (0..5).map(|id| job(id, State::Queued)).collect();
        stalled.look(&[], &waiting, |_| None, (now, 1000 + WAIT_MAX_MS));
        assert!(stalled.problems().len() == 4 && stalled.problems()[3].contains("2 more"), "{:?}", stalled.problems());
    }
}
