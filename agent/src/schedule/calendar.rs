//! The instants that a schedule means, in its time zone.
//!
//! Invariants
//! - A civil time that does not exist (clocks are set forward over it) is the first moment after the gap; several of them are that moment once.
//! - One that exists twice (clocks are set back) is the first of both, once.
//! - So instants only grow with the civil times that they are of, and a search forward finds them all.

use super::Cron;
use jiff::{
    Timestamp,
    civil::DateTime,
    tz::{AmbiguousOffset, TimeZone},
};

/// How far back a missed instant is looked for, one after the other: the nearest is wanted, and mostly it is near.
const BACK_MS: [u64; 4] = [3_600_000, 26 * 3_600_000, 40 * 24 * 3_600_000, 400 * 24 * 3_600_000];

/// Expressions and their zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// Each of them makes a run.
    pub crons: Vec<Cron>,
    /// Where its hours are those of the day.
    pub zone: TimeZone,
}

impl Schedule {
    /// The first instant after this one, Unix milliseconds.
    pub fn next(&self, after_unix_ms: u64) -> Option<u64> {
        let after = timestamp(after_unix_ms)?;
        let next = self.crons.iter().filter_map(|cron| next(cron, &self.zone, after)).min()?;
        u64::try_from(next.as_millisecond()).ok()
    }

    /// The last instant after `after` and not after `until`.
    pub fn last(&self, after_unix_ms: u64, until_unix_ms: u64) -> Option<u64> {
        for back in BACK_MS {
            let from = until_unix_ms.saturating_sub(back).max(after_unix_ms);
            let found = self.last_from(from, until_unix_ms);
            if found.is_some() || from == after_unix_ms {
                return found;
            }
        }
        self.last_from(after_unix_ms, until_unix_ms)
    }

    fn last_from(&self, after_unix_ms: u64, until_unix_ms: u64) -> Option<u64> {
        std::iter::successors(self.next(after_unix_ms), |at| self.next(*at)).take_while(|at| *at <= until_unix_ms).last()
    }
}

fn next(cron: &Cron, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    let mut civil = after.to_zoned(zone.clone()).datetime();
    // In the second of two equal hours, all times of the first are passed over.
    loop {
        civil = cron.next(civil)?;
        let at = instant(civil, zone)?;
        if at > after {
            return Some(at);
        }
    }
}

/// See the module.
fn instant(civil: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    match zone.to_ambiguous_timestamp(civil).offset() {
        AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(civil).ok(),
        AmbiguousOffset::Fold { before, .. } => before.to_timestamp(civil).ok(),
        // By the offset of after the gap it lies before it: the next change of offset is the gap's end.
        AmbiguousOffset::Gap { after, .. } => zone.following(after.to_timestamp(civil).ok()?).next().map(|transition| transition.timestamp()),
    }
}

pub(super) fn timestamp(unix_ms: u64) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(unix_ms).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn schedule(cron: &str, zone: &str) -> Schedule {
        Schedule { crons: vec![Cron::parse(cron).expect("a schedule")], zone: TimeZone::get(zone).expect("a zone") }
    }

    fn ms(text: &str) -> u64 {
        u64::try_from(text.parse::<Timestamp>().expect("a time").as_millisecond()).expect("after 1970")
    }

    /// All instants of a year, as local times with their offset.
    fn year(cron: &str, zone: &str) -> Vec<String> {
        let (s, end) = (schedule(cron, zone), ms("2027-01-01T12:00:00Z"));
        std::iter::successors(s.next(ms("2026-01-01T12:00:00Z")), |at| s.next(*at))
            .take_while(|at| *at <= end)
            .map(|at| timestamp(at).expect("a time").to_zoned(s.zone.clone()).strftime("%Y-%m-%dT%H:%M%:z").to_string())
            .collect()
    }

    #[test]
    fn a_night_that_lacks_the_hour_has_its_run_after_the_gap_and_one_that_has_it_twice_has_one() {
        for (zone, gap, after, fold, first) in [
            ("Europe/Berlin", "2026-03-29T02:30", "2026-03-29T03:00+02:00", "2026-10-25T02:30", "2026-10-25T02:30+02:00"),
            ("America/New_York", "2026-03-08T02:30", "2026-03-08T03:00-04:00", "2026-11-01T01:30", "2026-11-01T01:30-04:00"),
            // Half an hour, the other half of the year.
            ("Australia/Lord_Howe", "2026-10-04T02:10", "2026-10-04T02:30+11:00", "2026-04-05T01:45", "2026-04-05T01:45+11:00"),
        ] {
            let cron = |local: &str| format!("{} {} * * *", &local[14..16], &local[11..13]);
            let all = year(&cron(gap), zone);
            assert_eq!(all.len(), 365, "{zone}");
            assert!(all.contains(&after.to_owned()) && !all.iter().any(|at| at.starts_with(gap)), "{zone}: {all:?}");
            let all = year(&cron(fold), zone);
            assert_eq!((all.len(), all.iter().filter(|at| at.starts_with(&fold[..10])).collect::<Vec<_>>()), (365, vec![&first.to_owned()]), "{zone}");
        }
    }

    #[test]
    fn minutes_of_a_gap_are_one_moment() {
        let all = year("*/10 2 29 3 *", "Europe/Berlin");
        assert_eq!(all, ["2026-03-29T03:00+02:00"]);
        // That of another run is the same run.
        let both = year("0 2,3 29 3 *", "Europe/Berlin");
        assert_eq!(both, ["2026-03-29T03:00+02:00"]);
    }

    /// Against a walk over each minute of the year: every local minute that fits is one instant, the first that has it; a day's number is never wrong by more
    /// than what the gap takes.
    #[test]
    fn a_year_has_each_local_time_once() {
        for (zone, cron) in [("Europe/Berlin", "*/15 * * * *"), ("America/New_York", "5,35 0-4 * * *"), ("Asia/Kolkata", "0 * * * *")] {
            let s = schedule(cron, zone);
            let (mut seen, mut wanted) = (BTreeSet::new(), BTreeSet::new());
            let (begin, end) = (ms("2026-01-01T00:00:00Z"), ms("2027-01-01T00:00:00Z"));
            let mut at = begin;
            while at < end {
                at += 60_000;
                let local = timestamp(at).expect("a time").to_zoned(s.zone.clone()).datetime();
                let before = local.checked_sub(jiff::SignedDuration::from_secs(1)).expect("in range");
                if s.crons[0].next(before) == Some(local) && seen.insert(local) {
                    wanted.insert(at);
                }
            }
            let got: BTreeSet<u64> = std::iter::successors(s.next(begin), |at| s.next(*at)).take_while(|at| *at <= end).collect();
            // The ends of gaps come on top, where the walk has nothing.
            let more: Vec<u64> = got.difference(&wanted).copied().collect();
            assert_eq!(wanted.difference(&got).count(), 0, "{zone}");
            assert!(more.len() <= 1, "{zone}: {more:?}");
        }
    }

    #[test]
    fn the_last_instant_is_found_however_long_ago() {
        let now = ms("2026-11-22T12:00:00Z");
        for (cron, last) in [
            ("0 2 * * *", "2026-11-22T02:00:00Z"),
            ("*/5 * * * *", "2026-11-22T12:00:00Z"),
            ("0 0 1 1 *", "2026-01-01T00:00:00Z"),
            ("0 0 29 2 *", "2024-02-29T00:00:00Z"),
        ] {
            assert_eq!(schedule(cron, "UTC").last(ms("2020-06-01T00:00:00Z"), now), Some(ms(last)), "{cron}");
        }
        assert_eq!(schedule("0 2 * * *", "UTC").last(ms("2026-11-22T02:00:00Z"), now), None, "what was run is not the last that is due");
    }
}
