//! What an admin saved of a run that lies over the point and would be lost, or left useless, when the run becomes an ordinary domain: saved memory,
//! internal snapshots, disks that were taken out of the running domain alone.

use super::{keep::libvirt, record::Record};
use crate::{
    failure::{FAILED, Failure, Outcome},
    output::shown,
};
use cairn_hypervisor::{Domain, run::xml};

/// Snapshots that are named in a refusal.
const NAMED_MAX: usize = 3;

/// Refuses to keep a run with such things. Asked before a keep is wished for, and again before each disk is begun.
pub fn refuse(domain: &Domain, record: &Record) -> Outcome<()> {
    let name = shown(&record.name);
    refuse_memory(domain, record)?;
    let (snapshots, _) = domain.snapshots().map_err(|e| libvirt(&e))?;
    // External ones are other images over the run's, which the steps of a keep see for themselves.
    let internal: Vec<String> = snapshots.iter().filter(|s| !s.external).map(|s| shown(&s.name)).collect();
    if let Some(first) = internal.first() {
        return Err(Failure::refused(format!(
            "{name} has {} internal snapshots ({}): they read from the point, and a keep would leave them with holes; delete them \
             ('virsh snapshot-delete {name} {first}'), then keep it",
            internal.len(),
            internal.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ")
        )));
    }
    refuse_detached(domain, record)
}

/// Refuses where the domain's memory was saved: it goes with the disks as they lie over the point now.
pub fn refuse_memory(domain: &Domain, record: &Record) -> Outcome<()> {
    if !domain.has_managed_save().map_err(|e| libvirt(&e))? {
        return Ok(());
    }
    let name = shown(&record.name);
    Err(Failure::refused(format!(
        "the memory of {name} is saved, and can go on only over the disks as they are now: start it ('virsh start {name}') and ask again while it runs, or give \
         the memory up ('virsh managedsave-remove {name}'); nothing was done"
    )))
}

/// A disk that the definition has and the running domain has not can neither be copied by QEMU nor, while that runs, by anybody else.
fn refuse_detached(domain: &Domain, record: &Record) -> Outcome<()> {
    let broken = |e: &dyn std::error::Error| Failure::new(FAILED, crate::domain::chain(e));
    if !domain.is_running().map_err(|e| libvirt(&e))? {
        return Ok(());
    }
    let (live, inactive) = (domain.xml_live().map_err(|e| libvirt(&e))?, domain.xml_inactive().map_err(|e| libvirt(&e))?);
    for disk in &record.disks {
        let has = |text: &str| xml::disk_now(text, &disk.target).map(|d| d.is_some()).map_err(|e| broken(&e));
        if has(&inactive)? && !has(&live)? {
            return Err(Failure::refused(format!(
                "disk {} of {} is in its definition and not in the running domain: attach it again ('virsh attach-disk'), detach it there as well (--config), or \
                 shut the domain down first",
                disk.target,
                shown(&record.name)
            )));
        }
    }
    Ok(())
}
