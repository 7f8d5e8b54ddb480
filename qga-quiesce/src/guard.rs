//! What the guard decides. No I/O and no clock of its own: events and times come in, verdicts go out; actions are a trait.
//!
//! Invariants
//! - An announced freeze is thawed before anything else is done, for as long as a freeze may last. After that an agent that does not answer keeps nobody
//!   from ending the backup: most likely the guest was never frozen, and it writes into a scratch that nobody else looks after.
//! - A job that lives is not killed for a freeze that takes too long: a thawed guest is what matters, and the job's proof will fail by itself.
//! - The job is dead before anything of it is taken away, but where the scratch runs out: then it is killed and not waited for, since a process that waits in
//!   the kernel for its store does not end, and the guest's writes cannot wait.
//! - What a thaw is worth is [`crate::late`]'s: of a guest that is thawed for now the clean-up goes on, and so does the watch.
//! - Nothing is given up before [`CLEAN_UP_LIMIT`], and nothing is tried after it.

use std::fmt;
use std::time::{Duration, Instant};

use crate::late::Thaw;

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
/// The same after a call that hung: libvirt goes on with it for up to 8 s, of which the guard waited for 3, and calls must not pile up in it.
pub const HUNG_PAUSE: Duration = Duration::from_secs(5);

/// What the guard sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Sign of life.
    Beat,
    /// The job is about to freeze the guest.
    Freeze,
    /// libvirt has answered its freeze.
    FreezeAnswered,
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

    /// A thaw that is not certain ended at `now`: what the job has said meanwhile is heard before the next one, which comes after `pause`.
    pub fn thaw_failed(&mut self, now: Instant, pause: Duration) {
        self.next_thaw = Some(now + pause);
    }

    /// A freeze was announced longer ago than one may last, and no thaw is certain.
    #[must_use]
    pub fn is_overdue(&self, now: Instant) -> bool {
        self.frozen_since.is_some_and(|since| now.duration_since(since) >= self.freeze_limit)
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
            Event::Committed => self.committed = true,
            Event::Freeze => {
                self.next_thaw = Some(now + call_limit(self.freeze_limit));
                self.frozen_since.get_or_insert(now);
            }
            Event::Thawed => self.thawed(),
            Event::Beat | Event::FreezeAnswered | Event::Tick => {}
        }
        if event != Event::Tick {
            // Whatever a job says is a sign of life.
            self.last_beat = now;
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
    /// Now.
    fn now(&self) -> Instant;
    /// Thaws the guest.
    fn thaw(&mut self) -> Thaw;
    /// Kills the job and waits for its end, so long; true when it has ended.
    fn kill_job(&mut self, limit: Duration) -> bool;
    /// Takes away job, exports, frozen copy, scratch, and the new bitmaps unless the point is committed; true when nothing is left.
    fn clean_up(&mut self, keep_bitmaps: bool) -> bool;
    /// Waits before the next attempt.
    fn pause(&mut self);
}

/// How a backup was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Nothing is left.
    Clean,
    /// Nothing is left, but no thaw is certain: let go of the domain and go on thawing.
    NotThawed,
    /// Something is left; the next start sweeps.
    Left,
}

/// Ends a backup: thaw · kill · thaw once more · clean up.
///
/// The second thaw: a freeze that the job had sent may have completed after the first. A scratch that runs out comes before it all but for one thaw: a guest
/// that fills it is not frozen.
///
/// Killed, a job runs nothing of its own any more, ended or not; what its last call still does in the store makes a point at most, whose bitmaps are gone:
/// the next backup then goes on from the one before.
pub fn end(watch: &Watch, reason: Reason, actions: &mut dyn Actions) -> Ended {
    let is_urgent = reason == Reason::ScratchFull;
    if watch.may_be_frozen() && !is_urgent {
        actions.thaw();
    }
    let has_ended = actions.kill_job(if is_urgent { KILL_LIMIT_URGENT } else { KILL_LIMIT });
    if is_urgent {
        let thawed = !watch.may_be_frozen() || (!watch.is_overdue(actions.now()) && actions.thaw() == Thaw::Certain);
        if actions.clean_up(watch.is_committed()) {
            return if thawed { Ended::Clean } else { Ended::NotThawed };
        }
        actions.pause();
    }
    clean_up(watch, actions, has_ended || is_urgent, is_urgent)
}

/// Goes on with the clean-up of a job that could not do it.
pub fn take_over(watch: &Watch, actions: &mut dyn Actions) -> Ended {
    clean_up(watch, actions, true, false)
}

/// `is_urgent`: whether or not the guest is thawed.
fn clean_up(watch: &Watch, actions: &mut dyn Actions, mut killed: bool, is_urgent: bool) -> Ended {
    let mut thaw = if watch.may_be_frozen() { Thaw::Failed } else { Thaw::Certain };
    let start = actions.now();
    loop {
        if thaw != Thaw::Certain {
            thaw = actions.thaw();
        }
        killed = killed || actions.kill_job(KILL_LIMIT);
        // A guest that is not frozen now loses nothing by it.
        let may_clean = thaw != Thaw::Failed || is_urgent || watch.is_overdue(actions.now());
        if killed && may_clean && actions.clean_up(watch.is_committed()) {
            return if thaw == Thaw::Certain { Ended::Clean } else { Ended::NotThawed };
        }
        if actions.now().duration_since(start) >= CLEAN_UP_LIMIT {
            return Ended::Left;
        }
        actions.pause();
    }
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
        watch.thaw_failed(at(start, 7000), RETRY_PAUSE);
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

    /// Every action takes a second, but for a kill at once.
    struct Log {
        now: Instant,
        done: Vec<&'static str>,
        thaw_fails: u32,
        /// Of a thaw that does not fail.
        thaws: Thaw,
        kill_fails: u32,
        clean_up_fails: u32,
    }

    impl Log {
        fn new(now: Instant) -> Self {
            Self { now, done: Vec::new(), thaw_fails: 0, thaws: Thaw::Certain, kill_fails: 0, clean_up_fails: 0 }
        }

        fn does(&mut self, what: &'static str) {
            self.done.push(what);
            self.now += Duration::from_secs(1);
        }
    }

    impl Actions for Log {
        fn now(&self) -> Instant {
            self.now
        }
        fn thaw(&mut self) -> Thaw {
            self.does("thaw");
            self.thaw_fails = self.thaw_fails.saturating_sub(1);
            if self.thaw_fails == 0 { self.thaws } else { Thaw::Failed }
        }
        fn kill_job(&mut self, limit: Duration) -> bool {
            self.does(if limit == KILL_LIMIT { "kill" } else { "kill at once" });
            self.kill_fails = self.kill_fails.saturating_sub(1);
            self.kill_fails == 0
        }
        fn clean_up(&mut self, keep_bitmaps: bool) -> bool {
            self.does(if keep_bitmaps { "clean, keep" } else { "clean" });
            self.clean_up_fails = self.clean_up_fails.saturating_sub(1);
            self.clean_up_fails == 0
        }
        fn pause(&mut self) {
            self.now += RETRY_PAUSE;
        }
    }

    /// A freeze was announced.
    fn frozen(start: Instant) -> Watch {
        let mut watch = Watch::new(start, Duration::from_secs(10));
        watch.on(Event::Freeze, start);
        watch
    }

    #[test]
    fn thaw_comes_first_and_clean_up_last() {
        let start = Instant::now();
        let mut watch = frozen(start);
        let mut log = Log::new(start);
        assert_eq!(end(&watch, Reason::JobGone, &mut log), Ended::Clean);
        assert_eq!(log.done, ["thaw", "kill", "thaw", "clean"]);
        watch.on(Event::Thawed, start);
        watch.on(Event::Committed, start);
        let mut log = Log { clean_up_fails: 2, ..Log::new(start) };
        assert_eq!(end(&watch, Reason::JobGone, &mut log), Ended::Clean);
        assert_eq!(log.done, ["kill", "clean, keep", "clean, keep"]);
    }

    #[test]
    fn a_scratch_that_runs_out_does_not_wait_for_a_job_that_hangs_in_its_store() {
        let start = Instant::now();
        let watch = Watch::new(start, Duration::from_secs(10));
        let mut log = Log { kill_fails: u32::MAX, ..Log::new(start) };
        assert_eq!(end(&watch, Reason::ScratchFull, &mut log), Ended::Clean);
        assert_eq!(log.done, ["kill at once", "clean"]);
        let mut log = Log { kill_fails: 3, ..Log::new(start) };
        assert_eq!(end(&watch, Reason::Stalled, &mut log), Ended::Clean);
        assert_eq!(log.done, ["kill", "kill", "kill", "clean"]);
    }

    #[test]
    fn a_scratch_that_runs_out_does_not_wait_for_an_agent_that_is_mute() {
        let start = Instant::now();
        let mute = || Log { thaw_fails: u32::MAX, ..Log::new(start) };
        let mut log = mute();
        assert_eq!(end(&frozen(start), Reason::ScratchFull, &mut log), Ended::NotThawed);
        assert_eq!(log.done, ["kill at once", "thaw", "clean"]);
        // The freeze was given up long ago, and the guest writes.
        let mut log = Log { now: at(start, 3_600_000), ..mute() };
        assert_eq!(end(&frozen(start), Reason::ScratchFull, &mut log), Ended::NotThawed);
        assert_eq!(log.done, ["kill at once", "clean"]);
        let mut log = Log { now: at(start, 3_600_000), clean_up_fails: 2, ..mute() };
        assert_eq!(end(&frozen(start), Reason::ScratchFull, &mut log), Ended::NotThawed);
        assert_eq!(log.done, ["kill at once", "clean", "thaw", "clean"]);
    }

    #[test]
    fn a_job_that_hands_over_is_not_killed() {
        let start = Instant::now();
        let mut watch = frozen(start);
        assert_eq!(watch.on(Event::HandedOver, start), Verdict::TakeOver);
        let mut log = Log { thaw_fails: 2, clean_up_fails: 2, ..Log::new(start) };
        assert_eq!(take_over(&watch, &mut log), Ended::Clean);
        assert_eq!(log.done, ["thaw", "thaw", "clean", "clean"]);
    }

    #[test]
    fn nothing_is_taken_away_from_a_guest_that_may_be_frozen_until_its_time_is_over() {
        let start = Instant::now();
        let mut log = Log { thaw_fails: 4, ..Log::new(start) };
        assert_eq!(end(&frozen(start), Reason::JobGone, &mut log), Ended::Clean);
        assert_eq!(log.done, ["thaw", "kill", "thaw", "thaw", "thaw", "clean"]);
        let mut never = Log { thaw_fails: u32::MAX, ..Log::new(start) };
        assert_eq!(end(&frozen(start), Reason::Stalled, &mut never), Ended::NotThawed);
        assert_eq!(never.done.last(), Some(&"clean"));
        let spent = never.now.duration_since(start);
        assert!((Duration::from_secs(10)..Duration::from_secs(14)).contains(&spent), "{spent:?}: {:?}", never.done);
    }

    #[test]
    fn a_guest_that_is_thawed_for_now_is_cleaned_up_after_and_watched_on() {
        let start = Instant::now();
        for reason in [Reason::JobGone, Reason::ScratchFull] {
            let mut log = Log { thaws: Thaw::ForNow, ..Log::new(start) };
            assert_eq!(end(&frozen(start), reason, &mut log), Ended::NotThawed, "the freeze of a dead job may still come");
            assert_eq!(log.done.last(), Some(&"clean"));
            assert!(log.now.duration_since(start) < Duration::from_secs(5), "{:?}", log.done);
        }
        let mut log = Log { thaws: Thaw::ForNow, ..Log::new(start) };
        assert_eq!(take_over(&frozen(start), &mut log), Ended::NotThawed);
        assert_eq!(log.done, ["thaw", "clean"]);
    }

    #[test]
    fn nothing_is_tried_for_longer_than_the_limit() {
        let start = Instant::now();
        for reason in [Reason::JobGone, Reason::ScratchFull] {
            let mut log = Log { thaw_fails: u32::MAX, clean_up_fails: u32::MAX, ..Log::new(start) };
            assert_eq!(end(&frozen(start), reason, &mut log), Ended::Left);
            let spent = log.now.duration_since(start);
            assert!((CLEAN_UP_LIMIT..CLEAN_UP_LIMIT + Duration::from_secs(15)).contains(&spent), "{spent:?}");
        }
    }
}
