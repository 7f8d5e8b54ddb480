//! Whoever dies or hangs while the guest is frozen: it is thawed within the limit, or the alarm goes off and it is thawed as soon as it can be.
//!
//! The guest's own view counts: its writer syncs without a pause, so the image of vdb stands still exactly while the guest is frozen. Each case
//! prints how long that was.

use cairn_lab::suite::{CLEAN_LIMIT, Suite, quiesce};
use cairn_lab::{Options, lab_test, libvirt, process};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const RECORDS: &str = "/run/cairn/frozen";
/// What the command line is given, and what a freeze may last when any one process of ours dies.
const FREEZE_LIMIT_S: u64 = 10;
/// For a host that is busy with other things: starting a process may take a second.
const SLACK: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(FREEZE_LIMIT_S).saturating_add(SLACK);
/// A freeze takes a tenth of a second: not every attempt to stop a backup within it succeeds.
const ATTEMPTS: usize = 48;
/// From the record of a freeze to the stop, so many different times.
const MOMENT: Duration = Duration::from_millis(12);
const MOMENTS: usize = 12;
/// Writes of the guest come every few milliseconds; so long without one, it is frozen.
const STILL: Duration = Duration::from_millis(700);
const POLL: Duration = Duration::from_millis(2);

/// A backup that was stopped (SIGSTOP) with its guest frozen.
struct Frozen {
    job: Child,
    guard: Pid,
    since: Instant,
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("process ids are small"))
}

fn record_is_open() -> bool {
    fs::read_dir(RECORDS).is_ok_and(|mut records| records.next().is_some())
}

fn image() -> PathBuf {
    let [_, vdb] = cairn_lab::lab::disks().map(|disk| disk.path);
    vdb
}

/// Time of the last write of the guest, as its host's file system has it.
fn last_write() -> (i64, i64) {
    let meta = fs::metadata(image()).expect("the image of vdb");
    (meta.mtime(), meta.mtime_nsec())
}

/// Whether the guest writes nothing for a while.
fn stands_still() -> bool {
    let (before, begin) = (last_write(), Instant::now());
    while begin.elapsed() < STILL {
        if last_write() != before {
            return false;
        }
        sleep(POLL);
    }
    true
}

/// Until the guest writes again.
fn wait_writes(what: &str, limit: Duration) {
    let (before, begin) = (last_write(), Instant::now());
    while last_write() == before {
        assert!(begin.elapsed() < limit, "{what}: the guest is still frozen after {limit:?}");
        sleep(POLL);
    }
}

/// The children of a process, of any of its threads, whose command line ends with this word.
fn child_named(parent: Pid, word: &str) -> Option<Pid> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).ok()?.flatten();
    let lists: Vec<String> = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok()).collect();
    let mut children = lists.iter().flat_map(|list| list.split_whitespace()).filter_map(|pid| pid.parse().ok());
    children.find(|pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.ends_with(format!("\0{word}\0").as_bytes()))).map(Pid::from_raw)
}

/// Starts backups by `command` until one could be stopped while the guest is frozen.
fn frozen(suite: &Suite, command: impl Fn() -> Command) -> Frozen {
    for attempt in 0..ATTEMPTS {
        wait_writes("before the backup", LIMIT);
        let mut job = command().stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("the program starts");
        let begin = Instant::now();
        while !record_is_open() && job.try_wait().expect("our child").is_none() && begin.elapsed() < Duration::from_secs(60) {
            sleep(POLL);
        }
        let since = Instant::now();
        // The freeze itself is a call that the agent gets a moment after the record; how long that is, and the freeze, depends on the host and its load.
        sleep(MOMENT * u32::try_from(attempt % MOMENTS).expect("a few"));
        if job.try_wait().expect("our child").is_none() {
            kill(pid_of(&job), Signal::SIGSTOP).expect("our own child");
            if record_is_open() && stands_still() && suite.domain.freeze_status().is_ok_and(|status| status == "frozen") {
                let guard = child_named(pid_of(&job), "guard").expect("a guard");
                return Frozen { job, guard, since };
            }
            kill(pid_of(&job), Signal::SIGCONT).expect("our own child");
        }
        job.wait().expect("reaped");
    }
    panic!("none of {ATTEMPTS} backups could be stopped while the guest was frozen");
}

impl Frozen {
    fn job(&self, signal: Signal) {
        kill(pid_of(&self.job), signal).expect("our own child");
    }

    fn guard(&self, signal: Signal) {
        kill(self.guard, signal).expect("the guard of our own child");
    }

    /// The guest writes again, in time, and everything is cleaned up.
    fn ends(mut self, suite: &Suite, what: &str, limit: Duration) {
        wait_writes(what, limit);
        println!("{what}: frozen for {:.1} s", self.since.elapsed().as_secs_f64());
        process::wait_limit(&mut self.job, what, Duration::from_secs(60)).expect("the backup ends");
        suite.assert_left_alone(CLEAN_LIMIT);
        assert!(!record_is_open(), "{what}: the record of the freeze stays");
    }
}

fn backup(suite: &Suite) -> Command {
    suite.cairn.command(&["backup", "lab1", "--freeze-limit", &FREEZE_LIMIT_S.to_string()])
}

/// Under the writer, with a point to build on.
fn begun(lab: &cairn_lab::Lab) -> Suite {
    let suite = Suite::new(lab);
    suite.domain.writer_start(0).expect("writer");
    suite.cairn.ok(&["backup", "lab1"]).expect("first backup");
    suite
}

/// The next backup is as good as any, and no point is of two moments.
fn all_is_well(suite: &Suite) {
    suite.domain.writer_stop().expect("the writer ran all the time");
    suite.cairn.ok(&["backup", "lab1"]).expect("backup");
    let points = suite.points();
    assert_eq!(quiesce(&suite.point(points.last().expect("a point"))), "filesystem");
    for id in &points {
        suite.assert_one_moment(id);
    }
}

lab_test!(job_and_guard, Options::small(), |lab| {
    let suite = begun(&lab);
    let stopped = || frozen(&suite, || backup(&suite));

    let case = stopped();
    case.job(Signal::SIGKILL);
    case.ends(&suite, "job killed", SLACK);

    // The stop is what frozen() did.
    stopped().ends(&suite, "job stopped", LIMIT);

    let case = stopped();
    case.job(Signal::SIGTERM);
    case.job(Signal::SIGCONT);
    case.ends(&suite, "job asked to end", SLACK);

    let case = stopped();
    case.guard(Signal::SIGKILL);
    case.job(Signal::SIGCONT);
    case.ends(&suite, "guard killed", SLACK);

    let case = stopped();
    let guard = case.guard;
    case.guard(Signal::SIGSTOP);
    case.job(Signal::SIGCONT);
    wait_writes("guard stopped", SLACK);
    sleep(Duration::from_secs(2));
    kill(guard, Signal::SIGCONT).expect("it waits for us");
    case.ends(&suite, "guard stopped", SLACK);

    let mut case = stopped();
    case.guard(Signal::SIGKILL);
    case.job(Signal::SIGKILL);
    case.job.wait().expect("reaped");
    assert!(stands_still(), "nobody is there to thaw it");
    suite.cairn.ok(&["backup", "lab1"]).expect("the next backup thaws and goes on");
    case.ends(&suite, "job and guard killed, then a backup", SLACK);

    all_is_well(&suite);
});

fn libvirtd() -> Pid {
    let text = fs::read_to_string(libvirt::PID_FILE).expect("the lab's libvirtd has a pid file");
    Pid::from_raw(text.trim().parse().expect("a process id"))
}

/// A program that notes how it was called.
fn alarm(suite: &Suite) -> (PathBuf, PathBuf) {
    let (program, note) = (suite.path("alarm"), suite.path("alarm-was-called"));
    fs::write(&program, format!("#!/bin/sh\necho \"$1 $CAIRN_URI\" >> {}\n", note.display())).expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("executable");
    (program, note)
}

lab_test!(libvirtd_gone_or_hung, Options::small(), |lab| {
    let suite = begun(&lab);
    let (program, note) = alarm(&suite);
    let command = || {
        let mut command = backup(&suite);
        command.arg("--on-stuck-freeze").arg(&program);
        command
    };
    let restart = || {
        libvirt::launch(&lab.folder().join("libvirtd.log")).expect("libvirtd");
        process::wait_for("libvirtd", Duration::from_secs(60), Duration::from_millis(100), || Ok(suite.domain.state().ok())).expect("it answers");
    };

    for (what, goes_on) in [("libvirtd killed", true), ("libvirtd killed, job stopped", false)] {
        let case = frozen(&suite, command);
        kill(libvirtd(), Signal::SIGKILL).expect("the lab's own");
        if goes_on {
            case.job(Signal::SIGCONT);
        }
        wait_writes(what, LIMIT);
        println!("{what}: writes again {:.1} s after the freeze", case.since.elapsed().as_secs_f64());
        restart();
        case.ends(&suite, what, SLACK);
    }
    assert!(!note.exists(), "no freeze was stuck");

    // Nothing can thaw it now but libvirtd: a second connection to the agent's channel would shut libvirtd out for good.
    let case = frozen(&suite, command);
    kill(libvirtd(), Signal::SIGSTOP).expect("the lab's own");
    let called = process::wait_for("the alarm", LIMIT, Duration::from_millis(100), || Ok(fs::read_to_string(&note).ok().filter(|text| text.ends_with('\n'))));
    println!("libvirtd hung: alarm {:.1} s after the freeze", case.since.elapsed().as_secs_f64());
    assert!(stands_still(), "it is still frozen");
    kill(libvirtd(), Signal::SIGCONT).expect("the lab's own");
    let called = called.expect("the admin's program was called");
    let uuid = suite.domain.virsh_ok(&["domuuid", "lab1"]).expect("uuid");
    assert_eq!(called, format!("{} qemu:///system\n", uuid.trim()), "once, with the domain");
    case.ends(&suite, "libvirtd hung", LIMIT);

    all_is_well(&suite);
});

/// A control group of the memory controller, of version 1 or 2, whichever has it.
struct MemoryGroup {
    folder: PathBuf,
    is_v2: bool,
}

impl MemoryGroup {
    /// The lab hides the host's groups: the controller is mounted anew.
    fn new(at: &Path) -> Self {
        fs::create_dir_all(at).expect("our own folder");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let is_v2 = mount(Some("cgroup"), at, Some("cgroup"), flags, Some("memory")).is_err();
        if is_v2 {
            mount(Some("cgroup2"), at, Some("cgroup2"), flags, None::<&str>).expect("control groups can be mounted");
            fs::write(at.join("cgroup.subtree_control"), "+memory").expect("the memory controller");
        }
        let folder = at.join(format!("cairn-lab-{}", std::process::id()));
        fs::create_dir(&folder).expect("a group of our own");
        Self { folder, is_v2 }
    }

    fn number(&self, file: &str) -> u64 {
        fs::read_to_string(self.folder.join(file)).expect(file).trim().parse().expect("a number")
    }

    /// No room any more: the next page that one of its processes wants is one too many.
    fn squeeze(&self) {
        let (limit, usage) = if self.is_v2 { ("memory.max", "memory.current") } else { ("memory.limit_in_bytes", "memory.usage_in_bytes") };
        // Version 1 takes no limit that it cannot keep, but gives back caches for it.
        for part in [100, 95, 90, 80, 70, 60, 50] {
            if fs::write(self.folder.join(limit), (self.number(usage) / 100 * part).to_string()).is_err() {
                return;
            }
        }
    }

    fn kills(&self) -> u64 {
        let file = if self.is_v2 { "memory.events" } else { "memory.oom_control" };
        let text = fs::read_to_string(self.folder.join(file)).expect(file);
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")).expect("a count of kills").trim().parse().expect("a number")
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // One that still has processes cannot go; it is empty a moment later.
        for _ in 0..50 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            sleep(Duration::from_millis(100));
        }
    }
}

// Job and guard share the group, as they do on hosts without systemd.
lab_test!(out_of_memory, Options::small(), |lab| {
    let suite = begun(&lab);
    let (mut kills, mut number) = (0, 0);
    while kills == 0 {
        number += 1;
        assert!(number <= 5, "no backup was killed for want of memory");
        let group = MemoryGroup::new(&suite.path(&format!("cgroup-{number}")));
        let command = || {
            let cairn = backup(&suite);
            let mut command = Command::new("sh");
            command.arg("-c").arg(format!("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", group.folder.display()));
            command.arg(cairn.get_program()).args(cairn.get_args());
            command.envs(cairn.get_envs().filter_map(|(key, value)| value.map(|value| (key, value))));
            command
        };
        let case = frozen(&suite, command);
        group.squeeze();
        case.job(Signal::SIGCONT);
        case.ends(&suite, "out of memory", LIMIT);
        kills = group.kills();
    }
    println!("{kills} processes killed for want of memory");
    all_is_well(&suite);
});
