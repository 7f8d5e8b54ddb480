//! Every generation of a domain restores to exactly what it was, whatever happened to the disks between.

use cairn_lab::suite::{Suite, mode, quiesce};
use cairn_lab::{Options, lab_test, reference};
use std::time::Duration;

/// What the guest does before generations 2 to 5: writes and changes; TRIM; zeroes; nothing at all.
const DAYS: [(&str, &str); 4] = [
    ("writes", "noise /mnt/a/new 0 5242880 1; noise /mnt/a/greeting 0 4096 2; noise /mnt/b/new 100 3000000 3"),
    ("trims", "rm /mnt/a/new; rm -r /mnt/b/data; find /mnt/a/data -type f -size +64k | xargs rm -f"),
    ("zeroes", "noise /mnt/b/zeros 0 2097152 4; sync; dd if=/dev/zero of=/mnt/b/zeros bs=64k count=30 seek=1 conv=notrunc"),
    ("idleness", "true"),
];

lab_test!(each_of_five_generations_restores_byte_for_byte, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let mut kept = vec![suite.quiet_backup("first")];
    let first = suite.point(&kept[0].id);
    assert_eq!((mode(&first, "vda").as_str(), mode(&first, "vdb").as_str()), ("full", "full"));
    for (name, script) in DAYS {
        suite.domain.sh(&format!("set -e; noise() {{ /bin/lab-guest __lab-guest noise \"$@\"; }}; {script}; sync; sleep 1; sync")).expect(name);
        kept.push(suite.quiet_backup(name));
        let point = suite.point(&kept[kept.len() - 1].id);
        assert_eq!((mode(&point, "vda").as_str(), mode(&point, "vdb").as_str()), ("incremental", "incremental"), "{name}: {point}");
        assert_ne!(quiesce(&point), "crash", "{name}: the guest freezes, so the point must be frozen");
        suite.assert_left_alone(Duration::from_secs(5));
    }
    let differ = |a: usize, b: usize| kept[a].reference.difference(&kept[b].reference).expect("readable").is_some();
    assert!(differ(0, 1) && differ(1, 2) && differ(2, 3), "each day changed something");
    for point in &kept {
        suite.assert_restores(point);
    }
    suite.cairn.ok(&["verify", "--all", "--data"]).expect("verify");
});

lab_test!(an_idle_incremental_backup_reads_next_to_nothing, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let _first = suite.quiet_backup("first");
    let second = suite.quiet_backup("second");
    let point = suite.point(&second.id);
    for target in ["vda", "vdb"] {
        let disk = cairn_lab::cairn::disk(&point, target).expect("disk");
        let read = disk["read"].as_u64().expect("read");
        // The remounts touch superblock, journal and a few blocks around them.
        assert!(read < 16 << 20, "{target}: {read} bytes read of an idle disk");
        let stored = disk["stored"].as_u64().expect("stored");
        assert!(stored < 4 << 20, "{target}: {stored} bytes stored of an idle disk");
    }
});

// No file system knows of these changes: sizes and edges that no guest would choose.
lab_test!(changes_at_odd_offsets_through_the_device_are_found, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    suite.domain.sh("umount /mnt/a /mnt/b").expect("unmounted");
    let backup = |name: &str| suite.still_backup(name, &["backup", "lab1", "--quiesce", "never"]);
    let mut kept = vec![backup("first")];
    let rounds: [&[&str]; 4] = [
        &["write -P 0x41 512 512", "write -P 0x42 65024 1024", "write -P 0x43 4194304 131072", "write -P 0x44 8388096 4096"],
        &["write -z 65536 65536", "write -z 4194816 512", "write -P 0x45 20000256 70000128"],
        &["discard 20971520 1048576", "write -P 0x46 20972032 512", "discard 4194304 65536"],
        &["write -z -u 31457280 1048576", "write -P 0 33554432 65536", "write -P 0x47 100662784 512"],
    ];
    for (number, round) in rounds.iter().enumerate() {
        for command in *round {
            for disk in ["virtio-disk0", "virtio-disk1"] {
                let text = suite.domain.hmp(&format!("qemu-io -d /machine/peripheral/{disk}/virtio-backend \"{command}\"")).expect(command);
                assert!(!text.to_lowercase().contains("error") && !text.contains("failed"), "{command} on {disk}: {text}");
            }
        }
        kept.push(backup(&format!("round-{number}")));
    }
    for point in &kept {
        suite.assert_restores(point);
    }
    let last = &kept[kept.len() - 1];
    let image = suite.path("last.qcow2");
    let disk = format!("vdb={}", image.display());
    suite.cairn.ok(&["restore", &last.id, "--disk", &disk, "--format", "qcow2"]).expect("restore as qcow2");
    assert!(reference::same_by_qemu_img(&image, "qcow2", &last.reference.vdb).expect("qemu-img compare"));
});
