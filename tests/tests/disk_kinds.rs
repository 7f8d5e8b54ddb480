//! What each disk gets: every kind of disk of a running domain, and what may happen to one between two points.
//!
//! The domains here have no system in them: what a guest would write is written through its devices by QEMU's monitor, so that any bus will do.

use cairn_lab::hollow::{Hollow, Kind};
use cairn_lab::loops::Loop;
use cairn_lab::modes::{assert_documented, cell, saved, saved_by};
use cairn_lab::suite::{Suite, mode};
use cairn_lab::{Options, cairn, lab_test, libvirt, process};
use serde_json::Value;
use std::process::Command;
use std::time::{Duration, Instant};

const TOOL_LIMIT: Duration = Duration::from_secs(60);
const NO_GUEST: fn() -> Options = || Options { guest: false, ..Options::small() };

/// Every kind of disk, by its target.
fn every_kind(machine: &mut Hollow) -> ([Loop; 2], Vec<(&'static str, &'static str)>) {
    let loops = ["device.img", "device2.img"].map(|name| Loop::over(&machine.create(Kind::Raw, name)).expect("a loop device"));
    let make = ["create", "-q", "-f", "qcow2", loops[1].path(), "8M"];
    process::run_ok(Command::new("qemu-img").args(make), TOOL_LIMIT).expect("qcow2 on a device");
    machine.add("vda", Kind::Qcow2, "v3.qcow2");
    machine.add("vdb", Kind::Qcow2Version2, "v2.qcow2");
    machine.add("vdc", Kind::Overlay, "top.qcow2");
    machine.add("vdd", Kind::Raw, "plain.raw");
    machine.add_device("vde", "raw", loops[0].path());
    machine.add_device("vdf", "qcow2", loops[1].path());
    machine.add("vdg", Kind::DataFile, "data-file.qcow2");
    machine.add_volume("vdh", "volume.qcow2");
    machine.add("vdi", Kind::Qcow2, "odd 'name' \"of\" & <an> image, ü.qcow2");
    machine.add_with_iothread("vdm", "thread-1.qcow2", 1);
    machine.add_with_iothread("vdn", "thread-2.qcow2", 2);
    machine.add("sda", Kind::Qcow2, "scsi.qcow2");
    machine.add_sata("sdb", Kind::Raw, "sata.raw");
    let told = vec![
        ("vda", "qcow2, virtio-blk"),
        ("vdb", "qcow2 of version 2 (`compat=0.10`)"),
        ("vdc", "qcow2 over a backing image"),
        ("vdd", "raw file"),
        ("vde", "raw, on a block device"),
        ("vdf", "qcow2, on a block device"),
        ("vdg", "qcow2 with a data file of its own"),
        ("vdh", "volume of a pool"),
        ("vdi", "image with spaces, quotes, `<`, `&` and `ü` in its name"),
        ("vdm", "qcow2 with an I/O thread of its own"),
        ("vdn", "qcow2 with another I/O thread"),
        ("sda", "qcow2, virtio-scsi"),
        ("sdb", "raw, SATA"),
    ];
    (loops, told)
}

/// A disk of a domain that is off, alone: its mode, or that it is refused.
fn off(suite: &Suite, machine: &Hollow, target: &str) -> String {
    let output = suite.cairn.run(&["backup", machine.name(), "--disk", target, "--json"]).expect("it ends");
    if output.code() == cairn::FAILED {
        return "refused".to_owned();
    }
    assert!([cairn::DONE, cairn::WARNINGS].contains(&output.code()), "{target}: {}", output.err_text());
    let point: Value = serde_json::from_str(&output.text()).expect("a point");
    let images = machine.images();
    let (_, path, format) = images.iter().find(|(t, ..)| t == target).expect("one of its disks");
    suite.assert_disks(point["id"].as_str().expect("an id"), &[(target, path, format)]);
    mode(&point, target)
}

lab_test!(every_kind_of_disk_is_as_docs_modes_says, NO_GUEST(), |lab| {
    let version = libvirt::version().expect("a version");
    every_kind_is_documented(&Suite::new(&lab), "live", &version, 0);
});

// The same without QEMU's monitor: four of them are none that libvirt has checkpoints for.
lab_test!(every_kind_of_disk_without_the_monitor, NO_GUEST(), |lab| {
    let version = libvirt::version().expect("a version");
    every_kind_is_documented(&Suite::new(&lab), "libvirt-api", &format!("{version}, `--capture libvirt-api`"), 4);
});

fn every_kind_is_documented(suite: &Suite, capture: &str, heading: &str, always_compared: usize) {
    let mut machine = Hollow::new("kinds");
    let (_loops, told) = every_kind(&mut machine);
    // What is not saved, and said so.
    machine.add_with("vdj", Kind::Raw, "shared.raw", "<shareable/>");
    machine.add_with("vdk", Kind::Raw, "fixed.raw", "<readonly/>");
    machine.add_with("vdl", Kind::Qcow2, "gone-after.qcow2", "<transient/>");
    machine.add_floppy("fda", "floppy.img");
    machine.define_and_start();

    machine.write_all(1);
    let (first, line) = saved_by(suite, &machine, capture);
    assert_eq!(line.matches("full").count(), told.len(), "{line}");
    let point = suite.point(&first);
    let skipped = point["source"]["skipped"].as_array().expect("a list");
    for (target, why) in [("vdj", "shareable"), ("vdk", "read-only"), ("vdl", "transient"), ("fda", "floppy")] {
        let said = skipped.iter().any(|disk| disk["target"] == target && disk["reason"].as_str().is_some_and(|reason| reason.contains(why)));
        assert!(said, "{target} is left out without a word: {skipped:?}");
    }

    machine.write_all(2);
    let (_, running) = saved_by(suite, &machine, capture);
    machine.stop();
    machine.start();
    machine.write_all(3);
    let (_, restarted) = saved_by(suite, &machine, capture);
    machine.write_all(4);
    let (_, again) = saved_by(suite, &machine, capture);
    assert_eq!(again.matches("incremental").count(), told.len() - always_compared, "whatever a disk got, the next point goes on from it: {again}");
    machine.kill();
    machine.start();
    machine.write_all(5);
    let (_, killed) = saved_by(suite, &machine, capture);
    machine.write_all(6);
    machine.flush();
    machine.stop();

    let mut table = "| disk | it runs on | after a stop and a start | after the end of QEMU by SIGKILL | it is off |\n|---|---|---|---|---|\n".to_owned();
    for (target, what) in told {
        let modes = [cell(&running, target), cell(&restarted, target), cell(&killed, target), off(suite, &machine, target)];
        table += &format!("| {what} | {} |\n", modes.join(" | "));
    }
    println!("{table}");
    let said = suite.cairn.ok(&["untrack", machine.name()]).expect("of domains that are off, too");
    for target in ["vda", "vdf", "vdg", "vdh", "vdi", "sda"] {
        assert!(said.contains(target), "{target} had a bitmap in its image: {said}");
    }
    assert_documented(heading, &table);
}

lab_test!(disks_that_come_and_go, NO_GUEST(), |lab| {
    let suite = Suite::new(&lab);
    let mut machine = Hollow::new("rows");
    for (target, kind) in [("sda", Kind::Qcow2), ("sdb", Kind::Qcow2), ("sdc", Kind::Qcow2), ("sdd", Kind::Raw), ("sde", Kind::Qcow2)] {
        machine.add(target, kind, &format!("{target}.img"));
    }
    machine.define_and_start();
    machine.write_all(1);
    let _ = saved(&suite, &machine);

    // One removed, one new, one replaced by another image.
    let removed = machine.detach("sdd");
    machine.attach("sdf", Kind::Qcow2, "new.qcow2");
    let moved = machine.detach("sde");
    machine.attach("sde", Kind::Qcow2, "other.qcow2");
    machine.write_all(2);
    let (_, line) = saved(&suite, &machine);
    assert_eq!(line, "sda incremental, sdb incremental, sdc incremental, sde compare, sdf full", "the new and the replaced one alone are read whole");

    // The one that was taken away goes on in another domain, under another name. A raw one does not: its bitmap was in QEMU's memory.
    let mut other = Hollow::new("other");
    other.define_and_start();
    other.attach_image("sda", &moved, "qcow2");
    other.attach_image("sdb", &removed, "raw");
    other.write_all(3);
    let (_, line) = saved(&suite, &other);
    assert_eq!(line, "sda incremental, sdb full", "a disk is continued wherever it went");

    // Two that change places.
    machine.stop();
    machine.swap("sda", "sdb");
    machine.define_and_start();
    machine.write_all(4);
    let (_, line) = saved(&suite, &machine);
    assert!(line.starts_with("sda incremental, sdb incremental, sdc incremental, "), "{line}");

    // A copy of a tracked image has the bitmap as well, and is its own disk from then on.
    machine.stop();
    let copy = machine.copy_image("sda", "copy.qcow2");
    machine.start();
    other.attach_image("sdc", &copy, "qcow2");
    machine.write("sda", 5);
    other.write("sdc", 6);
    let _ = saved(&suite, &other);
    let _ = saved(&suite, &machine);
    machine.write("sda", 7);
    other.write("sdc", 8);
    let (_, line) = saved(&suite, &other);
    assert!(line.contains("sdc incremental"), "{line}");
    let (_, line) = saved(&suite, &machine);
    assert!(line.contains("sda incremental"), "{line}");

    // Moved to another image while it runs.
    machine.block_copy("sdc", "copied.qcow2");
    machine.write_all(9);
    let (_, line) = saved(&suite, &machine);
    assert!(line.contains("sdc compare"), "a copied image has no bitmap: {line}");

    // The point that all go on from is forgotten.
    machine.write_all(10);
    let (id, line) = saved(&suite, &machine);
    assert!(!line.contains("compare"), "{line}");
    suite.cairn.ok(&["forget", &id, "--force"]).expect("forgotten");
    machine.write_all(11);
    let (_, line) = saved(&suite, &machine);
    assert!(!line.contains("incremental"), "nothing goes on from a point that is forgotten: {line}");
    machine.write_all(12);
    let (_, line) = saved(&suite, &machine);
    assert!(!line.contains("compare"), "{line}");
    suite.cairn.ok(&["verify", "--all", "--data"]).expect("verify");
});

lab_test!(a_limit_is_for_all_disks_together_however_many_are_read_at_once, NO_GUEST(), |lab| {
    let suite = Suite::new(&lab);
    let mut machine = Hollow::new("slow");
    machine.add("vda", Kind::Qcow2, "a.qcow2");
    machine.add("vdb", Kind::Raw, "b.raw");
    machine.define_and_start();
    let save = |machine: &Hollow, more: &[&str]| {
        let begin = Instant::now();
        let output = suite.cairn.run(&[&["backup", machine.name(), "--quiesce", "never", "--json"], more].concat()).expect("it ends");
        assert!([cairn::DONE, cairn::WARNINGS].contains(&output.code()), "{}", output.err_text());
        let took = begin.elapsed();
        let point: Value = serde_json::from_str(&output.text()).expect("a point");
        let images = machine.images();
        let compared: Vec<_> = images.iter().map(|(target, path, format)| (target.as_str(), path.as_path(), format.as_str())).collect();
        suite.assert_disks(point["id"].as_str().expect("an id"), &compared);
        let read: u64 = ["vda", "vdb"].map(|target| cairn::disk(&point, target).expect("a disk")["read"].as_u64().expect("bytes")).iter().sum();
        (took, read, ["vda", "vdb"].map(|target| mode(&point, target)).join(" "))
    };

    // 16 MiB at 4 MiB a second, twice: one disk after the other, and both at the same time. Others for each, or nothing would have to be read.
    for (byte, disks, modes) in [(1, "1", "full full"), (2, "2", "incremental incremental")] {
        ["vda", "vdb"].into_iter().for_each(|target| machine.order_to(target, &format!("write -P {byte} 0 8M")));
        machine.write_all(byte);
        machine.flush();
        let (took, read, got) = save(&machine, &["--limit-read", "4MiB/s", "--parallel-disks", disks]);
        println!("{disks} at a time: {read} bytes in {:.2} s", took.as_secs_f64());
        assert_eq!(got, modes);
        assert!(read >= 14 << 20, "{read} bytes of 16 MiB less a few zeros were read");
        let least = Duration::from_millis(read * 1000 / (4 << 20)).saturating_sub(Duration::from_millis(100));
        assert!(took >= least, "{disks} disks at a time: {read} bytes in {took:?}");
    }
    machine.write_all(9);
    machine.flush();
    let (_, read, got) = save(&machine, &["--parallel-disks", "8"]);
    assert_eq!(got, "incremental incremental");
    assert!(read < 12 << 20, "an increment is not all of it: {read} bytes");
    machine.stop();
    // What is off is read in the same way.
    let (took, read, _) = save(&machine, &["--limit-read", "4MiB/s", "--parallel-disks", "2"]);
    assert!(took >= Duration::from_millis(read * 1000 / (4 << 20)).saturating_sub(Duration::from_millis(100)), "off: {read} bytes in {took:?}");
});

lab_test!(thirty_disks, NO_GUEST(), |lab| {
    let suite = Suite::new(&lab);
    let mut machine = Hollow::new("thirty");
    for number in 0..30_u8 {
        // sda to sdz, then sdaa.
        let last = char::from(b'a' + number % 26);
        let target = if number < 26 { format!("sd{last}") } else { format!("sda{last}") };
        machine.add(&target, if number % 2 == 0 { Kind::Qcow2 } else { Kind::Raw }, &format!("{target}.img"));
    }
    machine.define_and_start();
    machine.write_all(1);
    let begin = Instant::now();
    let (_, line) = saved(&suite, &machine);
    assert_eq!(line.matches("full").count(), 30, "{line}");
    println!("first: {:.1} s with its comparison", begin.elapsed().as_secs_f64());
    machine.write_all(2);
    let (_, line) = saved(&suite, &machine);
    assert_eq!(line.matches("incremental").count(), 30, "{line}");
});
