//! `cairn status` and `cairn check` with a real domain: a promise that is kept, one that is not, and what could not be seen.

use cairn_lab::daemon::Daemon;
use cairn_lab::suite::Suite;
use cairn_lab::{Options, lab_test};
use serde_json::{Value, json};
use std::fs;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);
/// The shortest that a policy may promise.
const RPO: Duration = Duration::from_secs(60);

fn config(suite: &Suite, rpo: &str) -> String {
    let (store, key) = (suite.cairn.store().display(), suite.cairn.key().display());
    format!("stores:\n  main: {{ url: {store}, key_file: {key} }}\npolicies:\n  nightly: {{ select: {{ names: [\"lab*\"] }}, stores: [main], rpo: {rpo} }}\n")
}

fn check(suite: &Suite, code: i32, word: &str) {
    let said = suite.cairn.run(&["check", "--config", &suite.path("cairn.yaml").to_string_lossy()]).expect("it ends");
    println!("{}", said.text());
    assert!(said.code() == code && said.text().contains(word), "{code} {word}: {said:?}");
}

/// All promises hold; that the machine which runs the suite has little room may be told besides.
fn kept(suite: &Suite) {
    let said = suite.cairn.run(&["check", "--config", &suite.path("cairn.yaml").to_string_lossy()]).expect("it ends");
    let text = said.text();
    let is_only_room = text.lines().skip(1).all(|line| line.starts_with("WARNING: store main: ") && line.contains(" are free"));
    let is_ok = said.code() == 0 && text.starts_with("CAIRN OK - 1 domains within their RPO | ");
    assert!((is_ok || said.code() == 1 && is_only_room) && text.contains(" kept=1 late=0;;0 "), "{text}");
}

fn status(suite: &Suite) -> Value {
    let said = suite.cairn.run(&["status", "--json", "--config", &suite.path("cairn.yaml").to_string_lossy()]).expect("it ends");
    serde_json::from_str(&said.text()).unwrap_or_else(|e| panic!("{e}: {said:?}"))
}

lab_test!(a_promise_is_kept_until_its_point_is_too_old, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let mut daemon = Daemon::start(&lab, &config(&suite, "26h")).expect("the daemon");
    check(&suite, 2, "lab1: no good point in main");
    let jobs = daemon.back_up(&json!({"domain": "lab1"})).expect("asked");
    daemon.wait_job(&jobs[0]["id"], "its end", LIMIT, |job| !["queued", "running"].iter().any(|state| job["state"] == *state)).expect("it ends");
    let made = Instant::now();
    kept(&suite);
    let page = status(&suite);
    let claim = &page["domains"][0]["claims"][0];
    assert_eq!((&claim["point"], &claim["standing"]), (&json!(suite.points()[0]), &json!("kept")), "{page:#}");

    // Without its store nothing can be told of it.
    let aside = suite.path("aside");
    fs::rename(suite.cairn.store(), &aside).expect("moved");
    check(&suite, 3, "store main");
    fs::rename(&aside, suite.cairn.store()).expect("moved back");
    kept(&suite);

    daemon.kill().expect("it ran");
    check(&suite, 2, "policies make no points");
    daemon.start_again().expect("it starts");

    // The same point, and a promise that it does not keep any more.
    fs::write(suite.path("cairn.yaml"), config(&suite, &format!("{}s", RPO.as_secs()))).expect("written");
    std::thread::sleep((RPO + Duration::from_secs(5)).saturating_sub(made.elapsed()));
    check(&suite, 2, "lab1: the newest good point in main is");
    assert_eq!(status(&suite)["domains"][0]["standing"], "late");
});
