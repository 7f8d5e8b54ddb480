//! The thread that owns the table of jobs.
//!
//! Invariants
//! - At most `jobs_max` jobs run, and one for each domain; what waits is started in the order of its number, those passed over that must wait for a
//!   job of the same domain.
//! - A row says `running` before its runner is started. What a crash leaves in between is seen as such: nobody holds the lock, nothing was
//!   started; so it waits again.
//! - Rows change only here.

use super::{
    Counts, Limits, Which,
    again::{self, Next},
    folder::{JobFolder, Seen},
    launch::{self, Started, Way},
    record::{Begun, Exit, Job, JobId, Order, State, Ticket, jobs_dir},
    table::{self, Table},
};
use crate::{
    commands::now_unix_ms,
    failure::{BUSY, FAILED, Failure, NOT_FOUND, Outcome},
};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Child,
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// Between two rounds.
const TICK: Duration = Duration::from_millis(200);
/// Between two looks for what is outdated.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);
/// How long jobs that are over are kept, and how many.
const KEEP_MS: u64 = 30 * 24 * 3600 * 1000;
const KEEP_MAX: usize = 2000;
/// More jobs that wait are no plan, but a loop.
const QUEUED_MAX: usize = 1000;
/// How often a runner is started that does not come up.
const TRIES_MAX: u32 = 3;

type Reply<T> = oneshot::Sender<Outcome<T>>;

/// What is asked of the keeper.
pub enum Ask {
    Add(Vec<Order>, Reply<Vec<Job>>),
    List(Which, Reply<Vec<Job>>),
    Get(JobId, Reply<Job>),
    Cancel(JobId, Reply<Job>),
    Counts(Reply<Counts>),
    Limits(Limits, Reply<()>),
    Stop,
}

/// See the module.
pub struct Keeper {
    state_dir: PathBuf,
    dir: PathBuf,
    table: Table,
    limits: Limits,
    way: Way,
    /// Runners that are our children, to be waited for; those of an earlier daemon are not.
    children: HashMap<JobId, Child>,
    tries: HashMap<JobId, u32>,
    pruned: Option<Instant>,
    /// What was said last, so that it is not said five times a second.
    said: Option<String>,
}

impl Keeper {
    /// Opens the table and takes in jobs that only folders know.
    pub fn open(state_dir: &Path, limits: Limits) -> Outcome<Self> {
        let dir = jobs_dir(state_dir);
        let (table, word) = table::open(&table::path(state_dir))?;
        word.into_iter().for_each(|word| tracing::warn!("{word}"));
        let mut keeper = Self {
            state_dir: state_dir.to_owned(),
            dir,
            table,
            limits,
            way: Way::best(),
            children: HashMap::new(),
            tries: HashMap::new(),
            pruned: None,
            said: None,
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
                Err(RecvTimeoutError::Timeout) => {
                    if let Err(f) = self.round() {
                        self.complain(f.message);
                    }
                    next = Instant::now() + TICK;
                }
            }
        }
    }

    fn answer(&mut self, ask: Ask) {
        match ask {
            // Who gave up was told that it is not known what became of it: then it shall not be done late, and once more by a second try.
            Ask::Add(_, reply) if reply.is_closed() => {}
            Ask::Cancel(_, reply) if reply.is_closed() => {}
            // Who does not wait any more misses nothing but the answer.
            Ask::Add(orders, reply) => drop(reply.send(self.add(&orders))),
            Ask::List(which, reply) => drop(reply.send(self.sql(|t| t.list(which)))),
            Ask::Get(id, reply) => drop(reply.send(self.get(id))),
            Ask::Cancel(id, reply) => drop(reply.send(self.cancel(id))),
            Ask::Counts(reply) => drop(reply.send(self.counts())),
            Ask::Limits(limits, reply) => {
                self.limits = limits;
                drop(reply.send(Ok(())));
            }
            Ask::Stop => {}
        }
    }

    /// The table's answer. A table that turns out to be damaged is begun anew, once, with all that folders know.
    fn sql<T>(&mut self, mut question: impl FnMut(&mut Table) -> rusqlite::Result<T>) -> Outcome<T> {
        let fail = |e: rusqlite::Error| Failure::new(FAILED, format!("the table of jobs: {e}"));
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

    fn add(&mut self, orders: &[Order]) -> Outcome<Vec<Job>> {
        let waiting = self.sql(|t| t.list(Which::In(State::Queued)))?;
        let same = |order: &Order| waiting.iter().find(|job| job.is_for(order));
        // What was asked for by hand is done; what an event asks for is done once for all that wait.
        let (joined, new): (Vec<&Order>, Vec<&Order>) = orders.iter().partition(|order| order.trigger != super::record::ASKED && same(order).is_some());
        let mut jobs: Vec<Job> = joined.into_iter().filter_map(same).cloned().collect();
        if waiting.len() + new.len() > QUEUED_MAX {
            return Err(Failure::new(BUSY, format!("{} jobs wait already; see 'cairn jobs', and 'cairn job cancel'", waiting.len())));
        }
        let new: Vec<Order> = new.into_iter().cloned().collect();
        for id in self.sql(|t| t.add(&new, now_unix_ms()))? {
            jobs.push(self.get(id)?);
        }
        self.start_waiting()?;
        Ok(jobs)
    }

    fn get(&mut self, id: JobId) -> Outcome<Job> {
        self.sql(|t| t.get(id))?.ok_or_else(|| Failure::new(NOT_FOUND, format!("there is no job {id}; see 'cairn jobs --all'")))
    }

    fn counts(&mut self) -> Outcome<Counts> {
        Ok(Counts { queued: self.sql(|t| t.count(State::Queued))?, running: self.sql(|t| t.count(State::Running))? })
    }

    fn cancel(&mut self, id: JobId) -> Outcome<Job> {
        let mut job = self.get(id)?;
        match job.state {
            State::Queued => {
                (job.state, job.cancel, job.ended_unix_ms) = (State::Cancelled, true, Some(now_unix_ms()));
                job.message = Some("cancelled before it began".into());
            }
            State::Running => {
                JobFolder::of(&self.dir, id).ask_cancel()?;
                job.cancel = true;
            }
            over => return Err(Failure::refused(format!("job {id} is over already: {}", over.word()))),
        }
        self.sql(|t| t.update(&job))?;
        Ok(job)
    }

    /// What runs, what waits, what is outdated.
    fn round(&mut self) -> Outcome<()> {
        self.children.retain(|_, child| matches!(child.try_wait(), Ok(None)));
        for job in self.sql(|t| t.list(Which::In(State::Running)))? {
            if let Err(f) = self.look(job) {
                self.complain(f.message);
            }
        }
        self.start_waiting()?;
        if self.pruned.is_none_or(|at| at.elapsed() > PRUNE_EVERY) {
            self.pruned = Some(Instant::now());
            self.prune()?;
        }
        Ok(())
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
            Seen::Running(begun) => note(&mut job, begun),
            Seen::Ended(begun, exit) => {
                note(&mut job, begun);
                end(&mut job, exit);
            }
            Seen::Lost(begun) => {
                note(&mut job, begun);
                (job.state, job.pid, job.ended_unix_ms) = (State::Lost, None, Some(now_unix_ms()));
                job.message = Some(
                    "its processes are gone, and nobody wrote down how it ended (the host went down?); 'cairn list' shows whether there is a point".into(),
                );
            }
            // A runner that is on its way has the lock: this one never came up.
            Seen::NotStarted => self.again(&mut job, &folder),
        }
        if job.state.is_over() {
            self.tries.remove(&job.id);
            if self.retry(&mut job)? {
                return Ok(());
            }
        }
        if job != before {
            self.sql(|t| t.update(&job))?;
        }
        Ok(())
    }

    /// Another try of a job that met somebody at work, where an event asked for it; true if all is written down. The same that waits already is that try.
    fn retry(&mut self, job: &mut Job) -> Outcome<bool> {
        let (now, id) = (now_unix_ms(), job.id);
        let next = match again::next(job, now) {
            Next::Over => return Ok(false),
            Next::Try(_) if self.sql(|t| t.has_retry(id))? => return Ok(false),
            next => next,
        };
        let said = job.message.take().unwrap_or_else(|| "somebody else was at work".into());
        match (next, self.waiting_for(&job.order)?) {
            (Next::Try(next), None) => {
                let (of, at) = (again::PAUSES_MS.len() + 1, crate::output::rfc3339(next.not_before_unix_ms));
                let say = |id| format!("{said}; tried again as job {id}, not before {at} (try {} of {of})", next.tries);
                return self.sql(|t| t.end_and_retry(job, &next, now, say)).map(|()| true);
            }
            (_, Some(other)) => job.message = Some(format!("{said}; job {other}, which waits, is for the same")),
            (_, None) => job.message = Some(format!("{said}; this was try {}, and it is not tried again", job.tries())),
        }
        Ok(false)
    }

    /// A job that waits and is the same.
    fn waiting_for(&mut self, order: &Order) -> Outcome<Option<JobId>> {
        let waiting = self.sql(|t| t.list(Which::In(State::Queued)))?;
        Ok(waiting.iter().find(|job| job.is_for(order)).map(|job| job.id))
    }

    /// A runner that did not come up: a plain process is the next try of this job, where systemd did not start it. What kept systemd from it (it was loaded
    /// anew, its bus was away, a limit was reached) may be over at the next job.
    fn again(&mut self, job: &mut Job, folder: &JobFolder) {
        let tries = self.tries.entry(job.id).or_insert(0);
        if job.cancel || folder.is_cancel_asked() {
            (job.state, job.ended_unix_ms, job.message) = (State::Cancelled, Some(now_unix_ms()), Some("cancelled before it began".into()));
        } else if *tries >= TRIES_MAX {
            let why = folder.last_words().unwrap_or_else(|| "no reason known".into());
            (job.state, job.ended_unix_ms, job.message) = (State::Failed, Some(now_unix_ms()), Some(format!("its process could not be started: {why}")));
        } else {
            if *tries == 1 && self.way == Way::Scope {
                let why = folder.last_words().unwrap_or_else(|| "it gave no reason".into());
                self.complain(format!(
                    "systemd-run did not start job {} in a scope ({why}); this job is started as a plain process, the next one in a scope again",
                    job.id
                ));
            }
            job.state = State::Queued;
        }
    }

    fn start_waiting(&mut self) -> Outcome<()> {
        let mut running = self.sql(|t| t.list(Which::In(State::Running)))?;
        if running.len() >= self.limits.jobs_max {
            return Ok(());
        }
        for mut job in self.sql(|t| t.list(Which::In(State::Queued)))? {
            if running.len() >= self.limits.jobs_max {
                break;
            }
            if !again::is_due(&job, now_unix_ms()) || running.iter().any(|other| other.concerns_same(&job.order)) {
                continue;
            }
            job.state = State::Running;
            self.sql(|t| t.update(&job))?;
            let tries = self.tries.entry(job.id).or_insert(0);
            *tries += 1;
            let way = if *tries > 1 { Way::Plain } else { self.way };
            let ticket = Ticket { id: job.id, order: job.order.clone(), queued_unix_ms: job.queued_unix_ms, again: job.again.clone() };
            match launch::start(&self.dir, &ticket, way) {
                Ok(Started::Yes(child)) => drop(self.children.insert(job.id, child)),
                Ok(Started::RunsAlready) => {}
                Ok(Started::NoSystemdRun) => {
                    self.complain("systemd runs here, but there is no program systemd-run; from now on jobs are started as plain processes".into());
                    self.way = Way::Plain;
                }
                // The next round finds that nothing was started.
                Err(f) => self.complain(f.message),
            }
            running.push(job);
        }
        Ok(())
    }

    /// Folders first: a row without a folder is harmless, the other way round it would be taken in again.
    fn prune(&mut self) -> Outcome<()> {
        let before = now_unix_ms().saturating_sub(KEEP_MS);
        for id in self.sql(|t| t.outdated(before, KEEP_MAX))? {
            JobFolder::of(&self.dir, id).remove()?;
            self.sql(|t| t.remove(id))?;
        }
        Ok(())
    }

    fn complain(&mut self, message: String) {
        if self.said.as_ref() != Some(&message) {
            tracing::warn!("{message}");
            self.said = Some(message);
        }
    }
}

fn note(job: &mut Job, begun: Option<Begun>) {
    if let Some(begun) = begun {
        (job.pid, job.started_unix_ms) = (Some(begun.pid), Some(begun.started_unix_ms));
    }
}

fn end(job: &mut Job, exit: Exit) {
    job.state = State::of_exit(exit.code, exit.cancelled);
    (job.code, job.pid, job.ended_unix_ms) = (Some(exit.code), None, Some(exit.ended_unix_ms));
    (job.message, job.point) = (exit.message, exit.point);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::record::{ASKED, Kind};

    fn keeper(dir: &Path) -> Keeper {
        // Nothing is started: what would be is this very test program.
        Keeper::open(dir, Limits { jobs_max: 0 }).expect("opens")
    }

    fn order(trigger: &str) -> Order {
        Order {
            kind: Kind::Backup,
            domain: "web".into(),
            uuid: Some("u".into()),
            store: "main".into(),
            policies: vec!["p".into()],
            trigger: trigger.into(),
            why: "w".into(),
            argv: vec!["backup".into()],
            cancel_limit_ms: 1,
        }
    }

    /// The job runs, and its runner writes down that it has ended.
    fn end_with(keeper: &mut Keeper, id: JobId, code: i32, ended_unix_ms: u64) -> Job {
        let mut job = keeper.get(id).expect("there");
        job.state = State::Running;
        keeper.table.update(&job).expect("writes");
        let folder = JobFolder::of(&keeper.dir, id);
        folder.create(&Ticket { id, order: job.order.clone(), queued_unix_ms: 1, again: job.again.clone() }).expect("creates");
        assert!(folder.claim_start().expect("claims"));
        folder.set_exit(&Exit { code, cancelled: false, ended_unix_ms, message: Some("busy".into()), point: None }).expect("writes");
        keeper.round().expect("looks");
        keeper.get(id).expect("there")
    }

    #[test]
    fn an_events_job_that_meets_somebody_is_tried_again_so_often() {
        let dir = tempfile::tempdir().expect("dir");
        let mut keeper = keeper(dir.path());
        let mut id = keeper.add(&[order("shutdown")]).expect("adds")[0].id;
        for (n, pause) in again::PAUSES_MS.iter().enumerate() {
            let begin = now_unix_ms();
            let job = end_with(&mut keeper, id, 11, begin);
            let next = keeper.get(id + 1).expect("another try");
            let said = job.message.expect("a message");
            assert!(job.state == State::Failed && said.starts_with(&format!("busy; tried again as job {}, not before ", next.id)), "{said}");
            let again = next.again.clone().expect("says what it follows");
            assert_eq!((next.state, again.of, again.tries, &next.order), (State::Queued, id, u32::try_from(n).expect("few") + 2, &order("shutdown")));
            let wait_ms = again.not_before_unix_ms - begin;
            assert!(wait_ms >= *pause && wait_ms < *pause + 20_000, "{wait_ms} for {pause}");
            assert!(!again::is_due(&next, now_unix_ms()) && again::is_due(&next, again.not_before_unix_ms));
            assert!(again::is_due(&next, again.not_before_unix_ms - 3 * 1_920_000), "a clock that was set back by an hour and more");
            id = next.id;
        }
        let last = end_with(&mut keeper, id, 11, now_unix_ms());
        assert!(last.message.expect("a message").contains("this was try 8, and it is not tried again"));
        assert_eq!(keeper.get(id + 1).expect_err("no more").code, NOT_FOUND);
        // A table that is begun anew takes in what folders know, and tries nothing a second time.
        drop(keeper);
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", table::path(dir.path()).display()));
        }
        let mut keeper = self::keeper(dir.path());
        keeper.round().expect("looks");
        assert_eq!((keeper.get(id).expect("there").tries(), keeper.counts().expect("counts")), (8, Counts::default()));
    }

    #[test]
    fn nothing_else_is_tried_again() {
        for (what, trigger, code, ended_unix_ms) in [
            ("asked for by somebody", ASKED, 11, now_unix_ms()),
            ("failed otherwise", "shutdown", 1, now_unix_ms()),
            ("done", "shutdown", 0, now_unix_ms()),
            ("long ago", "shutdown", 11, now_unix_ms() - 2 * 3600 * 1000),
        ] {
            let dir = tempfile::tempdir().expect("dir");
            let mut keeper = keeper(dir.path());
            let id = keeper.add(&[order(trigger)]).expect("adds")[0].id;
            let job = end_with(&mut keeper, id, code, ended_unix_ms);
            assert!(job.state.is_over() && job.message.as_deref() == Some("busy"), "{what}: {job:?}");
            assert_eq!(keeper.counts().expect("counts"), Counts::default(), "{what}");
        }
    }

    #[test]
    fn a_new_event_and_another_try_are_one_job() {
        let dir = tempfile::tempdir().expect("dir");
        let mut keeper = keeper(dir.path());
        let first = keeper.add(&[order("shutdown")]).expect("adds")[0].id;
        end_with(&mut keeper, first, 11, now_unix_ms());
        assert_eq!(keeper.add(&[order("shutdown")]).expect("joins")[0].id, first + 1, "the other try waits already");
        // And the other way round: the event came before the end.
        let dir = tempfile::tempdir().expect("dir");
        let mut keeper = self::keeper(dir.path());
        let first = keeper.add(&[order("shutdown")]).expect("adds")[0].id;
        let mut job = keeper.get(first).expect("there");
        job.state = State::Running;
        keeper.table.update(&job).expect("writes");
        let second = keeper.add(&[order("shutdown")]).expect("adds")[0].id;
        let job = end_with(&mut keeper, first, 11, now_unix_ms());
        assert!(job.message.expect("a message").contains(&format!("job {second}, which waits, is for the same")));
        assert_eq!(keeper.counts().expect("counts").queued, 1);
    }
}
