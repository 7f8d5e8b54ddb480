//! What policies promise, worked out again in the plainest way, independent of the code that is tried: instants by walking along the wall clock, and which
//! points rules keep by counting for each point.

use crate::cli::Prune;
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use std::collections::BTreeSet;

/// Schedules of the simulation lie on quarters of an hour, and so do all changes of clocks.
const QUARTER_MS: u64 = 15 * 60_000;

/// What the wall shows.
pub fn wall(unix_ms: u64, zone: &TimeZone) -> DateTime {
    let ms = i64::try_from(unix_ms).expect("a time of our days");
    Timestamp::from_millisecond(ms).expect("a time").to_zoned(zone.clone()).datetime()
}

/// When the wall clock first reaches a time of the schedule that it has not shown before: what it jumps over counts when it has jumped, what it shows twice
/// counts the first time.
pub fn instants(is_meant: &dyn Fn(&DateTime) -> bool, zone: &TimeZone, from_ms: u64, to_ms: u64) -> Vec<u64> {
    let mut out = Vec::new();
    let mut at = from_ms - from_ms % QUARTER_MS;
    let mut reached = wall(at, zone);
    while at < to_ms {
        at += QUARTER_MS;
        let shows = wall(at, zone);
        let mut is_due = false;
        while reached < shows {
            reached = reached.checked_add(jiff::Span::new().minutes(15)).expect("a time of our days");
            is_due |= is_meant(&reached);
        }
        if is_due && (from_ms..to_ms).contains(&at) {
            out.push(at);
        }
    }
    out
}

/// Which points of one name and host the rules keep, by their dates.
pub fn kept(dates: &[u64], o: &Prune, zone: &TimeZone, now: u64) -> Vec<bool> {
    let is_ahead = |date: u64| date > now + 86_400_000;
    // Newer: dated later, or listed later where dates are equal.
    let newer = |i: usize| (0..dates.len()).filter(move |j| !is_ahead(dates[*j]) && (dates[*j], *j) > (dates[i], i));
    type Key = fn(&DateTime) -> (i16, i16, i8);
    let periods: [(u32, Key); 4] = [
        (o.keep_hourly, |t| (t.year(), t.date().day_of_year(), t.hour())),
        (o.keep_daily, |t| (t.year(), t.date().day_of_year(), 0)),
        (o.keep_weekly, |t| (t.date().iso_week_date().year(), 0, t.date().iso_week_date().week())),
        (o.keep_monthly, |t| (t.year(), 0, t.month())),
    ];
    let one = |i: usize| {
        let of_period = |(count, key): &(u32, Key)| {
            let mine = key(&wall(dates[i], zone));
            let others: BTreeSet<_> = newer(i).map(|j| key(&wall(dates[j], zone))).collect();
            !others.contains(&mine) && others.len() < *count as usize
        };
        let is_young = o.min_age > 0 && now.saturating_sub(dates[i]) < o.min_age;
        (newer(i).count() < o.keep_last as usize || periods.iter().any(of_period), is_young)
    };
    let by_rules: Vec<(bool, bool)> = (0..dates.len()).map(one).collect();
    let none_counts = !(0..dates.len()).any(|i| !is_ahead(dates[i]) && by_rules[i].0);
    let newest = (0..dates.len()).filter(|i| !is_ahead(dates[*i])).max_by_key(|i| (dates[*i], *i));
    (0..dates.len()).map(|i| is_ahead(dates[i]) || by_rules[i].0 || by_rules[i].1 || (none_counts && newest == Some(i))).collect()
}
