//! What people choose of a run, in one domain's life: its network, its memory, the pools of its images. And points handed out meanwhile.

use cairn_lab::chaos::rng::mix;
use cairn_lab::suite::Suite;
use cairn_lab::{Domain, Options, cairn, lab_test, reference, runs};
use std::path::{Path, PathBuf};

const RUN: &str = "chosen";
const NETWORK: &str = "alone";
const AGENT_S: &str = "180";
/// The original has 320 MiB.
const MEMORY_MIB: u64 = 448;
const FIRST_MAC: &str = "52:54:00:ca:17:01";

/// A network that leads nowhere, while it is held. Its bridge is the host's: labs share that.
struct Isolated {
    domain: Domain,
}

impl Isolated {
    fn start(suite: &Suite) -> Self {
        let unique = suite.lab.folder().to_string_lossy().bytes().fold(0, |sum, byte| mix(sum ^ u64::from(byte)));
        let path = suite.path("network.xml");
        // Without addresses libvirt starts no DHCP server.
        let xml = format!("<network><name>{NETWORK}</name><bridge name='crn{:08x}' stp='off'/></network>", unique & 0xffff_ffff);
        std::fs::write(&path, xml).expect("written");
        suite.domain.virsh_ok(&["net-define", &path.to_string_lossy()]).expect("net-define");
        let network = Self { domain: suite.domain.clone() };
        network.domain.virsh_ok(&["net-start", NETWORK]).expect("net-start");
        network
    }
}

impl Drop for Isolated {
    fn drop(&mut self) {
        // At the end of a test that may have failed: nobody to tell.
        let _ = self.domain.virsh(&["net-destroy", NETWORK]);
    }
}

fn pool(suite: &Suite, name: &str) -> PathBuf {
    let folder = suite.path(name);
    std::fs::create_dir_all(&folder).expect("folder");
    cairn_lab::folder::set_mode(&folder, 0o711).expect("mode");
    suite.domain.virsh_ok(&["pool-define-as", name, "dir", "--target", &folder.to_string_lossy()]).expect("pool");
    suite.domain.virsh_ok(&["pool-start", name]).expect("pool-start");
    folder
}

fn names(folder: &Path) -> Vec<String> {
    std::fs::read_dir(folder).expect("folder").flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// A disk of a point, handed out, is what the reference is.
fn assert_exports(suite: &Suite, point: &str, target: &str, reference: &Path) {
    let raw = suite.path("exported.raw");
    suite.cairn.ok(&["export", point, "--disk", target, "--raw", &raw.to_string_lossy()]).expect("export");
    assert_eq!(reference::difference(reference, &raw).expect("readable"), None, "{target} of {point}");
    std::fs::remove_file(&raw).expect("ours");
}

lab_test!(network_memory_and_pools_are_those_that_were_asked_for, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let network = Isolated::start(&suite);
    let (overlays, kept) = (pool(&suite, "overlays"), pool(&suite, "kept"));
    let sum = runs::content_sum(&suite.domain).expect("sum");
    let point = suite.quiet_backup("only");
    // Of a domain that runs.
    assert_exports(&suite, &point.id, "vda", &point.reference.vda);
    suite.domain.virsh_ok(&["suspend", "lab1"]).expect("suspend");
    let memory = format!("{MEMORY_MIB}MiB");
    let asked = ["run", "lab1@latest", "--as", RUN, "--network", NETWORK, "--memory", &memory, "--pool", "overlays", "--wait-agent", AGENT_S];
    let told = suite.cairn.json(&asked).expect("run");
    assert_eq!(told["own"], serde_json::json!([format!("serial 0: a pty of its own, not file {}", cairn_lab::console::LOG)]), "{told}");
    let copy = Domain::new(RUN);

    let interfaces = copy.virsh_ok(&["domiflist", RUN]).expect("domiflist");
    assert!(interfaces.contains(NETWORK) && interfaces.lines().count() == 1, "{interfaces}");
    let mac = copy.sh("cat /sys/class/net/eth0/address").expect("the guest has an interface");
    assert!(interfaces.contains(mac.trim()) && mac.trim() != FIRST_MAC, "{mac} in {interfaces}");
    let total = copy.sh("sed -n 's/^MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo").expect("meminfo");
    let mib = total.trim().parse::<u64>().expect("a number") / 1024;
    assert!((MEMORY_MIB - 80..=MEMORY_MIB).contains(&mib), "the guest has {mib} MiB");
    let images = runs::disks_of(&copy);
    assert!(images.len() == 2 && images.iter().all(|(_, image)| Path::new(image).starts_with(&overlays)), "{images:?}");

    suite.cairn.ok(&["keep", RUN, "--to", "kept"]).expect("keep");
    runs::assert_ordinary(&copy, Some(&kept));
    assert_eq!(names(&overlays), Vec::<String>::new(), "overlays");
    assert_eq!((names(&kept).len(), runs::content_sum(&copy).expect("sum")), (2, sum));
    assert!(runs::left_over().is_empty(), "{:?}", runs::left_over());

    // Of a domain that is off.
    copy.sh("dd if=/dev/urandom of=/mnt/b/later bs=64k count=9 2>/dev/null; sync").expect("writes");
    copy.virsh_ok(&["destroy", RUN]).expect("destroy");
    let output = suite.cairn.run(&["backup", RUN]).expect("it ends");
    assert!([cairn::DONE, cairn::WARNINGS].contains(&output.code()), "{}", output.err_text());
    for (target, image) in runs::disks_of(&copy) {
        let raw = suite.path("now.raw");
        reference::raw_copy(Path::new(&image), "qcow2", &raw).expect("convert");
        assert_exports(&suite, &format!("{RUN}@latest"), &target, &raw);
    }
    drop(network);
});
