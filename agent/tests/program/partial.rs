//! What a restore leaves that was killed, and the next one to the same place.

use crate::place::{Place, ended, noise};
use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};
use std::{
    fs,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

const MIB: usize = 1 << 20;
/// Restores that end before they are stopped: few do.
const TRIES_MAX: u32 = 20;

/// A restore that stands still in the middle of its work.
fn stopped_restore(place: &Place, args: &[&str], partial: &Path, target: &Path) -> Child {
    for _ in 0..TRIES_MAX {
        let mut child = place.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        let began = Instant::now();
        // As long as the disk it is only once it is locked.
        while fs::metadata(partial).map_or(0, |m| m.len()) == 0 && child.try_wait().expect("asked").is_none() {
            assert!(began.elapsed() < Duration::from_secs(60), "no restore began");
        }
        // It may have ended meanwhile, and is not waited for: the number is its own still.
        kill(pid, Signal::SIGSTOP).expect("our own child");
        waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("stopped or ended");
        if partial.exists() && !target.exists() {
            return child;
        }
        kill(pid, Signal::SIGKILL).ok();
        child.wait().ok();
        fs::remove_file(target).ok();
    }
    panic!("each of {TRIES_MAX} restores was too fast");
}

#[test]
fn the_next_restore_replaces_what_a_killed_one_left() {
    let place = Place::new();
    let content = noise(48 * MIB, 1);
    let id = place.save("data", &content);
    let (target, partial) = (place.path("disk0.raw"), place.path("disk0.raw.cairn-partial"));
    let disk = format!("disk0={}", target.display());

    let mut child = stopped_restore(&place, &["restore", &id, "--disk", &disk], &partial, &target);
    let second = place.run(&["restore", &id, "--disk", &disk]).expect(13);
    assert!(second.err.contains("is running") && second.err.contains("cairn-partial"), "{}", second.err);
    assert!(partial.exists(), "a running one's file is left alone");
    child.kill().expect("our own child");
    child.wait().expect("waits");
    assert!(partial.exists(), "killed, it could not clean up");

    let third = place.run(&["restore", &id, "--disk", &disk]).expect(0);
    assert!(third.err.contains("broke off") && third.err.contains("replaced"), "{}", third.err);
    assert!(fs::read(&target).expect("is there") == content && !partial.exists());
}

#[test]
fn what_is_not_certainly_left_by_a_restore_is_left_alone() {
    let place = Place::new();
    let id = place.save("data", &noise(MIB, 1));
    let (target, partial) = (place.path("disk0.raw"), place.path("disk0.raw.cairn-partial"));
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(place.path("other")).expect("makes");
    fs::hard_link(place.path("other"), &partial).expect("links");
    let e = ended(place.command(&["restore", &id, "--disk", &format!("disk0={}", target.display())]).stdout(Stdio::null()).stderr(Stdio::piped())).expect(13);
    assert!(e.err.contains("by hand"), "{}", e.err);
    assert!(partial.exists() && !target.exists());
}
