//! What the grammar cannot say of policies.

use super::{
    check::{Check, listed},
    policy::{BackupLimits, Checks, Policy, QuiesceSettings, Retention, Select},
    raw::{Level, Lines, RawLimits, RawPolicy, RawQuiesce, RawRetention, RawSelect, RawVerify},
    words,
};
use crate::{
    cli::Quiesce,
    read_limit::parse_read_limit,
    schedule::{Cron, Schedule, Window},
};
use cairn_quiesce::level::FREEZE_LIMIT_S;
use cairn_store::DISKS_AT_ONCE_MAX;
use jiff::tz::TimeZone;
use serde_saphyr::{Location, Spanned};
use std::{collections::BTreeSet, ops::RangeInclusive, time::Duration};

/// A day's runs are spread over a day at most.
const JITTER_S: RangeInclusive<u64> = 0..=86_400;
/// What nobody can keep is no objective, nor is what nobody would miss.
const RPO_S: RangeInclusive<u64> = 60..=10 * 366 * 86_400;
const PERCENT: RangeInclusive<u64> = 1..=100;
const PARALLEL_DISKS: RangeInclusive<u64> = 1..=DISKS_AT_ONCE_MAX as u64;

impl Check {
    pub(super) fn policy(&mut self, name: &str, policy: Spanned<RawPolicy>, stores: &BTreeSet<String>) -> Policy {
        self.name("policy", name, policy.referenced);
        let (at, mut raw) = (policy.referenced, policy.value);
        raw.on.dedup();
        let is_default = raw.default.unwrap_or(false);
        if raw.select.is_none() && !is_default {
            self.lacks(
                &["policies", name],
                at,
                format!("policy {name:?} selects nothing; give it select: {{ names: [\"*\"] }}, or default: true for the domains that no other takes"),
            );
        }
        let select = raw.select.map(|select| self.select(name, select, is_default)).unwrap_or_default();
        let zone = self.zone(raw.timezone);
        let schedule = raw.schedule.map(|lines| self.schedule(name, lines, &zone));
        let jitter = raw.jitter.map(|text| {
            if schedule.is_none() {
                self.lacks(&["policies", name], text.referenced, format!("policy {name:?} has no schedule, and so nothing that jitter could spread"));
            }
            self.seconds("jitter", &text, JITTER_S)
        });
        let window = raw.window.and_then(|text| match Window::parse(&text.value, &zone) {
            Ok(window) => Some(window),
            Err(why) => {
                self.wrong(text.referenced, why);
                None
            }
        });
        let rpo = raw.rpo.map(|text| Duration::from_secs(self.seconds("rpo", &text, RPO_S)));
        let tags = raw.tags.map(|tags| {
            if let Err(failure) = crate::points::check_tags(&tags.value) {
                self.wrong(tags.referenced, format!("policy {name:?}: {}", failure.message));
            }
            tags.value
        });
        Policy {
            select,
            is_default,
            on: raw.on,
            schedule,
            jitter: Duration::from_secs(jitter.unwrap_or(0)),
            window,
            rpo,
            stores: self.stores_of(name, raw.stores, stores),
            quiesce: self.quiesce(raw.quiesce),
            tags: tags.unwrap_or_default(),
            retention: raw.retention.map(|retention| self.retention(name, retention)),
            verify: self.verify(name, raw.verify),
            limits: self.limits(raw.limits),
        }
    }

    fn stores_of(&mut self, name: &str, wanted: Spanned<Vec<Spanned<String>>>, stores: &BTreeSet<String>) -> Vec<String> {
        if wanted.value.is_empty() {
            self.wrong(wanted.referenced, format!("policy {name:?} names no store; there are: {}", listed(stores)));
        }
        let mut names: Vec<String> = Vec::new();
        for store in wanted.value {
            if !stores.contains(&store.value) {
                let meant = words::did_you_mean(&store.value, stores.iter().map(String::as_str));
                self.lacks_store(store.referenced, format!("policy {name:?}: there is no store {:?}{meant}; there are: {}", store.value, listed(stores)));
            } else if !names.contains(&store.value) {
                names.push(store.value);
            }
        }
        names
    }

    fn select(&mut self, name: &str, select: Spanned<RawSelect>, is_default: bool) -> Select {
        let RawSelect { names, tags, except, state } = select.value;
        let at = names.as_ref().map_or(select.referenced, |names| names.referenced);
        let (names, tags) = (names.map(|n| n.value).unwrap_or_default(), tags.unwrap_or_default());
        if names.is_empty() && tags.is_empty() && !is_default {
            self.lacks(&["policies", name], at, format!("policy {name:?} selects nothing; names: [\"*\"] takes all domains"));
        }
        for tag in &tags {
            if tag.value.is_empty() || tag.value.contains(|c: char| c.is_whitespace() || c == ',' || c.is_control()) {
                self.wrong(tag.referenced, format!("{:?} cannot be a tag of domains: no blanks and commas, which stand between tags", tag.value));
            }
        }
        let tags = tags.into_iter().map(|tag| tag.value).collect();
        Select { names: self.patterns(names), tags, except: self.patterns(except), state: state.unwrap_or_default() }
    }

    pub(super) fn patterns(&mut self, patterns: Vec<Spanned<String>>) -> Vec<glob::Pattern> {
        let mut out = Vec::new();
        for pattern in patterns {
            match glob::Pattern::new(&pattern.value) {
                Ok(p) => out.push(p),
                Err(e) => self
                    .wrong(pattern.referenced, format!("{:?} is no pattern: {}; '*', '?' and '[a-z]' have a meaning, '[*]' is a star", pattern.value, e.msg)),
            }
        }
        out
    }

    fn zone(&mut self, zone: Option<Spanned<String>>) -> TimeZone {
        let Some(zone) = zone else { return TimeZone::system() };
        TimeZone::get(&zone.value).unwrap_or_else(|_| {
            let why =
                "is no time zone of this host; write one of its list, as Europe/Berlin or UTC ('timedatectl list-timezones'; the package tzdata has them)";
            self.wrong(zone.referenced, format!("{:?} {why}", zone.value));
            TimeZone::UTC
        })
    }

    fn schedule(&mut self, name: &str, lines: Spanned<Lines>, zone: &TimeZone) -> Schedule {
        let all: Vec<(Location, String)> = match lines.value {
            Lines::One(line) => vec![(lines.referenced, line)],
            Lines::All(all) => all.into_iter().map(|line| (line.referenced, line.value)).collect(),
        };
        if all.is_empty() {
            self.wrong(
                lines.referenced,
                format!("the schedule of policy {name:?} is empty; leave it out, or write when, as \"0 2 * * *\" for each night at two"),
            );
        }
        let mut crons = Vec::new();
        for (at, line) in all {
            match Cron::parse(&line) {
                Ok(cron) => crons.push(cron),
                Err(why) => self.wrong(at, format!("schedule: {why}")),
            }
        }
        Schedule { crons, zone: zone.clone() }
    }

    fn retention(&mut self, name: &str, retention: Spanned<RawRetention>) -> Retention {
        let (at, raw) = (retention.referenced, retention.value);
        let mut count = |what: &str, n: Option<Spanned<u64>>| {
            let n = n?;
            let fits = u32::try_from(n.value).ok();
            if fits.is_none() {
                self.wrong(n.referenced, format!("{what} is {}; that many points nobody has", n.value));
            }
            fits
        };
        let mut out = Retention {
            last: count("keep_last", raw.keep_last).unwrap_or(0),
            hourly: count("keep_hourly", raw.keep_hourly).unwrap_or(0),
            daily: count("keep_daily", raw.keep_daily).unwrap_or(0),
            weekly: count("keep_weekly", raw.keep_weekly).unwrap_or(0),
            monthly: count("keep_monthly", raw.keep_monthly).unwrap_or(0),
            yearly: count("keep_yearly", raw.keep_yearly).unwrap_or(0),
            within: None,
            tags: raw.keep_tags.unwrap_or_default(),
            min_age: None,
        };
        out.within = raw.keep_within.and_then(|text| self.length("keep_within", text)).filter(|(_, ms)| *ms > 0);
        if out.options().is_empty() {
            self.lacks(&["policies", name], at, format!("the retention of policy {name:?} says nothing that is to be kept; give it keep_last, keep_daily, keep_within or the like, or leave it out to keep all"));
        }
        out.min_age = raw.min_age.and_then(|text| self.length("min_age", text));
        if let Some(tag) = out.tags.iter().find(|tag| crate::points::check_tags(std::slice::from_ref(tag)).is_err()) {
            let why = format!("keep_tags: {tag:?} cannot be a tag of points");
            self.wrong(at, why);
        }
        out
    }

    fn length(&mut self, what: &str, text: Spanned<String>) -> Option<(String, u64)> {
        match crate::commands::parse_ms(&text.value) {
            Ok(ms) => Some((text.value, ms)),
            Err(why) => {
                self.wrong(text.referenced, format!("{what}: {why}"));
                None
            }
        }
    }

    fn verify(&mut self, name: &str, verify: RawVerify) -> Checks {
        let percent_daily = verify.data_percent_daily.and_then(|n| {
            if !PERCENT.contains(&n.value) {
                self.wrong(n.referenced, format!("data_percent_daily is {}; it must be within {} and {}", n.value, PERCENT.start(), PERCENT.end()));
            }
            u8::try_from(n.value).ok()
        });
        let rate = verify.rate.map(|text| {
            if let Err(why) = crate::commands::parse_bytes(&text.value) {
                self.wrong(text.referenced, format!("rate: {why}"));
            }
            if percent_daily.is_none() {
                self.lacks(&["policies", name], text.referenced, "rate is that of data_percent_daily, which is not there; give both");
            }
            text.value
        });
        Checks { percent_daily, rate, boot: verify.boot }
    }

    fn limits(&mut self, limits: RawLimits) -> BackupLimits {
        let read = limits.read.and_then(|text| match parse_read_limit(&text.value) {
            Ok(bytes_per_s) => Some((text.value, bytes_per_s)),
            Err(why) => {
                self.wrong(text.referenced, format!("limits.read: {why}"));
                None
            }
        });
        let parallel_disks = limits.parallel_disks.and_then(|n| {
            if !PARALLEL_DISKS.contains(&n.value) {
                self.wrong(n.referenced, format!("parallel_disks is {}; it must be within {} and {}", n.value, PARALLEL_DISKS.start(), PARALLEL_DISKS.end()));
            }
            u8::try_from(n.value).ok()
        });
        BackupLimits { read, parallel_disks }
    }

    fn quiesce(&mut self, quiesce: RawQuiesce) -> QuiesceSettings {
        let level = match quiesce.level {
            Some(Level::Require) => Quiesce::Require,
            Some(Level::Prefer) | None => Quiesce::Prefer,
            Some(Level::Never) => Quiesce::Never,
        };
        let freeze_limit_s = quiesce.freeze_limit.map(|text| self.seconds("freeze_limit", &text, FREEZE_LIMIT_S));
        let freeze_mounts = quiesce.freeze_mounts.map(|mounts| self.freeze_mounts(level, &mounts)).unwrap_or_default();
        QuiesceSettings { level, freeze_limit_s, freeze_mounts }
    }

    fn freeze_mounts(&mut self, level: Quiesce, mounts: &Spanned<Vec<String>>) -> Vec<String> {
        if level == Quiesce::Never {
            self.wrong(mounts.referenced, "freeze_mounts says what to freeze, and level: never to freeze nothing; leave one of them out");
        }
        cairn_quiesce::scope::check(&mounts.value).unwrap_or_else(|why| {
            self.wrong(mounts.referenced, format!("freeze_mounts: {why}"));
            Vec::new()
        })
    }
}
