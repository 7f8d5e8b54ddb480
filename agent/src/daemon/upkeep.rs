//! What policies want besides points: what no rule keeps is forgotten, space is freed, data is read, points are booted. Pure: facts in, orders out.
//!
//! | | when | what |
//! |---|---|---|
//! | prune | a backup of the policies came to a good end since, and none of them waits or runs; once an hour at most | points of this host, of domains that exactly these policies take |
//! | gc | a prune came to a good end since; `gc_every` at most | the store |
//! | verify | each day | so many percent of the store's packs |
//! | boot | each day, week, month; spread over that time | the latest point of each domain |
//!
//! Invariants
//! - Nothing is forgotten that any policy of the domain keeps: rules of several are joined, and one that has none keeps all.
//! - Only points of the domains that are here, by UUID, and that this host took are forgotten: others have policies of their own, and domains of the same names. So hosts need to know nothing of each other;
//!   that a prune, a collection and a backup may meet is the store's affair (docs/gc.md).

use super::orders::{Ordering, windows};
use crate::{
    config::{Policy, Retention, StoreEntry},
    context::host_name,
    jobs::{Activity, Kind, Order},
    schedule::{
        Slot,
        due::{WAIT_MAX_MS, share},
    },
    watch::Seen,
};
use std::collections::{BTreeMap, HashMap};

const HOUR_MS: u64 = 3_600_000;
/// A collection of rules takes a listing of the store each: not after each backup of a busy hour.
const PRUNE_EVERY_MS: u64 = HOUR_MS;
const VERIFY_EVERY_MS: u64 = 24 * HOUR_MS;
/// Trigger of all of it.
pub const TRIGGER: &str = "policy";

/// What a check of a store's packs is of.
pub(super) const ALL: &str = "*";

/// What is known.
pub struct Facts<'a> {
    /// Domains.
    pub seen: &'a [Seen],
    /// What was ordered last.
    pub slots: &'a HashMap<String, Slot>,
    /// What was done lately.
    pub activity: &'a [Activity],
    /// Unix milliseconds.
    pub now: u64,
}

/// Orders, and what is to be noted with them.
type DueWork = (Vec<Order>, (String, Slot));

/// Domains of a store that exactly these policies take, and what they keep together.
pub(super) struct Group<'a> {
    pub(super) store: &'a str,
    pub(super) policies: Vec<(&'a str, &'a Policy)>,
    names: Vec<&'a str>,
    uuids: Vec<&'a str>,
    keep: Retention,
}

/// See the module.
pub fn due(ordering: &Ordering<'_>, facts: &Facts<'_>) -> Vec<DueWork> {
    let mut out = Vec::new();
    for group in groups(ordering, facts.seen) {
        out.extend(prune(ordering, facts, &group));
    }
    for (name, entry) in &ordering.config.stores {
        let policies: Vec<(&str, &Policy)> =
            ordering.config.policies.iter().filter(|(_, policy)| policy.stores.contains(name)).map(|(name, policy)| (name.as_str(), policy)).collect();
        out.extend(gc(ordering, facts, (name.as_str(), entry), &policies));
        out.extend(verify(ordering, facts, (name.as_str(), entry), &policies));
    }
    for one in facts.seen.iter().filter(|one| !one.is_away) {
        out.extend(boot(ordering, facts, one));
    }
    out
}

impl Facts<'_> {
    /// When something was ordered last, if it was. What lies a little ahead was ordered before the clock was set back, and is not ordered again for that; what lies
    /// farther ahead was ordered by a clock that was wrong.
    fn ordered(&self, key: &str) -> Option<u64> {
        self.slots.get(key).map(|slot| slot.done).filter(|at| *at <= self.now.saturating_add(WAIT_MAX_MS)).map(|at| at.min(self.now))
    }

    /// Since then so much time has passed.
    fn passed(&self, since: Option<u64>, every_ms: u64) -> bool {
        since.is_none_or(|at| self.now - at >= every_ms)
    }

    fn noted(&self, key: String) -> (String, Slot) {
        (key, Slot { done: self.now, ran: Some(self.now) })
    }
}

pub(super) fn groups<'a>(ordering: &Ordering<'a>, seen: &'a [Seen]) -> Vec<Group<'a>> {
    let mut out: BTreeMap<(&str, Vec<&str>), Group<'_>> = BTreeMap::new();
    for one in seen.iter().filter(|one| may_forget_of(ordering, seen, one)) {
        let taken = ordering.config.policies_of(&one.subject.clone().in_any_state());
        for store in ordering.config.stores.keys() {
            let mine: Vec<(&str, &Policy)> = taken.iter().filter(|(_, policy)| policy.stores.contains(store)).copied().collect();
            // One that has no rules keeps all.
            let Some(rules) = mine.iter().map(|(_, policy)| policy.retention.as_ref()).collect::<Option<Vec<_>>>() else { continue };
            let Some(keep) = rules.into_iter().cloned().reduce(|a, b| a.or(&b)) else { continue };
            let key = (store.as_str(), mine.iter().map(|(name, _)| *name).collect());
            let group = out.entry(key).or_insert_with(|| Group { store, policies: mine, names: Vec::new(), uuids: Vec::new(), keep });
            group.names.push(&one.subject.name);
            group.uuids.push(&one.uuid);
        }
    }
    out.into_values().collect()
}

/// Saving too much costs room, forgetting too much a history: where it is not certain which rules a domain is to have, nothing of it is forgotten. Its metadata was not read
/// yet, or names a policy that is not here (misspelt, say); it is in use on another host; its name is another's, too.
fn may_forget_of(ordering: &Ordering<'_>, seen: &[Seen], one: &Seen) -> bool {
    let is_only = !seen.iter().any(|other| other.uuid != one.uuid && other.subject.name == one.subject.name);
    one.is_known && !one.is_away && is_only && ordering.config.unknown_to(&one.subject.word).is_empty()
}

fn prune(ordering: &Ordering<'_>, facts: &Facts<'_>, group: &Group<'_>) -> Option<DueWork> {
    let names: Vec<&str> = group.policies.iter().map(|(name, _)| *name).collect();
    let key = format!("prune {} {}", names.join(","), group.store);
    let ordered = facts.ordered(&key);
    let of_these = |a: &&Activity| a.kind == Kind::Backup && a.store == group.store && a.policies.iter().any(|name| names.contains(&name.as_str()));
    let saved = facts.activity.iter().filter(of_these).filter_map(|a| a.done_unix_ms).max()?;
    let is_busy = facts.activity.iter().filter(of_these).any(|a| a.is_busy);
    // Somewhere a backup may always be under way: they may meet, and are only better not begun together.
    let is_overdue = ordered.is_some_and(|at| facts.now - at >= 24 * HOUR_MS);
    if (is_busy && !is_overdue) || ordered.is_some_and(|at| at > saved) || !facts.passed(ordered, PRUNE_EVERY_MS) {
        return None;
    }
    let mut args = vec!["--ignore-missing".to_owned(), format!("--host={}", host_name())];
    args.extend(group.uuids.iter().map(|uuid| format!("--uuid={uuid}")));
    args.extend(group.keep.options());
    args.push("--".into());
    args.extend(group.names.iter().map(|name| (*name).to_owned()));
    let why = format!("retention of {} domains after their backups", group.names.len());
    let entry = ordering.config.stores.get(group.store)?;
    let order = ordering.upkeep((Kind::Prune, names.join(",").as_str()), (group.store, entry), &group.policies, why, args);
    // It has the rules of now: they may be others by the time that a window opens.
    order.may_begin(facts.now).then(|| (vec![order], facts.noted(key)))
}

fn gc(ordering: &Ordering<'_>, facts: &Facts<'_>, (store, entry): (&str, &StoreEntry), policies: &[(&str, &Policy)]) -> Option<DueWork> {
    let every_ms = u64::try_from(entry.gc_every?.as_millis()).ok()?;
    let key = format!("gc {store}");
    let ordered = facts.ordered(&key);
    let mut prunes = facts.activity.iter().filter(|a| a.kind == Kind::Prune && a.store == store);
    let pruned = prunes.clone().filter_map(|a| a.done_unix_ms).max()?;
    if prunes.any(|a| a.is_busy) || ordered.is_some_and(|at| at > pruned) || !facts.passed(ordered, every_ms) {
        return None;
    }
    let of: Vec<(&str, &Policy)> = policies.iter().filter(|(_, policy)| policy.retention.is_some()).copied().collect();
    if of.is_empty() {
        return None;
    }
    let order = ordering.upkeep((Kind::Gc, store), (store, entry), &of, "after retention".into(), Vec::new());
    Some((vec![order], facts.noted(key)))
}

fn verify(ordering: &Ordering<'_>, facts: &Facts<'_>, (store, entry): (&str, &StoreEntry), policies: &[(&str, &Policy)]) -> Option<DueWork> {
    let of: Vec<(&str, &Policy)> = policies.iter().filter(|(_, policy)| policy.verify.percent_daily.is_some()).copied().collect();
    let (_, most) = of.iter().max_by_key(|(_, policy)| policy.verify.percent_daily)?;
    let key = format!("verify {store}");
    // Nothing was put there by this host yet: there may be no store either.
    let is_used = facts.activity.iter().any(|a| a.kind == Kind::Backup && a.store == store && a.done_unix_ms.is_some());
    if !is_used || !facts.passed(facts.ordered(&key), VERIFY_EVERY_MS) {
        return None;
    }
    let percent = most.verify.percent_daily?;
    let mut args = vec![format!("--percent={percent}")];
    args.extend(most.verify.rate.iter().map(|rate| format!("--rate={rate}")));
    // No domain's name: boot proofs of domains are of the same kind.
    let order = ordering.upkeep((Kind::Verify, ALL), (store, entry), &of, format!("{percent} % of the store's data each day"), args);
    Some((vec![order], facts.noted(key)))
}

/// The first times are spread over the whole of their time, so that not all domains are booted in one night.
fn boot(ordering: &Ordering<'_>, facts: &Facts<'_>, one: &Seen) -> Vec<DueWork> {
    let mut out = Vec::new();
    for (name, policy) in ordering.config.policies_of(&one.subject.clone().in_any_state()) {
        let Some(every) = policy.verify.boot else { continue };
        let point_in = |store: &String| Some((one.points.get(store)?, ordering.config.stores.get_key_value(store)?));
        let Some((point, (store, entry))) = policy.stores.iter().find_map(point_in) else { continue };
        let key = format!("boot {name} {}", one.uuid);
        let Some(last) = facts.ordered(&key) else {
            let first = facts.now.saturating_sub(every.ms()).saturating_add(share(&one.uuid, every.ms()));
            out.push((Vec::new(), (key, Slot { done: first, ran: None })));
            continue;
        };
        if facts.now - last < every.ms() {
            continue;
        }
        let mut args: Vec<String> = ordering.connect.iter().map(|uri| format!("--connect={uri}")).collect();
        // By its id: the latest of that name may be another host's.
        args.extend(["--boot".into(), "--".into(), point.clone()]);
        let why = format!("{name}: its latest point is booted {}", every.word());
        let order = ordering.upkeep((Kind::Verify, one.subject.name.as_str()), (store.as_str(), entry), &[(name, policy)], why, args);
        out.push((vec![order], facts.noted(key)));
    }
    out
}

impl Ordering<'_> {
    fn upkeep(&self, (kind, name): (Kind, &str), (store, entry): (&str, &StoreEntry), policies: &[(&str, &Policy)], why: String, args: Vec<String>) -> Order {
        let mut argv = self.common(kind.word(), entry);
        argv.extend(args);
        Order {
            kind,
            domain: name.to_owned(),
            uuid: None,
            store: store.to_owned(),
            policies: policies.iter().map(|(name, _)| (*name).to_owned()).collect(),
            trigger: TRIGGER.to_owned(),
            why,
            windows: windows(policies),
            argv,
            cancel_limit_ms: u64::try_from(self.config.daemon.cancel_limit.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

#[cfg(test)]
#[path = "upkeep_tests.rs"]
mod tests;
