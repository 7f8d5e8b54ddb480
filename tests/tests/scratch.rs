//! The scratch of a backup never hurts the guest: one that fills up ends the backup, whatever its store does, and the guest sees no error.

use cairn_lab::suite::{Suite, mode};
use cairn_lab::{Options, lab_test, process, stall, traces};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BOOT_LIMIT: Duration = Duration::from_secs(120);
const TOOL_LIMIT: Duration = Duration::from_secs(60);
const END_LIMIT: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
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

lab_test!(a_scratch_that_fills_up_ends_the_backup_and_no_guest_sees_it, Options { data_mib: 24, ..Options::small() }, |lab| {
    let suite = Suite::new(&lab);
    // QEMU sees only what was mounted before its start.
    suite.domain.virsh_ok(&["destroy", "lab1"]).expect("destroy");
    let small = Path::new("/var/lib/libvirt/small");
    fs::create_dir(small).expect("made");
    let size = format!("size={SCRATCH_MIB}m,mode=711");
    process::run_ok(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(small), TOOL_LIMIT).expect("mount");
    suite.domain.start(BOOT_LIMIT).expect("start");
    fill(&suite);
    let first = suite.quiet_backup("first");
    fill(&suite);

    let (gate, log) = (suite.path("gate"), suite.path("backup.log"));
    let library = stall::library(&suite.path(""), &gate);
    let mut backup = start(&suite, &small.join("scratch"), &library, &log);
    let said = || fs::read_to_string(&log).unwrap_or_default();
    process::wait_for("start of the backup's job", END_LIMIT, Duration::from_millis(20), || {
        assert!(backup.try_wait().expect("our child").is_none(), "{}", said());
        Ok(traces::look(&suite.domain)?.libvirt_job.then_some(()))
    })
    .expect("it begins");
    // The store stops, and others take the room.
    fs::write(&gate, "").expect("writes");
    take_space(small);
    // As fast as it can: 120 MiB over 48 MiB of room.
    let begin = Instant::now();
    fill(&suite);
    println!("the guest wrote {} MiB in {:.1} s", 2 * FILL_MIB, begin.elapsed().as_secs_f64());
    let status = process::wait_limit(&mut backup, "end of the backup", END_LIMIT).expect("it ends");
    println!("{status}: {}", said());
    assert!(!status.success());
    for word in ["scratch", "--scratch-dir"] {
        assert!(said().contains(word), "the message should name {word:?}: {}", said());
    }
    assert_eq!(complaints(&suite), "", "the guest saw nothing");
    assert!(suite.domain.virsh_ok(&["domblkerror", "lab1"]).expect("domblkerror").contains("No errors"));
    fs::remove_file(&gate).expect("the store goes on");
    suite.assert_left_alone(END_LIMIT);
    assert_eq!(suite.points(), std::slice::from_ref(&first.id), "no point was made");
    let second = suite.quiet_backup("second");
    let point = suite.point(&second.id);
    assert_eq!((mode(&point, "vda").as_str(), mode(&point, "vdb").as_str()), ("incremental", "incremental"), "{point}");
    suite.assert_restores(&second);
});
