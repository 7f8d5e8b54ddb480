//! From facts to causes. Pure.
//!
//! Invariants
//! - Standings, space and silence are taken as `cairn status` told them; failed jobs as health counts them. Nothing is judged here a second time.
//! - A cause is gone only where it was looked at and not found. A failed job is gone when the same work came to a good end.

use super::{
    Cause, Kind, Severity, Work,
    book::{Entry, State},
};
use crate::{
    config::Config,
    jobs::{Activity, Job, JobId, Kind as JobKind, Troubles},
    output::{bytes, duration, shown},
    watch::Stuck,
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A mount or a server that is back within this was away for nobody.
const AWAY_HOLD_MS: u64 = 120_000;
const UNSEEN_HOLD_MS: u64 = 300_000;
/// A domain that was just defined may be about to get its policy.
const UNPROTECTED_HOLD_MS: u64 = 3_600_000;
/// Records of jobs are kept for so long: of what is older nobody knows.
const JOBS_KEPT_MS: u64 = 30 * 24 * 3_600_000;
/// After a start of the daemon's what it had complained of may come back.
const SETTLE_MS: u64 = 10 * 60_000;
/// The same for jobs that do not move, which is known after half an hour.
const STALL_SETTLE_MS: u64 = 35 * 60_000;
/// As commands end that met damage.
const DAMAGED: i32 = crate::failure::DAMAGED as i32;

/// What is known.
pub struct Facts<'a> {
    /// Configuration.
    pub config: &'a Config,
    /// What `cairn status --json` said, or why it did not; none before it was first asked.
    pub status: Option<&'a Result<Value, String>>,
    /// Jobs.
    pub troubles: &'a Troubles,
    /// The last lines of what failed.
    pub lines: &'a BTreeMap<JobId, Vec<String>>,
    /// What was done lately.
    pub activity: &'a [Activity],
    /// Guests that may stand frozen, if that is known.
    pub stuck: Option<&'a [Stuck]>,
    /// What the daemon and its watch complain of.
    pub complaints: &'a [(&'static str, String)],
    /// What was not done that policies promise.
    pub overdue: Vec<Cause>,
    /// Unix milliseconds.
    pub now: u64,
    /// For how long the daemon has run.
    pub uptime_ms: u64,
}

/// All causes that stand.
pub fn find(facts: &Facts<'_>) -> Vec<Cause> {
    let mut out = BTreeMap::new();
    let mut put = |cause: Cause| {
        out.entry(cause.key.clone()).or_insert(cause);
    };
    if let Some(Ok(status)) = facts.status {
        of_domains(status).into_iter().chain(of_stores(status, facts)).chain(unseen(status)).for_each(&mut put);
    }
    if let Some(Err(why)) = facts.status {
        let cause = Cause::new(Kind::Unseen, Severity::Critical, "status", "nobody can see how this host's backups stand").hold_ms(UNSEEN_HOLD_MS);
        put(cause.what(&format!("'cairn status' came to no end: {why}")).remedy("cairn status"));
    }
    facts.troubles.owed.iter().filter(|job| is_of_somebody(job, facts)).map(|job| failed(job, facts)).for_each(&mut put);
    facts.troubles.stalled.iter().map(|(id, words)| stalled(*id, words)).for_each(&mut put);
    facts.stuck.iter().flat_map(|all| all.iter()).map(frozen).for_each(&mut put);
    complaints(facts).into_iter().for_each(&mut put);
    // What fails is told as that, and not as not done besides.
    let failing: BTreeSet<_> = facts.troubles.owed.iter().map(|job| (job.order.kind.word(), &job.order.domain, &job.order.store)).collect();
    let is_failing = |cause: &Cause| cause.work.as_ref().is_some_and(|work| failing.contains(&(work.kind.as_str(), &work.name, &work.store)));
    facts.overdue.iter().filter(|cause| !is_failing(cause)).cloned().for_each(&mut put);
    out.into_values().collect()
}

/// Whether a cause that was not found is known to be gone.
pub fn is_gone(facts: &Facts<'_>, entry: &Entry) -> bool {
    let cause = &entry.cause;
    let status = match facts.status {
        Some(Ok(status)) => Some(status),
        _ => None,
    };
    match cause.kind {
        Kind::Rpo | Kind::Unprotected => status.is_some_and(|status| !is_unknown(status, cause)),
        Kind::StoreSpace => status.is_some_and(|status| store_of(status, cause).is_none_or(|store| !store["space"].is_null())),
        Kind::StoreAway | Kind::Unseen => status.is_some(),
        Kind::Damaged => status.is_some_and(|s| store_of(s, cause).is_none_or(|store| store["silent"].is_null())) && was_done(facts, entry),
        Kind::JobFailed => was_done(facts, entry) || status.is_some_and(|status| has_lost_its_domain(status, cause)),
        Kind::Frozen => facts.stuck.is_some(),
        Kind::Stalled => facts.uptime_ms >= STALL_SETTLE_MS || cause.job.is_none_or(|id| !facts.troubles.busy.contains(&id)),
        Kind::Daemon => facts.uptime_ms >= SETTLE_MS || facts.now.saturating_sub(entry.opened_unix_ms) < facts.uptime_ms,
        Kind::Overdue | Kind::AlertTarget | Kind::Test => true,
    }
}

/// Whether the work of a failed job came to a good end since, or is nobody's any more.
fn was_done(facts: &Facts<'_>, entry: &Entry) -> bool {
    let Some(work) = &entry.cause.work else { return true };
    let since = entry.since_unix_ms();
    let is_it = |a: &&Activity| a.kind.word() == work.kind && shown(&a.name) == work.name && a.store == work.store;
    let done = facts.activity.iter().filter(is_it).filter_map(|a| a.done_unix_ms).max();
    done.is_some_and(|at| at >= since) || !facts.config.stores.contains_key(&work.store) || facts.now.saturating_sub(since) > JOBS_KEPT_MS
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn store_of<'a>(status: &'a Value, cause: &Cause) -> Option<&'a Value> {
    list(status, "stores").find(|store| Some(text(store, "name")) == cause.store.as_deref())
}

/// It was looked at, and nothing can be said of it.
fn is_unknown(status: &Value, cause: &Cause) -> bool {
    match list(status, "domains").find(|domain| Some(text(domain, "uuid")) == cause.uuid.as_deref()) {
        // Libvirt, or this domain, did not answer.
        None => list(status, "unseen").next().is_some(),
        Some(domain) => {
            let is_it = |c: &&Value| Some(text(c, "store")) == cause.store.as_deref() && cause.policies.iter().any(|p| p == text(c, "policy"));
            list(domain, "claims").find(is_it).is_some_and(|claim| claim["standing"] == "unknown")
        }
    }
}

/// The domain of a backup is not here any more, or has another name.
fn has_lost_its_domain(status: &Value, cause: &Cause) -> bool {
    let is_backup = cause.work.as_ref().is_some_and(|work| work.kind == JobKind::Backup.word());
    is_backup && list(status, "unseen").next().is_none() && !list(status, "domains").any(|domain| Some(shown(text(domain, "name"))) == cause.domain)
}

/// A backup of a domain that is gone, or of a store that is not configured, is owed to nobody.
fn is_of_somebody(job: &Job, facts: &Facts<'_>) -> bool {
    let is_known = facts.config.stores.contains_key(&job.order.store);
    let status = facts.status.and_then(|status| status.as_ref().ok()).filter(|status| list(status, "unseen").next().is_none());
    let is_here = |status: &Value| list(status, "domains").any(|domain| text(domain, "name") == job.order.domain);
    is_known && (job.order.kind != JobKind::Backup || job.order.uuid.is_none() || status.is_none_or(is_here))
}

fn of_domains(status: &Value) -> Vec<Cause> {
    let mut out = Vec::new();
    for domain in list(status, "domains") {
        let (name, uuid) = (text(domain, "name"), text(domain, "uuid"));
        let shown = shown(name);
        if domain["standing"] == "unprotected" {
            let cause = Cause::new(Kind::Unprotected, Severity::Warning, uuid, &format!("no policy takes domain {shown}")).of_domain(name, uuid);
            let cause = cause.what(&format!("domain {shown} is in no policy: nothing of it is saved")).hold_ms(UNPROTECTED_HOLD_MS);
            let cause = cause.remedy("'cairn policy check' says which policy takes what; a policy with default: true takes all others");
            out.push(cause.remedy("if it is to be so: <backup exclude=\"yes\"/> in its metadata (docs/policies.md)"));
        }
        for claim in list(domain, "claims").filter(|claim| claim["standing"] == "late" || claim["standing"] == "never") {
            out.push(missed(claim, name, uuid));
        }
    }
    out
}

fn missed(claim: &Value, name: &str, uuid: &str) -> Cause {
    let (policy, store, name_shown) = (text(claim, "policy"), text(claim, "store"), shown(name));
    let ms = |key: &str| claim[key].as_u64().unwrap_or(0).saturating_mul(1000);
    let (rpo, age) = (duration(ms("rpo_s")), duration(ms("age_s")));
    let is_never = claim["standing"] == "never";
    let title = match is_never {
        true => format!("{name_shown} has no good point in {store}"),
        false => format!("{name_shown}: the newest good point in {store} is {age} old, {policy} allows {rpo}"),
    };
    let mut cause =
        Cause::new(Kind::Rpo, Severity::Critical, &format!("{policy}:{uuid}:{store}"), &title).of_domain(name, uuid).of_policy(policy).of_store(store);
    cause = match is_never {
        // A policy of this morning's has not promised a point of yesterday's.
        true => cause
            .what(&format!("policy {policy} promises a point of domain {name_shown} in store {store} that is at most {rpo} old, and there is none"))
            .hold_ms(ms("rpo_s")),
        false => cause.what(&format!(
            "the newest good point of domain {name_shown} in store {store} is of {}, {age} ago; policy {policy} allows {rpo}",
            text(claim, "time")
        )),
    };
    cause = cause.remedy("'cairn jobs --all' says what failed, 'cairn policy list' when the next one is due");
    cause.remedy(&format!("cairn job run --domain {name_shown}"))
}

fn of_stores(status: &Value, facts: &Facts<'_>) -> Vec<Cause> {
    let mut out = Vec::new();
    for store in list(status, "stores") {
        let name = text(store, "name");
        if let Some(why) = store["silent"].as_str() {
            let cause = Cause::new(Kind::StoreAway, Severity::Critical, name, &format!("store {name} does not answer")).of_store(name).hold_ms(AWAY_HOLD_MS);
            let cause = cause.what(&format!("store {name} ({}): {why}", shown(text(store, "url"))));
            let cause =
                cause.remedy("see whether its disk is mounted and its server answers ('findmnt', 'dmesg'); backups to it fail until then, and lose nothing");
            out.push(cause.remedy("cairn doctor"));
        }
        let severity = match text(store, "space") {
            "failed" => Some(Severity::Critical),
            "warning" => Some(Severity::Warning),
            _ => None,
        };
        if let Some(severity) = severity {
            let (free, size) = (bytes(store["free"].as_u64().unwrap_or(0)), bytes(store["size"].as_u64().unwrap_or(0)));
            let word = if severity == Severity::Critical { "is full" } else { "has little space" };
            let cause = Cause::new(Kind::StoreSpace, severity, name, &format!("store {name} {word}: {free} of {size} are free")).of_store(name);
            let cause = cause.remedy(&format!("cairn prune --store {name} (with the rules of your policies), then: cairn gc --store {name}"));
            out.push(cause.remedy(&format!("'cairn store info --store {name}' says whose the space is; or give the file system more room")));
        }
        if let Some(n @ 1..) = store["damaged"].as_u64() {
            let cause = Cause::new(Kind::Damaged, Severity::Critical, name, &format!("store {name}: {n} points are damaged")).of_store(name);
            let mut cause = cause.what(&format!("{n} points in store {name} miss data, or have data that is not what it was. Others can be restored as ever."));
            cause.work = facts.troubles.owed.iter().find(|job| job.code == Some(DAMAGED) && job.order.store == name).map(work);
            out.push(damage_remedy(cause, name));
        }
    }
    out
}

fn damage_remedy(cause: Cause, store: &str) -> Cause {
    let cause = cause.remedy(&format!("cairn verify --all --data --store {store}    (what is damaged)"));
    cause.remedy("look after the disk below the store first (SMART, dmesg); docs/operations.md says what a next backup heals and what stays restorable")
}

fn unseen(status: &Value) -> Vec<Cause> {
    let of = |why: &str| {
        let (what, _) = why.split_once(": ").unwrap_or((why, ""));
        let cause = Cause::new(Kind::Unseen, Severity::Critical, what, &format!("{what} cannot be looked at")).hold_ms(UNSEEN_HOLD_MS);
        cause.what(why).remedy("see whether libvirt answers: virsh list --all; systemctl status libvirtd virtqemud").remedy("cairn status")
    };
    list(status, "unseen").filter_map(Value::as_str).map(of).collect()
}

fn work(job: &Job) -> Work {
    Work { kind: job.order.kind.word().to_owned(), name: shown(&job.order.domain), store: job.order.store.clone() }
}

fn failed(job: &Job, facts: &Facts<'_>) -> Cause {
    let (id, kind, store) = (job.id, job.order.kind.word(), job.order.store.as_str());
    let name = shown(&job.order.domain);
    let is_damage = job.code == Some(DAMAGED);
    let is_domain = job.order.kind == JobKind::Backup || (job.order.kind == JobKind::Verify && job.order.argv.iter().any(|arg| arg == "--boot"));
    let of = if is_domain || job.order.kind == JobKind::BackupImage { format!(" of {name}") } else { String::new() };
    let ended = if crate::jobs::State::Lost == job.state { "was lost" } else { "failed" };
    let mut cause = if is_damage {
        damage_remedy(Cause::new(Kind::Damaged, Severity::Critical, store, &format!("store {store}: {kind}{of} met damaged data")), store)
    } else {
        // By what outlives a rename; of a check, its name is the domain's or '*'.
        let subject = format!("{}:{kind}:{store}", job.order.uuid.as_deref().unwrap_or(&job.order.domain));
        Cause::new(Kind::JobFailed, Severity::Critical, &subject, &format!("{kind}{of} in {store} {ended}"))
    };
    let message = job.message.as_deref().unwrap_or("it gave no reason");
    cause = cause.what(&format!("job {id} ({kind}{of}, store {store}, {}) {ended}: {message}", job.order.why)).remedy(&format!("cairn job log {id}"));
    cause = match job.order.kind {
        JobKind::Backup => cause.remedy(&format!("cairn job run --domain {name}    (when what it names is mended)")),
        JobKind::BackupImage | JobKind::Prune | JobKind::Gc | JobKind::Verify => {
            cause.remedy("the next one that ends well ends this; nothing else is to be done once what it names is mended")
        }
    };
    cause.why = facts.lines.get(&id).into_iter().flatten().map(|line| super::cut(line, 400)).collect();
    if is_domain {
        cause = cause.of_domain(&job.order.domain, job.order.uuid.as_deref().unwrap_or_default());
        cause.uuid = cause.uuid.filter(|uuid| !uuid.is_empty());
    }
    cause.policies = job.order.policies.iter().map(|policy| shown(policy)).collect();
    (cause.job, cause.since_unix_ms, cause.work) = (Some(id), job.ended_unix_ms, Some(work(job)));
    cause.of_store(store)
}

fn stalled(id: JobId, words: &str) -> Cause {
    let mut cause = Cause::new(Kind::Stalled, Severity::Warning, &id.to_string(), &format!("job {id} does not get on")).told(words, "cairn jobs");
    cause.job = Some(id);
    cause
}

fn frozen(stuck: &Stuck) -> Cause {
    let title = format!("the guest of domain {} may stand frozen", shown(&stuck.name));
    Cause::new(Kind::Frozen, Severity::Critical, &stuck.uuid, &title).of_domain(&stuck.name, &stuck.uuid).told(&stuck.words, "cairn reconcile")
}

/// One cause for each word, however many lines it has.
fn complaints(facts: &Facts<'_>) -> Vec<Cause> {
    let mut by_word: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let of_jobs = facts.troubles.other.iter().map(|why| ("jobs", why.as_str()));
    facts.complaints.iter().map(|(word, why)| (*word, why.as_str())).chain(of_jobs).for_each(|(word, why)| by_word.entry(word).or_default().push(why));
    let of = |(word, lines): (&str, Vec<&str>)| {
        let (severity, title) = match word {
            "jobs" => (Severity::Critical, "no job can begin, or be written down"),
            "libvirt" => (Severity::Critical, "libvirt is away"),
            "config" => (Severity::Warning, "the configuration was not reloaded"),
            "hook" => (Severity::Warning, "libvirt's hook is not heard"),
            "looks" => (Severity::Warning, "looks at domains fail"),
            "schedule" => (Severity::Warning, "policies cannot do what they want"),
            _ => (Severity::Warning, "the daemon complains"),
        };
        let cause = Cause::new(Kind::Daemon, severity, word, title).told(lines.first().copied().unwrap_or_default(), "cairn status");
        let cause = lines.iter().skip(1).fold(cause, |cause, line| {
            let what = format!("{}\n", cause.what) + &super::cut(line, super::TEXT_CHARS_MAX);
            Cause { what, ..cause }
        });
        cause.remedy("cairn doctor")
    };
    by_word.into_iter().map(of).collect()
}

/// A target that takes nothing: told to the others.
pub fn target_failed(name: &str, failing: &super::book::Failing) -> Cause {
    let cause = Cause::new(Kind::AlertTarget, Severity::Warning, name, &format!("alerts do not reach target {name}"));
    let mut cause = cause.what(&format!("target {name} of alerts takes no message: {}. It is tried again, and gets all that it missed.", failing.why));
    cause.since_unix_ms = Some(failing.since_unix_ms);
    cause.remedy(&format!("cairn alert test {name}")).remedy("cairn doctor")
}

/// What `cairn alert test` sends.
pub fn test(name: &str) -> (State, Cause) {
    let cause = Cause::new(Kind::Test, Severity::Warning, name, &format!("test message for target {name}"));
    (State::Open, cause.what("Somebody ran 'cairn alert test'. All is well, as far as this message goes.").remedy("nothing is to be done"))
}

#[cfg(test)]
#[path = "find_tests.rs"]
mod tests;
