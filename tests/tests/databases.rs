//! A full Debian guest with databases under load: what its freeze hooks are worth, what a point is without them, and both back on their feet.
//!
//! One boot of the origin serves all backups; each point of interest is booted once, one as a restored domain and one straight from the store.

use cairn_lab::debian::guest::{self, BOOT_LIMIT};
use cairn_lab::suite::{Suite, quiesce};
use cairn_lab::{Domain, Options, lab_test, process};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// Emulated databases of a booting guest on a busy machine.
const CHECK_LIMIT: Duration = Duration::from_secs(300);
const LOAD_LIMIT: Duration = Duration::from_secs(120);
/// Transactions of each database before the first backup.
const ROWS_MIN: u64 = 100;
const ATTEMPTS_MAX: u32 = 3;
const SCRIPT: &str = "/root/lab/lab-db";
const QUIESCE: &str = "/usr/local/sbin/cairn-quiesce";
/// An emulated guest on a busy machine starts programs a hundred times more slowly than a real one: the guest's limit, and the host's.
const HOOKS_CONFIG: &str = "FREEZE_LIMIT_S=30 THAW_LIMIT_S=20";
const FREEZE_LIMIT_S: &str = "45";

/// Transactions that had been acknowledged, by database.
type Counts = BTreeMap<String, u64>;

/// A point and what must be in it.
struct Point {
    id: String,
    report: Value,
    /// Acknowledged when the guest's last freeze hook ran: before any file system was frozen.
    before_freeze: Counts,
    /// Acknowledged after the backup: no more can be in it.
    after: Counts,
}

fn folder(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

fn counts(text: &str) -> Counts {
    let pair = |line: &str| line.split_once(' ').map(|(name, number)| (name.to_owned(), number.trim().parse().expect("a number")));
    text.lines().filter_map(pair).collect()
}

fn acknowledged(domain: &Domain) -> Counts {
    counts(&domain.sh(&format!("{SCRIPT} acknowledged")).expect("counts"))
}

/// Waits until each database has acknowledged so many transactions more.
fn wait_load(domain: &Domain, more: u64) {
    let begin = acknowledged(domain);
    process::wait_for("more transactions", LOAD_LIMIT, Duration::from_millis(500), || {
        let now = acknowledged(domain);
        Ok(begin.iter().all(|(name, count)| now[name] >= count + more).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{}: {:?} after {begin:?}\n{}", error.report(), acknowledged(domain), said(domain)));
}

/// What the guest's own log has of hooks and load.
fn said(domain: &Domain) -> String {
    let done = domain.exec("journalctl -b --no-pager -o short-monotonic -t cairn-quiesce -u 'lab-load-*' | tail -n 40", CHECK_LIMIT);
    done.map(|done| done.stdout).unwrap_or_else(|error| error.report())
}

/// Takes points until one is of that level: an emulated guest may be too slow for any limit, and each point then says so.
fn backup_at(suite: &Suite, level: &str) -> Point {
    for _ in 0..ATTEMPTS_MAX {
        let point = backup(suite);
        if point.report["level"] == level {
            assert_eq!(quiesce(&suite.point(&point.id)), level);
            return point;
        }
        let reason = point.report["reason"].as_str().expect("a reason");
        assert!(["freeze:", "thaw:", "failed before", "lost before"].iter().any(|word| reason.contains(word)), "{reason}\n{}", said(&suite.domain));
    }
    panic!("no point of level {level}\n{}", said(&suite.domain));
}

fn backup(suite: &Suite) -> Point {
    suite.domain.sh("rm -f /run/lab/mark").expect("rm");
    let begin = Instant::now();
    let output = suite.cairn.run(&["backup", suite.domain.name(), "--freeze-limit", FREEZE_LIMIT_S]).expect("backup");
    let output = output.text() + &output.err_text();
    let after = acknowledged(&suite.domain);
    let before_freeze = counts(&suite.domain.sh("cat /run/lab/mark").expect("the last hook ran"));
    let id = suite.points().pop().expect("a point");
    let report = suite.point(&id)["source"]["quiesce"].clone();
    println!("{output}{report}, {:.1} s; acknowledged before the freeze {before_freeze:?}, after the backup {after:?}", begin.elapsed().as_secs_f64());
    Point { id, report, before_freeze, after }
}

/// Installs hooks and load in the guest, as its admin would.
fn furnish(domain: &Domain) {
    guest::upload(domain, &folder("qga-quiesce/guest"), "/root/quiesce").expect("upload");
    guest::upload(domain, &folder("tests/guest/debian"), "/root/lab").expect("upload");
    domain.sh(&format!("{SCRIPT} prepare")).expect("databases");
    domain.sh("install -m 755 /root/lab/lab-mark /etc/qemu/fsfreeze-hook.d/90-lab-mark").expect("the suite's own hook");
    domain.sh(&format!("mkdir /etc/cairn-quiesce && echo {HOOKS_CONFIG} > /etc/cairn-quiesce/config")).expect("configuration");
    // Twice is as good as once. By then the agent that was asked is gone.
    let agent = || domain.exec("systemctl show --property=MainPID --value qemu-guest-agent", LOAD_LIMIT).map(|done| done.stdout);
    let before = agent().expect("the agent's number");
    domain.sh("sh /root/quiesce/install.sh && systemd-run --quiet --no-block sh -c 'sleep 1; exec sh /root/quiesce/install.sh --restart'").expect("install");
    process::wait_for("the agent with its hooks", LOAD_LIMIT, Duration::from_millis(500), || Ok(agent().ok().filter(|now| *now != before)))
        .expect("a new agent");
}

/// With hooks the point is of level `application`; a hook that fails is named; a lock ends by itself.
fn with_hooks(suite: &Suite) -> Point {
    let domain = &suite.domain;
    let point = backup_at(suite, "application");
    assert_eq!(point.report["reason"], Value::Null);
    wait_load(domain, 20);

    domain
        .sh("printf '#!/bin/sh\\n[ \"$1\" = thaw ] || exit 3\\n' > /etc/cairn-quiesce/hooks.d/90-broken && chmod +x /etc/cairn-quiesce/hooks.d/90-broken")
        .expect("hook");
    let broken = backup_at(suite, "filesystem");
    assert!(broken.report["reason"].as_str().expect("a reason").contains("90-broken failed"), "{}", broken.report);
    domain.sh("rm /etc/cairn-quiesce/hooks.d/90-broken").expect("rm");
    wait_load(domain, 20);
    point
}

/// A freeze whose thaw never comes: the lock's own limit ends it, and the record tells.
fn lock_ends_by_itself(domain: &Domain) {
    domain.sh(&format!("echo '{HOOKS_CONFIG} MARIADB_HOLD_S=15' > /etc/cairn-quiesce/config")).expect("configuration");
    let begin = Instant::now();
    domain.sh(&format!("{QUIESCE} freeze && {QUIESCE} status | grep -x 'hook 50-mariadb ok'")).expect("hooks");
    let held = domain.sh("mariadb lab -e 'SET lock_wait_timeout = 1; UPDATE total SET n = n' 2>&1 || :").expect("mariadb");
    assert!(held.contains("Lock wait timeout") || held.contains("read lock"), "the lock is held: {held:?}");
    domain.sh("mariadb lab -e 'SET lock_wait_timeout = 60; UPDATE total SET n = n'").expect("the lock is gone");
    let took = begin.elapsed();
    println!("a lock without a thaw was gone {took:.1?} after the freeze began");
    assert!(took < Duration::from_secs(75), "the lock outlived its limit of 15 s: {took:?}");
    // A late thaw says that the lock was lost, and a second one says nothing more.
    let status = domain.sh(&format!("for i in 1 2; do {QUIESCE} thaw; {QUIESCE} status; done")).expect("thaw");
    assert_eq!(status.matches("after 50-mariadb failed").count(), 2, "{status}");
    assert_eq!(status.matches("after 10-postgresql ok").count(), 2, "{status}");
    let left = domain.sh("rm /etc/cairn-quiesce/config; pgrep -fc '[m]ariadb --skip-reconnect|[s]leep 15$' || :; ls /run/cairn-quiesce").expect("look");
    assert!(left.starts_with("0\n") && !left.contains("mariadb.input"), "something is left of the lock: {left}");
    wait_load(domain, 20);
}

/// Without hooks a point is of level `filesystem`.
fn without_hooks(suite: &Suite) -> Point {
    suite.domain.sh("sh /root/quiesce/install.sh --remove && test ! -e /etc/cairn-quiesce && test -x /etc/qemu/fsfreeze-hook.d/90-lab-mark").expect("removed");
    let point = backup_at(suite, "filesystem");
    assert!(point.report["reason"].as_str().expect("a reason").contains("no hooks"), "{}", point.report);
    wait_load(&suite.domain, 20);
    point
}

/// Both databases start, are whole, and have every transaction that was acknowledged before the freeze, and none that began after the backup.
fn assert_databases(domain: &Domain, point: &Point, locked: bool) {
    let begin = Instant::now();
    guest::upload(domain, &folder("tests/guest/debian"), "/root/lab").expect("upload");
    let done = domain.exec(&format!("{SCRIPT} check"), CHECK_LIMIT).expect("the check ends");
    println!("{}: {:.1} s\n{}{}", domain.name(), begin.elapsed().as_secs_f64(), done.stdout, done.stderr);
    assert_eq!(done.code, 0, "{}\n{}", done.stdout, done.stderr);
    let line = |name: &str| done.stdout.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name:?} in {}", done.stdout)).trim();
    let numbers = |name: &str| line(name).split(' ').map(|word| word.parse().expect("a number")).collect::<Vec<u64>>();
    for name in ["postgresql", "mariadb"] {
        let [count, greatest, sum, total, total_sum] = numbers(&format!("{name} "))[..] else { panic!("five numbers of {name}") };
        assert_eq!((greatest, total, sum, total_sum), (count, count, count * (count + 1) / 2, sum), "{name}: transactions are whole, none is missing");
        assert!(count >= point.before_freeze[name], "{name}: {count} transactions, but {} were acknowledged before the freeze", point.before_freeze[name]);
        // One more may have been under way.
        assert!(count <= point.after[name] + 1, "{name}: {count} transactions, but only {} were acknowledged after the backup", point.after[name]);
        println!("{name}: {count} transactions, {} acknowledged before the freeze", point.before_freeze[name]);
    }
    line("amcheck ok");
    let tables: Vec<&str> = done.stdout.lines().filter(|line| line.starts_with("check ")).collect();
    let fine = |table: &&&str| !table.contains("plain") || locked;
    assert!(tables.len() >= 3 && tables.iter().filter(fine).all(|table| table.ends_with(" status OK")), "{tables:?}");
    if locked {
        // Level with the transactions around it, and closed in order, which no log would mend.
        let [rows, greatest] = numbers("plain ")[..] else { panic!("two numbers") };
        let [count, ..] = numbers("mariadb ")[..] else { panic!("numbers") };
        assert!(rows == greatest && (rows == count || rows == count + 1), "{rows} rows up to {greatest} beside {count} transactions");
        assert!(!done.stdout.contains("log mariadb marked") && !done.stdout.contains("log mariadb Checking"), "{}", done.stdout);
    }
}

lab_test!(databases_come_back_with_every_commit, Options { guest: false, debian: true, quiet: false, ..Options::small() }, |lab| {
    let mut suite = Suite::new(&lab);
    suite.domain = lab.debian();
    let begin = Instant::now();
    let phase = |name: &str| println!("== {name}, after {:.0} s", begin.elapsed().as_secs_f64());
    furnish(&suite.domain);
    suite.domain.sh(&format!("{SCRIPT} start")).expect("load");
    wait_load(&suite.domain, ROWS_MIN);
    phase("backup with hooks");
    let hooked = with_hooks(&suite);
    lock_ends_by_itself(&suite.domain);
    phase("backup without hooks");
    let bare = without_hooks(&suite);
    suite.domain.virsh_ok(&["destroy", suite.domain.name()]).expect("destroy");

    phase("restore of the point with hooks");
    let vda = format!("vda={}", Path::new(cairn_lab::libvirt::IMAGES).join("restored.qcow2").display());
    suite.cairn.ok(&["restore", &hooked.id, "--as", "restored", "--disk", &vda]).expect("restore");
    let restored = Domain::new("restored");
    restored.start(BOOT_LIMIT).expect("it boots");
    assert_databases(&restored, &hooked, true);
    restored.virsh_ok(&["destroy", "restored"]).expect("destroy");

    phase("run of the point without hooks");
    let run = Instant::now();
    suite.cairn.ok(&["run", &bare.id, "--as", "running", "--wait-agent", &BOOT_LIMIT.as_secs().to_string()]).expect("run");
    println!("from the command to the agent's answer: {:.1} s", run.elapsed().as_secs_f64());
    assert_databases(&Domain::new("running"), &bare, false);
    suite.cairn.ok(&["discard", "running", "--force"]).expect("discard");
    phase("done");
});
