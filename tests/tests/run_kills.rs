//! Everything around a run killed at random, or all at once: the guest goes on, and no write that it was told is done is lost.
//!
//! The order of victims and moments comes from a seed that is printed; `CAIRN_SEED` repeats a run. `CAIRN_RUN_KILLS` is how many kills each test
//! makes; the default is for every day.

use cairn_lab::chaos::rng::Rng;
use cairn_lab::runs::{self, Part};
use cairn_lab::suite::Suite;
use cairn_lab::{Domain, Options, cairn, lab_test, process, reference};
use serde_json::Value;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const RUN: &str = "lab1-run";
const AGENT_S: &str = "180";
const KILLS: u64 = 4;
/// From a kill to a guest that answers and writes again.
const BACK_LIMIT: Duration = Duration::from_secs(90);
const KEEP_LIMIT: Duration = Duration::from_secs(240);

fn kills() -> u64 {
    std::env::var("CAIRN_RUN_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS)
}

/// Slow enough for all kills to fall into a keep of some 72 MiB.
fn rate() -> String {
    format!("{}MiB", (64 / kills()).clamp(1, 16))
}

fn rng() -> Rng {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let seed = std::env::var("CAIRN_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(time.as_secs());
    println!("seed: CAIRN_SEED={seed}");
    Rng::new(seed)
}

/// A store with a point, a run of it whose guest writes, and the sum of what it had.
fn begin(lab: &cairn_lab::Lab) -> (Suite, Domain, String) {
    let suite = Suite::new(lab);
    let sum = runs::content_sum(&suite.domain).expect("sum");
    suite.cairn.ok(&["backup", "lab1"]).expect("backup");
    // Two guests share two slow cores.
    suite.domain.virsh_ok(&["suspend", "lab1"]).expect("suspend");
    suite.cairn.ok(&["run", "lab1@latest", "--wait-agent", AGENT_S]).expect("run");
    let copy = Domain::new(RUN);
    copy.writer_start(2).expect("writer");
    (suite, copy, sum)
}

fn start(suite: &Suite, args: &[&str]) -> Child {
    suite.cairn.command(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
}

/// Kills a victim; libvirtd is started again at once, as its service would be.
fn strike(suite: &Suite, victim: Part) -> usize {
    let killed = runs::kill_all(victim);
    if victim == Part::Libvirtd {
        runs::libvirtd_again(suite.lab.folder()).expect("libvirtd");
    }
    killed
}

/// libvirt 9.0 that is killed while a copy begins may lose sight of the running QEMU (docs/run.md). Then it is ended, as the message says: the power
/// failed.
fn is_lost(domain: &Domain) -> bool {
    let lost = domain.state().is_ok_and(|state| state == "shut off") && !runs::pids(Part::Qemu).is_empty();
    if lost {
        println!("libvirt has lost sight of the guest; its QEMU is ended");
        runs::kill_all(Part::Qemu);
    }
    lost
}

/// Waits until the guest answers and the writer goes on; gives what is acknowledged then.
fn wait_writes(domain: &Domain, since: u64) -> u64 {
    process::wait_for("the guest's writes", BACK_LIMIT, Duration::from_millis(300), || Ok(runs::acknowledged(domain).ok().filter(|now| *now > since)))
        .unwrap_or_else(|error| panic!("{}; the guest is {:?}", error.report(), domain.virsh_ok(&["domstate", "--reason", RUN])))
}

/// Both journals of a domain that is off, from its images; whole and at least so long.
fn assert_journals(suite: &Suite, domain: &Domain, least: u64) {
    let text = domain.virsh_ok(&["domblklist", "--inactive", RUN]).expect("domblklist");
    let folder = suite.path("journals");
    std::fs::create_dir_all(&folder).expect("folder");
    let mut raw = Vec::new();
    for (target, image) in text.lines().filter_map(|line| line.trim().split_once(char::is_whitespace)) {
        let image = Path::new(image.trim());
        let format = if image.extension().is_some_and(|e| e == "raw") { "raw" } else { "qcow2" };
        let to = folder.join(target);
        reference::raw_copy(image, format, &to).expect("convert");
        assert!(cairn_lab::filesystem::moment(&to, &suite.path("scratch")).expect("ext4").whole, "fsck finds errors in {target}");
        raw.push(to);
    }
    let (a, b) = cairn_lab::filesystem::check_journals(&raw[0], &raw[1], &suite.path("scratch")).expect("one point in time");
    println!("journals: {a} and {b} records, {least} were acknowledged");
    assert!(b >= least, "{b} records are there, {least} were acknowledged");
}

/// Ends the guest in good order and checks all that must be there.
fn assert_whole(suite: &Suite, domain: &Domain, sum: &str) {
    let acknowledged = wait_writes(domain, 0);
    domain.writer_stop().expect("stop");
    assert_eq!(runs::content_sum(domain).expect("sum"), sum, "what the backup had");
    domain.sh("sync").expect("sync");
    domain.virsh_ok(&["destroy", RUN]).expect("destroy");
    assert_journals(suite, domain, acknowledged);
}

const VICTIMS: [Part; 4] = [Part::Server, Part::Daemon, Part::Supervisor, Part::Libvirtd];

/// Each in its turn, now and then another one.
fn victim_of(number: u64, rng: &mut Rng) -> Part {
    let turn = usize::try_from(number % VICTIMS.len() as u64).expect("small");
    if rng.percent(25) { *rng.pick(&VICTIMS) } else { VICTIMS[turn] }
}

lab_test!(a_run_goes_on_whoever_is_killed, Options::small(), |lab| {
    let mut rng = rng();
    let (suite, copy, sum) = begin(&lab);
    let mut acknowledged = wait_writes(&copy, 0);
    for number in 1..=kills() {
        let victim = victim_of(number, &mut rng);
        // What is cached in the guest would not be read.
        let _ = copy.sh("echo 3 > /proc/sys/vm/drop_caches; cat /mnt/a/data/*/* > /dev/null 2>&1 &");
        std::thread::sleep(Duration::from_millis(rng.below(400)));
        let begin = Instant::now();
        let killed = strike(&suite, victim);
        // Sometimes another one before the first is back.
        let second = rng.percent(30).then(|| *rng.pick(&VICTIMS));
        if let Some(second) = second {
            std::thread::sleep(Duration::from_millis(rng.below(100)));
            strike(&suite, second);
        }
        acknowledged = wait_writes(&copy, acknowledged);
        println!("kill {number}: {killed} of {victim:?}, then {second:?}; writes again after {:.1} s", begin.elapsed().as_secs_f64());
    }
    // All at once: whoever looks serves it again.
    for part in [Part::Supervisor, Part::Server, Part::Daemon, Part::Supervisor, Part::Server] {
        runs::kill_all(part);
    }
    suite.cairn.run(&["runs"]).expect("runs");
    wait_writes(&copy, acknowledged);
    let run = suite.cairn.run(&["runs", "--json"]).expect("runs").text();
    println!("{run}");
    let run: Value = serde_json::from_str(&run).expect("JSON");
    // Where libvirt knows <reconnect>, QEMU waits for the server itself and no storage daemon stands between them.
    let daemons = usize::from(run[0]["via"] == "daemon");
    assert!(daemons == 1 || run[0]["via"] == "direct", "{run}");
    for (part, number) in [(Part::Supervisor, 1), (Part::Server, 1), (Part::Daemon, daemons)] {
        assert_eq!(runs::pids(part).len(), number, "{part:?}");
    }
    suite.cairn.ok(&["keep", RUN]).expect("keep");
    assert_whole(&suite, &copy, &sum);
    assert_eq!(runs::pids(Part::Server).len() + runs::pids(Part::Daemon).len(), 0);
});

/// Kills during a keep until it is done; gives how many hit.
fn keep_under_fire(suite: &Suite, copy: &Domain, args: &[&str], rng: &mut Rng) {
    let begin = Instant::now();
    let (mut number, mut child) = (0, start(suite, args));
    let (mut acknowledged, mut lost) = (wait_writes(copy, 0), false);
    loop {
        assert!(
            begin.elapsed() < KEEP_LIMIT + BACK_LIMIT * u32::try_from(kills() / 16).expect("small"),
            "the keep does not end: {:?}",
            suite.cairn.run(&["runs"]).map(|o| o.text() + &o.err_text())
        );
        let ended = child.try_wait().expect("our child");
        if Path::new(runs::RECORDS).join(RUN).exists() {
            if ended.is_some() {
                // The command line was killed, or gave up watching: asked again, it goes on.
                child = start(suite, args);
            }
        } else {
            break;
        }
        if number >= kills() {
            std::thread::sleep(Duration::from_millis(200));
            continue;
        }
        std::thread::sleep(Duration::from_millis(rng.within(50, 700)));
        number += 1;
        if rng.percent(20) {
            // Ended already is as good.
            let _ = child.kill();
            let _ = child.wait();
            println!("kill {number}: the command line");
        } else {
            let victim = victim_of(number, rng);
            println!("kill {number}: {} of {victim:?}", strike(suite, victim));
            lost |= victim == Part::Libvirtd && is_lost(copy);
        }
        if !lost && let Ok(now) = runs::acknowledged(copy) {
            acknowledged = now.max(acknowledged);
        }
    }
    // It may have been killed after the run was gone.
    let _ = child.kill();
    let _ = child.wait();
    println!("kept after {number} kills in {:.1} s", begin.elapsed().as_secs_f64());
    // A libvirtd that comes back and cannot take the domain up again ends its QEMU; for the guest the power failed.
    if lost || copy.state().expect("state") == "shut off" {
        println!("libvirt ended the guest, or lost sight of it: all that was acknowledged must be there");
        assert_journals(suite, copy, acknowledged);
        copy.start(Duration::from_secs(180)).expect("an ordinary domain starts");
        copy.writer_start(2).expect("writer");
    }
    let xml = copy.virsh_ok(&["dumpxml", RUN]).expect("dumpxml") + &copy.virsh_ok(&["dumpxml", "--inactive", RUN]).expect("dumpxml");
    assert!(!xml.contains("nbd"), "{xml}");
}

lab_test!(a_keep_ends_well_whoever_is_killed, Options { data_mib: 72, ..Options::small() }, |lab| {
    let mut rng = rng();
    let (suite, copy, sum) = begin(&lab);
    keep_under_fire(&suite, &copy, &["keep", RUN, "--rate", &rate()], &mut rng);
    assert_whole(&suite, &copy, &sum);
});

lab_test!(a_keep_elsewhere_ends_well_whoever_is_killed, Options { data_mib: 72, ..Options::small() }, |lab| {
    let mut rng = rng();
    let (suite, copy, sum) = begin(&lab);
    let to = suite.path("kept");
    std::fs::create_dir_all(&to).expect("folder");
    keep_under_fire(&suite, &copy, &["keep", RUN, "--to", &to.to_string_lossy(), "--rate", &rate()], &mut rng);
    assert_whole(&suite, &copy, &sum);
});

/// After a power failure: libvirt is back, and nothing of /run.
fn power_on(suite: &Suite) {
    let _ = std::fs::remove_dir_all("/run/cairn");
    runs::libvirtd_again(suite.lab.folder()).expect("libvirtd");
}

/// Fails the power while a keep is at work, again and again at random moments; then lets it end.
fn power_failures(suite: &Suite, copy: &Domain, args: &[&str], rng: &mut Rng) {
    let rounds = kills().div_ceil(4).max(2);
    for number in 1..=rounds {
        let acknowledged = wait_writes(copy, 0);
        let mut child = start(suite, args);
        std::thread::sleep(Duration::from_millis(rng.below(5000)));
        let acknowledged = runs::acknowledged(copy).unwrap_or(acknowledged).max(acknowledged);
        runs::power_off();
        let _ = child.kill();
        let _ = child.wait();
        power_on(suite);
        println!("power failure {number}: the run {}", if Path::new(runs::RECORDS).join(RUN).exists() { "goes on" } else { "was kept" });
        if !Path::new(runs::RECORDS).join(RUN).exists() {
            assert_journals(suite, copy, acknowledged);
            copy.start(Duration::from_secs(180)).expect("an ordinary domain starts");
            copy.writer_start(2).expect("writer");
            return;
        }
        suite.cairn.ok(&["run", "--resume", RUN]).expect("resume");
        // A keep that goes on pauses it for moments.
        process::wait_for("boot after the power failure", Duration::from_secs(180), Duration::from_millis(300), || {
            Ok(copy.agent_within("guest-ping", &Value::Null, 2).is_ok().then_some(()))
        })
        .unwrap_or_else(|error| panic!("{}; the guest is {:?}", error.report(), copy.virsh_ok(&["domstate", "--reason", RUN])));
        let bytes: u64 = copy.sh("wc -c < /mnt/b/journal").expect("journal").trim().parse().expect("a number");
        assert!(bytes / 512 >= acknowledged, "{} records are there, {acknowledged} were acknowledged", bytes / 512);
        copy.writer_start(2).expect("writer");
    }
    wait_writes(copy, 0);
    // The wish outlived the failures: it may be done before it is asked for again.
    let output = suite.cairn.run(args).expect("it ends");
    assert!([cairn::DONE, cairn::NOT_FOUND].contains(&output.code()), "{}", output.err_text());
}

lab_test!(the_power_fails_during_a_keep, Options { data_mib: 72, ..Options::small() }, |lab| {
    let mut rng = rng();
    let (suite, copy, sum) = begin(&lab);
    power_failures(&suite, &copy, &["keep", RUN, "--rate", "16MiB"], &mut rng);
    assert_whole(&suite, &copy, &sum);
});

lab_test!(the_power_fails_during_a_keep_elsewhere, Options { data_mib: 72, ..Options::small() }, |lab| {
    let mut rng = rng();
    let (suite, copy, sum) = begin(&lab);
    let to = suite.path("kept");
    std::fs::create_dir_all(&to).expect("folder");
    power_failures(&suite, &copy, &["keep", RUN, "--to", &to.to_string_lossy()], &mut rng);
    assert_whole(&suite, &copy, &sum);
});

/// Waits until the record of the run says `phase`; `false` if the run was kept before anybody saw that.
fn wait_phase(phase: &str) -> bool {
    let record = Path::new(runs::RECORDS).join(RUN).join("run.json");
    let begin = Instant::now();
    // Some phases last for milliseconds.
    while begin.elapsed() < KEEP_LIMIT {
        match std::fs::read_to_string(&record) {
            Ok(text) if text.contains(phase) => return true,
            Err(_) if !record.exists() => return false,
            _ => std::thread::sleep(Duration::from_micros(300)),
        }
    }
    panic!("the record never says {phase:?}");
}

/// The power fails just after a keep elsewhere came to a phase; then it goes on to its end, and everything is there.
fn power_fails_at(suite: &Suite, phase: &str, sum: &str, rng: &mut Rng) {
    suite.cairn.ok(&["run", "lab1@latest", "--wait-agent", AGENT_S]).expect("run");
    let copy = Domain::new(RUN);
    copy.writer_start(2).expect("writer");
    let to = suite.path("kept");
    std::fs::create_dir_all(&to).expect("folder");
    let args = ["keep", RUN, "--to", &to.to_string_lossy()];
    let acknowledged = wait_writes(&copy, 0);
    let mut child = start(suite, &args);
    let met = wait_phase(phase);
    std::thread::sleep(Duration::from_micros(rng.below(60_000)));
    runs::power_off();
    let _ = child.kill();
    let _ = child.wait();
    let record = std::fs::read_to_string(Path::new(runs::RECORDS).join(RUN).join("run.json")).unwrap_or_default();
    let said: Vec<&str> = ["copying", "pivoting", "pivoted"].into_iter().filter(|p| record.contains(p)).collect();
    println!("power failure at {phase} (met: {met}); the record says {said:?}");
    power_on(suite);
    if record.is_empty() {
        copy.start(Duration::from_secs(180)).expect("an ordinary domain starts");
    } else {
        suite.cairn.ok(&["run", "--resume", RUN]).expect("resume");
    }
    process::wait_for("boot after the power failure", Duration::from_secs(180), Duration::from_millis(300), || {
        Ok(copy.agent_within("guest-ping", &Value::Null, 2).is_ok().then_some(()))
    })
    .unwrap_or_else(|error| panic!("{}; the guest is {:?}", error.report(), copy.virsh_ok(&["domstate", "--reason", RUN])));
    let bytes: u64 = copy.sh("wc -c < /mnt/b/journal").expect("journal").trim().parse().expect("a number");
    assert!(bytes / 512 >= acknowledged, "{} records are there, {acknowledged} were acknowledged", bytes / 512);
    copy.writer_start(2).expect("writer");
    wait_writes(&copy, bytes / 512);
    let output = suite.cairn.run(&args).expect("it ends");
    assert!([cairn::DONE, cairn::NOT_FOUND].contains(&output.code()), "{}", output.err_text());
    assert_whole(suite, &copy, sum);
    copy.virsh_ok(&["undefine", RUN, "--nvram"]).expect("undefine");
    std::fs::remove_dir_all(&to).expect("our own folder");
}

// K1 to K9 of docs/run.md: the moments in which a disk's place changes are short, so the record is watched, and the power fails at a random moment of
// the next 60 ms, most often within them. Two of the phases by the seed; all of them with 50 kills.
lab_test!(the_power_fails_in_a_phase_of_a_keep_elsewhere, Options { data_mib: 72, ..Options::small() }, |lab| {
    let mut rng = rng();
    let suite = Suite::new(&lab);
    let sum = runs::content_sum(&suite.domain).expect("sum");
    suite.cairn.ok(&["backup", "lab1"]).expect("backup");
    suite.domain.virsh_ok(&["suspend", "lab1"]).expect("suspend");
    let phases = ["\"copying\"", "\"pivoting\"", "\"pivoted\""];
    let rounds = if kills() >= 50 { kills() / 4 } else { 2 };
    let first = rng.below(phases.len() as u64);
    for number in 0..rounds {
        let phase = phases[usize::try_from((first + number) % phases.len() as u64).expect("small")];
        power_fails_at(&suite, phase, &sum, &mut rng);
    }
});

lab_test!(a_domain_that_is_off_is_kept_after_power_failures, Options { data_mib: 72, ..Options::small() }, |lab| {
    let mut rng = rng();
    let (suite, copy, sum) = begin(&lab);
    let acknowledged = wait_writes(&copy, 0);
    runs::power_off();
    power_on(&suite);
    for _ in 0..3 {
        let mut child = start(&suite, &["keep", RUN]);
        std::thread::sleep(Duration::from_millis(rng.below(1200)));
        runs::power_off();
        let _ = child.kill();
        let _ = child.wait();
        power_on(&suite);
    }
    if Path::new(runs::RECORDS).join(RUN).exists() {
        suite.cairn.ok(&["keep", RUN]).expect("keep");
    }
    assert_journals(&suite, &copy, acknowledged);
    copy.start(Duration::from_secs(180)).expect("it boots");
    assert_eq!(runs::content_sum(&copy).expect("sum"), sum);
    // A name that is gone is no run: nothing is kept twice.
    assert_eq!(suite.cairn.run(&["keep", RUN]).expect("it ends").code(), cairn::NOT_FOUND);
});

lab_test!(an_interrupted_run_or_discard_is_finished_by_discard, Options::small(), |lab| {
    let mut rng = rng();
    let suite = Suite::new(&lab);
    suite.cairn.ok(&["backup", "lab1"]).expect("backup");
    suite.domain.virsh_ok(&["suspend", "lab1"]).expect("suspend");
    for number in 1..=kills() {
        let mut child = start(&suite, &["run", "lab1@latest", "--paused"]);
        let moment = Duration::from_millis(rng.below(1500));
        std::thread::sleep(moment);
        let _ = child.kill();
        let _ = child.wait();
        let was = runs::left_over().len();
        let mut child = start(&suite, &["discard", RUN, "--force"]);
        std::thread::sleep(Duration::from_millis(rng.below(300)));
        let _ = child.kill();
        let _ = child.wait();
        let output = suite.cairn.run(&["discard", RUN, "--force"]).expect("it ends");
        assert!([cairn::DONE, cairn::NOT_FOUND].contains(&output.code()), "{}", output.err_text());
        let done = process::wait_for("end of the run", BACK_LIMIT, Duration::from_millis(50), || Ok(runs::left_over().is_empty().then_some(())));
        assert!(done.is_ok(), "left: {:#?}", runs::left_over());
        assert!(Domain::new(RUN).state().is_err(), "the domain is left");
        println!("kill {number} after {:.2} s, {was} things were there", moment.as_secs_f64());
    }
});

/// Who dies while a run is made or taken away; `None` is the command itself.
const MAKERS: [Option<Part>; 5] = [None, Some(Part::Server), Some(Part::Supervisor), Some(Part::Daemon), Some(Part::Libvirtd)];

/// Runs a command and kills somebody in the middle of it; the command ends all the same, and gives its code if it lived.
fn strike_within(suite: &Suite, args: &[&str], victim: Option<Part>, moment: Duration) -> Option<i32> {
    let mut child = start(suite, args);
    std::thread::sleep(moment);
    match victim {
        // Ended already is as good.
        None => drop(child.kill()),
        Some(part) => drop(strike(suite, part)),
    }
    let status = process::wait_limit(&mut child, "the command", KEEP_LIMIT).expect("it ends, whoever died");
    status.code()
}

lab_test!(whoever_dies_while_a_run_is_made_or_discarded_nothing_is_left, Options::small(), |lab| {
    let mut rng = rng();
    let suite = Suite::new(&lab);
    suite.cairn.ok(&["backup", "lab1"]).expect("backup");
    suite.domain.virsh_ok(&["suspend", "lab1"]).expect("suspend");
    let copy = Domain::new(RUN);
    for number in 1..=kills().max(MAKERS.len() as u64 * 2) {
        let victim = MAKERS[usize::try_from(number).expect("small") % MAKERS.len()];
        let moment = Duration::from_millis(rng.below(2500));
        let made = strike_within(&suite, &["run", "lab1@latest", "--paused"], victim, moment);
        if made == Some(cairn::DONE) {
            assert_eq!(copy.state().expect("what is said to be made is there"), "paused");
            let served = || Ok((suite.cairn.run(&["runs"])?.code() == cairn::DONE).then_some(()));
            process::wait_for("a run that is served", BACK_LIMIT, Duration::from_millis(200), served).expect("whoever died is back");
        } else if made.is_some() && victim != Some(Part::Libvirtd) {
            // Whoever lives to see a failure has taken all of it away.
            assert_eq!(runs::left_over(), Vec::<String>::new(), "after {victim:?} died");
        }
        let second = *rng.pick(&MAKERS);
        let discarded = strike_within(&suite, &["discard", RUN, "--force"], second, Duration::from_millis(rng.below(300)));
        println!("{number}: {victim:?} died after {:.2} s, run ended in {made:?}; then {second:?}, discard ended in {discarded:?}", moment.as_secs_f64());
        let output = suite.cairn.run(&["discard", RUN, "--force"]).expect("it ends");
        assert!([cairn::DONE, cairn::NOT_FOUND].contains(&output.code()), "{}", output.err_text());
        let done = process::wait_for("end of the run", BACK_LIMIT, Duration::from_millis(50), || Ok(runs::left_over().is_empty().then_some(())));
        assert!(done.is_ok(), "left: {:#?}", runs::left_over());
        assert!(copy.state().is_err(), "the domain is left");
        let gone = process::wait_for("end of its QEMU", BACK_LIMIT, Duration::from_millis(50), || Ok(runs::pids(Part::Qemu).is_empty().then_some(())));
        assert!(gone.is_ok(), "its QEMU is left: {:?}", runs::pids(Part::Qemu));
    }
});
