//! Alerts, for as long as the daemon runs: facts are gathered, causes are booked, messages go out.
//!
//! Invariants
//! - Without a target nothing is done: who wants no messages pays for none.
//! - Nothing here waits for a store, libvirt, a disk or a target: each has a task or a thread of its own, with a limit, and there is one of each at a time.
//! - What was delivered is booked at once, and written as soon as the disk takes it; until then it is remembered.

use super::{overdue, state::Shared};
use crate::{
    alerts::{
        book::{Book, Due, Entry, SILENCE_MS_MAX},
        find::{self, Facts},
        message::{Message, entry_json},
        send, table,
    },
    commands::now_unix_ms,
    config::{AlertTarget, Config},
    context::host_name,
    failure::{Failure, Outcome},
    jobs::{Job, JobId},
    output::{rfc3339, shown},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{process::Command, sync::Notify, task::JoinHandle};

const TICK: Duration = Duration::from_secs(1);
/// Between two looks at jobs and at the daemon itself.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// Longest pause between two of `cairn status`, however rarely domains are looked at.
const STATUS_EVERY_MAX: Duration = Duration::from_secs(900);
/// It has limits of its own, which are shorter.
const STATUS_LIMIT: Duration = Duration::from_secs(120);
/// For what is read of logs.
const LINES_LIMIT: Duration = Duration::from_secs(2);
/// Lines of a log in a message.
const LINES_MAX: usize = 10;
/// Logs that are read in one look.
const LOGS_MAX: usize = 50;
/// For a test message: who asks waits, and a connection to the API has its limit.
const TEST_LIMIT: Duration = Duration::from_secs(12);

/// What others ask for.
#[derive(Debug, Default)]
pub struct Desk {
    book: Mutex<Book>,
    /// Why it cannot be kept on disk.
    unkept: Mutex<Option<String>>,
    /// Of targets that took a message, and not for all.
    remarks: Mutex<BTreeMap<String, String>>,
    /// Something is to be written, or sent.
    news: Notify,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in it holds whatever a thread died of.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    /// For health.
    pub fn problems(&self) -> Vec<String> {
        let failing = |(name, failing): (&String, &crate::alerts::book::Failing)| {
            format!("alerts do not reach target {name}: {}; they are kept and tried again, 'cairn alert test {name}' tries it now", failing.why)
        };
        let mut out: Vec<String> = locked(&self.book).failing.iter().map(failing).collect();
        out.extend(locked(&self.unkept).iter().map(|why| format!("who was told what is not kept: {why}; after a restart it is told once more")));
        out.extend(locked(&self.remarks).iter().map(|(name, why)| format!("target {name} of alerts: {why}")));
        out
    }

    /// As the API has it.
    pub fn json(&self, config: &Config) -> Value {
        let (now, host, book) = (now_unix_ms(), shown(&host_name()), locked(&self.book).clone());
        let time = |ms: Option<u64>| ms.map_or(Value::Null, rfc3339);
        let alert = |entry: &Entry| {
            let mut value = entry_json(entry, &host, now);
            let knows = |name: &String| entry.told.get(name).filter(|told| told.opened_unix_ms == entry.opened_unix_ms);
            value["told"] = config.alerts.keys().filter_map(|name| Some(json!({"target": name, "time": rfc3339(knows(name)?.at_unix_ms)}))).collect();
            value["targets"] = config.alerts.iter().filter(|(_, target)| target.matches(&entry.cause)).map(|(name, _)| name.as_str()).collect();
            value["seen"] = rfc3339(entry.opened_unix_ms);
            value["told_from"] = rfc3339(entry.opened_unix_ms.saturating_add(entry.cause.hold_ms));
            value["silent_until"] = time(entry.silent_until_unix_ms.filter(|until| *until > now));
            value
        };
        let target = |(name, target): (&String, &AlertTarget)| {
            let failing = book.failing.get(name);
            json!({
                "name": name, "way": target.way_word(), "status": if failing.is_some() { "failing" } else { "ok" }, "problem": failing.map(|f| &f.why),
                "failing_since": time(failing.map(|f| f.since_unix_ms)), "tries": failing.map_or(0, |f| f.tries), "next_try": time(failing.map(|f| f.next_unix_ms)),
            })
        };
        let open = book.entries.values().filter(|entry| entry.gone_unix_ms.is_none());
        json!({"alerts": open.map(alert).collect::<Vec<_>>(), "targets": config.alerts.iter().map(target).collect::<Vec<_>>()})
    }

    /// Tells nobody of a cause for so long; 0 ends that.
    pub fn silence(&self, key: &str, for_ms: u64) -> Outcome<u64> {
        if for_ms > SILENCE_MS_MAX {
            return Err(Failure::usage("a cause can be silenced for 90 days at most; what is to be so for ever is for the target's match"));
        }
        let (now, mut book) = (now_unix_ms(), locked(&self.book));
        let entry = book.entries.get_mut(key).filter(|entry| entry.gone_unix_ms.is_none());
        let entry = entry.ok_or_else(|| Failure::not_found(format!("no cause of the key '{}' stands; 'cairn alert list' has them", shown(key))))?;
        entry.silent_until_unix_ms = (for_ms > 0).then_some(now + for_ms);
        drop(book);
        self.news.notify_one();
        Ok(now + for_ms)
    }
}

impl Shared {
    /// Sends a test message to one target, or to all.
    pub async fn test_alerts(&self, name: Option<&str>) -> Outcome<Value> {
        let config = self.config();
        let all: Vec<&String> = config.alerts.keys().collect();
        if name.is_some_and(|name| !config.alerts.contains_key(name)) || all.is_empty() {
            let there = if all.is_empty() { "it has none".into() } else { format!("it has: {}", config.alerts.keys().cloned().collect::<Vec<_>>().join(", ")) };
            return Err(Failure::not_found(format!(
                "the configuration has no such target below alerts:, {there}; docs/alerts.md has all that can stand there"
            )));
        }
        let wanted = config.alerts.iter().filter(|(known, _)| name.is_none_or(|name| name == *known));
        let tests: Vec<_> = wanted.map(|(name, target)| (name.clone(), tokio::spawn(test(name.clone(), target.clone())))).collect();
        let mut out = Vec::new();
        for (name, test) in tests {
            let (is_sent, why) = match test.await {
                Ok(Ok(remark)) => (true, remark),
                Ok(Err(why)) => (false, Some(why)),
                Err(e) => (false, Some(e.to_string())),
            };
            if is_sent {
                // What waits for it need not wait any longer.
                locked(&self.alerts.book).failing.remove(&name);
                self.alerts.news.notify_one();
            }
            out.push(json!({"target": name, "way": config.alerts[&name].way_word(), "sent": is_sent, "problem": why}));
        }
        Ok(json!({"tests": out}))
    }
}

async fn test(name: String, target: AlertTarget) -> Result<Option<String>, String> {
    let (now, (state, cause)) = (now_unix_ms(), find::test(&name));
    let entry = Entry { cause, opened_unix_ms: now, gone_unix_ms: None, silent_until_unix_ms: None, told: BTreeMap::new() };
    send::send(&target, &Message::new(&host_name(), &name, &[Due { state, entry }], now), TEST_LIMIT).await
}

type Status = Result<Value, String>;

/// What goes on beside the loop.
struct Round {
    shared: Arc<Shared>,
    path: PathBuf,
    started: Instant,
    looked: Option<Instant>,
    /// What `cairn status` said last.
    status: Option<Status>,
    asked: Option<Instant>,
    asking: Option<JoinHandle<Status>>,
    saved: Book,
    saving: Option<(Book, JoinHandle<Result<(), String>>)>,
    sending: BTreeMap<String, JoinHandle<()>>,
    /// As they were: one that was changed is tried at once.
    targets: BTreeMap<String, AlertTarget>,
}

/// For as long as the daemon runs.
pub async fn keep(shared: Arc<Shared>) {
    while shared.config().alerts.is_empty() {
        tokio::time::sleep(TICK).await;
    }
    let path = table::path(&shared.places.state_dir);
    let at = path.clone();
    let loaded = tokio::task::spawn_blocking(move || table::load(&at)).await.unwrap_or_else(|e| Err(e.to_string()));
    let saved = match loaded {
        Ok((book, said)) => {
            said.iter().for_each(|said| tracing::warn!("{said}"));
            book
        }
        Err(why) => {
            tracing::error!("{why}; what is wrong is told once more");
            Book::default()
        }
    };
    *locked(&shared.alerts.book) = saved.clone();
    let mut round = Round {
        path,
        started: Instant::now(),
        looked: None,
        status: None,
        asked: None,
        asking: None,
        saved,
        saving: None,
        sending: BTreeMap::new(),
        targets: shared.config().alerts.clone(),
        shared,
    };
    loop {
        round.turn().await;
        // A message that was delivered is written at once.
        let _ = tokio::time::timeout(TICK, round.shared.alerts.news.notified()).await;
    }
}

impl Round {
    async fn turn(&mut self) {
        let config = self.shared.config();
        if self.targets != config.alerts {
            let is_same = |name: &String| self.targets.get(name) == config.alerts.get(name);
            locked(&self.shared.alerts.book).failing.retain(|name, _| is_same(name));
            self.targets.clone_from(&config.alerts);
        }
        if config.alerts.is_empty() {
            return;
        }
        self.ask(&config).await;
        if self.looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            match self.look(&config).await {
                Ok(()) => self.looked = Some(Instant::now()),
                // Nothing ends and nothing begins by what cannot be seen; health says that the table of jobs does not answer.
                Err(f) => tracing::warn!("what is wrong cannot be seen: {}", f.message),
            }
        }
        self.send(&config);
        self.save().await;
    }

    /// Has `cairn status` asked, now and then.
    async fn ask(&mut self, config: &Config) {
        if self.asking.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(asking) = self.asking.take()
        {
            self.status = Some(asking.await.unwrap_or_else(|e| Err(e.to_string())));
            self.looked = None;
        }
        let every = config.daemon.reconcile_every.min(STATUS_EVERY_MAX);
        if self.asking.is_none() && self.asked.is_none_or(|at| at.elapsed() >= every) {
            self.asked = Some(Instant::now());
            self.asking = Some(tokio::spawn(status(self.shared.clone())));
        }
    }

    async fn look(&mut self, config: &Config) -> Outcome<()> {
        let shared = &self.shared;
        let (troubles, activity, seen) = (shared.jobs.troubles().await?, shared.jobs.activity().await?, shared.seen().await?);
        let lines = lines(shared, &troubles.owed).await;
        let complaints = [shared.own_problems(), shared.watch.own_problems()].concat();
        let (now, stuck) = (now_unix_ms(), shared.watch.stuck());
        let mut book = locked(&shared.alerts.book);
        let overdue = shared.order(|ordering| overdue::find(&ordering, &seen, &activity, &mut book.promises, now));
        let facts = Facts {
            config,
            status: self.status.as_ref(),
            troubles: &troubles,
            lines: &lines,
            activity: &activity,
            stuck: stuck.as_deref(),
            complaints: &complaints,
            overdue,
            now,
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        let mut found = find::find(&facts);
        book.keep_targets(&config.alerts);
        found.extend(book.failing.iter().map(|(name, failing)| find::target_failed(name, failing)));
        let before: BTreeSet<String> = open(&book);
        book.see(found, |entry| find::is_gone(&facts, entry), now);
        let after = open(&book);
        after.difference(&before).for_each(|key| tracing::warn!("alert {key}: {}", book.entries[key].cause.title));
        before.difference(&after).for_each(|key| tracing::info!("alert {key} is over"));
        locked(&shared.alerts.remarks).retain(|name, _| config.alerts.contains_key(name));
        Ok(())
    }

    fn send(&mut self, config: &Config) {
        self.sending.retain(|_, task| !task.is_finished());
        let now = now_unix_ms();
        for (name, target) in &config.alerts {
            if self.sending.contains_key(name) {
                continue;
            }
            let batch = locked(&self.shared.alerts.book).due(name, target, now);
            // It would be told of itself.
            let batch: Vec<Due> = batch.into_iter().filter(|due| due.entry.cause.key != format!("alert-target:{name}")).collect();
            if !batch.is_empty() {
                let task = tokio::spawn(deliver(self.shared.clone(), name.clone(), target.clone(), batch));
                self.sending.insert(name.clone(), task);
            }
        }
    }

    /// Writes what changed. A disk that hangs keeps one thread.
    async fn save(&mut self) {
        if self.saving.as_ref().is_some_and(|(_, saving)| saving.is_finished())
            && let Some((book, saving)) = self.saving.take()
        {
            let written = saving.await.unwrap_or_else(|e| Err(e.to_string()));
            if written.is_ok() {
                self.saved = book;
            }
            *locked(&self.shared.alerts.unkept) = written.err();
        }
        let book = locked(&self.shared.alerts.book).clone();
        if self.saving.is_none() && book != self.saved {
            let (path, before, now, shared) = (self.path.clone(), self.saved.clone(), book.clone(), self.shared.clone());
            let write = move || {
                let written = table::save(&path, &before, &now);
                shared.alerts.news.notify_one();
                written
            };
            self.saving = Some((book, tokio::task::spawn_blocking(write)));
        }
    }
}

fn open(book: &Book) -> BTreeSet<String> {
    book.entries.iter().filter(|(_, entry)| entry.gone_unix_ms.is_none()).map(|(key, _)| key.clone()).collect()
}

async fn deliver(shared: Arc<Shared>, name: String, target: AlertTarget, batch: Vec<Due>) {
    let message = Message::new(&host_name(), &name, &batch, now_unix_ms());
    let sent = send::send(&target, &message, send::LIMIT).await;
    let mut book = locked(&shared.alerts.book);
    match sent {
        Ok(remark) => {
            tracing::info!("target {name} was told: {}", message.subject);
            book.delivered(&name, &batch, now_unix_ms());
            remark.iter().for_each(|remark| tracing::warn!("target {name} of alerts: {remark}"));
            let mut remarks = locked(&shared.alerts.remarks);
            remarks.remove(&name);
            remarks.extend(remark.map(|remark| (name.clone(), shown(&remark))));
        }
        Err(why) => {
            let tries = book.failed(&name, &why, now_unix_ms());
            tracing::warn!("target {name} of alerts: {}; it is tried again (try {tries})", shown(&why));
        }
    }
    drop(book);
    shared.alerts.news.notify_one();
}

/// The last lines of what failed; a disk that hangs costs only these.
async fn lines(shared: &Arc<Shared>, owed: &[Job]) -> BTreeMap<JobId, Vec<String>> {
    let known: BTreeMap<JobId, Vec<String>> = locked(&shared.alerts.book).entries.values().filter_map(|e| Some((e.cause.job?, e.cause.why.clone()))).collect();
    let folders: Vec<_> = owed.iter().take(LOGS_MAX).filter(|job| !known.contains_key(&job.id)).map(|job| (job.id, shared.jobs.folder(job.id))).collect();
    let read = move || folders.into_iter().map(|(id, folder)| (id, folder.last_lines(LINES_MAX))).collect::<Vec<_>>();
    let read = tokio::time::timeout(LINES_LIMIT, tokio::task::spawn_blocking(read)).await;
    known.into_iter().chain(read.ok().and_then(Result::ok).unwrap_or_default()).collect()
}

/// What `cairn status` says, as a process of its own: whatever hangs in it, it is ended in time.
async fn status(shared: Arc<Shared>) -> Status {
    // The program that runs, also where its file was replaced by an upgrade.
    let mut command = Command::new("/proc/self/exe");
    command.args(["status", "--json", "--state-dir"]).arg(&shared.places.state_dir).arg("--socket").arg(&shared.places.socket);
    if let Some(config) = &shared.places.config {
        command.arg("--config").arg(config);
    }
    if let Some(uri) = &shared.places.connect {
        command.args(["--connect", uri]);
    }
    for name in ["CAIRN_STORE", "CAIRN_KEY_FILE", "CAIRN_PASSPHRASE_FILE"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
    let output = match tokio::time::timeout(STATUS_LIMIT, command.output()).await {
        Err(_) => return Err(format!("no answer within {} s", STATUS_LIMIT.as_secs())),
        Ok(Err(e)) => return Err(format!("it cannot be started: {e}")),
        Ok(Ok(output)) => output,
    };
    match output.status.code() {
        Some(0 | 3) => serde_json::from_slice(&output.stdout).map_err(|e| format!("it said what cannot be read: {e}")),
        _ => Err(format!("it ended with {}: {}", output.status, crate::jobs::last_words(&output.stderr).unwrap_or_default())),
    }
}
