//! What policies want by the clock: each second it is looked whether something is due, and what is becomes a job.
//!
//! Invariants
//! - It starts nothing by itself: orders go where all others go, with their slots in one transaction. Who is killed before that has done nothing, who is killed after it
//!   has done all.
//! - What was run is read from the table each time: nothing here is remembered, so nothing here can be lost or be wrong after a restart.
//! - What cannot be ordered now (a table or a disk that does not answer, a full queue) is due in a second again, and health says so.

use super::{state::Shared, upkeep};
use crate::{
    commands::now_unix_ms,
    config::{Config, Policy, Word},
    failure::{BUSY, FAILED, Failure, Outcome},
    jobs::ANSWER_LIMIT,
    schedule::{
        Due, Slot,
        due::{Times, share},
    },
    watch::{Records, Seen},
};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

const TICK: Duration = Duration::from_secs(1);
/// Between two looks for what is done once a day: reading what was done lately takes longer than a slot.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);
/// Domains whose orders go in one question.
const BATCH: usize = 32;
/// Domains that health names.
const NAMED_MAX: usize = 3;

/// A domain for which policies want points now.
pub struct Run<'a> {
    /// It.
    pub seen: &'a Seen,
    /// Those that want one.
    pub policies: Vec<(&'a str, &'a Policy)>,
    /// For people.
    pub why: String,
    /// To be noted with its jobs.
    pub slots: Vec<(String, Slot)>,
}

/// For as long as the daemon runs.
pub async fn keep(shared: Arc<Shared>) {
    let (mut ticks, mut upkept) = (tokio::time::interval(TICK), None);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let config = shared.config();
        let is_upkeep = upkept.is_none_or(|at: Instant| at.elapsed() >= UPKEEP_EVERY);
        // Without any, what domains name is looked at all the same.
        if !is_upkeep && !config.policies.values().any(wants_time) {
            continue;
        }
        let problems = match turn(&shared, &config, is_upkeep).await {
            Ok(problems) => problems,
            Err(f) => vec![format!("what policies want by the clock cannot be ordered: {}; it is tried again each second", f.message)],
        };
        if is_upkeep {
            upkept = Some(Instant::now());
        }
        shared.set_schedule_problems(problems);
    }
}

fn wants_time(policy: &Policy) -> bool {
    policy.schedule.is_some() || policy.retention.is_some() || policy.verify.percent_daily.is_some() || policy.verify.boot.is_some()
}

/// One look; what people should know.
async fn turn(shared: &Arc<Shared>, config: &Arc<Config>, is_upkeep: bool) -> Outcome<Vec<String>> {
    let seen = shared.seen().await?;
    let slots = shared.jobs.slots().await?;
    let (runs, notes) = due(config, &seen, &slots, now_unix_ms());
    if !notes.is_empty() {
        shared.jobs.add_due(Vec::new(), notes).await?;
    }
    for batch in runs.chunks(BATCH) {
        let orders = shared.order(|o| batch.iter().flat_map(|run| o.of_schedule(run)).collect());
        let jobs = shared.jobs.add_due(orders, batch.iter().flat_map(|run| run.slots.clone()).collect()).await?;
        batch.iter().for_each(|run| tracing::info!("{}: {}", crate::output::shown(&run.seen.subject.name), run.why));
        tracing::debug!("{} jobs wait or run for it", jobs.len());
    }
    if is_upkeep {
        let activity = shared.jobs.activity().await?;
        let due = shared.order(|o| upkeep::due(&o, &upkeep::Facts { seen: &seen, slots: &slots, activity: &activity, now: now_unix_ms() }));
        for (orders, slot) in due {
            orders.iter().for_each(|order| tracing::info!("{} of {} in {}: {}", order.kind.word(), order.domain, order.store, order.why));
            shared.jobs.add_due(orders, vec![slot]).await?;
        }
    }
    Ok(unknown(config, &seen))
}

/// Points that are due, by domain; and what is to be noted without any.
pub fn due<'a>(config: &'a Config, seen: &'a [Seen], slots: &HashMap<String, Slot>, now: u64) -> (Vec<Run<'a>>, Vec<(String, Slot)>) {
    let (mut runs, mut notes) = (Vec::new(), Vec::new());
    for one in seen.iter().filter(|one| !one.is_away) {
        let mut run = Run { seen: one, policies: Vec::new(), why: String::new(), slots: Vec::new() };
        for (name, policy) in config.policies_of(&one.subject) {
            let Some(times) = times(policy, &one.uuid) else { continue };
            let key = format!("backup {name} {}", one.uuid);
            match times.due(slots.get(&key).copied(), now) {
                Due::No => {}
                Due::Note(slot) => notes.push((key, slot)),
                Due::Run { at, late, then } => {
                    let also = if run.why.is_empty() { "" } else { "; " };
                    let late = if late { ", made up" } else { "" };
                    run.why.push_str(&format!("{also}{name}: scheduled for {}{late}", crate::output::time(at)));
                    run.policies.push((name, policy));
                    run.slots.push((key, then));
                }
            }
        }
        if !run.policies.is_empty() {
            runs.push(run);
        }
    }
    (runs, notes)
}

/// When a policy wants a point of a domain, if it wants any by the clock.
pub fn times<'a>(policy: &'a Policy, uuid: &str) -> Option<Times<'a>> {
    let jitter_ms = share(uuid, u64::try_from(policy.jitter.as_millis()).unwrap_or(0));
    Some(Times { schedule: policy.schedule.as_ref()?, jitter_ms, window: policy.window.as_ref() })
}

/// Domains that name policies which are not here.
fn unknown(config: &Config, seen: &[Seen]) -> Vec<String> {
    let told = |one: &Seen| {
        let names = config.unknown_to(&one.subject.word).iter().map(|name| format!("'{}'", crate::output::shown(name))).collect::<Vec<_>>().join(", ");
        (!names.is_empty()).then(|| {
            let domain = crate::output::shown(&one.subject.name);
            format!("the metadata of domain {domain} names what is no policy here: {names}; give this host such a policy, or take the name away ('cairn policy check' tells all)")
        })
    };
    seen.iter().filter_map(told).take(NAMED_MAX).collect()
}

impl Shared {
    /// What the metadata of the first domain says that is meant.
    pub(super) async fn word_of(self: &Arc<Self>, is_meant: impl Fn(&Seen) -> bool) -> Outcome<Word> {
        Ok(self.seen().await?.into_iter().find(is_meant).map(|one| one.subject.word).unwrap_or_default())
    }

    /// All domains that were seen.
    pub(super) async fn seen(self: &Arc<Self>) -> Outcome<Vec<Seen>> {
        let kept = self.take_records();
        let state_dir = self.places.state_dir.clone();
        let read = tokio::task::spawn_blocking(move || {
            let (mut records, since) = match kept {
                Some(kept) => kept,
                None => (Records::open(&state_dir)?, Instant::now()),
            };
            let seen = records.seen()?;
            Ok(((records, since), seen))
        });
        match tokio::time::timeout(ANSWER_LIMIT, read).await {
            Ok(Ok(Ok((records, seen)))) => {
                self.keep_records(records);
                Ok(seen)
            }
            Ok(Ok(Err(f))) => Err(f),
            Ok(Err(e)) => Err(Failure::new(FAILED, format!("the records of domains cannot be read: {e}"))),
            Err(_) => Err(Failure::new(BUSY, "the records of domains cannot be read; is the disk of the state folder in order?")),
        }
    }
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
pub mod tests;
