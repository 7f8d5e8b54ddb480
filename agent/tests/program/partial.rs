//! What a restore leaves that was killed, and the next one to the same place.

use crate::place::{Place, ended, noise};
use std::{
    fs,
    os::unix::fs::OpenOptionsExt,
    process::Stdio,
    time::{Duration, Instant},
};

const MIB: usize = 1 << 20;

#[test]
fn the_next_restore_replaces_what_a_killed_one_left() {
    let place = Place::new();
    let content = noise(24 * MIB, 1);
    let id = place.save("data", &content);
    let (target, partial) = (place.path("disk0.raw"), place.path("disk0.raw.cairn-partial"));
    let disk = format!("disk0={}", target.display());

    // Its reader is held up by a pack that is a pipe without a writer, so that it is there to be killed.
    let pack = place.file("d", &id);
    fs::rename(&pack, place.path("pack")).expect("moves");
    nix::unistd::mkfifo(&pack, nix::sys::stat::Mode::S_IRWXU).expect("makes a pipe");
    let mut child = place.command(&["restore", &id, "--disk", &disk]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    let began = Instant::now();
    while !partial.exists() {
        assert!(began.elapsed() < Duration::from_secs(60), "no restore began");
        std::thread::sleep(Duration::from_millis(5));
    }
    let second = place.run(&["restore", &id, "--disk", &disk]).expect(13);
    assert!(second.err.contains("is running") && second.err.contains("cairn-partial"), "{}", second.err);
    assert!(partial.exists(), "a running one's file is left alone");
    child.kill().expect("our own child");
    child.wait().expect("waits");
    fs::remove_file(&pack).expect("removes");
    fs::rename(place.path("pack"), &pack).expect("moves back");
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
