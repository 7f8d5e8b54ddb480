//! A run whose guest writes, all that is around it, and what befalls them: somebody killed, the power failing.
//!
//! The order of victims and moments comes from a seed that is printed; `CAIRN_SEED` repeats a run. `CAIRN_RUN_KILLS` is how many kills each test
//! makes; the default is for every day. Functions here panic on failure, as tests do.

use crate::chaos::rng::Rng;
use crate::daemon::Daemon;
use crate::domain::Domain;
use crate::filesystem;
use crate::lab::Lab;
use crate::process::wait_for;
use crate::reference;
use crate::runs::{self, Part};
use crate::suite::Suite;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

/// The run's name.
pub const RUN: &str = "lab1-run";
/// Limit for its agent, seconds.
pub const AGENT_S: &str = "180";
/// From a kill to a guest that answers and writes again.
pub const BACK_LIMIT: Duration = Duration::from_secs(90);
/// For a boot of a run beside other suites.
pub const BOOT_LIMIT: Duration = Duration::from_secs(180);
const KILLS: u64 = 8;

/// How many kills a test makes.
#[must_use]
pub fn kills() -> u64 {
    std::env::var("CAIRN_RUN_KILLS").map_or(KILLS, |text| text.parse().ok().filter(|n| *n > 0).expect("CAIRN_RUN_KILLS: a number of kills"))
}

/// From `CAIRN_SEED`, or the clock; says which.
///
/// # Panics
/// The clock is before 1970.
#[must_use]
pub fn rng() -> Rng {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let seed = std::env::var("CAIRN_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(time.as_secs());
    println!("seed: CAIRN_SEED={seed}");
    Rng::new(seed)
}

/// A store with a point, the daemon, and a run of the point.
pub struct Scene {
    /// Store and original, which stands still: two guests share two slow cores.
    pub suite: Suite,
    /// The run's domain.
    pub copy: Domain,
    /// Sum of what the point has ([`runs::content_sum`]).
    pub sum: String,
    service: Daemon,
}

impl Scene {
    /// Without a run yet.
    ///
    /// # Panics
    /// Something does not come up.
    #[must_use]
    pub fn prepare(lab: &Lab) -> Self {
        let suite = Suite::new(lab);
        let sum = runs::content_sum(&suite.domain).expect("sum");
        suite.cairn.ok(&["backup", "lab1"]).expect("backup");
        suite.domain.virsh_ok(&["suspend", "lab1"]).expect("suspend");
        Self::around(lab, suite, sum)
    }

    /// With a point that was made already.
    ///
    /// # Panics
    /// The daemon does not come up.
    #[must_use]
    pub fn around(lab: &Lab, suite: Suite, sum: String) -> Self {
        let config = format!("stores:\n  main: {{ url: {}, key_file: {} }}\n", suite.cairn.store().display(), suite.cairn.key().display());
        let service = Daemon::start(lab, &config).expect("the daemon");
        Self { suite, copy: Domain::new(RUN), sum, service }
    }

    /// With a run whose guest writes.
    ///
    /// # Panics
    /// Something does not come up.
    #[must_use]
    pub fn begin(lab: &Lab) -> Self {
        let scene = Self::prepare(lab);
        scene.run();
        scene
    }

    /// Makes the run, and has its guest write.
    ///
    /// # Panics
    /// It does not come up.
    pub fn run(&self) {
        self.suite.cairn.ok(&["run", "lab1@latest", "--wait-agent", AGENT_S]).expect("run");
        self.copy.writer_start(2).expect("writer");
    }

    /// A command that is not waited for.
    ///
    /// # Panics
    /// It cannot be started.
    #[must_use]
    pub fn start(&self, args: &[&str]) -> Child {
        self.suite.cairn.command(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
    }

    /// Kills a victim; what a service manager keeps alive is started again at once. Gives how many there were.
    ///
    /// # Panics
    /// It does not come up again.
    pub fn strike(&mut self, victim: Part) -> usize {
        let killed = runs::kill_all(victim);
        match victim {
            Part::Libvirtd => runs::libvirtd_again(self.suite.lab.folder()).expect("libvirtd"),
            Part::Service => self.service_again(),
            _ => {}
        }
        killed
    }

    fn service_again(&mut self) {
        // It is dead; it is reaped.
        let _ = self.service.kill();
        self.service.start_again().expect("the daemon");
    }

    /// The power fails for all of it at once, `child` included.
    pub fn power_off(&mut self, child: Option<Child>) {
        runs::power_off();
        let _ = self.service.kill();
        if let Some(mut child) = child {
            // Ended already is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// After a power failure: libvirt and the daemon are back, and nothing of /run.
    ///
    /// # Panics
    /// They do not come up.
    pub fn power_on(&mut self) {
        let _ = std::fs::remove_dir_all("/run/cairn");
        runs::libvirtd_again(self.suite.lab.folder()).expect("libvirtd");
        self.service_again();
    }

    /// There is a record of the run.
    #[must_use]
    pub fn is_run(&self) -> bool {
        Path::new(runs::RECORDS).join(RUN).exists()
    }

    /// The record, or nothing.
    #[must_use]
    pub fn record(&self) -> String {
        std::fs::read_to_string(Path::new(runs::RECORDS).join(RUN).join("run.json")).unwrap_or_default()
    }

    /// Somebody asked for a keep, and it is not done.
    #[must_use]
    pub fn is_being_kept(&self) -> bool {
        let wish = Path::new(runs::RECORDS).join(RUN).join("wish.json");
        std::fs::read_to_string(wish).is_ok_and(|wish| wish.contains("\"keep\""))
    }

    /// Waits until a keep that was asked for has begun, and for a moment within it.
    ///
    /// # Panics
    /// It does not begin.
    pub fn wait_begun(&self, moment_ms: u64) {
        let begun = || Ok(self.is_being_kept().then_some(()));
        wait_for("begin of the keep", BOOT_LIMIT, Duration::from_millis(2), begun).expect("it begins");
        std::thread::sleep(Duration::from_millis(moment_ms));
    }

    /// Waits until the guest answers and the writer goes on; gives what is acknowledged then.
    ///
    /// # Panics
    /// It does not.
    pub fn wait_writes(&self, since: u64) -> u64 {
        let writes = || Ok(runs::acknowledged(&self.copy).ok().filter(|now| *now > since));
        wait_for("the guest's writes", BACK_LIMIT, Duration::from_millis(300), writes)
            .unwrap_or_else(|error| panic!("{}; the guest is {:?}", error.report(), self.copy.virsh_ok(&["domstate", "--reason", RUN])))
    }

    /// Waits for its agent after a start of the run that a power failure had ended, and for all that was acknowledged before; gives the records.
    ///
    /// # Panics
    /// It does not boot, or a record is lost.
    pub fn wait_boot(&self, acknowledged: u64) -> u64 {
        // A keep that goes on pauses it for moments.
        self.copy
            .wait_agent_again(BOOT_LIMIT)
            .unwrap_or_else(|error| panic!("{}; the guest is {:?}", error.report(), self.copy.virsh_ok(&["domstate", "--reason", RUN])));
        let bytes: u64 = self.copy.sh("wc -c < /mnt/b/journal").expect("journal").trim().parse().expect("a number");
        let records = bytes / crate::journal::RECORD_BYTES as u64;
        assert!(records >= acknowledged, "{records} records are there, {acknowledged} were acknowledged");
        records
    }

    /// Both journals of the run's domain, which is off, from its images; whole and at least so long.
    ///
    /// # Panics
    /// They are not.
    pub fn assert_journals(&self, least: u64) {
        let folder = self.suite.path("journals");
        std::fs::create_dir_all(&folder).expect("folder");
        let mut raw = Vec::new();
        for (target, image) in runs::disks_of(&self.copy) {
            let image = Path::new(&image);
            let format = if image.extension().is_some_and(|e| e == "raw") { "raw" } else { "qcow2" };
            let to = folder.join(&target);
            reference::raw_copy(image, format, &to).expect("convert");
            assert!(filesystem::moment(&to, &self.suite.path("scratch")).expect("ext4").whole, "fsck finds errors in {target}");
            raw.push(to);
        }
        let (a, b) = filesystem::check_journals(&raw[0], &raw[1], &self.suite.path("scratch")).expect("one point in time");
        println!("journals: {a} and {b} records, {least} were acknowledged");
        assert!(b >= least, "{b} records are there, {least} were acknowledged");
    }

    /// Ends the guest in good order and checks all that must be there.
    ///
    /// # Panics
    /// Something is not.
    pub fn assert_whole(&self) {
        let acknowledged = self.wait_writes(0);
        self.copy.writer_stop().expect("stop");
        assert_eq!(runs::content_sum(&self.copy).expect("sum"), self.sum, "what the backup had");
        self.copy.sh("sync").expect("sync");
        self.copy.virsh_ok(&["destroy", RUN]).expect("destroy");
        self.assert_journals(acknowledged);
    }

    /// Waits until neither process nor file nor domain of a run is left.
    ///
    /// # Panics
    /// Something is.
    pub fn assert_nothing_left(&self) {
        let gone = |what: &str, is: &dyn Fn() -> bool| wait_for(what, BACK_LIMIT, Duration::from_millis(50), || Ok(is().then_some(()))).is_ok();
        assert!(gone("end of the run", &|| runs::left_over().is_empty()), "left: {:#?}", runs::left_over());
        assert!(self.copy.state().is_err(), "the domain is left");
        assert!(gone("end of its QEMU", &|| runs::pids(Part::Qemu).is_empty()), "its QEMU is left: {:?}", runs::pids(Part::Qemu));
    }
}
