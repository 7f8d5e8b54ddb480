//! What the guard decides. No I/O and no clock of its own: events and times come in, verdicts go out; actions are a trait.
//!
//! Invariants: an announced freeze is thawed before anything else is done; a job that lives is not killed for a freeze that takes too long (a
//! thawed guest is what matters, and the job's proof will fail by itself); the job is dead before anything of it is taken away, but where the scratch
//! runs out: then it is killed and not waited for, since a process that waits in the kernel for its store does not end, and the guest's writes cannot
//! wait; nothing is given up before [`CLEAN_UP_LIMIT`].

use std::fmt;
use std::time::{Duration, Instant};

/// A job that has not said anything for so long is stopped or hung. Three missed beats.
pub const STALL_LIMIT: Duration = Duration::from_secs(6);
/// The guard begins to thaw so long before the freeze limit: one call through libvirt.
pub const THAW_RESERVE: Duration = Duration::from_secs(3);
/// How long the clean-up is tried; what is left then, the next start sweeps.
pub const CLEAN_UP_LIMIT: Duration = Duration::from_secs(600);
/// From SIGKILL to the end of the process.
pub const KILL_LIMIT: Duration = Duration::from_secs(10);
/// The same where each moment costs the guest room for its writes.
pub const KILL_LIMIT_URGENT: Duration = Duration::from_millis(200);
/// Pause between attempts.
pub const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// What the guard sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Sign of life.
    Beat,
    /// The job is about to freeze the guest.
    Freeze,
    /// The guest is thawed for certain.
    Thawed,
    /// The point is committed: its bitmaps must stay.
    Committed,
    /// Nothing is left to guard.
    Dismissed,
    /// The backup has ended, and its own clean-up failed.
    HandedOver,
    /// The job's process or its line is gone.
    JobGone,
    /// Scratch reached its limit.
    ScratchFull,
    /// Time passed.
    Tick,
}

/// Why the guard ends a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The process ended.
    JobGone,
    /// No sign of life.
    Stalled,
    /// Scratch would run out, and the guest's own writes would then fail.
    ScratchFull,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::JobGone => "the backup process ended",
            Self::Stalled => "the backup process gave no sign of life",
            Self::ScratchFull => "the scratch space is nearly full",
        })
    }
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Go on watching.
    Watch,
    /// Thaw the guest, and go on watching.
    Thaw,
    /// Go.
    Leave,
    /// The backup has ended, but no thaw is certain: let go of the domain and go on thawing.
    Linger,
    /// The job has ended the backup and may go on with others: clean up after it, and leave it alone.
    TakeOver,
    /// End the backup.
    End(Reason),
}

/// State of one guarded backup.
#[derive(Debug)]
pub struct Watch {
    last_beat: Instant,
    frozen_since: Option<Instant>,
    next_thaw: Option<Instant>,
    freeze_limit: Duration,
    committed: bool,
}

impl Watch {
    /// Begins now.
    #[must_use]
    pub fn new(now: Instant, freeze_limit: Duration) -> Self {
        Self { last_beat: now, frozen_since: None, next_thaw: None, freeze_limit, committed: false }
    }

    /// A freeze was announced and no thaw is certain.
    #[must_use]
    pub fn may_be_frozen(&self) -> bool {
        self.frozen_since.is_some()
    }

    /// The guest is thawed for certain.
    pub fn thawed(&mut self) {
        self.frozen_since = None;
        self.next_thaw = None;
    }

    /// A thaw was tried in vain and ended at `now`: what the job has said meanwhile is heard before the next one.
    pub fn thaw_failed(&mut self, now: Instant) {
        self.next_thaw = Some(now + RETRY_PAUSE);
    }

    /// The point exists.
    #[must_use]
    pub fn is_committed(&self) -> bool {
        self.committed
    }

    /// Takes in what happened.
    pub fn on(&mut self, event: Event, now: Instant) -> Verdict {
        match event {
            Event::Dismissed if self.may_be_frozen() => return Verdict::Linger,
            Event::Dismissed => return Verdict::Leave,
            Event::HandedOver => return Verdict::TakeOver,
            Event::JobGone => return Verdict::End(Reason::JobGone),
            Event::ScratchFull => return Verdict::End(Reason::ScratchFull),
            Event::Beat => self.last_beat = now,
            Event::Committed => self.committed = true,
            Event::Freeze => {
                self.last_beat = now;
                self.next_thaw = Some(now + call_limit(self.freeze_limit));
                self.frozen_since.get_or_insert(now);
            }
            Event::Thawed => self.thawed(),
            Event::Tick => {}
        }
        if now.duration_since(self.last_beat) >= STALL_LIMIT {
            return Verdict::End(Reason::Stalled);
        }
        if self.next_thaw.is_some_and(|next| now >= next) {
            return Verdict::Thaw;
        }
        Verdict::Watch
    }
}

/// How long the job's own freeze call may take, and when the guard begins to thaw: the freeze limit less one thaw.
#[must_use]
pub fn call_limit(freeze_limit: Duration) -> Duration {
    freeze_limit.saturating_sub(THAW_RESERVE).max(Duration::from_secs(1))
}

/// What the guard can do. Each call is bounded in time.
pub trait Actions {
    /// Thaws the guest; true when it certainly is.
    fn thaw(&mut self) -> bool;
    /// Kills the job and waits for its end, so long; true when it has ended.
    fn kill_job(&mut self, limit: Duration) -> bool;
    /// Takes away job, exports, frozen copy, scratch, and the new bitmaps unless the point is committed; true when nothing is left.
    fn clean_up(&mut self, keep_bitmaps: bool) -> bool;
    /// Waits.
    fn pause(&mut self, duration: Duration);
}

/// Ends a backup: thaw · kill · thaw once more · clean up. False if something is left.
///
/// The second thaw: a freeze that the job had sent may have completed after the first.
///
/// Killed, a job runs nothing of its own any more, ended or not; what its last call still does in the store makes a point at most, whose bitmaps are gone:
/// the next backup then goes on from the one before.
pub fn end(watch: &Watch, reason: Reason, actions: &mut dyn Actions) -> bool {
    if watch.may_be_frozen() {
        actions.thaw();
    }
    let is_urgent = reason == Reason::ScratchFull;
    let has_ended = actions.kill_job(if is_urgent { KILL_LIMIT_URGENT } else { KILL_LIMIT });
    clean_up(watch, actions, has_ended || is_urgent)
}

/// Goes on with the clean-up of a job that could not do it. False if something is left.
pub fn take_over(watch: &Watch, actions: &mut dyn Actions) -> bool {
    clean_up(watch, actions, true)
}

fn clean_up(watch: &Watch, actions: &mut dyn Actions, mut killed: bool) -> bool {
    let mut thawed = !watch.may_be_frozen();
    let attempts = CLEAN_UP_LIMIT.as_secs() / RETRY_PAUSE.as_secs();
    for _ in 0..attempts {
        thawed = thawed || actions.thaw();
        killed = killed || actions.kill_job(KILL_LIMIT);
        if thawed && killed && actions.clean_up(watch.is_committed()) {
            return true;
        }
        actions.pause(RETRY_PAUSE);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn a_job_that_beats_is_left_alone_and_one_that_stops_is_not() {
        let start = Instant::now();
        let mut watch = Watch::new(start, Duration::from_secs(10));
        for ms in (0..60_000).step_by(2000) {
            assert_eq!(watch.on(Event::Beat, at(start, ms)), Verdict::Watch);
            assert_eq!(watch.on(Event::Tick, at(start, ms + 1900)), Verdict::Watch);
        }
        assert_eq!(watch.on(Event::Tick, at(start, 58_000 + 6000)), Verdict::End(Reason::Stalled));
        assert_eq!(watch.on(Event::Dismissed, at(start, 90_000)), Verdict::Leave);
    }

    #[test]
    fn a_freeze_ends_in_time_even_if_the_job_still_beats() {
        let start = Instant::now();
        let mut watch = Watch::new(start, Duration::from_secs(10));
        watch.on(Event::Freeze, start);
        assert_eq!(watch.on(Event::Beat, at(start, 6900)), Verdict::Watch);
        assert_eq!(watch.on(Event::Beat, at(start, 7000)), Verdict::Thaw);
        watch.thaw_failed(at(start, 7000));
        assert_eq!(watch.on(Event::Tick, at(start, 7500)), Verdict::Watch);
        assert_eq!(watch.on(Event::Tick, at(start, 8000)), Verdict::Thaw, "again, until it is certain");
        assert_eq!(watch.on(Event::Dismissed, at(start, 8100)), Verdict::Linger);
        watch.thawed();
        assert_eq!(watch.on(Event::Tick, at(start, 9900)), Verdict::Watch);
        assert_eq!(watch.on(Event::Dismissed, at(start, 9950)), Verdict::Leave);
        let mut thawed = Watch::new(start, Duration::from_secs(10));
        thawed.on(Event::Freeze, start);
        thawed.on(Event::Thawed, at(start, 100));
        thawed.on(Event::Beat, at(start, 6900));
        assert_eq!(thawed.on(Event::Tick, at(start, 8000)), Verdict::Watch);
    }

    #[derive(Default)]
    struct Log {
        done: Vec<&'static str>,
        thaw_fails: u32,
        kill_fails: u32,
        clean_up_fails: u32,
    }

    impl Actions for Log {
        fn thaw(&mut self) -> bool {
            self.done.push("thaw");
            self.thaw_fails = self.thaw_fails.saturating_sub(1);
            self.thaw_fails == 0
        }
        fn kill_job(&mut self, limit: Duration) -> bool {
            self.done.push(if limit == KILL_LIMIT { "kill" } else { "kill at once" });
            self.kill_fails = self.kill_fails.saturating_sub(1);
            self.kill_fails == 0
        }
        fn clean_up(&mut self, keep_bitmaps: bool) -> bool {
            self.done.push(if keep_bitmaps { "clean, keep" } else { "clean" });
            self.clean_up_fails = self.clean_up_fails.saturating_sub(1);
            self.clean_up_fails == 0
        }
        fn pause(&mut self, _duration: Duration) {}
    }

    #[test]
    fn thaw_comes_first_and_clean_up_last() {
        let start = Instant::now();
        let mut watch = Watch::new(start, Duration::from_secs(10));
        watch.on(Event::Freeze, start);
        let mut log = Log::default();
        assert!(end(&watch, Reason::JobGone, &mut log));
        assert_eq!(log.done, ["thaw", "kill", "thaw", "clean"]);
        watch.on(Event::Thawed, start);
        watch.on(Event::Committed, start);
        let mut log = Log { clean_up_fails: 2, ..Log::default() };
        assert!(end(&watch, Reason::JobGone, &mut log));
        assert_eq!(log.done, ["kill", "clean, keep", "clean, keep"]);
    }

    #[test]
    fn a_scratch_that_runs_out_does_not_wait_for_a_job_that_hangs_in_its_store() {
        let watch = Watch::new(Instant::now(), Duration::from_secs(10));
        let mut log = Log { kill_fails: u32::MAX, ..Log::default() };
        assert!(end(&watch, Reason::ScratchFull, &mut log));
        assert_eq!(log.done, ["kill at once", "clean"]);
        let mut log = Log { kill_fails: 3, ..Log::default() };
        assert!(end(&watch, Reason::Stalled, &mut log));
        assert_eq!(log.done, ["kill", "kill", "kill", "clean"]);
    }

    #[test]
    fn a_job_that_hands_over_is_not_killed() {
        let start = Instant::now();
        let mut watch = Watch::new(start, Duration::from_secs(10));
        watch.on(Event::Freeze, start);
        assert_eq!(watch.on(Event::HandedOver, start), Verdict::TakeOver);
        let mut log = Log { thaw_fails: 2, clean_up_fails: 2, ..Log::default() };
        assert!(take_over(&watch, &mut log));
        assert_eq!(log.done, ["thaw", "thaw", "clean", "clean"]);
    }

    #[test]
    fn nothing_is_taken_away_from_a_frozen_guest() {
        let start = Instant::now();
        let mut watch = Watch::new(start, Duration::from_secs(10));
        watch.on(Event::Freeze, start);
        let mut log = Log { thaw_fails: 4, ..Log::default() };
        assert!(end(&watch, Reason::JobGone, &mut log));
        assert_eq!(log.done, ["thaw", "kill", "thaw", "thaw", "thaw", "clean"]);
        let mut never = Log { thaw_fails: u32::MAX, ..Log::default() };
        assert!(!end(&watch, Reason::Stalled, &mut never));
        assert!(!never.done.contains(&"clean"));
    }
}
