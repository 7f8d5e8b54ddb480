//! Restores as whole domains, and what goes with the disks.

use cairn_lab::suite::Suite;
use cairn_lab::{Domain, Options, lab_test};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// The definition with more that two domains cannot share, some of which this host has not: a copy that keeps that does not start. The guest that runs does
/// not hear of it.
fn add_what_cannot_be_shared(suite: &Suite) {
    let xml = suite.domain.virsh_ok(&["dumpxml", "--inactive", "lab1"]).expect("dumpxml");
    let devices = "<serial type='tcp'><source mode='bind' host='192.0.2.1' service='45551'/><protocol type='raw'/><target port='1'/></serial>\
        <channel type='unix'><source mode='bind' path='/nowhere/own.sock'/><target type='virtio' name='own.0'/></channel>\
        <graphics type='vnc' port='5931' autoport='no' listen='127.0.0.1'/><video><model type='vga'/></video>\
        <audio id='2' type='file' path='/nowhere/lab.wav'/>\
        <hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0x0000' bus='0xfe' slot='0x1f' function='0x7'/></source></hostdev>\
        <memballoon";
    let end = "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><qemu:arg value='-no-such-option'/></qemu:commandline></domain>";
    let path = suite.path("shared.xml");
    std::fs::write(&path, xml.replacen("<memballoon", devices, 1).replace("</domain>", end)).expect("written");
    suite.domain.virsh_ok(&["define", &path.to_string_lossy()]).expect("define");
}

lab_test!(a_domain_comes_back_under_another_name, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    add_what_cannot_be_shared(&suite);
    suite.domain.virsh_ok(&["desc", "lab1", "--config", "words that must come back"]).expect("description");
    let point = suite.quiet_backup("only");
    let (a, b) = (suite.path("copy a.qcow2"), suite.path("copy-b.raw"));
    let (vda, vdb) = (format!("vda={}", a.display()), format!("vdb={}", b.display()));
    let output = suite.cairn.run(&["restore", &point.id, "--as", "lab2", "--disk", &vda, "--disk", &vdb, "--json"]).expect("it ends");
    assert_eq!(output.code(), cairn_lab::cairn::WARNINGS, "{}", output.err_text());
    let told: serde_json::Value = serde_json::from_str(&output.text()).expect("JSON");
    let own = serde_json::json!([
        "serial 0: a pty of its own, not file /var/log/libvirt/lab-console.log",
        "serial 1: a pty of its own, not tcp 192.0.2.1:45551",
        "channel own.0: a socket of its own, not unix /nowhere/own.sock",
        "vnc: a port of its own",
        "audio 2: nothing, not file /nowhere/lab.wav",
    ]);
    assert_eq!(told["own"], own, "{told}");
    let missing = told["missing"].to_string();
    assert!(missing.contains("its qemu:commandline is left out") && missing.contains("its hostdev is left out"), "{told}");
    let copy = Domain::new("lab2");
    let xml = copy.virsh_ok(&["dumpxml", "--inactive", "lab2"]).expect("dumpxml");
    for shared in ["lab-console.log", "45551", "/nowhere", "5931", "no-such-option", "hostdev"] {
        assert!(!xml.contains(shared), "{shared} in {xml}");
    }
    copy.start(BOOT_LIMIT).expect("the copy boots beside its origin");
    assert!(copy.sh("cat /mnt/a/greeting /mnt/b/greeting").expect("files").contains("before the first backup"));
    let of = |name: &str, query: &str| copy.virsh_ok(&[query, name]).expect(query);
    assert_ne!(of("lab1", "domuuid"), of("lab2", "domuuid"));
    assert_ne!(of("lab1", "domiflist"), of("lab2", "domiflist"), "another MAC");
    assert_eq!(of("lab2", "desc").trim(), "words that must come back");
    suite.assert_left_alone(Duration::from_secs(5));
});

lab_test!(restored_files_are_sparse_and_the_origin_name_comes_back, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    suite.domain.virsh_ok(&["autostart", "lab1"]).expect("autostart");
    let point = suite.quiet_backup("only");
    let pair = suite.cairn.restore_raw(&point.id, &suite.path("restored")).expect("restore");
    for image in [&pair.vda, &pair.vdb] {
        let meta = image.metadata().expect("there");
        assert!(meta.blocks() * 512 < meta.len() * 3 / 4, "{}: {} of {} bytes allocated", image.display(), meta.blocks() * 512, meta.len());
    }
    // The whole domain is lost; the point brings it back under its name.
    suite.domain.virsh_ok(&["destroy", "lab1"]).expect("destroy");
    suite.domain.virsh_ok(&["undefine", "lab1"]).expect("undefine");
    for disk in cairn_lab::lab::disks() {
        std::fs::remove_file(disk.path).expect("removed");
    }
    // Another machine has taken its name: that one is not touched, and no disk is written either.
    let other = "<domain type='qemu'><name>lab1</name><memory unit='MiB'>64</memory><os><type arch='x86_64'>hvm</type></os></domain>";
    let xml = suite.path("other.xml");
    std::fs::write(&xml, other).expect("written");
    suite.domain.virsh_ok(&["define", &xml.to_string_lossy()]).expect("define");
    let output = suite.cairn.run(&["restore", &point.id, "--force"]).expect("it ends");
    cairn_lab::suite::assert_refused(&output, cairn_lab::cairn::REFUSED, "virsh undefine");
    assert!(cairn_lab::lab::disks().iter().all(|disk| !disk.path.exists()));
    suite.domain.virsh_ok(&["undefine", "lab1"]).expect("undefine");
    suite.cairn.ok(&["restore", &point.id]).expect("restore");
    suite.domain.start(BOOT_LIMIT).expect("it boots");
    suite.domain.sh("cat /mnt/a/greeting /mnt/b/greeting").expect("files");
    let info = suite.domain.virsh_ok(&["dominfo", "lab1"]).expect("dominfo");
    assert!(info.lines().any(|line| line.starts_with("Autostart:") && line.contains("enable")), "{info}");
});

lab_test!(tags_and_protection_are_kept, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    suite.cairn.ok(&["backup", "lab1", "--tag", "before-upgrade"]).expect("backup");
    let id = suite.points().pop().expect("a point");
    suite.cairn.ok(&["protect", &id]).expect("protect");
    let point = suite.point(&id);
    // The first point of its day, week and month gets these tags by itself.
    assert_eq!(point["tags"], serde_json::json!(["before-upgrade", "daily", "weekly", "monthly"]));
    assert_eq!(point["protected"], serde_json::json!(true));
    suite.cairn.ok(&["unprotect", &id]).expect("unprotect");
    suite.cairn.ok(&["tag", &id, "second"]).expect("tag");
    let point = suite.point(&id);
    assert_eq!(point["protected"], serde_json::json!(false));
    assert!(point["tags"].as_array().expect("tags").contains(&serde_json::json!("second")), "{point}");
    let named = suite.cairn.json(&["show", "lab1@latest"]).expect("show");
    assert_eq!(named["id"], point["id"]);
});
