//! The program killed or stopped at any moment: the guest goes on, nothing is left, nothing is lost.
//!
//! The moments come from a seed that is printed; `CAIRN_SEED` repeats a run. `CAIRN_KILLS` is how many kills there are.

use cairn_lab::suite::{CLEAN_LIMIT, Kept, Suite, mode};
use cairn_lab::{Options, cairn, lab_test, process, traces};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const KILLS: u32 = 10;
const STOPS: u32 = 5;
/// virsh suspend answers at once; a QEMU that hangs in a reply never does.
const SUSPEND_LIMIT: Duration = Duration::from_secs(10);
/// The guard sees a stalled job after some heartbeats of two seconds, then cleans up.
const STALL_LIMIT: Duration = Duration::from_secs(40);

fn kills() -> u32 {
    std::env::var("CAIRN_KILLS").map_or(KILLS, |text| text.parse().expect("CAIRN_KILLS: a number"))
}

struct Random(u64);

impl Random {
    fn new() -> Self {
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let seed = std::env::var("CAIRN_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(time.as_secs());
        println!("seed: CAIRN_SEED={seed}");
        Self(seed)
    }

    /// A moment within `limit` (xorshift64*).
    fn within(&mut self, limit: Duration) -> Duration {
        self.0 = self.0.max(1);
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let part = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40;
        limit.mul_f64(part as f64 / f64::from(1 << 24))
    }
}

/// In a group of its own, as a shell starts it: where nobody could let it go on, the kernel lets Ctrl-Z stop nothing.
fn start(suite: &Suite, args: &[&str]) -> Child {
    let mut command = suite.cairn.command(args);
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
}

fn send(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("process ids are small"));
    kill(pid, signal).expect("our own child");
}

/// Changes both disks a little, so that every backup has something to read.
fn churn(suite: &Suite, number: u32) {
    let script = format!("for d in a b; do /bin/lab-guest __lab-guest noise /mnt/$d/churn {} 3145728 {number}; done", number % 4 * 1_048_576);
    suite.domain.sh(&script).expect("churn");
}

/// An incremental point, or one that says why not.
fn assert_explained(suite: &Suite, kept: &Kept) {
    let point = suite.point(&kept.id);
    for target in ["vda", "vdb"] {
        let reason = cairn::disk(&point, target).expect("disk")["reason"].as_str().unwrap_or_default().to_owned();
        assert!(mode(&point, target) == "incremental" || !reason.is_empty(), "{target} is not incremental and does not say why: {point}");
    }
}

lab_test!(killed_at_random_moments, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let mut random = Random::new();
    let mut kept = vec![suite.quiet_backup("first")];
    churn(&suite, 0);
    let begin_incremental = Instant::now();
    kept.push(suite.quiet_backup("second"));
    // Somewhat longer than a backup, so that the moments after the commit are among them.
    let span = begin_incremental.elapsed();
    for number in 1..=kills() {
        churn(&suite, number);
        let moment = random.within(span);
        let mut child = start(&suite, &["backup", "lab1"]);
        std::thread::sleep(moment);
        send(&child, Signal::SIGKILL);
        child.wait().expect("reaped");
        println!("kill {number} after {:.3} s", moment.as_secs_f64());
        suite.assert_left_alone(CLEAN_LIMIT);
        if number % 5 == 0 {
            let point = suite.quiet_backup(&format!("after-{number}"));
            assert_explained(&suite, &point);
            kept.push(point);
        }
    }
    for point in &kept {
        suite.assert_restores(point);
    }
    // Points of runs that were killed after their commit have no reference; all their data must be there.
    suite.cairn.ok(&["verify", "--all", "--data"]).expect("verify");
    println!("{} points, {} with references", suite.points().len(), kept.len());
});

lab_test!(killed_while_the_guest_is_frozen, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let mut random = Random::new();
    suite.domain.writer_start(0).expect("writer");
    suite.cairn.ok(&["backup", "lab1"]).expect("first backup");
    let mut hits = 0;
    for _ in 0..12 {
        let mut child = start(&suite, &["backup", "lab1"]);
        // Kill as soon as the guest is seen frozen, a little later each time.
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(10) && child.try_wait().expect("our child").is_none() {
            if suite.domain.freeze_status().is_ok_and(|status| status == "frozen") {
                hits += 1;
                std::thread::sleep(random.within(Duration::from_millis(30)));
                break;
            }
        }
        send_if_alive(&mut child);
        suite.assert_left_alone(CLEAN_LIMIT);
    }
    println!("{hits} of 12 kills met a frozen guest");
    suite.domain.writer_stop().expect("stop");
    suite.cairn.ok(&["backup", "lab1"]).expect("backup");
    for id in suite.points() {
        suite.assert_one_moment(&id);
    }
});

fn send_if_alive(child: &mut Child) {
    if child.try_wait().expect("our child").is_none() {
        send(child, Signal::SIGKILL);
        child.wait().expect("reaped");
    }
}

lab_test!(stopped_in_the_middle_the_guest_can_still_be_suspended, Options { data_mib: 72, ..Options::small() }, |lab| {
    let suite = Suite::new(&lab);
    let mut random = Random::new();
    for number in 1..=STOPS {
        churn(&suite, number);
        let mut child = start(&suite, &["backup", "lab1"]);
        wait_job(&suite, &mut child);
        std::thread::sleep(random.within(Duration::from_millis(150)));
        if child.try_wait().expect("our child").is_none() {
            // By Ctrl-Z as well.
            send(&child, if number % 2 == 0 { Signal::SIGTSTP } else { Signal::SIGSTOP });
        }
        let mut suspend = cairn_lab::libvirt::virsh(&["suspend", "lab1"]);
        let suspended = process::run(&mut suspend, SUSPEND_LIMIT).expect("QEMU hangs in suspend");
        assert_eq!(suspended.code(), 0, "{}", suspended.err_text());
        suite.domain.virsh_ok(&["resume", "lab1"]).expect("resume");
        suite.assert_left_alone(STALL_LIMIT);
        send_if_alive(&mut child);
    }
    let last = suite.quiet_backup("last");
    suite.assert_restores(&last);
    suite.cairn.ok(&["verify", "--all", "--data"]).expect("verify");
});

/// Waits until libvirt shows the backup's job or the backup is over.
fn wait_job(suite: &Suite, child: &mut Child) {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(30) && child.try_wait().expect("our child").is_none() {
        if traces::look(&suite.domain).is_ok_and(|traces| traces.libvirt_job) {
            return;
        }
    }
}

lab_test!(interrupted_by_ctrl_c_it_cleans_up_by_itself, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let first = suite.quiet_backup("first");
    let mut random = Random::new();
    for number in 1..=4 {
        churn(&suite, number);
        let mut child = start(&suite, &["backup", "lab1"]);
        std::thread::sleep(random.within(Duration::from_millis(900)));
        if child.try_wait().expect("our child").is_none() {
            send(&child, Signal::SIGINT);
        }
        let status = process::wait_limit(&mut child, "interrupted backup", Duration::from_secs(30)).expect("it ends");
        let code = process::exit_code(status);
        assert!(code == 130 || code == 0, "exit code {code}");
        suite.assert_left_alone(Duration::from_secs(2));
    }
    suite.assert_restores(&first);
});
