//! The simulated host: its daemon, of which all but the process and the sockets is real, the processes of jobs, and what happens to them.

use super::{
    promises::Promises,
    sky::{HOUR, MINUTE, Sky},
    trouble::Event,
    work::{Task, Works},
};
use crate::{
    config::{Config, Subject, Word},
    daemon::{
        orders::Ordering,
        schedule::{self, Run},
        state::limits,
        upkeep,
    },
    failure::{FAILED, Outcome},
    jobs::{
        Job, Kind, Order, State, Which,
        folder::JobFolder,
        launch::{Started, Way},
        record::{Begun, Exit, Ticket},
        simulated::{Around, Ask, Home, Keeper},
    },
    schedule::Slot,
    watch::Seen,
};
use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::{mpsc, oneshot};

/// As the daemon's.
const BATCH: usize = 32;
/// Between two looks of a host where nothing runs or waits; where something does.
const IDLE_STEP: u64 = 5 * MINUTE;
const BUSY_STEP: u64 = MINUTE;
/// A store that hangs.
const HANG_MS: u64 = 7 * HOUR;
/// Operations of a job, about.
const OPERATIONS: u64 = 60;

/// A job's process.
struct Process {
    folder: JobFolder,
    ticket: Ticket,
    _lock: File,
    /// Truly, and by the host's clock.
    begun: (u64, u64),
    ends: u64,
    hangs: bool,
}

type Processes = Arc<Mutex<Vec<Process>>>;

pub struct Host {
    pub sky: Arc<Sky>,
    pub config: Arc<Config>,
    pub works: Works,
    pub promises: Promises,
    state_dir: PathBuf,
    processes: Processes,
    keeper: Option<Keeper>,
    is_up: bool,
    seen: Vec<Seen>,
    looked: u64,
    look_every: u64,
}

impl Host {
    pub fn new(sky: Arc<Sky>, config: Config, works: Works, promises: Promises, look_every: u64) -> Self {
        let state_dir = works.state_dir.clone();
        let mut this = Self {
            sky,
            config: Arc::new(config),
            works,
            promises,
            state_dir,
            processes: Processes::default(),
            keeper: None,
            is_up: true,
            seen: Vec::new(),
            looked: 0,
            look_every,
        };
        this.see();
        this.start_daemon();
        this
    }

    /// What the watch would have seen of the domains; points it knows already.
    fn see(&mut self) {
        let known = std::mem::take(&mut self.seen);
        let seen = |m: &super::work::Machine| Seen {
            uuid: m.uuid.clone(),
            subject: Subject { name: m.name.clone(), running: Some(true), word: Word { tags: m.tags.clone(), ..Word::default() } },
            is_known: true,
            is_away: false,
            points: known.iter().find(|s| s.uuid == m.uuid).map(|s| s.points.clone()).unwrap_or_default(),
        };
        self.seen = self.works.machines.iter().filter(|m| m.is_here).map(seen).collect();
    }

    fn start_daemon(&mut self) {
        self.keeper = None;
        let (broken, _) = mpsc::channel(1);
        let home = Home { is_ours: Box::new(|| true), lost: Arc::default() };
        let (clock, starter) = (self.sky.clone(), (self.sky.clone(), self.processes.clone()));
        let around =
            Around { clock: Box::new(move || clock.clock()), starter: Box::new(move |dir, ticket, way| start(&starter.0, &starter.1, dir, ticket, way)) };
        self.keeper = Some(Keeper::open(&self.state_dir, limits(&self.config), home, broken, around).expect("the table opens"));
    }

    fn ask<T>(&mut self, question: impl FnOnce(oneshot::Sender<Outcome<T>>) -> Ask) -> T {
        let (reply, mut answer) = oneshot::channel();
        self.keeper.as_mut().expect("a daemon").answer(question(reply));
        answer.try_recv().expect("the keeper answers at once").unwrap_or_else(|f| panic!("the keeper: {}", f.message))
    }

    /// What happens at a moment; the clock is there already.
    pub fn happen(&mut self, event: Event) {
        self.sky.note(format_args!("{event:?}"));
        match event {
            Event::Away(store, true) => std::fs::rename(&self.works.roots[store], self.works.roots[store].with_extension("away")).expect("is taken away"),
            Event::Away(store, false) => std::fs::rename(self.works.roots[store].with_extension("away"), &self.works.roots[store]).expect("is back"),
            Event::Full(store, true) => drop(self.sky.state().full.insert(store)),
            Event::Full(store, false) => drop(self.sky.state().full.remove(&store)),
            Event::Libvirt(is_away) => self.sky.state().libvirt_away = is_away,
            Event::HostDown { in_order } => {
                self.keeper = None;
                self.is_up = false;
                while let Some(process) = self.pop_process(0) {
                    if in_order { self.end(&process, (130, None, None)) } else { self.kill(&process) }
                }
            }
            Event::HostUp => {
                self.is_up = true;
                self.sky.state().boot += 1;
                self.start_daemon();
            }
            Event::DaemonKilled => self.keeper = None,
            Event::DaemonUp if self.is_up => self.start_daemon(),
            Event::DaemonUp => {}
            Event::Clock(ahead_ms) => self.sky.state().ahead_ms = ahead_ms,
            Event::Hang(is_next) => self.sky.state().hang_next = is_next,
            Event::JobKilled => {
                if let Some(process) = self.pop_process(0) {
                    self.kill(&process);
                }
            }
            Event::Defined(machine, is_here) => self.works.machines[machine].is_here = is_here,
            Event::Renamed(machine) => self.works.machines[machine].name = "prod-new".into(),
        }
        if matches!(event, Event::Defined(..) | Event::Renamed(..)) {
            self.see();
        }
    }

    fn pop_process(&self, ended_by: u64) -> Option<Process> {
        let mut all = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        let at = all.iter().position(|p| ended_by == 0 || p.ends <= ended_by)?;
        Some(all.remove(at))
    }

    /// The process and its runner are gone in mid-work, and nobody writes down how it ended.
    fn kill(&mut self, process: &Process) {
        let killed_at = self.sky.state().rng.between(0, OPERATIONS);
        let (code, message, _) = self.work(process, Some(killed_at));
        self.sky.note(format_args!("job {} is killed at operation {killed_at} ({code}, {message:?})", process.ticket.id));
    }

    fn work(&mut self, process: &Process, killed_at: Option<u64>) -> (i32, Option<String>, Option<String>) {
        let ticket = &process.ticket;
        let root = self.promises.root(ticket);
        let task = Task { id: ticket.id, root, order: &ticket.order, begun: process.begun, killed_at };
        self.works.run(&task)
    }

    fn end(&self, process: &Process, (code, message, point): (i32, Option<String>, Option<String>)) {
        let exit = Exit { code, cancelled: false, ended_unix_ms: self.sky.clock(), message, point };
        process.folder.set_exit(&exit).expect("notes its end");
    }

    /// From now to the next moment at which something may be to be done.
    pub fn step_ms(&mut self) -> u64 {
        let is_busy = self.keeper.is_some() && !self.jobs(Which::In(State::Queued)).is_empty();
        let runs = !self.processes.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        if is_busy || runs { BUSY_STEP } else { IDLE_STEP - self.sky.true_ms() % IDLE_STEP }
    }

    fn jobs(&mut self, which: Which) -> Vec<Job> {
        self.ask(|reply| Ask::List(which, reply))
    }

    /// One moment of it.
    pub fn step(&mut self) {
        if !self.is_up {
            return;
        }
        while let Some(process) = self.pop_process(self.sky.true_ms()) {
            let done = if process.hangs { (i32::from(FAILED), Some("the store hung".into()), None) } else { self.work(&process, None) };
            let order = &process.ticket.order;
            self.sky.note(format_args!("job {} ({} {} {}) ends: {done:?}", process.ticket.id, order.kind.word(), order.domain, order.store));
            self.end(&process, done.clone());
            // The bitmaps of a domain name its latest point.
            let of_it = self.seen.iter_mut().find(|s| order.kind == Kind::Backup && Some(&s.uuid) == order.uuid.as_ref());
            of_it.zip(done.2).map(|(seen, id)| seen.points.insert(order.store.clone(), id));
        }
        if self.keeper.is_some() {
            self.keeper.as_mut().expect("a daemon").round().expect("a round");
            self.turn();
            let running = self.jobs(Which::In(State::Running));
            self.promises.limits_hold(&self.config, &running);
        }
        let now = self.sky.true_ms();
        if now >= self.looked + self.look_every {
            self.looked = now;
            super::look::look(&self.config, &self.works, &mut self.seen, &self.promises);
        }
    }

    /// As `daemon::schedule::turn`, which asks the same of the same, as a task that waits for its answers.
    fn turn(&mut self) {
        let (config, seen, now, state_dir) = (self.config.clone(), self.seen.clone(), self.sky.clock(), self.state_dir.clone());
        let slots = self.ask(Ask::Slots);
        let ordering = Ordering { config: &config, state_dir: &state_dir, connect: None };
        let (runs, notes) = schedule::due(&config, &seen, &slots, now);
        if !notes.is_empty() {
            self.order(Vec::new(), notes);
        }
        for batch in runs.chunks(BATCH) {
            let orders = batch.iter().flat_map(|run| ordering.of_schedule(run)).collect();
            batch.iter().for_each(|run| self.ran(run));
            self.order(orders, batch.iter().flat_map(|run| run.slots.clone()).collect());
        }
        let activity = self.ask(Ask::Activity);
        for (orders, slot) in upkeep::due(&ordering, &upkeep::Facts { seen: &seen, slots: &slots, activity: &activity, now }) {
            orders.iter().for_each(|order| self.promises.upkeep_ordered(order, &slot.0, &self.works));
            self.order(orders, vec![slot]);
        }
    }

    fn ran(&mut self, run: &Run<'_>) {
        self.sky.note(format_args!("{}: {}", run.seen.subject.name, run.why));
        for (key, slot) in &run.slots {
            self.promises.ran(key, slot.ran.expect("a run has an instant"));
        }
    }

    fn order(&mut self, orders: Vec<Order>, slots: Vec<(String, Slot)>) {
        for order in &orders {
            self.sky.note(format_args!("ordered: {} of {} in {} ({})", order.kind.word(), order.domain, order.store, order.why));
        }
        self.ask(|reply| Ask::Add(orders, slots, reply));
    }

    /// Nothing runs or waits.
    pub fn is_idle(&mut self) -> bool {
        self.keeper.is_some() && self.jobs(Which::In(State::Queued)).is_empty() && self.jobs(Which::In(State::Running)).is_empty()
    }
}

/// A process comes up: it has its lock from its first moment, as far as the keeper can see, and says that it began.
fn start(sky: &Sky, processes: &Processes, dir: &Path, ticket: &Ticket, _way: Way) -> Outcome<Started> {
    let folder = JobFolder::of(dir, ticket.id);
    folder.create(ticket).map_err(|e| crate::run::folder::failed("prepare", folder.path(), &e))?;
    let Some(lock) = folder.try_lock()? else { return Ok(Started::RunsAlready) };
    assert!(folder.claim_start()?, "job {} is started twice", ticket.id);
    let begun = (sky.true_ms(), sky.clock());
    folder.set_begun(&Begun { pid: 1, started_unix_ms: begun.1 })?;
    let (lasts, hangs) = {
        let mut state = sky.state();
        let is_backup = ticket.order.kind == Kind::Backup;
        let hangs = is_backup && std::mem::take(&mut state.hang_next);
        (if hangs { HANG_MS } else { state.rng.between(MINUTE, if is_backup { 12 * MINUTE } else { 4 * MINUTE }) }, hangs)
    };
    assert!(ticket.order.may_begin(begun.1), "job {} begins outside of its windows", ticket.id);
    sky.note(format_args!("job {} ({} {} {}) begins", ticket.id, ticket.order.kind.word(), ticket.order.domain, ticket.order.store));
    let process = Process { folder, ticket: ticket.clone(), _lock: lock, begun, ends: begun.0 + lasts, hangs };
    processes.lock().unwrap_or_else(PoisonError::into_inner).push(process);
    // The keeper waits for no child.
    Ok(Started::RunsAlready)
}
