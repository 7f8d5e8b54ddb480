//! `cairn doctor` on real parts: a host that is well, and one fault after the other, each told with its remedy. Nothing is changed, and nothing hangs.

use cairn_lab::nfs::{Rig, Setup};
use cairn_lab::suite::{CLEAN_LIMIT, Suite, assert_refused};
use cairn_lab::{Options, cairn, imposter, lab_test, libvirt, process, stall, traces};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BOOT_LIMIT: Duration = Duration::from_secs(120);
const TOOL_LIMIT: Duration = Duration::from_secs(60);
const KILL_LIMIT: Duration = Duration::from_secs(60);
/// Whatever hangs: the limits of checks that run one after the other, on a busy machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(150);
/// For an imposter that leaves when it is told to.
const LONG: Duration = Duration::from_secs(600);
/// How exports of ours begin; libvirt has some of its own in the same backup.
const OURS: &str = "cairn-";
/// While it is there, the store of a backup that is to die stands still.
const GATE: &str = "gate";
const HELPER: &str = env!("CARGO_BIN_EXE_cairn-lab");

/// A report and the exit code, which must fit.
fn doctor(suite: &Suite, args: &[&str]) -> Value {
    let begin = Instant::now();
    let output = suite.cairn.run(&[&["doctor", "--json"], args].concat()).expect("it ends");
    let took = begin.elapsed();
    assert!(took < ANSWER_LIMIT, "it took {took:?}");
    let report: Value = serde_json::from_str(&output.text()).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    let code = match report["status"].as_str() {
        Some("ok") => cairn::DONE,
        Some("warning") => cairn::WARNINGS,
        _ => cairn::FAILED,
    };
    assert_eq!(output.code(), code, "{output:?}");
    for check in all(&report) {
        assert_eq!(check["status"] == "ok", check["remedy"].is_null(), "what is not well has a remedy: {check}");
    }
    println!("doctor {args:?}: {} in {:.1} s", report["status"], took.as_secs_f64());
    report
}

fn all(report: &Value) -> &Vec<Value> {
    report["checks"].as_array().expect("checks")
}

/// That a finding of this check, about this disk or domain or store (any, if empty), has the status and says the words.
fn assert_found(report: &Value, check: &str, about: &str, status: &str, words: &[&str]) {
    let is_about = |c: &Value| about.is_empty() || ["disk", "domain", "store"].iter().any(|key| c[*key] == about);
    let fits = |c: &&Value| c["check"] == check && is_about(c) && c["status"] == status && words.iter().all(|word| c.to_string().contains(word));
    assert!(all(report).iter().any(|c| fits(&c)), "no {check} {about} {status} {words:?} in {report:#}");
}

/// Checks that are not well, but for those of the machine that runs the suite: the room on its disk, another build of the hook beside the program.
fn ill(report: &Value) -> Vec<&Value> {
    all(report).iter().filter(|c| c["status"] != "ok" && !["space", "scratch", "hook"].contains(&c["check"].as_str().expect("a word"))).collect()
}

fn is_tainted() -> bool {
    fs::read_to_string("/run/libvirt/qemu/lab1.xml").expect("libvirt's state").contains("custom-monitor")
}

fn bitmaps(suite: &Suite) -> traces::Traces {
    traces::look(&suite.domain).expect("the monitor answers")
}

/// Kills a backup's guard and then the backup once `is_time`, so that nobody is left to clean up. Its store stands still while there is
/// a file [`GATE`].
fn dead_backup(suite: &Suite, is_time: impl Fn() -> bool) {
    let gate = suite.path(GATE);
    let mut command = suite.cairn.command(&["backup", "lab1"]);
    command.env("LD_PRELOAD", stall::library(&suite.path(""), &gate)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child: Child = command.spawn().expect("starts");
    let begin = Instant::now();
    while !is_time() {
        assert!(begin.elapsed() < KILL_LIMIT && child.try_wait().expect("our child").is_none(), "the backup was over before it could be killed");
    }
    let pid = child.id();
    let guards = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("children");
    // Stopped first: it would see its guard end, and clean up.
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGSTOP).expect("our child");
    for guard in guards.split_whitespace() {
        kill(Pid::from_raw(guard.parse().expect("a pid")), Signal::SIGKILL).expect("its guard");
    }
    child.kill().expect("our child");
    child.wait().expect("reaped");
    fs::remove_file(&gate).ok();
}

fn churn(suite: &Suite, number: u32) {
    suite.domain.sh(&format!("for d in a b; do /bin/lab-guest __lab-guest noise /mnt/$d/churn 0 8388608 {number}; done")).expect("churn");
}

fn tool(program: &str, args: &[&str]) {
    process::run_ok(Command::new(program).args(args), TOOL_LIMIT).expect(program);
}

lab_test!(each_fault_of_a_host_with_a_guest_is_told_with_its_remedy, Options { data_mib: 72, ..Options::small() }, |lab| {
    let suite = Suite::new(&lab);
    // Never backed up: it is not asked what would taint it.
    let report = doctor(&suite, &[]);
    assert_found(&report, "hook", "", "warning", &["cairn hook install"]);
    assert_found(&report, "disk", "vda", "ok", &["qcow2 on virtio", "first backup", "also after a shutdown"]);
    assert_found(&report, "disk", "vdb", "ok", &["raw on virtio", "first backup", "while its QEMU runs"]);
    assert!(!is_tainted(), "a question taints no domain");

    // All is well: 0.
    suite.cairn.ok(&["hook", "install", "--binary", &lab.hook().expect("the hook").to_string_lossy()]).expect("hook install");
    libvirt::reload().expect("reload");
    let first = suite.quiet_backup("first");
    suite.domain.virsh_ok(&["destroy", "lab1"]).expect("destroy");
    suite.domain.start(BOOT_LIMIT).expect("start");
    let second = suite.quiet_backup("second");
    let before = bitmaps(&suite);
    let report = doctor(&suite, &["lab1"]);
    assert!(ill(&report).is_empty(), "{:#?}", ill(&report));
    let short = &second.id[..12];
    for (target, words) in [("vda", ["qcow2", short]), ("vdb", ["raw", short])] {
        assert_found(&report, "disk", target, "ok", &[&words[..], &["incremental since point"]].concat());
    }
    assert_found(&report, "agent", "lab1", "ok", &["can freeze"]);
    assert_found(&report, "scratch", "lab1", "ok", &["overwrites more than"]);
    assert_eq!(bitmaps(&suite), before, "nothing is changed");
    let output = suite.cairn.run(&["doctor", "no-such"]).expect("it ends");
    assert_refused(&output, cairn::NOT_FOUND, "no-such");

    // No agent, one that is mute, and one that is frozen with nobody left.
    imposter::remove(&suite.domain, LONG).expect("no agent");
    assert_found(&doctor(&suite, &["lab1"]), "agent", "lab1", "warning", &["qemu-guest-agent"]);
    imposter::leave(&suite.domain).expect("the agent is back");
    suite.domain.wait_agent(BOOT_LIMIT).expect("it answers");
    churn(&suite, 1);
    dead_backup(&suite, || suite.domain.freeze_status().is_ok_and(|s| s == "frozen"));
    let report = doctor(&suite, &["lab1"]);
    assert_found(&report, "left", "lab1", "failed", &["frozen", "cairn reconcile lab1"]);
    assert_found(&report, "agent", "lab1", "warning", &["frozen"]);
    assert_eq!(suite.domain.freeze_status().expect("status"), "frozen", "nothing is changed");
    suite.cairn.ok(&["reconcile", "lab1"]).expect("reconcile");

    // What a dead backup left, which a look then takes away.
    churn(&suite, 2);
    dead_backup(&suite, || {
        traces::look(&suite.domain).is_ok_and(|t| {
            if t.libvirt_job {
                fs::write(suite.path(GATE), "").expect("writes");
            }
            t.exports.iter().any(|id| id.starts_with(OURS))
        })
    });
    assert_eq!(suite.points().len(), 2, "it made no point");
    let left = bitmaps(&suite);
    let report = doctor(&suite, &["lab1"]);
    for what in ["job of a dead backup", "export of a dead backup", "scratch of a dead backup", "bitmap of no point"] {
        assert_found(&report, "left", "lab1", "warning", &[what, "cairn reconcile lab1"]);
    }
    assert_eq!(bitmaps(&suite), left, "nothing is changed");
    suite.cairn.ok(&["reconcile", "lab1"]).expect("reconcile");
    assert!(ill(&doctor(&suite, &["lab1"])).is_empty());
    suite.assert_left_alone(CLEAN_LIMIT);

    // A scratch folder that its QEMU does not see, and that is small besides.
    let late = suite.path("late");
    fs::create_dir(&late).expect("made");
    tool("mount", &["-t", "tmpfs", "-o", "size=4m", "tmpfs", &late.to_string_lossy()]);
    let report = doctor(&suite, &["lab1", "--scratch-dir", &late.join("scratch").to_string_lossy()]);
    assert_found(&report, "scratch", "lab1", "failed", &["does not see"]);
    assert!(all(&report).iter().any(|c| c["check"] == "scratch" && c["domain"].is_null() && c.to_string().contains("tmpfs")), "{report:#}");
    tool("umount", &[&late.to_string_lossy()]);

    // The store is away; what it would have to say is not made up.
    let away = suite.path("away");
    fs::rename(suite.cairn.store(), &away).expect("moved");
    let report = doctor(&suite, &["lab1"]);
    assert_found(&report, "store", "", "failed", &["findmnt"]);
    assert!(all(&report).iter().all(|c| c["check"] != "left"), "{report:#}");
    fs::rename(&away, suite.cairn.store()).expect("moved");

    // QEMU is killed: its bitmap, which an orderly end had stored, is inconsistent, while the domain is off and when it runs again.
    suite.domain.virsh_ok(&["destroy", "lab1"]).expect("destroy");
    suite.domain.start(BOOT_LIMIT).expect("start");
    let qemu = fs::read_to_string("/run/libvirt/qemu/lab1.pid").expect("QEMU's pid file");
    kill(Pid::from_raw(qemu.trim().parse().expect("a pid")), Signal::SIGKILL).expect("QEMU is there");
    process::wait_for("end of lab1", KILL_LIMIT, Duration::from_millis(100), || Ok((suite.domain.state()? == "shut off").then_some(()))).expect("it ends");
    let report = doctor(&suite, &["lab1"]);
    assert_found(&report, "disk", "vda", "warning", &["inconsistent", "cairn untrack lab1"]);
    assert!(all(&report).iter().all(|c| c["check"] != "agent"), "nobody is asked of a domain that is off");
    suite.domain.start(BOOT_LIMIT).expect("start");
    assert_found(&doctor(&suite, &["lab1"]), "disk", "vda", "warning", &["inconsistent", "cairn reconcile lab1"]);
    suite.cairn.ok(&["reconcile", "lab1"]).expect("reconcile");
    assert!(ill(&doctor(&suite, &["lab1"])).is_empty());

    // libvirt's daemon is stopped: its socket lets callers in, and nothing comes back.
    let daemon = libvirt::daemon().expect("libvirtd");
    kill(daemon, Signal::SIGSTOP).expect("stopped");
    let report = doctor(&suite, &["lab1"]);
    kill(daemon, Signal::SIGCONT).expect("goes on");
    assert_found(&report, "libvirt", "", "failed", &["no answer within", "systemctl"]);
    assert_found(&report, "domain", "lab1", "failed", &["libvirt"]);
    assert_found(&report, "store", "", "ok", &["2 points"]);
    suite.assert_restores(&first);
    suite.assert_restores(&second);
});

/// A definition with disks of many kinds; it is never started.
fn odd_xml(folder: &str) -> String {
    let disk = |target: &str, format: &str, file: &str, more: &str| {
        format!(
            "<disk type='file' device='disk'><driver name='qemu' type='{format}'/><source file='{folder}/{file}'/><target dev='{target}' bus='scsi'/>{more}</disk>"
        )
    };
    let disks = [
        disk("sda", "qcow2", "old.qcow2", ""),
        disk("sdb", "qcow2", "new.qcow2", ""),
        disk("sdc", "raw", "gone.raw", ""),
        disk("sdd", "vmdk", "other.vmdk", ""),
        disk("sde", "raw", "shared.raw", "<shareable/>"),
        disk("sdf", "raw", "used.raw", ""),
        "<disk type='file' device='cdrom'><target dev='sdg' bus='sata'/><readonly/></disk>".to_owned(),
    ];
    format!(
        "<domain type='qemu'><name>odd</name><memory unit='MiB'>64</memory><os><type arch='x86_64' machine='q35'>hvm</type></os><devices>{}</devices></domain>",
        disks.concat()
    )
}

lab_test!(every_kind_of_disk_is_told_what_it_gets, Options { guest: false, ..Options::small() }, |lab| {
    let suite = Suite::new(&lab);
    let folder = suite.path("images");
    fs::create_dir(&folder).expect("made");
    let image = |name: &str| folder.join(name).to_string_lossy().into_owned();
    tool("qemu-img", &["create", "-q", "-f", "qcow2", "-o", "compat=0.10", &image("old.qcow2"), "4M"]);
    tool("qemu-img", &["create", "-q", "-f", "qcow2", &image("new.qcow2"), "4M"]);
    tool("qemu-img", &["create", "-q", "-f", "vmdk", &image("other.vmdk"), "4M"]);
    for raw in ["shared.raw", "used.raw"] {
        tool("qemu-img", &["create", "-q", "-f", "raw", &image(raw), "4M"]);
    }
    let xml = suite.path("odd.xml");
    fs::write(&xml, odd_xml(&folder.to_string_lossy())).expect("writes");
    suite.domain.virsh_ok(&["define", &xml.to_string_lossy()]).expect("define");
    // A QEMU of nobody's writes to one of them.
    let socket = image("nbd");
    let export = ["--export-name=x", "--persistent", "--socket", &socket, "--format=raw", &image("used.raw")];
    let mut writer = Command::new("qemu-nbd").args(export).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("qemu-nbd");
    process::wait_for("qemu-nbd", TOOL_LIMIT, Duration::from_millis(50), || Ok(fs::exists(&socket).unwrap_or(false).then_some(()))).expect("it serves");
    let report = doctor(&suite, &["odd"]);
    writer.kill().expect("our child");
    writer.wait().expect("reaped");
    for (target, status, words) in [
        ("sda", "warning", ["compat 0.10", "qemu-img amend"]),
        ("sdb", "ok", ["read in full next", "qcow2 on scsi"]),
        ("sdc", "failed", ["gone.raw", "No such file"]),
        ("sdd", "failed", ["vmdk", "only while the domain runs"]),
        ("sde", "warning", ["shareable", "not saved at all"]),
        ("sdf", "failed", ["in use by", "writes to it"]),
        ("sdg", "ok", ["left out", "CD-ROM"]),
    ] {
        assert_found(&report, "disk", target, status, &words);
    }
    // A backup refuses in the same words what failed here.
    for target in ["sdc", "sdd"] {
        let found = all(&report).iter().find(|c| c["disk"] == target).expect("a finding")["found"].as_str().expect("words").to_owned();
        let output = suite.cairn.run(&["backup", "odd", "--disk", target, "--json"]).expect("it ends");
        let said = output.err_text();
        let (_, reason) = found.split_once("cannot be backed up: ").or_else(|| found.split_once("image ")).expect("the backup's words");
        assert!(said.replace('\\', "").contains(&reason.replace('\\', "")), "{reason} is not in {said}");
    }
});

lab_test!(mount_options_that_endanger_a_store_are_told, Options { guest: false, ..Options::small() }, |lab| {
    let rig = Rig::start(&lab, HELPER, Setup::default());
    rig.cairn(0, "init /mnt/nfs/store");
    let (port, run) = (rig.server.port(), "CAIRN_STORE=/mnt/nfs/store CAIRN_KEY_FILE=/mnt/nfs/main.key cairn doctor --json");
    for (mount, check, status, word) in [
        ("soft", "mount", "failed", "'hard'"),
        ("soft", "store", "failed", "'soft'"),
        ("hard,nocto", "mount", "warning", "'nocto'"),
        ("hard", "mount", "ok", "nfs4"),
        ("hard,ro", "mount", "failed", "cannot be written"),
    ] {
        rig.clients[1].unmount().expect("unmount");
        rig.clients[1].mount(port, mount).expect("mount");
        let done = rig.clients[1].exec(run).expect("it ends");
        let report: Value = serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{e}: {done:?}"));
        assert_found(&report, check, "", status, &[word]);
    }
});
