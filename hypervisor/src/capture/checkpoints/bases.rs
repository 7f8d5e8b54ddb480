//! Which checkpoint each disk goes on from: the newest of its store that has the disk, if its bitmap is sound and on the image that the point recorded.
//!
//! libvirt tells whether a bitmap is there and sound only by a check of the whole checkpoint (`REDEFINE_VALIDATE`). It must be on the top image and may be
//! on images below it, without a gap; libvirt does not ask how far down it should be. So the top image must be the very one that carried the bitmap.

use super::super::error::CaptureError;
use super::super::names::CheckpointName;
use super::super::plan::{Base, CarrierRecord, FullReason, PointCatalog, PointStatus};
use super::super::preflight::Chosen;
use super::{Checkpoint, ours, remove_from, xml};
use crate::domain::Domain;
use crate::ffi::LibvirtError;
use crate::ffi::checkpoints::{self as calls, Check, Delete};

/// A usable point with a checkpoint.
struct Candidate {
    name: CheckpointName,
    /// What libvirt says that it has; `None` if libvirt lost it.
    disks: Option<Vec<String>>,
}

/// A disk that a candidate's point has.
struct Asked {
    index: usize,
    target: String,
    ordinal: u32,
    size_bytes: u64,
}

pub(in crate::capture) fn choose(domain: &Domain, chosen: &mut [Chosen], store8: [u8; 4], catalog: &dyn PointCatalog) -> Result<(), CaptureError> {
    let mut open: Vec<usize> = (0..chosen.len()).filter(|index| chosen[*index].can_persist).collect();
    for candidate in candidates(&ours(domain)?, store8, catalog) {
        let name = candidate.name.to_string();
        let records = catalog.checkpointed(candidate.name.session);
        let mut asked = Vec::new();
        // Only the newest that has the disk is asked: an older one may lack what was written to an overlay that was committed since.
        open.retain(|&index| {
            let (target, top) = (chosen[index].disk.target.clone(), chosen[index].top());
            let found = records.iter().find(|(_, record)| is_carrier(record, &top.filename, chosen[index].file_id));
            if let Some((ordinal, record)) = found {
                asked.push(Asked { index, target: target.clone(), ordinal: *ordinal, size_bytes: record.size_bytes });
            }
            found.is_none() && candidate.disks.as_ref().is_some_and(|disks| !disks.contains(&target))
        });
        let targets: Vec<&str> = asked.iter().map(|one| one.target.as_str()).collect();
        let sound = sound(domain, &name, &targets)?;
        for one in &asked {
            let is_sound = sound.contains(&one.target);
            chosen[one.index].base = base(&chosen[one.index], one, candidate.name, is_sound);
            // A backup that was killed between its commit and the word of it to its guard has lost its checkpoint, and the one before is there still.
            if !is_sound && candidate.disks.is_none() {
                open.push(one.index);
            }
        }
    }
    Ok(())
}

fn base(chosen: &Chosen, asked: &Asked, name: CheckpointName, is_sound: bool) -> Base {
    let none = |reason| Base::None { reason, compare: Some((name.session, asked.ordinal)) };
    let bitmap = name.to_string();
    if !is_sound {
        return none(FullReason::CheckpointBroken);
    }
    if chosen.top().size_bytes < asked.size_bytes {
        return none(FullReason::Shrunk);
    }
    Base::Bitmap { session: name.session, ordinal: asked.ordinal, bitmap, nodes: Vec::new(), marked: Vec::new(), base_size_bytes: asked.size_bytes }
}

/// Usable points with checkpoints, newest first; one that libvirt lost is among them if it is of the newest point.
fn candidates(known: &[Checkpoint], store8: [u8; 4], catalog: &dyn PointCatalog) -> Vec<Candidate> {
    let usable = |name: CheckpointName| match catalog.status(name.session) {
        PointStatus::Usable { order } => Some(order),
        _ => None,
    };
    let of_store = known.iter().filter(|checkpoint| checkpoint.name.store8 == store8);
    let mut all: Vec<(u64, Candidate)> = of_store.filter_map(|c| Some((usable(c.name)?, Candidate { name: c.name, disks: Some(c.disks.clone()) }))).collect();
    let lost = catalog.newest_checkpoint().filter(|name| name.store8 == store8 && known.iter().all(|checkpoint| checkpoint.name != *name));
    all.extend(lost.and_then(|name| Some((usable(name)?, Candidate { name, disks: None }))));
    all.sort_by_key(|(order, _)| std::cmp::Reverse(*order));
    all.into_iter().map(|(_, candidate)| candidate).collect()
}

fn is_carrier(record: &CarrierRecord, image: &str, file_id: Option<(u64, u64)>) -> bool {
    match record.device_inode {
        Some(id) => file_id == Some(id),
        None => !image.is_empty() && file_id.is_none() && record.image_path == image,
    }
}

/// Those of `targets` whose bitmap libvirt would go on from. Bitmaps that it would not go as far as they are there, so that they are in nobody's way.
fn sound(domain: &Domain, name: &str, targets: &[&str]) -> Result<Vec<String>, LibvirtError> {
    if targets.is_empty() {
        return Ok(Vec::new());
    }
    let stored = calls::xml(domain.raw(), name)?;
    let is_stored = stored.is_some();
    let description = match stored {
        Some(text) => text,
        None => xml::anew(name, targets, &domain.xml_live()?),
    };
    let listed = xml::disks(&description);
    let has_all = targets.iter().all(|target| listed.iter().any(|one| one == target));
    if has_all && is_sound(domain, &description)? {
        return Ok(listed);
    }
    let more = targets.iter().map(|target| (*target).to_owned()).filter(|target| !listed.contains(target));
    let mut good: Vec<String> = Vec::new();
    for disk in listed.iter().cloned().chain(more) {
        if is_sound(domain, &xml::with_disks(&description, &[&disk]))? {
            good.push(disk);
        } else if is_stored && listed.contains(&disk) {
            remove_from(domain, name, &description, &disk)?;
        }
    }
    if good.is_empty() {
        calls::delete(domain.raw(), name, Delete::Metadata)?;
    } else {
        let good: Vec<&str> = good.iter().map(String::as_str).collect();
        calls::define(domain.raw(), &xml::with_disks(&description, &good), Check::Validate)?;
    }
    Ok(good)
}

/// Whether libvirt would go on from every disk of this description. It has the description afterwards, if so.
fn is_sound(domain: &Domain, description: &str) -> Result<bool, LibvirtError> {
    match calls::define(domain.raw(), description, Check::Validate) {
        Ok(()) => Ok(true),
        Err(error) if error.is_about_a_bitmap() => {
            tracing::info!(%error, "libvirt does not go on from a checkpoint");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
