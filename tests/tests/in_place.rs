//! Restoring into the disks that a domain has: right whatever way it finds out what differs, whenever it is killed, and the chain goes on.

use cairn_lab::cairn::{BUSY, FAILED, NOT_FOUND, REFUSED, WARNINGS};
use cairn_lab::suite::{Kept, Suite, assert_refused, mode};
use cairn_lab::{Options, lab, lab_test, process, reference};
use serde_json::Value;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BOOT_LIMIT: Duration = Duration::from_secs(180);
const KILLS: u32 = 12;

/// Data after a point: new, changed, deleted, zeroed, on both disks.
fn churn(suite: &Suite, number: u32) {
    let script = format!(
        "for d in a b; do /bin/lab-guest __lab-guest noise /mnt/$d/churn {} 3145728 {number}; done; rm -f /mnt/a/old; \
         dd if=/dev/urandom of=/mnt/a/new-{number} bs=64k count=10 2>/dev/null; dd if=/dev/zero of=/mnt/b/zero bs=64k count=8 2>/dev/null; \
         fstrim /mnt/a; sync",
        number % 4 * 1_048_576
    );
    suite.domain.sh(&script).expect("churn");
}

fn turn_off(suite: &Suite) {
    suite.domain.virsh_ok(&["destroy", suite.domain.name()]).expect("off");
}

fn in_place(suite: &Suite, id: &str, more: &[&str]) -> Value {
    suite.cairn.json(&[&["restore", id, "--in-place"], more].concat()).expect("restore in place")
}

fn disk<'a>(told: &'a Value, target: &str) -> &'a Value {
    cairn_lab::cairn::disk(told, target).expect("a disk")
}

/// Both disks are, byte for byte, what the reference is and what a full restore gives.
fn assert_is(suite: &Suite, kept: &Kept, name: &str) {
    let folder = suite.path(&format!("now-{name}"));
    std::fs::create_dir_all(&folder).expect("folder");
    let now = reference::copy_disks(&folder).expect("copies");
    assert_eq!(kept.reference.difference(&now).expect("readable"), None, "{name}: the disks are not the point's");
    let full = suite.cairn.restore_raw(&kept.id, &folder.join("full")).expect("restore");
    assert_eq!(full.difference(&now).expect("readable"), None, "{name}: a full restore is something else");
    std::fs::remove_dir_all(&folder).expect("our own folder");
    for disk in lab::disks().iter().filter(|d| d.format == "qcow2") {
        let image = disk.path.to_string_lossy();
        process::run_ok(Command::new("qemu-img").args(["check", "-q", &image]), BOOT_LIMIT).expect("a sound image");
    }
}

fn bitmaps(image: &Path) -> Vec<(String, Vec<String>)> {
    let text = process::run_ok(Command::new("qemu-img").args(["info", "--output=json"]).arg(image), BOOT_LIMIT).expect("qemu-img info");
    let info: Value = serde_json::from_str(&text).expect("JSON");
    let all = info["format-specific"]["data"]["bitmaps"].as_array().cloned().unwrap_or_default();
    let flags = |b: &Value| b["flags"].as_array().into_iter().flatten().filter_map(|f| f.as_str().map(str::to_owned)).collect();
    all.iter().map(|b| (b["name"].as_str().unwrap_or_default().to_owned(), flags(b))).collect()
}

fn stamp(path: &Path) -> (Vec<u8>, i64, i64) {
    let meta = path.metadata().expect("there");
    (std::fs::read(path).expect("reads"), meta.mtime(), meta.mtime_nsec())
}

fn images() -> Vec<PathBuf> {
    lab::disks().into_iter().map(|d| d.path).collect()
}

lab_test!(by_bitmap_and_by_comparison_and_the_chain_goes_on, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    suite.domain.sh("dd if=/dev/urandom of=/mnt/a/old bs=64k count=20 2>/dev/null; sync").expect("a file to lose");
    let first = suite.quiet_backup("first");
    churn(&suite, 1);
    let second = suite.quiet_backup("second");
    churn(&suite, 2);
    turn_off(&suite);

    let before: Vec<_> = images().iter().map(|i| stamp(i)).collect();
    let would = in_place(&suite, &first.id, &["--dry-run"]);
    assert_eq!(before, images().iter().map(|i| stamp(i)).collect::<Vec<_>>(), "a dry run writes nothing");
    // The bitmap began at the second point: where the first differs from that, the trees tell.
    let did = in_place(&suite, &first.id, &["--verify"]);
    assert_is(&suite, &first, "first");
    let (vda, vdb) = (disk(&did, "vda"), disk(&did, "vdb"));
    println!("vda: {vda}\nvdb: {vdb}");
    assert_eq!((vda["way"].as_str(), vdb["way"].as_str()), (Some("bitmap"), Some("compare")));
    assert_eq!((vda["base"].as_str(), vda["chain_kept"].as_bool()), (Some(second.id.as_str()), Some(true)));
    assert!(vda["verified"] == true && vdb["verified"] == true);
    for target in ["vda", "vdb"] {
        for key in ["written", "zeroed", "candidates", "way"] {
            assert_eq!(disk(&would, target)[key], disk(&did, target)[key], "{target}: the dry run said something else of {key}");
        }
    }
    let number = |v: &Value| v.as_u64().expect("a number");
    assert!(number(&vda["written"]) > 0 && number(&vda["candidates"]) < number(&vda["size"]) / 2, "{vda}");
    let again = in_place(&suite, &first.id, &[]);
    assert!(["vda", "vdb"].iter().all(|t| number(&disk(&again, t)["written"]) + number(&disk(&again, t)["zeroed"]) == 0), "{again}");

    suite.domain.start(BOOT_LIMIT).expect("it boots");
    let third = suite.quiet_backup("third");
    let point = suite.point(&third.id);
    assert_eq!((mode(&point, "vda").as_str(), mode(&point, "vdb").as_str()), ("incremental", "compare"), "{point}");
    suite.assert_restores(&third);

    // Without the bitmap the image is compared, and right as well.
    churn(&suite, 3);
    turn_off(&suite);
    let image = &images()[0];
    let names = bitmaps(image);
    assert_eq!(names.len(), 1, "{names:?}");
    process::run_ok(Command::new("qemu-img").args(["bitmap", "--remove"]).arg(image).arg(&names[0].0), BOOT_LIMIT).expect("removed");
    let did = in_place(&suite, &second.id, &[]);
    assert_eq!((disk(&did, "vda")["way"].as_str(), disk(&did, "vda")["chain_kept"].as_bool()), (Some("compare"), Some(false)));
    assert_is(&suite, &second, "second");
    suite.domain.start(BOOT_LIMIT).expect("it boots");
    let fourth = suite.quiet_backup("fourth");
    assert_eq!(mode(&suite.point(&fourth.id), "vda"), "compare");
    suite.assert_restores(&fourth);
});

lab_test!(refused_while_the_disks_are_not_ours, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let first = suite.quiet_backup("first");
    churn(&suite, 1);
    let run = |args: &[&str]| suite.cairn.run(&[&["restore", &first.id, "--in-place"], args].concat()).expect("it ends");
    assert_refused(&run(&[]), REFUSED, "running");
    assert_refused(&run(&["--dry-run"]), REFUSED, "running");
    assert_refused(&run(&["--disk", "vdz"]), NOT_FOUND, "vdz");
    assert_refused(&run(&["--disk", "vda=/x"]), 2, "--disk vda");
    // The lab's guest has no power button: it stays on, until it is turned off by force.
    let start = Instant::now();
    assert_refused(&run(&["--stop", "--stop-limit", "3"]), BUSY, "--force");
    assert!(start.elapsed() < Duration::from_secs(30));
    assert_eq!(suite.domain.state().expect("state"), "running");
    suite.domain.sh("echo still here > /mnt/a/alive && sync").expect("the guest writes");
    // What would be refused at the end is refused before anybody is shut down.
    suite.domain.virsh_ok(&["blockresize", "lab1", "vdb", "112M"]).expect("blockresize");
    assert_refused(&run(&["--disk", "vdb", "--stop"]), REFUSED, "shrinks");
    assert_eq!(suite.domain.state().expect("state"), "running");
    // One disk alone.
    let did = suite.cairn.json(&["restore", &first.id, "--in-place", "--disk", "vdb", "--stop", "--stop-limit", "2", "--force"]).expect("restore");
    assert!(did["stopped"] == true && did["disks"].as_array().is_some_and(|d| d.len() == 1), "{did}");
    // Memory that was saved belongs to the disks as they are.
    suite.domain.start(BOOT_LIMIT).expect("it boots");
    suite.domain.virsh_ok(&["managedsave", "lab1"]).expect("saved");
    assert_refused(&run(&[]), REFUSED, "managedsave-remove");
    suite.domain.virsh_ok(&["managedsave-remove", "lab1"]).expect("given up");
    // Somebody else has an image open.
    let image = &images()[0];
    let mut holder = Command::new("qemu-storage-daemon")
        .args([
            "--blockdev",
            &format!("driver=file,node-name=n,filename={}", image.display()),
            "--export",
            "type=vhost-user-blk,id=e,node-name=n,writable=on,addr.type=unix,addr.path=/tmp/holder",
        ])
        .stdin(Stdio::null())
        .spawn()
        .expect("starts");
    let begin = Instant::now();
    while !Path::new("/tmp/holder").exists() {
        assert!(begin.elapsed() < Duration::from_secs(20), "the daemon opens its socket");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_refused(&run(&[]), REFUSED, "in use");
    holder.kill().expect("ours");
    holder.wait().expect("reaped");
    // And started at the end.
    let did = in_place(&suite, &first.id, &["--start"]);
    assert_eq!(did["started"], true, "{did}");
    suite.domain.wait_agent(BOOT_LIMIT).expect("it boots");
    suite.domain.sh("test ! -e /mnt/a/alive && cat /mnt/a/greeting /mnt/b/greeting").expect("the point's files");
    // Given a power button, it shuts down in good order, and nobody turns it off.
    let button = "mkdir -p /sbin && printf '#!/bin/sh\\nsync; umount /mnt/a /mnt/b; /bin/busybox poweroff -f\\n' > /sbin/shutdown && chmod 755 /sbin/shutdown";
    suite.domain.sh(&format!("{button} && echo late > /mnt/a/late")).expect("a way to shut down");
    let did = in_place(&suite, &first.id, &["--stop"]);
    assert_eq!(did["stopped"], true, "{did}");
    let reason = suite.domain.virsh_ok(&["domstate", "lab1", "--reason"]).expect("domstate");
    assert_eq!(reason.trim(), "shut off (shutdown)");
    assert_is(&suite, &first, "after an orderly shutdown");
});

lab_test!(killed_at_random_moments_it_goes_on, Options { vda_mib: 512, data_mib: 96, ..Options::small() }, |lab| {
    let suite = Suite::new(&lab);
    let first = suite.quiet_backup("first");
    suite.domain.sh("dd if=/dev/urandom of=/mnt/a/much bs=1M count=120 2>/dev/null; sync").expect("much that differs");
    churn(&suite, 1);
    let second = suite.quiet_backup("second");
    churn(&suite, 2);
    turn_off(&suite);
    let begin = Instant::now();
    in_place(&suite, &first.id, &[]);
    let span = begin.elapsed();
    println!("one restore takes {span:?}");
    let (mut kept_chain, mut recorded) = (0, 0);
    for number in 0..KILLS {
        let wanted = if number % 2 == 0 { &second } else { &first };
        let mut command = suite.cairn.command(&["restore", &wanted.id, "--in-place"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
        std::thread::sleep(span * (number + 1) / (KILLS + 1));
        let killed = child.try_wait().expect("our child").is_none();
        // Over already, if it was quick this time.
        let _ = child.kill();
        child.wait().expect("reaped");
        let listed = suite.cairn.run(&["list", "lab1"]).expect("it ends").err_text();
        let half = listed.contains("half restored");
        recorded += u32::from(half);
        if half {
            let backup = suite.cairn.run(&["backup", "lab1"]).expect("it ends");
            assert_refused(&backup, REFUSED, "--in-place");
            assert!(killed, "a restore that ended leaves no record");
        }
        let did = in_place(&suite, &wanted.id, &[]);
        let vda = disk(&did, "vda");
        kept_chain += u32::from(vda["way"] == "bitmap" && vda["chain_kept"] == true);
        println!("{number}: killed {killed}, half restored {half}, then {} written, {}", vda["written"], vda["reason"]);
        assert_is(&suite, wanted, &format!("kill {number}"));
        assert!(!suite.cairn.run(&["list", "lab1"]).expect("it ends").err_text().contains("half restored"));
    }
    println!("{KILLS} kills: {recorded} left a record, {kept_chain} went on by the bitmap");
    assert!(recorded > 0, "no kill met a restore at work");
    // The storage daemon outlives us for a moment, and stores the bitmap (docs/in-place.md, "Interrupted").
    assert!(kept_chain * 2 >= KILLS, "{kept_chain} of {KILLS} went on by the bitmap");
    suite.domain.start(BOOT_LIMIT).expect("it boots");
    let last = suite.quiet_backup("last");
    println!("the next backup: vda {}", mode(&suite.point(&last.id), "vda"));
    suite.assert_restores(&last);
});

/// Waits until the record of what is half restored names a storage daemon other than `before`: from then on it writes to the image. Gives that, or `before`
/// if the restore ended meanwhile.
fn wait_writing(suite: &Suite, restore: &mut Child, before: &Value) -> Value {
    let uuid = suite.domain.virsh_ok(&["domuuid", suite.domain.name()]).expect("uuid");
    let record = Path::new("/var/lib/cairn/in-place").join(format!("{}.json", uuid.trim()));
    let writing = || {
        // While it is not there, or is being replaced, nobody writes.
        let record: Value = std::fs::read(&record).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let daemon = Some(record["daemon"].clone()).filter(|daemon| !daemon.is_null() && daemon != before);
        let ended = restore.try_wait().expect("our child").is_some();
        Ok(daemon.or_else(|| ended.then(|| before.clone())))
    };
    process::wait_for("a restore that writes", BOOT_LIMIT, Duration::from_millis(2), writing).expect("it comes so far")
}

lab_test!(interrupted_by_ctrl_c_it_closes_the_image, Options { vda_mib: 512, data_mib: 96, ..Options::small() }, |lab| {
    let suite = Suite::new(&lab);
    let first = suite.quiet_backup("first");
    suite.domain.sh("dd if=/dev/urandom of=/mnt/a/much bs=1M count=120 2>/dev/null; sync").expect("much that differs");
    let second = suite.quiet_backup("second");
    turn_off(&suite);
    let begin = Instant::now();
    in_place(&suite, &first.id, &[]);
    let span = begin.elapsed();
    let (mut hits, mut daemon) = (0, Value::Null);
    for number in 0..6u32 {
        let wanted = if number % 2 == 0 { &second } else { &first };
        let mut command = suite.cairn.command(&["restore", &wanted.id, "--in-place"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
        daemon = wait_writing(&suite, &mut child, &daemon);
        // Two of them as soon as it writes, which meet it whatever else the machine does; the others later.
        std::thread::sleep(span * (number % 3) / 6);
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("small"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("our own child");
        let status = process::wait_limit(&mut child, "interrupted restore", Duration::from_secs(60)).expect("it ends");
        let code = process::exit_code(status);
        assert!(code == 130 || code == 0, "exit code {code}");
        // Not ended by the signal itself, as before there was anything to close.
        hits += u32::from(status.code() == Some(130));
        let flags = bitmaps(&images()[0]);
        assert!(flags.iter().all(|(_, flags)| !flags.iter().any(|f| f == "in-use")), "the bitmap was not stored: {flags:?}");
    }
    println!("{hits} of 6 met a restore at work, which takes {span:?}");
    assert!(hits > 1, "restores were not met at work");
    let did = in_place(&suite, &first.id, &[]);
    assert_eq!(disk(&did, "vda")["way"], "bitmap", "{did}");
    assert_is(&suite, &first, "after all");
});

lab_test!(another_size_needs_force_and_a_snapshot_is_followed, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let first = suite.quiet_backup("first");
    churn(&suite, 1);
    turn_off(&suite);
    let [vda, vdb] = [&images()[0], &images()[1]].map(PathBuf::from);
    let resize = |image: &Path, format: &str, size: &str| {
        let shrink: &[&str] = if size.starts_with('-') { &["--shrink"] } else { &[] };
        let mut command = Command::new("qemu-img");
        process::run_ok(command.args(["resize", "-q", "-f", format]).args(shrink).arg(image).arg(size), BOOT_LIMIT).expect("resized");
    };
    resize(&vda, "qcow2", "+64M");
    resize(&vdb, "raw", "-16M");
    let before: Vec<_> = images().iter().map(|i| stamp(i)).collect();
    assert_refused(&suite.cairn.run(&["restore", &first.id, "--in-place"]).expect("it ends"), REFUSED, "shrinks");
    let would = in_place(&suite, &first.id, &["--dry-run"]);
    assert_eq!(would["resized"].as_array().map(Vec::len), Some(2), "{would}");
    assert_eq!(before, images().iter().map(|i| stamp(i)).collect::<Vec<_>>());
    let did = in_place(&suite, &first.id, &["--force", "--verify"]);
    assert_eq!(disk(&did, "vda")["way"], "bitmap", "{did}");
    assert_is(&suite, &first, "resized");

    // What the guest wrote after a snapshot lies in the overlay, and so do our writes.
    suite.domain.start(BOOT_LIMIT).expect("it boots");
    let second = suite.quiet_backup("second");
    churn(&suite, 2);
    suite.domain.virsh_ok(&["snapshot-create-as", "lab1", "later", "--disk-only", "--atomic", "--no-metadata"]).expect("snapshot");
    churn(&suite, 3);
    turn_off(&suite);
    let did = in_place(&suite, &second.id, &[]);
    let (a, b) = (disk(&did, "vda"), disk(&did, "vdb"));
    assert_eq!((a["way"].as_str(), b["way"].as_str()), (Some("bitmap"), Some("compare")), "{did}");
    for (told, reference) in [(a, &second.reference.vda), (b, &second.reference.vdb)] {
        let (image, raw) = (PathBuf::from(told["path"].as_str().expect("a path")), suite.path("overlay.raw"));
        assert!(!images().contains(&image), "the overlay is the disk now: {}", image.display());
        reference::raw_copy(&image, "qcow2", &raw).expect("copies");
        assert_eq!(reference::difference(reference, &raw).expect("readable"), None);
        std::fs::remove_file(&raw).expect("ours");
    }
    suite.domain.start(BOOT_LIMIT).expect("it boots");
    for target in ["vda", "vdb"] {
        suite.domain.virsh_ok(&["blockcommit", "lab1", target, "--active", "--pivot", "--wait"]).expect("blockcommit");
    }
    let third = suite.quiet_backup("third");
    println!("after the commit vda is {}", mode(&suite.point(&third.id), "vda"));
    suite.assert_restores(&third);
    // A disk that is gone is no reason not to restore the others.
    turn_off(&suite);
    suite.domain.virsh_ok(&["detach-disk", "lab1", "vdb", "--config"]).expect("detached");
    let output = suite.cairn.run(&["restore", &third.id, "--in-place"]).expect("it ends");
    assert_refused(&output, WARNINGS, "no disk vdb");

    // A bitmap that QEMU could not put away keeps an image from another size: then it stays as it is.
    for (size, way) in [("-16M", "grows"), ("+64M", "shrinks")] {
        resize(&vda, "qcow2", size);
        leave_open(&vda);
        let before = std::fs::read(&vda).expect("reads");
        let restore = |more: &[&str]| suite.cairn.run(&[&["restore", &third.id, "--in-place", "--disk", "vda"], more].concat()).expect("it ends");
        assert_refused(&restore(&[]), REFUSED, way);
        println!("{}", assert_refused(&restore(&["--force"]), FAILED, "cairn untrack"));
        assert!(std::fs::read(&vda).expect("reads") == before, "an image that {way} was written to");
        // Without what was in the way it is done.
        suite.cairn.ok(&["untrack", "lab1"]).expect("untrack");
        process::run_ok(Command::new("qemu-img").args(["bitmap", "--remove"]).arg(&vda).arg("left"), BOOT_LIMIT).expect("removed");
        let output = restore(&["--force"]);
        assert_eq!(output.code(), 0, "{}", output.err_text());
        let raw = suite.path("vda.raw");
        reference::raw_copy(&vda, "qcow2", &raw).expect("copies");
        assert_eq!(reference::difference(&third.reference.vda, &raw).expect("readable"), None);
    }
});

/// Its bitmaps, and one more, are as a QEMU leaves them that dies.
fn leave_open(image: &Path) {
    process::run_ok(Command::new("qemu-img").args(["bitmap", "--add"]).arg(image).arg("left"), BOOT_LIMIT).expect("added");
    let pid = image.with_extension("pid");
    let _ = std::fs::remove_file(&pid);
    let blockdev = format!("driver=qcow2,node-name=disk,file.driver=file,file.filename={}", image.display());
    let mut command = Command::new("qemu-storage-daemon");
    let mut daemon = command.args(["--blockdev", &blockdev, "--pidfile"]).arg(&pid).stdin(Stdio::null()).spawn().expect("starts");
    let opened = process::wait_for("the image to be opened", BOOT_LIMIT, Duration::from_millis(20), || Ok(pid.exists().then_some(())));
    daemon.kill().expect("ours");
    daemon.wait().expect("reaped");
    opened.expect("it opens the image");
    assert!(bitmaps(image).iter().all(|(_, flags)| flags.iter().any(|flag| flag == "in-use")), "{:?}", bitmaps(image));
}

lab_test!(a_disk_that_was_cut_short_and_grew_again_is_not_taken_for_unchanged, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let first = suite.quiet_backup("first");
    turn_off(&suite);
    let vda = PathBuf::from(&images()[0]);
    let size = std::fs::metadata(&first.reference.vda).expect("the reference").len();
    let qemu_img = |args: &[&str]| process::run_ok(Command::new("qemu-img").args(args).arg(&vda).arg(size.to_string()), BOOT_LIMIT).expect("qemu-img");
    let cut = || {
        process::run_ok(Command::new("qemu-img").args(["resize", "-q", "-f", "qcow2", "--shrink"]).arg(&vda).arg("1M"), BOOT_LIMIT).expect("cut");
        qemu_img(&["resize", "-q", "-f", "qcow2"]);
    };
    cut();
    assert_eq!(bitmaps(&images()[0]).len(), 1, "the bitmap is there, and says nothing of it");
    let did = in_place(&suite, &first.id, &["--verify"]);
    assert_eq!(disk(&did, "vda")["way"], "compare", "{did}");
    assert!(did.to_string().contains("cut short"), "{did}");
    assert_is(&suite, &first, "after a cut");
    cut();
    let folder = suite.path("reference-second");
    std::fs::create_dir_all(&folder).expect("folder");
    let reference = reference::copy_disks(&folder).expect("reference");
    let output = suite.cairn.run(&["backup", "lab1"]).expect("it ends");
    assert_eq!(output.code(), WARNINGS, "its power went, so it was not quiesced: {}", output.err_text());
    let second = Kept { id: suite.points().pop().expect("a point"), reference };
    let told = suite.point(&second.id);
    assert_eq!(mode(&told, "vda"), "compare", "{told}");
    assert!(told.to_string().contains("cut short"), "{told}");
    suite.assert_restores(&second);
    suite.assert_restores(&first);
});

fn figure_sizes() -> Options {
    let asked = std::env::var("CAIRN_FIGURES_MIB").unwrap_or_else(|_| "1024,384".into());
    let (vda, data) = asked.split_once(',').expect("CAIRN_FIGURES_MIB: two numbers");
    Options { vda_mib: vda.parse().expect("a number of MiB"), data_mib: data.parse().expect("a number of MiB"), ..Options::small() }
}

// A restore of 1 % changed beside a full one, in one run. How much is written is asserted; how long it takes depends on the machine and is printed.
// `CAIRN_FIGURES_MIB=8192,5120` sets the sizes of disk and data.
lab_test!(one_percent_changed_is_little_to_write, figure_sizes(), |lab| {
    let suite = Suite::new(&lab);
    let first = suite.quiet_backup("first");
    // The image is full of files; pieces of 96 KiB of some of them change.
    let pieces = figure_sizes().data_mib * 1024 / 100 / 96;
    let script = format!(
        "n=0; for f in $(find /mnt/a/data -type f -size +512k | head -n {pieces}); do n=$((n+1)); \
         /bin/lab-guest __lab-guest noise $f 65536 98304 $n || exit 1; done; sync; echo $n"
    );
    let changed: u64 = suite.domain.sh(&script).expect("changes").trim().parse().expect("a number");
    assert!((40..=pieces).contains(&changed), "{changed} files changed");
    turn_off(&suite);
    let full = suite.path("full.qcow2");
    let begin = Instant::now();
    let told = suite.cairn.json(&["restore", &first.id, "--disk", &format!("vda={}", full.display()), "--format", "qcow2"]).expect("restore");
    let (full_took, full_written) = (begin.elapsed(), disk(&told, "vda")["written"].as_u64().expect("a number"));
    let begin = Instant::now();
    let told = in_place(&suite, &first.id, &["--disk", "vda"]);
    let took = begin.elapsed();
    let vda = disk(&told, "vda");
    let written = vda["written"].as_u64().expect("a number") + vda["zeroed"].as_u64().expect("a number");
    println!(
        "full: {full_written} bytes in {full_took:?}; in place: {written} bytes in {took:?}, {}x less, {:.1}x faster",
        full_written / written,
        full_took.as_secs_f64() / took.as_secs_f64()
    );
    println!("{vda}");
    assert_eq!(vda["way"], "bitmap");
    assert!(written * 20 <= full_written, "{written} of {full_written}");
    process::run_ok(Command::new("qemu-img").args(["compare"]).arg(&full).arg(&images()[0]), BOOT_LIMIT).expect("equal");
});
