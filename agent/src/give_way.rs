//! Work that gives way: reading, compressing and storing take each core there is, and guests want them, too.

use clap::ValueEnum;
use nix::libc;
use std::{panic::resume_unwind, thread};

/// Whom a backup gives way to while it reads and stores. Freeze and thaw never do, nor does the guard.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// As any other program
    Normal,
    /// Guests and others come first where cores or disks are short
    Low,
    /// Only what nobody else wants; on a busy disk that can take very long
    Idle,
}

impl Priority {
    /// Nice value and I/O class; none for what the process has.
    fn values(self) -> Option<(i32, libc::c_int)> {
        const BEST_EFFORT_LOWEST: libc::c_int = 2 << 13 | 7;
        const IDLE: libc::c_int = 3 << 13;
        match self {
            Self::Normal => None,
            Self::Low => Some((5, BEST_EFFORT_LOWEST)),
            Self::Idle => Some((19, IDLE)),
        }
    }
}

/// Does the work on a thread of its own, which gives way with all threads that it starts: a process without privileges could not take its own back.
pub fn giving_way<T: Send>(priority: Priority, work: impl FnOnce() -> T + Send) -> T {
    let Some((nice, class)) = priority.values() else { return work() };
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            lower(nice, class);
            work()
        });
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// Lowers what this thread has; never raises it, for who started this process may have lowered it more. It works without, too.
fn lower(nice: i32, class: libc::c_int) {
    const WHO_PROCESS: libc::c_int = 1;
    if rustix::process::getpriority_process(None).is_ok_and(|now| now < nice)
        && let Err(error) = rustix::process::setpriority_process(None, nice)
    {
        tracing::debug!(%error, "nice {nice}");
    }
    // SAFETY: two numbers go in and one comes out; nothing of ours is touched.
    let now = unsafe { libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, 0) };
    // Larger is lower, but for 0: nothing was chosen, which is the middle.
    if now < libc::c_long::from(class) {
        // SAFETY: as above.
        if unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, class) } != 0 {
            tracing::debug!(error = %std::io::Error::last_os_error(), "I/O class {class}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> (i32, i64) {
        // SAFETY: numbers go in and come out.
        let class = unsafe { libc::syscall(libc::SYS_ioprio_get, 1, 0) };
        (rustix::process::getpriority_process(None).expect("a number"), class)
    }

    #[test]
    fn what_gives_way_passes_it_on_and_the_caller_does_not_change() {
        let before = now();
        let seen = giving_way(Priority::Low, || thread::spawn(now).join().expect("ends"));
        assert_eq!(seen, (5.max(before.0), 16391));
        let lowest = giving_way(Priority::Idle, || (now(), giving_way(Priority::Low, now)));
        assert_eq!(lowest, ((19, 24576), (19, 24576)), "it is never raised");
        assert_eq!(giving_way(Priority::Normal, now), before);
        assert_eq!(now(), before);
    }
}
