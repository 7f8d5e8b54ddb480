//! A nearly empty disk of 1 TiB: nothing takes the time that its size would suggest.

use cairn_lab::cairn::{WARNINGS, disk};
use cairn_lab::suite::{Suite, mode};
use cairn_lab::{Domain, Options, lab_test, libvirt, process};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// Reading 1 TiB of anything takes minutes at the very least; a busy machine must not fail the suite.
const STEP_MAX: Duration = Duration::from_secs(60);
const GIB: u64 = 1 << 30;
const SIZE: u64 = 1024 * GIB;
const PIECE: u64 = 64 << 10;
const RUN: &str = "lab1-run";

/// Does something, says how long it took, and fails if that is no matter of seconds.
fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let out = work();
    println!("1 TiB: {what}: {:.2?}", begin.elapsed());
    assert!(begin.elapsed() < STEP_MAX, "{what} took {:?}", begin.elapsed());
    out
}

fn image() -> PathBuf {
    Path::new(libvirt::IMAGES).join("huge.qcow2")
}

fn write(domain: &Domain, at: u64) {
    domain.sh(&format!("dd if=/dev/urandom of=/dev/vdc bs=64k count=1 seek={} conv=fsync 2>/dev/null", at / PIECE)).expect("the guest writes");
}

fn sum(domain: &Domain, at: u64) -> String {
    domain.sh(&format!("dd if=/dev/vdc bs=64k count=1 skip={} 2>/dev/null | sha256sum", at / PIECE)).expect("the guest reads")
}

/// A guest with a third disk, the large one, in three places of which something lies.
fn with_huge_disk(suite: &Suite) {
    suite.domain.virsh_ok(&["destroy", "lab1"]).expect("off");
    let image = image();
    process::run_ok(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&image).arg(SIZE.to_string()), BOOT_LIMIT).expect("an image");
    let path = image.to_string_lossy();
    suite.domain.virsh_ok(&["attach-disk", "lab1", &path, "vdc", "--subdriver", "qcow2", "--targetbus", "virtio", "--config"]).expect("attached");
    suite.domain.start(BOOT_LIMIT).expect("it boots");
    [0, 500 * GIB, SIZE - PIECE].into_iter().for_each(|at| write(&suite.domain, at));
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no number: {value}"))
}

lab_test!(a_sparse_terabyte_takes_seconds, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    with_huge_disk(&suite);
    timed("first backup", || suite.cairn.ok(&["backup", "lab1"]).expect("backup"));
    write(&suite.domain, 700 * GIB);
    let written = sum(&suite.domain, 700 * GIB);
    timed("second backup", || suite.cairn.ok(&["backup", "lab1"]).expect("backup"));
    let ids = suite.points();
    assert_eq!(mode(&suite.point(&ids[1]), "vdc"), "incremental");
    timed("list", || suite.cairn.ok(&["list"]).expect("list"));

    let told = timed("diff", || suite.cairn.run(&["diff", &ids[0], &ids[1], "--ranges", "--json"]).expect("diff"));
    assert_eq!(told.code(), WARNINGS, "they differ: {}", told.err_text());
    let told: Value = serde_json::from_str(&told.text()).expect("JSON");
    let ranges = disk(&told, "vdc").expect("vdc")["ranges"].as_array().cloned().expect("ranges");
    let is_within = |r: &Value| (700 * GIB..701 * GIB).contains(&number(&r["offset"])) && number(&r["length"]) < 1 << 20;
    assert!(!ranges.is_empty() && ranges.iter().all(is_within), "{ranges:?}");

    let run = Domain::new(RUN);
    timed("run, to the guest's agent", || {
        suite.cairn.ok(&["run", &ids[1]]).expect("run");
        run.wait_agent(BOOT_LIMIT).expect("agent");
    });
    assert_eq!(sum(&run, 700 * GIB), written, "what the run reads is what was written");
    timed("discard", || suite.cairn.ok(&["discard", RUN, "--force"]).expect("discard"));

    suite.domain.virsh_ok(&["destroy", "lab1"]).expect("off");
    let told = timed("restore in place", || suite.cairn.json(&["restore", &ids[0], "--in-place", "--disk", "vdc"]).expect("restore"));
    let vdc = disk(&told, "vdc").expect("vdc");
    assert_eq!(vdc["way"], "bitmap", "{vdc}");
    assert!(number(&vdc["written"]) + number(&vdc["zeroed"]) <= 1 << 20, "{vdc}");
    let zero = format!("read -P 0 {} {PIECE}", 700 * GIB);
    let said = process::run_ok(Command::new("qemu-io").args(["-r", "-f", "qcow2", "-c", &zero]).arg(image()), BOOT_LIMIT).expect("qemu-io");
    assert!(!said.contains("verification failed"), "{said}");
    let full = suite.path("full.qcow2");
    let target = format!("vdc={}", full.display());
    timed("full restore of the disk", || suite.cairn.ok(&["restore", &ids[0], "--disk", &target, "--format", "qcow2"]).expect("restore"));
    process::run_ok(Command::new("qemu-img").args(["compare", "-q"]).arg(&full).arg(image()), BOOT_LIMIT).expect("both restores are equal");
});
