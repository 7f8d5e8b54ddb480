//! What stands in a keep's way, and what admins do meanwhile: every keep can be ended, what holds it up is named, and nothing of it is left.

use cairn_lab::runs::{self, Part};
use cairn_lab::suite::{self, Suite};
use cairn_lab::{Domain, Options, cairn, lab_test, process};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const RUN: &str = "lab1-run";
const AGENT_S: &str = "180";
const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(200);
/// Slow enough for a keep to be at work for a minute.
const SLOW: &str = "1MiB";

/// A store with a point, and a run of it whose guest has written something.
fn begin(lab: &cairn_lab::Lab) -> (Suite, Domain) {
    let suite = Suite::new(lab);
    let copy = begin_run(&suite);
    (suite, copy)
}

fn begin_run(suite: &Suite) -> Domain {
    suite.cairn.ok(&["backup", "lab1"]).expect("backup");
    // Two guests share two slow cores.
    suite.domain.virsh_ok(&["suspend", "lab1"]).expect("suspend");
    suite.cairn.ok(&["run", "lab1@latest", "--wait-agent", AGENT_S]).expect("run");
    let copy = Domain::new(RUN);
    copy.sh("echo mine > /mnt/a/mine; sync").expect("writes");
    copy
}

/// `cairn runs` of the one run, and its exit code.
fn shown(suite: &Suite) -> (Value, i32) {
    let output = suite.cairn.run(&["runs", "--json"]).expect("runs");
    let runs: Value = serde_json::from_str(&output.text()).expect("JSON");
    (runs[0].clone(), output.code())
}

/// Waits until `runs` tells of a problem with this word, and ends accordingly.
fn wait_told(suite: &Suite, word: &str) -> String {
    let told = || {
        let (run, code) = shown(suite);
        let problem = run["problem"].as_str().unwrap_or_default().to_owned();
        Ok((code == cairn::WARNINGS && problem.contains(word)).then_some(problem))
    };
    process::wait_for(&format!("{word:?} in runs"), LIMIT, POLL, told).unwrap_or_else(|e| panic!("{}: {:?}", e.report(), shown(suite)))
}

fn wait_progress(suite: &Suite) {
    process::wait_for("progress", LIMIT, POLL, || Ok(shown(suite).0["keep_percent"].as_u64().filter(|p| *p > 0))).expect("progress");
}

fn folder(suite: &Suite, name: &str) -> PathBuf {
    let path = suite.path(name);
    std::fs::create_dir_all(&path).expect("folder");
    path
}

fn names(folder: &Path) -> Vec<String> {
    std::fs::read_dir(folder).expect("a folder").flatten().map(|e| e.file_name().to_string_lossy().into_owned()).filter(|n| n != "lost+found").collect()
}

fn assert_nothing_left() {
    let done = process::wait_for("end of all that the run left", LIMIT, POLL, || Ok(runs::left_over().is_empty().then_some(())));
    assert!(done.is_ok(), "left of the run: {:#?}", runs::left_over());
}

lab_test!(a_domain_that_was_undefined_is_run_cancelled_and_kept_all_the_same, Options { data_mib: 72, ..Options::small() }, |lab| {
    let (suite, copy) = begin(&lab);
    let to = folder(&suite, "kept");
    suite.cairn.ok(&["keep", RUN, "--to", &to.to_string_lossy(), "--rate", SLOW, "--detach"]).expect("keep");
    wait_progress(&suite);
    copy.virsh_ok(&["undefine", RUN]).expect("undefine");
    copy.virsh_ok(&["destroy", RUN]).expect("destroy");
    println!("{}", wait_told(&suite, "was undefined"));
    // The keep has ended, and can be taken back.
    suite.cairn.ok(&["keep", RUN, "--cancel"]).expect("cancel");
    assert_eq!(names(&to), Vec::<String>::new(), "the unfinished copy is gone");
    let output = suite.cairn.run(&["run", "--resume", RUN, "--wait-agent", AGENT_S]).expect("it ends");
    assert_eq!(output.code(), cairn::WARNINGS, "{}", output.err_text());
    assert_eq!(copy.sh("cat /mnt/a/mine").expect("read").trim(), "mine");
    // The other way round: off, undefined, then kept.
    copy.virsh_ok(&["destroy", RUN]).expect("destroy");
    copy.virsh_ok(&["undefine", RUN]).expect("undefine");
    let told = suite.cairn.run(&["runs"]).expect("it ends");
    assert!(told.code() == cairn::WARNINGS && told.err_text().contains("cairn run --resume"), "what to do: {}", told.err_text());
    suite.cairn.ok(&["keep", RUN]).expect("keep");
    runs::assert_ordinary(&copy, None);
    copy.start(Duration::from_secs(180)).expect("it boots");
    assert_eq!(copy.sh("cat /mnt/a/mine").expect("read").trim(), "mine");
    assert!(runs::pids(Part::Server).is_empty() && runs::pids(Part::Supervisor).is_empty());
});

lab_test!(a_running_domain_that_was_undefined_is_kept_as_a_lasting_one, Options::small(), |lab| {
    let (suite, copy) = begin(&lab);
    copy.virsh_ok(&["undefine", RUN]).expect("undefine");
    suite.cairn.ok(&["keep", RUN]).expect("keep");
    runs::assert_ordinary(&copy, None);
    copy.virsh_ok(&["destroy", RUN]).expect("destroy");
    assert_eq!(copy.state().expect("it is still defined"), "shut off");
});

lab_test!(a_keep_at_work_changes_its_speed_and_its_way_and_keeps_backups_off, Options { data_mib: 72, ..Options::small() }, |lab| {
    let (suite, copy) = begin(&lab);
    // A backup that was there first is waited for.
    let xml = suite.path("backup.xml");
    let text = "<domainbackup mode='pull'><server transport='unix' socket='/var/lib/libvirt/qemu/another-backup.sock'/></domainbackup>";
    std::fs::write(&xml, text).expect("written");
    copy.virsh_ok(&["backup-begin", RUN, &xml.to_string_lossy()]).expect("another's backup");
    suite.cairn.ok(&["keep", RUN, "--rate", SLOW, "--detach"]).expect("keep");
    println!("{}", wait_told(&suite, "is being backed up"));
    copy.virsh_ok(&["domjobabort", RUN]).expect("its end");
    wait_progress(&suite);
    let output = suite.cairn.run(&["backup", RUN]).expect("it ends");
    suite::assert_refused(&output, cairn::BUSY, "being kept");
    // Elsewhere after all: what was begun is no obstacle.
    let to = folder(&suite, "kept");
    let path = to.to_string_lossy();
    suite.cairn.ok(&["keep", RUN, "--to", &path, "--detach"]).expect("keep");
    let speed = |target: &str| copy.virsh_ok(&["blockjob", RUN, target, "--info", "--raw", "--bytes"]).unwrap_or_default();
    let of_vda = |bytes: &str| process::wait_for("the limit", LIMIT, POLL, || Ok(speed("vda").contains(&format!("bandwidth={bytes}\n")).then_some(())));
    of_vda("1048576").unwrap_or_else(|e| panic!("without --rate the limit stays: {}: {}", e.report(), speed("vda")));
    let (run, _) = shown(&suite);
    assert!(run["problem"].is_null() && run["keeping"] == true, "{run}");
    let begin = Instant::now();
    suite.cairn.ok(&["keep", RUN, "--to", &path, "--rate", "2MiB", "--detach"]).expect("keep");
    of_vda("2097152").unwrap_or_else(|e| panic!("a running job takes the new limit: {}: {}", e.report(), speed("vda")));
    suite.cairn.ok(&["keep", RUN, "--rate", "0"]).expect("keep");
    println!("kept {:.1} s after the limit was changed", begin.elapsed().as_secs_f64());
    runs::assert_ordinary(&copy, Some(&to));
    assert_nothing_left();
});

/// A file system of its own, of so many MiB.
fn small_disk(suite: &Suite, name: &str, mib: u64) -> PathBuf {
    let (image, mounted) = (suite.path(&format!("{name}.ext4")), folder(suite, name));
    let ok = |command: &mut Command| process::run_ok(command, LIMIT).expect("a file system");
    ok(Command::new("truncate").args(["-s", &format!("{mib}M")]).arg(&image));
    ok(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-m", "0"]).arg(&image).env("PATH", cairn_lab::init::PATH));
    ok(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mounted));
    mounted
}

lab_test!(a_keep_that_has_no_room_says_so_and_gives_back_what_it_took, Options { data_mib: 72, ..Options::small() }, |lab| {
    let suite = Suite::new(&lab);
    // libvirt gives each QEMU mounts of its own, in which a later one would not be.
    let (small, large) = (small_disk(&suite, "small", 16), small_disk(&suite, "large", 320));
    let copy = begin_run(&suite);
    // Known before it begins.
    let output = suite.cairn.run(&["keep", RUN, "--to", &small.to_string_lossy()]).expect("it ends");
    println!("{}", suite::assert_refused(&output, cairn::REFUSED, "no space on"));
    assert_eq!(names(&small), Vec::<String>::new());
    assert_eq!(shown(&suite).0["keeping"], false);
    // Filled by another, later.
    let path = large.to_string_lossy();
    suite.cairn.ok(&["keep", RUN, "--to", &path, "--rate", SLOW, "--detach"]).expect("keep");
    wait_progress(&suite);
    let filler = large.join("filler");
    let filled = Command::new("dd").args(["if=/dev/zero", "bs=64K", &format!("of={}", filler.display())]).output().expect("dd");
    assert!(!filled.status.success(), "it is full");
    let begin = Instant::now();
    println!("{} after {:.1} s", wait_told(&suite, "no room on"), begin.elapsed().as_secs_f64());
    let taken = |path: &Path| std::os::unix::fs::MetadataExt::blocks(&path.metadata().expect("there")) * 512;
    let copies: Vec<_> = names(&large).into_iter().filter(|n| n != "filler").collect();
    assert!(copies.iter().all(|n| taken(&large.join(n)) < 1 << 20), "{copies:?} still take room");
    assert_eq!(copy.sh("cat /mnt/a/mine").expect("it runs on").trim(), "mine");
    std::fs::remove_file(&filler).expect("room");
    suite.cairn.ok(&["keep", RUN, "--to", &path, "--rate", "0"]).expect("keep");
    runs::assert_ordinary(&copy, Some(&large));
    copy.virsh_ok(&["destroy", RUN]).expect("destroy");
});

lab_test!(a_discard_takes_snapshots_and_unfinished_copies_along, Options { data_mib: 72, ..Options::small() }, |lab| {
    let (suite, copy) = begin(&lab);
    let to = folder(&suite, "kept");
    suite.cairn.ok(&["keep", RUN, "--to", &to.to_string_lossy(), "--rate", SLOW, "--detach"]).expect("keep");
    wait_progress(&suite);
    suite.cairn.ok(&["discard", RUN, "--force"]).expect("discard");
    assert_nothing_left();
    assert_eq!(names(&to), Vec::<String>::new(), "the unfinished copy");
    // Snapshots beside the images go, one elsewhere is named.
    suite.cairn.ok(&["run", "lab1@latest", "--wait-agent", AGENT_S]).expect("run");
    copy.virsh_ok(&["snapshot-create-as", RUN, "s1", "--disk-only"]).expect("beside the images");
    let elsewhere = folder(&suite, "snapshots").join("s2.qcow2");
    cairn_lab::folder::set_mode(elsewhere.parent().expect("a folder"), 0o777).expect("mode");
    let disks = format!("vda,snapshot=external,file={}", elsewhere.display());
    copy.virsh_ok(&["snapshot-create-as", RUN, "s2", "--disk-only", "--diskspec", &disks, "--diskspec", "vdb,snapshot=no"]).expect("elsewhere");
    copy.virsh_ok(&["destroy", RUN]).expect("destroy");
    // One that is no run is no reason to leave half of it: nothing was removed.
    suite::assert_refused(&suite.cairn.run(&["discard", RUN, "nobody", "--force"]).expect("it ends"), cairn::NOT_FOUND, "nobody");
    let output = suite.cairn.run(&["discard", RUN, RUN, "--force"]).expect("it ends");
    assert_eq!(output.code(), cairn::WARNINGS, "{}", output.err_text());
    assert!(output.err_text().contains(&elsewhere.display().to_string()), "{}", output.err_text());
    assert!(elsewhere.exists());
    assert_nothing_left();
});

// K3 to K9 of docs/run.md take milliseconds: the record is watched, and the wish is put in the place of the keep's as the command does it, since a command
// takes longer to start.
lab_test!(a_cancel_within_a_change_over_leaves_the_guest_running, Options::small(), |lab| {
    let (suite, copy) = begin(&lab);
    let to = folder(&suite, "kept");
    let path = to.to_string_lossy();
    suite.cairn.ok(&["keep", RUN, "--to", &path, "--detach"]).expect("keep");
    let records = Path::new(runs::RECORDS).join(RUN);
    let begin = Instant::now();
    while !std::fs::read_to_string(records.join("run.json")).expect("a run").contains("\"pivoting\"") {
        assert!(begin.elapsed() < LIMIT * 3, "no disk comes to its change over");
        std::thread::sleep(Duration::from_micros(300));
    }
    std::fs::write(records.join("wish.new"), "\"cancel\"").expect("written");
    std::fs::rename(records.join("wish.new"), records.join("wish.json")).expect("wished");
    process::wait_for("end of the cancel", LIMIT, POLL, || Ok((!records.join("wish.json").exists()).then_some(()))).expect("it is heard");
    let record = std::fs::read_to_string(records.join("run.json")).expect("a run");
    println!("{record}");
    assert!(!record.contains("\"pivoting\"") && record.contains("\"pivoted\""), "what was begun was carried through: {record}");
    assert_eq!(copy.state().expect("state"), "running");
    assert_eq!(copy.sh("cat /mnt/a/mine").expect("it answers").trim(), "mine");
    suite.cairn.ok(&["keep", RUN, "--to", &path]).expect("keep");
    runs::assert_ordinary(&copy, Some(&to));
    assert_nothing_left();
});

lab_test!(a_run_is_not_restored_in_place, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    suite.cairn.ok(&["backup", "lab1"]).expect("backup");
    suite.domain.virsh_ok(&["destroy", "lab1"]).expect("destroy");
    suite.domain.virsh_ok(&["undefine", "lab1"]).expect("undefine");
    suite.cairn.ok(&["run", "lab1@latest", "--keep-identity", "--paused"]).expect("run");
    for args in [&["restore", "lab1@latest", "--in-place", "--stop"][..], &["restore", "lab1@latest", "--in-place", "--dry-run"]] {
        suite::assert_refused(&suite.cairn.run(args).expect("it ends"), cairn::REFUSED, "cairn keep lab1");
    }
    assert_eq!(suite.domain.state().expect("state"), "paused", "it was left alone");
    suite.cairn.ok(&["discard", "lab1", "--force"]).expect("discard");
});

lab_test!(a_server_that_hangs_is_noticed, Options::small(), |lab| {
    let (suite, copy) = begin(&lab);
    assert_eq!(shown(&suite).1, cairn::DONE);
    for (part, word) in [(Part::Server, "server"), (Part::Daemon, "daemon")] {
        // Where libvirt knows <reconnect> there is no storage daemon.
        let Some(pid) = runs::pids(part).first().copied() else { continue };
        kill(Pid::from_raw(pid), Signal::SIGSTOP).expect("stopped");
        let begin = Instant::now();
        let told = wait_told(&suite, word);
        println!("{told}: after {:.1} s", begin.elapsed().as_secs_f64());
        assert!(begin.elapsed() < Duration::from_secs(40), "it took {:?}", begin.elapsed());
        kill(Pid::from_raw(pid), Signal::SIGCONT).expect("goes on");
        process::wait_for("end of the problem", LIMIT, POLL, || Ok((shown(&suite).1 == cairn::DONE).then_some(()))).expect("well again");
    }
    let log = std::fs::read_to_string(Path::new(runs::RECORDS).join(RUN).join("log")).expect("log");
    assert!(!log.contains("negotiation failed"), "whoever looks takes leave: {log}");
    assert_eq!(copy.sh("cat /mnt/a/mine").expect("it runs").trim(), "mine");
    suite.cairn.ok(&["discard", RUN, "--force"]).expect("discard");
    assert_nothing_left();
});

/// Without a backing file, and not open in any QEMU.
fn assert_whole(image: &str) {
    let info = process::run_ok(Command::new("qemu-img").args(["info", image]), LIMIT).expect("nobody has it open");
    assert!(!info.contains("backing file"), "{info}");
}

lab_test!(a_disk_that_was_detached_is_kept_whole_beside_the_others, Options::small(), |lab| {
    let (suite, copy) = begin(&lab);
    copy.sh("echo detached > /mnt/b/mine; umount /mnt/b").expect("unmounted");
    for way in ["--live", "--config"] {
        copy.virsh_ok(&["detach-disk", RUN, "vdb", way]).expect("detached");
    }
    let gone = || Ok((!copy.virsh_ok(&["domblklist", RUN])?.contains("vdb")).then_some(()));
    process::wait_for("end of vdb", LIMIT, POLL, gone).expect("the guest lets go of it");
    let image = format!("/var/lib/libvirt/images/{RUN}-vdb.qcow2");
    let output = suite.cairn.run(&["keep", RUN]).expect("it ends");
    println!("{}", suite::assert_refused(&output, cairn::WARNINGS, &image));
    assert_whole(&image);
    copy.virsh_ok(&["attach-disk", RUN, &image, "vdb", "--subdriver", "qcow2", "--targetbus", "virtio", "--live"]).expect("attached again");
    let read = "for i in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vdb ] && break; sleep 1; done; mount /dev/vdb /mnt/b && cat /mnt/b/mine && ls /mnt/b/data | wc -l";
    let read = copy.sh(read).expect("it reads");
    assert!(read.starts_with("detached\n") && !read.ends_with("\n0\n"), "what it wrote, and what the point had: {read}");
    copy.virsh_ok(&["destroy", RUN]).expect("destroy");
    // Of domains that are off, in place and elsewhere.
    let to = folder(&suite, "kept");
    for (name, to) in [("a-run", None), ("b-run", Some(to.to_string_lossy()))] {
        suite.cairn.ok(&["run", "lab1@latest", "--as", name, "--paused"]).expect("run");
        copy.virsh_ok(&["destroy", name]).expect("destroy");
        copy.virsh_ok(&["detach-disk", name, "vdb", "--config"]).expect("detached");
        let mut args = vec!["keep", name];
        args.extend(to.iter().flat_map(|to| ["--to", to.as_ref()]));
        let image = format!("/var/lib/libvirt/images/{name}-vdb.qcow2");
        suite::assert_refused(&suite.cairn.run(&args).expect("it ends"), cairn::WARNINGS, &image);
        assert_whole(&image);
        let disks = runs::disks_of(&Domain::new(name));
        println!("{disks:?}");
        assert!(disks.iter().any(|(target, image)| target == "vda" && to.as_ref().is_none_or(|to| image.starts_with(to.as_ref()))), "{disks:?}");
    }
    assert_eq!(names(&to), ["b-run-vda.qcow2"], "nothing but the disk that the domain has");
});

lab_test!(a_keep_outlives_a_store_that_is_away, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    suite.cairn.ok(&["backup", "lab1"]).expect("backup");
    suite.domain.virsh_ok(&["suspend", "lab1"]).expect("suspend");
    suite.cairn.ok(&["run", "lab1@latest", "--paused"]).expect("run");
    // A new one has nothing of the store in its memory.
    let old = runs::pids(Part::Server);
    runs::kill_all(Part::Server);
    let again = || Ok((runs::pids(Part::Server).iter().any(|pid| !old.contains(pid)) && shown(&suite).1 == cairn::DONE).then_some(()));
    process::wait_for("another server", LIMIT, POLL, again).expect("it is served");
    let (store, away) = (suite.cairn.store().to_path_buf(), suite.path("away"));
    std::fs::rename(&store, &away).expect("away");
    suite.cairn.ok(&["keep", RUN, "--detach"]).expect("keep");
    println!("{}", wait_told(&suite, "store cannot be reached"));
    // Twenty attempts took less than two seconds once.
    std::thread::sleep(Duration::from_secs(8));
    println!("{}", wait_told(&suite, "store cannot be reached"));
    std::fs::rename(&away, &store).expect("back");
    let begin = Instant::now();
    let kept = || Ok((!Path::new(runs::RECORDS).join(RUN).exists()).then_some(()));
    process::wait_for("the keep", LIMIT, POLL, kept).unwrap_or_else(|e| panic!("{}: {:?}", e.report(), shown(&suite)));
    println!("kept {:.1} s after the store was back", begin.elapsed().as_secs_f64());
    runs::assert_ordinary(&Domain::new(RUN), None);
});

lab_test!(a_keep_of_a_damaged_point_names_the_damage_and_what_helps, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    suite.cairn.ok(&["backup", "lab1"]).expect("backup");
    suite.domain.virsh_ok(&["suspend", "lab1"]).expect("suspend");
    let packs = process::run_ok(Command::new("find").arg(suite.cairn.store().join("d")).args(["-type", "f", "-size", "+1M"]), LIMIT).expect("packs");
    let pack = packs.lines().next().expect("a pack");
    let half = std::fs::metadata(pack).expect("a pack").len() / 2;
    cairn_lab::folder::set_mode(Path::new(pack), 0o600).expect("mode");
    let file = std::fs::OpenOptions::new().write(true).open(pack).expect("opens");
    std::os::unix::fs::FileExt::write_all_at(&file, &[0; 64 << 10], half).expect("damaged");
    suite.cairn.run(&["verify", "--all", "--data"]).expect("it ends");
    suite.cairn.ok(&["run", "lab1@latest", "--allow-damaged", "--paused"]).expect("run");
    let begin = Instant::now();
    let said = suite::assert_refused(&suite.cairn.run(&["keep", RUN]).expect("it ends"), cairn::FAILED, "damaged data");
    println!("{said} after {:.1} s", begin.elapsed().as_secs_f64());
    assert!(said.contains("restore --allow-damaged") && said.contains("cairn gc"), "{said}");
});

/// What libvirt told of the run's processors: seconds of the day, and whether they stood still.
fn stops(events: &str) -> Vec<(f64, bool)> {
    let line = |line: &str| {
        let clock = line.split_whitespace().nth(1)?.split(['+', '-']).next()?;
        let parts: Vec<f64> = clock.split(':').filter_map(|part| part.parse().ok()).collect();
        let stands = if line.contains("Suspended") { true } else { line.contains("Resumed").then_some(false)? };
        (parts.len() == 3).then(|| (parts[0] * 3600.0 + parts[1] * 60.0 + parts[2], stands))
    };
    events.lines().filter_map(line).collect()
}

lab_test!(a_change_over_stops_the_guest_for_moments_only, Options::small(), |lab| {
    let (suite, copy) = begin(&lab);
    copy.writer_start(2).expect("writer");
    let to = folder(&suite, "kept");
    let log = suite.path("events");
    let virsh = ["event", "--domain", RUN, "--event", "lifecycle", "--loop", "--timestamp"];
    let mut events = Command::new("virsh").args(virsh).stdout(std::fs::File::create(&log).expect("a file")).spawn().expect("virsh");
    suite.cairn.ok(&["keep", RUN, "--to", &to.to_string_lossy(), "--rate", "4MiB"]).expect("keep");
    runs::assert_ordinary(&copy, Some(&to));
    let lengths = || {
        let stops = stops(&std::fs::read_to_string(&log).unwrap_or_default());
        let lengths: Vec<f64> = stops.windows(2).filter(|pair| pair[0].1 && !pair[1].1).map(|pair| pair[1].0 - pair[0].0).collect();
        Ok((lengths.len() == 2).then_some(lengths))
    };
    let lengths = process::wait_for("one stop for each disk", LIMIT, POLL, lengths);
    events.kill().expect("our child");
    events.wait().expect("our child");
    let lengths = lengths.unwrap_or_else(|e| panic!("{}: {:?}", e.report(), std::fs::read_to_string(&log)));
    println!("the guest stood still for {lengths:?} s");
    assert!(lengths.iter().all(|s| *s < 10.0), "{lengths:?}");
});
