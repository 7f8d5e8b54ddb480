//! The accident suite: each process that a backup needs is killed, stopped for five seconds and asked to end behind each step of a backup.
//!
//! Whatever happens: the guest runs on (unless QEMU itself ended) and is not frozen beyond the limit, fifteen seconds later nothing is left, the next
//! point is right, and it is incremental wherever QEMU lived on.
//!
//! The cases are made from the three lists below. All of them take 25 minutes and more, so a run takes every eleventh, other ones for each victim, and two of
//! what an admin may do; `CAIRN_ACCIDENTS=all` takes all, and `CAIRN_ACCIDENTS=3` those of another share.

use cairn_lab::accident::{BOOT_LIMIT, SIGNALS, SLACK, STEP_LIMIT, assert_next_point, assert_thawed, chosen, churn, goes_on_later, libvirtd_comes_back, qemu};
use cairn_lab::frozen::child_named;
use cairn_lab::steps::{Held, Holder, STEPS};
use cairn_lab::suite::{CLEAN_LIMIT, Suite, mode};
use cairn_lab::{Options, lab_test, libvirt, process};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

/// One of so many cases is tried where nothing is said.
/// It shares no factor with the number of signals: all signals are among them.
const SHARE: usize = 11;
/// The same of what an admin may do.
const SHARE_OF_ORDERS: usize = 3;

/// Events that libvirt handles one by one may take half a minute each while a backup's job runs.
const END_LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Job,
    Guard,
    Libvirtd,
    Qemu,
}

impl Victim {
    /// Its process; a guard there is only once it was started.
    fn pid(self, held: &Held) -> Option<Pid> {
        match self {
            Self::Job => Some(held.pid()),
            Self::Guard => child_named(held.pid(), "guard"),
            Self::Libvirtd => Some(libvirt::daemon().expect("libvirtd")),
            Self::Qemu => Some(qemu()),
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
    /// The backup is over when this returns.
    fn happens(self, suite: &Suite, holder: &Holder) {
        let what = format!("{self:?}");
        let mut held = holder.hold(suite, self.step);
        let Some(pid) = self.victim.pid(&held) else { panic!("there is no {:?} behind '{}'", self.victim, self.step) };
        let since = Instant::now();
        kill(pid, self.signal).expect("it is there");
        held.goes_on();
        match (self.signal, self.victim) {
            (Signal::SIGSTOP, _) => goes_on_later(pid),
            (_, Victim::Libvirtd) => libvirtd_comes_back(suite, pid),
            _ => {}
        }
        if self.is_qemu_left() {
            assert_thawed(&what, since, || held.said());
        }
        let status = held.ends(&what);
        println!("{:?} {} behind '{}': {status}, over {:.1} s later", self.victim, self.signal, self.step, since.elapsed().as_secs_f64());
    }

    fn is_qemu_left(self) -> bool {
        self.victim != Victim::Qemu || self.signal == Signal::SIGSTOP
    }

    fn is_made_good(self, suite: &Suite, number: usize) {
        if self.is_qemu_left() {
            suite.assert_left_alone(CLEAN_LIMIT);
        } else {
            let is_off = || Ok((suite.domain.state()? == "shut off").then_some(()));
            process::wait_for("end of the domain", STEP_LIMIT, POLL, is_off).expect("it is off");
            suite.domain.start(BOOT_LIMIT).expect("it starts");
        }
        assert_next_point(suite, &format!("{self:?}"), number, self.is_qemu_left());
    }
}

fn accidents_to(victim: Victim) -> impl Iterator<Item = Accident> {
    let has_guard = move |step: &&str| victim != Victim::Guard || *step != STEPS[0];
    STEPS.into_iter().filter(has_guard).flat_map(move |step| SIGNALS.map(|signal| Accident { step, victim, signal }))
}

fn all_of(victim: Victim, lab: &cairn_lab::Lab) {
    let suite = Suite::new(lab);
    let holder = Holder::new(&suite);
    let first = suite.quiet_backup("first");
    // Other steps for each.
    let accidents = chosen(accidents_to(victim), SHARE, 3 * victim as usize);
    assert!(!accidents.is_empty(), "nothing to try");
    for (number, accident) in accidents.iter().enumerate() {
        churn(&suite, number);
        accident.happens(&suite, &holder);
        accident.is_made_good(&suite, number);
    }
    suite.assert_restores(&first);
    // Points that were committed before an accident have no reference; all their data must be there.
    suite.cairn.ok(&["verify", "--all", "--data"]).expect("verify");
    println!("{} accidents, {} points", accidents.len(), suite.points().len());
}

lab_test!(to_the_job, Options::small(), |lab| { all_of(Victim::Job, &lab) });
lab_test!(to_the_guard, Options::small(), |lab| { all_of(Victim::Guard, &lab) });
lab_test!(to_libvirtd, Options::small(), |lab| { all_of(Victim::Libvirtd, &lab) });
lab_test!(to_qemu, Options::small(), |lab| { all_of(Victim::Qemu, &lab) });

/// What an admin does while the disks are read; the backup's exit codes that are right then, and how the domain is brought back.
struct Order {
    args: &'static [&'static str],
    is_done: bool,
    codes: &'static [i32],
    back: &'static [&'static str],
    /// The next point is read by bitmaps.
    incremental: [bool; 2],
}

/// The lab's guest knows no other shutdown.
const POWER_OFF: &str = r#"{"execute": "guest-exec", "arguments": {"path": "/bin/sh", "arg": ["-c", "sync; poweroff -f"]}}"#;

const ORDERS: [Order; 7] = [
    Order { args: &["domjobabort", "lab1"], is_done: true, codes: &[1, 13], back: &[], incremental: [true, true] },
    Order { args: &["suspend", "lab1"], is_done: true, codes: &[0], back: &["resume", "lab1"], incremental: [true, true] },
    Order { args: &["detach-disk", "lab1", "vdb", "--live"], is_done: false, codes: &[0], back: &[], incremental: [true, true] },
    Order { args: &["blockresize", "lab1", "vdb", "104M"], is_done: false, codes: &[0], back: &[], incremental: [true, true] },
    Order { args: &["destroy", "lab1"], is_done: true, codes: &[0, 3], back: &["start", "lab1"], incremental: [true, false] },
    Order { args: &["qemu-agent-command", "lab1", POWER_OFF], is_done: true, codes: &[0], back: &["start", "lab1"], incremental: [true, false] },
    // libvirt waits for half a minute.
    Order { args: &["snapshot-create-as", "lab1", "s", "--disk-only"], is_done: false, codes: &[0], back: &[], incremental: [true, true] },
];

lab_test!(by_the_admin, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let holder = Holder::new(&suite);
    let first = suite.quiet_backup("first");
    for (number, order) in chosen(ORDERS.iter(), SHARE_OF_ORDERS, 1).into_iter().enumerate() {
        churn(&suite, number);
        let what = order.args.join(" ");
        let mut held = holder.hold(&suite, "reading begins");
        let pid = qemu();
        let output = suite.domain.virsh(order.args).expect("virsh ends");
        assert_eq!(output.status.success(), order.is_done, "{what}: {}", output.err_text());
        if order.back.first() == Some(&"start") {
            // libvirt itself may learn of it half a minute later: the agent's port that closes has its turn first (docs/capture.md).
            process::wait_for("end of QEMU", STEP_LIMIT, POLL, || Ok(kill(pid, None).is_err().then_some(()))).expect(&what);
        }
        held.goes_on();
        let status = held.ends(&what);
        println!("{what}: {status}; {}", output.err_text().trim());
        assert!(order.codes.contains(&process::exit_code(status)), "{what}: {status}: {}", held.said());
        if !order.back.is_empty() {
            let is_over = |state: &str| order.back[0] != "start" || state == "shut off";
            process::wait_for("what was ordered", END_LIMIT, POLL * 40, || Ok(is_over(&suite.domain.state()?).then_some(()))).expect(&what);
            suite.domain.virsh_ok(order.back).unwrap_or_else(|e| panic!("{what}: {}", e.report()));
            suite.domain.wait_agent(BOOT_LIMIT).expect("agent");
        }
        let next = suite.quiet_backup(&format!("after-{number}"));
        suite.assert_left_alone(SLACK);
        suite.assert_restores(&next);
        let point = suite.point(&next.id);
        for (target, incremental) in ["vda", "vdb"].into_iter().zip(order.incremental) {
            assert_eq!(mode(&point, target) == "incremental", incremental, "{what}, {target}: {point:#}");
        }
    }
    suite.assert_restores(&first);
    suite.cairn.ok(&["verify", "--all", "--data"]).expect("verify");
});
