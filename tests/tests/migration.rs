//! Migrations between two libvirtds with the disks copied along: what becomes of the bitmaps, and who waits for whom. Over shared storage: `domain_life`.

use cairn_lab::process::{run, run_ok, wait_for};
use cairn_lab::reference::{Pair, raw_copy};
use cairn_lab::second::Second;
use cairn_lab::steps::Holder;
use cairn_lab::suite::{CLEAN_LIMIT, Kept, Suite, assert_refused, mode};
use cairn_lab::{Domain, Options, cairn, lab, lab_test, libvirt, process, traces};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(300);
const BOOT_LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);
/// Of a copy that is to take its time, MiB/s.
const SLOW: [&str; 2] = ["--bandwidth", "1"];

/// A host: its connection, `lab1` on it, and where it has its images.
struct Host<'a> {
    uri: String,
    domain: Domain,
    images: PathBuf,
    second: Option<&'a Second>,
}

impl<'a> Host<'a> {
    fn first() -> Self {
        Self { uri: libvirt::URI.into(), domain: Domain::new("lab1"), images: libvirt::IMAGES.into(), second: None }
    }

    /// With empty images to migrate to; `folder` is that of its libvirtd.
    fn second(second: &'a Second, folder: &Path) -> Self {
        let images = folder.join("var/lib/libvirt/images");
        fs::create_dir_all(&images).expect("a folder");
        let small = Options::small();
        for (disk, mib) in lab::disks().iter().zip([small.vda_mib, small.vdb_mib]) {
            let image = images.join(disk.path.file_name().expect("a name"));
            run_ok(Command::new("qemu-img").args(["create", "-q", "-f", disk.format]).arg(image).arg(format!("{mib}M")), LIMIT).expect("an image");
        }
        Self { uri: second.uri(), domain: Domain::at(second.uri(), "lab1"), images, second: Some(second) }
    }

    fn migration(&self, to: &Self, more: &[&str]) -> Command {
        let flags = ["migrate", "--live", "--persistent", "--undefinesource", "--copy-storage-all", "lab1", &to.uri, "--migrateuri", "tcp://127.0.0.1"];
        libvirt::virsh_at(&self.uri, &[&flags[..], more].concat())
    }

    fn migrate(&self, to: &Self) {
        println!("before: {:?}", traces::look(&self.domain).expect("traces").bitmaps);
        run_ok(&mut self.migration(to, &[]), LIMIT).expect("migrate");
        to.domain.wait_agent(BOOT_LIMIT).expect("agent");
        println!("after: {:?}", traces::look(&to.domain).expect("traces").bitmaps);
    }

    fn write(&self, number: u64) {
        let script = format!("for d in a b; do /bin/lab-guest __lab-guest noise /mnt/$d/moved {} 1048576 {number}; done", number % 3 * 524_288);
        self.domain.sh(&script).expect("the guest writes");
    }

    /// What the guest has: raw copies of its disks while it stands still.
    fn reference(&self, folder: &Path) -> Pair {
        fs::create_dir_all(folder).expect("folder");
        self.domain.virsh_ok(&["suspend", "lab1"]).expect("suspend");
        let copies = lab::disks().map(|disk| {
            let copy = folder.join(format!("{}.raw", disk.target));
            raw_copy(&self.images.join(disk.path.file_name().expect("a name")), disk.format, &copy).expect("copy");
            copy
        });
        self.domain.virsh_ok(&["resume", "lab1"]).expect("resume");
        let [vda, vdb] = copies;
        Pair { vda, vdb }
    }

    /// A point by the program on this host is what the disks have; with the modes of both.
    fn point(&self, suite: &Suite, name: &str, modes: [&str; 2]) -> Kept {
        self.domain.read_only(true).expect("read-only");
        let reference = self.reference(&suite.path(name));
        let plain = suite.cairn.command(&["backup", "lab1", "--json"]);
        let mut command = match self.second {
            Some(second) => second.inside(&plain),
            None => plain,
        };
        let output = run(&mut command, cairn::LIMIT).expect("it ends");
        self.domain.read_only(false).expect("read-write");
        assert_eq!(output.code(), cairn::DONE, "{name}: {}", output.err_text());
        let point: Value = serde_json::from_str(&output.text()).expect("a point");
        let kept = Kept { id: point["id"].as_str().expect("an id").to_owned(), reference };
        suite.assert_restores(&kept);
        let found = ["vda", "vdb"].map(|target| mode(&point, target));
        let reasons = ["vda", "vdb"].map(|target| cairn::disk(&point, target).expect("a disk")["reason"].clone());
        println!("{name}: {found:?} {reasons:?}");
        assert_eq!(found, modes, "{name}: {reasons:?}");
        kept
    }
}

lab_test!(a_domain_moves_with_its_disks_and_back, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let folder = lab.dir().join("second");
    let second = Second::start(&folder, None).expect("a second libvirtd");
    let (home, away) = (Host::first(), Host::second(&second, &folder));
    let mut kept = vec![home.point(&suite, "first", ["full", "full"])];
    home.write(1);
    kept.push(home.point(&suite, "at home", ["incremental", "incremental"]));

    home.write(2);
    home.migrate(&away);
    away.write(3);
    kept.push(away.point(&suite, "away", ["compare", "compare"]));
    away.write(4);
    kept.push(away.point(&suite, "away again", ["incremental", "incremental"]));

    // Over the images that were left behind, with the bitmaps that are in them.
    away.write(5);
    away.migrate(&home);
    home.write(6);
    kept.push(home.point(&suite, "back", ["compare", "compare"]));
    home.write(7);
    kept.push(home.point(&suite, "back again", ["incremental", "incremental"]));
    suite.assert_left_alone(CLEAN_LIMIT);
    for point in &kept {
        suite.assert_restores(point);
    }
    suite.cairn.ok(&["verify", "--all", "--data"]).expect("verify");
});

lab_test!(a_backup_and_a_migration_keep_out_of_each_others_way, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let folder = lab.dir().join("second");
    let second = Second::start(&folder, None).expect("a second libvirtd");
    let (home, away) = (Host::first(), Host::second(&second, &folder));
    let holder = Holder::new(&suite);
    let _first = home.point(&suite, "first", ["full", "full"]);

    let mut held = holder.hold(&suite, "reading begins");
    let begin = Instant::now();
    let refused = run(&mut home.migration(&away, &[]), LIMIT).expect("it ends");
    println!("refused after {:.1} s: {}", begin.elapsed().as_secs_f64(), refused.err_text().trim());
    assert!(!refused.status.success() && refused.err_text().contains("state change lock"), "{}", refused.err_text());
    held.goes_on();
    let code = process::exit_code(held.ends("beside a migration that was refused"));
    assert!([cairn::DONE, cairn::WARNINGS].contains(&code), "{code}: {}", held.said());
    suite.assert_left_alone(CLEAN_LIMIT);
    home.write(1);
    let _second = home.point(&suite, "after a migration that was refused", ["incremental", "incremental"]);

    let mut command = home.migration(&away, &SLOW);
    let mut migration = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("virsh starts");
    wait_for("the migration", LIMIT, POLL, || Ok(traces::look(&home.domain)?.libvirt_job.then_some(()))).expect("it begins");
    let said = assert_refused(&suite.cairn.run(&["backup", "lab1"]).expect("it ends"), cairn::BUSY, "lab1");
    println!("beside a migration: {}", said.trim());
    assert!(migration.try_wait().expect("our child").is_none(), "it was in nobody's way");
    home.domain.virsh_ok(&["domjobabort", "lab1"]).expect("domjobabort");
    assert!(!process::wait_limit(&mut migration, "virsh migrate", LIMIT).expect("it ends").success());
    suite.assert_left_alone(CLEAN_LIMIT);
    home.write(2);
    let third = home.point(&suite, "after a migration that was given up", ["incremental", "incremental"]);
    suite.assert_restores(&third);
});
