//! `cairn reconcile`: what is left of dead backups goes between backups, what is of use stays, and nothing of others is touched.

use cairn_lab::frozen::child_named;
use cairn_lab::process::{run, wait_for};
use cairn_lab::steps::Holder;
use cairn_lab::suite::{CLEAN_LIMIT, Suite, assert_refused, mode};
use cairn_lab::{Options, cairn, lab_test, traces};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
/// Of another program's.
const FOREIGN: &str = "not-ours";

/// One look at one domain.
fn look(suite: &Suite) -> Value {
    suite.cairn.json(&["reconcile", "lab1"]).expect("cairn reconcile")[0].clone()
}

fn kinds(report: &Value) -> Vec<String> {
    let mut kinds: Vec<String> = report["found"].as_array().expect("found").iter().map(|f| f["kind"].as_str().expect("kind").to_owned()).collect();
    for found in report["found"].as_array().expect("found") {
        assert_eq!(found["gone"], true, "{report}");
    }
    kinds.sort();
    kinds.dedup();
    kinds
}

fn start(suite: &Suite, args: &[&str]) -> Child {
    suite.cairn.command(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
}

/// Kills a backup's guard and then the backup, so that nobody is left to clean up.
fn kill_both(child: &mut Child) {
    let pid = child.id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("children");
    // Stopped first: it would see its guard end, and clean up.
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGSTOP).expect("our child");
    for guard in children.split_whitespace() {
        kill(Pid::from_raw(guard.parse().expect("a pid")), Signal::SIGKILL).expect("its guard");
    }
    child.kill().expect("our child");
    child.wait().expect("reaped");
}

/// Starts a backup and kills it with its guard once `is_time`.
fn dead_backup(suite: &Suite, is_time: impl Fn() -> bool) {
    let mut child = start(suite, &["backup", "lab1"]);
    let begin = Instant::now();
    while !is_time() {
        assert!(begin.elapsed() < LIMIT && child.try_wait().expect("our child").is_none(), "the backup was over before it could be killed");
    }
    kill_both(&mut child);
}

fn churn(suite: &Suite, number: u32) {
    suite.domain.sh(&format!("for d in a b; do /bin/lab-guest __lab-guest noise /mnt/$d/churn 0 8388608 {number}; done")).expect("churn");
}

fn is_tainted() -> bool {
    fs::read_to_string("/run/libvirt/qemu/lab1.xml").expect("libvirt's state").contains("custom-monitor")
}

lab_test!(what_a_dead_backup_left_goes_and_what_is_of_use_stays, Options { data_mib: 72, ..Options::small() }, |lab| {
    let suite = Suite::new(&lab);
    // Never backed up: nothing of ours is in it, and it is not asked.
    let all = suite.cairn.json(&["reconcile"]).expect("cairn reconcile");
    assert_eq!((&all[0]["name"], &all[0]["outcome"]), (&json!("lab1"), &json!("nothing-of-ours")));
    assert!(!is_tainted(), "a monitor command taints a domain for nothing");
    let _first = suite.quiet_backup("first");
    let tracked = |report: &Value| report["disks"].as_array().expect("disks").iter().filter(|d| d["tracked"].as_array().is_some_and(|t| t.len() == 1)).count();
    let report = look(&suite);
    assert_eq!((report["outcome"].as_str(), kinds(&report).len(), tracked(&report)), (Some("looked"), 0, 2), "{report}");
    assert_eq!(report["points"][0]["id"], json!(suite.points()[0]));

    // Somebody else's bitmap, before everything that follows.
    let node = suite.domain.qmp("query-block", &Value::Null).expect("query-block")[0]["inserted"]["node-name"].as_str().expect("node").to_owned();
    suite.domain.qmp("block-dirty-bitmap-add", &json!({"node": node, "name": FOREIGN})).expect("a bitmap of somebody else's");

    // Job and guard killed while the disks are read: job, exports, copies, scratch, and the bitmaps of a session that commits no more.
    churn(&suite, 1);
    let mut held = Holder::new(&suite).hold(&suite, "reading begins");
    let guard = child_named(held.pid(), "guard").expect("a guard");
    for pid in [guard, held.pid()] {
        kill(pid, Signal::SIGKILL).expect("it waits");
    }
    held.ends("the killed backup");
    // A look meets nobody; it is told apart from the backup that a person starts at the same moment.
    let report = look(&suite);
    let found = kinds(&report);
    for kind in ["dead-bitmap", "export", "job", "scratch"] {
        assert!(found.iter().any(|f| f == kind), "{kind} is not among {found:?}");
    }
    suite.assert_left_alone(CLEAN_LIMIT);
    assert_eq!(tracked(&look(&suite)), 2, "the bitmaps of the last point stay");

    // The same while the guest is frozen.
    churn(&suite, 2);
    dead_backup(&suite, || suite.domain.freeze_status().is_ok_and(|s| s == "frozen"));
    assert_eq!(suite.domain.freeze_status().expect("status"), "frozen", "nobody is left to thaw it");
    assert!(kinds(&look(&suite)).contains(&"freeze".to_owned()));
    suite.assert_left_alone(CLEAN_LIMIT);
    let second = suite.quiet_backup("second");
    let point = suite.point(&second.id);
    assert_eq!((mode(&point, "vda").as_str(), mode(&point, "vdb").as_str()), ("incremental", "incremental"), "{point}");
    suite.assert_restores(&second);

    // A store that is away denies nothing; once it is back, and its point forgotten, the bitmaps go.
    let away = suite.path("away");
    suite.cairn.ok(&["forget", &second.id, "--force"]).expect("forget");
    fs::rename(suite.cairn.store(), &away).expect("moved");
    let output = suite.cairn.run(&["reconcile", "lab1", "--json"]).expect("it ends");
    assert_refused(&output, cairn::WARNINGS, "store");
    let report: Value = serde_json::from_str(&output.text()).expect("JSON");
    assert_eq!((kinds(&report[0]).len(), tracked(&report[0])), (0, 2), "{report}");
    fs::rename(&away, suite.cairn.store()).expect("moved");
    let report = look(&suite);
    assert_eq!((kinds(&report), tracked(&report)), (vec!["dead-bitmap".to_owned()], 0), "{report}");
    let text = suite.domain.qmp("query-block", &Value::Null).expect("query-block").to_string();
    assert!(text.contains(FOREIGN), "somebody else's bitmap stays");

    // Who is at work is not disturbed, and a look keeps nobody from working.
    let mut backup = start(&suite, &["backup", "lab1"]);
    wait_for("start of the backup", LIMIT, Duration::from_millis(5), || Ok(traces::look(&suite.domain)?.libvirt_job.then_some(()))).expect("it begins");
    let output = suite.cairn.run(&["reconcile", "lab1"]).expect("it ends");
    assert_eq!(output.code(), cairn::BUSY, "{output:?}");
    assert!(backup.wait().expect("it ends").success());
    for _ in 0..5 {
        let mut looking = start(&suite, &["reconcile", "lab1"]);
        suite.cairn.ok(&["backup", "lab1", "--quiesce", "never"]).expect("a backup waits for a look's end");
        assert!(looking.wait().expect("it ends").code().is_some_and(|code| code == cairn::DONE || code == cairn::BUSY));
    }

    let output = run(&mut suite.cairn.command(&["reconcile", "nosuch"]), LIMIT).expect("it ends");
    assert_refused(&output, cairn::NOT_FOUND, "nosuch");
});
