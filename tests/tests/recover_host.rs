//! Many domains at once, in order, through interruptions and failures.

use cairn_lab::process::{run_ok, wait_for};
use cairn_lab::suite::{Suite, assert_refused};
use cairn_lab::{Domain, Options, cairn, lab_test};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const TOOL_LIMIT: Duration = Duration::from_secs(60);
const STEP_LIMIT: Duration = Duration::from_secs(60);

/// A small machine without a system: it runs, and that is all.
fn small(suite: &Suite, name: &str, devices: &str) {
    let image = Path::new("/var/lib/libvirt/images").join(format!("{name}.qcow2"));
    run_ok(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&image).arg("32M"), TOOL_LIMIT).expect("image");
    run_ok(Command::new("qemu-io").args(["-c", "write -P 7 1M 3M"]).arg(&image), TOOL_LIMIT).expect("content");
    let text = format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><os><type arch='x86_64' machine='q35'>hvm</type></os><devices>\
         <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/><target dev='vda' bus='virtio'/></disk>{devices}</devices></domain>",
        image.display()
    );
    let path = suite.path(&format!("{name}.xml"));
    fs::write(&path, text).expect("written");
    suite.domain.virsh_ok(&["define", &path.to_string_lossy()]).expect("define");
}

/// Status by name, as the JSON has it.
fn status<'a>(answer: &'a Value, what: &str) -> (&'a str, &'a Value) {
    let line = answer["domains"].as_array().expect("domains").iter().find(|line| line["what"] == what).expect(what);
    (line["status"].as_str().expect("status"), line)
}

fn answer(output: &cairn_lab::process::Output) -> Value {
    serde_json::from_str(&output.text()).unwrap_or_else(|e| panic!("{e}: {}\n{}", output.text(), output.err_text()))
}

lab_test!(a_lost_host_comes_back_in_order, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    small(&suite, "db 1", "");
    small(&suite, "bad", "");
    for name in ["db 1", "bad"] {
        suite.domain.virsh_ok(&["start", name]).expect("start");
    }
    // What runs has no network, what is defined has one.
    let bad = suite.domain.virsh_ok(&["dumpxml", "--inactive", "bad"]).expect("XML");
    let bad = bad.replacen("</devices>", "<interface type='network'><source network='lan'/></interface></devices>", 1);
    fs::write(suite.path("bad.xml"), bad).expect("written");
    suite.domain.virsh_ok(&["define", &suite.path("bad.xml").to_string_lossy()]).expect("define");
    suite.domain.virsh_ok(&["autostart", "lab1"]).expect("autostart");
    for name in ["lab1", "db 1", "bad"] {
        suite.cairn.ok(&["backup", name, "--quiesce", "never"]).expect("backup");
    }
    let names = ["lab1", "db 1", "bad"];
    for name in names {
        suite.domain.virsh_ok(&["destroy", name]).expect("destroy");
        suite.domain.virsh_ok(&["undefine", name]).expect("undefine");
    }
    for entry in fs::read_dir("/var/lib/libvirt/images").expect("images").flatten() {
        fs::remove_file(entry.path()).expect("removed");
    }

    let list = suite.path("list");
    fs::write(&list, "# order matters\n\"db 1\" start=yes delay=1\ndefaults start=yes\nbad\nlab1 agent=180\nno-such-domain\n").expect("written");
    let from_list = ["recover-host", "--from-list", &list.to_string_lossy(), "--json"].map(str::to_owned);
    let from_list: Vec<&str> = from_list.iter().map(String::as_str).collect();
    // A dry run tells all that stands in the way, and writes nothing.
    let dry = suite.cairn.run(&[&from_list[..], &["--dry-run"]].concat()).expect("it ends");
    assert!(matches!(dry.code(), cairn::REFUSED | cairn::NOT_FOUND), "{}: {}", dry.code(), dry.text());
    let told = answer(&dry);
    assert_eq!((status(&told, "db 1").0, status(&told, "lab1").0), ("possible", "possible"));
    assert!(status(&told, "bad").1["message"].as_str().expect("message").contains("--map-network lan="));
    assert_eq!(status(&told, "no-such-domain").1["code"], cairn::NOT_FOUND);
    assert_eq!(fs::read_dir("/var/lib/libvirt/images").expect("images").count(), 0);

    // Killed while it writes the third: what came back before is skipped by the next run, and what was half-written is replaced.
    let mut first = suite.cairn.command(&from_list).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    wait_for("the third domain's disk", STEP_LIMIT, Duration::from_millis(2), || {
        Ok(Path::new("/var/lib/libvirt/images/lab1-a.qcow2.cairn-partial").exists().then_some(()))
    })
    .expect("it writes");
    first.kill().expect("killed");
    first.wait().expect("it ended");
    let second = suite.cairn.run(&from_list).expect("it ends");
    let done = answer(&second);
    assert_eq!(status(&done, "db 1").0, "skipped", "{done}");
    assert_eq!((status(&done, "lab1").0, status(&done, "lab1").1["started"].as_bool()), ("restored", Some(true)), "{done}");
    assert_eq!((status(&done, "bad").0, status(&done, "bad").1["code"].as_i64()), ("failed", Some(i64::from(cairn::REFUSED))));
    assert_refused(&second, second.code(), "no-such-domain");
    assert!(matches!(second.code(), cairn::REFUSED | cairn::NOT_FOUND));
    assert_eq!(suite.domain.state().expect("state"), "running");
    suite.domain.sh("cat /mnt/a/greeting /mnt/b/greeting").expect("the agent answered, the files are there");
    assert_eq!(Domain::new("db 1").state().expect("state"), "running");
    assert!(suite.domain.virsh_ok(&["dominfo", "lab1"]).expect("info").contains("enable"), "autostart");

    // What stood in the way is mended; one failure ends the run where that is wanted.
    let host = run_ok(&mut Command::new("hostname"), TOOL_LIMIT).expect("hostname");
    let all = ["recover-host", "--all", "--host", host.trim(), "--json"];
    let strict = suite.cairn.run(&[&all[..], &["--stop-on-error"]].concat()).expect("it ends");
    assert_eq!((strict.code(), status(&answer(&strict), "db 1").0), (cairn::REFUSED, "not-tried"));
    let mended = suite.cairn.run(&[&all[..], &["--ignore-missing"]].concat()).expect("it ends");
    assert_eq!(mended.code(), cairn::WARNINGS, "{}", mended.text());
    let told = answer(&mended);
    assert_eq!(names.map(|name| status(&told, name).0), ["skipped", "skipped", "restored"]);
    assert_eq!(told["restored"], 1);

    // A backup of what came back is no reason to bring it back once more.
    suite.cairn.ok(&["backup", "lab1"]).expect("backup");
    let again = suite.cairn.run(&all).expect("it ends");
    assert_eq!((again.code(), status(&answer(&again), "lab1").0), (cairn::DONE, "skipped"), "{}", again.text());
    let nobody = suite.cairn.run(&["recover-host", "--all", "--host", "no-such-host"]).expect("it ends");
    assert_refused(&nobody, cairn::NOT_FOUND, host.trim());
});

lab_test!(disks_that_were_whole_are_not_written_twice, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let point = suite.quiet_backup("only");
    suite.domain.virsh_ok(&["destroy", "lab1"]).expect("destroy");
    suite.domain.virsh_ok(&["undefine", "lab1"]).expect("undefine");
    let disks = cairn_lab::lab::disks().map(|disk| disk.path);
    for path in &disks {
        fs::remove_file(path).expect("removed");
    }
    let list = suite.path("list");
    fs::write(&list, "lab1\n").expect("written");
    let args = ["recover-host", "--from-list", &list.to_string_lossy(), "--json"].map(str::to_owned);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    // The definition fails after the disks are in place: libvirt cannot write it.
    let definitions = Path::new("/etc/libvirt/qemu");
    run_ok(Command::new("mount").args(["-t", "tmpfs", "-o", "ro", "none"]).arg(definitions), TOOL_LIMIT).expect("read-only");
    let failed = suite.cairn.run(&args).expect("it ends");
    assert_eq!(failed.code(), cairn::FAILED, "{}\n{}", failed.text(), failed.err_text());
    run_ok(Command::new("umount").arg(definitions), TOOL_LIMIT).expect("writable");
    let inodes = || disks.each_ref().map(|path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).expect("in place")));
    let before = inodes();
    let output = suite.cairn.run(&args).expect("it ends");
    assert_eq!(output.code(), cairn::DONE, "{}\n{}", output.text(), output.err_text());
    assert_eq!(inodes(), before, "they are the same files");
    suite.domain.start(Duration::from_secs(120)).expect("it boots");
    assert_eq!(suite.points(), [point.id]);

    // It is here as long as its disks are: images may be lost and definitions survive.
    suite.domain.virsh_ok(&["destroy", "lab1"]).expect("destroy");
    let forced: Vec<&str> = [&args[..], &["--force"]].concat();
    let again = suite.cairn.run(&forced).expect("it ends");
    assert_eq!((again.code(), status(&answer(&again), "lab1").0), (cairn::DONE, "skipped"), "what was written since would be lost: {}", again.text());
    fs::remove_file(&disks[1]).expect("removed");
    let refused = suite.cairn.run(&args).expect("it ends");
    assert_eq!(refused.code(), cairn::REFUSED, "{}", refused.text());
    let told = answer(&refused);
    let message = status(&told, "lab1").1["message"].as_str().expect("message");
    assert!(message.contains(disks[1].to_str().expect("UTF-8")) && message.contains("--force"), "{message}");
    let output = suite.cairn.run(&forced).expect("it ends");
    assert_eq!((output.code(), status(&answer(&output), "lab1").0), (cairn::DONE, "restored"), "{}\n{}", output.text(), output.err_text());
    assert!(disks.iter().all(|path| path.exists()));
});
