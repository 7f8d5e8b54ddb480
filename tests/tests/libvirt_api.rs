//! Backups without QEMU's monitor: libvirt's checkpoints track the qcow2 disk (vda), the raw one (vdb) is compared each time (docs/adr/0024).

use cairn_lab::accident::libvirtd_comes_back;
use cairn_lab::cairn::Cairn;
use cairn_lab::frozen::child_named;
use cairn_lab::hollow::{Hollow, Kind};
use cairn_lab::steps::Holder;
use cairn_lab::suite::{CLEAN_LIMIT, Kept, Suite, assert_refused, mode};
use cairn_lab::{Options, cairn, lab_test, libvirt, process, traces};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const WITHOUT_MONITOR: [&str; 2] = ["--capture", "libvirt-api"];
/// In libvirt's words for a domain whose monitor somebody used.
const MONITOR_USED: &str = "custom monitor";
const BOOT_LIMIT: Duration = Duration::from_secs(120);
const END_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// Behind which step of a backup what is killed.
const KILLS: [(&str, &str); 7] = [
    ("guard started", "job"),
    ("job begun", "guard"),
    ("reading begins", "both"),
    ("committed", "libvirtd"),
    ("job begun", "libvirtd"),
    ("job begun", "job"),
    ("committed", "job"),
];

/// A point in this mode between two equal references.
fn saved(suite: &Suite, name: &str) -> Kept {
    suite.domain.read_only(true).expect("read-only");
    let kept = suite.still_backup(name, &[&["backup", "lab1"], &WITHOUT_MONITOR[..]].concat());
    suite.domain.read_only(false).expect("read-write");
    kept
}

/// The modes of both disks, and why vda was not read by its bitmap.
fn modes(suite: &Suite, kept: &Kept) -> (String, String, String) {
    let point = suite.point(&kept.id);
    let reason = cairn::disk(&point, "vda").expect("vda")["reason"].as_str().unwrap_or_default().to_owned();
    (mode(&point, "vda"), mode(&point, "vdb"), reason)
}

/// A point that goes on from a checkpoint, and restores.
fn assert_incremental(suite: &Suite, name: &str) -> Kept {
    let kept = saved(suite, name);
    let (vda, vdb, reason) = modes(suite, &kept);
    assert_eq!((vda.as_str(), vdb.as_str()), ("incremental", "compare"), "{name}: {reason}");
    suite.assert_restores(&kept);
    kept
}

/// A point that reads all, and says why.
fn assert_compared(suite: &Suite, name: &str, why: &str) -> Kept {
    let kept = saved(suite, name);
    let (vda, _, reason) = modes(suite, &kept);
    assert!(vda == "compare" && reason.contains(why), "{name}: {vda}: {reason}");
    suite.assert_restores(&kept);
    kept
}

/// Data, a file less, and blocks that the guest gives back.
fn churn(suite: &Suite, number: u32) {
    let script = format!(
        "for d in a b; do dd if=/dev/urandom of=/mnt/$d/new{number} bs=64k count=20 2>/dev/null; dd if=/dev/zero of=/mnt/$d/zero bs=64k count=9 2>/dev/null; \
         rm -f /mnt/$d/new{}; sync; fstrim /mnt/$d 2>/dev/null || true; done; sync",
        number.saturating_sub(1)
    );
    suite.domain.sh(&script).expect("guest");
}

fn checkpoints(suite: &Suite) -> Vec<String> {
    let text = suite.domain.virsh_ok(&["checkpoint-list", "lab1", "--name"]).expect("checkpoints");
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// The one checkpoint that there is, of that point.
fn only_checkpoint(suite: &Suite, kept: &Kept) -> String {
    let all = checkpoints(suite);
    assert!(all.len() == 1 && all[0].starts_with("cairn-") && all[0].ends_with(&kept.id), "of {}: {all:?}", kept.id);
    all[0].clone()
}

fn is_tainted(suite: &Suite) -> bool {
    suite.domain.virsh_ok(&["dominfo", "lab1"]).expect("dominfo").contains(MONITOR_USED)
}

/// What an order to virsh says of a domain: `[order, args...]`.
fn said(suite: &Suite, domain: &str, order: &[&str]) -> String {
    suite.domain.virsh_ok(&[&order[..1], &[domain], &order[1..]].concat()).unwrap_or_else(|e| panic!("{}", e.report()))
}

fn qemu() -> Pid {
    let text = std::fs::read_to_string("/run/libvirt/qemu/lab1.pid").expect("QEMU has a pid file");
    Pid::from_raw(text.trim().parse().expect("a process id"))
}

lab_test!(qemus_monitor_is_left_alone, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    assert!(!is_tainted(&suite), "nobody used it before");
    let first = saved(&suite, "first");
    let (vda, vdb, _) = modes(&suite, &first);
    assert_eq!((vda.as_str(), vdb.as_str()), ("full", "full"));
    suite.assert_restores(&first);
    assert_eq!(suite.point(&first.id)["source"]["capture"], "libvirt-api");
    only_checkpoint(&suite, &first);
    for number in 1..=2 {
        churn(&suite, number);
        let kept = assert_incremental(&suite, &format!("increment-{number}"));
        only_checkpoint(&suite, &kept);
    }
    suite.assert_restores(&first);
    // What else looks at a domain leaves it alone as well.
    let store = suite.cairn.store().display().to_string();
    let doctor = suite.cairn.run(&["doctor", "lab1"]).expect("it ends");
    assert!(doctor.text().contains("libvirt has a checkpoint of point"), "{}", doctor.text());
    suite.cairn.ok(&["reconcile", "lab1", "--store", &store]).expect("reconcile");
    suite.cairn.ok(&["untrack", "lab1", "--dry-run"]).expect("untrack");
    assert!(!is_tainted(&suite), "{}", suite.domain.virsh_ok(&["dominfo", "lab1"]).expect("dominfo"));
    println!("{}", suite.domain.virsh_ok(&["dominfo", "lab1"]).expect("dominfo"));

    // The other mode, and back: each reads all once, and is right.
    churn(&suite, 3);
    let live = suite.quiet_backup("live");
    assert!(is_tainted(&suite), "that mode uses it");
    let (vda, vdb, reason) = modes(&suite, &live);
    assert!(vda == "compare" && vdb == "compare" && reason.contains("no dirty bitmap"), "{vda}, {vdb}: {reason}");
    suite.assert_restores(&live);
    assert_eq!(checkpoints(&suite), Vec::<String>::new(), "what the other mode kept goes with the commit");
    churn(&suite, 4);
    assert_compared(&suite, "back", "no checkpoint");
    churn(&suite, 5);
    let last = assert_incremental(&suite, "at-last");
    assert_eq!(suite.domain.virsh_ok(&["snapshot-list", "lab1", "--name"]).expect("snapshots").trim(), "");
    suite.assert_restores(&last);
});

lab_test!(a_checkpoint_is_no_proof, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let first = saved(&suite, "first");
    churn(&suite, 1);

    // libvirt's description is lost, the bitmap is not: it is told anew.
    suite.domain.virsh_ok(&["checkpoint-delete", "lab1", &only_checkpoint(&suite, &first), "--metadata"]).expect("delete");
    let kept = assert_incremental(&suite, "description-lost");
    // The bitmap is lost, the description is not.
    let name = only_checkpoint(&suite, &kept);
    let description = suite.domain.virsh_ok(&["checkpoint-dumpxml", "lab1", &name]).expect("dumpxml");
    suite.domain.virsh_ok(&["checkpoint-delete", "lab1", &name]).expect("delete");
    let file = suite.path("checkpoint.xml");
    std::fs::write(&file, description).expect("writes");
    suite.domain.virsh_ok(&["checkpoint-create", "lab1", &file.to_string_lossy(), "--redefine"]).expect("redefine");
    churn(&suite, 2);
    let kept = assert_compared(&suite, "bitmap-lost", "gone or inconsistent");
    // Both are.
    suite.domain.virsh_ok(&["checkpoint-delete", "lab1", &only_checkpoint(&suite, &kept)]).expect("delete");
    churn(&suite, 3);
    let kept = assert_compared(&suite, "both-lost", "gone or inconsistent");
    only_checkpoint(&suite, &kept);

    // libvirtd is another one.
    churn(&suite, 4);
    libvirt::restart(&suite.lab.folder().join("libvirtd.log"), Signal::SIGTERM).expect("libvirtd");
    assert_incremental(&suite, "libvirtd-restarted");
    // QEMU stores the bitmap when it ends; what is read while the domain is off does not end it.
    churn(&suite, 5);
    suite.domain.virsh_ok(&["destroy", "lab1"]).expect("destroy");
    suite.cairn.ok(&[&["backup", "lab1", "--quiesce", "never"], &WITHOUT_MONITOR[..]].concat()).expect("off");
    suite.domain.start(BOOT_LIMIT).expect("it starts");
    churn(&suite, 6);
    assert_incremental(&suite, "started-again");
    // QEMU dies, and the bitmap is inconsistent.
    kill(qemu(), Signal::SIGKILL).expect("QEMU is there");
    let is_off = || Ok((suite.domain.state()? == "shut off").then_some(()));
    process::wait_for("end of the domain", END_LIMIT, POLL, is_off).expect("it is off");
    suite.domain.start(BOOT_LIMIT).expect("it starts");
    churn(&suite, 7);
    let kept = assert_compared(&suite, "qemu-killed", "gone or inconsistent");
    only_checkpoint(&suite, &kept);
    let bitmaps = traces::look(&suite.domain).expect("traces").bitmaps;
    assert_eq!(bitmaps.len(), 1, "an inconsistent bitmap is in the way of blockresize: {bitmaps:?}");
    suite.domain.virsh_ok(&["blockresize", "lab1", "vda", "136M"]).expect("blockresize");
    churn(&suite, 8);
    assert_incremental(&suite, "grown");
});

lab_test!(whatever_kills_a_backup_the_next_one_goes_on, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let holder = Holder::new(&suite).with(&WITHOUT_MONITOR);
    let mut kept = saved(&suite, "first");
    // All of them take minutes.
    let cases = if std::env::var("CAIRN_ACCIDENTS").is_ok_and(|word| word == "all") { &KILLS[..] } else { &KILLS[4..] };
    for (&(step, victim), number) in cases.iter().zip(1..) {
        churn(&suite, number);
        let mut held = holder.hold(&suite, step);
        let guard = child_named(held.pid(), "guard").expect("a guard");
        if matches!(victim, "guard" | "both") {
            kill(guard, Signal::SIGKILL).expect("it is there");
        }
        if matches!(victim, "job" | "both") {
            kill(held.pid(), Signal::SIGKILL).expect("it is there");
        }
        if victim == "libvirtd" {
            let pid = libvirt::daemon().expect("libvirtd");
            kill(pid, Signal::SIGKILL).expect("it is there");
            libvirtd_comes_back(&suite, pid);
        }
        held.goes_on();
        let status = held.ends(step);
        println!("{victim} behind '{step}': {status}");
        if victim != "both" {
            let is_over = || Ok((suite.domain.virsh_ok(&["domjobinfo", "lab1"])?.contains("None") && checkpoints(&suite).len() == 1).then_some(()));
            process::wait_for("end of what it left", CLEAN_LIMIT, POLL * 4, is_over)
                .unwrap_or_else(|e| panic!("{step}, {victim}: {}: {:?}", e.report(), checkpoints(&suite)));
        }
        churn(&suite, number + 100);
        kept = assert_incremental(&suite, &format!("after-{number}"));
        only_checkpoint(&suite, &kept);
    }
    assert!(!is_tainted(&suite), "neither job nor guard used the monitor");
    suite.assert_left_alone(CLEAN_LIMIT);
    suite.assert_restores(&kept);
    suite.cairn.ok(&["verify", "--all", "--data"]).expect("verify");
});

lab_test!(two_stores_have_a_checkpoint_each, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let other = Suite { lab: lab.clone(), domain: lab.domain(), cairn: Cairn::new(&lab, "other").expect("a program") };
    other.cairn.init().expect("init");
    let _first = saved(&suite, "a-first");
    let _second = saved(&other, "b-first");
    assert_eq!(checkpoints(&suite).len(), 2);
    // Each one's older checkpoint goes, which is the other's parent or child.
    for number in 1..=3 {
        churn(&suite, number);
        assert_incremental(&suite, &format!("a-{number}"));
        if number != 2 {
            churn(&suite, number + 10);
            assert_incremental(&other, &format!("b-{number}"));
        }
        assert_eq!(checkpoints(&suite).len(), 2, "{:?}", checkpoints(&suite));
    }
    // A disk that is not in the newest point has its base still.
    suite.cairn.ok(&[&["backup", "lab1", "--disk", "vdb", "--quiesce", "never"], &WITHOUT_MONITOR[..]].concat()).expect("one disk");
    churn(&suite, 4);
    assert_incremental(&suite, "a-4");

    // Somebody else's is theirs.
    let xml = suite.path("theirs.xml");
    std::fs::write(&xml, "<domaincheckpoint><name>theirs</name><disks><disk name='vda' checkpoint='bitmap'/></disks></domaincheckpoint>").expect("writes");
    suite.domain.virsh_ok(&["checkpoint-create", "lab1", &xml.to_string_lossy()]).expect("a checkpoint");
    let text = suite.cairn.ok(&["untrack", "lab1"]).expect("untrack");
    assert_eq!(text.matches("removed").count(), 2, "{text}");
    assert!(!is_tainted(&suite));
    assert_eq!(checkpoints(&suite), ["theirs"]);
    let bitmaps = suite.domain.qmp("query-named-block-nodes", &json!({"flat": true})).expect("nodes").to_string();
    assert!(!bitmaps.contains("\"cairn"), "{bitmaps}");
    suite.domain.virsh_ok(&["checkpoint-delete", "lab1", "theirs"]).expect("delete");
    churn(&suite, 5);
    assert_compared(&suite, "anew", "gone or inconsistent");

    // Off: the bitmap goes from the image, the description from libvirt.
    suite.domain.virsh_ok(&["destroy", "lab1"]).expect("destroy");
    let output = suite.domain.virsh(&["undefine", "lab1"]).expect("virsh ends");
    assert!(!output.status.success(), "libvirt wants --checkpoints-metadata: {}", output.err_text());
    println!("undefine: {}", output.err_text().trim());
    let text = suite.cairn.ok(&["untrack", "lab1"]).expect("untrack");
    assert_eq!(text.matches("removed").count(), 1, "{text}");
    assert_eq!(checkpoints(&suite), Vec::<String>::new());
    let image = &cairn_lab::lab::disks()[0].path;
    assert!(!stored(image).contains("cairn-"), "{}", stored(image));
    assert_refused(&suite.cairn.run(&["backup", "lab1", "--capture", "no-such"]).expect("it ends"), cairn::USAGE, "libvirt-api");
});

// libvirt has one description for all disks of a point; what befell one of them costs the others nothing.
lab_test!(each_disk_goes_on_by_its_own_bitmap, Options { guest: false, ..Options::small() }, |lab| {
    let suite = Suite::new(&lab);
    let mut machine = Hollow::new("several");
    for target in ["vda", "vdb", "vdc"] {
        machine.add(target, Kind::Qcow2, &format!("{target}.qcow2"));
    }
    machine.define_and_start();
    let point = |machine: &Hollow, number: u64, expected: &[(&str, &str)]| {
        machine.write_all(number);
        machine.flush();
        let saved = suite.cairn.json(&[&["backup", "several", "--quiesce", "never"], &WITHOUT_MONITOR[..]].concat()).expect("backup");
        let images = machine.images();
        let images: Vec<_> = images.iter().map(|(target, path, format)| (target.as_str(), path.as_path(), format.as_str())).collect();
        suite.assert_disks(saved["id"].as_str().expect("an id"), &images);
        let found: Vec<_> = images.iter().map(|(target, ..)| (*target, mode(&saved, target))).collect();
        assert!(found.iter().map(|(target, mode)| (*target, mode.as_str())).eq(expected.iter().copied()), "{number}: {found:?} and not {expected:?}: {saved}");
    };
    point(&machine, 1, &[("vda", "full"), ("vdb", "full"), ("vdc", "full")]);
    point(&machine, 2, &[("vda", "incremental"), ("vdb", "incremental"), ("vdc", "incremental")]);

    // vdb's bitmap goes, as any program may take it; libvirt's description goes on to name it.
    let name = said(&suite, "several", &["checkpoint-list", "--name"]).trim().to_owned();
    let whole = said(&suite, "several", &["checkpoint-dumpxml", &name]);
    let alone = ["vda", "vdc"].iter().fold(whole.clone(), |text, disk| {
        let with = format!("<disk name='{disk}' checkpoint='bitmap' bitmap='{name}'/>");
        assert!(text.contains(&with), "{text}");
        text.replace(&with, &format!("<disk name='{disk}' checkpoint='no'/>"))
    });
    let file = suite.path("several.xml");
    let define = |text: &str| {
        std::fs::write(&file, text).expect("writes");
        said(&suite, "several", &["checkpoint-create", &file.to_string_lossy(), "--redefine"]);
    };
    define(&alone);
    said(&suite, "several", &["checkpoint-delete", &name]);
    define(&whole);
    point(&machine, 3, &[("vda", "incremental"), ("vdb", "compare"), ("vdc", "incremental")]);

    // A disk comes, and one that the newest point has goes.
    machine.attach("sda", Kind::Qcow2, "sda.qcow2");
    point(&machine, 4, &[("vda", "incremental"), ("vdb", "incremental"), ("vdc", "incremental"), ("sda", "full")]);
    let _image = machine.detach("sda");
    point(&machine, 5, &[("vda", "incremental"), ("vdb", "incremental"), ("vdc", "incremental")]);
    point(&machine, 6, &[("vda", "incremental"), ("vdb", "incremental"), ("vdc", "incremental")]);
    assert_eq!(said(&suite, "several", &["checkpoint-list", "--name"]).trim().lines().count(), 1);
});

/// What `qemu-img info` says of an image.
fn stored(image: &Path) -> String {
    process::run_ok(Command::new("qemu-img").args(["info", "-U", "--output=json"]).arg(image), END_LIMIT).expect("qemu-img info")
}

// The bitmap is libvirt's to carry on through snapshots and commits, and where it began is ours to know: it is gone on from only on the very image.
lab_test!(another_top_image_is_compared_once, Options { guest: false, ..Options::small() }, |lab| {
    let suite = Suite::new(&lab);
    let mut machine = Hollow::new("tops");
    machine.add("vda", Kind::Qcow2, "base.qcow2");
    machine.define_and_start();
    let (base, overlay) = (machine.path("base.qcow2"), machine.path("overlay.qcow2"));
    let point = |number: u64, image: &Path, expected: &str| {
        machine.write_all(number);
        machine.flush();
        let saved = suite.cairn.json(&[&["backup", "tops", "--quiesce", "never"], &WITHOUT_MONITOR[..]].concat()).expect("backup");
        suite.assert_disks(saved["id"].as_str().expect("an id"), &[("vda", image, "qcow2")]);
        let reason = cairn::disk(&saved, "vda").expect("vda")["reason"].as_str().unwrap_or_default().to_owned();
        assert_eq!(mode(&saved, "vda"), expected, "{number}: {reason}");
    };
    point(1, &base, "full");
    point(2, &base, "incremental");
    let spec = format!("vda,file={}", overlay.display());
    let snapshot = ["snapshot-create-as", "tops", "s", "--disk-only", "--atomic", "--no-metadata", "--diskspec", &spec];
    suite.domain.virsh_ok(&snapshot).unwrap_or_else(|e| panic!("{}", e.report()));
    point(3, &overlay, "compare");
    point(4, &overlay, "incremental");
    suite.domain.virsh_ok(&["blockcommit", "tops", "vda", "--active", "--pivot", "--wait"]).unwrap_or_else(|e| panic!("{}", e.report()));
    point(5, &base, "compare");
    point(6, &base, "incremental");
    let output = suite.domain.virsh(&["snapshot-create-as", "tops", "internal"]).expect("virsh ends");
    println!("internal snapshot: {} {}", output.status, output.err_text().trim());
    let output = suite.domain.virsh(&["snapshot-revert", "tops", "internal"]).expect("virsh ends");
    assert!(!output.status.success(), "docs/capture.md says that a domain with checkpoints is not reverted");
    println!("revert: {}", output.err_text().trim());
    suite.cairn.ok(&["verify", "--all", "--data"]).expect("verify");
});
