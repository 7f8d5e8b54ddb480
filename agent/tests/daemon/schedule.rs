//! Policies by the clock, with a daemon that is killed: each instant has one job. Domains are put into the records as a look would, for libvirt's test driver is none that
//! looks can work with; so their backups fail, and what counts here is their jobs. Real backups by the clock: the lab's `schedule` suite.

use crate::{
    place::noise,
    served::{Served, wait_for},
};
use rusqlite::Connection;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

/// A policy for these domains, with this in it.
fn policy(name: &str, more: &str) -> String {
    format!("  {name}:\n    select: {{ names: [\"web*\"] }}\n    stores: [main]\n    quiesce: {{ level: never }}\n{more}")
}

/// As a look has it.
fn put(served: &Served, names: &[&str]) {
    let path = served.state().join("domains.sqlite");
    wait_for("the records are there", || path.exists());
    let db = Connection::open(path).expect("opens");
    db.busy_timeout(Duration::from_secs(10)).expect("waits");
    for name in names {
        let sql = "INSERT INTO domains (uuid, name, running, phase, reason, stamp_ns, boot, since_unix_ms) VALUES (?1, ?2, 1, 'running', 'booted', 9000000000000000000, 'b', 1)";
        // The table is there a moment after the file.
        wait_for("it is written", || db.execute(sql, (format!("00000000-0000-4000-8000-{name:0>12}"), name)).is_ok());
    }
}

fn jobs(served: &Served) -> Vec<Value> {
    served.get("/api/v1/jobs").as_array().expect("a list").clone()
}

fn of_kind<'a>(jobs: &'a [Value], kind: &str) -> Vec<&'a Value> {
    jobs.iter().filter(|job| job["kind"] == kind).collect()
}

#[test]
fn a_daemon_that_is_killed_again_and_again_orders_each_instant_once() {
    let mut served = Served::new(&format!("policies:\n{}daemon: {{ jobs_max: 4 }}\n", policy("often", "    schedule: \"* * * * * *\"\n")));
    served.start();
    put(&served, &["web1", "web2"]);
    let scheduled = |served: &Served| jobs(served).into_iter().filter(|job| job["trigger"] == "schedule" && job["retry_of"].is_null()).collect::<Vec<_>>();
    wait_for("the first come", || scheduled(&served).len() >= 2);
    for round in 0..6 {
        std::thread::sleep(Duration::from_millis(300 * round));
        served.kill();
        served.start();
    }
    // After a pause all that was missed is one run.
    served.kill();
    std::thread::sleep(Duration::from_secs(4));
    let before = Instant::now();
    served.start();
    let newest = |served: &Served| scheduled(served).len();
    let known = newest(&served);
    wait_for("it goes on", || newest(&served) > known + 2);
    let all = scheduled(&served);
    let instants: Vec<(String, String)> =
        all.iter().map(|job| (job["domain"].as_str().expect("a name").to_owned(), job["why"].as_str().expect("a reason").to_owned())).collect();
    let once: BTreeSet<_> = instants.iter().collect();
    assert_eq!(once.len(), instants.len(), "an instant that was ordered twice: {instants:#?}");
    // One second, one job of each domain, at most; those of the pause are not made up one by one.
    let since = usize::try_from(before.elapsed().as_secs()).expect("few") + 3;
    assert!(newest(&served) - known <= 2 * since, "{} in {since} s", newest(&served) - known);
    for domain in ["web1", "web2"] {
        assert!(instants.iter().filter(|(name, _)| name == domain).count() >= 3, "{instants:?}");
    }
}

#[test]
fn a_clock_that_jumps_has_one_run_for_all_that_it_passed_over() {
    let mut served = Served::new(&format!("policies:\n{}", policy("monthly", "    schedule: \"@monthly\"\n")));
    let library = served.place.clock_library();
    let start = |served: &mut Served, days: i64| {
        served.start_by(|mut command| {
            command.env("LD_PRELOAD", &library).env("CLOCK_SHIFT_S", (days * 86_400).to_string());
            command
        });
    };
    // By their numbers: a month later the first is forgotten. None is tried again, for libvirt's test driver is refused (13).
    let scheduled = |served: &Served| jobs(served).iter().filter_map(|job| job["id"].as_u64()).max().unwrap_or(0);
    start(&mut served, 0);
    put(&served, &["web1"]);
    let slots = |served: &Served| {
        let db = Connection::open(served.state().join("jobs.sqlite")).expect("opens");
        db.query_row("SELECT count(*) FROM slots WHERE done_unix_ms > 0", [], |r| r.get::<_, i64>(0)).unwrap_or(0)
    };
    wait_for("it is known when it was first seen", || slots(&served) == 1);
    // Forward over one or two of them, and again over the same from somewhere in between.
    for (days, count) in [(0, 0), (40, 1), (40, 1), (20, 1), (41, 1), (75, 2)] {
        served.kill();
        start(&mut served, days);
        let began = Instant::now();
        while scheduled(&served) < count && began.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(100));
        }
        // Two looks more.
        std::thread::sleep(Duration::from_millis(2500));
        assert_eq!(scheduled(&served), count, "{days}: {:#?}", jobs(&served));
    }
}

#[test]
fn nothing_begins_outside_of_a_window_or_over_the_limit_of_a_store() {
    // A window that is closed now, whenever now is.
    let hour = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).hour();
    let window = format!("{:02}:00-{:02}:00", (hour + 3) % 24, (hour + 4) % 24);
    let more = format!("    schedule: \"* * * * * *\"\n    window: \"{window}\"\n    timezone: UTC\n");
    let served = Served::started(&format!("policies:\n{}{}", policy("closed", &more), policy("open", "    schedule: \"* * * * * *\"\n")));
    put(&served, &["web1"]);
    wait_for("the other policy makes jobs", || !of_kind(&jobs(&served), "backup").is_empty());
    assert!(jobs(&served).iter().all(|job| job["policies"] == serde_json::json!(["open"]) && job["windows"] == serde_json::json!([])));
    // One at a time of this store, whatever the daemon may do at once.
    fs::write(served.place.path("image"), noise(200_000, 1)).expect("writes");
    let text = fs::read_to_string(served.config()).expect("reads");
    let limited = text.replace("  slow-a: { ", "  slow-a: { jobs_max: 1, ").split("policies:").next().expect("stores").to_owned() + "daemon: { jobs_max: 4 }\n";
    fs::write(served.config(), limited).expect("writes");
    assert_eq!(served.ask("POST", "/api/v1/reload", "{}").0, 200);
    let first = served.save_slowly("a", "first");
    served.wait_pid(first);
    let second = served.save_slowly("a", "second");
    let other = served.save("image", "other");
    served.wait_state(other, "done");
    assert_eq!((&served.job(first)["state"], &served.job(second)["state"]), (&"running".into(), &"queued".into()));
    served.open_pipe("a");
    served.wait_state(first, "failed");
    served.wait_pid(second);
    served.open_pipe("a");
    served.wait_state(second, "failed");
}

#[test]
fn a_domain_that_names_a_policy_of_elsewhere_is_told() {
    let served = Served::started(&format!("policies:\n{}", policy("daily", "    schedule: \"@daily\"\n")));
    put(&served, &["web1"]);
    let db = Connection::open(served.state().join("domains.sqlite")).expect("opens");
    db.execute("UPDATE domains SET word = ?1", [r#"{"policies": ["gold"], "tags": [], "excluded": false}"#]).expect("writes");
    let told = || served.troubles().into_iter().find(|reason| reason.contains("web1") && reason.contains("'gold'"));
    wait_for("health tells", || told().is_some());
    db.execute("UPDATE domains SET word = '{}'", []).expect("writes");
    wait_for("and forgets", || told().is_none());
}
