//! `keep --to`: each disk is copied to an image of its own while the guest writes, then the guest changes over.
//!
//! One disk after the other. K1: the new image is recorded, made, recorded as made · K2: copy until it has caught up · K3: `Pivoting` recorded ·
//! K4: the guest's processors stop · K5: the copy has caught up again, so both are equal, and stay so · K6: pivot (QEMU flushes the copy before
//! it ends the job) · K7: the definition names the copy, read back and synced · K8: `Pivoted` recorded · K9: the guest goes on.
//!
//! A crash of everything before K7 leaves a definition that names the overlay, after it one that names the copy; from K4 to K9 both are equal. So
//! the disk is what the definition names, always, and docs/run.md has the argument in full.

use super::{
    attempts, detached, finish,
    folder::failed,
    guest::{Step, Work},
    keep::{self, libvirt},
    log, offline,
    record::{Destination, Phase},
    teardown::identity,
};
use crate::failure::{FAILED, Failure, Outcome};
use cairn_hypervisor::run::{GuestState, JobKind, xml};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::{Command, Stdio},
};

/// One step.
pub fn step(work: &mut Work<'_>, to: &[Destination]) -> Outcome<Step> {
    let mut done_bytes = 0;
    for index in 0..work.record.disks.len() {
        let disk = &work.record.disks[index];
        if matches!(disk.phase, Phase::Overlay | Phase::Copying) && detached::is_out(work.domain, &disk.target)? {
            if disk.filled && disk.copy.is_none() {
                done_bytes += disk.size_bytes;
                continue;
            }
            return leave(work, index, done_bytes);
        }
        match disk.phase {
            Phase::Pivoted => done_bytes += disk.size_bytes,
            Phase::Overlay => return begin(work, index, to),
            Phase::Copying if work.state == GuestState::Off => return offline::convert(work, index, done_bytes),
            Phase::Copying => return copying(work, index, done_bytes),
            Phase::Pivoting { resume } => return pivoting(work, index, resume),
        }
    }
    keep::tell(work, done_bytes);
    Ok(Step::Done)
}

/// A disk that was detached becomes whole where it is, and stays there: whatever is attached again next is that image.
fn leave(work: &mut Work<'_>, index: usize, done_bytes: u64) -> Outcome<Step> {
    if work.record.disks[index].copy.is_none() {
        return offline::fill(work, index, done_bytes);
    }
    work.memory.stop_offline();
    keep::forget_copy(&mut work.record.disks[index])?;
    work.folder.save(work.record).map(|()| Step::Again)
}

/// K1.
fn begin(work: &mut Work<'_>, index: usize, to: &[Destination]) -> Outcome<Step> {
    // One that filled it while it was detached.
    work.memory.stop_offline();
    keep::refuse_saved(work)?;
    let target = work.record.disks[index].target.clone();
    let Some(wanted) = to.iter().find(|d| d.target == target) else {
        work.memory.gave_up = true;
        return Err(Failure::new(FAILED, format!("there is no destination for disk {target}; say 'cairn keep --to' again")));
    };
    // Recorded by an attempt that died before the file was known to be ours: then it is empty.
    let begun = work.record.disks[index].copy.as_ref() == Some(wanted);
    if fs::symlink_metadata(&wanted.path).is_ok_and(|m| !begun || m.len() > 0) {
        work.memory.gave_up = true;
        return Err(Failure::refused(format!("{} exists; say 'cairn keep --to' with another place", wanted.path.display())));
    }
    work.record.disks[index].copy = Some(wanted.clone());
    work.folder.save(work.record)?;
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&wanted.path).map_err(|e| failed("create", &wanted.path, &e))?;
    let disk = &mut work.record.disks[index];
    let inode = identity(&wanted.path).map_err(|e| failed("look at", &wanted.path, &e))?;
    disk.copy = Some(Destination { inode: Some(inode), ..wanted.clone() });
    disk.phase = Phase::Copying;
    work.folder.save(work.record)?;
    Ok(Step::Again)
}

/// K2, K3.
fn copying(work: &mut Work<'_>, index: usize, done_bytes: u64) -> Outcome<Step> {
    work.memory.offline = None;
    let disk = work.record.disks[index].clone();
    let live = work.domain.xml_live().map_err(|e| libvirt(&e))?;
    let Some(now) = xml::disk_now(&live, &disk.target).map_err(|e| Failure::new(FAILED, e.to_string()))? else {
        // Detached from the running domain alone.
        return keep::refuse_saved(work).map(|()| Step::Again);
    };
    keep::refuse_snapshot(work.memory, &now, &disk)?;
    let copy = disk.copy.ok_or_else(|| Failure::new(FAILED, format!("disk {} has no destination", disk.target)))?;
    match work.domain.block_job(&disk.target).map_err(|e| libvirt(&e))? {
        Some(job) if job.kind == JobKind::Copy => {
            work.memory.attempts.progress(&job);
            keep::limit(work, &disk.target, &job)?;
            let part = if job.total_bytes == 0 { 0.0 } else { job.done_bytes as f64 / job.total_bytes as f64 };
            keep::tell(work, done_bytes + (disk.size_bytes as f64 * part) as u64);
            if job.is_caught_up() {
                // From now on a limit is time that the guest stands still.
                work.domain.limit_block_job(&disk.target, 0).map_err(|e| libvirt(&e))?;
                work.memory.limited.clear();
                work.record.disks[index].phase = Phase::Pivoting { resume: work.state == GuestState::Running };
                work.folder.save(work.record)?;
            }
        }
        // Of a keep in place that this one takes the place of: what was pulled stays.
        Some(job) if job.kind == JobKind::Pull => work.domain.cancel_block_job(&disk.target).map_err(|e| libvirt(&e))?,
        Some(job) => return Err(keep::other_job(&disk.target, &job)),
        None => {
            if !attempt(work, &disk.target, &copy, disk.size_bytes)? {
                return Ok(Step::Again);
            }
            let path = copy.path.display().to_string();
            match work.domain.drop_forgotten_copy(&disk.target, &path) {
                Ok(0) => {}
                Ok(found) => {
                    log::say(format!("keep: QEMU had {found} jobs or images of an earlier copy of {} that libvirt has forgotten", disk.target));
                    return Ok(Step::Again);
                }
                Err(e) => return Err(Failure::new(FAILED, crate::domain::chain(&e))),
            }
            // Whatever an earlier attempt copied is stale.
            make_image(&copy, disk.size_bytes)?;
            log::say(format!("keep: copying {} to {}", disk.target, copy.path.display()));
            work.memory.limited.clone_from(&disk.target);
            work.domain.start_copy(&disk.target, &path, &copy.format, false, work.bytes_per_s).map_err(|e| libvirt(&e))?;
        }
    }
    Ok(Step::Again)
}

/// Whether an attempt is due. The last one gives back what it took: there may be no room.
pub fn attempt(work: &mut Work<'_>, target: &str, copy: &Destination, size_bytes: u64) -> Outcome<bool> {
    let result = attempts::is_due(work, target, &copy.path);
    if work.memory.gave_up {
        // The reason why it ends is worth more than why this fails.
        let _ = make_image(copy, size_bytes);
    }
    result
}

/// Carries a change over that has begun to its end; `false` if none has.
pub fn end_pivots(work: &mut Work<'_>) -> Outcome<bool> {
    let begun = work.record.disks.iter().enumerate().find_map(|(index, disk)| match disk.phase {
        Phase::Pivoting { resume } => Some((index, resume)),
        _ => None,
    });
    let Some((index, resume)) = begun else { return Ok(false) };
    pivoting(work, index, resume).map(|_| true)
}

/// K4 to K9; begins anew with each step, by what is seen.
fn pivoting(work: &mut Work<'_>, index: usize, resume: bool) -> Outcome<Step> {
    let disk = work.record.disks[index].clone();
    let copy = disk.copy.ok_or_else(|| Failure::new(FAILED, format!("disk {} has no destination", disk.target)))?;
    let is_copy = |xml: &str| -> Outcome<bool> {
        let now = xml::disk_now(xml, &disk.target).map_err(|e| Failure::new(FAILED, e.to_string()))?;
        Ok(now.is_some_and(|now| now.path.as_deref().map(Path::new) == Some(copy.path.as_path())))
    };
    if work.state == GuestState::Off {
        // All ended in between. What the definition names is what may have been written since.
        let inactive = work.domain.xml_inactive().map_err(|e| libvirt(&e))?;
        refuse_taken(work, &inactive, &disk.target, resume)?;
        work.record.disks[index].phase = if is_copy(&inactive)? { Phase::Pivoted } else { Phase::Copying };
        return work.folder.save(work.record).map(|()| Step::Again);
    }
    let live = work.domain.xml_live().map_err(|e| libvirt(&e))?;
    refuse_taken(work, &live, &disk.target, resume)?;
    if !is_copy(&live)? {
        let job = work.domain.block_job(&disk.target).map_err(|e| libvirt(&e))?;
        let Some(job) = job.filter(|job| job.kind == JobKind::Copy) else {
            // The copy failed; the overlay is the disk.
            work.record.disks[index].phase = Phase::Copying;
            work.folder.save(work.record)?;
            return go_on(work, resume).map(|()| Step::Again);
        };
        if work.state == GuestState::Running {
            work.domain.suspend().map_err(|e| libvirt(&e))?; // K4
            return Ok(Step::Again);
        }
        if job.is_caught_up() {
            work.domain.pivot(&disk.target).map_err(|e| libvirt(&e))?; // K5, K6
        }
        return Ok(Step::Again);
    }
    // K7
    sync(&copy.path)?;
    finish::define_at(work.host, work.domain, &disk.target, &copy)?;
    // K8
    work.record.disks[index].phase = Phase::Pivoted;
    work.folder.save(work.record)?;
    log::say(format!("keep: {} is {} from now on", disk.target, copy.path.display()));
    go_on(work, resume).map(|()| Step::Again) // K9
}

/// A disk that somebody took out of the domain in the middle: nobody knows which of both images will be attached again.
fn refuse_taken(work: &mut Work<'_>, xml: &str, target: &str, resume: bool) -> Outcome<()> {
    if xml::disk_now(xml, target).map_err(|e| Failure::new(FAILED, e.to_string()))?.is_some() {
        return Ok(());
    }
    go_on(work, resume)?;
    work.memory.gave_up = true;
    Err(Failure::refused(format!("disk {target} was detached while it changed over to its copy; attach it again, then 'cairn keep' again")))
}

fn go_on(work: &Work<'_>, resume: bool) -> Outcome<()> {
    let state = work.domain.guest_state().map_err(|e| libvirt(&e))?;
    if resume && matches!(state, GuestState::Paused | GuestState::IoError) {
        work.domain.resume().map_err(|e| libvirt(&e))?;
    }
    Ok(())
}

/// An image that reads as zero, in the file that was recorded.
pub fn make_image(copy: &Destination, size_bytes: u64) -> Outcome<()> {
    let there = identity(&copy.path).map_err(|e| failed("look at", &copy.path, &e))?;
    if copy.inode != Some(there) {
        return Err(Failure::refused(format!("{} is not the file that was made for this; it was left alone", copy.path.display())));
    }
    let file = OpenOptions::new().write(true).open(&copy.path).map_err(|e| failed("open", &copy.path, &e))?;
    file.set_len(0).map_err(|e| failed("empty", &copy.path, &e))?;
    if copy.format == "raw" {
        file.set_len(size_bytes).map_err(|e| failed("make room for", &copy.path, &e))?;
        return sync(&copy.path);
    }
    qemu_img_create(&[], &copy.path, size_bytes)?;
    sync(&copy.path)
}

/// `qemu-img create` of a qcow2 image, in a file that exists.
pub fn qemu_img_create(options: &[&str], path: &Path, size_bytes: u64) -> Outcome<()> {
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2"]).args(options).arg(path).arg(size_bytes.to_string());
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|e| Failure::new(FAILED, format!("cannot start qemu-img: {e} (is qemu-utils installed?)")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Failure::new(FAILED, format!("qemu-img create {}: {}", path.display(), String::from_utf8_lossy(&output.stderr).trim())))
}

/// The file and its name are durable.
pub fn sync(path: &Path) -> Outcome<()> {
    let whole = || -> io::Result<()> {
        File::open(path)?.sync_all()?;
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    whole().map_err(|e| failed("sync", path, &e))
}
