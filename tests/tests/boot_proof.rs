//! Boot proofs: a point that boots passes, one that does not fails in time, and whatever happens nothing is left of the guest.

use cairn_lab::runs::{self, Part};
use cairn_lab::suite::{self, Suite};
use cairn_lab::{Domain, Options, cairn, lab_test, process};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const END_LIMIT: Duration = Duration::from_secs(30);
const BOOT_LIMIT: Duration = Duration::from_secs(120);
const INTERRUPTED: i32 = 130;

/// `verify --boot --json`: the exit code and the answers.
fn prove(suite: &Suite, args: &[&str]) -> (i32, Vec<Value>) {
    let output = suite.cairn.run(&[&["verify", "--boot", "--json"], args].concat()).expect("it ends");
    println!("{args:?}: {}\n{}{}", output.code(), output.text(), output.err_text());
    (output.code(), serde_json::from_str(&output.text()).expect("an array"))
}

/// The only answer.
fn prove_one(suite: &Suite, args: &[&str]) -> (i32, Value) {
    let (code, mut answers) = prove(suite, args);
    assert_eq!(answers.len(), 1);
    assert_nothing_left();
    (code, answers.remove(0))
}

fn assert_nothing_left() {
    let left = || {
        let mut left = runs::left_over();
        left.extend(runs::pids(Part::Qemu).iter().map(|pid| format!("QEMU {pid}")));
        left.extend(domains().into_iter().filter(|name| name.starts_with(runs::BOOT_PROOF)));
        left
    };
    let done = process::wait_for("end of all that the proof left", END_LIMIT, Duration::from_millis(100), || Ok(left().is_empty().then_some(())));
    assert!(done.is_ok(), "left of the proof: {:#?}", left());
}

fn domains() -> Vec<String> {
    let text = Domain::new("lab1").virsh_ok(&["list", "--all", "--name"]).expect("list");
    text.split_whitespace().map(str::to_owned).collect()
}

fn program(suite: &Suite, name: &str, text: &str) -> String {
    let path = suite.path(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("mode");
    path.to_string_lossy().into_owned()
}

/// The definition with a graphics card and a kernel that talks, for the next backup.
fn add_screen(suite: &Suite, name: &str) {
    let xml = suite.domain.virsh_ok(&["dumpxml", "--inactive", name]).expect("dumpxml");
    let path = suite.path("with-screen.xml");
    let video = "<graphics type='vnc' port='5931' autoport='no' listen='127.0.0.1' passwd='secret'/><video><model type='vga'/></video><memballoon";
    std::fs::write(&path, xml.replace("<memballoon", video).replace(" quiet ", " ")).expect("written");
    suite.domain.virsh_ok(&["define", &path.to_string_lossy()]).expect("define");
}

lab_test!(a_good_point_passes_and_the_verdict_stays_with_it, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    add_screen(&suite, "lab1");
    suite.cairn.ok(&["backup", "lab1"]).expect("backup");
    let image = suite.path("image.raw");
    std::fs::write(&image, vec![7; 1 << 20]).expect("written");
    suite.cairn.ok(&["backup-image", &image.to_string_lossy(), "--name", "image"]).expect("backup-image");
    let seen = suite.path("seen.xml");
    let script = format!("virsh -c $CAIRN_BOOT_URI dumpxml $CAIRN_BOOT_DOMAIN > {} && echo $CAIRN_BOOT_NAME $CAIRN_BOOT_POINT", seen.display());
    let script = program(&suite, "check", &script);
    let (code, answer) = prove_one(&suite, &["--all", "--boot-exec", "test -f /mnt/a/greeting", "--boot-script", &script]);
    assert_eq!((code, &answer["passed"], &answer["level"], &answer["recorded"]), (cairn::DONE, &true.into(), &"agent".into(), &true.into()));
    assert!(answer["started_ms"].is_u64() && answer["agent_ms"].is_u64() && answer["read"].as_u64().is_some_and(|n| n > 0), "{answer}");
    let id = suite.points().pop().expect("a point");
    assert_eq!((&answer["exec"]["passed"], &answer["script"]["said"]), (&true.into(), &format!("lab1 {id}").into()));
    // What ran was cut off from everything, and was not the original.
    let xml = std::fs::read_to_string(&seen).expect("the script saw it");
    for gone in ["<interface", "lab-console.log", "5931", "<name>lab1<", "type='file' device='console'"] {
        assert!(!xml.contains(gone), "{gone} in {xml}");
    }
    assert!(xml.contains("<listen type='none'/>"), "{xml}");
    assert_eq!(suite.domain.state().expect("state"), "running");
    // Shown where points are shown.
    let point = suite.point(&id);
    assert_eq!((&point["boot"]["passed"], &point["boot_proofs"][0]["level"]), (&true.into(), &"agent".into()), "{point}");
    assert_eq!(point["state"], "unverified", "that it boots does not say that all of it can be read");
    assert!(suite.cairn.ok(&["list", "lab1"]).expect("list").contains(", boots"));
    assert!(suite.cairn.ok(&["show", &id]).expect("show").contains("boots, level agent"));
    // The picture is one, and the console's words are there.
    let picture = suite.path("screen.png");
    suite.cairn.ok(&["show", &id, "--screenshot", &picture.to_string_lossy()]).expect("screenshot");
    assert_picture(&picture, &answer);
    let refused = suite.cairn.run(&["show", &id, "--screenshot", &picture.to_string_lossy()]).expect("it ends");
    suite::assert_refused(&refused, cairn::REFUSED, "exists");
    let said = suite.cairn.ok(&["show", &id, "--console"]).expect("console");
    assert!(said.contains("Linux version") && !said.contains('\u{1b}'), "from the first word on: {said}");
    // A point that is forgotten takes it along.
    suite.cairn.ok(&["forget", &id, "--force"]).expect("forget");
    suite.cairn.ok(&["gc", "--keep-trash", "0s", "--keep-interrupted", "0s"]).expect("gc");
    assert_eq!(files(&suite.cairn.store().join("v")), 0);
    suite::assert_refused(&suite.cairn.run(&["verify", "image", "--boot"]).expect("it ends"), cairn::USAGE, "image");
});

fn assert_picture(path: &Path, answer: &Value) {
    let file = std::io::BufReader::new(std::fs::File::open(path).expect("there"));
    let mut reader = png::Decoder::new(file).read_info().expect("a PNG");
    let mut pixels = vec![0; reader.output_buffer_size().expect("bounded")];
    let info = reader.next_frame(&mut pixels).expect("a frame");
    println!("picture: {} x {}", info.width, info.height);
    assert_eq!((Value::from(info.width), Value::from(info.height)), (answer["screen"]["width"].clone(), answer["screen"]["height"].clone()));
    assert!(pixels.chunks_exact(3).any(|p| p != &pixels[..3]), "the picture is of one colour");
    assert_eq!(answer["screen"]["blank"], false);
}

fn files(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| if e.path().is_dir() { files(&e.path()) } else { 1 }).sum()
}

/// The definition with all sorts of ways out of the guest, none of which this host has: a copy that keeps one does not start.
fn add_ways_out(suite: &Suite, name: &str) {
    let xml = suite.domain.virsh_ok(&["dumpxml", "--inactive", name]).expect("dumpxml");
    let path = suite.path("ways-out.xml");
    let devices = "<interface type='bridge'><source bridge='br-nowhere'/><model type='virtio'/></interface>\
        <graphics type='spice' port='5932' autoport='no' listen='192.0.2.1'/><video><model type='qxl'/></video><sound model='ich9'/>\
        <channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>\
        <filesystem type='mount'><source dir='/nowhere'/><target dir='out'/></filesystem><vsock model='virtio'><cid auto='no' address='77'/></vsock>\
        <hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0x0000' bus='0xfe' slot='0x1f' function='0x7'/></source></hostdev>\
        <input type='evdev'><source dev='/dev/input/nowhere'/></input><rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>\
        <disk type='file' device='cdrom'><source file='/nowhere.iso'/><target dev='sda' bus='sata'/><readonly/></disk>\
        <disk type='block' device='disk'><source dev='/dev/nowhere'/><target dev='vdz' bus='virtio'/><shareable/></disk><memballoon";
    let end = "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><qemu:arg value='-no-such-option'/></qemu:commandline></domain>";
    std::fs::write(&path, xml.replacen("<memballoon", devices, 1).replace("</domain>", end)).expect("written");
    suite.domain.virsh_ok(&["define", &path.to_string_lossy()]).expect("define");
}

lab_test!(a_disk_without_a_system_fails_in_time_whatever_is_on_the_screen, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let disk = Path::new(cairn_lab::libvirt::IMAGES).join("dead.raw");
    std::fs::File::create(&disk).and_then(|f| f.set_len(16 << 20)).expect("made");
    let xml = format!(
        "<domain type='qemu'><name>dead</name><memory unit='MiB'>64</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/></os>\
         <features><acpi/></features><devices><disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/><target dev='vda' bus='virtio'/>\
         </disk><controller type='usb' model='none'/><channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
         <serial type='pty'/><memballoon model='none'/></devices></domain>",
        disk.display()
    );
    let path = suite.path("dead.xml");
    std::fs::write(&path, xml).expect("written");
    suite.domain.virsh_ok(&["define", &path.to_string_lossy()]).expect("define");
    suite.domain.virsh_ok(&["start", "dead"]).expect("start");
    add_ways_out(&suite, "dead");
    suite.cairn.ok(&["backup", "dead", "--quiesce", "never"]).expect("backup");
    suite.domain.virsh_ok(&["destroy", "dead"]).expect("destroy");
    let begin = Instant::now();
    let (code, answer) = prove_one(&suite, &["dead", "--boot-timeout", "15s"]);
    assert_eq!((code, &answer["passed"], &answer["level"], &answer["wanted"]), (cairn::DAMAGED, &false.into(), &"started".into(), &"agent".into()));
    assert!(answer["reason"].as_str().is_some_and(|r| r.contains("agent") && r.contains("15 s")), "{answer}");
    assert!(begin.elapsed() < Duration::from_secs(90), "took {:?}", begin.elapsed());
    assert_eq!(answer["screen"]["blank"], false, "the firmware says that there is no bootable device");
    assert!(suite.cairn.ok(&["list", "dead"]).expect("list").contains("DOES NOT BOOT"));
    // The firmware's words are no sign of life.
    let (code, answer) = prove_one(&suite, &["dead", "--boot-timeout", "15s", "--boot-level", "screen"]);
    assert_eq!((code, &answer["level"]), (cairn::DAMAGED, &"started".into()));
    let (code, answer) = prove_one(&suite, &["dead", "--boot-level", "started"]);
    assert_eq!((code, &answer["passed"], &answer["level"]), (cairn::DONE, &true.into(), &"started".into()));
    let point = suite.point(&suite.cairn.points("dead").expect("points")[0]);
    assert_eq!((point["boot_proofs"].as_array().map(Vec::len), &point["boot"]["passed"]), (Some(3), &true.into()));
});

fn start(suite: &Suite, args: &[&str]) -> Child {
    suite.cairn.command(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
}

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).expect("small")), signal).expect("our own child");
}

/// A proof whose guest runs.
fn midway(suite: &Suite, args: &[&str]) -> Child {
    let child = start(suite, &[&["verify", "lab1", "--boot"], args].concat());
    let running = || Ok(domains().into_iter().find(|n| n.starts_with(runs::BOOT_PROOF)).filter(|n| Domain::new(n).state().is_ok_and(|s| s == "running")));
    let name = process::wait_for("a guest in mid-boot", BOOT_LIMIT, Duration::from_millis(50), running).expect("it starts");
    println!("{name} boots");
    child
}

lab_test!(whoever_dies_in_mid_boot_nothing_is_left, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    suite.cairn.ok(&["backup", "lab1"]).expect("backup");
    // The command alone: its supervisor sees to it.
    let mut child = midway(&suite, &["--boot-exec", "sleep 100"]);
    let shown = suite.cairn.json(&["runs"]).expect("runs");
    assert!(shown[0]["boot_proof"] == true && shown[0]["state"].as_str().is_some_and(|s| s.contains("boot proof")), "{shown}");
    let name = shown[0]["name"].as_str().expect("a name").to_owned();
    let saved = suite.cairn.json(&["backup", "--all"]).expect("backup");
    assert_eq!(saved.as_array().map(|points| points.iter().map(|p| p["name"].clone()).collect()), Some(vec![Value::from("lab1")]), "no copy of what is saved");
    for args in [vec!["keep", &name], vec!["run", "--resume", &name]] {
        suite::assert_refused(&suite.cairn.run(&args).expect("it ends"), cairn::REFUSED, "boot proof");
    }
    send(&child, Signal::SIGKILL);
    child.wait().expect("ended");
    let begin = Instant::now();
    assert_nothing_left();
    println!("gone {:.1} s after the command", begin.elapsed().as_secs_f64());
    // All of it but the guest: the next proof takes it away.
    let mut child = midway(&suite, &[]);
    send(&child, Signal::SIGKILL);
    child.wait().expect("ended");
    for part in [Part::Supervisor, Part::Server, Part::Daemon, Part::Supervisor, Part::Server] {
        runs::kill_all(part);
    }
    let (code, answer) = prove_one(&suite, &["lab1"]);
    assert_eq!((code, &answer["passed"]), (cairn::DONE, &true.into()));
    // And so does a look at the runs, after the power failed.
    let mut child = midway(&suite, &[]);
    send(&child, Signal::SIGKILL);
    child.wait().expect("ended");
    for part in [Part::Supervisor, Part::Server, Part::Daemon, Part::Supervisor, Part::Server, Part::Qemu] {
        runs::kill_all(part);
    }
    assert_eq!(suite.cairn.json(&["runs"]).expect("runs"), Value::Array(Vec::new()));
    assert_nothing_left();
    // Ctrl-C, to the command's own end.
    let mut child = midway(&suite, &[]);
    send(&child, Signal::SIGINT);
    let status = process::wait_limit(&mut child, "cairn verify --boot", END_LIMIT).expect("it ends");
    assert_eq!(process::exit_code(status), INTERRUPTED);
    assert_nothing_left();
    let point = suite.point(suite.points().last().expect("the one that was taken in mid-boot"));
    assert_eq!(point["boot_proofs"].as_array().map(Vec::len), Some(1), "what was broken off is no verdict: {point}");
    suite.assert_left_alone(Duration::from_secs(5));
});

/// A point of a domain whose memory is divided among NUMA nodes: there is no one number to change.
fn add_divided(suite: &Suite) {
    let disk = Path::new(cairn_lab::libvirt::IMAGES).join("divided.raw");
    std::fs::File::create(&disk).and_then(|f| f.set_len(1 << 20)).expect("made");
    let xml = format!(
        "<domain type='qemu'><name>divided</name><memory unit='MiB'>64</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os>\
         <cpu mode='maximum'><numa><cell id='0' cpus='0' memory='64' unit='MiB'/></numa></cpu><devices><disk type='file' device='disk'>\
         <driver name='qemu' type='raw'/><source file='{}'/><target dev='vda' bus='virtio'/></disk></devices></domain>",
        disk.display()
    );
    let path = suite.path("divided.xml");
    std::fs::write(&path, xml).expect("written");
    suite.domain.virsh_ok(&["define", &path.to_string_lossy()]).expect("define");
    let output = suite.cairn.run(&["backup", "divided"]).expect("it ends");
    assert!([cairn::DONE, cairn::WARNINGS].contains(&output.code()), "{}", output.err_text());
}

lab_test!(checks_that_fail_and_guests_that_end_are_told_apart, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    suite.cairn.ok(&["backup", "lab1"]).expect("backup");
    add_divided(&suite);
    suite.domain.virsh_ok(&["suspend", "lab1"]).expect("suspend");
    let bad = program(&suite, "bad", "echo the web server does not answer; exit 4");
    let (code, answer) = prove_one(&suite, &["lab1", "--boot-script", &bad]);
    assert_eq!((code, &answer["passed"], &answer["level"]), (cairn::DAMAGED, &false.into(), &"agent".into()));
    assert_eq!((&answer["script"]["why"], &answer["script"]["said"]), (&"exit code 4".into(), &"the web server does not answer".into()));
    let slow = program(&suite, "slow", "sleep 600");
    let (code, answer) = prove_one(&suite, &["lab1", "--boot-script", &slow, "--boot-script-timeout", "3s"]);
    assert!(code == cairn::DAMAGED && answer["reason"].as_str().is_some_and(|r| r.contains("did not end within 3 s")), "{answer}");
    // One that cannot be tried so keeps none of the others from being tried.
    let (code, answers) = prove(&suite, &["--all", "--boot-exec", "exit 7", "--memory", "384MiB"]);
    let of = |name: &str| answers.iter().find(|answer| answer["name"] == name).expect(name);
    assert_eq!((&of("divided")["code"], &of("divided")["recorded"]), (&cairn::REFUSED.into(), &false.into()));
    assert!(code == cairn::DAMAGED && of("lab1")["exec"]["why"] == "exit code 7", "{answers:?}");
    assert_nothing_left();
    let (code, answer) = prove_one(&suite, &["lab1", "--boot-exec", "poweroff -f"]);
    assert!(code == cairn::DAMAGED && answer["reason"].as_str().is_some_and(|r| r.contains("the guest is off")), "{answer}");
    // What the host cannot do is no verdict.
    let before = suite.point(&suite.points()[0])["boot_proofs"].as_array().map(Vec::len);
    let (code, answer) = prove_one(&suite, &["lab1", "--memory", "1000GiB"]);
    assert_eq!((code, &answer["passed"], &answer["recorded"]), (cairn::FAILED, &Value::Null, &false.into()));
    assert_eq!(suite.point(&suite.points()[0])["boot_proofs"].as_array().map(Vec::len), before);
    let plain = suite.path("plain");
    std::fs::write(&plain, "no program").expect("written");
    cairn_lab::folder::set_mode(&plain, 0o644).expect("mode");
    for script in ["/nowhere", &plain.to_string_lossy()] {
        let output = suite.cairn.run(&["verify", "lab1", "--boot", "--boot-script", script]).expect("it ends");
        suite::assert_refused(&output, cairn::USAGE, script);
    }
    // libvirtd is started anew in mid-boot.
    let log = suite.path("libvirtd.json");
    let out = std::fs::File::create(&log).expect("made");
    let mut command = suite.cairn.command(&["verify", "lab1", "--boot", "--json"]);
    let mut child = command.stdin(Stdio::null()).stdout(out).spawn().expect("starts");
    process::wait_for("QEMU", BOOT_LIMIT, Duration::from_millis(50), || Ok((!runs::pids(Part::Qemu).is_empty()).then_some(()))).expect("it starts");
    std::thread::sleep(Duration::from_secs(2));
    runs::kill_all(Part::Libvirtd);
    runs::libvirtd_again(suite.lab.folder()).expect("libvirtd");
    let status = process::wait_limit(&mut child, "cairn verify --boot", 2 * BOOT_LIMIT).expect("it ends");
    println!("{}", std::fs::read_to_string(&log).expect("reads"));
    assert_eq!(process::exit_code(status), cairn::DONE);
    assert_nothing_left();
});

lab_test!(a_damaged_point_is_a_failed_proof, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    suite.cairn.ok(&["backup", "lab1"]).expect("backup");
    suite.domain.virsh_ok(&["suspend", "lab1"]).expect("suspend");
    for pack in packs(&suite.cairn.store().join("d")) {
        let mut bytes = std::fs::read(&pack).expect("reads");
        // Chunks; the footer at the end stays.
        let end = bytes.len() - bytes.len() / 8;
        bytes[4096..end].iter_mut().step_by(512).for_each(|b| *b ^= 1);
        std::fs::write(&pack, bytes).expect("writes");
    }
    let begin = Instant::now();
    let (code, answer) = prove_one(&suite, &["lab1", "--boot-timeout", "3m"]);
    assert_eq!((code, &answer["passed"]), (cairn::DAMAGED, &false.into()));
    assert!(answer["reason"].as_str().is_some_and(|r| r.contains("read of its disks fails")), "{answer}");
    assert!(begin.elapsed() < Duration::from_secs(150), "it does not wait for an agent that cannot come");
    // Once it is known, it is not tried.
    assert_eq!(suite.cairn.run(&["verify", "lab1", "--data"]).expect("it ends").code(), cairn::DAMAGED);
    let (code, answer) = prove_one(&suite, &["lab1"]);
    assert_eq!((code, &answer["recorded"]), (cairn::DAMAGED, &false.into()));
});

// A store that goes away in mid-boot says nothing of its points.
lab_test!(a_store_that_goes_away_in_mid_boot_is_no_verdict, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    suite.cairn.ok(&["backup", "lab1"]).expect("backup");
    suite.domain.virsh_ok(&["suspend", "lab1"]).expect("suspend");
    let (store, away) = (suite.cairn.store().to_path_buf(), suite.path("store.away"));
    let answers = suite.path("away.json");
    let out = std::fs::File::create(&answers).expect("made");
    let mut command = suite.cairn.command(&["verify", "lab1", "--boot", "--json"]);
    let mut child = command.stdin(Stdio::null()).stdout(out).spawn().expect("starts");
    let running = || Ok(domains().into_iter().find(|n| n.starts_with(runs::BOOT_PROOF)).filter(|n| Domain::new(n).state().is_ok_and(|s| s == "running")));
    process::wait_for("a guest in mid-boot", BOOT_LIMIT, Duration::from_millis(50), running).expect("it starts");
    std::fs::rename(&store, &away).expect("away");
    // A server that lives reads on in the packs that it has open.
    assert_eq!(runs::kill_all(Part::Server), 1);
    let gone_at = Instant::now();
    let status = process::wait_limit(&mut child, "cairn verify --boot", 2 * BOOT_LIMIT).expect("it ends");
    std::fs::rename(&away, &store).expect("back");
    let text = std::fs::read_to_string(&answers).expect("reads");
    println!("ended {:.1} s after the store had gone: {text}", gone_at.elapsed().as_secs_f64());
    assert_eq!(process::exit_code(status), cairn::NO_STORE);
    let answer: Value = serde_json::from_str(&text).expect("an array");
    assert_eq!((&answer[0]["passed"], &answer[0]["recorded"]), (&Value::Null, &false.into()));
    assert!(text.contains("store cannot be reached"), "{text}");
    assert_nothing_left();
    let point = suite.point(&suite.points()[0]);
    assert_eq!(point["boot_proofs"].as_array().map_or(0, Vec::len), 0, "nothing was recorded: {point}");
    let (code, answer) = prove_one(&suite, &["lab1"]);
    assert_eq!((code, &answer["passed"]), (cairn::DONE, &true.into()));
});

fn packs(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).expect("reads").flatten();
    entries.flat_map(|e| if e.path().is_dir() { packs(&e.path()) } else { vec![e.path()] }).collect()
}
