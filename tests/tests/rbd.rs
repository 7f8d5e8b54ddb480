//! RBD on a real cluster: a domain whose disk is an RBD image, and images that are saved by what `rbd diff` says.

use cairn_lab::ceph::{Ceph, PORT};
use cairn_lab::process::run_ok;
use cairn_lab::reference::difference;
use cairn_lab::suite::{Suite, assert_refused, mode};
use cairn_lab::{Domain, Options, lab_test};
use serde_json::Value;
use std::fs;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;
const SIZE: &str = "32M";

fn options() -> Options {
    Options { guest: false, ..Options::small() }
}

/// A machine without a system whose disk is `rbd/web`, written through QEMU's monitor.
fn machine(suite: &Suite) -> Domain {
    let text = format!(
        "<domain type='qemu'><name>web</name><memory unit='MiB'>32</memory><os><type arch='x86_64' machine='q35'>hvm</type></os><devices>\
         <disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='rbd' name='rbd/web'><host name='127.0.0.1' port='{PORT}'/></source>\
         <target dev='vda' bus='virtio'/><alias name='ua-vda'/></disk></devices></domain>"
    );
    let path = suite.path("web.xml");
    fs::write(&path, text).expect("written");
    suite.domain.virsh_ok(&["define", &path.to_string_lossy()]).unwrap_or_else(|e| panic!("{}", e.report()));
    let domain = Domain::new("web");
    domain.virsh_ok(&["start", "web"]).unwrap_or_else(|e| panic!("{}", e.report()));
    domain
}

fn write(domain: &Domain, number: u64) {
    for order in [format!("write -P {} {} 300k", number + 1, number * 2 * MIB + 4096), format!("write -z {} 64k", number * MIB), "flush".to_owned()] {
        let said = domain.hmp(&format!("qemu-io -d /machine/peripheral/ua-vda/virtio-backend \"{order}\"")).expect("QEMU answers");
        assert!(!said.to_lowercase().contains("error") && !said.contains("failed"), "{order}: {said}");
    }
}

/// The point's one disk is what the cluster has of an image or snapshot; its mode.
fn assert_is(suite: &Suite, ceph: &Ceph, id: &str, image: &str) -> String {
    let (wanted, restored) = (suite.path(&format!("{id}.wanted")), suite.path(&format!("{id}.raw")));
    ceph.rbd(&["export", "--no-progress", image, &wanted.to_string_lossy()]);
    let point = suite.point(id);
    let target = point["disks"][0]["target"].as_str().expect("a target").to_owned();
    suite.cairn.ok(&["restore", id, "--format", "raw", "--disk", &format!("{target}={}", restored.display())]).expect("restore");
    assert_eq!(difference(&wanted, &restored).expect("readable"), None, "{id} and {image}");
    println!("{image}: {}, {}", point["disks"][0]["mode"], point["disks"][0]["reason"]);
    mode(&point, &target)
}

lab_test!(a_domain_on_rbd_is_saved_while_it_runs, options(), |lab| {
    let suite = Suite::new(&lab);
    let ceph = Ceph::start(&lab.dir().join("ceph"));
    ceph.rbd(&["create", "rbd/web", "--size", SIZE]);
    let domain = machine(&suite);
    let save = |number: u64| {
        write(&domain, number);
        let point = suite.cairn.json(&["backup", "web", "--quiesce", "never"]).unwrap_or_else(|e| panic!("{}", e.report()));
        assert_is(&suite, &ceph, point["id"].as_str().expect("an id"), "rbd/web")
    };
    assert_eq!(save(1), "full");
    assert_eq!(save(2), "incremental");
    assert_eq!(save(3), "incremental");
    // A raw image has no place for the bitmap.
    domain.virsh_ok(&["destroy", "web"]).expect("destroy");
    let off = suite.cairn.run(&["backup", "web"]).expect("it ends");
    assert_refused(&off, off.code(), "vda");
    println!("off: {}", off.err_text().trim());
    domain.virsh_ok(&["start", "web"]).expect("start");
    assert_eq!(save(4), "compare");
    assert_eq!(save(5), "incremental");
    suite.cairn.ok(&["verify", "--all", "--data"]).expect("verify");
});

/// Some data at a place of its own, and a hole where there was some, as QEMU writes them by librbd.
fn change(ceph: &Ceph, number: u64) {
    let target = format!("rbd:rbd/img:conf={}", ceph.config().display());
    // Objects have 4 MiB: the whole one goes that has what was written before.
    for order in [format!("discard {} 4M", (number - 1) * 6 / 4 * 4 * MIB), format!("write -P {number} {} 192k", number * 6 * MIB + 8192)] {
        run_ok(Command::new("qemu-io").args(["-f", "raw", "-c", &order, &target]), LIMIT).unwrap_or_else(|e| panic!("{}", e.report()));
    }
}

lab_test!(an_image_is_saved_by_what_rbd_diff_says, options(), |lab| {
    let suite = Suite::new(&lab);
    let ceph = Ceph::start(&lab.dir().join("ceph"));
    ceph.rbd(&["create", "rbd/img", "--size", SIZE]);
    let file = suite.path("image.raw");
    let text = file.to_string_lossy().into_owned();
    let mut last: Option<String> = None;
    for number in 1..=4_u64 {
        change(&ceph, number);
        let snapshot = format!("rbd/img@b{number}");
        ceph.rbd(&["snap", "create", "--no-progress", &snapshot]);
        // What stands for a mapped device: this kernel may have no driver for one.
        let _ = fs::remove_file(&file);
        ceph.rbd(&["export", "--no-progress", &snapshot, &text]);
        let mut args = vec!["backup-image".to_owned(), text.clone(), "--name".into(), "img".into(), "--tag".into(), format!("b{number}")];
        if let Some(since) = &last {
            let list = ceph.rbd(&["diff", "--from-snap", &format!("b{}", number - 1), &snapshot, "--format", "json"]);
            println!("b{number}: {list}");
            assert!(list.contains("\"exists\":\"true\"") && list.contains("\"exists\":\"false\""), "data and a hole: {list}");
            fs::write(suite.path("changed.json"), list).expect("written");
            args.extend(["--changed".into(), suite.path("changed.json").to_string_lossy().into_owned(), "--since".into(), since.clone()]);
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let point: Value = suite.cairn.json(&args).unwrap_or_else(|e| panic!("{}", e.report()));
        let id = point["id"].as_str().expect("an id").to_owned();
        assert_eq!(assert_is(&suite, &ceph, &id, &snapshot), if last.is_some() { "incremental" } else { "full" });
        last = Some(id);
    }
    suite.cairn.ok(&["verify", "--all", "--data"]).expect("verify");
});
