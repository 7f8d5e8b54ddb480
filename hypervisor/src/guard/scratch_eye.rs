//! The guard's eye on the scratch: whether it will run out before the backup could be ended.
//!
//! Invariants
//! - What a file system has left counts, whoever fills it: scratch images are compared with what they and its free space make together.
//! - A guest that writes fast is seen early: at the rate of the last looks there must be room for as long as it takes to end a backup.
//! - What cannot be read is not full: a folder that is gone has no scratch in it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::capture::scratch::free_bytes;

/// Share of scratch space, in per cent of what is used and free, at which a backup is ended.
pub const SCRATCH_PERCENT_MAX: u64 = 80;
/// From the look that sees it to the end of libvirt's job: the process is killed, a child connects to libvirt, exports go, the job is aborted.
const REACTION: Duration = Duration::from_secs(1);
/// A rate is that of so long a time at least: one write-back of a guest's cache is no rate.
const RATE_SPAN: Duration = Duration::from_millis(300);

/// What was seen of a scratch folder.
#[derive(Debug)]
pub struct ScratchEye {
    folder: PathBuf,
    /// The look before, at least [`RATE_SPAN`] ago once there was one.
    before: Option<Look>,
    last: Option<Look>,
}

#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    used_bytes: u64,
    free_bytes: u64,
}

impl ScratchEye {
    /// Of this folder.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), before: None, last: None }
    }

    /// Looks; whether the backup must be ended now.
    pub fn runs_out(&mut self, now: Instant) -> bool {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return false };
        let used_bytes = entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|meta| meta.blocks() * 512).sum();
        let Ok(free_bytes) = free_bytes(&self.folder) else { return false };
        let look = Look { at: now, used_bytes, free_bytes };
        self.last = Some(look);
        let before = *self.before.get_or_insert(look);
        if now.duration_since(before.at) >= RATE_SPAN {
            self.before = Some(look);
        }
        is_over(&before, &look)
    }

    /// Says why the backup ends, and what to do.
    pub fn tell(&self) {
        const MIB: u64 = 1 << 20;
        let (used, free) = self.last.map_or((0, 0), |look| (look.used_bytes / MIB, look.free_bytes / MIB));
        tracing::error!(
            "the scratch of the backup in {:?} has {used} MiB, {free} MiB are free, and the guest goes on writing: full, it would give the guest I/O errors, so \
             the backup is ended, no point is made and the next one goes on from the last; free some space there, take a larger folder with --scratch-dir, \
             or see why the store is slow",
            self.folder
        );
    }
}

fn is_over(before: &Look, look: &Look) -> bool {
    if look.used_bytes == 0 {
        return false;
    }
    let all_bytes = look.used_bytes.saturating_add(look.free_bytes);
    if look.used_bytes.saturating_mul(100) >= all_bytes.saturating_mul(SCRATCH_PERCENT_MAX) {
        return true;
    }
    let span = look.at.duration_since(before.at);
    let grown_bytes = u128::from(look.used_bytes.saturating_sub(before.used_bytes));
    span >= RATE_SPAN && grown_bytes * REACTION.as_millis() >= u128::from(look.free_bytes) * span.as_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn look(at: Instant, ms: u64, used_mib: u64, free_mib: u64) -> Look {
        Look { at: at + Duration::from_millis(ms), used_bytes: used_mib * MIB, free_bytes: free_mib * MIB }
    }

    #[test]
    fn a_share_that_is_used_ends_it_and_an_empty_one_never() {
        let now = Instant::now();
        let begin = look(now, 0, 0, 0);
        assert!(!is_over(&begin, &begin), "no scratch yet on a file system that is full");
        let still = |used, free| is_over(&look(now, 0, used, free), &look(now, 300, used, free));
        assert!(!still(79, 21) && still(80, 20) && still(1, 0));
    }

    #[test]
    fn a_guest_that_writes_fast_is_seen_before_its_scratch_is_full() {
        let now = Instant::now();
        let begin = look(now, 0, 100, 900);
        // 90 MiB in 300 ms: 300 MiB in the time that it takes to end the backup.
        assert!(!is_over(&begin, &look(now, 300, 190, 301)) && is_over(&begin, &look(now, 300, 190, 300)));
        assert!(!is_over(&begin, &look(now, 150, 190, 300)), "what comes between two looks may be one write-back");
        assert!(!is_over(&begin, &look(now, 300, 100, 300)), "a guest that writes nothing has all the time");
    }

    #[test]
    fn a_folder_that_is_gone_is_not_full_and_files_are_counted() {
        let dir = tempfile::tempdir().expect("dir");
        let mut eye = ScratchEye::new(&dir.path().join("gone"));
        assert!(!eye.runs_out(Instant::now()));
        std::fs::write(dir.path().join("vda.qcow2"), [1; 8192]).expect("writes");
        let mut eye = ScratchEye::new(dir.path());
        eye.runs_out(Instant::now());
        assert!(eye.last.is_some_and(|look| look.used_bytes >= 8192 && look.free_bytes > 0));
    }
}
