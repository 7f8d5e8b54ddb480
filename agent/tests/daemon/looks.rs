//! Looks at domains that go wrong, and two daemons that listen to one hook. Looks are processes of the daemon's, and libvirt's test driver is none that they
//! can work with.

use crate::served::{Served, wait_for};
use cairn_hook::{Event, Operation, clock::Moment, spool};
use serde_json::Value;
use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::{Duration, Instant},
};

fn looks_reason(served: &Served) -> Option<String> {
    let health = served.get("/api/v1/health");
    let reasons: Vec<String> = serde_json::from_value(health["reasons"].clone()).expect("texts");
    let found = reasons.into_iter().find(|reason| reason.contains("looks at domains failed"));
    assert!(found.is_none() || health["status"] == "degraded", "{health}");
    found
}

#[test]
fn looks_that_fail_again_and_again_are_told_with_what_they_said() {
    let served = Served::started("");
    let failed = |served: &Served| served.get("/api/v1/health")["watch"]["looks_failed"].as_u64().expect("a number");
    for n in 1..=3 {
        wait_for("a look fails", || failed(&served) >= n);
        if n < 3 {
            assert_eq!(looks_reason(&served), None, "{n} may be bad luck");
            assert_eq!(served.ask("POST", "/api/v1/reconcile", "{}").0, 202);
        }
    }
    let told = looks_reason(&served).expect("the third is told");
    assert!(told.contains("ended with code 13: QEMU") && told.contains("too old") && told.contains("'cairn reconcile'"), "{told}");
    assert_ne!(served.get("/api/v1/health")["watch"]["look_problem"], Value::Null);
    assert!(served.log().contains("ended with code 13"), "and the log has it: {}", served.log());
}

#[test]
fn a_backup_that_ended_badly_is_followed_by_a_look_at_its_domain() {
    let served = Served::started("");
    let failed = || served.get("/api/v1/health")["watch"]["looks_failed"].as_u64().expect("a number");
    wait_for("the first look fails", || failed() >= 1);
    let followed = || served.log().contains("test: its backup did not end well; it is looked at");
    assert!(!followed());
    // Libvirt's test driver is none that can be backed up from.
    let (status, job) = served.ask("POST", "/api/v1/backups", r#"{"domain": "test", "store": "main"}"#);
    assert_eq!(status, 202, "{job}");
    served.wait_state(1, "failed");
    wait_for("it is looked at", followed);
    wait_for("and that look fails as well", || failed() >= 2);
}

/// A description of a host that libvirt's test driver reads from a pipe: whoever opens it waits until somebody writes one.
const HOST: &str = "<node><domain type='test'><name>web</name><memory>8192</memory><os><type>hvm</type></os></domain></node>";

/// A process that the daemon started for a look.
fn look_of(daemon: i32) -> Option<i32> {
    let is_look = |pid: &i32| {
        let text = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        text("cmdline").contains("\0reconcile\0") && text("status").lines().any(|line| line == format!("PPid:\t{daemon}"))
    };
    fs::read_dir("/proc").expect("lists").flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).find(is_look)
}

/// Gives one reader of the pipe what it waits for.
fn answer(pipe: &Path) {
    let mut file = None;
    wait_for("somebody reads of the host", || {
        file = File::options().write(true).custom_flags(nix::libc::O_NONBLOCK).open(pipe).ok();
        file.is_some()
    });
    file.expect("opened").write_all(HOST.as_bytes()).expect("writes");
}

#[test]
fn a_look_that_hangs_does_not_outlive_its_daemon() {
    for signal in [9, 15] {
        let mut served = Served::new("");
        let pipe = served.place.path("host.xml");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("makes a pipe");
        served.start_by(|mut command| {
            command.env("LIBVIRT_DEFAULT_URI", format!("test://{}", pipe.display()));
            command
        });
        // The daemon itself is answered; its look waits for an answer that never comes.
        answer(&pipe);
        let mut look = None;
        wait_for("a look begins", || {
            look = look_of(served.pid());
            look.is_some()
        });
        let look = look.expect("seen");
        std::thread::sleep(Duration::from_millis(300));
        assert!(fs::metadata(format!("/proc/{look}")).is_ok(), "it hangs: {}", served.log());
        served.signal(signal);
        served.ended();
        let began = Instant::now();
        while fs::metadata(format!("/proc/{look}")).is_ok() {
            assert!(began.elapsed() < Duration::from_secs(5), "the look lives on after signal {signal}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn of_two_daemons_one_hears_libvirts_hook() {
    let (hook, first, second) = (tempfile::tempdir().expect("dir"), Served::new(""), Served::new(""));
    let base = hook.path().join("cairn");
    let configured = |mut served: Served| {
        served.configure(&format!("daemon: {{ hook_dir: {} }}\n", base.display()));
        served.start();
        served
    };
    let heard = |served: &Served| served.get("/api/v1/health")["watch"]["hook"].clone();
    let tell = |domain: &str| {
        let Moment { stamp_ns, time_unix_ms } = Moment::now();
        let (operation, sub_operation) = (Operation::Started, "begin".into());
        let event = Event { domain: domain.into(), uuid: None, operation, sub_operation, extra: "-".into(), time_unix_ms, stamp_ns, boot: None, cut: false };
        spool::put(&base, stamp_ns, &event.encode()).expect("spooled");
    };
    let mut first = configured(first);
    wait_for("the first listens", || base.join("hook.sock").exists());
    let second = configured(second);
    let deaf = |served: &Served| {
        let health = served.get("/api/v1/health");
        health["reasons"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|r| r.as_str())
            .find(|r| r.contains("takes what libvirt's hook tells"))
            .map(str::to_owned)
    };
    wait_for("the second says that it does not", || deaf(&second).is_some());
    let told = deaf(&second).expect("it does");
    assert!(told.contains(&format!("process {}'s", first.pid())) && told.contains("daemon.hook_dir"), "{told}");
    (0..20).for_each(|n| tell(&format!("web{n}")));
    wait_for("the first takes all of them", || heard(&first)["spooled"] == 20);
    assert_eq!((deaf(&first), &heard(&second)["spooled"]), (None, &0.into()));
    first.kill();
    wait_for("it is the second's turn", || deaf(&second).is_none());
    tell("web20");
    wait_for("which hears what comes now", || heard(&second)["spooled"] == 1);
}
