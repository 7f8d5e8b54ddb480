//! Making a lab's namespace from the outside and running one command in it.
//!
//! The child is pid 1 of a new process namespace with a private copy of the mounts. It asks the kernel to be
//! killed with the thread that made it, and the kernel kills everything in a namespace whose pid 1 ends: no
//! way of dying leaves a libvirtd, a QEMU or a mount behind. The folder is removed here, or by the next lab.
//!
//! Must not change the calling process: the namespace is made by a thread of its own, since the kernel
//! keeps "namespace of my children" per thread.

use crate::error::{Error, Result};
use crate::folder::Folder;
use crate::init::Order;
use crate::options::Options;
use crate::process::exit_code;
use crate::roles;
use crate::signals::{Received, Signals};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What the command gets after a SIGTERM before everything is killed.
const GRACE: Duration = Duration::from_secs(10);
/// Longer than any command runs.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 86_400);
const TICK: Duration = Duration::from_millis(500);

/// What to run in a lab, and by whom.
#[derive(Debug)]
pub struct Entry {
    /// A program of ours that calls [`roles::dispatch`] first: `xtask` or `cairn-lab`.
    pub init: PathBuf,
    /// How the lab shall be.
    pub options: Options,
    /// Program and arguments; at least the program.
    pub command: Vec<String>,
    /// More environment for the command.
    pub env: Vec<(String, String)>,
    /// Whether Ctrl-C and the like are handled here (the caller has no threads that care for signals).
    pub signals: bool,
    /// File for the output of everything in the lab; inherited where there is none.
    pub output: Option<PathBuf>,
    /// The whole lab is killed after this time.
    pub limit: Option<Duration>,
}

/// Makes a lab, runs the command in it, removes the lab. Gives the command's exit code
/// (128 + signal when it was killed).
///
/// # Errors
/// Not root, the namespace cannot be made, or the limit was reached. A lab that does not come up is
/// reported by its init on stderr and gives [`crate::init::CODE_NOT_UP`].
pub fn enter(entry: Entry) -> Result<i32> {
    entry.options.check()?;
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::Missing { what: "root".into(), remedy: "a lab needs mount and process namespaces; run this as root".into() });
    }
    let signals = if entry.signals { Some(Signals::block()?) } else { None };
    let thread =
        std::thread::Builder::new().name("lab".into()).spawn(move || enter_here(&entry, signals.as_ref())).map_err(Error::io("start", "the lab's thread"))?;
    thread.join().unwrap_or_else(|_| Err(Error::answer("lab", "its thread panicked")))
}

fn enter_here(entry: &Entry, signals: Option<&Signals>) -> Result<i32> {
    let folder = Folder::create(&entry.options.base)?;
    let order = Order { folder: folder.path().to_owned(), options: entry.options.clone(), command: entry.command.clone(), env: entry.env.clone() };
    let mut child = spawn(&entry.init, &order, entry.output.as_deref())?;
    let result = supervise(&mut child, folder.path(), signals, entry.limit);
    if result.is_err() {
        // Killing pid 1 kills the namespace; both calls fail only if it is gone already.
        let _ = child.kill();
        let _ = child.wait();
    }
    result
}

fn spawn(init: &Path, order: &Order, output: Option<&Path>) -> Result<Child> {
    // Only children of this thread made from here on are in the new namespace, and there is one.
    unshare(CloneFlags::CLONE_NEWPID).map_err(|e| Error::io("make a process namespace for", init)(e.into()))?;
    let mut command = Command::new(init);
    command.arg(roles::INIT).arg(order.to_json());
    if let Some(path) = output {
        let file = std::fs::File::create(path).map_err(Error::io("create", path))?;
        let again = file.try_clone().map_err(Error::io("open again", path))?;
        command.stdin(Stdio::null()).stdout(file).stderr(again);
    }
    // SAFETY: both calls are single system calls, allowed between fork and exec; nothing is allocated.
    unsafe {
        command.pre_exec(|| {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            unshare(CloneFlags::CLONE_NEWNS)?;
            Ok(())
        });
    }
    command.spawn().map_err(Error::io("start", init))
}

fn supervise(child: &mut Child, folder: &Path, signals: Option<&Signals>, limit: Option<Duration>) -> Result<i32> {
    let start = Instant::now();
    let mut ending: Option<Ending> = None;
    loop {
        if let Some(status) = child.try_wait().map_err(Error::io("wait for", folder))? {
            return Ok(ending.map_or(exit_code(status), |ending| ending.code(status)));
        }
        if let Some(limit) = limit.filter(|limit| start.elapsed() > *limit) {
            return Err(Error::Timeout { what: "the command in the lab".into(), limit, hint: "; the lab was killed".into() });
        }
        if ending.is_some_and(|ending| Instant::now() > ending.kill_at) {
            // Gone already is as good.
            let _ = child.kill();
        }
        match signals {
            None => std::thread::sleep(Duration::from_millis(20)),
            Some(signals) => {
                if let Some(received) = signals.wait(TICK) {
                    ending = answer(child, folder, received, ending);
                }
            }
        }
    }
}

/// A request to end, and when patience ends.
#[derive(Debug, Clone, Copy)]
struct Ending {
    signal: Signal,
    kill_at: Instant,
}

impl Ending {
    /// The command's own code where it had one; "ended by that signal" where we had to kill everything.
    fn code(self, status: ExitStatus) -> i32 {
        if status.signal() == Some(Signal::SIGKILL as i32) { 128 + self.signal as i32 } else { exit_code(status) }
    }
}

/// What a signal does: before the lab is up it ends it; Ctrl-C is the command's own affair the first time;
/// anything sent to this process alone is passed on and starts the period of grace.
fn answer(child: &mut Child, folder: &Path, received: Received, ending: Option<Ending>) -> Option<Ending> {
    let now = Instant::now();
    let up = folder.join("up").exists();
    let patience = match (up, received.from_terminal) {
        (false, _) => Duration::ZERO,
        (true, true) => ending.map_or(Duration::MAX, |_| Duration::ZERO),
        (true, false) => {
            pass_on(child, received.signal);
            GRACE
        }
    };
    let kill_at = now.checked_add(patience).unwrap_or(now + FOREVER);
    let kill_at = ending.map_or(kill_at, |earlier| earlier.kill_at.min(kill_at));
    Some(Ending { signal: received.signal, kill_at })
}

fn pass_on(child: &Child, signal: Signal) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // Gone already is as good.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}
