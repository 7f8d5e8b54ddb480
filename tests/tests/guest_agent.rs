//! The guest's agent absent, silent or hostile: the backup ends in time and says what it is, the guest goes on.

use cairn_lab::suite::{Suite, quiesce};
use cairn_lab::{Options, cairn, imposter, lab_test};
use std::time::{Duration, Instant};

/// Some calls of the agent may time out one after the other; a backup takes no minutes for that.
const BACKUP_LIMIT: Duration = Duration::from_secs(90);
/// How long a misbehaving agent stays unless it is told to leave: longer than the backups of a test may take.
const AWAY: Duration = Duration::from_secs(300);
const BACK_LIMIT: Duration = Duration::from_secs(120);

/// Backs up with a bad agent; the point must not claim a freeze, and must be of one moment all the same.
fn backup_without_agent(suite: &Suite, name: &str) {
    let begin = Instant::now();
    let output = suite.cairn.run(&["backup", "lab1"]).expect("it ends");
    assert!(begin.elapsed() < BACKUP_LIMIT, "{name}: it took {:.0} s", begin.elapsed().as_secs_f64());
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
    assert!(output.code() != cairn::DONE && output.code() != cairn::WARNINGS, "{name}: it must fail");
    assert!(!output.err_text().is_empty(), "{name}: it must say why");
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
            backup_without_agent(&suite, $mode);
            refused_without_agent(&suite, $mode);
            the_imposter_leaves(&suite);
        });
    };
}

bad_agent_test!(a_mute_agent, "mute");
bad_agent_test!(an_agent_that_is_silent_when_asked_to_freeze, "mute-at-freeze");
bad_agent_test!(an_agent_that_lies_about_the_freeze, "liar");
bad_agent_test!(an_agent_that_talks_garbage, "garbage");
bad_agent_test!(an_agent_that_floods, "flood");
bad_agent_test!(an_agent_with_odd_types, "types");

lab_test!(agents_that_answer_wrongly, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    suite.domain.writer_start(5).expect("writer");
    for mode in ["freezes-nothing", "freezes-less-than-nothing", "thaw-fails", "wrong-ids", "says-all-twice"] {
        imposter::install(&suite.domain, mode, AWAY).expect("imposter");
        backup_without_agent(&suite, mode);
        refused_without_agent(&suite, mode);
        imposter::leave(&suite.domain).expect("it leaves");
        suite.domain.wait_agent(BACK_LIMIT).expect("the real agent is back");
        suite.assert_left_alone(Duration::from_secs(20));
    }
    all_is_well(&suite);
});

lab_test!(no_agent_at_all, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    suite.domain.writer_start(5).expect("writer");
    imposter::remove(&suite.domain, AWAY).expect("no agent");
    backup_without_agent(&suite, "no agent");
    refused_without_agent(&suite, "no agent");
    the_imposter_leaves(&suite);
});

// The agent gets the freeze late, when nobody waits for it any more: it must not stay frozen.
lab_test!(an_agent_that_was_stopped_and_goes_on, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    suite.domain.writer_start(5).expect("writer");
    let script = "(sleep 1; kill -STOP $(pidof qemu-ga); sleep 40; kill -CONT $(pidof qemu-ga)) >/dev/null 2>&1 &";
    suite.domain.sh(script).expect("stopped in a moment");
    std::thread::sleep(Duration::from_secs(2));
    backup_without_agent(&suite, "stopped agent");
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
