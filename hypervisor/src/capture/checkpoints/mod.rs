//! The mode `libvirt-api`: libvirt's checkpoints keep track of what changed, and QEMU's monitor is left alone (docs/adr/0024).
//!
//! A checkpoint is libvirt's name for a dirty bitmap of the same name on each of its disks, and is begun in the very moment of a backup. Everything
//! else of a capture is as in [`super::live`].
//!
//! `preflight` takes the disks from libvirt's description, `bases` finds the checkpoint that each goes on from, `changed` reads what its bitmap marks;
//! `xml` has the descriptions.
//!
//! Invariants
//! - No call of libvirt's that taints the domain `custom-monitor`.
//! - libvirt's description of a checkpoint is no proof: its bitmaps are looked for before anything goes on from it.
//! - Only checkpoints with names of ours are deleted, and a bitmap only together with its checkpoint.
//! - The checkpoint of the last committed point loses nothing until the next point is committed.
//!
//! What it must not do: change a checkpoint of another store, but to delete it on request ([`super::untrack`]).

pub(super) mod bases;
pub(super) mod changed;
pub(super) mod preflight;
mod xml;

pub(super) use xml::of_backup;

use std::path::Path;

use super::cleanup;
use super::error::CaptureError;
use super::names::CheckpointName;
use super::plan::{PointCatalog, PointStatus};
use super::scratch;
use crate::disks::DisksError;
use crate::domain::Domain;
use crate::ffi::LibvirtError;
use crate::ffi::checkpoints::{self as calls, Check, Delete};
use crate::translated::{NO_BITMAP, says};

/// A checkpoint of ours, as libvirt describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Store and point.
    pub name: CheckpointName,
    /// Targets of the disks that have its bitmap, by libvirt's description.
    pub disks: Vec<String>,
}

/// All checkpoints of ours, whichever store's.
///
/// # Errors
/// libvirt's. One that goes away meanwhile is left out.
pub fn ours(domain: &Domain) -> Result<Vec<Checkpoint>, LibvirtError> {
    let mut all = Vec::new();
    for text in calls::names(domain.raw())? {
        let Ok(name) = text.parse::<CheckpointName>() else { continue };
        if let Some(description) = calls::xml(domain.raw(), &text)? {
            all.push(Checkpoint { name, disks: xml::disks(&description) });
        }
    }
    Ok(all)
}

/// Deletes a checkpoint and its bitmaps; where bitmaps are gone already, the description alone. Of a domain that is off the bitmaps stay.
///
/// # Errors
/// libvirt's.
pub(super) fn remove(domain: &Domain, checkpoint: &Checkpoint) -> Result<(), LibvirtError> {
    let name = checkpoint.name.to_string();
    if !domain.is_running()? {
        return calls::delete(domain.raw(), &name, Delete::Metadata);
    }
    match calls::delete(domain.raw(), &name, Delete::Whole) {
        Err(error) if error.is_about_a_bitmap() => tracing::debug!(%error, checkpoint = name, "one disk at a time"),
        result => return result,
    }
    // A disk without its bitmap keeps the bitmaps of the others from being deleted.
    let Some(description) = calls::xml(domain.raw(), &name)? else { return Ok(()) };
    for disk in &checkpoint.disks {
        remove_from(domain, &name, &description, disk)?;
    }
    calls::delete(domain.raw(), &name, Delete::Metadata)
}

/// Takes one disk's bitmap, if it is there; libvirt knows nothing of the checkpoint afterwards.
fn remove_from(domain: &Domain, name: &str, description: &str, disk: &str) -> Result<(), LibvirtError> {
    let alone = || calls::define(domain.raw(), &xml::with_disks(description, &[disk]), Check::No);
    match alone().and_then(|()| calls::delete(domain.raw(), name, Delete::Whole)) {
        Err(error) if error.is_about_a_bitmap() => {
            tracing::debug!(%error, checkpoint = name, disk, "its bitmap is not there");
            calls::delete(domain.raw(), name, Delete::Metadata)
        }
        result => result,
    }
}

/// Removes one disk's bitmap of a checkpoint that libvirt does not know any more. Of a domain that is off it stays.
///
/// # Errors
/// libvirt's.
pub(super) fn remove_lost(domain: &Domain, name: CheckpointName, disk: &str) -> Result<(), LibvirtError> {
    if !domain.is_running()? {
        return Ok(());
    }
    let name = name.to_string();
    remove_from(domain, &name, &xml::anew(&name, &[disk], &domain.xml_live()?), disk)
}

impl LibvirtError {
    /// It is the bitmap that is not there or not sound, or a disk that is not there; not a job or libvirt itself, which may be otherwise in a moment.
    fn is_about_a_bitmap(&self) -> bool {
        match self.code {
            virt_sys::VIR_ERR_CHECKPOINT_INCONSISTENT | virt_sys::VIR_ERR_CONFIG_UNSUPPORTED => true,
            virt_sys::VIR_ERR_INTERNAL_ERROR => says(&self.message, NO_BITMAP),
            _ => false,
        }
    }
}

/// Step 8 without the monitor: ends our job, deletes the checkpoints that `wanted` names, removes the scratch. Every part can be done again.
///
/// # Errors
/// The first failure; scratch stays with a job that would not end.
pub(super) fn clean_up(domain: &Domain, scratch_folder: &Path, wanted: &dyn Fn(&Checkpoint) -> bool) -> Result<(), CaptureError> {
    match clean_up_running(domain, wanted) {
        Err(CaptureError::Libvirt(error)) if error.is_not_running() || error.is_no_domain() => {}
        result => result?,
    }
    scratch::remove(scratch_folder)
}

fn clean_up_running(domain: &Domain, wanted: &dyn Fn(&Checkpoint) -> bool) -> Result<(), CaptureError> {
    if !domain.is_running()? {
        return Ok(());
    }
    cleanup::end_job(domain)?;
    tracing::debug!("step: job ended");
    for checkpoint in ours(domain)?.iter().filter(|checkpoint| wanted(checkpoint)) {
        remove(domain, checkpoint)?;
        tracing::debug!(checkpoint = %checkpoint.name, "checkpoint deleted");
    }
    Ok(())
}

/// The end of a backup that is committed: older checkpoints of its store go, unless one has a disk that the new one has not.
///
/// # Errors
/// [`CaptureError`].
pub(crate) fn finish(domain: &Domain, scratch_folder: &Path, new: CheckpointName) -> Result<(), CaptureError> {
    let covered = if_there(ours(domain).map_err(CaptureError::from))?
        .into_iter()
        .find(|checkpoint| checkpoint.name == new)
        .map(|checkpoint| checkpoint.disks)
        .unwrap_or_default();
    let attached: Vec<String> = if_there(domain.disks().map_err(CaptureError::from))?.into_iter().map(|disk| disk.target).collect();
    clean_up(domain, scratch_folder, &|old| is_superseded(old, new, &covered, &attached))
}

fn is_superseded(old: &Checkpoint, new: CheckpointName, covered: &[String], attached: &[String]) -> bool {
    old.name.store8 == new.store8 && old.name != new && old.disks.iter().all(|disk| covered.contains(disk) || !attached.contains(disk))
}

/// The end of a backup that is not committed: its own checkpoint goes.
///
/// # Errors
/// [`CaptureError`].
pub(crate) fn undo(domain: &Domain, scratch_folder: &Path, new: CheckpointName) -> Result<(), CaptureError> {
    clean_up(domain, scratch_folder, &|checkpoint| checkpoint.name == new)?;
    // A libvirtd that ended between QEMU's transaction and its own note of the checkpoint knows nothing of the bitmaps.
    for disk in if_there(domain.disks().map_err(CaptureError::from))?.into_iter().filter(|disk| disk.skip.is_none() && disk.format == "qcow2") {
        match remove_lost(domain, new, &disk.target) {
            Err(error) if error.is_not_running() || error.is_no_domain() => return Ok(()),
            result => result?,
        }
    }
    Ok(())
}

/// A transient domain that ended meanwhile has nothing any more; what was in this host's folders is to go all the same.
fn if_there<T>(asked: Result<Vec<T>, CaptureError>) -> Result<Vec<T>, CaptureError> {
    match asked {
        Err(CaptureError::Libvirt(error) | CaptureError::Disks(DisksError::Libvirt(error))) if error.is_no_domain() => Ok(Vec::new()),
        result => result,
    }
}

/// Deletes what `wanted` names while no job of ours runs.
///
/// # Errors
/// libvirt's.
pub(super) fn remove_all(domain: &Domain, wanted: &dyn Fn(&Checkpoint) -> bool) -> Result<(), LibvirtError> {
    ours(domain)?.iter().filter(|checkpoint| wanted(checkpoint)).try_for_each(|checkpoint| remove(domain, checkpoint))
}

/// Its point was never committed, or is forgotten: no point goes on from it. Other stores' stay, and so do those of a store that does not answer.
pub(super) fn is_stale(name: CheckpointName, store8: [u8; 4], catalog: &dyn PointCatalog) -> bool {
    name.store8 == store8 && matches!(catalog.status(name.session), PointStatus::NotCommitted | PointStatus::Forgotten)
}

/// A block job of any disk: libvirt would refuse a backup beside it.
pub(super) fn block_job(domain: &Domain) -> Result<Option<String>, CaptureError> {
    for disk in domain.disks()?.into_iter().filter(|disk| disk.skip.is_none()) {
        if crate::ffi::block_job_info(domain.raw(), &disk.target)?.is_some() {
            return Ok(Some(disk.target));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::plan::Says;
    use super::*;

    fn checkpoint(store: u8, session: u8, disks: &[&str]) -> Checkpoint {
        let name = CheckpointName { store8: [store; 4], session: [session; 16] };
        Checkpoint { name, disks: disks.iter().map(|disk| (*disk).to_owned()).collect() }
    }

    #[test]
    fn an_older_checkpoint_goes_once_a_newer_one_has_all_its_disks() {
        let new = checkpoint(1, 9, &["vda", "vdb"]);
        let attached = ["vda", "vdb", "vdc"].map(str::to_owned);
        let goes = |old: &Checkpoint| is_superseded(old, new.name, &new.disks, &attached);
        assert!(goes(&checkpoint(1, 2, &["vda"])));
        assert!(goes(&checkpoint(1, 2, &["vda", "vdx"])), "vdx was detached");
        assert!(!goes(&checkpoint(1, 2, &["vda", "vdc"])), "vdc would lose its base");
        assert!(!goes(&checkpoint(2, 2, &["vda"])), "another store's");
        assert!(!goes(&new));
    }

    #[test]
    fn only_what_can_never_be_a_base_is_stale() {
        let name = checkpoint(1, 2, &[]).name;
        let stale = |status| is_stale(name, [1; 4], &Says(status, None));
        assert!(stale(PointStatus::NotCommitted) && stale(PointStatus::Forgotten));
        assert!(!stale(PointStatus::Unreachable) && !stale(PointStatus::Damaged) && !stale(PointStatus::Usable { order: 1 }));
        assert!(!is_stale(name, [3; 4], &Says(PointStatus::NotCommitted, None)), "another store's");
    }
}
