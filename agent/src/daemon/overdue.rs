//! What policies promise to do again and again, and what of it was not done for twice its time: a check that did not run is an alert. Pure.
//!
//! Invariants
//! - What can be done by nobody is not missed: no point to boot, nothing to forget, nothing to free.
//! - The time begins when the promise was first seen, or when it was last kept; both are remembered for longer than jobs are.

use super::{orders::Ordering, upkeep};
use crate::{
    alerts::{Cause, Kind as AlertKind, Severity, Work, book::Promise},
    jobs::{Activity, Kind},
    output::{duration, shown},
    watch::Seen,
};
use std::collections::BTreeMap;

const DAY_MS: u64 = 24 * 3_600_000;
/// A host that was off makes it up by itself, if it can.
const HOLD_MS: u64 = 3_600_000;
/// There is always something to check.
const ALWAYS: u64 = u64::MAX;

/// One thing that is promised.
struct Promised {
    key: String,
    every_ms: u64,
    /// In words: what is not done.
    what: String,
    policies: Vec<String>,
    domain: Option<(String, String)>,
    work: Work,
    /// When there was last something to be done, if ever.
    wanted_unix_ms: Option<u64>,
    done_unix_ms: Option<u64>,
}

/// What is overdue; `book` is brought up to date.
pub fn find(ordering: &Ordering<'_>, seen: &[Seen], activity: &[Activity], book: &mut BTreeMap<String, Promise>, now: u64) -> Vec<Cause> {
    let all = promised(ordering, seen, activity);
    book.retain(|key, _| all.iter().any(|one| one.key == *key));
    let mut out = Vec::new();
    for one in all {
        let promise = book.entry(one.key.clone()).or_insert(Promise { since_unix_ms: now, done_unix_ms: None });
        // What lies ahead was written by a clock that was wrong.
        promise.since_unix_ms = promise.since_unix_ms.min(now);
        promise.done_unix_ms = promise.done_unix_ms.max(one.done_unix_ms).map(|at| at.min(now));
        let since = promise.done_unix_ms.unwrap_or(promise.since_unix_ms);
        if one.wanted_unix_ms > promise.done_unix_ms && now - since > one.every_ms.saturating_mul(2) {
            out.push(one.cause(promise.done_unix_ms, since));
        }
    }
    out
}

impl Promised {
    fn cause(self, done: Option<u64>, since: u64) -> Cause {
        let store = &self.work.store;
        let mut cause = Cause::new(AlertKind::Overdue, Severity::Warning, &self.key, &format!("{} in {store} was not done", self.what)).of_store(store);
        let last = match done {
            Some(at) => format!("it last came to a good end on {}", crate::output::time(at)),
            None => "it never came to a good end as far as is known".to_owned(),
        };
        cause = cause.what(&format!(
            "{} in store {store} is promised every {} and was not done for more than twice that: {last}",
            self.what,
            duration(self.every_ms)
        ));
        cause = cause.remedy("'cairn jobs' says what runs and waits; is a window too short, jobs_max too small, the host off at that time?");
        if let Some((name, uuid)) = &self.domain {
            cause = cause.of_domain(name, uuid);
        }
        cause.policies = self.policies.iter().map(|policy| shown(policy)).collect();
        cause.since_unix_ms = Some(since);
        cause.work = Some(self.work);
        cause.hold_ms(HOLD_MS)
    }
}

/// When such work last came to a good end.
fn done(activity: &[Activity], kind: Kind, name: &str, store: &str) -> Option<u64> {
    activity.iter().filter(|a| a.kind == kind && a.name == name && a.store == store).filter_map(|a| a.done_unix_ms).max()
}

fn work(kind: Kind, name: &str, store: &str) -> Work {
    Work { kind: kind.word().to_owned(), name: shown(name), store: store.to_owned() }
}

fn promised(ordering: &Ordering<'_>, seen: &[Seen], activity: &[Activity]) -> Vec<Promised> {
    let mut out = prunes(ordering, seen, activity);
    for (store, entry) in &ordering.config.stores {
        let policies = |wanted: fn(&crate::config::Policy) -> bool| -> Vec<String> {
            let all = ordering.config.policies.iter().filter(|(_, policy)| policy.stores.contains(store) && wanted(policy));
            all.map(|(name, _)| name.clone()).collect()
        };
        let is_used = activity.iter().any(|a| a.kind == Kind::Backup && a.store == *store && a.done_unix_ms.is_some());
        let checking = policies(|policy| policy.verify.percent_daily.is_some());
        if !checking.is_empty() {
            out.push(Promised {
                key: format!("verify:{store}"),
                every_ms: DAY_MS,
                what: "the check of the store's data".into(),
                policies: checking,
                domain: None,
                work: work(Kind::Verify, upkeep::ALL, store),
                wanted_unix_ms: is_used.then_some(ALWAYS),
                done_unix_ms: done(activity, Kind::Verify, upkeep::ALL, store),
            });
        }
        let forgetting = policies(|policy| policy.retention.is_some());
        if let (Some(every), false) = (entry.gc_every, forgetting.is_empty()) {
            let freed = done(activity, Kind::Gc, store, store);
            let pruned = activity.iter().filter(|a| a.kind == Kind::Prune && a.store == *store).filter_map(|a| a.done_unix_ms).max();
            out.push(Promised {
                key: format!("gc:{store}"),
                every_ms: u64::try_from(every.as_millis()).unwrap_or(u64::MAX).max(DAY_MS),
                what: "the collection that frees space".into(),
                policies: forgetting,
                domain: None,
                work: work(Kind::Gc, store, store),
                wanted_unix_ms: pruned,
                done_unix_ms: freed,
            });
        }
    }
    seen.iter().filter(|one| !one.is_away).for_each(|one| out.extend(boots(ordering, one, activity)));
    out
}

fn prunes(ordering: &Ordering<'_>, seen: &[Seen], activity: &[Activity]) -> Vec<Promised> {
    let of = |group: upkeep::Group<'_>| {
        let names: Vec<String> = group.policies.iter().map(|(name, _)| (*name).to_owned()).collect();
        let of_these = |a: &&Activity| a.kind == Kind::Backup && a.store == group.store && a.policies.iter().any(|name| names.contains(name));
        let saved = activity.iter().filter(of_these).filter_map(|a| a.done_unix_ms).max();
        let pruned = done(activity, Kind::Prune, &names.join(","), group.store);
        Promised {
            key: format!("prune:{}:{}", names.join(","), group.store),
            every_ms: DAY_MS,
            what: format!("retention of {}", names.join(", ")),
            work: work(Kind::Prune, &names.join(","), group.store),
            policies: names,
            domain: None,
            wanted_unix_ms: saved,
            done_unix_ms: pruned,
        }
    };
    upkeep::groups(ordering, seen).into_iter().map(of).collect()
}

fn boots(ordering: &Ordering<'_>, one: &Seen, activity: &[Activity]) -> Vec<Promised> {
    let mut out = Vec::new();
    for (name, policy) in ordering.config.policies_of(&one.subject.clone().in_any_state()) {
        let Some(every) = policy.verify.boot else { continue };
        let Some(store) = policy.stores.iter().find(|store| one.points.contains_key(*store)) else { continue };
        out.push(Promised {
            key: format!("boot:{name}:{}", one.uuid),
            every_ms: every.ms(),
            what: format!("the boot proof of {}", shown(&one.subject.name)),
            policies: vec![name.to_owned()],
            domain: Some((one.subject.name.clone(), one.uuid.clone())),
            work: work(Kind::Verify, &one.subject.name, store),
            wanted_unix_ms: Some(ALWAYS),
            done_unix_ms: done(activity, Kind::Verify, &one.subject.name, store),
        });
    }
    out
}

#[cfg(test)]
#[path = "overdue_tests.rs"]
mod tests;
