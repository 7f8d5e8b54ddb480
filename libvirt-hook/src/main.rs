//! `cairn-hook`: what libvirt runs at each change of a domain, and waits for.
//!
//! An exit code other than 0 keeps a domain from starting, or kills it; output may replace its XML; a hook that does not end, or keeps its
//! output open, holds up libvirt. So two processes share the work:
//!
//! - the **parent** closes standard output and error before anything else, forks, waits for the child at most [`WAIT_MAX`], and exits 0. It
//!   opens nothing, allocates nothing, cannot panic;
//! - the **child** reads the XML, closes standard input, and only then touches a socket or a file. It may crash, be killed or hang in a
//!   system call: the parent ends all the same, and nothing is open that libvirt waits for. One that had no processor in that time finishes
//!   later, in the background; the record has the moment of the call. After [`LIFE_MAX_S`] the kernel ends it.
//!
//! Has its own C `main`, since Rust's runtime aborts before ours where descriptors 0 to 2 are closed and `/dev/null` cannot be opened.
//! Must not print, must not read its name or options: all arguments are libvirt's, and a domain may be called `--help`.
#![no_main]

use cairn_hook::clock::Moment;
use cairn_hook::{mark, place, report};
use libc::{c_char, c_int};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, alarm, fork};
use std::ffi::{CStr, OsStr};
use std::hint::black_box;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A hook is to be over within 100 ms, its start and end included.
const WAIT_MAX: Duration = Duration::from_millis(80);
/// Longer than a child without a processor waits for one, shorter than an admin notices.
const LIFE_MAX_S: u32 = 2;
/// Domain, operation, sub-operation, extra; libvirt gives no more.
const ARGUMENTS: usize = 4;

/// The program. Always 0.
#[unsafe(no_mangle)]
pub extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    let (begin, called) = (Instant::now(), Moment::now());
    black_box(mark::TEXT);
    close_all_but_stdin();
    // Blocked, none can end us with a code of its own. Both calls fail for no signal that exists.
    let _ = SigSet::all().thread_set_mask();
    // SAFETY: the default action is no handler; a parent that ignores SIGCHLD would keep the child's end from us.
    let _ = unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) };
    // SAFETY: there is one thread.
    match unsafe { fork() } {
        Ok(ForkResult::Parent { child }) => wait(child, begin),
        Ok(ForkResult::Child) => tell(called, argc, argv),
        // A host without room for one more process: the record is lost, the domain starts.
        Err(_) => {}
    }
    exit()
}

/// Ends without the handlers of a library.
fn exit() -> ! {
    // SAFETY: ends the process, whatever its state.
    unsafe { libc::_exit(0) }
}

/// Until the child has ended, or the time has.
fn wait(child: Pid, begin: Instant) {
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGCHLD);
    while let Ok(WaitStatus::StillAlive) = waitpid(child, Some(WaitPidFlag::WNOHANG)) {
        let left = WAIT_MAX.saturating_sub(begin.elapsed());
        if left.is_zero() {
            return;
        }
        let left = libc::timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };
        // SAFETY: both are valid for the call, and nothing is written. A child that ended since we asked has left its signal pending.
        unsafe { libc::sigtimedwait(ends.as_ref(), std::ptr::null_mut(), &raw const left) };
    }
}

/// The child's life.
fn tell(called: Moment, argc: c_int, argv: *const *const c_char) {
    std::panic::set_hook(Box::new(|_| exit()));
    limit_life();
    // SAFETY: closed below only; where it is closed already, reading gives nothing.
    let xml = report::xml(unsafe { BorrowedFd::borrow_raw(libc::STDIN_FILENO) });
    // SAFETY: nothing uses it from here on. libvirt, which may still write, sees a reader that has gone, and goes on.
    unsafe { libc::close(libc::STDIN_FILENO) };
    if let Some(event) = report::event(called, &arguments(argc, argv), &xml) {
        let base = std::env::var_os(place::DIR_VARIABLE).map_or_else(|| place::DIR_DEFAULT.into(), PathBuf::from);
        // Lost is lost: there is nobody to tell, and all domains are looked at every few minutes.
        let _ = report::deliver(&base, &event);
    }
}

/// The kernel ends this process when its time is over, if need be in the middle of a system call.
fn limit_life() {
    // SAFETY: the default action, which ends the process, is no handler.
    let _ = unsafe { signal(Signal::SIGALRM, SigHandler::SigDfl) };
    alarm::set(LIFE_MAX_S);
    let mut over = SigSet::empty();
    over.add(Signal::SIGALRM);
    // Fails for no signal that exists.
    let _ = over.thread_unblock();
}

/// Standard output, standard error, and whatever else was inherited.
fn close_all_but_stdin() {
    // SAFETY: this process has opened nothing yet. By number, since older C libraries have no function of that name.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, libc::STDOUT_FILENO, libc::c_uint::MAX, 0) };
    if closed != 0 {
        // A kernel older than 5.9. libvirt leaves its hooks nothing but the first three.
        for fd in libc::STDOUT_FILENO..64 {
            // SAFETY: as above.
            unsafe { libc::close(fd) };
        }
    }
}

/// Those of libvirt, without the program's name.
fn arguments<'a>(argc: c_int, argv: *const *const c_char) -> Vec<&'a OsStr> {
    let Some(count) = usize::try_from(argc).ok().filter(|count| *count > 1) else { return Vec::new() };
    // SAFETY: `argv` has `argc` entries, and stays as long as the process.
    let all = unsafe { std::slice::from_raw_parts(argv, count) };
    let words = all.iter().skip(1).take(ARGUMENTS).take_while(|a| !a.is_null());
    // SAFETY: each ends with a zero, and stays as long as the process.
    words.map(|a| OsStr::from_bytes(unsafe { CStr::from_ptr(*a) }.to_bytes())).collect()
}
