//! The end of a keep: what libvirt and the images say is checked, then everything of the run goes but the domain.

use super::{
    folder::{RunFolder, RunSockets},
    keep::libvirt,
    log, offline,
    record::{Destination, Phase, Record},
    teardown,
};
use crate::{
    domain::chain,
    failure::{FAILED, Failure, Outcome},
};
use cairn_hypervisor::{
    Domain, Host,
    run::{driver, xml},
};
use std::path::Path;

/// Where libvirt keeps the definitions of root's domains.
const DEFINITIONS: &str = "/etc/libvirt/qemu";

fn broken(e: &dyn std::error::Error) -> Failure {
    Failure::new(FAILED, chain(e))
}

/// Makes the definition name another image for a disk, with nothing below it; durable on return.
pub fn define_at(host: &Host, domain: &Domain, target: &str, copy: &Destination) -> Outcome<()> {
    let path = copy.path.display().to_string();
    let wanted = xml::DiskNow { path: Some(path.clone()), has_backing: false };
    let now = || -> Outcome<(String, Option<xml::DiskNow>)> {
        let inactive = domain.xml_inactive().map_err(|e| libvirt(&e))?;
        let disk = xml::disk_now(&inactive, target).map_err(|e| broken(&e))?;
        Ok((inactive, disk))
    };
    let (inactive, disk) = now()?;
    if disk.as_ref() != Some(&wanted) {
        host.define(&xml::moved_disk(&inactive, target, &path, &copy.format, false).map_err(|e| broken(&e))?)?;
        if now()?.1 != Some(wanted) {
            return Err(Failure::new(FAILED, format!("libvirt does not define disk {target} at {path}")));
        }
    }
    sync_definitions();
    Ok(())
}

/// Makes the definition forget what was below the overlays.
fn forget_backing(host: &Host, domain: &Domain, record: &Record) -> Outcome<()> {
    let definition = domain.xml_inactive().map_err(|e| libvirt(&e))?;
    for disk in record.disks.iter().filter(|d| d.phase == Phase::Overlay) {
        // Somebody detached it; its image stands by itself.
        if xml::disk_now(&definition, &disk.target).map_err(|e| broken(&e))?.is_none() {
            continue;
        }
        let overlay = Destination { target: disk.target.clone(), path: disk.overlay.clone(), format: "qcow2".into(), inode: None };
        define_at(host, domain, &disk.target, &overlay)?;
    }
    Ok(())
}

/// Gives the disks back the driver options that the domain had: in the definition, for a running QEMU's do not change.
fn restore_drivers(host: &Host, domain: &Domain, record: &Record) -> Outcome<()> {
    let before = domain.xml_inactive().map_err(|e| libvirt(&e))?;
    let mut after = before.clone();
    for disk in &record.disks {
        // Somebody detached it, or the record is of a version that did not know them.
        if let (Some(own), Some(_)) = (&disk.driver, xml::disk_now(&after, &disk.target).map_err(|e| broken(&e))?) {
            after = driver::with_options(&after, &disk.target, own).map_err(|e| broken(&e))?;
        }
    }
    if after != before {
        host.define(&after)?;
        sync_definitions();
    }
    Ok(())
}

/// libvirt renames a synced file into place; this makes the name durable, too.
fn sync_definitions() {
    // Another libvirt (of a user, or elsewhere) is as durable as it is by itself.
    if let Ok(dir) = std::fs::File::open(DEFINITIONS) {
        let _ = dir.sync_all();
    }
}

/// Proof that nothing of the domain needs the run any more.
pub fn check_ordinary(host: &Host, domain: &Domain, record: &Record) -> Outcome<()> {
    forget_backing(host, domain, record)?;
    restore_drivers(host, domain, record)?;
    if !domain.is_persistent().map_err(|e| libvirt(&e))? {
        // Somebody undefined it while it runs: an ordinary domain outlives its shutdown.
        host.define(&domain.xml_inactive().map_err(|e| libvirt(&e))?)?;
        sync_definitions();
    }
    let texts = [domain.xml_live().map_err(|e| libvirt(&e))?, domain.xml_inactive().map_err(|e| libvirt(&e))?];
    for disk in &record.disks {
        let image: &Path = match (&disk.phase, &disk.copy) {
            (Phase::Pivoted, Some(copy)) => &copy.path,
            _ => &disk.overlay,
        };
        let mut is_out = true;
        for text in &texts {
            let now = xml::disk_now(text, &disk.target).map_err(|e| broken(&e))?;
            is_out &= now.is_none();
            if now.as_ref().is_some_and(|now| now.has_backing || now.path.as_deref().map(Path::new) != Some(image)) {
                return Err(Failure::new(FAILED, format!("disk {} is still at {now:?} for libvirt, and should be {}", disk.target, image.display())));
            }
        }
        let raw = disk.phase == Phase::Pivoted && disk.copy.as_ref().is_some_and(|c| c.format == "raw");
        // Of one that was detached, whoever did it may have removed the image.
        let is_gone = is_out && !image.exists();
        if !raw && !is_gone && offline::has_backing_file(image)? {
            return Err(Failure::new(FAILED, format!("{} still has a backing file", image.display())));
        }
    }
    Ok(())
}

/// The domain is an ordinary one: everything else of the run goes. May be called again after a crash.
pub fn end(folder: &RunFolder, record: &Record) -> Outcome<()> {
    teardown::processes(record)?;
    if record.autostart
        && let Err(e) = super::connect(record.connect.as_deref())
            .and_then(|host| host.domain(&record.uuid))
            .map_err(|e| e.to_string())
            .and_then(|domain| domain.set_autostart(true).map_err(|e| e.to_string()))
    {
        log::say(format!("autostart could not be set: {e}; 'virsh autostart {}' does", record.name));
    }
    for disk in record.disks.iter().filter(|d| d.phase == Phase::Pivoted) {
        if let Err(e) = teardown::remove_ours(&disk.overlay, disk.inode) {
            log::say(format!("{} could not be removed: {e}", disk.overlay.display()));
        }
    }
    RunSockets::of(&record.id).remove()?;
    folder.remove(&record.id)
}
