//! What a guest feels of backups, and how long they take: its own writes while nothing is saved, during a full backup and during increments.
//!
//! A test run takes one round of small disks and compares with nobody. `cargo xtask bench capture` takes three of large ones, in turns with
//! virtnbdbackup on the same domain: `CAIRN_LOAD_ROUNDS`, `CAIRN_LOAD_MIB` (sizes of disk and data), `CAIRN_LOAD_CHANGES_MIB`, `CAIRN_LOAD_PEER`.

use cairn_lab::cairn::{self, Cairn};
use cairn_lab::latency::{self, Latencies, middle};
use cairn_lab::suite::{Suite, mode};
use cairn_lab::{Options, lab_test, process};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

const IDLE: Duration = Duration::from_secs(10);
const BACKUP_LIMIT: Duration = Duration::from_secs(900);
const CHANGE_LIMIT: Duration = Duration::from_secs(600);
const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";
const MIB: u64 = 1 << 20;

fn asked(name: &str, default: &str) -> Vec<u64> {
    let text = std::env::var(name).unwrap_or_else(|_| default.to_owned());
    text.split(',').map(|part| part.parse().unwrap_or_else(|_| panic!("{name} is '{text}' and shall be numbers"))).collect()
}

fn sizes() -> Options {
    let mib = asked("CAIRN_LOAD_MIB", "256,64");
    Options { vda_mib: mib[0], data_mib: mib[1], ..Options::small() }
}

/// Who saves the domain, each in a place of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Cairn,
    Peer,
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Self::Cairn => "cairn",
            Self::Peer => "virtnbdbackup",
        }
    }
}

/// One round: fresh stores, a full backup, increments of growing size.
struct Round {
    cairn: Cairn,
    peer: PathBuf,
}

impl Round {
    fn new(suite: &Suite, number: u64) -> Self {
        let path = |name: &str| suite.path(&format!("{name}-{number}"));
        let cairn = suite.cairn.with_store(path("store")).with_key(path("key"));
        cairn.init().expect("a store");
        Self { cairn, peer: path("peer") }
    }

    fn save(&self, who: Who, level: &str) -> Duration {
        let mut command = match who {
            Who::Cairn => self.cairn.command(&["backup", "lab1", "--disk", "vda", "--priority", "low"]),
            Who::Peer => {
                let mut command = Command::new("virtnbdbackup");
                command.args(["-d", "lab1", "-i", "vda", "-l", level, "-o"]).arg(&self.peer);
                command
            }
        };
        // What one has read must not be the other's gain.
        nix::unistd::sync();
        std::fs::write(DROP_CACHES, "3\n").expect("the page cache is emptied");
        let begin = Instant::now();
        process::run_ok(&mut command, BACKUP_LIMIT).expect("it ends well");
        begin.elapsed()
    }

    /// The stores of three rounds of large disks would fill many a machine.
    fn remove(self) {
        for folder in [self.cairn.store(), &self.peer] {
            if folder.exists() {
                std::fs::remove_dir_all(folder).expect("our own folder");
            }
        }
    }
}

/// How long a backup took, and what the guest felt where it was asked.
type Figure = (Duration, Option<Latencies>);

/// Figures of all rounds by what was done and by whom.
#[derive(Default)]
struct Figures(BTreeMap<(String, Who), Vec<Figure>>);

impl Figures {
    fn add(&mut self, what: &str, who: Who, took: Duration, felt: Option<Latencies>) {
        self.0.entry((what.to_owned(), who)).or_default().push((took, felt));
    }

    /// The medians of all rounds.
    fn print(&self) {
        for ((what, who), of) in &self.0 {
            let took = middle(of.iter().map(|f| f.0)).expect("a round");
            let felt =
                |value: fn(&Latencies) -> u64| middle(of.iter().filter_map(|f| f.1.as_ref().map(value))).map_or_else(|| "-".to_owned(), |us| us.to_string());
            let felt = [felt(|f| f.median_us), felt(|f| f.p99_us), felt(|f| f.max_us)].join(" | ");
            println!("load: | {what} | {} | {:.2} | {felt} |", who.name(), took.as_secs_f64());
        }
    }
}

fn last_mode(cairn: &Cairn) -> String {
    let points = cairn.points("lab1").expect("points");
    let point = cairn.point(points.last().expect("a point")).expect("show");
    let frozen = point["source"]["quiesce"]["freeze_ms"].as_u64();
    println!("freeze: {} ms", frozen.map_or_else(|| "?".to_owned(), |ms| ms.to_string()));
    assert!(cairn::disk(&point, "vda").is_ok());
    mode(&point, "vda")
}

lab_test!(a_guest_writes_beside_backups, sizes(), |lab| {
    let suite = Suite::new(&lab);
    let changes = asked("CAIRN_LOAD_CHANGES_MIB", "1,8");
    let who: &[Who] = if std::env::var_os("CAIRN_LOAD_PEER").is_some() { &[Who::Cairn, Who::Peer] } else { &[Who::Cairn] };
    latency::prepare(&suite.domain).expect("a file");
    let mut figures = Figures::default();
    for number in 0..asked("CAIRN_LOAD_ROUNDS", "1")[0] {
        let (idle, ()) = latency::during(&suite.domain, || std::thread::sleep(IDLE)).expect("writes");
        figures.add("0 nothing", Who::Cairn, IDLE, Some(idle));
        let round = Round::new(&suite, number);
        let in_turn: Vec<Who> = if number % 2 == 0 { who.to_vec() } else { who.iter().rev().copied().collect() };
        for who in &in_turn {
            let (felt, took) = latency::during(&suite.domain, || round.save(*who, "full")).expect("no write of the guest fails");
            figures.add("1 full", *who, took, Some(felt));
        }
        assert_eq!(last_mode(&round.cairn), "full");
        // What the guest wrote meanwhile is in no increment that counts.
        for who in &in_turn {
            round.save(*who, "inc");
        }
        for (step, mib) in changes.iter().enumerate() {
            let script = format!("/bin/lab-guest __lab-guest noise /mnt/a/changes 0 {} {}; sync", mib * MIB, number * 100 + mib);
            let done = suite.domain.exec(&script, CHANGE_LIMIT).expect("the guest writes");
            assert_eq!(done.code, 0, "{}", done.stderr);
            for who in &in_turn {
                figures.add(&format!("{} {mib} MiB changed", step + 2), *who, round.save(*who, "inc"), None);
            }
            assert_eq!(last_mode(&round.cairn), "incremental");
        }
        round.remove();
    }
    figures.print();
    let complaints = suite.domain.sh("dmesg | grep -iE 'i/o error|critical|remount|aborted' || true").expect("dmesg");
    assert_eq!(complaints, "", "the guest saw nothing");
});
