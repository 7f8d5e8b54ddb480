//! `keep` in place: each disk's overlay is filled with what it reads from the point, until nothing is below it.
//!
//! The overlay is the disk from the first moment to the last, so no crash at any step loses anything: whoever comes next sees which disks still
//! have something below them and goes on. A running domain's disks are pulled by QEMU, one after the other; those of a domain that is off by
//! `qemu-img` ([`super::offline`]).
//!
//! P1: pull, until nothing is below the overlay · P2: flush, for QEMU has not written all of what it pulled · P3: `filled` is recorded. An overlay without
//! a backing file that is not recorded as filled may have lost what was pulled: it gets its backing file again, and is filled again.

use super::{
    attempts::{self, Attempts},
    copy,
    folder::{RunFolder, failed},
    guest::{Step, Work},
    log, offline,
    record::{Phase, Record, RunDisk},
    saved,
};
use crate::failure::{FAILED, Failure, Outcome};
use cairn_hypervisor::{
    Domain,
    ffi::LibvirtError,
    run::{BlockJob, GuestState, JobKind, xml},
};
use std::path::Path;

/// Failed checks at the end of a keep, one a second.
const CHECKS_MAX: u32 = 20;

/// What lives from step to step; losing it loses nothing.
#[derive(Default)]
pub struct Memory {
    /// Which wish this is about.
    pub asked_unix_ms: u64,
    /// No more attempts until it is asked for again.
    pub gave_up: bool,
    /// At the disk whose turn it is.
    pub attempts: Attempts,
    /// Attempts at the last check.
    checks: u32,
    /// The disk whose job has the limit of this wish.
    pub limited: String,
    /// qemu-img at work.
    pub offline: Option<offline::Work>,
}

impl Memory {
    /// Of a new wish.
    pub fn of(asked_unix_ms: u64) -> Self {
        Self { asked_unix_ms, ..Self::default() }
    }

    /// Ends what works on the images of a domain that is off.
    pub fn stop_offline(&mut self) {
        self.offline = None;
    }

    /// The check that ends a keep has failed: again, but not without end.
    pub fn check_failed(&mut self, f: Failure) -> Failure {
        self.checks += 1;
        self.gave_up = self.checks >= CHECKS_MAX;
        if !self.gave_up {
            return f;
        }
        let say = format!("all is copied, but the domain is no ordinary one yet: {}; mend that, then 'cairn keep' again", f.message);
        Failure::new(f.code, say)
    }
}

/// libvirt's error as ours.
pub fn libvirt(e: &LibvirtError) -> Failure {
    Failure::new(FAILED, e.to_string())
}

/// A job that was begun with another limit gets that of this wish.
pub fn limit(work: &mut Work<'_>, target: &str, job: &BlockJob) -> Outcome<()> {
    if work.memory.limited == target {
        return Ok(());
    }
    if job.bytes_per_s != work.bytes_per_s {
        // One that ends at this moment needs none.
        match work.domain.limit_block_job(target, work.bytes_per_s) {
            Err(e) if work.domain.block_job(target).is_ok_and(|job| job.is_some()) => return Err(libvirt(&e)),
            _ => log::say(format!("keep: {target} goes on with at most {} bytes a second (0: no limit)", work.bytes_per_s)),
        }
    }
    work.memory.limited = target.to_owned();
    Ok(())
}

/// A job that is no part of a keep.
pub fn other_job(target: &str, job: &BlockJob) -> Failure {
    let why = match job.kind {
        JobKind::Backup => "is being backed up: the keep goes on when that is done".to_owned(),
        _ => format!("has a block job that is not the keep's; end it ('virsh blockjob DOMAIN {target} --abort'), and the keep goes on"),
    };
    Failure::new(FAILED, format!("disk {target} {why}"))
}

/// One step.
pub fn step(work: &mut Work<'_>) -> Outcome<Step> {
    if work.state == GuestState::Off {
        return offline::rebase(work);
    }
    let live = work.domain.xml_live().map_err(|e| libvirt(&e))?;
    let mut done_bytes = 0;
    for index in 0..work.record.disks.len() {
        let disk = work.record.disks[index].clone();
        if disk.filled {
            done_bytes += disk.size_bytes;
            continue;
        }
        let now = xml::disk_now(&live, &disk.target).map_err(|e| Failure::new(FAILED, e.to_string()))?;
        // Somebody detached it, and what the guest wrote is in it all the same.
        let Some(now) = now else { return offline::fill(work, index, done_bytes) };
        // It was started meanwhile; qemu-img saw that by QEMU's lock, or will be done at once.
        work.memory.offline = None;
        refuse_snapshot(work.memory, &now, &disk)?;
        let job = work.domain.block_job(&disk.target).map_err(|e| libvirt(&e))?;
        match job {
            Some(job) if job.kind == JobKind::Pull => {
                work.memory.attempts.progress(&job);
                limit(work, &disk.target, &job)?;
                // QEMU counts in its own units; the disk's size is what people know.
                let part = if job.total_bytes == 0 { 0.0 } else { job.done_bytes as f64 / job.total_bytes as f64 };
                tell(work, done_bytes + (disk.size_bytes as f64 * part) as u64);
                return Ok(Step::Again);
            }
            Some(job) => return Err(other_job(&disk.target, &job)),
            None if !now.has_backing => {
                work.domain.flush_disk(&disk.target).map_err(|e| Failure::new(FAILED, crate::domain::chain(&e)))?; // P2
                copy::sync(&disk.overlay)?;
                work.record.disks[index].filled = true;
                work.folder.save(work.record)?; // P3
                return Ok(Step::Again);
            }
            None => {
                refuse_saved(work)?;
                if !attempts::is_due(work, &disk.target, &disk.overlay)? {
                    return Ok(Step::Again);
                }
                log::say(format!("keep: pulling {}", disk.target));
                work.memory.limited.clone_from(&disk.target);
                work.domain.start_pull(&disk.target, work.bytes_per_s).map_err(|e| libvirt(&e))?;
                return Ok(Step::Again);
            }
        }
    }
    tell(work, done_bytes);
    Ok(Step::Done)
}

/// What a keep would destroy ends it, until it is asked for again.
pub fn refuse_saved(work: &mut Work<'_>) -> Outcome<()> {
    saved::refuse(work.domain, work.record).inspect_err(|_| work.memory.gave_up = true)
}

/// A snapshot that somebody took of the run lies over its overlay: what would be kept is not what the record knows.
pub fn refuse_snapshot(memory: &mut Memory, now: &xml::DiskNow, disk: &RunDisk) -> Outcome<()> {
    if now.path.as_deref().map(Path::new) == Some(disk.overlay.as_path()) {
        return Ok(());
    }
    memory.gave_up = true;
    let there = now.path.as_deref().unwrap_or("no file");
    Err(Failure::refused(format!(
        "disk {0} is {there}, and not the run's overlay {1}: is it a snapshot? Commit that ('virsh blockcommit DOMAIN {0} --shallow --active --pivot --wait'), then \
         'cairn keep' again",
        disk.target,
        disk.overlay.display()
    )))
}

/// Shows how far it is.
pub fn tell(work: &Work<'_>, done_bytes: u64) {
    if let Some(keep) = &mut work.shared.status().keep {
        keep.done_bytes = done_bytes.min(keep.total_bytes);
    }
}

/// Ends what a keep has begun; what was pulled already stays in the overlays and is not pulled again. A change over is not undone: the caller has
/// carried it through.
pub fn cancel(folder: &RunFolder, domain: &Domain, state: GuestState, record: &mut Record, memory: &mut Memory) -> Outcome<()> {
    memory.offline = None;
    for disk in record.disks.iter_mut().filter(|d| d.phase != Phase::Pivoted) {
        // One that was taken out of the domain has no job.
        let is_there = |text: &str| xml::disk_now(text, &disk.target).is_ok_and(|now| now.is_some());
        if state != GuestState::Off
            && is_there(&domain.xml_live().map_err(|e| libvirt(&e))?)
            && domain.block_job(&disk.target).map_err(|e| libvirt(&e))?.is_some()
        {
            domain.cancel_block_job(&disk.target).map_err(|e| libvirt(&e))?;
        }
        forget_copy(disk)?;
    }
    folder.save(record)?;
    log::say("keep: cancelled");
    Ok(())
}

/// The same for a run whose domain is gone: no disk has a job, and until `Pivoted` is recorded the overlay has all that was written.
pub fn cancel_without_domain(folder: &RunFolder, record: &mut Record) -> Outcome<()> {
    for disk in record.disks.iter_mut().filter(|d| d.phase != Phase::Pivoted) {
        forget_copy(disk)?;
    }
    folder.save(record)?;
    log::say("keep: cancelled; the domain was undefined");
    Ok(())
}

/// An unfinished copy goes; the overlay is the disk.
pub fn forget_copy(disk: &mut RunDisk) -> Outcome<()> {
    if let Some(copy) = disk.copy.take() {
        disk.phase = Phase::Overlay;
        super::teardown::remove_ours(&copy.path, copy.inode).map_err(|e| failed("remove", &copy.path, &e))?;
    }
    Ok(())
}
