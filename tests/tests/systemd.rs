//! The units under a real systemd: started, reloaded, restarted, killed, hung; each job is in a scope of its own and outlives all of that. The machine of
//! [`cairn_lab::machine`] has systemd as process 1; libvirt and its guest are the lab's.

use cairn_lab::frozen::{self, Job};
use cairn_lab::machine::Machine;
use cairn_lab::process::wait_for;
use cairn_lab::suite::Suite;
use cairn_lab::{Options, lab_test, transcript};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::cell::Cell;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);
const SERVICE: &str = "cairn.service";
const SOCKET: &str = "/run/cairn/api.sock";
const CONFIG: &str = "/etc/cairn/cairn.yaml";
/// What systemd-analyze gives the unit: 0 is shut in, 10 bare.
const EXPOSURE_MAX: f64 = 4.5;
/// Of the unit of the test; the shipped one has 120 s.
const WATCHDOG: Duration = Duration::from_secs(3);

fn over(job: &Value) -> bool {
    !["queued", "running"].iter().any(|state| job["state"] == *state)
}

fn text<'a>(job: &'a Value, key: &str) -> &'a str {
    job[key].as_str().unwrap_or_else(|| panic!("no {key} in {job:#}"))
}

fn job(machine: &Machine, id: i64) -> Value {
    let all = machine.json(&["jobs", "--all"]).expect("the daemon answers");
    all.as_array().and_then(|all| all.iter().find(|job| job["id"] == id)).cloned().unwrap_or_else(|| panic!("no job {id} in {all:#}"))
}

fn wait_job(machine: &Machine, id: i64, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let waited = wait_for(what, LIMIT, POLL, || {
        let job = job(machine, id);
        Ok(is(&job).then_some(job))
    });
    waited.unwrap_or_else(|e| panic!("{}: {:#}\n{}", e.report(), job(machine, id), machine.journal()))
}

fn asked(machine: &Machine, args: &[&str]) -> i64 {
    let said = machine.json(&[&["job", "run"], args].concat()).expect("asked");
    said["jobs"][0]["id"].as_i64().unwrap_or_else(|| panic!("no job in {said:#}"))
}

/// The control group of a process of the machine, by its number there.
fn group(machine: &Machine, pid: i64) -> String {
    let text = machine.ok(&["cat", &format!("/proc/{pid}/cgroup")]).expect("it lives");
    text.lines().find_map(|line| line.strip_prefix("0::")).expect("a unified group").to_owned()
}

fn main_pid(machine: &Machine) -> i64 {
    machine.property(SERVICE, "MainPID").expect("systemd answers").parse().expect("a number")
}

/// Waits for another daemon than that one, which is ready.
fn wait_other(machine: &Machine, old: i64) -> i64 {
    machine.wait_property(SERVICE, "MainPID", LIMIT, |pid| pid != "0" && pid != old.to_string()).expect("another daemon");
    machine.wait_property(SERVICE, "ActiveState", LIMIT, |state| state == "active").expect("it is ready");
    main_pid(machine)
}

/// Stops the command of a job (SIGSTOP) as soon as it is there: it waits until it is told to go on. Its number in the machine.
fn hold(machine: &Machine, id: i64) -> i64 {
    let begun = format!("/var/lib/cairn/jobs/{id}/process.json");
    let pid = wait_for("the job's process", LIMIT, POLL / 50, || {
        let begun = fs::read(&begun).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
        Ok(begun.and_then(|begun| begun["pid"].as_i64()))
    });
    let pid = pid.expect("it starts");
    machine.ok(&["kill", "-STOP", &pid.to_string()]).expect("it lives");
    pid
}

fn exposure(machine: &Machine) -> f64 {
    let said = machine.ok(&["systemd-analyze", "security", "--no-pager", SERVICE]).expect("a figure");
    let line = said.lines().rfind(|line| line.contains("exposure level")).expect("a figure");
    println!("{}", line.trim_start_matches(['→', ' ']));
    line.split_whitespace().find_map(|word| word.parse().ok()).expect("a number")
}

lab_test!(the_daemon_comes_and_goes_and_a_backup_goes_on, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let (store, key) = (suite.cairn.store().display(), suite.cairn.key().display());
    let config = format!("stores:\n  main: {{ url: {store}, key_file: {key} }}\n");
    let began = Instant::now();
    let machine = Machine::boot(&lab, &config).expect("a machine with systemd");
    println!(
        "systemd was up after {:.1} s: {}",
        began.elapsed().as_secs_f64(),
        machine.ok(&["systemctl", "--version"]).expect("a version").lines().next().unwrap_or("?")
    );

    // Ready is ready: the first call after the start is answered.
    let units = ["cairn.service", "cairn.socket"].map(|unit| format!("/etc/systemd/system/{unit}"));
    let verified = machine.run(&["systemd-analyze", "verify", "--man=no", &units[0], &units[1]]).expect("runs");
    assert!(verified.code() == 0 && !verified.err_text().contains("cairn"), "{}", verified.err_text());
    machine.ok(&["systemctl", "enable", "--now", SERVICE]).expect("started, and ready by sd_notify");
    assert_eq!(machine.json(&["jobs"]).expect("answers"), json!([]));
    assert_eq!(machine.property(SERVICE, "Type").expect("a type"), "notify");
    machine.wait_property(SERVICE, "StatusText", LIMIT, |text| text == "jobs: 0 running, 0 waiting").expect("it says how it is");
    for unit in [SERVICE, "cairn.socket"] {
        assert_eq!(machine.property(unit, "ActiveState").expect("a state"), "active", "{unit}");
        assert_eq!(machine.property(unit, "UnitFileState").expect("a state"), "enabled", "{unit}");
    }
    let meta = fs::symlink_metadata(SOCKET).expect("the socket");
    assert!(meta.file_type().is_socket() && (meta.mode() & 0o777, meta.uid()) == (0o600, 0), "{meta:?}");
    assert_eq!(fs::metadata("/var/lib/cairn").expect("the state").mode() & 0o777, 0o700);
    assert!(exposure(&machine) <= EXPOSURE_MAX, "the sandbox has become wider");

    // A real backup within the sandbox.
    let id = asked(&machine, &["--domain", "lab1", "--store", "main"]);
    let done = wait_job(&machine, id, "the backup's end", over);
    assert_eq!((&done["state"], suite.points()), (&json!("done"), vec![text(&done, "point").to_owned()]), "{done:#}");

    // One that waits, in a scope with its runner.
    let id = asked(&machine, &["--domain", "lab1", "--store", "main"]);
    let pid = hold(&machine, id);
    wait_job(&machine, id, "its process", |job| job["pid"] == pid);
    let scope = group(&machine, pid);
    let unit = scope.strip_prefix("/cairn.slice/").unwrap_or_else(|| panic!("{scope} is not below cairn.slice")).to_owned();
    assert!(unit.starts_with(&format!("cairn-job-{id}-")) && unit.ends_with(".scope"), "{unit}");
    let procs = machine.ok(&["cat", &format!("/sys/fs/cgroup{scope}/cgroup.procs")]).expect("its processes");
    assert_eq!(procs.lines().count(), 2, "the runner and the command: {procs:?}");
    let lives = |what: &str| {
        let now = job(&machine, id);
        assert_eq!((&now["state"], &now["pid"]), (&json!("running"), &json!(pid)), "{what}: {now:#}");
        assert_eq!(group(&machine, pid), scope, "{what}");
        assert_eq!(machine.property(&unit, "ActiveState").expect("a state"), "active", "{what}");
    };
    lives("started");

    // Reload: a file that is wrong is said, and changes nothing.
    let daemon = main_pid(&machine);
    fs::write(CONFIG, config.replace("stores:", "store:")).expect("written");
    let refused = machine.run(&["systemctl", "reload", SERVICE]).expect("runs");
    assert!(refused.code() != 0 && machine.journal().contains("did you mean 'stores'?"), "{}", machine.journal());
    machine.wait_property(SERVICE, "StatusText", LIMIT, |text| text.contains("configuration")).expect("systemctl status says so");
    fs::write(CONFIG, format!("{config}daemon: {{ jobs_max: 3 }}\n")).expect("written");
    machine.ok(&["systemctl", "reload", SERVICE]).expect("reloaded");
    assert_eq!(main_pid(&machine), daemon);
    lives("reloaded");

    machine.ok(&["systemctl", "restart", SERVICE]).expect("restarted");
    let daemon = wait_other(&machine, daemon);
    lives("restarted");

    // Stopped, and started by the next question, through the socket.
    machine.ok(&["systemctl", "stop", SERVICE]).expect("stopped");
    assert_eq!(machine.property(SERVICE, "Result").expect("a result"), "success");
    assert_eq!(machine.property(&unit, "ActiveState").expect("a state"), "active");
    lives("asked while the daemon was stopped");
    let daemon = wait_other(&machine, daemon);

    machine.ok(&["kill", "-KILL", &daemon.to_string()]).expect("killed");
    let daemon = wait_other(&machine, daemon);
    assert_eq!(machine.property(SERVICE, "NRestarts").expect("a number"), "1");
    lives("killed");

    // The watchdog: with signs of life nothing happens, without there is another daemon.
    let drop_in = format!(
        "mkdir -p /etc/systemd/system/cairn.service.d; printf '[Service]\\nWatchdogSec={}\\nTimeoutAbortSec=2\\n' > /etc/systemd/system/cairn.service.d/dog.conf",
        WATCHDOG.as_secs()
    );
    assert_eq!(machine.property(SERVICE, "WatchdogUSec").expect("a limit"), "2min", "as it is shipped");
    machine.ok(&["sh", "-c", &drop_in]).expect("written");
    machine.ok(&["systemctl", "daemon-reload"]).expect("loaded");
    // So many starts in a minute are refused, else (`StartLimitBurst`).
    machine.ok(&["systemctl", "reset-failed", SERVICE, "cairn.socket"]).expect("counted anew");
    machine.ok(&["systemctl", "restart", SERVICE]).expect("restarted");
    let daemon = wait_other(&machine, daemon);
    std::thread::sleep(WATCHDOG * 2);
    assert_eq!(main_pid(&machine), daemon, "it gives signs of life: {}", machine.journal());
    let began = Instant::now();
    machine.ok(&["kill", "-STOP", &daemon.to_string()]).expect("hung");
    wait_other(&machine, daemon);
    println!("a daemon that hung was replaced after {:.1} s", began.elapsed().as_secs_f64());
    assert!(machine.journal().contains("Watchdog timeout"), "{}", machine.journal());
    lives("hung");

    machine.ok(&["kill", "-CONT", &pid.to_string()]).expect("it lives");
    let done = wait_job(&machine, id, "the backup's end", over);
    assert_eq!((&done["state"], suite.points().len()), (&json!("done"), 2), "{done:#}");
    machine.wait_property(&unit, "LoadState", LIMIT, |state| state == "not-found").expect("its scope is gone");

    // Neither the job nor its guard needs a scope: first none is given, then there is no program for it.
    for (n, broken) in ["printf '#!/bin/sh\\nexit 1\\n' > /usr/bin/systemd-run", "rm /usr/bin/systemd-run"].into_iter().enumerate() {
        machine.ok(&["sh", "-c", broken]).expect("broken");
        let id = asked(&machine, &["--domain", "lab1", "--store", "main"]);
        let done = wait_job(&machine, id, "the backup's end", over);
        assert_eq!((&done["state"], suite.points().len()), (&json!("done"), 3 + n), "{broken}: {done:#}");
        let log = machine.ok(&["cairn", "job", "log", &id.to_string()]).expect("its log");
        assert!(log.contains("gives the guard no control group"), "{log}");
    }
});

/// The command of a backup job, as the lab's process namespace has it.
fn backup_process() -> Option<Pid> {
    let all = fs::read_dir("/proc").expect("processes").flatten();
    let mut pids = all.filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok());
    let is = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.split('\0').skip(1).take(2).eq(["backup", "--json"]));
    pids.find(is).map(Pid::from_raw)
}

// A job's scope is killed whole with its guest frozen: the guard is in another one, and thaws.
lab_test!(a_guard_outlives_the_scope_of_its_job, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let [_, image] = cairn_lab::lab::disks().map(|disk| disk.path);
    let (store, key) = (suite.cairn.store().display(), suite.cairn.key().display());
    let machine = Machine::boot(&lab, &format!("stores:\n  main: {{ url: {store}, key_file: {key} }}\n")).expect("a machine with systemd");
    machine.ok(&["systemctl", "enable", "--now", SERVICE]).expect("started");
    suite.domain.writer_start(0).expect("writer");
    let last = Cell::new(0);
    let mut case = frozen::frozen(&suite, &image, || {
        if last.get() != 0 {
            wait_job(&machine, last.get(), "the end of the one before", over);
        }
        last.set(asked(&machine, &["--domain", "lab1", "--store", "main"]));
        wait_job(&machine, last.get(), "its process", |job| job["pid"].is_i64() || over(job));
        // Known here by another number than in the machine.
        let pid = wait_for("the backup's process", LIMIT, POLL / 50, || Ok(backup_process())).expect("it runs");
        Job::Other(pid)
    });
    let number = job(&machine, last.get())["pid"].as_i64().expect("it runs");
    let unit = group(&machine, number).rsplit('/').next().expect("a unit").to_owned();
    assert!(unit.starts_with("cairn-job-"), "{unit}");
    let guards = machine.ok(&["systemctl", "list-units", "--plain", "--no-legend", "cairn-guard-*.scope"]).expect("systemd answers");
    assert_eq!(guards.lines().count(), 1, "the guard has a scope of its own: {guards}");
    machine.ok(&["systemctl", "kill", "--signal=KILL", &unit]).expect("killed");
    case.acted();
    case.ends(&suite, "the job's scope killed", Duration::from_secs(5));
    assert_eq!(wait_job(&machine, last.get(), "its end", over)["state"], "lost", "its runner was killed as well");
    let gone = || Ok(machine.ok(&["systemctl", "list-units", "--plain", "--no-legend", "cairn-guard-*.scope"])?.trim().is_empty().then_some(()));
    wait_for("the end of the guard's scope", LIMIT, POLL, gone).expect("nothing is left");
});

lab_test!(scopes_come_back_and_an_upgrade_costs_no_job, Options { guest: false, ..Options::small() }, |lab| {
    let suite = Suite::new(&lab);
    let (store, key) = (suite.cairn.store().display(), suite.cairn.key().display());
    let machine = Machine::boot(&lab, "stores:\n  main: { urls: /srv }\n").expect("a machine with systemd");
    // A configuration that is wrong: it fails at once, and once.
    assert!(machine.run(&["systemctl", "start", SERVICE]).expect("runs").code() != 0);
    machine.wait_property(SERVICE, "SubState", LIMIT, |state| state == "failed").expect("it stays so");
    assert_eq!(machine.property(SERVICE, "ExecMainStatus").expect("a code"), "2");
    assert_eq!(machine.property(SERVICE, "NRestarts").expect("a number"), "0");
    assert!(machine.journal().contains("cairn.yaml:2:11: there is no key 'urls' here, did you mean 'url'?"), "{}", machine.journal());
    fs::write(CONFIG, format!("stores:\n  main: {{ url: {store}, key_file: {key} }}\n")).expect("written");
    machine.ok(&["systemctl", "reset-failed"]).expect("forgotten");
    machine.ok(&["systemctl", "start", SERVICE]).expect("started");

    let image = suite.path("image");
    fs::write(&image, vec![7; 1 << 20]).expect("written");
    // What was said in the log of units tells of scopes, which are gone when the job is.
    let scopes = || machine.ok(&["journalctl", "--no-pager", "--quiet", "--output", "cat", "_PID=1"]).expect("a journal").matches("Started cairn-job-").count();
    let back_up = |name: &str| {
        let id = asked(&machine, &["--image", &image.to_string_lossy(), "--name", name, "--store", "main"]);
        let done = wait_job(&machine, id, "the job's end", over);
        assert_eq!(done["state"], "done", "{done:#}\n{}", machine.journal());
        id
    };
    let wait_scopes = |count: usize, what: &str| {
        let waited = wait_for(what, LIMIT, POLL, || Ok((scopes() == count).then_some(())));
        waited.unwrap_or_else(|e| panic!("{}: {} and not {count}", e.report(), scopes()));
    };
    back_up("first");
    wait_scopes(1, "a scope");

    // systemd-run fails for a while: the job is a plain process, and the next one in a scope again.
    machine.ok(&["sh", "-c", "mv /usr/bin/systemd-run /usr/bin/aside; printf '#!/bin/sh\\necho the bus is away >&2\\nexit 1\\n' > /usr/bin/systemd-run; chmod 755 /usr/bin/systemd-run"]).expect("broken");
    let second = back_up("second");
    wait_scopes(1, "no scope");
    let told = format!("systemd-run did not start job {second} in a scope (the bus is away)");
    assert!(machine.journal().contains(&told), "{}", machine.journal());
    machine.ok(&["mv", "/usr/bin/aside", "/usr/bin/systemd-run"]).expect("mended");
    back_up("third");
    wait_scopes(2, "a scope again");

    // A package that is upgraded under the daemon.
    machine.ok(&["sh", "-c", "cp /usr/bin/cairn /usr/bin/.new && mv /usr/bin/.new /usr/bin/cairn"]).expect("upgraded");
    let own = machine.ok(&["readlink", &format!("/proc/{}/exe", main_pid(&machine))]).expect("a link");
    assert!(own.trim().ends_with("(deleted)"), "{own}");
    back_up("fourth");
    wait_scopes(3, "a scope after the upgrade");

    // Without systemd-run there are no scopes, and that is said once.
    machine.ok(&["rm", "/usr/bin/systemd-run"]).expect("removed");
    back_up("fifth");
    back_up("sixth");
    wait_scopes(3, "no scope");
    assert_eq!(machine.journal().matches("there is no program systemd-run").count(), 1, "{}", machine.journal());
});

// The steps of docs/daemon.md, word for word, but for the places of what was built, of the store, and the domain's name.
lab_test!(the_steps_of_the_documentation_lead_to_a_first_point, Options::small(), |lab| {
    let machine = Machine::boot(&lab, "").expect("a machine with systemd");
    // As it is before anything was installed.
    machine.ok(&["sh", "-c", "rm -r /etc/systemd/system/cairn.* /usr/bin/cairn; systemctl daemon-reload"]).expect("bare");
    fs::remove_file(CONFIG).expect("removed");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("docs/daemon.md")).expect("the page");
    let steps = page.split_once("```sh\n").and_then(|(_, rest)| rest.split_once("\n```")).expect("the steps").0;
    let (checkout, store) = (lab.dir().join("checkout"), lab.dir().join("backup"));
    for (from, to) in [
        (lab.cairn().expect("a program"), "target/release/cairn"),
        (lab.hook().expect("libvirt's hook"), "target/x86_64-unknown-linux-gnu/hook/cairn-hook"),
        (root.join("packaging/systemd/cairn.service"), "packaging/systemd/cairn.service"),
        (root.join("packaging/systemd/cairn.socket"), "packaging/systemd/cairn.socket"),
    ] {
        let to = checkout.join(to);
        fs::create_dir_all(to.parent().expect("a folder")).expect("made");
        fs::copy(from, to).expect("copied");
    }
    assert!(steps.contains("web1") && steps.matches("/srv/backup").count() == 2, "{steps}");
    let steps = steps.replace("web1", "lab1").replace("/srv/backup", &store.display().to_string());
    let done = machine.run(&["sh", "-e", "-c", &format!("cd {}\n{steps}", checkout.display())]).expect("runs");
    assert_eq!(done.code(), 0, "{}\n{}\n{}", done.text(), done.err_text(), machine.journal());
    let job = job(&machine, 1);
    assert_eq!((&job["state"], &job["policies"]), (&json!("done"), &json!(["all"])), "{job:#}");
    let listed = machine.json(&["list", "--store", "main"]).expect("listed");
    assert_eq!(listed[0]["id"], job["point"], "{listed:#}");
    for unit in [SERVICE, "cairn.socket"] {
        assert_eq!(machine.property(unit, "UnitFileState").expect("a state"), "enabled", "{unit}");
    }
    assert_eq!(machine.json(&["hook", "status"]).expect("a hook")["installed"], json!(true));
});

// docs/quick-start.md, typed as it stands there and compared with what is printed, but for the first command: program and units are where the package puts
// them. `cargo xtask package --try` has that one, too.
lab_test!(the_quick_start_leads_to_a_protected_host, Options::small(), |lab| {
    let machine = Machine::boot(&lab, "").expect("a machine with systemd");
    machine.ok(&["systemctl", "enable", "--now", SERVICE]).expect("as the package does");
    let steps = transcript::page("quick-start.md");
    let (install, steps) = steps.split_first().expect("steps");
    assert!(install.command.starts_with("apt-get install ./cairn_"), "{install:?}");
    assert!(steps.iter().any(|step| step.command == "cairn check"), "{steps:#?}");
    for step in steps {
        let command = format!("exec 2>&1\n{}", step.command.replace("web1", "lab1"));
        let done = machine.run(&["bash", "-c", &command]).expect("runs");
        println!("# {}\n{}", step.command, done.text());
        assert_eq!(done.code(), 0, "{}\n{}\n{}", step.command, done.text(), machine.journal());
        step.compare(&done.text()).unwrap_or_else(|why| panic!("docs/quick-start.md: {why}"));
    }
    let job = job(&machine, 1);
    assert_eq!((&job["state"], &job["policies"]), (&json!("done"), &json!(["nightly"])), "{job:#}");
});
