//! Capture on a real QEMU: what only a real one shows. Each test makes a lab of its own (docs/lab.md) and drives `examples/capture`, which
//! captures into flat files; references come from `qemu-img`. The suites of `tests/` do the same through the real program and store.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cairn_lab::{Domain, Lab, Options, reference};
use cairn_quiesce::late::FREEZE_WAITS_MAX;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// After a kill everything must be gone in this time.
const CLEAN_LIMIT: Duration = Duration::from_secs(15);
const RUN_LIMIT: Duration = Duration::from_secs(120);
const SCRATCH: &str = "/var/lib/libvirt/qemu/cairn-scratch";
const RECORDS: &str = "/run/cairn/frozen";

/// A file of this build, beside `deps/` where this test lies.
fn built(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("a running test has a path");
    let path = this.ancestors().nth(2).expect("target folder").join(name);
    assert!(path.is_file(), "{} is not built: `cargo build -p cairn-lab -p cairn-hypervisor --bins --examples`", path.display());
    path
}

/// Outside of a lab: runs the test in one. Inside: the lab.
fn lab(test: &str) -> Option<Lab> {
    cairn_lab::testing::inside(&format!("live::{test}"), built("cairn-lab"), Options::small())
}

struct Suite {
    domain: Domain,
    folder: PathBuf,
    extra: Vec<String>,
}

/// One finished capture: the lines of its disks, and that of the point.
struct Done {
    disks: Vec<Value>,
    point: Value,
    folder: PathBuf,
}

impl Done {
    fn modes(&self) -> Vec<&str> {
        self.disks.iter().map(|disk| disk["mode"].as_str().expect("mode")).collect()
    }
}

impl Suite {
    fn new(lab: &Lab) -> Self {
        Self { domain: lab.domain(), folder: lab.dir().join("points"), extra: Vec::new() }
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(built("examples/capture"));
        command.args(["run", self.domain.name()]).arg(&self.folder).args(&self.extra).args(more);
        command
    }

    fn spawn(&self, more: &[&str]) -> Child {
        self.command(more).stdout(Stdio::null()).spawn().expect("capture starts")
    }

    fn capture(&self, more: &[&str]) -> Done {
        let output = self.command(more).output().expect("capture runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let point = lines.pop().expect("a line for the point");
        let folder = self.folder.join(point["session"].as_str().expect("session"));
        Done { disks: lines, point, folder }
    }

    /// Captures the suspended domain and compares with what qemu-img reads of its images.
    fn capture_and_compare(&self, images: &[(&str, &Path, &str)]) -> Done {
        self.domain.virsh_ok(&["suspend", self.domain.name()]).expect("suspend");
        let done = self.capture(&["--quiesce", "never"]);
        for (target, image, format) in images {
            let reference = self.folder.join(format!("reference-{target}.raw"));
            reference::raw_copy(image, format, &reference).expect("reference");
            let captured = done.folder.join(format!("{target}.raw"));
            assert_eq!(reference::difference(&reference, &captured).expect("readable"), None, "{target}");
        }
        self.domain.virsh_ok(&["resume", self.domain.name()]).expect("resume");
        done
    }

    fn write(&self, number: u32) {
        let script = format!("for d in a b; do dd if=/dev/urandom of=/mnt/$d/f{number} bs=64k count=4 2>/dev/null; done; sync");
        self.domain.sh(&script).expect("guest writes");
    }

    fn fails(&self, more: &[&str]) -> String {
        let output = self.command(more).output().expect("capture runs");
        assert!(!output.status.success(), "it should have failed");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn bitmaps(&self) -> Vec<String> {
        let nodes = self.domain.qmp("query-named-block-nodes", &serde_json::json!({"flat": true})).expect("nodes");
        let lists = nodes.as_array().expect("array").iter().filter_map(|node| node["dirty-bitmaps"].as_array());
        let names = lists.flatten().filter_map(|bitmap| bitmap["name"].as_str());
        names.filter(|name| name.starts_with("cairn:")).map(str::to_owned).collect()
    }

    fn exports(&self) -> Vec<String> {
        let exports = self.domain.qmp("query-block-exports", &serde_json::json!({})).expect("exports");
        exports.as_array().expect("array").iter().filter_map(|export| export["id"].as_str()).map(str::to_owned).collect()
    }

    /// Everything that a backup may leave; bitmaps of one session are the tracking itself.
    fn traces(&self) -> Vec<String> {
        let bitmaps = self.bitmaps();
        let mut out: Vec<String> = bitmaps.iter().filter(|name| name.ends_with(":E")).cloned().collect();
        let mut sessions: Vec<&str> = bitmaps.iter().filter_map(|name| name.split(':').nth(2)).collect();
        sessions.sort_unstable();
        sessions.dedup();
        if sessions.len() > 1 {
            out.push(format!("bitmaps of {sessions:?}"));
        }
        out.extend(self.exports());
        for folder in [SCRATCH, RECORDS] {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            out.extend(entries.map(|entry| entry.path().display().to_string()));
        }
        out
    }

    /// Waits until nothing is left and the guest is thawed.
    fn wait_clean(&self) {
        let start = Instant::now();
        loop {
            let traces = self.traces();
            let thawed = self.domain.freeze_status().is_ok_and(|status| status == "thawed");
            if traces.is_empty() && thawed {
                return;
            }
            assert!(start.elapsed() < CLEAN_LIMIT, "still there: {traces:?}, thawed: {thawed}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A freeze of which nobody knows whether it was sent may come for a while. Its record stays for that time, and goes with the first backup after it.
    fn outwait_freeze(&self) {
        let start = Instant::now();
        while freeze_is_recorded() {
            assert!(start.elapsed() < FREEZE_WAITS_MAX + CLEAN_LIMIT, "the record of a freeze that cannot come any more stays");
            std::thread::sleep(Duration::from_secs(2));
            self.capture(&[]);
        }
    }

    fn wait_export(&self, id: &str) {
        wait_for(id, RUN_LIMIT, || self.exports().iter().any(|export| export.starts_with(id)));
    }
}

/// Signals a process that this test started.
fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, signal).expect("signal");
}

/// The guard of a running capture: the child, of any of its threads, that runs `capture guard`.
fn guard_of(capture: &Child) -> u32 {
    let mut guard = None;
    wait_for("the guard", RUN_LIMIT, || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", capture.id())).into_iter().flatten().flatten();
        let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
        let children: Vec<u32> = lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect();
        guard = children.into_iter().find(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.ends_with(b"\0guard\0")));
        guard.is_some()
    });
    guard.expect("waited for")
}

fn wait_for(what: &str, limit: Duration, mut done: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < limit, "{what} did not come within {limit:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    start.elapsed()
}

fn freeze_is_recorded() -> bool {
    std::fs::read_dir(RECORDS).is_ok_and(|mut entries| entries.next().is_some())
}

fn images() -> [PathBuf; 2] {
    cairn_lab::lab::disks().map(|disk| disk.path)
}

#[test]
fn three_generations_and_a_grown_disk() {
    let Some(lab) = lab("three_generations_and_a_grown_disk") else { return };
    let suite = Suite::new(&lab);
    let [a, b] = images();
    let images = [("vda", a.as_path(), "qcow2"), ("vdb", b.as_path(), "raw")];
    let first = suite.capture_and_compare(&images);
    assert!(first.modes().iter().all(|mode| mode.starts_with("full")), "{:?}", first.modes());
    suite.write(1);
    let frozen = suite.capture(&["--quiesce", "require"]);
    assert_eq!((frozen.point["level"].as_str(), frozen.point["frozen"].as_u64()), (Some("filesystem"), Some(2)), "{}", frozen.point);
    assert_eq!(frozen.modes(), ["incremental", "incremental"]);
    suite.domain.sh("rm /mnt/a/f1; dd if=/dev/zero of=/mnt/b/f1 bs=64k count=2 conv=notrunc; sync; fstrim /mnt/a; fstrim /mnt/b").expect("trim");
    assert_eq!(suite.capture_and_compare(&images).modes(), ["incremental", "incremental"]);
    suite.domain.virsh_ok(&["blockresize", "lab1", "vda", "600M"]).expect("resize");
    suite.domain.sh("dd if=/dev/urandom of=/dev/vda bs=1M seek=590 count=1; sync").expect("write behind the old end");
    assert_eq!(suite.capture_and_compare(&images).modes(), ["incremental", "incremental"]);
    suite.wait_clean();
}

#[test]
fn a_snapshot_in_between_is_no_reason_for_a_full() {
    let Some(lab) = lab("a_snapshot_in_between_is_no_reason_for_a_full") else { return };
    let suite = Suite::new(&lab);
    let [a, b] = images();
    suite.capture(&[]);
    suite.write(1);
    let (top_a, top_b) = (lab.dir().join("top-a.qcow2"), lab.dir().join("top-b.qcow2"));
    let spec = |target: &str, path: &Path| format!("{target},file={}", path.display());
    let (spec_a, spec_b) = (spec("vda", &top_a), spec("vdb", &top_b));
    let snapshot = ["snapshot-create-as", "lab1", "s", "--disk-only", "--no-metadata", "--diskspec", &spec_a, "--diskspec", &spec_b];
    suite.domain.virsh_ok(&snapshot).expect("snapshot");
    suite.write(2);
    let over = suite.capture_and_compare(&[("vda", &top_a, "qcow2"), ("vdb", &top_b, "qcow2")]);
    // libvirt carries persistent bitmaps into the overlay; transient ones stay on the base.
    assert_eq!(over.modes(), ["incremental", "compare: an image of the chain has no bitmap"]);
    for target in ["vda", "vdb"] {
        suite.domain.virsh_ok(&["blockcommit", "lab1", target, "--active", "--pivot", "--wait"]).expect("commit");
    }
    suite.write(3);
    let under = [("vda", a.as_path(), "qcow2"), ("vdb", b.as_path(), "raw")];
    suite.capture_and_compare(&under);
    suite.write(4);
    assert_eq!(suite.capture_and_compare(&under).modes(), ["incremental", "incremental"], "one backup later all is as before");
}

#[test]
fn the_sweep_mends_what_a_killed_guard_left() {
    let Some(lab) = lab("the_sweep_mends_what_a_killed_guard_left") else { return };
    let suite = Suite::new(&lab);
    suite.capture(&[]);
    for attempt in 0..4 {
        suite.write(attempt);
        let mut capture = suite.spawn(&["--hold", "60"]);
        let guard = guard_of(&capture);
        if attempt % 2 == 0 {
            wait_for("the freeze", RUN_LIMIT, freeze_is_recorded);
        } else {
            suite.wait_export("cairn-vdb");
        }
        signal(capture.id(), Signal::STOP);
        signal(guard, Signal::KILL);
        signal(capture.id(), Signal::KILL);
        capture.wait().expect("reaped");
        assert!(!suite.traces().is_empty(), "nothing was left, so nothing is tested");
        assert_eq!(suite.capture(&[]).modes(), ["incremental", "incremental"]);
        suite.outwait_freeze();
        suite.wait_clean();
    }
}

#[test]
fn the_guest_is_thawed_even_when_libvirt_is_gone() {
    let Some(lab) = lab("the_guest_is_thawed_even_when_libvirt_is_gone") else { return };
    let suite = Suite::new(&lab);
    suite.capture(&[]);
    let pid_file = std::fs::read_dir("/run").expect("/run").flatten().map(|entry| entry.path());
    let pid_file = pid_file.chain([PathBuf::from("/run/libvirt/libvirtd.pid")]).find(|path| path.ends_with("libvirtd.pid") && path.exists());
    let text = std::fs::read_to_string(pid_file.expect("the lab's libvirtd has a pid file")).expect("pid file");
    let libvirtd: u32 = text.trim().parse().expect("pid");
    let mut capture = suite.spawn(&["--hold", "60"]);
    wait_for("the freeze", RUN_LIMIT, freeze_is_recorded);
    signal(capture.id(), Signal::STOP);
    signal(libvirtd, Signal::KILL);
    let took = wait_for("the thaw", Duration::from_secs(10), || !freeze_is_recorded());
    println!("thawed over the agent's channel after {took:?}");
    assert!(!capture.wait().expect("killed by the guard").success());
    cairn_lab::libvirt::launch(&lab.folder().join("libvirtd.log")).expect("libvirtd");
    wait_for("libvirtd", RUN_LIMIT, || suite.domain.state().is_ok_and(|state| state == "running"));
    suite.wait_clean();
    assert_eq!(suite.capture(&[]).modes()[0], "incremental");
}

#[test]
fn a_scratch_that_fills_up_ends_the_backup_and_not_the_guest() {
    let Some(lab) = lab("a_scratch_that_fills_up_ends_the_backup_and_not_the_guest") else { return };
    let mut suite = Suite::new(&lab);
    // QEMU has a mount namespace of its own: it sees only what was mounted before it started.
    let small = lab.dir().join("small");
    std::fs::create_dir_all(&small).expect("folder");
    suite.domain.virsh_ok(&["destroy", "lab1"]).expect("off");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1200m,mode=777", "tmpfs"]).arg(&small).status().expect("mount");
    assert!(mounted.success(), "mount");
    suite.domain.start(RUN_LIMIT).expect("start");
    suite.extra = vec!["--scratch".to_owned(), small.join("s").display().to_string()];
    // Only what is overwritten goes to the scratch, and zeroes take no room there: there must be data first.
    suite.domain.sh("dd if=/dev/urandom of=/mnt/b/big bs=1M count=44 2>/dev/null && sync").expect("guest");
    let mut capture = suite.spawn(&["--hold", "90"]);
    suite.wait_export("libvirt-nbd");
    // Others take the space, and the guest writes: together they pass 80 % of what scratch could still get.
    let mut file = std::fs::File::create(small.join("other")).expect("filler");
    while free_mib(&small) > 24 {
        std::io::Write::write_all(&mut file, &vec![1; 1 << 20]).expect("fill");
    }
    let start = Instant::now();
    let script = "i=0; while [ $i -lt 44 ]; do dd if=/dev/urandom of=/mnt/b/big bs=1M seek=$i count=1 conv=notrunc 2>&1; sync; i=$((i+1)); done";
    let wrote = suite.domain.sh(script).expect("guest");
    println!("{wrote}");
    assert!(!capture.wait().expect("ended by the guard").success());
    println!("ended after {:?}", start.elapsed());
    suite.wait_clean();
    assert_eq!(suite.domain.state().expect("state"), "running");
    assert!(!wrote.contains("No space") && !wrote.contains("I/O error"), "{wrote}");
    drop(file);
    std::fs::remove_file(small.join("other")).expect("filler");
    suite.capture(&[]);
}

/// Server ends of connections to unix sockets of this name.
fn connected(socket: &str) -> usize {
    let table = std::fs::read_to_string("/proc/net/unix").expect("table of sockets");
    table.lines().filter(|line| line.ends_with(socket) && line.split_whitespace().nth(5) == Some("03")).count()
}

fn free_mib(path: &Path) -> u64 {
    let stat = rustix::fs::statvfs(path).expect("statvfs");
    (stat.f_bavail * stat.f_frsize) >> 20
}

#[test]
fn wrong_input_leaves_the_domain_alone() {
    let Some(lab) = lab("wrong_input_leaves_the_domain_alone") else { return };
    let mut suite = Suite::new(&lab);
    assert!(suite.fails(&["--disk", "vdz"]).contains("it has vda, vdb"));
    let held = lab.dir().join("held");
    let mut holder = suite.spawn(&["--hold", "60", "--hold-file", held.to_str().expect("labs have plain paths")]);
    // Not earlier: a server that is stopped while a client negotiates takes QEMU down with it (docs/capture.md).
    wait_for("the holder's connections", RUN_LIMIT, || held.exists());
    // The kernel may leave out a line of its table while other sockets come and go.
    let all = 2 * cairn_nbd::client::pool::CONNECTIONS_DEFAULT;
    wait_for("all connections of two disks: none is left for later", RUN_LIMIT, || connected("cairn-backup.sock") == all);
    let busy = suite.fails(&[]);
    assert!(busy.contains(&format!("process {}", holder.id())), "{busy}");
    suite.domain.virsh_ok(&["domjobabort", "lab1"]).expect("abort");
    std::fs::remove_file(&held).expect("the holder goes on");
    assert!(!holder.wait().expect("ends").success(), "its job was aborted");
    suite.wait_clean();
    suite.extra = vec!["--scratch".to_owned(), "/proc/nowhere".to_owned()];
    assert!(suite.fails(&[]).contains("/proc/nowhere"));
    assert!(suite.traces().is_empty());
    suite.domain.virsh_ok(&["destroy", "lab1"]).expect("off");
    assert!(suite.fails(&[]).contains("is not running"));
}
