//! What all parts of the daemon share: the configuration of this moment, the jobs, the watch.
//!
//! Invariants
//! - The configuration is replaced whole, by one that was checked, or not at all.

use super::{alerts::Desk, defined, notify, orders::Ordering, upkeep};
use crate::{
    config::{self, Config, ConfigErrors},
    failure::{FAILED, Failure, Outcome},
    jobs::{Job, Jobs, Kind, Limits, Order, State, Which, folder::JobFolder},
    watch::{self, Records, WatchHandle},
};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock, atomic::AtomicBool},
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// For files in which jobs tell how far they are.
const PROGRESS_LIMIT: Duration = Duration::from_secs(2);
/// For how long the records of domains are held open.
const RECORDS_KEPT: Duration = Duration::from_secs(60);
/// Threads that a disk that hangs may keep.
const PROGRESS_READERS_MAX: usize = 4;

/// Where things are; set at the start and not changed by a reload.
#[derive(Debug, Clone)]
pub struct Places {
    /// The configuration that options named; without one the default is looked for at each load.
    pub config: Option<PathBuf>,
    /// Records of this host.
    pub state_dir: PathBuf,
    /// libvirt's URI that options named.
    pub connect: Option<String>,
    /// Where commands find the daemon.
    pub socket: PathBuf,
}

/// See the module.
#[derive(Debug)]
pub struct Shared {
    /// Where things are.
    pub places: Places,
    /// The jobs.
    pub jobs: Jobs,
    /// The watch.
    pub watch: WatchHandle,
    /// When the daemon started, ms since 1970.
    pub started_unix_ms: u64,
    config: RwLock<Arc<Config>>,
    /// One reload at a time; what the last one found wrong.
    reload: tokio::sync::Mutex<()>,
    wrong: Mutex<Option<Vec<String>>>,
    progress_readers: Arc<Semaphore>,
    /// Questions to libvirt that are under way.
    pub(super) askers: Arc<Semaphore>,
    /// What an event asks for cannot be queued.
    pub ungranted: AtomicBool,
    /// Why commands do not find the daemon where they look.
    unreachable: Mutex<Option<String>>,
    /// What keeps policies from their times, for people.
    unscheduled: Mutex<Vec<String>>,
    /// Who was told what.
    pub alerts: Desk,
    /// The records of domains, kept open between two looks.
    records: Mutex<Option<(Records, Instant)>>,
}

/// What a reload did.
#[derive(Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// The file; none if there is none.
    pub path: Option<PathBuf>,
    /// Settings that count from the next start on.
    pub restart_needed: Vec<&'static str>,
}

/// Why nothing was reloaded.
#[derive(Debug)]
pub struct NotReloaded {
    /// In a sentence.
    pub failure: Failure,
    /// Each thing that is wrong with the file, with its place.
    pub wrong: Vec<String>,
}

/// Reads the file that there is; no file where only the default was looked for is a configuration, too.
pub fn load(named: Option<&Path>) -> Result<(Option<PathBuf>, Config), ConfigErrors> {
    match config::find(named) {
        Some(path) => config::load_for_daemon(&path).map(|config| (Some(path), config)),
        None => Ok((None, Config::default())),
    }
}

/// What the watch has to know of a configuration.
pub fn watch_settings(config: &Config, places: &Places) -> watch::Settings {
    watch::Settings {
        connect: connect(config, places).map(str::to_owned),
        state_dir: places.state_dir.clone(),
        reconcile_every: config.daemon.reconcile_every,
        hook_dir: config.daemon.hook_dir.clone().unwrap_or_else(|| cairn_hook::place::DIR_DEFAULT.into()),
        stores: config.stores.clone(),
    }
}

/// Limits of jobs in a configuration.
pub fn limits(config: &Config) -> Limits {
    let of_stores = config.stores.iter().filter_map(|(name, entry)| Some((name.clone(), entry.jobs_max?))).collect();
    Limits { jobs_max: config.daemon.jobs_max, of_stores }
}

pub(super) fn connect<'a>(config: &'a Config, places: &'a Places) -> Option<&'a str> {
    places.connect.as_deref().or(config.daemon.connect.as_deref())
}

impl Shared {
    /// With all that was started.
    pub fn new(places: Places, config: Config, jobs: Jobs, watch: WatchHandle) -> Self {
        Self {
            places,
            jobs,
            watch,
            started_unix_ms: crate::commands::now_unix_ms(),
            config: RwLock::new(Arc::new(config)),
            reload: tokio::sync::Mutex::new(()),
            wrong: Mutex::new(None),
            progress_readers: Arc::new(Semaphore::new(PROGRESS_READERS_MAX)),
            askers: Arc::new(Semaphore::new(defined::ASKERS_MAX)),
            ungranted: AtomicBool::new(false),
            unreachable: Mutex::new(None),
            unscheduled: Mutex::new(Vec::new()),
            alerts: Desk::default(),
            records: Mutex::new(None),
        }
    }

    /// What keeps policies from their times; what is new of it goes to the log.
    pub fn set_schedule_problems(&self, problems: Vec<String>) {
        let mut known = self.unscheduled.lock().unwrap_or_else(PoisonError::into_inner);
        problems.iter().filter(|problem| !known.contains(problem)).for_each(|problem| tracing::warn!("{problem}"));
        *known = problems;
    }

    /// The open records, and since when, if nobody else has them. Not for ever: their file may have been deleted meanwhile, and begun anew.
    pub fn take_records(&self) -> Option<(Records, Instant)> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).take().filter(|(_, since)| since.elapsed() < RECORDS_KEPT)
    }

    /// For the next one.
    pub fn keep_records(&self, records: (Records, Instant)) {
        *self.records.lock().unwrap_or_else(PoisonError::into_inner) = Some(records);
    }

    /// Commands do not find the daemon where they look; said once. The first reason stays: it is the one that names the remedy.
    pub fn set_unreachable(&self, why: String) {
        self.unreachable.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| {
            tracing::error!("{why}");
            why
        });
    }

    /// They do.
    pub fn unset_unreachable(&self) {
        *self.unreachable.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The configuration of this moment.
    pub fn config(&self) -> Arc<Config> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Orders by the configuration of this moment.
    pub fn order<T>(&self, make: impl FnOnce(Ordering<'_>) -> T) -> T {
        let config = self.config();
        make(Ordering { config: &config, state_dir: &self.places.state_dir, connect: connect(&config, &self.places) })
    }

    /// What the last reload found wrong, if it did.
    pub fn wrong(&self) -> Option<Vec<String>> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the configuration again. One that is wrong changes nothing.
    pub async fn reload(&self) -> Result<Reloaded, NotReloaded> {
        let _one = self.reload.lock().await;
        notify::reloading();
        let named = self.places.config.clone();
        // A file system that hangs must not hang the daemon.
        let loaded = tokio::task::spawn_blocking(move || load(named.as_deref()));
        let outcome = match tokio::time::timeout(crate::jobs::ANSWER_LIMIT, loaded).await {
            Err(_) => Err(vec!["the configuration cannot be read: its file system does not answer".into()]),
            Ok(Err(e)) => Err(vec![format!("the configuration cannot be read: {e}")]),
            Ok(Ok(Err(errors))) => Err(errors.lines()),
            Ok(Ok(Ok(new))) => Ok(new),
        };
        let result = match outcome {
            Ok((path, new)) => self.take(path, new).await.map_err(|failure| NotReloaded { failure, wrong: Vec::new() }),
            Err(lines) => {
                lines.iter().for_each(|line| tracing::error!("{line}"));
                tracing::error!("the configuration was not reloaded; what was loaded before counts on");
                let failure = Failure::usage("the configuration is wrong, and nothing was changed; mend what is named and reload again");
                *self.wrong.lock().unwrap_or_else(PoisonError::into_inner) = Some(lines.clone());
                Err(NotReloaded { failure, wrong: lines })
            }
        };
        notify::ready();
        result
    }

    async fn take(&self, path: Option<PathBuf>, new: Config) -> Outcome<Reloaded> {
        self.jobs.set_limits(limits(&new)).await?;
        self.watch.change(watch_settings(&new, &self.places));
        let old = std::mem::replace(&mut *self.config.write().unwrap_or_else(PoisonError::into_inner), Arc::new(new.clone()));
        *self.wrong.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.drop_waiting_prunes().await?;
        let fixed = [
            ("daemon.socket", old.daemon.socket == new.daemon.socket),
            ("daemon.state_dir", old.daemon.state_dir == new.daemon.state_dir),
            ("daemon.hook_dir", old.daemon.hook_dir == new.daemon.hook_dir),
        ];
        let restart_needed: Vec<&str> = fixed.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect();
        for name in &restart_needed {
            tracing::warn!("{name} counts from the daemon's next start on");
        }
        Ok(Reloaded { path, restart_needed })
    }

    /// They have rules that count no more; the next one comes behind the next backup, with those that do.
    async fn drop_waiting_prunes(&self) -> Outcome<()> {
        for job in self.jobs.list(Which::In(State::Queued)).await? {
            if job.order.kind == Kind::Prune && job.order.trigger == upkeep::TRIGGER {
                // It may have begun just now, which is then as if it had before.
                let _ = self.jobs.cancel(job.id).await;
            }
        }
        Ok(())
    }

    /// Queues what policies or people want.
    pub async fn add(&self, orders: Vec<Order>) -> Outcome<Vec<Value>> {
        let jobs = self.jobs.add(orders).await?;
        Ok(self.jobs_json(&jobs).await)
    }

    /// Jobs as the API has them. How far they are lies in files: a disk that hangs costs only that.
    pub async fn jobs_json(&self, jobs: &[Job]) -> Vec<Value> {
        let folders: Vec<(bool, JobFolder)> = jobs.iter().map(|job| (job.state == State::Running, self.jobs.folder(job.id))).collect();
        let read = self.progress_readers.clone().try_acquire_owned().ok().map(|reader| {
            tokio::task::spawn_blocking(move || {
                let _reader = reader;
                folders.iter().map(|(runs, folder)| runs.then(|| folder.progress()).flatten()).collect::<Vec<_>>()
            })
        });
        let mut progress = match read {
            Some(read) => tokio::time::timeout(PROGRESS_LIMIT, read).await.ok().and_then(Result::ok).unwrap_or_default(),
            None => Vec::new(),
        };
        progress.resize(jobs.len(), None);
        jobs.iter().zip(&progress).map(|(job, progress)| job.json(&self.jobs.folder(job.id).log(), progress.as_ref())).collect()
    }

    /// One of them.
    pub async fn job_json(&self, job: &Job) -> Value {
        self.jobs_json(std::slice::from_ref(job)).await.pop().unwrap_or_default()
    }

    /// What is wrong with the daemon itself, but for its jobs and its watch: each with a word that stays the same for as long as it lasts.
    pub fn own_problems(&self) -> Vec<(&'static str, String)> {
        let config = self.wrong().into_iter().flatten().map(|line| ("config", format!("the configuration was not reloaded: {line}")));
        let events = self.ungranted.load(std::sync::atomic::Ordering::Relaxed);
        let events = events.then(|| ("events", "what an event asks for cannot be queued; see the daemon's log".to_owned()));
        let socket = self.unreachable.lock().unwrap_or_else(PoisonError::into_inner).clone().map(|why| ("socket", why));
        let schedule = self.unscheduled.lock().unwrap_or_else(PoisonError::into_inner).clone().into_iter().map(|why| ("schedule", why));
        config.chain(events).chain(socket).chain(schedule).collect()
    }

    /// How the daemon is.
    pub async fn health(&self) -> Value {
        let counts = self.jobs.counts().await;
        let wrong = self.wrong();
        let silent_ms = u64::try_from(self.jobs.silent_for().as_millis()).unwrap_or(u64::MAX);
        let of_jobs = match &counts {
            Ok(counts) => counts.problems.clone(),
            Err(f) => vec![f.message.clone()],
        };
        let own = self.own_problems().into_iter().map(|(_, words)| words);
        let reasons: Vec<String> = of_jobs.into_iter().chain(own).chain(self.watch.problems()).chain(self.alerts.problems()).collect();
        json!({
            "status": if reasons.is_empty() { "ok" } else { "degraded" }, "reasons": reasons,
            "version": env!("CARGO_PKG_VERSION"), "pid": std::process::id(), "started": crate::output::rfc3339(self.started_unix_ms),
            "config": {"path": config::find(self.places.config.as_deref()).map(|p| p.display().to_string()), "wrong": wrong},
            "state_dir": self.places.state_dir.display().to_string(),
            "jobs": match &counts {
                Ok(c) => json!({"queued": c.queued, "running": c.running, "silent_ms": silent_ms}),
                Err(f) => json!({"error": f.message, "silent_ms": silent_ms}),
            },
            "watch": self.watch.health(),
        })
    }

    /// A call into the watch, which may look at its disk, with a limit.
    pub async fn of_watch<T: Send + 'static>(self: &Arc<Self>, call: impl FnOnce(&WatchHandle) -> Outcome<T> + Send + 'static) -> Outcome<T> {
        let shared = self.clone();
        let called = tokio::task::spawn_blocking(move || call(&shared.watch));
        match tokio::time::timeout(crate::jobs::ANSWER_LIMIT, called).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(e)) => Err(Failure::new(FAILED, format!("the watch failed: {e}"))),
            Err(_) => Err(Failure::new(crate::failure::BUSY, "the watch does not answer; is the disk of the state folder in order?")),
        }
    }
}
