//! The lab itself: what every suite relies on.

use cairn_lab::{Options, filesystem, imposter, lab, lab_test, reference, traces};
use std::time::Duration;

lab_test!(the_guest_answers_and_its_disks_are_as_promised, Options::small(), |lab| {
    let domain = lab.domain();
    assert_eq!(domain.state().expect("state"), "running");
    let mounts = domain.sh("grep /mnt/ /proc/mounts").expect("mounts");
    for (device, path) in [("/dev/vda", "/mnt/a"), ("/dev/vdb", "/mnt/b")] {
        let line = mounts.lines().find(|line| line.starts_with(device)).expect(device);
        assert!(line.contains(path) && line.contains("ext4") && line.contains("discard"), "{line}");
    }
    assert_eq!(domain.sh("/bin/writer status").expect("status").trim(), "idle");
    let failed = domain.exec("echo out; echo err >&2; exit 7", Duration::from_secs(20)).expect("runs");
    assert_eq!((failed.code, failed.stdout.as_str(), failed.stderr.as_str()), (7, "out\n", "err\n"));
});

lab_test!(the_guest_freezes_two_file_systems, Options::small(), |lab| {
    let domain = lab.domain();
    assert_eq!(domain.freeze().expect("freeze"), 2);
    assert_eq!(domain.freeze_status().expect("status"), "frozen");
    assert_eq!(domain.thaw().expect("thaw"), 2);
    assert_eq!(domain.freeze_status().expect("status"), "thawed");
    // Read-only file systems count as well, and freezing them writes nothing: the demo's references rely on it.
    domain.read_only(true).expect("read-only");
    let before = reference::take(&domain, &lab.dir().join("before")).expect("reference");
    assert_eq!(domain.freeze().expect("freeze"), 2);
    assert_eq!(domain.thaw().expect("thaw"), 2);
    let after = reference::take(&domain, &lab.dir().join("after")).expect("reference");
    assert_eq!(before.difference(&after).expect("readable"), None);
    domain.read_only(false).expect("read-write");
});

lab_test!(the_writers_check_finds_a_torn_pair, Options::small(), |lab| {
    let domain = lab.domain();
    let scratch = lab.dir().join("scratch");
    domain.writer_start(0).expect("writer");
    std::thread::sleep(Duration::from_secs(1));
    let early = reference::take(&domain, &lab.dir().join("early")).expect("reference");
    let (a, b) = filesystem::check_journals(&early.vda, &early.vdb, &scratch).expect("one point in time");
    assert!(b > 10 && a - b < 2, "the writer wrote {a} and {b} records");
    std::thread::sleep(Duration::from_secs(1));
    let late = reference::take(&domain, &lab.dir().join("late")).expect("reference");
    let (a_late, _) = filesystem::check_journals(&late.vda, &late.vdb, &scratch).expect("one point in time");
    assert!(a_late > a + 10);
    filesystem::check_journals(&early.vda, &late.vdb, &scratch).expect_err("b is later than a");
    filesystem::check_journals(&late.vda, &early.vdb, &scratch).expect_err("a is later than b");
    domain.writer_stop().expect("stop");
});

lab_test!(a_freeze_settles_the_file_systems, Options::small(), |lab| {
    let domain = lab.domain();
    let scratch = lab.dir().join("scratch");
    domain.writer_start(0).expect("writer");
    std::thread::sleep(Duration::from_millis(500));
    let running = reference::take(&domain, &lab.dir().join("running")).expect("reference");
    assert_eq!(domain.freeze().expect("freeze"), 2);
    let frozen = reference::take(&domain, &lab.dir().join("frozen")).expect("reference");
    assert_eq!(domain.thaw().expect("thaw"), 2);
    for image in [&frozen.vda, &frozen.vdb] {
        let moment = filesystem::moment(image, &scratch).expect("ext4");
        assert!(moment.settled && moment.whole, "{moment:?}");
    }
    assert!(!filesystem::moment(&running.vda, &scratch).expect("ext4").settled, "without a freeze the journal is open");
});

lab_test!(writes_and_trims_of_the_guest_reach_the_images, Options::small(), |lab| {
    let domain = lab.domain();
    let before = reference::take(&domain, &lab.dir().join("before")).expect("reference");
    domain.sh("/bin/lab-guest __lab-guest noise /mnt/a/noise 0 4194304 1 && cp /mnt/a/noise /mnt/b/noise && sync").expect("noise");
    let written = reference::take(&domain, &lab.dir().join("written")).expect("reference");
    assert!(before.difference(&written).expect("readable").is_some());
    let allocated = |path: &std::path::Path| std::os::unix::fs::MetadataExt::blocks(&path.metadata().expect("there"));
    let [_, raw] = lab::disks();
    let full = allocated(&raw.path);
    domain.sh("rm /mnt/b/noise && sync && sleep 1 && sync").expect("removed");
    let freed = full.saturating_sub(allocated(&raw.path)) * 512;
    assert!(freed >= 3 << 20, "a removed file of 4 MiB gave back {freed} bytes");
});

lab_test!(imposters_take_the_agents_place_for_a_while, Options::small(), |lab| {
    let domain = lab.domain();
    let back = Duration::from_secs(60);
    let away = Duration::from_secs(300);
    let ask = |command: &str| domain.agent_within(command, &serde_json::Value::Null, 3);
    let leave = || {
        imposter::leave(&domain).expect("told to leave");
        domain.wait_agent(back).expect("the real agent");
    };
    imposter::install(&domain, "liar", away).expect("imposter");
    assert_eq!(domain.freeze().expect("a lie"), 2);
    assert_eq!(domain.freeze_status().expect("a lie"), "frozen");
    assert_eq!(domain.thaw().expect("a lie"), 0);
    domain.sh("true").expect_err("the liar runs nothing");
    leave();
    domain.sh("true").expect("the real agent runs programs");
    for mode in ["garbage", "flood", "types", "mute"] {
        imposter::install(&domain, mode, away).expect("imposter");
        ask("guest-fsfreeze-freeze").expect_err(mode);
        leave();
    }
    imposter::remove(&domain, away).expect("no agent");
    ask("guest-fsfreeze-freeze").expect_err("nobody answers");
    leave();
    assert_eq!(domain.freeze_status().expect("status"), "thawed");
});

lab_test!(traces_of_a_backup_are_seen, Options::small(), |lab| {
    let domain = lab.domain();
    let clean = traces::look(&domain).expect("traces");
    assert!(clean.only_bitmaps(0), "{clean:?}");
    let nodes = domain.qmp("query-named-block-nodes", &serde_json::json!({ "flat": true })).expect("nodes");
    let node = nodes.as_array().expect("array").iter().find(|node| node["drv"] == "raw").expect("vdb")["node-name"].clone();
    let bitmap = serde_json::json!({ "node": node, "name": "cairn:00000000:x:0" });
    domain.qmp("block-dirty-bitmap-add", &bitmap).expect("added");
    let with = traces::look(&domain).expect("traces");
    assert!(with.only_bitmaps(1) && !with.only_bitmaps(0), "{with:?}");
    let xml = lab.dir().join("backup.xml");
    std::fs::write(&xml, "<domainbackup mode='pull'><server transport='unix' socket='/var/lib/libvirt/qemu/x.sock'/></domainbackup>").expect("written");
    domain.virsh_ok(&["backup-begin", "lab1", &xml.to_string_lossy()]).expect("a backup of libvirt's");
    let busy = traces::look(&domain).expect("traces");
    assert!(busy.libvirt_job && !busy.exports.is_empty() && !busy.jobs.is_empty(), "{busy:?}");
    domain.virsh_ok(&["domjobabort", "lab1"]).expect("aborted");
    domain.qmp("block-dirty-bitmap-remove", &bitmap).expect("removed");
});
