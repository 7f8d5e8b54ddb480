//! The thread that owns the table of jobs.
//!
//! Invariants
//! - At most `jobs_max` jobs run, of a store no more than its own limit, and one for each domain; none begins while all windows of its policies are closed; what waits is started in the order of its number, those passed over that must wait for a
//!   job of the same domain.
//! - A row says `running` before its runner is started. What a crash leaves in between is seen as such: nobody holds the lock, nothing was
//!   started; so it waits again.
//! - Rows change only here.
//! - Nobody waits for another: a round comes however much is asked, a start that hangs ends in its time and holds up its own job alone, and what is to be
//!   removed is removed in small portions.
//! - Nothing begins, and nothing is written down, in a folder that is not ours any more.
//! - Nothing begins on a disk that has no room for its end; what waits waits on, and says why.

use super::{
    Activity, Counts, Limits, Troubles, Which, again,
    around::Around,
    folder::{JobFolder, Seen},
    launch::{Started, Way},
    record::{Job, JobId, Order, State, Ticket, jobs_dir},
    room,
    stalled::Stalled,
    table::{self, Table},
};
use crate::{
    failure::{BUSY, FAILED, Failure, NOT_FOUND, Outcome},
    schedule::Slot,
};
use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};

/// Between two rounds.
const TICK: Duration = Duration::from_millis(200);
/// Between two looks for what is outdated.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);
/// How long jobs that are over are kept, and how many.
const KEEP_MS: u64 = 30 * 24 * 3600 * 1000;
const KEEP_MAX: usize = 2000;
/// How long it is known what was run last: longer than any schedule pauses.
const SLOT_KEEP_MS: u64 = 10 * 366 * 24 * 3600 * 1000;
/// More jobs that wait are no plan, but a loop.
const QUEUED_MAX: usize = 1000;
/// For how long health tells of a job that owes a point, unless one was done since; how many are named.
const OWED_MS: u64 = 24 * 3600 * 1000;
const OWED_MAX: usize = 4;
/// How long one may take to come up: systemd answers within 25 s, or not at all.
const START_LIMIT: Duration = Duration::from_secs(30);
/// The same for one that is to be cancelled.
const CANCELLED_START_LIMIT: Duration = Duration::from_secs(3);
/// Folders that are removed in one round.
const PRUNED_MAX: usize = 8;

/// Before the next try to take room that was not there.
const NO_ROOM_PAUSE: Duration = Duration::from_secs(5);

type Reply<T> = oneshot::Sender<Outcome<T>>;

/// What is asked of the keeper.
pub enum Ask {
    Add(Vec<Order>, Vec<(String, Slot)>, Reply<Vec<Job>>),
    Slots(Reply<HashMap<String, Slot>>),
    Activity(Reply<Vec<Activity>>),
    List(Which, Reply<Vec<Job>>),
    Get(JobId, Reply<Job>),
    Cancel(JobId, Reply<Job>),
    Counts(Reply<Counts>),
    Troubles(Reply<Troubles>),
    Limits(Limits, Reply<()>),
    Stop,
}

/// Whether the state folder is this daemon's.
pub struct Home {
    /// Whether it is, as far as can be seen.
    pub is_ours: Box<dyn Fn() -> bool + Send>,
    /// It was seen not to be; it will not be again.
    pub lost: Arc<AtomicBool>,
}

/// See the module.
pub struct Keeper {
    around: Around,
    home: Home,
    /// Is told of domains whose backups ended badly.
    broken: mpsc::Sender<String>,
    state_dir: PathBuf,
    dir: PathBuf,
    table: Table,
    limits: Limits,
    way: Way,
    /// Runners that are our children, to be waited for, and since when; those of an earlier daemon are not.
    children: HashMap<JobId, (Child, Instant)>,
    /// Runners that were ended before they came up.
    given_up: HashSet<JobId>,
    tries: HashMap<JobId, u32>,
    stalled: Stalled,
    pruned: Option<Instant>,
    /// What was said last, so that it is not said five times a second.
    said: Option<String>,
    /// Why nothing can begin, and until when that is so at least.
    no_room: Option<String>,
    no_room_until: Instant,
    /// What failed in the last round.
    trouble: Option<String>,
}

impl Keeper {
    /// Opens the table and takes in jobs that only folders know.
    pub fn open(state_dir: &Path, limits: Limits, home: Home, broken: mpsc::Sender<String>, around: Around) -> Outcome<Self> {
        let dir = jobs_dir(state_dir);
        let (table, word) = table::open(&table::path(state_dir))?;
        word.into_iter().for_each(|word| tracing::warn!("{word}"));
        let mut keeper = Self {
            around,
            home,
            broken,
            state_dir: state_dir.to_owned(),
            dir,
            table,
            limits,
            way: Way::best(),
            children: HashMap::new(),
            given_up: HashSet::new(),
            tries: HashMap::new(),
            stalled: Stalled::new(Instant::now()),
            pruned: None,
            said: None,
            no_room: None,
            no_room_until: Instant::now(),
            trouble: None,
        };
        keeper.take_in()?;
        Ok(keeper)
    }

    /// Until it is stopped; `beat` says that it lives.
    pub fn run(&mut self, asks: &Receiver<Ask>, beat: impl Fn()) {
        let mut next = Instant::now();
        loop {
            beat();
            match asks.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Ask::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(ask) => self.answer(ask),
                Err(RecvTimeoutError::Timeout) => {}
            }
            // However much is asked.
            if Instant::now() >= next {
                self.trouble = self.round().err().map(|f| f.message);
                if let Some(trouble) = self.trouble.clone() {
                    self.complain(trouble);
                }
                next = Instant::now() + TICK;
            }
        }
    }

    /// What is asked of it, at once.
    pub fn answer(&mut self, ask: Ask) {
        match ask {
            // Who gave up was told that it is not known what became of it: then it shall not be done late, and once more by a second try.
            Ask::Add(_, _, reply) if reply.is_closed() => {}
            Ask::Cancel(_, reply) if reply.is_closed() => {}
            // Who does not wait any more misses nothing but the answer.
            Ask::Add(orders, slots, reply) => drop(reply.send(self.add(&orders, &slots))),
            Ask::Slots(reply) => drop(reply.send(self.sql(|t| t.slots()))),
            Ask::Activity(reply) => {
                let now = self.around.now();
                drop(reply.send(self.sql(|t| t.activity(now))));
            }
            Ask::List(which, reply) => drop(reply.send(self.sql(|t| t.list(which)))),
            Ask::Get(id, reply) => drop(reply.send(self.get(id))),
            Ask::Cancel(id, reply) => drop(reply.send(self.cancel(id))),
            Ask::Counts(reply) => drop(reply.send(self.counts())),
            Ask::Troubles(reply) => drop(reply.send(self.troubles())),
            Ask::Limits(limits, reply) => {
                self.limits = limits;
                drop(reply.send(Ok(())));
            }
            Ask::Stop => {}
        }
    }

    /// The table's answer. A table that turns out to be damaged is begun anew, once, with all that folders know.
    fn sql<T>(&mut self, mut question: impl FnMut(&mut Table) -> rusqlite::Result<T>) -> Outcome<T> {
        let at = self.state_dir.display().to_string();
        let fail = |e: rusqlite::Error| match e.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => {
                Failure::new(FAILED, format!("the table of jobs cannot be written: the disk of the state folder {at} is full; free space on its file system"))
            }
            _ => Failure::new(FAILED, format!("the table of jobs: {e}")),
        };
        match question(&mut self.table) {
            Err(e) if table::is_damage(&e) => {
                let path = table::path(&self.state_dir);
                tracing::warn!("{} turned out to be damaged ({e}); it is set aside, and a new one is begun", path.display());
                self.table = table::replace(&path)?;
                self.take_in()?;
                question(&mut self.table).map_err(fail)
            }
            answer => answer.map_err(fail),
        }
    }

    /// Jobs of folders without a row: they wait, at first; the next round sees how they stand.
    fn take_in(&mut self) -> Outcome<()> {
        let fail = |e: rusqlite::Error| Failure::new(FAILED, format!("the table of jobs: {e}"));
        let ids = JobFolder::all(&self.dir)?;
        self.table.reserve(ids.last().copied().unwrap_or(0)).map_err(fail)?;
        for id in ids {
            if self.table.get(id).map_err(fail)?.is_some() {
                continue;
            }
            let folder = JobFolder::of(&self.dir, id);
            match folder.ticket() {
                Ok(Some(ticket)) if ticket.id == id && ticket.order.is_ours() => {
                    self.table.take_in(&ticket).map_err(fail)?;
                    let mut job = self.table.get(id).map_err(fail)?.ok_or_else(|| Failure::new(FAILED, format!("job {id} was taken in and is not there")))?;
                    job.state = State::Running;
                    self.table.update(&job).map_err(fail)?;
                }
                _ if folder.try_lock().is_ok_and(|lock| lock.is_none()) => tracing::warn!("job {id} runs, but what it is cannot be read"),
                // Made by a daemon that died at just that moment, before anything was started.
                _ => folder.remove()?,
            }
        }
        Ok(())
    }

    fn add(&mut self, orders: &[Order], slots: &[(String, Slot)]) -> Outcome<Vec<Job>> {
        self.is_home()?;
        let waiting = self.sql(|t| t.list(Which::In(State::Queued)))?;
        let same = |order: &Order| waiting.iter().find(|job| job.is_for(order));
        // What was asked for by hand is done; what an event asks for is done once for all that wait.
        let (joined, new): (Vec<&Order>, Vec<&Order>) = orders.iter().partition(|order| order.trigger != super::record::ASKED && same(order).is_some());
        let mut jobs: Vec<Job> = joined.into_iter().filter_map(same).cloned().collect();
        if waiting.len() + new.len() > QUEUED_MAX {
            return Err(Failure::new(BUSY, format!("{} jobs wait already; see 'cairn jobs', and 'cairn job cancel'", waiting.len())));
        }
        if !new.is_empty() {
            self.room().map_err(|why| Failure::new(FAILED, why))?;
        }
        let new: Vec<Order> = new.into_iter().cloned().collect();
        let now = self.around.now();
        for id in self.sql(|t| t.add(&new, slots, now))? {
            jobs.push(self.get(id)?);
        }
        self.start_waiting()?;
        Ok(jobs)
    }

    fn get(&mut self, id: JobId) -> Outcome<Job> {
        self.sql(|t| t.get(id))?.ok_or_else(|| Failure::new(NOT_FOUND, format!("there is no job {id}; see 'cairn jobs --all'")))
    }

    /// Whether jobs can begin; why not.
    fn room(&mut self) -> Result<(), String> {
        // What a job met holds for a moment: quotas show nowhere else.
        if Instant::now() < self.no_room_until
            && let Some(why) = &self.no_room
        {
            return Err(why.clone());
        }
        let checked = room::check(&self.state_dir);
        self.no_room = checked.as_ref().err().cloned();
        checked
    }

    fn cancel(&mut self, id: JobId) -> Outcome<Job> {
        let mut job = self.get(id)?;
        match job.state {
            State::Queued => {
                (job.state, job.cancel, job.ended_unix_ms) = (State::Cancelled, true, Some(self.around.now()));
                job.message = Some("cancelled before it began".into());
            }
            State::Running => {
                JobFolder::of(&self.dir, id).ask_cancel()?;
                job.cancel = true;
                // What counts is in the folder; a table that cannot be written (a full disk) only does not show it.
                if let Err(f) = self.sql(|t| t.update(&job)) {
                    self.complain(f.message);
                }
                return Ok(job);
            }
            over => return Err(Failure::refused(format!("job {id} is over already: {}", over.word()))),
        }
        self.sql(|t| t.update(&job))?;
        Ok(job)
    }

    /// Another daemon may have the folder by now, with its own idea of what runs.
    fn is_home(&mut self) -> Outcome<()> {
        if self.home.lost.load(Ordering::Relaxed) || !(self.home.is_ours)() {
            self.home.lost.store(true, Ordering::Relaxed);
            return Err(Failure::new(
                FAILED,
                format!(
                    "the state folder {} was removed or replaced: nothing is begun any more, and the daemon ends; jobs that run go on",
                    self.state_dir.display()
                ),
            ));
        }
        Ok(())
    }

    /// What runs, what waits, what is outdated.
    pub fn round(&mut self) -> Outcome<()> {
        self.is_home()?;
        self.children.retain(|_, (child, _)| matches!(child.try_wait(), Ok(None)));
        // One that cannot be looked at keeps no other from its turn.
        let mut failed: Option<Failure> = None;
        for job in self.sql(|t| t.list(Which::In(State::Running)))? {
            if let Err(f) = self.look(job) {
                failed.get_or_insert(f);
            }
        }
        self.start_waiting()?;
        if self.stalled.is_due(Instant::now()) {
            let (running, mut waiting) = (self.sql(|t| t.list(Which::In(State::Running)))?, self.sql(|t| t.list(Which::In(State::Queued)))?);
            // One that waits for a window waits for no turn.
            let (dir, now) = (&self.dir, self.around.now());
            waiting.retain(|job| job.order.may_begin(now));
            self.stalled.look(&running, &waiting, |id| JobFolder::of(dir, id).progress(), (Instant::now(), now));
        }
        if self.pruned.is_none_or(|at| at.elapsed() > PRUNE_EVERY) && self.prune()? {
            self.pruned = Some(Instant::now());
        }
        failed.map_or(Ok(()), Err)
    }

    /// A job that runs as far as is known.
    fn look(&mut self, mut job: Job) -> Outcome<()> {
        let before = job.clone();
        let folder = JobFolder::of(&self.dir, job.id);
        let seen = match folder.path().is_dir() {
            true => folder.look()?,
            // Somebody removed it; what had begun is not begun again.
            false if job.started_unix_ms.is_some() => Seen::Lost(None),
            false => Seen::NotStarted,
        };
        match seen {
            Seen::Running(begun) => {
                self.hurry(job.id, &folder)?;
                note(&mut job, begun);
            }
            // It was we who said that it had started, so that nothing would.
            Seen::Lost(_) if self.given_up.remove(&job.id) => {
                folder.unclaim_start()?;
                self.again(&mut job, &folder);
            }
            Seen::Ended(begun, exit) => {
                note(&mut job, begun);
                end(&mut job, exit);
            }
            Seen::Lost(begun) => {
                note(&mut job, begun);
                (job.state, job.pid, job.ended_unix_ms) = (State::Lost, None, Some(self.around.now()));
                job.message = Some(
                    "its processes are gone, and nobody wrote down how it ended (the host went down?); 'cairn list' shows whether there is a point".into(),
                );
            }
            // A runner that is on its way has the lock: this one never came up.
            Seen::NotStarted => self.again(&mut job, &folder),
        }
        if job.state.is_over() {
            self.tries.remove(&job.id);
            // One that finds no room is looked at with all others.
            job.broken().into_iter().for_each(|domain| drop(self.broken.try_send(domain.to_owned())));
            if self.retry(&mut job, before.started_unix_ms.is_some())? {
                return Ok(());
            }
        }
        if job != before {
            self.sql(|t| t.update(&job))?;
        }
        Ok(())
    }

    /// Ends a start that does not come to its end: systemd-run waits for a bus that does not answer, say. First its right to start the command is taken, so
    /// that a runner that comes up at this very moment starts nothing.
    fn hurry(&mut self, id: JobId, folder: &JobFolder) -> Outcome<()> {
        let Some((child, since)) = self.children.get_mut(&id) else { return Ok(()) };
        let limit = if folder.is_cancel_asked() { CANCELLED_START_LIMIT } else { START_LIMIT };
        if self.given_up.contains(&id) || since.elapsed() < limit || !folder.claim_start()? {
            return Ok(());
        }
        self.given_up.insert(id);
        // One that has ended just now is as good.
        let _ = child.kill();
        self.complain(format!("the start of job {id} did not come to its end within {} s and was broken off", limit.as_secs()));
        Ok(())
    }

    fn start_waiting(&mut self) -> Outcome<()> {
        if let Err(why) = self.room() {
            self.complain(why);
            return Ok(());
        }
        let mut running = self.sql(|t| t.list(Which::In(State::Running)))?;
        if running.len() >= self.limits.jobs_max {
            return Ok(());
        }
        for mut job in self.sql(|t| t.list(Which::In(State::Queued)))? {
            if running.len() >= self.limits.jobs_max {
                break;
            }
            let now = self.around.now();
            if !again::is_due(&job, now) || !job.order.may_begin(now) || running.iter().any(|other| other.concerns_same(&job.order)) {
                continue;
            }
            let of_store = running.iter().filter(|other| other.order.store == job.order.store).count();
            if self.limits.of_stores.get(&job.order.store).is_some_and(|max| of_store >= *max) {
                continue;
            }
            self.is_home()?;
            job.state = State::Running;
            self.sql(|t| t.update(&job))?;
            let tries = self.tries.entry(job.id).or_insert(0);
            *tries += 1;
            let way = if *tries > 1 { Way::Plain } else { self.way };
            let ticket = Ticket { id: job.id, order: job.order.clone(), queued_unix_ms: job.queued_unix_ms, again: job.again.clone() };
            match self.around.start(&self.dir, &ticket, way) {
                Ok(Started::Yes(child)) => drop(self.children.insert(job.id, (child, Instant::now()))),
                Ok(Started::RunsAlready) => {}
                Ok(Started::NoSystemdRun) => {
                    self.complain("systemd runs here, but there is no program systemd-run; from now on jobs are started as plain processes".into());
                    self.way = Way::Plain;
                }
                Ok(Started::NoRoom(why)) => {
                    // No try of this job's: it waits until there is room. A row that cannot be changed back is seen for what it is by the next round.
                    self.tries.entry(job.id).and_modify(|n| *n -= 1);
                    let why = format!("{why}: no job begins until there is room; free space on that file system, and see its quotas");
                    self.complain(why.clone());
                    (self.no_room, self.no_room_until) = (Some(why), Instant::now() + NO_ROOM_PAUSE);
                    job.state = State::Queued;
                    return self.sql(|t| t.update(&job));
                }
                // The next round finds that nothing was started.
                Err(f) => self.complain(f.message),
            }
            running.push(job);
        }
        Ok(())
    }

    /// Folders first: a row without a folder is harmless, the other way round it would be taken in again.
    /// True if all is removed.
    fn prune(&mut self) -> Outcome<bool> {
        let before = self.around.now().saturating_sub(KEEP_MS);
        let outdated = self.sql(|t| t.outdated(before, KEEP_MAX))?;
        for id in outdated.iter().take(PRUNED_MAX) {
            JobFolder::of(&self.dir, *id).remove()?;
            self.sql(|t| t.remove(*id))?;
        }
        let before = self.around.now().saturating_sub(SLOT_KEEP_MS);
        self.sql(|t| t.forget_slots(before))?;
        Ok(outdated.len() <= PRUNED_MAX)
    }

    fn complain(&mut self, message: String) {
        if self.said.as_ref() != Some(&message) {
            tracing::warn!("{message}");
            self.said = Some(message);
        }
    }
}

#[path = "keeper_told.rs"]
mod told;
#[path = "keeper_tries.rs"]
mod tries;
use tries::{end, note};

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
