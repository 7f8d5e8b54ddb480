//! Running other programs, always with a time limit.
//!
//! Invariants:
//! - nothing here waits for ever: a program over its limit is killed and reaped, and the error names it;
//! - output is kept whole on success and the end of stderr is part of every error.
//!
//! Must not be used for programs that go to the background with our pipes open.

use crate::error::{Error, Result};
use std::io::Read;
use std::ops::Range;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const POLL_MS: u64 = 5;
/// After the program is gone its pipes must close at once; a grandchild may keep them open this long.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
const STDERR_TAIL_BYTES: usize = 2000;

/// What a program left behind.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output, whole.
    pub stdout: Vec<u8>,
    /// Standard error, whole.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Exit code, or 128 + signal as a shell would say.
    #[must_use]
    pub fn code(&self) -> i32 {
        exit_code(self.status)
    }

    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    #[must_use]
    pub fn err_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// Exit code, or 128 + signal as a shell would say.
#[must_use]
pub fn exit_code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Runs `command` to its end, whatever its exit status.
///
/// # Errors
/// Not startable, or not finished after `limit` (then it is killed).
pub fn run(command: &mut Command, limit: Duration) -> Result<Output> {
    let name = command_line(command);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(Error::io("start", command.get_program()))?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let status = wait_limit(&mut child, &name, limit)?;
    let take = |rx: mpsc::Receiver<Vec<u8>>| rx.recv_timeout(DRAIN_LIMIT).unwrap_or_default();
    Ok(Output { status, stdout: take(stdout), stderr: take(stderr) })
}

/// Runs `command`; anything but exit code 0 is an error. Gives its standard output.
///
/// # Errors
/// As [`run`], and a failing program with the end of its standard error.
pub fn run_ok(command: &mut Command, limit: Duration) -> Result<String> {
    let output = run(command, limit)?;
    if output.status.success() {
        return Ok(output.text());
    }
    let stderr = output.err_text();
    let from = stderr.len().saturating_sub(STDERR_TAIL_BYTES);
    let from = (from..=stderr.len()).find(|&i| stderr.is_char_boundary(i)).unwrap_or(0);
    Err(Error::Command { command: command_line(command), status: output.status.to_string(), stderr: stderr[from..].trim().to_owned() })
}

/// Waits for a child; over the limit it is killed and reaped.
///
/// # Errors
/// The limit, or a failing wait.
pub fn wait_limit(child: &mut Child, name: &str, limit: Duration) -> Result<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().map_err(Error::io("wait for", name))? {
            return Ok(status);
        }
        if start.elapsed() > limit {
            // Both may fail only because the child ended just now.
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::Timeout { what: format!("`{name}`"), limit, hint: "; it was killed".into() });
        }
        std::thread::sleep(Duration::from_millis(POLL_MS));
    }
}

/// Asks until `probe` gives a value.
///
/// # Errors
/// The probe's own error ends the wait; so does the limit, naming `what`.
pub fn wait_for<T>(what: &str, limit: Duration, every: Duration, probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    wait_longer(what, limit, every..every, probe)
}

/// The same with pauses that double from the first to the last of `pauses`: for probes that cost more than what they wait for.
///
/// # Errors
/// The probe's own error ends the wait; so does the limit, naming `what`.
pub fn wait_longer<T>(what: &str, limit: Duration, pauses: Range<Duration>, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    let mut pause = pauses.start;
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if start.elapsed() > limit {
            return Err(Error::Timeout { what: what.into(), limit, hint: String::new() });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(pauses.end);
    }
}

/// Program and arguments as a person would type them.
#[must_use]
pub fn command_line(command: &Command) -> String {
    std::iter::once(command.get_program()).chain(command.get_args()).map(|s| s.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (tx, rx) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error still counts; the exit status tells the rest.
            let _ = pipe.read_to_end(&mut bytes);
        }
        // The receiver is gone when the caller gave up waiting.
        let _ = tx.send(bytes);
    });
    rx
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hanging_program_is_killed_and_named() {
        let start = Instant::now();
        let error = run(Command::new("sleep").arg("60"), Duration::from_millis(100)).expect_err("a minute is over the limit");
        assert!(start.elapsed() < Duration::from_secs(5));
        assert!(error.to_string().contains("sleep 60"), "{error}");
    }

    #[test]
    fn a_failing_program_tells_why() {
        let error = run_ok(Command::new("sh").args(["-c", "echo gone wrong >&2; exit 3"]), Duration::from_secs(5)).expect_err("exit 3");
        assert!(error.to_string().contains("gone wrong"), "{error}");
    }

    #[test]
    fn codes_are_those_of_a_shell() {
        let run = |script| run(Command::new("sh").args(["-c", script]), Duration::from_secs(5)).expect("sh runs").code();
        assert_eq!(run("exit 7"), 7);
        assert_eq!(run("kill -9 $$"), 137);
    }
}
