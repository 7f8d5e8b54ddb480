//! Restores as whole domains, and what goes with the disks.

use cairn_lab::suite::Suite;
use cairn_lab::{Domain, Options, lab_test};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

const BOOT_LIMIT: Duration = Duration::from_secs(120);

lab_test!(a_domain_comes_back_under_another_name, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    suite.domain.virsh_ok(&["desc", "lab1", "--config", "words that must come back"]).expect("description");
    let point = suite.quiet_backup("only");
    let (a, b) = (suite.path("copy a.qcow2"), suite.path("copy-b.raw"));
    let (vda, vdb) = (format!("vda={}", a.display()), format!("vdb={}", b.display()));
    suite.cairn.ok(&["restore", &point.id, "--as", "lab2", "--disk", &vda, "--disk", &vdb]).expect("restore");
    let copy = Domain::new("lab2");
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
