//! The supervisor of a run: keeps server and storage daemon alive, and ends the run when it is kept or thrown away.
//!
//! Two threads, because libvirt may hang and the guest's reads must not: this one watches processes and asks libvirt nothing; [`super::guest`]
//! does the rest.
//!
//! Invariants
//! - It lives only with the run's lock.
//! - Living processes are adopted, dead ones started again: the server first, the storage daemon only beside a living server.
//! - After each such start the guest is let go on at once where a failed read has paused it ([`super::stopped`]).

use super::{
    daemon, finish,
    folder::{RunFolder, RunLock, RunSockets},
    guest, launch, log,
    processes::{self, Process, Role},
    pulse::Pulse,
    record::{Record, Via, Wish},
    status::Status,
    teardown,
};
use crate::failure::{FAILED, Failure, NOT_FOUND, Outcome};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    os::fd::AsFd,
    path::Path,
    process::Child,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// Between two looks at what is wanted.
const TICK: Duration = Duration::from_millis(150);
/// Between the starts of a process that does not come up.
const BACKOFF_MS_MIN: u64 = 100;
const BACKOFF_MS_MAX: u64 = 5000;
/// How long a step of a keep is waited for when the run is taken away.
const STEP_LIMIT: Duration = Duration::from_secs(5);
/// How long a lock that is being handed over is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// What both threads know.
#[derive(Debug, Default)]
pub struct Shared {
    /// The domain is an ordinary one: end the run.
    pub kept: AtomicBool,
    /// The run ends.
    pub over: AtomicBool,
    /// A process was started: what failed may work now.
    pub started: AtomicBool,
    status: Mutex<Status>,
}

impl Shared {
    /// What is told of the run.
    pub fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Supervises until the run is over.
pub fn run(folder: &RunFolder, locked: bool) -> Outcome<()> {
    let Some(_lock) = take_lock(folder, locked)? else { return Ok(()) };
    let record = folder.record()?;
    let sockets = RunSockets::of(&record.id);
    sockets.create(record.owner)?;
    let shared = Arc::new(Shared::default());
    log::say(format!("supervisor {} of run '{}'", std::process::id(), record.name));
    let (watched, of) = (shared.clone(), folder.clone());
    let guest = std::thread::spawn(move || guest::watch(&of, &watched));
    let mut keeper = Keeper::new(folder, &record, &sockets, shared);
    let begin = Instant::now();
    loop {
        if let Some(proof) = record.proof.filter(|proof| begin.elapsed().as_secs() > proof.limit_s || !folder.has_owner())
            && folder.exists()
            && !matches!(folder.wish(), Ok(Some(Wish::Discard)))
        {
            log::say(format!("nobody waits for this boot proof any more, or not within {} s: it goes", proof.limit_s));
            folder.set_wish(&Wish::Discard)?;
        }
        if matches!(folder.wish(), Ok(Some(Wish::Discard))) {
            keeper.shared.over.store(true, Ordering::SeqCst);
            wait_ended(&guest);
            // A keep may have changed it since, and what it made is to go as well.
            let now = folder.record().unwrap_or_else(|_| record.clone());
            match teardown::all(folder, &now) {
                Ok(()) => return Ok(()),
                Err(f) => {
                    log::say(format!("discard: {}", f.message));
                    keeper.shared.status().problem = Some(f.message);
                    keeper.tell();
                    std::thread::sleep(Duration::from_secs(1));
                    continue;
                }
            }
        }
        if keeper.shared.kept.load(Ordering::SeqCst) {
            keeper.shared.over.store(true, Ordering::SeqCst);
            log::say("kept: an ordinary domain from now on");
            return finish::end(folder, &folder.record()?);
        }
        if !folder.exists() {
            return Ok(());
        }
        if guest.is_finished() {
            // A panic in a library must not leave a supervisor that sees half of it: the server starts another one.
            return Err(Failure::new(FAILED, "the thread that watches the domain has ended"));
        }
        keeper.look();
        log::rotate(folder);
        keeper.wait();
    }
}

/// A step of a keep that is under way ends first; one that hangs in libvirt is not waited for.
fn wait_ended(guest: &std::thread::JoinHandle<()>) {
    let until = Instant::now() + STEP_LIMIT;
    while !guest.is_finished() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The lock that was handed over, or our own; `None` if another supervisor lives.
fn take_lock(folder: &RunFolder, locked: bool) -> Outcome<Option<RunLock>> {
    if locked {
        let fd = std::io::stdin().as_fd().try_clone_to_owned().map_err(|e| Failure::new(FAILED, format!("the run's lock: {e}")))?;
        return Ok(Some(fd.into()));
    }
    let until = Instant::now() + LOCK_WAIT;
    loop {
        match folder.try_lock() {
            Ok(Some(lock)) => return Ok(Some(lock)),
            Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            Ok(None) => return Ok(None),
            Err(f) if f.code == NOT_FOUND => return Ok(None),
            Err(f) => return Err(f),
        }
    }
}

/// A process that has to live.
struct Kept {
    role: Role,
    process: Option<Process>,
    child: Option<Child>,
    /// It has answered.
    up: bool,
    not_before: Instant,
    backoff_ms: u64,
}

impl Kept {
    fn new(role: Role) -> Self {
        Self { role, process: None, child: None, up: false, not_before: Instant::now(), backoff_ms: BACKOFF_MS_MIN }
    }

    /// Lives; an ended child is reaped, one of an earlier supervisor adopted.
    fn lives(&mut self, record: &Record) -> bool {
        // Its end is seen by its descriptor; this only lets the kernel forget it.
        if self.child.as_mut().is_some_and(|c| c.try_wait().is_ok_and(|s| s.is_some())) {
            self.child = None;
        }
        if self.process.as_ref().is_some_and(|p| !p.has_ended()) {
            return true;
        }
        self.up = false;
        self.process = processes::of_role(&record.id, record.owner, self.role);
        self.process.is_some()
    }

    /// One look: whether it answers, and whether it was started just now.
    fn look(&mut self, record: &Record, socket: &Path, start: impl FnOnce() -> Outcome<Child>) -> Outcome<bool> {
        if self.lives(record) {
            if !self.up && daemon::answers(socket) {
                daemon::check_rights(socket)?;
                self.up = true;
                self.backoff_ms = BACKOFF_MS_MIN;
            }
            return Ok(false);
        }
        if Instant::now() < self.not_before {
            return Ok(false);
        }
        self.not_before = Instant::now() + Duration::from_millis(self.backoff_ms);
        self.backoff_ms = (self.backoff_ms * 2).min(BACKOFF_MS_MAX);
        self.child = Some(start()?);
        self.process = processes::of_role(&record.id, record.owner, self.role);
        Ok(true)
    }
}

struct Keeper<'a> {
    folder: &'a RunFolder,
    record: &'a Record,
    sockets: &'a RunSockets,
    shared: Arc<Shared>,
    server: Kept,
    daemon: Kept,
    starts: u64,
    pulse: Pulse,
    told: Status,
}

impl<'a> Keeper<'a> {
    fn new(folder: &'a RunFolder, record: &'a Record, sockets: &'a RunSockets, shared: Arc<Shared>) -> Self {
        Self {
            folder,
            record,
            sockets,
            shared,
            server: Kept::new(Role::Server),
            daemon: Kept::new(Role::Daemon),
            starts: 0,
            pulse: Pulse::default(),
            told: Status::default(),
        }
    }

    fn look(&mut self) {
        let problem = match self.processes() {
            Ok(()) if self.served() => None,
            Ok(()) if self.starts > 4 => log::last_line(self.folder).map(|line| format!("the point is not served: {line}")),
            Ok(()) => self.shared.status().problem.clone(),
            Err(f) => {
                log::say(&f.message);
                Some(f.message)
            }
        };
        let served = self.served();
        let hangs = if served { self.pulse.look(self.sockets, self.record.via == Via::Daemon) } else { None };
        if let Some(hangs) = hangs.as_ref().filter(|_| self.told.hangs.is_none()) {
            log::say(hangs);
        }
        {
            let mut status = self.shared.status();
            status.hangs = hangs;
            if !served {
                status.problem = problem;
            }
            status.served = served;
            status.restarts = self.starts;
        }
        self.tell();
    }

    fn served(&self) -> bool {
        self.server.up && (self.record.via == Via::Direct || self.daemon.up)
    }

    /// S1: the server · S2: the storage daemon, once the server answers.
    fn processes(&mut self) -> Outcome<()> {
        let (folder, record, sockets) = (self.folder, self.record, self.sockets);
        let started = self.server.look(record, &sockets.server(), || {
            let mut command = launch::own_program(folder)?;
            command.args(launch::arguments(folder, record)).arg(processes::ROLE_SERVER);
            command.spawn().map_err(|e| Failure::new(FAILED, format!("cannot start the server: {e}")))
        })?;
        self.note(started, "server");
        if self.record.via == Via::Daemon && self.server.up {
            let started = self.daemon.look(record, &sockets.daemon(), || daemon::start(record, sockets, &log::open(folder)?))?;
            self.note(started, "storage daemon");
        }
        Ok(())
    }

    fn note(&mut self, started: bool, what: &str) {
        if started {
            self.starts += 1;
            log::say(format!("started the {what}"));
            self.shared.started.store(true, Ordering::SeqCst);
        }
    }

    fn tell(&mut self) {
        let now = self.shared.status().clone();
        if now != self.told {
            now.write(self.sockets);
            self.told = now;
        }
    }

    /// Until the next look, or until a process ends.
    fn wait(&self) {
        let starting = (self.server.process.is_some() && !self.server.up) || (self.daemon.process.is_some() && !self.daemon.up);
        let limit = if starting { Duration::from_millis(10) } else { TICK };
        let timeout = Timespec { tv_sec: 0, tv_nsec: limit.subsec_nanos().into() };
        let living = [&self.server, &self.daemon].into_iter().filter_map(|k| k.process.as_ref());
        let mut fds: Vec<PollFd<'_>> = living.map(|p| PollFd::new(p.fd(), PollFlags::IN)).collect();
        // A failed wait is a short one.
        if poll(&mut fds, Some(&timeout)).is_ok_and(|n| n > 0) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
