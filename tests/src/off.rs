//! A domain that is off, as suites see it: its images, who reads them, and backups that must not touch them.
//!
//! Functions here panic on failure, as tests do.

use crate::lab;
use crate::process;
use crate::reference;
use crate::suite::{Kept, Suite};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const OFF_LIMIT: Duration = Duration::from_secs(180);
const TOOL_LIMIT: Duration = Duration::from_secs(60);

/// The guest ends by itself, as one that is shut down does.
///
/// # Panics
/// It does not.
pub fn shut_down(suite: &Suite) {
    suite.domain.read_only(true).expect("read-only");
    suite.domain.powers_off();
    wait_off(suite);
}

/// Until the domain is off.
///
/// # Panics
/// It stays on.
pub fn wait_off(suite: &Suite) {
    let off = || Ok((suite.domain.state()? == "shut off").then_some(()));
    process::wait_for("the domain's end", OFF_LIMIT, Duration::from_millis(200), off).expect("off");
}

/// The images of `lab1`: qcow2, then raw.
#[must_use]
pub fn images() -> Vec<PathBuf> {
    lab::disks().into_iter().map(|disk| disk.path).collect()
}

/// What a write to the images would change. Not ctime: libvirt gives the images back to their owner a moment after the domain's end.
///
/// # Panics
/// One is not there.
#[must_use]
pub fn stamps() -> Vec<(u64, u64, i64, i64)> {
    let of = |path: &PathBuf| {
        let meta = path.metadata().expect("there");
        (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec())
    };
    images().iter().map(of).collect()
}

/// A backup of a domain that is off: the images are not touched, and are what the point has.
///
/// # Panics
/// Not so, or another exit code.
#[must_use]
pub fn backup(suite: &Suite, name: &str, code: i32) -> Kept {
    let folder = suite.path(&format!("reference-{name}"));
    std::fs::create_dir_all(&folder).expect("folder");
    let reference = reference::copy_disks(&folder).expect("reference");
    let (points, before) = (suite.points(), stamps());
    let output = suite.cairn.run(&["backup", "lab1"]).expect("it ends");
    assert_eq!(output.code(), code, "{}\n{}", output.text(), output.err_text());
    assert_eq!(before, stamps(), "an image was written to");
    let now = suite.points();
    assert_eq!(now.len(), points.len() + 1, "one new point");
    let kept = Kept { id: now.last().cloned().expect("a point"), reference };
    assert_eq!(suite.point(&kept.id)["source"]["capture"], "offline");
    suite.assert_restores(&kept);
    kept
}

/// The lab's storage daemons.
///
/// # Panics
/// There is no `/proc`.
#[must_use]
pub fn storage_daemons() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|args| String::from_utf8_lossy(&args).starts_with("qemu-storage-daemon")))
        .collect()
}

/// An order to `qemu-io` on an image that nobody has open.
///
/// # Panics
/// Somebody has.
pub fn qemu_io(image: &Path, format: &str, order: &str) {
    process::run_ok(Command::new("qemu-io").args(["-f", format, "-c", order]).arg(image), TOOL_LIMIT).expect("qemu-io");
}
