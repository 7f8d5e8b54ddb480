//! Everything around a run killed at random: the guest goes on, and no write that it was told is done is lost.
//!
//! `CAIRN_RUN_KILLS` and `CAIRN_SEED` as [`cairn_lab::fire`] says. The power failing: `run_power.rs`.

use cairn_lab::chaos::rng::Rng;
use cairn_lab::fire::{BACK_LIMIT, BOOT_LIMIT, RUN, Scene, kills, rng};
use cairn_lab::runs::{self, Part};
use cairn_lab::{Options, cairn, lab_test, process};
use serde_json::Value;
use std::time::{Duration, Instant};

const KEEP_LIMIT: Duration = Duration::from_secs(240);

/// Slow enough for all kills to fall into a keep of some 72 MiB.
fn rate() -> String {
    format!("{}MiB", (64 / kills()).clamp(1, 16))
}

/// libvirt 9.0 that is killed while a copy begins may lose sight of the running QEMU (docs/run.md). Then it is ended, as the message says: the power
/// failed.
fn is_lost(scene: &Scene) -> bool {
    let lost = scene.copy.state().is_ok_and(|state| state == "shut off") && !runs::pids(Part::Qemu).is_empty();
    if lost {
        println!("libvirt has lost sight of the guest; its QEMU is ended");
        runs::kill_all(Part::Qemu);
    }
    lost
}

const VICTIMS: [Part; 5] = [Part::Server, Part::Daemon, Part::Supervisor, Part::Service, Part::Libvirtd];

/// Each in its turn, now and then another one.
fn victim_of(number: u64, rng: &mut Rng) -> Part {
    let turn = usize::try_from(number % VICTIMS.len() as u64).expect("small");
    if rng.percent(25) { *rng.pick(&VICTIMS) } else { VICTIMS[turn] }
}

/// What is cached in the guest would not be read.
fn read_anew(scene: &Scene) {
    let _ = scene.copy.sh("echo 3 > /proc/sys/vm/drop_caches; cat /mnt/a/data/*/* > /dev/null 2>&1 &");
}

/// Both of the pair that bring each other back are gone. The guest's next read pauses it after 30 s; libvirt tells the daemon, which has somebody serve it.
fn back_by_the_daemon(scene: &Scene, acknowledged: u64) -> u64 {
    let served = || [Part::Supervisor, Part::Server].into_iter().any(|part| !runs::pids(part).is_empty());
    let gone = || {
        runs::kill_all(Part::Supervisor);
        runs::kill_all(Part::Server);
        Ok((!served()).then_some(()))
    };
    process::wait_for("end of supervisor and server", BACK_LIMIT, Duration::from_millis(1), gone).expect("both are gone");
    read_anew(scene);
    let begin = Instant::now();
    process::wait_for("another supervisor", BACK_LIMIT, Duration::from_millis(100), || Ok(served().then_some(()))).expect("the daemon looks");
    let now = scene.wait_writes(acknowledged);
    println!("supervisor and server: served again after {:.1} s", begin.elapsed().as_secs_f64());
    now
}

lab_test!(a_run_goes_on_whoever_is_killed, Options::small(), |lab| {
    let mut rng = rng();
    let mut scene = Scene::begin(&lab);
    let (mut acknowledged, mut hits) = (scene.wait_writes(0), 0);
    for number in 1..=kills() {
        let victim = victim_of(number, &mut rng);
        read_anew(&scene);
        std::thread::sleep(Duration::from_millis(rng.below(400)));
        let begin = Instant::now();
        let killed = scene.strike(victim);
        hits += u64::from(killed > 0);
        // Sometimes another one before the first is back.
        let second = rng.percent(30).then(|| *rng.pick(&VICTIMS));
        if let Some(second) = second {
            std::thread::sleep(Duration::from_millis(rng.below(100)));
            scene.strike(second);
        }
        acknowledged = scene.wait_writes(acknowledged);
        println!("kill {number}: {killed} of {victim:?}, then {second:?}; writes again after {:.1} s", begin.elapsed().as_secs_f64());
    }
    // Where libvirt knows <reconnect> there is no storage daemon to kill.
    assert!(hits * 4 >= kills(), "{hits} of {} kills met anybody", kills());
    acknowledged = back_by_the_daemon(&scene, acknowledged);
    // All at once: whoever looks serves it again.
    for part in [Part::Supervisor, Part::Server, Part::Daemon, Part::Supervisor, Part::Server] {
        runs::kill_all(part);
    }
    scene.suite.cairn.run(&["runs"]).expect("runs");
    scene.wait_writes(acknowledged);
    let run = scene.suite.cairn.run(&["runs", "--json"]).expect("runs").text();
    println!("{run}");
    let run: Value = serde_json::from_str(&run).expect("JSON");
    // Where libvirt knows <reconnect>, QEMU waits for the server itself and no storage daemon stands between them.
    let daemons = usize::from(run[0]["via"] == "daemon");
    assert!(daemons == 1 || run[0]["via"] == "direct", "{run}");
    for (part, number) in [(Part::Supervisor, 1), (Part::Server, 1), (Part::Daemon, daemons)] {
        assert_eq!(runs::pids(part).len(), number, "{part:?}");
    }
    scene.suite.cairn.ok(&["keep", RUN]).expect("keep");
    scene.assert_whole();
    assert_eq!(runs::pids(Part::Server).len() + runs::pids(Part::Daemon).len(), 0);
});

/// Kills during a keep until it is done.
fn keep_under_fire(scene: &mut Scene, args: &[&str], rng: &mut Rng) {
    let begin = Instant::now();
    let (mut acknowledged, mut lost) = (scene.wait_writes(0), false);
    let (mut number, mut hits, mut child) = (0, 0, scene.start(args));
    // Kills before it began would meet nothing.
    scene.wait_begun(0);
    let limit = KEEP_LIMIT + BACK_LIMIT * u32::try_from(kills() / 16).expect("small");
    while scene.is_run() {
        assert!(begin.elapsed() < limit, "the keep does not end: {:?}", scene.suite.cairn.run(&["runs"]).map(|o| o.text() + &o.err_text()));
        if child.try_wait().expect("our child").is_some() {
            // The command line was killed, or gave up watching: asked again, it goes on.
            child = scene.start(args);
        }
        if number >= kills() {
            std::thread::sleep(Duration::from_millis(200));
            continue;
        }
        std::thread::sleep(Duration::from_millis(rng.within(50, 700)));
        number += 1;
        let is_at_work = scene.is_being_kept();
        let killed = if rng.percent(20) {
            let killed = usize::from(child.try_wait().expect("our child").is_none());
            // Ended already is as good.
            let _ = child.kill();
            let _ = child.wait();
            println!("kill {number}: the command line");
            killed
        } else {
            let victim = victim_of(number, rng);
            let killed = scene.strike(victim);
            println!("kill {number}: {killed} of {victim:?}");
            lost |= victim == Part::Libvirtd && is_lost(scene);
            killed
        };
        hits += u64::from(killed > 0 && is_at_work);
        if !lost && let Ok(now) = runs::acknowledged(&scene.copy) {
            acknowledged = now.max(acknowledged);
        }
    }
    // It may have been killed after the run was gone.
    let _ = child.kill();
    let _ = child.wait();
    println!("kept after {number} kills in {:.1} s, {hits} of them met somebody while it was at work", begin.elapsed().as_secs_f64());
    // A guest whose power failed is kept by qemu-img in no time, and the kills that were left are not made.
    assert!(hits >= (kills() / 4).clamp(1, 12), "{hits} kills are no fire");
    // A libvirtd that comes back and cannot take the domain up again ends its QEMU; for the guest the power failed.
    if lost || scene.copy.state().expect("state") == "shut off" {
        println!("libvirt ended the guest, or lost sight of it: all that was acknowledged must be there");
        scene.assert_journals(acknowledged);
        scene.copy.start(BOOT_LIMIT).expect("an ordinary domain starts");
        scene.copy.writer_start(2).expect("writer");
    }
    let of = |args: &[&str]| scene.copy.virsh_ok(args).expect("dumpxml");
    let xml = of(&["dumpxml", RUN]) + &of(&["dumpxml", "--inactive", RUN]);
    assert!(!xml.contains("nbd"), "{xml}");
}

lab_test!(a_keep_ends_well_whoever_is_killed, Options { data_mib: 72, ..Options::small() }, |lab| {
    let mut rng = rng();
    let mut scene = Scene::begin(&lab);
    keep_under_fire(&mut scene, &["keep", RUN, "--rate", &rate()], &mut rng);
    scene.assert_whole();
});

lab_test!(a_keep_elsewhere_ends_well_whoever_is_killed, Options { data_mib: 72, ..Options::small() }, |lab| {
    let mut rng = rng();
    let mut scene = Scene::begin(&lab);
    let to = scene.suite.path("kept");
    std::fs::create_dir_all(&to).expect("folder");
    keep_under_fire(&mut scene, &["keep", RUN, "--to", &to.to_string_lossy(), "--rate", &rate()], &mut rng);
    scene.assert_whole();
});

lab_test!(an_interrupted_run_or_discard_is_finished_by_discard, Options::small(), |lab| {
    let mut rng = rng();
    let scene = Scene::prepare(&lab);
    let (mut number, mut hits) = (0, 0);
    while number < kills() || (hits == 0 && number < kills() * 2) {
        number += 1;
        let mut child = scene.start(&["run", "lab1@latest", "--paused"]);
        // It takes half a second on an idle machine.
        let moment = Duration::from_millis(rng.below(1500) / (1 + number % 3));
        std::thread::sleep(moment);
        let _ = child.kill();
        let _ = child.wait();
        let was = runs::left_over().len();
        hits += u64::from(scene.record().contains("\"making\""));
        let mut child = scene.start(&["discard", RUN, "--force"]);
        std::thread::sleep(Duration::from_millis(rng.below(300)));
        let _ = child.kill();
        let _ = child.wait();
        discard(&scene);
        println!("kill {number} after {:.2} s, {was} things were there", moment.as_secs_f64());
    }
    println!("{hits} of {number} met a run that was being made");
    assert!(hits > 0, "none met a run that was being made");
});

/// Whatever is left of the run goes.
fn discard(scene: &Scene) {
    let output = scene.suite.cairn.run(&["discard", RUN, "--force"]).expect("it ends");
    assert!([cairn::DONE, cairn::NOT_FOUND].contains(&output.code()), "{}", output.err_text());
    scene.assert_nothing_left();
}

/// Who dies while a run is made or taken away; `None` is the command itself.
const MAKERS: [Option<Part>; 6] = [None, Some(Part::Server), Some(Part::Supervisor), Some(Part::Daemon), Some(Part::Libvirtd), Some(Part::Service)];

/// Runs a command and kills somebody in the middle of it; the command ends all the same, and gives its code if it lived. And whether anybody was met.
fn strike_within(scene: &mut Scene, args: &[&str], victim: Option<Part>, moment: Duration) -> (Option<i32>, bool) {
    let mut child = scene.start(args);
    std::thread::sleep(moment);
    let is_at_work = child.try_wait().expect("our child").is_none();
    let met = match victim {
        // Ended already is as good.
        None => child.kill().is_ok(),
        Some(part) => scene.strike(part) > 0,
    };
    let status = process::wait_limit(&mut child, "the command", KEEP_LIMIT).expect("it ends, whoever died");
    (status.code(), met && is_at_work)
}

lab_test!(whoever_dies_while_a_run_is_made_or_discarded_nothing_is_left, Options::small(), |lab| {
    let mut rng = rng();
    let mut scene = Scene::prepare(&lab);
    let begin = Instant::now();
    scene.suite.cairn.ok(&["run", "lab1@latest", "--paused"]).expect("run");
    let span = u64::try_from(begin.elapsed().as_millis()).expect("small");
    let begin = Instant::now();
    discard(&scene);
    let end_span = u64::try_from(begin.elapsed().as_millis()).expect("small").clamp(50, 600);
    let (rounds, mut makings, mut discards) = (kills().max(10), 0, 0);
    for number in 1..=rounds {
        let victim = MAKERS[usize::try_from(number).expect("small") % MAKERS.len()];
        let moment = Duration::from_millis(rng.below(span * 5 / 4));
        let (made, met) = strike_within(&mut scene, &["run", "lab1@latest", "--paused"], victim, moment);
        makings += u64::from(met);
        if made == Some(cairn::DONE) {
            assert_eq!(scene.copy.state().expect("what is said to be made is there"), "paused");
            let served = || Ok((scene.suite.cairn.run(&["runs"])?.code() == cairn::DONE).then_some(()));
            process::wait_for("a run that is served", BACK_LIMIT, Duration::from_millis(200), served).expect("whoever died is back");
        } else if made.is_some() && victim != Some(Part::Libvirtd) {
            // Whoever lives to see a failure has taken all of it away.
            assert_eq!(runs::left_over(), Vec::<String>::new(), "after {victim:?} died");
        }
        let second = *rng.pick(&MAKERS);
        let (discarded, met) = strike_within(&mut scene, &["discard", RUN, "--force"], second, Duration::from_millis(rng.below(end_span / 2)));
        discards += u64::from(met);
        println!("{number}: {victim:?} died after {:.2} s, run ended in {made:?}; then {second:?}, discard ended in {discarded:?}", moment.as_secs_f64());
        discard(&scene);
    }
    println!("of {rounds}, {makings} met somebody while a run was made, {discards} while one was discarded");
    // The command, libvirtd and the daemon are there from the first moment on.
    assert!(makings * 10 >= rounds && discards * 10 >= rounds, "too few met anybody");
});
