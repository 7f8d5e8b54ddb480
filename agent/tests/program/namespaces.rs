//! Processes of one host in different time namespaces (containers may have them): the clock that counts from boot and the start times of processes
//! differ there, and nobody is taken for dead by that.

use crate::place::{Ended, Place, ended, noise};
use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};
use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const MIB: usize = 1 << 20;
/// More than the silence after which a session counts as dead.
const AHEAD_S: &str = "100000";
/// Backups that end before they are stopped: few do.
const TRIES_MAX: u64 = 20;

/// The command in a time namespace of its own; the process stays the same, `unshare` becomes it. Who is not root is it in a namespace of users.
fn elsewhen(command: &Command) -> Command {
    let mut out = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        out.args(["--user", "--map-root-user"]);
    }
    out.args(["--time", "--boottime", AHEAD_S, "--"]).arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => out.env(name, value),
            None => out.env_remove(name),
        };
    }
    out
}

fn piped(mut command: Command) -> Ended {
    ended(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
}

fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// A store with something to collect, so that a collection has to know who is alive.
fn place_with_garbage() -> Place {
    let place = Place::new();
    let id = place.save("old", &noise(MIB, 77));
    place.run(&["forget", "--force", &id]).expect(0);
    place
}

/// A backup stands still in the one namespace while collections run in both; it is let alone, goes on, and its point is whole.
fn a_stopped_backup_is_let_alone(backup_is_elsewhen: bool) {
    for n in 0..TRIES_MAX {
        let place = place_with_garbage();
        let (sessions, points) = (place.records(), place.files("r").len());
        let image = place.path("slow.raw");
        std::fs::write(&image, noise(64 * MIB, n)).expect("writes");
        let here = place.command(&["backup-image", &image.display().to_string(), "--name", "slow", "--json"]);
        let mut command = if backup_is_elsewhen { elsewhen(&here) } else { here };
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        let began = Instant::now();
        while place.records() <= sessions && child.try_wait().expect("asked").is_none() {
            assert!(began.elapsed() < Duration::from_secs(60), "no backup began");
        }
        kill(pid, Signal::SIGSTOP).expect("our own child");
        waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("stopped or ended");
        if !is_stopped(child.id()) || place.files("r").len() > points {
            child.kill().ok();
            child.wait().ok();
            continue;
        }
        // The second of each looks at what the first one noted.
        for elsewhere in [false, true, false, true] {
            let gc = place.command(&["gc", "--wait", "1s"]);
            let out = piped(if elsewhere { elsewhen(&gc) } else { gc });
            assert!(out.code == 11 && !out.err.contains("had died"), "in the other namespace: {elsewhere}; {out:?}");
        }
        kill(pid, Signal::SIGCONT).expect("our own child");
        let out = child.wait_with_output().expect("ends");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        place.run(&["verify", "slow", "--data"]).expect(0);
        return;
    }
    panic!("each of {TRIES_MAX} backups was too fast");
}

#[test]
fn a_backup_in_another_time_namespace_is_alive() {
    assert!(Path::new("/proc/self/ns/time").exists(), "this test needs a kernel with time namespaces (5.6)");
    a_stopped_backup_is_let_alone(true);
}

#[test]
fn a_collection_in_another_time_namespace_takes_nobody_for_dead() {
    assert!(Path::new("/proc/self/ns/time").exists(), "this test needs a kernel with time namespaces (5.6)");
    a_stopped_backup_is_let_alone(false);
}

/// What the rule is there for: in the same namespace the end of a process is known at once, and in no other.
#[test]
fn a_killed_backup_is_known_to_be_gone_in_its_own_time_namespace() {
    assert!(Path::new("/proc/self/ns/time").exists(), "this test needs a kernel with time namespaces (5.6)");
    let place = place_with_garbage();
    let (sessions, points) = (place.records(), place.files("r").len());
    let image = place.path("slow.raw");
    std::fs::write(&image, noise(64 * MIB, 1)).expect("writes");
    let mut child = place.command(&["backup-image", &image.display().to_string(), "--name", "slow"]).spawn().expect("starts");
    let began = Instant::now();
    while place.records() <= sessions && child.try_wait().expect("asked").is_none() {
        assert!(began.elapsed() < Duration::from_secs(60), "no backup began");
    }
    child.kill().expect("our own child");
    child.wait().expect("waits");
    assert_eq!(place.files("r").len(), points, "it was killed before its end");
    let out = piped(elsewhen(&place.command(&["gc", "--wait", "1s"])));
    assert!(out.code == 11 && !out.err.contains("had died"), "{out:?}");
    let out = place.run(&["gc", "--wait", "1s"]).expect(0);
    assert_eq!(out.err.matches("had died").count(), 1, "{out:?}");
}
