//! Checks of the folder for scratch images: where QEMU keeps what a guest overwrites while its backup is read.

use super::{finding::Finding, limit::within, mounts::Mount};
use crate::output;
use cairn_hypervisor::capture::scratch::free_bytes;
use std::{path::Path, time::Duration};

const LIMIT: Duration = Duration::from_secs(15);

/// What is known of it.
pub struct Examined {
    /// Findings.
    pub findings: Vec<Finding>,
    /// Room on its file system.
    pub free_bytes: Option<u64>,
}

/// Looks at it.
pub fn examine(dir: &Path) -> Examined {
    let owned = dir.to_owned();
    within(LIMIT, move || look(&owned)).unwrap_or_else(|silent| Examined {
        findings: vec![Finding::failed(
            "scratch",
            format!("{}: {silent}", dir.display()),
            "take a folder on a local disk (--scratch-dir); a guest waits for this one",
        )],
        free_bytes: None,
    })
}

fn look(dir: &Path) -> Examined {
    let none = |finding| Examined { findings: vec![finding], free_bytes: None };
    // A backup makes the last part of the path, and no more.
    let there = [Some(dir), dir.parent()].into_iter().flatten().find(|path| path.is_dir()).map(Path::to_path_buf);
    let Some(there) = there else {
        let remedy = "make the folder above it, or take another one (--scratch-dir); the default belongs to libvirt's package";
        return none(Finding::failed("scratch", format!("{}: neither it nor the folder above it is there", dir.display()), remedy));
    };
    let free = match free_bytes(&there) {
        Ok(free) => free,
        Err(e) => return none(Finding::failed("scratch", e.to_string(), "take another folder (--scratch-dir)")),
    };
    Examined { findings: vec![judge(dir, &there, free)], free_bytes: Some(free) }
}

fn judge(dir: &Path, there: &Path, free: u64) -> Finding {
    const CHECK: &str = "scratch";
    let mount = Mount::of(there);
    let on = mount.as_ref().map_or_else(|| "an unknown file system".to_owned(), Mount::text);
    let found = format!("{}: {} free, {on}", dir.display(), output::bytes(free));
    match mount {
        Some(mount) if mount.has("ro") => Finding::failed(CHECK, found, "mount it rw, or take another folder (--scratch-dir)"),
        Some(mount) if mount.is_network() => {
            Finding::warning(CHECK, format!("{found}: the guest waits for another machine with each write"), "take a folder on a local disk (--scratch-dir)")
        }
        Some(mount) if mount.is_memory() => {
            Finding::warning(CHECK, format!("{found}: what guests overwrite takes the host's memory"), "take a folder on a local disk (--scratch-dir)")
        }
        _ => Finding::ok(CHECK, found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Status;

    #[test]
    fn a_folder_that_is_not_there_yet_will_be_made_and_a_deeper_one_not() {
        let dir = tempfile::tempdir().expect("temp dir");
        let found = examine(&dir.path().join("scratch"));
        assert!(found.free_bytes.is_some() && found.findings[0].status != Status::Failed, "{:?}", found.findings);
        let deeper = examine(&dir.path().join("no/such/scratch"));
        assert_eq!((deeper.free_bytes, deeper.findings[0].status), (None, Status::Failed));
        assert_eq!(std::fs::read_dir(dir.path()).expect("lists").count(), 0, "nothing is made");
    }
}
