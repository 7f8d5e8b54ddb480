//! Domains that are off: every byte of their images, increments that go on, and nobody who is kept from starting them.

use cairn_lab::cairn::{BUSY, NOT_FOUND, REFUSED, WARNINGS};
use cairn_lab::loops::Loop;
use cairn_lab::off::{self, images, qemu_io, shut_down, storage_daemons, wait_off};
use cairn_lab::suite::{Kept, Suite, assert_refused, mode, quiesce};
use cairn_lab::{Cairn, Options, cairn, lab_test, process, reference};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BOOT_LIMIT: Duration = Duration::from_secs(180);
const TOOL_LIMIT: Duration = Duration::from_secs(60);
const END_LIMIT: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(20);
const MIB: u64 = 1 << 20;

/// Data after a point: new, changed, deleted, zeroed, on both disks.
fn churn(suite: &Suite, number: u32) {
    let script = format!(
        "for d in a b; do /bin/lab-guest __lab-guest noise /mnt/$d/churn {} 3145728 {number}; done; \
         dd if=/dev/urandom of=/mnt/a/new-{number} bs=64k count=10 2>/dev/null; dd if=/dev/zero of=/mnt/b/zero bs=64k count=8 2>/dev/null; \
         fstrim /mnt/a; sync",
        number % 4 * 1_048_576
    );
    suite.domain.sh(&script).expect("churn");
}

fn modes(suite: &Suite, kept: &Kept) -> (String, String) {
    let point = suite.point(&kept.id);
    (mode(&point, "vda"), mode(&point, "vdb"))
}

fn number(point: &Value, target: &str, key: &str) -> u64 {
    cairn::disk(point, target).expect("a disk")[key].as_u64().expect("a number")
}

fn pair(a: &str, b: &str) -> (String, String) {
    (a.to_owned(), b.to_owned())
}

/// Processes whose parent is that one, by name.
fn children_of(parent: u32, name: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        after.split_whitespace().nth(1) == Some(&parent.to_string()) && name.starts_with(comm.trim()) && !comm.trim().is_empty()
    };
    pids.filter(is_child).collect()
}

/// A backup that has its storage daemons up and stands still.
fn stopped_backup(suite: &Suite, args: &[&str]) -> Child {
    let mut command = suite.cairn.command(args);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let pid = pid_of(&child);
    let begin = Instant::now();
    // One daemon a disk, made one after the other.
    while children_of(child.id(), "qemu-storage-daemon").len() < 2 {
        assert!(begin.elapsed() < TOOL_LIMIT, "its storage daemons start");
        std::thread::sleep(POLL);
    }
    kill(pid, Signal::SIGSTOP).expect("our child");
    child
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("small"))
}

/// Lets it go on; exit code and what it said on stderr.
fn go_on(child: Child) -> (i32, String) {
    kill(pid_of(&child), Signal::SIGCONT).expect("our child");
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || send.send(child.wait_with_output()));
    let output = receive.recv_timeout(END_LIMIT).expect("it ends in time").expect("its output");
    (process::exit_code(output.status), String::from_utf8_lossy(&output.stderr).into_owned())
}

lab_test!(increments_go_on_from_a_domain_that_is_off, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let first = suite.quiet_backup("first");
    churn(&suite, 1);
    shut_down(&suite);

    let second = off::backup(&suite, "second", 0);
    let point = suite.point(&second.id);
    assert_eq!(modes(&suite, &second), pair("incremental", "compare"), "{point}");
    assert_eq!(quiesce(&point), "filesystem", "{point}");
    assert!(number(&point, "vda", "read") < number(&point, "vda", "size") / 2, "{point}");
    assert!(number(&point, "vda", "changed") > 0 && number(&point, "vdb", "changed") > 0, "{point}");

    // Nobody wrote to the images since: nothing is read, raw or not.
    let third = off::backup(&suite, "third", 0);
    let point = suite.point(&third.id);
    assert_eq!(modes(&suite, &third), pair("incremental", "incremental"), "{point}");
    assert_eq!((number(&point, "vda", "read"), number(&point, "vdb", "read")), (0, 0), "{point}");

    // What is written beside the guest counts as well, and only that is read of the qcow2 image.
    qemu_io(&images()[0], "qcow2", "write -P 0x5a 100M 128k");
    qemu_io(&images()[1], "raw", "write -P 0x5b 30M 64k");
    let fourth = off::backup(&suite, "fourth", 0);
    assert_eq!(modes(&suite, &fourth), pair("incremental", "compare"));

    // The bitmap began at the first point, which goes, and the next two with it: the one that is left goes on from it.
    for id in [&first.id, &second.id, &third.id] {
        suite.cairn.ok(&["forget", id, "--force"]).expect("forgotten");
    }
    suite.domain.start(BOOT_LIMIT).expect("it boots");
    churn(&suite, 2);
    let fifth = suite.quiet_backup("fifth");
    let point = suite.point(&fifth.id);
    assert_eq!(modes(&suite, &fifth), pair("incremental", "compare"), "{point}");
    assert_eq!(point["source"]["capture"], "live");
    assert!(number(&point, "vda", "read") < number(&point, "vda", "size") / 2, "{point}");
    suite.assert_restores(&fifth);
    suite.assert_restores(&fourth);
    suite.assert_left_alone(Duration::from_secs(5));

    churn(&suite, 3);
    let sixth = suite.quiet_backup("sixth");
    assert_eq!(modes(&suite, &sixth), pair("incremental", "incremental"));
    suite.assert_restores(&sixth);
    shut_down(&suite);
    assert_eq!(modes(&suite, &off::backup(&suite, "seventh", 0)), pair("incremental", "compare"));
});

lab_test!(an_image_set_back_to_an_earlier_state_is_read_where_it_matters, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let first = suite.quiet_backup("first");
    shut_down(&suite);
    let image = &images()[0];
    qemu_io(image, "qcow2", "write -P 0x11 40M 64k");
    let earlier = suite.path("earlier.qcow2");
    std::fs::copy(image, &earlier).expect("copied");
    qemu_io(image, "qcow2", "write -P 0x22 40M 64k");
    qemu_io(image, "qcow2", "write -P 0x33 60M 64k");
    let second = off::backup(&suite, "second", 0);
    assert_eq!(mode(&suite.point(&second.id), "vda"), "incremental");
    // As a storage snapshot that is rolled back does it: the same file, an earlier content, an earlier bitmap. What was at 60M is not marked in it.
    std::fs::copy(&earlier, image).expect("set back");
    suite.cairn.ok(&["forget", &first.id, "--force"]).expect("forgotten");
    let third = off::backup(&suite, "third", 0);
    let point = suite.point(&third.id);
    assert_eq!(mode(&point, "vda"), "incremental", "{point}");
    suite.assert_restores(&second);
});

lab_test!(a_start_in_between_is_not_hindered_and_the_point_is_of_the_running_domain, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let first = suite.quiet_backup("first");
    churn(&suite, 1);
    shut_down(&suite);
    let backup = stopped_backup(&suite, &["backup", "lab1"]);
    let begin = Instant::now();
    suite.domain.start(BOOT_LIMIT).expect("it starts though its images are open elsewhere");
    println!("started in {:?}", begin.elapsed());
    churn(&suite, 2);
    suite.domain.read_only(true).expect("read-only");
    let reference = reference::take(&suite.domain, &suite.path("reference-live")).expect("reference");
    let (code, said) = go_on(backup);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("started while it was backed up"), "{said}");
    let points = suite.points();
    assert_eq!(points.len(), 2, "one point came of it: {points:?}");
    let second = Kept { id: points[1].clone(), reference };
    let point = suite.point(&second.id);
    assert_eq!((point["source"]["capture"].as_str(), mode(&point, "vda").as_str()), (Some("live"), "incremental"), "{point}");
    suite.assert_restores(&second);
    suite.assert_restores(&first);
    suite.domain.read_only(false).expect("read-write");
    suite.assert_left_alone(Duration::from_secs(5));
    assert_eq!(storage_daemons(), Vec::<u32>::new());

    // The other way round: a domain that ends in the middle of a live backup, of another store, all of which is to be read.
    suite.domain.read_only(true).expect("read-only");
    let other = Cairn::new(&lab, "other").expect("a program under test");
    other.init().expect("cairn init");
    let child = other.command(&["backup", "lab1"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let runs = || Ok(suite.domain.virsh_ok(&["domjobinfo", "lab1"])?.contains("Backup").then_some(()));
    process::wait_for("the backup job", TOOL_LIMIT, POLL, runs).expect("it begins");
    suite.domain.virsh_ok(&["destroy", "lab1"]).expect("off");
    let (code, said) = go_on(child);
    assert_eq!(code, WARNINGS, "{said}");
    assert!(said.contains("ended while it was backed up"), "{said}");
    let points = other.points("lab1").expect("points");
    assert_eq!((points.len(), other.point(&points[0]).expect("a point")["source"]["capture"].as_str()), (1, Some("offline")), "{points:?}");
    let reference = reference::copy_disks(&suite.path("reference-live")).expect("reference");
    let restored = other.restore_raw(&points[0], &suite.path("restored-other")).expect("restore");
    assert_eq!(reference.difference(&restored).expect("readable"), None);
    // The dead job cost the first store nothing.
    assert_eq!(modes(&suite, &off::backup(&suite, "third", WARNINGS)).0, "incremental");
});

lab_test!(a_crashed_domain_is_compared_and_says_so, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let first = suite.quiet_backup("first");
    // A bitmap is in the image once QEMU has closed it; opened again, it is marked as in use.
    shut_down(&suite);
    suite.domain.start(BOOT_LIMIT).expect("it boots");
    churn(&suite, 1);
    let pid: i32 = std::fs::read_to_string("/run/libvirt/qemu/lab1.pid").expect("a pid file").trim().parse().expect("a pid");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("the lab's own QEMU");
    wait_off(&suite);
    let refused = suite.cairn.run(&["backup", "lab1", "--quiesce", "require"]).expect("it ends");
    assert_refused(&refused, REFUSED, "crashed");
    let second = off::backup(&suite, "second", WARNINGS);
    let point = suite.point(&second.id);
    assert_eq!((modes(&suite, &second), quiesce(&point).as_str()), (pair("compare", "compare"), "crash"), "{point}");
    let reason = cairn::disk(&point, "vda").expect("a disk")["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("inconsistent"), "{reason}");
    suite.domain.start(BOOT_LIMIT).expect("it boots");
    let third = suite.quiet_backup("third");
    churn(&suite, 2);
    let fourth = suite.quiet_backup("fourth");
    assert_eq!((modes(&suite, &third).0.as_str(), modes(&suite, &fourth).0.as_str()), ("compare", "incremental"));
    for kept in [&first, &third, &fourth] {
        suite.assert_restores(kept);
    }

    // Memory that is saved is said to be missing.
    suite.domain.read_only(true).expect("read-only");
    suite.domain.virsh_ok(&["managedsave", "lab1"]).expect("saved");
    let fifth = off::backup(&suite, "fifth", WARNINGS);
    let point = suite.point(&fifth.id);
    assert!(quiesce(&point) == "crash" && point["warnings"].to_string().contains("managed save"), "{point}");
    assert_eq!(modes(&suite, &fifth).0, "incremental");
});

lab_test!(killed_in_the_middle_it_leaves_nothing, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    shut_down(&suite);
    for round in 0..3 {
        let mut backup = stopped_backup(&suite, &["backup", "lab1"]);
        let began = storage_daemons();
        // The second may not be there yet.
        assert!(!began.is_empty(), "a storage daemon serves an image");
        backup.kill().expect("our child");
        backup.wait().expect("reaped");
        process::wait_for("the storage daemons' end", TOOL_LIMIT, POLL, || Ok(storage_daemons().is_empty().then_some(()))).expect("gone");
        assert_eq!(suite.points().len(), round, "no point came of it");
        // The lock is free at once.
        let _ = off::backup(&suite, &format!("after-{round}"), 0);
    }
    // Ctrl-C as well.
    qemu_io(&images()[1], "raw", "write -P 0x77 10M 1M");
    let backup = stopped_backup(&suite, &["backup", "lab1"]);
    kill(pid_of(&backup), Signal::SIGINT).expect("our child");
    let (code, said) = go_on(backup);
    assert_eq!(code, 130, "{said}");
    assert_eq!((storage_daemons(), suite.points().len()), (Vec::new(), 3));
    suite.domain.start(BOOT_LIMIT).expect("it boots");
});

lab_test!(an_image_that_changes_while_it_is_read_makes_no_point, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    shut_down(&suite);
    for (round, (image, format)) in [(&images()[1], "raw"), (&images()[0], "qcow2")].into_iter().enumerate() {
        let backup = stopped_backup(&suite, &["backup", "lab1"]);
        qemu_io(image, format, &format!("write -P 0x66 {}M 4k", 20 + round));
        let folder = suite.path(&format!("changed-{round}"));
        std::fs::create_dir_all(&folder).expect("folder");
        let reference = reference::copy_disks(&folder).expect("reference");
        let (code, said) = go_on(backup);
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("did not stay as it was"), "{said}");
        let points = suite.points();
        assert_eq!(points.len(), round + 1, "one point, of the second attempt: {points:?}");
        suite.assert_restores(&Kept { id: points[round].clone(), reference });
    }
    // Somebody who does not stop.
    let (image, (end, ended)) = (images()[1].clone(), std::sync::mpsc::channel::<()>());
    let writer = std::thread::spawn(move || {
        while ended.try_recv().is_err_and(|why| why == std::sync::mpsc::TryRecvError::Empty) {
            qemu_io(&image, "raw", "write -P 0x67 10M 4k");
        }
    });
    let output = suite.cairn.run(&["backup", "lab1"]).expect("it ends");
    end.send(()).expect("it waits for that");
    writer.join().expect("a good end");
    // What it meets first: the change, or the writer with the image open.
    let code = if output.code() == REFUSED { REFUSED } else { BUSY };
    let said = assert_refused(&output, code, &images()[1].display().to_string());
    assert!(code == BUSY || said.contains("which writes to it; nothing was saved"), "{said}");
    assert_eq!(suite.points().len(), 2);
    let _ = off::backup(&suite, "after", 0);
});

lab_test!(every_kind_of_disk_is_read_or_named, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let pool = Path::new("/var/lib/libvirt/images");
    let [base, top, raw, device, volume] = ["base.qcow2", "top.qcow2", "sparse.raw", "device.img", "volume.qcow2"].map(|name| pool.join(name));
    let create = |args: &[&str]| process::run_ok(Command::new("qemu-img").arg("create").arg("-q").args(args), TOOL_LIMIT).expect("qemu-img create");
    let text = |path: &Path| path.display().to_string();
    create(&["-f", "qcow2", &text(&base), "64M"]);
    qemu_io(&base, "qcow2", "write -P 0x31 1M 3M");
    create(&["-f", "qcow2", "-b", &text(&base), "-F", "qcow2", &text(&top)]);
    qemu_io(&top, "qcow2", "write -P 0x32 2M 64k");
    create(&["-f", "raw", &text(&raw), "256M"]);
    qemu_io(&raw, "raw", "write -P 0x33 200M 1M");
    create(&["-f", "raw", &text(&device), "32M"]);
    create(&["-f", "qcow2", &text(&volume), "16M"]);
    qemu_io(&volume, "qcow2", "write -P 0x34 0 1M");
    let held = Loop::over(&device).expect("a loop device");
    let node = PathBuf::from(&held.path());
    qemu_io(&node, "raw", "write -P 0x35 5M 2M");
    suite.domain.virsh_ok(&["pool-refresh", "default"]).expect("the pool sees its volume");
    let disk = |kind: &str, format: &str, source: &str, target: &str| {
        format!("<disk type='{kind}' device='disk'><driver name='qemu' type='{format}'/><source {source}/><target dev='{target}' bus='virtio'/></disk>")
    };
    let xml = format!(
        "<domain type='qemu'><name>off2</name><memory unit='MiB'>64</memory><os><type arch='x86_64' machine='q35'>hvm</type></os><devices>{}{}{}{}\
         <disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk></devices></domain>",
        disk("file", "qcow2", &format!("file='{}'", text(&top)), "vda"),
        disk("file", "raw", &format!("file='{}'", text(&raw)), "vdb"),
        disk("block", "raw", &format!("dev='{}'", held.path()), "vdc"),
        disk("volume", "qcow2", "pool='default' volume='volume.qcow2'", "vdd"),
    );
    let file = suite.path("off2.xml");
    std::fs::write(&file, &xml).expect("written");
    suite.domain.virsh_ok(&["define", &text(&file)]).expect("defined");
    let all: [(&str, &Path, &str); 4] = [("vda", &top, "qcow2"), ("vdb", &raw, "raw"), ("vdc", &node, "raw"), ("vdd", &volume, "qcow2")];

    // With `--all` both the running domain and the one that is off. It never ran, so nothing is known of how it ended, and that is no warning.
    let made = suite.cairn.json(&["backup", "--all"]).expect("both are saved");
    let names: Vec<&str> = made.as_array().expect("an array").iter().filter_map(|point| point["name"].as_str()).collect();
    assert!(names.len() == 2 && names.contains(&"lab1") && names.contains(&"off2"), "{made}");
    let first = suite.cairn.points("off2").expect("points").remove(0);
    let point = suite.point(&first);
    assert_eq!((quiesce(&point).as_str(), point["source"]["skipped"][0]["target"].as_str()), ("crash", Some("sda")), "{point}");
    suite.assert_disks(&first, &all);

    // Written to: the device beside its domain, the volume; the others stay and are not read again.
    qemu_io(&node, "raw", "write -P 0x36 6M 4k");
    qemu_io(&volume, "qcow2", "write -P 0x37 8M 64k");
    let second = suite.cairn.json(&["backup", "off2"]).expect("saved");
    let modes: Vec<String> = all.iter().map(|(target, ..)| mode(&second, target)).collect();
    assert_eq!(modes, ["incremental", "incremental", "compare", "compare"], "{second}");
    assert_eq!((number(&second, "vda", "read"), number(&second, "vdb", "read")), (0, 0), "{second}");
    assert!(number(&second, "vdc", "changed") > 0 && number(&second, "vdc", "changed") <= MIB, "{second}");
    suite.assert_disks(second["id"].as_str().expect("an id"), &all);

    // Somebody has one of them: named, whoever it is.
    let running = images()[1].clone();
    let other = xml.replace(&text(&raw), &text(&running));
    std::fs::write(&file, other.replace("off2", "off3")).expect("written");
    suite.domain.virsh_ok(&["define", &text(&file)]).expect("defined");
    let said = assert_refused(&suite.cairn.run(&["backup", "off3"]).expect("it ends"), REFUSED, "lab1");
    assert!(said.contains("vdb") && said.contains(&text(&running)), "{said}");
    suite.cairn.ok(&["backup", "off3", "--disk", "vda", "--disk", "vdd"]).expect("the others");

    // One is gone.
    std::fs::rename(&raw, pool.join("elsewhere")).expect("moved");
    let said = assert_refused(&suite.cairn.run(&["backup", "off2"]).expect("it ends"), NOT_FOUND, "vdb");
    assert!(said.contains(&text(&raw)) && said.contains("--disk"), "{said}");
    suite.cairn.ok(&["backup", "off2", "--disk", "vda", "--disk", "vdc"]).expect("the others");
    // A backing file, too.
    std::fs::rename(&base, pool.join("elsewhere-2")).expect("moved");
    assert_refused(&suite.cairn.run(&["backup", "off2", "--disk", "vda"]).expect("it ends"), NOT_FOUND, &text(&base));
});
