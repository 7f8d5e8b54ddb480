//! `--limit-read`: a lower bound on how long reading takes, for each read; nobody waits for it who wants to end.

use crate::place::{Place, noise};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    process::Stdio,
    time::{Duration, Instant},
};

const MIB: usize = 1 << 20;

#[test]
fn a_limited_backup_takes_the_time_that_its_rate_gives() {
    let place = Place::new();
    let image = place.path("image.raw");
    fs::write(&image, noise(16 * MIB, 1)).expect("writes");
    let saved = |name: &str, more: &[&str]| {
        let began = Instant::now();
        let point = place.run(&[&["backup-image", &image.display().to_string(), "--name", name, "--json"], more].concat()).expect(0).json();
        (began.elapsed(), point["disks"][0].clone())
    };
    let (slow, disk) = saved("slow", &["--limit-read", "4MiB/s"]);
    assert!(slow >= Duration::from_millis(3800), "16 MiB at 4 MiB a second took {slow:?}");
    assert_eq!((&disk["mode"], &disk["read"]), (&"full".into(), &(16 * MIB).into()));
    // Compared, nothing of it is stored, but all of it is read.
    let (compared, disk) = saved("slow", &["--limit-read", "4M"]);
    assert!(compared >= Duration::from_millis(3800), "compared in {compared:?}");
    assert_eq!((&disk["mode"], &disk["read"], &disk["stored"]), (&"compare".into(), &(16 * MIB).into(), &0.into()));
    let (quick, _) = saved("quick", &[]);
    assert!(quick < slow, "without a limit {quick:?}, with it {slow:?}");
    // What is not read costs nothing: at this rate it would be 17 minutes.
    fs::File::options().write(true).open(&image).expect("opens").set_len(1 << 30).expect("grows");
    let (_, disk) = saved("sparse", &["--limit-read", "16MiB/s"]);
    assert_eq!(disk["size"], 1_u64 << 30);
}

#[test]
fn a_limited_backup_ends_when_it_is_to_end() {
    let place = Place::new();
    let image = place.path("image.raw");
    fs::write(&image, vec![7; 600 * MIB]).expect("writes");
    let mut command = place.command(&["backup-image", &image.display().to_string(), "--name", "slow", "--limit-read", "1MiB/s"]);
    let began = Instant::now();
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    while place.records() == 0 {
        assert!(began.elapsed() < Duration::from_secs(60), "no backup began");
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_secs(1));
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).expect("our own child, which is not waited for yet");
    let asked = Instant::now();
    let out = child.wait_with_output().expect("ends");
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(130), "{:?} {err}", out.status);
    assert!(asked.elapsed() < Duration::from_secs(60), "the rest of ten minutes was not waited for: {:?}", asked.elapsed());
    assert!(err.contains("stopping and cleaning up"), "{err}");
    assert!(place.run(&["list", "--json"]).expect(0).json().as_array().expect("a list").is_empty());
}

#[test]
fn limits_that_make_no_sense_are_wrong_usage() {
    let place = Place::new();
    for (args, word) in [
        (&["backup-image", "/x", "--name", "x", "--limit-read", "0"][..], "1MiB/s is the least"),
        (&["backup", "web", "--limit-read", "1023KiB/s"], "1MiB/s is the least"),
        (&["backup", "web", "--limit-read", "fast"], "write 200MiB/s"),
        (&["backup", "web", "--parallel-disks", "0"], "1..=8"),
        (&["backup", "web", "--parallel-disks", "9"], "1..=8"),
        (&["backup-image", "/x", "--name", "x", "--parallel-disks", "2"], "unexpected argument"),
    ] {
        let refused = place.run(args).expect(2);
        assert!(refused.err.contains(word), "{args:?}: {}", refused.err);
    }
}
