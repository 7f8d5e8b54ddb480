//! Writing the disks of a restore: all of them or, as far as files go, none.
//!
//! Order: 1 `PATH.cairn-partial` of every file, exclusive · 2 content of every file · 3 fsync · 4 block devices, in place · 5 rename of
//! every file to PATH (refusing to replace unless forced), each followed by an fsync of its folder. If we die before 5, every PATH is what
//! it was; partial files say so by their name and are removed on any error. Devices cannot be taken back, so they wait until every file is
//! whole. An error within 5 names the disks that are in place already.

use super::{DiskPlan, Journal, RestorePlan, partial::Partial, qcow2};
use crate::{
    cli::Format,
    failure::{FAILED, Failure, Outcome},
};
use cairn_store::{
    BlockTarget, FileTarget, Progress, Store, StoreError,
    restore::{OnDamage, RestoreReport},
};
use std::{io, ops::Range, path::Path};
use tokio::runtime::Runtime;

/// How disks are written.
pub struct Writing<'a> {
    /// What to do about damage.
    pub on_damage: OnDamage,
    /// Replace what exists.
    pub force: bool,
    /// For QEMU's tools.
    pub runtime: &'a Runtime,
    /// Counters, and the way to stop.
    pub progress: &'a Progress,
    /// Is told before files get their names.
    pub journal: Option<&'a Journal>,
}

/// Restores all disks to where the plan says; reports are in the plan's order. What an earlier try put in place is left as it is.
pub fn write_disks(store: &Store, plan: &RestorePlan, w: &Writing<'_>) -> Outcome<Vec<RestoreReport>> {
    let partials = plan.disks.iter().map(|d| if d.device || d.whole { Ok(None) } else { Partial::new(&d.path).map(Some) }).collect::<Outcome<Vec<_>>>()?;
    let mut reports: Vec<RestoreReport> = plan.disks.iter().map(|_| RestoreReport::default()).collect();
    for (i, d) in plan.disks.iter().enumerate() {
        if let Some(partial) = &partials[i] {
            reports[i] = write_file(store, d, partial, w)?;
        }
    }
    for (i, d) in plan.disks.iter().enumerate().filter(|(_, d)| d.device) {
        reports[i] = write_device(store, d, w.on_damage, w.progress)?;
    }
    if w.progress.cancel.load(std::sync::atomic::Ordering::SeqCst) {
        return Err(StoreError::Interrupted.into());
    }
    let partials: Vec<Partial> = partials.into_iter().flatten().collect();
    if let Some(journal) = w.journal {
        journal.will_name(&partials)?;
    }
    name_all(partials, w.force)?;
    Ok(reports)
}

fn write_file(store: &Store, d: &DiskPlan, partial: &Partial, w: &Writing<'_>) -> Outcome<RestoreReport> {
    let report = match d.format {
        Format::Raw => {
            partial.set_len(d.entry.size_bytes)?;
            let target = FileTarget::open_device(partial.path(), d.entry.size_bytes).map_err(|e| failed("open", partial.path(), &e))?;
            store.restore_disk(&d.entry, &Fresh(target), w.on_damage, w.progress)?
        }
        Format::Qcow2 => {
            let image = qcow2::create(partial.path(), d.entry.size_bytes, w.runtime)?;
            let report = store.restore_disk(&d.entry, &image, w.on_damage, w.progress)?;
            image.close()?;
            report
        }
    };
    partial.sync()?;
    Ok(report)
}

fn write_device(store: &Store, d: &DiskPlan, on_damage: OnDamage, progress: &Progress) -> Outcome<RestoreReport> {
    let target = FileTarget::open_device(&d.path, d.entry.size_bytes).map_err(|e| failed("open", &d.path, &e))?;
    Ok(store.restore_disk(&d.entry, &target, on_damage, progress)?)
}

fn name_all(partials: Vec<Partial>, force: bool) -> Outcome<()> {
    let mut named: Vec<String> = Vec::new();
    for partial in partials {
        let target = partial.target().display().to_string();
        partial.finish(force).map_err(|f| match named.as_slice() {
            [] => f,
            done => Failure::new(f.code, format!("{} (already in place, and whole: {})", f.message, done.join(", "))),
        })?;
        named.push(target);
    }
    Ok(())
}

/// What could not be done to which path.
pub(super) fn failed(what: &str, path: &Path, e: &io::Error) -> Failure {
    let hint = if e.raw_os_error() == Some(nix::libc::EBUSY) { " (it is mounted or in use)" } else { "" };
    Failure::new(FAILED, format!("cannot {what} {}: {e}{hint}", path.display()))
}

/// A file that we just made and that reads as zero: what is zero need not be written, so it stays sparse.
struct Fresh(FileTarget);

impl BlockTarget for Fresh {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, buf)
    }
    fn zero(&self, range: Range<u64>) -> io::Result<()> {
        self.0.zero(range)
    }
    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }
    fn starts_zeroed(&self) -> bool {
        true
    }
    fn done_with(&self, range: Range<u64>) {
        self.0.done_with(range);
    }
}
