//! A policy on a schedule with a real domain: who is selected by its own metadata, which disks are left out, each instant once though the daemon is killed, and
//! retention, collection and scrub afterwards.

use cairn_lab::daemon::Daemon;
use cairn_lab::suite::Suite;
use cairn_lab::{Options, lab_test};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(500);
const METADATA: &str = "https://cairn-backup.org/xmlns/domain/1.0";
/// Between two instants of the schedule.
const PERIOD: Duration = Duration::from_secs(15);

fn config(suite: &Suite) -> String {
    let (store, key) = (suite.cairn.store().display(), suite.cairn.key().display());
    format!(
        "stores:
  main: {{ url: {store}, key_file: {key} }}
policies:
  often:
    select: {{ tags: [unused] }}
    schedule: \"*/15 * * * * *\"
    stores: [main]
    quiesce: {{ level: never }}
    retention: {{ keep_last: 2 }}
    verify: {{ data_percent_daily: 100 }}
"
    )
}

fn wait(daemon: &Daemon, what: &str, is: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let begin = Instant::now();
    loop {
        let jobs = daemon.jobs().expect("jobs");
        if is(&jobs) {
            return jobs;
        }
        assert!(begin.elapsed() < LIMIT, "{what}: {jobs:#?}\n{}", daemon.said());
        std::thread::sleep(POLL);
    }
}

fn good<'a>(jobs: &'a [Value], kind: &str) -> Vec<&'a Value> {
    jobs.iter().filter(|job| job["kind"] == kind && (job["state"] == "done" || job["state"] == "warnings")).collect()
}

fn scheduled(jobs: &[Value]) -> Vec<&str> {
    jobs.iter().filter(|job| job["trigger"] == "schedule" && job["retry_of"].is_null()).map(|job| job["why"].as_str().expect("a reason")).collect()
}

lab_test!(a_domain_is_saved_by_the_clock_as_its_metadata_says, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let word = "<backup policy='often'><disk target='vdb' exclude='yes'/></backup>";
    suite.domain.virsh_ok(&["metadata", "lab1", "--uri", METADATA, "--key", "cairn", "--set", word, "--live", "--config"]).expect("virsh metadata");

    let path = suite.path("policies.yaml");
    fs::write(&path, config(&suite)).expect("written");
    let path = path.to_string_lossy().into_owned();
    let uuid = suite.domain.virsh_ok(&["domuuid", "lab1"]).expect("uuid").trim().to_owned();
    let checked = suite.cairn.json(&["policy", "check", "--config", &path]).expect("policy check");
    let taken = json!([{"name": "often", "domains": [{"name": "lab1", "uuid": uuid, "by": "metadata", "disks_excluded": ["vdb"]}]}]);
    assert_eq!((&checked["policies"], &checked["unprotected"]), (&taken, &json!([])), "{checked:#}");

    // By hand: points that retention may take, and others that are none of the policy's.
    for name in ["lab1", "lab1", "lab1"] {
        suite.cairn.ok(&["backup", name, "--quiesce", "never"]).expect("a point");
    }
    let oldest = suite.points()[0].clone();
    fs::write(suite.path("image"), vec![7_u8; 1 << 20]).expect("written");
    let image = suite.path("image").to_string_lossy().into_owned();
    for _ in 0..3 {
        suite.cairn.ok(&["backup-image", &image, "--name", "other"]).expect("a point");
    }
    let mut daemon = Daemon::start(&lab, &config(&suite)).expect("the daemon");
    let record = daemon.wait_record(&uuid, "its word is known", LIMIT, |r| r["metadata"]["policies"] == json!(["often"])).expect("seen");
    assert_eq!(record["metadata"]["disks_excluded"], json!(["vdb"]));

    let jobs = wait(&daemon, "prune, gc and verify after the first backup", |jobs| {
        ["backup", "prune", "gc", "verify"].iter().all(|kind| !good(jobs, kind).is_empty())
    });
    let first = good(&jobs, "backup")[0].clone();
    assert_eq!((&first["trigger"], &first["policies"], &first["domain"]), (&json!("schedule"), &json!(["often"]), &json!("lab1")), "{first:#}");
    let point = suite.point(first["point"].as_str().expect("a point"));
    let targets: Vec<&str> = point["disks"].as_array().expect("disks").iter().map(|d| d["target"].as_str().expect("a target")).collect();
    assert_eq!(targets, ["vda"], "vdb is left out: {point:#}");
    assert_eq!(point["disks"][0]["mode"], "incremental", "{point:#}");
    assert_eq!(suite.cairn.points("other").expect("points").len(), 3, "they are not the policy's");
    assert!(!suite.points().contains(&oldest), "two more were there, and one came by the clock");

    // Two instants and more pass by.
    daemon.kill().expect("it lived");
    let killed = Instant::now();
    let before = suite.points().len();
    std::thread::sleep(PERIOD * 2 + PERIOD / 3);
    // A job that ran when the daemon died may have made one.
    assert!(suite.points().len() <= before + 1);
    daemon.start_again().expect("it comes up");
    let known = scheduled(&daemon.jobs().expect("jobs")).len();
    let jobs = wait(&daemon, "it goes on", |jobs| scheduled(jobs).len() >= known + 2);
    let all = scheduled(&jobs);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "no instant twice: {all:#?}");
    // What was missed is one job, and each instant since one.
    let since = usize::try_from(killed.elapsed().as_secs() / PERIOD.as_secs()).expect("few");
    assert!(all.len() - known <= since, "{all:#?} in {since} instants");
    let health = daemon.health().expect("it answers");
    assert!(health["reasons"].as_array().expect("a list").iter().all(|r| !r.as_str().unwrap_or_default().contains("by the clock")), "{health:#}");

    // A domain that says so is nobody's.
    suite
        .domain
        .virsh_ok(&["metadata", "lab1", "--uri", METADATA, "--key", "cairn", "--set", "<backup exclude='yes'/>", "--live", "--config"])
        .expect("virsh metadata");
    daemon.look(Some(&uuid)).expect("asked");
    daemon.wait_record(&uuid, "it is excluded", LIMIT, |r| r["metadata"]["excluded"] == true).expect("seen");
    let count = scheduled(&daemon.jobs().expect("jobs")).len();
    std::thread::sleep(PERIOD + PERIOD / 5);
    assert!(scheduled(&daemon.jobs().expect("jobs")).len() <= count, "nothing of it by the clock");
});
