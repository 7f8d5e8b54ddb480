//! Disks that somebody took out of a run's domain. What the guest wrote is in their overlays, which nobody may lose by keeping the others: a keep, also
//! one to another place, fills the overlay where it is, leaves it there, and names it.
//!
//! Nobody has such an image open, so `qemu-img` fills it, whether the domain runs or not ([`super::offline`]).

use super::{
    keep::libvirt,
    record::{Destination, Record},
};
use crate::{
    domain::chain,
    failure::{FAILED, Failure, Outcome},
};
use cairn_hypervisor::{Domain, Host, run::xml};
use std::path::PathBuf;

/// Whether neither the definition nor the running domain has this disk.
pub fn is_out(domain: &Domain, target: &str) -> Outcome<bool> {
    for text in [domain.xml_live().map_err(|e| libvirt(&e))?, domain.xml_inactive().map_err(|e| libvirt(&e))?] {
        if xml::disk_now(&text, target).map_err(|e| Failure::new(FAILED, chain(&e)))?.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Images of such disks that a keep has left. None where libvirt does not say: then the domain is no more, or nobody can tell.
pub fn left(record: &Record, to: &[Destination]) -> Vec<(String, PathBuf)> {
    let Ok(domain) = Host::open(record.connect.as_deref()).and_then(|host| host.domain(&record.uuid)) else { return Vec::new() };
    let out = record.disks.iter().filter(|disk| is_out(&domain, &disk.target).unwrap_or(false));
    let copy = |target: &str| to.iter().filter(move |copy| copy.target == target).map(|copy| copy.path.clone()).collect::<Vec<_>>();
    let images = out.flat_map(|disk| std::iter::once(disk.overlay.clone()).chain(copy(&disk.target)).map(|path| (disk.target.clone(), path)));
    images.filter(|(_, path)| path.exists()).collect()
}
