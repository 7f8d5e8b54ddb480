//! The configuration, as people have it checked and reloaded.

use crate::{
    place::noise,
    served::{Served, wait_for},
};
use std::fs;

const POLICY: &str = "policies:\n  nightly:\n    select: { names: [\"web*\"] }\n    stores: [main]\n";

#[test]
fn a_file_is_checked_and_each_thing_that_is_wrong_is_told_with_its_place() {
    let served = Served::new(POLICY);
    let good = served.run(&["daemon", "--check-config"]).expect(0);
    assert!(good.out.contains("ok, 4 stores, 1 policies"), "{}", good.out);
    let named = served.place.path("other.yaml");
    fs::write(&named, "stores:\n  a: { url: x }\ndaemon:\n  jobs_max: 99\n").expect("writes");
    let bad = served.run(&["daemon", "--check-config", &named.display().to_string()]).expect(2);
    for line in [":2:13: ", ":4:13: jobs_max is 99; it must be within 1 and 64"] {
        assert!(bad.err.contains(&format!("{}{line}", named.display())), "{line}: {}", bad.err);
    }
    // A key that there is not hides nothing else.
    fs::write(&named, "stores:\n  a: { url: x, nonsense: 1 }\ndaemon:\n  jobs: 4\n  jobs_max: 99\n").expect("writes");
    for command in [&["daemon", "--check-config", &named.display().to_string()][..], &["doctor", "--config", &named.display().to_string()]] {
        let bad = served.run(command);
        for line in [":2:13: ", ":2:16: there is no key 'nonsense' here", ":4:3: there is no key 'jobs' here", ":5:13: jobs_max is 99"] {
            assert!(bad.code != 0 && format!("{}{}", bad.out, bad.err).contains(&format!("{}{line}", named.display())), "{line}: {bad:?}");
        }
    }
    fs::write(&named, "stores:\n  a: { url: x }\ndaemon:\n  jobs_max: 99\n").expect("writes");
    let json = served.run(&["daemon", "--check-config", &named.display().to_string(), "--json"]).expect(2);
    assert!(json.err.starts_with("{\"error\"") && json.err.contains(":2:13: "), "{}", json.err);
    assert_eq!(served.run(&["daemon", "--check-config", "--json"]).expect(0).json()["policies"][0], "nightly");
    // A daemon does not start with it, and says the same.
    let refused = served.run(&["daemon", "--config", &named.display().to_string()]).expect(2);
    assert!(refused.err.contains(":4:13: "), "{}", refused.err);
    served.run(&["daemon", "--check-config", "/nowhere"]).expect(2);
}

#[test]
fn a_reload_that_is_wrong_changes_nothing_and_says_so() {
    let mut served = Served::started(POLICY);
    let asks = |served: &Served| served.ask("POST", "/api/v1/backups", "{\"domain\": \"test\", \"policy\": \"nightly\"}").0;
    assert_eq!(asks(&served), 202);
    fs::write(served.config(), "stores: {}\nnonsense: 1\n").expect("writes");
    let (status, said) = served.ask("POST", "/api/v1/reload", "");
    assert_eq!(status, 400, "{said}");
    assert_eq!((&said["error"], &said["code"]), (&"the configuration is wrong, and nothing was changed".into(), &2.into()), "{said}");
    assert!(said["remedy"].is_string() && said["wrong"].as_array().is_some_and(|all| all.len() == 1), "{said}");
    assert!(said["wrong"][0].as_str().expect("a line").contains("cairn.yaml:2:1: "), "{said}");
    // Two things are two texts, though there is a semicolon in one of them.
    fs::write(served.config(), "stores:\n  a: { url: x }\ndaemon:\n  jobs_max: 99\n").expect("writes");
    let (_, said) = served.ask("POST", "/api/v1/reload", "");
    let lines: Vec<&str> = said["wrong"].as_array().expect("a list").iter().filter_map(|line| line.as_str()).collect();
    assert!(lines.len() == 2 && lines[0].contains(":2:13: ") && lines[1].contains(":4:13: jobs_max is 99; it must be"), "{said}");
    fs::write(served.config(), "stores: {}\nnonsense: 1\n").expect("writes");
    assert_eq!(served.ask("POST", "/api/v1/reload", "").0, 400);
    let health = served.get("/api/v1/health");
    assert!(served.troubles().len() == 1 && served.troubles()[0].contains(":2:1: "), "{health}");
    assert!(health["status"] == "degraded" && health["config"]["wrong"][0].as_str().expect("a line").contains(":2:1: "), "{health}");
    assert_eq!(asks(&served), 202, "what was loaded counts on");
    let failed = served.run(&["daemon", "--reload"]).expect(2);
    assert!(failed.err.contains("nothing was changed") && failed.err.contains(":2:1: "), "{}", failed.err);
    // By a signal: to the log, and the daemon lives.
    served.signal(1);
    wait_for("it is told", || served.log().matches("was not reloaded").count() >= 5);

    served.configure("daemon: { jobs_max: 5, socket: /run/x.sock }\n");
    let reloaded = served.run(&["daemon", "--reload", "--json"]).expect(3);
    assert_eq!(reloaded.json()["restart_needed"], serde_json::json!(["daemon.socket"]));
    assert_eq!(served.troubles(), [""; 0]);
    assert_eq!(asks(&served), 404, "the policy is gone");
    served.configure(POLICY);
    served.signal(1);
    wait_for("the policy is back", || asks(&served) == 202);
    served.signal(15);
    assert!(served.ended().success());
}

#[test]
fn a_store_is_named_on_the_command_line() {
    let served = Served::new("");
    served.place.save("data", &noise(100_000, 1));
    let listed = served.run(&["list", "--store", "main", "--json"]).expect(0).json();
    assert_eq!(listed.as_array().expect("a list").len(), 1);
    let unknown = served.run(&["list", "--store", "nosuch"]).expect(10);
    assert!(unknown.err.contains("nosuch") && unknown.err.contains("it has main"), "{}", unknown.err);
    let away = served.run(&["list", "--store", "/nowhere/at/all"]).expect(10);
    assert!(away.err.contains("is it mounted?") && away.err.contains("cairn init"), "{}", away.err);
    // A folder of that name is meant before.
    let folder = served.place.path("main");
    fs::create_dir(&folder).expect("makes");
    let mut command = served.command(&["list", "--store", "main"]);
    let here = crate::place::ended(command.current_dir(served.place.dir.path()).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()));
    here.expect(10);
    // A configuration that is wrong is said, not passed over.
    fs::write(served.config(), "x").expect("writes");
    let wrong = served.run(&["list", "--store", "main"]).expect(2);
    assert!(wrong.err.contains("cairn.yaml:1:1"), "{}", wrong.err);
}
