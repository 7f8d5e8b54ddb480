//! Restores to other storage and other hosts: pools, devices, maps, and what a host lacks told before anything is written.

use cairn_lab::process::run_ok;
use cairn_lab::suite::{Suite, assert_refused};
use cairn_lab::{Domain, Options, cairn, lab_test};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const BOOT_LIMIT: Duration = Duration::from_secs(120);
const TOOL_LIMIT: Duration = Duration::from_secs(60);

fn pool(suite: &Suite, name: &str) -> PathBuf {
    let folder = suite.path(name);
    fs::create_dir(&folder).expect("a folder");
    let at = folder.to_string_lossy().into_owned();
    suite.domain.virsh_ok(&["pool-define-as", name, "dir", "--target", &at]).expect("pool");
    suite.domain.virsh_ok(&["pool-start", name]).expect("pool");
    folder
}

fn xml(domain: &Domain) -> String {
    domain.virsh_ok(&["dumpxml", "--inactive", domain.name()]).expect("XML")
}

fn define(suite: &Suite, xml: &str) {
    let path = suite.path("define.xml");
    fs::write(&path, xml).expect("written");
    suite.domain.virsh_ok(&["define", &path.to_string_lossy()]).expect("define");
}

lab_test!(disks_go_to_pools_and_back, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let fast = pool(&suite, "fast");
    let point = suite.quiet_backup("first");
    suite.cairn.ok(&["restore", &point.id, "--as", "p 1", "--pool", "fast", "--disk", "vdb=default/named one.raw"]).expect("restore");
    let copy = Domain::new("p 1");
    let defined = xml(&copy);
    assert!(defined.contains("pool='fast' volume='p 1-vda.qcow2'") && defined.contains("pool='default' volume='named one.raw'"), "{defined}");
    assert!(copy.virsh_ok(&["vol-list", "fast"]).expect("volumes").contains("p 1-vda.qcow2"), "libvirt sees it");
    copy.start(BOOT_LIMIT).expect("it boots from volumes");
    copy.sh("cat /mnt/a/greeting /mnt/b/greeting").expect("files");

    // The same way round: a domain on volumes is saved, lost, and comes back to its volumes by itself.
    suite.cairn.ok(&["backup", "p 1"]).expect("backup");
    copy.virsh_ok(&["destroy", "p 1"]).expect("destroy");
    copy.virsh_ok(&["undefine", "p 1"]).expect("undefine");
    let exists = suite.cairn.run(&["restore", "p 1"]).expect("it ends");
    assert_refused(&exists, cairn::REFUSED, "p 1-vda.qcow2");
    for volume in [fast.join("p 1-vda.qcow2"), Path::new("/var/lib/libvirt/images/named one.raw").to_owned()] {
        fs::remove_file(volume).expect("removed");
    }
    suite.cairn.ok(&["restore", "p 1", "--start"]).expect("restore");
    assert!(xml(&copy).contains("pool='fast' volume='p 1-vda.qcow2'"));
    copy.wait_agent(BOOT_LIMIT).expect("it boots");

    // A pool that is not there is told with its disk, before anything is written; another one may be named instead.
    copy.virsh_ok(&["destroy", "p 1"]).expect("destroy");
    copy.virsh_ok(&["undefine", "p 1"]).expect("undefine");
    suite.domain.virsh_ok(&["pool-destroy", "fast"]).expect("pool");
    let refused = suite.cairn.run(&["restore", "p 1", "--force"]).expect("it ends");
    assert_refused(&refused, cairn::REFUSED, "pool-start fast");
    suite.cairn.ok(&["restore", "p 1", "--pool", "default"]).expect("another pool");
    let nowhere = suite.cairn.run(&["restore", &point.id, "--disk", "vda=volume:no-such/x"]).expect("it ends");
    assert_refused(&nowhere, cairn::REFUSED, "no-such");
});

/// A loop device, detached at the end.
struct Loop(String);

impl Loop {
    fn of(file: &Path) -> Self {
        let path = run_ok(Command::new("losetup").args(["--find", "--show"]).arg(file), TOOL_LIMIT).expect("a loop device");
        Self(path.trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // The kernel keeps it until its last user is gone; nothing else is left to do.
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

lab_test!(a_domain_comes_back_to_a_block_device, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let point = suite.quiet_backup("only");
    let file = suite.path("device.raw");
    // Larger than the disk, and not empty: what is zero in the disk must be zero there, too.
    fs::write(&file, vec![0xa5; 160 << 20]).expect("written");
    let device = Loop::of(&file);
    let vda = format!("vda={}", device.0);
    let dir = suite.path("others");
    fs::create_dir(&dir).expect("a folder");
    let args = ["restore", &point.id, "--as", "on device", "--disk", &vda, "--dir", &dir.to_string_lossy()].map(str::to_owned);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    assert_refused(&suite.cairn.run(&args).expect("it ends"), cairn::REFUSED, &device.0);
    suite.cairn.ok(&[&args[..], &["--force"]].concat()).expect("restore");
    let copy = Domain::new("on device");
    let defined = xml(&copy);
    assert!(defined.contains("type='block'") && defined.contains(&format!("dev='{}'", device.0)), "{defined}");
    let restored = fs::read(&device.0).expect("readable");
    let reference = fs::read(&point.reference.vda).expect("reference");
    assert!(restored[..reference.len()] == reference[..], "other content");
    copy.start(BOOT_LIMIT).expect("it boots");
    copy.sh("cat /mnt/a/greeting").expect("files");
    copy.virsh_ok(&["destroy", "on device"]).expect("destroy");
    drop(device);
});

lab_test!(what_a_host_lacks_is_named_at_once, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    // The definition is another than what runs: it is what comes back.
    let changed = xml(&suite.domain)
        .replacen("<interface type='user'>", "<interface type='network'><source network='lan'/>", 1)
        .replacen("<kernel>", "<loader readonly='yes' type='pflash'>/no/such/OVMF_CODE_4M.fd</loader><nvram>/no/such/VARS.fd</nvram><kernel>", 1)
        .replacen(
            "</devices>",
            "<interface type='bridge'><source bridge='br-none'/></interface><disk type='file' device='cdrom'><source file='/no/such/cd.iso'/>\
             <target dev='sda' bus='sata'/><readonly/></disk></devices>",
            1,
        );
    define(&suite, &changed);
    suite.cairn.ok(&["backup", "lab1"]).expect("backup");
    let dir = suite.path("copy");
    fs::create_dir(&dir).expect("a folder");
    let at = dir.to_string_lossy().into_owned();
    let base = ["restore", "lab1", "--as", "moved", "--dir", &at];
    let said = assert_refused(&suite.cairn.run(&base).expect("it ends"), cairn::REFUSED, "--map-network lan=");
    for word in ["br-none", "/no/such/OVMF_CODE_4M.fd", "--ignore-missing", "nothing was written"] {
        assert!(said.contains(word), "{word} is missing in: {said}");
    }
    assert_eq!(fs::read_dir(&dir).expect("folder").count(), 0);
    assert!(suite.domain.virsh(&["domuuid", "moved"]).expect("virsh").code() != 0, "nothing is defined");

    let network = suite.path("network.xml");
    fs::write(&network, "<network><name>other</name></network>").expect("written");
    suite.domain.virsh_ok(&["net-define", &network.to_string_lossy()]).expect("network");
    let maps = ["--map-network", "lan=other", "--map-network", "br-none=lo", "--map-path", "/no/such=/usr/share/OVMF", "--map-network", "lann=other"];
    let output = suite.cairn.run(&[&base[..], &maps].concat()).expect("it ends");
    let said = assert_refused(&output, cairn::WARNINGS, "cd.iso");
    assert!(said.contains("--map-network lann=other fits nothing") && !said.contains("lan=other fits"), "{said}");
    let moved = xml(&Domain::new("moved"));
    for word in ["network='other'", "bridge='lo'", "/usr/share/OVMF/OVMF_CODE_4M.fd", &at] {
        assert!(moved.contains(word), "{word} is missing in: {moved}");
    }
    assert!(!moved.contains("cd.iso"), "a drive without its medium is empty: {moved}");

    let images = suite.path("images");
    fs::create_dir(&images).expect("a folder");
    let map = format!("/var/lib/libvirt/images={}", images.display());
    suite.domain.virsh_ok(&["destroy", "lab1"]).expect("destroy");
    suite.domain.virsh_ok(&["undefine", "lab1", "--nvram"]).expect("undefine");
    let output = suite.cairn.run(&["restore", "lab1", "--map-path", &map, "--ignore-missing"]).expect("it ends");
    assert_refused(&output, cairn::WARNINGS, "no network lan");
    let back = xml(&suite.domain);
    assert!(back.contains(&format!("{}/lab1-a.qcow2", images.display())) && back.contains("network='lan'"), "{back}");
});
