//! The accident suite for a domain that is off: the backup, a storage daemon that reads for it and libvirtd are killed, stopped for five seconds and asked
//! to end behind each step; and the domain is started there.
//!
//! Whatever happens: no image is written to, there is a point exactly where the backup says so, fifteen seconds later no storage daemon is left, the domain
//! starts at any moment, and the next point is right and incremental by the bitmap that is in the image.
//!
//! The cases are made from the lists below; a run takes one to three of each test, `CAIRN_ACCIDENTS=all` takes all, and `CAIRN_ACCIDENTS=3` those of
//! another share.

use cairn_lab::accident::{BOOT_LIMIT, SIGNALS, assert_next_point, chosen, goes_on_later, libvirtd_comes_back};
use cairn_lab::off::{self, images, qemu_io, shut_down, stamps, storage_daemons};
use cairn_lab::steps::{Held, Holder, OFFLINE_STEPS, has_point};
use cairn_lab::suite::{CLEAN_LIMIT, Suite, mode};
use cairn_lab::{Lab, Options, cairn, lab_test, libvirt, process};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

/// One of so many cases is tried where nothing is said.
const SHARE: usize = 7;
/// The same of starts, each of which boots a guest.
const SHARE_OF_STARTS: usize = 6;
/// Steps at which storage daemons run.
const WITH_DAEMONS: [&str; 3] = ["disks open", "reading begins", "committed"];
const POLL: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Job,
    StorageDaemon,
    Libvirtd,
}

impl Victim {
    fn pid(self, held: &Held) -> Pid {
        match self {
            Self::Job => held.pid(),
            // That of the first disk.
            Self::StorageDaemon => Pid::from_raw(storage_daemons().into_iter().min().and_then(|pid| i32::try_from(pid).ok()).expect("a daemon for each disk")),
            Self::Libvirtd => libvirt::daemon().expect("libvirtd"),
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
    fn happens(self, suite: &Suite, holder: &Holder) {
        let what = format!("{self:?}");
        let (points, before) = (suite.points(), stamps());
        let mut held = holder.hold(suite, self.step);
        let pid = self.victim.pid(&held);
        let since = Instant::now();
        kill(pid, self.signal).expect("it is there");
        held.goes_on();
        match (self.signal, self.victim) {
            (Signal::SIGSTOP, _) => goes_on_later(pid),
            (_, Victim::Libvirtd) => libvirtd_comes_back(suite, pid),
            _ => {}
        }
        let code = process::exit_code(held.ends(&what));
        println!("{what}: {code}, over {:.1} s later", since.elapsed().as_secs_f64());
        let gone = || Ok(storage_daemons().is_empty().then_some(()));
        process::wait_for("the storage daemons' end", CLEAN_LIMIT, POLL, gone).unwrap_or_else(|e| panic!("{what}: {}", e.report()));
        assert_eq!(stamps(), before, "{what}: an image was written to");
        let is_good = [cairn::DONE, cairn::WARNINGS].contains(&code);
        assert!(is_good || !self.must_be_good(), "{what}: {code}: {}", held.said());
        assert!(!is_good || !self.must_fail(), "{what}: {code}: {}", held.said());
        assert_eq!(suite.points().len() - points.len(), usize::from(is_good || has_point(self.step)), "{what}: {code}: {}", held.said());
    }

    /// What only stands still for a while, or is not needed any more, is no reason to fail.
    fn must_be_good(self) -> bool {
        self.signal == Signal::SIGSTOP || self.victim != Victim::Job && has_point(self.step)
    }

    /// Who is gone reads nothing; one that is asked to end may answer first what it was asked before.
    fn must_fail(self) -> bool {
        self.signal == Signal::SIGKILL && (self.victim == Victim::Job || !has_point(self.step))
    }
}

/// Somebody writes to both images, beside their file systems.
fn write(number: usize) {
    let (pattern, at) = (number % 255 + 1, number % 8 * 128);
    qemu_io(&images()[0], "qcow2", &format!("write -P {pattern} {}k 128k", 126 * 1024 + at));
    qemu_io(&images()[1], "raw", &format!("write -P {pattern} {}k 128k", 94 * 1024 + at));
}

fn begun(lab: &Lab) -> (Suite, Holder) {
    let suite = Suite::new(lab);
    let holder = Holder::new(&suite);
    let _first = suite.quiet_backup("first");
    shut_down(&suite);
    (suite, holder)
}

fn all_of(victim: Victim, steps: &'static [&'static str], from: usize, lab: &Lab) {
    let (suite, holder) = begun(lab);
    let all = steps.iter().flat_map(|step| SIGNALS.map(|signal| Accident { step, victim, signal }));
    let accidents = chosen(all, SHARE, from);
    for (number, accident) in accidents.iter().enumerate() {
        write(2 * number);
        accident.happens(&suite, &holder);
        assert_eq!(suite.domain.state().expect("libvirt answers"), "shut off");
        write(2 * number + 1);
        let next = off::backup(&suite, &format!("after-{number}"), cairn::DONE);
        let point = suite.point(&next.id);
        assert_eq!((mode(&point, "vda").as_str(), mode(&point, "vdb").as_str()), ("incremental", "compare"), "{accident:?}: {point:#}");
    }
    suite.domain.start(BOOT_LIMIT).expect("nobody is in its way");
    suite.cairn.ok(&["verify", "--all", "--data"]).expect("verify");
    println!("{} accidents, {} points", accidents.len(), suite.points().len());
}

// Where nothing is said: all three signals to the backup, the storage daemon killed while it is read from, libvirtd stopped, killed and ended.
lab_test!(to_the_backup, Options::small(), |lab| { all_of(Victim::Job, &OFFLINE_STEPS, 2, &lab) });
lab_test!(to_a_storage_daemon, Options::small(), |lab| { all_of(Victim::StorageDaemon, &WITH_DAEMONS, 3, &lab) });
lab_test!(to_libvirtd, Options::small(), |lab| { all_of(Victim::Libvirtd, &OFFLINE_STEPS, 3, &lab) });

lab_test!(the_domain_starts, Options::small(), |lab| {
    let (suite, holder) = begun(&lab);
    for (number, step) in chosen(OFFLINE_STEPS.into_iter(), SHARE_OF_STARTS, 1).into_iter().enumerate() {
        write(number);
        let before = suite.points().len();
        let mut held = holder.hold(&suite, step);
        suite.domain.virsh_ok(&["start", "lab1"]).unwrap_or_else(|e| panic!("behind '{step}': {}", e.report()));
        held.goes_on();
        let code = process::exit_code(held.ends(step));
        println!("started behind '{step}': {code}");
        assert!([cairn::DONE, cairn::WARNINGS].contains(&code), "'{step}': {code}: {}", held.said());
        let points = suite.points();
        assert_eq!(points.len(), before + 1, "one point came of it: {}", held.said());
        let capture = suite.point(&points[before])["source"]["capture"].clone();
        assert_eq!(capture, if has_point(step) { "offline" } else { "live" }, "'{step}'");
        suite.domain.wait_agent(BOOT_LIMIT).expect("it boots");
        suite.assert_left_alone(CLEAN_LIMIT);
        assert_eq!(storage_daemons(), Vec::<u32>::new(), "'{step}'");
        // The bitmap of the raw image is that of the live point, or there is none.
        assert_next_point(&suite, step, number, !has_point(step));
        shut_down(&suite);
    }
    suite.cairn.ok(&["verify", "--all", "--data"]).expect("verify");
});
