//! Whether a run is due, of what was run before. One slot for each thing that a policy does again and again: a domain's backups, say.
//!
//! | | |
//! |---|---|
//! | nothing was run yet | the first run is the next instant: a new policy makes no backup of everything at noon |
//! | instants were missed (host off, daemon dead, clock set forward) | the last of them is run, once for all |
//! | clock set back | waits until the last run's instant has come again, and does not run that twice; where it would wait for more than [`WAIT_MAX_MS`], the clock was wrong before, and it goes on from now |

use super::{Schedule, Window};

/// A clock that is set back makes nobody wait for longer.
pub const WAIT_MAX_MS: u64 = 3 * 3_600_000;
/// Later than this, a run was missed, and its job says so.
const LATE_MS: u64 = 120_000;

/// What was run, Unix milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Instants up to this one are done with.
    pub done: u64,
    /// The last that was run, if any was.
    pub ran: Option<u64>,
}

/// What is to be done with a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing yet.
    No,
    /// Nothing is run; the slot is to be this.
    Note(Slot),
    /// A run for this instant; the slot is this once there is a job.
    Run {
        /// Its instant, before jitter.
        at: u64,
        /// It was missed.
        late: bool,
        /// As it is afterwards.
        then: Slot,
    },
}

/// A policy's times.
#[derive(Debug, Clone, Copy)]
pub struct Times<'a> {
    /// Its instants.
    pub schedule: &'a Schedule,
    /// By how much later the run begins, ms.
    pub jitter_ms: u64,
    /// When it may begin.
    pub window: Option<&'a Window>,
}

impl Times<'_> {
    /// See the module.
    pub fn due(&self, slot: Option<Slot>, now: u64) -> Due {
        let Some(slot) = slot else { return Due::Note(Slot { done: now, ran: None }) };
        // What is due at an instant is due so much later; a slot has the instants.
        if slot.done > now.saturating_add(WAIT_MAX_MS) {
            return Due::Note(Slot { done: now, ran: slot.ran });
        }
        let Some(until) = now.checked_sub(self.jitter_ms) else { return Due::No };
        let Some(at) = self.schedule.last(slot.done, until) else { return Due::No };
        if slot.ran == Some(at) {
            return Due::Note(Slot { done: at, ran: slot.ran });
        }
        if self.window.is_some_and(|window| !window.is_open(now)) {
            return Due::No;
        }
        Due::Run { at, late: until - at > LATE_MS, then: Slot { done: at, ran: Some(at) } }
    }

    /// When the next run begins, were nothing missed.
    pub fn next(&self, now: u64) -> Option<u64> {
        let mut at = self.schedule.next(now.saturating_sub(self.jitter_ms))?.saturating_add(self.jitter_ms);
        // The window is looked at minute by minute, for two days at most: it is open once a day.
        let end = at.saturating_add(48 * 3_600_000);
        while let Some(window) = self.window
            && !window.is_open(at)
        {
            at += 60_000 - at % 60_000;
            if at > end {
                return None;
            }
        }
        Some(at)
    }
}

/// A domain's share of a jitter: always the same, and spread over all domains (FNV-1a).
pub fn share(key: &str, jitter_ms: u64) -> u64 {
    let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    // The low bits of it are poor.
    let hash = (hash ^ (hash >> 32)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    if jitter_ms == 0 { 0 } else { (hash >> 16) % jitter_ms }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Cron;
    use jiff::tz::TimeZone;

    const MINUTE: u64 = 60_000;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    /// 2026-01-01T00:00Z
    const BEGIN: u64 = 1_767_225_600_000;

    fn schedule(cron: &str, zone: &str) -> Schedule {
        Schedule { crons: vec![Cron::parse(cron).expect("a schedule")], zone: TimeZone::get(zone).expect("a zone") }
    }

    /// A daemon that lives on what it wrote down.
    struct World<'a> {
        times: Times<'a>,
        slot: Option<Slot>,
        runs: Vec<(u64, u64)>,
    }

    impl<'a> World<'a> {
        fn new(schedule: &'a Schedule) -> Self {
            Self { times: Times { schedule, jitter_ms: 0, window: None }, slot: None, runs: Vec::new() }
        }

        /// `killed`: before it has written anything down.
        fn look(&mut self, now: u64, killed: bool) -> Due {
            let due = self.times.due(self.slot, now);
            match due {
                _ if killed => {}
                Due::No => {}
                Due::Note(slot) => self.slot = Some(slot),
                Due::Run { at, then, .. } => {
                    self.slot = Some(then);
                    self.runs.push((at, now));
                }
            }
            due
        }
    }

    #[test]
    fn a_year_has_a_run_for_each_day_and_none_twice() {
        for zone in ["Europe/Berlin", "America/New_York"] {
            let nightly = schedule("30 2 * * *", zone);
            let mut world = World::new(&nightly);
            world.times.jitter_ms = 7 * MINUTE;
            // A step that is no divisor of anything.
            let mut now = BEGIN + 12 * HOUR;
            while now < BEGIN + 365 * DAY + 12 * HOUR {
                world.look(now, now.is_multiple_of(3));
                now += 4 * MINUTE + 1;
            }
            assert_eq!(world.runs.len(), 365, "{zone}");
            assert!(world.runs.windows(2).all(|w| w[0].0 < w[1].0), "{zone}: one instant, one run");
            assert!(world.runs.iter().all(|(at, now)| (7 * MINUTE..20 * MINUTE).contains(&(now - at))), "{zone}: {:?}", world.runs);
        }
    }

    #[test]
    fn what_was_missed_is_made_up_once() {
        let hourly = schedule("0 * * * *", "UTC");
        let mut world = World::new(&hourly);
        world.look(BEGIN + MINUTE, false);
        // Off for three days.
        assert!(matches!(world.look(BEGIN + 3 * DAY + 30 * MINUTE, false), Due::Run { at, late: true, .. } if at == BEGIN + 3 * DAY));
        assert_eq!(world.look(BEGIN + 3 * DAY + 31 * MINUTE, false), Due::No);
        assert!(matches!(world.look(BEGIN + 3 * DAY + HOUR + 1, false), Due::Run { late: false, .. }));
        assert_eq!(world.runs.len(), 2);
    }

    #[test]
    fn a_clock_that_jumps_costs_no_run_and_doubles_none() {
        let nightly = schedule("0 2 * * *", "UTC");
        let night = |n: u64| BEGIN + n * DAY + 2 * HOUR;
        let mut world = World::new(&nightly);
        world.look(night(1) - HOUR, false);
        world.look(night(1) + 1, false);
        // An hour back, over the run: not again.
        for now in [night(1) - HOUR, night(1) - 1, night(1) + 1, night(1) + HOUR] {
            world.look(now, false);
        }
        assert_eq!(world.runs.len(), 1);
        // Half a day back: that night's instant comes again, and was run.
        for now in [night(1) - 12 * HOUR, night(1) - 11 * HOUR, night(1) + MINUTE, night(1) + HOUR] {
            world.look(now, false);
        }
        assert_eq!(world.runs.len(), 1, "{:?}", world.runs);
        // A month forward: once. Back again: the true nights go on.
        world.look(night(31) + HOUR, false);
        assert_eq!(world.runs.last().map(|r| r.0), Some(night(31)));
        world.look(night(2) - HOUR, false);
        world.look(night(2) + 1, false);
        world.look(night(3) + 1, false);
        assert_eq!(world.runs.iter().map(|r| r.0).collect::<Vec<_>>(), [night(1), night(31), night(2), night(3)]);
    }

    #[test]
    fn nothing_begins_outside_of_its_window() {
        let nightly = schedule("0 2 * * *", "UTC");
        let window = Window::parse("22:00-06:00", &TimeZone::UTC).expect("a window");
        let mut world = World::new(&nightly);
        world.times.window = Some(&window);
        world.look(BEGIN, false);
        // Off over the night: it waits until the evening.
        for hour in [7, 12, 21] {
            assert_eq!(world.look(BEGIN + hour * HOUR, false), Due::No);
        }
        assert!(matches!(world.look(BEGIN + 22 * HOUR, false), Due::Run { late: true, .. }));
        assert!(matches!(world.look(BEGIN + DAY + 2 * HOUR, false), Due::Run { late: false, .. }));
        let noon = schedule("0 12 * * *", "UTC");
        let next = Times { schedule: &noon, jitter_ms: 0, window: Some(&window) }.next(BEGIN + 9 * HOUR);
        assert_eq!(next, Some(BEGIN + 22 * HOUR));
    }

    #[test]
    fn jitter_is_a_domains_own_and_spreads() {
        let shares: Vec<u64> = (0..1000).map(|n| share(&format!("0d5a1f00-0000-4000-8000-{n:012}"), HOUR)).collect();
        assert!(shares.iter().all(|s| *s < HOUR));
        for tenth in 0..10 {
            let n = shares.iter().filter(|s| **s / (HOUR / 10) == tenth).count();
            assert!((60..150).contains(&n), "{tenth}: {n}");
        }
        assert_eq!((share("a", HOUR), share("a", 0)), (share("a", HOUR), 0));
    }
}
