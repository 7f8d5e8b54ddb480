//! The daemon's jobs of real domains: one point of one event however many policies want it, domains by UUID, other tries, and how well the daemon says it is.

use cairn_lab::daemon::Daemon;
use cairn_lab::process::wait_for;
use cairn_lab::suite::Suite;
use cairn_lab::{Options, lab_test, libvirt};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);
const HOOK_DIR: &str = "/run/cairn";
/// Every file of the records, with what SQLite makes beside it.
const RECORDS: [&str; 3] = ["domains.sqlite", "domains.sqlite-wal", "domains.sqlite-shm"];
/// Before the second try, seconds.
const PAUSE: Duration = Duration::from_secs(30);
/// libvirt may be away for so long without a word.
const AWAY: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(200);

/// Two policies that want the same.
fn config(suite: &Suite) -> String {
    let (store, key) = (suite.cairn.store().display(), suite.cairn.key().display());
    let policy = |name: &str| format!("  {name}:\n    select: {{ names: [\"lab*\"] }}\n    on: [shutdown]\n    stores: [main]\n    tags: [{name}]\n");
    format!("stores:\n  main: {{ url: {store}, key_file: {key} }}\npolicies:\n{}{}", policy("first"), policy("second"))
}

/// What another backup of the domain would hold.
fn hold(uuid: &str) -> File {
    let path = format!("/run/cairn/domain/{uuid}.lock");
    let file = File::options().write(true).create(true).truncate(true).open(&path).expect("the lock's file");
    let begin = Instant::now();
    while file.try_lock().is_err() {
        assert!(begin.elapsed() < LIMIT, "a look ends");
        std::thread::sleep(POLL / 10);
    }
    // A look that had it named itself, and would be waited for.
    fs::write(&path, "1 backup\n").expect("written");
    file
}

/// Waits until health gives this reason, or none.
fn wait_reason(daemon: &Daemon, word: Option<&str>, limit: Duration) -> Value {
    let begin = Instant::now();
    loop {
        let health = daemon.health().expect("it answers");
        let reasons = health["reasons"].as_array().expect("a list");
        let told = reasons.iter().any(|reason| word.is_some_and(|word| reason.as_str().is_some_and(|text| text.contains(word))));
        if told && health["status"] == "degraded" || word.is_none() && reasons.is_empty() && health["status"] == "ok" {
            return health;
        }
        assert!(begin.elapsed() < limit, "{word:?} is not told after {limit:?}: {health:#}");
        std::thread::sleep(POLL);
    }
}

/// Puts one into the other's place and back, with no moment at which there is none: the daemon would make what it misses.
fn exchange(a: &Path, b: &Path) {
    renameat2(AT_FDCWD, a, AT_FDCWD, b, RenameFlags::RENAME_EXCHANGE).expect("both are there");
}

/// A point came of it. On a busy machine it may carry a warning: its guest was slow to freeze.
fn is_saved(job: &Value) -> bool {
    ["done", "warnings"].iter().any(|state| job["state"] == *state)
}

fn over(job: &Value) -> bool {
    !["queued", "running"].iter().any(|state| job["state"] == *state)
}

fn text<'a>(job: &'a Value, key: &str) -> &'a str {
    job[key].as_str().unwrap_or_else(|| panic!("no {key} in {job:#}"))
}

lab_test!(one_point_of_one_event_and_another_try, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let daemon = Daemon::start(&lab, &config(&suite)).expect("the daemon");
    let uuid = suite.domain.virsh_ok(&["domuuid", "lab1"]).expect("uuid").trim().to_owned();
    daemon.wait_record(&uuid, "it was seen", LIMIT, |r| r["state"] == "running" && !r["looked"].is_null()).expect("seen");
    wait_reason(&daemon, None, LIMIT);
    for name in RECORDS {
        // A look has seen the domain; the daemon opens its records once that has ended, and keeps them open.
        let path = Path::new("/var/lib/cairn").join(name);
        let meta = wait_for(name, LIMIT, POLL / 10, || Ok(fs::metadata(&path).ok())).expect("the daemon has them open");
        assert_eq!(meta.mode() & 0o777, 0o600, "{name}");
    }

    // By UUID, with the policies that take its name; one job for both.
    let jobs = daemon.back_up(&json!({"domain": uuid.to_uppercase()})).expect("asked");
    assert!(jobs.len() == 1 && jobs[0]["domain"] == "lab1" && jobs[0]["uuid"] == uuid.as_str(), "{jobs:#?}");
    assert_eq!((&jobs[0]["policies"], &jobs[0]["policy"]), (&json!(["first", "second"]), &json!("first")));
    let job = daemon.wait_job(&jobs[0]["id"], "done", LIMIT, over).expect("it ends");
    assert!(is_saved(&job), "{job:#}");
    let points = suite.points();
    assert_eq!(points, [text(&job, "point")]);
    let tags = suite.point(&points[0])["tags"].clone();
    assert!(["first", "second"].iter().all(|tag| tags.as_array().is_some_and(|all| all.contains(&json!(tag)))), "{tags}");
    let unknown = daemon.back_up(&json!({"domain": "ffffffff-ffff-4fff-8fff-ffffffffffff"})).expect_err("nobody knows it").report();
    assert!(unknown.contains("was seen yet"), "{unknown}");

    // The hook's spool is no folder any more, and then it is.
    let (spool, aside) = (Path::new(HOOK_DIR).join("hook-spool"), Path::new(HOOK_DIR).join("aside"));
    fs::write(&aside, b"").expect("written");
    exchange(&aside, &spool);
    wait_reason(&daemon, Some("spool of libvirt's hook"), LIMIT);
    exchange(&aside, &spool);
    fs::remove_file(&aside).expect("removed");
    wait_reason(&daemon, None, LIMIT);

    // Somebody else is at work: who asked is told, and decides.
    let lock = hold(&uuid);
    let asked = daemon.back_up(&json!({"domain": "lab1"})).expect("asked");
    let asked = daemon.wait_job(&asked[0]["id"], "failed", LIMIT, over).expect("it ends");
    assert!(asked["code"] == 11 && !text(&asked, "message").contains("tried again"), "{asked:#}");

    // What an event asks for is tried again, as one job for both policies.
    let before = daemon.jobs().expect("jobs").len();
    let first = json!(asked["id"].as_i64().expect("a number") + 1);
    let begin = Instant::now();
    suite.domain.powers_off();
    while daemon.jobs().expect("jobs").len() == before {
        assert!(begin.elapsed() < LIMIT, "the shutdown makes a job: {:?}, {}", suite.domain.state(), daemon.said());
        std::thread::sleep(POLL);
    }
    let first = daemon.wait_job(&first, "failed", LIMIT, over).expect("it ends");
    assert_eq!((&first["trigger"], &first["code"], &first["tries"]), (&json!("shutdown"), &json!(11), &json!(1)), "{first:#}");
    let jobs = daemon.jobs().expect("jobs");
    assert_eq!(jobs.len(), before + 2, "it and another try, for two policies: {jobs:#?}");
    let second = jobs.last().expect("a job");
    assert_eq!((&second["state"], &second["retry_of"], &second["tries"]), (&json!("queued"), &first["id"], &json!(2)), "{second:#}");
    assert!(text(&first, "message").contains(&format!("tried again as job {}", second["id"])) && second["not_before"].is_string(), "{first:#}");
    drop(lock);
    let second = daemon.wait_job(&second["id"], "done", PAUSE + LIMIT, over).expect("it ends");
    assert!(is_saved(&second), "{second:#}");
    assert!(begin.elapsed() >= PAUSE, "not before its time");
    assert_eq!(suite.points(), [points[0].as_str(), text(&second, "point")], "one point of one shutdown");
    println!("the second try was done {:.0} s after the shutdown", begin.elapsed().as_secs_f64());
});

lab_test!(libvirt_that_is_away_is_told, Options { guest: false, ..Options::small() }, |lab| {
    let daemon = Daemon::start(&lab, "").expect("the daemon");
    wait_reason(&daemon, None, LIMIT);
    let pid = fs::read_to_string(libvirt::PID_FILE).expect("libvirtd has a pid file");
    let begin = Instant::now();
    kill(Pid::from_raw(pid.trim().parse().expect("a process id")), Signal::SIGKILL).expect("the lab's own");
    wait_reason(&daemon, Some("libvirt has been away"), AWAY + LIMIT);
    assert!(begin.elapsed() >= AWAY, "a restart takes less, and is nothing to tell of");
    libvirt::launch(&lab.folder().join("libvirtd.log")).expect("libvirtd");
    wait_reason(&daemon, None, LIMIT);
});
