//! docs/recovery.md and docs/runbooks.md, executed: their blocks of commands run as they stand there, in a lab, against a real guest.
//!
//! A block belongs to a scenario by the comment above it: `<!-- runbook: NAME -->`. A block without one must be its page's list of values, which the
//! tests replace by the lab's.

use cairn_lab::daemon::Daemon;
use cairn_lab::process::{Output, run, run_ok};
use cairn_lab::suite::Suite;
use cairn_lab::{Lab, Options, lab_test};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const BLOCK_LIMIT: Duration = Duration::from_secs(600);
const BOOT_LIMIT: Duration = Duration::from_secs(120);
const MARK: &str = "<!-- runbook: ";
/// All blocks of each page; each is run by one of the tests below.
const PAGES: [(&str, &[&str]); 2] = [
    (
        "recovery.md",
        &[
            "dead-host look",
            "dead-host all",
            "dead-host list",
            "dead-host run",
            "broken-upgrade find",
            "broken-upgrade in-place",
            "broken-upgrade back",
            "broken-upgrade beside",
            "broken-upgrade run",
            "broken-upgrade discard",
            "deleted-disk backup",
            "deleted-disk restore",
            "damaged-store look",
            "damaged-store heal",
            "damaged-store salvage",
            "lost-key",
            "drill",
            "",
        ],
    ),
    (
        "runbooks.md",
        &[
            "daily look",
            "daily why",
            "daily cron",
            "weekly domains",
            "weekly verify",
            "weekly room",
            "monthly drill",
            "monthly host",
            "monthly key",
            "monthly all",
            "disaster forgotten",
            "disaster full",
            "disaster frozen",
            "disaster intruder",
            "",
        ],
    ),
];

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The commands of a block.
fn commands(name: &str) -> String {
    let all = PAGES.iter().flat_map(|(name, _)| blocks(&page(name)));
    all.into_iter().find(|block| block.0 == name).unwrap_or_else(|| panic!("no block {name:?}")).1
}

/// Name and commands of each block, in the page's order; the name is empty where a block has none.
fn blocks(page: &str) -> Vec<(String, String)> {
    let (mut out, mut name, mut inside) = (Vec::new(), String::new(), None::<String>);
    for line in page.lines() {
        match &mut inside {
            Some(text) if line == "```" => {
                out.push((std::mem::take(&mut name), std::mem::take(text)));
                inside = None;
            }
            Some(text) => *text += &format!("{line}\n"),
            None if line.starts_with("```") => inside = Some(String::new()),
            None => {
                if let Some(rest) = line.strip_prefix(MARK) {
                    name = rest.trim_end_matches("-->").trim().to_owned();
                } else if !line.trim().is_empty() {
                    name.clear();
                }
            }
        }
    }
    out
}

#[test]
fn every_block_of_the_pages_is_run_by_a_test() {
    let sorted = |names: &mut dyn Iterator<Item = String>| {
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    };
    for (name, known) in PAGES {
        let found = sorted(&mut blocks(&page(name)).into_iter().map(|block| block.0));
        let known = sorted(&mut known.iter().map(|name| (*name).to_owned()));
        assert_eq!(found, known, "{name}: each block has a mark, and a test that runs it; one has none, the values");
    }
}

/// A lab with a point of its guest, in which blocks run.
struct Book {
    suite: Suite,
    env: Vec<(&'static str, String)>,
}

impl Book {
    fn new(suite: Suite) -> Self {
        let tools = suite.path("tools");
        fs::create_dir(&tools).expect("a folder");
        symlink(suite.lab.cairn().expect("program"), tools.join("cairn")).expect("a link");
        let path = format!("{}:{}", tools.display(), cairn_lab::init::PATH);
        let host = run_ok(&mut Command::new("hostname"), BOOT_LIMIT).expect("hostname");
        let [disk, _] = cairn_lab::lab::disks();
        let env = vec![
            ("PATH", path),
            ("CAIRN_STORE", suite.cairn.store().display().to_string()),
            ("CAIRN_KEY_FILE", suite.cairn.key().display().to_string()),
            ("DOMAIN", "lab1".into()),
            ("DISK", disk.target.into()),
            ("DISK_PATH", disk.path.display().to_string()),
            ("LOST_HOST", host.trim().into()),
        ];
        Self { suite, env }
    }

    /// Runs a block as a shell would; gives what it printed.
    fn run(&self, name: &str) -> String {
        let output = self.try_run(name);
        assert_eq!(output.code(), 0, "block {name:?}:\n{}\n{}\n{}", commands(name), output.text(), output.err_text());
        output.text()
    }

    fn try_run(&self, name: &str) -> Output {
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", &commands(name)]).current_dir(self.suite.path(""));
        command.envs(self.env.iter().map(|(key, value)| (*key, value)));
        run(&mut command, BLOCK_LIMIT).expect("it ends")
    }

    /// Another value, or one more.
    fn set(&mut self, key: &'static str, value: impl Into<String>) {
        self.env.retain(|(known, _)| *known != key);
        self.env.push((key, value.into()));
    }

    fn lose(&self) {
        let domain = &self.suite.domain;
        domain.virsh(&["destroy", "lab1"]).expect("virsh");
        domain.virsh_ok(&["undefine", "lab1"]).expect("undefine");
        for disk in cairn_lab::lab::disks() {
            fs::remove_file(disk.path).expect("removed");
        }
    }

    fn assert_whole(&self) {
        self.suite.domain.sh("cat /mnt/a/greeting /mnt/b/greeting").expect("the guest runs and has its files");
    }
}

lab_test!(the_host_is_dead, Options::small(), |lab| {
    let book = Book::new(Suite::new(&lab));
    book.suite.cairn.ok(&["backup", "lab1"]).expect("backup");
    book.run("drill");
    book.lose();
    // Another host has never seen the store.
    for entry in fs::read_dir("/var/lib/cairn").expect("state").flatten() {
        fs::remove_dir_all(entry.path()).expect("removed");
    }
    assert!(book.run("dead-host look").contains("possible"));
    book.run("dead-host all");
    book.assert_whole();
    // Once more, by the list.
    book.lose();
    book.run("dead-host list");
    book.assert_whole();
    assert!(book.run("dead-host list").contains("skipped"));
    // And once more, straight from the store.
    book.lose();
    book.run("dead-host run");
    book.assert_whole();
    assert_eq!(book.suite.cairn.json(&["runs"]).expect("runs"), json!([]), "it is an ordinary domain");
});

lab_test!(an_upgrade_broke_the_guest, Options::small(), |lab| {
    let book = Book::new(Suite::new(&lab));
    book.suite.cairn.ok(&["backup", "lab1"]).expect("backup");
    book.suite.domain.sh("rm /mnt/a/greeting && sync").expect("the upgrade");
    book.suite.cairn.ok(&["backup", "lab1"]).expect("backup");
    assert!(book.run("broken-upgrade find").contains("lab1"));
    assert!(book.run("broken-upgrade beside").contains("lab1-before-vda"));
    assert!(book.run("broken-upgrade run").contains("lab1-then"));
    let then = cairn_lab::Domain::new("lab1-then");
    then.sh("cat /mnt/a/greeting").expect("the state before the upgrade");
    book.run("broken-upgrade discard");
    book.run("broken-upgrade in-place");
    book.suite.domain.wait_agent(BOOT_LIMIT).expect("it boots");
    book.assert_whole();
    book.suite.domain.sh("rm /mnt/a/greeting && sync").expect("broken again");
    book.run("broken-upgrade back");
    book.suite.domain.wait_agent(BOOT_LIMIT).expect("it boots");
    book.assert_whole();
});

lab_test!(a_disk_was_deleted, Options::small(), |lab| {
    let book = Book::new(Suite::new(&lab));
    book.suite.cairn.ok(&["backup", "lab1"]).expect("backup");
    book.suite.domain.sh("echo new > /mnt/a/since && sync").expect("written");
    let [disk, _] = cairn_lab::lab::disks();
    fs::remove_file(&disk.path).expect("removed");
    book.run("deleted-disk backup");
    book.run("deleted-disk restore");
    book.suite.domain.wait_agent(BOOT_LIMIT).expect("it boots");
    book.assert_whole();
    book.suite.domain.sh("cat /mnt/a/since").expect("the point that was taken after the deletion has it");
});

fn data_packs(store: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(store.join("d")).expect("packs").flatten();
    let mut all: Vec<PathBuf> = folders.flat_map(|folder| fs::read_dir(folder.path()).expect("folder").flatten()).map(|entry| entry.path()).collect();
    all.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).expect("a pack").len()));
    all
}

lab_test!(the_store_is_damaged, Options::small(), |lab| {
    let book = Book::new(Suite::new(&lab));
    book.suite.cairn.ok(&["backup", "lab1"]).expect("backup");
    let pack = data_packs(book.suite.cairn.store()).remove(0);
    let mut bytes = fs::read(&pack).expect("a pack");
    let middle = bytes.len() / 2;
    bytes[middle..middle + 4096].fill(0xee);
    fs::remove_file(&pack).and_then(|()| fs::write(&pack, &bytes)).expect("damaged");
    book.run("damaged-store look");
    let state = |id: &str| book.suite.point(id)["state"].clone();
    let id = book.suite.points().remove(0);
    assert_eq!(state(&id), Value::from("damaged"));
    book.run("damaged-store salvage");
    assert!(book.suite.path("salvage/lab1-salvaged-vda.qcow2").exists());
    book.run("damaged-store heal");
    assert_eq!(state(&id), Value::from("good"), "the older point is mended, too");
});

/// A lab with a store whose recovery key is on paper.
fn with_recovery_key(lab: &Lab) -> Book {
    let suite = Suite { domain: lab.domain(), cairn: cairn_lab::Cairn::new(lab, "store").expect("program"), lab: lab.clone() };
    let (store, key) = (suite.cairn.store().display().to_string(), suite.cairn.key().display().to_string());
    let made = suite.cairn.json(&["init", &store, "--key-file", &key]).expect("init");
    let mut book = Book::new(suite);
    book.set("RECOVERY_KEY", made["recovery_key"].as_str().expect("a key"));
    book
}

lab_test!(the_key_is_lost, Options::small(), |lab| {
    let book = with_recovery_key(&lab);
    book.suite.cairn.ok(&["backup", "lab1"]).expect("backup");
    fs::remove_file(book.suite.cairn.key()).expect("lost");
    assert!(book.run("lost-key").contains("lab1"));
    book.lose();
    book.suite.cairn.ok(&["restore", "lab1"]).expect("with the recovery key alone");
});

/// `check` is content; that the machine which runs the suite has little room may be told besides.
fn assert_green(book: &Book) {
    let said = book.try_run("daily look");
    let text = said.text();
    let first = text.lines().next().unwrap_or_default();
    let is_only_room = text.lines().skip(1).all(|line| line.starts_with("WARNING: store main: ") && line.contains(" are free"));
    let (is_ok, kept) = (said.code() == 0 && first.starts_with("CAIRN OK - 1 domains"), first.contains(" kept=1 late=0;;0 "));
    assert!(kept && (is_ok || said.code() == 1 && is_only_room), "{text}{}", said.err_text());
}

lab_test!(days_weeks_and_months, Options::small(), |lab| {
    let mut book = with_recovery_key(&lab);
    let (store, key) = (book.suite.cairn.store().display(), book.suite.cairn.key().display());
    let config = format!(
        "stores:\n  main: {{ url: {store}, key_file: {key}, gc_every: never }}\npolicies:\n  nightly: {{ select: {{ names: [\"*\"] }}, stores: [main], rpo: 26h }}\n"
    );
    let daemon = Daemon::start(&lab, &config).expect("the daemon");
    let over = |job: &Value| !["queued", "running"].iter().any(|state| job["state"] == *state);
    let first = daemon.back_up(&json!({"domain": "lab1"})).expect("asked");
    assert_eq!(daemon.wait_job(&first[0]["id"], "its end", BLOCK_LIMIT, over).expect("it ends")["state"], "done");
    book.env.retain(|(key, _)| *key != "CAIRN_KEY_FILE");
    book.set("CAIRN_STORE", "main");
    book.set("CAIRN_CONFIG", book.suite.path("cairn.yaml").display().to_string());
    book.set("JOB", first[0]["id"].to_string());

    assert_green(&book);
    assert!(book.run("daily why").contains("job 2: lab1 into main"));
    assert_eq!(daemon.wait_job(&json!(2), "its end", BLOCK_LIMIT, over).expect("it ends")["state"], "done");
    book.run("daily cron");
    let points = book.suite.points();
    assert_eq!(points.len(), 3, "the last three are kept: {points:?}");

    assert!(book.run("weekly domains").contains("1 domains, 0 of them unprotected"));
    book.run("weekly verify");
    assert_eq!(book.suite.point(&points[2])["boot"]["passed"], true, "it was booted");
    assert!(!book.run("weekly room").contains("forget "));

    assert!(book.run("monthly drill").contains("lab1-drill"));
    assert_eq!(book.suite.cairn.json(&["runs"]).expect("runs"), json!([]));
    book.run("monthly host");
    assert!(book.run("monthly key").contains("lab1"));
    assert!(!book.suite.path("paper.key").exists());
    book.run("monthly all");

    book.set("POINT", &points[0]);
    book.run("disaster intruder");
    assert_eq!(book.suite.point(&points[0])["protected"], true);
    book.suite.cairn.ok(&["forget", &points[1], "--force"]).expect("forgotten");
    book.set("POINT", &points[1]);
    assert!(book.run("disaster forgotten").contains(&points[1][..8]));
    assert_eq!(book.suite.points().len(), 3, "it is back");
    book.run("disaster full");
    book.run("disaster frozen");
    assert_green(&book);
    book.assert_whole();
});
