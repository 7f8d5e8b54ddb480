//! A store on a true NFS mount, with two clients: at once, and with the server or a client killed.

use cairn_lab::domain::Exec;
use cairn_lab::nfs::rig::{GC_NOW, Image, wait_until};
use cairn_lab::nfs::{Rig, Running, Setup};
use cairn_lab::{Options, cairn, lab_test};
use serde_json::Value;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const HELPER: &str = env!("CARGO_BIN_EXE_cairn-lab");
/// Longer than the five seconds of silence that make a client dead ([`GC_NOW`]).
const SILENCE: Duration = Duration::from_secs(6);
const SOON: Duration = Duration::from_secs(60);
/// How long the server is away.
const AWAY: Duration = Duration::from_secs(1);

fn options() -> Options {
    Options { guest: false, ..Options::small() }
}

fn image(common: u64, own: u64) -> Image {
    Image { common, own, mib: 4 }
}

/// Files of a folder of the store, as the host sees them beside NFS.
fn files(rig: &Rig, folder: &str, prefix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(rig.server.export().join("store").join(folder)).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))).collect()
}

fn assert_done(done: &Exec) {
    assert_eq!(done.code, 0, "{}\n{}", done.stdout, done.stderr);
}

/// Done, or failed with a word about why.
fn done_or_clean(what: &str, done: &Exec) -> bool {
    println!("{what}: exit code {} {}", done.code, done.stderr.trim());
    assert!(done.code == 0 || (done.stderr.contains("cairn: ") && !done.stderr.contains("panicked")), "{done:?}");
    done.code == 0
}

lab_test!(two_clients_back_up_and_collect_at_once, options(), |lab| {
    let rig = Rig::start(&lab, HELPER, Setup::default());
    rig.cairn(0, "init /mnt/nfs/store");
    // Both write; half of each image is the other's as well.
    let running = [2, 3].map(|own| [image(1, own), image(2, own)].map(|image| format!("({})", Rig::backup_script(&image))).join(" && "));
    let running: Vec<Running> = running.iter().zip(&rig.clients).map(|(script, client)| client.spawn(script).expect("starts")).collect();
    for (index, running) in running.iter().enumerate() {
        assert_done(&rig.wait(index, running));
    }
    let points = rig.points(1);
    assert_eq!(points.len(), 4);
    // One writes what the other has just forgotten and collects.
    let (id, forgotten) = &points[0];
    let writing = rig.clients[1].spawn(&format!("{} && {}", Rig::backup_script(forgotten), Rig::backup_script(&image(3, 7)))).expect("starts");
    rig.cairn(0, &format!("forget --force {id}"));
    rig.cairn(0, &format!("prune {} --keep-last 1", points[1].1.name()));
    rig.cairn(0, GC_NOW);
    rig.cairn(0, GC_NOW);
    assert_done(&rig.wait(1, &writing));
    println!("{} points are as they were saved", rig.assert_points());
    rig.assert_clean_end();
});

lab_test!(the_server_is_killed_under_backups_and_collections, options(), |lab| {
    let mut rig = Rig::start(&lab, HELPER, Setup { grace: true, ..Setup::default() });
    rig.cairn(0, "init /mnt/nfs/store");
    rig.backup(0, &image(1, 2));
    for (round, delay_ms) in [300u64, 1200].into_iter().enumerate() {
        let images = [3, 4].map(|own| Image { common: 5 + round as u64, own, mib: 8 });
        // The images are made first: the kill is to meet the backup.
        for (client, image) in rig.clients.iter().zip(&images) {
            client.sh(&image.script(&format!("/tmp/{}", image.name()))).expect("noise");
        }
        let save = |image: &Image| format!("backup-image /tmp/{0} --name {0}", image.name());
        let running = [0, 1].map(|index| rig.spawn(index, &save(&images[index])));
        std::thread::sleep(Duration::from_millis(delay_ms));
        kill_and_restart(&mut rig);
        for index in 0..2 {
            if !done_or_clean("backup", &rig.wait(index, &running[index])) {
                rig.cairn(index, &save(&images[index]));
            }
            rig.clients[index].sh("rm /tmp/image-*").expect("removed");
        }
    }
    for delay_ms in [200, 900] {
        rig.backup(1, &image(20, delay_ms));
        let (id, _) = rig.points(0).pop().expect("a point");
        rig.cairn(0, &format!("forget --force {id}"));
        let running = rig.spawn(1, GC_NOW);
        std::thread::sleep(Duration::from_millis(delay_ms));
        kill_and_restart(&mut rig);
        done_or_clean("gc", &rig.wait(1, &running));
    }
    println!("{} points are as they were saved", rig.assert_points());
    rig.assert_clean_end();
});

fn kill_and_restart(rig: &mut Rig) {
    rig.server.kill().expect("killed");
    std::thread::sleep(AWAY);
    rig.server.restart().expect("it comes up again");
}

lab_test!(a_link_whose_reply_is_lost_is_taken_for_ours, options(), |lab| {
    let mut rig = Rig::start(&lab, HELPER, Setup::default());
    rig.cairn(0, "init /mnt/nfs/store");
    rig.backup(0, &image(1, 2));
    // The session's record, a data pack, a metadata pack, and the register, which is the commit.
    for (own, folder) in ["/store/gc", "/store/d/", "/store/m/", "/store/c/"].into_iter().enumerate() {
        let image = image(1, 10 + own as u64);
        let begin = Instant::now();
        let running = reply_lost(&mut rig, folder, |rig| rig.clients[0].spawn(&Rig::backup_script(&image)).expect("starts"));
        assert_done(&rig.wait(0, &running));
        println!("link into {folder}: done after {:.1} s", begin.elapsed().as_secs_f64());
        let points = rig.points(1);
        let made: Vec<&String> = points.iter().filter(|(_, i)| *i == image).map(|(id, _)| id).collect();
        assert_eq!(made.len(), 1, "the point is there once: {points:?}");
        rig.assert_restores(1, made[0], &image);
    }
    let (id, _) = rig.points(0).pop().expect("a point");
    let forget = reply_lost(&mut rig, "/store/f/", |rig| rig.spawn(1, &format!("forget --force {id}")));
    assert_done(&rig.wait(1, &forget));
    let collect = reply_lost(&mut rig, "/store/gc", |rig| rig.spawn(1, GC_NOW));
    assert_done(&rig.wait(1, &collect));
    assert_eq!(rig.assert_points(), 4);
    rig.assert_clean_end();
});

/// Starts something, has the server die right after the next link into a folder, and starts it again.
fn reply_lost(rig: &mut Rig, folder: &str, start: impl FnOnce(&Rig) -> Running) -> Running {
    rig.server.die_after_link_into(folder).expect("asked for");
    let running = start(rig);
    rig.server.wait_dead().unwrap_or_else(|error| panic!("no link into {folder}: {}", error.report()));
    rig.server.restart().expect("it comes up again");
    running
}

lab_test!(a_client_is_killed_and_the_other_one_collects, options(), |lab| {
    let mut rig = Rig::start(&lab, HELPER, Setup::default());
    rig.cairn(0, "init /mnt/nfs/store");
    rig.backup(1, &image(1, 2));
    // In the middle of a backup: its session is recorded, its register is not there.
    let large = Image { common: 1, own: 3, mib: 24 };
    rig.clients[0].sh(&large.script("/tmp/large")).expect("noise");
    let begun = rig.spawn(0, &format!("backup-image /tmp/large --name {}", large.name()));
    wait_until("record of its session beside that of the first", SOON, || files(&rig, "gc", "session-").len() == 2);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(rig.clients[0].poll(&begun).expect("answers"), None, "the backup is to be in its middle");
    rig.clients[0].kill().expect("killed");
    // What the dead one had begun is not in the way of the other.
    rig.backup(1, &image(1, 4));
    rig.cairn(1, GC_NOW);
    std::thread::sleep(SILENCE);
    let report: Value = serde_json::from_str(&rig.cairn(1, &format!("{GC_NOW} --json"))).expect("JSON");
    assert_eq!(report["fenced"].as_array().map(Vec::len), Some(1), "{report}");
    assert_eq!(rig.points(1).len(), 2);
    assert!(files(&rig, "gc", "session-").is_empty(), "records of the decided are gone");
    // In the middle of a collection: its round is published and open.
    rig.reboot(0);
    let (id, _) = rig.points(0).remove(0);
    rig.cairn(0, &format!("forget --force {id}"));
    let collecting = rig.spawn(0, GC_NOW);
    wait_until("an open round", SOON, || !files(&rig, "gc", "condemned-").is_empty());
    rig.clients[0].kill().expect("killed");
    drop(collecting);
    let first = rig.clients[1].exec(&format!("{GC_SCRIPT} {GC_NOW}")).expect("it ends");
    println!("after the collection's death: exit code {} {}", first.code, first.stderr.trim());
    assert!(first.code == i64::from(cairn::BUSY) || first.code == i64::from(cairn::DONE), "{first:?}");
    std::thread::sleep(SILENCE);
    rig.cairn(1, GC_NOW);
    rig.reboot(0);
    rig.backup(0, &large);
    assert_eq!(rig.assert_points(), 2);
    rig.assert_clean_end();
});

const GC_SCRIPT: &str = "CAIRN_STORE=/mnt/nfs/store CAIRN_KEY_FILE=/mnt/nfs/main.key cairn";
