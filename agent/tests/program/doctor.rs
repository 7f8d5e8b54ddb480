//! `cairn doctor` where no guest is needed: stores, keys, clocks, configuration, a daemon that hangs, what is half done.

use crate::place::{Ended, Place, noise};
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

/// No host of a test has libvirt there.
const NO_LIBVIRT: &str = "qemu+unix:///system?socket=/no/such/socket";
/// The limits of all checks that run beside each other, on a busy machine.
const LIMIT: Duration = Duration::from_secs(75);

fn doctor(place: &Place, more: &[&str]) -> (Ended, Value) {
    let socket = place.path("api.sock").display().to_string();
    let config = ["--config", &place.config()].map(str::to_owned);
    let args = ["doctor", "--json", "-c", NO_LIBVIRT, "--socket", &socket];
    let args: Vec<&str> = args.into_iter().chain(config.iter().map(String::as_str)).chain(more.iter().copied()).collect();
    let start = Instant::now();
    let ended = place.run(&args);
    assert!(start.elapsed() < LIMIT, "it took {:?}", start.elapsed());
    let report = ended.json();
    for check in report["checks"].as_array().expect("checks") {
        assert_eq!(check["status"] == "ok", check["remedy"].is_null(), "what is not well has a remedy: {check}");
    }
    (ended, report)
}

/// The one finding of a check.
fn of<'a>(report: &'a Value, check: &str) -> &'a Value {
    let found: Vec<&Value> = report["checks"].as_array().expect("checks").iter().filter(|c| c["check"] == check).collect();
    assert_eq!(found.len(), 1, "{check}: {report:#}");
    found[0]
}

fn assert_is(report: &Value, check: &str, status: &str, words: &[&str]) {
    let found = of(report, check);
    assert_eq!(found["status"], status, "{found:#}");
    for word in words {
        assert!(found.to_string().contains(word), "{word} is not in {found:#}");
    }
}

/// Name, size and time of all that is there.
fn snapshot(folder: &Path, out: &mut Vec<(String, u64, SystemTime)>) {
    for entry in fs::read_dir(folder).expect("lists").map(|e| e.expect("an entry")) {
        let meta = entry.metadata().expect("is there");
        out.push((entry.path().display().to_string(), meta.len(), meta.modified().expect("a time")));
        if meta.is_dir() {
            snapshot(&entry.path(), out);
        }
    }
    out.sort();
}

impl Place {
    fn config(&self) -> String {
        let path = self.path("cairn.yaml");
        if !path.exists() {
            fs::write(&path, "stores: {}\n").expect("writes");
        }
        path.display().to_string()
    }
}

#[test]
fn a_store_that_is_well_is_told_so_and_stays_as_it_is() {
    let place = Place::new();
    place.save("data", &noise(300_000, 1));
    let (mut before, mut after) = (Vec::new(), Vec::new());
    snapshot(&place.store(), &mut before);
    let (ended, report) = doctor(&place, &["--scratch-dir", &place.path("scratch").display().to_string()]);
    for (check, word) in [("config", "0 stores"), ("store", "1 points"), ("key", "key"), ("clock", "dated"), ("daemon", "no policy"), ("restore", "half")] {
        assert_is(&report, check, "ok", &[word]);
    }
    assert!(["ok", "warning"].contains(&of(&report, "mount")["status"].as_str().expect("a word")), "{report}");
    assert_eq!(of(&report, "space")["store"], place.store().display().to_string());
    snapshot(&place.store(), &mut after);
    assert_eq!(before, after, "nothing of the store is changed");
    assert!(!place.path("scratch").exists() && !place.path("api.sock").exists());
    // What fails here is libvirt, which is not there, and maybe tools that are not installed.
    assert_is(&report, "libvirt", "failed", &["/no/such/socket", "systemctl"]);
    assert_eq!((ended.code, report["status"].as_str()), (1, Some("failed")));
    let error: Value = serde_json::from_str(ended.err.lines().last().expect("a line")).expect("an object on stderr");
    assert!(error["error"]["message"].as_str().is_some_and(|m| m.contains("libvirt (host)")), "{error}");
    let text = place.run(&["doctor", "-q", "-c", NO_LIBVIRT]).expect(1);
    assert!(text.out.contains("failed   libvirt") && text.out.contains("what to do:") && !text.out.contains("ok       "), "{}", text.out);
}

#[test]
fn a_named_domain_that_cannot_be_looked_at_has_failed() {
    let place = Place::new();
    let (ended, report) = doctor(&place, &["web1"]);
    assert_eq!(ended.code, 1);
    assert_is(&report, "domain", "failed", &["web1", "libvirt"]);
}

#[test]
fn keys_and_stores_that_are_away_are_named_with_what_to_do() {
    let place = Place::new();
    place.save("data", &noise(100_000, 1));
    let key = place.path("key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("chmod");
    let (_, report) = doctor(&place, &[]);
    assert_is(&report, "key", "failed", &["chmod 600", "644"]);
    fs::rename(&key, place.path("elsewhere")).expect("moved");
    let (_, report) = doctor(&place, &[]);
    assert_is(&report, "key", "failed", &["No such file", "recovery key"]);
    fs::write(&key, "no key at all").expect("writes");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("chmod");
    let (_, report) = doctor(&place, &[]);
    assert_is(&report, "key", "failed", &["no key file"]);
    fs::rename(place.store(), place.path("away")).expect("moved");
    let (ended, report) = doctor(&place, &[]);
    assert_is(&report, "store", "failed", &["store", "findmnt"]);
    assert_eq!(ended.code, 1);
}

#[test]
fn a_store_that_does_not_answer_hangs_nobody() {
    let place = Place::new();
    place.save("data", &noise(100_000, 1));
    // The key of one lies where a read never ends, as on a file server that is gone.
    let fifo = place.path("fifo");
    assert!(std::process::Command::new("mkfifo").args(["-m", "600"]).arg(&fifo).status().expect("mkfifo").success());
    let (store, key) = (place.store(), place.path("key"));
    let config = format!("stores:\n  good: {{ url: {store:?}, key_file: {key:?} }}\n  hung: {{ url: {store:?}, key_file: {fifo:?} }}\n");
    fs::write(place.path("cairn.yaml"), config).expect("writes");
    let (ended, report) = doctor(&place, &[]);
    let stores: Vec<&Value> = report["checks"].as_array().expect("checks").iter().filter(|c| c["check"] == "store").collect();
    let status = |name: &str| stores.iter().find(|c| c["store"] == name).map(|c| c["status"].clone()).unwrap_or_else(|| panic!("{name}: {report:#}"));
    assert_eq!((status("good"), status("hung"), ended.code), ("ok".into(), "failed".into(), 1));
    assert!(stores.iter().any(|c| c["found"].as_str().is_some_and(|f| f.contains("no answer within"))), "{stores:#?}");
}

#[test]
fn a_wrong_configuration_is_shown_by_line_and_column() {
    let place = Place::new();
    fs::write(place.path("cairn.yaml"), "stores: {}\npolicys: {}\n").expect("writes");
    let (ended, report) = doctor(&place, &[]);
    assert_eq!(ended.code, 1);
    assert_is(&report, "config", "failed", &["cairn.yaml:2:", "policys"]);
    // The store of the command line is looked at all the same.
    assert_is(&report, "store", "ok", &[]);
}

#[test]
fn policies_without_a_daemon_and_a_daemon_that_hangs_have_failed() {
    let place = Place::new();
    let config = format!(
        "stores:\n  main: {{ url: {:?}, key_file: {:?} }}\npolicies:\n  all: {{ select: {{ names: ['*'] }}, on: [shutdown], stores: [main] }}\n",
        place.store(),
        place.path("key")
    );
    fs::write(place.path("cairn.yaml"), config).expect("writes");
    let (_, report) = doctor(&place, &[]);
    assert_is(&report, "daemon", "failed", &["policies make no points", "systemctl start cairn"]);
    // It lets callers in, and says nothing.
    let _mute = std::os::unix::net::UnixListener::bind(place.path("api.sock")).expect("binds");
    let (_, report) = doctor(&place, &[]);
    assert_is(&report, "daemon", "failed", &["no answer within", "systemctl status cairn"]);
}

#[test]
fn what_is_half_restored_and_half_made_is_told() {
    let place = Place::new();
    let state = place.path("state");
    fs::create_dir_all(state.join("in-place")).expect("made");
    let record = serde_json::json!({"key": "u", "name": "web1", "point": "0123456789abcdef", "point_name": "web1", "disks": ["vda"], "daemon": null});
    fs::write(state.join("in-place/u.json"), record.to_string()).expect("writes");
    fs::create_dir_all(state.join("runs/begun")).expect("made");
    let (_, report) = doctor(&place, &[]);
    assert_is(&report, "restore", "failed", &["web1", "vda", "restore 0123456789abcdef --in-place"]);
    assert_is(&report, "run", "warning", &["begun"]);
}
