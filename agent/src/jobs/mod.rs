//! Jobs: work that the daemon starts as processes of their own, watches, and remembers.
//!
//! - [`record`]: what a job is; [`table`]: all of them, in SQLite; [`folder`]: one that was started, on disk
//! - [`launch`], [`runner`]: the process that starts a job's command and writes down how it ended, daemon or not
//! - [`again`]: what is tried once more, and when; [`room`]: place for their records; [`stalled`]: those that do not get on
//! - [`around`]: the clock and the starts of a keeper, for which a simulation has its own
//! - [`keeper`]: the thread that owns the table: what runs when, what became of it, what is forgotten
//!
//! Invariants
//! - A job outlives the daemon. One that starts again finds those which run by their locks, and learns from their folders how the others ended.
//! - No job is started twice, none is forgotten while it runs.
//! - Whoever asks gets an answer within [`ANSWER_LIMIT`], though the disk below the table hang.
//!
//! What it must not do: know what the commands do.

mod again;
mod around;
pub mod folder;
mod keeper;
pub mod launch;
pub mod record;
mod room;
pub mod runner;
mod stalled;
mod table;

#[cfg(test)]
pub mod simulated {
    //! The keeper and its surroundings, for a simulation (`daemon::month`).
    pub use super::{
        around::Around,
        keeper::{Ask, Home, Keeper},
    };
}

pub use folder::last_words;
pub use record::{Job, JobId, Kind, Order, State};
pub use table::{Activity, Which, is_damage};

use crate::{
    failure::{BUSY, FAILED, Failure, Outcome},
    schedule::Slot,
};
use around::Around;
use keeper::{Ask, Home, Keeper};
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};

/// Longest wait for an answer of the keeper's.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Domains whose backups ended badly, and that nobody has looked at yet; they are looked at now and then anyway.
pub const BROKEN_MAX: usize = 256;
/// Questions that wait for the keeper; it answers in milliseconds, so more mean that it hangs.
const ASKS_MAX: usize = 256;

/// What may be set while it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Jobs at once.
    pub jobs_max: usize,
    /// Jobs at once that have to do with a store, by its name; one that is not here has no limit of its own.
    pub of_stores: BTreeMap<String, usize>,
}

/// How many there are, and what is in their way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Waiting.
    pub queued: usize,
    /// Running.
    pub running: usize,
    /// Why none can begin, or what of them cannot be written down; each for as long as it is so.
    pub problems: Vec<String>,
}

/// All that is wrong with jobs, one by one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Troubles {
    /// The last of their work, failed for good or lost, newest first.
    pub owed: Vec<Job>,
    /// Those that do not get on, in words.
    pub stalled: Vec<(JobId, String)>,
    /// All that wait or run.
    pub busy: Vec<JobId>,
    /// Why none can begin, or be written down.
    pub other: Vec<String>,
}

/// The keeper's other end.
#[derive(Debug, Clone)]
pub struct Jobs {
    asks: SyncSender<Ask>,
    /// When the keeper last went round, ms after `born`.
    beat_ms: Arc<AtomicU64>,
    born: Instant,
    homeless: Arc<AtomicBool>,
    dir: PathBuf,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Jobs {
    /// Opens the table, takes in what runs, and goes on with what waits.
    ///
    /// `is_ours`: whether the state folder is still this daemon's; asked before anything is begun, and five times a second.
    /// `broken`: is told of each domain whose backup has ended, and not well: it may have left something.
    pub fn start(state_dir: &Path, limits: Limits, is_ours: impl Fn() -> bool + Send + 'static, broken: mpsc::Sender<String>) -> Outcome<Self> {
        let homeless = Arc::new(AtomicBool::new(false));
        let mut keeper = Keeper::open(state_dir, limits, Home { is_ours: Box::new(is_ours), lost: homeless.clone() }, broken, Around::default())?;
        let (asks, questions) = sync_channel(ASKS_MAX);
        let (beat_ms, born) = (Arc::new(AtomicU64::new(0)), Instant::now());
        let beat = beat_ms.clone();
        let run = move || keeper.run(&questions, || beat.store(u64::try_from(born.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed));
        let thread = std::thread::Builder::new().name("jobs".into()).spawn(run).map_err(|e| Failure::new(FAILED, format!("cannot start a thread: {e}")))?;
        Ok(Self { asks, beat_ms, born, homeless, dir: record::jobs_dir(state_dir), thread: Arc::new(Mutex::new(Some(thread))) })
    }

    /// Queues orders, all or none. One of a trigger that waits already is answered with the job that waits.
    pub async fn add(&self, orders: Vec<Order>) -> Outcome<Vec<Job>> {
        self.ask(|reply| Ask::Add(orders, Vec::new(), reply)).await
    }

    /// The same for what is done again and again: orders and slots are written in one transaction, so that nothing is ordered twice, and nothing is noted that
    /// was not ordered.
    pub async fn add_due(&self, orders: Vec<Order>, slots: Vec<(String, Slot)>) -> Outcome<Vec<Job>> {
        self.ask(|reply| Ask::Add(orders, slots, reply)).await
    }

    /// What was run of all that is done again and again, by its key.
    pub async fn slots(&self) -> Outcome<HashMap<String, Slot>> {
        self.ask(Ask::Slots).await
    }

    /// What was done lately, and what waits or runs.
    pub async fn activity(&self) -> Outcome<Vec<Activity>> {
        self.ask(Ask::Activity).await
    }

    /// Jobs by number.
    pub async fn list(&self, which: Which) -> Outcome<Vec<Job>> {
        self.ask(|reply| Ask::List(which, reply)).await
    }

    /// One job.
    pub async fn get(&self, id: JobId) -> Outcome<Job> {
        self.ask(|reply| Ask::Get(id, reply)).await
    }

    /// Asks for the end of one. It has not ended yet when this returns, unless it had not begun.
    pub async fn cancel(&self, id: JobId) -> Outcome<Job> {
        self.ask(|reply| Ask::Cancel(id, reply)).await
    }

    /// How many there are.
    pub async fn counts(&self) -> Outcome<Counts> {
        self.ask(Ask::Counts).await
    }

    /// What is wrong with them.
    pub async fn troubles(&self) -> Outcome<Troubles> {
        self.ask(Ask::Troubles).await
    }

    /// Other limits from now on.
    pub async fn set_limits(&self, limits: Limits) -> Outcome<()> {
        self.ask(|reply| Ask::Limits(limits, reply)).await
    }

    /// The folder of a job that was started.
    pub fn folder(&self, id: JobId) -> folder::JobFolder {
        folder::JobFolder::of(&self.dir, id)
    }

    /// How long ago the keeper went round.
    pub fn silent_for(&self) -> Duration {
        self.born.elapsed().saturating_sub(Duration::from_millis(self.beat_ms.load(Ordering::Relaxed)))
    }

    /// The state folder is not ours any more: nothing is begun, and the daemon is to end.
    pub fn is_homeless(&self) -> bool {
        self.homeless.load(Ordering::Relaxed)
    }

    /// Ends the keeper, not the jobs; false if it does not end within the limit.
    pub fn stop(&self, limit: Duration) -> bool {
        // One that takes no questions any more has ended, or hangs: the wait tells.
        let _ = self.asks.try_send(Ask::Stop);
        let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() else { return true };
        let until = Instant::now() + limit;
        while !thread.is_finished() {
            if Instant::now() > until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        thread.join().is_ok()
    }

    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<Outcome<T>>) -> Ask) -> Outcome<T> {
        let (reply, answer) = oneshot::channel();
        let busy = || {
            Failure::new(
                BUSY,
                "the table of jobs does not answer, and what was asked may be done or not (see 'cairn jobs'); is the disk of the state folder in order?",
            )
        };
        self.asks.try_send(question(reply)).map_err(|e| match e {
            TrySendError::Full(_) => busy(),
            TrySendError::Disconnected(_) => Failure::new(FAILED, "the daemon is ending"),
        })?;
        match tokio::time::timeout(ANSWER_LIMIT, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(Failure::new(FAILED, "the daemon is ending")),
            Err(_) => Err(busy()),
        }
    }
}
