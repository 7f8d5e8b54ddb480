//! A QEMU tool that works for us, and `qemu-img` as the simplest of them.
//!
//! Invariant: the tool does not outlive us. Ctrl-C at the terminal is for us alone: a tool that died of it would turn an orderly end into an error.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{self, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::ToolError;

/// How long one write or flush, making an image, or a daemon's end may take: all wait for the disk, and a slow one with a full cache needs
/// minutes. A program that dies ends the wait at once.
pub const DISK_WAIT_MS_MAX: u64 = 600_000;
pub(super) const POLL_MS: u64 = 20;
const STDERR_CHARS_MAX: usize = 500;

/// A running tool; dropped, it is killed.
#[derive(Debug)]
pub struct Child(pub process::Child);

impl Child {
    /// Starts it; the kernel sends `on_death` when we are gone.
    ///
    /// # Errors
    /// The operating system's.
    pub fn spawn(command: Command, on_death: Signal) -> io::Result<Self> {
        Self::start(command, on_death, Stdio::null())
    }

    fn start(mut command: Command, on_death: Signal, stdout: Stdio) -> io::Result<Self> {
        command.process_group(0).stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
        let parent = nix::unistd::getpid();
        let tie = move || {
            // The signal comes when the thread that spawns ends: that is the main thread, which does one disk after the other.
            nix::sys::prctl::set_pdeathsig(on_death)?;
            // Too late, if we ended in between.
            if nix::unistd::getppid() == parent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
        };
        // SAFETY: between fork and exec only prctl and getppid are called: both are plain system calls without locks or memory.
        unsafe { command.pre_exec(tie) };
        Ok(Self(command.spawn()?))
    }

    /// What it said before it ended; for a message only.
    pub fn stderr(&mut self) -> String {
        let mut text = String::new();
        if let Some(pipe) = self.0.stderr.as_mut() {
            // What it said is for the message only.
            let _ = io::Read::read_to_string(pipe, &mut text);
        }
        text.trim().chars().take(STDERR_CHARS_MAX).collect()
    }

    /// Waits for its good end.
    ///
    /// # Errors
    /// What it said, or that it does not end.
    pub fn finish(mut self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_millis(DISK_WAIT_MS_MAX);
        loop {
            match self.0.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("it ended with {status}: {}", self.stderr())),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(POLL_MS)),
                Ok(None) => return Err(format!("it did not end in {} minutes", DISK_WAIT_MS_MAX / 60_000)),
                Err(e) => return Err(e.to_string()),
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // After a failure; one that ended is not there any more, and was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `qemu-img` to its end; what it printed.
///
/// # Errors
/// [`ToolError`].
pub fn qemu_img(args: &[&str], image: &Path) -> Result<Vec<u8>, ToolError> {
    const PROGRAM: &str = "qemu-img";
    let fail = |why: String| {
        let problem = format!("{}: {why}", args.first().unwrap_or(&""));
        ToolError::Failed { program: PROGRAM, image: image.to_owned(), problem }
    };
    let mut command = Command::new(PROGRAM);
    command.args(args);
    let started = Child::start(command, Signal::SIGKILL, Stdio::piped());
    let mut child = started.map_err(|source| ToolError::Start { program: PROGRAM, image: image.to_owned(), package: "is qemu-utils installed?", source })?;
    let stdout = child.0.stdout.take();
    // Read beside the wait: what it prints may be more than a pipe holds.
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        stdout.map_or(Ok(0), |mut pipe| io::Read::read_to_end(&mut pipe, &mut text)).map(|_| text)
    });
    child.finish().map_err(&fail)?;
    reader.join().map_err(|_| fail("its output was not read".into()))?.map_err(|e| fail(e.to_string()))
}
