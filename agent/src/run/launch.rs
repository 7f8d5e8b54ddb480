//! Starting a run's supervisor so that it depends on nobody: a transient unit where systemd runs, else a process in a session of its own.

use super::{
    folder::{RunFolder, RunLock},
    log,
    processes::SERVE,
    record::Record,
};
use crate::failure::{FAILED, Failure, Outcome};
use std::{
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
};

/// Tells the supervisor that its standard input is the lock.
pub const LOCKED: &str = "--locked";
/// Exists where systemd is init (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";

/// Starts a supervisor unless one lives.
pub fn ensure_supervisor(folder: &RunFolder, record: &Record) -> Outcome<()> {
    match folder.try_lock()? {
        Some(lock) => supervisor(folder, record, lock).map(drop),
        None => Ok(()),
    }
}

/// Starts a supervisor that takes the lock over. The child is there to be waited for by those who live on.
pub fn supervisor(folder: &RunFolder, record: &Record, lock: RunLock) -> Outcome<Option<Child>> {
    if Path::new(SYSTEMD).is_dir() && nix::unistd::geteuid().is_root() {
        // A unit cannot inherit the lock: it takes it by itself, and whoever was faster has it.
        drop(lock);
        if unit(folder, record) {
            return Ok(None);
        }
        let Some(lock) = folder.try_lock()? else { return Ok(None) };
        return forked(folder, record, lock).map(Some);
    }
    forked(folder, record, lock).map(Some)
}

/// `KillMode=process`: what it started outlives it, and the next one finds it.
fn unit(folder: &RunFolder, record: &Record) -> bool {
    // Started again by systemd when this process is gone.
    let Some(program) = crate::own::file() else { return false };
    let log = format!("append:{}", folder.log().display());
    let mut command = Command::new("systemd-run");
    command.args(["--quiet", "--collect", &format!("--unit=cairn-run-{}", record.id), &format!("--description=Run of {}", record.name)]);
    // One whose run is gone has nothing to come back for.
    for property in
        ["Restart=on-failure", "RestartPreventExitStatus=15", "RestartSec=200ms", "StartLimitIntervalSec=0", "KillMode=process", "OOMScoreAdjust=-900"]
    {
        command.arg(format!("--property={property}"));
    }
    command.args([format!("--property=StandardOutput={log}"), format!("--property=StandardError={log}")]);
    command.arg(program).args(arguments(folder, record)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn forked(folder: &RunFolder, record: &Record, lock: RunLock) -> Outcome<Child> {
    let mut command = own_program(folder)?;
    command.args(arguments(folder, record)).arg(LOCKED).stdin(Stdio::from(lock));
    command.spawn().map_err(|e| Failure::new(FAILED, format!("cannot start the supervisor of run '{}': {e}", record.name)))
}

/// Arguments of all processes of a run.
pub fn arguments(folder: &RunFolder, record: &Record) -> [String; 7] {
    let state = record.state_dir.display().to_string();
    [SERVE.into(), "--id".into(), record.id.clone(), "--name".into(), folder.name().into(), "--state-dir".into(), state]
}

/// This very program, detached: own session, no terminal, the run's log as its output.
pub fn own_program(folder: &RunFolder) -> Outcome<Command> {
    let log = log::open(folder)?;
    let again = log.try_clone().map_err(|e| Failure::new(FAILED, format!("the run's log: {e}")))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("cairn").current_dir("/").stdin(Stdio::null()).stdout(log).stderr(again);
    detach(&mut command);
    Ok(command)
}

/// Has the program start in a session of its own: no Ctrl-C, no hang-up.
pub fn detach(command: &mut Command) {
    let session = || {
        nix::unistd::setsid()?;
        Ok(())
    };
    // SAFETY: between fork and exec only setsid is called: a plain system call without locks or memory.
    unsafe { command.pre_exec(session) };
}
