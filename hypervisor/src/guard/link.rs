//! The job's end of the line to its guard.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::config::{FROZEN_REMEDY, GuardConfig, GuardTask, message};
use crate::capture::CaptureError;

/// How often the job says that it lives.
pub const BEAT_INTERVAL: Duration = Duration::from_secs(2);
/// How long the guard may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long a dismissed guard may take to go.
const EXIT_LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// How to start a guard: program and first arguments, e.g. `/usr/bin/cairn guard`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardCommand {
    /// Program and arguments.
    pub argv: Vec<OsString>,
}

/// A running guard.
#[derive(Debug)]
pub struct GuardLink {
    child: Mutex<Child>,
    socket: UnixStream,
    stop: Arc<AtomicBool>,
    beats: Option<JoinHandle<()>>,
}

fn failed(problem: impl std::fmt::Display) -> CaptureError {
    CaptureError::Guard { problem: problem.to_string() }
}

impl GuardLink {
    /// Starts the guard and waits until it watches. It inherits `lock` as its standard output, which it never writes to. A control group of its own is
    /// a help, no need: where systemd does not give one the guard starts without.
    ///
    /// # Errors
    /// [`CaptureError::Guard`].
    pub fn start(command: &GuardCommand, config: &GuardConfig, lock: File) -> Result<Self, CaptureError> {
        let scope = scope(config);
        if !scope.is_empty() {
            match Self::start_by(&scope, command, config, lock.try_clone().map_err(failed)?) {
                Err(error) => {
                    tracing::warn!(%error, "systemd-run gives the guard no control group of its own: it goes with the unit of this backup if that is stopped");
                }
                started => return started,
            }
        }
        Self::start_by(&[], command, config, lock)
    }

    fn start_by(scope: &[OsString], command: &GuardCommand, config: &GuardConfig, lock: File) -> Result<Self, CaptureError> {
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        ours.set_read_timeout(Some(ANSWER_LIMIT)).map_err(failed)?;
        ours.set_write_timeout(Some(ANSWER_LIMIT)).map_err(failed)?;
        let mut argv = scope.iter().chain(&command.argv);
        let program = argv.next().ok_or_else(|| failed("no guard command was configured"))?;
        let child = Command::new(program)
            .args(argv)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(lock))
            .spawn()
            .map_err(|error| failed(format!("{}: {error}", program.display())))?;
        let mut link = Self { child: Mutex::new(child), socket: ours, stop: Arc::new(AtomicBool::new(false)), beats: None };
        match link.begin(config) {
            Ok(()) => Ok(link),
            Err(error) => {
                // One that came to life later would take this backup for dead. A child that is gone already is what is wanted.
                let child = link.child.get_mut().unwrap_or_else(PoisonError::into_inner);
                child.kill().and_then(|()| child.wait()).ok();
                Err(error)
            }
        }
    }

    fn begin(&mut self, config: &GuardConfig) -> Result<(), CaptureError> {
        let mut line = serde_json::to_vec(&GuardTask::Watch(config.clone())).map_err(failed)?;
        line.push(b'\n');
        self.socket.write_all(&line).map_err(failed)?;
        self.await_ready()?;
        self.beats = Some(self.beat()?);
        Ok(())
    }

    /// Before every freeze: from now on the guard thaws if we do not. Returns when the guard has taken it in.
    ///
    /// # Errors
    /// [`CaptureError::Guard`]; do not freeze then.
    pub fn freeze_begins(&self) -> Result<(), CaptureError> {
        self.say(message::FREEZE)?;
        self.await_ready()
    }

    /// libvirt has answered the freeze: none comes after a thaw that is asked for from now on.
    ///
    /// # Errors
    /// [`CaptureError::Guard`]
    pub fn freeze_answered(&self) -> Result<(), CaptureError> {
        self.say(message::FREEZE_ANSWERED)
    }

    /// The guest said that it is thawed.
    ///
    /// # Errors
    /// [`CaptureError::Guard`]
    pub fn thawed(&self) -> Result<(), CaptureError> {
        self.say(message::THAWED)
    }

    /// The point is committed.
    ///
    /// # Errors
    /// [`CaptureError::Guard`]
    pub fn committed(&self) -> Result<(), CaptureError> {
        self.say(message::COMMITTED)
    }

    /// The guard has ended by itself: it ended the backup, or was killed.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        !matches!(child.try_wait(), Ok(None))
    }

    /// The backup has ended and nothing is left of it. Without a certain thaw (`thawed`) the guard stays by itself to go on with that.
    pub fn dismiss(mut self, thawed: bool) {
        if let Err(error) = self.say(message::DISMISS) {
            tracing::warn!(%error, "the guard was gone before the backup ended");
        }
        self.stop_beats();
        if !thawed {
            // It answers once it has let go of the domain's lock; one that has thawed the guest meanwhile just goes.
            match self.await_ready() {
                Ok(()) => {
                    tracing::warn!("the guest's agent did not confirm that the guest is thawed; the guard goes on thawing for ten minutes. {FROZEN_REMEDY}");
                    return;
                }
                Err(error) => tracing::debug!(%error, "the guard does not go on"),
            }
        }
        let start = Instant::now();
        while !self.has_ended() {
            if start.elapsed() > EXIT_LIMIT {
                tracing::warn!("the guard does not go; it holds the domain's lock until it does");
                return;
            }
            std::thread::sleep(POLL);
        }
    }

    /// The backup has ended, but its clean-up failed (libvirt is gone, or hangs): the guard goes on with it, and keeps the domain's lock meanwhile.
    pub fn hand_over(mut self) {
        let said = self.say(message::HAND_OVER);
        self.stop_beats();
        // Its answer may be behind a thaw that takes its time; the job waits no longer than for that.
        match said.and_then(|()| self.await_ready()) {
            Ok(()) => tracing::warn!("the guard goes on with the clean-up for ten minutes; after that the next backup does it"),
            Err(error) => tracing::warn!(%error, "the guard is gone; the next backup cleans up"),
        }
    }

    fn say(&self, byte: u8) -> Result<(), CaptureError> {
        (&self.socket).write_all(&[byte]).map_err(failed)
    }

    fn await_ready(&self) -> Result<(), CaptureError> {
        let mut answer = [0];
        (&self.socket).read_exact(&mut answer).map_err(|error| failed(format!("it does not answer: {error}")))?;
        if answer == [message::READY] { Ok(()) } else { Err(failed(format!("it answered {answer:?}"))) }
    }

    /// A thread of its own: the guard must see a stopped process, not a slow store.
    fn beat(&self) -> Result<JoinHandle<()>, CaptureError> {
        let (socket, stop) = (self.socket.try_clone().map_err(failed)?, Arc::clone(&self.stop));
        let run = move || {
            while !stop.load(Ordering::Relaxed) && (&socket).write_all(&[message::BEAT]).is_ok() {
                std::thread::park_timeout(BEAT_INTERVAL);
            }
        };
        std::thread::Builder::new().name("guard beat".to_owned()).spawn(run).map_err(failed)
    }

    fn stop_beats(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(beats) = self.beats.take() {
            beats.thread().unpark();
            // The thread sleeps or sends one byte; a panic in it has no meaning for us.
            beats.join().ok();
        }
    }
}

impl Drop for GuardLink {
    fn drop(&mut self) {
        // Without DISMISS the closed socket tells the guard to clean up.
        self.stop_beats();
    }
}

/// A control group of its own where systemd runs, so that stopping the job's unit does not stop its guard.
fn scope(config: &GuardConfig) -> Vec<OsString> {
    if !std::path::Path::new("/run/systemd/system").is_dir() {
        return Vec::new();
    }
    // A second attempt of the same process begins while the first one's guard may still be there.
    let session = crate::capture::names::hex(&config.session[..4]);
    let unit = format!("--unit=cairn-guard-{}-{}-{session}", config.domain, config.job_pid);
    ["systemd-run", "--quiet", "--scope", "--collect", &unit, "--"].iter().map(OsString::from).collect()
}
