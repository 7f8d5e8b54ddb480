//! Retention: which points of a name go, and why each stays.
//!
//! Pure: points, rules and a time zone in, a verdict for each point out. Rules are independent of each other; a point that any of them wants stays,
//! and the newest good one of each name stays if no count wants any.
//! Points are counted by (name, host), so that points forged on one host do not push out those of another.
//! Clocks are wrong at times, and a wrong one must forget nothing: `within` looks back from the newest point and not from now; a point that is dated ahead
//! of now stays and takes no place; one that is dated before its own parent counts from its parent's time.

mod calendar;
mod simulate;
pub mod times;

pub use calendar::calendar_tags;
pub use simulate::{Simulated, simulate};

use cairn_store::{Point, PointState};
use calendar::{Period, zoned};
use jiff::{Span, tz::TimeZone};
use std::collections::BTreeMap;

/// What to keep. All counts 0, nothing `within` and no tags: no rule at all, which callers refuse.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// The newest so many.
    pub last: u32,
    /// The newest of each of the last so many hours, days, weeks (ISO), months, years that have points.
    pub hourly: u32,
    /// See `hourly`.
    pub daily: u32,
    /// See `hourly`.
    pub weekly: u32,
    /// See `hourly`.
    pub monthly: u32,
    /// See `hourly`.
    pub yearly: u32,
    /// All that are not older than so much before the newest.
    pub within: Option<Span>,
    /// All that have one of these tags.
    pub tags: Vec<String>,
    /// Younger ones are never forgotten, milliseconds.
    pub min_age_ms: u64,
}

impl Rules {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.counts().iter().all(|c| c.1 == 0) && self.last == 0 && self.within.is_none() && self.tags.is_empty()
    }

    fn counts(&self) -> [(Period, u32); 5] {
        [(Period::Hour, self.hourly), (Period::Day, self.daily), (Period::Week, self.weekly), (Period::Month, self.monthly), (Period::Year, self.yearly)]
    }
}

/// What retention needs to know of a point.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Domain or image.
    pub name: String,
    /// Host that took it.
    pub host: String,
    /// Unix milliseconds.
    pub time_unix_ms: u64,
    /// Tags.
    pub tags: Vec<String>,
    /// Must stay.
    pub protected: bool,
    /// Known to be damaged: it uses up no place of a good one.
    pub damaged: bool,
    /// Dated well after now: this host's clock is behind, or the other's was ahead. It stays, takes no place, and `within` does not look back from it.
    pub ahead: bool,
    /// Its log cannot be read whole: tags, protection and a verdict of damage may be hidden. It stays, and uses up no place of a good one.
    pub log_unreadable: bool,
}

/// What retention needs to know of points, in their order; `all` are those that they may come from.
pub fn candidates(points: &[&Point], all: &[Point], now_unix_ms: u64) -> Vec<Candidate> {
    let times = times::effective(&all.iter().collect::<Vec<_>>(), now_unix_ms);
    let candidate = |p: &&Point| {
        let s = &p.summary;
        Candidate {
            name: s.name.clone(),
            host: s.host.clone(),
            time_unix_ms: times.get(&p.id).copied().unwrap_or(s.time_unix_ms),
            tags: p.tags(),
            protected: p.is_protected(),
            damaged: p.state() == PointState::Damaged || p.log_damage.is_some(),
            ahead: times::is_ahead(s.time_unix_ms, now_unix_ms),
            log_unreadable: p.log_damage.is_some(),
        }
    };
    points.iter().map(candidate).collect()
}

/// Why each candidate stays, in the candidates' order; one without a reason goes.
pub fn reasons(candidates: &[Candidate], rules: &Rules, zone: &TimeZone, now_unix_ms: u64) -> Vec<Vec<String>> {
    let mut groups: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
    for (i, c) in candidates.iter().enumerate() {
        groups.entry((&c.name, &c.host)).or_default().push(i);
    }
    let mut out = vec![Vec::new(); candidates.len()];
    for mut group in groups.into_values() {
        // It is no witness of which others are old, and stays anyhow.
        group.retain(|i| !candidates[*i].ahead);
        // Of equal times the later in the list is the newer, as for `@latest`.
        group.sort_by_key(|i| std::cmp::Reverse((candidates[*i].time_unix_ms, *i)));
        keep_group(candidates, &group, rules, zone, &mut out);
    }
    for (c, why) in candidates.iter().zip(&mut out) {
        if c.protected {
            why.push("protected".into());
        }
        if c.ahead {
            why.push("dated ahead of this host's clock".into());
        }
        if c.log_unreadable {
            why.push("its log cannot be read whole".into());
        }
        if rules.min_age_ms > 0 && now_unix_ms.saturating_sub(c.time_unix_ms) < rules.min_age_ms {
            why.push("young".into());
        }
    }
    out
}

/// `group`: positions of one name's and host's candidates, newest first.
fn keep_group(candidates: &[Candidate], group: &[usize], rules: &Rules, zone: &TimeZone, out: &mut [Vec<String>]) {
    let mut left = rules.last;
    for i in group {
        if left > 0 {
            out[*i].push(format!("last {}/{}", rules.last - left + 1, rules.last));
            left -= u32::from(!candidates[*i].damaged);
        }
    }
    for (period, wanted) in rules.counts() {
        let (mut left, mut last) = (wanted, None);
        for i in group {
            let key = period.key(&zoned(candidates[*i].time_unix_ms, zone));
            if left == 0 {
                break;
            }
            if last == Some(key) {
                continue;
            }
            out[*i].push(format!("{} {}/{wanted}", period.word(), wanted - left + 1));
            // A damaged one leaves the place to the next good one of the same period.
            if !candidates[*i].damaged {
                (left, last) = (left - 1, Some(key));
            }
        }
    }
    // A damaged point is no witness of which others are old: the good ones before it may be all that a machine has.
    let newest = group.iter().find(|i| !candidates[**i].damaged).or(group.first());
    let since = |i: &usize| zoned(candidates[*i].time_unix_ms, zone).checked_sub(rules.within?).ok();
    // Nor is one that stands alone: taken by a clock that was ahead, it would make all others old at once. The second one behind a pause settles it.
    let second = group.iter().filter(|i| !candidates[**i].damaged).nth(1);
    let oldest = match (newest.and_then(since), second) {
        (Some(oldest), Some(second)) if zoned(candidates[*second].time_unix_ms, zone) < oldest => since(second),
        (oldest, _) => oldest,
    };
    for i in group {
        let c = &candidates[*i];
        if oldest.as_ref().is_some_and(|o| zoned(c.time_unix_ms, zone) >= *o) {
            out[*i].push("within".into());
        }
        if let Some(tag) = c.tags.iter().find(|t| rules.tags.contains(t)) {
            out[*i].push(format!("tag {tag}"));
        }
    }
    // A rule that fits nothing (a tag with a typo), or only what is damaged, must not take a machine's last good point: that is forgotten by name or not
    // at all.
    let counts = |i: &usize| !candidates[*i].damaged || newest.is_some_and(|n| candidates[*n].damaged);
    if let Some(i) = newest.filter(|_| !group.iter().any(|i| counts(i) && !out[*i].is_empty())) {
        out[*i].push("newest".into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 86_400_000;
    /// 2026-11-21T02:00Z, a Saturday.
    const NOW: u64 = 1_795_226_400_000;

    #[test]
    fn one_point_by_a_clock_that_is_ahead_makes_no_others_old() {
        let rules = Rules { within: Some(Span::new().days(30)), ..Rules::default() };
        let kept = |points: &[Candidate], now| reasons(points, &rules, &TimeZone::UTC, now).iter().filter(|why| !why.is_empty()).count();
        let mut points = daily(20);
        let later = NOW + 60 * DAY_MS;
        points.push(candidate("a", "h", later));
        assert_eq!(kept(&points, later), 21, "all that were within before");
        points.push(candidate("a", "h", later + DAY_MS));
        assert_eq!(kept(&points, later + DAY_MS), 2, "time has passed, and two say so");
    }

    fn daily(n: u64) -> Vec<Candidate> {
        (0..n).map(|i| candidate("a", "h", NOW - (n - 1 - i) * DAY_MS)).collect()
    }

    fn candidate(name: &str, host: &str, time_unix_ms: u64) -> Candidate {
        Candidate { name: name.into(), host: host.into(), time_unix_ms, tags: vec![], protected: false, damaged: false, ahead: false, log_unreadable: false }
    }

    fn kept(candidates: &[Candidate], rules: &Rules) -> Vec<usize> {
        let why = reasons(candidates, rules, &TimeZone::UTC, NOW);
        (0..candidates.len()).filter(|i| !why[*i].is_empty()).collect()
    }

    #[test]
    fn each_rule_keeps_what_it_says() {
        let all = daily(40);
        assert_eq!(kept(&all, &Rules { last: 3, ..Rules::default() }), [37, 38, 39]);
        assert_eq!(kept(&all, &Rules { daily: 2, ..Rules::default() }), [38, 39]);
        // Saturday the 21st, then the Sundays that end the ISO weeks before.
        assert_eq!(kept(&all, &Rules { weekly: 3, ..Rules::default() }), [26, 33, 39]);
        assert_eq!(kept(&all, &Rules { monthly: 2, ..Rules::default() }), [18, 39], "the last of October and the newest");
        assert_eq!(kept(&all, &Rules { yearly: 5, ..Rules::default() }), [39]);
        assert_eq!(kept(&all, &Rules { within: Some(Span::new().days(2)), ..Rules::default() }), [37, 38, 39]);
        assert_eq!(kept(&all, &Rules { tags: vec!["wekly".into()], ..Rules::default() }), [39], "a typo takes not everything");
        let both = Rules { last: 1, monthly: 2, ..Rules::default() };
        assert_eq!(reasons(&all, &both, &TimeZone::UTC, NOW)[39], ["last 1/1", "monthly 1/2"]);
    }

    #[test]
    fn hosts_and_names_are_counted_apart() {
        let mut all = daily(3);
        all.extend((0..5).map(|i| candidate("a", "forger", NOW + i)));
        all.push(candidate("b", "h", 0));
        assert_eq!(kept(&all, &Rules { last: 2, ..Rules::default() }), [1, 2, 6, 7, 8]);
    }

    #[test]
    fn tags_protection_and_youth_keep_and_damage_takes_no_place() {
        let mut all = daily(6);
        all[0].tags = vec!["gold".into()];
        all[1].protected = true;
        all[5].damaged = true;
        let rules = Rules { last: 1, tags: vec!["gold".into()], ..Rules::default() };
        assert_eq!(kept(&all, &rules), [0, 1, 4, 5], "the newest is damaged: the one before takes its place");
        let young = Rules { last: 1, min_age_ms: 2 * DAY_MS + 1, ..Rules::default() };
        assert_eq!(kept(&all, &young), [1, 3, 4, 5]);
    }

    #[test]
    fn rules_that_only_damage_fits_leave_the_newest_good_one() {
        let mut all = daily(6);
        (all[5].damaged, all[5].tags) = (true, vec!["gold".into()]);
        let within = |days: i64| Rules { within: Some(Span::new().days(days)), ..Rules::default() };
        assert_eq!(kept(&all, &Rules { tags: vec!["gold".into()], ..Rules::default() }), [4, 5]);
        assert_eq!(kept(&all, &within(1)), [3, 4, 5], "within looks back from the newest good one");
        assert_eq!(kept(&all, &within(2)), [2, 3, 4, 5]);
        all.iter_mut().for_each(|c| c.damaged = true);
        assert_eq!(kept(&all, &within(0)), [5], "of damaged ones alone, the newest");
    }

    /// Points that nobody can see must cost none that can be seen: what goes without them goes with them as well. And a machine that has a good point
    /// has one afterwards.
    #[test]
    fn hidden_points_make_no_other_go_and_a_good_one_stays() {
        let mut x = 88_172_645_463_325_252_u64;
        let mut draw = move |below: u64| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x % below
        };
        let mut gone = 0;
        for case in 0..3000 {
            let all: Vec<Candidate> = (0..2 + draw(25))
                .map(|_| {
                    let mut c = candidate(["a", "b"][draw(2) as usize], "h", NOW - draw(60 * 24) * 3_600_000);
                    (c.damaged, c.protected) = (draw(6) == 0, draw(9) == 0);
                    c.tags.extend((draw(8) == 0).then(|| "gold".to_owned()));
                    c
                })
                .collect();
            let rules = Rules {
                last: draw(4) as u32,
                hourly: draw(3) as u32,
                daily: draw(5) as u32,
                weekly: draw(4) as u32,
                monthly: draw(3) as u32,
                yearly: draw(2) as u32,
                within: (draw(3) == 0).then(|| Span::new().days(i64::try_from(draw(20)).expect("small"))),
                tags: if draw(3) == 0 { vec!["gold".into()] } else { vec![] },
                min_age_ms: 0,
            };
            let seen: Vec<usize> = (0..all.len()).filter(|_| draw(5) > 0).collect();
            let visible: Vec<Candidate> = seen.iter().map(|i| all[*i].clone()).collect();
            let (with, without) = (kept(&all, &rules), kept(&visible, &rules));
            for good in all.iter().filter(|c| !c.damaged) {
                assert!(
                    with.iter().any(|i| !all[*i].damaged && all[*i].name == good.name),
                    "case {case}: no good point of {} stays: {rules:?} {all:?}",
                    good.name
                );
            }
            for (place, i) in seen.iter().enumerate() {
                assert!(without.contains(&place) || !with.contains(i), "case {case}: {i} goes only because others are hidden: {rules:?} {all:?}");
                gone += u32::from(!without.contains(&place));
            }
        }
        assert!(gone > 3000, "{gone} went");
    }

    #[test]
    fn what_a_log_hides_keeps_its_point() {
        let mut all = daily(6);
        (all[4].log_unreadable, all[4].damaged) = (true, true);
        assert_eq!(kept(&all, &Rules { last: 2, ..Rules::default() }), [3, 4, 5], "it stays, and its place goes to the one before");
    }

    #[test]
    fn a_point_that_is_dated_ahead_costs_no_other_its_place() {
        let mut all = daily(10);
        all.push(Candidate { ahead: true, ..candidate("a", "h", NOW + 365 * DAY_MS) });
        let within = Rules { within: Some(Span::new().days(3)), ..Rules::default() };
        assert_eq!(kept(&all, &within), [6, 7, 8, 9, 10]);
        assert_eq!(kept(&all, &Rules { last: 2, ..Rules::default() }), [8, 9, 10]);
        assert_eq!(kept(&all, &Rules { tags: vec!["typo".into()], ..Rules::default() }), [9, 10], "the newest true one stays, too");
    }

    #[test]
    fn a_clock_that_is_ahead_does_not_make_all_others_old() {
        let all = daily(10);
        let rules = Rules { within: Some(Span::new().days(30)), ..Rules::default() };
        let a_year_ahead = NOW + 365 * DAY_MS;
        assert!(reasons(&all, &rules, &TimeZone::UTC, a_year_ahead).iter().all(|w| !w.is_empty()));
    }
}
