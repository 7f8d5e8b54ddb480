//! Waiting for one child and for signals at the same time, without handlers.
//!
//! Signals are blocked and read from a signalfd. A program inherits the mask of the thread that starts it, and
//! few programs clear it: one started with SIGINT blocked never sees a Ctrl-C, nor does anything it starts.
//!
//! Invariant: whatever is started by a thread that blocks signals, and does not block them itself, is started
//! through [`with_empty_mask`].

use crate::error::{Error, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
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
    mask_before: SigSet,
}

/// Has the program start with no signal blocked, whatever the calling thread blocks.
pub fn with_empty_mask(command: &mut Command) -> &mut Command {
    // SAFETY: the closure makes one system call (rt_sigprocmask) on a value of its own; that is allowed
    // between fork and exec, and nothing is allocated.
    unsafe { command.pre_exec(|| SigSet::empty().thread_set_mask().map_err(std::io::Error::from)) }
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
        let mask_before = mask.thread_swap_mask(SigmaskHow::SIG_BLOCK).map_err(system)?;
        let fd = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(system)?;
        Ok(Self { fd, mask_before })
    }

    /// Gives this thread the mask it had before. To be called by the thread that blocked: a signal that came
    /// meanwhile and was not read acts now, as it would have then.
    ///
    /// # Errors
    /// The system refuses the mask.
    pub fn release(self) -> Result<()> {
        self.mask_before.thread_set_mask().map_err(|errno| Error::io("unblock signals of", "this process")(errno.into()))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::run_ok;

    const LIMIT: Duration = Duration::from_secs(5);
    const BLOCKED: [&str; 2] = ["SigBlk", "/proc/self/status"];

    fn mask_of(command: &mut Command) -> u64 {
        let text = run_ok(command.args(BLOCKED), LIMIT).expect("grep finds the line");
        u64::from_str_radix(text.trim_start_matches("SigBlk:").trim(), 16).expect("a hexadecimal mask")
    }

    #[test]
    fn children_are_free_of_our_mask_and_release_takes_it_back() {
        let before = mask_of(&mut Command::new("grep"));
        let signals = Signals::block().expect("blocked");
        let inherited = mask_of(&mut Command::new("grep"));
        assert_ne!(inherited & (1 << (Signal::SIGINT as u64 - 1)), 0, "a child inherits the mask unless told otherwise");
        assert_eq!(mask_of(with_empty_mask(&mut Command::new("grep"))), 0);
        signals.release().expect("released");
        assert_eq!(mask_of(&mut Command::new("grep")), before);
    }
}
