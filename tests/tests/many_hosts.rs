//! Two hosts, each with a daemon, and one store: a domain that moves takes its policy along, both hosts' points are in one list and neither touches the other's; when a host
//! is lost, the other one takes its domains over with one order.

use cairn_lab::daemon::Daemon;
use cairn_lab::process::{run, run_ok};
use cairn_lab::second::Second;
use cairn_lab::suite::{Suite, mode};
use cairn_lab::{Domain, Options, cairn, lab, lab_test, libvirt};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(500);
const METADATA: &str = "https://cairn-backup.org/xmlns/domain/1.0";
/// Between two instants of the schedule.
const PERIOD: Duration = Duration::from_secs(15);

/// The same on each host.
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
"
    )
}

/// A machine without a system, on the second host, that names its policy.
fn small(suite: &Suite, second: &Second, name: &str) {
    let image = Path::new(libvirt::IMAGES).join(format!("{name}.qcow2"));
    run_ok(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&image).arg("32M"), LIMIT).expect("image");
    run_ok(Command::new("qemu-io").args(["-c", "write -P 7 1M 3M"]).arg(&image), LIMIT).expect("content");
    let text = format!(
        "<domain type='qemu'><name>{name}</name><metadata><cairn:backup xmlns:cairn='{METADATA}' policy='often'/></metadata><memory unit='MiB'>32</memory>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os><devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/>\
         <source file='{}'/><target dev='vda' bus='virtio'/></disk></devices></domain>",
        image.display()
    );
    let path = suite.path(&format!("{name}.xml"));
    fs::write(&path, text).expect("written");
    run_ok(&mut second.virsh(&["define", &path.to_string_lossy()]), LIMIT).expect("define");
    run_ok(&mut second.virsh(&["start", name]), LIMIT).expect("start");
}

/// Backups by the clock that came to a good end, of a domain, oldest first.
fn saved(daemon: &Daemon, domain: &str) -> Vec<Value> {
    let mut jobs = daemon.jobs().expect("jobs");
    jobs.retain(|job| job["kind"] == "backup" && job["domain"] == domain && job["trigger"] == "schedule" && job["point"].is_string());
    jobs.sort_by_key(|job| job["id"].as_u64());
    jobs
}

/// Waits until there are more than `count` of them; the newest one's point.
fn next_point(suite: &Suite, daemon: &Daemon, domain: &str, count: usize) -> Value {
    let begin = Instant::now();
    loop {
        if let Some(last) = saved(daemon, domain).get(count..).and_then(|more| more.last()) {
            return suite.point(last["point"].as_str().expect("a point"));
        }
        assert!(begin.elapsed() < LIMIT, "a point of {domain}: {:#?}\n{}", daemon.jobs().expect("jobs"), daemon.said());
        std::thread::sleep(POLL);
    }
}

/// Ids of all points that a host took, of every domain.
fn points_of(suite: &Suite, host: &str) -> BTreeSet<String> {
    let all = suite.cairn.json(&["list"]).expect("list");
    let of_host = all.as_array().expect("points").iter().filter(|point| point["host"] == host);
    of_host.map(|point| point["id"].as_str().expect("an id").to_owned()).collect()
}

/// The point is what the guest has, who writes nothing now.
fn assert_is_what_the_guest_has(suite: &Suite, id: &str) {
    let disks = lab::disks().map(|disk| (disk.target, disk.path, disk.format));
    let images: Vec<(&str, &Path, &str)> = disks.iter().map(|(target, path, format)| (*target, path.as_path(), *format)).collect();
    suite.assert_disks(id, &images);
}

lab_test!(a_host_is_lost_and_the_other_one_takes_over, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let mut second = Second::start(&lab.dir().join("second"), None).expect("a second libvirtd");
    second.share_images().expect("shared");
    suite
        .domain
        .virsh_ok(&["metadata", "lab1", "--uri", METADATA, "--key", "cairn", "--set", "<backup policy='often'/>", "--live", "--config"])
        .expect("metadata");
    small(&suite, &second, "db 1");
    let (here, mut there) = (Daemon::start(&lab, &config(&suite)).expect("a daemon"), Daemon::start_on(&lab, &second, &config(&suite)).expect("another"));
    let name = run_ok(&mut Command::new("hostname"), LIMIT).expect("hostname").trim().to_owned();

    // Each saves its own, and one list has both.
    next_point(&suite, &here, "lab1", 1);
    next_point(&suite, &there, "db 1", 0);
    assert!(!points_of(&suite, &name).is_empty() && !points_of(&suite, "second").is_empty(), "{:#}", suite.cairn.json(&["list"]).expect("list"));
    assert!(saved(&here, "db 1").is_empty() && saved(&there, "lab1").is_empty(), "neither saves the other's");

    // It moves, and its policy with it: the qcow2 image carries its bitmap, the raw one loses it and says so.
    let flags = ["migrate", "--live", "--persistent", "--undefinesource", "--unsafe", "lab1"];
    suite.domain.virsh_ok(&[&flags[..], &[&second.uri(), "--migrateuri", "tcp://127.0.0.1"]].concat()).expect("migrate");
    let moved = Instant::now();
    let away = Domain::at(second.uri(), "lab1");
    away.wait_agent(LIMIT).expect("agent");
    let first = next_point(&suite, &there, "lab1", 0);
    let reason = cairn::disk(&first, "vdb").expect("vdb")["reason"].as_str().unwrap_or_default();
    assert_eq!((mode(&first, "vda").as_str(), mode(&first, "vdb").as_str()), ("incremental", "compare"), "{reason}");
    assert!(!reason.is_empty() && first["host"] == "second", "{first:#}");
    away.sh("/bin/lab-guest __lab-guest noise /mnt/a/moved 0 1048576 7").expect("the guest writes");
    away.read_only(true).expect("read-only");
    let count = saved(&there, "lab1").len();
    // The one that is due now may have begun before.
    let last = next_point(&suite, &there, "lab1", count + 1);
    assert_eq!((mode(&last, "vda").as_str(), mode(&last, "vdb").as_str()), ("incremental", "incremental"), "{last:#}");
    assert_is_what_the_guest_has(&suite, last["id"].as_str().expect("an id"));

    // What it left behind stays: neither host forgets the other's points.
    let left = points_of(&suite, &name);
    let pruned = |daemon: &Daemon| daemon.jobs().expect("jobs").iter().any(|job| job["kind"] == "prune" && job["state"] == "done");
    assert!(pruned(&here) || pruned(&there), "retention was at work");
    let begin = Instant::now();
    let known = saved(&here, "lab1").len();
    while begin.elapsed() < PERIOD * 2 {
        std::thread::sleep(POLL);
    }
    assert_eq!(saved(&here, "lab1").len(), known, "{:.0} s after it moved", moved.elapsed().as_secs_f64());
    assert_eq!(points_of(&suite, &name), left);

    // Whoever recovers the first host does not make a second, older one of what has left it.
    let all = suite.cairn.run(&["recover-host", "--all", "--host", &name, "--dry-run", "--json"]).expect("it ends");
    let told: Value = serde_json::from_str(&all.text()).expect("JSON");
    let lab1 = &told["domains"][0];
    assert_eq!((all.code(), &lab1["what"], &lab1["status"]), (cairn::WARNINGS, &json!("lab1"), &json!("skipped")), "{told:#}");
    assert!(lab1["message"].as_str().is_some_and(|text| text.contains("moved to host second")), "{told:#}");

    // The second host is lost, with all that its storage had.
    there.kill().expect("it lived");
    second.kill().expect("it lived");
    for entry in fs::read_dir(libvirt::IMAGES).expect("images").flatten() {
        fs::remove_file(entry.path()).expect("removed");
    }
    let list = suite.path("recovery.list");
    fs::write(&list, "defaults start=yes\n\"db 1\" delay=1\nlab1 agent=180\n").expect("written");
    let output = run(&mut suite.cairn.command(&["recover-host", "--from-list", &list.to_string_lossy(), "--json"]), LIMIT * 2).expect("it ends");
    assert_eq!(output.code(), cairn::DONE, "{}\n{}", output.text(), output.err_text());
    let done: Value = serde_json::from_str(&output.text()).expect("JSON");
    let told: Vec<_> = done["domains"].as_array().expect("domains").iter().map(|d| (d["what"].clone(), d["status"].clone(), d["started"].clone())).collect();
    assert_eq!(told, [(json!("db 1"), json!("restored"), json!(true)), (json!("lab1"), json!("restored"), json!(true))]);
    let seen = suite.domain.sh("sha256sum < /mnt/a/moved; cat /mnt/a/greeting /mnt/b/greeting").expect("its agent answers, its files are there");
    println!("{seen}");

    // From now on they are this host's, by the policies that they brought along.
    for domain in ["lab1", "db 1"] {
        let count = saved(&here, domain).len();
        let point = next_point(&suite, &here, domain, count);
        println!("{domain}: {:?}", point["disks"].as_array().expect("disks").iter().map(|d| (&d["target"], &d["mode"], &d["reason"])).collect::<Vec<_>>());
        assert_eq!(point["host"], name.as_str(), "{point:#}");
    }
    suite.cairn.ok(&["verify", "--all", "--data"]).expect("verify");
});
