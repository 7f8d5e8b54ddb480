//! When points were taken, as far as their clocks can be believed.

use crate::output;
use cairn_store::{Point, format::SessionId};
use std::collections::HashMap;

/// Hosts of one store differ by seconds, perhaps by a zone set wrong; more than a day is a wrong clock.
const AHEAD_MS_MIN: u64 = 86_400_000;

/// Dated so long after now that one of the two clocks is wrong.
pub fn is_ahead(time_unix_ms: u64, now_unix_ms: u64) -> bool {
    time_unix_ms > now_unix_ms.saturating_add(AHEAD_MS_MIN)
}

/// Times by point: their own, or just after their newest parent's where they are dated before it, for a backup comes after the one that it began from.
/// A date ahead of now says nothing; such a point counts as taken just after what it began from.
pub fn effective(points: &[&Point], now_unix_ms: u64) -> HashMap<SessionId, u64> {
    let own = |p: &Point| if is_ahead(p.summary.time_unix_ms, now_unix_ms) { 0 } else { p.summary.time_unix_ms };
    let mut times: HashMap<SessionId, u64> = points.iter().map(|p| (p.id, own(p))).collect();
    // A pass moves each by its parents; chains of wrong dates are as long as that clock was wrong.
    for _ in 0..points.len() {
        let mut moved = false;
        for p in points {
            let after = p.body.parents.iter().filter_map(|parent| times.get(&parent.session)).max().map_or(0, |t| t + 1);
            if times[&p.id] < after {
                times.insert(p.id, after);
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    times
}

/// Points in the order in which they were taken, as far as that can be known: by [`effective`] times, then by their own. Without those that are dated ahead of
/// now, which would be the latest for as long as a clock was wrong; all, where there are no others, for then it is this host's clock.
pub fn taken<'a>(points: impl IntoIterator<Item = &'a Point>, now_unix_ms: u64) -> Vec<&'a Point> {
    let mut all: Vec<&Point> = points.into_iter().collect();
    let times = effective(&all, now_unix_ms);
    all.sort_by_key(|p| (times[&p.id], p.summary.time_unix_ms, p.id));
    if all.iter().any(|p| !is_ahead(p.summary.time_unix_ms, now_unix_ms)) {
        all.retain(|p| !is_ahead(p.summary.time_unix_ms, now_unix_ms));
    }
    all
}

/// Says which points cannot have been taken when they say.
pub fn warn_ahead(points: &[&Point], now_unix_ms: u64) {
    let ahead: Vec<&&Point> = points.iter().filter(|p| is_ahead(p.summary.time_unix_ms, now_unix_ms)).collect();
    let Some(first) = ahead.first() else { return };
    say!(
        "cairn: warning: {} points are dated ahead of this host's clock (first: {} of {}, {}): their host's clock was wrong, or this one's is; '@latest' and rules of \
         retention pass over them, name them by id",
        ahead.len(),
        first.id,
        output::shown(&first.summary.name),
        output::rfc3339(first.summary.time_unix_ms).as_str().unwrap_or_default()
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::points::testing::point;
    use cairn_store::format::register::Parent;

    const HOUR_MS: u64 = 3_600_000;

    fn chain(dates: &[&str]) -> Vec<Point> {
        let mut all: Vec<Point> = dates.iter().zip(1..).map(|(date, n)| point("web", date, n)).collect();
        for n in 1..all.len() {
            all[n].body.parents = vec![Parent { session: all[n - 1].id, register_sha256: [0; 32] }];
        }
        all
    }

    #[test]
    fn a_backup_comes_after_the_one_it_began_from() {
        let all = chain(&["2026-11-20T02:00:00Z", "2001-01-01T00:00:00Z", "2001-01-02T00:00:00Z", "2026-11-21T02:00:00Z"]);
        let now = all[3].summary.time_unix_ms + HOUR_MS;
        let times = effective(&all.iter().collect::<Vec<_>>(), now);
        let at: Vec<u64> = all.iter().map(|p| times[&p.id]).collect();
        assert!(at.windows(2).all(|w| w[0] < w[1]), "{at:?}");
        assert_eq!((at[1], at[3]), (at[0] + 1, all[3].summary.time_unix_ms));
    }

    #[test]
    fn one_that_is_dated_ahead_moves_no_other() {
        let all = chain(&["2026-11-20T02:00:00Z", "2027-11-20T02:00:00Z", "2026-11-21T02:00:00Z"]);
        let now = all[2].summary.time_unix_ms;
        assert_eq!(effective(&all.iter().collect::<Vec<_>>(), now)[&all[2].id], now);
        assert!(is_ahead(all[1].summary.time_unix_ms, now) && !is_ahead(now + HOUR_MS, now));
    }

    #[test]
    fn equal_times_are_told_apart_by_their_own() {
        // Two that began from the same one, with a clock that was behind: the base is chosen anew by each backup.
        let mut all = chain(&["2026-11-20T02:00:00Z", "2026-11-10T00:00:00Z", "2026-11-10T00:00:10Z"]);
        let first = all[1].body.parents.clone();
        all[2].body.parents = first;
        let now = all[0].summary.time_unix_ms + HOUR_MS;
        let ids = |points: Vec<&Point>| points.iter().map(|p| p.id).collect::<Vec<_>>();
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            assert_eq!(ids(taken(order.map(|i| &all[i]), now)), [all[0].id, all[1].id, all[2].id]);
        }
    }

    #[test]
    fn a_clock_that_goes_back_twice_and_one_ahead_keep_the_order() {
        let all = chain(&["2026-11-20T02:00:00Z", "2026-11-10T00:00:00Z", "2026-10-31T00:00:00Z"]);
        let now = all[0].summary.time_unix_ms + HOUR_MS;
        assert_eq!(taken(&all, now).last().map(|p| p.id), Some(all[2].id));
        // Some hours ahead, which is believed; days ahead, which is not; then right.
        let all = chain(&["2026-11-20T22:00:00Z", "2026-11-30T02:00:00Z", "2026-11-20T02:10:00Z"]);
        let now = all[2].summary.time_unix_ms + 1000;
        assert_eq!(taken(&all, now).iter().map(|p| p.id).collect::<Vec<_>>(), [all[0].id, all[2].id]);
    }
}
