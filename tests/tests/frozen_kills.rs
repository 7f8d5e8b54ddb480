//! Whoever dies or hangs while the guest is frozen: it is thawed within the limit, or the alarm goes off and it is thawed as soon as it can be.
//!
//! The guest's own view counts: its writer syncs without a pause, so the image of vdb stands still exactly while the guest is frozen. Limits are of the time from its
//! last write before the freeze to its first one after it, and each case prints it.

use cairn_lab::daemon::Daemon;
use cairn_lab::frozen::{self, Frozen, Job, alarm, has_died, parent, stands_still};
use cairn_lab::suite::{Suite, assert_refused};
use cairn_lab::{Options, cairn, lab_test, libvirt, process};
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::thread::sleep;
use std::time::Duration;

/// What the command line is given, and what a freeze may last when any one process of ours dies.
const FREEZE_LIMIT_S: u64 = 10;
/// For a host that is busy with other things: starting a process may take a second.
const SLACK: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(FREEZE_LIMIT_S).saturating_add(SLACK);

fn image() -> PathBuf {
    let [_, vdb] = cairn_lab::lab::disks().map(|disk| disk.path);
    vdb
}

/// Starts backups by `command` until one could be stopped while the guest is frozen.
fn frozen(suite: &Suite, command: impl Fn() -> Command) -> Frozen {
    frozen::frozen(suite, &image(), || Job::start(&mut command()))
}

fn ends(case: Frozen, suite: &Suite, what: &str, limit: Duration) -> Option<ExitStatus> {
    case.ends(suite, what, limit)
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

lab_test!(job_and_guard, Options::small(), |lab| {
    let suite = begun(&lab);
    let stopped = || frozen(&suite, || backup(&suite));

    let mut case = stopped();
    case.job(Signal::SIGKILL);
    ends(case, &suite, "job killed", SLACK);

    // The stop is what frozen() did.
    ends(stopped(), &suite, "job stopped", LIMIT);

    let mut case = stopped();
    case.job(Signal::SIGTERM);
    case.job(Signal::SIGCONT);
    ends(case, &suite, "job asked to end", SLACK);

    let mut case = stopped();
    case.guard(Signal::SIGKILL);
    case.job(Signal::SIGCONT);
    ends(case, &suite, "guard killed", SLACK);

    let mut case = stopped();
    case.guard(Signal::SIGSTOP);
    case.job(Signal::SIGCONT);
    case.thaws("guard stopped", SLACK);
    sleep(Duration::from_secs(2));
    case.guard(Signal::SIGCONT);
    ends(case, &suite, "guard stopped", SLACK);

    // The guard is not gone, so nobody else may work on the domain; it thaws as soon as it goes on.
    let mut case = stopped();
    case.guard(Signal::SIGSTOP);
    case.job(Signal::SIGKILL);
    case.job.wait("the killed backup", SLACK);
    assert!(stands_still(&image()), "nobody is there to thaw it");
    let refused = suite.cairn.run(&["backup", "lab1"]).expect("it ends");
    assert_refused(&refused, cairn::BUSY, "lab1");
    case.guard(Signal::SIGCONT);
    ends(case, &suite, "job killed, guard stopped and continued", SLACK);

    let mut case = stopped();
    case.guard(Signal::SIGKILL);
    case.job(Signal::SIGKILL);
    case.job.wait("the killed backup", SLACK);
    assert!(stands_still(&image()), "nobody is there to thaw it");
    suite.cairn.ok(&["backup", "lab1"]).expect("the next backup thaws and goes on");
    ends(case, &suite, "job and guard killed, then a backup", LIMIT);

    suite.assert_goes_on();
});

// Standard error is a pipe that is full, and nobody reads it: neither a thaw nor an alarm waits for a word.
lab_test!(nobody_reads_what_the_guard_says, Options::small(), |lab| {
    let suite = begun(&lab);
    let (_reader, writer) = std::io::pipe().expect("a pipe");
    let mut case = frozen(&suite, || {
        let mut command = backup(&suite);
        command.stderr(writer.try_clone().expect("a descriptor"));
        command
    });
    // By a description of its own, so that the others' writes still wait.
    let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
    let mut filler = fs::File::options().write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path).expect("the same pipe");
    for piece in [&[b'x'; 4096][..], b"x"] {
        while filler.write(piece).is_ok() {}
    }
    case.job(Signal::SIGKILL);
    ends(case, &suite, "job killed, nobody reads", SLACK);
    suite.assert_goes_on();
});

fn libvirtd() -> Pid {
    let text = fs::read_to_string(libvirt::PID_FILE).expect("the lab's libvirtd has a pid file");
    Pid::from_raw(text.trim().parse().expect("a process id"))
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
        let mut case = frozen(&suite, command);
        kill(libvirtd(), Signal::SIGKILL).expect("the lab's own");
        if goes_on {
            case.job(Signal::SIGCONT);
        }
        case.thaws(what, LIMIT);
        restart();
        ends(case, &suite, what, LIMIT);
    }
    assert!(!note.exists(), "no freeze was stuck");

    // Nothing can thaw it now but libvirtd: a second connection to the agent's channel would shut libvirtd out for good.
    let mut case = frozen(&suite, command);
    kill(libvirtd(), Signal::SIGSTOP).expect("the lab's own");
    let called = process::wait_for("the alarm", LIMIT, Duration::from_millis(100), || Ok(fs::read_to_string(&note).ok().filter(|text| text.ends_with('\n'))));
    println!("libvirtd hung: alarm {:.1} s after the freeze", case.since.elapsed().as_secs_f64());
    assert!(stands_still(&image()), "it is still frozen");
    kill(libvirtd(), Signal::SIGCONT).expect("the lab's own");
    case.acted();
    let called = called.expect("the admin's program was called");
    let uuid = suite.domain.virsh_ok(&["domuuid", "lab1"]).expect("uuid");
    assert_eq!(called, format!("{} qemu:///system\n", uuid.trim()), "once, with the domain");
    ends(case, &suite, "libvirtd hung", LIMIT);

    suite.assert_goes_on();
});

fn config(suite: &Suite, alarm: &Path) -> String {
    let (store, key) = (suite.cairn.store().display(), suite.cairn.key().display());
    format!("stores:\n  main: {{ url: {store}, key_file: {key} }}\ndaemon: {{ on_stuck_freeze: {} }}\n", alarm.display())
}

/// How the daemon's last job ended.
fn last_state(daemon: &Daemon) -> String {
    let id = daemon.jobs().expect("jobs").last().expect("a job")["id"].clone();
    let over = |job: &Value| !["queued", "running"].iter().any(|state| job["state"] == *state);
    let job = daemon.wait_job(&id, "over", LIMIT, over).expect("it ends");
    job["state"].as_str().expect("a state").to_owned()
}

/// A backup as a job of the daemon's, stopped with its guest frozen.
fn daemon_job_stopped(suite: &Suite, daemon: &Daemon) -> Frozen {
    frozen::frozen(suite, &image(), || {
        let id = daemon.back_up(&json!({"domain": "lab1", "store": "main"})).expect("asked")[0]["id"].clone();
        let job = daemon.wait_job(&id, "its process", LIMIT, |job| job["pid"].is_i64() || job["code"].is_i64()).expect("it starts");
        let pid = job["pid"].as_i64().unwrap_or_else(|| panic!("it ended before it froze: {job:#}"));
        Job::Other(Pid::from_raw(i32::try_from(pid).expect("process ids are small")))
    })
}

lab_test!(job_of_a_daemon, Options::small(), |lab| {
    let suite = begun(&lab);
    let (program, note) = alarm(&suite);
    let mut daemon = Daemon::start(&lab, &config(&suite, &program)).expect("the daemon");
    let stopped = |daemon: &Daemon| daemon_job_stopped(&suite, daemon);

    // The job goes on without it.
    let mut case = stopped(&daemon);
    daemon.kill().expect("it was there");
    case.job(Signal::SIGCONT);
    ends(case, &suite, "daemon killed", SLACK);
    daemon.start_again().expect("the daemon");
    assert_ne!(last_state(&daemon), "lost", "its runner wrote down how it ended");

    let case = stopped(&daemon);
    daemon.kill().expect("it was there");
    ends(case, &suite, "daemon killed, its job stopped", LIMIT);
    daemon.start_again().expect("the daemon");
    assert_eq!(last_state(&daemon), "failed", "by its guard");

    let case = stopped(&daemon);
    let pid = Pid::from_raw(i32::try_from(daemon.pid()).expect("process ids are small"));
    kill(pid, Signal::SIGSTOP).expect("our own child");
    ends(case, &suite, "daemon and its job stopped", LIMIT);
    kill(pid, Signal::SIGCONT).expect("our own child");
    assert_eq!(last_state(&daemon), "failed");

    let mut case = stopped(&daemon);
    daemon.kill().expect("it was there");
    kill(parent(case.job.pid()), Signal::SIGKILL).expect("the job's runner");
    case.job(Signal::SIGCONT);
    ends(case, &suite, "daemon and runner killed", SLACK);
    daemon.start_again().expect("the daemon");
    assert_eq!(last_state(&daemon), "lost");
    assert!(!note.exists(), "no freeze was stuck");

    // What the configuration names is called for its jobs.
    let mut case = stopped(&daemon);
    kill(libvirtd(), Signal::SIGSTOP).expect("the lab's own");
    let called = process::wait_for("the alarm", LIMIT, Duration::from_millis(100), || Ok(fs::read_to_string(&note).ok().filter(|text| text.ends_with('\n'))));
    kill(libvirtd(), Signal::SIGCONT).expect("the lab's own");
    case.acted();
    let called = called.expect("the admin's program was called");
    let uuid = suite.domain.virsh_ok(&["domuuid", "lab1"]).expect("uuid");
    assert_eq!(called.split_whitespace().next(), Some(uuid.trim()), "with the domain");
    ends(case, &suite, "libvirtd hung under the daemon's job", LIMIT);
    drop(daemon);
    suite.assert_goes_on();
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
        // The controller is the host's, for all labs; process ids are each lab's own.
        let folder = at.join(format!("cairn-lab{}", at.to_string_lossy().replace('/', "-")));
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

    /// A process that has its memory already; what it wants from now on is the group's.
    fn take_in(&self, pid: Pid) {
        fs::write(self.folder.join("cgroup.procs"), pid.to_string()).expect("the process is there");
    }

    /// How many of its processes the kernel has killed for want of memory.
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
        let mut case = frozen(&suite, command);
        let guard = case.guard;
        group.squeeze();
        case.job(Signal::SIGCONT);
        let ended = ends(case, &suite, "out of memory", LIMIT).expect("our child");
        kills = group.kills();
        let job_died = ended.signal() == Some(Signal::SIGKILL as i32);
        println!("{kills} processes killed for want of memory; the backup: {ended}, its guard died: {}", has_died(guard));
        // A guard that lives kills no job that beats; one that was killed leaves it to end by itself.
        assert!(kills == 0 || job_died || ended.code() != Some(cairn::DONE), "the kernel's victim is neither the backup nor its guard: {ended}");
    }
    suite.assert_goes_on();
});

// The guard alone, as where systemd gave it a scope of its own: the job thaws by itself, and the next backup finds nothing in its way.
lab_test!(guard_out_of_memory, Options::small(), |lab| {
    let suite = begun(&lab);
    let group = MemoryGroup::new(&suite.path("cgroup"));
    let mut case = frozen(&suite, || backup(&suite));
    group.take_in(case.guard);
    group.squeeze();
    let killed = || Ok((group.kills() > 0).then_some(()));
    process::wait_for("a kill for want of memory", SLACK, Duration::from_millis(20), killed).expect("something is killed");
    dies(case.guard, "the guard");
    assert!(stands_still(&image()), "nobody is there to thaw it");
    case.job(Signal::SIGCONT);
    ends(case, &suite, "guard out of memory", SLACK);
    suite.assert_goes_on();
});

/// Until the kernel has killed something in the group; `poke` makes it want memory.
fn wait_kill(group: &MemoryGroup, poke: impl Fn()) {
    let killed = || {
        poke();
        Ok((group.kills() > 0).then_some(()))
    };
    process::wait_for("a kill for want of memory", LIMIT, Duration::from_millis(20), killed).expect("something is killed");
}

/// The kernel has killed something in the group of this process, of which nobody else would: it, and not one that it started.
fn dies(pid: Pid, what: &str) {
    let died = || Ok(has_died(pid).then_some(()));
    process::wait_for(&format!("the end of {what}"), SLACK, Duration::from_millis(20), died).expect("it is the victim");
}

// Each in a control group of its own, as under systemd; the guest is frozen and its backup stopped.
lab_test!(daemons_out_of_memory, Options::small(), |lab| {
    let suite = begun(&lab);
    let (program, note) = alarm(&suite);
    let mut daemon = Daemon::start(&lab, &config(&suite, &program)).expect("the daemon");

    let group = MemoryGroup::new(&suite.path("cgroup-daemon"));
    let mut case = daemon_job_stopped(&suite, &daemon);
    group.take_in(Pid::from_raw(i32::try_from(daemon.pid()).expect("process ids are small")));
    group.squeeze();
    // One that was killed gives no answer.
    wait_kill(&group, || drop(daemon.health()));
    dies(Pid::from_raw(i32::try_from(daemon.pid()).expect("process ids are small")), "the daemon");
    case.job(Signal::SIGCONT);
    ends(case, &suite, "daemon out of memory", SLACK);
    daemon.kill().expect("a zombie of ours");
    daemon.start_again().expect("the daemon");
    assert_eq!(last_state(&daemon), "done", "its job went on");

    let group = MemoryGroup::new(&suite.path("cgroup-libvirtd"));
    let mut case = frozen(&suite, || backup(&suite));
    let pid = libvirtd();
    group.take_in(pid);
    group.squeeze();
    wait_kill(&group, || drop(suite.domain.state()));
    dies(pid, "libvirtd");
    case.acted();
    case.thaws("libvirtd out of memory, job stopped", LIMIT);
    libvirt::launch(&lab.folder().join("libvirtd.log")).expect("libvirtd");
    process::wait_for("libvirtd", Duration::from_secs(60), Duration::from_millis(100), || Ok(suite.domain.state().ok())).expect("it answers");
    ends(case, &suite, "libvirtd out of memory, job stopped", LIMIT);
    assert!(!note.exists(), "no freeze was stuck");
    drop(daemon);
    suite.assert_goes_on();
});
