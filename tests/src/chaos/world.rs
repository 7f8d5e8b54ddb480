//! What the threads of the suite share: the store, the processes, what is known, what went wrong.

use super::children::{Children, Ended};
use super::image::Image;
use super::rng::Rng;
use super::truth::{Expected, Listed, Truth};
use super::verdict::{Around, Op, judge};
use crate::cairn::{Cairn, DONE};
use crate::error::{Error, Result};
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Writers, each with an image and a name.
pub const WRITERS: usize = 4;
/// State folders: two writers have one each, two share the third, the last is that of those who forget and collect.
pub const STATES: usize = 4;
/// A command that takes longer hangs; stops are short against it.
const LIMIT: Duration = Duration::from_secs(240);
/// After a cache was damaged, commands that began before may still meet the damage for so long.
const SPOILED: Duration = Duration::from_secs(20);
/// Earlier images that a writer may go back to.
const PAST_MAX: usize = 48;

/// See the module.
pub struct World {
    /// The suite's folder.
    pub dir: PathBuf,
    /// What is certain.
    pub truth: Truth,
    /// Who runs.
    pub children: Children,
    /// Held for reading by those who must not be taken for dead, for writing by the collection that takes everybody for dead.
    pub patience: RwLock<()>,
    /// Points that are listed now, by the newest list.
    pub points_seen: AtomicU64,
    cairn: Cairn,
    states: Vec<(PathBuf, RwLock<Option<Instant>>)>,
    past: Mutex<VecDeque<Arc<Image>>>,
    impatient: [AtomicU64; 2],
    tally: Mutex<BTreeMap<(Op, String), u64>>,
    failures: Mutex<Vec<String>>,
    over: AtomicBool,
    quiet: AtomicBool,
    until: Instant,
    next: AtomicU64,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// A world in `dir` with a new store, for so long.
    ///
    /// # Errors
    /// The store cannot be made.
    pub fn new(program: &Path, dir: &Path, length: Duration) -> Result<Self> {
        let cairn = Cairn::at(program, dir.join("store"), dir.join("store.key"));
        cairn.init()?;
        let mut states = Vec::new();
        for name in ["state", "restored", "log", "tmp"] {
            std::fs::create_dir_all(dir.join(name)).map_err(Error::io("create", &dir.join(name)))?;
        }
        states.extend((0..STATES).map(|n| (dir.join("state").join(n.to_string()), RwLock::new(None))));
        Ok(Self {
            dir: dir.to_owned(),
            truth: Truth::default(),
            children: Children::default(),
            patience: RwLock::new(()),
            points_seen: AtomicU64::new(0),
            cairn,
            states,
            past: Mutex::default(),
            impatient: [AtomicU64::new(0), AtomicU64::new(0)],
            tally: Mutex::default(),
            failures: Mutex::default(),
            over: AtomicBool::new(false),
            quiet: AtomicBool::new(false),
            until: Instant::now() + length,
            next: AtomicU64::new(0),
        })
    }

    /// The store's folder.
    #[must_use]
    pub fn store(&self) -> &Path {
        self.cairn.store()
    }

    /// The program with another store.
    #[must_use]
    pub fn other_store(&self, store: &Path) -> Cairn {
        self.cairn.with_store(store)
    }

    /// A number that nobody had before.
    pub fn unique(&self) -> u64 {
        self.next.fetch_add(1, Ordering::SeqCst)
    }

    /// Whether the time is up, or something went wrong.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst) || Instant::now() >= self.until
    }

    /// Sleeps up to so long, not beyond the end.
    pub fn pause(&self, rng: &mut Rng, ms_max: u64) {
        let until = Instant::now() + Duration::from_millis(rng.below(ms_max + 1));
        while Instant::now() < until && !self.is_over() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Something is wrong: the suite ends, and this is what it says.
    pub fn fail(&self, what: impl Into<String>) {
        self.over.store(true, Ordering::SeqCst);
        let what = what.into();
        eprintln!("chaos: FAILED: {what}");
        lock(&self.failures).push(what);
    }

    /// What went wrong so far.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        lock(&self.failures).clone()
    }

    /// Counts an event that is no command.
    pub fn count(&self, op: Op, what: impl Into<String>) {
        *lock(&self.tally).entry((op, what.into())).or_default() += 1;
    }

    /// How often each command ended how.
    #[must_use]
    pub fn tally(&self) -> BTreeMap<(Op, String), u64> {
        lock(&self.tally).clone()
    }

    /// An image that some point holds or held.
    pub fn remember(&self, image: Arc<Image>) {
        let mut past = lock(&self.past);
        if past.len() >= PAST_MAX {
            past.pop_front();
        }
        past.push_back(image);
    }

    /// All images remembered.
    pub fn past(&self) -> Vec<Arc<Image>> {
        lock(&self.past).iter().cloned().collect()
    }

    /// Nobody uses this state folder while `work` spoils it.
    pub fn spoil_state<T>(&self, state: usize, work: impl FnOnce(&Path) -> T) -> T {
        let (path, users) = &self.states[state];
        let mut alone = users.write().unwrap_or_else(PoisonError::into_inner);
        *alone = Some(Instant::now());
        work(path)
    }

    /// From now on nobody kills, forgets behind somebody's back or spoils: every command must do what it was asked for.
    pub fn be_quiet(&self) {
        self.quiet.store(true, Ordering::SeqCst);
    }

    /// Runs a command and judges its end; `None` where it was killed or where its end was wrong. What it is about must be there.
    pub fn run(&self, op: Op, state: usize, args: &[&str]) -> Option<Ended> {
        self.run_about(op, state, args, || false)
    }

    /// The same for a command about something that others may forget: `may_be_gone` is asked once it has ended. In a quiet store nothing is gone.
    pub fn run_about(&self, op: Op, state: usize, args: &[&str], may_be_gone: impl Fn() -> bool) -> Option<Ended> {
        let ended = self.run_once(op, state, args, &may_be_gone)?;
        if !self.quiet.load(Ordering::SeqCst) || ended.output.code() == DONE {
            return Some(ended);
        }
        // A cache that was spoiled a moment before the quiet ends one command; the next one must do.
        let again = self.run_once(op, state, args, &may_be_gone)?;
        if again.output.code() != DONE {
            self.fail(format!("nobody disturbs it, and it is not done: {}", describe(&again)));
            return None;
        }
        Some(again)
    }

    fn run_once(&self, op: Op, state: usize, args: &[&str], may_be_gone: &dyn Fn() -> bool) -> Option<Ended> {
        let quiet = self.quiet.load(Ordering::SeqCst);
        let (folder, users) = &self.states[state];
        let user = users.read().unwrap_or_else(PoisonError::into_inner);
        let spoiled = user.is_some_and(|at| at.elapsed() < SPOILED);
        let mut command = self.cairn.command(args);
        command.arg("--json").arg("--state-dir").arg(folder).env("TMPDIR", self.dir.join("tmp"));
        let log = self.dir.join("log").join(format!("{:06}", self.unique()));
        let shut_out_before = self.impatient[1].load(Ordering::SeqCst);
        if op == Op::GcImpatient {
            self.impatient[0].fetch_add(1, Ordering::SeqCst);
        }
        let ended = self.children.run(&mut command, &log, LIMIT);
        let shut_out = self.impatient[0].load(Ordering::SeqCst) > shut_out_before;
        if op == Op::GcImpatient {
            self.impatient[1].fetch_add(1, Ordering::SeqCst);
        }
        let ended = match ended {
            Ok(ended) => ended,
            Err(e) => {
                self.fail(e.report());
                return None;
            }
        };
        match judge(op, &ended, Around { shut_out, spoiled, may_be_gone: !quiet && may_be_gone() }) {
            Ok("killed") if quiet => {
                self.fail(format!("it was killed in a quiet store: {}", describe(&ended)));
                None
            }
            Ok(what) => {
                self.count(op, what);
                for ext in ["out", "err"] {
                    // Only failures are worth keeping; one more file does no harm.
                    let _ = std::fs::remove_file(log.with_extension(ext));
                }
                (what != "killed").then_some(ended)
            }
            Err(why) => {
                self.fail(format!("{why}: {}", describe(&ended)));
                None
            }
        }
    }

    /// The points listed now, checked against what is known.
    pub fn list(&self, state: usize) -> Option<Vec<Listed>> {
        let before = self.truth.expect();
        let ended = self.run(Op::List, state, &["list"]).filter(|e| e.output.code() == DONE)?;
        let points = match self.parse(&ended) {
            Ok(Value::Array(points)) => points.iter().map(Listed::parse).collect::<Result<Vec<_>>>(),
            Ok(_) => Err(Error::answer("cairn list", "is no array")),
            Err(e) => Err(e),
        };
        match points {
            Ok(points) => {
                self.points_seen.store(points.len() as u64, Ordering::SeqCst);
                if let Some(wrong) = self.truth.listed(&points, &before) {
                    self.fail(wrong);
                    return None;
                }
                Some(points)
            }
            Err(e) => {
                self.fail(e.report());
                None
            }
        }
    }

    /// A backup said what it committed.
    pub fn committed(&self, ended: &Ended, before: &Expected) {
        match self.parse(ended).and_then(|point| Listed::parse(&point)) {
            Ok(point) => self.truth.committed(&point, before),
            Err(e) => self.fail(e.report()),
        }
    }

    /// A command's JSON.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(&self, ended: &Ended) -> Result<Value> {
        serde_json::from_slice(&ended.output.stdout).map_err(|e| Error::answer(describe(ended), e.to_string()))
    }
}

/// All that a command left, for a failure's message.
#[must_use]
pub fn describe(ended: &Ended) -> String {
    let code = if ended.killed { format!("{} (was to be killed)", ended.output.code()) } else { ended.output.code().to_string() };
    format!(
        "`{}` ended with {code} after {:.1} s\nstdout: {}\nstderr: {}",
        ended.command,
        ended.took.as_secs_f64(),
        ended.output.text(),
        ended.output.err_text()
    )
}
