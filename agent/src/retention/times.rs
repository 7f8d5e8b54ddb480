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
/// A parent that is dated ahead of now is no witness.
pub fn effective(points: &[&Point], now_unix_ms: u64) -> HashMap<SessionId, u64> {
    let mut times: HashMap<SessionId, u64> = points.iter().map(|p| (p.id, p.summary.time_unix_ms)).collect();
    // A pass moves each by its parents; chains of wrong dates are as long as that clock was wrong.
    for _ in 0..points.len() {
        let mut moved = false;
        for p in points.iter().filter(|p| !is_ahead(p.summary.time_unix_ms, now_unix_ms)) {
            let parents = p.body.parents.iter().filter_map(|parent| times.get(&parent.session)).filter(|t| !is_ahead(**t, now_unix_ms));
            let after = parents.max().map_or(0, |t| t + 1);
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
}
