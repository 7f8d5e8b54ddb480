//! The processes under test while they run, so that the chaos worker can stop, continue and kill them.
//!
//! Invariants:
//! - a signal goes only to a process that has not been waited for: its number cannot be another's;
//! - whoever started a process gets its end, however it came; a stopped one is continued at the end of the suite at the latest.

use crate::error::{Error, Result};
use crate::process::{Output, command_line};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const POLL_MS: u64 = 4;

/// All that run now.
#[derive(Debug, Default)]
pub struct Children(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    running: BTreeMap<u64, Running>,
    next: u64,
}

#[derive(Debug)]
struct Running {
    child: Child,
    killed: bool,
    /// Stopped until then.
    stopped: Option<Instant>,
}

/// What the chaos worker did to somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// SIGKILL.
    Kill,
    /// SIGSTOP for so long.
    Stop(Duration),
}

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    /// What it was.
    pub command: String,
    /// Status and output.
    pub output: Output,
    /// Whether it was killed by the chaos worker. (One that ended at the same moment has its own status.)
    pub killed: bool,
    /// How long it ran, stops included.
    pub took: Duration,
}

impl Children {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `command` to its end; `log` names two files for its output, which stay only where they matter to the caller.
    ///
    /// # Errors
    /// Not startable, or it hangs: then it was killed.
    pub fn run(&self, command: &mut Command, log: &Path, limit: Duration) -> Result<Ended> {
        let name = command_line(command);
        let (out, err) = (log.with_extension("out"), log.with_extension("err"));
        let create = |path: &Path| File::create(path).map_err(Error::io("create", path));
        // Files and not pipes: a stopped process keeps no reader of ours waiting.
        command.stdin(Stdio::null()).stdout(create(&out)?).stderr(create(&err)?);
        let start = Instant::now();
        let key = {
            let mut inner = self.lock();
            let child = command.spawn().map_err(Error::io("start", command.get_program()))?;
            inner.next += 1;
            let key = inner.next;
            inner.running.insert(key, Running { child, killed: false, stopped: None });
            key
        };
        let (status, killed) = loop {
            std::thread::sleep(Duration::from_millis(POLL_MS));
            let mut inner = self.lock();
            let running = inner.running.get_mut(&key).expect("only this thread removes it");
            if let Some(status) = running.child.try_wait().map_err(Error::io("wait for", &name))? {
                let killed = running.killed;
                inner.running.remove(&key);
                break (status, killed);
            }
            if start.elapsed() > limit {
                // Both may fail only because it ended just now.
                let _ = running.child.kill();
                let _ = running.child.wait();
                inner.running.remove(&key);
                return Err(Error::Timeout { what: format!("`{name}`"), limit, hint: "; it was killed".into() });
            }
        };
        let read = |path: &Path| std::fs::read(path).map_err(Error::io("read", path));
        let output = Output { status, stdout: read(&out)?, stderr: read(&err)? };
        Ok(Ended { command: name, output, killed, took: start.elapsed() })
    }

    /// Hits the `n`th of those that run (counted round); whether there was any.
    pub fn hit(&self, n: usize, blow: Blow) -> bool {
        let mut inner = self.lock();
        let len = inner.running.len();
        let Some(running) = n.checked_rem(len).and_then(|n| inner.running.values_mut().nth(n)) else { return false };
        match blow {
            Blow::Kill => {
                running.killed = true;
                running.signal(Signal::SIGKILL);
            }
            Blow::Stop(length) => {
                running.stopped = Some(Instant::now() + length);
                running.signal(Signal::SIGSTOP);
            }
        }
        true
    }

    /// Continues those whose time has come, or all.
    pub fn wake(&self, all: bool) {
        for running in self.lock().running.values_mut().filter(|r| r.stopped.is_some_and(|until| all || until <= Instant::now())) {
            running.stopped = None;
            running.signal(Signal::SIGCONT);
        }
    }
}

impl Running {
    fn signal(&self, signal: Signal) {
        // It was not waited for, so the number is still its own; a zombie takes a signal without effect.
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("Linux numbers processes by i32"));
        let _ = kill(pid, signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn blows_reach_their_process() {
        let dir = tempfile::tempdir().expect("temp dir");
        let children = Arc::new(Children::default());
        assert!(!children.hit(3, Blow::Kill), "nobody runs");
        let (ours, log) = (children.clone(), dir.path().join("sleep"));
        let thread = std::thread::spawn(move || ours.run(Command::new("sleep").arg("60"), &log, Duration::from_secs(30)));
        let start = Instant::now();
        while !children.hit(5, Blow::Stop(Duration::from_millis(50))) {
            assert!(start.elapsed() < Duration::from_secs(10), "it never ran");
        }
        children.wake(true);
        assert!(children.hit(0, Blow::Kill));
        let ended = thread.join().expect("no panic").expect("runs");
        assert!(ended.killed && ended.output.code() == 137, "{ended:?}");
    }

    #[test]
    fn one_that_hangs_is_an_error() {
        let dir = tempfile::tempdir().expect("temp dir");
        let error = Children::default().run(Command::new("sleep").arg("60"), &dir.path().join("sleep"), Duration::from_millis(80)).expect_err("too long");
        assert!(error.to_string().contains("sleep 60"), "{error}");
    }
}
