//! A terminal that is closed, a connection that breaks: SIGHUP is an interruption like others, unless it is ignored.

use crate::place::{Place, noise};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

const MIB: usize = 1 << 20;
/// Backups that end before the signal comes: few do.
const TRIES_MAX: u64 = 20;

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a process id"))
}

/// A backup that got the signal while its session was under way: a point of it is not there yet.
fn hung_up(place: &Place, started: impl Fn(Command) -> Command) -> Output {
    for n in 0..TRIES_MAX {
        let image = place.path("slow.raw");
        fs::write(&image, noise(64 * MIB, n)).expect("writes");
        let (sessions, points) = (place.records(), place.files("r").len());
        let mut command = started(place.command(&["backup-image", &image.display().to_string(), "--name", &format!("slow-{n}"), "--json"]));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        let began = Instant::now();
        while place.records() <= sessions && child.try_wait().expect("asked").is_none() {
            assert!(began.elapsed() < Duration::from_secs(60), "no backup began");
        }
        let too_late = place.files("r").len() > points;
        kill(pid(&child), Signal::SIGHUP).expect("our own child");
        // Kernel and shell both tell of a closed terminal.
        std::thread::sleep(Duration::from_millis(20));
        kill(pid(&child), Signal::SIGHUP).expect("our own child, which is not waited for yet");
        let out = child.wait_with_output().expect("ends");
        if !too_late {
            return out;
        }
    }
    panic!("each of {TRIES_MAX} backups was too fast");
}

#[test]
fn a_hangup_interrupts_and_cleans_up() {
    let place = Place::new();
    let out = hung_up(&place, |command| command);
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(130), "{:?} {err}", out.status);
    assert!(err.contains("stopping and cleaning up"), "{err}");
    let collected = place.run(&["gc", "--wait", "5s"]).expect(0);
    assert!(!collected.err.contains("had died"), "it said good-bye: {}", collected.err);
}

#[test]
fn a_hangup_that_is_ignored_stays_ignored() {
    let place = Place::new();
    let out = hung_up(&place, |command| {
        let mut nohup = Command::new("nohup");
        nohup.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => nohup.env(name, value),
                None => nohup.env_remove(name),
            };
        }
        nohup
    });
    assert!(out.status.success(), "{:?} {}", out.status, String::from_utf8_lossy(&out.stderr));
}
