//! A simulated world for tests: one storage, hosts and processes, clocks, and everything that can go wrong, all drawn from one seed.
//!
//! The storage is worked at the level of [`super::LocalPlatform`]'s system calls and in its order, so that a fault or another process can
//! come in at each of them. docs/simulation.md tells what is simulated, how a seed is replayed and what this does not cover.
//!
//! Invariants:
//! - The same seed and the same calls give the same order of operations: [`World::trace_hash`] tells.
//! - A process that ended never has an effect again, but for a request that was on its way ([`Fault::CrashInFlight`]).
//!
//! Must not: use the real clock, the real file system or the system's randomness for anything that has an effect inside the world.

mod disk;
mod fault;
mod process;
mod rng;
mod schedule;

pub use disk::Survival;
pub use fault::{Fault, OpKind, Rates};
pub use process::SimulatedPlatform;
pub use rng::Rng;
pub use schedule::ActorBody;

use disk::{Disk, Node};
use schedule::Schedule;
use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// When the world begins, Unix milliseconds.
const BEGIN_UNIX_MS: u64 = 1_795_219_200_000;
/// Last operations kept as text, unless [`World::set_trace_lines`] says otherwise.
const TRACE_LINES: usize = 400;
/// More operations than any suite needs: something goes round in circles.
const OPERATIONS_MAX: u64 = 20_000_000;
/// A request of a process that died takes effect within so many operations.
const IN_FLIGHT_OPERATIONS_MAX: usize = 200;

/// Where the store lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StorageKind {
    /// A file system of one host: changes of names are durable once their folder is synced.
    Local,
    /// A server that many hosts mount and that makes every change of names durable before it answers. Its own power loss takes nothing.
    Nfs,
}

/// The payload of the panic by which a simulated process ends.
struct ProcessEnded;

/// Runs a process's work; `None` where the process ended in it by a simulated crash. Any other panic goes on.
pub fn survive<T>(work: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(v) => Some(v),
        Err(payload) if is_crash(&*payload) => None,
        Err(payload) => resume_unwind(payload),
    }
}

fn is_crash(payload: &(dyn Any + Send)) -> bool {
    payload.is::<ProcessEnded>()
}

fn end_this_process() -> ! {
    // Not `panic!`: this is no failure, so no message is printed.
    resume_unwind(Box::new(ProcessEnded))
}

#[derive(Clone)]
struct Host {
    skew_ms: i64,
    boot: u32,
    booted_at_ms: u64,
}

struct Process {
    host: usize,
    boot: u32,
    ended: bool,
    /// Operations so far.
    operations: u64,
    faults: BTreeMap<u64, Fault>,
    /// Faults that came up, placed or drawn.
    faults_met: u64,
    rng: Rng,
}

struct InFlight {
    due_operation: u64,
    name: String,
    node: Node,
}

/// One operation, for those who place faults.
#[derive(Clone, Debug)]
pub struct Operation {
    /// What it did.
    pub kind: OpKind,
    /// The file or folder.
    pub name: String,
}

struct State {
    rng: Rng,
    disk: Disk,
    hosts: Vec<Host>,
    processes: Vec<Process>,
    /// Simulated time since the world began.
    now_ms: u64,
    operations: u64,
    schedule: Schedule,
    rates: Rates,
    /// Creates that have not returned yet and that nobody has seen, by process: a listing may or may not show them.
    unanswered: BTreeMap<String, usize>,
    in_flight: Vec<InFlight>,
    /// Names that a host asked for in vain: an NFS client may go on saying so until it lists or changes the folder.
    missed: BTreeSet<(usize, String)>,
    trace_hash: u64,
    trace: VecDeque<String>,
    trace_lines_max: usize,
    /// Operations of the process that is recorded.
    recording: Option<(usize, Vec<Operation>)>,
}

/// The world. Hosts and processes are made in it; each process is a [`SimulatedPlatform`].
pub struct World {
    kind: StorageKind,
    state: Mutex<State>,
    turn_changed: Condvar,
}

/// A storage as it was, to go back to.
#[derive(Clone)]
pub struct Snapshot {
    disk: Disk,
    now_ms: u64,
}

impl World {
    /// An empty storage and no hosts.
    pub fn new(kind: StorageKind, seed: u64) -> Arc<Self> {
        Self::from_parts(kind, seed, Disk::new(kind == StorageKind::Nfs), 0)
    }

    /// A world of its own with the storage of a snapshot, all of which is durable where names are so at once.
    pub fn from_snapshot(kind: StorageKind, seed: u64, snapshot: &Snapshot) -> Arc<Self> {
        Self::from_parts(kind, seed, snapshot.disk.clone_for(kind == StorageKind::Nfs), snapshot.now_ms)
    }

    fn from_parts(kind: StorageKind, seed: u64, disk: Disk, now_ms: u64) -> Arc<Self> {
        let state = State {
            rng: Rng::new(seed),
            disk,
            hosts: Vec::new(),
            processes: Vec::new(),
            now_ms,
            operations: 0,
            schedule: Schedule::default(),
            rates: Rates::default(),
            unanswered: BTreeMap::new(),
            in_flight: Vec::new(),
            missed: BTreeSet::new(),
            trace_hash: seed,
            trace: VecDeque::new(),
            trace_lines_max: TRACE_LINES,
            recording: None,
        };
        Arc::new(Self { kind, state: Mutex::new(state), turn_changed: Condvar::new() })
    }

    /// A panic elsewhere is reported there; what this lock guards is changed in single steps.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A host whose clock is off by so much; returns its number.
    pub fn host(&self, skew_ms: i64) -> usize {
        let mut s = self.lock();
        let booted_at_ms = s.now_ms;
        s.hosts.push(Host { skew_ms, boot: 1, booted_at_ms });
        s.hosts.len() - 1
    }

    /// A process that starts on a host.
    pub fn process(self: &Arc<Self>, host: usize) -> Arc<SimulatedPlatform> {
        let mut s = self.lock();
        let number = s.processes.len();
        let (boot, seed) = (s.hosts[host].boot, s.rng.next_u64());
        s.processes.push(Process { host, boot, ended: false, operations: 0, faults: BTreeMap::new(), faults_met: 0, rng: Rng::new(seed) });
        Arc::new(SimulatedPlatform::new(self.clone(), number))
    }

    /// A fault at a process's operation number `at`, counted from now and from 0.
    pub fn place(&self, process: &SimulatedPlatform, at: u64, fault: Fault) {
        let mut s = self.lock();
        let p = &mut s.processes[process.number()];
        p.faults.insert(p.operations + at, fault);
    }

    /// Whether a fault that was placed has not come up yet.
    pub fn has_unused_faults(&self, process: &SimulatedPlatform) -> bool {
        !self.lock().processes[process.number()].faults.is_empty()
    }

    /// Faults that came up in a process so far.
    pub fn faults_met(&self, process: &SimulatedPlatform) -> u64 {
        self.lock().processes[process.number()].faults_met
    }

    /// Faults by the seed from now on.
    pub fn set_rates(&self, rates: Rates) {
        self.lock().rates = rates;
    }

    /// Bytes that may still be written; `None` for no limit.
    pub fn set_free_bytes(&self, free_bytes: Option<u64>) {
        self.lock().disk.free_bytes = free_bytes;
    }

    /// Keeps a list of the operations of a process from now on.
    pub fn record(&self, process: &SimulatedPlatform) {
        self.lock().recording = Some((process.number(), Vec::new()));
    }

    /// Ends [`World::record`]; returns the operations.
    pub fn recorded(&self) -> Vec<Operation> {
        self.lock().recording.take().map(|r| r.1).unwrap_or_default()
    }

    /// A host loses power: its processes end, its clock since boot begins anew; a local storage loses what was not durable.
    pub fn power_loss(&self, host: usize, survival: Survival) {
        self.lock().power_loss(self.kind, host, survival);
    }

    /// Time goes by.
    pub fn advance_ms(&self, ms: u64) {
        self.lock().now_ms += ms;
    }

    /// The storage as it is now. Processes and what is on its way do not go along.
    pub fn snapshot(&self) -> Snapshot {
        let s = self.lock();
        Snapshot { disk: s.disk.clone(), now_ms: s.now_ms }
    }

    /// Names of all objects, sorted.
    pub fn names(&self) -> Vec<String> {
        self.lock().disk.names()
    }

    /// A number that is the same where all operations and their outcomes were the same in the same order.
    pub fn trace_hash(&self) -> u64 {
        self.lock().trace_hash
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// How many of the last operations are kept as text.
    pub fn set_trace_lines(&self, lines_max: usize) {
        self.lock().trace_lines_max = lines_max;
    }

    /// The last operations, one a line.
    pub fn trace(&self) -> String {
        self.lock().trace.iter().fold(String::new(), |mut all, line| {
            all.push_str(line);
            all.push('\n');
            all
        })
    }
}

impl State {
    fn note(&mut self, line: String) {
        self.trace_hash = xxh3_64_with_seed(line.as_bytes(), self.trace_hash);
        if self.trace.len() >= self.trace_lines_max {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    fn end(&mut self, process: usize) {
        self.processes[process].ended = true;
        self.unanswered.retain(|_, owner| *owner != process);
    }

    fn power_loss(&mut self, kind: StorageKind, host: usize, survival: Survival) {
        self.note(format!("power loss of host {host}, {survival:?}"));
        self.missed.retain(|m| m.0 != host);
        for p in 0..self.processes.len() {
            if self.processes[p].host == host {
                self.end(p);
            }
        }
        let now_ms = self.now_ms;
        let h = &mut self.hosts[host];
        (h.boot, h.booted_at_ms) = (h.boot + 1, now_ms);
        if kind == StorageKind::Local {
            self.disk.power_loss(survival, &mut self.rng);
            self.in_flight.clear();
        }
    }

    /// Whether this host's cache of what is not there answers instead of the server.
    fn misses(&mut self, host: usize, name: &str) -> bool {
        let asked_before = self.missed.contains(&(host, name.to_owned()));
        asked_before && self.rng.chance_ppm(500_000)
    }

    /// A host listed or changed a folder: its cache of it is gone.
    fn looked_afresh(&mut self, host: usize, dir: &str) {
        self.missed.retain(|(h, name)| *h != host || disk::parent(name) != dir);
    }

    /// Requests of dead processes that reach the server now.
    fn deliver(&mut self) {
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.in_flight).into_iter().partition(|f| f.due_operation <= self.operations);
        self.in_flight = later;
        for f in due {
            let outcome = self.disk.put_new(&f.name, f.node, self.now_ms).is_ok();
            self.note(format!("late link {} {outcome}", f.name));
        }
    }
}
