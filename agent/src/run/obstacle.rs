//! What keeps a run's reads and writes from being done that is no damage: a store that is away, a file system that is full.
//!
//! Invariants
//! - It answers within [`LOOK_LIMIT`], also where the store hangs; at most one look hangs with it, the next ones say so at once.
//!
//! What it must not do: judge the point. That a store answers says nothing of the bytes in it.

use super::record::{Phase, Record};
use crate::{
    failure::{FAILED, Failure, NO_STORE},
    output,
};
use cairn_store::Store;
use rustix::fs::statvfs;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

/// For the store's configuration to be read.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// QEMU writes whole clusters, and tables for them: with less than this a write may fail.
const ROOM_BYTES_MIN: u64 = 1 << 20;
/// A look that has not come back.
static LOOKING: AtomicBool = AtomicBool::new(false);

/// What is in the way, if something is.
pub fn of(record: &Record) -> Option<Failure> {
    store(&record.store).or_else(|| {
        let full = folders(record).into_iter().find(|folder| is_full(folder))?;
        Some(Failure::new(FAILED, format!("a write failed: there is no room on {}", output::shown(&full.display().to_string()))))
    })
}

/// Folders that the guest's writes go to.
pub fn folders(record: &Record) -> BTreeSet<PathBuf> {
    let image = |d: &super::record::RunDisk| match (&d.phase, &d.copy) {
        (Phase::Pivoted, Some(copy)) => copy.path.clone(),
        _ => d.overlay.clone(),
    };
    record.disks.iter().filter_map(|d| image(d).parent().map(Path::to_path_buf)).collect()
}

/// Why the store cannot be reached.
pub fn store(path: &Path) -> Option<Failure> {
    let away = |why: String| Some(Failure::new(NO_STORE, format!("the store cannot be reached: {why}")));
    let hangs = || away(format!("{} does not answer within {} s", output::shown(&path.display().to_string()), LOOK_LIMIT.as_secs()));
    if LOOKING.swap(true, Ordering::SeqCst) {
        return hangs();
    }
    let (tell, wait) = mpsc::channel();
    let of = path.to_path_buf();
    std::thread::spawn(move || {
        let seen = Store::identify(&of).map_err(|e| Failure::from(e).message);
        LOOKING.store(false, Ordering::SeqCst);
        // Whoever has given up knows enough.
        let _ = tell.send(seen);
    });
    match wait.recv_timeout(LOOK_LIMIT) {
        Ok(Ok(_)) => None,
        Ok(Err(why)) => away(why),
        Err(_) => hangs(),
    }
}

/// One that cannot be asked, or does not count its blocks, is not called full.
pub fn is_full(folder: &Path) -> bool {
    statvfs(folder).is_ok_and(|s| is_short(s.f_blocks, s.f_bavail, s.f_frsize))
}

/// Bytes that are free for QEMU's user; `None` where nobody counts.
pub fn room_bytes(folder: &Path) -> Option<u64> {
    statvfs(folder).ok().filter(|s| s.f_blocks > 0).map(|s| s.f_bavail.saturating_mul(s.f_frsize))
}

fn is_short(blocks: u64, available: u64, block_bytes: u64) -> bool {
    blocks > 0 && available.saturating_mul(block_bytes) < ROOM_BYTES_MIN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_is_away_is_told_by_its_name() {
        let folder = tempfile::tempdir().expect("temp dir");
        let failure = store(&folder.path().join("gone")).expect("an obstacle");
        assert_eq!(failure.code, NO_STORE);
        assert!(failure.message.contains("cannot be reached") && failure.message.contains("gone"), "{}", failure.message);
    }

    #[test]
    fn room_is_seen() {
        let folder = tempfile::tempdir().expect("temp dir");
        assert!(!is_full(folder.path()) && !is_full(&folder.path().join("gone")));
        assert!(is_short(1000, 255, 4096) && !is_short(1000, 256, 4096));
        assert!(!is_full(Path::new("/proc")), "it has no blocks at all");
    }
}
