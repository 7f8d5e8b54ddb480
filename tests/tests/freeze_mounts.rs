//! `--freeze-mounts`: what was named is frozen, and nothing else; what cannot be is told, or refused.

use cairn_lab::frozen::{Job, frozen, stands_still, wait_writes};
use cairn_lab::suite::{Suite, assert_refused, quiesce};
use cairn_lab::{Options, cairn, filesystem, imposter, lab_test};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Writes come some ten times a second; for a host that is busy with other things.
const WRITES_LIMIT: Duration = Duration::from_secs(3);
const THAW_LIMIT: Duration = Duration::from_secs(5);
/// For an agent that is placed to the end of its backups.
const AWAY: Duration = Duration::from_secs(300);
const BACK_LIMIT: Duration = Duration::from_secs(120);

fn images() -> [PathBuf; 2] {
    cairn_lab::lab::disks().map(|disk| disk.path)
}

/// Each file system is written to and synced without a pause, by a loop of its own.
fn start_writers(suite: &Suite) {
    for disk in ["a", "b"] {
        let tick = format!("dd if=/dev/urandom of=/mnt/{disk}/tick bs=4k count=1 conv=notrunc,fsync");
        suite.domain.sh(&format!("(while [ ! -e /run/stop ]; do {tick}; done) </dev/null >/dev/null 2>&1 &")).expect("a writer");
    }
}

/// The newest point, and what it says of its quiesce.
fn newest(suite: &Suite) -> (String, Value) {
    let id = suite.points().last().cloned().expect("a point");
    let point = suite.point(&id);
    (quiesce(&point), point["source"]["quiesce"].clone())
}

/// A backup that is done with this code; what it said.
fn backup(suite: &Suite, mounts: &str, code: i32) -> String {
    let output = suite.cairn.run(&["backup", "lab1", "--freeze-mounts", mounts]).expect("it ends");
    assert_eq!(output.code(), code, "{mounts}: {}\n{}", output.text(), output.err_text());
    output.err_text()
}

/// Of the newest point: whether each disk's file system was frozen (an ext4 that was frozen while mounted has an empty journal).
fn settled(suite: &Suite) -> [bool; 2] {
    let id = suite.points().last().cloned().expect("a point");
    let folder = suite.path(&format!("settled-{id}"));
    let pair = suite.cairn.restore_raw(&id, &folder).expect("restore");
    let out = [&pair.vda, &pair.vdb].map(|image| {
        let moment = filesystem::moment(image, &suite.path("scratch")).expect("ext4");
        assert!(moment.whole, "fsck finds errors in {}", image.display());
        moment.settled
    });
    std::fs::remove_dir_all(&folder).expect("our own folder");
    out
}

lab_test!(one_of_two_file_systems, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let [vda, vdb] = images();
    start_writers(&suite);
    backup(&suite, "/mnt/a,/mnt/b", cairn::DONE);
    assert_eq!(settled(&suite), [true, true]);
    let (level, said) = newest(&suite);
    assert_eq!((level.as_str(), &said["frozen_filesystems"], &said["frozen_mounts"]), ("filesystem", &json!(2), &json!(["/mnt/a", "/mnt/b"])), "{said}");

    // In the middle of the freeze: one stands still, the other is written to.
    let mut case = frozen(&suite, &vda, || Job::start(&mut suite.cairn.command(&["backup", "lab1", "--freeze-mounts", "/mnt/a/"])));
    let begin = Instant::now();
    for _ in 0..3 {
        wait_writes(&vdb, "the file system that is not frozen", WRITES_LIMIT);
    }
    assert!(stands_still(&vda), "the one that is frozen");
    println!("/mnt/b was written to while /mnt/a stood still, for {:.1} s", begin.elapsed().as_secs_f64());
    case.job(Signal::SIGCONT);
    case.ends(&suite, "one of two file systems", THAW_LIMIT);
    let (level, said) = newest(&suite);
    assert_eq!((level.as_str(), &said["frozen_filesystems"], &said["frozen_mounts"]), ("filesystem", &json!(1), &json!(["/mnt/a"])), "{said}");
    assert_eq!(settled(&suite), [true, false], "and the point's disks say the same");
    let shown = suite.cairn.ok(&["show", suite.points().last().expect("a point")]).expect("show");
    assert!(shown.contains("filesystem (frozen: /mnt/a)"), "{shown}");

    // One file system at two places is frozen once, and that is all that was asked for.
    suite.domain.sh("mkdir -p /mnt/a2 && mount --bind /mnt/a /mnt/a2").expect("mounted twice");
    backup(&suite, "/mnt/a,/mnt/a2", cairn::DONE);
    assert_eq!((newest(&suite).0.as_str(), settled(&suite)), ("filesystem", [true, false]));
    suite.domain.sh("umount /mnt/a2; touch /run/stop").expect("as before");
    suite.assert_left_alone(Duration::from_secs(10));
});

lab_test!(what_cannot_be_frozen, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    // What is not there: the rest is frozen, but that is not what was asked for.
    let said = backup(&suite, "/mnt/a,/nope", cairn::WARNINGS);
    assert!(said.contains("/nope (it has: ") && said.contains("/mnt/b"), "{said}");
    let (level, record) = newest(&suite);
    assert_eq!((level.as_str(), &record["frozen_filesystems"], &record["frozen_mounts"]), ("crash", &json!(1), &json!(["/mnt/a"])), "{record}");
    let said = backup(&suite, "/nope", cairn::WARNINGS);
    assert!(said.contains("/nope"), "{said}");
    let (level, record) = newest(&suite);
    assert_eq!((level.as_str(), &record["freeze_ms"], &record["frozen_mounts"]), ("crash", &json!(0), &Value::Null), "nothing was done to the guest");
    // What is mounted and no file system that can be frozen is not among what the agent freezes, either.
    suite.domain.sh("mkdir -p /mnt/t && mount -t tmpfs tmpfs /mnt/t").expect("a tmpfs");
    assert!(backup(&suite, "/mnt/t", cairn::WARNINGS).contains("/mnt/t"));

    let points = suite.points();
    let run = |args: &[&str]| suite.cairn.run(&[&["backup", "lab1"], args].concat()).expect("it ends");
    let required = ["--quiesce", "require", "--freeze-mounts", "/mnt/a,/nope"];
    assert_refused(&run(&required), cairn::REFUSED, "/nope");
    assert_refused(&run(&["--freeze-mounts", ""]), cairn::USAGE, "no mount point");
    assert_refused(&run(&["--freeze-mounts", "mnt/a"]), cairn::USAGE, "write it from /");
    assert_refused(&run(&["--freeze-mounts", "/mnt/a", "--quiesce", "never"]), cairn::USAGE, "leave one of them out");

    // An agent that does not know the command.
    imposter::without(&suite.domain, "guest-fsfreeze-freeze-list", AWAY).expect("another agent");
    suite.domain.wait_agent(BACK_LIMIT).expect("it answers");
    assert_refused(&run(&["--quiesce", "require", "--freeze-mounts", "/mnt/a"]), cairn::REFUSED, "guest-fsfreeze-freeze-list");
    assert_eq!(suite.points(), points, "no point was made");
    let said = backup(&suite, "/mnt/a", cairn::WARNINGS);
    assert!(said.contains("guest-fsfreeze-freeze-list"), "{said}");
    assert_eq!((newest(&suite).0.as_str(), &newest(&suite).1["freeze_ms"]), ("crash", &json!(0)), "it does not freeze all instead");
    imposter::leave(&suite.domain).expect("it leaves");
    suite.domain.wait_agent(BACK_LIMIT).expect("the usual agent");
    suite.assert_left_alone(Duration::from_secs(20));
});
