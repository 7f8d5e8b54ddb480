//! The model: what the policies promise for the month, and whether it was kept. It reads no table and asks nobody; it knows the troubles beforehand.
//!
//! - At once: no instant is run twice, limits hold, upkeep is ordered for a reason and not too often.
//! - In the end: each instant has its point in each store, in its time or made up; no order has two; checks and boots came in their time.

use super::{
    sky::{DAY, HOUR, MINUTE, shown},
    slow,
    trouble::{Kind, LATE, LEAVING, On, Stretch},
    work::{Taken, Works},
};
use crate::{
    config::Config,
    jobs::{Job, Kind as Work, Order, record::Ticket},
    schedule::due::share,
};
use jiff::{civil::DateTime, tz::TimeZone};
use std::collections::{BTreeMap, HashMap, HashSet};

/// By when what is due has its point, where nothing is in the way: turns in a queue, and how long jobs take.
const GRACE: u64 = 3 * HOUR;
/// For how long what fails is tried again; a try of the last minutes may still fail.
const TRIED: u64 = 55 * MINUTE;

/// Whether a schedule means a time of the wall clock.
pub type IsMeant = fn(&DateTime) -> bool;

/// A policy as the model has it.
pub struct Promise {
    pub policy: &'static str,
    pub is_meant: IsMeant,
    pub jitter_ms: u64,
    /// Hours of the day at which it opens and closes.
    pub window: Option<(i8, i8)>,
    pub stores: &'static [&'static str],
    /// Machines by number.
    pub machines: &'static [usize],
    pub boots: bool,
}

pub struct Promises {
    all: Vec<Promise>,
    zone: TimeZone,
    stretches: Vec<Stretch>,
    span: (u64, u64),
    /// Key of the work, and instant.
    ran: HashSet<(String, u64)>,
    roots: HashMap<i64, i64>,
    /// When work was ordered, by what it is.
    ordered: BTreeMap<String, Vec<u64>>,
}

impl Promises {
    pub fn new(all: Vec<Promise>, zone: TimeZone, stretches: Vec<Stretch>, span: (u64, u64)) -> Self {
        Self { all, zone, stretches, span, ran: HashSet::new(), roots: HashMap::new(), ordered: BTreeMap::new() }
    }

    pub fn is_within(&self, at: u64, kinds: &[Kind]) -> bool {
        self.stretches.iter().any(|s| kinds.contains(&s.kind) && (s.from..=s.to).contains(&at))
    }

    /// The first of the jobs that try the same.
    pub fn root(&mut self, ticket: &Ticket) -> i64 {
        let root = ticket.again.as_ref().map_or(ticket.id, |again| self.roots.get(&again.of).copied().unwrap_or(again.of));
        self.roots.insert(ticket.id, root);
        root
    }

    /// An instant of a policy is run for a domain.
    pub fn ran(&mut self, key: &str, instant: u64) {
        assert!(self.ran.insert((key.to_owned(), instant)), "{key} is run twice for {}", shown(instant));
    }

    pub fn limits_hold(&self, config: &Config, running: &[Job]) {
        assert!(running.len() <= config.daemon.jobs_max, "{} jobs run", running.len());
        for (name, entry) in &config.stores {
            let of_store = running.iter().filter(|job| job.order.store == *name).count();
            assert!(entry.jobs_max.is_none_or(|max| of_store <= max), "{of_store} jobs run in {name}");
        }
        for job in running {
            let same = running.iter().filter(|other| other.order.kind == job.order.kind && other.order.domain == job.order.domain);
            assert_eq!(same.count(), 1, "of {} {}", job.order.kind.word(), job.order.domain);
        }
    }

    /// Work of a kind is ordered when there is something to do, and not again at once.
    pub fn upkeep_ordered(&mut self, order: &Order, key: &str, works: &Works) {
        let now = works.sky.true_ms();
        let before = self.ordered.entry(key.to_owned()).or_default().last().copied();
        self.ordered.entry(key.to_owned()).or_default().push(now);
        let Some(before) = before else { return };
        // A clock that is ahead makes time pass sooner; by a year, all of it is due, and due again when it is back.
        let is_year = self.stretches.iter().any(|s| s.kind == Kind::Year && s.from <= now && before <= s.to + MINUTE);
        if is_year {
            return;
        }
        let ahead = if self.stretches.iter().any(|s| s.kind == Kind::Clock && s.from <= now && before <= s.to) { 3 * HOUR } else { 0 };
        let every = match order.kind {
            Work::Prune => HOUR,
            Work::Gc if order.store == "far" => 3 * DAY,
            Work::Gc => DAY,
            Work::Verify if order.domain == "*" => DAY,
            Work::Verify => 7 * DAY,
            Work::Backup | Work::BackupImage => unreachable!("no upkeep"),
        };
        works.sky.hold(now - before + ahead >= every, || format!("{key} is ordered at {} and again", shown(before)));
        if order.kind == Work::Prune {
            let is_of = |t: &&Taken| works.names[t.store] == order.store && t.policies.iter().any(|p| order.policies.contains(p));
            // A job that began before it, and ended since.
            let is_news = works.taken.iter().filter(is_of).any(|t| t.at + 15 * MINUTE >= before);
            works.sky.hold(is_news, || format!("{key} is ordered again, and there was no backup since {}", shown(before)));
        }
    }

    /// All that is to be true once the month is over.
    pub fn check(&self, works: &Works) {
        let mut tried: HashMap<i64, &Taken> = HashMap::new();
        for taken in works.taken.iter().filter(|t| t.is_told) {
            if let Some(other) = tried.insert(taken.root, taken) {
                panic!("one order, two points: {other:?}, {taken:?}");
            }
        }
        let mut held = 0;
        for promise in &self.all {
            for store in promise.stores {
                let store = works.names.iter().position(|name| name == store).expect("a store of ours");
                for machine in promise.machines {
                    held += self.points_came(promise, (store, *machine), works);
                }
            }
            if promise.boots {
                self.boots_came(promise, works);
            }
        }
        assert!(held > 100, "only {held} instants were held against the promise");
        self.checks_came(works);
        works.sky.note(format_args!("{held} instants hold"));
    }

    /// Each instant has its point; how many were looked at.
    fn points_came(&self, promise: &Promise, (store, machine): (usize, usize), works: &Works) -> usize {
        let uuid = &works.machines[machine].uuid;
        let mine: Vec<u64> =
            works.taken.iter().filter(|t| t.store == store && t.uuid == *uuid && t.policies.iter().any(|p| p == promise.policy)).map(|t| t.at).collect();
        let mut held = 0;
        for instant in slow::instants(&promise.is_meant, &self.zone, self.span.0 + HOUR, self.span.1) {
            let due = instant + share(uuid, promise.jitter_ms);
            let Some(by) = self.by_when(promise, (store, machine), due) else { continue };
            held += 1;
            let came = mine.iter().any(|at| (due..=by).contains(at));
            let name = &works.machines[machine].name;
            works.sky.hold(came, || {
                let (policy, store) = (promise.policy, &works.names[store]);
                format!("{name} has no point of {policy} in {store} for {}, which was due from {} to {}", shown(instant), shown(due), shown(by))
            });
        }
        held
    }

    /// By when what is due at a time has its point; none where nothing is promised for it.
    fn by_when(&self, promise: &Promise, (store, machine): (usize, usize), due: u64) -> Option<u64> {
        let concerns = |s: &&Stretch| s.on == On::All || s.on == On::Store(store) || s.on == On::Machine(machine);
        // Trouble upon trouble is one.
        let mut end = due;
        let mut last = 0;
        while let Some(s) = self.stretches.iter().filter(concerns).find(|s| s.to > last && s.from <= end + GRACE && s.to + MINUTE >= due && s.to >= end) {
            (end, last) = (s.to, s.to);
            if matches!(s.kind, Kind::Clock | Kind::Year) || (s.kind == Kind::Failing && s.to > due + TRIED) {
                return None;
            }
            // Before it was there, nothing of it was due.
            if s.on == On::Machine(LATE) {
                return None;
            }
        }
        let by = end + GRACE;
        // Troubles that begin while something waits for its turn, and clocks.
        let is_hit = self.stretches.iter().filter(concerns).any(|s| s.from <= by && s.to >= due && s.to > end);
        let is_open = |at: u64| {
            promise.window.is_none_or(|(from, to)| {
                let hour = slow::wall(at, &self.zone).hour();
                if from < to { (from..to).contains(&hour) } else { hour >= from || hour < to }
            })
        };
        let stays_open = (0..=6).all(|n| is_open(due + n * GRACE / 6)) && (0..=6).all(|n| is_open(end + n * GRACE / 6));
        (!is_hit && stays_open && by < self.span.1).then_some(by)
    }

    /// The store was read each day, where nothing was in the way.
    fn checks_came(&self, works: &Works) {
        for (store, name) in works.names.iter().enumerate() {
            let times: Vec<u64> = works.upkeep.iter().filter(|u| u.kind == Work::Verify && u.name == "*" && u.store == store).map(|u| u.at).collect();
            works.sky.hold(times.len() > 12, || format!("{name} was read on {} days", times.len()));
            for (n, at) in times.iter().enumerate() {
                let by = at + DAY + GRACE;
                let is_hit = self.stretches.iter().any(|s| (s.on == On::All || s.on == On::Store(store)) && s.from <= by && s.to + HOUR >= *at);
                let next = times.get(n + 1).copied().unwrap_or(u64::MAX);
                works.sky.hold(is_hit || by >= self.span.1 || next <= by, || format!("{name} was read at {} and not within a day", shown(*at)));
            }
        }
    }

    /// Each domain's point was booted each week.
    fn boots_came(&self, promise: &Promise, works: &Works) {
        for machine in promise.machines.iter().filter(|m| **m != LATE && **m != LEAVING) {
            let uuid = &works.machines[*machine].uuid;
            let key = format!("boot {} {uuid}", promise.policy);
            let times = self.ordered.get(&key).map(Vec::as_slice).unwrap_or_default();
            works.sky.hold(times.len() >= 3, || format!("{} was booted {} times in a month: {times:?}", works.machines[*machine].name, times.len()));
        }
    }
}
