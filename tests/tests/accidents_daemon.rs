//! The accident suite for a job of the daemon's: the daemon, the job's runner and its command are killed, stopped for five seconds and asked to end behind
//! each step of a backup.
//!
//! Whatever happens: the guest is not frozen beyond the limit, the job goes on unless its own processes ended, the daemon that runs then knows how it ended,
//! fifteen seconds later nothing is left, and the next point is right and incremental.
//!
//! The cases are made from the three lists below; of all of them a run takes one for each process, `CAIRN_ACCIDENTS=all` takes all, and
//! `CAIRN_ACCIDENTS=3` those of another share. What becomes of guard, libvirtd and QEMU is no other than with a command: suite `accidents`.

use cairn_lab::accident::{SIGNALS, SLACK, STEP_LIMIT, assert_next_point, assert_thawed, chosen, churn, goes_on_later};
use cairn_lab::steps::{HeldJob, Holder, STEPS, has_point};
use cairn_lab::suite::{CLEAN_LIMIT, Suite};
use cairn_lab::{Lab, Options, lab_test};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::time::{Duration, Instant};

/// One of so many cases is tried where nothing is said.
const SHARE: usize = 33;
/// What a daemon takes for its end (docs/daemon.md), and some.
const DAEMON_LIMIT: Duration = Duration::from_secs(10).saturating_add(SLACK);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Daemon,
    Runner,
    Command,
}

impl Victim {
    fn pid(self, held: &HeldJob) -> Pid {
        match self {
            Self::Daemon => Pid::from_raw(i32::try_from(held.daemon.pid()).expect("process ids are small")),
            Self::Runner => held.runner,
            Self::Command => held.pid,
        }
    }
}

/// Behind this step, this happens to this process.
#[derive(Debug, Clone, Copy)]
struct Accident {
    step: &'static str,
    victim: Victim,
    signal: Signal,
}

impl Accident {
    /// The job is over when this returns; its daemon goes on.
    fn happens(self, suite: &Suite, holder: &Holder) -> HeldJob {
        let what = format!("{self:?}");
        let before = suite.points();
        let mut held = holder.hold_job(suite, self.step);
        let pid = self.victim.pid(&held);
        let since = Instant::now();
        kill(pid, self.signal).expect("it is there");
        held.goes_on();
        match (self.signal, self.victim) {
            (Signal::SIGSTOP, _) => goes_on_later(pid),
            (_, Victim::Daemon) => {
                let status = held.daemon.ends(DAEMON_LIMIT).expect(&what);
                assert!(self.signal == Signal::SIGKILL || status.success(), "{what}: {status}");
                held.daemon.start_again().expect(&what);
            }
            _ => {}
        }
        assert_thawed(&what, since, || held.daemon.said());
        let job = held.ends(&what);
        let points = suite.points();
        println!("{what}: {} ({}), over {:.1} s later", job["state"], job["code"], since.elapsed().as_secs_f64());
        self.assert_known(&job, points.len() - before.len());
        held
    }

    /// The job's end is what became of it. `made`: points.
    fn assert_known(self, job: &Value, made: usize) {
        let is_good = ["done", "warnings"].iter().any(|state| job["state"] == *state);
        let is_right = match (self.victim, self.signal) {
            // They go on, and so does what they wait for.
            (Victim::Daemon, _) | (Victim::Runner, Signal::SIGSTOP | Signal::SIGTERM) => is_good,
            (Victim::Runner, _) => job["state"] == "lost",
            (Victim::Command, Signal::SIGKILL) => job["state"] == "failed" && job["code"] == 128 + Signal::SIGKILL as i32,
            (Victim::Command, Signal::SIGTERM) => is_good || job["state"] == "failed" && job["code"] == 130,
            // One that stood still for long is killed by its guard.
            (Victim::Command, _) => is_good || job["state"] == "failed",
        };
        assert!(is_right, "{self:?}: {job:#}");
        assert!(made <= 1 && (made == 1 || !is_good && !has_point(self.step)), "{self:?}: {made} points came of {job:#}");
    }
}

fn all_of(victim: Victim, from: usize, lab: &Lab) {
    let suite = Suite::new(lab);
    let holder = Holder::new(&suite);
    let first = suite.quiet_backup("first");
    let all = STEPS.into_iter().flat_map(|step| SIGNALS.map(|signal| Accident { step, victim, signal }));
    let accidents = chosen(all, SHARE, from);
    for (number, accident) in accidents.iter().enumerate() {
        churn(&suite, number);
        let held = accident.happens(&suite, &holder);
        suite.assert_left_alone(CLEAN_LIMIT);
        assert_next_point(&suite, &format!("{accident:?}"), number, true);
        let mut daemon = held.daemon;
        kill(Pid::from_raw(i32::try_from(daemon.pid()).expect("process ids are small")), Signal::SIGTERM).expect("the daemon is there");
        assert!(daemon.ends(STEP_LIMIT).expect("it ends").success());
    }
    suite.assert_restores(&first);
    suite.cairn.ok(&["verify", "--all", "--data"]).expect("verify");
    println!("{} accidents, {} points", accidents.len(), suite.points().len());
}

// Where nothing is said: the daemon killed with the guest frozen, the runner killed while the disks are read, the command asked to end behind the commit.
lab_test!(to_the_daemon, Options::small(), |lab| { all_of(Victim::Daemon, 9, &lab) });
lab_test!(to_the_runner_of_its_job, Options::small(), |lab| { all_of(Victim::Runner, 21, &lab) });
lab_test!(to_the_command_of_its_job, Options::small(), |lab| { all_of(Victim::Command, 26, &lab) });
