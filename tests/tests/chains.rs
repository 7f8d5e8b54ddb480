//! What others do to a domain's images around a backup.

use cairn_lab::suite::Suite;
use cairn_lab::{Options, lab_test};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Exit code "busy, try again".
const BUSY: i32 = 11;
const WINDOW_LIMIT: Duration = Duration::from_secs(20);

// A snapshot after pre-flight looked at the nodes and before libvirt's job keeps others out: the increment would lack every write that went
// into the overlay. The window is held open by a qemu-img that takes its time (scratch images are made in it).
lab_test!(a_snapshot_while_the_backup_begins_is_noticed, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let _first = suite.quiet_backup("first");
    let bin = suite.path("bin");
    std::fs::create_dir_all(&bin).expect("folder");
    let entered = suite.path("entered");
    let script = format!("#!/bin/sh\ntouch {}\nsleep 4\nexec /usr/bin/qemu-img \"$@\"\n", entered.display());
    std::fs::write(bin.join("qemu-img"), script).expect("script");
    std::fs::set_permissions(bin.join("qemu-img"), std::fs::Permissions::from_mode(0o755)).expect("mode");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("a path"));
    let mut backup = suite.cairn.command(&["backup", "lab1", "--quiesce", "never"]);
    let child = backup.env("PATH", path).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let start = Instant::now();
    while !entered.exists() {
        assert!(start.elapsed() < WINDOW_LIMIT, "the backup makes its scratch images with qemu-img");
        std::thread::sleep(Duration::from_millis(20));
    }
    suite.domain.virsh_ok(&["snapshot-create-as", "lab1", "between", "--disk-only", "--atomic", "--no-metadata"]).expect("snapshot");
    suite.domain.sh("dd if=/dev/urandom of=/mnt/a/late bs=64k count=20 2>/dev/null; sync").expect("guest");
    let output = child.wait_with_output().expect("ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(BUSY), "{said}");
    assert!(said.contains("image chain"), "{said}");
    assert_eq!(suite.points().len(), 1, "no point came of it");
    // References read the original images, so the overlays go back into them first.
    for target in ["vda", "vdb"] {
        suite.domain.virsh_ok(&["blockcommit", "lab1", target, "--active", "--pivot", "--wait"]).expect("blockcommit");
    }
    let after = suite.quiet_backup("after");
    suite.assert_restores(&after);
});
