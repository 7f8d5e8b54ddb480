//! The guest's agent ends while the guest is frozen: that thaws nothing. The guard goes on until an agent has confirmed it, and says so meanwhile.
//!
//! The real agent is killed in the guest, whose root file system is in memory. By the guest's own view: its writer syncs without a pause, so the image of
//! vdb stands still exactly while it is frozen.

use cairn_lab::frozen::{self, Frozen, Job, alarm, record_is_open, stands_still, wait_writes};
use cairn_lab::suite::{CLEAN_LIMIT, Suite, assert_refused, quiesce};
use cairn_lab::{Options, cairn, imposter, lab_test, libvirt, process};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const FREEZE_LIMIT: Duration = Duration::from_secs(10);
/// The guard begins to thaw so long before the limit, and gives no alarm earlier.
const THAW_RESERVE: Duration = Duration::from_secs(3);
/// For a host that is busy with other things.
const SLACK: Duration = Duration::from_secs(5);
const ALARM_LIMIT: Duration = FREEZE_LIMIT.saturating_add(SLACK);
/// How long the agent is away that comes back by itself.
const AWAY: Duration = Duration::from_secs(10);
/// libvirt waits for half a minute at each port that opens or closes while a backup's job runs (docs/capture.md).
const HEARD_LIMIT: Duration = Duration::from_secs(90);
/// A backup whose agent is gone takes no longer.
const BACKUP_LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);
/// An agent that is there answers at once.
const PING_S: u32 = 5;

fn image() -> PathBuf {
    let [_, vdb] = cairn_lab::lab::disks().map(|disk| disk.path);
    vdb
}

/// A backup that was stopped with its guest frozen, whose agent was killed then and does `instead` before it is started again; the backup goes on, and ends. And
/// the points that there were.
fn agent_killed(suite: &Suite, instead: &str, alarm: &Path, said: &Path) -> (Frozen, Vec<String>) {
    suite.domain.writer_start(0).expect("writer");
    suite.cairn.ok(&["backup", "lab1"]).expect("first backup");
    imposter::prepare(&suite.domain, instead).expect("the agent answers");
    let mut case = frozen::frozen(suite, &image(), || {
        let mut command = suite.cairn.command(&["backup", "lab1", "--freeze-limit", &FREEZE_LIMIT.as_secs().to_string(), "--on-stuck-freeze"]);
        Job::start(command.arg(alarm).stderr(File::create(said).expect("our own file")))
    });
    imposter::kill_agent(&suite.domain).expect("killed");
    // At once: the guard ends a backup that stands still for six seconds, and thaws.
    case.job(Signal::SIGCONT);
    assert!(stands_still(&image()), "it was thawed before its agent was killed");
    // A second attempt begins with a thaw, which nobody can give yet.
    (case, suite.points())
}

/// Until the record of the freeze is closed, which must not be before the guest writes again.
fn closed_when_thawed(case: &Frozen, what: &str, limit: Duration) {
    while record_is_open() {
        assert!(case.since.elapsed() < limit, "{what}: the record is still open");
        std::thread::sleep(POLL);
    }
    println!("{what}: record closed {:.1} s after the freeze", case.since.elapsed().as_secs_f64());
    wait_writes(&image(), what, Duration::from_secs(2));
}

/// Of an agent that has been back in its guest for some time; a frozen one answers as well.
fn libvirt_has_the_agent(suite: &Suite) -> bool {
    suite.domain.agent_within("guest-ping", &Value::Null, PING_S).is_ok()
}

fn sleep_until(case: &Frozen, after: Duration) {
    std::thread::sleep(after.saturating_sub(case.since.elapsed()));
}

fn all_is_well(suite: &Suite) {
    suite.assert_left_alone(HEARD_LIMIT);
    suite.assert_goes_on();
}

lab_test!(killed_and_started_again, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let (program, note) = alarm(&suite);
    let said = suite.path("said");
    let (mut case, before) = agent_killed(&suite, &format!("exec sleep {}", AWAY.as_secs()), &program, &said);
    assert!(record_is_open(), "an agent that is gone has thawed nothing");
    process::wait_for("the alarm", ALARM_LIMIT, POLL, || Ok(note.exists().then_some(()))).expect("the admin's program was called");
    sleep_until(&case, AWAY + SLACK);
    let ended = case.job.wait("the backup", BACKUP_LIMIT).expect("our child");
    println!("the backup ended {:.1} s after the freeze: {ended}", case.since.elapsed().as_secs_f64());
    let points = suite.points();
    let is_lost = !libvirt_has_the_agent(&suite);
    if is_lost {
        // libvirt has lost it, since it ended while the backup's job ran; this is what the alarm's words say that helps.
        assert!(record_is_open(), "nobody could be asked for a thaw");
        assert_eq!((ended.code(), &points), (Some(cairn::FAILED), &before), "no point, and a word: {}", fs::read_to_string(&said).expect("its words"));
        assert!(stands_still(&image()), "the record is of a guest that is frozen");
        println!("the agent is back, and libvirt does not know");
        libvirt::restart(&lab.folder().join("libvirtd.log"), Signal::SIGTERM).expect("libvirtd");
    } else {
        assert_eq!((ended.code(), points.len()), (Some(cairn::WARNINGS), before.len() + 1), "thawed by its guard, it was saved by a second attempt");
        assert_eq!(quiesce(&suite.point(&points[before.len()])), "crash", "no thaw proved the freeze");
    }
    closed_when_thawed(&case, "agent killed, back after 10 s", case.since.elapsed() + HEARD_LIMIT);
    case.thaws("agent killed, back after 10 s", HEARD_LIMIT * 2);
    if is_lost {
        suite.assert_spared();
    }
    all_is_well(&suite);
});

lab_test!(killed_and_gone, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let (program, note) = alarm(&suite);
    let said = suite.path("said");
    let (mut case, before) = agent_killed(&suite, "exec sleep 900", &program, &said);
    let called = || Ok(fs::read_to_string(&note).ok().filter(|text| text.ends_with('\n')));
    let called = process::wait_for("the alarm", ALARM_LIMIT, POLL, called).expect("the admin's program was called");
    // The record is older than the freeze, if by a moment; the alarm is no older than what was asked now.
    let after = frozen::record_age().expect("the record of the freeze");
    println!("agent killed: alarm {:.1} s after the freeze was recorded", after.as_secs_f64());
    assert!(after >= FREEZE_LIMIT - THAW_RESERVE, "it might have come back within the limit");
    let uuid = suite.domain.virsh_ok(&["domuuid", "lab1"]).expect("uuid");
    assert_eq!(called.split_whitespace().next(), Some(uuid.trim()));
    let ended = case.job.wait("the backup", BACKUP_LIMIT).expect("our child");
    println!("the backup ended {:.1} s after the freeze: {ended}", case.since.elapsed().as_secs_f64());
    let words = fs::read_to_string(&said).expect("what the backup said");
    assert!(words.contains("systemctl restart qemu-guest-agent"), "it says what helps: {words}");
    assert!(words.contains("did not say that it is thawed"), "{words}");
    assert!(stands_still(&image()) && record_is_open(), "nobody has thawed it, so the record stays");
    assert_eq!((ended.code(), suite.points()), (Some(cairn::FAILED), before), "a backup that goes on would keep libvirt from hearing of the agent");

    // Whoever comes next cannot thaw it either, and does not believe that it is thawed.
    let begin = Instant::now();
    let output = suite.cairn.run(&["backup", "lab1"]).expect("it ends");
    assert_eq!(output.code(), cairn::WARNINGS, "{}", output.err_text());
    let refused = suite.cairn.run(&["backup", "lab1", "--quiesce", "require"]).expect("it ends");
    assert_refused(&refused, cairn::REFUSED, "agent");
    assert!(begin.elapsed() < BACKUP_LIMIT, "{:?}", begin.elapsed());
    assert!(stands_still(&image()) && record_is_open(), "still");
    assert_eq!(quiesce(&suite.point(suite.points().last().expect("a point"))), "crash");

    imposter::leave(&suite.domain).expect("the agent is started again");
    std::thread::sleep(SLACK);
    if record_is_open() {
        println!("the agent is back, and libvirt does not know");
        imposter::kill_agent(&suite.domain).expect("killed; it is started again at once, and no backup runs");
    }
    let back = Instant::now();
    closed_when_thawed(&case, "agent back", case.since.elapsed() + HEARD_LIMIT);
    println!("thawed {:.1} s after the agent was restarted", back.elapsed().as_secs_f64());
    suite.assert_left_alone(CLEAN_LIMIT);
    assert_eq!(fs::read_to_string(&note).expect("there"), called, "one alarm for one freeze");
    all_is_well(&suite);
});
