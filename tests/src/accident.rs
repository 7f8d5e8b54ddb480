//! What the suites of accidents have in common: what is tried of all, what happens to a process, and what must be right afterwards.
//!
//! Functions here panic on failure, as tests do.

use crate::cairn;
use crate::frozen::record_is_open;
use crate::libvirt;
use crate::process;
use crate::steps::FREEZE_LIMIT_S;
use crate::suite::{Suite, mode};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What a process gets.
pub const SIGNALS: [Signal; 3] = [Signal::SIGKILL, Signal::SIGSTOP, Signal::SIGTERM];
/// How long a stopped process stays so.
pub const STOP: Duration = Duration::from_secs(5);
/// A host that is busy with other things takes a moment for everything.
pub const SLACK: Duration = Duration::from_secs(5);
/// For what others do: the end of a process, the end of a domain.
pub const STEP_LIMIT: Duration = Duration::from_secs(60);
/// For a guest.
pub const BOOT_LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(5);

/// What is to be tried of all, in so many shares; `from`: another share for another list. `CAIRN_ACCIDENTS=all` takes all, a number those of another share.
///
/// # Panics
/// `CAIRN_ACCIDENTS` is neither.
pub fn chosen<T>(all: impl Iterator<Item = T>, shares: usize, from: usize) -> Vec<T> {
    let asked = std::env::var("CAIRN_ACCIDENTS").unwrap_or_else(|_| "0".to_owned());
    if asked == "all" {
        return all.collect();
    }
    let share: usize = asked.parse().expect("CAIRN_ACCIDENTS is 'all' or a number");
    all.enumerate().filter(|(number, _)| number % shares == (share + from) % shares).map(|(_, one)| one).collect()
}

/// The guest writes, at other places each time.
///
/// # Panics
/// It cannot.
pub fn churn(suite: &Suite, number: usize) {
    let script = format!("for d in a b; do /bin/lab-guest __lab-guest noise /mnt/$d/churn {} 1048576 {number}; done", number % 4 * 1_048_576);
    suite.domain.sh(&script).expect("churn");
}

/// `lab1`'s QEMU.
///
/// # Panics
/// There is none.
#[must_use]
pub fn qemu() -> Pid {
    let text = fs::read_to_string("/run/libvirt/qemu/lab1.pid").expect("QEMU has a pid file");
    Pid::from_raw(text.trim().parse().expect("a process id"))
}

/// A process that got SIGSTOP goes on later. It may be gone: a guard kills a backup that stands still.
pub fn goes_on_later(pid: Pid) {
    sleep(STOP);
    kill(pid, Signal::SIGCONT).ok();
}

/// libvirtd that was killed is started again once it is gone, as systemd does it.
///
/// # Panics
/// It does not end, or does not come up.
pub fn libvirtd_comes_back(suite: &Suite, old: Pid) {
    process::wait_for("end of libvirtd", STEP_LIMIT, POLL, || Ok(kill(old, None).is_err().then_some(()))).expect("it ends");
    libvirt::launch(&suite.lab.folder().join("libvirtd.log")).expect("libvirtd");
}

/// No freeze is open for longer than its limit, counted from `since`.
///
/// # Panics
/// One is.
pub fn assert_thawed(what: &str, since: Instant, said: impl Fn() -> String) {
    let limit = Duration::from_secs(FREEZE_LIMIT_S) + SLACK;
    while record_is_open() {
        assert!(since.elapsed() < limit, "{what}: a freeze is open after {limit:?}: {}", said());
        sleep(POLL);
    }
}

/// A backup of the running domain leaves nothing and restores to what is on its disks. `is_incremental`: both disks are; otherwise the point says why not.
///
/// # Panics
/// Not so.
pub fn assert_next_point(suite: &Suite, what: &str, number: usize, is_incremental: bool) {
    let next = suite.quiet_backup(&format!("after-{number}"));
    suite.assert_left_alone(SLACK);
    suite.assert_restores(&next);
    let point = suite.point(&next.id);
    for target in ["vda", "vdb"] {
        let reason = cairn::disk(&point, target).expect("disk")["reason"].as_str().unwrap_or_default().to_owned();
        let found = mode(&point, target);
        assert!(found == "incremental" || !is_incremental, "{what}: the next point of {target} is not incremental: {reason}");
        assert!(found == "incremental" || !reason.is_empty(), "{what}: {target} is not incremental and does not say why");
    }
}
