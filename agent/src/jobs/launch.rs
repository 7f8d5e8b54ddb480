//! Starting the runner of a job so that it depends on nobody: in a scope of its own where systemd runs, else in a session of its own.

use super::{
    folder::JobFolder,
    record::{JobId, Ticket},
    room,
};
use crate::{
    failure::{FAILED, Failure, Outcome},
    own,
    run::{folder::failed, launch::detach},
};
use std::{
    fs::File,
    io::ErrorKind,
    path::Path,
    process::{Child, Command, Stdio},
};

/// The hidden command.
pub const RUNNER: &str = "job-runner";
/// Exists where systemd is init (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";
/// All jobs' weight is bounded together.
const SLICE: &str = "--slice=cairn.slice";
/// What is the daemon's own: a job that found them would speak to the daemon's supervisor, or open another store than it was told to.
const NOT_INHERITED: [&str; 11] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "CAIRN_STORE",
    "CAIRN_KEY_FILE",
    "CAIRN_PASSPHRASE_FILE",
    "CAIRN_CONFIG",
    "CAIRN_SOCKET",
];

/// How a runner is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// In a scope of systemd's.
    Scope,
    /// As a plain process.
    Plain,
}

impl Way {
    /// The better one that this host has.
    pub fn best() -> Self {
        if Path::new(SYSTEMD).is_dir() && nix::unistd::geteuid().is_root() { Self::Scope } else { Self::Plain }
    }
}

/// What came of a start.
#[derive(Debug)]
pub enum Started {
    /// A runner is on its way, with the lock.
    Yes(Child),
    /// One has the lock already.
    RunsAlready,
    /// Nothing was started: this host has no program `systemd-run`.
    NoSystemdRun,
    /// Nothing was started: there is no room for what it would leave; where.
    NoRoom(String),
}

/// L1: the folder with its order, and place for its end · L2: its lock · L3: the runner, which has the lock from its first moment. A crash after any of them leaves what the next
/// daemon does again or adopts.
pub fn start(jobs_dir: &Path, ticket: &Ticket, way: Way) -> Outcome<Started> {
    let folder = JobFolder::of(jobs_dir, ticket.id);
    if let Err(e) = folder.create(ticket) {
        let failure = failed("prepare", folder.path(), &e);
        return if room::is_full(&e) { Ok(Started::NoRoom(failure.message)) } else { Err(failure) };
    }
    let Some(lock) = folder.try_lock()? else { return Ok(Started::RunsAlready) };
    runner(&folder, ticket.id, lock, way)
}

fn runner(folder: &JobFolder, id: JobId, lock: File, way: Way) -> Outcome<Started> {
    let fail = |e: std::io::Error| Failure::new(FAILED, format!("cannot start job {id}: {e}"));
    let log = folder.open_log()?;
    let mut command = match way {
        Way::Scope => {
            let mut command = Command::new("systemd-run");
            command.args(["--quiet", "--scope", "--collect", SLICE, &format!("--unit=cairn-job-{id}-{}", std::process::id()), "--"]);
            command.arg(own::program());
            command
        }
        Way::Plain => {
            use std::os::unix::process::CommandExt;
            let mut command = Command::new(own::program());
            command.arg0("cairn");
            command
        }
    };
    command.arg(RUNNER).arg("--dir").arg(folder.path()).current_dir("/");
    command.stdin(lock).stdout(Stdio::from(log.try_clone().map_err(fail)?)).stderr(log);
    for name in NOT_INHERITED {
        command.env_remove(name);
    }
    detach(&mut command);
    match command.spawn() {
        Ok(child) => Ok(Started::Yes(child)),
        Err(e) if way == Way::Scope && e.kind() == ErrorKind::NotFound => Ok(Started::NoSystemdRun),
        Err(e) => Err(fail(e)),
    }
}
