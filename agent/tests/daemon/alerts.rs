//! Alerts on their way: a daemon whose jobs fail, a mail server and a webhook's that decode what comes by the standard library of Python, a program of the site's.

use crate::{
    place::noise,
    served::{Served, send, wait_for},
};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

const RECEIVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/daemon/alerts/receiver.py");
/// Longer than what is due takes to be told.
const QUIET: Duration = Duration::from_secs(9);

/// A server that takes messages.
struct Receiver {
    child: Child,
    port: u16,
    told: std::path::PathBuf,
}

impl Receiver {
    fn new(dir: &Path, kind: &str) -> Self {
        let mut child = Command::new("python3").arg(RECEIVER).arg(dir).arg(kind).stdout(Stdio::piped()).spawn().expect("python3 starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("reads");
        Self { child, port: line.trim().parse().expect("a port"), told: dir.join(format!("{kind}.jsonl")) }
    }

    /// What it was sent.
    fn told(&self) -> Vec<Value> {
        lines(&self.told)
    }
}

/// What was written so far, a line of JSON for each.
fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// A daemon that is killed at once after a delivery tells twice; so it is waited for.
fn wait_written(served: &Served, key: &str, target: &str) {
    let db = rusqlite::Connection::open(served.state().join("alerts.sqlite")).expect("opens");
    db.busy_timeout(Duration::from_secs(10)).expect("waits");
    let is_written = || {
        let value = db.query_row("SELECT value FROM causes WHERE key = ?1", [key], |row| row.get::<_, String>(0)).unwrap_or_default();
        serde_json::from_str::<Value>(&value).is_ok_and(|value| value["told"][target].is_object())
    };
    wait_for("it is written who was told", is_written);
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Keys and states of all causes in the messages of a webhook or a program that were taken.
fn keys(told: &[Value]) -> Vec<String> {
    let taken = told.iter().filter(|one| one["status"].as_u64().is_none_or(|status| status == 200));
    let alerts = taken.flat_map(|one| one["body"]["alerts"].as_array().cloned().unwrap_or_default());
    let alerts = alerts.filter(|alert| alert["kind"] != "test");
    alerts.map(|alert| format!("{} {}", alert["state"].as_str().expect("a state"), alert["key"].as_str().expect("a key"))).collect()
}

/// A job that loses its processes: its runner first, so that nobody writes down how it ended.
fn lose(served: &Served, name: &str) -> i64 {
    fs::write(served.place.path("image"), noise(8 << 20, 1)).expect("writes");
    let id = served.save("image", &name.replace('"', "\\\""));
    let pid = served.stop(id);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let runner = stat.rsplit_once(") ").expect("a name").1.split(' ').nth(1).expect("its parent").parse().expect("a number");
    send(runner, 9);
    send(pid, 9);
    served.wait_state(id, "lost");
    id
}

/// A configuration with one store, targets, and looks as often as can be.
fn configure(served: &Served, policies: &str, alerts: &str) {
    let (store, key, hooks) = (served.place.store(), served.place.path("key"), served.place.path("hooks"));
    let text = format!(
        "stores:\n  main: {{ url: {}, key_file: {} }}\n{policies}alerts:\n{alerts}daemon: {{ reconcile_every: 5s, hook_dir: {} }}\n",
        store.display(),
        key.display(),
        hooks.display()
    );
    fs::write(served.config(), text).expect("writes");
}

fn listed(served: &Served) -> Value {
    served.run(&["alert", "list", "--json"]).expect(0).json()
}

#[test]
fn a_cause_is_told_once_whatever_restarts_and_whoever_else_cannot_be_reached() {
    let mut served = Served::new("");
    let dir = served.place.dir.path().to_owned();
    let web = Receiver::new(&dir, "http");
    let paged = dir.join("paged");
    // A name that a shell, a header or a line of text would make something of.
    let name = "$(touch pwned)\";'`id`ü: x";
    let page =
        "printf '{\\\"body\\\":' >> $0; cat >> $0; printf '}\\\\n' >> $0; printf '%s\\\\n' \\\"$CAIRN_ALERT_KEY\\\" \\\"$CAIRN_ALERT_SEVERITY\\\" > $0.env";
    let kinds = "match: { kinds: [job-failed, alert-target] }";
    configure(
        &served,
        "",
        &format!(
            "  hook: {{ webhook: {{ url: \"http://127.0.0.1:{}/in?x=1\", headers_file: {} }}, {kinds} }}\n  page: {{ command: [/bin/sh, -c, \"{page}\", {}], {kinds}, resolved: true }}\n  \
             bad: {{ webhook: {{ url: \"http://127.0.0.1:1/\" }}, match: {{ kinds: [job-failed] }} }}\n  none: {{ command: [/bin/false], match: {{ kinds: [frozen] }} }}\n",
            web.port,
            dir.join("headers").display(),
            paged.display()
        ),
    );
    fs::write(dir.join("headers"), "Authorization: Bearer x\n").expect("writes");
    served.run(&["doctor", "--json"]).out.contains("others may read it").then_some(()).expect("doctor tells of the secret's mode");
    Command::new("chmod").arg("600").arg(dir.join("headers")).status().expect("chmod");
    served.start();
    let id = lose(&served, name);
    let key = format!("job-failed:{name}:backup-image:main");
    let news = format!("open {key}");
    let pages = || lines(&paged);
    let count = |keys: &[String], key: &str| keys.iter().filter(|one| *one == key).count();
    wait_for("both are told of the job, and of the target that fails", || {
        [keys(&web.told()), keys(&pages())].iter().all(|keys| count(keys, &news) == 1 && count(keys, "open alert-target:bad") == 1)
    });
    let told = &web.told()[0];
    assert!(told["path"] == "/in?x=1" && told["headers"]["authorization"] == "Bearer x" && told["headers"]["content-type"] == "application/json", "{told:#}");
    let alert = &told["body"]["alerts"][0];
    assert!(alert["job"] == id && alert["remedy"][0] == format!("cairn job log {id}") && alert["what"].as_str().expect("a text").contains("lost"), "{alert:#}");
    assert!(fs::read_to_string(dir.join("paged.env")).expect("reads").ends_with("\nwarning\n"), "the last was of the target");
    assert!(!Path::new("pwned").exists() && !dir.join("pwned").exists() && !Path::new("/pwned").exists());
    let list = listed(&served);
    let of = |name: &str| list["targets"].as_array().expect("a list").iter().find(|target| target["name"] == name).cloned().expect("there");
    assert_eq!((&of("bad")["status"], &of("hook")["status"]), (&"failing".into(), &"ok".into()), "{list:#}");
    assert!(served.troubles().iter().any(|reason| reason.contains("do not reach target bad")), "{:?}", served.troubles());
    let text = served.run(&["alert", "list"]).expect(0).out;
    assert!(text.contains("bad (webhook) FAILS") && text.contains("hook 20") && !text.contains('\u{1b}'), "{text}");
    ["hook", "page"].iter().for_each(|target| [&key, "alert-target:bad"].iter().for_each(|key| wait_written(&served, key, target)));
    // Whatever happens to the daemon, nobody is told twice.
    for signal in [9, 15] {
        served.signal(signal);
        served.ended();
        served.start();
        std::thread::sleep(QUIET);
    }
    assert_eq!((count(&keys(&web.told()), &news), count(&keys(&pages()), &news)), (1, 1), "{:#?}", web.told());
    assert_eq!(count(&keys(&web.told()), "open alert-target:bad"), 1);
    // It is over: who wants to know is told, who does not is not.
    let good = served.save("image", &name.replace('"', "\\\""));
    served.wait_state(good, "done");
    wait_for("the end is told", || count(&keys(&pages()), &format!("resolved {key}")) == 1);
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(count(&keys(&web.told()), &format!("resolved {key}")), 0);
    assert!(!listed(&served)["alerts"].to_string().contains("job-failed"), "{:#}", listed(&served));
}

#[test]
fn a_target_that_fails_is_told_later_and_a_silent_cause_is_told_to_nobody() {
    let mut served = Served::new("");
    let dir = served.place.dir.path().to_owned();
    let web = Receiver::new(&dir, "http");
    configure(&served, "", &format!("  hook: {{ webhook: {{ url: \"http://127.0.0.1:{}/\" }}, match: {{ kinds: [job-failed] }} }}\n", web.port));
    fs::write(dir.join("status"), "302").expect("writes");
    served.start();
    lose(&served, "one");
    wait_for("it was tried", || !web.told().is_empty());
    wait_for("it is known", || served.troubles().iter().any(|reason| reason.contains("answered 302") && reason.contains("not followed")));
    // Another one meanwhile, of which nobody is to be told.
    lose(&served, "two");
    let silent = "job-failed:two:backup-image:main";
    wait_for("it stands", || listed(&served)["alerts"].to_string().contains(silent));
    served.run(&["alert", "silence", silent, "--for", "4h"]).expect(0);
    served.run(&["alert", "silence", "job-failed:three", "--for", "4h"]).expect(15);
    served.run(&["alert", "silence", silent, "--for", "91d"]).expect(2);
    fs::write(dir.join("status"), "200").expect("writes");
    // What is waited for longer each time is tried at once by that.
    served.run(&["alert", "test", "hook"]).expect(0);
    wait_for("it is told at last", || keys(&web.told()) == ["open job-failed:one:backup-image:main"]);
    wait_for("all is well", || !served.troubles().iter().any(|reason| reason.contains("target hook")));
    std::thread::sleep(QUIET);
    assert_eq!(keys(&web.told()).len(), 1, "{:#?}", web.told());
    served.run(&["alert", "silence", silent, "--for", "0s"]).expect(0);
    wait_for("and the other", || keys(&web.told()).len() == 2);
    assert!(keys(&web.told())[1].contains("two"));
}

#[test]
fn mail_goes_over_tls_that_is_verified_and_to_all_who_are_taken() {
    let served = Served::new("");
    let dir = served.place.dir.path().to_owned();
    let openssl =
        |args: &str| assert!(Command::new("openssl").args(args.split(' ')).current_dir(&dir).stderr(Stdio::null()).status().expect("openssl").success());
    for authority in ["ca", "other"] {
        openssl(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={authority} -keyout {authority}.key -out {authority}.pem"
        ));
    }
    openssl("req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=here -keyout tls.key -out tls.req");
    fs::write(dir.join("names"), "subjectAltName=DNS:localhost\n").expect("writes");
    openssl("x509 -req -in tls.req -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out tls.crt");
    fs::write(dir.join("tls.pem"), [fs::read(dir.join("tls.crt")).expect("reads"), fs::read(dir.join("tls.key")).expect("reads")].concat()).expect("writes");
    for (name, text) in [("password", "a secret\n"), ("wrong", "a guess\n")] {
        fs::write(dir.join(name), text).expect("writes");
        Command::new("chmod").arg("600").arg(dir.join(name)).status().expect("chmod");
    }
    let all = ["smtp", "starttls", "smtps", "https"].map(|kind| Receiver::new(&dir, kind));
    let [plain, starttls, smtps, https] = &all;
    let file = |name: &str| dir.join(name).display().to_string();
    let mail = |server: &str, port: u16, more: &str| {
        format!("{{ mail: {{ to: [ops@example.net, nobody@example.net], from: cairn@vm1.example.net, server: \"{server}://localhost:{port}\"{more} }} }}\n")
    };
    let login = |password: &str, ca: &str| format!(", user: cairn, password_file: {}, ca_file: {}", file(password), file(ca));
    let mut served = served;
    configure(
        &served,
        "",
        &[
            format!("  a-plain: {}", mail("smtp", plain.port, "")),
            format!("  b-starttls: {}", mail("starttls", starttls.port, &login("password", "ca.pem"))),
            format!("  c-smtps: {}", mail("smtps", smtps.port, &login("password", "ca.pem"))),
            format!("  d-https: {{ webhook: {{ url: \"https://localhost:{}/\", ca_file: {} }} }}\n", https.port, file("ca.pem")),
            format!("  v-password: {}", mail("starttls", starttls.port, &login("wrong", "ca.pem"))),
            format!("  w-other: {}", mail("smtps", smtps.port, &login("password", "other.pem"))),
            format!("  x-system: {{ webhook: {{ url: \"https://localhost:{}/\" }} }}\n", https.port),
            format!("  y-name: {}", mail("smtps", smtps.port, &login("password", "ca.pem")).replace("localhost", "127.0.0.1")),
            format!("  z-none: {}", mail("starttls", plain.port, "")),
        ]
        .concat(),
    );
    served.start();
    let said = served.run(&["alert", "test", "--json"]).expect(1).json();
    let of = |name: &str| said["tests"].as_array().expect("a list").iter().find(|test| test["target"] == name).cloned().expect("there");
    for name in ["a-plain", "b-starttls", "c-smtps", "d-https"] {
        assert_eq!(of(name)["sent"], true, "{said:#}");
    }
    assert!(of("a-plain")["problem"].as_str().expect("a remark").contains("nobody@example.net: 550 5.1.1 no such user"), "{said:#}");
    for (name, word) in
        [("v-password", "refused user and password: 535"), ("w-other", "UnknownIssuer"), ("y-name", "not valid for name"), ("z-none", "offers no STARTTLS")]
    {
        let test = of(name);
        assert!(test["sent"] == false && test["problem"].as_str().is_some_and(|why| why.contains(word)), "{word}: {test:#}");
    }
    // Where the system trusts nobody there is nothing to compare with, either.
    let system = of("x-system")["problem"].to_string();
    assert!(of("x-system")["sent"] == false && ["UnknownIssuer", "no trusted certificates"].iter().any(|word| system.contains(word)), "{system}");
    assert!(!said.to_string().contains("secret") && !served.log().contains("a guess"));
    for (server, tls, user) in [(plain, false, Value::Null), (starttls, true, "cairn".into()), (smtps, true, "cairn".into())] {
        // What stands meanwhile may have been told as well.
        let told = server.told();
        let one = told.iter().find(|one| one["subject"].as_str().is_some_and(|s| s.contains("test message"))).unwrap_or_else(|| panic!("{told:#?}"));
        assert_eq!((&one["tls"], &one["user"], &one["from"]), (&tls.into(), &user, &"<cairn@vm1.example.net>".into()), "{one:#}");
        assert_eq!(one["to"], serde_json::json!(["<ops@example.net>"]));
        assert!(one["body"].as_str().is_some_and(|body| body.contains("Somebody ran 'cairn alert test'") && body.contains("what to do:")), "{one:#}");
        let names: Vec<&str> = one["headers"].as_array().expect("a list").iter().filter_map(|pair| pair[0].as_str()).collect();
        assert_eq!(names, ["Date", "Message-ID", "From", "To", "Subject", "Auto-Submitted", "MIME-Version", "Content-Type", "Content-Transfer-Encoding"]);
    }
    served.run(&["alert", "test", "d-https"]).expect(0);
    served.run(&["alert", "test", "typo"]).expect(15);
}

#[test]
fn a_promise_that_is_broken_is_told_when_its_time_has_passed() {
    let mut served = Served::new("");
    let dir = served.place.dir.path().to_owned();
    let web = Receiver::new(&dir, "http");
    let hook = format!("  hook: {{ webhook: {{ url: \"http://127.0.0.1:{}/\" }}, match: {{ domains: [test], policies: [nightly] }} }}\n", web.port);
    configure(&served, "policies:\n  nightly: { select: { names: [\"*\"] }, stores: [main], rpo: 26h }\n", &hook);
    let library = served.place.clock_library();
    let start = |served: &mut Served, hours: i64| {
        served.start_by(|mut command| {
            command.env("LD_PRELOAD", &library).env("CLOCK_SHIFT_S", (hours * 3600).to_string());
            command
        });
    };
    start(&mut served, 0);
    let stands = |served: &Served| {
        let list = served.get("/api/v1/alerts");
        list["alerts"].as_array().expect("a list").iter().find(|alert| alert["kind"] == "rpo").cloned()
    };
    wait_for("it stands", || stands(&served).is_some());
    let alert = stands(&served).expect("seen");
    assert!(
        alert["domain"] == "test" && alert["policies"][0] == "nightly" && alert["targets"][0] == "hook" && alert["told"] == serde_json::json!([]),
        "{alert:#}"
    );
    std::thread::sleep(QUIET);
    assert!(web.told().is_empty(), "a policy of today promised nothing for yesterday: {:#?}", web.told());
    served.kill();
    start(&mut served, 27);
    wait_for("it is told", || keys(&web.told()).iter().any(|key| key.starts_with("open rpo:nightly:") && key.ends_with(":main")));
    let told = &web.told()[0]["body"]["alerts"][0];
    assert!(told["severity"] == "critical" && told["title"] == "test has no good point in main" && told["age_s"].as_u64() > Some(26 * 3600), "{told:#}");
    // `cairn check` says the same.
    assert!(served.run(&["check"]).expect(2).out.contains("test: no good point in main"));
}
