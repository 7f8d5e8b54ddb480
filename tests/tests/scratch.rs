//! The scratch of a backup never hurts the guest: one that fills up ends the backup, whatever its store does, and the guest sees no error.

use cairn_lab::latency::{self, Latencies, middle};
use cairn_lab::suite::{Suite, mode};
use cairn_lab::{Options, lab_test, process, stall, traces};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const BOOT_LIMIT: Duration = Duration::from_secs(120);
const TOOL_LIMIT: Duration = Duration::from_secs(60);
const END_LIMIT: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
/// What a write may always take, microseconds: below it a busy host decides.
const FINE_US: u64 = 1000;
/// Of each disk, full of what is no zero, so that overwriting it needs scratch.
const FILL_MIB: u64 = 60;
/// A backup wants as much as both disks have before it begins.
const SCRATCH_MIB: u64 = 320;
/// What is left of it once others have filled the file system.
const LEFT_MIB: u64 = 48;

/// Overwrites in place, as fast as the guest can, what it knows nothing shorter for.
fn fill(suite: &Suite) {
    let dd = format!("dd if=/dev/urandom of=/mnt/$d/fill bs=1M count={FILL_MIB} conv=notrunc,fsync");
    suite.domain.sh(&format!("for d in a b; do {dd} || exit 1; done")).expect("the guest writes");
}

/// What the guest's kernel said of its disks.
fn complaints(suite: &Suite) -> String {
    suite.domain.sh("dmesg | grep -iE 'i/o error|critical|remount|aborted' || true").expect("dmesg")
}

fn start(suite: &Suite, scratch: &Path, library: &Path, log: &Path) -> Child {
    let mut command = suite.cairn.command(&["backup", "lab1", "--quiesce", "never", "--scratch-dir", &scratch.to_string_lossy()]);
    command.env("LD_PRELOAD", library).stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(log).expect("a log"));
    command.spawn().expect("the program starts")
}

/// Takes all of the file system but [`LEFT_MIB`], as others on a host would.
fn take_space(folder: &Path) {
    let stat = nix::sys::statvfs::statvfs(folder).expect("statvfs");
    let free = stat.blocks_available() * stat.fragment_size();
    let length = free.checked_sub(LEFT_MIB * MIB).expect("there was more");
    process::run_ok(Command::new("fallocate").arg("-l").arg(length.to_string()).arg(folder.join("others")), TOOL_LIMIT).expect("fallocate");
}

fn rounds() -> usize {
    std::env::var("CAIRN_SCRATCH_ROUNDS").map_or(1, |text| text.parse().expect("CAIRN_SCRATCH_ROUNDS: a number"))
}

/// A backup with that scratch, from its point in time on beside a guest that writes as fast as it can.
struct Pressed<'a> {
    suite: &'a Suite,
    scratch: PathBuf,
    gate: PathBuf,
    library: PathBuf,
    log: PathBuf,
}

impl Pressed<'_> {
    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `at_once` is done when the backup has its point in time; what the guest's writes took, and how the backup ended.
    fn backup(&self, at_once: impl FnOnce()) -> (Latencies, ExitStatus) {
        let (felt, status) = latency::during(&self.suite.domain, || {
            let mut backup = start(self.suite, &self.scratch.join("scratch"), &self.library, &self.log);
            process::wait_for("start of the backup's job", END_LIMIT, Duration::from_millis(20), || {
                assert!(backup.try_wait().expect("our child").is_none(), "{}", self.said());
                Ok(traces::look(&self.suite.domain)?.libvirt_job.then_some(()))
            })
            .expect("it begins");
            at_once();
            let begin = Instant::now();
            fill(self.suite);
            println!("the guest wrote {} MiB in {:.1} s", 2 * FILL_MIB, begin.elapsed().as_secs_f64());
            process::wait_limit(&mut backup, "end of the backup", END_LIMIT).expect("it ends")
        })
        .expect("no write of the guest fails");
        println!("{status}: {}", self.said());
        (felt, status)
    }

    /// All is well, and what the guest felt.
    fn free(&self) -> Latencies {
        let (felt, status) = self.backup(|| {});
        assert!(status.success(), "{}", self.said());
        felt
    }

    /// The store stops, others take the room, and the guest writes more than what is left; what it felt.
    fn stalled(&self) -> Latencies {
        let (felt, status) = self.backup(|| {
            fs::write(&self.gate, "").expect("writes");
            take_space(&self.scratch);
        });
        assert!(!status.success());
        for word in ["scratch", "--scratch-dir"] {
            assert!(self.said().contains(word), "the message should name {word:?}: {}", self.said());
        }
        assert_eq!(complaints(self.suite), "", "the guest saw nothing");
        assert!(self.suite.domain.virsh_ok(&["domblkerror", "lab1"]).expect("domblkerror").contains("No errors"));
        fs::remove_file(&self.gate).expect("the store goes on");
        fs::remove_file(self.scratch.join("others")).expect("the room is back");
        self.suite.assert_left_alone(END_LIMIT);
        felt
    }
}

// The writes of the guest are compared with those beside a backup whose store works: `CAIRN_SCRATCH_ROUNDS=5` judges by five rounds of each, one only
// finds what is far off.
lab_test!(a_scratch_that_fills_up_ends_the_backup_and_no_guest_sees_it, Options { vda_mib: 192, ..Options::small() }, |lab| {
    let suite = Suite::new(&lab);
    // QEMU sees only what was mounted before its start.
    suite.domain.virsh_ok(&["destroy", "lab1"]).expect("destroy");
    let small = Path::new("/var/lib/libvirt/small");
    fs::create_dir(small).expect("made");
    let size = format!("size={SCRATCH_MIB}m,mode=711");
    process::run_ok(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(small), TOOL_LIMIT).expect("mount");
    suite.domain.start(BOOT_LIMIT).expect("start");
    fill(&suite);
    latency::prepare(&suite.domain).expect("a file");
    let first = suite.quiet_backup("first");
    fill(&suite);

    let (gate, log) = (suite.path("gate"), suite.path("backup.log"));
    let library = stall::library(&suite.path(""), &gate);
    let pressed = Pressed { suite: &suite, scratch: small.to_owned(), gate, library, log };
    let mut points = vec![first.id];
    let (mut free, mut stalled) = (Vec::new(), Vec::new());
    for _ in 0..rounds() {
        free.push(pressed.free());
        points.push(suite.points().pop().expect("a point"));
        stalled.push(pressed.stalled());
        assert_eq!(suite.points(), points, "no point was made");
    }
    println!("beside a store that works {free:?}, beside one that hangs {stalled:?}");
    let most = if rounds() >= 5 { 2 } else { 4 };
    for (what, of) in [("median", (|f: &Latencies| f.median_us) as fn(&Latencies) -> u64), ("p99", |f| f.p99_us)] {
        let (free, stalled) = (middle(free.iter().map(of)).expect("a round"), middle(stalled.iter().map(of)).expect("a round"));
        println!("{what}: {free} us and {stalled} us");
        assert!(stalled <= most * free.max(FINE_US), "{what}: {stalled} us beside a store that hangs, {free} us beside one that works");
    }
    let last = suite.quiet_backup("last");
    let point = suite.point(&last.id);
    assert_eq!((mode(&point, "vda").as_str(), mode(&point, "vdb").as_str()), ("incremental", "incremental"), "{point}");
    suite.assert_restores(&last);
});
