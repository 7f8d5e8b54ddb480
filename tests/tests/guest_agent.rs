//! The guest's agent absent, silent or hostile: the backup ends in time and says what it is, the guest goes on.

use cairn_lab::steps::{FREEZE_LIMIT_S, Holder};
use cairn_lab::suite::{CLEAN_LIMIT, Suite, TRACKERS_MAX, assert_refused, quiesce};
use cairn_lab::{Options, cairn, frozen, imposter, lab_test, libvirt, process, traces};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Some calls of the agent may time out one after the other; a backup takes no minutes for that.
const BACKUP_LIMIT: Duration = Duration::from_secs(90);
/// libvirt waits for half a minute at each port that opens or closes while the backup's job runs.
const LEAVING_LIMIT: Duration = Duration::from_secs(150);
/// A guard that waits for an agent looks every two seconds, or every ten.
const CLOSE_LIMIT: Duration = Duration::from_secs(30);
/// How long a freeze is waited for: the limit (10 s) less the thaw.
const FREEZE_CALL: Duration = Duration::from_secs(7);
/// Longer than that, and than the first thaw is waited for.
const SLOW_HOOK: Duration = Duration::from_secs(16);
/// From a freeze that came late to its thaw, which is asked for again and again by then.
const THAW_LIMIT: Duration = Duration::from_secs(10);
/// Until a late freeze is over after its backup, and all that was left.
const LATE_LIMIT: Duration = Duration::from_secs(30);
/// How long a misbehaving agent stays unless it is told to leave: longer than the backups of a test may take.
const AWAY: Duration = Duration::from_secs(300);
const BACK_LIMIT: Duration = Duration::from_secs(120);
/// An agent that is there answers at once.
const PING_S: u32 = 5;

/// Backs up with a bad agent; the point must not claim a freeze, and must be of one moment all the same.
fn backup_without_agent(suite: &Suite, name: &str, limit: Duration) {
    let begin = Instant::now();
    let output = suite.cairn.run(&["backup", "lab1"]).expect("it ends");
    assert!(begin.elapsed() < limit, "{name}: it took {:.0} s", begin.elapsed().as_secs_f64());
    let said = output.text() + &output.err_text();
    assert!([cairn::DONE, cairn::WARNINGS].contains(&output.code()), "{name}: exit code {}: {said}", output.code());
    assert!(!said.contains('\u{1b}'), "{name}: what a guest says is shown escaped: {said:?}");
    let points = suite.points();
    let id = points.last().expect("a point");
    assert_eq!(quiesce(&suite.point(id)), "crash", "{name}: nothing was frozen");
}

/// With `require` there must be no point, and a reason.
fn refused_without_agent(suite: &Suite, name: &str) {
    let before = suite.points();
    let output = suite.cairn.run(&["backup", "lab1", "--quiesce", "require"]).expect("it ends");
    println!("{name}: {}", assert_refused(&output, cairn::REFUSED, "lab1").trim());
    assert_eq!(suite.points(), before, "{name}: no point");
}

/// An imposter answers pings too: it must be gone before an answer means anything.
fn the_imposter_leaves(suite: &Suite) {
    if let Err(error) = imposter::leave(&suite.domain) {
        // Some backups take longer than its time: then it has gone by itself, and the checks below show that.
        println!("the imposter was not told to leave: {}", error.report());
    }
    all_is_well(suite);
}

/// The real agent is back; nothing is frozen, now or a little later, and all points are good.
fn all_is_well(suite: &Suite) {
    suite.domain.wait_agent(BACK_LIMIT).expect("the real agent is back");
    suite.assert_left_alone(Duration::from_secs(10));
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(suite.domain.freeze_status().expect("status"), "thawed");
    suite.domain.writer_stop().expect("the writer ran all the time");
    for id in suite.points() {
        suite.assert_one_moment(&id);
    }
}

macro_rules! bad_agent_test {
    ($test:ident, $mode:expr) => {
        lab_test!($test, Options::small(), |lab| {
            let suite = Suite::new(&lab);
            suite.domain.writer_start(5).expect("writer");
            imposter::install(&suite.domain, $mode, AWAY).expect("imposter");
            backup_without_agent(&suite, $mode, BACKUP_LIMIT);
            refused_without_agent(&suite, $mode);
            the_imposter_leaves(&suite);
        });
    };
}

bad_agent_test!(a_mute_agent, "mute");
bad_agent_test!(an_agent_that_is_silent_when_asked_to_freeze, "mute-at-freeze");
bad_agent_test!(an_agent_that_lies_about_the_freeze, "liar");
bad_agent_test!(an_agent_that_talks_garbage, "garbage");
bad_agent_test!(an_agent_with_odd_types, "types");

/// Most memory that libvirtd ever had, MiB.
fn libvirtd_mib() -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", libvirt::daemon().expect("it has a pid file"))).expect("it lives");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    peak.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") >> 10
}

/// Most memory that any program had that this test has started and waited for, MiB.
fn programs_mib() -> i64 {
    getrusage(UsageWho::RUSAGE_CHILDREN).expect("our own").max_rss() >> 10
}

// A reply of a gigabyte: whoever reads it stops long before its end, and has not kept it.
lab_test!(an_agent_that_floods, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    suite.domain.writer_start(5).expect("writer");
    // What a backup takes whose agent says no more than it is asked.
    suite.cairn.ok(&["backup", "lab1"]).expect("backup");
    let before = (libvirtd_mib(), programs_mib());
    imposter::install(&suite.domain, "flood", AWAY).expect("imposter");
    backup_without_agent(&suite, "flood", BACKUP_LIMIT);
    refused_without_agent(&suite, "flood");
    let after = (libvirtd_mib(), programs_mib());
    println!("most memory, MiB: libvirtd {} before, {} after; programs of ours {} before, {} after", before.0, after.0, before.1, after.1);
    // libvirt takes 10 MiB, in a buffer that it doubles; the program reads one at most.
    assert!(after.0 - before.0 < 128 && after.1 - before.1 < 64, "{before:?} {after:?}");
    the_imposter_leaves(&suite);
});

lab_test!(agents_that_answer_wrongly, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    suite.domain.writer_start(5).expect("writer");
    for mode in ["freezes-nothing", "freezes-less-than-nothing", "thaw-fails", "wrong-ids", "says-all-twice"] {
        imposter::install(&suite.domain, mode, AWAY).expect("imposter");
        backup_without_agent(&suite, mode, BACKUP_LIMIT);
        refused_without_agent(&suite, mode);
        imposter::leave(&suite.domain).expect("it leaves");
        suite.domain.wait_agent(BACK_LIMIT).expect("the real agent is back");
        suite.assert_left_alone(Duration::from_secs(20));
    }
    all_is_well(&suite);
});

/// The backup of a guest whose agent leaves with a freeze in its hands ends at once. Once the guard has thawed the guest there is a second attempt, without a
/// freeze; where libvirt has lost the agent (docs/capture.md), and only there, there is no point. Why it was not thawed.
fn ended_for_a_thaw(suite: &Suite, name: &str) -> String {
    let (before, begin) = (suite.points(), Instant::now());
    let output = suite.cairn.run(&["backup", "lab1"]).expect("it ends");
    let said = output.err_text();
    assert!(begin.elapsed() < LEAVING_LIMIT, "{name}: it took {:.0} s", begin.elapsed().as_secs_f64());
    println!("{name}: exit code {} after {:.0} s: {said}", output.code(), begin.elapsed().as_secs_f64());
    let points = suite.points();
    if output.code() == cairn::WARNINGS {
        assert!(said.contains("backed up anew without a freeze"), "{name}: {said}");
        let point = suite.point(points.last().expect("a point"));
        assert_eq!((quiesce(&point).as_str(), points.len()), ("crash", before.len() + 1), "{name}");
        return point["source"]["quiesce"]["reason"].as_str().unwrap_or_default().to_owned();
    }
    assert_refused(&output, cairn::FAILED, "did not say that it is thawed");
    assert_eq!(points, before, "{name}: no point");
    // By now it has been back for long: a libvirt that knew would have passed on the guard's thaw.
    let ping = suite.domain.agent_within("guest-ping", &Value::Null, PING_S);
    println!("{name}: libvirt's answer to a ping: {:?}", ping.as_ref().map_err(|error| error.report()));
    assert!(ping.is_err() && begin.elapsed() > imposter::GONE, "{name}: libvirt has the agent, which could have been asked for the thaw");
    suite.assert_spared();
    let reason = said.split_once("is thawed (").expect("a reason").1;
    reason.to_owned()
}

// Its port closes in the middle and opens again, which libvirt may not notice before the backup's job is over (docs/capture.md). Had it stayed, its freeze would
// have been believed; nobody is told that it was thawed before it is.
macro_rules! leaving_agent_test {
    ($test:ident, $mode:expr, $steps:expr) => {
        lab_test!($test, Options::small(), |lab| {
            let suite = Suite::new(&lab);
            suite.domain.writer_start(5).expect("writer");
            imposter::install(&suite.domain, $mode, AWAY).expect("imposter");
            // libvirt must have heard of its port, or there is no freeze to leave with.
            suite.domain.wait_agent(BACK_LIMIT).expect("the imposter answers");
            let reason = ended_for_a_thaw(&suite, $mode);
            println!("{}: {reason}", $mode);
            assert!($steps.iter().any(|step: &&str| reason.starts_with(step)), "it did not leave then: {reason}");
            refused_without_agent(&suite, $mode);
            the_imposter_leaves(&suite);
            the_next_is_as_any(&suite, $mode);
        });
    };
}

/// The real agent is back: the record of the freeze is closed, and the next backup freezes as usual.
fn the_next_is_as_any(suite: &Suite, name: &str) {
    frozen::wait_closed(&format!("{name}: the real agent answers"), CLOSE_LIMIT);
    suite.cairn.ok(&["backup", "lab1"]).expect("backup");
    assert_eq!(quiesce(&suite.point(suite.points().last().expect("a point"))), "filesystem", "{name}: the next one is as any");
}

leaving_agent_test!(an_agent_that_leaves_when_asked_to_freeze, "leaves-at-freeze", ["freeze: "]);
leaving_agent_test!(an_agent_that_leaves_when_it_has_frozen, "leaves-after-freeze", ["thaw: ", "the guest was no longer frozen"]);
leaving_agent_test!(an_agent_that_leaves_when_asked_to_thaw, "leaves-at-thaw", ["thaw: "]);

// It freezes, and answers no thaw: its backup ends without a point (docs/adr/0023). Its next one would fare the same, so it asks for no freeze.
lab_test!(an_agent_that_is_silent_when_asked_to_thaw, Options::small(), |lab| {
    const MODE: &str = "mute-at-thaw";
    let suite = Suite::new(&lab);
    suite.domain.writer_start(5).expect("writer");
    imposter::install(&suite.domain, MODE, AWAY).expect("imposter");
    suite.domain.wait_agent(BACK_LIMIT).expect("the imposter answers");
    let output = suite.cairn.run(&["backup", "lab1"]).expect("it ends");
    println!("{MODE}: {}", assert_refused(&output, cairn::FAILED, "did not say that it is thawed"));
    assert_eq!(suite.points(), [""; 0], "{MODE}: no point");
    suite.assert_spared();
    the_imposter_leaves(&suite);
    // That was for one point.
    the_next_is_as_any(&suite, MODE);
});

// libvirt knows that the port is closed, and sends no freeze there: there is nothing to thaw, and no reason to end the backup.
lab_test!(an_agent_that_is_gone_before_the_freeze, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    suite.domain.writer_start(5).expect("writer");
    imposter::prepare(&suite.domain, &format!("exec sleep {}", AWAY.as_secs())).expect("the agent answers");
    let mut held = Holder::new(&suite).hold(&suite, "bitmaps added");
    imposter::kill_agent(&suite.domain).expect("killed");
    let ping = || suite.domain.agent_within("guest-ping", &Value::Null, PING_S);
    let knows = || Ok(ping().is_err_and(|error| error.report().contains("not connected")).then_some(()));
    process::wait_for("libvirt to know that it is gone", BACK_LIMIT, Duration::from_millis(100), knows).expect("it hears of the port");
    held.goes_on();
    let ended = held.ends("the backup without its agent");
    assert_eq!(ended.code(), Some(cairn::WARNINGS), "{}", held.said());
    assert!(!frozen::record_is_open(), "no freeze was sent");
    let points = suite.points();
    assert!(points.len() == 1 && !held.said().contains("backed up anew"), "by the first attempt: {}", held.said());
    let point = suite.point(&points[0]);
    let reason = point["source"]["quiesce"]["reason"].as_str().unwrap_or_default();
    assert!(quiesce(&point) == "crash" && reason.starts_with("freeze: ") && reason.contains("not connected"), "{reason}");
    the_imposter_leaves(&suite);
});

lab_test!(no_agent_at_all, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    suite.domain.writer_start(5).expect("writer");
    imposter::remove(&suite.domain, AWAY).expect("no agent");
    backup_without_agent(&suite, "no agent", BACKUP_LIMIT);
    refused_without_agent(&suite, "no agent");
    the_imposter_leaves(&suite);
});

// Nobody can say whether its guest is frozen; that keeps nobody from ending the backup of a job that died.
lab_test!(a_killed_backup_of_a_mute_guest_is_taken_away, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    suite.domain.writer_start(5).expect("writer");
    imposter::install(&suite.domain, "mute-at-freeze", AWAY).expect("imposter");
    let mut held = Holder::new(&suite).hold(&suite, "reading begins");
    kill(held.pid(), Signal::SIGKILL).expect("it waits");
    held.ends("the killed backup");
    let killed = Instant::now();
    let limit = Duration::from_secs(FREEZE_LIMIT_S) + CLEAN_LIMIT;
    let is_gone = || {
        let traces = traces::look(&suite.domain)?;
        Ok((!traces.libvirt_job && traces.only_bitmaps(TRACKERS_MAX)).then_some(()))
    };
    process::wait_for("end of what the killed backup left", limit, Duration::from_millis(100), is_gone).expect("the guard takes it away");
    println!("taken away after {:.1} s", killed.elapsed().as_secs_f64());
    the_imposter_leaves(&suite);
});

// A guest whose own hooks take their time after each thaw answers late, and is not asked again and again without ever being waited for.
lab_test!(a_killed_backup_of_a_guest_that_thaws_slowly, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    suite.domain.writer_start(5).expect("writer");
    imposter::install(&suite.domain, "slow-at-thaw", AWAY).expect("imposter");
    suite.domain.wait_agent(BACK_LIMIT).expect("the imposter answers");
    let mut held = Holder::new(&suite).hold(&suite, "point in time");
    kill(held.pid(), Signal::SIGKILL).expect("it waits");
    held.ends("the killed backup");
    let killed = Instant::now();
    let limit = Duration::from_secs(FREEZE_LIMIT_S) + CLEAN_LIMIT * 2;
    let is_over = || Ok((!frozen::record_is_open()).then_some(()));
    process::wait_for("the guest's word that it is thawed", limit, Duration::from_millis(100), is_over).expect("the guard waits for it");
    println!("certain after {:.1} s", killed.elapsed().as_secs_f64());
    the_imposter_leaves(&suite);
});

// The agent gets the freeze late, when nobody waits for it any more: it must not stay frozen.
lab_test!(an_agent_that_was_stopped_and_goes_on, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    suite.domain.writer_start(5).expect("writer");
    let script = "(sleep 1; kill -STOP $(pidof qemu-ga); sleep 40; kill -CONT $(pidof qemu-ga)) >/dev/null 2>&1 &";
    suite.domain.sh(script).expect("stopped in a moment");
    std::thread::sleep(Duration::from_secs(2));
    backup_without_agent(&suite, "stopped agent", BACKUP_LIMIT);
    all_is_well(&suite);
});

/// What the hook of the slow agent noted: word, uptime in seconds.
fn notes(suite: &Suite) -> Vec<(String, f64)> {
    let text = suite.domain.sh(&format!("cat {}; rm {}", imposter::HOOK_LOG, imposter::HOOK_LOG)).expect("the hook was called");
    let note = |line: &str| line.split_once(' ').and_then(|(word, at)| Some((word.to_owned(), at.parse().ok()?)));
    text.lines().map(|line| note(line).unwrap_or_else(|| panic!("no note: {line:?}"))).collect()
}

/// A freeze was sent, nobody waited for it any more when it came, and it was thawed soon.
fn froze_late(suite: &Suite, name: &str) {
    let notes = notes(suite);
    println!("{name}: {notes:?}");
    let at = |word: &str| notes.iter().find(|(noted, _)| noted == word).unwrap_or_else(|| panic!("{name}: no {word} in {notes:?}")).1;
    assert!(at("frozen") - at("freeze") > FREEZE_CALL.as_secs_f64(), "{name}: the freeze came in time: {notes:?}");
    assert!(at("thaw") - at("frozen") < THAW_LIMIT.as_secs_f64(), "{name}: frozen for too long: {notes:?}");
}

// The real agent, held up by a hook in the guest: the freeze is sent, given up, and completes afterwards.
lab_test!(a_freeze_that_completes_late, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    suite.domain.writer_start(5).expect("writer");
    imposter::hooked(&suite.domain, SLOW_HOOK, AWAY).expect("the agent with its hook");

    let output = suite.cairn.run(&["backup", "lab1"]).expect("it ends");
    println!("{}", output.err_text());
    assert_eq!(output.code(), cairn::WARNINGS, "{}", output.err_text());
    let point = suite.point(suite.points().last().expect("a point"));
    assert_eq!(quiesce(&point), "crash", "what was frozen later is no point of a frozen guest");
    let told = &point["source"]["quiesce"];
    println!("{told}");
    // How many were thawed may have been answered to a call of the guard's that nobody waited for any more; the guest's own notes are the proof.
    assert!(told["reason"].as_str().is_some_and(|why| why.starts_with("freeze: ")), "the freeze was sent and given up: {told}");
    suite.assert_left_alone(LATE_LIMIT);
    froze_late(&suite, "prefer");

    refused_without_agent(&suite, "require");
    suite.assert_left_alone(LATE_LIMIT);
    froze_late(&suite, "require");
    assert!(!frozen::record_is_open(), "the record of the freeze stays");
    the_imposter_leaves(&suite);
});

/// How long a freeze that libvirt has not answered may still come, from when it was asked for.
const FREEZE_WAITS: Duration = Duration::from_secs(40);
/// A backup that is started meets the record of one within this time.
const BEFORE_IT_ASKS: Duration = Duration::from_secs(10);
/// So long another program's command holds the agent up: longer than the guard's thaws are waited for.
const HELD_UP_S: u64 = 16;

// libvirt lets one command of a domain through at a time. The freeze waits behind another program's, its backup is killed, and libvirt sends it all the same: by
// then thaws wait beside it, and which goes first is chance (docs/capture.md): the guard goes on until none can come any more.
lab_test!(a_freeze_that_is_sent_after_its_backup_was_killed, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    suite.domain.writer_start(5).expect("writer");
    imposter::hooked(&suite.domain, Duration::ZERO, AWAY).expect("the agent, which notes its freezes");
    let mut held = Holder::new(&suite).hold(&suite, "bitmaps added");
    // The other's command is a thaw, whose hook takes its time, once.
    let slow = format!("[ \"$1\" = thaw ] && rm /run/held-up 2>/dev/null && sleep {HELD_UP_S} && exit 0");
    suite.domain.sh(&format!("sed -i '1a {slow}' /run/slow-hook && touch /run/held-up")).expect("a hook that is slow");
    let begin = Instant::now();
    let thaw = r#"{"execute": "guest-fsfreeze-thaw"}"#;
    let mut other = libvirt::virsh(&["qemu-agent-command", "lab1", "--timeout", "60", thaw]).spawn().expect("virsh");
    std::thread::sleep(Duration::from_secs(1));
    held.goes_on();
    let open = || Ok(frozen::record_is_open().then_some(()));
    process::wait_for("the record of the freeze", CLOSE_LIMIT, Duration::from_millis(20), open).expect("it is about to freeze");
    println!("it asks for its freeze {:.1} s after the other's command", begin.elapsed().as_secs_f64());
    std::thread::sleep(Duration::from_secs(1));
    kill(held.pid(), Signal::SIGKILL).expect("it waits for its freeze");
    held.ends("the killed backup");
    let waited = begin.elapsed();
    assert!(other.try_wait().expect("our child").is_none(), "the other's command was over within {waited:?}: the freeze did not wait");
    assert!(process::wait_limit(&mut other, "the other's command", CLOSE_LIMIT).expect("it ends").success());
    // A guest that is frozen runs no such script, nor does one that is held up.
    let script = format!("sed -n '/^frozen/,$p' {} | grep -q ^thaw", imposter::HOOK_LOG);
    let came = || Ok(suite.domain.sh(&script).ok().map(drop));
    process::wait_for("the freeze and a thaw after it", LATE_LIMIT, Duration::from_millis(500), came).expect("it comes after all, and is thawed");
    suite.assert_left_alone(LATE_LIMIT);
    // Nobody knows of the freeze: for a while it may come, and no other is asked for.
    let young = frozen::record_age();
    let busy = suite.cairn.run(&["backup", "lab1", "--quiesce", "require"]).expect("it ends");
    if young.is_some_and(|age| age < FREEZE_WAITS - BEFORE_IT_ASKS) {
        assert_refused(&busy, cairn::BUSY, "try again in a minute");
    } else {
        println!("this machine took too long for the next backup to meet the record: {young:?}");
    }
    let notes = notes(&suite);
    println!("freezes and thaws, by the guest's clock: {notes:?}; the record is {:?} old", frozen::record_age());
    let frozen_at = notes.iter().filter(|(noted, _)| noted == "frozen").map(|(_, at)| *at).fold(f64::NAN, f64::max);
    let thawed_at = notes.iter().filter(|(noted, at)| noted == "thaw" && *at > frozen_at).map(|(_, at)| *at).fold(f64::NAN, f64::min);
    assert!(thawed_at - frozen_at < THAW_LIMIT.as_secs_f64(), "it came after all, and was thawed soon: {notes:?}");
    the_imposter_leaves(&suite);
});

// A freeze of somebody else's is theirs to end.
lab_test!(a_guest_that_another_program_froze, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    suite.domain.writer_start(5).expect("writer");
    suite.domain.sh("until [ -s /mnt/b/journal ]; do sleep 0.1; done").expect("the writer has begun");
    suite.domain.virsh_ok(&["domfsfreeze", "lab1"]).expect("frozen");
    let output = suite.cairn.run(&["backup", "lab1"]).expect("it ends");
    assert_refused(&output, cairn::WARNINGS, "the guest is frozen already");
    assert!(output.err_text().contains("virsh domfsthaw lab1"), "{}", output.err_text());
    let point = suite.point(suite.points().last().expect("a point"));
    assert_eq!(quiesce(&point), "crash", "nobody knows until when it is frozen");
    assert!(point["source"]["quiesce"]["reason"].as_str().is_some_and(|why| why.contains("frozen already")), "{point:#}");
    let refused = suite.cairn.run(&["backup", "lab1", "--quiesce", "require"]).expect("it ends");
    assert_refused(&refused, cairn::REFUSED, "virsh domfsthaw lab1");
    assert_eq!(suite.domain.freeze_status().expect("status"), "frozen", "not ours to thaw");
    suite.domain.virsh_ok(&["domfsthaw", "lab1"]).expect("thawed");
    suite.cairn.ok(&["backup", "lab1"]).expect("backup");
    assert_eq!(quiesce(&suite.point(suite.points().last().expect("a point"))), "filesystem");
    all_is_well(&suite);
});

// On libvirt 9.0 such a port keeps libvirt from seeing the end of its own job for half a minute (docs/lab.md).
lab_test!(a_port_that_opens_and_closes, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    suite.domain.writer_start(5).expect("writer");
    let flap = "while true; do exec 3</dev/virtio-ports/org.cairn.flap.0; sleep 0.1; exec 3<&-; sleep 0.1; done";
    let port = "for p in /sys/class/virtio-ports/*; do [ $(cat $p/name) = org.cairn.flap.0 ] && ln -s /dev/${p##*/} /dev/virtio-ports/org.cairn.flap.0; done";
    attach_port(&suite);
    suite
        .domain
        .sh(&format!("sleep 1; {port}; (setsid sh -c '{flap}') >/dev/null 2>&1 & sleep 1; [ -e /dev/virtio-ports/org.cairn.flap.0 ]"))
        .expect("a port that flaps");
    let output = suite.cairn.run(&["backup", "lab1"]).expect("it ends");
    assert!([cairn::DONE, cairn::WARNINGS].contains(&output.code()), "{}", output.err_text());
    suite.domain.sh("kill $(pgrep -f cairn.flap)").unwrap_or_default();
    suite.assert_left_alone(Duration::from_secs(60));
    suite.domain.writer_stop().expect("the writer ran all the time");
    for id in suite.points() {
        suite.assert_one_moment(&id);
    }
});

fn attach_port(suite: &Suite) {
    let path = suite.path("port.xml");
    let xml = "<channel type='unix'><target type='virtio' name='org.cairn.flap.0'/></channel>";
    std::fs::write(&path, xml).expect("written");
    suite.domain.virsh_ok(&["attach-device", "lab1", &path.to_string_lossy(), "--live"]).expect("attached");
}
