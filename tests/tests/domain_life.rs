//! A day of domain life with the daemon watching: whatever happens to a domain, its next point restores to what the guest had, is incremental where it can
//! be, nothing is left behind, and the record says what happened.

use cairn_lab::daemon::Daemon;
use cairn_lab::process::{run, run_ok, wait_for};
use cairn_lab::reference::{Pair, raw_copy};
use cairn_lab::second::Second;
use cairn_lab::suite::{Kept, Suite};
use cairn_lab::{Domain, Lab, Options, cairn, lab_test, libvirt, traces};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);
const BOOT_LIMIT: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(100);
/// One of each disk, and those of read-only backing images, which go once they are writable.
const BITMAPS_MAX: usize = 6;
/// A daemon that answers does so in far less, however busy the machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// libvirt's keep-alive gives up a daemon after half a minute; with what else the machine does.
const HANG: Duration = Duration::from_secs(40);

/// The domain's day.
struct Day {
    suite: Suite,
    daemon: Daemon,
    uuid: String,
    kept: Vec<Kept>,
}

fn install_hook(lab: &Lab) {
    let mut command = Command::new(lab.cairn().expect("cairn"));
    command.args(["hook", "install", "--binary"]).arg(lab.hook().expect("the hook"));
    let output = run(&mut command, LIMIT).expect("it ends");
    assert_eq!(output.code(), cairn::DONE, "{output:?}");
    libvirt::reload().expect("libvirtd");
}

fn config(suite: &Suite) -> String {
    let (store, key) = (suite.cairn.store().display(), suite.cairn.key().display());
    format!(
        "stores:\n  main: {{ url: {store}, key_file: {key} }}\npolicies:\n  down:\n    select: {{ names: [\"lab*\"] }}\n    on: [shutdown]\n    stores: [main]\n\
         daemon:\n  reconcile_every: 60s\n"
    )
}

/// The images that are the top of each disk now, with their formats.
fn tops(domain: &Domain) -> Vec<(String, PathBuf, String)> {
    let text = domain.virsh_ok(&["domblklist", domain.name()]).expect("domblklist");
    let rows = text.lines().filter_map(|line| line.trim().split_once(char::is_whitespace));
    rows.map(|(target, path)| {
        let path = PathBuf::from(path.trim());
        let info = run_ok(Command::new("qemu-img").args(["info", "-U", "--output=json"]).arg(&path), LIMIT).expect("qemu-img info");
        let info: Value = serde_json::from_str(&info).expect("JSON");
        (target.to_owned(), path, info["format"].as_str().expect("format").to_owned())
    })
    .collect()
}

/// What the guest has: raw copies of its disks while it stands still.
fn reference(domain: &Domain, folder: &Path) -> Pair {
    fs::create_dir_all(folder).expect("folder");
    let copy = |target: &str| folder.join(format!("{target}.raw"));
    domain.virsh_ok(&["suspend", domain.name()]).expect("suspend");
    for (target, path, format) in tops(domain) {
        raw_copy(&path, &format, &copy(&target)).expect("copy");
    }
    domain.virsh_ok(&["resume", domain.name()]).expect("resume");
    Pair { vda: copy("vda"), vdb: copy("vdb") }
}

impl Day {
    fn begin(lab: &Lab) -> Self {
        let suite = Suite::new(lab);
        install_hook(lab);
        let daemon = Daemon::start(lab, &config(&suite)).expect("the daemon");
        let uuid = suite.domain.virsh_ok(&["domuuid", "lab1"]).expect("uuid").trim().to_owned();
        let day = Self { suite, daemon, uuid, kept: Vec::new() };
        day.wait("it was seen", |r| r["state"] == "running" && !r["looked"].is_null());
        day
    }

    fn domain(&self) -> &Domain {
        &self.suite.domain
    }

    fn wait(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        self.daemon.wait_record(&self.uuid, what, LIMIT, is).unwrap_or_else(|e| panic!("{}\n{}", e.report(), self.daemon.said()))
    }

    fn wait_off(&self, reasons: &[&str]) -> Value {
        self.wait("it is off", |r| r["state"] == "off" && reasons.iter().any(|reason| r["reason"] == *reason))
    }

    /// The guest writes, a point is made and is as it should be. What was made before must never be needed for it.
    fn point(&mut self, name: &str, modes: [&str; 2]) {
        let start = Instant::now();
        let number = self.kept.len();
        let script = format!("for d in a b; do /bin/lab-guest __lab-guest noise /mnt/$d/day {} 1048576 {number}; done", number % 3 * 524_288);
        self.domain().sh(&script).expect("the guest writes");
        self.domain().read_only(true).expect("read-only");
        let reference = reference(self.domain(), &self.suite.path(&format!("reference-{number}")));
        let point = self.suite.cairn.json(&["backup", self.domain().name()]).unwrap_or_else(|e| panic!("{name}: {}", e.report()));
        self.domain().read_only(false).expect("read-write");
        let told: Vec<&str> = point["disks"].as_array().expect("disks").iter().map(|d| d["mode"].as_str().expect("mode")).collect();
        assert_eq!(told, modes, "{name}: {point:#}");
        let kept = Kept { id: point["id"].as_str().expect("id").to_owned(), reference };
        self.suite.assert_restores(&kept);
        let left = traces::look(self.domain()).expect("traces");
        assert!(left.only_bitmaps(BITMAPS_MAX), "{name}: {left:?}");
        self.daemon.look(Some(&self.uuid)).expect("asked");
        let is_tracked = |r: &Value, i: usize| r["disks"][i]["tracked"].as_array().is_some_and(|t| t.iter().any(|t| t["point"] == point["id"]));
        self.wait(&format!("{name}: the point is known, both disks are tracked since, and nothing is suspected"), |r| {
            r["points"][0]["id"] == point["id"] && r["suspicion"].is_null() && is_tracked(r, 0) && is_tracked(r, 1)
        });
        println!("{name}: {modes:?} in {:.1} s", start.elapsed().as_secs_f64());
        self.kept.push(kept);
    }

    fn start(&self) {
        self.domain().start(BOOT_LIMIT).expect("start");
        self.wait("it runs", |r| r["state"] == "running");
    }

    fn save_and_start(&self) {
        self.domain().virsh_ok(&["managedsave", self.domain().name()]).expect("managedsave");
        self.domain().virsh_ok(&["start", self.domain().name()]).expect("start");
        self.domain().wait_agent(BOOT_LIMIT).expect("agent");
    }

    fn jobs_of(&self, trigger: &str) -> Vec<Value> {
        self.daemon.jobs().expect("jobs").into_iter().filter(|j| j["trigger"] == trigger).collect()
    }
}

fn happened(record: &Value, source: &str, what: &str) -> bool {
    record["events"].as_array().is_some_and(|events| events.iter().any(|e| e["source"] == source && e["what"] == what))
}

lab_test!(whatever_happens_to_a_domain_its_next_point_is_right, Options::small(), |lab| {
    let mut day = Day::begin(&lab);
    day.point("first", ["full", "full"]);
    day.point("after writes", ["incremental", "incremental"]);

    // The guest shuts down: one wish, though libvirt and its hook both tell it, and a job by the policy.
    day.domain().agent("guest-exec", &json!({"path": "/bin/sh", "arg": ["-c", "sync; poweroff -f"]})).expect("poweroff");
    let record = day.wait_off(&["shutdown"]);
    assert!(record["suspicion"].is_null() && happened(&record, "hook", "stopped"), "{record:#}");
    let over = |j: &Value| !j["finished"].is_null() || ["done", "warnings", "failed", "cancelled", "lost"].iter().any(|s| j["state"] == *s);
    wait_for("end of the job", LIMIT, POLL, || Ok(day.jobs_of("shutdown").first().is_some_and(over).then_some(()))).expect("a job");
    let job = day.jobs_of("shutdown").remove(0);
    assert!(job["state"] == "done" && job["point"].is_string(), "a point of the domain that is off: {job:#}");
    day.start();
    day.point("after a clean stop", ["incremental", "compare"]);
    assert_eq!(day.jobs_of("shutdown").len(), 1, "one end is one job");

    // QEMU is killed after it had loaded the stored bitmap: inconsistent, and gone before anybody wants to resize the disk.
    day.save_and_start();
    let pid = fs::read_to_string("/run/libvirt/qemu/lab1.pid").expect("QEMU's pid file");
    kill(Pid::from_raw(pid.trim().parse().expect("a pid")), Signal::SIGKILL).expect("QEMU is there");
    let record = day.wait_off(&["failed", "crashed"]);
    assert!(record["suspicion"]["why"].is_string(), "{record:#}");
    day.start();
    let record = day.wait("the inconsistent bitmap is gone", |r| r["found"].as_array().is_some_and(|f| f.iter().any(|f| f["kind"] == "inconsistent-bitmap")));
    assert_eq!(record["found"][0]["gone"], true, "{record:#}");
    assert!(record["suspicion"]["why"].is_string(), "until there is a point: {record:#}");
    day.point("after a crash", ["compare", "compare"]);

    // An overlay carries the bitmap on; of a raw image there is none to carry.
    day.domain().virsh_ok(&["snapshot-create-as", "lab1", "s1", "--disk-only", "--atomic", "--no-metadata"]).expect("snapshot");
    day.point("over a snapshot", ["incremental", "compare"]);
    for target in ["vda", "vdb"] {
        day.domain().virsh_ok(&["blockcommit", "lab1", target, "--active", "--pivot", "--wait"]).expect("blockcommit");
    }
    day.wait("the block job was told", |r| happened(r, "libvirt", "block-job"));
    // The overlay's bitmap is in the qcow2 image now, though the image that carried it left the chain. The raw image still has the one of the point before
    // the snapshot, which recorded what the commit wrote.
    day.point("after blockcommit", ["compare", "incremental"]);

    // Both disks grow.
    for (target, mib) in [("vda", "144M"), ("vdb", "112M")] {
        day.domain().virsh_ok(&["blockresize", "lab1", target, mib]).expect("blockresize");
    }
    day.point("after a resize", ["incremental", "incremental"]);

    // Renamed while it is off: the record goes on.
    day.domain().virsh_ok(&["destroy", "lab1"]).expect("destroy");
    day.wait_off(&["destroyed"]);
    day.domain().virsh_ok(&["domrename", "lab1", "lab2"]).expect("domrename");
    day.suite.domain = Domain::new("lab2");
    let record = day.wait("it has its new name", |r| r["name"] == "lab2");
    assert!(happened(&record, "libvirt", "renamed"), "{record:#}");
    assert_eq!(day.jobs_of("shutdown").len(), 1, "a domain that was forced off did not shut down");
    day.start();
    day.point("after a rename", ["incremental", "compare"]);

    // To another host and back, over storage that both share.
    let second = Second::start(&lab.dir().join("second"), None).expect("a second libvirtd");
    second.share_images().expect("shared");
    let flags = ["migrate", "--live", "--persistent", "--undefinesource", "--unsafe", "lab2"];
    day.domain().virsh_ok(&[&flags[..], &[&second.uri(), "--migrateuri", "tcp://127.0.0.1"]].concat()).expect("migrate away");
    day.wait("it is gone", |r| r["state"] == "gone");
    let mut back = second.virsh(&[&flags[..], &[libvirt::URI, "--migrateuri", "tcp://127.0.0.1"]].concat());
    run_ok(&mut back, LIMIT).expect("migrate back");
    let record = day.wait("it is back", |r| r["state"] == "running");
    assert_eq!((&record["reason"], &record["name"]), (&json!("migrated"), &json!("lab2")), "{record:#}");
    assert!(record["suspicion"]["why"].is_string(), "{record:#}");
    day.domain().wait_agent(BOOT_LIMIT).expect("agent");
    day.point("after migrations", ["incremental", "compare"]);
    drop(second);

    // libvirtd is killed: the domain runs on, the daemon finds libvirt again.
    libvirt::restart(&lab.folder().join("log/libvirtd.log"), Signal::SIGKILL).expect("libvirtd");
    wait_for("the daemon's connection", LIMIT, POLL, || Ok((day.daemon.health()?["watch"]["libvirt"] == "connected").then_some(()))).expect("connected");
    day.point("after the end of libvirtd", ["incremental", "incremental"]);

    // The daemon is killed; what happens meanwhile waits in the hook's spool.
    day.daemon.kill().expect("killed");
    day.save_and_start();
    day.daemon.start_again().expect("the daemon");
    let spooled = || Ok((day.daemon.health()?["watch"]["hook"]["spooled"].as_u64() > Some(0)).then_some(()));
    wait_for("the spool", LIMIT, POLL, spooled).expect("what came meanwhile is read");
    day.wait("it was seen", |r| r["state"] == "running" && happened(r, "hook", "restore"));
    day.point("after the end of the daemon", ["incremental", "compare"]);
    assert_eq!(day.jobs_of("shutdown").len(), 1, "nothing of all this was a shutdown");

    for kept in &day.kept {
        day.suite.assert_restores(kept);
    }
    day.suite.cairn.ok(&["verify", "--all", "--data"]).expect("verify");
});

lab_test!(a_libvirt_that_hangs_does_not_hang_the_daemon, Options { guest: false, ..Options::small() }, |lab| {
    let suite = Suite::new(&lab);
    let daemon = Daemon::start(&lab, &config(&suite)).expect("the daemon");
    let libvirt_is = |word: &str| daemon.health().is_ok_and(|h| h["watch"]["libvirt"] == word);
    let wait = |word: &str| wait_for(word, LIMIT, POLL, || Ok(libvirt_is(word).then_some(()))).unwrap_or_else(|e| panic!("{}\n{}", e.report(), daemon.said()));
    wait("connected");
    let pid = libvirt::daemon().expect("libvirtd");
    kill(pid, Signal::SIGSTOP).expect("libvirtd is there");
    let (start, mut slowest, mut lost_after) = (Instant::now(), Duration::ZERO, None);
    while start.elapsed() < HANG {
        let asked = Instant::now();
        // A look is asked for all the while; it would hang.
        daemon.look(None).expect("an answer");
        let health = daemon.health().expect("an answer");
        daemon.jobs().expect("an answer");
        slowest = slowest.max(asked.elapsed());
        if health["watch"]["libvirt"] == "lost" {
            lost_after.get_or_insert_with(|| start.elapsed());
        }
        std::thread::sleep(POLL);
    }
    println!("three answers took {slowest:?} at most; the hang was noticed after {lost_after:?}");
    assert!(slowest < ANSWER_LIMIT, "{slowest:?}");
    assert!(lost_after.is_some(), "a libvirt that says nothing for {HANG:?} is lost");
    kill(pid, Signal::SIGCONT).expect("libvirtd is there");
    wait("connected");
    // Events come again.
    let xml = "<domain type='qemu'><name>after</name><uuid>0d5a1f00-0000-4000-8000-000000000002</uuid><memory unit='MiB'>32</memory>\
        <os><type arch='x86_64' machine='q35'>hvm</type></os><devices><memballoon model='none'/></devices></domain>";
    fs::write("/run/define.xml", xml).expect("written");
    let domain = Domain::new("after");
    domain.virsh_ok(&["define", "/run/define.xml"]).expect("defined");
    domain.virsh_ok(&["start", "after"]).expect("started");
    let record = |what, is: &dyn Fn(&Value) -> bool| daemon.wait_record("0d5a1f00-0000-4000-8000-000000000002", what, LIMIT, is).expect(what);
    record("it runs", &|r| r["state"] == "running" && r["outcome"] == "nothing-of-ours");
    domain.virsh_ok(&["destroy", "after"]).expect("destroyed");
    record("it is off", &|r| r["state"] == "off" && r["reason"] == "destroyed");
});
