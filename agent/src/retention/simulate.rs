//! What rules would keep in the future, if points went on coming at a steady pace.

use super::{Candidate, Rules, reasons};
use jiff::tz::TimeZone;

/// Points that would be there after a day of the future.
#[derive(Debug, PartialEq, Eq)]
pub struct Simulated {
    /// The day's last moment that was looked at, Unix milliseconds.
    pub time_unix_ms: u64,
    /// Kept.
    pub kept: usize,
    /// Times of the kept ones, Unix milliseconds, oldest first.
    pub times_unix_ms: Vec<u64>,
}

/// Goes on from `points` of one name and host with one more every `every_ms`, none of them after `span_ms`; one entry a step.
pub fn simulate(points: &[Candidate], rules: &Rules, zone: &TimeZone, now_unix_ms: u64, every_ms: u64, span_ms: u64) -> Vec<Simulated> {
    let mut there = points.to_vec();
    let (mut out, mut time) = (Vec::new(), now_unix_ms);
    let model = there.last().cloned();
    let (every_ms, end) = (every_ms.max(1), now_unix_ms.saturating_add(span_ms));
    while end - time >= every_ms {
        time += every_ms;
        let Some(model) = &model else { break };
        // What the future brings has no tags and no protection.
        there.push(Candidate { time_unix_ms: time, tags: Vec::new(), protected: false, damaged: false, ahead: false, log_unreadable: false, ..model.clone() });
        let why = reasons(&there, rules, zone, time);
        let mut why = why.iter();
        there.retain(|_| !why.next().expect("one a point").is_empty());
        out.push(Simulated { time_unix_ms: time, kept: there.len(), times_unix_ms: there.iter().map(|c| c.time_unix_ms).collect() });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_year_and_more_of_daily_points_settles() {
        let first = Candidate {
            name: "a".into(),
            host: "h".into(),
            time_unix_ms: 1_795_226_400_000,
            tags: vec![],
            protected: false,
            damaged: false,
            ahead: false,
            log_unreadable: false,
        };
        let rules = Rules { last: 3, daily: 7, weekly: 4, monthly: 12, yearly: 2, ..Rules::default() };
        let day = 86_400_000;
        let steps = simulate(std::slice::from_ref(&first), &rules, &TimeZone::UTC, first.time_unix_ms, day, 800 * day);
        assert_eq!(steps.len(), 800);
        let last = steps.last().expect("steps");
        // 7 days; 3 to 4 weeks' ends before them; the months' ends before those; two years' ends, one of which is a month's end too.
        assert!((20..=25).contains(&last.kept), "{}", last.kept);
        assert!(last.times_unix_ms.windows(2).all(|w| w[0] < w[1]));
        assert_eq!(simulate(std::slice::from_ref(&first), &rules, &TimeZone::UTC, first.time_unix_ms, day, day * 5 / 2).len(), 2, "none after the end");
        assert_eq!(simulate(&[], &rules, &TimeZone::UTC, 0, day, 5 * day), []);
    }
}
