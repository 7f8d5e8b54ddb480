//! How fast a guest boots from a backup, beside the same guest on its own images.

use cairn_lab::suite::Suite;
use cairn_lab::{Options, lab_test, process};
use std::path::Path;
use std::time::{Duration, Instant};

const BACK_LIMIT: Duration = Duration::from_secs(120);
/// The aim is 1.1; a busy machine must not fail the suite for it.
const RATIO_MAX: f64 = 1.5;
const PAIRS_MIN: usize = 2;
const PAIRS_MAX: usize = 5;

/// First output and agent, each of the best boot.
fn best(times: &[(Duration, Duration)]) -> (Duration, Duration) {
    (times.iter().map(|t| t.0).min().expect("one at least"), times.iter().map(|t| t.1).min().expect("one at least"))
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}

// From the command to the guest's first words and to its agent, beside the same guest on its own images, one after the other.
//
// The best boot of each counts, since other work on the host only makes them longer: of two each, and of up to five where the two are not enough, for work
// that comes and goes may have met all boots of one kind. A run that is slow itself is slow in all of them. A run defines its domain, so the guest on its own
// images is defined anew as well: libvirt 11.3 without KVM asks QEMU for its capabilities at each definition, for seconds (docs/lab.md).
lab_test!(a_run_boots_as_fast_as_a_local_guest, Options { data_mib: 72, ..Options::small() }, |lab| {
    let suite = Suite::new(&lab);
    // The lab's kernel is told to be quiet; its first words are what is waited for here.
    let xml = suite.domain.virsh_ok(&["dumpxml", "--inactive", "lab1"]).expect("dumpxml");
    let talking = suite.path("lab1.xml");
    std::fs::write(&talking, xml.replace(" quiet ", " ")).expect("written");
    suite.domain.virsh_ok(&["define", &talking.to_string_lossy()]).expect("define");
    suite.domain.virsh_ok(&["destroy", "lab1"]).expect("destroy");
    suite.domain.start(BACK_LIMIT).expect("start");
    suite.cairn.ok(&["backup", "lab1"]).expect("backup");
    let log = Path::new(cairn_lab::console::LOG);
    let boot = |start: &mut dyn FnMut()| {
        std::fs::File::options().write(true).open(log).and_then(|file| file.set_len(0)).expect("the console's log");
        // Neither finds the other's images in memory.
        process::run_ok(std::process::Command::new("sh").args(["-c", "sync; echo 3 > /proc/sys/vm/drop_caches"]), BACK_LIMIT).expect("caches");
        let begin = Instant::now();
        start();
        process::wait_for("first output", BACK_LIMIT, Duration::from_millis(5), || Ok((std::fs::metadata(log).expect("log").len() > 0).then_some(())))
            .expect("output");
        let output = begin.elapsed();
        suite.domain.wait_agent(BACK_LIMIT).expect("agent");
        (output, begin.elapsed())
    };
    let virsh = |args: &[&str]| drop(suite.domain.virsh_ok(args).expect("virsh"));
    let (mut local, mut run) = (Vec::new(), Vec::new());
    virsh(&["destroy", "lab1"]);
    while local.len() < PAIRS_MIN || (local.len() < PAIRS_MAX && ratio(best(&run).1, best(&local).1) >= RATIO_MAX) {
        local.push(boot(&mut || {
            virsh(&["define", &talking.to_string_lossy()]);
            virsh(&["start", "lab1"]);
        }));
        virsh(&["destroy", "lab1"]);
        virsh(&["undefine", "lab1"]);
        run.push(boot(&mut || drop(suite.cairn.ok(&["run", "lab1@latest", "--keep-identity"]).expect("run"))));
        suite.cairn.ok(&["discard", "lab1", "--force"]).expect("discard");
    }
    let ((local_output, local_agent), (run_output, run_agent)) = (best(&local), best(&run));
    println!("local {local:?}, run {run:?}");
    println!(
        "first output: local {local_output:.2?}, run {run_output:.2?}, ratio {:.2}; agent: local {local_agent:.2?}, run {run_agent:.2?}, ratio {:.2}",
        ratio(run_output, local_output),
        ratio(run_agent, local_agent)
    );
    assert!(ratio(run_agent, local_agent) < RATIO_MAX, "a run boots much slower than a local guest");
});
