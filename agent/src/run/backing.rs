//! Giving a disk its backing file again.
//!
//! When QEMU has pulled a disk, libvirt's definition and the image's header name no backing file any more, though not all of what was pulled is in
//! the image before QEMU's next flush (P2). A QEMU that dies in between leaves an image with holes. As long as `filled` is not recorded, what the
//! image lacks is in the point, and what it has is newer: so it gets its backing file again, before anything reads it.

use super::{
    daemon::RECONNECT_S,
    folder::RunSockets,
    keep::libvirt,
    offline,
    record::{Phase, Record, RunDisk, Via},
};
use crate::{
    domain::chain,
    failure::{FAILED, Failure, Outcome},
};
use cairn_hypervisor::{Domain, Host, host::LIBVIRT_NBD_RECONNECT, run::xml};
use std::process::{Command, Stdio};

/// What lies below the overlays in a definition.
pub struct Below {
    /// Where the exports are.
    pub socket: String,
    /// How long QEMU waits for them, where libvirt can tell it so.
    pub reconnect_s: Option<u32>,
}

impl Below {
    /// Of a run.
    pub fn of(host: &Host, record: &Record) -> Outcome<Self> {
        let sockets = RunSockets::of(&record.id);
        let (socket, waits) = match record.via {
            Via::Direct => (sockets.server(), host.libvirt_version()? >= LIBVIRT_NBD_RECONNECT),
            Via::Daemon => (sockets.daemon(), false),
        };
        Ok(Self { socket: socket.display().to_string(), reconnect_s: waits.then_some(RECONNECT_S) })
    }
}

/// Of a domain that is off: header and definition of every disk that may lack something.
pub fn restore(host: &Host, domain: &Domain, record: &Record) -> Outcome<()> {
    let below = Below::of(host, record)?;
    for disk in record.disks.iter().filter(|d| !d.filled && matches!(d.phase, Phase::Overlay | Phase::Copying)) {
        header(record, disk)?;
        let inactive = domain.xml_inactive().map_err(|e| libvirt(&e))?;
        let broken = |e: &dyn std::error::Error| Failure::new(FAILED, chain(e));
        if xml::disk_now(&inactive, &disk.target).map_err(|e| broken(&e))?.is_some_and(|now| !now.has_backing) {
            tracing::warn!("{}: the definition names its backing file again", disk.target);
            host.define(&xml::with_backing(&inactive, &disk.target, &below.socket, below.reconnect_s).map_err(|e| broken(&e))?)?;
        }
    }
    Ok(())
}

/// The image's own header.
pub fn header(record: &Record, disk: &RunDisk) -> Outcome<()> {
    if offline::has_backing_file(&disk.overlay)? {
        return Ok(());
    }
    tracing::warn!("{} has no backing file and may lack what was pulled last: it is given one again", disk.target);
    let mut command = Command::new("qemu-img");
    command.args(["rebase", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", &record.backing_uri(&disk.target)]).arg(&disk.overlay);
    let output = command.stdin(Stdio::null()).output().map_err(|e| Failure::new(FAILED, format!("cannot start qemu-img: {e}")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Failure::new(FAILED, format!("qemu-img, disk {}: {}", disk.target, String::from_utf8_lossy(&output.stderr).trim())))
}
