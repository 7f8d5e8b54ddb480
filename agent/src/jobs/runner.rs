//! `cairn job-runner`: starts the command of a job, waits for it, and writes down how it ended, whether there is a daemon or not.
//!
//! Invariants
//! - It holds the folder's lock (its standard input) from before the command starts until its end is written down.
//! - The command is started at most once, ever, however often a runner is started ([`JobFolder::claim_start`]).
//! - The command does not outlive its runner: it is asked to stop (SIGINT, as by Ctrl-C) when that dies, or nobody could say how it ended.
//! - The command is signalled as a child that was not waited for yet: its number cannot be another's.
//!
//! SIGTERM and SIGINT are the command's to follow: systemd sends them to the whole scope when the host shuts down, and its end is to be written down.

use super::{
    folder::JobFolder,
    record::{Begun, Exit},
};
use crate::{
    commands::now_unix_ms,
    failure::{FAILED, Failure, INTERRUPTED, Outcome, REFUSED, WARNINGS},
    output,
    run::log,
};
use nix::{
    sys::signal::{SigSet, Signal, kill, killpg},
    unistd::Pid,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{PidfdFlags, pidfd_open},
};
use serde_json::Value;
use std::{
    fs::{File, OpenOptions},
    os::{
        fd::AsFd,
        unix::{
            fs::OpenOptionsExt,
            process::{CommandExt, ExitStatusExt},
        },
    },
    process::{Child, Command, ExitStatus},
    time::{Duration, Instant},
};

/// Where the command tells how far it is (see `output::Bar`).
pub const DIR_VARIABLE: &str = "CAIRN_JOB_DIR";
/// Between two looks at what is wanted.
const TICK: Duration = Duration::from_millis(100);
/// After the second signal a command ends at once; what it leaves is its guard's.
const TERM_LIMIT: Duration = Duration::from_secs(10);
/// How long a full disk is waited for with the end in hand.
const WRITE_LIMIT: Duration = Duration::from_secs(300);

/// Runs the job of a folder.
pub fn run(folder: &JobFolder) -> Outcome<()> {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        // Held back for good; the command, which is this program too, lets them through at its start.
        SigSet::from(signal).thread_block().map_err(|e| Failure::new(FAILED, format!("cannot hold signals back: {e}")))?;
    }
    let lock: File = std::io::stdin().as_fd().try_clone_to_owned().map_err(|e| Failure::new(FAILED, format!("the job's lock: {e}")))?.into();
    if !folder.holds_lock(&lock) {
        return Err(Failure::refused(format!("{} is the folder of a job that somebody else runs; only the daemon starts this", folder.path().display())));
    }
    let ticket = folder.ticket()?.ok_or_else(|| Failure::not_found(format!("{} is no folder of a job", folder.path().display())))?;
    // R1: from here on the command is taken for started.
    if !folder.claim_start()? {
        return Err(Failure::new(REFUSED, format!("job {} was started before", ticket.id)));
    }
    let exit = match start(folder, &lock, &ticket.order.argv) {
        Ok(child) => wait(folder, child, Duration::from_millis(ticket.order.cancel_limit_ms))?,
        Err(why) => {
            log::say(&why);
            Exit { code: FAILED.into(), cancelled: false, ended_unix_ms: now_unix_ms(), message: Some(why), point: None }
        }
    };
    // R4: a disk that is full for a while must not cost the end.
    let until = Instant::now() + WRITE_LIMIT;
    loop {
        match folder.set_exit(&exit) {
            Ok(()) => return Ok(()),
            // Somebody removed the folder, and will not bring it back for us.
            Err(f) if Instant::now() > until || !folder.path().is_dir() => return Err(f),
            Err(_) => std::thread::sleep(Duration::from_secs(1)),
        }
    }
}

/// R2: the command, in a group of its own. It has the lock too, as its standard input: a command that cannot be ended when its runner dies still runs, and
/// nothing is started beside it.
fn start(folder: &JobFolder, lock: &File, argv: &[String]) -> Result<Child, String> {
    let fail = |e: std::io::Error| format!("cannot start 'cairn {}': {e}", argv.join(" "));
    // Not cut: it is empty, and has the place that was taken for it.
    let result = OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(folder.result()).map_err(fail)?;
    let said = folder.open_log().map_err(|f| f.message)?;
    log::say(format!("cairn {}", argv.join(" ")));
    let mut command = Command::new("/proc/self/exe");
    command.arg0("cairn").args(argv).env(DIR_VARIABLE, folder.path()).stdin(lock.try_clone().map_err(fail)?).stdout(result).stderr(said).process_group(0);
    let runner = nix::unistd::getpid();
    let follow = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGINT)?;
        // It may have died before that.
        if nix::unistd::getppid() == runner { Ok(()) } else { Err(nix::errno::Errno::ESRCH.into()) }
    };
    // SAFETY: between fork and exec only prctl and getppid are called: plain system calls without locks or memory.
    unsafe { command.pre_exec(follow) };
    let child = command.spawn().map_err(fail)?;
    let begun = Begun { pid: child.id().cast_signed(), started_unix_ms: now_unix_ms() };
    if let Err(f) = folder.set_begun(&begun) {
        // The job goes on: its process is only not shown.
        log::say(f.message);
    }
    Ok(child)
}

/// R3: until it ends; a cancel is carried through.
fn wait(folder: &JobFolder, mut child: Child, cancel_limit: Duration) -> Outcome<Exit> {
    let fail = |e: std::io::Error| Failure::new(FAILED, format!("cannot wait for the job: {e}"));
    let pid = Pid::from_raw(child.id().cast_signed());
    let end = rustix::process::Pid::from_raw(pid.as_raw()).and_then(|p| pidfd_open(p, PidfdFlags::empty()).ok());
    let mut cancel: Option<Cancel> = None;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(fail)? {
            break status;
        }
        if cancel.is_none() && folder.is_cancel_asked() {
            cancel = Some(Cancel::begin(pid));
        }
        if let Some(cancel) = &mut cancel {
            cancel.go_on(pid, cancel_limit);
        }
        log::cut(&folder.log());
        match &end {
            Some(fd) => {
                let timeout = Timespec { tv_sec: 0, tv_nsec: TICK.subsec_nanos().into() };
                // A failed wait is a short one.
                let _ = poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout));
            }
            None => std::thread::sleep(TICK),
        }
    };
    Ok(ended(folder, status, cancel.is_some()))
}

fn ended(folder: &JobFolder, status: ExitStatus, cancelled: bool) -> Exit {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    let message = match status.signal() {
        Some(signal) => Some(format!("ended by signal {signal}")),
        None if code != 0 && code != i32::from(WARNINGS) => folder.last_words(),
        None => None,
    };
    let made = folder.made();
    made.iter().filter_map(|(id, point)| point_line(id, point)).for_each(log::say);
    let word = if cancelled && code == i32::from(INTERRUPTED) { "cancelled" } else { "ended" };
    log::say(format!("{word} with exit code {code}"));
    Exit { code, cancelled, ended_unix_ms: now_unix_ms(), message, point: made.map(|(id, _)| id) }
}

/// What a backup came to, as the command says it to people: its answer went to a file, as JSON.
fn point_line(id: &str, point: &Value) -> Option<String> {
    let bytes = |key: &str| Some(output::bytes(point[key].as_u64()?));
    let name = output::shown(point["name"].as_str()?);
    Some(format!("{name}: point {id}: {} read, {} changed, {} stored", bytes("read")?, bytes("changed")?, bytes("stored")?))
}

/// A cancel on its way: SIGINT, which cleans up · SIGTERM, which ends at once · SIGKILL of the whole group. Guards are in groups of their own, and clean up
/// after each of them.
struct Cancel {
    since: Instant,
    step: u8,
}

impl Cancel {
    fn begin(pid: Pid) -> Self {
        log::say("cancelled: SIGINT");
        // One that has ended already is as good; here and below.
        let _ = kill(pid, Signal::SIGINT);
        Self { since: Instant::now(), step: 1 }
    }

    fn go_on(&mut self, pid: Pid, limit: Duration) {
        if self.step == 1 && self.since.elapsed() > limit {
            log::say(format!("still there after {} s: SIGTERM", limit.as_secs()));
            let _ = kill(pid, Signal::SIGTERM);
            self.step = 2;
        } else if self.step == 2 && self.since.elapsed() > limit + TERM_LIMIT {
            log::say(format!("still there {} s later: SIGKILL", TERM_LIMIT.as_secs()));
            let _ = killpg(pid, Signal::SIGKILL);
            self.step = 3;
        }
    }
}
