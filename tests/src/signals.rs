//! Waiting for one child and for signals at the same time, without handlers.
//!
//! Signals are blocked and read from a signalfd; the standard library gives children an empty mask again.

use crate::error::{Error, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use std::os::fd::AsFd;
use std::time::Duration;

/// The signals that ask a program to end.
pub const ENDING: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
/// `si_code` of a signal that the kernel sent, as the terminal does for Ctrl-C: the whole group has got it.
const SI_KERNEL: i32 = 0x80;

/// A signal and whether the terminal sent it to everybody in the foreground.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Which.
    pub signal: Signal,
    /// True for Ctrl-C and a hang-up: the children have got it too.
    pub from_terminal: bool,
}

/// Blocked signals, readable.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocks SIGCHLD and the ending signals for this thread and all made by it later.
    ///
    /// # Errors
    /// The system has no signalfd for us.
    pub fn block() -> Result<Self> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        ENDING.iter().for_each(|signal| mask.add(*signal));
        let system = |errno: nix::Error| Error::io("block signals of", "this process")(errno.into());
        mask.thread_block().map_err(system)?;
        let fd = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(system)?;
        Ok(Self { fd })
    }

    /// Waits for the next signal, at most `limit`. SIGCHLD wakes it up too and is not reported.
    pub fn wait(&self, limit: Duration) -> Option<Received> {
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        // An interrupted poll is a wake-up like any other: the caller looks at its child and comes back.
        let _ = poll(&mut fds, timeout);
        self.fd.read_signal().ok().flatten().and_then(|info| decode(&info))
    }
}

fn decode(info: &siginfo) -> Option<Received> {
    let number = i32::try_from(info.ssi_signo).ok()?;
    let signal = Signal::try_from(number).ok().filter(|signal| ENDING.contains(signal))?;
    Some(Received { signal, from_terminal: info.ssi_code == SI_KERNEL })
}
